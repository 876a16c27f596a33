# A member whose peers have removed what it lacks takes their beginning as its
# own.  It dies before and after each persist of that (TESTING build), and is
# afterwards where it was or where it was to be; what is no beginning of a
# peer's log is refused; it does not count before it has what its term began with.
# And of a donor that has promised another term nothing is copied untested.
use strict;
use warnings;
use KillNode;
use NeonSafekeeper;
use PostgreSQL::Test::Utils;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_safekeeper.so";

my $wal = NeonSafekeeper::wal_source(
	"CREATE TABLE t (a text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 20000)");
my $start = NeonSafekeeper::lsn_number($wal->{start});
my $mb = 1024 * 1024;
my ($donor, $m) = map { NeonSafekeeper->new($_) } 'donor', 'member';
my $config = NeonSafekeeper::config(1, $donor, $m);
my ($T, $L) = ($NeonSafekeeper::tenant, $NeonSafekeeper::timeline);

# Columns of what the donor says, as arguments of neon_sk_test.jump.
sub beginning
{
	my ($term) = @_;
	my %b;
	@b{qw(wal_start first_record commit_lsn term term_start boot_id data)} = split /\|/,
	  $donor->sql("SELECT wal_start, first_record, commit_lsn, term, term_start, boot_id, encode(data, 'hex') FROM neon_safekeeper.log_beginning('$T', '$L', $term)");
	$b{data} //= '';
	return \%b;
}

sub jump_sql
{
	my ($term, $b) = @_;
	return "SELECT neon_sk_test.jump('$T', '$L', $term, '$b->{wal_start}', '$b->{first_record}', '$b->{commit_lsn}', $b->{term}, '$b->{term_start}', '$b->{boot_id}', '\\x$b->{data}')";
}

sub field { my ($sk, $field) = @_; return $sk->sql("SELECT $field FROM neon_safekeeper.positions('$T', '$L')") }
sub trim { return $donor->sql("SELECT neon_sk_test.trim('$T', '$L', '" . NeonSafekeeper::lsn_text($_[0]) . "')") }

# ---- term 1: the donor has all, the member the beginning ----
$_->create($config, $wal) for $donor, $m;
for my $sk ($donor, $m)
{
	$sk->call('promise', 1, 1, "'x'");
	$sk->call('elected', 1, 1, "'$wal->{start}'", qq('[[0, "$wal->{start}"], [1, "$wal->{start}"]]'), 'NULL');
}
my $end;
for (my $at = $start; $at < $start + 9.5 * $mb; $at = NeonSafekeeper::lsn_number($end))
{
	$end = $donor->append(1, $wal, $at, $at + 2 * $mb);
}
$donor->call('commit', 1, 1, "'$end'", 0);
my $flush = $m->append(1, $wal, $start, $start + 100_000);
$m->call('commit', 1, 1, "'$flush'", 0);
is(field($m, 'flush_lsn, wal_start, counts'), "$flush|$wal->{start}|t", 'the member is behind');

# ---- what is refused ----
is($m->sql(jump_sql(1, beginning(1))), 'f', 'a peer that has what the member lacks is no reason to jump');
my $from = trim($start + 2.5 * $mb);
my $b = beginning(1);
is($b->{wal_start}, $from, 'where the log of the peer begins');
cmp_ok(length($b->{data}), '>', 0, 'in the middle of a record');
my %wrong = (
	'of another term' => { term => 2 },
	'of another election' => { term_start => '0/1000000' },
	'that does not begin with a segment' => { wal_start => NeonSafekeeper::lsn_text(NeonSafekeeper::lsn_number($from) + 8) },
	'with too few bytes' => { data => substr($b->{data}, 2) },
	'above what is committed' => { commit_lsn => $from },
	'with a damaged page' => { data => '00' . substr($b->{data}, 2) });
for my $what (sort keys %wrong)
{
	my $error = $m->sql_error(jump_sql(1, { %$b, %{ $wrong{$what} } }));
	ok($error =~ /an invalid beginning/ || ($error eq '' && $what =~ /election|another term/), "a beginning $what") or diag($error);
	is(field($m, 'flush_lsn, wal_start, state'), "$flush|$wal->{start}|active", 'changes nothing');
}
like($m->sql_error(jump_sql(7, $b)), qr/NS001.*promised term is 1/, 'nor does one asked for in another term');
like($donor->sql_error("SELECT neon_safekeeper.log_beginning('$T', '$L', 2)"), qr/does not count for term 2/, 'only a member that counts for the term tells');

