# Every page that a workload on stock PostgreSQL changed, made anew by redo
# processes from the WAL, equals the page that the server wrote.
use strict;
use warnings;
use NodeSql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no build with TESTING=1' unless $ENV{NEON_TESTING_LIBDIR};
my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $scale = $ENV{NEON_REDO_SCALE} || ($long ? 10 : 1);
my $testlib = $ENV{NEON_TESTING_LIBDIR};

# ---------------------------------------------------- the redo processes --

my $pool = PostgreSQL::Test::Cluster->new('pool');
$pool->init(extra => ['-k']);
$pool->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '$testlib/neon_walredo_test'
dynamic_library_path = '\$libdir:$testlib'
max_wal_senders = 0
CONF
$pool->start;
$pool->safe_psql('postgres', <<'SQL');
CREATE FUNCTION redo_diff(a text, b text) RETURNS TABLE(what text, n bigint, example text)
	LANGUAGE c AS 'neon_walredo_test';
CREATE FUNCTION redo_bench(a text, b text, ms int) RETURNS TABLE(kind text, length int,
	pages int, batch1 float8, batch16 float8, batch64 float8) LANGUAGE c AS 'neon_walredo_test';
CREATE FUNCTION redo_fuzz(a text, b text, batches int, seed bigint) RETURNS TABLE(what text, n bigint)
	LANGUAGE c AS 'neon_walredo_test';
CREATE FUNCTION redo_stats() RETURNS TABLE(name text, value bigint)
	LANGUAGE c AS 'neon_walredo_test';
SQL

# ------------------------------------------------------------ the workload --

# Before A: what the chains begin with.
sub before
{
	my ($n) = @_;
	return <<"SQL";
CREATE EXTENSION bloom;
CREATE EXTENSION btree_gist;
CREATE TABLE old(id int PRIMARY KEY, v text, n int) WITH (fillfactor = 80);
INSERT INTO old SELECT i, md5(i::text), i % 100 FROM generate_series(1, 2000 * $n) i;
CREATE INDEX old_v ON old(v);
CREATE SEQUENCE old_seq;
SELECT count(nextval('old_seq')) FROM generate_series(1, 50);
CREATE TABLE shrinks(id int, x text);
INSERT INTO shrinks SELECT i, repeat('x', 100) FROM generate_series(1, 10000 * $n) i;
VACUUM shrinks;
CREATE TABLE dropped AS SELECT i FROM generate_series(1, 1000) i;
CREATE UNLOGGED TABLE unlogged AS SELECT i FROM generate_series(1, 1000) i;
CREATE DATABASE moved;
SQL
}

sub heap_and_btree
{
	my ($n) = @_;
	return <<"SQL";
UPDATE old SET n = n + 1 WHERE id % 7 = 0;
UPDATE old SET n = n + 1 WHERE id % 7 = 0;
DELETE FROM old WHERE id % 5 = 0;
VACUUM old;
INSERT INTO old SELECT i, 'x' || i, i FROM generate_series(1000001, 1000000 + 2000 * $n) i;
UPDATE old SET v = v || 'y' WHERE id % 3 = 0;
VACUUM (FREEZE) old;
SELECT count(nextval('old_seq')) FROM generate_series(1, 100);
DELETE FROM shrinks WHERE id > 500;
VACUUM shrinks;
INSERT INTO shrinks SELECT i, 'again' FROM generate_series(1, 3000 * $n) i;
VACUUM (FREEZE) shrinks;
DELETE FROM shrinks WHERE ctid >= '(5,0)';
VACUUM shrinks;
DROP TABLE dropped;
CREATE TABLE dups(a int, b text);
CREATE INDEX ON dups(a);
INSERT INTO dups SELECT i % 10, 'z' FROM generate_series(1, 4000 * $n) i;
DELETE FROM dups WHERE a < 5;
VACUUM dups;
INSERT INTO dups SELECT i % 10, 'q' FROM generate_series(1, 2000 * $n) i;
CREATE TABLE pages_go(id int PRIMARY KEY, x text);
INSERT INTO pages_go SELECT i, md5(i::text) FROM generate_series(1, 6000 * $n) i;
DELETE FROM pages_go WHERE id BETWEEN 500 AND 5000 * $n;
VACUUM pages_go;
INSERT INTO pages_go SELECT i, 'new' FROM generate_series(600, 3000) i;
TRUNCATE dups;
INSERT INTO dups SELECT i, 'after' FROM generate_series(1, 500) i;
SQL
}

