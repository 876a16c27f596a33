# What people do wrong: one clear line with a hint, a failing exit code, and
# nothing damaged.
use strict;
use warnings;
use File::Copy;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->neon_fails(['start'], qr/./, qr/neon init/, 'start before init');
$t->neon_fails([ 'endpoint', 'list' ], qr/./, qr/neon init/, 'list before init');
$t->init;
$t->neon_fails([ 'init', '--safekeepers', '0' ], qr/already|exists|not empty/, qr/./, 'a second init');
$t->neon_fails([ 'tenant', 'create' ], qr/./, qr/neon (pageserver )?start/, 'tenant create before start');

# somebody else has the pageserver's port
{
	my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $t->{ps_port}, Listen => 1, Proto => 'tcp', ReuseAddr => 1)
	  or die "cannot bind: $!";
	$t->neon_fails(['start'], qr/$t->{ps_port}/, qr/./, "the pageserver's port is in use");
	close $s;
}
$t->neon_ok(['start'], 'start');
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/./, qr/tenant create/, 'endpoint start without a tenant');
$t->neon('tenant', 'create', '--set-default');
$t->endpoint_start('main');
$t->psql('main', 'CREATE TABLE t(a int); INSERT INTO t VALUES (1)');
my $lsn = $t->wait_ingest('main');

$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/running/, qr/./, 'endpoint already running');
$t->neon_fails([ 'endpoint', 'start', 'second', '--branch-name', 'main' ],
	qr/main/, qr/take-over|timeline branch/, 'a second primary on a branch');
$t->neon_fails([ 'endpoint', 'start', 'x', '--branch-name', 'nosuch' ], qr/nosuch/, qr/./, 'unknown branch');
$t->neon_fails([ 'endpoint', 'start', 'x', '--lsn', 'FF/0' ], qr/future/, qr/./, 'LSN in the future');
$t->neon_fails([ 'endpoint', 'start', 'x', '--lsn', '0/1000028' ], qr/before|older/, qr/./, 'LSN before the timeline');
$t->neon_fails([ 'endpoint', 'start', 'x', '--lsn', 'zzz' ], qr/zzz/, qr/./, 'no LSN');
$t->neon_fails([ 'endpoint', 'start', 'x', '--lsn', '0/0' ], qr{0/0}, qr/LSN/, 'the invalid LSN');
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b', '--ancestor-start-lsn', '0/0' ], qr{0/0}, qr/LSN/, 'a branch at the invalid LSN');
$t->neon_fails([ 'endpoint', 'start', 'x', '--time', '2001-01-01 00:00:00+00' ], qr/before|older/, qr/./, 'time before the timeline');
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'main' ], qr/exists/, qr/./, 'branch name in use');
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b', '--ancestor-branch-name', 'nosuch' ], qr/nosuch/, qr/./, 'unknown ancestor');
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b', '--ancestor-start-lsn', 'FF/0' ], qr/future/, qr/./, 'branch in the future');
$t->neon_fails([ 'timeline', 'delete', 'nosuch' ], qr/nosuch/, qr/./, 'delete of an unknown branch');
$t->neon_fails([ 'endpoint', 'stop', 'nosuch' ], qr/nosuch/, qr/./, 'stop of an unknown endpoint');
$t->neon_fails([ 'endpoint', 'start', '../x' ], qr/\.\./, qr/./, 'a path as a name');
$t->neon_fails(['frobnicate'], qr/frobnicate/, qr/./, 'an unknown verb');
$t->neon_fails([ 'start', '--frobnicate' ], qr/frobnicate/, qr/./, 'an unknown option');

{
	my $p = $t->free_port;
	my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $p, Listen => 1, Proto => 'tcp', ReuseAddr => 1)
	  or die "cannot bind: $!";
	$t->neon('timeline', 'branch', '--branch-name', 'pb');
	$t->neon_fails([ 'endpoint', 'start', 'pb', '--branch-name', 'pb', '--port', $p ], qr/$p/, qr/./, "an endpoint's port is in use");
	close $s;
	$t->set_port('pb', $p);
	$t->neon_ok([ 'endpoint', 'start', 'pb', '--branch-name', 'pb', '--port', $p ], 'free again');
	$t->endpoint_stop('pb');
}

# base backups of holes
my $port = $t->port('main');
my ($rc, $out, $err) = $t->command(
	[ 'pg_basebackup', '-D', $t->tmp . '/bb', '-w', '-d', $t->connstr('main') ]);
isnt($rc, 0, 'pg_basebackup of an unhydrated compute is refused');
like($err, qr/HINT:.*hydrate|hydrate/, 'with a hint') or diag($err);
like($t->psql_fails('main', "SELECT pg_backup_start('x')", qr/ERROR/, 'pg_backup_start is refused'), qr/HINT:.*hydrate/s, 'with a hint');
like($t->psql_fails('main', "SELECT pg_create_logical_replication_slot('l', 'pgoutput')", qr/ERROR/, 'a logical slot is refused'), qr/./, 'said');

