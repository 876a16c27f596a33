# The protocol's functions on three safekeepers, without a compute: guards,
# refusals, restarts in between, histories that part, damage.
use strict;
use warnings;
use Damage;
use NeonSafekeeper;
use PostgreSQL::Test::Utils;
use Test::More;

my $wal = NeonSafekeeper::wal_source(
	"CREATE TABLE t (a text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 4000)");
my $start = NeonSafekeeper::lsn_number($wal->{start});
my @sk = map { NeonSafekeeper->new("sk$_") } 1 .. 3;
my $config = NeonSafekeeper::config(1, @sk);
my $text = \&NeonSafekeeper::lsn_text;

# ---- creation ----
$_->create($config, $wal) for @sk;
$sk[0]->create($config, $wal);
is($sk[0]->positions, "0|0|$wal->{start}|$wal->{start}|t|active", 'a new timeline; creating it again changes nothing');
like($sk[0]->call_error('timeline_create', 1, $wal->{segsize}, 1, "'$wal->{start}'", 0, "'[[0, \"$wal->{start}\"]]'", $config),
	qr/42710.*other properties/, 'other properties are refused');
like($sk[0]->sql_error("BEGIN; SELECT neon_safekeeper.promise('1', '2', 1, 1, '')"), qr/25001|23514/, 'no transaction blocks');
is($sk[0]->sql("SELECT count(*) FROM neon_safekeeper.positions(repeat('9', 32), repeat('9', 32))"), 0, 'no row for what is not here');
like($sk[0]->sql_error("SELECT neon_safekeeper.promise(repeat('9', 32), repeat('9', 32), 1, 1, '')"), qr/NS004/, 'and no vote');

# ---- term 1 ----
my $history1 = qq('[[0, "$wal->{start}"], [1, "$wal->{start}"]]');
is($_->call('promise', 1, 1, "'first'") =~ /^1\|0\|/, 1, 'promise of term 1') for @sk;
like($sk[0]->call_error('promise', 1, 1, "'again'"), qr/NS001: superseded by term 1.*DETAIL/s, 'R1: not twice');
like($sk[0]->call_error('promise', 2, 2, "'x'"), qr/NS002/, 'another generation is refused');
like($sk[0]->call_error('elected', 1, 1, "'$wal->{start}'", qq('[[0, "$wal->{start}"]]'), 'NULL'), qr/22023/, 'a history without the term is refused');
is($_->call('elected', 1, 1, "'$wal->{start}'", $history1, 'NULL'), "$wal->{start}|t", 'elected') for @sk;

# ---- WAL ----
my $a = $start + 100_000;
my $end_a = $sk[0]->append(1, $wal, $start, $a);
cmp_ok(NeonSafekeeper::lsn_number($end_a), '<=', $a, 'flush_lsn is the end of a whole record');
cmp_ok($a - NeonSafekeeper::lsn_number($end_a), '<', 9000, 'of the last one');
is($sk[1]->append(1, $wal, $start, $a), $end_a, 'the same at another member');

# a record that goes on behind a segment's long page header arrives in pieces
my $boundary = $start + $wal->{segsize};
my ($info, $rest) = unpack 'x2 S x12 L', NeonSafekeeper::wal_bytes($wal, $boundary, $boundary + 40);
my ($begun, $notice) = ($sk[0]->append(1, $wal, NeonSafekeeper::lsn_number($end_a), $boundary), '');
BAIL_OUT('no record crosses the segment') unless $info & 1;
for my $to (map({ $boundary + $_ } 1, 8, 24, 25, 39, 40, 41), map { $boundary + 40 + $rest + $_ } -17 .. -1)
{
	next if $to <= $boundary;
	my $data = unpack 'H*', NeonSafekeeper::wal_bytes($wal, NeonSafekeeper::lsn_number($begun), $to);
	my (undef, $end, $err) = $sk[0]->node->psql('postgres',
		"SELECT neon_sk_test.append('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline', 1, '$begun', '\\x$data')", extra_params => [ '-U', 'cloud_admin' ]);
	$notice .= "$to: $end $err\n" if $end ne $begun || $err ne '';
}
is($notice, '', 'a record is waited for to its last byte');
my $end_b = $sk[0]->append(1, $wal, NeonSafekeeper::lsn_number($begun), $start + 1_300_000);
cmp_ok(NeonSafekeeper::lsn_number($end_b), '>', $start + 1_290_000, 'across a segment');
is($sk[0]->call('commit', 1, 1, "'$end_a'", 0), "$end_a|$end_a||1|0|1|f|" =~ s/^\Q$end_a\E/$end_b/r, 'commit');
like($sk[1]->call('commit', 1, 1, "'$end_b'", 0), qr/^\Q$end_a|$end_a\E\|/, 'R12: not beyond the own flush_lsn');
like($sk[2]->call('commit', 1, 0, "'$end_a'", 0), qr/^\Q$wal->{start}|$wal->{start}\E\|\|1/, 'R12: not for another term');

