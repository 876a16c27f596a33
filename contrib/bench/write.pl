# Measures an endpoint over three safekeepers against two stock PostgreSQL
# servers on the same disk, all with fsync = on but for the endpoint's own
# directory, which is a cache: one alone, and one with three standbys and
# synchronous_standby_names = 'ANY 2 (...)'.  In turns; figures are medians.
#
# NEON_BENCH_SCALE (10), NEON_BENCH_SECONDS (10) of a run, NEON_BENCH_ROUNDS (3),
# NEON_BENCH_LOAD_MB (200) of a COPY, NEON_BENCH_CLIENTS (1,8,32) of TPC-B.
use strict;
use warnings;
use lib "$ENV{NEON_TEST_TOP}/contrib/bench";
use NeonBench;
use NeonTest;
use Test::More;

my $load_mb = $ENV{NEON_BENCH_LOAD_MB} || 200;
my @clients = split /,/, $ENV{NEON_BENCH_CLIENTS} || '1,8,32';	# of TPC-B
my $conf = "shared_buffers=128MB\nmax_wal_size=4GB\n";
my %against = (stock => 'stock alone', sync => 'stock, ANY 2 of 3');
my @systems = ('stock', 'sync', 'main');

my $t = NeonTest->new(safekeepers => 3);
stock_init($t, 'stock', conf => $conf);
stock_init($t, 'sync', conf => "${conf}wal_keep_size = 2GB\n");
stock_start($_) for 'stock', 'sync';
for my $n (1 .. 3)
{
	stock_init($t, "s$n", from => 'sync', conf => "hot_standby = on\n");
	stock_start("s$n");
}
$t->psql('sync', "ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (s1, s2, s3)'");
$t->psql('sync', 'SELECT pg_reload_conf()');
$t->poll('sync', "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'", '3');
endpoint_init($t, split /\n/, $conf);
$t->pgbench_init($_, $NeonBench::scale) for @systems;

# One row against each of the stock servers that has a figure.
sub rows
{
	my ($r, $i, %row) = @_;
	my $targets = delete $row{targets} // {};
	for my $system (grep { $r->{$_} } 'stock', 'sync')
	{
		row(%row, against => $against{$system}, ours => $r->{main}[$i], theirs => $r->{$system}[$i], %{ $targets->{$system} // {} });
	}
	return;
}

sub insert_position { return NeonTest::lsn_num($t->psql($_[0], 'SELECT pg_current_wal_insert_lsn()')) }

# The directories of a system's processes.
my %dirs = (stock => [ $t->tmp . '/stock' ], sync => [ map { $t->tmp . "/$_" } 'sync', 's1', 's2', 's3' ], main => [ $t->dir ]);

# pgbench, from a checkpoint on: transactions per second, latencies, and of each
# transaction the bytes of WAL and the microseconds of CPU of all processes.
sub transactions
{
	my ($system, $clients, @args) = @_;
	$t->psql($system, 'CHECKPOINT', timeout => 600);
	my $from = insert_position($system);
	my $cpu = cpu_seconds(@{ $dirs{$system} });
	my @figures = pgbench_run($t, $system, $clients, @args);
	my $n = $figures[0] * $NeonBench::seconds;
	return (@figures, (insert_position($system) - $from) / $n, 1e6 * (cpu_seconds(@{ $dirs{$system} }) - $cpu) / $n);
}

sub latency_rows
{
	my ($r, $what) = @_;
	rows($r, 1, what => "  $what, latency p50", unit => 'ms', lower => 1);
	rows($r, 2, what => "  $what, latency p99", unit => 'ms', lower => 1);
	return;
}

if (wanted('tpcb'))
{
	for my $clients (@clients)
	{
		my $r = alternate(\@systems, sub { transactions($_[0], $clients) });
		my $what = "TPC-B, $clients client" . ($clients > 1 ? 's' : '');
		rows($r, 0, what => $what, unit => 'tps', targets => { stock => { at_least => 1.0 }, sync => { at_least => 1.5 } });
		latency_rows($r, $what);
		rows($r, 4, what => "  $what, CPU of all its processes", unit => 'us', lower => 1);
		next if $clients != 8;
		delete $r->{sync};
		rows($r, 3, what => "WAL of a transaction, $NeonBench::seconds s from a checkpoint", unit => 'B', lower => 1,
			targets => { stock => { at_least => 1 / 0.3 } });
	}
	# what is left of it when each page has had its image since the checkpoint
	my @off = ('stock', 'main');
	$t->psql('stock', "ALTER SYSTEM SET full_page_writes = off;\nSELECT pg_reload_conf()");
	my $r = alternate(\@off, sub { (transactions($_[0], 8))[3] });
	$t->psql('stock', "ALTER SYSTEM RESET full_page_writes;\nSELECT pg_reload_conf()");
	rows($r, 0, what => 'the same, without full page images there too', unit => 'B', lower => 1);
}

if (wanted('commits'))
{
	my $r = alternate(\@systems, sub { transactions($_[0], 8, '-N') });
	rows($r, 0, what => 'pgbench -N, 8 clients', unit => 'tps');
	latency_rows($r, 'pgbench -N, 8 clients');
}

if (wanted('warm'))
{
	my @two = ('stock', 'main');
	$t->psql($_, "VACUUM pgbench_accounts;\nSELECT count(*) FROM pgbench_accounts") for @two;
	pgbench_run($t, $_, 4, '-S') for @two;
	for my $clients (1, 8)
	{
		my $r = alternate(\@two, sub { (pgbench_run($t, $_[0], $clients, '-S'))[0] });
		rows($r, 0, what => "pgbench -S warm, $clients client" . ($clients > 1 ? 's' : ''), unit => 'tps', targets => { stock => { at_least => 0.97 } });
	}
}

if (wanted('copy'))
{
	my $file = $t->tmp . '/load';
	open(my $f, '>', $file) or die "$file: $!";
	print $f "$_\t" . ('x' x 1000) . "\n" for 1 .. $load_mb * 1000;
	close $f or die;
	my $mb = (-s $file) / 1048576;
	my $r = alternate(\@systems, sub {
		my ($system) = @_;
		$t->psql($system, "DROP TABLE IF EXISTS load;\nCREATE TABLE load(i int, t text);\nCHECKPOINT", timeout => 600);
		return $mb / timed(sub { $t->psql($system, "\\copy load FROM '$file'", timeout => 900) }) * 1000;
	});
	unlink $file;
	rows($r, 0, what => sprintf('COPY of %d MB', $mb), unit => 'MB/s');
}

if (wanted('index'))
{
	my $r = alternate(\@systems, sub {
		my ($system) = @_;
		$t->psql($system, "DROP INDEX IF EXISTS balance;\nUPDATE pgbench_accounts SET abalance = 1 WHERE aid = 1;\nCHECKPOINT", timeout => 600);
		return timed(sub { $t->psql($system, 'CREATE INDEX balance ON pgbench_accounts(abalance, aid)', timeout => 900) });
	});
	rows($r, 0, what => "CREATE INDEX on ${NeonBench::scale}00,000 rows", unit => 'ms', lower => 1);
}

finish();
$t->neon('stop');
stock_stop($_, 'immediate') for 's1', 's2', 's3', 'sync', 'stock';
done_testing();
