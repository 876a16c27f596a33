# What is kept of the past: the horizon, history points, leases of running
# endpoints, refusals below the horizon, and what deletions set free.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $f = 'neon_pageserver';
my $old = qr/older than the history that is kept of branch "\w+": the oldest valid LSN is [0-9A-F]+\/[0-9A-F]+, of 20/;
my $t = NeonTest->new;
$t->quickstart;
my $tenant = $t->tenant;
my $main = $t->timeline('main');

sub ps { return $t->psql('pageserver', $_[0]) }
sub ps_fails { my ($sql, $re, $what) = @_; my (undef, undef, $err) = $t->psql_raw('pageserver', $sql); like($err, $re, $what) }
sub gc { return ps("SELECT $f.timeline_gc('$tenant', '" . ($_[0] || $main) . "')") }
sub points { return ps("SELECT count(*) FROM $f.history_points WHERE timeline_id = '" . ($_[1] || $main) . "' AND kind = '$_[0]'") }

# five states of a table of some hundred pages; every one rewrites all of them
$t->psql('main', "CREATE TABLE h(i int, filler text); INSERT INTO h SELECT g, repeat('x', 700) FROM generate_series(1, 2000) g");
my @state;
for my $n (1 .. 5)
{
	$t->psql('main', "UPDATE h SET i = i + 10000");
	my ($lsn, $when) = split /\|/, $t->psql('main', 'SELECT pg_current_wal_insert_lsn(), clock_timestamp()');
	push @state, { lsn => $lsn, when => $when, sum => $t->psql('main', 'SELECT sum(i) FROM h') };
	sleep 0.1;
}
$t->psql('main', 'UPDATE h SET i = 0');
$t->wait_ingest('main');

# ---- settings
is(ps("SELECT pitr_interval, gc_horizon, own_pitr_interval, own_gc_horizon FROM $f.tenant_settings('$tenant')"),
	'7 days|67108864|f|f', "the instance's settings");
is(gc(), '', 'nothing is old enough');
is(ps("SELECT count(*) FROM $f.timelines WHERE gc_cutoff IS NOT NULL"), '0', 'no horizon');

# ---- points: a branch at state 1, a static endpoint at 2, a lease at 3; nothing at 4
$t->neon('timeline', 'branch', '--branch-name', 'old', '--ancestor-start-lsn', $state[0]{lsn});
my $old_id = $t->timeline('old');
$t->endpoint_start('static', lsn => $state[1]{lsn});
my $x = $t->boot_lsn('static');
is(points('lease'), 1, 'a static endpoint has a lease');
my $leased = ps("SELECT $f.round_lsn('$tenant', '$main', '$state[2]{lsn}')");
my $lease = 'abcdef0123456789abcdef0123456789';
my $ends = ps("SELECT $f.lease_lsn('$tenant', '$main', '$leased', '1 hour', '$lease')");
is(ps("SELECT $f.lease_lsn('$tenant', '$main', '$leased', '1 hour', '$lease')"), $ends,
	'a fresh lease is not renewed');
isnt(ps("SELECT $f.lease_lsn('$tenant', '$main', '$leased', '2 hours', '$lease')"), $ends,
	'a longer one is');
is(points('lease'), 2, 'and it is one lease');
my $never = 'abcdef0123456789abcdef0123456781';
$t->psql('pageserver', "\\o /dev/null\nCALL $f.basebackup('$tenant', '$main', '$state[4]{lsn}', 0, 'static', '$never')");
is(ps("SELECT expires < now() + interval '11 minutes' FROM $f.history_points WHERE id = '$never'"), 't', 'a boot that never comes holds history for ten minutes');
is(ps("SELECT expires > now() + interval '50 minutes' FROM $f.history_points WHERE kind = 'lease' AND id NOT IN ('$never', '$lease')"), 't', 'one that came, for an hour');
ps("SELECT $f.lease_release('$tenant', '$main', '$never')");

# ---- the tenant's own settings; from here on the horizon may move at any time
ps("SELECT $f.tenant_configure('$tenant', '0', 0)");
is(ps("SELECT pitr_interval, gc_horizon, own_pitr_interval, own_gc_horizon FROM $f.tenant_settings('$tenant')"),
	'00:00:00|0|t|t', "the tenant's own");
ps_fails("SELECT $f.tenant_configure('$tenant', '-1 s')", qr/must not be negative/, 'a negative interval is refused');

