# Measures an endpoint without safekeepers against a stock server, both with
# fsync = on; in turns, medians.  NEON_BENCH_SCALE (10), NEON_BENCH_SECONDS (10),
# NEON_BENCH_ROUNDS (3).
use strict;
use warnings;
use lib "$ENV{NEON_TEST_TOP}/contrib/bench";
use NeonBench;
use NeonTest;
use Test::More;

my $conf = "shared_buffers=128MB\nmax_wal_size=4GB\n";
my $t = NeonTest->new(safekeepers => 0);
stock_init($t, 'stock', conf => $conf);
stock_start('stock');
endpoint_init($t, split /\n/, $conf);
$t->pgbench_init($_, $NeonBench::scale) for 'stock', 'main';

for my $clients (1, 8)
{
	my $r = alternate([ 'stock', 'main' ], sub {
		$t->psql($_[0], 'CHECKPOINT', timeout => 600);
		return pgbench_run($t, $_[0], $clients);
	});
	my $what = "TPC-B, laptop mode, $clients client" . ($clients > 1 ? 's' : '');
	row(what => $what, unit => 'tps', against => 'stock alone', ours => $r->{main}[0], theirs => $r->{stock}[0]);
	row(what => "  $what, latency p99", unit => 'ms', lower => 1, against => 'stock alone', ours => $r->{main}[2], theirs => $r->{stock}[2]);
}

finish();
$t->neon('stop');
stock_stop('stock', 'immediate');
done_testing();
