# What a page has that is in no WAL record, or in one that comes later, outlives
# that chunks are dropped: results are those of the stock server.  With the rule
# for it broken on purpose each of these shows a wrong one.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR} or plan skip_all => 'no build with TESTING=1';
my $limit_mb = 16;
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'autovacuum=off', 'shared_buffers=1MB', 'jit=off', 'max_parallel_workers_per_gather=0', 'bgwriter_delay=10ms');
my $conf = "$t->{dir}/endpoints/main/conf/postgresql.conf";
open my $f, '>>', $conf or die "$conf: $!";
print $f "dynamic_library_path = '$lib:\$libdir'\n";
close $f or die "$conf: $!";
$t->endpoint_start('main');

# the views of this library, which is not the installed one
chomp(my $sharedir = `$ENV{PG_CONFIG} --sharedir`);
my $views = NeonTest::Vanilla::slurp("$sharedir/extension/neon--1.0.sql");
$views =~ s/^\\echo .*$//m;
$views =~ s/MODULE_PATHNAME/neon/g;
$t->psql('main', "CREATE SCHEMA neon; $views");
$t->psql('main', <<'SQL');
CREATE EXTENSION pg_prewarm;
CREATE EXTENSION amcheck;
CREATE TABLE filler AS SELECT i, repeat('f', 1000) AS pad FROM generate_series(1, 17000) i;
VACUUM (FREEZE, ANALYZE) filler;
-- waits, the first time that it is called with this number, until the lock of that number is free
CREATE FUNCTION pause(at int, n int, result int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	IF at = n AND current_setting('demo.paused', true) IS DISTINCT FROM 'yes' THEN
		PERFORM set_config('demo.paused', 'yes', true);
		PERFORM pg_advisory_xact_lock(n);
	END IF;
	RETURN result;
END $$;
SQL
$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=${limit_mb}MB");
$t->neon('endpoint', 'restart', 'main');

# of what may be dropped; free space maps never are
sub present { return $t->psql('main', "SELECT present_bytes - pg_relation_size(relation, 'fsm') FROM neon.local_relations WHERE relation = '$_[0]'::regclass") }

# Fetches more than the limit, so that everything is dropped that may be.  With a
# broken rule until the relation has gone.
sub press
{
	my ($relation, $bug) = @_;
	$t->psql('main', "CHECKPOINT");
	my $before = $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk');
	$t->wait_for('space to be given back', sub {
			$t->psql('main', "SELECT pg_prewarm('filler')");
			my $dropped = $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk') - $before;
			return $dropped > $limit_mb * 1048576 && (!$bug || present($relation) == 0);
		});
	return;
}

# Waits until somebody waits for the advisory lock.
sub wait_paused
{
	my ($number) = @_;
	$t->poll('main', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND objid = $number AND NOT granted", '1');
	return;
}

# A cursor does not see what its transaction wrote after it was opened.
sub cursor
{
	my ($bug) = @_;
	$t->psql('main', 'CREATE TABLE d (i int, pad text)');
	my $s = $t->session('main');
	$s->query("BEGIN; INSERT INTO d SELECT i, repeat('a', 500) FROM generate_series(1, 10) i; DECLARE c CURSOR FOR SELECT count(*) FROM d; INSERT INTO d SELECT i, repeat('b', 500) FROM generate_series(1, 2000) i");
	press('d', $bug);
	return $s->query('FETCH c; SELECT count(*) FROM d; COMMIT') . $s->error;
}

# A cursor sees what its transaction inserted before and deleted after it.
sub combo
{
	my ($bug) = @_;
	$t->psql('main', 'CREATE TABLE k (i int, pad text)');
	my $s = $t->session('main');
	$s->query("BEGIN; INSERT INTO k SELECT i, repeat('k', 500) FROM generate_series(1, 1000) i; DECLARE c CURSOR FOR SELECT count(*) FROM k; DELETE FROM k WHERE i <= 600");
	press('k', $bug);
	return $s->query('FETCH c; SELECT count(*) FROM k; COMMIT') . $s->error;
}

# A table with room in its last pages, where a scan comes after what it wrote.
sub table_with_room
{
	$t->psql('main', <<'SQL');
CREATE TABLE h (i int, n int, pad text);
INSERT INTO h SELECT i, 0, repeat('h', 400) FROM generate_series(1, 4000) i;
DELETE FROM h WHERE i > 1000 AND i % 2 = 0;
VACUUM h;
SQL
	return;
}

# Runs one command that stops in the middle, presses, and lets it go on.
sub stop_in_the_middle
{
	my ($table, $command, $bug, $look) = @_;
	my ($gate, $s) = ($t->session('main'), $t->session('main'));
	$gate->query('SELECT pg_advisory_lock(900)');
	$s->query('BEGIN; CREATE TEMP TABLE earlier (a int); INSERT INTO earlier VALUES (1)');
	$s->send($command);
	wait_paused(900);
	press($table, $bug);
	$gate->query('SELECT pg_advisory_unlock(900)');
	$s->answer;
	my $error = $s->error;
	return $s->query("$look; COMMIT") . $error . $s->error;
}

# An UPDATE does not meet the rows that it has made.
sub update
{
	table_with_room();
	return stop_in_the_middle('h', 'UPDATE h SET n = n + pause(i, 900, 1)', $_[0], 'SELECT count(*), max(n) FROM h');
}

# Nor does an INSERT ... SELECT.
sub insert_select
{
	table_with_room();
	return stop_in_the_middle('h', 'INSERT INTO h SELECT i, pause(i, 900, 1), pad FROM h', $_[0], 'SELECT count(*) FROM h');
}

# INSERT ... ON CONFLICT takes back its row when it was second.
sub speculative
{
	my ($bug) = @_;
	$t->psql('main', <<'SQL');
CREATE TABLE u (k int);
CREATE FUNCTION second_call(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('demo.calls', true) <> '' THEN
		PERFORM set_config('demo.calls', (current_setting('demo.calls')::int + 1)::text, false);
		PERFORM pause(current_setting('demo.calls')::int, 2, 0);
	END IF;
	RETURN k;
END $$;
CREATE UNIQUE INDEX u_k ON u (second_call(k));
SQL
	my ($gate, $s) = ($t->session('main'), $t->session('main'));
	$gate->query('SELECT pg_advisory_lock(2)');
	$s->query("SET demo.calls = '0'");
	$s->send('INSERT INTO u VALUES (7) ON CONFLICT DO NOTHING');
	wait_paused(2);
	press('u', $bug);
	$t->psql('main', 'INSERT INTO u VALUES (7)');
	$gate->query('SELECT pg_advisory_unlock(2)');
	$s->answer;
	my $error = $s->error;
	return $t->psql('main', 'SELECT count(*) FROM u') . $error;
}

# A VACUUM that has gone by a page of a B-tree finds what a split has moved there.
# It is stopped by a cursor that has a leaf pinned; the leaves behind it are split
# onto pages before it, which were free.
sub cycle
{
	my ($bug) = @_;
	$t->psql('main', <<'SQL');
CREATE TABLE b (k text);
CREATE INDEX b_k ON b (k);
INSERT INTO b SELECT lpad(i::text, 8, '0') || repeat('.', 200) FROM generate_series(1, 4000) i;
DELETE FROM b WHERE k < '00001001';
VACUUM b;
SELECT txid_current();
VACUUM b;
DELETE FROM b WHERE k > '00002000' AND k < '00003501' AND substr(k, 8, 1) IN ('0', '3', '6', '9');
SQL
	my ($cursor, $vacuum) = ($t->session('main'), $t->session('main'));
	$cursor->query("SET enable_seqscan = off; SET enable_bitmapscan = off; BEGIN; DECLARE c CURSOR FOR SELECT k FROM b WHERE k > '00001500' ORDER BY k; FETCH c");
	$vacuum->send('VACUUM (INDEX_CLEANUP on, TRUNCATE off) b');
	$t->poll('main', "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'BufferPin'", '1');
	$t->psql('main', "INSERT INTO b SELECT lpad(i::text, 8, '0') || '5' || repeat('.', 200) FROM generate_series(2000, 3500) i");
	press('b_k', $bug);
	$cursor->query('COMMIT');
	$vacuum->answer;
	# takes the places in the table that have become free
	$t->psql('main', "INSERT INTO b SELECT lpad(i::text, 8, '0') || repeat('.', 200) FROM generate_series(6000, 8000) i");
	my $count = "SELECT count(*) FROM b WHERE k > '00002000' AND k < '00003501'";
	return $t->psql('main', "SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SET enable_indexscan = off; $count; RESET enable_indexscan; SET enable_seqscan = off; $count");
}

# An index-only scan does not show rows that were deleted: the bits of the visibility
# map are cleared without a mark on its page.  The pageserver lags meanwhile.
sub visibility
{
	my ($bug) = @_;
	$t->psql('main', 'CREATE TABLE v (i int); INSERT INTO v SELECT generate_series(1, 10000); CREATE INDEX ON v (i); VACUUM (ANALYZE) v');
	$t->wait_ingest('main');
	my @ingest = $t->children_of($t->postmaster_pid('pageserver'), qr/neon ingest/);
	$t->signal('STOP', @ingest);
	$t->psql('main', 'DELETE FROM v WHERE i % 2 = 0');
	press('v', $bug);
	my $got = $t->psql('main', 'SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM v WHERE i > 0');
	$t->signal('CONT', @ingest);
	return $got;
}

# A sequence skips no numbers: the WAL has 32 at once.
sub sequence
{
	my ($bug) = @_;
	$t->psql('main', 'CREATE SEQUENCE s; SELECT nextval($$s$$) FROM generate_series(1, 11)');
	press('s', $bug);
	return $t->psql('main', 'SELECT nextval($$s$$)');
}

my %demos = (
	cycle => [ 'no_cycle_ids', "2401\n2401" ],
	visibility => [ 'no_second_sample', '5000' ],
	cursor => [ 'one_sample', "10\n2010" ],
	combo => [ 'one_sample', "1000\n400" ],
	update => [ 'one_sample', '2500|1' ],
	insert_select => [ 'one_sample', '5000' ],
	sequence => [ 'no_log_cnt', '12' ],
	speculative => [ 'one_sample', '1' ],
);
for my $demo (sort keys %demos)
{
	my ($rule, $right) = @{ $demos{$demo} };
	for my $bug ('', $rule)
	{
		$t->psql('main', "ALTER SYSTEM SET neon.test_bug = '$bug'");
		$t->psql('main', 'SELECT pg_reload_conf()');
		my $got = do { no strict 'refs'; &$demo($bug) };
		is($got, $right, "$demo: right while chunks are dropped") if !$bug;
		isnt($got, $right, "$demo: not so with $bug") && note($got) if $bug;
		$t->psql('main', 'DROP TABLE IF EXISTS d, k, h, u, b, v; DROP FUNCTION IF EXISTS second_call; DROP SEQUENCE IF EXISTS s');
	}
}
$t->neon('stop');
done_testing();
