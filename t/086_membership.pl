# Other safekeepers while clients commit: from 1 to 3, one replaced that is dead
# or has lost its disk, the command killed at each of its steps, the compute
# killed between the old and the new configuration, an old member that comes
# back, two changes at once, and laptop mode left.  With NEON_TEST_LONG also 3 to
# 5 to 3 and each step of leaving laptop mode.  What was acknowledged is there.
use strict;
use warnings;
use File::Path qw(remove_tree);
use IPC::Run;
use JSON::PP;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $testing = ($ENV{NEON_TESTING_LIBDIR} || '') . '/bin/neon';
my $t = NeonTest->new(safekeepers => 1, auth => 'scram');
$t->neon_fails([ 'init', '--safekeepers', '2' ], qr/2 is no number of safekeepers/, qr/1, 3 or 5/, 'init with 2 safekeepers');
$t->quickstart;
$t->cold;
$t->pgbench_init('main', 1);
$t->neon('timeline', 'branch', '--branch-name', 'side');
my $clients = $t->clients('main', n => 3);
my @all = ($clients);

# Of a branch: ids of its safekeepers, generation, as each of them says it.
sub configurations
{
	my ($branch, @ids) = @_;
	my $id = $t->timeline($branch);
	return join ' ', map {
		$t->psql("safekeeper $_", "SELECT members || '\@' || generation FROM neon_safekeeper.timelines WHERE timeline_id::text = '$id'")
	} @ids;
}

sub generation
{
	my ($branch) = @_;
	my ($tenant, $id) = ($t->tenant, $t->timeline($branch));
	return $t->psql('pageserver', "SELECT generation FROM neon_pageserver.timeline_members_get('$tenant', '$id')");
}

sub nothing_lost
{
	my ($name) = @_;
	is(scalar(grep { $_->lost('main') } @all), 0, "$name: nothing acknowledged is lost");
	return;
}

# The longest time in which no transaction began; a figure, no test.
sub note_pause
{
	my ($name) = @_;
	note("$name: longest pause of commits ", $t->psql('main',
		q{SELECT max(gap) FROM (SELECT mtime - lag(mtime) OVER (ORDER BY mtime) gap FROM pgbench_history) g}));
	return;
}

sub more_clients
{
	push @all, $clients = $t->clients('main', n => 3);
	return;
}

# ---- 1 to 3 ----

ok($clients->wait_progress(20), 'clients commit with one safekeeper');
my $result = decode_json($t->neon('--json', 'safekeeper', 'add', '--port', '0'));
is($result->{safekeepers}, 3, 'neon safekeeper add: there are 3');
is($result->{branches_changed}, 2, 'both branches have them');
ok($clients->wait_progress(20), 'commits go on');
is(configurations($_, 1, 2, 3), '1,2,3@3 1,2,3@3 1,2,3@3', "all say so of $_") for qw(main side);
$t->poll('main', q{SELECT count(*) FROM pg_stat_replication WHERE application_name LIKE 'neon\_sk\_%'}, '3');
pass('all three stream');
nothing_lost('1 to 3');
note_pause('1 to 3');

# ---- what is refused ----

$t->neon_fails([ 'safekeeper', 'add', '--safekeepers', '4' ], qr/4 is no number/, qr/1, 3 or 5/, '4 safekeepers');
$t->neon_fails([ 'safekeeper', 'add', '--safekeepers', '3' ], qr/there are 3 safekeepers already/, qr/larger/, '3 again');
$t->neon_fails([ 'safekeeper', 'replace', '9' ], qr/no safekeeper "9"/, qr/status/, 'one that is not there');
$t->neon_fails([ 'safekeeper', 'remove', '1' ], qr/1 of 3 safekeepers cannot be removed/, qr/replace/, 'two would stay');

# ---- a dead one replaced, the command killed at each step ----

my $old = $t->tmp . '/came-back';
my $old_port = $t->config('safekeeper.2.port');
$t->neon('safekeeper', 'stop', '2', '-m', 'immediate');
is(system('cp', '-a', $t->dir . '/safekeepers/2', $old), 0, 'a copy of safekeeper 2, which has stopped');

