# The quick start as it is typed, and what must hold after each line of it.
use strict;
use warnings;
use File::Path qw(remove_tree);
use NeonTest;
use Test::More;

my $t = NeonTest->new(subdir => 'a path/with blanks', auth => 'scram');
umask 0077;
mkdir $t->tmp . '/a path';
chmod 0755, $t->tmp . '/a path';

$t->{ps_port} = $t->free_port;
my $out = $t->neon('init', '--pageserver-port', $t->{ps_port}, $t->quorum ? ('--safekeeper-port', '0') : ('--safekeepers', '0'));
like($out, $t->quorum ? qr/kept by 2 of 3/ : qr/laptop/i, 'init says how many copies there are');
my $mode = (stat($t->dir . '/config'))[2] & 0777;
is($mode, 0600, 'the configuration is private');
$t->neon_ok(['start'], 'start');
$out = $t->neon_ok([ 'tenant', 'create', '--set-default' ], 'tenant create');
my ($tenant) = $out =~ /tenant ([0-9a-f]{32}) successfully created/;
my ($timeline) = $out =~ /initial timeline '([0-9a-f]{32})' at Lsn [0-9A-F]+\/[0-9A-F]+ for tenant/;
ok($tenant && $timeline, 'tenant create prints both ids and the LSN') or diag($out);
$out = $t->neon_ok([ $t->endpoint_args('main') ], 'endpoint start main');
my $port = $t->port('main');
like($out, qr/\b$port\b/, 'the address is printed');

# the connection of the quick start, with the passfile that "neon" wrote
my ($rc, $stdout, $stderr) = $t->command(
	[ 'psql', '-XAtw', '-p', $port, '-h', '127.0.0.1', '-U', 'cloud_admin', 'postgres', '-c', 'SELECT 1' ]);
is($stdout, "1\n", 'psql connects without being asked') or diag($stderr);
is((stat($t->{passfile}))[2] & 0777, 0600, 'the passfile is private');
($rc, $stdout, $stderr) = $t->command(
	[ 'psql', '-XAtw', '-p', $port, '-h', '127.0.0.1', '-U', 'cloud_admin', 'postgres', '-c', 'SELECT 1' ],
	env => { PGPASSFILE => '/nonexistent' });
isnt($rc, 0, 'and not without the password');

$t->psql('main', 'CREATE TABLE t(key int PRIMARY KEY, value text)');
$t->psql('main', "INSERT INTO t VALUES (1, 'main')");
is($t->psql('main', 'SHOW fsync'), $t->quorum ? 'off' : 'on', 'fsync');
is($t->psql('main', 'SHOW data_directory'), $t->pgdata('main'), 'data directory');

# a row acknowledged just before the branch is on it, each time
for my $i (1 .. 5)
{
	$t->psql('main', "INSERT INTO t VALUES (10 + $i, 'before branch')");
	my $b = $i == 1 ? 'migration_check' : "b$i";
	$out = $t->neon_ok([ 'timeline', 'branch', '--branch-name', $b ], "branch $b");
	$t->endpoint_start($b, branch => $b);
	is($t->psql($b, "SELECT count(*) FROM t WHERE key = 10 + $i"), '1', "the last row is on $b");
	$t->endpoint_stop($b) if $i > 1;
}
$t->psql('migration_check', "INSERT INTO t VALUES (2, 'branch')");
is($t->psql('main', 'SELECT count(*) FROM t WHERE key = 2'), '0', 'a row of the branch is not on main');
$t->psql('main', "INSERT INTO t VALUES (3, 'main')");
is($t->psql('migration_check', 'SELECT count(*) FROM t WHERE key = 3'),
	'0', 'a later row of main is not on the branch');

$out = $t->neon_ok([ 'timeline', 'list' ], 'timeline list');
like($out, qr/^\S*\s*main \[[0-9a-f]{32}\]/m, 'main is the root of the tree');
like($out, qr{┗━ \@[0-9A-F]+/[0-9A-F]+: \w+ \[[0-9a-f]{32}\]}, 'branches hang below it')
  or diag($out);

$out = $t->neon_ok([ 'endpoint', 'list' ], 'endpoint list');
like($out, qr/ENDPOINT\s+ADDRESS\s+TIMELINE\s+BRANCH NAME\s+LSN\s+STATUS/, 'columns');
like($out, qr{^\s*main\s+127\.0\.0\.1:$port\s+$timeline\s+main\s+[0-9A-F]+/[0-9A-F]+\s+running}m, 'its line')
  or diag($out);

# settings stay over boots, though the data directory does not
$t->psql('main', "ALTER SYSTEM SET work_mem = '7MB'");
$t->neon_ok([ 'endpoint', 'config', 'main', 'maintenance_work_mem=77MB' ], 'endpoint config');
$t->endpoint_stop('main');
remove_tree($t->pgdata('main'));
$t->endpoint_start('main');
is($t->psql('main', 'SHOW work_mem'), '7MB', 'ALTER SYSTEM is kept');
is($t->psql('main', 'SHOW maintenance_work_mem'), '77MB', 'endpoint config is kept');
is($t->psql('main', 'SELECT string_agg(key::text, $$,$$ ORDER BY key) FROM t'),
	'1,3,11,12,13,14,15', 'everything is there after stop, removal of the directory and start');

# a second state directory beside the first
my $u = NeonTest->new(name => 'second');
$u->quickstart;
$u->psql('main', 'CREATE TABLE mine(a int)');
is($t->psql('main', 'SELECT to_regclass($$mine$$)'), '', 'two installations do not meet');
$u->neon('stop');

$t->neon_ok(['stop'], 'stop');
is(scalar(() = $t->left_running), 0, 'nothing is left running');
$t->neon_ok(['stop'], 'a second stop');
$t->neon_ok([ 'start', '--endpoints' ], 'start with the endpoints that ran');
is($t->psql('main', 'SELECT count(*) FROM t'), '7', 'main runs again');
is($t->psql('migration_check', 'SELECT count(*) FROM t'), '3', 'the branch too');
$t->neon_ok(['stop'], 'stop');
is(scalar(() = $t->left_running), 0, 'nothing is left running');

done_testing();
