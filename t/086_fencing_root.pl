# An old compute that the network cuts off and that still runs: it commits
# nothing, stops answering within its lease, gets no pages once another one
# writes its branch, and when it hears of that it says so and exits.
use strict;
use warnings;
use NeonMachine;
BEGIN { NeonMachine::enter() }
use File::Copy;
use NeonTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

# The services, and a state directory of each machine that has endpoints.
my $t = NeonTest->new(safekeepers => 3);
$t->init;
$t->neon('start');
$t->neon('tenant', 'create', '--set-default');
my ($tenant, $timeline) = ($t->tenant, $t->timeline('main'));
my %port = (near => $t->free_port, far => $t->free_port);
my @safekeepers = map { $t->config("safekeeper.$_.port") } 1 .. 3;
my $machine = NeonMachine->new(here => [ $t->{ps_port}, @safekeepers ], there => [ $port{far} ]);

sub side
{
	my ($name, @within) = @_;
	my $s = NeonTest->new(safekeepers => 3, supervise => 1, within => [@within], name => $name);
	mkdir $s->dir;
	chmod 0755, $s->dir;
	copy($t->dir . '/config', $s->dir . '/config') or die "config: $!";
	chmod 0600, $s->dir . '/config';
	symlink $t->dir . "/$_", $s->dir . "/$_" or die "$_: $!" for qw(pageserver safekeepers);
	system('chown', '-R', 'postgres', $s->dir) == 0 or die;
	@{$s}{qw(ps_port tenant)} = ($t->{ps_port}, $tenant);
	$s->{ports}{$name} = $port{$name};
	return $s;
}
my %side = (near => side('near'), far => side('far', $machine->prefix));
my $longest = 0;

sub start_on { my ($name, @args) = @_; return $side{$name}->neon('endpoint', 'start', $name, '--branch-name', 'main', '--port', $port{$name}, @args) }
sub log_of { my ($name) = @_; return join '', map { slurp_file($_) } glob($side{$name}->dir . "/endpoints/$name/log/*"), $side{$name}->dir . "/endpoints/$name/postgres.log" }
sub server { my ($name) = @_; my $pid = $side{$name}->postmaster_pid($name); return $pid && NeonTest::alive($pid) ? $pid : 0 }

sub supervisor
{
	my ($name) = @_;
	open my $f, '<', $side{$name}->dir . "/run/supervisor.$name.lock" or return 0;
	my $pid = <$f> // '';
	chomp $pid;
	return $pid && NeonTest::alive($pid) ? $pid : 0;
}

# Asks again and again how many rows there are, on a connection of its own; each
# line of the log is the time before the question and the answer.
sub reader
{
	my ($name) = @_;
	my $log = $side{$name}->tmp . '/reads';
	my $pid = fork // die;
	return ($pid, $log) if $pid;
	open my $f, '>', $log;
	$f->autoflush(1);
	while (1)
	{
		my $session = eval { $side{$name}->session($name) };
		while ($session)
		{
			my $n = eval { $session->query('SELECT count(*) FROM t', 60) };
			last if !defined $n || $n !~ /^\d+$/;
			print $f time(), " $n\n";
			sleep 0.05;
		}
		sleep 0.2;
	}
}

sub last_read { my ($log) = @_; return slurp_file($log) =~ /^([\d.]+) \d+\n\z/m ? $1 : 0 }

# ---- a majority is out of reach, and back ----

start_on('far');
my $far = $side{far};
$far->psql('far', 'CREATE EXTENSION IF NOT EXISTS neon; CREATE TABLE t(a serial, who text)');
$far->psql('far', "CREATE TABLE cold AS SELECT repeat('x', 2000) a FROM generate_series(1, 4000)");
is($far->psql('far', "INSERT INTO t(who) VALUES ('far'); SELECT count(*) FROM t"), '1', 'a compute on another machine');
my $postmaster = server('far');
my $waits = $far->session('far');
$waits->query("SET application_name = 'waits'");
$machine->cut;
$waits->send("INSERT INTO t(who) VALUES ('far, waiting')");
$t->wait_for('the end of the lease', sub { my (undef, undef, $err) = $far->psql_raw('far', 'SELECT 1'); $err =~ /lost its lease/ });
pass('without safekeepers it lets nobody in');
$waits->{h}->pump_nb;
is($waits->{out}, '', 'a commit waits');
$machine->heal;
is($waits->answer, '', 'the network is back: it ends well');
is($waits->error, '', 'without an error');
is(server('far'), $postmaster, 'in the same server');
$far->poll('far', 'SELECT count(*) FROM t', '2');

