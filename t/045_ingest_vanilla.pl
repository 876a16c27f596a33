# What the pageserver derives from a vanilla server's WAL (transaction status,
# multixacts, commit timestamps, prepared transactions, relation maps, sizes,
# counters) equals what vanilla's crash recovery makes of it, at each crash.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;

my $ps = NeonPageserver->new('pageserver', conf => "neon_pageserver.wal_keep = 10GB\n");
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $node = new_vanilla('vanilla', <<'CONF');
track_commit_timestamp = on
full_page_writes = off
max_connections = 50
CONF
$ENV{PGUSER} = 'cloud_admin';
$node->start;
$node->stop;
my $t = import_vanilla($ps, $node, 'main');
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
follow($ps, $t, $node);

# A transaction id for each row: subtransactions, some of them rolled back.
my $subxacts = <<'SQL';
CREATE OR REPLACE PROCEDURE burn(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		BEGIN
			INSERT INTO s VALUES (i);
			IF i % 3 = 0 THEN RAISE EXCEPTION 'x'; END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
		IF i % 50 = 0 THEN COMMIT; END IF;
	END LOOP;
END $$;
-- each row locked in a subtransaction of its own while another session has it
CREATE OR REPLACE FUNCTION lock_rows(lo int, hi int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN lo..hi LOOP
		BEGIN
			PERFORM 1 FROM m WHERE id = i FOR SHARE;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
SQL

sub setup
{
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE s(i int);
CREATE TABLE m(id int PRIMARY KEY, v text);
INSERT INTO m SELECT i, 'x' FROM generate_series(1, 5000) i;
$subxacts
CREATE TABLE p(id int PRIMARY KEY);
CREATE TABLE vac AS SELECT i, repeat('y', 200) AS t FROM generate_series(1, 60000) i;
CREATE UNLOGGED TABLE u AS SELECT i FROM generate_series(1, 100) i;
SQL
	$node->safe_psql('postgres', 'VACUUM vac');
	return;
}

sub multixacts
{
	my ($lo, $hi) = @_;
	my $holder = $node->background_psql('postgres');
	$holder->query_safe("BEGIN; SELECT count(*) FROM m WHERE id BETWEEN $lo AND $hi");
	$holder->query_safe("SELECT count(*) FROM (SELECT 1 FROM m WHERE id BETWEEN $lo AND $hi FOR SHARE) x");
	$node->safe_psql('postgres', "SELECT lock_rows($lo, $hi)");
	$holder->query_safe('COMMIT');
	$holder->quit;
	return;
}

sub prepare
{
	my ($n) = @_;
	$node->safe_psql('postgres', <<"SQL");
BEGIN; INSERT INTO p VALUES ($n); SAVEPOINT a; INSERT INTO p VALUES ($n + 1); PREPARE TRANSACTION 'keep$n';
BEGIN; INSERT INTO p VALUES ($n + 2); CREATE TABLE t$n(i int); PREPARE TRANSACTION 'commit$n';
BEGIN; INSERT INTO p VALUES ($n + 3); CREATE TABLE r$n(i int); PREPARE TRANSACTION 'rollback$n';
COMMIT PREPARED 'commit$n';
ROLLBACK PREPARED 'rollback$n';
SQL
	return;
}

sub databases
{
	my ($n) = @_;
	my $node_sql = sub { $node->safe_psql('postgres', $_[0]) };
	$node_sql->("CREATE TABLESPACE spc$n LOCATION ''");
	$node_sql->("CREATE DATABASE copied$n STRATEGY file_copy");
	$node_sql->("CREATE DATABASE logged$n STRATEGY wal_log TABLESPACE spc$n");
	$node->safe_psql("copied$n", 'CREATE TABLE c AS SELECT 1 AS i; VACUUM FULL pg_class');
	$node_sql->("ALTER DATABASE copied$n SET TABLESPACE spc$n");
	$node_sql->("CREATE DATABASE gone$n STRATEGY file_copy TEMPLATE copied$n");
	$node_sql->("DROP DATABASE gone$n");
	return;
}

sub relations
{
	my ($n) = @_;
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE k$n AS SELECT i, md5(i::text) FROM generate_series(1, 2000) i;
CREATE INDEX ON k$n(i);
TRUNCATE k$n;
CREATE TABLE d$n AS SELECT 1 AS i;
DROP TABLE d$n;
BEGIN; CREATE TABLE never$n(i int); ROLLBACK;
DELETE FROM vac WHERE i > 60000 - 10000 * $n;
CREATE UNLOGGED TABLE u$n(i int PRIMARY KEY);
SELECT pg_replication_origin_create('origin$n');
SELECT pg_replication_origin_advance('origin$n', '0/1000'::pg_lsn + $n);
SQL
	$node->safe_psql('postgres', 'VACUUM vac');
	return;
}

sub crash_and_compare
{
	my ($what, %o) = @_;
	# all is flushed: after a record that is cut off vanilla writes another one first
	$node->safe_psql('postgres', 'INSERT INTO s VALUES (0)');
	$node->stop('immediate');
	my $copy = recovered_copy($ps, $t, $node);
	$node->start;			# its recovery goes on where the WAL ends; the rest is streamed
	$node->safe_psql('postgres', 'INSERT INTO s VALUES (0)');
	follow($ps, $t, $node);
	wait_for_lsn($ps, $t, $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
	my $lsn = IngestVanilla::record_end($ps, $t, $copy->{last_record});
	note("crash at $lsn");
	is($ps->sql("SELECT neon_test.boot_record_like_vanilla($t->{args}, '$lsn')"), 't',
		"$what: vanilla's record at the end of recovery is what a boot record would be");
	compare_control($ps, $t, $lsn, $copy->{dir}, $what, %o);
	compare_slrus($ps, $t, $lsn, $copy->{dir}, $what);
	compare_twophase($ps, $t, $lsn, $copy->{dir}, $what);
	compare_relmaps($ps, $t, $lsn, $copy->{dir}, $what);
	compare_sizes($ps, $t, $lsn, $copy->{dir}, $what);
	return $lsn;
}

is($ps->sql('SELECT neon_test.boot_record_sweep()'), 'ok', 'boot records at every alignment');
setup();
my @points;
for my $n (1 .. 3)
{
	$node->safe_psql('postgres', 'CALL burn(' . 12000 * $n . ')');
	multixacts(1 + 1000 * $n, 900 + 1000 * $n);
	prepare(100 * $n);
	databases($n) if $n < 3;
	relations($n);
	if ($n == 2)
	{
		# settings that WAL tells, and commit timestamps off and on again
		$node->append_conf('postgresql.conf', "max_connections = 60\ntrack_commit_timestamp = off\n");
		$node->restart;
		$node->safe_psql('postgres', 'CALL burn(500)');
		$node->append_conf('postgresql.conf', "track_commit_timestamp = on\nwal_log_hints = on\n");
		$node->restart;
		$node->safe_psql('postgres', 'CALL burn(500)');
		follow($ps, $t, $node);
	}
	my $open = $node->background_psql('postgres');
	$open->query_safe('BEGIN; INSERT INTO s VALUES (1); SAVEPOINT x; INSERT INTO s VALUES (2)');
	push @points, crash_and_compare("crash $n");
	eval { $open->quit };
}

# The oldest segments go away.
$node->safe_psql('postgres', 'CREATE EXTENSION neon_test_utils');
$node->safe_psql('postgres', $_) for map { "ROLLBACK PREPARED 'keep${_}00'" } 1 .. 3;
$node->safe_psql('postgres', 'SELECT neon_test_utils.consume_xids(1100000)');
$node->safe_psql('postgres', 'UPDATE pg_database SET datallowconn = true');
if ($long)
{
	# enough multixacts for more than one file of offsets and of members
	$node->safe_psql('postgres', "INSERT INTO m SELECT i, 'x' FROM generate_series(10001, 80000) i");
	multixacts(10_001, 80_000);
}
sub first_segment { return (sort map { s{.*/}{}r } glob $node->data_dir . "/$_[0]/*")[0] }
my @old = ('pg_xact', $long ? qw(pg_multixact/offsets pg_multixact/members) : ());
for my $try (1 .. 5)
{
	for my $db (split /\n/, $node->safe_psql('postgres', 'SELECT datname FROM pg_database'))
	{
		$node->safe_psql($db, 'SET vacuum_multixact_freeze_min_age = 0; VACUUM FREEZE');
	}
	# autovacuum runs, too, and may hold back what is old
	last unless grep { first_segment($_) eq '0000' } @old;
	sleep 1;
}
isnt(first_segment($_), '0000', "the first segment of $_ is gone") for @old;
# Vanilla's recovery does not learn the oldest transaction from the truncation;
# ours has to, as the files that it would need are gone.
push @points, crash_and_compare('crash after a truncation', ignore => [ 'oldestxid', 'oldestxiddb' ]);

# The same after a restart of the pageserver, which decodes its WAL again, and
# with everything in layers.
$ps->node->stop('immediate');
$ps->start;
is($ps->sql("SELECT neon_pageserver.wait_lsn($t->{args}, '$points[-1]', '60 s')"), 't', 'stored WAL is decoded again');
ok($ps->sql("SELECT neon_pageserver.timeline_checkpoint($t->{args}) >= '$points[-1]'") eq 't', 'a layer is written');
my $copy_lsn = $points[-1];
is($ps->sql("SELECT neon_test.round_to_commit($t->{args}, '$copy_lsn') <= '$copy_lsn'"), 't', 'a commit boundary');

# WAL that is stored passes pg_waldump from first to last byte.
my $wal = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal";
my ($segment) = sort map { s{.*/}{}r } glob "$wal/0*";
my $end = $ps->sql("SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'");
my ($out, $err) = run_command([ 'pg_waldump', '-p', $wal, '-q', '-s', $t->{lsn}, '-e', $end ]);
is($err, '', 'pg_waldump accepts the stored WAL');

# ---- timeline_verify ----
$node->stop('immediate');
my $verify = "SELECT file || ' ' || coalesce(byte_offset, -1) || ' ' || problem FROM neon_pageserver.timeline_verify($t->{args})";
is($ps->sql($verify), '', 'timeline_verify finds nothing');
# the files that are spoiled below are not to be rewritten meanwhile
$ps->node->append_conf('postgresql.conf', "neon_pageserver.compaction_workers = 0\n");
$ps->restart;
is($ps->sql("SELECT neon_pageserver.wait_lsn($t->{args}, '$end', '60 s')"), 't', 'stored WAL is decoded again');
my $dir = "neon/tenants/$t->{tenant}/timelines/$t->{timeline}";
my @files = map { s{^.*/layers/}{layers/}r } glob $ps->node->data_dir . "/$dir/layers/*";
cmp_ok(scalar @files, '>', 2, 'of ' . @files . ' layers');

# One bit of a file, while the server is stopped; then what is found, and back again.
sub spoiled
{
	my ($file, $offset, $expected, $what) = @_;
	my $path = $ps->node->data_dir . "/$dir/$file";
	my $flip = sub {
		$ps->stop;
		open my $f, '+<:raw', $path or die "$path: $!";
		seek $f, $offset, 0;
		read $f, my $byte, 1;
		seek $f, $offset, 0;
		print $f chr(ord($byte) ^ 4);
		close $f;
		$ps->start;
		# stored WAL is decoded first
		$ps->sql_error("SELECT neon_pageserver.wait_lsn($t->{args}, '$end', '60 s')");
	};
	$flip->();
	like($ps->sql($verify), qr{^\Q$dir/$file\E $expected$}, $what);
	$flip->();
}
my ($delta) = grep { /\.delta$/ } @files;
spoiled($delta, 100, '64 A block has a wrong CRC\.', 'a changed bit in a layer');
my ($image) = grep { /\.image$/ } @files;
my $size = -s $ps->node->data_dir . "/$dir/$image";
spoiled($image, $size - 1, $size - 256 . ' This is not the footer of a layer file\.', 'in the last byte of another one');
my $within = NeonPageserver::lsn_number($t->{lsn}) % (1024 * 1024 * 16) + 100_000;
spoiled("wal/$segment", $within, '\d+ The record at \S+ is not valid: .*', 'in stored WAL');
$ps->stop;
my $layer = $ps->node->data_dir . "/$dir/$delta";
rename $layer, "$layer.away" or die;
$ps->start;
like($ps->sql($verify), qr{^\Q$dir/$delta\E -1 The file cannot be opened: No such file or directory\.$}, 'a layer that is away');
$ps->stop;
done_testing();
