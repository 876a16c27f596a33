# Hydration, writes, truncation, DDL and databases at the same time, with
# random pauses between the receipt of pages and their installation.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use NeonOverlay;

plan skip_all => 'needs the TESTING build' unless NeonOverlay::available();

my $seconds = $ENV{NEON_TEST_LONG} ? 60 : 12;

my $ref = PostgreSQL::Test::Cluster->new('reference');
$ref->init;
$ref->append_conf('postgresql.conf', "fsync = off\n");
$ref->start;
$ref->command_ok([ 'pgbench', '-i', '-q', '-s', '3', 'postgres' ], 'pgbench -i');
$ref->safe_psql('postgres', <<'SQL');
CREATE TABLE churn (id int, pad text);
INSERT INTO churn SELECT i, repeat('c', 300) FROM generate_series(1, 20000) i;
CREATE INDEX churn_id ON churn (id);
CREATE TABLE words (id serial PRIMARY KEY, v tsvector, p point, h text);
INSERT INTO words (v, p, h) SELECT to_tsvector('simple', i || ' ' || i % 97), point(i, i % 31), md5(i::text) FROM generate_series(1, 8000) i;
CREATE INDEX ON words USING gin (v);
CREATE INDEX ON words USING gist (p);
CREATE INDEX ON words USING hash (h);
CREATE INDEX ON words USING spgist (h);
CREATE INDEX ON words USING brin (id);
CREATE DATABASE template_db;
CREATE TABLE whole AS SELECT i AS id, repeat('w', 700) AS pad FROM generate_series(1, 30000) i;
VACUUM (FREEZE, ANALYZE);
SQL
$ref->stop;

my $node = NeonOverlay->boot($ref, 'compute', conf => <<CONF);
shared_buffers = 1MB
neon.test_install_delay = 2000
max_connections = 40
checkpoint_timeout = 30s
autovacuum_naptime = 1s
bgwriter_delay = 10ms
min_parallel_table_scan_size = 0
CONF

sub background
{
	my ($script, @pgbench) = @_;
	my $file = $node->basedir . '/' . $script->{name} . '.sql';
	NeonOverlay::write_file($file, $script->{sql});
	my %run = (name => $script->{name}, out => '');
	$run{handle} = IPC::Run::start(
		[ 'pgbench', '-n', '-f', $file, '-T', $seconds, @pgbench, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>&', \$run{out}, IPC::Run::timeout($seconds + 120));
	return \%run;
}

my @jobs = (
	background({ name => 'tpcb', sql => <<'SQL' }, '-c', '4'),
\set aid random(1, 300000)
\set tid random(1, 30)
\set bid random(1, 3)
\set d random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :d WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :d WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :d WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :d, CURRENT_TIMESTAMP);
END;
SQL
	background({ name => 'churn', sql => <<'SQL' }, '-c', '2', '--max-tries=1000'),
\set from random(1, 20000)
DELETE FROM churn WHERE id BETWEEN :from AND :from + 200;
INSERT INTO churn SELECT :from, repeat('d', 300) FROM generate_series(1, 50);
SQL
	background({ name => 'cut', sql => <<'SQL' }, '-c', '1'),
DELETE FROM churn WHERE ctid >= '(100,0)';
VACUUM (TRUNCATE) churn;
INSERT INTO churn SELECT i, repeat('e', 300) FROM generate_series(1, 3000) i;
SQL
	background({ name => 'words', sql => <<'SQL' }, '-c', '2', '--max-tries=1000'),
\set id random(1, 8000)
UPDATE words SET v = to_tsvector('simple', :id || ' x'), p = point(:id, 5), h = md5(h) WHERE id = :id;
SELECT count(*) FROM words WHERE v @@ to_tsquery('simple', ':id');
SQL
	background({ name => 'scan', sql => <<'SQL' }, '-c', '2', '-R', '5'),
SET max_parallel_workers_per_gather = 2;
SELECT count(*), sum(length(pad)) FROM whole;
SELECT sum(abalance) FROM pgbench_accounts;
SQL
	background({ name => 'ddl', sql => <<'SQL' }, '-c', '1', '-R', '2'),
DROP TABLE IF EXISTS made;
CREATE TABLE made AS SELECT * FROM words;
CREATE INDEX ON made (id);
REINDEX INDEX churn_id;
CREATE UNLOGGED TABLE IF NOT EXISTS fast AS SELECT 1 AS i;
SELECT pg_relation_size('made');
SQL
	background({ name => 'databases', sql => <<'SQL' }, '-c', '1', '-R', '1'),
DROP DATABASE IF EXISTS copied;
CREATE DATABASE copied TEMPLATE template_db;
SQL
);

for my $job (@jobs)
{
	$job->{handle}->finish;
	my $out = $job->{out};
	cmp_ok($out =~ /transactions actually processed: (\d+)/ ? $1 : 0, '>', 1, "$job->{name}: did work")
	  or diag($out);
	unlike($out, qr/aborted|zero page|could not|invalid|PANIC|FATAL|unexpected|corrupt/, "$job->{name}: no error of the storage")
	  or diag($out);
}

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|zero page|invalid page|corrupt|terminated by signal/, 'nothing bad in the log');

is($node->safe_psql('postgres', <<'SQL'), '1', 'the four sums agree');
SELECT count(DISTINCT s) FROM (SELECT sum(abalance) s FROM pgbench_accounts UNION ALL
 SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT sum(bbalance) FROM pgbench_branches UNION ALL
 SELECT sum(delta) FROM pgbench_history) x
SQL
is($node->safe_psql('postgres', 'SELECT count(*), sum(length(pad)) FROM whole'), '30000|21000000', 'a table that was only read');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM churn WHERE id > 0'),
	$node->safe_psql('postgres', 'SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SELECT count(*) FROM churn WHERE id > 0'),
	'index and table agree');
$node->safe_psql('postgres', 'CREATE EXTENSION amcheck; CREATE EXTENSION pg_visibility');
is($node->safe_psql('postgres', <<'SQL'), 't', 'btree indexes match their tables');
SELECT count(bt_index_parent_check(c.oid, true)) > 50 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'
SQL
is($node->safe_psql('postgres', <<'SQL'), '0', 'heaps are sound');
SELECT count(*) FROM pg_class c, LATERAL verify_heapam(c.oid) WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'
SQL
is($node->safe_psql('postgres', <<'SQL'), '0', 'visibility maps are true');
SELECT count(*) FROM pg_class c, LATERAL pg_check_visible(c.oid) WHERE c.relkind IN ('r', 't') AND c.relpersistence = 'p'
SQL
my $s = NeonOverlay::stats($node);
cmp_ok($s->{misses}, '>', 100, "there was something to fetch: $s->{misses} misses, $s->{fetched_pages} pages");
$node->stop;

done_testing();
