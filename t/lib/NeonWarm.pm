# NeonWarm: what a start has kept of the local pages of the life before it, and
# whether that is right.
package NeonWarm;

use strict;
use warnings;
use Exporter 'import';
use NeonTest;
use Test::More;

our @EXPORT = qw(one_and_two warm_extensions warm present pages_agree break_rule);

# A system with the endpoint "main" and the tables one and two.  Options: tenant,
# as of quickstart; settings of the endpoint.
sub one_and_two
{
	my ($t, %o) = @_;
	$t->quickstart(tenant => $o{tenant}, no_endpoint => 1);
	$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
	$t->neon('endpoint', 'config', 'main', 'autovacuum=off', 'neon.prewarm_rate=0', @{ $o{settings} });
	$t->endpoint_start('main');
	warm_extensions($t, 'main');
	$t->psql('main', 'CREATE EXTENSION amcheck');
	$t->psql('pageserver', 'CREATE EXTENSION neon_test_utils');
	$t->psql('main', "CREATE TABLE $_ AS SELECT i AS id, 0 AS n, repeat('$_', 100) AS pad FROM generate_series(1, 8000) i") for qw(one two);
	$t->psql('main', 'VACUUM (FREEZE, ANALYZE)');
	return $t;
}

# What the functions here need in a database.
sub warm_extensions
{
	my ($t, $name, %o) = @_;
	$t->psql($name, "CREATE EXTENSION $_", %o) for qw(neon neon_test_utils pageinspect);
	# of whichever build is loaded
	$t->psql($name, q{UPDATE pg_proc SET probin = 'neon' WHERE probin = '$libdir/neon'}, %o);
	return;
}

# Columns of neon.warm_start of an endpoint, when they are final.
sub warm
{
	my ($t, $what, $name) = @_;
	$t->poll($name // 'main', 'SELECT complete FROM neon.warm_start');
	return $t->psql($name // 'main', "SELECT $what FROM neon.warm_start");
}

# How much of a relation is here, in percent.
sub present
{
	my ($t, $relation, %o) = @_;
	return $t->psql('main', "SELECT present_percent::int FROM neon.local_relations WHERE relation = '$relation'::regclass", %o);
}

# Up to n random pages of the main forks and visibility maps of which something is
# here, but for those that this life has changed (a SELECT may prune them): do
# they differ from the pageserver's at the boot LSN in more than hints?  vm => 0:
# without the maps.
sub pages_agree
{
	my ($t, $name, $n, %o) = @_;
	my $forks = delete $o{vm} // 1 ? q{(0, 'main'), (2, 'vm')} : q{(0, 'main')};
	my @pages = split /\n/, $t->psql('main', <<"SQL", timeout => 300, %o);
WITH rels AS MATERIALIZED (
	SELECT c.oid, CASE WHEN relkind = 'S' THEN 'sequence' ELSE coalesce(amname, 'heap') END AS am,
		coalesce(nullif(reltablespace, 0), dattablespace) AS spc
	FROM pg_class c LEFT JOIN pg_am a ON a.oid = relam JOIN neon.local_relations l ON l.relation = c.oid
		JOIN pg_database ON datname = current_database()
	WHERE c.relkind IN ('r', 't', 'm', 'i', 'S') AND relpersistence = 'p' AND NOT relisshared AND l.present_bytes > 0),
pages AS MATERIALIZED (
	SELECT *, get_raw_page(oid::regclass::text, fork, b::int) AS page FROM (
		SELECT oid, spc, CASE n WHEN 2 THEN fork ELSE am END AS am, n, fork, b
		FROM rels, (VALUES $forks) f(n, fork), generate_series(0, pg_relation_size(oid, fork) / 8192 - 1) b
		ORDER BY random() LIMIT $n + 1000) p)
SELECT format('(%s, %s, %s, %s, %L, %L)', spc, pg_relation_filenode(oid), n, b, am, md5(neon_test_utils.masked_page(page, am, b)))
FROM pages WHERE (page_header(page)).lsn <= (SELECT boot_lsn FROM neon.status) LIMIT $n
SQL
	my ($db, $lsn) = split /\|/, $t->psql('main', 'SELECT oid, boot_lsn FROM pg_database, neon.status WHERE datname = current_database()', %o);
	my $of = sprintf q{'%s', '%s'}, $t->tenant, $t->timeline('main');
	my @different;
	for (my $i = 0; $i < @pages; $i += 500)
	{
		my $last = $i + 499 < $#pages ? $i + 499 : $#pages;
		push @different, $t->psql('pageserver', "SELECT am, rel, blk FROM (VALUES @{[ join ',', @pages[ $i .. $last ] ]}) v(spc, rel, fork, blk, am, sum)
			WHERE md5(neon_test_utils.masked_page(neon_pageserver.get_page($of, spc, $db, rel, fork, blk, '$lsn'), am, blk)) <> sum", timeout => 300);
	}
	is(join('', @different), '', "$name: " . @pages . ' random pages are the pageserver\'s at the boot LSN');
	return scalar @pages;
}

# Which rule the next lives of an endpoint, or of the pageserver, break ('': none).
sub break_rule
{
	my ($t, $who, $bug) = @_;
	my ($file, $prefix) = $who eq 'pageserver' ? ($t->ps_pgdata . '/postgresql.conf', 'neon_pageserver')
		: ($t->dir . "/endpoints/$who/conf/postgresql.conf", 'neon');
	open my $f, '>>', $file or die "$file: $!";
	print $f "dynamic_library_path = '$ENV{NEON_TESTING_LIBDIR}:\$libdir'\n$prefix.test_bug = '$bug'\n";
	close $f or die "$file: $!";
	return;
}

1;
