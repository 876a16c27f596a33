# Local disk space with a limit: chunks are dropped and fetched again, sessions
# are held and told why when nothing can be dropped.
use strict;
use warnings;
use IPC::Run;
use NeonTest;
use Test::More;
use Time::HiRes qw(time sleep);

my $limit_kb = 40960;
my $seconds = $NeonTest::long ? 20 : 6;
my $scale = $NeonTest::long ? 20 : 6;
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);

# what cannot be
my $lib = $ENV{NEON_TESTING_LIBDIR};
$t->neon_fails([ 'endpoint', 'config', 'main', 'neon.local_size_limit=8MB' ], qr/invalid value for setting "neon.local_size_limit": "8MB"/, qr/from 16MB on/, 'a limit below 16 MB is refused');
{
	my $conf = "$t->{dir}/endpoints/main/conf/postgresql.conf";
	my $before = NeonTest::Vanilla::slurp($conf);
	write_file($conf, $before . "neon.local_size_limit = 8MB\n");
	$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/./, undef, 'also where it is written into the file');
	write_file($conf, $before);
}
like(log_text(), qr/FATAL:  invalid value for parameter "neon.local_size_limit": 8192 kB\n.*HINT:  .*at least 16 MB/, 'and the log says so');
SKIP:
{
	skip 'no build with TESTING=1', 2 unless $lib;
	my $conf = "$t->{dir}/endpoints/main/conf/postgresql.conf";
	my $before = NeonTest::Vanilla::slurp($conf);
	write_file($conf, $before . "dynamic_library_path = '$lib:\$libdir'\nneon.test_fail_at = 'punch_hole'\n");
	$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=40MB');
	$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/./, undef, 'a file system without holes is refused');
	like(log_text(), qr/FATAL:  local disk space cannot be limited here.*\n.*DETAIL:  .*FALLOC_FL_PUNCH_HOLE/, 'and the log says so');
	write_file($conf, $before);
}
$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=0', 'autovacuum=off');
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon; CREATE EXTENSION pg_visibility');
$t->pgbench_init('main', $scale);
$t->psql('main', "CREATE TABLE whole AS SELECT i AS id, repeat('w', 700) AS pad FROM generate_series(1, 20000) i; VACUUM (FREEZE, ANALYZE)");
$t->psql('main', 'CREATE DATABASE rewritten');
$t->psql('main', 'VACUUM FULL', db => 'rewritten');
$t->endpoint_stop('main');

sub write_file
{
	my ($file, $text) = @_;
	open my $f, '>', $file or die "$file: $!";
	print $f $text;
	close $f or die "$file: $!";
	return;
}
sub log_text
{
	my ($rc, $out, $err) = $t->command([ 'neon', 'endpoint', 'logs', 'main' ]);
	return $out;
}
sub disk { return $t->psql('main', "SELECT $_[0] FROM neon.local_disk") }

# what du says of what is limited
sub du
{
	my $pgdata = $t->pgdata('main');
	my ($rc, $out) = $t->command([ 'du', '-skc', map { "$pgdata/$_" } qw(base global pg_tblspc) ]);
	return $out =~ /^(\d+)\s+total/m ? $1 : die "du: $out";
}

$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=${limit_kb}kB", 'shared_buffers=2MB', 'autovacuum=on', 'autovacuum_naptime=1s',
	'checkpoint_timeout=30s', 'bgwriter_delay=10ms');
$t->endpoint_start('main');
is(disk('limit_bytes'), $limit_kb * 1024, 'the limit is shown');
is($t->psql('main', 'SELECT limit_bytes FROM neon.stat_local'), $limit_kb * 1024, 'twice');

