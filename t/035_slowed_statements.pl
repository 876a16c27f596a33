# Statements that change many pages and add none, DELETE and VACUUM, are slowed
# down by neon.max_ingest_lag and neon.max_unflushed_wal while they run; who only
# reads is not.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'shared_buffers=1MB', 'autovacuum=off');
$t->endpoint_start('main');
my $pages = 2000;
$t->psql('main', "CREATE EXTENSION neon; " . join '; ', map { "CREATE TABLE $_ (id int, pad text)" } qw(deleted frozen read));
for (qw(deleted frozen read))
{
	$t->psql('main', "INSERT INTO $_ SELECT i, repeat('p', 180) FROM generate_series(1, $pages * 36) i");
	$t->psql('main', "SELECT count(*) FROM $_");
}
$t->psql('main', 'CHECKPOINT; VACUUM read');
$t->wait_ingest('main');
$t->psql('main', 'SELECT neon.hydrate()');

sub set { $t->psql('main', $_) for (map { "ALTER SYSTEM SET $_" } @_), 'SELECT pg_reload_conf()'; return }
my @stopped = ($t->postmaster_pid('pageserver'), $t->children_of($t->postmaster_pid('pageserver'), qr/./));

# $sql begins while the pageserver hangs, and is beyond the limit, in bytes.
sub slowed
{
	my ($sql, $limit) = @_;
	$t->wait_ingest('main');
	$t->signal('STOP', @stopped);
	my $from = $t->insert_lsn('main');
	my $s = $t->session('main');
	$s->send($sql);
	$t->poll('main', "SELECT pg_current_wal_insert_lsn() > pg_lsn '$from' + $limit", 't');
	sleep 2;
	my $written = $t->psql('main', "SELECT pg_current_wal_insert_lsn() - pg_lsn '$from'");
	is($s->answer(0.1), undef, "$sql goes on");
	cmp_ok($written, '<', 3 * $limit, "but writes slowly: $written bytes");
	is($t->poll('main', "SELECT wait_event FROM pg_stat_activity WHERE query = '$sql;'", 'Extension'), 'Extension', 'which pg_stat_activity shows');
	is($t->psql('main', "SET statement_timeout = '30s'; SELECT count(*) FROM read"), $pages * 36, 'who reads is not slowed');
	return $s;
}

sub goes_on
{
	my ($s) = @_;
	$t->signal('CONT', @stopped);
	is($s->answer, '', 'it ends when the pageserver goes on');
	is($s->error, '', 'without an error');
	return;
}

set("neon.max_ingest_lag = '64kB'");
goes_on(slowed($_, 64 * 1024)) for 'DELETE FROM deleted', 'VACUUM FREEZE frozen';

# the limit of what is not safe yet
set('neon.max_ingest_lag = 0', "neon.max_unflushed_wal = '1MB'");
my $s = slowed('DELETE FROM frozen', 1024 * 1024);
my $pid = $t->psql('main', "SELECT pid FROM pg_stat_activity WHERE query = 'DELETE FROM frozen;'");
is($t->psql('main', "SELECT pg_cancel_backend($pid)"), 't', 'who is slowed down can be cancelled');
$t->wait_for('the error', sub { $s->answer(0.1); ($s->error // '') =~ /canceling statement/ });
$t->signal('CONT', @stopped);
$t->neon('stop');
done_testing();
