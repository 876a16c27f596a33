# What is slow or too far behind: a safekeeper, a majority of them, the
# pageserver.  Commits go on as fast as the majority, or wait; nothing grows
# without bound, no slot is lost, views and log say who lags, and all goes on by
# itself.  A safekeeper whose WAL nobody keeps any more comes back by itself.
use strict;
use warnings;
use NeonQuorum;
use NeonTest;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

my $t = NeonTest->new(safekeepers => 3);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->cold;
$t->psql('main', 'CREATE EXTENSION neon; CREATE TABLE a (i int, x text)');
$t->pgbench_init('main', 1);
NeonQuorum::wait_streaming($t, 'main', 3);
my $postmaster = $t->postmaster_pid('main');
my $tl = "timeline_id = '" . NeonQuorum::branch_id($t, 'main') . "'";
my $rows = 0;
my @all;

sub set { my ($where, %s) = @_; $t->psql($where, join('; ', (map { "ALTER SYSTEM SET $_ = '$s{$_}'" } sort keys %s), 'SELECT pg_reload_conf()')); return }
sub mb_sql { my ($mb) = @_; $rows += 1000 * $mb; return "INSERT INTO a SELECT i, repeat('x', 1000) FROM generate_series(" . ($rows - 1000 * $mb + 1) . ", $rows) i" }
# Megabytes of WAL that the endpoint has kept.
sub pg_wal { $t->psql('main', 'CHECKPOINT'); return $t->psql('main', "SELECT count(*) FROM pg_ls_waldir() WHERE name < pg_walfile_name(pg_current_wal_lsn())") }
sub endpoint_log { return join '', map { NeonTest::Vanilla::slurp($_) } glob $t->dir . '/endpoints/main/log/*' }
sub slots_lost { return $t->psql('main', "SELECT count(*) FROM pg_replication_slots WHERE wal_status NOT IN ('reserved', 'extended')") }
sub load { my $c = $t->clients('main', n => 2); push @all, $c; return $c }

# The processes that write a safekeeper's WAL run a small part of the time.
sub slow
{
	my (@ids) = @_;
	my @pm = map { $t->postmaster_pid("safekeeper $_") } @ids;
	my $parent = $$;
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	return $pid if $pid;
	my $end = 0;
	$SIG{TERM} = sub { $end = 1 };
	while (!$end && getppid() == $parent)
	{
		my @receivers = map { $t->children_of($_, qr/neon wal receiver/) } @pm;
		kill 'STOP', @receivers;
		select undef, undef, undef, 1.5;
		kill 'CONT', @receivers;
		select undef, undef, undef, 0.01;
	}
	kill 'CONT', map { $t->children_of($_, qr/neon wal receiver/) } @pm;
	POSIX::_exit(0);
}
sub fast { my ($pid) = @_; kill 'TERM', $pid; waitpid $pid, 0; return }
END { my $rc = $?; kill 'TERM', $_ for @main::slow; $? = $rc }
our @slow;

# ---- a slow safekeeper ----
set('main', 'neon.safekeeper_wal_keep' => '24MB');
my $clients = load();
my $slow = slow(1);
@slow = ($slow);
ok($clients->wait_progress($NeonTest::long ? 2000 : 100), 'commits go on with a slow safekeeper');
# it may lag for a second only: looked at all the time, by the server
$t->psql('main', <<'SQL');
CREATE FUNCTION lagging() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	seen text;
BEGIN
	FOR i IN 1 .. 18000 LOOP
		SELECT string_agg(concat_ws('|', id, problem), ' ' ORDER BY id) INTO seen FROM neon.safekeepers;
		EXIT WHEN seen ~ 'behind the majority';
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN seen;
END $$
SQL
my $watch = $t->session('main');
$watch->send('SELECT lagging()');
my $s = $t->session('main');
$s->send(join '; ', map { mb_sql(2) } 1 .. 22);
my $seen = $watch->answer;
like($seen, qr/^1\|it is \d+ MB behind the majority 2 3$/, 'the view shows which one lags');
$t->wait_for('a log line', sub { endpoint_log() =~ /safekeeper 1 at \S+ streams the WAL of this compute, but: it is \d+ MB behind the majority|no longer kept for safekeeper 1/ });
pass('the log says so');
$t->wait_for('the compute to give the WAL up', sub { endpoint_log() =~ /WAL is no longer kept for safekeeper 1/ });
is($s->answer, '', 'much is written meanwhile');
is($t->psql('main', 'SELECT count(*) FROM neon.safekeepers WHERE id > 1 AND streaming AND problem IS NULL'), 2, 'the others keep up');
my $kept = 0;
$t->wait_for('WAL to be removed', sub { ($kept = pg_wal()) < 30 }, 60);
pass("the compute keeps a bounded amount of WAL for it: $kept MB");
fast($slow);
NeonQuorum::wait_streaming($t, 'main', 3);
pass('it catches up');
$t->poll('main', 'SELECT count(*) FROM neon.safekeepers WHERE problem IS NULL', 3);
is(slots_lost(), 0, 'no slot was lost');

