# The overlay over a local reference directory: sizes, reading, writing,
# truncation, re-creation, several segments, hydration.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use NeonOverlay;
use NeonTest;
use File::Basename;

plan skip_all => 'needs the TESTING build' unless NeonOverlay::available();

my $ref = PostgreSQL::Test::Cluster->new('reference');
$ref->init;
$ref->append_conf('postgresql.conf', "fsync = off\nmax_prepared_transactions = 5\n");
$ref->start;

# ------------------------------------------------------ the reference --

$ref->safe_psql('postgres', <<'SQL');
CREATE TABLE plain (id int PRIMARY KEY, t text);
INSERT INTO plain SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 50000) i;
CREATE TABLE cut (id int, pad text);
INSERT INTO cut SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i;
CREATE TABLE gone AS SELECT i FROM generate_series(1, 10000) i;
CREATE UNLOGGED TABLE unlogged (i int PRIMARY KEY);
INSERT INTO unlogged SELECT i FROM generate_series(1, 1000) i;
CREATE TABLE empty (i int);
CREATE TABLE big (id int, t text);
INSERT INTO big SELECT i, 'row ' || i FROM generate_series(1, 1000) i;
CREATE TABLE stays AS SELECT * FROM plain;
CREATE TABLE bitmap AS SELECT i AS id, (i * 7919) % 100003 AS k, repeat('b', 200) AS pad FROM generate_series(1, 60000) i;
CREATE INDEX bitmap_k ON bitmap (k);
VACUUM (FREEZE, ANALYZE);
SELECT pg_sequence_last_value(oid) FROM pg_class WHERE relkind = 'S';
CREATE DATABASE second;
SQL
my $sums = q{SELECT count(*), sum(hashtext(p::text)::int8) FROM plain p};
my $expected = $ref->safe_psql('postgres', $sums);
my $sizes =
  q{SELECT relname, pg_relation_size(oid), pg_relation_size(oid, 'vm') FROM pg_class
    WHERE relkind IN ('r', 'i', 't', 'S', 'm') AND relpersistence = 'p' ORDER BY relname};
my $expected_sizes = $ref->safe_psql('postgres', $sizes);
my $in_range = q{SELECT count(*), min(length(pad)) FROM bitmap WHERE k BETWEEN 1000 AND 3000};
my $expected_in_range = $ref->safe_psql('postgres', $in_range);
my $big = $ref->safe_psql('postgres', q{SELECT pg_relation_filepath('big')});
my $plain = $ref->safe_psql('postgres', q{SELECT pg_relation_filepath('plain')});
$ref->stop;

# A second segment: the first one is a gigabyte with holes, and its own blocks
# appear again at the start of the second.
my $big_file = $ref->data_dir . "/$big";
my $blocks = (-s $big_file) / 8192;
my $segment = 131072;
NeonOverlay::copy($big_file, "$big_file.1") or die "$big_file.1: $!";
truncate($big_file, $segment * 8192) or die "$big_file: $!";
command_ok([ 'pg_checksums', '--enable', '-D', $ref->data_dir ], 'checksums of all pages');

# -------------------------------------------------------- the compute --

my $node = NeonOverlay->boot($ref, 'compute',
	conf => "shared_buffers = 1MB\nautovacuum = off\n");

my $s = NeonOverlay::stats($node);
cmp_ok($s->{fetched_bytes}, '<', 5 * 1024 * 1024, 'the first queries move less than 5 MB');
cmp_ok($s->{misses}, '>', 0, 'and there were misses');
$expected_sizes =~ s/^big\|\d+\|/'big|' . ($segment + $blocks) * 8192 . '|'/me;
ok(!-e $node->data_dir . "/$plain", 'relation files do not exist before they are needed');
is($node->safe_psql('postgres', $sizes), $expected_sizes, 'pg_relation_size is true for everything');
is((stat($node->data_dir . "/$plain"))[12], 0, 'then they are there, and are holes');

is($node->safe_psql('postgres', $sums), $expected, 'sequential scan');
my $before = NeonOverlay::stats($node);
is($node->safe_psql('postgres', $sums), $expected, 'again');
my $after = NeonOverlay::stats($node);
is($after->{fetched_pages}, $before->{fetched_pages}, 'the second scan fetches nothing');
cmp_ok($after->{hits}, '>', $before->{hits}, 'and reads from local files');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT t = repeat(md5($$777$$), 5) FROM plain WHERE id = 777'),
	't', 'index scan');