is($t->neon('--json', 'tenant', 'config', 'gc_horizon=1GB') =~ s/\s+//gr,
	'[{"setting":"pitr_interval","value":"00:00:00","source":"tenant"},{"setting":"gc_horizon","value":"1073741824","source":"tenant"}]',
	'neon tenant config changes one and keeps the other');
like($t->neon('tenant', 'config', 'pitr_interval='), qr/^ *pitr_interval +7 days +pageserver/m, 'or takes it away');
$t->neon('tenant', 'config', 'pitr_interval=0', 'gc_horizon=0');
$t->neon_fails([ 'tenant', 'config', 'colour=red' ], qr/no setting of a tenant/, qr/pitr_interval=TIME/, 'an unknown setting is refused');

my $cutoff = gc();
like($cutoff, qr{^[0-9A-F]+/[0-9A-F]+$}, "the horizon is at $cutoff");
cmp_ok(NeonTest::lsn_num($cutoff), '>', NeonTest::lsn_num($state[4]{lsn}), 'behind all states');
is(ps("SELECT gc_cutoff, gc_cutoff_time > '$state[4]{when}' FROM $f.timelines WHERE timeline_id = '$main'"),
	"$cutoff|t", 'the view has it, and its time');

# ---- refusals
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b4', '--ancestor-start-lsn', $state[3]{lsn} ],
	$old, qr/Choose a newer LSN or time/, 'a branch below the horizon is refused');
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b4', '--ancestor-start-time', $state[3]{when} ],
	$old, qr/Choose a newer LSN or time/, 'a branch before its time, too');
$t->neon_fails([ 'endpoint', 'start', 'st4', '--lsn', $state[3]{lsn} ],
	$old, qr/Choose a newer LSN or time/, 'a static endpoint too');
ps_fails("SELECT $f.branch_create('$tenant', 'b4', 'main', '$state[3]{lsn}')", $old, 'branch_create');
ps_fails("SELECT $f.lease_lsn('$tenant', '$main', '$state[3]{lsn}')", $old, 'lease_lsn');
ps_fails("SELECT $f.lsn_for_timestamp('$tenant', '$main', '$state[3]{when}')", $old, 'lsn_for_timestamp');
# of a time before the branch the ancestor has, or had, the history
ps_fails("SELECT $f.lsn_for_timestamp('$tenant', '$old_id', '$state[0]{when}'::timestamptz - interval '1 minute')", $old, 'lsn_for_timestamp of a branch, of a time before it');
ps_fails("SELECT $f.get_page('$tenant', '$main', 1663, 1, 1259, 0, 0, '$state[3]{lsn}')", $old, 'get_page');
ps_fails("CALL $f.basebackup('$tenant', '$main', '$state[3]{lsn}', 0, 'static')", $old, 'base backup');
ps_fails("SELECT $f.lease_lsn('$tenant', timeline_id, ancestor_lsn - 8) FROM $f.timelines WHERE name = 'old'",
	qr/is before the start of the branch.*HINT:  Lease/s, "a lease on a branch does not hold what is its ancestor's");
is($t->psql('pageserver', "\\set VERBOSITY sqlstate\n\\set ON_ERROR_STOP off\nSELECT $f.get_page('$tenant', '$main', 1663, 1, 1259, 0, 0, '$state[3]{lsn}');\n\\echo :SQLSTATE"),
	'22023', 'SQLSTATE of a refusal');

# ---- what is retained is right, now and after a restart of the pageserver
sub retained_is_right
{
	my ($what) = @_;
	is($t->psql('main', 'SELECT sum(i) FROM h'), '0', "$what: the primary");
	is($t->psql('static', 'SELECT sum(i) FROM h'), $state[1]{sum}, "$what: the running static endpoint");
	is(ps("SELECT length($f.get_page('$tenant', '$main', 1663, 1, 1259, 0, 0, '$leased'))"), '8192',
		"$what: a page at the leased LSN");
	ps_fails("SELECT $f.get_page('$tenant', '$main', 1663, 1, 1259, 0, 0, '$state[3]{lsn}')", $old,
		"$what: what is not retained is refused");
}
retained_is_right('after the horizon moved');
my $expires = ps("SELECT expires FROM $f.history_points WHERE id = '$lease'");
$t->neon('pageserver', 'stop');
$t->neon('pageserver', 'start');
is(ps("SELECT expires > '$expires' FROM $f.history_points WHERE id = '$lease'"), 't', 'a restart gives a lease its whole length again');
retained_is_right('after a restart');
$t->endpoint_start('old', branch => 'old');
is($t->psql('old', 'SELECT sum(i) FROM h'), $state[0]{sum}, 'the branch');
$t->neon('timeline', 'branch', '--branch-name', 'b3', '--ancestor-start-lsn', $leased);
$t->endpoint_start('b3', branch => 'b3');
is($t->psql('b3', 'SELECT sum(i) FROM h'), $state[2]{sum}, 'a branch made at the leased LSN');
$t->psql('old', 'CREATE TABLE more AS SELECT 1');
$t->endpoint_stop($_) for 'old', 'b3';