sub other_indexes
{
	my ($n) = @_;
	my $row = "array[i % 1000, i % 77, i], to_tsvector('simple', md5(i::text) || ' w' || (i % 500)), "
	  . "point(random() * 1000, random() * 1000), md5((i % 900)::text), jsonb_build_object('k', i % 333, 'z', i)";
	return <<"SQL";
CREATE TABLE g(id int, a int[], t tsvector, p point, s text, j jsonb);
CREATE INDEX g_brin ON g USING brin(id) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX g_a ON g USING gin(a);
CREATE INDEX g_t ON g USING gin(t);
CREATE INDEX g_j ON g USING gin(j jsonb_path_ops) WITH (fastupdate = off);
CREATE INDEX g_p ON g USING gist(p);
CREATE INDEX g_bg ON g USING gist(id);
CREATE INDEX g_kd ON g USING spgist(p kd_point_ops);
CREATE INDEX g_sq ON g USING spgist(p);
CREATE INDEX g_s ON g USING spgist(s);
CREATE INDEX g_h ON g USING hash(s);
CREATE INDEX g_bl ON g USING bloom(id, s);
INSERT INTO g SELECT i, $row FROM generate_series(1, 2000 * $n) i;
VACUUM g;
DELETE FROM g WHERE id % 3 = 0;
VACUUM g;
SELECT brin_summarize_new_values('g_brin'), brin_desummarize_range('g_brin', 8);
INSERT INTO g SELECT i, $row FROM generate_series(2000 * $n + 1, 4000 * $n) i;
DELETE FROM g WHERE id > 1000 * $n;
VACUUM g;
CREATE TABLE hs(k text);
CREATE INDEX hs_i ON hs USING hash(k);
INSERT INTO hs SELECT md5(i::text) FROM generate_series(1, 6000 * $n) i;
DELETE FROM hs WHERE k < '8';
VACUUM hs;
INSERT INTO hs SELECT 'same' FROM generate_series(1, 3000 * $n);
DELETE FROM hs WHERE ctid < '(20,1)';
VACUUM hs;
REINDEX TABLE g;
SQL
}

