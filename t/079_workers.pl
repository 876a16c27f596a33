# Background workers of other libraries, as a scheduler's: they run SQL over blocks
# that are not here, with a limit of disk space; they are held, cancelled, ended and
# told errors like sessions, and hold up no stop.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $worker = "backend_type = 'neon test worker'";
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'shared_preload_libraries=neon_test_utils', 'neon.prewarm_rate=0', 'autovacuum=off', 'shared_buffers=2MB');
$t->endpoint_start('main');
$t->psql('main', <<'SQL');
CREATE EXTENSION neon;
CREATE EXTENSION neon_test_utils;
CREATE TABLE big AS SELECT i AS id, 0 AS v, repeat('w', 900) AS pad FROM generate_series(1, 20000) i;
CREATE TABLE jobs (sql text);
INSERT INTO jobs VALUES ('UPDATE big SET v = v + 1 WHERE id / 40 = (SELECT (random() * 499)::int)');
CREATE TABLE runs (pid int, n bigint);
CREATE FUNCTION tick() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE (SELECT sql FROM jobs);
	INSERT INTO runs SELECT pg_backend_pid(), count(*) FROM runs;
END $$;
VACUUM big;
SQL
$t->psql('main', "CREATE TABLE cold$_ AS SELECT i AS id, repeat('c', 900) AS pad FROM generate_series(1, 500) i; VACUUM cold$_") for 1 .. 5;
$t->endpoint_stop('main');

sub log_text
{
	my ($from) = @_;
	return substr(join('', map { slurp_file($_) } sort glob "$t->{dir}/endpoints/main/log/*"), $from || 0);
}

# Runs of a worker, waited for.
sub runs
{
	my ($pid, $name) = @_;
	my $n = $t->psql('main', "SELECT count(*) FROM runs WHERE pid = $pid");
	$t->poll('main', "SELECT count(*) > $n + 1 FROM runs WHERE pid = $pid");
	pass($name);
	return;
}

# The worker that the postmaster starts again and again.
sub scheduler
{
	my ($not) = @_;
	return $t->poll('main', "SELECT pid FROM pg_stat_activity WHERE $worker AND pid <> " . ($not || 0) . ' ORDER BY backend_start DESC LIMIT 1', qr/^\d+$/);
}

# ---- cold blocks, little space ----

$t->neon('endpoint', 'config', 'main', 'neon_test_utils.worker_sql=SELECT tick()', 'neon.local_size_limit=20MB');
$t->endpoint_start('main');
my $pid = scheduler();
runs($pid, 'a worker that starts with the server runs');
is($t->psql('main', "SELECT misses > 0 AND fetched_bytes > 1000000 FROM neon.stat_backends WHERE pid = $pid"), 't', 'over blocks that it fetches');
my @dynamic = map { $t->psql('main', "SELECT neon_test_utils.launch_worker('SELECT tick()', 50)") } 1 .. 2;
runs($_, 'and one that a session has started') for @dynamic;
$t->poll('main', 'SELECT evicted_bytes > limit_bytes / 2 FROM neon.local_disk');
pass('half of the limit was dropped meanwhile');
is($t->psql('main', "SELECT pg_terminate_backend($dynamic[1], 60000)"), 't', 'a worker is terminated');
$t->psql('main', 'ALTER SYSTEM SET neon.local_size_limit = 0');
$t->psql('main', 'SELECT pg_reload_conf()');

# ---- the pageserver answers no more ----

sub change_job
{
	my ($sql) = @_;
	return $t->psql('main', "UPDATE jobs SET sql = '$sql'");
}

# Stops who serves pages, and who would begin to.
sub hang_pages
{
	my @pids = split /\n/, $t->psql('pageserver', "SELECT pid FROM pg_stat_activity WHERE query LIKE 'pagestream%'");
	push @pids, $t->postmaster_pid('pageserver');
	$t->signal('STOP', @pids);
	return @pids;
}

