# After 2 GB of WAL a pageserver that was killed answers its first page soon, as
# only WAL that is in no layer is decoded again; its memory is bounded; and what
# a base backup costs does not depend on how long the history is.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'takes minutes (NEON_TEST_LONG)' if !$ENV{NEON_TEST_LONG};

my $goal = ($ENV{NEON_TEST_WAL_MB} || 2048) * 1024 * 1024;
my $scale = 10;
my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('pageserver');
$ENV{PGUSER} = 'cloud_admin';

sub lsn { return NeonPageserver::lsn_number($_[0]) }

# Seconds of CPU that the processes have used.
sub cpu
{
	my $ticks = 0;
	for ($ps->of_processes('stat'))
	{
		my @field = split / /, s/^.*\) //sr;
		$ticks += $field[11] + $field[12];
	}
	return $ticks / 100;
}

# Looks at the memory every second until the test is over.
my $maxima = PostgreSQL::Test::Utils::tempdir() . '/pss';
my $parent = $$;
my $sampler = fork() // die;
if ($sampler == 0)
{
	my $most = 0;
	while (kill 0, $parent)
	{
		my $mb = $ps->pss;
		append_to_file($maxima, "$mb\n") if $mb > $most;
		$most = $mb if $mb > $most;
		sleep 1;
	}
	POSIX::_exit(0);
}

my $t = $ps->tenant;
$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
my $node = $ps->vanilla('writer', $t, $t->{lsn}, 1, 'primary', conf => "max_wal_size = 1GB\nshared_buffers = 256MB\n");
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
follow($ps, $t, $node);

sub caught_up
{
	my $end = (split /\n/, $node->safe_psql('postgres', 'CREATE TABLE IF NOT EXISTS e(i int); INSERT INTO e VALUES (1); SELECT pg_current_wal_flush_lsn()'))[-1];
	for (1 .. 10)
	{
		last if $ps->sql("SELECT $f.wait_lsn($t->{args}, '$end', '60 s')") eq 't';
	}
	return $ps->last_lsn($t);
}

# Bytes and milliseconds of a base backup, and of layers read for it.
sub backup
{
	my ($what) = @_;
	my $end = caught_up();
	my (@ms, $bytes);
	for (1 .. 3)
	{
		my $start = time;
		$bytes = length $ps->basebackup($t, $ps->sql("SELECT $f.round_lsn($t->{args}, '$end')"), 0, 'static');
		push @ms, 1000 * (time - $start);
	}
	my ($best) = sort { $a <=> $b } @ms;
	note(sprintf '%s: base backup of %d bytes in %.0f ms', $what, $bytes, $best);
	return ($bytes, $best);
}

run_command([ 'pgbench', '-i', '-q', '-s', $scale, '-h', $node->host, '-p', $node->port, 'postgres' ]);
my ($bytes, $ms) = backup('at the beginning');
my $begin = lsn($ps->last_lsn($t));
my $started = time;
my $now = $begin;
for (my $round = 0; $now - $begin < $goal; $round++)
{
	$node->safe_psql('postgres', "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 4 = $round % 4; VACUUM pgbench_accounts", timeout => 600);
	run_command([ 'pgbench', '-n', '-c', 4, '-t', 2000, '-h', $node->host, '-p', $node->port, 'postgres' ]);
	$now = lsn(caught_up());
}
note(sprintf '%d MB of WAL in %.0f s', ($now - $begin) / 1048576, time - $started);
my ($bytes_after, $ms_after) = backup('at the end');
cmp_ok($bytes_after, '<', 1.5 * $bytes, 'a base backup has not grown with the history');
cmp_ok($ms_after, '<', 5 * $ms + 1000, 'nor has its cost');
my $wal = 0;
$wal += -s $_ for glob $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal/0*";
cmp_ok($wal, '<', (2 * 256 + 64 + 64) * 1024 * 1024, 'stored WAL is bounded: ' . int($wal / 1048576) . ' MB');

# ---- times ----
my $times = "generate_series(to_timestamp($started) + interval '1 s', clock_timestamp(), (clock_timestamp() - to_timestamp($started)) / 100) x";
my $searching = time;
cmp_ok($ps->sql("SELECT count($f.lsn_for_timestamp($t->{args}, x)) FROM $times"), '>', 90, 'times of this history have LSNs');
my $each = 10 * (time - $searching);
note(sprintf 'an LSN is found in %.1f ms', $each);
cmp_ok($each, '<', 500, 'and soon');

my ($rel) = split /\|/, $node->safe_psql('postgres', "SELECT pg_relation_filepath('pgbench_accounts')");
my ($db, $file) = $rel =~ m{base/(\d+)/(\d+)};
my $end = caught_up();
my $before = $ps->sql("SELECT md5($f.get_page($t->{args}, 1663, $db, $file, 0, 5, '$end'))");
$ps->node->stop('immediate');
my $log = -s $ps->node->logfile;
$started = time;
$ps->start;
my $up = time - $started;
my $s = $ps->stream($t);
my $r;
for (1 .. 20)
{
	# as a compute does: what has not arrived is asked for again
	$r = $s->get(lsn => $end, rel => [ 1663, $db, $file ], fork => 0, blk => 5, n => 1);
	last if $r->{tag} eq 'p';
	note("answer: $r->{message}");
}
my $first = time - $started;
my $cpu = cpu();
$s->close;
is($r->{tag}, 'p', sprintf 'the first page comes %.2f s after the start began (%.2f s of it until connections are taken)', $first, $up);
is($ps->sql("SELECT md5($f.get_page($t->{args}, 1663, $db, $file, 0, 5, '$end'))"), $before, 'and is what it was');
# what it takes is the same on a busy machine
cmp_ok($cpu, '<', 3, "after $cpu s of CPU time");
my ($mb) = slurp_file($ps->node->logfile, $log) =~ /indexed \d+ stored WAL records \(([\d.]+) MB\)/;
cmp_ok($mb // 0, '<=', 2 * 256 + 32, 'only what is in no layer was decoded again: ' . ($mb // 0) . ' MB');
kill 'KILL', $sampler;
{ local $?; waitpid $sampler, 0 }
my $most = (split /\n/, slurp_file($maxima))[-1];
cmp_ok($most, '<', 1024, "memory of the instance (sum of Pss) was $most MB at most");
$node->stop;
$ps->stop;
done_testing();
