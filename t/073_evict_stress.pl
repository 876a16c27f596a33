# Local disk space with a limit, with TPC-B, index builds, rewrites, truncation
# and databases at the same time, with pauses that leave something to other tests.
use strict;
use warnings;
use IPC::Run;
use NeonTest;
use Test::More;

my ($seconds, $rate, $pause) = $NeonTest::long ? (600, 30, 3) : (60, 60, 0.5);
my $t = NeonTest->new;
$t->quickstart;
$t->pgbench_init('main', 5);
$t->psql('main', "CREATE TABLE whole AS SELECT i AS id, repeat('w', 700) AS pad FROM generate_series(1, 20000) i; VACUUM ANALYZE; CREATE TABLE rounds(loop int); CREATE EXTENSION neon; CREATE EXTENSION pg_visibility");
$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=40MB', 'shared_buffers=2MB', 'autovacuum_naptime=1s', 'bgwriter_delay=10ms', 'checkpoint_timeout=30s');
$t->neon('endpoint', 'restart', 'main');

my $out = '';
my $run = do {
	local %ENV = (%ENV, $t->env);
	IPC::Run::start([ 'pgbench', '-n', '-c', '3', '-R', $rate, '-T', $seconds, $t->connstr('main') ], '>&', \$out, IPC::Run::timeout($seconds + 150));
};
my @loops = (
	$t->loop('main', <<"SQL"),
DROP TABLE IF EXISTS m;
CREATE TABLE m AS SELECT id, pad, to_tsvector('simple', id::text) v, point(id, id % 7) p FROM whole LIMIT 3000;
CREATE INDEX m_id ON m (id);
CREATE INDEX m_v ON m USING gin (v);
CREATE INDEX m_p ON m USING gist (p);
CREATE INDEX m_s ON m USING spgist (p);
CREATE INDEX CONCURRENTLY m_b ON m USING gist (p) WITH (buffering = on);
REINDEX INDEX CONCURRENTLY m_id;
UPDATE m SET pad = pad WHERE id % 3 = 0;
VACUUM FULL m;
DELETE FROM m WHERE id > 1500;
VACUUM (TRUNCATE) m;
INSERT INTO m SELECT id, pad, to_tsvector('simple', 'x'), point(1, 1) FROM whole LIMIT 500;
TRUNCATE m;
INSERT INTO rounds VALUES (1);
SELECT pg_sleep(2 * $pause);
SQL
	$t->loop('main', "DROP DATABASE IF EXISTS dd; CREATE DATABASE dd; INSERT INTO rounds VALUES (2); SELECT pg_sleep($pause);"),
	$t->loop('main', "SELECT sum(length(pad)) FROM whole; INSERT INTO rounds VALUES (3); SELECT pg_sleep($pause);"));
$run->finish;
$_->stop for @loops;
like($out, qr/failed transactions: 0 /, 'no transaction failed') or diag($out);
unlike($_->errors, qr/ERROR|PANIC|FATAL|zero page|invalid|unexpected|server closed/, 'nor a statement of what ran beside it') for @loops;
cmp_ok($t->psql('main', "SELECT count(*) FROM rounds WHERE loop = $_"), '>=', $NeonTest::long ? 20 : 2, "which went round, loop $_") for 1 .. 3;
note($t->psql('main', 'SELECT * FROM neon.local_disk', args => ['-x']));
cmp_ok($t->psql('main', 'SELECT evicted_chunks FROM neon.local_disk'), '>', 50, 'chunks were dropped');
cmp_ok($t->psql('main', 'SELECT evicted_bytes / limit_bytes FROM neon.local_disk'), '>=', 10, 'and ten times the limit');
$t->balances_agree('main');
$t->amcheck('main');
is($t->psql('main', 'SELECT count(*), sum(length(pad)) FROM whole'), '20000|14000000', 'a table that was only read');
is($t->psql('main', <<'SQL'), '0', 'visibility maps are true');
SELECT sum((SELECT count(*) FROM pg_check_visible(c.oid)) + (SELECT count(*) FROM pg_check_frozen(c.oid)))
  FROM pg_class c WHERE relkind IN ('r', 't') AND relpersistence = 'p'
SQL
$t->neon('stop');
done_testing();
