# Power cuts of the machine that runs three safekeepers and the pageserver,
# under load, and of single safekeepers: what was not synchronized is gone,
# what was acknowledged is there.
use strict;
use warnings;
use Cwd qw(realpath);
use NeonQuorum;
use NeonTest;
use PowerCut;
use Test::More;

plan skip_all => 'no libraries with injection points' unless PowerCut::available();

my $rounds = $NeonTest::long ? 12 : 2;
my $t = NeonTest->new(safekeepers => 3);
$t->init;
my $dir = realpath($t->dir);
my @watched = map { "$dir/$_/pgdata/neon" } 'pageserver', map { "safekeepers/$_" } 1 .. 3;
my $cut = PowerCut->new(log => $t->tmp . '/powercut', dirs => [ "$dir/.", @watched ]);

# What runs with the library is this test's "neon" and all that it starts.
sub neon { return $t->neon(@_, { env => { $cut->env }, timeout => 300 }) }

neon('start');
neon('tenant', 'create', '--set-default', '--wal-segsize', '1');
my $port = NeonTest::free_port();
neon('endpoint', 'start', 'main', '--port', $port);
$t->set_port('main', $port);
$t->psql('main', 'CREATE EXTENSION neon; CREATE EXTENSION amcheck');
$t->pgbench_init('main', 1);

my @all;
my $undone_at_all = 0;
for my $round (1 .. $rounds)
{
	my $clients = $t->clients('main', n => 4);
	push @all, $clients;
	ok($clients->wait_progress(100, 120), "round $round: load runs") or diag($clients->errors);
	$t->psql('pageserver', 'SELECT neon_pageserver.timeline_checkpoint(tenant_id, timeline_id) FROM neon_pageserver.timelines')
	  if $round % 3 == 0;
	$clients->wait_progress(20 + int(rand 100), 120);

	my $seed = $round % 2 ? undef : int(rand 2**30);
	$cut->cut_machine($t);
	is(scalar($t->our_processes), 0, 'nothing runs any more');
	$clients->stop;
	my $undone = $cut->undo(defined $seed ? (seed => $seed) : ());
	note("$undone changes that were not synchronized are undone: " . (defined $seed ? "seed $seed" : 'all of them'));
	$undone_at_all += $undone;

	neon('start');
	neon('endpoint', 'start', 'main');
	my @lost = map { $_->lost('main') } @all;
	is(scalar(@lost), 0, 'no acknowledged transaction is lost') or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
	NeonQuorum::wait_streaming($t, 'main', 3);
	is(join(',', map { NeonQuorum::positions($t, 'main', $_, 'state') } 1 .. 3), 'active,active,active', 'no member is damaged');
	$t->balances_agree('main', 'balances agree');
}

cmp_ok($undone_at_all, '>', 0, 'not all was synchronized');

# ---- one safekeeper alone, the others go on: what it acknowledged it has ----
my $own = PowerCut->new(log => $t->tmp . '/powercut.own', dirs => [ $watched[1] ]);
my $clients = $t->clients('main', n => 4);
push @all, $clients;
for my $round (1 .. $rounds)
{
	my $seed = int(rand 2**30);
	$t->neon('safekeeper', 'stop', 1, '-m', 'immediate');
	$t->neon('safekeeper', 'start', 1, { env => { $own->env(at => 100 + int(rand 200)) } });
	$t->wait_for('the power cut', sub { $own->was_cut });
	# what changes a file hangs from here on
	my $pid = $t->postmaster_pid('safekeeper 1');
	my @pids = ($pid, $t->children_of($pid, qr/./));
	$t->signal('KILL', @pids);
	$t->wait_for('the end of safekeeper 1', sub { !grep { NeonTest::alive($_) } @pids });
	my $undone = $own->undo($round % 2 ? () : (seed => $seed));
	pass("a power cut of safekeeper 1 alone, seed $seed: $undone changes undone");
	$t->neon('safekeeper', 'start', 1);
	NeonQuorum::wait_streaming($t, 'main', 3);
	is(NeonQuorum::positions($t, 'main', 1, 'state'), 'active', 'it is back, and not damaged');
}
$clients->stop;
my @lost = map { $_->lost('main') } @all;
is(scalar(@lost), 0, 'no acknowledged transaction is lost') or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
$t->amcheck('main', 'amcheck');
$t->endpoint_stop('main');
$t->wait_for('equal positions',
	sub { my %p = map { NeonQuorum::positions($t, 'main', $_, 'flush_lsn, commit_lsn') => 1 } 1 .. 3; keys %p == 1 });
NeonQuorum::check_wal($t, 'main', 'at the end');

done_testing();
