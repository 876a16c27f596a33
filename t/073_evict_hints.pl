# Who only reads a table that is larger than the local disk space sets hint bits in
# it; that hinders nobody, not even himself in a transaction that has a number.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'neon.local_size_limit=24MB', 'shared_buffers=4MB', 'autovacuum=off',
	'neon.fetch_timeout=20s', 'max_parallel_workers_per_gather=0');
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon');

# A table of 54 MB that nobody has read.
sub fill
{
	my ($table) = @_;
	$t->psql('main', "CREATE TABLE $table (i int, pad text)");
	$t->psql('main', "INSERT INTO $table SELECT i, repeat('x', 600) FROM generate_series(1, 2000) i") for 1 .. 40;
	cmp_ok($t->psql('main', "SELECT pg_relation_size('$table')"), '>', 48 * 1024 * 1024, "$table is twice as large as the limit");
	return;
}

sub dropped { return $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk') }

fill($_) for qw(a b);
for my $sql (
	'CREATE TABLE counted AS SELECT count(*) AS n, sum(length(pad)) AS l FROM a',
	'CREATE MATERIALIZED VIEW seen AS SELECT count(*) AS n, sum(length(pad)) AS l FROM b',
	'REFRESH MATERIALIZED VIEW seen',
	'CREATE TABLE joined AS SELECT count(*) AS n, sum(length(pad)) AS l FROM (SELECT * FROM a UNION ALL SELECT * FROM b) x')
{
	my ($rc, $out, $err) = $t->psql_raw('main', $sql);
	is($rc, 0, $sql) or diag($err);
}
is($t->psql('main', 'TABLE counted'), '80000|48000000', 'all of it was read');
is($t->psql('main', 'TABLE seen'), '80000|48000000', 'again');
is($t->psql('main', 'TABLE joined'), '160000|96000000', 'and both');

# One who has changed a row in each megabyte of a table, and idles, keeps those
# pages here, but not what others read beside them.
{
	my $blocks = $t->psql('main', q{SELECT pg_relation_size('a') / 8192});
	my $idle = $t->session('main');
	my $tids = join ',', map { "'(" . 128 * $_ . ",1)'::tid" } 0 .. $blocks / 128;
	is($idle->query("BEGIN; WITH u AS (UPDATE a SET pad = pad WHERE ctid = ANY (ARRAY[$tids]) RETURNING 1) SELECT count(*) > 50 FROM u"), 't', 'a row in each piece');
	$t->psql('main', 'CHECKPOINT');
	for my $scan (1, 2)
	{
		my ($rc, $out, $err) = $t->psql_raw('main', 'SELECT count(*), sum(length(pad)) FROM a; SELECT count(*), sum(length(pad)) FROM b');
		is($out, "80000|48000000\n" x 2, "others read all of it, time $scan") or diag($err);
	}
	is($t->psql('main', 'SELECT used_bytes < limit_bytes FROM neon.local_disk'), 't', 'below the limit');
	is($idle->query('SELECT count(*), sum(length(pad)) FROM a'), '80000|48000000', 'so does he');
	is($idle->query('ROLLBACK; SELECT count(*) FROM a'), '80000', 'and goes on');
	$idle->close;
}

# Temporary files.
{
	my $sort = "SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i ORDER BY 1 DESC";
	is($t->psql('main', 'SHOW temp_file_limit'), '12MB', 'a process may have half of the limit');
	$t->psql_fails('main', "SET work_mem = '64kB'; EXPLAIN ANALYZE $sort", qr/temporary file size exceeds temp_file_limit \(12288kB\)/, 'and no more');
	my $sorts = $t->session('main');
	my $pid = $sorts->query('SELECT pg_backend_pid()');
	is($sorts->query("SET work_mem = '64kB'; SET temp_file_limit = -1; BEGIN; DECLARE c CURSOR FOR $sort; MOVE c; SELECT 1"), '1', 'who is allowed to has more than the whole limit');
	$t->poll('main', q{SELECT blocker ~ ('^[23]\d MB are used by what is only here, [23]\d MB of them by temporary files, [23]\d MB of these by process ' || blocker_pid || '$') AND blocker_pid = } . $pid . ' FROM neon.local_disk');
	pass('the view says what takes the space');
	$t->psql_fails('main', "SET neon.fetch_timeout = '1s'; INSERT INTO counted VALUES (1)", qr/DETAIL: .* MB of them by temporary files, [23]\d MB of these by process $pid\..*HINT: .*temporary files/s, 'and so does the error');
	$sorts->query('ROLLBACK');
	$t->poll('main', 'SELECT blocker IS NULL FROM neon.local_disk');

	# those of parallel workers are their leader's
	$sorts->query("SET temp_file_limit = -1; SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off");
	my $parallel = 'SELECT count(*) FROM (SELECT * FROM a ORDER BY pad DESC, ctid OFFSET 0) x WHERE pg_sleep(0.001) IS NOT NULL';
	like($sorts->query("EXPLAIN (COSTS OFF) $parallel"), qr/Gather Merge.*Workers Planned: [2-9].*Sort.*Parallel Seq Scan/s, 'workers sort');
	$sorts->send($parallel);
	$t->poll('main', "SELECT blocker LIKE '%of these by process $pid' AND blocker_pid = $pid FROM neon.local_disk");
	pass('the view names their leader');
	$t->psql('main', "SELECT pg_cancel_backend($pid)");
	$sorts->answer;
	like($sorts->error, qr/canceling statement/, 'who can be cancelled');
	$sorts->close;
	$t->poll('main', 'SELECT blocker IS NULL FROM neon.local_disk');
}

# With hints counted as changes it does not work.
SKIP:
{
	my $lib = $ENV{NEON_TESTING_LIBDIR} or skip 'no build with TESTING=1', 2;
	fill('c');
	my ($rc, $out, $err) = $t->psql_raw('main', 'SELECT 1');
	$t->endpoint_stop('main');
	my $conf = "$t->{dir}/endpoints/main/conf/postgresql.conf";
	open my $f, '>>', $conf or die "$conf: $!";
	print $f "dynamic_library_path = '$lib:\$libdir'\nneon.test_bug = 'hints_count'\n";
	close $f or die "$conf: $!";
	$t->endpoint_start('main');
	($rc, $out, $err) = $t->psql_raw('main', "SET neon.fetch_timeout = '3s'; CREATE TABLE uncounted AS SELECT count(*) FROM c");
	isnt($rc, 0, 'with the rule switched off it fails');
	like($err, qr/the limit of local disk space is reached.*DETAIL:  .* Process \d+ is this session\./s, 'of itself');
}
$t->neon('stop');
done_testing();
