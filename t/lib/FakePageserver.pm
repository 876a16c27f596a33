# FakePageserver: speaks the page service's protocol from a local reference
# data directory, and misbehaves on demand.
#
#   my $fake = FakePageserver->new($ref->data_dir);
#   $node conf: "neon.pageserver_connstring = '" . $fake->connstring . "'"
#   $fake->mode('retry');       # from the next request on, for all connections
#   my @requests = $fake->requests;
#
# Modes: ok, delay MS, retry, final BLOCK, superseded, drop, drop BLOCK, garbage,
# wrong_id, short, hang, refuse, starting, call_error, truncated.  A number and a colon
# before a mode limit it to so many requests ("2:drop"); with a block only requests
# that have it are meant.
package FakePageserver;

use strict;
use warnings;
use Carp;
use IO::Socket::INET;
use Time::HiRes qw(usleep);

my @live;

sub new
{
	my ($class, $pgdata) = @_;
	my $self = bless {
		pgdata => $pgdata,
		control => "$pgdata.fake-mode",
		log => "$pgdata.fake-log",
		connections => "$pgdata.fake-connections",
		pid => undef
	}, $class;
	$self->mode('ok');
	$self->start;
	push @live, $self;
	return $self;
}

sub start
{
	my ($self) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		LocalPort => $self->{port} // 0,
		Listen => 50,
		ReuseAddr => 1) or croak "listen: $!";
	$self->{port} = $listener->sockport;
	my $pid = fork // croak "fork: $!";
	if ($pid == 0)
	{
		setpgrp(0, 0);
		$SIG{CHLD} = 'IGNORE';
		$SIG{TERM} = 'DEFAULT';
		# if nobody stops it
		alarm 300;
		open(STDIN, '<', '/dev/null');
		while (my $client = $listener->accept)
		{
			next if fork;
			close $listener;
			alarm 300;
			eval { $self->serve($client) };
			POSIX::_exit(0);
		}
		POSIX::_exit(0);
	}
	$self->{pid} = $pid;
	return;
}

# Ends it and all its connections.
sub stop
{
	my ($self) = @_;
	return unless $self->{pid};
	kill 'KILL', -$self->{pid};
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
	return;
}

sub connstring
{
	my ($self) = @_;
	return "host=127.0.0.1 port=$self->{port} user=tenant dbname=postgres sslmode=disable";
}

sub mode
{
	my ($self, $mode) = @_;
	# the processes of the server change it too
	my $new = "$self->{control}.$$";

	open(my $fh, '>', $new) or croak "$self->{control}: $!";
	print $fh $mode;
	close $fh;
	rename $new, $self->{control} or croak "$self->{control}: $!";
	return;
}

sub current_mode
{
	my ($self) = @_;
	open(my $fh, '<', $self->{control}) or return 'ok';
	my $mode = <$fh> // 'ok';
	close $fh;
	if ($mode =~ /^(\d+):(.*)/)
	{
		return 'ok' if $1 == 0;
		$self->mode(($1 - 1) . ":$2");
		return $2;
	}
	return $mode;
}

# Each as a hash of the request's fields.
sub requests
{
	my ($self) = @_;
	open(my $fh, '<', $self->{log}) or return ();
	my @keys = qw(nblocks reqid lsn nms term spc db rel fork blk);
	my @requests;
	while (<$fh>)
	{
		chomp;
		my %r;
		@r{@keys} = split / /;
		push @requests, \%r;
	}
	return @requests;
}

# How many were begun, whatever became of them.
sub connections
{
	my ($self) = @_;
	return -s $self->{connections} || 0;
}

sub clear_requests
{
	my ($self) = @_;
	unlink $self->{log};
	return;
}

# ------------------------------------------------------------ a connection --

sub read_exactly
{
	my ($client, $n) = @_;
	my $buf = '';
	while (length($buf) < $n)
	{
		my $got = sysread($client, $buf, $n - length($buf), length($buf));
		die 'closed' unless $got;
	}
	return $buf;
}

sub write_all
{
	my ($client, $bytes) = @_;
	while (length($bytes))
	{
		my $n = syswrite($client, $bytes);
		die 'closed' unless defined $n;
		substr($bytes, 0, $n) = '';
	}
	return;
}

sub message
{
	my ($type, $body) = @_;
	return $type . pack('N', 4 + length $body) . $body;
}

sub error_message
{
	my ($state, $text) = @_;
	return message('E', "SERROR\0C$state\0M$text\0\0");
}