# guarded settings
for my $s ("shared_preload_libraries = ''", 'fsync = off', 'full_page_writes = on',
	"restart_after_crash = on", "neon.tenant_id = 'x'", 'max_slot_wal_keep_size = 100', "wal_level = minimal")
{
	my $e = $t->psql_fails('main', "ALTER SYSTEM SET $s", qr/ERROR/, "ALTER SYSTEM SET $s");
	like($e, qr/HINT/, 'with a hint');
}
$t->neon_fails([ 'endpoint', 'config', 'main', 'fsync=off' ], qr/fsync/, qr/./, 'endpoint config of a guarded setting');

# pg_ctl on a data directory that was used
my $pgdata = $t->pgdata('main');
$t->endpoint_stop('main');
SKIP:
{
	skip 'no data directory is left after a stop', 3 unless -d $pgdata;
	my $log = $t->tmp . '/pg_ctl.log';
	($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $pgdata, '-l', $log, '-w', 'start' ]);
	isnt($rc, 0, 'pg_ctl start on a used data directory fails');
	my $text = NeonTest::Vanilla::slurp($log);
	like($text, qr/FATAL/, 'with one FATAL');
	like($text, qr/HINT:.*neon endpoint start/, 'and a hint') or diag($text);
	# single user mode as well
	($rc, $out, $err) = $t->command([ 'postgres', '--single', '-D', $pgdata, 'postgres' ], stdin => "SELECT 1\n");
	isnt($rc, 0, 'single-user mode is refused');
	like($err, qr/HINT:.*neon endpoint start/, 'with a hint') or diag($err);
}

# the pageserver is down
$t->neon('pageserver', 'stop');
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/pageserver/, qr/neon (pageserver )?start/, 'endpoint start without the pageserver');
$t->neon_fails([ 'timeline', 'list' ], qr/pageserver/, qr/neon (pageserver )?start/, 'timeline list without it');

# a data directory of another version
my $pgversion = $t->ps_pgdata . '/PG_VERSION';
copy($pgversion, "$pgversion.saved");
open my $f, '>', $pgversion or die;
print $f "14\n";
close $f;
$t->neon_fails(['start'], qr/14|version/, qr/./, 'a pageserver data directory of another version');
move("$pgversion.saved", $pgversion);
chmod 0600, $pgversion;
$t->neon_ok(['start'], 'start');
$t->endpoint_start('main');
is($t->psql('main', 'SELECT a FROM t'), '1', 'nothing is damaged');

# two primaries: refused by the pageserver itself
my ($tenant, $timeline) = ($t->tenant, $t->timeline('main'));
my $term = $t->timeline_field('main', 'term');
my $id = '0123456789abcdef0123456789abcdef';
my $last = $t->timeline_field('main', 'last_record_lsn');
$t->psql_fails('pageserver',
	"SELECT neon_pageserver.writer_acquire('$tenant', '$timeline', $term, $term + 1, 'other', '$id', '$last', 'endpoints/other/pgdata', '$id')",
	qr/ERROR/, 'the pageserver refuses a second writer');
$t->psql_fails('pageserver',
	"SELECT neon_pageserver.timeline_source('$tenant', '$timeline', $term - 1, ARRAY['host=127.0.0.1 port=1'])",
	qr/superseded|term/, 'and a source with an older term');
$t->psql_fails('pageserver', "BEGIN; SELECT neon_pageserver.branch_create('$tenant', 'inxact', 'main'); COMMIT",
	qr/transaction block/, 'administrative functions are refused in a transaction block');

# a library that was not preloaded, in an ordinary server
{
	my $d = $t->tmp . '/plain';
	$t->command([ 'initdb', '-D', $d, '-A', 'trust', '-U', 'cloud_admin', '--no-sync' ]);
	my $p = $t->free_port;
	$t->command([ 'pg_ctl', '-D', $d, '-l', "$d.log", '-w', '-o', "-p $p -h 127.0.0.1 -k ''", 'start' ]);
	my $c = "host=127.0.0.1 port=$p user=cloud_admin dbname=postgres";
	for my $sql ('CREATE EXTENSION neon; SELECT * FROM neon.stat_local', 'CREATE EXTENSION neon_pageserver; SELECT * FROM neon_pageserver.tenants',
		"LOAD 'neon'", "LOAD 'neon_pageserver'")
	{
		my $e = $t->psql_fails('main', $sql, qr/ERROR|FATAL/, "not preloaded: $sql", connstr => $c);
		like($e, qr/shared_preload_libraries/, 'names the setting');
	}
	is($t->psql('main', 'SELECT 1', connstr => $c), '1', 'the server is unharmed');
	$t->command([ 'pg_ctl', '-D', $d, '-m', 'immediate', '-w', 'stop' ]);
}

$t->psql('main', 'INSERT INTO t VALUES (2)');
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SELECT count(*) FROM t'), '2', 'still all well');
$t->neon('stop');
done_testing();
