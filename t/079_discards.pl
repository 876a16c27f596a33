# Results are the same while each session throws away all of its caches and open files
# at every step of every statement, as debug_discard_caches has it, while shared
# invalidations are so many that nobody can keep up with them, and while
# blocks are dropped and fetched again.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = $ENV{NEON_TEST_TOP};
my $rounds = $NeonTest::long ? 5 : 1;
my $limit = '40MB';
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'shared_preload_libraries=neon_test_utils,pg_stat_statements', 'neon.prewarm_rate=0', 'shared_buffers=2MB',
	'max_prepared_transactions=5', 'autovacuum_naptime=2s');
$t->endpoint_start('main');
$t->psql('main', "CREATE EXTENSION neon; CREATE EXTENSION neon_test_utils; CREATE TABLE filler AS SELECT repeat('f', 1000) AS pad FROM generate_series(1, 36000) i; VACUUM FREEZE filler");

# What catalogs, caches, plans and files have to do with each other.
my $suite = <<'SQL';
\set VERBOSITY terse
CREATE SCHEMA s;
SET search_path = s, public;
CREATE DOMAIN pos AS int CHECK (value > 0);
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE part (id int, k pos, m mood DEFAULT 'low', body text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (500);
CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (500) TO (2000) PARTITION BY HASH (k);
CREATE TABLE part2a PARTITION OF part2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part2b PARTITION OF part2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON part (m, id);
INSERT INTO part SELECT i, i % 7 + 1, (ARRAY['low', 'high'])[i % 2 + 1]::mood, repeat(md5(i::text), 20) FROM generate_series(0, 1999) i;
INSERT INTO part VALUES (1, 0);
INSERT INTO part VALUES (5000, 1);
ALTER TYPE mood ADD VALUE 'middle' BEFORE 'high';
UPDATE part SET m = 'middle' WHERE id % 10 = 0;
ALTER TABLE part DETACH PARTITION part1;
ALTER TABLE part ATTACH PARTITION part1 FOR VALUES FROM (0) TO (500);
EXPLAIN (COSTS OFF) SELECT * FROM part WHERE id = 7;
SELECT m, count(*), sum(id), md5(string_agg(body, '' ORDER BY id, k)) FROM part GROUP BY m ORDER BY m;
CREATE TABLE parent (id int PRIMARY KEY, note text);
CREATE TABLE child (id serial PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED, v numeric, g int GENERATED ALWAYS AS (p * 2) STORED);
CREATE TABLE audit (what text, n int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (TG_OP, coalesce(NEW.id, OLD.id)); RETURN coalesce(NEW, OLD); END $$;
CREATE TRIGGER tr AFTER INSERT OR UPDATE OR DELETE ON child FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO parent SELECT i, 'p' || i FROM generate_series(1, 50) i;
INSERT INTO child (p, v) SELECT i % 50 + 1, i / 7.0 FROM generate_series(1, 200) i;
BEGIN; INSERT INTO child (p, v) VALUES (77, 1); COMMIT;
BEGIN; SAVEPOINT a; INSERT INTO child (p, v) VALUES (78, 1); SELECT count(*) FROM child; ROLLBACK TO a; CREATE INDEX child_p ON child (p); SAVEPOINT b; DROP INDEX child_p; ROLLBACK TO b; COMMIT;
DELETE FROM parent WHERE id <= 10;
UPDATE parent SET id = id + 1000 WHERE id > 45;
SELECT count(*), min(p), max(g), round(sum(v), 3) FROM child;
SELECT what, count(*), sum(n) FROM audit GROUP BY what ORDER BY what;
CREATE VIEW w AS SELECT c.id, c.p, p.note, c.v FROM child c JOIN parent p ON p.id = c.p;
CREATE RULE wr AS ON INSERT TO w DO INSTEAD INSERT INTO child (p, v) VALUES (NEW.p, NEW.v);
INSERT INTO w (p, v) VALUES (20, 3.5);
CREATE MATERIALIZED VIEW mv AS SELECT p, count(*) n FROM w GROUP BY p;
CREATE UNIQUE INDEX ON mv (p);
REFRESH MATERIALIZED VIEW CONCURRENTLY mv;
SELECT count(*), sum(n) FROM mv;
PREPARE q(int) AS SELECT count(*), round(sum(v), 2) FROM w WHERE p = $1;
EXECUTE q(20);
ALTER TABLE child ALTER v TYPE float8;
EXECUTE q(20);
ALTER TABLE child ADD COLUMN extra text DEFAULT 'x';
VACUUM FULL child;
CLUSTER parent USING parent_pkey;
EXECUTE q(20);
CREATE FUNCTION walk(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r record; t text := ''; c CURSOR FOR SELECT * FROM child WHERE id <= n ORDER BY id;
BEGIN
	FOR r IN c LOOP
		BEGIN
			UPDATE child SET extra = extra || r.id WHERE CURRENT OF c;
			IF r.id % 40 = 0 THEN RAISE EXCEPTION 'no %', r.id; END IF;
			EXECUTE format('CREATE TABLE IF NOT EXISTS made_%s (a int)', r.id % 3);
		EXCEPTION WHEN raise_exception THEN t := t || sqlerrm || ';';
		END;
	END LOOP;
	RETURN t;
END $$;
SELECT walk(120);
SELECT md5(string_agg(extra, ',' ORDER BY id)) FROM child;
CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 6 LOOP
		EXECUTE 'CREATE TABLE step (i int)'; EXECUTE 'INSERT INTO step SELECT generate_series(1, 10)';
		IF i % 2 = 0 THEN COMMIT; EXECUTE 'DROP TABLE step'; COMMIT; ELSE ROLLBACK; END IF;
	END LOOP;
END $$;
CALL steps();
CREATE TABLE kinds (i int, t text, a int[], p point, r int4range, j jsonb, x tsvector);
INSERT INTO kinds SELECT i, md5(i::text), ARRAY[i, i + 1], point(i, -i), int4range(i, i + 5), jsonb_build_object('k', i % 20), to_tsvector('simple', 'w' || i % 30) FROM generate_series(1, 1500) i;
CREATE INDEX kh ON kinds USING hash (t);
CREATE INDEX kg ON kinds USING gin (a);
CREATE INDEX kj ON kinds USING gin (j);
CREATE INDEX kp ON kinds USING gist (p);
CREATE INDEX kr ON kinds USING spgist (r);
CREATE INDEX kb ON kinds USING brin (i);
CREATE INDEX kx ON kinds USING gist (x);
CREATE INDEX ke ON kinds (lower(t), (i % 3)) WHERE i > 5;
SET enable_seqscan = off;
SELECT count(*) FROM kinds WHERE t = md5('77');
SELECT count(*) FROM kinds WHERE a @> ARRAY[300];
SELECT count(*) FROM kinds WHERE j @> '{"k": 7}';
SELECT count(*) FROM kinds WHERE p <@ box(point(10, -10), point(50, -50));
SELECT count(*) FROM kinds WHERE r @> 700;
SELECT count(*) FROM kinds WHERE x @@ 'w7'::tsquery;
SELECT count(*) FROM kinds WHERE lower(t) < 'a' AND i % 3 = 1 AND i > 5;
RESET enable_seqscan;
REINDEX TABLE CONCURRENTLY kinds;
DELETE FROM kinds WHERE i % 2 = 0;
VACUUM (ANALYZE) kinds;
INSERT INTO kinds (i, t) SELECT i, 'n' FROM generate_series(1, 300) i;
SELECT count(*), sum(i), count(DISTINCT t) FROM kinds;
CREATE TEMP TABLE tmp ON COMMIT DELETE ROWS AS SELECT 1 AS a;
BEGIN; INSERT INTO tmp VALUES (2), (3); SELECT sum(a) FROM tmp; COMMIT;
SELECT count(*) FROM tmp;
CREATE UNLOGGED TABLE un AS SELECT i FROM generate_series(1, 1000) i;
ALTER TABLE un SET LOGGED;
BEGIN; TRUNCATE un; INSERT INTO un VALUES (1); ROLLBACK;
SELECT count(*) FROM un;
BEGIN; DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT i FROM un ORDER BY i; FETCH 3 FROM c; ALTER TABLE audit ADD z int; FETCH ABSOLUTE 500 FROM c; COMMIT;
DROP TABLE un;
FETCH LAST FROM c;
CLOSE c;
BEGIN; CREATE TABLE two (a int); INSERT INTO two VALUES (1); PREPARE TRANSACTION 'two_:db'; COMMIT PREPARED 'two_:db';
SELECT * FROM two;
SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT count(*), sum(length(body)) FROM part;
CREATE INDEX par ON part (body);
SELECT count(*) FROM part WHERE body > '8';
RESET ALL;
SET search_path = s, public;
COPY (SELECT id, k FROM part ORDER BY id LIMIT 3) TO STDOUT;
MERGE INTO parent USING (VALUES (20, 'merged'), (9999, 'new')) v(i, n) ON parent.id = v.i WHEN MATCHED THEN UPDATE SET note = n WHEN NOT MATCHED THEN INSERT VALUES (i, n);
SELECT note FROM parent WHERE id IN (20, 9999) ORDER BY id;
ALTER TABLE parent RENAME TO elder;
ALTER TABLE elder RENAME note TO remark;
SELECT count(*), max(remark) FROM elder;
EXECUTE q(20);
SELECT relkind, count(*) FROM pg_class WHERE relnamespace = 's'::regnamespace GROUP BY 1 ORDER BY 1;
DROP TABLE part2;
DROP SCHEMA s CASCADE;
SELECT count(*) FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace) AND relpersistence <> 't';
SQL

my $on = 'SET neon_test_utils.discard_caches = on;';

# What the suite prints in a new database.
sub run_suite
{
	my ($db, $before) = @_;
	$t->psql('main', "CREATE DATABASE $db");
	my ($rc, $out, $err) = $t->psql_raw('main', "$before\n$suite", db => $db, args => [ '-v', 'ON_ERROR_STOP=0', '-v', "db=$db", '-a' ], timeout => 600);
	$t->psql('main', "DROP DATABASE $db");
	$out =~ s/\A\Q$before\E\n//;
	$err =~ s/^psql:[^:]*:\d+: //mg;
	return "$out$err" =~ s/\b\Q$db\E\b/DB/gr;
}

my $plain = run_suite('plain', '');
like($plain, qr/no 40;no 80;no 120;/, 'the suite runs');
unlike($plain, qr/syntax error|does not exist|PANIC|FATAL/, 'all of it');

$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=$limit");
$t->neon('endpoint', 'restart', 'main');

# ---- what the setting and the flood do ----

my $explain = 'EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) SELECT count(*) FROM pg_namespace;';
unlike($t->psql('main', "$explain\n\\echo again\n$explain") =~ s/.*^again$//msr, qr/Planning:/, 'a plan is made a second time without reading a catalog');
like($t->psql('main', "$on $explain\n\\echo again\n$explain") =~ s/.*^again$//msr, qr/Planning:\n\s+Buffers: shared/, 'with the setting it reads them again');
my $flood = $t->loop('main', "SELECT neon_test_utils.flood_invalidations(oid, 20000) FROM pg_class WHERE relkind IN ('r', 'i', 't') AND relname !~ 'filler' ORDER BY random() LIMIT 20");
my $resets = 0;
$t->wait_for('a reset', sub {
	my ($rc, $out, $err) = $t->psql_raw('main', 'SET client_min_messages = debug4; SELECT sum(i) FROM generate_series(1, 300000) i; SELECT count(*) FROM pg_class; SELECT count(*) FROM pg_proc');
	$resets += () = $err =~ /cache state reset/g;
	return $resets;
});
pass('sessions lose invalidations, and throw all away');

# ---- the suites ----

my $scan = $t->loop('main', 'SELECT count(*) FROM filler; SELECT pg_sleep(0.2)');
my $dropped = $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk');
for my $round (1 .. $rounds)
{
	NeonTest::dumps_equal(run_suite("flooded$round", ''), $plain, 'the same with floods of invalidations');
	NeonTest::dumps_equal(run_suite("both$round", $on), $plain, 'the same with caches thrown away, too');
}
$flood->stop;
NeonTest::dumps_equal(run_suite('discards', $on), $plain, 'the same with caches thrown away alone');
my $out = $t->tmp . '/regress';
mkdir $out;
$t->psql('main', 'CREATE DATABASE regression');
my ($rc, $stdout, $stderr) = $t->command(
	[
		$ENV{PG_REGRESS}, '--use-existing', '--dbname=regression', '--user=cloud_admin', '--host=127.0.0.1', '--port=' . $t->port('main'),
		"--inputdir=$top", "--outputdir=$out", '--dlpath=.', 'neon_test_utils'
	],
	timeout => 300, env => { PGOPTIONS => '-c neon_test_utils.discard_caches=on' });
is($rc, 0, 'the suite neon_test_utils') or diag(slurp_file("$out/regression.diffs"));
$scan->stop;
$dropped = $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk') - $dropped;
cmp_ok($dropped, '>', 40 * 1024 * 1024, 'more than the limit was dropped meanwhile');
note("$dropped bytes");
$t->amcheck('main');
unlike(join('', map { slurp_file($_) } glob "$t->{dir}/endpoints/main/log/*"), qr/PANIC|was terminated by signal|TRAP/, 'nothing crashed');
$t->neon('stop');
done_testing();
