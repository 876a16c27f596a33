# Runs the pg_regress suites (sql/, expected/) and the pgTAP suites (t/pgtap) of
# all extensions inside a running system.  A suite's name says where it runs:
# neon_pageserver* and neon_walredo* at the pageserver, neon_safekeeper* at a
# safekeeper, all others in a new database of an endpoint.
use strict;
use warnings;
use File::Basename;
use NeonTest;
use Test::More;

my $top = $ENV{NEON_TEST_TOP};
my $t = NeonTest->new(safekeepers => 1);
$t->quickstart;

sub place
{
	my ($name, $db) = @_;
	return ('pageserver', 'postgres') if $name =~ /^neon_(pageserver|walredo)/;
	return ('safekeeper 1', 'postgres') if $name =~ /^neon_safekeeper/;
	$t->psql('main', "DROP DATABASE IF EXISTS $db");
	$t->psql('main', "CREATE DATABASE $db");
	return ('main', $db);
}

sub where_args
{
	my ($ep) = @_;
	return ('--host=127.0.0.1', $t->connstr($ep) =~ /port=(\d+)/ ? "--port=$1" : die);
}

for my $file (sort glob "$top/sql/*.sql")
{
	my $name = basename($file, '.sql');
	my ($ep, $db) = place($name, 'regression');
	my $out = $t->tmp . "/regress.$name";
	mkdir $out;
	my ($rc, $stdout, $stderr) = $t->command(
		[
			$ENV{PG_REGRESS}, '--use-existing', "--dbname=$db", '--user=cloud_admin',
			where_args($ep), "--inputdir=$top", "--outputdir=$out",
			'--dlpath=.', $name
		],
		timeout => 300);
	is($rc, 0, "pg_regress $name") or do
	{
		diag(NeonTest::Vanilla::slurp("$out/regression.diffs") || "$stdout$stderr");
	};
}

for my $file (sort glob "$top/t/pgtap/*.sql")
{
	my $name = basename($file, '.sql');
	my ($ep, $db) = place($name, 'pgtap');
	$t->psql($ep, 'CREATE EXTENSION IF NOT EXISTS pgtap', db => $db);
	my ($rc, $stdout, $stderr) = $t->command(
		[ 'pg_prove', '--ext', '.sql', '-v', '-d', $db, '-U', 'cloud_admin', where_args($ep), $file ],
		timeout => 300);
	is($rc, 0, "pgTAP $name") or diag("$stdout$stderr");
	$t->psql($ep, 'DROP EXTENSION pgtap', db => $db) if $db eq 'postgres';
}

done_testing();
