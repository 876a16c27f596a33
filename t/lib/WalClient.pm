# WalClient: a client of the replication protocol that can also misbehave.
#
#   my $c = WalClient->new($node, user => ..., options => '-c ...', application_name => ...);
#   my @rows = $c->rows('IDENTIFY_SYSTEM');          # dies with "SQLSTATE message ..."
#   $c->start('0/1000000'); my $m = $c->next; $c->status($lsn);
package WalClient;

use strict;
use warnings;
use Carp;
use NeonPageserver;
use Time::HiRes qw(time);

our @ISA = ('NeonPageserver::Connection');

# Dies if the server refuses the connection.
sub new
{
	my ($class, $node, %o) = @_;
	my $path = $node->host . '/.s.PGSQL.' . $node->port;
	my $sock = IO::Socket::UNIX->new(Type => NeonPageserver::SOCK_STREAM(), Peer => $path) or die "could not connect to $path: $!\n";
	my $c = bless { sock => $sock, buf => '' }, $class;
	my %p = (user => 'cloud_admin', database => 'postgres', replication => 'true', %o);
	my $body = pack('N', 196608) . join('', map { "$_\0$p{$_}\0" } sort keys %p) . "\0";
	$c->send_bytes(pack('N', 4 + length $body) . $body);
	$c->ready;
	return $c;
}

# "SQLSTATE message; DETAIL; HINT", of those that are there.
sub error
{
	my %f = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $_[0];
	return join('; ', "$f{C} $f{M}", map { defined $f{$_} ? $f{$_} : () } qw(D H));
}

# To the next ReadyForQuery; the rows on the way.
sub ready
{
	my ($c) = @_;
	my (@rows, $error);
	while (my ($type, $body) = $c->message)
	{
		$error = error($body) if $type eq 'E';
		push @rows, join('|', fields($body)) if $type eq 'D';
		next if $type ne 'Z';
		die "$error\n" if defined $error;
		return @rows;
	}
	die(($error // 'the connection ended') . "\n");
}

sub fields
{
	my ($n, $rest) = unpack 'n a*', $_[0];
	my @f;
	for (1 .. $n)
	{
		my $len = unpack 'l>', $rest;
		push @f, $len < 0 ? '' : substr $rest, 4, $len;
		$rest = substr $rest, 4 + ($len < 0 ? 0 : $len);
	}
	return @f;
}

sub rows { my ($c, $command) = @_; $c->query($command); return $c->ready }

# Begins to stream; dies if it is refused at once.
sub start
{
	my ($c, $lsn, %o) = @_;
	$c->query('START_REPLICATION ' . ($o{slot} ? "SLOT $o{slot} " : '') . "PHYSICAL $lsn" . ($o{tail} // ''));
	my ($type, $body) = $c->message;
	return $c if defined $type && $type eq 'W';
	die defined $type && $type eq 'E' ? error($body) . "\n" : "no stream\n";
}

# The next message of the stream: {type => w, start, end, data} or {type => k,
# end, reply}; {type => E, error} for an error, {type => c}; undef at the end.
sub next
{
	my ($c) = @_;
	my ($type, $body) = $c->message or return undef;
	return { type => $type, error => error($body) } if $type eq 'E';
	return { type => $type, body => $body } if $type ne 'd';
	my $kind = substr $body, 0, 1;
	if ($kind eq 'w')
	{
		my (undef, $start, $end) = unpack 'a Q> Q>', $body;
		return { type => 'w', start => $start, end => $end, data => substr $body, 25 };
	}
	my (undef, $end, undef, $reply) = unpack 'a Q> Q> C', $body;
	return { type => 'k', end => $end, reply => $reply };
}

# Reads WAL up to an LSN (a number); returns the bytes.
sub read_to
{
	my ($c, $end) = @_;
	my $data = '';
	while (my $m = $c->next)
	{
		croak "error: $m->{error}" if $m->{type} eq 'E';
		next if $m->{type} ne 'w';
		$data .= $m->{data};
		return $data if $m->{start} + length($m->{data}) >= $end;
	}
	croak 'the connection ended';
}

# A status report; options: written, flushed, applied (default: all lsn), ask.
sub status
{
	my ($c, $lsn, %o) = @_;
	return $c->send_message('d', pack('a Q> Q> Q> Q> C', 'r', $o{written} // $lsn, $o{flushed} // $lsn,
			$o{applied} // $lsn, 0, $o{ask} ? 1 : 0));
}

1;
