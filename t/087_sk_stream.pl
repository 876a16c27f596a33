# Three safekeepers under a compute with load: each of them dies, hangs, misses
# elections, falls behind what the compute still has, and comes back by itself.
use strict;
use warnings;
use NeonQuorum;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $t = NeonTest->new(safekeepers => 3);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->cold;
$t->psql('main', 'CREATE EXTENSION neon');
$t->pgbench_init('main', 1);
NeonQuorum::wait_streaming($t, 'main', 3);
my @all;

sub load
{
	my $clients = $t->clients('main', n => 2);
	push @all, $clients;
	ok($clients->wait_progress(30), 'load runs') or diag($clients->errors);
	return $clients;
}

sub end_load { my ($clients) = @_; $clients->stop; is($clients->errors, '', 'no client had an error') }

sub back
{
	my ($what, $n) = @_;
	my $s = time;
	NeonQuorum::wait_streaming($t, 'main', $n // 3);
	pass(sprintf '%s: in the quorum after %.1f s', $what, time - $s);
}

# What lags is behind; the one that came back has all.
sub caught_up
{
	my ($id, $name) = @_;
	$t->wait_for("safekeeper $id to catch up", sub {
			my @p = map { NeonQuorum::positions($t, 'main', $_, 'promised, last_log_term, flush_lsn, counts') } 1 .. 3;
			return $p[$id - 1] eq $p[$id % 3];
		});
	pass($name);
}

# ---- kill -9, when what a stream begins with, its boot record, is gone already ----
my $clients = load();
$t->psql('pageserver', 'SELECT neon_pageserver.timeline_checkpoint(tenant_id, timeline_id) FROM neon_pageserver.timelines');
my $first;
$t->wait_for('retention', sub {
		($first) = grep { $t->psql("safekeeper $_", "SELECT wal_start > '" . $t->boot_lsn('main') . "' FROM neon_safekeeper.timelines") eq 't' } 1 .. 3;
		return $first;
	});
for my $id ($first, $first % 3 + 1)
{
	$t->kill9("safekeeper $id");
	ok($clients->wait_progress(30), "commits go on without safekeeper $id");
	$t->neon('safekeeper', 'start', $id);
	back("safekeeper $id after kill -9");
}

# ---- a hang: the compute gives the stream up, and takes it again ----
my $pid = $t->postmaster_pid('safekeeper 3');
my @stopped = ($pid, $t->children_of($pid, qr/./));
$t->signal('STOP', @stopped);
ok($clients->wait_progress(30), 'commits go on while safekeeper 3 hangs');
$t->poll('main', 'SELECT count(*) FROM neon.safekeepers WHERE streaming', 2);
ok($clients->wait_progress(30), 'and when its stream was given up');
$t->signal('CONT', @stopped);
back('safekeeper 3 after a hang');
end_load($clients);

# ---- a missed election, the compute living; from here on all WAL is kept ----
$t->psql("safekeeper $_", "ALTER SYSTEM SET neon_safekeeper.retention_interval = '1h'; SELECT pg_reload_conf()") for 1 .. 3;
$t->neon('safekeeper', 'stop', 1);
$t->neon('endpoint', 'restart', 'main');
$clients = load();
$t->neon('safekeeper', 'start', 1);
back('safekeeper 1 after an election without it');
end_load($clients);
like(NeonQuorum::new_log($t, 1), qr/learnt of term \d+, which begins at/, 'it learnt of the term from a peer');

# ---- two missed elections, no compute living ----
$t->kill9('safekeeper 2');
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', 'CREATE TABLE missed AS SELECT i FROM generate_series(1, 10000) i');
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', "INSERT INTO missed SELECT generate_series(1, 10000)");
$t->endpoint_stop('main', '-m', 'immediate');
$t->neon('safekeeper', 'start', 2);
caught_up(2, 'safekeeper 2 after two elections without it, and no compute');
like(NeonQuorum::new_log($t, 2), qr/learnt of term/, 'it learnt of the term from a peer');
$t->endpoint_start('main');

# ---- far behind: the compute has removed what it lacks ----
$t->psql('main', "ALTER SYSTEM SET neon.safekeeper_wal_keep = '2MB'; SELECT pg_reload_conf()");
$t->neon('safekeeper', 'stop', 3, '-m', 'immediate');
$t->psql('main', "CREATE TABLE far AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 24000) i");
$t->wait_for('the compute to give the WAL up', sub { $t->psql('main', <<'SQL') eq 't' });
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), min(restart_lsn)) < 4000000 FROM pg_replication_slots
SQL
$t->psql('main', 'CHECKPOINT');
$clients = load();
$t->neon('safekeeper', 'start', 3);
back('safekeeper 3 after the compute removed WAL that it lacked');
end_load($clients);
like(NeonQuorum::new_log($t, 3), qr/copying WAL from \S+ on from a peer/, 'it copied from a peer');

# ---- all of them at once, in the middle of commits ----
$clients = load();
$t->kill9("safekeeper $_", nowait => 1) for 1 .. 3;
$t->neon('start');
back('all safekeepers after kill -9');
$clients->stop;
like($clients->errors, qr/\A(?:[^\n]*lost its lease\n.*)?\z/s, 'waiting commits go on, and at most the lease was lost');

# ---- what is there in the end ----
my @lost = map { $_->lost('main') } @all;
is(scalar(@lost), 0, 'no acknowledged transaction is lost') or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
$t->balances_agree('main');
$t->endpoint_stop('main');
$t->wait_for('equal positions',
	sub { my %p = map { NeonQuorum::positions($t, 'main', $_, 'flush_lsn, commit_lsn') => 1 } 1 .. 3; keys %p == 1 });
NeonQuorum::check_wal($t, 'main', 'at the end');
for (1 .. 3)
{
	$t->poll("safekeeper $_", "SELECT string_agg(concat_ws('|', state, receiving_from, problem), E'\\n') FROM neon_safekeeper.timelines", 'active');
	pass("safekeeper $_ waits for a compute without a problem");
}

done_testing();
