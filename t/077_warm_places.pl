# What is kept over a stop where files are in tablespaces, were moved, dropped
# and made again, cut and grown again, by this compute or by another, and where
# they are taken over one by one while clients already work.
use strict;
use warnings;
use NeonTest;
use NeonWarm;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR};
my $rows = $NeonTest::long ? 20000 : 6000;
my $t = NeonTest->new;
$t->quickstart(tenant => ['--data-checksums'], no_endpoint => 1);
for my $name ('main', 'main2')
{
	$t->neon('endpoint', 'create', $name, '--branch-name', 'main', '--port', $t->{ports}{$name} = $t->free_port);
	$t->neon('endpoint', 'config', $name, 'autovacuum=off', 'neon.prewarm_rate=0', 'shared_buffers=2MB', 'allow_in_place_tablespaces=on');
}
$t->endpoint_start('main');
$t->psql('pageserver', 'CREATE EXTENSION neon_test_utils');
$t->psql('main', q{CREATE TABLESPACE ts LOCATION ''});
warm_extensions($t, 'main');
$t->psql('main', <<"SQL");
CREATE TABLE t(id int PRIMARY KEY, v text);
INSERT INTO t SELECT g, repeat(md5(g::text), 5) FROM generate_series(1, $rows) g;
CREATE TABLE shrinks AS SELECT * FROM t;
VACUUM (FREEZE, ANALYZE);
SQL
my @dbs = qw(postgres moved again);
$t->psql('main', "CREATE DATABASE $_ TEMPLATE postgres", db => 'template1') for @dbs[ 1, 2 ];
$t->psql('main', 'CREATE TABLE in_ts TABLESPACE ts AS SELECT * FROM t; CREATE INDEX in_ts_v ON in_ts(v) TABLESPACE ts; CREATE EXTENSION amcheck; VACUUM in_ts');

sub sums
{
	my ($name) = @_;
	return join "\n", map {
		$t->psql($name, <<'SQL', db => $_)
SELECT current_database(), c.relname, (xpath('/row/s/text()', query_to_xml(format('SELECT count(*) || ''/'' || coalesce(sum(hashtext(x::text)::int8), 0) AS s FROM %s x', c.oid::regclass), false, true, '')))[1]
  FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY 2
SQL
	} @dbs;
}
my $sums = sums('main');

# What every start here has to show.
sub right
{
	my ($name) = @_;
	is(warm($t, 'kept_bytes > 0 AND reason IS NULL'), 't', "$name: something is kept");
	# where a database is copied, PostgreSQL 15 does not log the bits of visibility maps
	pages_agree($t, "$name, $_", $NeonTest::long ? 3000 : 500, db => $_, vm => $_ eq 'postgres') for @dbs;
	is(sums('main'), $sums, "$name: the data are right");
	is($t->psql('main', 'SET enable_seqscan = off; SELECT count(*) FROM shrinks WHERE id > 0', db => $_), $t->psql('main', 'SELECT count(v) FROM shrinks', db => $_),
		"$name: visibility maps, too") for @dbs;
	return;
}

# moved, dropped and made again, cut and grown again
sub upset
{
	my ($name) = @_;
	my $oid = $t->psql($name, q{SELECT oid FROM pg_database WHERE datname = 'again'});
	my $half = $rows / 2;
	$t->psql($name, $_) for 'ALTER DATABASE moved SET TABLESPACE ts', 'DROP DATABASE again', "CREATE DATABASE again OID $oid TEMPLATE moved TABLESPACE pg_default";
	$t->psql($name, 'UPDATE t SET v = initcap(v) WHERE id % 3 = 0; CREATE TABLE IF NOT EXISTS other(a int)', db => 'again');
	$t->psql($name, 'UPDATE t SET v = upper(v) WHERE id % 2 = 0', db => 'moved');
	$t->psql($name, 'ALTER DATABASE moved SET TABLESPACE pg_default');
	$t->psql($name, 'ALTER TABLE in_ts SET TABLESPACE pg_default; UPDATE in_ts SET v = reverse(v) WHERE id % 100 = 0; ALTER TABLE in_ts SET TABLESPACE ts; CREATE INDEX ON in_ts(id)');
	for my $db (@dbs)
	{
		# the visibility map keeps its one page
		$t->psql($name, "DELETE FROM shrinks WHERE id > $half", db => $db);
		$t->psql($name, 'VACUUM (TRUNCATE) shrinks', db => $db);
		$t->psql($name, "INSERT INTO shrinks SELECT g, 'grown' || repeat(md5(g::text), 5) FROM generate_series($half + 1, $rows) g; DELETE FROM shrinks WHERE id % 7 = 3", db => $db);
	}
	$sums = sums($name);
	return;
}

sub again
{
	my ($what) = @_;
	$t->endpoint_stop('main');
	$t->endpoint_start('main');
	right($what);
	return;
}

if ($NeonTest::long)
{
	again('after a restart');
	is(present($t, $_), 100, "$_ in a tablespace is here") for qw(in_ts in_ts_v);
}
upset('main');
again('after this compute upset it');
$t->endpoint_stop('main');
$t->endpoint_start('main2');
upset('main2');
$t->endpoint_stop('main2');
{
	# files are taken over one by one
	local $ENV{NEON_TEST_FILES_EAGER} = 10;
	break_rule($t, 'main', '') if $lib;
	$t->endpoint_start('main');
	is(sums('main'), $sums, 'after another compute upset it, while files are taken over, the data are right');
	right('when they are');
	cmp_ok(warm($t, 'dropped_bytes'), '>', $rows * 150, 'much of it was not kept');
	# stopped before all are
	for (1 .. ($NeonTest::long ? 4 : 1))
	{
		$t->neon('endpoint', 'restart', 'main');
		is(sums('main'), $sums, 'stopped while they are, and started again');
	}
	right('after that');
	cmp_ok(present($t, 'in_ts'), '>=', 95, 'and what was read is here');
}
$t->amcheck('main');
$t->neon('stop');
done_testing();