# TPC-B and scans
my $until = time + $seconds;
my ($most, $n) = (0, 0);
my $out = '';
my $run = do {
	local %ENV = (%ENV, $t->env);
	IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', $seconds, $t->connstr('main') ], '>&', \$out, IPC::Run::timeout($seconds + 120));
};
my $scan = $t->loop('main', 'SELECT count(*) FROM whole; SELECT sum(abalance) FROM pgbench_accounts;');
while (time < $until)
{
	my $now = du();
	$most = $now if $now > $most;
	$n++;
	sleep 0.05;
}
note("du: $n times, largest $most kB");
cmp_ok($most, '<=', $limit_kb, 'never more is allocated than the limit');
cmp_ok($most, '>', $limit_kb * 0.7, 'the space is used');
$run->finish;
like($out, qr/failed transactions: 0 /, 'no transaction failed') or diag($out);
note($out =~ /(tps = \S+)/);
$t->poll('main', 'SELECT evicted_bytes > 2 * limit_bytes FROM neon.local_disk');
$scan->stop;
note($t->psql('main', 'SELECT * FROM neon.local_disk', args => ['-x']));
pass('more than twice the limit was dropped');
cmp_ok($t->psql('main', 'SELECT evicted_chunks FROM neon.stat_local'), '>', 80, 'stat_local counts the chunks');
$t->balances_agree('main');
is($t->psql('main', 'SELECT count(*), sum(length(pad)) FROM whole'), '20000|14000000', 'a table that was only read');
{
	my $from = length $t->neon('endpoint', 'logs', 'main');
	$t->psql('main', 'SET neon.log_slow_fetch = 0; SELECT sum(abalance) FROM pgbench_accounts; SELECT count(*) FROM whole');
	my ($least) = substr($t->neon('endpoint', 'logs', 'main'), $from) =~ m{Asked for LSN: newest, at least (\S+); tries: \d}s;
	is($t->psql('main', "SELECT boot_lsn < '@{[ $least // '0/0' ]}' AND boot_lsn <= pg_current_wal_lsn() FROM neon.status"), 't', 'what was dropped is fetched as of when it was dropped, at least');
}
$t->amcheck('main');
is($t->psql('main', 'SELECT count(*) FROM pg_check_visible($$pgbench_accounts$$) UNION ALL SELECT count(*) FROM pg_check_frozen($$pgbench_accounts$$)'), "0\n0", 'the visibility map is true');

# what is new is dropped, too; what is only here is not
my $dropped = disk('evicted_bytes');
$t->psql('main', "CREATE UNLOGGED TABLE only_here AS SELECT i AS id, repeat('u', 500) AS pad FROM generate_series(1, 6000) i; CREATE INDEX ON only_here (id)");
$t->psql('main', "CREATE TABLE made (id int, pad text); CREATE INDEX ON made (id)");
$most = 0;
for my $i (0 .. 11)
{
	$t->psql('main', "INSERT INTO made SELECT i, repeat('m', 700) FROM generate_series($i * 8000 + 1, $i * 8000 + 8000) i");
	my $now = du();
	$most = $now if $now > $most;
	$t->psql('main', 'DELETE FROM made WHERE id > 60000; VACUUM (TRUNCATE) made') if $i == 8;
}
note("du: largest $most kB");
cmp_ok($most, '<=', $limit_kb, 'a table that grows does not pass the limit');
cmp_ok(disk('evicted_bytes') - $dropped, '>', $limit_kb * 1024, 'since what was written to it is dropped');
is($t->psql('main', 'SELECT count(*), sum(length(pad)) FROM made'), '84000|58800000', 'it is whole');
is($t->psql('main', 'SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM made WHERE id > 0'), '84000', 'and so is its index');
is($t->psql('main', 'SELECT count(*), sum(length(pad)) FROM only_here'), '6000|3000000', 'an unlogged table, too');
is($t->psql('main', 'SELECT count(*) FROM pg_check_visible($$made$$)'), '0', 'the visibility map of a new table is true');
$t->psql('main', 'CREATE DATABASE moved');
$t->psql('main', "CREATE TABLE m AS SELECT i FROM generate_series(1, 50000) i", db => 'moved');
mkdir "$t->{tmp}/space" or die;
$t->psql('main', "CREATE TABLESPACE space LOCATION '$t->{tmp}/space'");
$t->psql('main', 'ALTER DATABASE moved SET TABLESPACE space');
is($t->psql('main', 'SELECT count(*) FROM m', db => 'moved'), '50000', 'a database that is moved');
$t->psql('main', 'DROP DATABASE moved');

# CREATE DATABASE makes files of their full size first, and writes their pages then
$most = 0;
$t->psql('main', 'SELECT sum(abalance) FROM pgbench_accounts; SELECT count(*) FROM whole');
for my $i (1 .. 4)
{
	$t->psql('main', "CREATE DATABASE copy$i");
	my $now = du();
	$most = $now if $now > $most;
}
note("du: largest $most kB");
cmp_ok($most, '<=', $limit_kb, 'databases that are created do not pass the limit');
$t->psql('main', "DROP DATABASE copy$_") for 1 .. 4;
$t->psql('main', 'DROP TABLE made');
$t->amcheck('main', 'amcheck is clean once more');

# who writes too much in one transaction
my $short = "SET neon.fetch_timeout = '2s'; ";
my $err = $t->psql_fails('main', $short . 'UPDATE pgbench_accounts SET abalance = abalance',
	qr/ERROR:  the limit of local disk space is reached/, 'a transaction that writes more than the limit');
