# Many names: branches of one tenant, relations, and blocks without contents.  Listing, branching and a
# restart must not need work for each of them; idle branches have no process.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'only in make check-long' unless $NeonTest::long;

my ($branches, $relations) = (1000, 10000);
my $f = 'neon_pageserver';
my $t = NeonTest->new(safekeepers => 0);
$t->init;
$t->neon('start');
$t->neon('tenant', 'create', '--set-default');
$t->endpoint_start('main');
my $tenant = $t->tenant;

sub ps { return $t->psql('pageserver', $_[0]) }

# Every statement in a connection of its own, or in one: as milliseconds, sorted.
sub timed { my ($code) = @_; my $from = time; my $x = $code->(); return ($x, int(1000 * (time - $from))) }
sub times_of { return sort { $a <=> $b } $_[0] =~ /^Time: ([0-9.]+) ms/mg }
# A few of them come and go: autovacuum, WAL redo.
sub children { return $t->children_of($t->postmaster_pid('pageserver'), qr/./) }
sub pss
{
	my $sum = 0;
	for my $pid ($t->postmaster_pid('pageserver'), children())
	{
		$sum += $1 if NeonTest::Vanilla::slurp("/proc/$pid/smaps_rollup") =~ /^Pss: +(\d+) kB/m;
	}
	return $sum;
}

$t->psql('main', <<SQL);
SET client_min_messages = warning;
DO \$\$ BEGIN FOR i IN 1 .. $relations LOOP
	EXECUTE 'CREATE TABLE r' || i || '(a int)';
	IF i % 100 = 0 THEN COMMIT; END IF;
END LOOP; END \$\$;
CREATE TABLE marks AS SELECT 42 AS a;
SQL
my $lsn = $t->wait_ingest('main');
$t->endpoint_stop('main');
my $at = ps("SELECT $f.round_lsn('$tenant', '" . $t->timeline('main') . "', '$lsn')");

# ---- branch creation: all from main, the last one of a chain of three
my $before = children();
my $pss = pss();
my $out = ps("\\timing on\nSELECT format('SELECT lsn FROM $f.branch_create(%L, %L, %L, %L)', '$tenant', 'b' || i, 'main', '$at'::pg_lsn) FROM generate_series(1, $branches - 2) i \\gexec\n");
my @ms = times_of($out);
shift @ms while @ms > $branches - 2;
note(sprintf '%d branches: p50 %.1f ms, p99 %.1f ms', scalar(@ms), $ms[ @ms / 2 ], $ms[ @ms * 0.99 ]);
ps("SELECT $f.branch_create('$tenant', 'c1', 'b1')");
ps("SELECT $f.branch_create('$tenant', 'c2', 'c1')");
is(ps("SELECT count(*), count(DISTINCT name) FROM $f.timelines WHERE tenant_id = '$tenant'"),
	($branches + 1) . '|' . ($branches + 1), 'all are there');
is(ps("SELECT count(*) FROM $f.history_points WHERE kind = 'branch'"), $branches, 'each is a point of its parent');
cmp_ok(scalar(children()), '<', $before + 10, 'and has no process');
note(sprintf 'Pss of the pageserver: %d kB before, %d kB after', $pss, pss());
note('a slot has ' . ps("SELECT allocated_size / current_setting('neon_pageserver.max_timelines')::int FROM pg_shmem_allocations WHERE name = 'neon timelines'") . ' bytes');

# ---- listing
my ($list, $ms) = timed(sub { $t->neon('timeline', 'list') });
is(() = $list =~ /\[[0-9a-f]{32}\]/g, $branches + 1, "neon timeline list shows them");
note("neon timeline list: $ms ms");
(undef, $ms) = timed(sub { ps("SELECT count(*) FROM $f.timelines") });
note("a new connection and the view timelines: $ms ms");
@ms = times_of(ps("\\timing on\nSELECT count(*) FROM $f.timelines;\nSELECT count(*) FROM $f.timelines;\nSELECT count(*) FROM $f.branches('$tenant');\n"));
note("in one connection, sorted: @ms ms");

# ---- restart
$t->neon('pageserver', 'stop');
(undef, $ms) = timed(sub { $t->neon('pageserver', 'start') });
is(ps("SELECT count(*) FROM $f.timelines WHERE state = 'active'"), $branches + 1, 'all are opened at a start');
my ($opened) = $t->neon('pageserver', 'logs') =~ /.*(opened \d+ timelines in \d+ ms)/s;
note("neon pageserver start: $ms ms, " . ($opened || ''));
cmp_ok(scalar(children()), '<', $before + 10, 'and none has a process');

# ---- an endpoint on the end of the chain
(undef, $ms) = timed(sub { $t->endpoint_start('c2', branch => 'c2') });
note("endpoint start with $relations relations: $ms ms");
is($t->psql('c2', "SELECT count(*), (SELECT a FROM marks) FROM pg_class WHERE relname ~ '^r[0-9]+\$'"), "$relations|42", 'its relations are those of main');
$t->endpoint_stop('c2');

# ---- a relation of 50 GB, nearly all of it a hole
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(extra => ['--no-sync']);
$source->start;
$source->safe_psql('postgres', 'CREATE TABLE sparse(i int); INSERT INTO sparse VALUES (1); CHECKPOINT');
my $file = $source->data_dir . '/' . $source->safe_psql('postgres', "SELECT pg_relation_filepath('sparse')");
$source->stop('fast');
for my $segment ($file, map { "$file.$_" } 1 .. 49)
{
	open my $f, '>>', $segment or die "$segment: $!";
	truncate $f, 1 << 30 or die "$segment: $!";
	close $f;
}
(undef, $ms) = timed(sub { $t->neon('tenant', 'create', '--set-default', '--pgdata', $source->data_dir) });
note("import of a sparse relation of 50 GB: $ms ms");
(undef, $ms) = timed(sub { $t->endpoint_start('sparse') });
note("endpoint start: $ms ms");
is($t->psql('sparse', "SELECT i, pg_relation_size('sparse') FROM sparse WHERE ctid = '(0,1)'"), '1|' . (50 << 30), 'its only row is there');
is($t->psql('sparse', "SELECT count(*) FROM sparse TABLESAMPLE system (0.0005)") <= 1, 1, 'and blocks without rows');
$t->endpoint_stop('sparse');
(undef, $ms) = timed(sub { $t->neon('timeline', 'branch', '--branch-name', 'b') });
note("neon timeline branch: $ms ms");
$t->neon('stop');
done_testing();
