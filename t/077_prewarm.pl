# What was in use when a compute was stopped is fetched in the background after
# its next start, and nothing else is.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart;
$t->cold;
$t->psql('main', q{CREATE EXTENSION neon;
CREATE TABLE hot AS SELECT i AS id, repeat('h', 900) AS pad FROM generate_series(1, 20000) i;
CREATE TABLE cold AS SELECT i AS id, repeat('c', 900) AS pad FROM generate_series(1, 20000) i;
CREATE INDEX hot_id ON hot (id);
CREATE INDEX cold_id ON cold (id);
VACUUM (FREEZE, ANALYZE)});

sub present
{
	my ($relation, $what) = @_;
	return $t->psql('main', sprintf('SELECT %s FROM neon.local_relations WHERE relation::text = %s', $what // 'present_percent::int', "'$relation'"));
}

sub restart
{
	my (@settings) = @_;
	$t->endpoint_stop('main');
	$t->neon('endpoint', 'config', 'main', @settings) if @settings;
	$t->endpoint_start('main');
	return;
}

# All that is listed by now is asked for, and none of it on its way any more.
sub wait_until_warm
{
	return $t->poll('main', q{SELECT count(*) = 0 FROM neon.hydration_progress}) if !@_;
	return $t->poll('main', "SELECT present_percent >= $_[1] FROM neon.local_relations WHERE relation::text = '$_[0]'");
}

# A life that uses one of them, and of its index a part.
restart('neon.prewarm_rate=0');
is(present('hot'), '0', 'nothing of a table is here after a start without prewarming');
$t->psql('main', 'SELECT count(*), sum(length(pad)) FROM hot');
$t->psql('main', 'SET enable_seqscan = off; SELECT count(*) FROM hot WHERE id BETWEEN 1 AND 4000');
my $part = present('hot_id', 'present_bytes');

# The next life.
restart('neon.prewarm_rate=1GB');
ok(wait_until_warm('hot', 99), 'the next life fetches it, read by nobody');
ok(wait_until_warm('hot_id', 1), 'and of its index');
ok(wait_until_warm(), 'and comes to an end');
cmp_ok(present('hot_id', 'present_bytes'), '<', $part * 1.5, 'what was used');
cmp_ok(present('cold'), '<', 5, 'but not what was not in use');
my $misses = $t->psql('main', 'SELECT misses FROM neon.stat_local');
is($t->psql('main', 'SELECT count(*), sum(id), sum(length(pad)) FROM hot'), '20000|200010000|18000000', 'it is right');
cmp_ok($t->psql('main', 'SELECT misses FROM neon.stat_local') - $misses, '<', 40, 'and read from here');
like($t->neon('endpoint', 'logs', 'main'), qr/LOG:  of \d+ absent blocks that were in use before, \d+ were fetched in the background/, 'the log tells');

# What no longer exists, or is another relation, does no harm.
$t->psql('main', 'DROP TABLE cold; TRUNCATE hot; INSERT INTO hot SELECT i, repeat(chr(97 + i % 26), 900) FROM generate_series(1, 3000) i');
$t->psql('main', 'SELECT count(*) FROM hot');
$t->endpoint_stop('main', '-m', 'immediate');
$t->endpoint_start('main');
ok(wait_until_warm(), 'after a stop that saved nothing the list is the one before');
is($t->psql('main', 'SELECT count(*), sum(id), sum(length(pad)) FROM hot'), '3000|4501500|2700000', 'and the data are those of now');

# A branch begins with what its ancestor used.
restart();
$t->psql('main', 'SELECT count(*) FROM hot');
restart();
$t->neon('timeline', 'branch', '--branch-name', 'twig');
$t->endpoint_start('twig', branch => 'twig');
ok($t->poll('twig', q{SELECT present_percent >= 99 FROM neon.local_relations WHERE relation::text = 'hot'}), 'a branch begins with what its ancestor used');

# Who looks for what is wrong while the pageserver is away can log in, and read what tells, in databases that were in use.
$t->psql('main', 'CREATE DATABASE app');
$t->psql('main', 'CREATE EXTENSION neon; CREATE TABLE a AS SELECT 1 AS i; CREATE ROLE dba LOGIN IN ROLE pg_monitor', db => 'app');
sub catalog_lines { return scalar(() = $t->neon('endpoint', 'logs', 'main') =~ /LOG:  of \d+ absent blocks of system catalogs, \d+ were fetched/g) }
my $lines = catalog_lines();
restart('neon.prewarm_rate=50MB', 'neon.fetch_timeout=1s', 'autovacuum=off');
$t->wait_for('the catalogs', sub { catalog_lines() > $lines });
$t->neon('pageserver', 'stop', '-m', 'immediate');
for my $db ('postgres', 'app')
{
	my ($rc, $rows, $err) = $t->psql_raw('main', q{SELECT format('SELECT %L, count(*) >= 0 FROM %I.%I', viewname, schemaname, viewname) FROM pg_views
		WHERE (schemaname = 'neon' AND viewname <> 'branches') OR viewname IN ('pg_stat_activity', 'pg_stat_replication', 'pg_settings', 'pg_locks', 'pg_stat_database', 'pg_roles')
		ORDER BY 1 \gexec}, db => $db);
	is($rc, 0, "the pageserver is away, and the views of \"$db\" can be read") or diag($err);
	cmp_ok(scalar(() = $rows =~ /\|t$/mg), '>=', 15, 'all of them');
}
$t->psql_fails('main', 'SELECT * FROM neon.branches', qr/pageserver 127.0.0.1:$t->{ps_port}: connection .* failed/, 'but what only it knows');
like($t->psql_fails('main', 'SELECT count(*) FROM pg_description', qr/could not fetch block \d+ of relation .* from pageserver 127/, 'what is not here'), qr/Gave up after 1000 ms.*HINT/s, 'nor this');

done_testing();
