# Branches: exactly the state of then, in milliseconds, and nothing between
# parent and child afterwards.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time sleep);

my $scale = $NeonTest::long ? 10 : 1;
my $t = NeonTest->new;
$t->quickstart;
$t->pgbench_init('main', $scale);
$t->psql('main', 'CREATE TABLE marks(i int PRIMARY KEY)');

# marks are committed one by one within a TPC-B run; after each one the LSN and
# a time are noted that lie before the next one
my $c = $t->clients('main', n => 4, scale => $scale);
my @marks;
for my $i (1 .. 20)
{
	my @acked = $c->acknowledged;
	my ($lsn, $when) = split /\|/,
	  $t->psql('main', "INSERT INTO marks VALUES ($i); SELECT pg_current_wal_insert_lsn(), clock_timestamp()");
	push @marks, [ $i, $lsn, $when, \@acked ];
	sleep 0.2;
}

sub state_is
{
	my ($ep, $n, $what) = @_;
	is($t->psql($ep, 'SELECT count(*), max(i) FROM marks'), "$n|$n", "$what: the marks of then");
	my %there = map { $_ => 1 } split /\n/, $t->psql($ep, 'SELECT rtrim(filler) FROM pgbench_history');
	is(scalar(grep { !$there{$_} } @{ $marks[ $n - 1 ][3] }), 0, "$what: what was acknowledged by then");
	is($t->psql($ep, <<'SQL'), '0', "$what: of each client all transactions up to one");
SELECT count(*) FROM (SELECT count(*) AS n, max(split_part(rtrim(filler), '.', 3)::int) AS last
	FROM pgbench_history GROUP BY split_part(filler, '.', 2)) c WHERE n <> last
SQL
	$t->balances_agree($ep, "$what: balances agree");
}

for my $k ($NeonTest::long ? (2 + int(rand(8)), 10 + int(rand(9))) : 2 + int(rand(17)))
{
	my (undef, $lsn, $when) = @{ $marks[ $k - 1 ] };
	my $out = $t->neon('timeline', 'branch', '--branch-name', "l$k", '--ancestor-start-lsn', $lsn) unless grep { $_ eq "l$k" } keys %{ $t->{ports} };
	$t->endpoint_start("l$k", branch => "l$k");
	state_is("l$k", $k, "branch at LSN $lsn");
	$t->neon('timeline', 'branch', '--branch-name', "t$k", '--ancestor-start-time', $when);
	$t->endpoint_start("t$k", branch => "t$k");
	state_is("t$k", $k, "branch at $when");
	$t->endpoint_start("st$k", time => $when);
	state_is("st$k", $k, "static endpoint at $when");
	$t->endpoint_stop($_) for "l$k", "t$k", "st$k";
}
$c->stop;
is(scalar($c->lost('main')), 0, 'nothing is lost on main');

# a branch of a branch of a branch, each with rows of its own
my $parent = 'main';
for my $i (1 .. 3)
{
	$t->neon('timeline', 'branch', '--branch-name', "d$i", '--ancestor-branch-name', $parent);
	$t->endpoint_start("d$i", branch => "d$i");
	$t->psql("d$i", "INSERT INTO marks VALUES (100 + $i)");
	$t->psql($parent eq 'main' ? 'main' : "d" . ($i - 1), "INSERT INTO marks VALUES (200 + $i)");
	$parent = "d$i";
}
for my $i (0 .. 3)
{
	my $want = join ',', (map { 100 + $_ } 1 .. $i), $i < 3 ? 201 + $i : ();
	is($t->psql($i ? "d$i" : 'main', 'SELECT string_agg(i::text, $$,$$ ORDER BY i) FROM marks WHERE i > 100'),
		$want, "generation $i has its own rows and its ancestors'");
}
for my $i (1 .. 3)
{
	$t->endpoint_stop("d$i");
	$t->endpoint_start("d$i");
}
is($t->psql('d3', 'SELECT string_agg(i::text, $$,$$ ORDER BY i) FROM marks WHERE i > 100'),
	'101,102,103', 'the same after another boot');

# each generation written to and killed, all at once
my @loads = map { $t->clients("d$_", n => 2, scale => $scale, tag => "gen$_") } 1 .. 3;
ok($_->wait_progress(100, 60), "load on $_->{ep}") for @loads;
$t->kill9("d$_", nowait => 1) for 1 .. 3;
$_->stop for @loads;
for my $i (3, 1, 2)
{
	$t->endpoint_start("d$i");
	is(scalar($loads[ $i - 1 ]->lost("d$i")), 0, "generation $i after kill -9: nothing is lost");
	$t->balances_agree("d$i", "generation $i after kill -9: balances agree");
	is($t->psql("d$i", "SELECT count(*) FROM pgbench_history WHERE filler LIKE 'gen%' AND filler NOT LIKE 'gen$i.%'"),
		'0', "generation $i has nothing of what the others wrote since");
}
$t->endpoint_stop("d$_") for 1 .. 3;