sub toast_locks_and_more
{
	my ($n) = @_;
	return <<"SQL";
CREATE TABLE big(id int, b text);
ALTER TABLE big ALTER b SET STORAGE external;
INSERT INTO big SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 50 * $n) i;
UPDATE big SET b = b || 'q' WHERE id % 2 = 0;
DELETE FROM big WHERE id % 5 = 0;
VACUUM big;
CREATE TABLE lk(id int PRIMARY KEY, x int);
INSERT INTO lk SELECT i, i FROM generate_series(1, 1000) i;
VACUUM (FREEZE) lk;
BEGIN;
SELECT count(*) FROM (SELECT * FROM lk FOR SHARE) s;
SAVEPOINT a;
SELECT count(*) FROM (SELECT * FROM lk FOR UPDATE) s;
ROLLBACK TO a;
SELECT count(*) FROM (SELECT * FROM lk WHERE id % 2 = 0 FOR NO KEY UPDATE) s;
UPDATE lk SET x = x + 1 WHERE id % 3 = 0;
COMMIT;
CREATE TABLE ref(id int REFERENCES lk(id));
INSERT INTO ref SELECT i FROM generate_series(1, 1000) i;
INSERT INTO lk SELECT i, 0 FROM generate_series(1, 500) i ON CONFLICT (id) DO UPDATE SET x = excluded.x;
BEGIN; INSERT INTO lk VALUES (5001, 1); UPDATE lk SET x = 7 WHERE id < 50; PREPARE TRANSACTION 'one';
BEGIN; INSERT INTO ref VALUES (1); CREATE TABLE prep(a int); INSERT INTO prep VALUES (1); PREPARE TRANSACTION 'two';
BEGIN; INSERT INTO ref VALUES (2); PREPARE TRANSACTION 'stays';
COMMIT PREPARED 'one';
ROLLBACK PREPARED 'two';
COPY (SELECT i, md5(i::text) FROM generate_series(1, 3000 * $n) i) TO '/tmp/placeholder';
CREATE TABLE cp(a int, b text);
COPY cp FROM '/tmp/placeholder';
BEGIN; TRUNCATE cp; COPY cp FROM '/tmp/placeholder' WITH (FREEZE); COMMIT;
COPY cp FROM '/tmp/placeholder';
UPDATE cp SET b = 'thawed' WHERE a % 50 = 0;
VACUUM cp;
BEGIN; CREATE TABLE never(a int); INSERT INTO never SELECT generate_series(1, 1000); ROLLBACK;
CREATE TABLE moves AS SELECT i AS id, repeat('m', 50) AS v FROM generate_series(1, 2000 * $n) i;
CREATE INDEX moves_id ON moves(id);
ALTER TABLE moves SET TABLESPACE ts;
ALTER INDEX moves_id SET TABLESPACE ts;
INSERT INTO moves SELECT i, 'in ts' FROM generate_series(1, 1000) i;
CLUSTER moves USING moves_id;
ALTER TABLE moves ALTER id TYPE bigint;
ALTER TABLE unlogged SET LOGGED;
INSERT INTO unlogged SELECT generate_series(1, 1000);
CREATE UNLOGGED TABLE ul2(a int PRIMARY KEY);
INSERT INTO ul2 SELECT generate_series(1, 1000);
CREATE MATERIALIZED VIEW mv AS SELECT * FROM lk;
REFRESH MATERIALIZED VIEW mv;
VACUUM FULL old;
SELECT pg_logical_emit_message(true, 'nobody', repeat('m', 100000));
SQL
}

sub databases
{
	return (
		'CREATE DATABASE dwal STRATEGY wal_log',
		'CREATE DATABASE dfile STRATEGY file_copy',
		"ALTER DATABASE moved SET TABLESPACE ts",
		'CREATE DATABASE dgone TEMPLATE dfile STRATEGY file_copy',
		'DROP DATABASE dgone');
}

# Runs the workload; returns the directories A and B.
sub workload
{
	my ($name, $n, $conf, @initdb) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $copy = $node->basedir . '/copy.dat';
	my $a = $node->basedir . '/a';

	$node->init(extra => \@initdb);
	$node->append_conf('postgresql.conf', <<"CONF");
wal_level = replica
shared_buffers = 4MB
max_prepared_transactions = 10
wal_keep_size = 20GB
max_wal_size = 20GB
autovacuum_naptime = 1s
autovacuum_vacuum_cost_delay = 0
allow_in_place_tablespaces = on
fsync = off
$conf
CONF
	$node->start;
	$node->safe_psql('postgres', before($n));
	$node->safe_psql('postgres', "CREATE TABLESPACE ts LOCATION ''");
	$node->stop('fast');
	system('cp', '-a', $node->data_dir, $a) == 0 or die;

	$node->start;
	(my $more = toast_locks_and_more($n)) =~ s{/tmp/placeholder}{$copy}g;
	$node->safe_psql('postgres', heap_and_btree($n));
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', other_indexes($n));
	$node->safe_psql('postgres', $more);
	$node->safe_psql('postgres', $_) for databases();
	for my $db ('dwal', 'dfile', 'moved')
	{
		$node->safe_psql($db, 'CREATE TABLE t(a int); INSERT INTO t SELECT generate_series(1, 3000);'
			  . 'UPDATE pg_class SET relnatts = relnatts WHERE relname = $$t$$; VACUUM FULL pg_class; VACUUM');
	}
	$node->command_ok([ 'pgbench', '-i', '-q', '-s', 1, 'postgres' ], 'pgbench -i');
	$node->command_ok([ 'pgbench', '-n', '-c', 4, '-t', 250 * $n, 'postgres' ], 'pgbench with HOT updates');
	$node->safe_psql('postgres', 'VACUUM (FREEZE)');
	$node->stop('fast');
	return ($a, $node->data_dir);
}

