# N processes that each run TPC-B transactions on their own connection and note
# on disk what was acknowledged.  A lost connection ends a client: "errors" has
# its message.
package NeonTest::Clients;
use strict;
use warnings;
use Carp;
use POSIX qw(WNOHANG);
use Time::HiRes qw(time sleep);

my $ccount = 0;

# In the short run, where others need the processors, a client does not send without
# a pause (in seconds).
my $pause = $ENV{NEON_TEST_LONG} || $ENV{NEON_TEST_SOAK_HOURS} ? 0 : 0.02;

# Options: n (clients), scale, tag, seconds (0 = until stopped).
sub new
{
	my ($class, $t, $ep, %o) = @_;
	my $tag = $o{tag} || 'c' . ++$ccount;
	my $dir = "$t->{tmp}/clients.$tag";
	mkdir $dir or croak "$dir: $!";
	my $self = bless { t => $t, ep => $ep, dir => $dir, n => $o{n} || 4, tag => $tag, pids => [] }, $class;
	my $scale = $o{scale} || 1;
	for my $i (1 .. $self->{n})
	{
		my $pid = fork;
		croak "fork: $!" unless defined $pid;
		if (!$pid)
		{
			$SIG{INT} = $SIG{TERM} = $SIG{PIPE} = 'DEFAULT';
			%ENV = (%ENV, $t->env);
			open STDIN, '<', '/dev/null';
			open my $gen, '-|', $^X, '-e', generator(), "$tag.$i", $scale, $i, $o{seconds} || 0,
			  "$dir/$i.ack", $pause or POSIX::_exit(1);
			open STDIN, '<&', $gen;
			open STDOUT, '>', "$dir/$i.ack";
			open STDERR, '>', "$dir/$i.err";
			exec('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $t->connstr($ep))
			  or POSIX::_exit(127);
		}
		push @{ $self->{pids} }, $pid;
	}
	return $self;
}

# Writes transactions to a pipe; each one's last statement, after COMMIT,
# prints its number: that reaches the log only if COMMIT was answered.
sub generator
{
	return <<'PERL';
my ($tag, $scale, $seed, $seconds, $ack, $pause) = @ARGV;
$| = 1;
srand($seed);
my $end = $seconds ? time + $seconds : 0;
my $n = 0;
while (!$end || time < $end)
{
	$n++;
	my ($a, $t, $b) = (1 + int rand 100000 * $scale, 1 + int rand 10 * $scale, 1 + int rand $scale);
	my $d = int(rand 10001) - 5000;
	print "BEGIN; UPDATE pgbench_accounts SET abalance = abalance + $d WHERE aid = $a;\n",
	  "UPDATE pgbench_tellers SET tbalance = tbalance + $d WHERE tid = $t;\n",
	  "UPDATE pgbench_branches SET bbalance = bbalance + $d WHERE bid = $b;\n",
	  "INSERT INTO pgbench_history(tid, bid, aid, delta, mtime, filler) VALUES ($t, $b, $a, $d, now(), '$tag.$n');\n",
	  "COMMIT;\n\\echo $tag.$n\n" or exit;
	select undef, undef, undef, $pause if $pause;
	# stay close to what was answered
	while (1)
	{
		my $size = -s $ack || 0;
		last if $n < 20 || $size >= (length("$tag.") + 1) * ($n - 20);
		exit if getppid() == 1;
		select undef, undef, undef, 0.005;
		exit if $end && time > $end + 60;
	}
}
PERL
}

sub acknowledged
{
	my ($self) = @_;
	my @a;
	for my $i (1 .. $self->{n})
	{
		open my $f, '<', "$self->{dir}/$i.ack" or next;
		while (my $l = <$f>) { chomp $l; push @a, $l if $l =~ /^\Q$self->{tag}\E\.\d+\.\d+$/ }
	}
	return @a;
}

sub errors
{
	my ($self) = @_;
	my $e = '';
	for my $i (1 .. $self->{n})
	{
		open my $f, '<', "$self->{dir}/$i.err" or next;
		local $/;
		my $x = <$f>;
		$e .= $x if defined $x;
	}
	return $e;
}

# Waits until at least that many more transactions were acknowledged.
sub wait_progress
{
	my ($self, $more, $limit) = @_;
	my $from = scalar $self->acknowledged;
	my $end = time + ($limit || 60);
	while (time < $end)
	{
		return 1 if scalar($self->acknowledged) >= $from + $more;
		sleep 0.1;
	}
	return 0;
}

sub running { my ($self) = @_; return grep { waitpid($_, WNOHANG) == 0 } @{ $self->{pids} } }

sub stop
{
	my ($self) = @_;
	kill 'TERM', $_ for $self->running;
	$self->join(20);
	return;
}

sub join
{
	my ($self, $limit) = @_;
	my $end = time + ($limit || 300);
	while (my @r = $self->running)
	{
		if (time > $end)
		{
			kill 'KILL', @r;
			waitpid $_, 0 for @r;
			last;
		}
		sleep 0.1;
	}
	$self->{pids} = [];
	return;
}

# Acknowledged transactions that are not in the endpoint's table.
sub lost
{
	my ($self, $ep) = @_;
	my @acknowledged = $self->acknowledged;
	my %there = map { $_ => 1 } split /\n/,
	  $self->{t}->psql($ep, "SELECT rtrim(filler) FROM pgbench_history WHERE filler LIKE '$self->{tag}.%'");
	return grep { !$there{$_} } @acknowledged;
}

1;
