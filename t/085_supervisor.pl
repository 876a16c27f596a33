# The process that "neon endpoint start" leaves: it starts the endpoint again
# after a crash, and only then.
use strict;
use warnings;
use IPC::Run qw(start timeout);
use NeonTest;
use Test::More;

my $t = NeonTest->new(supervise => 1);
$t->quickstart;

sub holder
{
	my ($name) = @_;
	open my $f, '<', $t->dir . "/run/supervisor.$name.lock" or return 0;
	my $pid = <$f>;
	close $f;
	chomp $pid if defined $pid;
	return $pid && NeonTest::alive($pid) && NeonTest::cmdline($pid) =~ /neon/ ? $pid : 0;
}

# ---- a killed postmaster ----

my $supervisor = holder('main');
ok($supervisor, 'endpoint start leaves a supervisor');
is(scalar(grep { $_ == $supervisor } $t->our_processes), 1, 'which works in the state directory');
$t->psql('main', 'CREATE TABLE t AS SELECT 1 AS a');
$t->kill9('main', nowait => 1);
$t->poll('main', 'SELECT a FROM t', '1');
is(holder('main'), $supervisor, 'the same supervisor goes on');

# ---- a killed backend: restart_after_crash is off ----

my $backend = $t->psql('main', 'SELECT pg_backend_pid()');
my $session = $t->session('main');
my $pid = $session->query('SELECT pg_backend_pid()');
$t->psql('main', 'INSERT INTO t VALUES (2)');
my $postmaster = $t->postmaster_pid('main');
$t->signal('KILL', $pid);
$t->wait_for('the end of the server', sub { !NeonTest::alive($postmaster) });
$t->poll('main', 'SELECT count(*) FROM t', '2');
$session->close;

# ---- a start meanwhile gets the result of that boot, or boots itself ----

$t->kill9('main', nowait => 1);
my ($rc, $out, $err) = $t->command([ 'neon', 'endpoint', 'start', 'main' ]);
ok($rc == 0 || $err =~ /already running/, 'a start during the reboot') or diag("$out\n$err");
$t->poll('main', 'SELECT count(*) FROM t', '2');
$t->wait_for('one supervisor', sub { holder('main') });

# ---- a stop is no crash ----

$t->neon_ok([ 'endpoint', 'stop', 'main' ], 'stop');
ok(!holder('main'), 'ends the supervisor');
is($t->postmaster_pid('main'), undef, 'nothing runs');

$t->endpoint_start('main');
ok(holder('main'), 'a start leaves one again');
$t->command([ 'pg_ctl', '-D', $t->pgdata('main'), '-m', 'fast', '-w', 'stop' ]);
$t->wait_for('the end of the supervisor', sub { !holder('main') });
is($t->postmaster_pid('main'), undef, 'a server stopped by pg_ctl stays stopped');

# ---- take-over, destroy, neon stop ----

$t->endpoint_start('main');
$t->neon_ok([ 'endpoint', 'start', 'second', '--branch-name', 'main', '--take-over', '--port', '0' ], 'take-over');
$t->wait_for('the end of the first supervisor', sub { !holder('main') });
ok(holder('second'), 'the second endpoint has its own');
$t->neon_ok([ 'endpoint', 'destroy', 'second' ], 'destroy');
ok(!holder('second'), 'ends its supervisor');

$t->endpoint_start('main', args => ['--no-supervise']);
ok(!holder('main'), '--no-supervise leaves none');
$t->neon_ok([ 'endpoint', 'restart', 'main' ], 'restart');
ok(holder('main'), 'restart leaves one');
$t->neon_ok(['stop'], 'neon stop');
ok(!holder('main'), 'ends it');
is_deeply([ $t->left_running ], [], 'nothing is left running');

$t->neon('start', '--endpoints');
$t->poll('main', 'SELECT count(*) FROM t', '2');
ok(holder('main'), 'start --endpoints leaves one');

# ---- in the foreground ----

$t->neon('endpoint', 'stop', 'main');
my ($said, $errors) = ('', '');
my $run = do
{
	local %ENV = (%ENV, $t->env);
	start([ 'neon', 'endpoint', 'run', 'main' ], '<', \undef, '>', \$said, '2>', \$errors, timeout(240));
};
$t->poll('main', 'SELECT count(*) FROM t', '2');
$t->kill9('main', nowait => 1);
$t->poll('main', 'SELECT count(*) FROM t', '2');
$run->signal('INT');
$run->finish;
is($run->full_result || 0, 0, 'endpoint run starts it again after a crash and stops it at Ctrl-C') or diag("$said\n$errors");
is($t->postmaster_pid('main'), undef, 'nothing runs');

# Ctrl-C while it is down and cannot be started
($said, $errors) = ('', '');
$run = do
{
	local %ENV = (%ENV, $t->env);
	start([ 'neon', 'endpoint', 'run', 'main' ], '<', \undef, '>', \$said, '2>', \$errors, timeout(240));
};
$t->poll('main', 'SELECT count(*) FROM t', '2');
$t->neon('pageserver', 'stop');
$t->kill9('main', nowait => 1);
$t->wait_for('a start that fails', sub { $run->pump_nb; $errors =~ /could not be started/ });
$run->signal('INT');
$run->finish;
is($run->full_result || 0, 0, 'Ctrl-C while the endpoint is down ends it, too') or diag("$said\n$errors");
$t->neon('start');

$t->endpoint_start('main');
$t->neon_ok([ 'stop', '-m', 'immediate' ], 'neon stop -m immediate');
is_deeply([ $t->left_running ], [], 'nothing is left running');

done_testing();
