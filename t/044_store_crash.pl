# The pageserver dies at each of the places where a crash finds half-done work
# (TESTING build), and the store is what the model says after it.  Then syncs
# that fail, and processes that crash on one timeline again and again.
use strict;
use warnings;
use IPC::Run qw(start);
use List::Util qw(shuffle);
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_pageserver.so";

my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");

my $ps = NeonPageserver->new('store', conf => <<'CONF');
neon_pageserver.image_chain = 0
neon_pageserver.compaction_threshold = 3
neon_pageserver.compaction_target_size = 64kB
neon_pageserver.compaction_image_chain = 0
restart_after_crash = on
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ps->stop;
my $pgdata = $ps->node->data_dir;
$ps->node->append_conf('postgresql.conf', "dynamic_library_path = '$lib:\$libdir'\n");

# Processes that work in the data directory.
sub attached
{
	return map { m{/proc/(\d+)/cwd} && (readlink($_) // '') eq $pgdata ? $1 : () } glob('/proc/[0-9]*/cwd');
}

# After the postmaster's death the rest goes too: it may wait for ever for a
# lock of the process that was killed.
sub finish_off
{
	my $pid = -e "$pgdata/postmaster.pid" ? (split /\n/, slurp_file("$pgdata/postmaster.pid"))[0] : 0;
	return 0 if grep { $_ == $pid } attached();
	kill 'KILL', attached();
	for (1 .. 200)
	{
		return 1 if !attached();
		usleep(50_000);
	}
	return 0;
}

# Without what a clean stop writes: it would leave work for the start.
sub restart { $ps->stop('immediate'); $ps->start; return }

sub model { return $ps->sql("SELECT neon_test.store_model($seed, $_[0], 1000) > $_[0]") }
my $function = 'store_model';

sub run_until_crash
{
	my ($steps) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = 'cloud_admin';
	my $h = start([ 'psql', '-XAtq', '-d', $ps->node->connstr('postgres'), '-c',
			"SELECT neon_test.$function($seed, $steps, 10)" ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(120));
	# the session itself may wait for a process that was killed
	while (eval { $h->pump_nb; $h->pumpable })
	{
		usleep(50_000);
		last if finish_off();
	}
	eval { $h->finish };
	# a worker may come to the place a moment after the statement
	for (1 .. 40)
	{
		return 1 if finish_off();
		usleep(50_000);
	}
	return 0;
}

my $steps = 0;
# gc: with a horizon that moves, by a session that compacts.  new: what begins a timeline, so such a run is a new one.  The others
# go on with the same one, whose manifest is rewritten often in this build.
my @points = (
	'layer-written', 'layer-synced', 'layer-in-manifest', 'edit-written', 'partition-written', 'partition-in-manifest',
	'merge-written', 'merge-in-manifest', 'snapshot-written', 'snapshot-synced',
	'new:snapshot-written', 'new:snapshot-synced', 'new:branch-point', 'new:branch-directory', 'new:branch-manifest', 'new:directory-renamed',
	'gc:partition-written', 'gc:partition-in-manifest');
# The short run takes a few of them, others with each seed.
my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
srand($seed);
@points = map { $points[$_] } sort { $a <=> $b } (shuffle(0 .. $#points))[ 0 .. 3 ] if !$long;
for my $name (@points)
{
	my ($new, $point) = $name =~ /^(new:|gc:)?(.*)/;
	my $gc = ($new // '') eq 'gc:';
	$seed++ if $new;
	$steps = $gc ? 4000 : $new ? 20000 : $steps + 3000;
	$function = $gc ? 'store_gc' : 'store_model';
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = '$point'\n"
		  . 'neon_pageserver.compaction_threshold = ' . ($gc ? 0 : 3) . "\n");
	# a worker may come to the place before the server says that it is ready
	my $died = !$ps->start(fail_ok => 1) && finish_off() || run_until_crash($steps);
	for (1 .. 5)
	{
		# not every 3000 steps lead there
		last if $died;
		$steps += 3000;
		$died = run_until_crash($steps);
	}
	ok($died, "the server died at $name") or $ps->stop('immediate');
	$ps->node->{_pid} = undef;
	unlink "$pgdata/postmaster.pid", glob($ps->node->host . '/.s.PGSQL.*');
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = ''\n");
	$ps->start;
	my $right = $gc ? $ps->sql("SELECT neon_test.store_gc($seed, $steps, 1000) >= 0") : model($steps);
	is($right, 't', "$name: nothing that was flushed is lost, everything else can be done again");
	# a clean stop would leave work for the start that follows, which is to reach the place later
	$ps->stop('immediate');
}
# ---- syncs that fail ----
$ps->node->append_conf('postgresql.conf', "neon_pageserver.compaction_threshold = 3\n");
$ps->start;
for my $point ($long ? ('layer-sync', 'edit-sync', 'snapshot-sync') : ('layer-sync', 'edit-sync', 'snapshot-sync')[ rand 3 ])
{
	$seed++;
	is(model(3000), 't', 'a timeline');
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_fail_at = '$point'\n");
	$ps->node->reload;
	usleep(300_000);
	like($ps->sql_error("SELECT neon_test.store_model($seed, 9000, 10)"), qr/could not synchronize|is read-only after a failed write/, "$point fails");
	like($ps->sql_error("SELECT neon_test.store_model($seed, 9000, 10)"), qr/is read-only after a failed write.*DETAIL.*synchronized.*HINT|could not synchronize the manifest of a new timeline/s,
		'the timeline is read-only from then on (or the new one is not made)');
	is($ps->sql("SELECT neon_test.store_read($seed, 3000, 1000)"), 1000, 'and can be read');
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_fail_at = ''\n");
	restart();
	is(model(9000), 't', 'after a restart it goes on');
}

# ---- an edit that may not be on disk ----
# The start that follows a failed sync reads the edit from the page cache.  So
# the first change goes into a new file; a start alone writes nothing.
$seed++;
my ($tenant, $timeline) = map { unpack 'H*', pack('Q< a4 V', $seed, 'ZZZZ', $_) } 0, 1;
my $dir = "$pgdata/neon/tenants/$tenant/timelines/$timeline";
sub manifests { return join ' ', map { m{manifest\.(\d+)$} ? $1 + 0 : $_ } sort glob "$dir/manifest.*" }
sub rename_sql { return "SELECT neon_pageserver.timeline_rename('$tenant', '$_[0]', '$_[1]')" }
sub name { return $ps->sql("SELECT name FROM neon_pageserver.timelines WHERE timeline_id = '$timeline'") }

is(model(3000), 't', 'a timeline');
$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_fail_at = 'edit-sync'\n");
restart();
like($ps->sql_error(rename_sql('root', 'lost')), qr/read-only after a failed write.*manifest could not be synchronized/s, 'a change whose sync fails');
is(name(), 'root', 'is not seen');
my $failed = manifests();
like($failed, qr/(^| )\d+$/, 'it is in a manifest') or diag($failed);
$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_fail_at = ''\n");
$ps->restart for 1 .. 2;
is(manifests(), $failed, 'starts alone write no manifest');
is(name(), 'lost', 'the change is in the page cache');
$ps->sql(rename_sql('lost', 'first'));
my ($number) = $failed =~ /(\d+)$/;
is(manifests(), $number + 1, 'the first change goes into a new one, and what is older is gone');
$ps->sql(rename_sql('first', 'second'));
is(manifests(), $number + 1, 'the second one is appended');
$ps->node->stop('immediate');
$ps->start;
is(name(), 'second', 'all of it is there');
is(manifests(), $number + 1, 'in one file');
is(model(9000), 't', 'and the timeline goes on');

# ---- crashes on one timeline ----
sub wait_until_up
{
	for (1 .. 300)
	{
		# psql may be gone before it was given its statement
		my $error = eval { $ps->sql_error('SELECT 1') } // 'none';
		return 1 if $error eq '';
		usleep(100_000);
	}
	return 0;
}

$seed++;
my $bench = "SELECT neon_test.store_bench($seed, 1000, 100)";
for my $n (1 .. 3)
{
	like($ps->sql($bench), qr/put/, "served before crash $n");
	like(eval { $ps->sql_error("SET neon_pageserver.test_crash_at = 'segv:get'; $bench") } // $@,
		qr/server closed the connection|terminating connection/, "crash $n");
	ok(wait_until_up(), 'the server is up again');
}
like($ps->sql_error($bench), qr/is damaged.*3 processes crashed on it within 10 minutes, the last one by signal 11/s,
	'the timeline is refused after three crashes');
$seed++;
is(model(3000), 't', 'another one is served');
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|corrupted/, 'no panic, no damage in the log');
done_testing();
