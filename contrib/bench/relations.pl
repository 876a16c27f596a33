# Measures how long an endpoint takes from its start to the answer to the first
# query with many relations, beside a stock server that was stopped cleanly.
# A start makes a new data directory from the pageserver.  Then static and ephemeral
# endpoints of the same branch, as new as it is, each made by its start.
#
# NEON_BENCH_ROUNDS (3).  Making 100,000 relations takes minutes; the stock server
# is measured with fewer only.
use strict;
use warnings;
use lib "$ENV{NEON_TEST_TOP}/contrib/bench";
use NeonBench;
use NeonTest;
use Test::More;

my @sizes = ((wanted('relations') ? (1000, 10_000) : ()), (wanted('relations100k') ? 100_000 : ()));
my $most_stock = 10_000;
my $conf = "shared_buffers=128MB\nmax_locks_per_transaction=1024\nautovacuum=off\n";

my $t = NeonTest->new(safekeepers => 1);
stock_init($t, 'stock', conf => $conf);
stock_start('stock');
endpoint_init($t, 'neon.keep_local=off', split /\n/, $conf);

# half of them are indexes
my $make = <<'SQL';
CREATE PROCEDURE make(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN first .. last LOOP
		EXECUTE format('CREATE TABLE t%s(a int PRIMARY KEY, b int)', i);
		EXECUTE format('INSERT INTO t%s VALUES (%s, 1)', i, i);
		IF i % 500 = 0 THEN COMMIT; END IF;
	END LOOP;
END $$;
SQL
$t->psql($_, $make) for 'stock', 'main';

# Start, first query, both: ms.  What comes first is a table of the user's.
sub boot
{
	my ($system, $table) = @_;
	if ($system eq 'stock') { stock_stop('stock') }
	else { $t->neon('endpoint', 'stop', 'main') }
	my $start = timed(sub { $system eq 'stock' ? stock_start('stock') : $t->neon('endpoint', 'start', 'main') });
	my $query = timed(sub { $t->psql($system, "SELECT b FROM t$table WHERE a = $table") });
	return ($start, $query, $start + $query);
}

# The same of an endpoint that is made for it.
my $made = 0;
sub boot_new
{
	my ($kind, $table) = @_;
	my $name = $kind . ++$made;
	my %o = $kind eq 'static' ? (lsn => $t->insert_lsn('main')) : (ephemeral => 1);
	my $start = timed(sub { $t->endpoint_start($name, %o) });
	my $query = timed(sub { $t->psql($name, "SELECT b FROM t$table WHERE a = $table") });
	$t->endpoint_stop($name);
	return ($start, $query, $start + $query);
}

my $have = 0;
for my $n (@sizes)
{
	my @systems = ($n > $most_stock ? () : 'stock', 'main');
	my $took = timed(sub { $t->psql($_, "CALL make($have + 1, $n / 2);\nCHECKPOINT", timeout => 3600) for @systems });
	note(sprintf '%d relations more: %.0f s', $n - 2 * $have, $took / 1000);
	$have = $n / 2;
	$t->wait_ingest('main');
	my $r = alternate(\@systems, sub { boot($_[0], 1 + int rand $have) });
	my $new = alternate([ 'static', 'ephemeral' ], sub { boot_new($_[0], 1 + int rand $have) });
	my @what = ('start', 'first query', 'start to first query');
	for my $i (0 .. 2)
	{
		my %target = $i < 2 ? () : $n == 1000 ? (at_most => 300) : $n == 100_000 ? (at_most => 600) : ();
		row(what => "$n relations: $what[$i]", unit => 'ms', lower => 1, against => 'stock, clean stop', ours => $r->{main}[$i], theirs => $r->{stock} && $r->{stock}[$i], %target);
	}
	row(what => "$n relations: a new $_ endpoint, the same", unit => 'ms', lower => 1, against => "the primary's start", ours => $new->{$_}[2], theirs => $r->{main}[2]) for 'static', 'ephemeral';
}

finish();
$t->neon('stop', { timeout => 900 });
stock_stop('stock', 'immediate');
done_testing();
