# A base backup boots a vanilla server without recovery: of a fresh tenant, of
# one that this very server has written to, at old LSNs, on branches, as a hot
# standby.  Relation files are filled from the page service.
use strict;
use warnings;
use IPC::Run qw(run);
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps');

sub boots
{
	my ($node, $test) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	$node->start;
	my $log = slurp_file($node->logfile);
	unlike($log, qr/recovery|redo|interrupted|not properly shut down/, "$test: starts without recovery");
	return;
}

sub query
{
	my ($node, $sql, $db) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	return $node->safe_psql($db // 'postgres', $sql, timeout => 120);
}

sub amcheck
{
	my ($node, $test) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	my ($out, $err) = ('', '');
	my $ok = run([ 'pg_amcheck', '--all', '--install-missing', '--heapallindexed', '-h', $node->host, '-p', $node->port ],
		'<', \undef, '>', \$out, '2>', \$err);
	ok($ok && $out eq '', "$test: pg_amcheck is clean") or diag($out, $err);
	return;
}

sub wait_ingest
{
	my ($t, $lsn) = @_;
	is($ps->sql("SELECT $f.wait_lsn('$t->{tenant}', '$t->{timeline}', '$lsn', '60 s')"), 't', "the pageserver has come to $lsn");
	return;
}

# ---- a fresh tenant ----
for my $options ('{"segsize": 1, "checksums": true}', '{}')
{
	my $t = $ps->tenant($options);
	my $node = $ps->vanilla('fresh' . length $options, $t, $t->{lsn}, 1, 'primary');
	my ($out) = run_command([ 'pg_controldata', $node->data_dir ]);
	like($out, qr/cluster state:\s+shut down\n/, 'pg_control says shut down');
	my ($seg) = glob $node->data_dir . '/pg_wal/0*';
	boots($node, $options);
	is(query($node, 'SELECT count(*) FROM pg_class WHERE relname = \'pg_class\''), 1, 'a query');
	amcheck($node, $options);
	is(query($node, "SELECT rolreplication, rolcanlogin FROM pg_roles WHERE rolname = 'neon_storage'"), 't|t', 'role neon_storage');
	query($node, 'CREATE TABLE x AS SELECT generate_series(1, 1000) i; CHECKPOINT;');
	$node->stop;
}

# ---- one that streams to the pageserver ----
my $t = $ps->tenant('{"segsize": 1}');
my $main = $ps->vanilla('main', $t, $t->{lsn}, 1, 'primary', conf => "track_commit_timestamp = on\n");
my $b = 'b' x 32;
$ps->sql("SELECT $f.writer_acquire('$t->{tenant}', '$t->{timeline}', 0, 1, 'main', '$b', '$t->{lsn}', 'endpoints/main/pgdata', 'machine')");
boots($main, 'main');
query($main, "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
my $conninfo = 'host=' . $main->host . ' port=' . $main->port . ' user=cloud_admin dbname=postgres';
$ps->sql("SELECT $f.timeline_source('$t->{tenant}', '$t->{timeline}', 1, ARRAY['$conninfo'])");

query($main, <<'SQL');
CREATE TABLE a(i int PRIMARY KEY, t text);
INSERT INTO a SELECT g, repeat(md5(g::text), 5) FROM generate_series(1, 5000) g;
CREATE UNLOGGED TABLE u(i int PRIMARY KEY);
INSERT INTO u SELECT generate_series(1, 100);
CREATE INDEX ON a USING gin (to_tsvector('simple', t));
CREATE INDEX ON a USING hash (t);
SQL
query($main, 'CREATE DATABASE copy STRATEGY wal_log');
query($main, 'CREATE DATABASE copy2 STRATEGY file_copy');
query($main, 'CREATE TABLE c AS SELECT generate_series(1, 3000) i; CREATE INDEX ON c(i)', 'copy2');
query($main, "BEGIN; INSERT INTO a VALUES (-1, 'prepared'); PREPARE TRANSACTION 'p1'");
query($main, 'DELETE FROM a WHERE i % 3 = 0; VACUUM a;');
query($main, 'BEGIN; DO $$BEGIN PERFORM * FROM a WHERE i < 100 FOR KEY SHARE; END$$; SAVEPOINT s; UPDATE a SET t = t || 1 WHERE i < 50; COMMIT');
my $dump1 = query($main, "SELECT count(*), sum(i), md5(string_agg(t, ',' ORDER BY i)) FROM a");
my $lsn1 = query($main, 'SELECT pg_current_wal_flush_lsn()');
wait_ingest($t, $lsn1);
my $branch = { tenant => $t->{tenant} };
($branch->{timeline}, $branch->{lsn}) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$t->{tenant}', 'one', 'main', '$lsn1')");
my $when = query($main, 'SELECT clock_timestamp()');
query($main, "UPDATE a SET t = 'changed'; DROP TABLE u; DELETE FROM a; INSERT INTO a VALUES (1, 'after');");
query($main, 'CHECKPOINT; SELECT pg_switch_wal()');
query($main, "CREATE TABLE late AS SELECT generate_series(1, 2000) i");
my $lsn2 = query($main, 'SELECT pg_current_wal_flush_lsn()');
wait_ingest($t, $lsn2);

# the branch, as a primary of its own: vanilla again
my $one = $ps->vanilla('one', $branch, $branch->{lsn}, 2, 'primary', conf => "track_commit_timestamp = on\n");
boots($one, 'branch');
is(query($one, "SELECT count(*), sum(i), md5(string_agg(t, ',' ORDER BY i)) FROM a"), $dump1, 'the branch has the rows of then');
is(query($one, 'SELECT count(*) FROM u'), 0, 'an unlogged table is there and empty');
is(query($one, 'SELECT count(*) FROM c', 'copy2'), 3000, 'a database made by file copy');
is(query($one, 'SELECT gid FROM pg_prepared_xacts'), 'p1', 'the prepared transaction');
query($one, "COMMIT PREPARED 'p1'");
is(query($one, "SELECT t FROM a WHERE i = -1"), 'prepared', 'which can be committed');
amcheck($one, 'branch');
$one->stop;

# static and ephemeral, on main, at an old LSN; and by time
my ($time_id, $time_lsn) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$t->{tenant}', 'by_time', 'main', NULL, '$when')");
is($ps->sql("SELECT '$time_lsn'::pg_lsn <= '$lsn2' AND '$time_lsn'::pg_lsn <= '$lsn1'"), 't', 'a branch by time lies where it should');
my $eph = $ps->vanilla('ephemeral', $t, $branch->{lsn}, 0, 'ephemeral', conf => "track_commit_timestamp = on\n");
boots($eph, 'ephemeral');
is(query($eph, "SELECT count(*), sum(i), md5(string_agg(t, ',' ORDER BY i)) FROM a"), $dump1, 'ephemeral at an old LSN');
$eph->stop;
my $static = $ps->vanilla('static', $branch, $branch->{lsn}, 0, 'static', conf => "track_commit_timestamp = on\n");
append_to_file($static->data_dir . '/standby.signal', '');
{
	local $ENV{PGUSER} = 'cloud_admin';
	$static->start;
}
is(query($static, 'SELECT pg_is_in_recovery()'), 't', 'static is a hot standby');
is(query($static, "SELECT count(*), sum(i), md5(string_agg(t, ',' ORDER BY i)) FROM a"), $dump1, 'static on the branch');
$static->stop;

# refusals that depend on history
my $mid = NeonPageserver::lsn_text(NeonPageserver::lsn_number($branch->{lsn}) - 8);
like($ps->sql_error("CALL $f.basebackup('$t->{tenant}', '$t->{timeline}', '$mid', 0, 'static')"),
	qr/not the end of a WAL record|record/, 'an LSN inside a record is refused');
like($ps->sql_error("CALL $f.basebackup('$t->{tenant}', '$t->{timeline}', '$branch->{lsn}', 5, 'primary')"),
	qr/must boot at the end/, 'a primary at an old LSN is refused');
like($ps->sql_error("SELECT $f.branch_create('$t->{tenant}', 'below', 'one', '$t->{lsn}')"),
	qr/before the start of branch "one".*HINT:  Branch from its ancestor "main"/s, 'below the start of a branch');

# main itself, at its end, and again after the pageserver restarted
$main->stop('immediate');
my $end = $ps->last_lsn($t);
my $m2 = $ps->vanilla('main2', $t, $end, 0, 'ephemeral', conf => "track_commit_timestamp = on\n");
boots($m2, 'main again');
is(query($m2, 'SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM late)'), '1|2000', 'main has the later state');
amcheck($m2, 'main again');
$m2->stop;

my $s = $ps->stream($t);
my $r = $s->get(since => $end, rel => [ 1663, 5, 1259 ], term => 1);
is($r->{tag}, 'p', 'term 1 is served');
$s->close;
$ps->stop('immediate');
$ps->start;
my $m3 = $ps->vanilla('main3', $t, $end, 0, 'ephemeral', conf => "track_commit_timestamp = on\n");
boots($m3, 'main after a crash of the pageserver');
is(query($m3, 'SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM late)'), '1|2000', 'and still after a crash of the pageserver');
amcheck($m3, 'after the crash');
$m3->stop;

$ps->stop;
done_testing();
