# A base backup whose client takes nothing holds the history of all timelines:
# for as long as neon_pageserver.basebackup_timeout, and not longer.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "$f.basebackup_timeout = 0\n$f.gc_horizon = 0\n$f.pitr_interval = 0\n");
$ENV{PGUSER} = 'cloud_admin';
my $idle = $ps->tenant;
my $t = $ps->tenant;
$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
my $node = $ps->vanilla('writer', $t, $t->{lsn}, 1, 'primary', conf => "autovacuum = off\n");
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
follow($ps, $t, $node);

# Removes history up to now, as far as readers let it.
sub gc
{
	my ($settings) = @_;
	my ($end) = (split /\n/, $node->safe_psql('postgres', 'CREATE TABLE IF NOT EXISTS t (v int); INSERT INTO t VALUES (1); SELECT pg_current_wal_flush_lsn()'))[-1];
	wait_for_lsn($ps, $t, $end);
	return $ps->sql_error("$settings SELECT $f.timeline_gc($t->{args})");
}

sub backups { return $ps->sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'basebackup'") }

# Somebody begins a base backup of another timeline and reads nothing of it.
sub begin
{
	my $c = $ps->connect;
	my $before = -s $ps->node->logfile;
	$c->query("CALL $f.basebackup('$idle->{tenant}', '$idle->{timeline}', '$idle->{lsn}', 0, 'static')");
	for (1 .. 600)
	{
		last if $ps->sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'basebackup' AND wait_event = 'ClientWrite'") eq '1';
		usleep(100_000);
	}
	return $c;
}

my $c = begin();
like(gc("SET statement_timeout = '3 s';"), qr/statement timeout/, 'a base backup that is not read holds the horizon');
is(backups(), 1, 'for ever without a timeout');
close $c->{sock};
for (1 .. 600)
{
	last if backups() eq '0';
	usleep(100_000);
}
is(gc(''), '', 'and no longer when its client is gone');

$ps->node->append_conf('postgresql.conf', "$f.basebackup_timeout = '2 s'\n");
$ps->node->reload;
for (1 .. 600)
{
	last if $ps->sql("SHOW $f.basebackup_timeout") eq '2s';
	usleep(100_000);
}
my $log = -s $ps->node->logfile;
my $second = begin();
is(gc(''), '', 'with a timeout it does not hold it for long');
is(backups(), 0, 'as the base backup is over');
like(slurp_file($ps->node->logfile, $log),
	qr/FATAL:  terminating base backup due to timeout of its client\n.*DETAIL:  Of \d+ bytes it has taken \d+ in 2000 ms\.\n.*HINT:  .*basebackup_timeout/,
	'the log says so');
cmp_ok(length $ps->basebackup($idle, $idle->{lsn}, 0, 'static'), '>', 16 * 1024 * 1024, 'a client that reads gets all of it');
$node->stop;
$ps->stop;
done_testing();
