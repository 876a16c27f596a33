# What a start has to decode again is bounded: by the number of changes of pages
# that are in no file, and to nothing after a clean stop; and who wants a page of
# one timeline does not wait for the others.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $f = 'neon_pageserver';
my $changes = 20000;
my $ps = NeonPageserver->new('ps', conf => "$f.checkpoint_records = $changes\n$f.flush_workers = 1\n");
$ENV{PGUSER} = 'cloud_admin';

# A timeline that a server of its own writes.
sub writer
{
	my ($name) = @_;
	my $t = $ps->tenant;
	$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
	my $node = $ps->vanilla($name, $t, $t->{lsn}, 1, 'primary', conf => "autovacuum = off\n");
	$node->start;
	$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
	follow($ps, $t, $node);
	$node->safe_psql('postgres', 'CREATE TABLE t (v int)');
	my ($path) = split /\|/, $node->safe_psql('postgres', "SELECT pg_relation_filepath('t')");
	@$t{qw(db rel)} = $path =~ m{base/(\d+)/(\d+)};
	$t->{node} = $node;
	return $t;
}

# So many rows more; its last page then is noted.
sub work
{
	my ($t, $rows) = @_;
	my ($end) = split /\|/, (split /\n/, $t->{node}->safe_psql('postgres',
		"INSERT INTO t SELECT g FROM generate_series(1, $rows) g; SELECT pg_current_wal_flush_lsn()"))[-1];
	wait_for_lsn($ps, $t, $end);
	$t->{end} = $end;
	$t->{page} = page($t);
	return;
}

sub page { my ($t) = @_; return $ps->sql("SELECT md5($f.get_page($t->{args}, 1663, $t->{db}, $t->{rel}, 0, 0, '$t->{end}'))") }

sub info { my ($t, $what) = @_; return $ps->sql("SELECT $what FROM $f.timelines WHERE timeline_id = '$t->{timeline}'") }

my $t = writer('one');
my $other = writer('two');

# Who writes the next file behind this place in the log, and how many images it has.
sub next_file
{
	my ($from) = @_;
	my @files;
	for (1 .. 1200)
	{
		@files = slurp_file($ps->node->logfile, $from) =~ /\[(\d+)\] LOG:  layer of timeline "$t->{timeline}" .* written: .* (\d+) images/;
		last if @files;
		usleep(100_000);
	}
	return @files;
}

# ---- by number of changes: this is far from checkpoint_distance ----
my $log = 0;
work($t, $changes + 1000);
next_file($log);
is(info($t, "disk_consistent_lsn > '$t->{lsn}'"), 't', 'many small records become a file');

# ---- images wait when much comes in ----
$log = -s $ps->node->logfile;
work($t, $changes + 1000);	# no more than one file
my ($pid, $images) = next_file($log);
cmp_ok($images, '>', 0, 'pages with many records get an image when a file is written');
kill 'STOP', $pid;
$log = -s $ps->node->logfile;
work($t, $changes + 1000);
work($t, $changes / 2 + 2000);
kill 'CONT', $pid;
is((next_file($log))[1], 0, 'but not while the next file is about to be due');
is(page($t), $t->{page}, 'pages are what they are');

# ---- a clean stop ----
work($_, 1000) for $t, $other;
$_->{node}->stop for $t, $other;
$ps->stop;
$log = -s $ps->node->logfile;
$ps->start;
for ($t, $other)
{
	is($ps->sql("SELECT $f.wait_lsn($_->{args}, '$_->{end}', '100 s')"), 't', 'all that came before a clean stop is there');
	is(info($_, 'disk_consistent_lsn = last_record_lsn'), 't', 'in files');
	is(page($_), $_->{page}, 'as it was');
}
unlike(slurp_file($ps->node->logfile, $log), qr/indexed \d+ stored WAL records/, 'and nothing is decoded again');

# ---- a crash ----
SKIP:
{
	my $lib = $ENV{NEON_TESTING_LIBDIR} or skip 'no build with TESTING=1', 4;
	for ($t, $other)
	{
		$_->{node}->start;
		follow($ps, $_, $_->{node});
		work($_, 1000);
		$_->{node}->stop;
	}
	$ps->node->stop('immediate');
	$ps->node->append_conf('postgresql.conf', <<CONF);
dynamic_library_path = '$lib:\$libdir'
$f.test_wait_at = 'recovery-next'
$f.wait_lsn_timeout = '60 s'
CONF
	my $hold = $ps->node->data_dir . '/test_wait';
	append_to_file($hold, '');
	$ps->start;
	for ($t, $other)
	{
		is(info($_, "last_record_lsn < '$_->{end}'"), 't', 'its WAL is not decoded yet');
		my $s = $ps->stream($_);
		my $r = $s->get(lsn => $_->{end}, rel => [ 1663, $_->{db}, $_->{rel} ], fork => 0, blk => 0, n => 1);
		is($r->{tag}, 'p', 'a page is read all the same: its timeline is decoded first') or diag($r->{message});
		$s->close;
	}
	unlink $hold or die;
}
$ps->stop;
done_testing();
