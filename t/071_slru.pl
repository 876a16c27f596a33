# Transaction status, multixacts and commit timestamps over many pages, over
# their truncation, and over boots: against stock PostgreSQL's replay.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->keep_wal;
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'track_commit_timestamp=on', 'autovacuum_freeze_max_age=100000',
	'autovacuum_multixact_freeze_max_age=10000', 'autovacuum_naptime=1s', 'vacuum_freeze_min_age=0',
	'vacuum_multixact_freeze_min_age=0', 'max_prepared_transactions=5');
$t->neon('endpoint', 'start', 'main');
$t->psql('main', <<'SQL');
CREATE EXTENSION neon_test_utils;
CREATE EXTENSION amcheck;
CREATE TABLE t(id serial PRIMARY KEY, x xid8 DEFAULT pg_current_xact_id());
CREATE TABLE l(id int PRIMARY KEY, v int);
INSERT INTO l SELECT g, 0 FROM generate_series(1, 200) g;
SQL
my $base = $t->vanilla_base('main', $t->tmp . '/base');

# rows, committed and rolled back, at both ends of a million of transaction ids
my $insert = join '', map { ($_ % 3 ? '' : 'BEGIN; ') . 'INSERT INTO t DEFAULT VALUES;' . ($_ % 3 ? '' : ' ROLLBACK;') . "\n" } 1 .. 200;
$t->psql('main', $insert);
my $n = $NeonTest::long ? 5 : 1;
for (1 .. 12 * $n)
{
	$t->psql('main', 'SELECT neon_test_utils.consume_xids(100000)');
	$t->psql('main', 'INSERT INTO t DEFAULT VALUES');
}
$t->psql('main', $insert);

# multixacts with two and more members
my @s = map { $t->session('main') } 1 .. 3;
for my $i (1 .. 40)
{
	$_->query("BEGIN; SELECT count(*) FROM (SELECT 1 FROM l WHERE id <= 200 FOR KEY SHARE) x", 60) for @s;
	$s[0]->query("UPDATE l SET v = v + 1 WHERE id = $i");
	$s[$_]->query($_ == 2 && $i % 2 ? 'ROLLBACK' : 'COMMIT', 60) for 0 .. 2;
}
$t->psql('main', "BEGIN; INSERT INTO t DEFAULT VALUES; PREPARE TRANSACTION 'p'");
my $multi = $t->psql('main', 'SELECT next_multixact_id FROM pg_control_checkpoint()');
my $state = <<'SQL';
SELECT count(*), sum(id), md5(string_agg(id || ' ' || x::text || ' ' || xmin::text || ' ' || coalesce(pg_xact_commit_timestamp(xmin)::text, '-'), ',' ORDER BY id)) FROM t;
SELECT count(*), sum(v), sum(id) FROM l;
SELECT count(*) FROM (SELECT DISTINCT pg_xact_status(x) FROM t) s;
SQL
my $early = $t->wait_ingest('main');
my $early_state = $t->psql('main', $state);
$t->kill9('main');
$t->endpoint_start('main');
is($t->psql('main', $state), $early_state, 'the same after a crash');
is($t->psql('main', 'SELECT gid FROM pg_prepared_xacts'), 'p', 'the prepared transaction too');
$t->psql('main', "COMMIT PREPARED 'p'");

# autovacuum freezes everywhere, so transaction status is cut
$t->poll('main', 'SELECT max(age(datfrozenxid)) < 100000 FROM pg_database', 't', timeout => 180);
$t->poll('main', "SELECT NOT EXISTS (SELECT FROM pg_ls_dir('pg_xact') f WHERE f = '0000')", 't', timeout => 120);
my @after = map { m{([0-9A-F]+)$} } glob '"' . $t->pgdata('main') . '/pg_xact/*"';
cmp_ok($after[0], 'gt', '0000', 'transaction status was cut');
$t->psql('main', $insert);
my $late = $t->wait_ingest('main');
my $late_state = $t->psql('main', $state);
$t->endpoint_stop('main');
$t->endpoint_start('main');
is($t->psql('main', $state), $late_state, 'the same after a boot');
is($t->psql('main', "SELECT string_agg(f, ' ' ORDER BY f) FROM pg_ls_dir('pg_xact') f"),
	$t->psql('main', "SELECT string_agg(f, ' ' ORDER BY f) FROM pg_ls_dir('pg_xact') f WHERE f >= '$after[0]'"),
	'what was cut does not come back');
$t->wait_ingest('main');

for my $at ([ $early, $early_state, 'before the cut' ], [ $late, $late_state, 'after the cut' ])
{
	my ($lsn, $want, $what) = @$at;
	my $ep = 's' . ($what =~ /before/ ? 1 : 2);
	$t->endpoint_start($ep, lsn => $lsn);
	my $x = $t->boot_lsn($ep);
	my $v = $t->vanilla_replay($base, $x, $t->wal_dir('main'));
	NeonTest::dumps_equal($t->dump_all($ep), $v->dump_all, "static endpoint $what equals stock replay");
	is($t->psql($ep, 'SELECT count(*), sum(id), sum(xmin::text::bigint) FROM t'),
		$v->psql('SELECT count(*), sum(id), sum(xmin::text::bigint) FROM t'), "$what: rows");
	is($t->psql($ep, 'SELECT md5(string_agg(xmax::text, $$,$$ ORDER BY id)) FROM l'),
		$v->psql('SELECT md5(string_agg(xmax::text, $$,$$ ORDER BY id)) FROM l'), "$what: row locks");
	is($t->psql($ep, $state), $want, "$what: commit times");
	$v->stop;
	$t->endpoint_stop($ep);
}
$t->amcheck('main');
$t->neon('stop');
done_testing();
