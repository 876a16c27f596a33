# What the documentation promises: a copy of the stopped directory is a backup,
# hydrated endpoints give ordinary base backups, tablespaces stay inside.
use strict;
use warnings;
use File::Path qw(make_path);
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart(tenant => ['--data-checksums']);
$t->cold;
my $location = $t->tmp . '/a tablespace';
make_path($location);
$t->psql('main', "CREATE TABLESPACE ts LOCATION '$location'");
$t->psql('main', <<'SQL');
CREATE TABLE t(a int PRIMARY KEY, b text) TABLESPACE ts;
INSERT INTO t SELECT g, repeat('b', 100) FROM generate_series(1, 10000) g;
CREATE TABLE toasted AS SELECT g, (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 500)) AS v FROM generate_series(1, 20) g;
SELECT lo_from_bytea(4711, 'large');
CREATE ROLE somebody LOGIN PASSWORD 'secret';
CREATE UNLOGGED TABLE u(a int);
SQL
$t->psql('main', 'CREATE DATABASE other');
$t->psql('main', 'CREATE TABLE o AS SELECT 1 AS a', db => 'other');
is($t->psql('main', 'SHOW data_checksums'), 'on', 'data checksums');

# the tablespace over a boot: its data are kept, whatever becomes of LOCATION
$t->neon('timeline', 'branch', '--branch-name', 'b');
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SELECT count(*) FROM t'), '10000', 'tablespace after a boot');
$t->endpoint_start('b', branch => 'b');
$t->psql('b', 'INSERT INTO t SELECT g FROM generate_series(20001, 20100) g');
is($t->psql('b', 'SELECT count(*) FROM t'), '10100', 'tablespace on a branch');
is($t->psql('main', 'SELECT count(*) FROM t'), '10000', 'and nothing of it on main');
$t->psql('main', 'ALTER DATABASE other SET TABLESPACE ts');
$t->psql('main', 'CREATE DATABASE copied TEMPLATE other STRATEGY file_copy');
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SELECT a FROM o', db => 'other'), '1', 'a database moved to the tablespace');
is($t->psql('main', 'SELECT a FROM o', db => 'copied'), '1', 'a copied database');
$t->amcheck('main');

# leaving by a physical copy
my $want = $t->dump_all('main');
$t->psql('main', 'CREATE EXTENSION IF NOT EXISTS neon; SELECT neon.hydrate()');
my ($rc, $out, $err) = $t->command(
	[ 'pg_basebackup', '-D', $t->tmp . '/bb', '-w', '--checkpoint=fast', '--no-sync', '-d', $t->connstr('main') ]);
is($rc, 0, 'pg_basebackup of a hydrated endpoint') or diag($err);
{
	my $d = $t->tmp . '/bb';
	my $p = $t->free_port;
	open my $f, '>', "$d/postgresql.conf" or die;
	print $f "port = $p\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nallow_in_place_tablespaces = on\nfsync = off\n";
	close $f;
	open $f, '>', "$d/pg_hba.conf" or die;
	print $f "host all all 127.0.0.1/32 trust\n";
	close $f;
	unlink "$d/postgresql.auto.conf";
	($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $d, '-l', "$d.log", '-w', 'start' ]);
	is($rc, 0, 'the copy starts on the stock server') or diag(NeonTest::Vanilla::slurp("$d.log"));
	$t->set_port('stock', $p);
	my $got = $t->dump_all('stock');
	s/^CREATE EXTENSION.*neon.*$|^COMMENT ON EXTENSION neon .*$|^CREATE SCHEMA neon;$//mg for $got, $want;
	ok(length $got > 1000 && index($got, '4711') > 0, 'and has the data');
	is($t->psql('stock', 'SELECT count(*) FROM t'), '10000', 'all of it');
	$t->command([ 'pg_ctl', '-D', $d, '-m', 'immediate', '-w', 'stop' ]);
}

# backup by copying: the copy starts at another place
my $before = $t->dump_all('main');
$t->neon('stop');
my $copy = $t->tmp . '/the copy';
system('cp', '-a', $t->dir, $copy) == 0 or die;
my $original = $t->dir;
$t->{dir} = $copy;
$t->neon_ok([ 'start', '--endpoints' ], 'a copy of the directory starts at another path');
NeonTest::dumps_equal($t->dump_all('main'), $before, 'and has the same data');
is($t->psql('b', 'SELECT count(*) FROM t'), '10100', 'the branch too');
$t->psql('main', 'INSERT INTO t VALUES (0)');
is(scalar(grep { (readlink("/proc/$_/cwd") || "") =~ m{^\Q$original\E/} } map { m{(\d+)$} } glob '/proc/[0-9]*'),
	0, 'nothing runs in the original');
$t->neon('stop');
$t->{dir} = $original;
$t->neon_ok(['start'], 'the original starts again');
$t->endpoint_start('main');
is($t->psql('main', 'SELECT count(*) FROM t'), '10000', 'as it was');
$t->neon('stop');
done_testing();
