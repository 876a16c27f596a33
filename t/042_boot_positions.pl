# Boots at LSNs where the boot record is hard to place or the state is special:
# starts of segments and pages, record headers that cross a page, records that
# cross a segment, right behind records of many kinds, and some drawn by seed.
use strict;
use warnings;
use IPC::Run qw(run);
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**31));
srand $seed;
note("NEON_TEST_SEED=$seed");
my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "neon_pageserver.wal_keep = 10GB\n");
my $t = $ps->tenant('{"segsize": 1, "checksums": true}');

sub query
{
	my ($node, $sql) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	return $node->safe_psql('postgres', $sql, timeout => 120);
}

# ---- some history ----
my $main = $ps->vanilla('main', $t, $t->{lsn}, 1, 'primary', conf => "track_commit_timestamp = on\nautovacuum_naptime = 1\n");
$ps->sql("SELECT $f.writer_acquire('$t->{tenant}', '$t->{timeline}', 0, 1, 'main', '" . 'b' x 32 . "', '$t->{lsn}', 'endpoints/main/pgdata', 'machine')");
{
	local $ENV{PGUSER} = 'cloud_admin';
	$main->start;
}
query($main, "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
my $conninfo = 'host=' . $main->host . ' port=' . $main->port . ' user=cloud_admin dbname=postgres';
$ps->sql("SELECT $f.timeline_source('$t->{tenant}', '$t->{timeline}', 1, ARRAY['$conninfo'])");
query($main, 'CREATE TABLE a(i int PRIMARY KEY, t text); CREATE TABLE sums(total bigint); INSERT INTO sums VALUES (0)');
my $created = NeonPageserver::lsn_number(query($main, 'SELECT pg_current_wal_insert_lsn()'));
for my $i (1 .. 25)
{
	# after each transaction sums.total is the sum of a.i
	query($main, "BEGIN; INSERT INTO a SELECT g, repeat(md5(g::text), 1 + g % 4) FROM generate_series($i * 1000, $i * 1000 + 300) g;
		UPDATE sums SET total = (SELECT sum(i) FROM a); COMMIT;
		BEGIN; DO \$\$BEGIN PERFORM * FROM a WHERE i % 50 = 0 FOR KEY SHARE; END\$\$; SAVEPOINT s; UPDATE a SET t = 'x' WHERE i % 100 = 0; COMMIT;");
	query($main, "BEGIN; DELETE FROM a WHERE i = -$i; PREPARE TRANSACTION 'p$i'") if $i % 5 == 0;
	query($main, 'CHECKPOINT') if $i % 7 == 0;
	query($main, 'SELECT pg_switch_wal()') if $i % 9 == 0;
	query($main, 'VACUUM a; VACUUM FULL pg_class') if $i == 12;
	query($main, "COMMIT PREPARED 'p5'") if $i == 15;
}
# a record that ends less than a boot record's length before the end of a segment
query($main, <<'SQL');
DO $$
DECLARE
	room int;
BEGIN
	LOOP
		room := 1048576 - (pg_current_wal_insert_lsn() - '0/0') % 1048576;
		EXIT WHEN room < 120;
		PERFORM pg_logical_emit_message(false, 'x', repeat('x', CASE WHEN room > 20000 THEN room - 10000
			WHEN room > 500 THEN (room - 300) / 2 ELSE 1 END));
	END LOOP;
END $$;
SQL
query($main, 'BEGIN; INSERT INTO a VALUES (-1); UPDATE sums SET total = total - 1; COMMIT');
my $end = query($main, 'SELECT pg_current_wal_flush_lsn()');
is($ps->sql("SELECT $f.wait_lsn('$t->{tenant}', '$t->{timeline}', '$end', '60 s')"), 't', 'all WAL has arrived');
$main->stop('immediate');

# ---- its records ----
my ($dir) = glob $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal";
my $dump = '';
run([ 'pg_waldump', '-p', $dir, '-s', $t->{lsn}, '-e', $end ], '>', \$dump, '2>', '/dev/null');
my @records;
while ($dump =~ m{^rmgr: (\S+)\s+len \(rec/tot\):\s+\d+/\s*(\d+),.*?lsn: ([0-9A-F]+/[0-9A-F]+), prev \S+ desc: (\S+)}mg)
{
	push @records, { rmgr => $1, desc => $4, start => NeonPageserver::lsn_number($3), len => $2 };
}
cmp_ok(scalar(@records), '>', 5000, 'records of the history');

# The end of a record: its bytes, and the headers of the pages it enters.
sub record_end
{
	my ($r) = @_;
	my ($pos, $left) = ($r->{start}, $r->{len});
	while ($left > 0)
	{
		$pos += ($pos % (1 << 20) == 0 ? 40 : 24) if $pos % 8192 == 0;
		my $room = 8192 - $pos % 8192;
		my $n = $left < $room ? $left : $room;
		$pos += $n;
		$left -= $n;
	}
	$pos = ($pos + 7) & ~7;
	# a switch takes the rest of the segment
	$pos = ($pos + (1 << 20) - 1) & ~((1 << 20) - 1) if $r->{rmgr} eq 'XLOG' && $r->{desc} =~ /SWITCH/;
	return $pos;
}
$_->{end} = record_end($_) for @records;

sub pick
{
	my ($what, $test) = @_;
	my @fit = grep { $_->{start} >= $created && $test->($_) } @records;
	note(scalar(@fit) . " positions: $what");
	ok(scalar(@fit), "there is one: $what");
	return @fit ? ([ $what, $fit[ rand @fit ]{end} ]) : ();
}
my @positions = (
	pick('the start of a segment', sub { $_[0]{end} % (1 << 20) == 0 }),
	pick('the start of a page', sub { $_[0]{end} % 8192 == 0 && $_[0]{end} % (1 << 20) != 0 }),
	pick('8 bytes before the end of a page', sub { $_[0]{end} % 8192 == 8184 }),
	pick('16 or 24 bytes before the end of a page', sub { $_[0]{end} % 8192 == 8176 || $_[0]{end} % 8192 == 8168 }),
	pick('a boot record that crosses a page', sub { $_[0]{end} % 8192 > 8080 && $_[0]{end} % 8192 < 8160 }),
	pick('a boot record that crosses a segment', sub { $_[0]{end} % (1 << 20) > (1 << 20) - 120 }),
	pick('behind PREPARE', sub { $_[0]{rmgr} eq 'Transaction' && $_[0]{desc} eq 'PREPARE' }),
	pick('behind a multixact', sub { $_[0]{rmgr} eq 'MultiXact' && $_[0]{desc} eq 'CREATE_ID' }),
	pick('behind a relation map', sub { $_[0]{rmgr} eq 'RelMap' }),
	pick('behind a checkpoint', sub { $_[0]{desc} =~ /^CHECKPOINT/ }),
	map { pick("anywhere ($_)", sub { 1 }) } 1 .. 2);

my $n = 0;
for my $p (@positions)
{
	my ($what, $lsn) = ($p->[0], NeonPageserver::lsn_text($p->[1]));
	my $name = 'boot' . ++$n;
	my $node = eval { $ps->vanilla($name, $t, $lsn, 0, 'ephemeral', conf => "track_commit_timestamp = on\n") };
	if (!$node)
	{
		fail("$what ($lsn): $@");
		next;
	}
	my %boot = slurp_file($node->data_dir . '/neon.boot') =~ /^(\w+)=(\S+)/mg;
	my ($out, $err) = ('', '');
	run([ 'pg_waldump', '-p', $node->data_dir . '/pg_wal', '-s', $boot{boot_record_lsn}, '-n', 1 ], '>', \$out, '2>', \$err);
	my ($start, $prev) = map { my ($hi, $lo) = split m{/}; sprintf '%s/%08X', $hi, hex $lo } @boot{ 'boot_record_lsn', 'prev_record_lsn' };
	like($out, qr{lsn: $start, prev $prev, desc: CHECKPOINT_SHUTDOWN}, "$what ($lsn): pg_waldump reads the boot record") or diag($err);
	local $ENV{PGUSER} = 'cloud_admin';
	$node->start;
	my $log = slurp_file($node->logfile);
	ok($log !~ /recovery|redo/, "$what ($lsn): boots without recovery");
	is(query($node, "SELECT to_regclass('sums') IS NULL"), 'f', 'has its tables')
	  and is(query($node, 'SELECT (SELECT total FROM sums) = coalesce((SELECT sum(i) FROM a), 0)'), 't', 'is consistent');
	run([ 'pg_amcheck', '--database=postgres', '--install-missing', '--heapallindexed', '-h', $node->host, '-p', $node->port ],
		'<', \undef, '>', \$out, '2>', \$err);
	is("$out$err", '', 'pg_amcheck is clean');
	query($node, join ';', map { "ROLLBACK PREPARED '$_'" } split /\n/, query($node, 'SELECT gid FROM pg_prepared_xacts'));
	query($node, 'CREATE TABLE more AS SELECT generate_series(1, 1000) i; CHECKPOINT');
	$node->stop;
	system('rm', '-rf', $node->data_dir);
}

$ps->stop;
done_testing();
