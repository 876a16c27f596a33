# The "neon" command over three safekeepers: kill -9 of anything, the compute's
# directory deleted, a minority and a majority away, the launcher killed at each
# of its steps, branches while a member lags.  What was acknowledged is there.
use strict;
use warnings;
use File::Path qw(remove_tree);
use IO::Socket::INET;
use JSON::PP;
use NeonQuorum;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $t = NeonTest->new(safekeepers => 3, auth => 'scram');
my $rounds = $NeonTest::long ? 6 : 1;
$t->quickstart;
$t->pgbench_init('main', 1);
$t->psql('main', 'CREATE TABLE t(i int PRIMARY KEY)');
my $rows = 0;

sub insert
{
	my ($ep) = @_;
	$t->psql($ep, 'INSERT INTO t VALUES (' . ++$rows . ')');
	return;
}

sub has_all
{
	my ($ep, $name) = @_;
	return is($t->psql($ep, 'SELECT count(*), coalesce(max(i), 0) FROM t'), "$rows|$rows", "$name: nothing acknowledged is lost");
}

sub status_of
{
	my ($service) = @_;
	my (undef, $out) = $t->command([ 'neon', '--json', 'status' ]);
	my ($s) = grep { $_->{service} eq $service } @{ decode_json($out) };
	return $s->{status};
}

# All processes of a safekeeper.
sub safekeeper_processes
{
	my ($id) = @_;
	my $pid = $t->postmaster_pid("safekeeper $id") or die "safekeeper $id does not run";
	return ($pid, $t->children_of($pid, qr/./));
}

# Members behind which nothing is lost any more.
sub wait_caught_up
{
	my ($ep) = @_;
	insert($ep);
	$t->poll($ep, q{SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= pg_current_wal_flush_lsn() AND application_name LIKE 'neon_sk_%'}, '3');
	return;
}

is(status_of($_), 'running', "$_ runs") for 'pageserver', map { "safekeeper $_" } 1 .. 3;
is(scalar(@{ decode_json($t->neon('--json', 'safekeeper', 'status')) }), 3, 'safekeeper status in JSON is an array');

# ---- kill -9 of each, under load: clients see a pause and no error ----

{
	my $c = $t->clients('main', n => 4, scale => 1);
	ok($c->wait_progress(50, 120), 'load runs') or diag($c->errors);
	for my $victim ('safekeeper 1', 'safekeeper 2', 'pageserver', 'safekeeper 3')
	{
		$t->kill9($victim, nowait => 1);
		$t->wait_for("$victim to be seen as crashed", sub { status_of($victim) eq 'crashed' });
		ok($c->wait_progress(50, 120), "commits go on without $victim") or diag($c->errors);
		$t->neon('start');
		ok($c->wait_progress(50, 120), "and with $victim back") or diag($c->errors);
	}
	is(scalar($c->running), 4, 'no client had an error') or diag($c->errors);
	$c->stop;
	is(scalar($c->lost('main')), 0, 'no acknowledged transaction is lost');
	$t->balances_agree('main');
}

# ---- TPC-B, one safekeeper dead the whole time, the compute killed and its directory deleted ----

$t->neon('safekeeper', 'stop', '2', '-m', 'immediate');
for my $round (1 .. $rounds)
{
	my $c = $t->clients('main', n => 4, scale => 1);
	ok($c->wait_progress(50, 120), "one dead, $round: load runs") or diag($c->errors);
	$t->kill9('main', nowait => 1);
	remove_tree($t->pgdata('main'));
	$t->endpoint_start('main');
	$c->stop;
	is(scalar($c->lost('main')), 0, "one dead, $round: kill -9 and deleted directory lose nothing");
	$t->balances_agree('main');
}

# ---- a majority dead: commits hang, nothing is acknowledged, they go on when one is back ----

