# NeonTest::Session: a psql that is fed bit by bit.
package NeonTest::Session;
use strict;
use warnings;
use Carp;
use IPC::Run qw(start);
use Time::HiRes qw(time);

sub new
{
	my ($class, $t, $ep, %o) = @_;
	my $self = bless { in => '', out => '', err => '', n => 0, t => $t }, $class;
	local %ENV = (%ENV, $t->env);
	$self->{h} = start(
		[ @{ $t->{within} }, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=0', '-d', $t->connstr($ep, $o{db}) ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
	push @{ $t->{children} }, $self->{h};
	return $self;
}

# Sends SQL without waiting for the answer.
sub send
{
	my ($self, $sql) = @_;
	$self->{n}++;
	$self->{in} .= "$sql;\n\\echo --done $self->{n}--\n\\warn --done $self->{n}--\n";
	$self->{h}->pump_nb;
	return;
}

# The answer to what was sent last, or undef after the limit.
sub answer
{
	my ($self, $limit) = @_;
	my $mark = "--done $self->{n}--";
	my $end = time + ($limit || $NeonTest::default_timeout);
	until ($self->{out} =~ /^\Q$mark\E\n/m && $self->{err} =~ /^\Q$mark\E\n/m)
	{
		return undef if time > $end;
		my $ok = eval { $self->{h}->pump_nb; $self->{h}->pumpable };
		last unless $ok;
		select undef, undef, undef, 0.02;
	}
	my ($out, $err) = @{$self}{qw(out err)};
	$self->{out} = $self->{err} = '';
	s/^--done \d+--\n//mg for $out, $err;
	chomp $out;
	$self->{error} = $err;
	return $out;
}

sub query { my ($self, $sql, $limit) = @_; $self->send($sql); return $self->answer($limit) }
sub error { $_[0]{error} }

sub close
{
	my ($self) = @_;
	my $end = time + 10;
	$self->{in} .= "\\q\n";
	while (time < $end)
	{
		last unless eval { $self->{h}->pump_nb; $self->{h}->pumpable };
		select undef, undef, undef, 0.02;
	}
	eval { $self->{h}->kill_kill(grace => 1) };
	return;
}

1;
