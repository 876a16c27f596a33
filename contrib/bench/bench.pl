# Measures an endpoint against stock PostgreSQL, side by side in one run, and
# prints a table.  NEON_BENCH_SCALE (10) and NEON_BENCH_SECONDS (15) choose the
# size; the figures are those of this machine at this moment.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

my $scale = $ENV{NEON_BENCH_SCALE} || 10;
my $seconds = $ENV{NEON_BENCH_SECONDS} || 15;
my $clients = $ENV{NEON_BENCH_CLIENTS} || 4;
my @rows;

my $t = NeonTest->new;
my $buffers = 'shared_buffers=128MB';

# stock PostgreSQL with its defaults on the same disk
my $plain = $t->tmp . '/stock';
my ($rc, $out, $err) = $t->command([ 'initdb', '-D', $plain, '-A', 'trust', '-U', 'cloud_admin' ]);
die $err if $rc != 0;
my $plain_port = $t->free_port;
my @plain_options = ('-o', "-p $plain_port -h 127.0.0.1 -k '' -c $buffers");
sub stock_start { $t->command([ 'pg_ctl', '-D', $plain, '-l', "$plain.log", '-w', @plain_options, 'start' ]) }
sub stock_stop { $t->command([ 'pg_ctl', '-D', $plain, '-m', 'fast', '-w', 'stop' ]) }
stock_start();
$t->set_port('stock', $plain_port);

$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', $buffers, 'neon.prewarm_rate=0');
$t->neon('endpoint', 'start', 'main');

sub tps
{
	my ($ep, @args) = @_;
	my $o = $t->pgbench($ep, '-c', $clients, '-j', 2, '-T', $seconds, @args);
	my ($tps) = $o =~ /^tps = ([\d.]+)/m or die "no figure in: $o";
	return $tps;
}

# Higher is better unless $lower.
sub row
{
	my ($what, $unit, $stock, $ours, $lower) = @_;
	my $ratio = $stock && $ours ? ($lower ? $stock / $ours : $ours / $stock) : undef;
	push @rows, [ $what, $unit, $stock, $ours, $ratio ];
}

sub wal_per_transaction
{
	my ($ep, $code) = @_;
	my $before = NeonTest::lsn_num($t->psql($ep, 'SELECT pg_current_wal_insert_lsn()'));
	my $n0 = $t->psql($ep, 'SELECT count(*) FROM pgbench_history');
	my $r = $code->();
	my $bytes = NeonTest::lsn_num($t->psql($ep, 'SELECT pg_current_wal_insert_lsn()')) - $before;
	return ($r, $bytes / ($t->psql($ep, 'SELECT count(*) FROM pgbench_history') - $n0));
}

my %load;
for my $ep ('stock', 'main')
{
	my $began = time;
	$t->pgbench_init($ep, $scale);
	$load{$ep} = time - $began;
}
row("load, scale $scale", 's', $load{stock}, $load{main}, 1);

my (%tpcb, %wal);
$t->psql($_, 'CHECKPOINT') for 'stock', 'main';
($tpcb{$_}, $wal{$_}) = wal_per_transaction($_, sub { tps($_) }) for 'stock', 'main';
row("TPC-B, $clients clients", 'tps', $tpcb{stock}, $tpcb{main});
row('WAL per transaction', 'B', $wal{stock}, $wal{main}, 1);
my %s;
$t->psql($_, 'SELECT count(*) FROM pgbench_accounts') for 'stock', 'main';
$s{$_} = tps($_, '-S') for 'stock', 'main';
row("-S warm, $clients clients", 'tps', $s{stock}, $s{main});

# boot: stop, start, first query
sub boot_time
{
	my ($start, $ep) = @_;
	my $began = time;
	$start->();
	$t->psql($ep, 'SELECT 1');
	return (time - $began) * 1000;
}
$t->psql('main', 'CHECKPOINT');
$t->wait_ingest('main');
stock_stop();
$t->neon('endpoint', 'stop', 'main');
my $drop = $> == 0 || -w '/proc/sys/vm/drop_caches';
if ($drop)
{
	system('sync');
	if (open my $f, '>', '/proc/sys/vm/drop_caches') { print $f "3\n"; close $f }
}
row('boot to the first query' . ($drop ? ', no page cache' : ''), 'ms', boot_time(\&stock_start, 'stock'),
	boot_time(sub { $t->neon('endpoint', 'start', 'main') }, 'main'), 1);

# cold scan: nothing local here (nor prewarmed), and no page cache there if that can be arranged
my %scan;
for my $ep ('stock', 'main')
{
	my $began = time;
	$t->psql($ep, 'SET max_parallel_workers_per_gather = 0; SELECT sum(abalance) FROM pgbench_accounts', timeout => 600);
	$scan{$ep} = time - $began;
}
my $mb = $t->psql('main', "SELECT pg_relation_size('pgbench_accounts') / 1048576.0");
row('cold scan' . ($drop ? ', no page cache' : ', stock with page cache'), 'MB/s', $mb / $scan{stock}, $mb / $scan{main});
for my $ep ('stock', 'main')
{
	my $began = time;
	$t->psql($ep, 'SET max_parallel_workers_per_gather = 0; SELECT sum(abalance) FROM pgbench_accounts');
	$scan{$ep} = time - $began;
}
row('the same scan again', 'MB/s', $mb / $scan{stock}, $mb / $scan{main});

# branches
{
	my $lsn = $t->wait_ingest('main');
	my $n = 20;
	my $began = time;
	$t->psql('pageserver', join '',
		map { "SELECT neon_pageserver.branch_create('" . $t->tenant . "', 'bench$_', 'main', '$lsn');\n" } 1 .. $n);
	row('create a branch (stock: copy of the directory)', 'ms', undef, (time - $began) * 1000 / $n, 1);
	$began = time;
	$t->neon('timeline', 'branch', '--branch-name', 'bcli');
	my $cli = (time - $began) * 1000;
	stock_stop();
	$began = time;
	system('cp', '-a', $plain, "$plain.copy");
	$rows[-1][2] = (time - $began) * 1000;
	$rows[-1][4] = $rows[-1][2] / $rows[-1][3];
	row('neon timeline branch, of a live endpoint', 'ms', $rows[-1][2], $cli, 1);
}

sub figure { my ($x) = @_; return !defined $x ? '-' : $x >= 100 ? sprintf('%.0f', $x) : sprintf('%.1f', $x) }
diag('');
diag(sprintf '%-50s %-5s %10s %10s %8s', '', 'unit', 'stock', 'endpoint', 'ratio');
diag(sprintf '%-50s %-5s %10s %10s %8s', $_->[0], $_->[1], figure($_->[2]), figure($_->[3]),
	defined $_->[4] ? sprintf('%.2f', $_->[4]) : '-')
  for @rows;
diag('A ratio above 1 means that the endpoint is better.');
ok(1, 'table printed');
$t->neon('stop');
done_testing();
