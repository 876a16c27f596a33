# The pageserver is killed again and again while a vanilla server streams to it
# under load.  Afterwards its WAL is byte for byte the source's, and what it
# derived equals vanilla's own files.
use strict;
use warnings;
use IngestVanilla;
use KillNode;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $kills = $ENV{NEON_TEST_LONG} ? 8 : 4;
my $seed = $ENV{NEON_TEST_SEED} // int(rand(2**31));
srand($seed);
note("seed $seed");

# Small layers, so that kills hit their writing too.
my $ps = NeonPageserver->new('pageserver', conf => <<'CONF');
neon_pageserver.checkpoint_distance = 4MB
fsync = on
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ENV{PGUSER} = 'cloud_admin';
my $node = new_vanilla('source', <<'CONF');
full_page_writes = off
track_commit_timestamp = on
synchronous_commit = off
wal_keep_size = 2GB
CONF
$node->start;
$node->stop;
my $t = import_vanilla($ps, $node, 'main');
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
follow($ps, $t, $node);
$node->command_ok([ 'pgbench', '-i', '-s', '2', '-q', 'postgres' ], 'tables');
my $script = PostgreSQL::Test::Utils::tempdir() . '/extra.sql';
append_to_file($script, <<'SQL');
\set i random(1, 1000000000)
BEGIN;
CREATE TEMP TABLE IF NOT EXISTS tt(i int);
CREATE TABLE t:i AS SELECT g, repeat('x', 100) FROM generate_series(1, 300) g;
SAVEPOINT a;
INSERT INTO t:i SELECT g FROM generate_series(1, 100) g;
ROLLBACK TO a;
COMMIT;
TRUNCATE t:i;
DROP TABLE t:i;
BEGIN; INSERT INTO pgbench_history VALUES (1, 1, 1, :i, now()); PREPARE TRANSACTION 'p:i';
COMMIT PREPARED 'p:i';
SQL

my $seconds = 2 + $kills * 2;
my ($out, $err) = ('', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', $seconds, '-f', $script . '@1', '-b', 'tpcb-like@20', 'postgres' ],
	'<', \undef, '>', \$out, '2>', \$err, init => sub { $ENV{PGHOST} = $node->host; $ENV{PGPORT} = $node->port });
for my $n (1 .. $kills)
{
	sleep 0.3 + rand(1);
	kill_node($ps->node);
	$ps->start;
	follow($ps, $t, $node);
}
$load->finish;
is($? >> 8, 0, 'the load saw no error') or diag $err;

# The end of the source's WAL after a clean stop: it comes while it streams.
ok($ps->node->poll_query_until('postgres', 'SELECT connected FROM neon_pageserver.sources'), 'connected again');
wait_for_lsn($ps, $t, $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
$node->stop;
my $checkpoint = (run_command([ 'pg_controldata', $node->data_dir ]))[0] =~ /Latest checkpoint location:\s+(\S+)/ ? $1 : die;
ok($ps->node->poll_query_until('postgres',
		"SELECT last_record_lsn > '$checkpoint' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'"),
	'everything has arrived');
my $last = $ps->last_lsn($t);
my $dir = $node->data_dir;
compare_control($ps, $t, $last, $dir, 'at the end');
compare_slrus($ps, $t, $last, $dir, 'at the end');
compare_twophase($ps, $t, $last, $dir, 'at the end');
compare_relmaps($ps, $t, $last, $dir, 'at the end');
compare_sizes($ps, $t, $last, $dir, 'at the end');

my $wal = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal";
sub begin_of { my ($hi, $lo) = map { hex } $_[0] =~ /^.{8}(.{8})(.{8})$/; return ($hi << 32) + $lo * 16 * 1024 * 1024 }
my @stored = sort map { s{.*/}{}r } glob "$wal/0*";	# where this takes long the first ones have gone
my $from = NeonPageserver::lsn_number($t->{lsn});
$from = begin_of($stored[0]) if begin_of($stored[0]) > $from;
($out, $err) = run_command([ 'pg_waldump', '-p', $wal, '-q', '-s', sprintf('%X/%X', $from >> 32, $from & 0xffffffff), '-e', $last ]);
is($err, '', 'pg_waldump accepts the stored WAL');
my @differ;
for my $f (@stored)
{
	my $n = NeonPageserver::lsn_number($last) - begin_of($f);
	my ($ours, $theirs) = (slurp_file("$wal/$f"), slurp_file("$dir/pg_wal/$f"));
	$n = length $ours if $n > length $ours;
	push @differ, $f if substr($ours, 0, $n) ne substr($theirs, 0, $n) || substr($ours, $n) !~ /^\0*$/;
}
is("@differ", '', 'stored WAL is as the source has it, and empty behind the end');
is($ps->sql("SELECT logical_size FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'"),
	$ps->sql(<<"SQL"), 'the logical size is the sum of the sizes');
SELECT sum(get_byte(value, 0) + 256 * get_byte(value, 1) + 65536 * get_byte(value, 2)) * 8192
FROM neon_test.keys($t->{args}, '$last', 8) WHERE get_byte(value, 4) = 0
SQL
$ps->stop;
done_testing();
