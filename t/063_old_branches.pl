# Branches and static endpoints at LSNs and times whose WAL the pageserver has
# removed; the copies of their first segment, of compute and safekeepers, begin
# with valid WAL all the same.
use strict;
use warnings;
use NeonTest;
use Test::More;

plan skip_all => 'make check-long has it' if !$NeonTest::long;

my $t = NeonTest->new;
$t->init;
$t->neon('start');
$t->psql('pageserver', 'ALTER SYSTEM SET neon_pageserver.wal_keep = 0');
$t->psql('pageserver', 'SELECT pg_reload_conf()');
# of the safekeepers the first segments are looked at
$t->psql("safekeeper $_", "ALTER SYSTEM SET neon_safekeeper.retention_interval = '1h'; SELECT pg_reload_conf()") for $t->quorum ? (1 .. 3) : ();
$t->neon('tenant', 'create', '--set-default', '--wal-segsize', 1);
$t->endpoint_start('main');
$t->psql('main', 'CREATE TABLE m(i int, t text)');
my @marks;
for my $i (1 .. 4)
{
	$t->psql('main', "INSERT INTO m SELECT $i, repeat('x', 1000) FROM generate_series(1, 3000)");
	push @marks, [ split /\|/, $t->psql('main', 'SELECT pg_current_wal_insert_lsn(), clock_timestamp()') ];
}
$t->wait_ingest('main');
$t->psql('pageserver', 'SELECT neon_pageserver.timeline_checkpoint(tenant_id, timeline_id) FROM neon_pageserver.timelines');
my $segment = 1024 * 1024;
# by whoever wrote the layer, perhaps a worker a moment later
ok($t->wait_for('removal of WAL in layers', sub {
	my ($oldest) = sort map { s{.*/}{}r } glob($t->wal_dir('main') . '/0*');
	return hex(substr $oldest, 8, 8) * 2**32 + hex(substr $oldest, 16) * $segment > NeonTest::lsn_num($marks[2][0]);
}), 'WAL below the third mark is gone');

for my $k (1, 3)
{
	my ($lsn, $when) = @{ $marks[ $k - 1 ] };
	$t->neon('timeline', 'branch', '--branch-name', "l$k", '--ancestor-start-lsn', $lsn);
	$t->endpoint_start("l$k", branch => "l$k");
	is($t->psql("l$k", 'SELECT max(i), count(*) FROM m'), $k . '|' . 3000 * $k, "branch at $lsn");
	$t->endpoint_start("s$k", time => $when);
	is($t->psql("s$k", 'SELECT max(i), count(*) FROM m'), $k . '|' . 3000 * $k, "static endpoint at $when");
	$t->psql("l$k", "INSERT INTO m SELECT 99, repeat('y', 1000) FROM generate_series(1, 3000)");
	my $start = NeonTest::lsn_num($t->timeline_field("l$k", 'ancestor_lsn'));
	my $first = sprintf '00000001%08X%08X', int($start / 2**32), int($start % 2**32 / $segment);
	my $timeline = $t->timeline("l$k");
	my @copies = ($t->pgdata("l$k") . '/pg_wal', $t->wal_dir("l$k"));
	push @copies, map { $t->sk_pgdata($_) . '/neon/tenants/' . $t->tenant . "/timelines/$timeline/wal" } 1 .. 3 if $t->quorum;
	for my $dir (@copies)
	{
		ok(-e "$dir/$first", "$dir has the first segment");
		my ($rc, $out, $err) = $t->command([ 'pg_waldump', '-p', $dir, '-s', NeonTest::num_lsn($start - $start % $segment), '-n', 1000000, '-e', NeonTest::num_lsn($start + 8) ], timeout => 120);
		is($err, '', 'and it is valid from its first byte');
	}
	$t->endpoint_stop("l$k");
	$t->endpoint_start("l$k");
	is($t->psql("l$k", 'SELECT count(*) FROM m WHERE i = 99'), 3000, 'the branch goes on');
	$t->endpoint_stop($_) for "l$k", "s$k";
}
$t->neon('stop');
done_testing();