is($node->safe_psql('postgres',
		"SET enable_seqscan = off; SET enable_indexscan = off; SET effective_io_concurrency = 10; $in_range"),
	$expected_in_range, 'bitmap scan with prefetching');

# Sequential misses become few requests.
my $pages = $node->safe_psql('postgres', q{SELECT pg_relation_size('stays') / 8192});
$before = NeonOverlay::stats($node);
$node->safe_psql('postgres', 'SELECT count(*) FROM stays');
$after = NeonOverlay::stats($node);
cmp_ok($after->{misses} - $before->{misses}, '<', 20 + $pages / 100, "few misses in a scan of $pages blocks");

# -------------------------------------------------------- segments --

is($node->safe_psql('postgres', "SELECT t FROM big WHERE ctid = '(0,1)'"), 'row 1', 'first segment');
is($node->safe_psql('postgres', "SELECT t FROM big WHERE ctid = '($segment,5)'"), 'row 5', 'second segment');
$node->safe_psql('postgres', q{INSERT INTO big SELECT i, repeat('new', 100) FROM generate_series(1, 3000) i});
is($node->safe_psql('postgres',
		"SELECT count(*) FROM big WHERE ctid = ANY (ARRAY(SELECT format('(%s,%s)', b, o)::tid FROM generate_series($segment + $blocks - 1, $segment + $blocks + 200) b, generate_series(1, 290) o)) AND t LIKE 'new%'"),
	'3000', 'growing in the second segment');
$node->safe_psql('postgres', 'TRUNCATE big');
is($node->safe_psql('postgres', q{SELECT pg_relation_size('big')}), '0', 'truncated');

# ------------------------------------------------ writing over holes --

# Cut the end off and grow again: what was cut never comes back.
$node->safe_psql('postgres', 'DELETE FROM cut WHERE id > 1000');
$node->safe_psql('postgres', 'VACUUM (TRUNCATE) cut');
cmp_ok($node->safe_psql('postgres', q{SELECT pg_relation_size('cut')}), '<', 1024 * 1024, 'VACUUM truncated');
$node->safe_psql('postgres', q{INSERT INTO cut SELECT -i, repeat('y', 500) FROM generate_series(1, 20000) i});
is($node->safe_psql('postgres', 'SELECT count(*), sum(id) FROM cut'), '21000|-199509500', 'and it grew again');

$node->safe_psql('postgres', 'UPDATE plain SET t = upper(t) WHERE id % 3 = 0');
$node->safe_psql('postgres', 'CHECKPOINT');
is($node->safe_psql('postgres', 'SELECT count(*) FROM plain WHERE t = upper(repeat(md5(id::text), 5)) AND id % 3 = 0'),
	'16666', 'updates are read back');

$node->safe_psql('postgres', 'DROP TABLE gone');
$node->safe_psql('postgres', 'TRUNCATE stays; INSERT INTO stays SELECT * FROM plain');
is($node->safe_psql('postgres', 'SELECT count(*) FROM stays'), '50000', 'after TRUNCATE');
is($node->safe_psql('postgres', 'SELECT count(*) FROM unlogged'), '0', 'an unlogged table is empty after boot');
$node->safe_psql('postgres', 'INSERT INTO unlogged SELECT i FROM generate_series(1, 100) i; CREATE TEMP TABLE x AS SELECT * FROM unlogged');

# ------------------------------------------------ other databases --

is($node->safe_psql('second', 'SELECT count(*) > 300 FROM pg_class'), 't', 'second database');
$node->safe_psql('postgres', 'CREATE DATABASE third TEMPLATE second');
is($node->safe_psql('third', 'SELECT count(*) > 300 FROM pg_class'), 't', 'a copy of it');
$node->safe_psql('postgres', 'DROP DATABASE second');
my $oid = $node->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'third'});

# -------------------------------------------------------- hydration --

$before = NeonOverlay::stats($node);
my $fetched = $node->safe_psql('postgres', q{SELECT test_hydrate('bitmap')});
cmp_ok($fetched, '>', 0, 'hydrate of a relation');
is($node->safe_psql('postgres', q{SELECT test_hydrate('bitmap')}), '0', 'twice fetches nothing');
cmp_ok($node->safe_psql('postgres', 'SELECT test_hydrate()'), '>', 0, 'hydrate of everything');
is($node->safe_psql('postgres', 'SELECT test_hydrate()'), '0', 'twice fetches nothing');
$after = NeonOverlay::stats($node);
cmp_ok($after->{present_bytes}, '>', $before->{present_bytes}, 'present_bytes grew');
is($after->{evicted_chunks}, '0', 'nothing is evicted');