# ---- lease ----
like($sk[0]->call('commit', 1, 1, "'$end_a'", 60000), qr/\|t\|/, 'a lease is granted');
like($sk[2]->call('commit', 1, 0, "'$end_a'", 60000), qr/\|1\|0\|1\|f\|/, 'to the promised term only');
is($sk[0]->sql("SELECT lease_left_ms > 50000 FROM neon_safekeeper.positions('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline')"), 't', 'and runs');
$sk[0]->restart('immediate');
is($sk[0]->sql("SELECT lease_left_ms > 50000 FROM neon_safekeeper.positions('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline')"), 't', 'a restarted member reports a whole one');
is($sk[0]->positions, "1|1|$end_b|$end_a|t|active" =~ s/\Q$end_a\E/$sk[0]->call('commit', 1, 1, "'0\/0'", 0) =~ m{\|([^|]+)\|\|} ? $1 : ''/er, 'kill: what was synchronized is found again');
like($sk[0]->call_error('timeline_delete', 1), qr/55006/, 'not deleted while a lease runs');
$sk[0]->call('release', 1, 1);
is($sk[0]->sql("SELECT lease_left_ms FROM neon_safekeeper.positions('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline')"), 0, 'released');

# ---- term 2, elected from members 1 (index) and 2: member 0 has more, and it goes ----
my ($promise) = map { $_->call('promise', 1, 2, "'second'") } $sk[1];
like($promise, qr/^2\|1\|\Q$end_a\E\|/, 'promise reports the end of the log');
like($promise, qr/\|first$/, 'and who was there before');
$sk[2]->call('promise', 1, 2, "'second'");
my $history2 = qq('[[0, "$wal->{start}"], [1, "$wal->{start}"], [2, "$end_a"]]');
like($sk[1]->sql_error("SELECT neon_sk_test.append('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline', 1, '$end_a', '\\x00')"), qr/NS001/, 'R2: nothing of term 1 is written after the promise');
is($sk[1]->call('elected', 1, 2, "'$end_a'", $history2, 'NULL'), "$end_a|t", 'counts at once');
is($sk[2]->call('elected', 1, 2, "'$end_a'", $history2, 'NULL'), "$wal->{start}|f", 'R9: does not count without the WAL');
like($sk[2]->call('commit', 1, 2, "'$end_a'", 60000), qr/\|2\|0\|1\|f\|/, 'and grants no lease');
is($sk[0]->call('elected', 1, 2, "'$end_a'", $history2, 'NULL'), "$end_a|t", 'R5, R6: promises, and cuts what term 2 does not have');
is($sk[0]->read(NeonSafekeeper::lsn_number($end_a), 1000), '00' x 1000, 'zeros behind the cut');
ok(!-e $sk[0]->segment_file($wal, $start + 1_200_000), 'later segments are gone');
$sk[0]->append(2, $wal, NeonSafekeeper::lsn_number($end_a), $start + 200_000);
my $before = $sk[0]->positions;
is($sk[0]->call('elected', 1, 2, "'$end_a'", $history2, 'NULL') =~ /t$/, 1, 'R7: again');
is($sk[0]->positions, $before, 'R7: nothing is cut');
like($sk[0]->call_error('elected', 1, 1, "'$wal->{start}'", $history1, 'NULL'), qr/NS001/, 'an older one is refused');
like($sk[0]->call_error('elected', 1, 3, "'$wal->{start}'", qq('[[0, "$wal->{start}"], [3, "$wal->{start}"]]'), 'NULL'), qr/NS003.*committed/s, 'R6: committed WAL is never cut');

# ---- closing, restarts ----
$before = $sk[1]->positions;
is($sk[1]->sql("SELECT neon_sk_test.close('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline')"), 't', 'a clean end');
is($sk[1]->positions, $before, 'changes nothing');
$_->restart('immediate') for @sk;
is($sk[1]->positions, $before, 'and after a kill');
is($sk[2]->positions, "2|1|$wal->{start}|$wal->{start}|f|active", 'promises survive');

