# Which timeline a compaction worker takes next: those whose reads suffer first;
# among the others nobody has a second job before all have had one, and the
# largest debt begins.  A rule that is broken on purpose is found out (long run).
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $lib = $ENV{NEON_TESTING_LIBDIR} or plan skip_all => 'no build with TESTING=1';
my $f = 'neon_pageserver';
$ENV{PGUSER} = 'cloud_admin';

# Name, files to make, rows in each: in the order of their slots.
my @timelines = ([ 'small', 5, 10 ], [ 'large', 5, 20000 ], [ 'many files', 13, 10 ]);

# Debts of several timelines that one worker finds when it begins; the timelines of its jobs.
sub jobs
{
	my ($name, $bug) = @_;
	my $ps = NeonPageserver->new($name, stopped => 1, conf => <<CONF);
dynamic_library_path = '$lib:\$libdir'
$f.test_wait_at = 'compaction-next'
$f.test_bug = '$bug'
$f.compaction_target_size = '64kB'
$f.compaction_workers = 1
CONF
	my $hold = $ps->node->data_dir . '/test_wait';
	append_to_file($hold, '');
	$ps->start;
	$ps->sql('CREATE EXTENSION neon_pageserver');
	my %name_of;
	for (@timelines)
	{
		my ($timeline, $files, $rows) = @$_;
		my $t = $ps->tenant;
		$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
		$name_of{ $t->{timeline} } = $timeline;
		my $node = $ps->vanilla($name . '_' . $timeline =~ s/ /_/r, $t, $t->{lsn}, 1, 'primary', conf => "autovacuum = off\n");
		$node->start;
		$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
		$node->safe_psql('postgres', 'CREATE TABLE t (v text)');
		follow($ps, $t, $node);
		for my $i (1 .. $files)
		{
			my ($end) = (split /\n/, $node->safe_psql('postgres', "INSERT INTO t SELECT md5(g::text) FROM generate_series(1, $rows) g; SELECT pg_current_wal_flush_lsn()"))[-1];
			wait_for_lsn($ps, $t, $end);
			$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");
		}
		$node->stop;
	}
	my $log = -s $ps->node->logfile;
	unlink $hold or die;
	my @jobs;
	for (1 .. 1800)
	{
		my $text = slurp_file($ps->node->logfile, $log);
		@jobs = map { $name_of{$_} // () } $text =~ /(?:pull|fold|rebase) of partition .*? of timeline "(\w+)"/g;
		my %n;
		$n{$_}++ for @jobs;
		last if (grep { $n{$_->[0]} } @timelines) == @timelines && $n{large} > 1;
		usleep(100_000);
	}
	$ps->stop;
	note("$name: " . join ', ', @jobs);
	return @jobs;
}

# Up to the second job of the one with the largest debt.
sub beginning
{
	my @jobs = @_;
	return join ', ', @jobs[ 0 .. ($#jobs < 3 ? $#jobs : 3) ];
}

my $right = 'many files, large, small, large';
is(beginning(jobs('right', '')), $right, 'the jobs are in the order of the rules');
if ($ENV{NEON_TEST_LONG})
{
	isnt(beginning(jobs($_, "compaction-$_")), $right, "without the rule of $_ they are not") for qw(class turn debt);
}
done_testing();
