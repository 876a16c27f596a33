# TestSql: SQL scripts by contrib/testsql, which is one process for many of
# them.  Answers are those of "psql -XAtq -v ON_ERROR_STOP=1 -f FILE".
#
#   my $sql = TestSql->new(PGPASSFILE => ...) if TestSql::available();
#   my ($exit_code, $stdout, $stderr) = $sql->run($connstr, $script, $seconds);
package TestSql;
use strict;
use warnings;
use Carp;
use IPC::Open2;
use Time::HiRes qw(time);

my $program = ($ENV{NEON_TESTING_LIBDIR} || '') . '/testsql';

sub available { return -x $program }

# Can it run the script?  It has no commands of psql, and no data for COPY.
sub suits { return $_[0] !~ /\\|\bSTD(?:IN|OUT)\b/i }

sub new
{
	my ($class, %env) = @_;
	return bless { env => \%env }, $class;
}

# A process that was forked from the one that started it needs its own, and so
# does another environment.
sub connected
{
	my ($self) = @_;
	local %ENV = (%ENV, %{ $self->{env} });
	my $key = join "\0", $$, map { "$_=$ENV{$_}" } sort grep { /^(?:PG|LC_|LANG|TZ)/ && defined $ENV{$_} } keys %ENV;
	return if $self->{pid} && $self->{key} eq $key;
	$self->stop;
	# one word would be split at blanks
	$self->{pid} = open2($self->{from}, $self->{to}, 'env', $program);
	@{$self}{qw(owner key)} = ($$, $key);
	binmode $_ for $self->{from}, $self->{to};
	return;
}

# So many bytes, or up to the end of the line; undef if they do not come.
sub take
{
	my ($self, $bytes, $end) = @_;
	while (defined $bytes ? length $self->{buffer} < $bytes : $self->{buffer} !~ /\n/)
	{
		my $ready = '';
		vec($ready, fileno $self->{from}, 1) = 1;
		my $left = $end - time;
		return undef if $left <= 0;
		next if select($ready, undef, undef, $left) <= 0;
		return undef unless sysread $self->{from}, $self->{buffer}, 65536, length $self->{buffer};
	}
	return substr($self->{buffer}, 0, $bytes // index($self->{buffer}, "\n") + 1, '');
}

# (exit code, stdout, stderr); dies if there is no answer within the limit.
sub run
{
	my ($self, $connstr, $script, $limit) = @_;
	utf8::encode($_) for grep { utf8::is_utf8($_) } $connstr, $script;
	$self->connected;
	local $SIG{PIPE} = 'IGNORE';
	$self->{buffer} = '';
	print { $self->{to} } length($connstr) . ' ' . length($script) . "\n$connstr$script" and $self->{to}->flush;
	my $end = time + $limit;
	my ($rc, $out, $err) = split ' ', $self->take(undef, $end) // '';
	$_ = defined $_ ? $self->take($_, $end) : undef for $out, $err;
	return ($rc, $out, $err) if defined $err;
	$self->stop;
	croak "no answer within $limit s: $script";
}

# The server ends the session when it finds its client gone.
sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	close $_ for delete @{$self}{qw(to from)};
	return if $self->{owner} != $$;
	local ($?, $!);
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY { $_[0]->stop }

1;
