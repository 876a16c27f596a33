# Of several partitions that are due to be rewritten, the one where most goes
# comes first: else one that is always due again would let the others grow.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => <<"CONF");
$f.pitr_interval = 0
$f.gc_horizon = 1TB
$f.compaction_target_size = 1MB
$f.compaction_workers = 0
CONF
my $t = $ps->tenant;
my $node = start_writer($ps, $t);

# Keys go by relation: the first table is in the first of these partitions.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE first (i int, t text);
CREATE TABLE last (i int, t text);
INSERT INTO first SELECT i, string_agg(md5(random()::text), '') FROM generate_series(1, 4000) i, generate_series(1, 30) GROUP BY i;
INSERT INTO last SELECT i, t FROM first;
SQL
write_layers($ps, $t, $node);
$ps->sql("SELECT $f.timeline_compact($t->{args})");

# Both get updates, the last one more; all of it is in partitions, and kept.
$node->safe_psql('postgres', 'UPDATE first SET t = reverse(t)');
$node->safe_psql('postgres', 'UPDATE last SET t = reverse(t); VACUUM last') for 1 .. 4;
$node->safe_psql('postgres', 'CHECKPOINT');
my $end = write_layers($ps, $t, $node);
$ps->sql("SELECT $f.timeline_compact($t->{args})");

# Nothing of the past is kept any more.
my $from = -s $ps->node->logfile;
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '0', 0)");
$ps->sql("SELECT $f.timeline_gc($t->{args})");
my @rebased = substr(slurp_file($ps->node->logfile), $from) =~ /rebase of partition (\d+) of/g;
note("rebased: @rebased");
my ($lowest) = sort { $a <=> $b } @rebased;
cmp_ok(scalar(@rebased), '>', 3, 'several partitions were due');
cmp_ok($rebased[0], '>', $lowest, 'the first of them by key was not the first to be rewritten');

# Where so many wide files wait for pulls that these come first, a rewrite is not
# put off that makes a whole file's size go.
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '0', 1::bigint << 40)");
$node->safe_psql('postgres', 'UPDATE first SET t = reverse(t)') for 1 .. 3;
write_layers($ps, $t, $node);
$ps->sql("SELECT $f.timeline_compact($t->{args})");
write_layers($ps, $t, $node, 'UPDATE last SET t = reverse(t); VACUUM last') for 1 .. 9;
$from = -s $ps->node->logfile;
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '0', 0)");
$ps->sql("SELECT $f.timeline_gc($t->{args})");
my @jobs = substr(slurp_file($ps->node->logfile), $from) =~ /LOG:  (pull and rebase|pull|rebase) of partition/g;
note("jobs: @jobs");
my ($first_rebase) = grep { $jobs[$_] =~ /rebase/ } 0 .. $#jobs;
cmp_ok($first_rebase // 1000, '<=', 1, 'it is among the first jobs');
cmp_ok(scalar(grep { $_ eq 'pull' } @jobs), '>=', 3, 'before most pulls');
cmp_ok(scalar(grep { $_ eq 'pull and rebase' } @jobs), '>=', 3, 'what is old is not pulled first where it would go again');

# Wide files go when the last partition has what it wants of them.  Where most of
# what they take is wanted by none any more, that one is not the last because it
# wants little.
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '0', 1::bigint << 40)");
write_layers($ps, $t, $node, 'UPDATE last SET t = reverse(t); VACUUM last') for 1 .. 3;
$ps->sql("SELECT $f.timeline_compact($t->{args})");
write_layers($ps, $t, $node, "UPDATE last SET t = reverse(t); VACUUM last; UPDATE first SET i = i WHERE ctid = (SELECT min(ctid) FROM first)");
write_layers($ps, $t, $node, 'UPDATE last SET t = reverse(t); VACUUM last') for 1 .. 9;
$from = -s $ps->node->logfile;
$ps->sql("SELECT $f.timeline_compact($t->{args})");
my @bytes = substr(slurp_file($ps->node->logfile), $from) =~ /LOG:  pull of partition .*: \d+ versions, (\d+) bytes/g;
note("bytes of pulls: @bytes");
ok((grep { 4 * $bytes[$_] < $bytes[ $_ + 1 ] } 0 .. $#bytes - 1) > 0, 'a small pull comes before large ones that wide files have not waited for so long');
is($ps->sql("SELECT count(*) FROM $f.timeline_verify($t->{args})"), 0, 'timeline_verify finds nothing');
$node->stop;
$ps->stop;
done_testing();
