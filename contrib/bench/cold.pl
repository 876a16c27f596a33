# Measures an endpoint that has nothing here: it was just started, in a new data
# directory, and the pageserver's files are not in the page cache.  Beside it a
# stock server that was just started, whose files are not in the page cache.
#
# NEON_BENCH_SCALE (10) is the size, 100,000 rows (16 MB with the indexes) for
# each; NEON_BENCH_ROUNDS (3).
use strict;
use warnings;
use lib "$ENV{NEON_TEST_TOP}/contrib/bench";
use NeonBench;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

my $n = 100_000 * $NeonBench::scale;
my $pages = 1000 * $NeonBench::scale;	# of the tables for latencies
my $samples = $pages < 4000 ? $pages / 2 : 2000;
my @systems = ('stock', 'main');
my $dropped = 'stock, caches dropped';

my $t = NeonTest->new(safekeepers => 1);
my $plain = stock_init($t, 'stock', conf => "shared_buffers = 128MB\n");
stock_start('stock');
endpoint_init($t, 'neon.keep_local=off', 'shared_buffers=128MB', 'neon.prewarm_rate=0', 'autovacuum=off');

# The same rows in both: keys in order, keys in no order, one row a page that has
# its image, and one a page that was changed nine times since.
for my $system (@systems)
{
	$t->psql($system, <<"SQL", timeout => 900);
ALTER SYSTEM SET autovacuum = off;
CREATE TABLE scan AS SELECT i AS id, hashint4(i) AS r, repeat(md5(i::text), 3) AS pad FROM generate_series(1, $n) i;
ALTER TABLE scan ADD PRIMARY KEY (id);
CREATE INDEX ON scan(r);
CREATE TABLE image(a int, v int, pad text) WITH (fillfactor = 10);
ALTER TABLE image ALTER pad SET STORAGE PLAIN;
INSERT INTO image SELECT i, 0, repeat(md5(i::text), 14) FROM generate_series(1, $pages) i;
CREATE TABLE chain(LIKE image INCLUDING STORAGE) WITH (fillfactor = 10);
INSERT INTO chain SELECT * FROM image;
ALTER TABLE chain SET (fillfactor = 100);
VACUUM (FREEZE, ANALYZE) scan, image, chain;
CREATE FUNCTION reads(rel regclass, n int, pages int) RETURNS SETOF float LANGUAGE plpgsql AS \$\$
DECLARE
	began timestamptz;
	page int;
BEGIN
	FOR i IN 1 .. n LOOP
		page = random() * (pages - 1);
		began = clock_timestamp();
		IF rel = 'image'::regclass THEN
			PERFORM v FROM image WHERE ctid = ('(' || page || ',1)')::tid;
		ELSE
			PERFORM v FROM chain WHERE ctid = ('(' || page || ',1)')::tid;
		END IF;
		RETURN NEXT 1e6 * extract(epoch FROM clock_timestamp() - began);
	END LOOP;
END \$\$;
SQL
}
my $store = $t->ps_pgdata . '/neon';
my $ids = "'" . $t->tenant . "', '" . $t->timeline('main') . "'";
sub stored
{
	my (@functions) = @_;
	$t->wait_ingest('main');
	$t->psql('pageserver', "SELECT neon_pageserver.$_($ids)", timeout => 900) for @functions;
	return;
}
stored('timeline_checkpoint', 'timeline_compact');

my %resident;

# Nothing here and nothing in the page cache.
sub cold
{
	my ($system) = @_;
	my ($before, $after);
	if ($system eq 'stock')
	{
		stock_stop('stock');
		($before, $after) = drop_caches($plain);
		stock_start('stock');
	}
	else
	{
		$t->neon('endpoint', 'stop', 'main');
		($before, $after) = drop_caches($store);
		$t->neon('endpoint', 'start', 'main');
	}
	$resident{$system} = sprintf '%.0f of %.0f MB', ($before - $after) / 1048576, $before / 1048576;
	return;
}

# Milliseconds of a query in a new session, without the start of psql.
sub query
{
	my ($system, $settings, $sql) = @_;
	my $out = $t->psql($system, "SET jit = off; $settings\n\\timing on\n$sql;\n", timeout => 900);
	my ($ms) = $out =~ /^Time: ([0-9.]+) ms/m or die "no time in: $out";
	return $ms;
}

