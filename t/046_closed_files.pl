# Files that compaction and flushes removed do not keep their space because some
# process that has nothing to do has them open.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "$f.pitr_interval = 0\n$f.gc_horizon = 1TB\n$f.wal_keep = 0\n");
my $t = $ps->tenant;
my $node = start_writer($ps, $t);

# Removed files below neon/ that processes have open.
sub held
{
	my $pgdata = $ps->node->data_dir;
	my %held;
	for my $dir (grep { (readlink("$_/cwd") // '') eq $pgdata } glob '/proc/[0-9]*')
	{
		my ($title) = split /\0/, eval { slurp_file("$dir/cmdline") } // '';
		for my $fd (glob "$dir/fd/*")
		{
			my $file = readlink($fd) // next;
			$held{"$title: $1"} = 1 if $file =~ m{/neon/tenants/.*/((?:layers|wal)/.*) \(deleted\)$};
		}
	}
	return sort keys %held;
}

my $end = write_layers($ps, $t, $node, 'CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i');
my ($db, $rel) = $node->safe_psql('postgres', "SELECT pg_relation_filepath('t')") =~ m{base/(\d+)/(\d+)};
my @streams = map { $ps->stream($t) } 1 .. 2;
sub page { return $_[0]->get(lsn => $end, rel => [ 1663, $db, $rel ], fork => 0, blk => 7, n => 1) }
my @before = map { page($_)->{tag} } @streams;
is("@before", 'p p', 'two streams read a page');

# All that they have read is replaced and removed, again and again.
for (1 .. 4)
{
	$end = write_layers($ps, $t, $node, 'UPDATE t SET i = i + 1; SELECT pg_switch_wal()');
	page($streams[0]);
	$ps->sql("SELECT $f.timeline_compact($t->{args})");
}
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '0', 0)");
$ps->sql("SELECT $f.timeline_gc($t->{args})");
my @held = held();
note("held at once: $_") for @held;
cmp_ok(scalar(@held), '>', 0, 'files are removed that were open');
for (1 .. 600)
{
	@held = held();
	last if !@held;
	usleep(100_000);
}
is_deeply(\@held, [], 'they are closed though nobody asks for anything');
$end = $ps->last_lsn($t);
is(page($_)->{tag}, 'p', 'and the stream goes on') for @streams;
$_->close for @streams;
$node->stop;
$ps->stop;
done_testing();
