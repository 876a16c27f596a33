# Where compaction is behind, writers are slowed down: smoothly, with a word in
# view and log, and until it has caught up.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart;
$t->psql('main', 'CREATE EXTENSION neon; CREATE TABLE a (i int, x text)');

sub set { my (%s) = @_; $t->psql('pageserver', join '; ', (map { "ALTER SYSTEM SET neon_pageserver.$_ = '$s{$_}'" } sort keys %s), 'SELECT pg_reload_conf()'); return }
sub mb_sql { my ($mb) = @_; return "INSERT INTO a SELECT i, md5(random()::text) || repeat('x', 900) FROM generate_series(1, 1000 * $mb) i" }
sub held { return $t->psql('main', 'SELECT writers_held FROM neon.status') }
sub endpoint_log { return join '', map { NeonTest::Vanilla::slurp($_) } glob $t->dir . '/endpoints/main/log/*' }
sub debt { return $t->psql('pageserver', "SELECT compaction_debt FROM neon_pageserver.timelines WHERE name = 'main'") }

$t->psql('main', mb_sql(20));
is(held(), '', 'writers are not slowed down while compaction keeps up');

# It does nothing now.
set(max_compaction_debt => '1MB', checkpoint_distance => '2MB');
my @stopped = $t->children_of($t->postmaster_pid('pageserver'), qr/neon compaction/);
$t->signal('STOP', @stopped);
$t->psql('main', mb_sql(5)) for 1 .. 8;
like($t->poll('main', 'SELECT writers_held FROM neon.status', qr/behind/),
	qr/^compaction of pageserver \S+ is \d+ MB behind \(neon_pageserver.max_compaction_debt is 1 MB there\): [\d.]+ MB of WAL per second and session$/,
	'the view says why they are');
cmp_ok(debt(), '>', 1024 * 1024, 'so does the pageserver');
$t->wait_for('a log line', sub { endpoint_log() =~ /writers are held back: compaction of pageserver/ });
pass('and the log');
# twice the limit is as slow as it becomes; the layers are much smaller than the WAL
my $mb = 60;
for (; debt() <= 2 * 1024 * 1024; $mb += 5)
{
	die 'no debt' if $mb > 300;
	$t->psql('main', mb_sql(5));
}
note("$mb MB of WAL, debt: " . debt());
$t->poll('main', "SELECT writers_held ~ ': 1.0 MB of WAL'  FROM neon.status");

# At one MB per second it takes more than a minute, else a second.
my $s = $t->session('main');
my $pid = $s->query('SELECT pg_backend_pid()');
my $from = NeonTest::lsn_num($t->insert_lsn('main'));
$s->send(mb_sql(100));
is($s->answer(6), undef, 'a large statement goes on slowly');
cmp_ok(NeonTest::lsn_num($t->insert_lsn('main')) - $from, '<', 60 * 1024 * 1024, 'its WAL grows slowly');
is($t->psql('main', 'SELECT count(*) > 0 FROM a'), 't', 'readers are not held');
$t->psql('main', "SELECT pg_cancel_backend($pid)");
$s->answer;
like($s->error, qr/canceling statement due to user request/, 'it can be cancelled');

# It may work again.
$s->send(mb_sql(100));
is($s->answer(2), undef, 'another one goes on slowly');
$t->signal('CONT', @stopped);
is($s->answer, '', 'until compaction has caught up');
is($s->error, '', 'without an error');
$t->poll('main', 'SELECT writers_held IS NULL FROM neon.status');
$t->wait_for('the end in the log', sub { endpoint_log() =~ /writers are no longer held back/ });
pass('the end is told, too');
is($t->psql('main', 'SELECT count(*) FROM a'), 1000 * ($mb + 100), 'all rows are there');
done_testing();
