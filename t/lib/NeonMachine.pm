# NeonMachine: a second machine for a compute.  It is a network namespace that
# reaches the services of this one at their usual addresses, by a link that can
# be cut as a whole, in one direction, or for some ports.
#
#   BEGIN { NeonMachine::enter() }                  # as root, before NeonTest
#   my $m = NeonMachine->new(here => [ 64000, 5454 ], there => [ 55432 ]);
#   my $t = NeonTest->new(within => [ $m->prefix ]);
#   $m->cut;  $m->cut(out => 1);  $m->cut(ports => [ 5454 ]);  $m->heal;
package NeonMachine;

use strict;
use warnings;
use Carp;
use Test::More;

my $count = 0;

# Goes on in a network of its own, so that rules and links disturb nobody.
sub enter
{
	plan skip_all => 'needs root, for network namespaces' if $> != 0;
	if (!$ENV{NEON_TEST_OWN_NETWORK})
	{
		$ENV{NEON_TEST_OWN_NETWORK} = 1;
		$ENV{PATH} .= ':/usr/sbin:/sbin';
		exec 'unshare', '-n', $^X, (map { ('-I', $_) } @INC), $0, @ARGV;
	}
	must(qw(ip link set lo up));
	return;
}

sub must
{
	my (@command) = @_;
	system(@command) == 0 or croak "failed: @command";
	return;
}

sub set_here
{
	my ($name, $value) = @_;
	open my $f, '>', "/proc/sys/net/ipv4/$name" or croak "$name: $!";
	print $f "$value\n";
	close $f or croak "$name: $!";
	return;
}

# here: ports of this machine's services, there: ports of that one's, each
# reached at 127.0.0.1 on both.
sub new
{
	my ($class, %o) = @_;
	my $n = ++$count;
	my $pid = fork;
	croak "fork: $!" unless defined $pid;
	if (!$pid)
	{
		open STDIN, '<', '/dev/null';
		exec 'unshare', '-n', 'sleep', '100000';
	}
	my $self = bless { %o, pid => $pid, near => "10.77.$n.1", far => "10.77.$n.2", n => $n, owner => $$ }, $class;
	for (1 .. 100)
	{
		last if (readlink("/proc/$pid/ns/net") // '') ne readlink('/proc/self/ns/net');
		select undef, undef, undef, 0.05;
	}
	must(qw(ip link add), "near$n", qw(type veth peer name far netns), $pid);
	must(qw(ip address add), "$self->{near}/24", 'dev', "near$n");
	must(qw(ip link set), "near$n", 'up');
	set_here("conf/near$n/route_localnet", 1);
	$self->there(qw(ip address add), "$self->{far}/24", qw(dev far));
	$self->there(qw(ip link set far up));
	$self->there(qw(ip link set lo up));
	$self->there('sh', '-c', 'echo 1 > /proc/sys/net/ipv4/conf/far/route_localnet');
	must('nft', rules("near$n", $self->{near}, $self->{far}, $o{there}, $o{here}));
	$self->there('nft', rules('far', $self->{far}, $self->{near}, $o{here}, $o{there}));
	$self->there('nft', 'add table ip cuts');
	return $self;
}

# What one end does: connections to 127.0.0.1 and one of the other's ports go
# over the link, and those that come from there are to 127.0.0.1 again, as all
# services here listen there and let in nobody else.
sub rules
{
	my ($link, $own, $other, $their_ports, $own_ports) = @_;
	my ($theirs, $ours) = map { join ',', @$_ } $their_ports, $own_ports;
	return <<"NFT";
add table ip machine$own;
add chain ip machine$own going { type nat hook output priority -100; };
add chain ip machine$own gone { type nat hook postrouting priority 100; };
add chain ip machine$own coming { type nat hook prerouting priority -100; };
add chain ip machine$own come { type nat hook input priority 100; };
add rule ip machine$own going ip daddr 127.0.0.1 tcp dport { $theirs } dnat to $other;
add rule ip machine$own gone oifname $link snat to $own;
add rule ip machine$own coming iifname $link tcp dport { $ours } dnat to 127.0.0.1;
add rule ip machine$own come iifname $link snat to 127.0.0.1;
NFT
}

# Before a command that is to run there.
sub prefix { my ($self) = @_; return ('nsenter', '-t', $self->{pid}, '-n', '--') }

sub there
{
	my ($self, @command) = @_;
	must($self->prefix, @command);
	return;
}

# Packets are lost: those from there (out), those to there (in), or both; ports:
# only those of connections to these ports, on either side.
sub cut
{
	my ($self, %o) = @_;
	my ($in, $out) = $o{in} || $o{out} ? ($o{in}, $o{out}) : (1, 1);
	my $ports = join ',', @{ $o{ports} || [] };
	my @which = $ports ? map { "tcp $_ { $ports } " } qw(sport dport) : ('');
	my @rules = ('flush table ip cuts;',
		'add chain ip cuts out { type filter hook postrouting priority 200; };',
		'add chain ip cuts in { type filter hook prerouting priority -300; };');
	push @rules, map { "add rule ip cuts out oifname far ${_}drop;" } $out ? @which : ();
	push @rules, map { "add rule ip cuts in iifname far ${_}drop;" } $in ? @which : ();
	$self->there('nft', "@rules");
	return;
}

sub heal
{
	my ($self) = @_;
	$self->there('nft', 'flush table ip cuts');
	return;
}

sub DESTROY
{
	my ($self) = @_;
	return if $self->{owner} != $$;
	local $?;
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

1;