sub reads
{
	my ($system, $table) = @_;
	my @us = split /\n/, $t->psql($system, "SELECT reads('$table', $samples, $pages)", timeout => 600);
	return @us[ 20 .. $#us ];	# the first ones connect and read catalogs
}

sub latency_rows
{
	my ($what, $against, $ours, $theirs, %targets) = @_;
	for my $i (0, 1)
	{
		row(what => "$what, " . ('p50', 'p99')[$i], unit => 'us', lower => 1, against => $against, ours => $ours->[$i], theirs => $theirs->[$i],
			$i == 0 ? %targets : ());
	}
	return;
}

# What was loaded has no images yet: its pages are made from the records.
my $one = 'SET max_parallel_workers_per_gather = 0;';
my $sum = 'SELECT sum(id), sum(length(pad)) FROM scan';
if (wanted('scans'))
{
	my $r = alternate(\@systems, sub { cold($_[0]); return query($_[0], $one, $sum) });
	row(what => 'sequential scan of what was just loaded, no images yet', unit => 'ms', lower => 1, against => $dropped, ours => $r->{main}[0], theirs => $r->{stock}[0]);
}

# From here on each page has an image, those of "chain" nine records more.
my $tenant = "'" . $t->tenant . "'";
$t->psql('pageserver', "SELECT neon_pageserver.tenant_configure($tenant, '0', 0)");
stored('timeline_gc');
$t->psql('pageserver', "SELECT neon_pageserver.tenant_configure($tenant, '7 days', 1000000000)");
for my $system (@systems)
{
	$t->psql($system, 'UPDATE chain SET v = v + 1', timeout => 600) for 1 .. 9;
}
stored('timeline_checkpoint');

if (wanted('latency'))
{
	my $echo = $t->tmp . '/echo';
	must($t, 'cc', '-O2', '-o', $echo, "$ENV{NEON_TEST_TOP}/contrib/bench/echo.c");
	my %r;
	for my $table ('image', 'chain')
	{
		$r{$table} = alternate(\@systems, sub {
			my ($system) = @_;
			cold($system);
			my @cold = reads($system, $table);
			# again with the pageserver's files in the page cache, but new pages here
			$t->neon('endpoint', 'restart', 'main') if $system eq 'main';
			my @cached = reads($system, $table);
			my @echo = map { $_ / 1000 } split /\n/, must($t, $echo, 20000);
			return map { my @x = @$_; map { percentile($_, @x) } 0.5, 0.99 } \@cold, \@cached, \@echo;
		});
	}
	my $echo_of = sub { my ($x) = @_; return [ map { median($x->{stock}[$_], $x->{main}[$_]) } 4, 5 ] };
	latency_rows('random page, image', 'TCP echo of 8 kB', [ @{ $r{image}{main} }[ 2, 3 ] ], $echo_of->($r{image}), at_least => 1 / 1.5);
	latency_rows('random page, 10 records', 'TCP echo of 8 kB', [ @{ $r{chain}{main} }[ 2, 3 ] ], $echo_of->($r{chain}), at_most => 150);
	latency_rows('random page, image, caches dropped', $dropped, [ @{ $r{image}{main} }[ 0, 1 ] ], [ @{ $r{image}{stock} }[ 0, 1 ] ]);
	latency_rows('random page, 10 records, caches dropped', $dropped, [ @{ $r{chain}{main} }[ 0, 1 ] ], [ @{ $r{chain}{stock} }[ 0, 1 ] ]);
}

my $few = int(2**32 * 0.005 - 2**31);	# 5 rows of 1,000, each on a page of its own
my $tenth = $n / 10;
my @scans = (
	[ 'sequential scan', $one, $sum, at_least => 0.8 ],
	[ 'parallel scan, 2 workers', 'SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;', $sum ],
	[ 'bitmap scan of a quarter of the pages', "$one SET enable_seqscan = off; SET enable_indexscan = off;", "$sum WHERE r < $few" ],
	[ 'the same, effective_io_concurrency = 32', "$one SET enable_seqscan = off; SET enable_indexscan = off; SET effective_io_concurrency = 32;", "$sum WHERE r < $few" ],
	[ 'index scan, keys in no order', "$one SET enable_seqscan = off; SET enable_bitmapscan = off;", "$sum WHERE r < $few" ],
	[ 'index scan, keys in order, a tenth', "$one SET enable_seqscan = off; SET enable_bitmapscan = off;", "$sum WHERE id BETWEEN $tenth AND 2 * $tenth" ]);

if (wanted('scans'))
{
	my $mb = $t->psql('main', "SELECT pg_relation_size('scan') / 1048576.0");
	for my $scan (@scans)
	{
		my ($what, $settings, $sql, %target) = @$scan;
		my $r = alternate(\@systems, sub {
			my ($system) = @_;
			cold($system);
			my $cold = query($system, $settings, $sql);
			my $warm = query($system, $settings, $sql);
			return ($cold, $warm) if $system eq 'stock';
			$t->neon('endpoint', 'restart', 'main');
			return ($cold, $warm, query($system, $settings, $sql));
		});
		my ($ours, $theirs) = @{$r}{qw(main stock)};
		row(what => "$what" . ($what =~ /^sequential/ ? sprintf(' of %d MB', $mb) : ''), unit => 'ms', lower => 1, against => $dropped, ours => $ours->[0], theirs => $theirs->[0], %target);
		row(what => "  the pageserver's files in the page cache", unit => 'ms', lower => 1, against => $dropped, ours => $ours->[2], theirs => $theirs->[0]);
		row(what => '  once more', unit => 'ms', lower => 1, against => 'stock', ours => $ours->[1], theirs => $theirs->[1]);
	}
}
diag("caches dropped by posix_fadvise(DONTNEED), at the last time: $_ $resident{$_}") for sort keys %resident;

if (wanted('branch'))
{
	my $lsn = $t->wait_ingest('main');
	my $many = 20;
	my $sql = timed(sub {
		$t->psql('pageserver', join '', map { "SELECT neon_pageserver.branch_create('" . $t->tenant . "', 'bench$_', 'main', '$lsn');\n" } 1 .. $many);
	}) / $many;
	my $command = timed(sub { $t->neon('timeline', 'branch', '--branch-name', 'bcli') });
	stock_stop('stock');
	my $copy = timed(sub { must($t, 'cp', '-a', $plain, "$plain.copy") });
	stock_start('stock');
	row(what => 'branch_create', unit => 'ms', lower => 1, against => 'copy of the directory', ours => $sql, theirs => $copy, at_most => 20);
	row(what => 'neon timeline branch, of a live endpoint', unit => 'ms', lower => 1, against => 'copy of the directory', ours => $command, theirs => $copy);
}

finish();
$t->neon('stop');
stock_stop('stock', 'immediate');
done_testing();