# fifty branches
my $dir = $t->ps_pgdata . '/neon';
sub used { my ($kb) = (`du -sk '$dir'`) =~ /^(\d+)/; return $kb }
my $lsn = $t->wait_ingest('main');
my $before = used();
my $began = time;
$t->psql('pageserver', join '', map { "SELECT neon_pageserver.branch_create('" . $t->tenant . "', 'many$_', 'main', '$lsn');\n" } 1 .. 50);
my $ms = (time - $began) * 1000 / 50;
my $kb = (used() - $before) / 50;
note(sprintf '%.1f ms and %.1f kB each', $ms, $kb);
cmp_ok($ms, '<', 200, 'a branch takes milliseconds');
cmp_ok($kb, '<', 1024, 'and kilobytes');
is($t->psql('pageserver', "SELECT count(*) FROM neon_pageserver.timelines WHERE name LIKE 'many%'"), '50', 'fifty branches');
$t->endpoint_start('many50', branch => 'many50');
is($t->psql('many50', 'SELECT count(*) FROM marks WHERE i <= 20'), '20', 'one of them is the database');
$t->endpoint_stop('many50');

# crash of A, then B starts on the same timeline; a branch after a crash
{
	$t->endpoint_start('a', branch => 'd1');
	$t->psql('a', 'TRUNCATE pgbench_history, marks');
	$t->psql('a', 'UPDATE pgbench_accounts SET abalance = 0; UPDATE pgbench_tellers SET tbalance = 0; UPDATE pgbench_branches SET bbalance = 0');
	my $x = $t->clients('a', n => 4, scale => $scale);
	ok($x->wait_progress(200, 60), 'load on A');
	$t->kill9('a', nowait => 1);
	$t->endpoint_start('b', branch => 'd1');
	$x->stop;
	is(scalar($x->lost('b')), 0, 'crash of A, start of B: every acknowledged row is there');
	$t->balances_agree('b');
	my $y = $t->clients('b', n => 4, scale => $scale);
	ok($y->wait_progress(200, 60), 'load on B');
	$t->kill9('b', nowait => 1);
	$y->stop;
	$t->neon('timeline', 'branch', '--branch-name', 'after_crash', '--ancestor-branch-name', 'd1');
	$t->endpoint_start('ac', branch => 'after_crash');
	is(scalar($y->lost('ac')), 0, 'crash of B, branch: every acknowledged row is there');
	$t->balances_agree('ac');
	$t->endpoint_stop('ac');
}

# a branch of a live compute under load: what was acknowledged before is there
{
	my $x = $t->clients('main', n => 4, scale => $scale);
	$x->wait_progress(100, 60);
	for my $i (1 .. 3)
	{
		my @acked = $x->acknowledged;
		$t->neon('timeline', 'branch', '--branch-name', "now$i");
		$t->endpoint_start("now$i", branch => "now$i");
		my %there = map { $_ => 1 } split /\n/, $t->psql("now$i", 'SELECT rtrim(filler) FROM pgbench_history');
		my @lost = grep { !$there{$_} } @acked;
		is(scalar(@lost), 0, "branch now under load, $i");
		$t->balances_agree("now$i");
		$t->endpoint_stop("now$i");
	}
	$x->stop;
}

# restore of main: branch at a time, the endpoint moves to it
{
	my (undef, undef, $when) = @{ $marks[9] };
	my $port = $t->port('main');
	$t->neon('timeline', 'branch', '--branch-name', 'main_restored', '--ancestor-start-time', $when);
	$t->endpoint_stop('main');
	my $out = $t->endpoint_start('main', branch => 'main_restored');
	like($out, qr/main_restored/, 'the move is told');
	state_is('main', 10, 'restored main, same name and port');
	is($t->port('main'), $port, 'same port');
	$t->psql('main', 'INSERT INTO marks VALUES (11)');
}

# a new history beside main: an empty database system of its own
$t->neon_ok([ 'timeline', 'create', '--branch-name', 'fresh' ], 'timeline create');
$t->endpoint_start('fresh', branch => 'fresh');
is($t->psql('fresh', "SELECT to_regclass('marks')"), '', 'a new timeline is empty');
$t->psql('fresh', 'CREATE TABLE marks(i int); INSERT INTO marks VALUES (1)');
$t->neon('endpoint', 'restart', 'fresh');
is($t->psql('fresh', 'SELECT i FROM marks'), '1', 'and keeps what is written');
$t->endpoint_stop('fresh');

# names
$t->neon_ok([ 'timeline', 'rename', 'main_restored', 'renamed' ], 'rename');
like($t->neon('timeline', 'list'), qr/renamed/, 'the new name is listed');
$t->neon_fails([ 'timeline', 'delete', 'main' ], qr/./, qr/./, 'a branch with children is not deleted');
$t->neon_ok([ 'timeline', 'delete', 'many1' ], 'a leaf is deleted');
unlike($t->neon('timeline', 'list'), qr/many1 /, 'and gone');

$t->neon('stop');
done_testing();
