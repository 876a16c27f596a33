# FaultRun: clients that log what was acknowledged, random faults, and checks
# after each round, on a FaultSystem.
#
#   my $run = FaultRun->new(t => $t, seed => 7, log => 'fault.log');
#   $run->round($seconds) for 1 .. 10;     # tests of Test::More
#   $run->finish;
#
# A round: clients run, every few seconds a fault begins (FaultActs), each ends
# after a while by itself; then all is healed, the clients end, and FaultCheck
# looks at what they were told and at all that is stored.
package FaultRun;

use strict;
use warnings;
use Carp;
use FaultActs;
use FaultCheck;
use NeonTest;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(time sleep);

our @ISA = ('FaultActs', 'FaultCheck');

# Options: t, acts (names; default all that can be done here), clients (8),
# every (seconds between acts), minimum (acknowledgements of a round).
sub new
{
	my ($class, %o) = @_;
	my $self = bless {
		clients => 8, every => 2.5, minimum => 100, %o,
		primary => 'a', round => 0, timers => [], busy => {}, deck => [], steps => [],
		count => {}, total => {}, seen => {}, wal => {}, logs => {}, pids => [], old => {}
	}, $class;
	$self->{tmp} = $o{t}->tmp;
	open($self->{log}, '>>', "$self->{tmp}/fault.log") or croak "fault.log: $!";
	$self->{log}->autoflush(1);
	$self->{acts} = [ sort keys %{ $self->acts } ] if !$o{acts};
	$self->{timeline} = "'" . $o{t}->tenant . "', '" . $o{t}->timeline('main') . "'";
	$self->say("seed $NeonTest::seed");
	$self->write_targets;
	return $self;
}

sub t { $_[0]{t} }

# One line of the run's log.
sub say
{
	my ($self, $text) = @_;
	chomp $text;
	printf { $self->{log} } "%.3f %s\n", time, $text;
	return;
}

sub count { my ($self, $what) = @_; $self->{count}{$what}++; return }

# ---- clients ----

# Where clients go: mostly to the primary, and to an old one while it lives.
sub write_targets
{
	my ($self) = @_;
	my $t = $self->t;
	my $text = '';
	for my $ep ('a', 'b')
	{
		next if $ep ne $self->{primary} && !$self->{old}{$ep};
		my $line = $t->connstr($ep) . " connect_timeout=3 application_name=faultclient passfile='$t->{passfile}'\n";
		$text .= $ep eq $self->{primary} ? $line x 3 : $line;
	}
	FaultSystem::write_file("$self->{tmp}/targets.new", $text);
	rename "$self->{tmp}/targets.new", "$self->{tmp}/targets" or croak "targets: $!";
	return;
}

sub client_log { my ($self, $id) = @_; return "$self->{tmp}/client.$id" }

sub start_clients
{
	my ($self) = @_;
	for my $i (1 .. $self->{clients})
	{
		my $id = $self->{round} * 100 + $i;
		my $pid = fork // croak "fork: $!";
		if ($pid == 0)
		{
			$SIG{INT} = $SIG{TERM} = $SIG{PIPE} = 'DEFAULT';
			open STDIN, '<', '/dev/null';
			open STDOUT, '>', $self->client_log($id) . '.out';
			open STDERR, '>&', \*STDOUT;
			{ exec "$ENV{NEON_TESTING_LIBDIR}/faultclient", $id, int(rand 2**30), $self->client_log($id), "$self->{tmp}/targets" }
			POSIX::_exit(127);
		}
		$self->{pids}[$i - 1] = $pid;
	}
	return;
}

# They end by themselves when all is well: nobody waits for good.
sub stop_clients
{
	my ($self) = @_;
	my @left = @{ $self->{pids} };
	kill 'TERM', @left;
	my $end = time + 60;
	while (@left && time < $end)
	{
		@left = grep { waitpid($_, WNOHANG) == 0 } @left;
		$self->tick;
		sleep 0.1;
	}
	kill 'KILL', @left if @left;
	waitpid($_, 0) for @left;
	$self->{pids} = [];
	return is(scalar(@left), 0, "round $self->{round}: every client gets an answer at last");
}

# ---- time ----

sub later
{
	my ($self, $seconds, $code) = @_;
	push @{ $self->{timers} }, [ time + $seconds, $code ];
	return;
}

