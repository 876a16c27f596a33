# Terms, and branches of a timeline that is being written: a superseded
# compute's requests are refused, branches from now, a time and an LSN have what
# was committed then, and only that.  The computes are vanilla servers that
# booted from base backups.
use strict;
use warnings;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "neon_pageserver.wait_lsn_timeout = 2s\n");
my $t = $ps->tenant('{"segsize": 1}');
my $args = "'$t->{tenant}', '$t->{timeline}'";

sub query
{
	my ($node, $sql) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	return $node->safe_psql('postgres', $sql, timeout => 120);
}

# Boots a primary on a timeline and lets the pageserver stream from it.
sub primary
{
	my ($name, $tl, $expected, $term, $boot_id) = @_;
	my $lsn = $ps->last_lsn($tl);
	my $node = $ps->vanilla($name, $tl, $lsn, $term, 'primary');
	$ps->sql("SELECT $f.writer_acquire('$tl->{tenant}', '$tl->{timeline}', $expected, $term, '$name', '$boot_id', '$lsn', 'endpoints/$name/pgdata', 'machine')");
	local $ENV{PGUSER} = 'cloud_admin';
	$node->start;
	query($node, "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
	my $conninfo = 'host=' . $node->host . ' port=' . $node->port . ' user=cloud_admin dbname=postgres';
	$ps->sql("SELECT $f.timeline_source('$tl->{tenant}', '$tl->{timeline}', $term, ARRAY['$conninfo'])");
	for (1 .. 500)
	{
		last if query($node, 'SELECT count(*) FROM pg_stat_replication WHERE flush_lsn IS NOT NULL') eq '1';
		sleep 0.02;
	}
	return $node;
}

sub branch
{
	my ($name, $from, $rest) = @_;
	my ($id, $lsn) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$t->{tenant}', '$name', '$from'$rest)");
	return { tenant => $t->{tenant}, timeline => $id, lsn => $lsn };
}

sub rows
{
	my ($name, $tl) = @_;
	my $node = $ps->vanilla($name, $tl, $tl->{lsn}, 0, 'ephemeral');
	local $ENV{PGUSER} = 'cloud_admin';
	$node->start;
	my $result = query($node, 'SELECT count(*), max(i) FROM a');
	$node->stop;
	return $result;
}

my $one = primary('one', $t, 0, 1, '1' x 32);
query($one, 'CREATE TABLE a(i int)');

# ---- branches while it writes ----
my (@now, @time);
for my $i (1 .. 3)
{
	query($one, "INSERT INTO a VALUES ($i)");
	push @now, branch("now$i", 'main', '');
	push @time, query($one, 'SELECT clock_timestamp()');
	sleep 0.1;
}
query($one, 'BEGIN; INSERT INTO a VALUES (1000); ROLLBACK');
query($one, 'INSERT INTO a SELECT generate_series(4, 1000)');
is(rows("bnow$_", $now[ $_ - 1 ]), "$_|$_", "branch from now has row $_ and no later one") for 1, 3;
my $by_time = branch('time2', 'main', ", NULL, '$time[1]'");
is(rows('btime2', $by_time), '2|2', 'branch by time');
my $in = query($one, 'BEGIN; INSERT INTO a VALUES (2000); SELECT pg_current_wal_insert_lsn(); ROLLBACK');
query($one, 'INSERT INTO a VALUES (1001)');
is(rows('binside', branch('inside', 'main', ", '$in'")), '1000|1000', 'an LSN inside a transaction is rounded down');
my $insert = query($one, 'INSERT INTO a VALUES (1002); SELECT pg_current_wal_insert_lsn()');
my $b = branch('insert', 'main', ", '$insert'");
is(rows('binsert', $b), '1002|1002', 'the live insert LSN is waited for');
like($ps->sql_error("SELECT $f.branch_create('$t->{tenant}', 'x', 'main', 'FF/0')"), qr/in the future.*HINT/s, 'beyond it is the future');
is($ps->sql("SELECT $f.round_lsn($args, '$b->{lsn}')"), $b->{lsn}, 'a rounded LSN stays as it is');

# ---- many branches are cheap ----
my $start = time;
$ps->sql(join ';', map { "SELECT $f.branch_create('$t->{tenant}', 'many$_', 'main', '$b->{lsn}')" } 1 .. 50);
note(sprintf 'one branch: %.1f ms', (time - $start) * 1000 / 50);
ok(time - $start < 10, '50 branches in time');
is($ps->sql("SELECT max(physical_size) < 65536 FROM $f.timelines WHERE name LIKE 'many%'"), 't', 'of kilobytes');
my $deep = $b;
$deep = branch("deep$_", $_ == 1 ? 'insert' : 'deep' . ($_ - 1), '') for 1 .. 4;
is(rows('bdeep', $deep), '1002|1002', 'a branch of a branch of a branch');

# ---- a second compute ----
my $s = $ps->stream($t);
my $last = $ps->last_lsn($t);
is($s->get(since => $last, rel => [ 1663, 5, 1259 ], term => 1)->{tag}, 'p', 'term 1 is served');
$one->stop('immediate');
like($ps->sql_error("SELECT $f.branch_create('$t->{tenant}', 'x', 'main')"), qr/endpoint "one" may have WAL.*HINT:.*neon timeline branch/s,
	'no branch from now while the writer is neither connected nor drained');
$last = $ps->last_lsn($t);
like($ps->sql_error("SELECT $f.writer_acquire($args, 1, 2, 'two', '" . '2' x 32 . "', '$last', 'p', 'm')"), qr/ERROR/,
	'a second primary is refused while the first is not drained');
$ps->sql("SELECT $f.writer_drained($args, '" . '1' x 32 . "', '$last')");
branch('drained', 'main', '');
like($ps->sql_error("CALL $f.basebackup($args, '$last', 1, 'primary')"), qr/term 1 is not above the last one, 1/, 'no term runs twice');
my $two = primary('two', $t, 1, 2, '2' x 32);
is(query($two, 'SELECT count(*), max(i) FROM a'), '1002|1002', 'the second compute has all rows');
query($two, 'INSERT INTO a VALUES (1003)');
my $end = query($two, 'SELECT pg_current_wal_flush_lsn()');
$ps->sql("SELECT $f.wait_lsn($args, '$end', '60 s')");
my $r = $s->get(since => $last, rel => [ 1663, 5, 1259 ], term => 1);
is("$r->{tag} $r->{class} $r->{sqlstate} $r->{message}", 'e S NS001 superseded by term 2', 'term 1 is superseded');
is($s->get(since => $last, rel => [ 1663, 5, 1259 ], term => 2)->{tag}, 'p', 'term 2 is served');
is($s->get(lsn => $last, rel => [ 1663, 5, 1259 ], term => 0)->{tag}, 'p', 'as are static endpoints');
is($ps->sql("SELECT term, writer_endpoint, source_connected FROM $f.timelines WHERE name = 'main'"), '2|two|t', 'view timelines');
like($ps->sql_error("SELECT $f.timeline_delete($args)"), qr/endpoint "two" is writing.*HINT/s, 'a timeline that is written is not deleted');

# ---- a branch's terms go on above its ancestor's ----
my $child = branch('child', 'main', '');
is($ps->sql("SELECT term FROM $f.timelines WHERE name = 'child'"), 2, 'a branch knows the term of its ancestor');
like($ps->sql_error("CALL $f.basebackup('$t->{tenant}', '$child->{timeline}', '$child->{lsn}', 2, 'primary')"),
	qr/term 2 is not above/, 'and does not run it again');
my $three = primary('three', $child, 0, 3, '3' x 32);
query($three, 'INSERT INTO a VALUES (-1)');
query($two, 'INSERT INTO a VALUES (-2)');
is(query($three, 'SELECT count(*), min(i) FROM a'), '1004|-1', 'the branch has its own rows');
is(query($two, 'SELECT count(*), min(i) FROM a'), '1004|-2', 'and its ancestor other ones');
my $lsn3 = query($three, 'SELECT pg_current_wal_flush_lsn()');
$ps->sql("SELECT $f.wait_lsn('$t->{tenant}', '$child->{timeline}', '$lsn3', '60 s')");
$child->{lsn} = $ps->last_lsn($child);
is(rows('child', $child), '1004|1003', 'read back from the pageserver');

$_->stop('immediate') for $two, $three;
$ps->stop;
done_testing();
