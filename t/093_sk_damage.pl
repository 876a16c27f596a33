# A flipped bit in acknowledged WAL, or in the state file, of one safekeeper:
# it says so, neither votes nor confirms, and the others go on.  A commit that
# writes much while a majority is gone is held, and told who is missing.
use strict;
use warnings;
use Damage;
use NeonQuorum;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $t = NeonTest->new(safekeepers => 3);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->cold;
$t->psql('main', 'CREATE EXTENSION neon; CREATE TABLE a AS SELECT i FROM generate_series(1, 50000) i');
NeonQuorum::wait_streaming($t, 'main', 3);

sub dead
{
	my ($id, $what) = @_;
	my $log = '';
	$t->wait_for("the log of safekeeper $id", sub {
			$t->psql_raw("safekeeper $id", "SELECT neon_safekeeper.promise('" . $t->tenant . "', '" . NeonQuorum::branch_id($t, 'main') . "', 1, 1000, '')");
			$log .= NeonQuorum::new_log($t, $id);
			$log =~ /is damaged on this safekeeper.*DETAIL:.*HINT:/s;
		});
	pass("$what: safekeeper $id says that it is damaged");
	is($t->psql("safekeeper $id", 'SELECT state FROM neon_safekeeper.timelines'), 'damaged', 'also in the view');
	$t->psql_fails("safekeeper $id", "SELECT neon_safekeeper.promise('" . $t->tenant . "', '" . NeonQuorum::branch_id($t, 'main') . "', 1, 1000, '')",
		qr/damaged/, 'it does not vote');
}

# ---- WAL ----
my $flush = NeonTest::lsn_num(NeonQuorum::positions($t, 'main', 1, 'flush_lsn'));
my $segsize = NeonQuorum::segment_size($t, 'main', 1);
$t->neon('safekeeper', 'stop', 1);
NeonQuorum::new_log($t, 1);
flip_bit(NeonQuorum::wal_dir($t, 'main', 1) . '/' . NeonQuorum::segment_name($flush - 1, $segsize), ($flush - 1) % $segsize - 10, 4);
$t->neon('safekeeper', 'start', 1);
dead(1, 'WAL');
$t->psql('main', 'INSERT INTO a SELECT generate_series(1, 1000)');
pass('commits go on');
like($t->poll('main', 'SELECT problem FROM neon.safekeepers WHERE id = 1', qr/damaged/), qr/damaged/, 'the compute says why it lacks a safekeeper');
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SELECT count(*) FROM a'), 51000, 'an election goes on with the other two');

# ---- a majority gone: no more than some WAL is written ----
$t->psql('main', "ALTER SYSTEM SET neon.max_unflushed_wal = '16MB'; ALTER SYSTEM SET neon.fetch_timeout = '3s'; SELECT pg_reload_conf()");
my $session = $t->session('main', db => 'postgres');
$session->query('SELECT 1');
$t->neon('safekeeper', 'stop', 2, '-m', 'immediate');
$session->send("COPY a FROM PROGRAM 'seq 1 3000000'");
is($session->answer(60), '', 'one huge COPY ends');
like($session->error, qr/ERROR:.*\n.*safekeeper 2/s, 'with an error that names who is missing') or diag($session->error);
my $size = 0;
$size += -s $_ for glob($t->pgdata('main') . '/pg_wal/0*');
cmp_ok($size, '<', 100_000_000, 'the compute has not filled its disk');
$t->neon('safekeeper', 'start', 2);
NeonQuorum::wait_streaming($t, 'main', 2);
$session->close;
$t->psql('main', 'INSERT INTO a VALUES (0)');
is($t->psql('main', 'SELECT count(*) FROM a'), 51001, 'it goes on with all that was acknowledged');

# ---- a state file: with it, a majority is damaged, and nothing is started ----
$t->endpoint_stop('main');
$t->neon('safekeeper', 'stop', 2);
NeonQuorum::new_log($t, 2);
flip_bit(NeonQuorum::wal_dir($t, 'main', 2) . '/../state', 100, 4);
$t->neon('safekeeper', 'start', 2);
dead(2, 'a state file');
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/safekeeper/, qr/./, 'two damaged of three: no endpoint starts');

done_testing();
