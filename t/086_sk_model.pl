# Random walks of the models of the WAL service on the real functions
# (neon_safekeeper_bgw/test/replay.c), states compared after every step: with
# fixed members, while WAL is removed and members jump, and while they change;
# and bugs planted there, which the comparison must find.
use strict;
use warnings;
use NeonSafekeeper;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use WalModel;

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_safekeeper.so";

my $soak = $ENV{NEON_TEST_SOAK_HOURS};
my $long = $ENV{NEON_TEST_LONG} || $soak;
my $batches = $soak ? 100 : $long ? 20 : 1;
my $traces = $long ? 100 : 20;
my $seed = $ENV{NEON_TEST_SEED} || (time ^ $$) & 0xffffff;
note("seed $seed");

my $model = WalModel->new(LAUNCHERS => $long ? 6 : 4, LENGTH => 6, TAIL => '', TRACE => '', -PRINTF => '', -T_RAND => '', -optimize => $long ? 1 : 0);
my $sk = NeonSafekeeper->new('sk');
$sk->node->append_conf('postgresql.conf', "fsync = off\nneon_safekeeper.max_retained = 0\nneon_safekeeper.retention_interval = 1h\n");
$sk->restart('fast');

# Steps of a batch, or undef with the reason.  begin: the line that was killed.
sub replay
{
	my ($text, $number, $settings, $begin) = @_;
	my $kills = defined $begin ? 'true' : 'false';
	$begin //= 0;
	local $ENV{PGUSER} = 'cloud_admin';
	my ($rc, $out, $err) = $sk->node->psql('postgres', "$settings SELECT neon_sk_test.replay(\$trace\$$text\$trace\$, $number, $kills, $begin)", timeout => 600);
	return $rc == 0 ? ($out, '') : (undef, $err);
}

# The walk up to the step that went wrong.
sub walk
{
	my ($text, $error) = @_;
	my ($trace, $step) = $error =~ /trace (\d+), step (\d+)/ or return '';
	my @lines = split /\n/, $text;
	shift @lines while @lines && $lines[0] !~ /^trace $trace /;
	return join "\n", grep { defined } @lines[ 0 .. $step ];
}

my (%seen, %generation);

# So many batches of walks, until one disagrees: how many agreed, and their steps.
sub agreeing
{
	my ($model, $batches, $traces, $length) = @_;
	my ($good, $steps) = (0, 0);
	(%seen, %generation) = ();
	for my $batch (0 .. $batches - 1)
	{
		my $text = $model->traces(seed => $seed + $batch, traces => $traces, steps => $length // 60);
		my ($done, $error) = replay($text, $seed + $batch, '');
		$seen{$1}++ while $text =~ /^(\w+)/mg;
		$generation{$1}++ while $text =~ /^(?!win)\w+ [\d -]+: \d+ \d+ \d+ (\d) \d :/mg;
		unless (defined $done)
		{
			diag("seed @{[ $seed + $batch ]} (NEON_TEST_SEED repeats it): $error\n" . walk($text, $error));
			last;
		}
		$steps += $done;
		$good++;
	}
	return ($good, $steps);
}

my ($good, $steps) = agreeing($model, $batches, $traces);
is($good, $batches, "$traces walks in each of $batches batches agree with the model, $steps steps");
note(join ', ', map { "$_ $seen{$_}" } sort keys %seen);
# few walks may lack one
sub taken { my (@kinds) = @_; is_deeply([ grep { !$seen{$_} } @kinds ], [], 'every kind of step was taken') if $long; return }
taken(qw(promise elected stream write copy commit gossip close crash promise_killed elected_killed refused_promise refused_elected refused_stream));

# ---- while WAL is removed, a segment for each record, and members that lack it jump ----
my $jump = WalModel->new(LAUNCHERS => 2, LENGTH => 5, JUMP => '', TRACE => '', -PRINTF => '', -T_RAND => '');
my $jumps = $soak ? 20 : $long ? 5 : 1;
($good, $steps) = agreeing($jump, $jumps, $long ? 50 : 20, 100);
is($good, $jumps, "walks with retention in each of $jumps batches agree with the model, $steps steps");
note(join ', ', map { "$_ $seen{$_}" } sort keys %seen);
is_deeply([ grep { !$seen{$_} } (qw(promise elected stream commit crash retain jump), $long ? qw(copy jump_killed) : ()) ], [], 'every kind of step was taken');

# ---- while the members change: reconf.pml ----
my $change = WalModel->new(model => 'reconf.pml', LAUNCHERS => 4, LENGTH => 4, TRACE => '', -PRINTF => '', -T_RAND => '');
my $changes = $soak ? 20 : $long ? 5 : 1;
($good, $steps) = agreeing($change, $changes, $long ? 100 : 16);
is($good, $changes, "walks while the members change in each of $changes batches agree with the model, $steps steps");
note(join ', ', map { "$_ $seen{$_}" } sort keys %seen);
taken(qw(promise elected stream copy gossip crash promise_killed members members_killed follow follow_copy other_promise other_elected old_members));
is_deeply([ sort keys %generation ], [ 1, 2, 3 ], 'by members of each generation');

# ---- planted bugs ----
for ((map { [ $_, $model, 60 ] } 'forget-promise', $long ? qw(forget-history forget-zeros early-flush) : ()), map { [ $_, $jump, 100 ] } 'forget-jump', $long ? 'forget-wal-start' : ())
{
	my ($bug, $model, $length) = @$_;
	my ($done, $error) = replay($model->traces(seed => 1, traces => 60, steps => $length), 1, "SET neon_safekeeper.test_fail_at = '$bug';");
	ok(!defined $done && $error =~ /trace \d+, step \d+/, "found: $bug") or diag($error);
	note($error =~ /(trace .*)/ ? $1 : $error);
}
# ---- walks in which the instance is killed at each crash, with all members ----
sub start_again
{
	my $pgdata = $sk->node->data_dir;
	for (1 .. 600)
	{
		my @left = map { m{/proc/(\d+)/cwd} && (readlink($_) // '') eq $pgdata ? $1 : () } glob('/proc/[0-9]*/cwd');
		last if !@left;
		kill 'KILL', @left;
		usleep(50_000);
	}
	$sk->node->{_pid} = undef;
	unlink "$pgdata/postmaster.pid", glob($sk->node->host . '/.s.PGSQL.*');
	$sk->start;
	return;
}

my $kills = 0;
for my $n (1 .. $soak ? 20 : $long ? 6 : 1)
{
	my $text = ($n % 3 == 0 ? $jump : $model)->traces(seed => $seed + 1000 + $n, traces => 1, steps => 60, all_crash => 1);
	my @lines = split /\n/, $text;
	my $begin = 0;
	my ($done, $error);
	while (1)
	{
		my ($next) = grep { $_ > $begin && $lines[ $_ - 1 ] =~ /^crash|_killed/ } 1 .. @lines;
		($done, $error) = replay($text, $seed, '', $begin);
		last if defined $done || !defined $next || $error =~ /trace \d+, step/;
		$kills++;
		$begin = $next;
		start_again();
	}
	ok(defined $done, "walk $n with kills of the instance agrees with the model") or diag("seed $seed, begin $begin: $error\n$text");
	last unless defined $done;
}
cmp_ok($kills, '>', 0, "$kills kills");
unlike(slurp_file($sk->node->logfile), qr/PANIC|TRAP|signal 11/, 'no panic');
$sk->node->stop;
done_testing();
