# The schedule of figure 8 in the Raft paper, on five safekeepers: WAL of an old
# term reaches a majority in a later one, which is not enough to commit it; only
# when a majority counts for the later term it is, and then it cannot go.
use strict;
use warnings;
use NeonSafekeeper;
use PostgreSQL::Test::Utils;
use Test::More;

my $wal = NeonSafekeeper::wal_source(
	"CREATE TABLE t (a text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 1000)");
my ($T, $L) = ($NeonSafekeeper::tenant, $NeonSafekeeper::timeline);
my $start = NeonSafekeeper::lsn_number($wal->{start});
my @sk = (undef, map { NeonSafekeeper->new("sk$_") } 1 .. 5);
my $config = NeonSafekeeper::config(1, @sk[1 .. 5]);
$_->create($config, $wal) for @sk[1 .. 5];

# A history begins with what is there before any term.
sub history { return "'[" . join(', ', qq([0, "$wal->{start}"]), map { qq([$_->[0], "$_->[1]"]) } @_) . "]'" }

# Promises by some members; the donor as R4 wants it, and its last_log_term and flush_lsn.
sub promises
{
	my ($term, @ids) = @_;
	my @best = (0, 0, -1);
	for my $id (@ids)
	{
		my (undef, $llt, $flush) = split /\|/, $sk[$id]->call('promise', 1, $term, "'launcher of $term'");
		$flush = NeonSafekeeper::lsn_number($flush);
		@best = ($id, $llt, $flush) if $llt > $best[1] || $best[0] == 0 || $llt == $best[1] && $flush > $best[2];
	}
	return ($best[0], $best[1], NeonSafekeeper::lsn_text($best[2]));
}

# elected() at some members; true for those that count.
sub elected
{
	my ($term, $x, $history, $donor, @ids) = @_;
	my $conninfo = $donor ? "'host=" . $sk[$donor]->node->host . ' port=' . $sk[$donor]->node->port . " user=neon_storage dbname=postgres'" : 'NULL';
	return join ',', map { (split /\|/, $sk[$_]->call('elected', 1, $term, "'$x'", $history, $conninfo))[1] } @ids;
}

sub flush { return (split /\|/, $sk[$_[0]]->positions)[2] }
sub committed { return (split /\|/, $sk[$_[0]]->positions)[3] }

# The dead do not answer, so the others cannot hear of anything by themselves.
sub crash { $_->node->stop('immediate') for @sk[@_] }
sub back { $_->start for @sk[@_] }

for my $late (0, 1)
{
	my $name = $late ? 'd: a majority counts' : 'c: a majority has the WAL, but does not count';
	my $t = $late * 10;
	my ($donor, $llt, $x, $a);

	# ---- a: term 1 is elected by 1, 2 and 3; its WAL reaches 1 and 2 only ----
	my @before = $late ? ([ 5, $wal->{start} ]) : ();
	($donor, $llt, $x) = promises($t + 1, 1, 2, 3);
	is($x, $wal->{start}, "$name: nothing is there yet");
	my @first = (@before, [ $t + 1, $wal->{start} ]);
	is(elected($t + 1, $x, history(@first), 0, 1, 2, 3), 't,t,t', 'the first term');
	$sk[$_]->append($t + 1, $wal, $start, $start + 100_000) for 1, 2;
	$a = flush(1);
	is(flush(2), $a, 'its WAL is at two of five');

	# ---- b: 1 is gone; term 2 gets its promises of 3, 4 and 5, its history reaches 5 only ----
	crash(1);
	($donor, $llt, $x) = promises($t + 2, 3, 4, 5);
	is($x, $wal->{start}, 'its majority does not know of that WAL');
	my @second = (@before, $llt == $t + 1 ? [ $t + 1, $wal->{start} ] : (), [ $t + 2, $x ]);
	is(elected($t + 2, $x, history(@second), 0, 5), 't', 'the second term');
	crash(5);

	# ---- c: 1 is back; term 3 gets its promises of 1, 2 and 3, and brings the old WAL to 3 ----
	back(1);
	($donor, $llt, $x) = promises($t + 3, 1, 2, 3);
	is("$llt|$x", ($t + 1) . "|$a", 'the third term begins behind the WAL of the first');
	my $history = history(@first, [ $t + 3, $x ]);
	is(elected($t + 3, $x, $history, 0, 1), 't', 'its own member counts');
	is(elected($t + 3, $x, $history, 1, 3), 't', 'another one copies the old WAL and counts');
	is(flush(3), $a, 'which is at three of five now');
	like($sk[2]->call('commit', 1, $t + 3, "'$a'", 1000), qr/^\Q$a\E\|\Q@{[ committed(2) ]}\E\|.*\|f\|/, 'the third does not count: it commits nothing, and no lease');
	is(committed(2), $wal->{start}, 'indeed');
	is($sk[2]->sql("SELECT counts FROM neon_safekeeper.positions('$T', '$L')"), 'f', 'and says so');

	if (!$late)
	{
		# ---- d1: 1 and 3 are gone; term 4 gets its promises of 2, 4 and 5: the second term's history wins ----
		crash(1, 3);
		back(5);
		($donor, $llt, $x) = promises($t + 4, 2, 4, 5);
		is("$donor|$llt|$x", '5|' . ($t + 2) . "|$wal->{start}", 'the later term wins, though it is the shorter log');
		my @fourth = (@second, [ $t + 4, $x ]);
		is(elected($t + 4, $x, history(@fourth), 5, 2, 4, 5), 't,t,t', 'the fourth term');
		is(flush(2), $wal->{start}, 'the WAL of the first term is cut off');
		back(1, 3);
		($donor, $llt, $x) = promises($t + 5, 1, 2, 3);
		is($llt, $t + 4, 'a majority knows of the fourth term');
		is(elected($t + 5, $x, history([ $t + 5, $x ]), 0, 1 .. 5), 't,t,t,t,t', 'nobody has anything committed that would be missed');
		is(join(',', map { flush($_) } 1 .. 5), join(',', ($wal->{start}) x 5), 'and all logs are one again');
		next;
	}

	# ---- d2: 2 counts too: committed, and it stays ----
	is(elected($t + 3, $x, $history, 0, 2), 't', 'now a majority counts for the third term');
	is((split /\|/, $sk[$_]->call('commit', 1, $t + 3, "'$a'", 0))[1], $a, "$_ commits") for 1 .. 3;
	crash(1, 3);
	back(5);
	($donor, $llt, $x) = promises($t + 4, 2, 4, 5);
	is("$donor|$llt|$x", '2|' . ($t + 3) . "|$a", 'any majority has a member of the third term, which wins');
	is(elected($t + 4, $x, history(@first, [ $t + 3, $a ], [ $t + 4, $x ]), 2, 2, 4, 5), 't,t,t', 'the fourth term');
	is(flush(5), $a, 'what was committed is at a majority of it');
	is($sk[5]->read($start, 90_000), $sk[2]->read($start, 90_000), 'the same bytes');
	like($sk[2]->call_error('elected', 1, $t + 5, "'$wal->{start}'", history([ $t + 2, $wal->{start} ], [ $t + 5, $wal->{start} ]), 'NULL'),
		qr/NS003.*committed/s, 'a history without it is refused');
}

done_testing();