like($err, qr/DETAIL:  (?:3\d|40) MB are in use; the limit \(neon.local_size_limit\) is 40 MB\. .*: a transaction of process (\d+) has not ended\. Process \1 is this session\.\nHINT:  The view neon.local_disk/,
	'is told that it is the reason');
cmp_ok(du(), '<=', $limit_kb * 1.01, 'and does not pass the limit');
$t->psql('main', 'VACUUM pgbench_accounts');

# who runs long
my $long = $t->session('main');
my $pid = $long->query('BEGIN; CREATE TABLE other (a int); SELECT pg_backend_pid()');
$err = $t->psql_fails('main', $short . "DO \$\$ BEGIN FOR i IN 1 .. 12 LOOP UPDATE pgbench_accounts SET abalance = abalance WHERE aid % 12 = i - 1; COMMIT; END LOOP; END \$\$",
	qr/a transaction of process $pid has not ended|transactions have not ended/, 'a long transaction of another session');
is(disk('blocker_pid'), $pid, 'the view names it');
like(disk('blocker'), qr/^a transaction of process $pid has not ended/, 'in words, too');
is($t->psql('main', "SELECT count(*) FROM pg_index WHERE indexrelid = 'pg_index_indrelid_index'::regclass", db => 'rewritten'), '1',
	'who looks for it can log in, also where the catalogs have got new files');
is($long->query('ROLLBACK; SELECT 1'), '1', 'it ends');
$t->poll('main', 'SELECT blocker IS NULL FROM neon.local_disk');
pass('and then chunks are dropped');

# what needs everything here
$t->psql_fails('main', 'SELECT neon.hydrate()', qr/cannot be hydrated.*HINT:  .*neon.local_size_limit/s, 'hydration is refused');
$t->psql_fails('main', "SELECT pg_backup_start('x')", qr/HINT:  Start the endpoint with "neon.local_size_limit" set to 0/, 'and base backups');
cmp_ok($t->psql('main', "SELECT neon.hydrate('whole')"), '>', 0, 'a relation can be fetched');

# a pageserver that is behind
my @ingest = $t->children_of($t->postmaster_pid('pageserver'), qr/neon ingest/);
$t->signal('STOP', @ingest);
$err = $t->psql_fails('main', $short . "DO \$\$ BEGIN FOR i IN 1 .. 40 LOOP INSERT INTO whole SELECT i, repeat('v', 700) FROM generate_series(1, 1400); COMMIT; END LOOP; END \$\$",
	qr/pageserver \S+ has the WAL up to \S+ only, not to/, 'a pageserver that is behind is named');
like(disk('blocker'), qr/^pageserver \S+ has the WAL up to/, 'in the view, too');
$t->signal('CONT', @ingest);
$t->poll('main', 'SELECT blocker IS NULL FROM neon.local_disk');
pass('it goes on when that is not behind any more');

# the limit can be raised, and lifted, also for who is held
my $keeps = $t->session('main');
$keeps->query('BEGIN; CREATE TABLE another (a int)');
my $held = $t->session('main');
$pid = $held->query("SET neon.fetch_timeout = '1h'; SELECT pg_backend_pid()");
$held->send("DO \$\$ BEGIN FOR i IN 1 .. 12 LOOP UPDATE pgbench_accounts SET abalance = abalance WHERE aid % 12 = i - 1; COMMIT; END LOOP; END \$\$");
$t->poll('main', 'SELECT waiting > 0 FROM neon.local_disk');
$t->psql('main', "ALTER SYSTEM SET neon.local_size_limit = '1GB'");
$t->psql('main', 'SELECT pg_reload_conf()');
$t->poll('main', 'SELECT waiting = 0 FROM neon.local_disk');
is($t->psql('main', "SELECT state FROM pg_stat_activity WHERE pid = $pid") =~ s/^idle$/active/r, 'active', 'a session that is held goes on when the limit is raised');
$t->psql('main', "SELECT pg_terminate_backend($pid, 60000)");
$keeps->query('ROLLBACK');
$_->close for $held, $keeps;
$t->psql('main', 'ALTER SYSTEM SET neon.local_size_limit = 0');
$t->psql('main', 'SELECT pg_reload_conf()');
$t->poll('main', 'SELECT limit_bytes IS NULL FROM neon.local_disk');
$t->psql('main', 'UPDATE pgbench_accounts SET abalance = abalance');
$t->balances_agree('main', 'all is there without a limit');
$t->neon('stop');
done_testing();
