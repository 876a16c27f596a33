# Terms that begin where the WAL ends awkwardly: at the start of a page or a
# segment, so close to the end of one that the boot record or its header
# crosses it, behind a switch of segments, behind and in a record of many
# segments.  One safekeeper misses each election and cuts its own tail later.
use strict;
use warnings;
use NeonQuorum;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

use constant { PAGE => 8192, SEGMENT => 1024 * 1024 };

my $t = NeonTest->new(safekeepers => 3);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->cold;
$t->psql('main', <<'SQL');
CREATE EXTENSION neon;
CREATE TABLE t (i int);
ALTER SYSTEM SET autovacuum = off;
ALTER SYSTEM SET checkpoint_timeout = '1d';
-- Records up to a position that is "target" modulo "unit".
CREATE FUNCTION pad(unit int, target int) RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
	room int;
BEGIN
	-- a record with a message of n bytes has n + 52 bytes, and 3 more if n > 229
	FOR i IN 1 .. 1000 LOOP
		room := (target - (pg_current_wal_insert_lsn() - '0/0')::bigint % unit + unit) % unit;
		EXIT WHEN room = 0 OR target = 0 AND room IN (unit - 24, unit - 40);
		PERFORM pg_logical_emit_message(false, 'x', repeat('x', CASE
			WHEN room > 20000 THEN room - 10000
			WHEN room > 1000 THEN (room - 500) / 2
			WHEN room > 280 THEN 180
			WHEN room >= 56 THEN room - 52
			ELSE 4 END));
	END LOOP;
	RETURN pg_current_wal_insert_lsn();
END $$;
SQL
$t->neon('endpoint', 'restart', 'main');
$t->psql("safekeeper $_", "ALTER SYSTEM SET neon_safekeeper.retention_interval = '1h'; SELECT pg_reload_conf()") for 1 .. 3;

sub flushes
{
	my @ids = @_;
	return map { NeonTest::lsn_num(NeonQuorum::positions($t, 'main', $_, 'flush_lsn')) } @ids;
}

my ($n, $sum) = (0, 0);
sub insert { $n++; $sum += $n; return $t->psql('main', "INSERT INTO t VALUES ($n)") }

# Ends the compute where $make left the WAL, and boots another one there.
sub boot_at
{
	my ($what, $make, $fits) = @_;
	my ($lsn, $without);
	for my $try (1 .. 10)
	{
		insert();
		$lsn = NeonTest::lsn_num(NeonTest::record_end($make->()));
		# without a transaction that waits it takes the WAL writer's time
		my $there = eval { $t->wait_for('the WAL', sub { !grep { $_ < $lsn } flushes(1 .. 3) }, 5) };
		if ($there && !(grep { $_ != $lsn } flushes(1 .. 3)) && $fits->($lsn))
		{
			$t->endpoint_stop('main', '-m', 'immediate');
			last if !grep { $_ != $lsn } flushes(1 .. 3);
			# the server wrote something of its own (a snapshot each 15 s) before it was stopped
			$t->endpoint_start('main');
		}
		undef $lsn;
	}
	ok(defined $lsn, "$what: the WAL ends there, on all members") or return;
	my $dead = 1 + int(rand 3);
	$t->kill9("safekeeper $dead");
	$t->endpoint_start('main');
	is($t->boot_lsn('main'), NeonTest::num_lsn($lsn), 'the next term begins there');
	insert();
	$t->neon('safekeeper', 'start', $dead);
	NeonQuorum::wait_streaming($t, 'main', 3);
	is($t->psql('main', 'SELECT sum(i) FROM t'), $sum, 'all rows are there');
}

sub pad_to
{
	my ($unit, $target) = @_;
	return (sub { $t->psql('main', "SELECT pad($unit, $target)") }, sub { $_[0] % $unit == $target });
}

boot_at('start of a page', pad_to(PAGE, 0));
boot_at('start of a segment', pad_to(SEGMENT, 0));
boot_at('a record header that crosses a segment', pad_to(SEGMENT, SEGMENT - 16));
if ($NeonTest::long)
{
	boot_at("$_ bytes before the end of a page", pad_to(PAGE, PAGE - $_)) for 8, 16, 24, 112, 120, 128;
	boot_at("$_ bytes before the end of a segment", pad_to(SEGMENT, SEGMENT - $_)) for 8, 64, 120;
}
boot_at('behind a switch',
	sub { $t->psql('main', 'SELECT pg_switch_wal()'); return $t->psql('main', 'SELECT pg_current_wal_insert_lsn()') },
	sub { $_[0] % SEGMENT == 0 });
boot_at('behind a record of many segments',
	sub { return (split /\n/, $t->psql("main", "SELECT pg_logical_emit_message(false, 'x', repeat('x', 9000000)); SELECT pg_current_wal_insert_lsn()"))[-1] },
	sub { 1 });

# ---- in a record of many segments: it is cut off ----
$t->psql('main', 'CHECKPOINT');
my ($before) = flushes(1);
my $session = $t->session('main');
$session->send("SELECT pg_logical_emit_message(true, 'x', repeat('x', 60000000)) FROM generate_series(1, 3)");
$t->wait_for('WAL in the middle of the record', sub { $t->psql('main', 'SELECT max(sent_lsn) FROM pg_stat_replication') =~ /\S/
			&& NeonTest::lsn_num($t->psql('main', 'SELECT max(sent_lsn) FROM pg_stat_replication')) > $before + 10_000_000 });
$t->kill9('main');
$session->close;
$t->kill9("safekeeper $_") for 1 .. 3;
$t->neon('start');
$t->endpoint_start('main');
insert();
is($t->psql('main', 'SELECT sum(i) FROM t'), $sum, 'all rows are there after an end in a long record');
NeonQuorum::wait_streaming($t, 'main', 3);

$t->endpoint_stop('main');
$t->wait_for('equal positions',
	sub { my %p = map { NeonQuorum::positions($t, 'main', $_, 'flush_lsn, commit_lsn') => 1 } 1 .. 3; keys %p == 1 });
NeonQuorum::check_wal($t, 'main', 'at the end');

done_testing();