# ---- damage ----
$sk[1]->node->stop;
flip_bit($sk[1]->segment_file($wal, $start), 50_000, 0);
$sk[1]->start;
like($sk[1]->positions, qr/damaged$/, 'a flipped bit in committed WAL');
like($sk[1]->call_error('promise', 1, 9, "'x'"), qr/NS003.*DETAIL/s, 'does not vote');
like($sk[1]->call_error('commit', 1, 2, "'$end_a'", 0), qr/NS003/, 'does not acknowledge');
$sk[1]->restart('immediate');
like($sk[1]->positions, qr/damaged$/, 'for ever');
# files that are gone: it was here, so it is not taken for one that never voted
my $create_again = sub { $_[0]->call_error('timeline_create', $wal->{sysid}, $wal->{segsize}, 1, "'$wal->{start}'", 0, "'[[0, \"$wal->{start}\"]]'", $config) };
for my $lost ('', '/state', '/wal')
{
	my $path = $sk[2]->dir . $lost;
	$sk[2]->node->stop($lost ? 'fast' : 'immediate');
	rename $path, $sk[2]->node->data_dir . '/lost' or die "$path: $!";
	$sk[2]->start;
	is($sk[2]->sql('SELECT state FROM neon_safekeeper.timelines'), 'damaged', 'files' . ($lost ? " below $lost" : '') . ' are lost: damaged') if $lost ne '/wal';
	like($create_again->($sk[2]), qr/NS003.*damaged/s, 'it is not made anew');
	like($sk[2]->call_error('promise', 1, 9, "'x'"), qr/NS003.*missing/s, 'and does not vote');
	$sk[2]->node->stop;
	rename $sk[2]->node->data_dir . '/lost', $path or die "$path: $!";
	$sk[2]->start;
	is($sk[2]->positions, "2|1|$wal->{start}|$wal->{start}|f|active", 'back with its files');
}
# data of before there was a list of names, and no way to write it: only that timeline is refused
my $second = '3' x 32;
my $of_second = "'$NeonSafekeeper::tenant', '$second'";
$sk[2]->sql("SELECT neon_safekeeper.timeline_create($of_second, $wal->{sysid}, $wal->{segsize}, 1, '$wal->{start}', 0, '[[0, \"$wal->{start}\"]]', $config)");
$sk[2]->node->stop;
my $names = $sk[2]->node->data_dir . "/neon/known/$NeonSafekeeper::tenant";
unlink "$names/$NeonSafekeeper::timeline" or die "$names: $!";
chmod 0500, $names or die "$names: $!";
$sk[2]->start;
is($sk[2]->sql("SELECT state FROM neon_safekeeper.positions($of_second)"), 'active', 'a timeline with its name is served');
like($sk[2]->call_error('promise', 1, 9, "'x'"), qr/could not create file/, 'one without is refused');
chmod 0700, $names or die "$names: $!";
is($sk[2]->positions, "2|1|$wal->{start}|$wal->{start}|f|active", 'until its name can be written');
ok(-e "$names/$NeonSafekeeper::timeline", 'which it is');
$sk[2]->sql("SELECT neon_safekeeper.timeline_delete($of_second, 1)");
$sk[2]->node->stop;
flip_bit($sk[2]->dir . '/state', 60, 0);
$sk[2]->start;
is($sk[2]->sql('SELECT state FROM neon_safekeeper.timelines'), 'damaged', 'a flipped bit in the state file: the view says so at once');
like($sk[2]->call_error('promise', 1, 9, "'x'"), qr/NS003.*checksum/s, 'it does not vote');

# ---- members, deletion ----
$before = $sk[0]->positions;
like($sk[0]->call_error('members', 2, NeonSafekeeper::config(3, @sk)), qr/22023/, 'generation and configuration must agree');
$sk[0]->call('members', 2, NeonSafekeeper::config(2, @sk) =~ s/"floor": 0/"floor": 7/r);
like($sk[0]->positions, qr/^7\|2\|.*\|f\|active$/, 'the floor is promised');
$sk[0]->call('members', 2, NeonSafekeeper::config(2, @sk) =~ s/"floor": 0/"floor": 7/r);
like($sk[0]->call_error('members', 1, $config), qr/NS002/, 'no way back');
like($sk[0]->call_error('promise', 1, 8, "'x'"), qr/NS002/, 'the old generation does not get votes');
$sk[0]->call('timeline_delete', 2);
like($sk[0]->call_error('promise', 2, 8, "'x'"), qr/NS004.*deleted/, 'deleted');
is($sk[0]->positions, '|||||deleted', 'which is what it answers to who asks for its position');
$sk[0]->restart('immediate');
like($sk[0]->call_error('timeline_create', $wal->{sysid}, $wal->{segsize}, 1, "'$wal->{start}'", 0, "'[[0, \"$wal->{start}\"]]'", $config),
	qr/NS004.*deleted/, 'and never made again');
unlike(slurp_file($_->node->logfile), qr/PANIC|TRAP|signal 11/, 'no panic') for @sk;
$_->node->stop for @sk;

done_testing();