# ---- the space of a segment of WAL that nobody writes any more
my $old_wal = $t->dir . "/pageserver/pgdata/neon/tenants/$tenant/timelines/$old_id/wal";
my $used = ps("SELECT (last_record_lsn - '0/0') % (1 << 24) FROM $f.timelines WHERE timeline_id = '$old_id'");
$t->wait_for("the space behind its $used bytes", sub { 512 * (stat((glob "$old_wal/0*")[-1]))[12] <= $used + 65536 });
pass('the space behind the last record is given back');

# ---- a lease that ends
my $short = 'abcdef0123456789abcdef0123456780';
ps("SELECT $f.lease_lsn('$tenant', '$main', '$leased', '1 minute', '$short')") if $NeonTest::long;
is(ps("SELECT $f.lease_release('$tenant', '$main', '$lease')"), 't', 'a lease is released');
ps("SELECT $f.timeline_delete('$tenant', '" . $t->timeline('b3') . "')");
if ($NeonTest::long)
{
	# its holder cannot renew it while the pageserver is away
	$t->neon('pageserver', 'stop');
	sleep 61;
	$t->neon('pageserver', 'start');
	is(ps("SELECT length($f.get_page('$tenant', '$main', 1663, 1, 1259, 0, 0, '$leased'))"), '8192',
		'after a start a lease holds for its whole length again');
}
$t->poll('pageserver', "SELECT count(*) FROM $f.history_points WHERE lsn = '$leased'", '0');
ps_fails("SELECT $f.get_page('$tenant', '$main', 1663, 1, 1259, 0, 0, '$leased')", $old, 'the LSN is refused then');

$t->endpoint_stop('static');
$t->poll('pageserver', "SELECT count(*) FROM $f.history_points WHERE kind = 'lease'", '0');
$t->neon_fails([ 'endpoint', 'start', 'static' ], $old, qr/Choose a newer LSN or time/, 'it cannot start again');

# an endpoint that loses its lease while it runs says so, and reads nothing wrong
my ($now) = split /\|/, $t->psql('main', 'SELECT pg_current_wal_insert_lsn()');
$t->endpoint_start('s2', lsn => $now, ephemeral => 1);
is(points('lease'), 1, 'an ephemeral endpoint has a lease');
$t->psql('main', 'UPDATE h SET i = 7');
$t->wait_ingest('main');
gc();
ps("SELECT $f.lease_release('$tenant', '$main', id) FROM $f.history_points WHERE kind = 'lease'");
$t->psql_fails('s2', 'SELECT sum(i) FROM h', qr/$old.*HINT: .*Start the endpoint anew at a newer LSN/s,
	'an endpoint without its lease says so');
$t->endpoint_stop('s2');

# ---- deletion
$t->neon('timeline', 'branch', '--branch-name', 'child', '--ancestor-branch-name', 'old');
$t->neon('endpoint', 'destroy', $_) for 'old', 'b3';
$t->neon_fails([ 'timeline', 'delete', 'old' ], qr/child/, qr/delete/i, 'a branch with children is not deleted');
ps_fails("SELECT $f.timeline_delete('$tenant', '$old_id')", qr/Branch "child" starts from it/, 'the error names the child');
$t->neon('timeline', 'delete', 'child');
$t->neon('timeline', 'delete', 'old');
$t->poll('pageserver', "SELECT count(*) FROM $f.history_points", '0');
ok(!-e $t->ps_pgdata . "/neon/tenants/$tenant/timelines/$old_id", 'so does its directory');

