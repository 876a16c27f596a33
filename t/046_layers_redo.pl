# Pages from layer files against vanilla's: at several LSNs of a workload, all
# pages of a database equal those of a copy that PostgreSQL recovered to that
# LSN, while indexes are flushed every megabyte, images are written and files
# are compacted, after it, and at history points when the rest of the past is gone.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $lib = $ENV{NEON_TESTING_LIBDIR};
my $ps = NeonPageserver->new('ps', conf => ($lib ? "dynamic_library_path = '$lib:\$libdir'\nneon_pageserver.test_wait_at = 'partition-written'\n" : '') . <<'CONF');
neon_pageserver.checkpoint_distance = 1MB
neon_pageserver.compaction_workers = 3
neon_pageserver.image_chain = 10
neon_pageserver.compaction_threshold = 3
neon_pageserver.compaction_target_size = 256kB
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $node = new_vanilla('vanilla', <<'CONF');
full_page_writes = off
fsync = off
wal_keep_size = 4GB
shared_buffers = 16MB
CONF

sub pgbench
{
	local $ENV{PGUSER} = 'cloud_admin';
	my ($out, $err) = run_command([ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, @_, 'postgres' ]);
	die "pgbench: $err" if $err =~ /FATAL|could not|aborted/;
}

$ENV{PGUSER} = 'cloud_admin';
$node->start;
run_command([ 'pgbench', '-q', '-i', '-h', $node->host, '-p', $node->port, 'postgres' ]);
$node->stop;
my $base = PostgreSQL::Test::Utils::tempdir() . '/base';
system_or_bail('cp', '-a', $node->data_dir, $base);
my $t = import_vanilla($ps, $node, 'main');
$node->start;
$node->safe_psql("postgres", q(SELECT pg_create_physical_replication_slot('neon_pageserver', true)));
follow($ps, $t, $node);

my @workload = (
	'CREATE TABLE a (i int PRIMARY KEY, t text); INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 20000) i',
	'UPDATE a SET t = t || i WHERE i % 3 = 0; DELETE FROM a WHERE i % 7 = 0; VACUUM a',
	'CREATE INDEX ON a USING gin (string_to_array(t, NULL)); CREATE INDEX ON a USING hash (t); UPDATE a SET t = reverse(t) WHERE i % 5 = 0',
	'DELETE FROM a WHERE i > 15000; VACUUM a; INSERT INTO a SELECT i, repeat(md5(i::text), 200) FROM generate_series(30000, 30200) i',
	'TRUNCATE a; INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 3000) i; CLUSTER a USING a_pkey');
my @points;
my $wait = $ps->node->data_dir . '/test_wait';
for my $sql (@workload)
{
	# there are partitions by now: jobs of this timeline stay before their ends
	append_to_file($wait, '') if $lib && $sql eq $workload[-1];
	$node->safe_psql('postgres', $_) for split /; /, $sql;
	pgbench('-c', 2, '-t', $long ? 4000 : 700);
	push @points, $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
}
$node->safe_psql('postgres', 'SELECT txid_current(); SELECT pg_switch_wal(); SELECT pg_logical_emit_message(true, $$x$$, $$$$)');
wait_for_lsn($ps, $t, $points[-1]);

# A copy of the database as it began, recovered by PostgreSQL up to a record's start.
my $copies = 0;
sub recovered_to
{
	my ($lsn) = @_;
	my $dir = "$base-" . ++$copies;
	system_or_bail('cp', '-a', $base, $dir);
	append_to_file("$dir/postgresql.conf", <<"CONF");
restore_command = 'cp "@{[ $node->data_dir ]}/pg_wal/%f" "%p"'
recovery_target_lsn = '$lsn'
recovery_target_inclusive = off
recovery_target_action = promote
archive_cleanup_command = ''
CONF
	append_to_file("$dir/recovery.signal", '');
	my ($in, $out, $err) = ('', '', '');
	IPC::Run::run([ 'postgres', '--single', '-D', $dir, '-c', 'logging_collector=off', 'template1' ], '<', \$in, '>', \$out, '2>', \$err)
	  or die "recovery failed: $err";
	return $dir;
}

