# A table of more than a gigabyte, so of several segment files: cold, written at
# the border of its segments, cut off below the border, grown over it again,
# dropped from local disk.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $segment = 131072;	# blocks
my $end = $segment + 6000;
my $t = NeonTest->new(safekeepers => 1);	# no fsync of the gigabyte
$t->quickstart(tenant => ['--data-checksums'], no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.prewarm_rate=0', 'neon.keep_local=off', 'autovacuum=off', 'max_wal_size=4GB', 'shared_buffers=64MB');
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon');

# one row a block, at its block number
my $row = q{format('row %s ', b) || repeat('x', 700)};
$t->psql('main', <<"SQL", timeout => 600);
CREATE TABLE big(b int, v text) WITH (fillfactor = 10);
ALTER TABLE big ALTER v SET STORAGE PLAIN;
INSERT INTO big SELECT b, $row FROM generate_series(0, $end - 1) b;
VACUUM (FREEZE) big;
SQL
my $size = $t->psql('main', q{SELECT pg_relation_size('big') / 8192});
is($size, $end, 'one row a block');

# Those of [first, last] that are right, in their blocks.
sub rows
{
	my ($first, $last) = @_;
	my $after = $last + 1;
	return $t->psql('main', "SELECT count(*), sum(b) FROM big WHERE ctid >= '($first,0)' AND ctid < '($after,0)' AND v = $row AND ctid = format('(%s,1)', b)::tid");
}
sub right { my ($first, $last) = @_; my $n = $last - $first + 1; return "$n|" . $n * ($first + $last) / 2 }

sub border
{
	my ($what) = @_;
	is(rows(@$_), right(@$_), "$what: blocks $_->[0] to $_->[1]") for [ 0, 2 ], [ $segment - 300, $segment + 300 ], [ $size - 300, $size - 1 ];
	return;
}

sub files
{
	my $path = $t->pgdata('main') . '/' . $t->psql('main', q{SELECT pg_relation_filepath('big')});
	return join ' ', map { -e "$path$_" ? (-s "$path$_") / 8192 : 'none' } '', '.1', '.2';
}
my $files = "$segment " . ($end - $segment) . ' none';
is(files(), $files, 'two files');
border('warm');

# nothing of it is here
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', q{SELECT pg_relation_size('big') / 8192}), $end, 'its size');
is(files(), $files, 'two files after a boot');
border('cold');
cmp_ok($t->psql('main', 'SELECT fetched_pages FROM neon.stat_local'), '<', 8000, 'few pages were fetched');
$t->psql('main', "UPDATE big SET v = upper(v) WHERE ctid >= '(" . ($segment - 10) . ",0)' AND ctid < '(" . ($segment + 10) . ",0)'");
my $updated = $t->psql('main', q{SELECT count(*), sum(b) FROM big WHERE ctid >= '(131000,0)' AND v LIKE 'ROW%'});
is($updated, '20|' . 20 * ($segment - 0.5), 'rows at the border are updated');
$t->kill9('main');
$t->endpoint_start('main');
is($t->psql('main', q{SELECT count(*), sum(b) FROM big WHERE ctid >= '(131000,0)' AND v LIKE 'ROW%'}), $updated, 'after kill -9, too');

# cut below the border, while nothing of what is cut is here, and grown again
my $cut = $segment - 500;
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', "DELETE FROM big WHERE ctid >= '($cut,0)'; VACUUM (TRUNCATE) big");
is($t->psql('main', q{SELECT pg_relation_size('big') / 8192}), $cut, 'truncated below the border');
is(files(), "$cut 0 none", 'the second file is empty');
$t->psql('main', "INSERT INTO big SELECT b, $row FROM generate_series($cut, $segment + 1999) b");
$size = $segment + 2000;
border('grown again');
is(files(), "$segment 2000 none", 'over the border');
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=on');
$t->neon('endpoint', 'restart', 'main');
border('grown again, after a boot');
is(files(), "$segment 2000 none", 'two files');

# what is here of both files is kept, and what another compute writes in them is not
sub here { return $t->psql('main', q{SELECT present_bytes FROM neon.local_relations WHERE relation = 'big'::regclass}) }
my $here = here();
$t->neon('endpoint', 'restart', 'main');
is(here(), $here, 'kept over a stop');
border('kept');
is(here(), $here, 'and nothing more was fetched');
$t->endpoint_stop('main');
$t->endpoint_start('main2', branch => 'main');
$t->psql('main2', "UPDATE big SET v = upper(v) WHERE ctid >= '(" . ($segment - 10) . ",0)' AND ctid < '(" . ($segment + 10) . ",0)'");
$t->endpoint_stop('main2');
$t->endpoint_start('main');
cmp_ok(here(), '<', $here, 'pages that another compute wrote are not');
is($t->psql('main', q{SELECT count(*), sum(b) FROM big WHERE ctid >= '(131000,0)' AND v LIKE 'ROW%'}), '20|' . 20 * ($segment - 0.5), 'but read as it wrote them');
$t->psql('main', "DELETE FROM big WHERE ctid >= '($cut,0)'; VACUUM (TRUNCATE) big");
$t->psql('main', "INSERT INTO big SELECT b, $row FROM generate_series($cut, $segment + 1999) b");
border('both cut off and grown again');
is(files(), "$segment 2000 none", 'two files');

# with a limit of disk space
$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=40MB', 'shared_buffers=2MB');
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', "INSERT INTO big SELECT b, $row FROM generate_series($size, $size + 999) b");
$size += 1000;
for (1 .. 2)
{
	is(rows($segment - 2500, $size - 1), right($segment - 2500, $size - 1), 'more than the limit, read over the border');
	is(rows(0, 3000), right(0, 3000), 'and elsewhere');
}
cmp_ok($t->psql('main', 'SELECT evicted_bytes >> 20 FROM neon.local_disk'), '>', 60, 'chunks are dropped');
my ($rc, $out) = $t->command([ 'du', '-skc', map { $t->pgdata('main') . "/$_" } qw(base global pg_tblspc) ]);
cmp_ok($out =~ /^(\d+)\s+total/m ? $1 : 'inf', '<=', 40960, 'and the space is kept');
$t->psql('main', "DELETE FROM big WHERE ctid >= '($cut,0)'; VACUUM (TRUNCATE) big", timeout => 600);
$t->psql('main', "INSERT INTO big SELECT b, $row FROM generate_series($cut, $segment + 1999) b");
$size = $segment + 2000;
is(rows($segment - 2500, $size - 1), right($segment - 2500, $size - 1), 'cut off and grown again');
is(rows(0, 3000), right(0, 3000), 'something else');
border('once more');
if ($NeonTest::long)
{
	is(rows(0, $size - 1), right(0, $size - 1), 'all of it');
	$t->amcheck('main');
	$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=0');
	$t->neon('endpoint', 'restart', 'main');
	$t->psql('main', 'SELECT neon.hydrate()', timeout => 600);
	my $err;
	($rc, $out, $err) = $t->command([ 'pg_basebackup', '-w', '-d', $t->connstr('main'), '--checkpoint=fast', '--no-sync', '-D', $t->tmp . '/copy' ], timeout => 600);
	is($rc, 0, 'pg_basebackup') or diag($err);
	($rc, $out, $err) = $t->command([ 'pg_verifybackup', $t->tmp . '/copy' ], timeout => 600);
	is($rc, 0, 'pg_verifybackup') or diag($err);
}
$t->neon('stop');
done_testing();