# ---- branches and leases that are made while the horizon moves past their LSNs
# are refused or right: pages of each equal what the parent had at that LSN
my ($db, $rel) = split /\|/, $t->psql('main', "SELECT oid, pg_relation_filenode('h') FROM pg_database WHERE datname = 'postgres'");
sub pages
{
	my ($timeline, $lsn) = @_;
	return ps("SELECT md5(string_agg($f.get_page('$tenant', '$timeline', 1663, $db, $rel, 0, b, '$lsn'), NULL ORDER BY b)) FROM generate_series(0, 199, 7) b");
}
my ($made, $refused) = (0, 0);
ps("SELECT $f.lease_lsn('$tenant', '$main', last_record_lsn, '1 second') FROM $f.timelines WHERE timeline_id = '$main'");
is(points('lease'), 1, 'a short lease, which will have ended by the end of this part');
for my $round (1 .. ($NeonTest::long ? 3 : 1))
{
	my @want;
	for my $n (1 .. 6)
	{
		my $lsn = $t->psql('main', "UPDATE h SET i = i + $n; SELECT pg_current_wal_insert_lsn()");
		$t->wait_ingest('main');
		$lsn = ps("SELECT $f.round_lsn('$tenant', '$main', '$lsn')");
		push @want, { lsn => $lsn, pages => pages($main, $lsn) };
	}
	my ($collector, $brancher) = map { $t->session('pageserver') } 1 .. 2;
	$brancher->send(join(";\nDO 'BEGIN PERFORM pg_sleep(random() * 0.2); END';\n", map { "SELECT lsn, timeline_id FROM $f.branch_create('$tenant', 'r${round}_$_', 'main', '$want[$_]{lsn}')" } reverse 0 .. 5));
	$collector->send("SELECT $f.timeline_gc('$tenant', '$main')");
	my %got = map { split /\|/ } split /\n/, $brancher->answer;
	my @errors = split /\n/, $brancher->error;
	$collector->answer;
	is(scalar(grep { /ERROR/ && $_ !~ $old } @errors), 0, "round $round: nothing but refusals") or diag(join "\n", @errors);
	ps("SELECT $f.timeline_gc('$tenant', '$main')");
	for my $w (@want)
	{
		my $id = $got{ $w->{lsn} };
		$id ? $made++ : $refused++;
		is(pages($id, $w->{lsn}), $w->{pages}, "round $round: the branch at $w->{lsn}") if $id;
		ps("SELECT $f.timeline_delete('$tenant', '$id')") if $id;
	}
}
note("$made branches made, $refused refused while the horizon moved");
cmp_ok($made, '>', 0, 'some branches were made');

# ---- when nothing retains the past, its space is free
$t->poll('pageserver', "SELECT count(*) FROM $f.history_points", '0');
ps("SELECT $f.timeline_gc('$tenant', '$main')");
is(ps("SELECT count(*) FROM $f.layers WHERE timeline_id = '$main' AND lsn_hi < (SELECT gc_cutoff FROM $f.timelines WHERE timeline_id = '$main') AND type = 'delta'"),
	'0', 'no delta file of before the horizon is left');
is(ps("SELECT count(*) FROM $f.timeline_verify('$tenant', '$main')"), '0', 'timeline_verify finds nothing wrong');

# ---- the command
like($t->neon('storage', 'gc', '--branch-name', 'main'), qr{^ *main +[0-9A-F]+/[0-9A-F]+ +20}m, 'neon storage gc');
like($t->neon('storage', 'verify'), qr/1 branch verified, no problem found/, 'neon storage verify');

# ---- a settings file that is damaged stops the horizon, and says so
my $file = $t->ps_pgdata . "/neon/tenants/$tenant/settings";
my $bytes = NeonTest::Vanilla::slurp($file);
substr($bytes, 9, 1) ^= "\1";
open my $out, '>', $file or die "$file: $!";
print $out $bytes;
close $out or die "$file: $!";
ps_fails("SELECT $f.timeline_gc('$tenant', '$main')", qr/settings" is corrupted/, 'a damaged settings file is reported');
ps("SELECT $f.tenant_configure('$tenant')");
is(ps("SELECT own_pitr_interval, own_gc_horizon FROM $f.tenant_settings('$tenant')"), 'f|f', 'and can be written anew');
$t->neon('stop');
done_testing();
