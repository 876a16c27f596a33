# timeline_feed: the WAL of a dead writer, raw from its segments.  Bit flips,
# torn ends, recycled segments, wrong writers; then the last writer's rules.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $segsize = 1024 * 1024;
my $ps = NeonPageserver->new('pageserver');
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ENV{PGUSER} = 'cloud_admin';

my $machine = slurp_file('/proc/sys/kernel/random/boot_id');
chomp $machine;
my $boot = 'b' x 32;
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 1,
	extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync', '--wal-segsize=1' ]);
$source->append_conf('postgresql.conf', "full_page_writes = off\nwal_keep_size = 64MB\nrestart_after_crash = off\n");
$source->start;
$source->stop;

# The same history for all: a boot record, some work, a crash.
my $dir = $source->data_dir;
my @timelines = map { import_vanilla($ps, $source, "t$_") } 1 .. 8;
my $boot_end = $ps->sql("SELECT neon_test.boot_pgdata('$dir', 1)");
$source->start;
$source->safe_psql('postgres', 'CREATE TABLE a(i int, t text)');
$source->safe_psql('postgres', "INSERT INTO a SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i");
$source->safe_psql('postgres', 'CHECKPOINT; SELECT pg_switch_wal()');
$source->safe_psql('postgres', "INSERT INTO a SELECT i, repeat('y', 500) FROM generate_series(1, 2000) i");
my $insert_lsn = $source->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
$source->stop('immediate');

sub num { NeonPageserver::lsn_number($_[0]) }
sub txt { NeonPageserver::lsn_text($_[0]) }

# All bytes of the segments from the one of an LSN on, as far as there are files without a gap.
sub read_wal
{
	my ($lsn) = @_;
	my $n = num($lsn);
	my $bytes = '';
	for (my $seg = int($n / $segsize);; $seg++)
	{
		my $per = int(0x100000000 / $segsize);
		my $file = sprintf "%s/pg_wal/%08X%08X%08X", $dir, 1, int($seg / $per), $seg % $per;
		last unless -f $file;
		$bytes .= slurp_file($file);
	}
	return substr($bytes, $n % $segsize);
}

my $start = $timelines[0]{lsn};
my $wal = read_wal($start);
my $length = length $wal;
note("WAL from $start: $length bytes, boot record ends at $boot_end, flushed to $insert_lsn");

sub acquire
{
	my ($t, %o) = @_;
	my $m = $o{machine} // $machine;
	$ps->sql("SELECT neon_pageserver.writer_acquire($t->{args}, 0, 1, 'ep', '$boot', '$t->{lsn}', 'endpoints/ep/pgdata', '$m')");
	return;
}

# Feeds bytes from an LSN through a file, as a bytea literal would be large.
my $feeds = 0;

