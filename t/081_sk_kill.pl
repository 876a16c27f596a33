# A safekeeper dies before and after each persist (TESTING build) and is
# opened again: what it replied holds, and what it did not reply is whole or
# not there.
use strict;
use warnings;
use KillNode;
use NeonSafekeeper;
use PostgreSQL::Test::Utils;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_safekeeper.so";

my $wal = NeonSafekeeper::wal_source(
	"CREATE TABLE t (a text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 3000)");
my $start = NeonSafekeeper::lsn_number($wal->{start});
my $sk = NeonSafekeeper->new('sk');
my $config = NeonSafekeeper::config(1, $sk);

# The statement makes the instance die at the point; then it is started again.
sub dies_at
{
	my ($point, $sql) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	my ($rc) = eval { $sk->node->psql('postgres', "SET neon_safekeeper.test_crash_at = '$point'; $sql", timeout => 60) };
	kill_node($sk->node, all => 1);
	$sk->start;
	ok(slurp_file($sk->node->logfile) =~ /test point "\Q$point\E" reached/, "died at $point");
}

sub call
{
	my ($function, @args) = @_;
	return "SELECT * FROM neon_safekeeper.$function(" . join(', ', "'$NeonSafekeeper::tenant'", "'$NeonSafekeeper::timeline'", @args) . ')';
}

# ---- creation ----
my $create = call('timeline_create', $wal->{sysid}, $wal->{segsize}, 1, "'$wal->{start}'", 0, "'[[0, \"$wal->{start}\"]]'", $config);
for my $point ('create-directory', 'create-segment', 'state-written', 'state-renamed')
{
	dies_at($point, $create);
	like($sk->positions, qr/^$|^\Q0|0|$wal->{start}|$wal->{start}|t|active\E$/, 'not there, or whole');
}
$sk->sql($create);
dies_at('create-known', $create =~ s/$NeonSafekeeper::timeline/'3' x 32/er);
is($sk->sql('SELECT count(*) FROM neon_safekeeper.timelines'), 2, 'another one, whole');

# ---- promise ----
my $term = 1;
for my $point ('before-promise', 'state-written', 'state-renamed', 'after-promise')
{
	my ($before) = split /\|/, $sk->positions;
	$term++;
	dies_at($point, call('promise', 1, $term, "'x'"));
	my ($promised) = split /\|/, $sk->positions;
	ok($promised == $term || $promised == $before, "promised $promised");
	is($promised, $term, 'what was persisted is known') if $point eq 'after-promise';
	$sk->call('promise', 1, ++$term, "'x'");
}

# ---- elected: cut, then history ----
my $last = NeonSafekeeper::lsn_text($start);
my @history = ([ 0, $last ]);
sub elected
{
	my ($x) = @_;
	my $json = join ', ', map { qq([$_->[0], "$_->[1]"]) } @history, [ $term, $x ];
	return call('elected', 1, $term, "'$x'", "'[$json]'", 'NULL');
}
$sk->sql(elected($last));
push @history, [ $term, $last ];
my $common = $sk->append($term, $wal, $start, $start + 100_000);
$sk->call('commit', 1, $term, "'$common'", 0);
for my $point ('before-cut', 'after-cut', 'before-truncate', 'truncate-removed', 'after-truncate', 'before-history', 'state-renamed', 'after-history')
{
	$sk->append($term, $wal, NeonSafekeeper::lsn_number($common), $start + 1_200_000);
	$sk->call('promise', 1, ++$term, "'x'");
	dies_at($point, elected($common));
	like($sk->positions, qr/^$term\|\d+\|[^|]+\|\Q$common\E\|[tf]\|active$/, 'not damaged, nothing committed is lost');
	is($sk->sql(elected($common)), "$common|t", 'the election is repeated');
	is($sk->read(NeonSafekeeper::lsn_number($common), 2000), '00' x 2000, 'zeros behind the cut');
	push @history, [ $term, $common ];
}

# ---- the rest ----
for my $point ('before-members', 'after-members')
{
	dies_at($point, call('members', 2, NeonSafekeeper::config(2, $sk)));
	like($sk->sql("SELECT generation FROM neon_safekeeper.positions('$NeonSafekeeper::tenant', '$NeonSafekeeper::timeline')"), qr/^[12]$/, 'a whole configuration');
}
for my $point ('before-tombstone', 'after-tombstone')
{
	dies_at($point, call('timeline_delete', 2, 'true'));
	my $error = $sk->call_error('promise', 2, $term + 1, "'x'");
	$term++ if $error eq '';
	ok($error eq '' || $error =~ /NS004.*deleted/, 'alive or deleted');
}
like($sk->call_error('promise', 2, $term + 1, "'x'"), qr/NS004.*deleted/, 'the tombstone is what counts');
$sk->node->stop;
unlike(slurp_file($sk->node->logfile), qr/PANIC|TRAP|signal 11/, 'no panic');
done_testing();
