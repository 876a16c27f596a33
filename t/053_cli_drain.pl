# The drain: what a compute acknowledged and the pageserver does not have yet
# is fetched from its directory, whatever state that is in, or the start is
# refused; damaged WAL is not taken for its end.  Of laptop mode: with
# safekeepers there is no drain.
use strict;
use warnings;
use Damage;
use NeonTest;
use Test::More;

my $t = NeonTest->new(safekeepers => 0);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->psql('main', 'CREATE TABLE t(a int, b text)');
$t->wait_ingest('main');

# Holds the stream to the pageserver, so that all that follows is only local.
sub hold_stream
{
	my ($pid) = $t->children_of($t->postmaster_pid('main'), qr/walsender/);
	ok($pid, 'there is a walsender');
	kill 'STOP', $pid;
	return $pid;
}
sub count { return $t->psql('main', 'SELECT count(*) FROM t') }

# ---- a stopped walsender outlives its postmaster, and must not matter ----

my $walsender = hold_stream();
$t->psql('main', "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 2000) g");
kill 'KILL', $t->postmaster_pid('main');
$t->endpoint_start('main');
is(count(), 2000, 'rows that the pageserver did not have');
ok(!kill(0, $walsender) || NeonTest::stat_field($walsender, 3) eq 'Z', 'the stopped walsender is gone');

# ---- a record longer than a chunk, a switch of segments, many segments ----

hold_stream();
$t->psql('main', "SELECT pg_logical_emit_message(true, 'long', repeat('y', 9 * 1024 * 1024))");
$t->psql('main', 'INSERT INTO t VALUES (1)');
$t->psql('main', 'SELECT pg_switch_wal()');
$t->psql('main', 'INSERT INTO t VALUES (2); CREATE TABLE u AS SELECT 1 a');
$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
$t->neon_ok([ 'endpoint', 'stop', 'main' ], 'a second stop drains');
$t->neon_fails([ 'endpoint', 'stop', 'main' ], qr/not running/, qr/endpoint start/, 'the third has nothing to do');
$t->endpoint_start('main');
is(count() . $t->psql('main', 'SELECT count(*) FROM u'), '20021', 'a long record and a switch of segments');

# ---- the last record ends with its page: the next page was never written ----

# Fills the page up; true if nobody else wrote meanwhile and all is flushed.
sub fill_page
{
	$t->psql('main', <<~'SQL');
	DO $$
	DECLARE
		before pg_lsn;
		overhead numeric;
		room numeric;
	BEGIN
		LOOP
			before := pg_current_wal_insert_lsn();
			PERFORM pg_logical_emit_message(false, 'x', repeat('x', 800));
			overhead := pg_current_wal_insert_lsn() - before - 800;
			room := 8192 - (pg_current_wal_insert_lsn() - '0/0') % 8192;
			EXIT WHEN overhead < 100 AND room BETWEEN 600 AND 5000;
		END LOOP;
		PERFORM pg_logical_emit_message(false, 'x', repeat('x', (room - overhead)::int));
	END $$;
	SQL
	return eval { $t->poll('main', q{SELECT pg_current_wal_flush_lsn() - '0/0' = pg_current_wal_insert_lsn() - '0/0' - 24
		AND (pg_current_wal_flush_lsn() - '0/0') % 8192 = 0}, 't', timeout => 5) };
}
my $filled;
for (1 .. 20)
{
	last if $filled = fill_page();
}
ok($filled, 'a record ends where its page does');
my $page_end = $t->psql('main', 'SELECT pg_current_wal_flush_lsn()');
$t->wait_for_lsn('main', $page_end);
kill 'KILL', $t->postmaster_pid('main');
is($t->psql('pageserver', "SELECT last_record_lsn FROM neon_pageserver.timelines WHERE name = 'main'"), $page_end,
	'the pageserver has it, and nothing behind it');
$t->neon_ok([ $t->endpoint_args('main') ], 'start after it');

# ---- damaged WAL ----

hold_stream();
my $start = $t->psql('main', 'SELECT pg_current_wal_flush_lsn()');
for my $i (1 .. 20)
{
	$t->psql('main', "INSERT INTO t SELECT g, repeat('z', 200) FROM generate_series(1, 200) g");
}
my $middle = NeonTest::num_lsn(NeonTest::lsn_num($start) + 300_000);
my $segment = $t->pgdata('main') . '/pg_wal/' . $t->psql('main', "SELECT pg_walfile_name('$middle')");
my $offset = NeonTest::lsn_num($middle) % (1024 * 1024);
$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');

sub flip { return flip_bit($segment, $offset, 6) }
flip();
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/damage|corrupt/i, qr/--accept-data-loss/, 'a damaged byte is not the end of the WAL');
$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b' ], qr/damage|corrupt/i, qr/--accept-data-loss/, 'nor for a branch');
flip();
$t->endpoint_start('main');
is(count(), 6002, 'undamaged again: everything is there');

# ---- a ticket that was never used ----

$t->psql('main', 'INSERT INTO t VALUES (3)');
$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
rename $t->pgdata('main') . '/neon.ticket.used', $t->pgdata('main') . '/neon.ticket' or die;
$t->endpoint_start('main');
is(count(), 6003, 'an unused ticket is taken away and the WAL drained');

# ---- a directory that is not the writer's ----

$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
rename $t->pgdata('main'), $t->tmp . '/kept' or die;
mkdir $t->pgdata('main'), 0700 or die;
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/not of the last writer's boot/, qr/accept-data-loss/, 'an empty directory in its place');
rmdir $t->pgdata('main') or die;
rename $t->tmp . '/kept', $t->pgdata('main') or die;

# ---- the pageserver restarts between stop and drain ----

$t->neon('pageserver', 'stop', '-m', 'immediate');
$t->neon('start');
$t->endpoint_start('main');
is(count(), 6003, 'drained after a restart of the pageserver');

# ---- pg_ctl on a used directory ----

$t->neon('endpoint', 'stop', 'main');
my ($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $t->pgdata('main'), '-w', '-t', '20', 'start' ]);
isnt($rc, 0, 'pg_ctl start on a used directory fails');
like($out . $err, qr/neon endpoint start/, 'and says what to do');
$t->endpoint_start('main');
is(count(), 6003, 'nothing happened');

# ---- damaged for good ----

hold_stream();
$start = $t->psql('main', 'SELECT pg_current_wal_flush_lsn()');
for my $i (1 .. 20)
{
	$t->psql('main', "INSERT INTO t SELECT g, repeat('z', 200) FROM generate_series(1, 200) g");
}
$middle = NeonTest::num_lsn(NeonTest::lsn_num($start) + 500_000);
$segment = $t->pgdata('main') . '/pg_wal/' . $t->psql('main', "SELECT pg_walfile_name('$middle')");
$offset = NeonTest::lsn_num($middle) % (1024 * 1024);
$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
flip();
$err = $t->neon_fails([ 'endpoint', 'start', 'main' ], qr/would be lost/, qr/--accept-data-loss/, 'damaged, and what is lost is said');
my ($lsn) = $err =~ m{--accept-data-loss ([0-9A-F]+/[0-9A-F]+)};
cmp_ok(NeonTest::lsn_num($lsn), '>', NeonTest::lsn_num($start), 'what is before the damage is not lost');
$t->endpoint_start('main', args => [ '--accept-data-loss', $lsn ]);
my $rows = count();
ok($rows > 6003 && $rows < 10003, "started with $rows rows");

done_testing();