{
	my $c = $t->clients('main', n => 4, scale => 1);
	ok($c->wait_progress(50, 120), 'two dead: load runs') or diag($c->errors);
	my $session = $t->session('main');
	$session->query('SELECT 1');
	my $lsn = $t->psql('main', 'SELECT pg_current_wal_insert_lsn()');
	$t->neon('timeline', 'branch', '--branch-name', 'doomed');
	$t->kill9('safekeeper 3');
	$session->send('INSERT INTO t VALUES (' . ($rows + 1) . ')');
	my $acked = scalar $c->acknowledged;
	$t->wait_for('acknowledgements to end', sub {
		my $before = $acked;
		sleep 1;
		$acked = $c->acknowledged;
		return $before == $acked;
	});
	is($session->answer(2), undef, 'a commit waits');
	is(scalar($c->acknowledged), $acked, 'nothing is acknowledged');
	my $postmaster = $t->postmaster_pid('main');

	# nor can anybody else start
	my ($rc, $out, $err) = $t->command([ 'neon', 'endpoint', 'start', 'other', '--take-over', '--port', '0' ]);
	is($rc, 3, 'a start with a minority: exit code 3') or diag("$out\n$err");
	like($err, qr/^neon: error: .*majority of the safekeepers.*safekeeper 2 .*; safekeeper 3 .*\nHINT: .*neon start/, 'and a clear error');
	ok(NeonTest::alive($postmaster), 'the running primary is left alone');
	$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'minority' ], qr/majority of the safekeepers/, qr/neon start/, 'a branch of now');
	$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'minority', '--ancestor-start-lsn', $lsn ], qr/majority of the safekeepers/, qr/neon start/, 'a branch of the past');
	$t->neon_fails([ 'timeline', 'create', '--branch-name', 'minority' ], qr/majority of the safekeepers/, qr/neon start/, 'a new branch');
	$t->neon_fails([ 'tenant', 'create' ], qr/majority of the safekeepers/, qr/neon start/, 'a new tenant');
	unlike($t->neon('timeline', 'list'), qr/minority/, 'leave nothing');
	$t->neon_fails([ 'timeline', 'delete', 'doomed' ], qr/majority of the safekeepers.*safekeeper 2 .*; safekeeper 3 /, qr/neon start/, 'a deletion');
	is($t->psql('safekeeper 1', "SELECT state FROM neon_safekeeper.positions('" . $t->tenant . "', '" . $t->timeline('doomed') . "')"), 'active', 'has not begun');

	$t->neon('safekeeper', 'start', '3');
	is($session->answer(60), '', 'the commit ends when one is back');
	is($session->error, '', 'well');
	$rows++;
	is($t->postmaster_pid('main'), $postmaster, 'in the same server');
	$c->stop;
	# new sessions are let in when the lease is renewed
	$t->poll('main', 'SELECT 1', '1');
	is(scalar($c->lost('main')), 0, 'nothing acknowledged is lost');
	has_all('main', 'two dead');
	$t->neon('start');
	$t->neon_ok([ 'timeline', 'delete', 'doomed' ], 'then it can be');
	wait_caught_up('main');
}

# ---- the launcher killed at each of its steps ----

SKIP:
{
	my $neon = ($ENV{NEON_TESTING_LIBDIR} || '') . '/bin/neon';
	skip 'no build with TESTING=1', 1 unless -x $neon;
	for my $step (qw(positions promised elected committed ingested built before-start started))
	{
		insert('main');
		$t->kill9('main', nowait => 1);
		remove_tree($t->pgdata('main')) if $rows % 2;
		my ($rc, $out, $err) = $t->command([ $neon, 'endpoint', 'start', 'main', '--no-supervise' ],
			env => { NEON_TEST_KILL_AT => $step });
		is($rc, 128 + 9, "launcher killed at \"$step\"") or diag("$out\n$err");
		($rc, $out, $err) = $t->command([ 'neon', 'endpoint', 'start', 'main' ]);
		ok($rc == 0 || ($step eq 'started' && $err =~ /already running/), "the next start after \"$step\"") or diag("$out\n$err");
		has_all('main', "after \"$step\"");
	}
	# a living primary: the first steps supersede it
	for my $step (qw(promised ingested))
	{
		insert('main');
		my ($rc) = $t->command([ $neon, 'endpoint', 'start', 'thief', '--take-over', '--port', '0', '--no-supervise' ],
			env => { NEON_TEST_KILL_AT => $step });
		is($rc, 128 + 9, "take-over killed at \"$step\"");
		ok(!-e $t->dir . '/endpoints/thief', 'makes no endpoint');
		$t->endpoint_start('main');
		has_all('main', "take-over killed at \"$step\"");
	}
	wait_caught_up('main');
}

