# Taking over a branch from a primary that lives, and what becomes of that one.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart;
$t->pgbench_init('main', 1);

for my $how ('live', 'stopped by SIGSTOP')
{
	my ($old, $new) = $how eq 'live' ? ('main', 'b') : ('b', 'c');
	my $c = $t->clients($old, n => 4);
	ok($c->wait_progress(100, 60), "$how: load");
	my $pid = $t->postmaster_pid($old);
	$t->signal('STOP', $pid, $t->children_of($pid, qr/./)) if $how ne 'live';
	$t->neon_fails([ 'endpoint', 'start', $new, '--branch-name', 'main', '--port', $t->free_port ],
		qr/./, qr/take-over/, "$how: refused without --take-over");
	$t->endpoint_start($new, branch => 'main', take_over => 1);
	ok(!NeonTest::alive($pid), "$how: the old primary is gone");
	$c->stop;
	is(scalar($c->lost($new)), 0, "$how: every acknowledged transaction is there");
	$t->balances_agree($new);
	$t->psql($new, "CREATE TABLE by_$new(a int)");
}
$t->amcheck('c');
like($t->neon('endpoint', 'list'), qr/main\s.*(stopped|crashed)/i, 'the list tells the truth');
$t->neon('stop');
done_testing();