my $db = $node->safe_psql('postgres', q(SELECT oid FROM pg_database WHERE datname = 'postgres'));
# LSN and checksum aside: where hints are logged, recovery moves a heap page's LSN
# with its visibility, and redo processes do not log hints.
sub compare_pages
{
	my ($dir, $lsn, $what) = @_;
	my ($pages, @bad) = (0);
	for my $file (glob "$dir/base/$db/*")
	{
		# free space maps are not kept
		my ($rel, $n, $vm, $segment) = $file =~ m{/((\d+)(_vm)?)(\.\d+)?$} or next;
		next if !-s $file || -e "$dir/base/$db/${n}_init";
		my $blocks = (-s $file) / 8192;
		my $fork = $vm ? 2 : 0;
		$pages += $blocks;
		my $differ = $ps->sql(<<"SQL");
SELECT string_agg(b::text, ' ' ORDER BY b) FROM generate_series(0, $blocks - 1) b
WHERE overlay(neon_pageserver.get_page($t->{args}, 1663, $db, $n, $fork, b, '$lsn') PLACING '\\x00000000000000000000' FROM 1 FOR 10) <>
	overlay(pg_read_binary_file('$file', b * 8192, 8192) PLACING '\\x00000000000000000000' FROM 1 FOR 10)
SQL
		push @bad, "$rel: $differ" if $differ ne '';
	}
	is(join("\n", @bad), '', "$what at $lsn: $pages pages");
	cmp_ok($pages, '>', 2000, 'many of them');
}

# several of them at once, each on a partition of its own
SKIP:
{
	skip 'no build with TESTING=1', 2 if !$lib;
	my $running = 0;
	for (1 .. 6000)
	{
		$running = $ps->sql("SELECT value FROM neon_pageserver.stat_pageserver WHERE name = 'compaction_jobs_running'");
		last if $running >= 2;
		# all that was due may have been done before the file came
		pgbench('-c', 2, '-t', 300) if $_ % 40 == 0;
		usleep(50_000);
	}
	cmp_ok($running, '>=', 2, "$running jobs of one timeline at once");
	is($ps->sql('SELECT count(*) FROM neon_pageserver.timelines'), 1, 'of the only one');
	unlink $wait or die "$wait: $!";
}

# what is due ends, however much comes in
{
	my $log = PostgreSQL::Test::Utils::tempdir() . '/pgbench.log';
	local $ENV{PGUSER} = 'cloud_admin';
	my $h = IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-T', 900, '-h', $node->host, '-p', $node->port, 'postgres' ], '>', $log, '2>&1');
	local $NeonPageserver::timeout = 300;
	cmp_ok($ps->sql("SELECT neon_pageserver.timeline_compact($t->{args})"), '>=', 0, 'timeline_compact ends while WAL comes in') for 1 .. 2;
	ok($h->pumpable, 'which it still does');
	$h->kill_kill;
	$h->finish;
}

my %copies = map { $_ => recovered_to($points[$_]) } $long ? (0 .. $#points) : (1, 3);
compare_pages($copies{$_}, $points[$_], 'point ' . ($_ + 1)) for $long ? (0 .. $#points) : 3;

# all in layers, all merged, in a server that was started again
$ps->sql("SELECT neon_pageserver.timeline_checkpoint($t->{args})");
$ps->sql("SELECT neon_pageserver.timeline_compact($t->{args})");
my $log = slurp_file($ps->node->logfile);
like($log, qr/layer of timeline .* written: \d+ keys, \d+ versions, [1-9]\d* images/, 'images were written');
my $pulls = () = $log =~ /pull of partition/g;
cmp_ok($pulls, '>', 0, "$pulls pulls");
is($ps->sql("SELECT count(*) FROM neon_pageserver.timeline_verify($t->{args})"), 0, 'timeline_verify finds nothing');
$node->stop('immediate');
$ps->stop;
$ps->start;
compare_pages($copies{$_}, $points[$_], 'after compaction, point ' . ($_ + 1)) for $long ? (1, $#points) : 3;

# only these points are left of the past
sub layer_bytes { return $ps->sql('SELECT sum(bytes) FROM neon_pageserver.layers') }
my $bytes = layer_bytes();
$ps->sql("SELECT neon_pageserver.lease_lsn($t->{args}, '$_')") for @points[ 1, 3 ];
$ps->sql("SELECT neon_pageserver.tenant_configure('$t->{tenant}', '0', 0)");
$ps->sql("SELECT neon_pageserver.timeline_gc($t->{args})");
like(slurp_file($ps->node->logfile), qr/rebase of partition/, 'partitions were rewritten at the horizon');
cmp_ok(layer_bytes(), '<', $bytes, "$bytes bytes before, fewer after it");
is($ps->sql("SELECT count(*) FROM neon_pageserver.timeline_verify($t->{args})"), 0, 'timeline_verify finds nothing');
like($ps->sql_error("SELECT neon_pageserver.get_page($t->{args}, 1663, $db, 1259, 0, 0, '$points[2]')"), qr/oldest/, 'another LSN of the past is refused');
compare_pages($copies{$_}, $points[$_], 'at a history point, point ' . ($_ + 1)) for 1, 3;
$ps->sql("SELECT neon_pageserver.timeline_gc($t->{args})") for 1 .. 2;
compare_pages($copies{3}, $points[3], 'after another rewrite') if $long;
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|is corrupted|cannot be made at|was changed while/, 'nothing is wrong in the log');
done_testing();
