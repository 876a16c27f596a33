# Tenants and branches of a pageserver without computes: creation by initdb,
# options, refusals, what a crash or a cancel leaves, rights.
use strict;
use warnings;
use IPC::Run qw(start);
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# with test points the creation waits to be cancelled
my $lib = $ENV{NEON_TESTING_LIBDIR};
my $ps = NeonPageserver->new('ps', $lib ? (conf => "dynamic_library_path = '$lib:\$libdir'\nneon_pageserver.test_wait_at = 'tenant-directory'\n") : ());
my $id = 'a' x 32;
my $t = $ps->tenant('{"checksums": true, "segsize": 1}', $id);
is($t->{tenant}, $id, 'tenant_create returns the id given');
like($t->{timeline}, qr/^[0-9a-f]{32}$/, 'and makes one for the timeline');
is($ps->sql("SELECT name, state, start_lsn = last_record_lsn, last_record_lsn = flush_lsn, wal_segment_size, data_checksums, logical_size > 1000000
	FROM neon_pageserver.timelines"), 'main|active|t|t|1048576|t|t', 'the timeline as the view shows it');
is($ps->sql("SELECT count(*), sum(timelines) FROM neon_pageserver.tenants"), '1|1', 'view tenants');

# ---- refusals ----
my $f = 'neon_pageserver';
my @refused = (
	[ "SELECT $f.tenant_create('$id')", qr/tenant $id already exists/ ],
	[ "SELECT $f.tenant_create('nonsense')", qr/violates check constraint/ ],
	[ "SELECT $f.tenant_create(NULL, '{\"locale\": \"xx_YY.nothing\"}')", qr/initdb failed[^\n]*\nDETAIL:  initdb: error: invalid locale name/ ],
	[ "SELECT $f.tenant_create(NULL, '{\"encoding\": \"KLINGON\"}')", qr/initdb failed.*KLINGON/s ],
	[ "SELECT $f.tenant_create(NULL, '{\"segsize\": 3}')", qr/invalid value for option "segsize"/ ],
	[ "SELECT $f.tenant_create(NULL, '{\"colour\": 1}')", qr/unknown option "colour"/ ],
	[ "SELECT $f.tenant_create(NULL, '{\"storage_verifier\": \"secret\"}')", qr/SCRAM-SHA-256 verifier/ ],
	[ "SELECT $f.tenant_create(NULL, '[]')", qr/must be a JSON object/ ],
	[ "BEGIN; SELECT $f.tenant_create()", qr/cannot run inside a transaction block/ ],
	[ "SELECT $f.timeline_create('$id', 'main')", qr/branch "main" already exists/ ],
	[ "SELECT $f.branch_create('$id', 'x', 'nowhere')", qr/branch "nowhere" does not exist.*HINT/s ],
	[ "SELECT $f.branch_create('$id', 'main', 'main')", qr/branch "main" already exists/ ],
	[ "SELECT $f.branch_create('$id', '../x', 'main')", qr/invalid branch name/ ],
	[ "SELECT $f.branch_create('$id', '$id', 'main')", qr/invalid branch name/ ],
	[ "SELECT $f.branch_create('$id', 'x', 'main', '0/FF000000')", qr/in the future.*HINT/s ],
	[ "SELECT $f.branch_create('$id', 'x', 'main', '0/10')", qr/before the start of branch "main".*HINT/s ],
	[ "SELECT $f.branch_create('$id', 'x', 'main', NULL, now() + interval '1 day')", qr/in the future/ ],
	[ "SELECT $f.branch_create('$id', 'x', 'main', '0/10', now())", qr/only one of/ ],
	[ "BEGIN; SELECT $f.branch_create('$id', 'x', 'main')", qr/cannot run inside a transaction block/ ],
	[ "SELECT $f.timeline_rename('$id', 'nowhere', 'x')", qr/does not exist/ ],
	[ "SELECT $f.timeline_delete('$id', '$id')", qr/does not exist/ ],
	[ "SELECT $f.tenant_delete('" . 'b' x 32 . "')", qr/does not exist/ ],
	[ "SELECT $f.get_page('$id', '$t->{timeline}', 1663, 5, 1259, 9, 0, '$t->{lsn}')", qr/invalid fork number/ ],
	[ "SELECT $f.get_page('$id', '$t->{timeline}', 1663, 5, 1259, 0, -1, '$t->{lsn}')", qr/invalid block number/ ],
	[ "SELECT $f.get_page('$id', '$t->{timeline}', 1663, 5, 1259, 0, 0, '0/10')", qr/before the start/ ],
	[ "SELECT $f.get_page('$id', '$t->{timeline}', 1663, 5, 1259, 0, 0, 'F/10')", qr/in the future/ ],
	[ "BEGIN; CALL $f.pagestream('$id', '$t->{timeline}')", qr/outside a transaction block/ ],
	[ "CALL $f.pagestream('$id', '$id')", qr/does not exist/ ],
	[ "CALL $f.basebackup('$id', '$t->{timeline}', '$t->{lsn}', 1, 'static')", qr/has no term/ ],
	[ "CALL $f.basebackup('$id', '$t->{timeline}', '$t->{lsn}', 0, 'primary')", qr/not above the last one/ ],
	[ "CALL $f.basebackup('$id', '$t->{timeline}', '$t->{lsn}', 1, 'toy')", qr/unknown kind of boot/ ],
);
for my $r (@refused)
{
	like($ps->sql_error($r->[0]), $r->[1], "refused: $r->[0]");
}
is($ps->sql('SELECT count(*) FROM neon_pageserver.timelines'), 1, 'nothing was made by those');
is($ps->sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tenant%'"), 1, 'no role either');
is_deeply([ glob $ps->node->data_dir . '/neon/tmp/*' ], [], 'no temporary directory is left');

# ---- branches ----
my ($b1, $b1_lsn) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$id', 'one', 'main')");
is($b1_lsn, $t->{lsn}, 'a branch of an unwritten timeline starts at its start');
my ($b2) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$id', 'two', 'one', '$b1_lsn', NULL, '" . 'c' x 32 . "')");
is($b2, 'c' x 32, 'a branch with an id given');
my ($b3) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$id', 'three', '$b2')");
is($ps->sql("SELECT string_agg(name, ',' ORDER BY name) FROM $f.branches('$id')"), 'main,one,three,two', 'branches()');
is($ps->sql("SELECT c.name, p.name FROM $f.timelines c JOIN $f.timelines p ON p.timeline_id = c.ancestor_id ORDER BY 1"),
	"one|main\nthree|two\ntwo|one", 'ancestors');
my $page = "encode(sha256($f.get_page('$id', '%s', 1663, 5, 1259, 0, 0, '$t->{lsn}')), 'hex')";
my @sums = map { $ps->sql('SELECT ' . sprintf($page, $_)) } $t->{timeline}, $b1, $b3;
is($sums[1], $sums[0], 'a page through one ancestor');
is($sums[2], $sums[0], 'a page through three ancestors');
like($ps->sql_error("SELECT $f.timeline_delete('$id', '$b1')"), qr/has 1 branch\n.*"two".*HINT/s, 'a timeline with branches is not deleted');
$ps->sql("SELECT $f.timeline_rename('$id', 'three', 'drei')");
$ps->sql("SELECT $f.timeline_delete('$id', '$b3')");
is($ps->sql("SELECT string_agg(name, ',' ORDER BY name) FROM $f.branches('$id')"), 'main,one,two', 'rename and delete');

# ---- rights ----
my $other = $ps->tenant;
my $role = "tenant_$id";
is($ps->sql_error("SELECT * FROM $f.branches('$id')", $role), '', 'the tenant role sees its branches');
like($ps->sql_error("SELECT * FROM $f.branches('$other->{tenant}')", $role), qr/permission denied/, 'but not those of another tenant');
like($ps->sql_error("CALL $f.pagestream('$other->{tenant}', '$other->{timeline}')", $role), qr/permission denied/, 'nor its pages');
like($ps->sql_error("CALL $f.basebackup('$other->{tenant}', '$other->{timeline}', '$other->{lsn}', 0, 'static')", $role),
	qr/permission denied/, 'nor its base backup');
for my $call ("$f.tenant_create()", "$f.tenant_delete('$id')", "$f.timeline_delete('$id', '$b2')", "$f.timeline_rename('$id', 'one', 'x')")
{
	like($ps->sql_error("SELECT $call", $role), qr/permission denied/, "the tenant role may not call $call");
}
like($ps->sql_error("SELECT * FROM $f.timelines", $role), qr/permission denied/, 'nor see the views');
my $s = $ps->stream($t, user => $role);
is($s->get(lsn => $t->{lsn}, rel => [ 1663, 5, 1259 ])->{tag}, 'p', 'it reads pages of its own tenant');
$s->close;

# ---- deletion ----
$ps->sql("SELECT $f.tenant_delete('$other->{tenant}')");
is($ps->sql("SELECT count(*) FROM $f.tenants WHERE tenant_id = '$other->{tenant}'"), 0, 'a tenant is deleted');
is($ps->sql("SELECT count(*) FROM pg_roles WHERE rolname = 'tenant_$other->{tenant}'"), 0, 'and its role');

# ---- a root timeline beside others ----
my ($root) = split /\|/, $ps->sql("SELECT * FROM $f.timeline_create('$id', 'fresh', '{\"locale\": \"C\"}')");
isnt($ps->sql("SELECT system_identifier FROM $f.timelines WHERE timeline_id = '$root'"),
	$ps->sql("SELECT system_identifier FROM $f.timelines WHERE timeline_id = '$t->{timeline}'"), 'timeline_create makes another system');

# ---- cancel and crash in the middle ----
sub start_creation
{
	my ($until) = @_;
	my ($out, $err) = ('', '');
	my $h = start([ 'psql', '-X', '-h', $ps->node->host, '-p', $ps->node->port, '-U', 'cloud_admin', '-d', 'postgres',
			'-c', "SELECT $f.tenant_create('" . 'd' x 32 . "')" ], '<', \undef, '>', \$out, '2>', \$err);
	for (1 .. 600)
	{
		last if grep { -e } glob($ps->node->data_dir . "/neon/$until");
		usleep 20_000;
	}
	return ($h, \$err);
}

# in initdb, and while pages are stored
my $d = 'd' x 32;
for my $until ('tmp/create.*/base/1/PG_VERSION', "tenants/$d")
{
	my $wait = $ps->node->data_dir . '/test_wait';
	append_to_file($wait, '');
	my ($h, $err) = start_creation($until);
	$ps->sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%tenant_create(%' AND pid <> pg_backend_pid()");
	$h->finish;
	like($$err, qr/canceling statement/, "tenant_create can be cancelled ($until)");
	for (1 .. 500)
	{
		last if $ps->sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE '%tenant creation%'") eq '0';
		usleep 20_000;
	}
	unlink $wait;
	is_deeply([ glob $ps->node->data_dir . '/neon/tmp/create.*' ], [], 'and removes its directory');
	is_deeply([ glob $ps->node->data_dir . "/neon/tenants/$d*" ], [], 'and the tenant');
}

my ($h) = start_creation('tmp/create.*/base/1/PG_VERSION');
$ps->stop('immediate');
eval { $h->finish };
$ps->start;
is($ps->sql("SELECT count(*) FROM $f.tenants WHERE tenant_id = '" . 'd' x 32 . "'"), 0, 'no half tenant after a crash');
my $again = $ps->tenant('{}', 'd' x 32);
is($again->{tenant}, 'd' x 32, 'the same id can be used');
is_deeply([ glob $ps->node->data_dir . '/neon/tmp/create.*' ], [], 'what the killed worker left is removed');
is($ps->sql("SELECT " . sprintf($page, $t->{timeline})), $sums[0], 'pages are the same after a crash');
is($ps->sql("SELECT string_agg(name, ',' ORDER BY name) FROM $f.branches('$id')"), 'fresh,main,one,two', 'branches too');

$ps->stop;
done_testing();