# ---- a majority that stands still ----
@slow = ();
my @receivers = map { $t->children_of($t->postmaster_pid("safekeeper $_"), qr/neon wal receiver/) } 1, 2;
is(scalar(@receivers), 2, 'two receivers');
$t->signal('STOP', @receivers);
set('main', 'neon.max_unflushed_wal' => '8MB');
$s->send(join '; ', map { mb_sql(8) } 1 .. 4);
like($t->poll('main', 'SELECT writers_held FROM neon.status', qr/majority/), qr/a majority of the safekeepers lacks \d+ MB .*; behind: .*safekeeper [12]/, 'writers are held, and the view says for whom');
$t->wait_for('a log line', sub { endpoint_log() =~ /writers are held back: a majority of the safekeepers/ });
pass('so does the log');
$t->signal('CONT', @receivers);
is($s->answer, '', 'they go on by themselves');
is($s->error, '', 'without an error');
$clients->stop;
is($clients->errors, '', 'and no client had one');

# ---- the pageserver hangs under load ----
set('main', 'neon.max_ingest_lag' => '2MB', 'neon.max_unflushed_wal' => '64MB');
$t->wait_for_lsn('main', $t->insert_lsn('main'));
$t->psql('main', 'SELECT neon.hydrate()');	# what is looked at does not wait for pages
$clients = load();
my @stopped = ($t->postmaster_pid('pageserver'), $t->children_of($t->postmaster_pid('pageserver'), qr/./));
$t->signal('STOP', @stopped);
$s->send(join '; ', map { mb_sql(2) } 1 .. 5);
like($t->poll('main', 'SELECT writers_held FROM neon.status', qr/pageserver/), qr/pageserver \S+ lacks \d+ MB \(neon.max_ingest_lag is 2 MB\)/, 'the view says that writers are held for the pageserver');
$t->wait_for('a log line', sub { endpoint_log() =~ /writers are held back: pageserver/ });
pass('so does the log');
$t->poll('main', "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), pageserver_lsn) > 4 * 1024 * 1024 FROM neon.status");
my $at = $t->insert_lsn('main');
sleep($NeonTest::long ? 30 : 3);
my $grown = NeonTest::lsn_num($t->insert_lsn('main')) - NeonTest::lsn_num($at);
cmp_ok($grown, '<', 4_000_000, "at twice the limit they are held: $grown bytes more");
is($s->answer(1), undef, 'they wait');
is(slots_lost(), 0, 'no slot is lost');
is($t->psql('main', 'SELECT count(*) FROM neon.safekeepers WHERE streaming'), 3, 'the safekeepers stream');
$t->signal('CONT', @stopped);
is($s->answer, '', 'they go on by themselves');
is($s->error, '', 'without an error');
$clients->stop;
is($clients->errors, '', 'and no client had one');
$t->wait_for('the end in the log', sub { endpoint_log() =~ /writers are no longer held back/ });
$t->poll('main', 'SELECT writers_held IS NULL FROM neon.status');
pass('the end is told, too');
set('main', 'neon.max_ingest_lag' => '10GB', 'neon.max_unflushed_wal' => '1GB');

# ---- a slot of a consumer that never comes back ----
# (before it one that cannot be dropped: who uses it hangs)
my $user = $t->session('main');
my $user_pid = $user->query('SELECT pg_backend_pid()');
$user->query("SELECT pg_create_physical_replication_slot('stuck', true, true)");
$t->signal('STOP', $user_pid);
$t->psql('main', "SELECT pg_create_physical_replication_slot('forgotten', true)");
set('main', 'neon.consumer_wal_keep' => '4MB');
$s->query(mb_sql(6));
$t->poll('main', "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'forgotten'", 0);
like(endpoint_log(), qr/replication slot "forgotten" was dropped\n.*DETAIL:.*neon.consumer_wal_keep/, 'a forgotten slot is dropped beyond neon.consumer_wal_keep');
like(endpoint_log(), qr/replication slot "stuck" cannot be dropped yet\n.*HINT:.*$user_pid/s, 'although one before it cannot be dropped, which is told');
$t->signal('CONT', $user_pid);
$t->poll('main', 'SELECT count(*) FROM pg_replication_slots', 3);
pass('and no other one');