# ---- it dies ----
my $n = 3;
for my $point ('segment-made', 'before-jump', 'state-written', 'state-renamed', 'after-jump', 'jump-removed')
{
	trim($start + $n++ * $mb);
	$b = beginning(1);
	my $before = field($m, 'flush_lsn, wal_start');
	{
		local $ENV{PGUSER} = 'cloud_admin';
		eval { $m->node->psql('postgres', "SET neon_safekeeper.test_crash_at = '$point'; " . jump_sql(1, $b), timeout => 60) };
	}
	kill_node($m->node, all => 1);
	$m->start;
	ok(slurp_file($m->node->logfile) =~ /test point "\Q$point\E" reached/, "died at $point");
	my $after = field($m, 'flush_lsn, wal_start');
	my $done = $point =~ /renamed|after|removed/;
	is($after, $done ? "$b->{first_record}|$b->{wal_start}" : $before, $done ? 'it has jumped' : 'it is where it was');
	is(field($m, 'state, counts'), 'active|t', 'and not damaged');
	is($m->sql(jump_sql(1, $b)), $done ? 'f' : 't', 'and again');
	is(field($m, 'flush_lsn, commit_lsn, wal_start'), "$b->{first_record}|$b->{first_record}|$b->{wal_start}", 'the log begins where that of the peer does');
	my $s = NeonSafekeeper::lsn_number($b->{wal_start});
	is($m->read($s, length($b->{data}) / 2 + 100), $b->{data} . '00' x 100, 'with its bytes, and zeros behind them');
}

# ---- what was there goes, what follows comes ----
my @files = map { substr $_, 16 } map { s{.*/}{}r } glob $m->dir . '/wal/0*';
is(scalar(grep { $_ lt substr(NeonSafekeeper::segment_name($wal, NeonSafekeeper::lsn_number($b->{wal_start})), 16) } @files), 0, 'no older segment is left');
my $next = NeonSafekeeper::lsn_number($b->{first_record});
my $whole = $m->append(1, $wal, $next, $next + 300_000);
cmp_ok(NeonSafekeeper::lsn_number($whole), '>', $next + 200_000, 'the records behind it follow');
for my $mode ('fast', 'immediate')
{
	$m->restart($mode);
	is(field($m, 'flush_lsn, state'), "$whole|active", "also after a restart ($mode)");
}

# ---- it does not count before its term's beginning ----
my $history = qq('[[0, "$wal->{start}"], [1, "$wal->{start}"], [2, "$end"]]');
for my $sk ($donor, $m)
{
	$sk->call('promise', 1, 2, "'x'");
	$sk->call('elected', 1, 2, "'$end'", $history, 'NULL', "'0'");
}
$from = trim(NeonSafekeeper::lsn_number($end));
$b = beginning(2);
is($m->sql(jump_sql(2, $b)), 't', 'it jumps below the beginning of its term');
is(field($m, 'promised, last_log_term, flush_lsn, counts'), "2|1|$b->{first_record}|f", 'and does not count');
$next = NeonSafekeeper::lsn_number($b->{first_record});
is($m->append(2, $wal, $next, NeonSafekeeper::lsn_number($end)), $end, 'what is missing is copied');
is(field($m, 'last_log_term, counts'), '2|t', 'then it counts');

# ---- WAL of a donor that has promised a later term is not taken as it is ----
$L = $NeonSafekeeper::timeline = '3' x 32;
$_->create($config, $wal) for $donor, $m;
$history = qq([0, "$wal->{start}"], [1, "$wal->{start}"]);
for my $sk ($donor, $m)
{
	$sk->call('promise', 1, 1, "'x'");
	$sk->call('elected', 1, 1, "'$wal->{start}'", "'[$history]'", 'NULL');
}
$end = $wal->{start};
$end = $donor->append(1, $wal, NeonSafekeeper::lsn_number($end), NeonSafekeeper::lsn_number($end) + 2 * $mb) for 1 .. 3;
$donor->call('commit', 1, 1, "'$end'", 0);
$flush = $m->append(1, $wal, $start, $start + 100_000);
my $address = 'host=' . $donor->node->host . ' port=' . $donor->node->port . ' user=neon_storage dbname=postgres';
$donor->call('promise', 1, 3, "'x'");
$donor->call('elected', 1, 3, "'$end'", qq('[$history, [3, "$end"]]'), 'NULL');
$m->call('promise', 1, 2, "'x'");
is($m->call('elected', 1, 2, "'$end'", qq('[$history, [2, "$end"]]'), "'$address'", "'3 s'"), "$flush|f", 'term 2 gets nothing from a donor of term 3');
$m->call('promise', 1, 3, "'x'");
is($m->call('elected', 1, 3, "'$end'", qq('[$history, [3, "$end"]]'), "'$address'", "'60 s'"), "$end|t", 'term 3 does');

$_->node->stop for $donor, $m;
unlike(slurp_file($m->node->logfile), qr/PANIC|TRAP|signal 11/, 'no panic');
done_testing();