# ---- a branch of now while one of the two members that answer lags ----

{
	my ($receiver) = grep { NeonTest::cmdline($_) =~ /neon wal receiver/ }
	  safekeeper_processes(2);
	ok($receiver, 'the process of safekeeper 2 that receives') or diag(map { NeonTest::cmdline($_) . "\n" } safekeeper_processes(2));
	$t->signal('STOP', $receiver);
	insert('main') for 1 .. 3;
	my @stopped = safekeeper_processes(3);
	$t->signal('STOP', @stopped);
	my ($rc, $out, $err) = $t->command([ 'neon', 'timeline', 'branch', '--branch-name', 'lagging' ]);
	like($err, qr/\A(?:neon: error: .*not committed by a majority.*safekeeper 2 is at \S+ of term \d+.*safekeeper 3 does not answer.*\nHINT: .*\n)?\z/,
		'a branch while a member lags is made, or says who lags');
	is($rc, $err eq '' ? 0 : 4, 'its exit code');
	$t->signal('CONT', $receiver);
	$t->neon('timeline', 'branch', '--branch-name', 'lagging') if $rc != 0;
	$t->endpoint_start('lagging', branch => 'lagging');
	has_all('lagging', 'branch while a member lags');
	$t->signal('CONT', @stopped);
	$t->endpoint_stop('lagging');
	wait_caught_up('main');
}

# ---- deleting ----

$t->neon('endpoint', 'destroy', 'lagging');
my $id = $t->timeline('lagging');
$t->neon_ok([ 'timeline', 'delete', 'lagging' ], 'timeline delete');
for my $i (1 .. 3)
{
	is($t->psql("safekeeper $i", "SELECT count(*) FROM neon_safekeeper.timelines WHERE timeline_id::text = '$id' AND state <> 'deleted'"),
		'0', "is gone from safekeeper $i");
}

# a safekeeper that misses it asks the others what they know of the branch
$t->neon('timeline', 'branch', '--branch-name', 'missed');
$t->endpoint_start('missed', branch => 'missed');
$t->psql('missed', 'CREATE TABLE m AS SELECT 1');
$t->neon('endpoint', 'destroy', 'missed');
$id = $t->timeline('missed');
my @third = safekeeper_processes(3);
$t->signal('STOP', @third);
NeonQuorum::new_log($t, $_) for 1, 2;
$t->neon_ok([ 'timeline', 'delete', 'missed' ], 'timeline delete without one safekeeper');
$t->signal('CONT', @third);
my $missed = "FROM neon_safekeeper.timelines WHERE timeline_id = '$id'";
is($t->psql('safekeeper 3', "SELECT count(*) $missed"), '1', 'safekeeper 3 has missed it');
insert('main');
wait_caught_up('main');
sleep 2;
unlike(NeonQuorum::new_log($t, $_), qr/ERROR:.*was deleted/, "its questions are no errors at safekeeper $_") for 1, 2;
like($t->neon('start'), qr/Deleted timeline '$id' on safekeeper 3/, 'the next start tells it');
is($t->psql('safekeeper 3', "SELECT count(*) $missed"), '0', 'it is gone from there');
ok(!-e $t->sk_pgdata(3) . '/neon/tenants/' . $t->tenant . "/timelines/$id/wal", 'and so is its WAL');

# a branch on which no compute was ever elected
$t->neon('timeline', 'branch', '--branch-name', 'fresh');
$t->neon_ok([ 'timeline', 'branch', '--branch-name', 'fresher', '--ancestor-branch-name', 'fresh' ], 'a branch of a branch that nobody has written');
$t->endpoint_start('look', branch => 'fresh', ephemeral => 1);
is($t->psql('look', 'SELECT 1'), '1', 'an ephemeral endpoint there');
$t->neon('endpoint', 'destroy', 'look');
$t->neon('timeline', 'delete', $_) for 'fresher', 'fresh';

