# What a compute does while its pageserver is away, was away, or lags.
use strict;
use warnings;
use NeonTest;
use POSIX qw(WNOHANG);
use PostgreSQL::Test::Utils qw(append_to_file);
use Test::More;
use Time::HiRes qw(time);

my $t = NeonTest->new;
$t->quickstart;
$t->cold;
my $port = $t->{ps_port};

# a large table that is cold after a boot, and a small one that is warm
my $rows = $NeonTest::long ? 2_000_000_000 / 1000 : 100_000;
$t->psql('main', "CREATE TABLE big(id int PRIMARY KEY, v text); INSERT INTO big SELECT g, repeat('b', 900) FROM generate_series(1, $rows) g",
	timeout => 900);
$t->psql('main', "CREATE TABLE small(id int, v text); INSERT INTO small SELECT g, 's' FROM generate_series(1, 1000) g");
$t->psql('main', 'CREATE EXTENSION neon; CREATE EXTENSION neon_test_utils; VACUUM ANALYZE');
$t->neon('endpoint', 'config', 'main', 'neon.prewarm_rate=0');
$t->neon('endpoint', 'restart', 'main', { timeout => 600 });

# the first query moves little, whatever the size
my $size = $t->psql('main', "SELECT pg_total_relation_size('big')");
is($t->psql('main', 'SELECT length(v) FROM big WHERE id = 77'), '900', 'first query');
my $bytes = $t->psql('main', 'SELECT fetched_bytes FROM neon.stat_local');
cmp_ok($bytes, '<', 5_000_000, "the first query of $size bytes moves $bytes bytes");

is($t->psql('main', 'SELECT count(*), sum(id) FROM small'), '1000|500500', 'warm up');
$t->psql('main', 'SELECT neon_test_utils.clear_buffer_cache()');

# pageserver stopped
my $session = $t->session('main');
is($session->query("SET neon.fetch_timeout = '3s'; SELECT 1"), '1', 'a session');
$t->neon('pageserver', 'stop');
is($session->query('SELECT count(*), sum(id) FROM small'), '1000|500500', 'present pages are read');
my $began = time;
is($session->query('SELECT count(*) FROM big', 60), '', 'an absent page is no answer');
like($session->error, qr/ERROR/, 'but an error');
like($session->error, qr/pageserver 127\.0\.0\.1:$port/, 'that names the pageserver') or diag($session->error);
cmp_ok(time - $began, '>=', 2.5, 'after the timeout');
cmp_ok(time - $began, '<', 30, 'and not much later');
is($session->query('SELECT count(*), sum(id) FROM small'), '1000|500500', 'the session goes on') or diag($session->error);

# a reader that waits gets its answer when the pageserver is back
$session->query("SET neon.fetch_timeout = '60s'");
$session->send('SELECT count(*) FROM big WHERE id BETWEEN 50000 AND 60000');
is($session->answer(3), undef, 'a reader waits');
$t->neon('pageserver', 'start');
is($session->answer(60), '10001', 'and is answered') or diag($session->error);
is($session->error, '', 'without an error');
is($t->psql('main', 'SELECT count(*), sum(id) FROM big', timeout => 600), "$rows|" . $rows * ($rows + 1) / 2, 'all of it');

# cancel of a waiting reader
$t->neon('endpoint', 'restart', 'main');
$session = $t->session('main');
my $pid = $session->query('SELECT pg_backend_pid()');
$t->neon('pageserver', 'stop');
my $other = $t->session('main');
my $present = $other->query('SELECT 1', 10);
$session->send('SELECT count(*) FROM big');
is($session->answer(2), undef, 'a reader waits');
$t->signal('INT', $pid);
is($session->answer(15), '', 'a cancel ends the wait');
like($session->error, qr/cancel/, 'as a cancel');
$t->neon('pageserver', 'start');

