# Power cuts of the machine that runs everything, under load: what was not
# synchronized is gone, what was acknowledged is there.
use strict;
use warnings;
use Cwd qw(realpath);
use NeonTest;
use PowerCut;
use Test::More;

plan skip_all => 'no libraries with injection points' unless PowerCut::available();

my $rounds = $NeonTest::long ? 12 : 2;
my $t = NeonTest->new(safekeepers => 0);
$t->init;
my $dir = realpath($t->dir);
my @watched = ("$dir/.", "$dir/pageserver/pgdata/neon");
push @watched, map { "$dir/endpoints/main/$_" } '.', 'conf', 'pgdata/.', 'pgdata/pg_wal', 'pgdata.new/.', 'pgdata.new/pg_wal';
my $cut = PowerCut->new(log => $t->tmp . '/powercut', dirs => \@watched);

# What runs with the library is this test's "neon" and all that it starts.
sub neon
{
	return $t->neon(@_, { env => { $cut->env }, timeout => 300 });
}

neon('start');
# stored WAL is removed as soon as it is in layers
$t->psql('pageserver', 'ALTER SYSTEM SET neon_pageserver.wal_keep = 0');
$t->psql('pageserver', 'SELECT pg_reload_conf()');
neon('tenant', 'create', '--set-default', '--wal-segsize', 1);
my $port = NeonTest::free_port();
neon('endpoint', 'start', 'main', '--port', $port);
$t->set_port('main', $port);
$t->psql('main', 'CREATE EXTENSION amcheck');
$t->pgbench_init('main', 1);

my @all;
for my $round (1 .. $rounds)
{
	my $clients = $t->clients('main', n => 4);
	push @all, $clients;
	ok($clients->wait_progress(100, 120), "round $round: load runs") or diag($clients->errors);
	$t->psql('main', 'CHECKPOINT') if $round % 2;
	$t->psql('pageserver', 'SELECT neon_pageserver.timeline_checkpoint(tenant_id, timeline_id) FROM neon_pageserver.timelines')
	  if $round % 2 == 0;
	$clients->wait_progress(20 + int(rand 100), 120);

	my $seed = $round % 2 ? undef : int(rand 2**30);
	$cut->cut_machine($t);
	is(scalar($t->our_processes), 0, 'nothing runs any more');
	$clients->stop;
	my $undone = $cut->undo(defined $seed ? (seed => $seed) : ());
	cmp_ok($undone, '>', 0, 'something was not synchronized: ' . (defined $seed ? "seed $seed" : 'all of it') . ' is undone');

	neon('start');
	neon('endpoint', 'start', 'main');
	my @lost = map { $_->lost('main') } @all;
	is(scalar(@lost), 0, 'no acknowledged transaction is lost') or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
	$t->balances_agree('main', 'balances agree');
	$t->amcheck('main', 'amcheck');
}

# stopped before: its pages may not be on disk, so they are not taken over
neon('endpoint', 'stop', 'main');
$cut->cut_machine($t);
$cut->undo;
neon('start');
like(neon('endpoint', 'start', 'main'), qr/^Local pages of the last run are not kept: the machine was booted since$/m, 'a power cut after a clean stop');
$t->balances_agree('main', 'balances agree');
$t->neon('stop');
is($t->neon('start') ? 1 : 0, 1, 'a start without the library');
$t->endpoint_start('main');
$t->balances_agree('main', 'balances agree at the end');

done_testing();