# a safekeeper that the pageserver reads from is no writer
$t->neon('timeline', 'branch', '--branch-name', 'read');
$t->endpoint_start('read', branch => 'read');
$t->neon('endpoint', 'destroy', 'read');
my $args = "'" . $t->tenant . "', '" . $t->timeline('read') . "'";
$t->poll('pageserver', q{SELECT source_connected FROM neon_pageserver.timelines WHERE name = 'read'}, 't');
$t->psql('pageserver', "SELECT neon_pageserver.timeline_delete($args)");
unlike($t->neon('timeline', 'list'), qr/ read /, 'a branch is deleted although the pageserver reads from safekeepers');
$t->psql("safekeeper $_", "SELECT neon_safekeeper.timeline_delete($args, 1)") for 1 .. 3;

$t->neon('endpoint', 'destroy', 'main');
$t->neon_ok([ 'tenant', 'delete', $t->tenant ], 'tenant delete');
is($t->psql('safekeeper 1', q{SELECT count(*) FROM neon_safekeeper.timelines WHERE state <> 'deleted'}), '0', 'its timelines are gone');
is($t->psql('safekeeper 1', q{SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tenant_%'}), '0', 'so is its role');
$t->neon_ok([ 'tenant', 'create', '--set-default' ], 'another tenant');
delete $t->{ports}{main};
$t->endpoint_start('main');
is($t->psql('main', 'SELECT 1'), '1', 'works');
$t->neon_ok(['stop'], 'stop');
is_deeply([ $t->left_running ], [], 'nothing is left running');

# ---- no passwords; one that was away gets what it missed from the other, before it counts ----

my $u = NeonTest->new(name => 'quorum_trust', safekeepers => 3);
$u->quickstart;
$u->psql('main', 'CREATE TABLE t(i int)');
$u->neon('safekeeper', 'stop', '3');
$u->psql('main', 'INSERT INTO t SELECT generate_series(1, 200000)');
$u->neon('safekeeper', 'stop', '-m', 'immediate', $_) for 1, 2;
$u->kill9('main');
remove_tree($u->pgdata('main'));
$u->neon('safekeeper', 'start', $_) for 1, 3;
$u->endpoint_start('main');
is($u->psql('main', 'SELECT count(*) FROM t'), '200000', 'a member that missed everything and one that has it');

# ---- one service that cannot be started keeps none of the others from it ----

$u->neon('safekeeper', 'stop', '1');
my $taken = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $u->config('safekeeper.1.port'),
	Proto => 'tcp', Listen => 1, ReuseAddr => 1) or die;
$u->neon_fails(['start'], qr/port \d+ of the safekeeper 1 is already in use/, qr/End what listens/, 'a port in use');
is(($u->command([ 'neon', 'safekeeper', 'status', '2' ]))[0], 0, 'the others are started');
close $taken;

# ---- what is made while a safekeeper does not run, it gets when it does ----

$u->neon('timeline', 'branch', '--branch-name', 'missed');
$u->neon('start');
is($u->psql('safekeeper 1', q{SELECT count(*) FROM neon_safekeeper.timelines}), '2', 'a safekeeper that was away gets a branch that it missed');

# ---- a directory that is gone is no start ----

$u->neon('safekeeper', 'stop', '3');
rename $u->sk_pgdata(3), $u->sk_pgdata(3) . '.gone' or die "$!";
is(($u->command([ 'neon', 'start' ]))[0], 3, 'a safekeeper without its directory: exit code 3');
$u->neon_fails([ 'safekeeper', 'start', '3' ], qr/safekeeper 3 has lost its data directory/, qr/safekeeper replace 3/, 'start of one');
rename $u->sk_pgdata(3) . '.gone', $u->sk_pgdata(3) or die "$!";
$u->neon('start');

# ---- nobody can end the lease of an endpoint that is destroyed without a majority: it runs out ----

$u->neon('safekeeper', 'stop', '2');
$u->neon_ok([ 'endpoint', 'destroy', 'main' ], 'destroy without a majority');
$u->neon('start');
$u->endpoint_start('again');
is($u->psql('again', 'SELECT count(*) FROM t'), '200000', 'another endpoint in its place');
$u->neon('stop');

done_testing();