sub serve
{
	my ($self, $client) = @_;
	my $mode = $self->current_mode;
	binmode $client;
	open(my $connections, '>>', $self->{connections}) or die;
	syswrite($connections, '.');
	close $connections;
	die 'refused' if $mode eq 'refuse';
	while (1)
	{
		my ($len) = unpack 'N', read_exactly($client, 4);
		my ($code) = unpack 'N', read_exactly($client, $len - 4);
		last if $code == 196608;
		die 'cancel' if $code == 80877102;
		write_all($client, 'N');
	}
	if ($mode eq 'starting')
	{
		write_all($client, error_message('57P03', 'the database system is starting up'));
		die 'starting';
	}
	write_all($client, message('R', pack 'N', 0) . message('S', "server_version\00015.20\0") . message('Z', 'I'));
	while (1)
	{
		my ($type, $len) = unpack 'aN', read_exactly($client, 5);
		my $body = read_exactly($client, $len - 4);
		die 'bye' if $type eq 'X';
		die "unexpected $type" if $type ne 'Q';
		die 'unexpected query' if $body !~ /^CALL neon_pageserver\.pagestream\('1{32}', '2{32}'\)/;
		last if $self->current_mode ne 'call_error';
		write_all($client, error_message('57P03', 'the page service is resting') . message('Z', 'I'));
	}
	write_all($client, message('W', pack 'Cn', 0, 0));
	while (1)
	{
		my ($type, $len) = unpack 'aN', read_exactly($client, 5);
		my $body = read_exactly($client, $len - 4);
		die 'bye' if $type eq 'X';
		$self->answer($client, $body) if $type eq 'd';
	}
}

sub error_answer
{
	my ($reqid, $class, $state, $text, $detail, $hint) = @_;
	return message('d', pack('aCn Q>Q> a a5', 'e', 1, 0, $reqid, 0, $class, $state) . "$text\0$detail\0$hint\0");
}

sub answer
{
	my ($self, $client, $body) = @_;
	my ($tag, $version, $n, $reqid, $lsn, $nms, $term, $spc, $db, $rel, $fork, $blk) = unpack 'aCn Q>Q>Q> N NNN C N', $body;
	my $mode = $self->current_mode;

	open(my $log, '>>', $self->{log}) or die;
	syswrite($log, "$n $reqid $lsn $nms $term $spc $db $rel $fork $blk\n");
	close $log;

	die 'drop' if $mode =~ /^drop(?: (\d+))?$/ && (!defined $1 || $1 >= $blk && $1 < $blk + $n);
	if ($mode eq 'hang')
	{
		sleep 1 while $self->current_mode eq 'hang';
		$mode = 'ok';
	}
	usleep(1000 * $1) if $mode =~ /^delay (\d+)/;
	return write_all($client, message('d', "\0garbage")) if $mode eq 'garbage';
	return write_all($client, error_answer($reqid, 'R', '57P03', 'the WAL has not come yet', '', '')) if $mode eq 'retry';
	return write_all($client, error_answer($reqid, 'S', 'NS001', 'superseded by term 7', '', '')) if $mode eq 'superseded';
	return write_all($client, error_answer($reqid, 'F', 'XX001', "page $1 is damaged", 'The checksum is wrong.', 'Restore it.'))
	  if $mode =~ /^final (\d+)/ && $1 >= $blk && $1 < $blk + $n;
	$reqid++ if $mode eq 'wrong_id';
	$n-- if $mode eq 'short';

	my $path = $spc == 1664 ? "global/$rel" : $spc == 1663 ? "base/$db/$rel" : die;
	$path .= '_vm' if $fork == 2;
	open(my $fh, '<:raw', "$self->{pgdata}/$path") or die "$path: $!";
	sysseek($fh, $blk * 8192, 0);
	my $pages = '';
	while (length($pages) < $n * 8192)
	{
		sysread($fh, $pages, $n * 8192 - length($pages), length $pages) or last;
	}
	close $fh;
	$pages .= "\0" x ($n * 8192 - length $pages);
	my $out = message('d', pack('aCn Q>Q>', 'p', 1, $n, $reqid, $nms) . $pages);
	if ($mode eq 'truncated')
	{
		write_all($client, substr($out, 0, 4000));
		die 'truncated';
	}
	return write_all($client, $out);
}

END
{
	my $status = $?;
	$_->stop for @live;
	$? = $status;
}

1;