sub feed_sql
{
	my ($t, $lsn, $bytes, %o) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/feed' . $feeds++;
	open(my $fh, '>', $file) or die $!;
	binmode $fh;
	print $fh $bytes;
	close $fh or die $!;
	my ($term, $id) = ($o{term} // 1, $o{boot} // $boot);
	return "SELECT neon_pageserver.timeline_feed($t->{args}, $term, '$id', '$lsn', pg_read_binary_file('$file'))";
}

sub feed { return $ps->sql(feed_sql(@_)) }
sub feed_error { return $ps->sql_error(feed_sql(@_)) }

sub last_record
{
	my ($t) = @_;
	return $ps->last_lsn($t);
}

# ---- everything at once ----
my $whole = $timelines[0];
like(feed_error($whole, $start, $wal), qr/not the last writer/, 'no feed without a writer');
acquire($whole);
my $end = feed($whole, $start, $wal);
cmp_ok(num($end), '>=', num($insert_lsn), "all that was flushed is there ($end)");
is(feed($whole, $end, substr($wal, num($end) - num($start))), $end, 'feeding again changes nothing');
is(feed($whole, $start, $wal), $end, 'nor does feeding from the beginning');
my $waldir = $ps->node->data_dir . "/neon/tenants/$whole->{tenant}/timelines/$whole->{timeline}/wal";
my @stored = sort glob "$waldir/0*";
my $tail = '';
for my $f (@stored) { $tail .= slurp_file($f) }
my $offset = num($end) - int(num($start) / $segsize) * $segsize;
ok(substr($tail, $offset) =~ /^\0*$/, 'nothing is stored behind the end');
ok(substr($tail, num($start) % $segsize, num($end) - num($start)) eq substr($wal, 0, num($end) - num($start)),
	'what is stored is byte for byte what was fed');
my ($out, $err) = run_command([ 'pg_waldump', '-p', $waldir, '-q', '-s', $start, '-e', $end ]);
is($err, '', 'pg_waldump accepts it');

# ---- in pieces, cut in the middle of records ----
my $pieces = $timelines[1];
acquire($pieces);
my $pos = $start;
my $size = 20_000;
my $calls = 0;
while (1)
{
	my $from = num($pos) - num($start);
	my $chunk = substr($wal, $from, $size);
	my $next = feed($pieces, $pos, $chunk);
	$calls++;
	if ($next eq $pos)
	{
		last if $from + $size >= $length;
		$size *= 2;
		next;
	}
	$pos = $next;
	$size = 20_000 + int(rand(200_000));
}
is($pos, $end, "the same end in $calls pieces");

# ---- damage ----
my @ends = split /\n/, $ps->sql("SELECT e FROM neon_test.record_ends($whole->{args}, '$start', '$end') e");
my @records = ($start, @ends);

# Flips a bit in the record that follows the nth end; returns that end and the bytes.
sub damaged
{
	my ($n) = @_;
	my $bytes = $wal;
	my $at = num($records[$n]) - num($start) + 40;
	substr($bytes, $at, 1) = chr(ord(substr($bytes, $at, 1)) ^ 0x10);
	return ($records[$n], $bytes);
}

my $middle = int(@records / 2);
my $t = $timelines[2];
acquire($t);
my ($good, $bytes) = damaged($middle);
$err = feed_error($t, $start, $bytes);
like($err, qr/WAL of endpoint "ep" is corrupted behind \Q$good\E/, "a bit flip behind $good is corruption");
like($err, qr/HINT/, 'with a hint');
is(last_record($t), $good, 'what is before it is kept');
is(feed($t, $good, substr($wal, num($good) - num($start))), $end, 'intact bytes go on from there');

$t = $timelines[3];
acquire($t, machine => 'another boot of the machine');
is(feed($t, $start, $bytes), $good, 'after a crash of the machine it is the end of the WAL');

# Several places, by seed.
my $seed = $ENV{NEON_TEST_SEED} // int(rand(2**31));
srand($seed);
note("seed $seed");
$t = $timelines[4];
acquire($t, machine => 'another boot of the machine');
my @wrong;
my $at = 1;
while (1)
{
	$at += 1 + int(rand(@records / 8));
	last if $at >= @records - 2;
	my ($g, $b) = damaged($at);
	my $from = last_record($t);
	my $got = feed($t, $from, substr($b, num($from) - num($start)));
	# the flipped byte may lie in a page header or in padding, behind the record
	push @wrong, "$at: $got instead of $g" if num($got) < num($g) - 8 || num($got) > num($g) + 200;
	$at = (grep { $records[$_] eq $got } 0 .. $#records)[0];
}
is("@wrong", '', 'a flipped bit always ends the WAL there');

# ---- ends that are no corruption ----
$t = $timelines[5];
acquire($t);
# the last page is torn in the middle of a record, and then comes a recycled segment
my $torn = substr($wal, 0, num($records[$middle]) - num($start) + 12);
my $rest = $segsize - (num($start) + length($torn)) % $segsize;
my $recycled = substr($wal, $segsize - num($start) % $segsize, $segsize);	# page addresses of another place
is(feed($t, $start, $torn . ("\0" x $rest) . $recycled), $records[$middle], 'a torn end before a recycled segment');
is(feed($t, $records[$middle], substr($wal, num($records[$middle]) - num($start), 12)), $records[$middle],
	'a torn record is no error');

# ---- wrong callers ----
$t = $timelines[6];
acquire($t);
like(feed_error($t, $start, $wal, term => 0), qr/superseded by term 1/, 'an older term');
like(feed_error($t, $start, $wal, boot => 'c' x 32), qr/not the last writer/, 'another boot');
like(feed_error($t, txt(num($start) + 8192), $wal), qr/does not follow what is stored/, 'a gap');
like(feed_error($t, $boot_end, $wal), qr/does not follow/, 'not from the boot record on');
# WAL that lacks the boot record: the vanilla server's own
like($ps->sql_error("BEGIN; " . feed_sql($t, $start, $wal)), qr/cannot run inside a transaction block/, 'in a transaction block');

# ---- the writer's rules ----
my $w = $timelines[6];
feed($w, $start, $wal);
like($ps->sql_error("SELECT neon_pageserver.writer_acquire($w->{args}, 1, 2, 'b', '" . 'd' x 32 . "', '$end', 'x', 'm')"),
	qr/endpoint "ep" is the writer of this timeline/, 'no second writer');
like($ps->sql_error("SELECT neon_pageserver.writer_drained($w->{args}, '$boot', '$start')"),
	qr/said to end at/, 'drained at a wrong position');
like($ps->sql_error("SELECT neon_pageserver.writer_drained($w->{args}, '" . 'e' x 32 . "', '$end')"),
	qr/not the last writer/, 'drained by another boot');
like($ps->sql_error("SELECT neon_pageserver.writer_abandon($w->{args}, '$boot', '$start')"),
	qr/HINT:.*\Q$end\E/s, 'abandoned with a wrong LSN names the right one');
$ps->sql("SELECT neon_pageserver.writer_drained($w->{args}, '$boot', '$end')");
$ps->sql("SELECT neon_pageserver.writer_drained($w->{args}, '$boot', '$end')");
is($ps->sql("SELECT endpoint, boot_id, term, boot_lsn, drained_lsn FROM neon_pageserver.writer_get($w->{args})"),
	"ep|$boot|1|$start|$end", 'writer_get after the drain');
like(feed_error($w, $end, 'x'), qr/drained already/, 'no feed after the drain');
like($ps->sql_error("SELECT neon_pageserver.timeline_source($w->{args}, 1, ARRAY['host=/tmp'])"),
	qr/has been drained/, 'no source after the drain');
my $acquire2 = sub {
	my ($expected, $term, $lsn) = @_;
	return "SELECT neon_pageserver.writer_acquire($w->{args}, $expected, $term, 'b', '" . 'd' x 32 . "', '$lsn', 'x', 'm')";
};
like($ps->sql_error($acquire2->(0, 2, $end)), qr/last writer has term 1, not 0/, 'compare and set');
like($ps->sql_error($acquire2->(1, 1, $end)), qr/superseded by term 1/, 'a term twice');
like($ps->sql_error($acquire2->(1, 2, $start)), qr/cannot boot at/, 'not at the end');
$ps->sql($acquire2->(1, 2, $end));
like($ps->sql_error("SELECT neon_pageserver.timeline_source($w->{args}, 1, ARRAY['host=/tmp'])"),
	qr/superseded by term 2/, 'the old writer is superseded');
like($ps->sql_error("SELECT neon_pageserver.timeline_source($w->{args}, 3, ARRAY['host=/tmp'])"),
	qr/term 3 has not been acquired/, 'a term that nobody acquired');
is($ps->sql("SELECT neon_pageserver.writer_abandon($w->{args}, '" . 'd' x 32 . "', '$end')"), '', 'abandoned at the end');

# All of it survives a crash of the pageserver.
$ps->node->stop('immediate');
$ps->start;
is($ps->sql("SELECT endpoint, term, drained_lsn FROM neon_pageserver.writer_get($w->{args})"), "b|2|$end", 'the writer is remembered');
is($ps->sql("SELECT neon_pageserver.wait_lsn($whole->{args}, '$end', '60 s')"), 't', 'so is the WAL');

# Without the boot record: WAL of a server that no ticket started.
my $plain = $timelines[7];
acquire($plain);
$source->start;
$source->stop;
my $plain_wal = read_wal($boot_end);
like(feed_error($plain, $start, ("\0" x (num($boot_end) - num($start))) . $plain_wal), qr/^$|corrupted/, 'zeros are no WAL');
is(last_record($plain), $start, 'nothing of it is stored');

$ps->stop;
done_testing();
