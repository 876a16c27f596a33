# A data directory of stock PostgreSQL that becomes a tenant brings along what is in
# no WAL: free space maps, so that updates use the space that is there, and
# cumulative statistics, as they were for the stock server after a restart.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(extra => [ '--data-checksums', '--no-sync' ]);
$source->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
$source->start;
$source->safe_psql('postgres', 'CREATE EXTENSION pg_freespacemap; CREATE DATABASE app');
my $fill = <<'SQL';
CREATE TABLE t(id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
INSERT INTO t SELECT i, repeat('a', i % 700) FROM generate_series(1, 20000) i;
DELETE FROM t WHERE id % 3 <> 0;
VACUUM (FREEZE, ANALYZE) t;
VACUUM pg_attribute;
SQL
$source->safe_psql('postgres', $fill);
$source->safe_psql('app', "CREATE EXTENSION pg_freespacemap;\n$fill");
$source->restart;

my @tables = qw(t t_pkey pg_attribute);
my $numbers = "SELECT n_tup_ins, n_tup_del, n_live_tup, n_dead_tup, vacuum_count, last_vacuum AT TIME ZONE 'UTC', last_analyze AT TIME ZONE 'UTC' FROM pg_stat_user_tables WHERE relname = 't'";
sub free_space { return "SELECT count(*) FILTER (WHERE avail > 0), md5(string_agg(avail::text, ',' ORDER BY blkno)) FROM pg_freespace('$_[0]')" }
my %want;
for my $db ('postgres', 'app')
{
	$want{$db}{$_} = $source->safe_psql($db, free_space($_)) for @tables;
	$want{$db}{numbers} = $source->safe_psql($db, $numbers);
}
like($want{app}{t}, qr/^\d\d\d+\|/, 'the stock server has a map of free space after a restart');
like($want{app}{numbers}, qr/^20000\|13334\|.*\|1\|2/, 'and numbers');
$source->stop;

my $t = NeonTest->new;
$t->init;
$t->neon('start');
$t->neon('tenant', 'create', '--pgdata', $source->data_dir, '--set-default');
$t->endpoint_start('main');
for my $db ('postgres', 'app')
{
	is($t->psql('main', free_space($_), db => $db), $want{$db}{$_}, "$db: the free space of $_ came along") for @tables;
	is($t->psql('main', $numbers, db => $db), $want{$db}{numbers}, "$db: and the numbers of a table");
}

# the same work there and here
$source->start;
my $work = "INSERT INTO t SELECT i, repeat('b', 300) FROM generate_series(100001, 105000) i";
my $size = $source->safe_psql('app', "$work; SELECT pg_relation_size('t')");
$source->stop('immediate');
my $before = $t->psql('main', "SELECT pg_relation_size('t')", db => 'app');
$t->psql('main', $work, db => 'app');
my $ours = $t->psql('main', "SELECT pg_relation_size('t')", db => 'app');
cmp_ok($ours, '<=', $size * 1.02, "new rows go where space is: $ours bytes, with the stock server $size");
is($ours, $before, 'the table does not grow');

$t->endpoint_stop('main');
$t->endpoint_start('main');
is($t->psql('main', "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 't'", db => 'app'), '25000', 'the next life goes on from there');
$t->neon('timeline', 'branch', '--branch-name', 'b');
$t->endpoint_start('b', branch => 'b');
is($t->psql('b', free_space('t')), $want{postgres}{t}, 'a branch has the free space maps, too');
unlike(join('', map { slurp_file($_) } glob "$t->{dir}/endpoints/*/log/*"), qr/saved .* not used/, 'no log tells of damage');
$t->neon('stop');
done_testing();