# ---- a safekeeper so far behind that nobody has the WAL that it lacks ----
set("safekeeper $_", 'neon_safekeeper.max_retained' => '2MB', 'neon_safekeeper.retention_interval' => '200ms') for 1, 2;
set('main', 'neon.safekeeper_wal_keep' => '2MB');
$t->neon('safekeeper', 'stop', 3, '-m', 'immediate');
my $lacks = $t->insert_lsn('main');
$s->query(mb_sql(4)) for 1 .. 4;
$t->wait_for_lsn('main', $t->insert_lsn('main'));
$t->psql('pageserver', 'SELECT neon_pageserver.timeline_checkpoint(tenant_id, timeline_id) FROM neon_pageserver.timelines');
$t->poll("safekeeper $_", "SELECT wal_start > pg_lsn '$lacks' + 4194304 FROM neon_safekeeper.timelines WHERE $tl") for 1, 2;
pass('the other safekeepers have removed what it lacks');
$t->wait_for('the compute, too', sub { endpoint_log() =~ /no longer kept for safekeeper 3/ });
$t->psql('main', 'CHECKPOINT');
$clients = load();
NeonQuorum::new_log($t, 3);
$t->neon('safekeeper', 'start', 3);
NeonQuorum::wait_streaming($t, 'main', 3);
like(NeonQuorum::new_log($t, 3), qr/the log begins anew at \S+, because nobody has the WAL from \S+ on any more/, 'it comes back by itself, with a new beginning');
is($t->psql('safekeeper 3', "SELECT wal_start > pg_lsn '$lacks', state, problem FROM neon_safekeeper.timelines WHERE $tl"), 't|active|', 'and has no problem');

# it is worth as much as the others
$t->kill9('safekeeper 1');
ok($clients->wait_progress(30), 'commits go on with it and one other');
$clients->stop;
$s->close;
$t->kill9('main');
$t->endpoint_start('main');
$t->neon('safekeeper', 'start', 1);
$t->neon('safekeeper', 'stop', 3, '-m', 'immediate');
$t->neon('safekeeper', 'start', 3);
NeonQuorum::wait_streaming($t, 'main', 3);
is($t->psql('main', 'SELECT count(*) FROM a'), $rows, 'an election, a crash of both: all rows are there');

# ---- without a compute, after elections that it missed ----
if ($NeonTest::long)
{
	$t->neon('safekeeper', 'stop', 2);
	$t->neon('endpoint', 'restart', 'main');
	set('main', 'neon.safekeeper_wal_keep' => '2MB');
	set("safekeeper $_", 'neon_safekeeper.max_retained' => '2MB', 'neon_safekeeper.retention_interval' => '200ms') for 1, 3;
	$lacks = $t->insert_lsn('main');
	$t->psql('main', mb_sql(8));
	$t->neon('endpoint', 'restart', 'main');
	$t->psql('main', mb_sql(4));
	$t->wait_for_lsn('main', $t->insert_lsn('main'));
	$t->psql('pageserver', 'SELECT neon_pageserver.timeline_checkpoint(tenant_id, timeline_id) FROM neon_pageserver.timelines');
	$t->poll("safekeeper $_", "SELECT wal_start > pg_lsn '$lacks' + 4194304 FROM neon_safekeeper.timelines WHERE $tl") for 1, 3;
	$t->endpoint_stop('main', '-m', 'immediate');
	NeonQuorum::new_log($t, 2);
	$t->neon('safekeeper', 'start', 2);
	$t->wait_for('equal positions',
		sub { my %p = map { NeonQuorum::positions($t, 'main', $_, 'promised, last_log_term, flush_lsn, counts') => 1 } 1 .. 3; keys %p == 1 });
	like(NeonQuorum::new_log($t, 2), qr/the log begins anew at/, 'one that missed two elections does so without a compute');
	$t->endpoint_start('main');
	is($t->psql('main', 'SELECT count(*) FROM a'), $rows, 'all rows are there');
}

# ---- a start, when nobody has said yet what he has ----
$t->neon('endpoint', 'config', 'main', 'neon.max_unflushed_wal=2MB', 'neon.max_ingest_lag=2MB');
my $told = length endpoint_log();
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SELECT writers_held FROM neon.status'), '', 'no writer is held after a start');
unlike(substr(endpoint_log(), $told), qr/held back/, 'nor does the log say so');

my @lost = map { $_->lost('main') } @all;
is(scalar(@lost), 0, 'no acknowledged transaction is lost');
$t->balances_agree('main');
$t->endpoint_stop('main');
$t->wait_for('equal positions',
	sub { my %p = map { NeonQuorum::positions($t, 'main', $_, 'flush_lsn, commit_lsn') => 1 } 1 .. 3; keys %p == 1 });
NeonQuorum::check_wal($t, 'main', 'at the end');
unlike(endpoint_log(), qr/PANIC/, 'no panic');
done_testing();
