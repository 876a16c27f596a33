# Two computes that are started on one branch at the same instant, from two state
# directories that do not know of each other: exactly one lives.  And the next
# boot when the coordinator has published nothing.
use strict;
use warnings;
use File::Copy;
use IPC::Run qw(start timeout);
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $rounds = $ENV{NEON_TEST_ROUNDS} || ($NeonTest::long ? 15 : 2);
my $t = NeonTest->new(safekeepers => 3);
$t->quickstart;
$t->psql('main', 'CREATE EXTENSION IF NOT EXISTS neon; CREATE TABLE t(n int, who text)');

# ---- the coordinator hangs, or is killed, after the first commit ----

sub coordinator { return $t->children_of($t->postmaster_pid('main'), qr/neon coordinator/) }

$t->signal('STOP', coordinator());
$t->psql('main', "INSERT INTO t VALUES (0, 'hung')");
my $pid = $t->postmaster_pid('main');
my @kids = $t->children_of($pid, qr/./);
$t->signal('KILL', $pid, @kids);
$t->wait_for('the end of the server', sub { !grep { NeonTest::alive($_) } $pid, @kids });
system('rm', '-rf', $t->pgdata('main')) == 0 or die;
$t->endpoint_start('main');
is($t->psql('main', 'SELECT who FROM t'), 'hung', 'a commit that no coordinator has told of is there');
$pid = $t->postmaster_pid('main');
($pid, my $killed) = ($pid, coordinator());
$t->psql('main', "INSERT INTO t VALUES (0, 'killed')");
$t->signal('KILL', $killed);
$t->wait_for('the end of the server', sub { !NeonTest::alive($pid) });
$t->endpoint_start('main');
is($t->psql('main', 'SELECT count(*) FROM t'), '2', 'also of one that was killed, which ends the server');
$t->neon('endpoint', 'stop', 'main');

# ---- two at once ----

my %port = map { $_ => $t->free_port } qw(a b);
my %side = map { $_ => side($_) } qw(a b);
my @told;

sub side
{
	my ($name) = @_;
	my $s = NeonTest->new(safekeepers => 3, name => $name);
	mkdir $s->dir;
	copy($t->dir . '/config', $s->dir . '/config') or die "config: $!";
	chmod 0600, $s->dir . '/config';
	symlink $t->dir . "/$_", $s->dir . "/$_" or die "$_: $!" for qw(pageserver safekeepers);
	@{$s}{qw(ps_port tenant)} = ($t->{ps_port}, $t->tenant);
	$s->{ports}{$name} = $port{$name};
	return $s;
}

sub begin_start
{
	my ($neon, $name, @args) = @_;
	my $r = { name => $name, out => '' };
	local %ENV = (%ENV, $side{$name}->env);
	$r->{h} = start([ $neon, 'endpoint', 'start', $name, '--branch-name', 'main', '--port', $port{$name}, '--no-supervise', @args ],
		'<', \undef, '>', \$r->{out}, '2>', \$r->{out}, timeout(120));
	return $r;
}

# Has a test point stopped the program?
sub stopped { my ($h) = @_; return grep { (NeonTest::stat_field($_->{PID}, 3) || '') eq 'T' } @{ $h->{KIDS} } }

sub runs { my ($name) = @_; my $pid = $side{$name}->postmaster_pid($name); return $pid && NeonTest::alive($pid) ? 1 : 0 }

for my $round (1 .. $rounds)
{
	my @args = $round % 2 ? '--take-over' : ();
	my @starts = map { begin_start('neon', $_, @args) } qw(a b);
	$_->{h}->finish for @starts;
	unlike($_->{out}, qr/did not start(: it ended)?$/m, "round $round: $_->{name} says what came of it") for @starts;
	my @ok = grep { $_->{h}->result(0) == 0 } @starts;
	for my $s (@ok)
	{
		my $name = $s->{name};
		my ($rc) = $side{$name}->psql_raw($name, "INSERT INTO t VALUES ($round, '$name')", env => { PGOPTIONS => '-c statement_timeout=30s' });
		push @told, "$round|$name" if $rc == 0;
	}
	# one that was superseded may not have heard of it yet
	my $one = eval { $t->wait_for('exactly one', sub { runs('a') + runs('b') == 1 }, 60) };
	ok($one, "round $round: exactly one lives") or diag(map { "$_->{name}: $_->{out}\n" } @starts);
	my ($alive) = grep { runs($_) } qw(a b);
	last if !$alive;
	$side{$alive}->poll($alive, 'SELECT 1', '1');
	my %there = map { $_ => 1 } split /\n/, $side{$alive}->psql($alive, 'SELECT n, who FROM t');
	is(join(' ', grep { !$there{$_} } @told), '', "round $round: all that was acknowledged is there");
	sleep 3;
	is(runs('a') + runs('b'), 1, "round $round: and goes on alone");
	$side{$alive}->neon('endpoint', 'stop', $alive);
}

# ---- the loser says why, whatever its launcher saw of it ----

SKIP:
{
	my $neon = ($ENV{NEON_TESTING_LIBDIR} || '') . '/bin/neon';
	skip 'no build with TESTING=1', 1 unless -x $neon;
	local $ENV{NEON_TEST_STOP_AT} = 'started';
	my $loser = begin_start($neon, 'a', '--take-over');
	$t->wait_for('a compute whose launcher has been stopped', sub { $loser->{h}->pumpable && runs('a') && stopped($loser->{h}) });
	delete $ENV{NEON_TEST_STOP_AT};
	my $winner = begin_start('neon', 'b', '--take-over');
	$winner->{h}->finish;
	is($winner->{h}->result(0), 0, 'the other one starts') or diag($winner->{out});
	$t->wait_for('the end of the first', sub { !runs('a') });
	$loser->{h}->signal('CONT');
	$loser->{h}->finish;
	is($loser->{h}->result(0), 1, 'the start of the loser fails');
	like($loser->{out}, qr/^neon: error: endpoint "a" did not start: superseded by term \d+.*\nHINT: .*--take-over/m, 'and says why');
	$side{b}->neon('endpoint', 'stop', 'b');
}
cmp_ok(scalar(@told), '>=', $rounds, 'each round had somebody who wrote');
$t->endpoint_start('main');
$t->amcheck('main');
$t->neon('stop');
done_testing();