# All that is here is a normal data directory after a clean stop.
$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');
my $check = q{SELECT count(bt_index_check(c.oid, i.indisunique)) > 80 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relpersistence = 'p'};
is($node->safe_psql('postgres', $check), 't', 'amcheck');
$node->stop;
my $content = slurp_file($node->data_dir . '/postgresql.conf');
$content =~ s/^(shared_preload_libraries|neon\.|dynamic_library)/#$1/mg;
NeonOverlay::write_file($node->data_dir . '/postgresql.conf', $content);
rename $ref->data_dir, $ref->data_dir . '.away' or die $!;
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM plain'), '50000', 'hydrated and stopped: an ordinary data directory');
is($node->safe_psql('postgres', $check), 't', 'amcheck by a server without the library');
$node->stop;
rename $ref->data_dir . '.away', $ref->data_dir or die $!;

# ------------------------------------------- files made by the worker --

for my $case ([ 'few', 0, 'files are created when they are needed' ],
	[ 'round', 1, 'but all at the start where the OID counter may meet their numbers' ])
{
	my ($name, $oid, $what) = @$case;
	local $ENV{NEON_TEST_FILES_EAGER} = 0;
	my $node = NeonOverlay->boot($ref, $name, no_start => 1);
	NeonOverlay::set_next_oid($node->data_dir, $oid) if $oid;
	$node->start;
	my $n = NeonOverlay::relation_files($node, 1);
	ok($oid ? $n > 200 : $n < 50, $what) or diag("$n files");
	is(!NeonOverlay::creator_runs($node), !!$oid, $oid ? 'then the file creator has ended' : 'the file creator waits');
	# a drop asks for the file after its commit, when nothing may fail any more
	$node->safe_psql('postgres', "BEGIN; DROP TABLE stays; PREPARE TRANSACTION 'drop'");
	my $dir = $node->data_dir . '/' . dirname($plain);
	chmod 0500, $dir or die "$dir: $!";
	is($node->psql('postgres', "COMMIT PREPARED 'drop'"), 0, 'a table is dropped where no file can be created');
	is($node->safe_psql('postgres', 'SELECT 1'), '1', 'and the server goes on');
	chmod 0700, $dir or die "$dir: $!";
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_ls_dir('base/1') f WHERE f ~ '^[0-9]+(_vm)?\$'"),
		NeonOverlay::relation_files($ref, 1), 'who lists files sees all');
	$node->stop;
}
{
	my $lazy = NeonOverlay->boot($ref, 'lazy', conf => "autovacuum_naptime = 1s\n");
	is($lazy->safe_psql('postgres', $sizes), $expected_sizes, 'sizes are true at the first query');
	is($lazy->safe_psql('postgres', 'SELECT sum(pg_database_size(oid)) > 1000000000 FROM pg_database'), 't', 'those of databases too');
	$lazy->safe_psql('postgres', 'DROP DATABASE second');
	is($lazy->safe_psql('postgres', $sums), $expected, 'and so is the data');
	is($lazy->safe_psql('postgres', "SELECT t FROM big WHERE ctid = '($segment,5)'"), 'row 5', 'and the second segment');
	NeonTest->wait_for('the end of the file creator', sub { !NeonOverlay::creator_runs($lazy) });
	pass('the file creator ends');
	$lazy->stop;
}

# ------------------------------------------------- damaged size lists --

my $broken = 0;
for my $case (
	[ 'checksum', sub { my $b = $_[0]; substr($b, 30, 1) ^= "\1"; $b } ],
	[ 'short', sub { substr($_[0], 0, -20) } ],
	[ 'empty', sub { '' } ],
	[ 'magic', sub { 'NRS2' . substr($_[0], 4) } ],
	[ 'order', sub {
			my $b = $_[0];
			my $entries = substr($b, 44, 20) . substr($b, 24, 20) . substr($b, 64);
			substr($b, 0, 20) . pack('V', NeonOverlay::crc32c($entries)) . $entries;
		} ],
	[ 'lsn', sub { my $b = $_[0]; substr($b, 8, 1) ^= "\1"; $b } ])
{
	my ($name, $change) = @$case;
	my $bad = NeonOverlay->boot($ref, "bad$broken", relsizes => $change, no_start => 1);
	$broken++;
	ok(!$bad->start(fail_ok => 1), "neon.relsizes with wrong $name: refused");
	like(slurp_file($bad->logfile), qr/FATAL:  file "neon.relsizes" is not valid/, "$name: and said so");
	ok(!-e $bad->data_dir . '/neon.map', "$name: no map is made");
}

done_testing();