# killed -9 and back, without the stream in laptop mode: no page older than the boot LSN
for my $round (1 .. 3)
{
	$t->psql('main', "UPDATE small SET v = 'round $round'");
	$t->psql('main', "UPDATE big SET v = 'round $round' WHERE id % 1000 = 7");
	$t->neon('endpoint', 'restart', 'main');
	my ($sender) = $t->children_of($t->postmaster_pid('main'), qr/walsender/);
	ok($sender, "round $round: walsender found") or next;
	my $s = $t->session('main');
	$s->query('SELECT 1');
	$t->signal('STOP', $sender) unless $t->quorum;
	$t->kill9('pageserver');
	$t->neon('pageserver', 'start');
	is($s->query("SET neon.fetch_timeout = '20s'; SELECT count(*) FROM small WHERE v = 'round $round'"),
		'1000', "round $round: no page older than the boot LSN") or diag($s->error);
	is($s->query("SELECT count(*) FROM big WHERE v = 'round $round'", 200),
		$rows / 1000, "round $round: nor of the big table") or diag($s->error);
	$t->signal('CONT', $sender) unless $t->quorum;
	$s->query("CREATE TABLE after$round(a int); INSERT INTO after$round VALUES (1)");
	is($s->error, '', "round $round: queries go on");
	$t->wait_ingest('main');
	pass("round $round: the pageserver follows again");
	$s->close;
}

# limit of what only the compute has
$t->neon('endpoint', 'config', 'main', 'neon.max_unflushed_wal=16MB', 'neon.fetch_timeout=5s');
$t->neon('endpoint', 'restart', 'main');
my $holds = $t->quorum ? 'safekeeper' : 'pageserver';
$t->neon($holds, 'stop', $_) for $t->quorum ? (1, 3) : ();
$t->neon($holds, 'stop') unless $t->quorum;
my ($rc, $out, $err) = $t->psql_raw('main',
	"CREATE TABLE flood AS SELECT g, repeat('f', 500) AS f FROM generate_series(1, 200000) g", timeout => 120);
isnt($rc, 0, 'a writer is stopped at neon.max_unflushed_wal');
like($err, qr/$holds/, 'the error says who lags') or diag($err);
$t->neon($holds, 'start');
$t->poll('main', 'CREATE TABLE IF NOT EXISTS flood2(a int); SELECT 1', qr/1/);
pass("writing goes on when the $holds is back");

# a pageserver that was just started has not indexed all that it stored: a branch waits for it
SKIP: {
	my $lib = $ENV{NEON_TESTING_LIBDIR} or skip 'no build with TESTING=1', 2;
	my $hold = $t->ps_pgdata . '/test_wait';
	append_to_file($t->ps_pgdata . '/postgresql.conf',
		"dynamic_library_path = '$lib:\$libdir'\nneon_pageserver.test_wait_at = 'stored-wal'\n");
	$t->psql('main', 'CREATE TABLE latest AS SELECT 1 AS a');
	my @writers = $t->children_of($t->postmaster_pid('pageserver'), qr/layer writer/);
	$t->signal('STOP', $_) for @writers;
	$t->endpoint_stop('main');
	append_to_file($hold, '');
	$t->kill9('pageserver', nowait => 1);
	$t->signal('KILL', $_) for @writers;
	$t->neon('pageserver', 'start');
	my $pid = fork() // die;
	if ($pid == 0)
	{
		$t->neon('timeline', 'branch', '--branch-name', 'latest');
		POSIX::_exit(0);
	}
	sleep 2;
	is(waitpid($pid, WNOHANG), 0, 'a branch waits for what is being indexed');
	unlink $hold or die;
	waitpid($pid, 0);
	$t->endpoint_start('latest', branch => 'latest');
	is($t->psql('latest', 'SELECT a FROM latest'), '1', 'and has the last commit');
	$t->endpoint_stop('latest');
	$t->endpoint_start('main');
}

# the first query after pageserver and compute were both killed
$t->kill9('main');
$t->kill9('pageserver');
$t->neon('start');
$t->endpoint_start('main');
is($t->psql('main', 'SELECT count(*) FROM small'), '1000', 'after both were killed');
$t->amcheck('main');
$t->neon('stop');
done_testing();