sub tick
{
	my ($self) = @_;
	my $now = time;
	my @due = grep { $_->[0] <= $now } @{ $self->{timers} };
	$self->{timers} = [ grep { $_->[0] > $now } @{ $self->{timers} } ];
	$_->[1]->() for @due;
	$self->keep_running;
	return;
}

# A host that no other act uses, or nothing.
sub take
{
	my ($self, @hosts) = @_;
	my @free = grep { !$self->{busy}{$_} } @hosts or return;
	my $host = $free[ rand @free ];
	$self->{busy}{$host} = 1;
	return $host;
}

sub give { my ($self, @hosts) = @_; delete $self->{busy}{$_} for @hosts; return }

# ---- what the harness starts again ----

# A server that an act holds down is not started.
sub keep_running
{
	my ($self) = @_;
	my $t = $self->t;
	for my $host ('sk1', 'sk2', 'sk3', 'ps')
	{
		my $server = FaultSystem::server_of($host);
		$self->end_job($server);
		next if $self->{down}{$host} || $t->{jobs}{$server} || $t->runs($server);
		$t->begin_job($server, $host, split(/ /, $server) > 1 ? ('safekeeper', 'start', substr $host, 2) : ('pageserver', 'start'));
	}
	$self->keep_primary;
	return;
}

