# A page with a long chain of records in the open index is made ahead, so that
# its first reader has few records to wait for; and it is the same page.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use Test::More;
use Time::HiRes qw(time usleep);

my $updates = $ENV{NEON_TEST_LONG} ? 100000 : 10000;
my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "$f.image_chain = 0\n$f.compaction_threshold = 0\n");
my $t = $ps->tenant;
$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
my $node = $ps->vanilla('writer', $t, $t->{lsn}, 1, 'primary', conf => "synchronous_commit = off\nautovacuum = off\n");
$ENV{PGUSER} = 'cloud_admin';
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
follow($ps, $t, $node);
$node->safe_psql('postgres', 'CREATE TABLE hot (v int); INSERT INTO hot VALUES (0)');
$node->safe_psql('postgres', "DO 'BEGIN FOR i IN 1 .. $updates LOOP UPDATE hot SET v = v + 1; COMMIT; END LOOP; END'", timeout => 600);
my ($path, $end) = split /\|/, $node->safe_psql('postgres', "CHECKPOINT; SELECT pg_relation_filepath('hot'), pg_current_wal_flush_lsn()");
my ($db, $rel) = $path =~ m{base/(\d+)/(\d+)};
wait_for_lsn($ps, $t, $end);

sub counter { return $ps->sql("SELECT value FROM $f.stat_pageserver WHERE name = '$_[0]'") }
for (1 .. 1200)
{
	last if counter('hot_pages_waiting') == 0 && counter('pages_ahead') > 0;
	usleep(100_000);
}
my $ahead = counter('pages_ahead');
cmp_ok($ahead, '>', 0, "it was made ahead $ahead times");

sub page { return $ps->sql("SELECT md5($f.get_page($t->{args}, 1663, $db, $rel, 0, 0, '$end'))") }
my $before = counter('redo_records');
my $started = time;
my $page = page();
note(sprintf 'read in %.0f ms', 1000 * (time - $started));
my $records = counter('redo_records') - $before;
cmp_ok($records, '<', 3 * 2048, "its first reader waited for $records records");

# the whole chain, without a page cache
$node->stop;
$ps->node->append_conf('postgresql.conf', "$f.page_cache_size = 0\n");
$ps->restart;
is($ps->sql("SELECT $f.wait_lsn($t->{args}, '$end', '100 s')"), 't', 'everything is there after a restart');
$before = counter('redo_records');
$started = time;
is(page(), $page, 'the page is the same from all its records');
note(sprintf 'read in %.0f ms', 1000 * (time - $started));
$records = counter('redo_records') - $before;
cmp_ok($records, '>=', $updates, "which are $records");
is(counter('pages_ahead'), 0, 'without a page cache nothing is made ahead');
$ps->stop;
done_testing();
