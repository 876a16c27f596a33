# kill -9 of the pageserver's postmaster or of one of its processes, at random
# moments, again and again, under load, compaction and removal of history.
# After each: acknowledged rows are there, and the pageserver's pages are the
# endpoint's.  At the end all of it is fetched from the pageserver.
use strict;
use warnings;
use File::Path qw(remove_tree);
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $rounds = $ENV{NEON_TEST_SOAK_HOURS} ? 100 : $NeonTest::long ? 20 : 5;
my $t = NeonTest->new;
$t->quickstart;
# small files, and history that ends soon
my %settings = (checkpoint_distance => "'1MB'", compaction_threshold => 2, compaction_target_size => "'256kB'",
	wal_keep => 0, pitr_interval => 0, gc_horizon => "'1MB'", maintenance_io_limit => 0);
$t->psql('pageserver', "ALTER SYSTEM SET neon_pageserver.$_ = $settings{$_}") for sort keys %settings;
$t->psql('pageserver', 'SELECT pg_reload_conf()');
$t->psql('main', "CREATE EXTENSION $_") for qw(amcheck pageinspect neon_test_utils);
$t->pgbench_init('main', 1);
my $args = sprintf "'%s', '%s'", $t->tenant, $t->timeline('main');

# Pages from the endpoint and from the pageserver, those of the end of each
# relation and others, that differ in more than hints.
sub differing_pages
{
	my ($n) = @_;
	return $t->psql('main', <<"SQL", timeout => 300);
SELECT string_agg(c.oid::regclass || ' ' || b, ', ')
FROM pg_class c JOIN pg_am a ON a.oid = c.relam, LATERAL (SELECT pg_relation_size(c.oid) / 8192 AS n) s,
	LATERAL (SELECT DISTINCT CASE WHEN g <= 10 THEN greatest(0, s.n - g) ELSE floor(random() * s.n)::bigint END AS b
		FROM generate_series(1, $n) g) x
WHERE c.relname ~ '^pgbench_' AND s.n > 0
	AND neon_test_utils.masked_page(get_raw_page(c.oid::regclass::text, b::int), a.amname, b)
		<> neon_test_utils.masked_page(neon_test_utils.get_raw_page_at_lsn(c.oid, 'main', b, NULL), a.amname, b)
SQL
}

sub start_load { my $c = $t->clients('main', n => 4); ok($c->wait_progress(20, 120), 'load runs') or diag($c->errors); return $c }

sub is_up { return ($t->psql_raw('pageserver', 'SELECT 1'))[0] == 0 }

# Any process of the pageserver; its postmaster in every second round.
sub kill_something
{
	my ($round) = @_;
	my $pid = $t->postmaster_pid('pageserver');
	if ($round % 2)
	{
		$t->kill9('pageserver', nowait => 1);
		$t->neon('pageserver', 'start');
		return 'the postmaster';
	}
	my @children = $t->children_of($pid, qr/^(?!.*(?:logger|authentication)).+/);
	my $victim = $children[ rand @children ];
	my $what = NeonTest::cmdline($victim) =~ s/^\S+:? |\s+$//gr;
	kill 'KILL', $victim;
	# the postmaster ends all others, and starts them anew
	$t->wait_for('the end of a process', sub { !NeonTest::alive($victim) });
	$t->wait_for('the pageserver', \&is_up);
	return $what;
}

my $gc = $t->loop('pageserver', "SELECT neon_pageserver.timeline_gc($args);\nSELECT pg_sleep(0.1);\n");
my @all;
for my $round (1 .. $rounds)
{
	my $c = start_load();
	push @all, $c;
	sleep rand(1);
	my $what = kill_something($round);
	ok($c->wait_progress(20, 120), "round $round: load goes on after kill -9 of $what");
	$c->stop;
	my @lost = $c->lost('main');
	is(scalar(@lost), 0, "round $round: acknowledged rows are there");
	is(differing_pages(50), '', "round $round: pages are the endpoint's");
}
$gc->stop;
my @lost = map { $_->lost('main') } @all;
is(scalar(@lost), 0, 'all that was acknowledged is there') or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");

my $log = join '', map { NeonTest::Vanilla::slurp($_) } glob($t->dir . '/pageserver/log/*');
like($log, qr/$_ of partition/, "there was a $_") for qw(pull rebase);
is($t->psql('pageserver', "SELECT string_agg(format('%s at %s: %s', file, byte_offset, problem), E'\\n') FROM neon_pageserver.timeline_verify($args)", timeout => 300),
	'', 'timeline_verify finds nothing');
$t->endpoint_stop('main');
remove_tree($t->pgdata('main'));
$t->endpoint_start('main');
@lost = map { $_->lost('main') } @all;
is(scalar(@lost), 0, 'all of it is in what the pageserver has') or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
$t->balances_agree('main', 'balances agree');
$t->amcheck('main', 'amcheck');
unlike($log, qr/PANIC|TRAP|is corrupted|is damaged/, 'no panic, no damage in the log');
$t->neon('stop');
done_testing();
