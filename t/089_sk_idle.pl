# Many timelines, few of them in use: memory and processes of the safekeepers
# are those of the few.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'make check-long has it' if !$NeonTest::long;

my ($idle, $active) = (990, 5);
my @sk = map { "safekeeper $_" } 1 .. 3;
my $t = NeonTest->new(safekeepers => 3);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
my @endpoints = ('main', map { "b$_" } 2 .. $active);
$t->psql('main', 'CREATE TABLE t (i int)');
for my $b (@endpoints[ 1 .. $#endpoints ])
{
	$t->neon('timeline', 'branch', '--branch-name', $b);
	$t->endpoint_start($b, branch => $b);
}

sub members
{
	return join ', ', map {
		my $uuid = $t->psql($sk[ $_ - 1 ], 'SELECT neon_safekeeper.node_uuid()');
		qq({"id": $_, "node": "$uuid", "host": "127.0.0.1", "port": ) . $t->config("safekeeper.$_.port") . '}'
	} 1 .. 3;
}

# Proportional memory of all processes of a safekeeper (kB), and how many there are.
sub costs
{
	my ($sk) = @_;
	my $pid = $t->postmaster_pid($sk);
	my ($pss, $n) = (0, 0);
	for my $p ($pid, $t->children_of($pid, qr/^(?!.*\b(?:autovacuum worker|parallel worker|cloud_admin)\b)/))
	{
		open my $f, '<', "/proc/$p/smaps_rollup" or next;
		my ($kb) = map { /^Pss:\s+(\d+) kB/ ? $1 : () } <$f>;
		next if !defined $kb;
		$pss += $kb;
		$n++;
	}
	return ($pss, $n);
}

# All safekeepers anew, then all endpoints write; what each safekeeper costs then.
sub measure
{
	my ($what) = @_;
	my %cost;
	for my $id (1 .. 3)
	{
		$t->neon('safekeeper', 'stop', $id);
		my $from = time;
		$t->neon('safekeeper', 'start', $id);
		note(sprintf('%s: safekeeper %d started in %.1f s', $what, $id, time - $from));
	}
	for my $ep (@endpoints)
	{
		$t->psql($ep, 'INSERT INTO t SELECT generate_series(1, 20000)');
		$t->poll($_, "SELECT flush_lsn >= '" . $t->insert_lsn($ep) . "' FROM neon_safekeeper.timelines WHERE timeline_id = '" . $t->timeline($ep) . "'") for @sk;
	}
	for my $sk (@sk)
	{
		$t->wait_for("$active receivers", sub { $t->children_of($t->postmaster_pid($sk), qr/neon wal receiver/) == $active });
		$cost{$sk} = [ costs($sk) ];
		note("$what: $sk has @{ $cost{$sk} }[1] processes with @{ $cost{$sk} }[0] kB");
	}
	return %cost;
}

my %before = measure('without');
my $config = '{"generation": 1, "floor": 0, "members": [' . members() . '], "new_members": null}';
for my $sk (@sk)
{
	$t->psql($sk, "SELECT neon_safekeeper.timeline_create(md5('tenant'), md5(g::text), 1, 1048576, 1, '0/1000000', 0, '[[0, \"0/1000000\"]]', '$config') FROM generate_series(1, $idle) g", timeout => 600);
}
# they were active when they were created, and for a minute peers tell each other
$t->poll($_, "SELECT count(*) = 0 FROM neon_safekeeper.positions() WHERE tenant_id = md5('tenant')", 't', timeout => 180) for @sk;
my %after = measure("with $idle idle timelines");
for my $sk (@sk)
{
	cmp_ok($after{$sk}[1], '<=', $before{$sk}[1] + 1, "$sk has no more processes");
	cmp_ok($after{$sk}[0] - $before{$sk}[0], '<', 4096 + 16 * $idle, "and little more memory: $before{$sk}[0] kB, $after{$sk}[0] kB");
	is($t->psql($sk, "SELECT count(*) FROM neon_safekeeper.timelines WHERE state = 'idle'"), $idle, 'the idle ones were not even opened');
	is($t->psql($sk, "SELECT count(*) FROM neon_safekeeper.positions() p WHERE tenant_id = md5('tenant')"), '0', 'nor told of');
}
my $pos = $t->psql($sk[0], "SELECT flush_lsn FROM neon_safekeeper.positions(md5('tenant'), md5('1'))");
is($pos, '0/1000000', 'one is there when it is asked for');
$t->neon('stop');
done_testing();