my $waits = "SELECT count(*) > 0 FROM neon.stat_backends WHERE pid = %d AND wait_event LIKE 'Neon%%' AND file IS NOT NULL";
my $cancel = 'SELECT pg_cancel_backend(%d)';
# what else is needed is here before the pageserver hangs
$t->psql('main', "SELECT neon.hydrate(oid::regclass) FROM pg_class WHERE relkind = 'r' AND relname !~ '^cold'");
$t->psql('main', "SELECT * FROM neon.stat_backends; SELECT * FROM pg_stat_activity; SELECT pg_cancel_backend(0); SELECT count(*) FROM runs; UPDATE jobs SET sql = sql; SELECT * FROM neon.status");
is($t->psql('main', "SELECT pg_terminate_backend($dynamic[0], 60000)"), 't', 'the other, too');
my $from = length log_text();
my @stopped = hang_pages();
change_job('SELECT sum(length(pad)) FROM cold1');
$t->poll('main', sprintf $waits, $pid);
$t->psql('main', sprintf $cancel, $pid);
$t->wait_for('the end of the worker', sub { !NeonTest::alive($pid) });
like(log_text($from), qr/ERROR:  canceling statement due to user request/, 'a worker that waits for a page is cancelled');
my $next = scheduler($pid);
$t->poll('main', sprintf $waits, $next);
is($t->psql('main', "SELECT pg_terminate_backend($next, 60000)"), 't', 'and its successor terminated, while it waits');
like(log_text($from), qr/FATAL:  terminating background worker "neon test worker" due to administrator command/, 'the log says so');
$from = length log_text();
$t->psql('main', "ALTER SYSTEM SET neon.fetch_timeout = '2s'");
$t->psql('main', 'SELECT pg_reload_conf()');
$pid = scheduler($next);
$t->wait_for('an error', sub { log_text($from) =~ /ERROR:  could not fetch block \d+ of relation base/ });
pass('after neon.fetch_timeout it gets the error that sessions get');
$t->signal('CONT', reverse @stopped);
$t->psql('main', "ALTER SYSTEM RESET neon.fetch_timeout");
$t->psql('main', 'SELECT pg_reload_conf()');
runs(scheduler($pid), 'it works when pages come again');

# ---- writers are held ----

SKIP:
{
	skip 'safekeepers have the WAL', 2 if $t->quorum;
	my @ingest = $t->children_of($t->postmaster_pid('pageserver'), qr/neon ingest/);
	$t->psql('main', "ALTER SYSTEM SET neon.max_unflushed_wal = '4MB'");
	$t->psql('main', 'SELECT pg_reload_conf()');
	$pid = scheduler();
	$from = length log_text();
	$t->signal('STOP', @ingest);
	change_job('INSERT INTO big SELECT i, 0, repeat($$x$$, 900) FROM generate_series(1, 3000) i');
	$t->poll('main', 'SELECT writers_held IS NOT NULL FROM neon.status');
	pass('a worker that writes more than the pageserver takes is held');
	is($t->psql('main', "SELECT pg_terminate_backend($pid, 60000)"), 't', 'and can be terminated then');
	$t->signal('CONT', @ingest);
	change_job('SELECT 1');
	$t->psql('main', "ALTER SYSTEM RESET neon.max_unflushed_wal");
	$t->psql('main', 'SELECT pg_reload_conf()');
	runs(scheduler($pid), 'another one goes on');
}

# ---- the end of the server ----

my $runs = $t->psql('main', 'SELECT count(*) FROM runs');
$pid = scheduler();
$t->psql('main', 'SELECT * FROM neon.stat_backends');
@stopped = hang_pages();
change_job('SELECT sum(length(pad)) FROM cold2');
$t->poll('main', sprintf $waits, $pid);
$from = length log_text();
$t->signal('CONT', pop @stopped);	# the pageserver is there, but for the one page
$t->endpoint_stop('main');
my $log = log_text($from);
like($log, qr/FATAL:  terminating background worker "neon test worker" due to administrator command/, 'the stop ends a worker that waits for a page');
like($log, qr/database system is shut down/, 'and is a clean one');
unlike($log, qr/immediate shutdown request/, 'not held up');
$t->signal('CONT', @stopped);
$t->endpoint_start('main');
cmp_ok($t->psql('main', 'SELECT count(*) FROM runs'), '>=', $runs, 'what the workers did is there');
runs(scheduler(), 'they go on');
$t->amcheck('main');
$t->endpoint_stop('main');

# ---- read-only ----

$t->neon('endpoint', 'create', 'old', '--lsn', $t->timeline_field('main', 'last_record_lsn'), '--port', $t->{ports}{old} = $t->free_port);
$t->neon('endpoint', 'config', 'old', 'shared_preload_libraries=neon_test_utils', 'neon_test_utils.worker_sql=SELECT count(*) FROM cold3');
$t->endpoint_start('old');
$t->poll('old', "SELECT misses > 0 FROM neon.stat_backends WHERE $worker AND file IS NULL");
pass('a static endpoint has a worker as soon as it is consistent');
$t->endpoint_stop('old');
unlike(log_text(), qr/PANIC|was terminated by signal/, 'nothing crashed');
$t->neon('stop');
done_testing();
