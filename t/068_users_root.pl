# As root: the servers run as another user, and nothing of root's is needed.
use strict;
use warnings;
use File::stat;
use IO::Socket::INET;
use NeonTest;
use Test::More;

plan skip_all => 'needs root' if $> != 0;

my $t = NeonTest->new;
umask 0077;
$t->quickstart;
is($t->psql('main', 'SELECT 1'), '1', 'the quick start works as root');
my $pid = $t->postmaster_pid('main');
my $owner = getpwuid(stat("/proc/$pid")->uid);
is($owner, 'postgres', 'the servers run as postgres');
$t->kill9('main');
$t->endpoint_start('main');
is($t->psql('main', 'SELECT 2'), '2', 'after a crash');
$t->neon('timeline', 'branch', '--branch-name', 'b');
$t->endpoint_start('b', branch => 'b');
is($t->psql('b', 'SELECT 3'), '3', 'a branch');
$t->neon('stop');

# a directory that postgres cannot reach
my $private = $t->tmp . '/private';
mkdir $private, 0700;
my $u = NeonTest->new(name => 'unreachable');
$u->{dir} = "$private/state";
$u->neon_fails([ 'init', '--safekeepers', '0', '--pageserver-port', $u->free_port ],
	qr/postgres/, qr{/var/lib/neon}, 'a directory out of reach for postgres');
my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $u->free_port, Listen => 1, Proto => 'tcp', ReuseAddr => 1) or die;
$u->{dir} = $u->tmp . '/new';
$u->neon_fails([ 'init', '--pageserver-port', $s->sockport ], qr/in use/, qr/--pageserver-port/, 'init with a port in use');
ok(!-e $u->dir, 'leaves no directory behind');
is(scalar(my @left = $t->left_running), 0, 'nothing is left running');
done_testing();
