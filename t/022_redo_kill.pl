# Redo processes of a running pageserver are killed while an endpoint that has
# nothing of its own yet is under load: nobody notices.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time sleep);

my $t = NeonTest->new;
my $seconds = $NeonTest::long ? 60 : 5;
my $scale = $NeonTest::long ? 20 : 3;

$t->quickstart;
$t->cold;
$t->pgbench_init('main', $scale);
$t->pgbench('main', '-c', 2, '-t', 1000);
$t->neon('endpoint', 'restart', 'main');

# The supervisor's children have no title: they are known by their parent.
sub redo_processes
{
	my ($supervisor) = $t->children_of($t->postmaster_pid('pageserver'), qr/redo supervisor/);
	return $supervisor ? $t->children_of($supervisor, qr/--single/) : ();
}
sub stat_of { return $t->psql('pageserver', "SELECT value FROM neon_pageserver.stat_pageserver WHERE name = '$_[0]'") }

my $redone = stat_of('redo_pages');
my $c = $t->clients('main', n => 3, scale => $scale);
my $killed = 0;
my $end = time + $seconds;
while (time < $end)
{
	# on a busy machine a process takes long until it has made its first page
	my $made = stat_of('redo_pages');
	my $limit = time + 10;
	sleep 0.2 + rand 0.2;
	sleep 0.1 while stat_of('redo_pages') == $made && time < $limit;
	$killed += kill 'KILL', redo_processes();
}
ok($c->wait_progress(50), 'the load goes on') or diag($c->errors);
is(scalar($c->running), 3, 'no client had an error') or diag($c->errors);
$c->stop;

cmp_ok($killed, '>', 5, "$killed redo processes were killed");
cmp_ok(stat_of('redo_pages'), '>', $redone + 100, 'pages were redone meanwhile');
is(stat_of('redo_failed_pages'), 0, 'none of them failed');
$t->balances_agree('main');
my %present = map { $_ => 1 } split /\n/,
  $t->psql('main', "SELECT rtrim(filler) FROM pgbench_history WHERE filler LIKE '$c->{tag}.%'");
my @lost = grep { !$present{$_} } $c->acknowledged;
is(scalar(@lost), 0, 'all acknowledged transactions are there');
$t->amcheck('main');

# With them all pages can be made once more, elsewhere.
$t->neon('endpoint', 'restart', 'main');
$t->balances_agree('main', 'balances agree on a new boot');
$t->neon('stop');
done_testing();