sub end_job
{
	my ($self, $name) = @_;
	my ($rc, $out, $took) = $self->t->job_result($name);
	return if !defined $rc;
	$self->say(sprintf 'start of %s: %s after %.1f s%s', $name, $rc == 0 ? 'done' : 'failed', $took, $rc == 0 ? '' : "\n$out");
	my $doomed = $rc != 0 && $name eq ($self->{doomed} // '');
	$self->{doomed} = '' if $doomed;
	if ($doomed && $out =~ /^neon: error/m)
	{
		# before it came to its step: the next one does
		$self->{kill_at} //= $self->{doomed_at};
		$doomed = 0;
	}
	$self->count($rc == 0 ? 'starts' : $doomed ? 'launchers that died' : 'starts that failed');
	$self->note_promise("sk$1") if $rc == 0 && $name =~ /^safekeeper (\d)/;
	$self->launcher_died($name) if $doomed;
	return $rc == 0;
}

sub keep_primary
{
	my ($self) = @_;
	my $t = $self->t;
	my $ep = $self->{primary};
	my $m = $t->machine($ep);
	if ($self->end_job($ep))
	{
		$self->{take_over} = 0;
		$self->write_targets;
	}
	for my $old (grep { !$t->runs($_) } keys %{ $self->{old} })
	{
		$self->say("old compute $old has ended");
		delete $self->{old}{$old};
		$self->write_targets;
	}
	return if $self->{down}{$m} || $t->{jobs}{$ep};
	return if $t->runs($ep) && !$self->{old}{$ep};
	return if time < ($self->{next_start} // 0);
	$self->{next_start} = time + 1;
	my $step = delete $self->{kill_at};
	@{$self}{qw(doomed doomed_at)} = $step ? ($ep, $step) : ('', undef);
	$t->begin_job($ep, $m, 'endpoint', 'start', $ep, '--no-supervise', $self->{take_over} ? '--take-over' : (),
		$step ? { kill_at => $step } : ());
	return;
}

# A member never takes a promise back, whatever happens to it.
sub note_promise
{
	my ($self, $host) = @_;
	my ($n) = $host =~ /^sk(\d)/ or return;
	my ($state, $promised) = $self->positions($n, 'state, promised');
	if (($state // '') eq 'damaged' && ($self->{damaged} // '') ne $host)
	{
		fail("round $self->{round}: $host is damaged, and nothing has damaged it") if !$self->{broken};
		$self->{broken} = 1;
	}
	return if !defined $state || $state ne 'active';
	my $before = $self->{promised}{$host} // 0;
	fail("round $self->{round}: $host has promised term $before and says now that it was $promised")
	  if $promised < $before && !$self->{forgot}{$host}++;
	$self->{broken} = 1 if $promised < $before;
	$self->{promised}{$host} = $promised if $promised > $before;
	return;
}

# ---- rounds ----

sub deal
{
	my ($self) = @_;
	if (!@{ $self->{deck} })
	{
		my @names = @{ $self->{acts} };
		push @{ $self->{deck} }, splice(@names, rand @names, 1) while @names;
	}
	return shift @{ $self->{deck} };
}

# Something that is busy is put off, not left out.
sub begin_act
{
	my ($self) = @_;
	for (1 .. @{ $self->{acts} })
	{
		my $name = $self->deal;
		my $what = eval { $self->acts->{$name}->($self) };
		croak "act \"$name\": $@" if $@;
		if ($what)
		{
			$self->say("act: $name: $what");
			$self->count($name);
			return;
		}
		push @{ $self->{deck} }, $name;
	}
	return;
}

sub round
{
	my ($self, $seconds) = @_;
	my $r = ++$self->{round};
	$self->{count} = {};
	$self->say("round $r");
	$self->prepare if $r == 1;
	$self->start_clients;
	my $end = time + $seconds;
	my $next = time + 1;
	# the first one goes on until it had each kind
	while (!$self->{broken} && (time < $end || ($r == 1 && grep({ !$self->{count}{$_} } @{ $self->{acts} }) && time < $end + 90)))
	{
		if (time >= $next)
		{
			$self->begin_act;
			$next = time + $self->{every} * (0.5 + rand);
		}
		$self->tick;
		sleep 0.1;
	}
	my $ok = !$self->{broken} && $self->heal && $self->stop_clients && $self->check;
	$self->report;
	return $ok && !$self->{broken};
}

# All acts come to their end, all runs, and nothing is cut.
sub heal
{
	my ($self) = @_;
	$self->say('healing');
	my $end = time + 180;
	while (time < $end)
	{
		$self->tick;
		return 1 if !@{ $self->{timers} } && !%{ $self->{old} } && !%{ $self->t->{jobs} } && $self->answers;
		return 0 if !$self->members_are_sound;
		sleep 0.2;
	}
	fail("round $self->{round}: all is well again");
	diag('busy: ' . join(' ', sort keys %{ $self->{busy} }) . '; old computes: ' . join(' ', keys %{ $self->{old} }) .
		'; jobs: ' . join(' ', keys %{ $self->t->{jobs} }) . "; $self->{problem}");
	return 0;
}

# No member is damaged but for the one that an act damaged.  One that an act
# holds is not asked: it may be stopped, and is made to go on by the caller.
sub members_are_sound
{
	my ($self) = @_;
	$self->note_promise($_) for grep { !$self->{busy}{$_} } qw(sk1 sk2 sk3);
	return !$self->{broken};
}

sub answers
{
	my ($self) = @_;
	my ($rc, $out, $err) = eval { $self->t->psql_raw($self->{primary}, 'INSERT INTO fault_alive VALUES (1)', timeout => 10) };
	$self->{problem} = $err // $@;
	return defined $rc && $rc == 0;
}

sub prepare
{
	my ($self) = @_;
	$self->t->psql('a', <<'SQL');
CREATE EXTENSION amcheck;
CREATE EXTENSION neon;
CREATE TABLE fault_alive(i int);
CREATE TABLE fault_rows(client int, n bigint, from_account int, to_account int, amount int, filler text, PRIMARY KEY (client, n));
CREATE TABLE fault_accounts(id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= -3000));
INSERT INTO fault_accounts SELECT g, 0 FROM generate_series(0, 49) g;
ALTER ROLE ALL SET lock_timeout = '3s';
SQL
	return;
}

sub report
{
	my ($self) = @_;
	my $c = $self->{count};
	$self->{total}{$_} += $c->{$_} for keys %$c;
	my $text = "round $self->{round}: " . join(', ', map { "$_ $c->{$_}" } sort keys %$c);
	$self->say($text);
	note($text);
	cmp_ok($c->{acknowledged} // 0, '>=', $self->{minimum}, "round $self->{round}: enough was acknowledged");
	return;
}

# Of the whole run: each kind of fault was there.
sub finish
{
	my ($self) = @_;
	my $sum = $self->{total};
	diag("$self->{round} rounds, " . join(', ', map { "$_ $sum->{$_}" } sort keys %$sum));
	cmp_ok($sum->{$_} // 0, '>', 0, "kind of fault: $_") for @{ $self->{acts} };
	cmp_ok($sum->{refused} // 0, '>', 0, 'something was refused');
	return;
}

1;