# ---------------------------------------------------------- the comparison --

sub compare
{
	my ($name, $a, $b) = @_;
	my %n;
	my %example;
	for my $line (split /\n/, $pool->safe_psql('postgres', "SELECT * FROM redo_diff('$a', '$b')"))
	{
		my ($what, $n, $example) = split /\|/, $line, 3;
		($n{$what}, $example{$what}) = ($n, $example);
		note("$name: $what $n" . ($n && $example ? " ($example)" : ''));
	}
	cmp_ok($n{pages}, '>', 2000, "$name: enough pages were changed");
	cmp_ok($n{implicit}, '>', 10, "$name: visibility map bits were cleared");
	for my $how ('chain', 'base')
	{
		is($n{"${how}_errors"}, 0, "$name, $how: no errors") or diag($example{"${how}_errors"});
		is($n{"${how}_missing"}, 0, "$name, $how: no page without a page in B") or diag($example{"${how}_missing"});
		is($n{"${how}_different"}, 0, "$name, $how: no unexplained difference")
		  or diag($example{"${how}_different"});
		cmp_ok($n{"${how}_exact"}, '>', 100, "$name, $how: some pages are exactly equal");

		# What is explained, and how much of it there may be.
		cmp_ok($n{"${how}_sequence"}, '<=', 30, "$name, $how: few sequences are ahead of the file");
		cmp_ok($n{"${how}_spgist_meta"}, '<=', 10, "$name, $how: few SP-GiST metapages");
		cmp_ok($n{"${how}_vm_image"}, '<=', 400, "$name, $how: images of visibility maps have no map");
	}
	is($n{chain_exact} + $n{chain_masked} + $n{chain_sequence} + $n{chain_spgist_meta} + $n{chain_vm_image},
		$n{pages}, "$name: every changed page was compared");

	# The page lists are complete: what they do not name did not change.
	is($n{untouched_unexplained}, 0, "$name: no page without history") or diag($example{untouched_unexplained});
	is($n{untouched_different}, 0, "$name: no page changed without WAL") or diag($example{untouched_different});
	return;
}

my @runs = (
	[ 'laptop', "full_page_writes = off\nautovacuum = on" ],
	($long || $ENV{NEON_REDO_ALL}) ? (
		[ 'images', "full_page_writes = on\nwal_log_hints = on\nwal_compression = pglz" ],
		[ 'checksums', "full_page_writes = off\nwal_level = logical\ntrack_commit_timestamp = on", '-k' ]) : ());
my @last;
for my $run (@runs)
{
	my ($name, $conf, @initdb) = @$run;
	my ($a, $b) = workload($name, $scale, $conf, @initdb);
	compare($name, $a, $b);
	@last = ($a, $b);
	if ($ENV{NEON_REDO_BENCH})
	{
		diag($pool->safe_psql('postgres', "SELECT kind, length, pages, batch1::int, batch16::int, batch64::int"
				  . " FROM redo_bench('$a', '$b', 1000)"));
	}
}
note($pool->safe_psql('postgres', 'SELECT * FROM redo_stats()'));
is($pool->safe_psql('postgres', "SELECT value FROM redo_stats() WHERE name = 'died'"), 0, 'no redo process died');

# Records with broken bytes hurt their page only, whatever they do to the process.
my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**31));
my %fuzz = map { split /\|/ } split /\n/, $pool->safe_psql('postgres',
	"SELECT * FROM redo_fuzz('$last[0]', '$last[1]', " . ($long ? 2000 : 100) . ", $seed)");
note("seed $seed: " . join ', ', map { "$_ $fuzz{$_}" } sort keys %fuzz);
cmp_ok($fuzz{broken_error}, '>', 0, 'broken records are found out');
is($fuzz{other_failed}, 0, 'no other page of their batch fails');
is($fuzz{other_wrong}, 0, 'no other page of their batch is wrong');
$pool->stop('fast');
done_testing();
