# A compute with the libraries and the executor's ways that people use beside it:
# pg_stat_statements, auto_explain, pg_prewarm's worker, JIT, parallel query; over
# blocks that are not here yet, and while the catalogs are rewritten and every
# session's caches thrown away again and again.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $NeonTest::long ? 60 : 5;
my $rows = $NeonTest::long ? 500_000 : 60_000;
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
# blocks that are not here are wanted, so nothing brings them by itself
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'shared_preload_libraries=pg_stat_statements,auto_explain,pg_prewarm',
	'neon.prewarm_rate=0', 'shared_buffers=4MB');
$t->endpoint_start('main');
is($t->psql('main', 'SHOW shared_preload_libraries'), 'neon,pg_stat_statements,auto_explain,pg_prewarm', 'the libraries are loaded');
$t->psql('main', "CREATE EXTENSION neon; CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pg_prewarm;
CREATE TABLE big AS SELECT i, i % 100 AS g, (i::bigint * 7919 % 1000)::int AS v, repeat('p', 100) AS pad FROM generate_series(1, $rows) i;
CREATE INDEX ON big(v); ANALYZE big");
my $query = 'SELECT md5(string_agg(concat_ws(\',\', g, n, s, m), \';\' ORDER BY g)) FROM (SELECT g, count(*) n, sum(v * 2 + 1) s, max(length(pad)) m FROM big WHERE v % 3 <> 1 GROUP BY g) q';
my $plain = $t->psql('main', "SET max_parallel_workers_per_gather = 0; SET jit = off; $query");

# ---- JIT and parallel workers over absent blocks ----

my $ways = 'SET jit_above_cost = 0; SET jit_inline_above_cost = 0; SET jit_optimize_above_cost = 0; SET max_parallel_workers_per_gather = 3;
SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET enable_indexscan = off; SET enable_bitmapscan = off;';
$t->endpoint_stop('main');
$t->endpoint_start('main');
my $misses = $t->psql('main', 'SELECT misses FROM neon.stat_local');
is($t->psql('main', "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on; SET auto_explain.log_buffers = on; $ways $query"),
	$plain, 'a parallel query with JIT over blocks that are fetched');
cmp_ok($t->psql('main', 'SELECT misses FROM neon.stat_local'), '>', $misses, 'they were not here');
my $log = join '', map { slurp_file($_) } glob "$t->{dir}/endpoints/main/log/*";
like($log, qr/Workers Launched: [1-9]/, 'auto_explain tells of its workers');
like($log, qr/JIT:/, 'and of JIT');
like($log, qr/Buffers: shared .*read=[1-9]/, 'and of blocks that were read');
my ($calls, $read) = split /\|/, $t->psql('main', "SELECT sum(calls), sum(shared_blks_read) FROM pg_stat_statements WHERE query LIKE 'SELECT md5(string\\_agg%'");
is($calls, '1', 'pg_stat_statements has the query of this life');
cmp_ok($read, '>', 0, 'with the blocks that it read');
is($t->psql('main', "$ways SET enable_seqscan = off; SET enable_bitmapscan = on; SELECT count(*), sum(g) FROM big WHERE v BETWEEN 10 AND 20"),
	$t->psql('main', "SET max_parallel_workers_per_gather = 0; SET jit = off; SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(g) FROM big WHERE v BETWEEN 10 AND 20"),
	'a parallel bitmap scan');
$t->psql_fails('main', 'SELECT autoprewarm_start_worker()', qr/already running/, "another library's worker runs");
cmp_ok($t->psql('main', 'SELECT autoprewarm_dump_now()'), '>', 100, 'and sees the buffers');

# ---- caches thrown away all the time ----

my @loops = map { $t->loop('main', $_) } (
	'VACUUM FULL pg_class; VACUUM FULL pg_attribute; REINDEX TABLE pg_index; VACUUM FULL pg_proc;',
	'CREATE TABLE IF NOT EXISTS d(i int PRIMARY KEY, j int); ALTER TABLE d ADD COLUMN "c:n" int DEFAULT 5; INSERT INTO d(i, j) SELECT i, i FROM generate_series(1, 500) i ON CONFLICT (i) DO UPDATE SET j = d.j + 1;
ALTER TABLE d ALTER j TYPE bigint; TRUNCATE d; ANALYZE big; DROP TABLE d;',
	'DISCARD ALL; SELECT pg_reload_conf(); CREATE TEMP TABLE x AS SELECT * FROM big LIMIT 10; DISCARD TEMP; CREATE INDEX CONCURRENTLY ci ON big(g); DROP INDEX CONCURRENTLY ci;');
my ($rounds, $wrong) = (0, 0);
my $end = time + $seconds;
while (time < $end)
{
	for my $q ($query, "$ways $query", "PREPARE q(int) AS SELECT count(*) FROM big WHERE v = \$1; EXECUTE q(7); DISCARD PLANS; EXECUTE q(7); $query")
	{
		my ($rc, $out, $err) = $t->psql_raw('main', $q);
		# another session's VACUUM FULL of a catalog may be waited for too long, or deadlock
		next if $rc != 0 && $err =~ /deadlock detected/;
		$rounds++;
		$wrong++, diag("$rc $out $err") if $rc != 0 || $out !~ /\Q$plain\E$/;
	}
}
$_->stop for @loops;
cmp_ok($rounds, '>', 0, 'queries while catalogs and caches are made anew');
is($wrong, 0, 'each of them is right');
$t->amcheck('main', 'amcheck and verify_heapam');
$t->neon('stop');
done_testing();
