# Crashes of all kinds, drawn by seed, under load, until the time is over.
use strict;
use warnings;
use File::Path qw(remove_tree);
use NeonTest;
use Test::More;
use Time::HiRes qw(time sleep);

my $end = time + 3600 * ($ENV{NEON_TEST_SOAK_HOURS} || 1);
my $scale = 5;
my $t = NeonTest->new;
$t->quickstart;
$t->psql('main', 'CREATE EXTENSION amcheck');
$t->pgbench_init('main', $scale);

my ($round, $clients) = (0, undef);
my %acked;

sub boot { $t->endpoint_start('main', timeout => 300) }

my %events = (
	'kill -9 of the compute' => sub { $t->kill9('main', nowait => rand() < 0.5); boot() },
	'kill -9 of the pageserver' => sub { $t->kill9('pageserver', nowait => 1); sleep rand 3; $t->neon('pageserver', 'start') },
	'kill -9 of both' => sub { $t->kill9($_, nowait => 1) for 'pageserver', 'main'; $t->neon('pageserver', 'start'); boot() },
	'crash of a backend of the compute' => sub {
		my $pid = $t->postmaster_pid('main');
		my @b = $t->children_of($pid, qr/cloud_admin/) or return;
		$t->signal(rand() < 0.5 ? 'SEGV' : 'KILL', $b[ rand @b ]);
		$t->wait_for('the end of the postmaster', sub { !NeonTest::alive($pid) }, 60);
		boot();
	},
	'crash of a process of the pageserver' => sub {
		my @b = $t->children_of($t->postmaster_pid('pageserver'), qr/./) or return;
		my $v = $b[ rand @b ];
		note(NeonTest::cmdline($v));
		$t->signal(rand() < 0.5 ? 'SEGV' : 'KILL', $v);
		sleep 3;
	},
	'clean restart without the directory' => sub {
		$t->endpoint_stop('main');
		remove_tree($t->pgdata('main'));
		boot();
	},
	'immediate stop' => sub { $t->endpoint_stop('main', '-m', 'immediate'); boot() },
	'stop and start of everything' => sub { $t->neon('stop', { timeout => 300 }); $t->neon('start', '--endpoints', { timeout => 300 }) },
	'a paused walsender' => sub {
		my ($s) = $t->children_of($t->postmaster_pid('main'), qr/walsender/) or return;
		$t->signal('STOP', $s);
		sleep 2 + rand 5;
		$t->signal('CONT', $s) if NeonTest::alive($s);
	},
	'a branch' => sub {
		my $b = "b$round";
		my @a = $clients->acknowledged;
		$t->neon('timeline', 'branch', '--branch-name', $b);
		$t->endpoint_start($b, branch => $b);
		my %there = map { $_ => 1 } split /\n/, $t->psql($b, 'SELECT rtrim(filler) FROM pgbench_history', timeout => 300);
		my @lost = grep { !$there{$_} } @a;
		is(scalar(@lost), 0, "round $round: the branch has what was acknowledged");
		$t->balances_agree($b, "round $round: balances on the branch");
		$t->endpoint_stop($b);
		$t->neon('endpoint', 'destroy', $b);
	});

while (time < $end)
{
	$round++;
	my @names = sort keys %events;
	my $what = $names[ rand @names ];
	$clients = $t->clients('main', n => 6, scale => $scale);
	$clients->wait_progress(100 + int(rand(500)), 120) or diag('slow: ' . $clients->errors);
	note("round $round: $what");
	my $ok = eval { $events{$what}->(); 1 };
	ok($ok, "round $round: $what") or diag($@);
	last unless $ok;
	$clients->stop;
	my @lost = $clients->lost('main');
	is(scalar(@lost), 0, "round $round: nothing acknowledged is lost after $what") or last;
	$t->balances_agree('main', "round $round: balances agree") or last;
	$t->amcheck('main', "round $round: amcheck") if $round % 10 == 0;
}
$t->neon('stop');
done_testing();