# ---- another one takes over, in several ways of being cut off ----

my @ways = ([ 'cut off', {} ], [ 'cut off from the safekeepers', { ports => [ @safekeepers, $port{far} ] }, '--take-over' ]);
push @ways, [ 'nothing gets out', { out => 1 }, '--take-over' ], [ 'nothing gets in', { in => 1 }, '--take-over' ] if $NeonTest::long || $ENV{NEON_TEST_ALL_CUTS};
my $rows = 2;
# a name does not make it this machine's endpoint, whose lease could be ended from here
$side{near}->neon('endpoint', 'create', 'far', '--branch-name', 'main', '--port', '0');

for (@ways)
{
	my ($what, $cut, @take_over) = @$_;
	if (!server('far'))
	{
		$side{near}->neon('endpoint', 'stop', 'near');
		start_on('far');
	}
	my ($pid, $reads) = reader('far');
	my $cold = $far->session('far');
	my $locked = $far->session('far');
	$locked->query('SELECT pg_advisory_lock(7)');
	$cold->query('SET application_name = \'cold\'');
	$cold->send('SELECT (SELECT count(*) FROM cold WHERE x.n > 0) FROM (SELECT 1 AS n FROM pg_advisory_lock(7)) x');
	my $commit = $far->session('far');
	$commit->query('SELECT 1');
	$t->wait_for('reads', sub { last_read($reads) });
	$postmaster = server('far');
	my $supervisor = supervisor('far');
	ok($supervisor, "$what: there is a supervisor");

	$side{near}->neon_fails([ 'endpoint', 'start', 'near', '--branch-name', 'main', '--port', $port{near} ],
		qr/endpoint "far", which is not of this state directory, writes branch "main"/, qr/--take-over/, "$what: no start elsewhere while it runs") if !@take_over;
	# it would hear from the pageserver, if that can be reached
	my @coordinator = $cut->{ports} ? $t->children_of($postmaster, qr/neon coordinator/) : ();
	$t->signal('STOP', @coordinator);
	$machine->cut(%$cut);
	$commit->send("INSERT INTO t(who) VALUES ('far, $what')");
	start_on('near', @take_over);
	my $first = time();
	my $n = $side{near}->psql('near', "INSERT INTO t(who) VALUES ('near'); SELECT count(*) FROM t");
	# what the old one had flushed may count, but nobody was told
	ok($n == $rows + 1 || $n == $rows + 2, "$what: another one goes on") or diag("$n rows, were $rows");
	cmp_ok(last_read($reads), '<', $first, "$what: the old one had stopped answering before");
	$commit->{h}->pump_nb;
	unlike($commit->{out}, qr/done/, "$what: it has acknowledged nothing");
	is(server('far'), $postmaster, "$what: it still runs");

	if (@coordinator)
	{
		$locked->close;
		my $answer = $cold->answer(60);
		like($cold->error, qr/superseded/, "$what: a running query gets no pages of a superseded term") or diag($answer);
		$t->signal('CONT', @coordinator);
	}
	my $before = time();
	$machine->heal;
	$t->wait_for('its end', sub { !server('far') });
	my $took = time() - $before;
	note("$what: gone after $took s");
	like(log_of('far'), qr/LOG:  superseded by term \d+/, "$what: it says why it exits");
	$t->wait_for('the end of its supervisor', sub { !supervisor('far') });
	like(log_of('far'), qr/neon supervisor: endpoint "far" is gone.*\n.*superseded by term/, "$what: its supervisor says why it ends");
	is(server('far'), 0, "$what: and does not fight");
	$rows = $side{near}->psql('near', 'SELECT count(*) FROM t');
	is($side{near}->psql('near', "INSERT INTO t(who) VALUES ('near again'); SELECT count(*) FROM t"), $rows + 1, "$what: the new one goes on");
	$rows++;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	$_->close for $cold, $locked, $commit;
}
$side{near}->amcheck('near');
$side{near}->neon('endpoint', 'stop', 'near');
$t->neon('stop');
done_testing();
