# NeonTest::Loop: a process that runs a script again and again until it is stopped.
package NeonTest::Loop;
use strict;
use warnings;
use Carp;
use POSIX qw(WNOHANG);

my $lcount = 0;

sub new
{
	my ($class, $t, $ep, $sql, %o) = @_;
	my $file = "$t->{tmp}/loop" . ++$lcount;
	open my $f, '>', "$file.sql" or croak "$file: $!";
	print $f $sql;
	close $f or croak "$file: $!";
	my $self = bless { t => $t, file => $file }, $class;
	my $pid = fork;
	croak "fork: $!" unless defined $pid;
	if (!$pid)
	{
		$SIG{INT} = $SIG{PIPE} = 'DEFAULT';
		my $stop = 0;
		$SIG{TERM} = sub { $stop = 1 };
		%ENV = (%ENV, $t->env);
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', "$file.out";
		open STDERR, '>', "$file.err";
		my $n = 0;
		while (!$stop && getppid() != 1)
		{
			$n++;
			system('psql', '-XAtq', '-v', "n=$n", '-v', 'r=' . int(rand(1000000)),
				'-d', $t->connstr($ep, $o{db}), '-f', "$file.sql") == 0
			  or select undef, undef, undef, 0.2;
		}
		POSIX::_exit(0);
	}
	$self->{pid} = $pid;
	return $self;
}

# Ends after the current round.
sub stop
{
	my ($self) = @_;
	kill 'TERM', $self->{pid};
	for (1 .. 600)
	{
		return if waitpid($self->{pid}, WNOHANG) != 0;
		select undef, undef, undef, 0.1;
	}
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

sub errors { my ($self) = @_; return NeonTest::Vanilla::slurp("$self->{file}.err") }

1;