SKIP:
{
	skip 'no build with TESTING=1', 1 unless -x $testing;
	my @steps = qw(change-noted instance-made instances-started change-begun learner-created learner-ready
	  joint-stored joint-told joint-settled caught-up final-stored final-told left branches-changed before-end);
	@steps = grep { !/^(?:change-noted|instances-started|learner-ready|caught-up|left|branches-changed)$/ } @steps
	  unless $NeonTest::long;
	for my $step (@steps)
	{
		my ($rc, $out, $err) = $t->command([ $testing, 'safekeeper', 'replace', '2', '--port', '0' ],
			env => { NEON_TEST_KILL_AT => $step });
		is($rc, 128 + 9, "killed at \"$step\"") or diag("$out\n$err");
		ok($clients->wait_progress(5), "commits go on after \"$step\"") or diag($clients->errors);
		if ($step eq 'change-begun')
		{
			$t->neon_fails([ 'safekeeper', 'add' ], qr/another change of the safekeepers has begun: replace 2/,
				qr/Finish it by "neon safekeeper replace 2"/, 'no other change meanwhile');
		}
		next unless $step eq 'joint-told';
		$t->kill9('main');
		remove_tree($t->pgdata('main'));
		$t->endpoint_start('main');
		like($t->psql('main', 'SHOW neon.safekeepers'), qr/;/, 'a compute starts between the configurations');
		nothing_lost('compute killed between the configurations');
		more_clients();
	}
}
$t->neon_ok([ 'safekeeper', 'replace', '2', '--port', '0' ], 'repeated, it comes to its end');
ok($clients->wait_progress(20), 'commits go on');
is(configurations($_, 1, 3, 4) =~ s/\@\d+//gr, '1,3,4 1,3,4 1,3,4', "$_ is kept by the new ones") for qw(main side);
ok(!-e $t->dir . '/safekeepers/2', 'the directory of safekeeper 2 is removed');
nothing_lost('replace');

# ---- the old one comes back ----

{
	my ($tenant, $id) = ($t->tenant, $t->timeline('main'));
	my $generation = generation('main');
	my $connstr = "host=127.0.0.1 port=$old_port user=cloud_admin dbname=postgres";
	my $ctl = "pg_ctl -w -t 60 -D $old/pgdata";
	my $refused = sub {
		my ($sql, $error, $name) = @_;
		my (undef, undef, $err) = $t->psql_raw('main', $sql, connstr => $connstr);
		like($err, $error, $name);
	};

	unlink "$old/pgdata/postmaster.pid";
	is(system("$ctl -l $old/log.start -o '-c neon_safekeeper.passfile=$old/passfile' start >/dev/null"), 0, 'safekeeper 2 comes back');
	$t->poll('main', "SELECT state || generation FROM neon_safekeeper.timelines WHERE timeline_id::text = '$id'",
		"learner$generation", connstr => $connstr);
	pass('learns from the others that it is none of them any more');
	is($t->psql('main', "SELECT term >= (SELECT floor FROM neon_safekeeper.configuration('$tenant', '$id')) FROM neon_safekeeper.timelines WHERE timeline_id::text = '$id'",
		connstr => $connstr), 't', 'has promised the floor');
	$refused->("SELECT neon_safekeeper.promise('$tenant', '$id', $generation, 1000, 'x')", qr/not a member/, 'does not promise');
	$refused->("SELECT neon_safekeeper.promise('$tenant', '$id', 1, 1000, 'x')", qr/generation/, 'nor for an old generation');
	my $x = $t->psql('safekeeper 1', "SELECT commit_lsn FROM neon_safekeeper.timelines WHERE timeline_id::text = '$id'");
	$refused->("SELECT neon_safekeeper.elected('$tenant', '$id', $generation, 1000, '$x', '[[1000, \"$x\"]]', NULL)", qr/not a member/, 'takes no election');
	$refused->("SELECT neon_safekeeper.receive('$tenant', '$id', $generation, 1000, '" . '0' x 32 . "', 'host=127.0.0.1')", qr/not a member/, 'takes no WAL');
	ok($clients->wait_progress(20), 'commits go on');
	is(system("$ctl -m immediate stop >/dev/null"), 0, 'and goes');
}

# ---- one that has lost its disk; two changes at once ----

$t->kill9('safekeeper 3', nowait => 1);
remove_tree($t->dir . '/safekeepers/3');
ok($clients->wait_progress(20), 'commits go on while safekeeper 3 and its disk are lost');
SKIP:
{
	skip 'no build with TESTING=1', 1 unless -x $testing;
	my ($out, $err) = ('', '');
	local %ENV = (%ENV, $t->env, NEON_TEST_STOP_AT => 'learner-ready');
	my $h = IPC::Run::start([ $testing, 'safekeeper', 'replace', '3', '--port', '0' ], '<', \'', '>', \$out, '2>', \$err,
		IPC::Run::timeout(180));
	my $pid = $h->{KIDS}[0]{PID};
	$t->wait_for('the command to stop before the joint configuration', sub { (NeonTest::stat_field($pid, 3) || '') eq 'T' });
	$t->neon_fails([ 'safekeeper', 'replace', '3' ], qr/another neon command/, qr/Wait/, 'a second one here is refused');
	# somebody on another machine
	my $tenant = $t->tenant;
	for my $id (map { $t->timeline($_) } qw(main side))
	{
		$t->psql('pageserver', <<"SQL");
SELECT neon_pageserver.timeline_members('$tenant', '$id', generation, config || jsonb_build_object('generation', generation + 1))
  FROM neon_pageserver.timeline_members_get('$tenant', '$id')
SQL
	}
	my $before = generation('main') . generation('side');
	$t->signal('CONT', $pid);
	$h->pump while $h->pumpable;
	$h->finish;
	like($err, qr/neon: error: .*the configuration of safekeepers has generation \d+, not \d+.*\nHINT: Somebody else changed it/s,
		'who comes second is refused by compare-and-set');
	is(generation('main') . generation('side'), $before, 'and has changed nothing');
}
$t->neon_ok([ 'safekeeper', 'replace', '3', '--port', '0' ], 'a lost disk is replaced');
ok($clients->wait_progress(20), 'commits go on');
is(configurations($_, 1, 4, 5) =~ s/\@\d+//gr, '1,4,5 1,4,5 1,4,5', "$_ is kept by the new ones") for qw(main side);

if ($NeonTest::long)
{
	$t->neon_ok([ 'safekeeper', 'add', '--port', '0' ], '3 to 5');
	ok($clients->wait_progress(20), 'commits go on');
	is(configurations('main', 1, 4, 5, 6, 7) =~ s/\@\d+//gr, join(' ', ('1,4,5,6,7') x 5), 'with five');
	$t->kill9("safekeeper $_", nowait => 1) for 1, 6;
	ok($clients->wait_progress(20), 'and two of them dead');
	$t->neon('start');
	$t->neon_ok([ 'safekeeper', 'remove', '1', '7' ], '5 to 3');
	ok($clients->wait_progress(20), 'commits go on');
	is(configurations('main', 4, 5, 6) =~ s/\@\d+//gr, join(' ', ('4,5,6') x 3), 'with three');
}
$clients->stop;
unlike($clients->errors, qr/ERROR|FATAL/, 'no client saw an error since the compute was killed');
nothing_lost('a lost disk');
note_pause('all of it');

# ---- after all that: a start, and a branch that never ran ----

$t->endpoint_stop('main');
$t->endpoint_start('main');
nothing_lost('a start');
$t->balances_agree('main');
$t->amcheck('main');
$t->endpoint_start('side', branch => 'side');
is($t->psql('side', 'SELECT count(*) FROM pgbench_branches'), '1', 'a branch that did not run has its data');
$t->neon('stop', '-m', 'immediate');

# ---- laptop mode is left ----

{
	my $l = NeonTest->new(name => 'laptop', safekeepers => 0);
	$l->quickstart;
	$l->psql('main', 'CREATE TABLE t AS SELECT generate_series(1, 1000) i');
	$l->neon('timeline', 'branch', '--branch-name', 'side');
	my $term = $l->psql('main', 'SHOW neon.term');
	# killed while initdb runs: that does not go on, and is not in the way of the next
	my $pid = fork // die;
	if (!$pid)
	{
		%ENV = (%ENV, $l->env);
		exec 'neon', 'safekeeper', 'add', '--port', '0' or die;
	}
	$l->wait_for('an initdb', sub { -e $l->sk_pgdata(1) . '/PG_VERSION' });
	kill 'KILL', $pid;
	waitpid $pid, 0;
	my @steps = $NeonTest::long ? qw(instances-started change-begun primaries-stopped first-stored first-created mode-changed) : ('first-stored');
	for my $step (-x $testing ? @steps : ())
	{
		my ($rc, $out, $err) = $l->command([ $testing, 'safekeeper', 'add', '--port', '0' ], env => { NEON_TEST_KILL_AT => $step });
		is($rc, 128 + 9, "killed at \"$step\"") or diag("$out\n$err");
	}
	$l->neon_ok([ 'safekeeper', 'add', '--port', '0' ], 'safekeepers for a laptop');
	is($l->psql('main', 'SELECT count(*) FROM t'), '1000', 'what the laptop wrote is there, and its primary runs again');
	cmp_ok($l->psql('main', 'SHOW neon.term'), '>', $term, 'terms go on');
	$l->psql('main', 'INSERT INTO t SELECT generate_series(1001, 2000)');
	$l->kill9('safekeeper 2', nowait => 1);
	$l->kill9('main');
	remove_tree($l->pgdata('main'));
	$l->endpoint_start('main');
	is($l->psql('main', 'SELECT count(*) FROM t'), '2000', 'nothing of it was only in the compute\'s directory');
	$l->endpoint_start('side', branch => 'side');
	is($l->psql('side', 'SELECT count(*) FROM t'), '1000', 'nor on a branch');
}

done_testing();
