# A stock standby replays the WAL of a rich workload step by step.  Wherever it
# is paused, random pages of all its relations are the pageserver's at that LSN,
# in what redo has to restore, while files are written, compacted, history is
# removed and branches come and go.  At the end the same pages again, at the
# same LSNs, which are leased, when the rest of the past is gone.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use NeonTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RichWorkload;
use Test::More;
use Time::HiRes qw(sleep);

my $points = $NeonTest::long ? 50 : 4;
my $sample = $NeonTest::long ? 3000 : 1000;

# A node of PostgreSQL::Test::Cluster as NeonTest's functions see endpoints.
package NodeTarget
{
	our @ISA = ('NeonTest');
	sub new { my ($class, $node) = @_; return bless { node => $node, tmp => PostgreSQL::Test::Utils::tempdir(), within => [] }, $class }
	sub env { return () }
	sub connstr { my ($self, $ep, $db) = @_; return IngestVanilla::conninfo($self->{node}) =~ s/dbname=\K.*/$db || 'postgres'/er }
}

my $ps = NeonPageserver->new('pageserver', conf => <<'CONF');
neon_pageserver.checkpoint_distance = 1MB
neon_pageserver.image_chain = 10
neon_pageserver.compaction_threshold = 2
neon_pageserver.compaction_target_size = 512kB
neon_pageserver.wal_keep = 0
neon_pageserver.pitr_interval = 0
neon_pageserver.gc_horizon = 12MB
CONF
$ps->sql("CREATE EXTENSION $_") for qw(neon_pageserver_test neon_test_utils);
my $node = new_vanilla('primary', <<'CONF');
full_page_writes = off
fsync = off
wal_keep_size = 8GB
shared_buffers = 64MB
max_locks_per_transaction = 256
autovacuum_naptime = 2s
CONF
$ENV{PGUSER} = 'cloud_admin';
$node->start;
$node->stop;
my $standby = PostgreSQL::Test::Cluster->new('standby');
mkdir $standby->basedir;
system_or_bail('cp', '-a', $node->data_dir, $standby->data_dir);
my $t = import_vanilla($ps, $node, 'main');
append_to_file($standby->data_dir . '/postgresql.conf', <<"CONF");
port = @{[ $standby->port ]}
unix_socket_directories = '@{[ $standby->host ]}'
primary_conninfo = '@{[ IngestVanilla::conninfo($node) ]} application_name=standby'
max_standby_streaming_delay = -1
CONF
append_to_file($standby->data_dir . '/standby.signal', '');
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
follow($ps, $t, $node);
$standby->start;
my $target = NodeTarget->new($node);
RichWorkload::setup($target, 'primary', 1);
for my $db (qw(postgres two))
{
	$node->safe_psql($db, "CREATE EXTENSION $_") for qw(pageinspect neon_test_utils);
}

# ---- the standby, from pause to pause ----

sub replayed { return $standby->safe_psql('postgres', 'SELECT pg_last_wal_replay_lsn()') }

# Lets it replay more than so many bytes; the LSN at which it stands then.
sub next_pause
{
	my ($from, $bytes) = @_;
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	$standby->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() > '$from'::pg_lsn + $bytes") or die 'no replay';
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	$standby->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'") or die 'no pause';
	return replayed();
}

# Random pages of a database: where each is, whose it is, and its sum.  What a
# transaction that is not over has locked cannot be opened; maps without a bit
# need no WAL.
sub pages_of
{
	my ($db, $n) = @_;
	return map { [ split /\|/ ] } split /\n/, $standby->safe_psql($db, <<"SQL", timeout => 300);
WITH rels AS MATERIALIZED (
	SELECT c.oid, CASE WHEN relisshared THEN 1664 ELSE coalesce(nullif(reltablespace, 0), dattablespace) END AS spc,
		CASE WHEN relisshared THEN 0 ELSE d.oid END AS db,
		CASE WHEN relkind = 'S' THEN 'sequence' WHEN amname IS NULL THEN 'heap' ELSE amname END AS am
	FROM pg_class c JOIN pg_database d ON datname = current_database() LEFT JOIN pg_am a ON a.oid = relam
	WHERE relkind IN ('r', 't', 'm', 'i', 'S') AND relpersistence = 'p'
		AND c.oid NOT IN (SELECT relation FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL)),
blocks AS MATERIALIZED (
	SELECT oid, spc, db, CASE WHEN f = 'vm' THEN f ELSE am END AS am, f, b
	FROM rels, unnest(ARRAY['main', 'vm']) f, generate_series(0, pg_relation_size(oid, f) / 8192 - 1) b
	ORDER BY random() LIMIT $n),
pages AS (SELECT *, neon_test_utils.masked_page(get_raw_page(oid::regclass::text, f, b::int), am, b) AS page FROM blocks)
SELECT spc, db, pg_relation_filenode(oid), CASE f WHEN 'vm' THEN 2 ELSE 0 END, b, am,
	md5(CASE f WHEN 'vm' THEN substr(page, 25) ELSE page END)
FROM pages WHERE f = 'main' OR substr(page, 25) <> decode(repeat('00', 8168), 'hex')
SQL
}

# ---- the pageserver's pages ----

sub values_of { return join ",\n", map { my @p = @$_; "(" . join(',', @p[ 0 .. 4 ]) . ", '$p[5]', '$p[6]')" } @_ }

my $sum = "md5(CASE fork WHEN 2 THEN substr(page, 25) ELSE page END)";

sub page_sql
{
	my ($args, $lsn) = @_;
	return "neon_test_utils.masked_page(neon_pageserver.get_page($args, spc, db, rel, fork, blk, '$lsn'), am, blk)";
}

sub differing
{
	my ($args, $lsn, @pages) = @_;
	return $ps->sql(<<"SQL");
SELECT string_agg(format('%s of %s/%s/%s fork %s block %s', am, spc, db, rel, fork, blk), ', ')
FROM (VALUES @{[ values_of(@pages) ]}) v(spc, db, rel, fork, blk, am, sum), LATERAL (SELECT @{[ page_sql($args, $lsn) ]} AS page) p
WHERE $sum <> sum
SQL
}

# ---- from point to point ----

# what commits is replayed: the standby is never far behind
$node->append_conf('postgresql.conf', "synchronous_commit = remote_apply\nsynchronous_standby_names = 'standby'\n");
$node->reload;
my $load = RichWorkload::start($target, 'primary');
my $gc = NodeTarget->new($ps->node)->loop('pageserver', "SELECT neon_pageserver.timeline_gc($t->{args});\nSELECT pg_sleep(0.3);\n");
my ($lsn, $tries, $compared) = ($node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()'), 0, 0);
my (@points, %branches);
while (@points < $points)
{
	die 'the standby is always behind the horizon' if ++$tries > 10 * $points;
	$lsn = next_pause($lsn, 2**20 + int(rand(2**21)));
	wait_for_lsn($ps, $t, $lsn);
	my $late = $ps->sql_error("SELECT neon_pageserver.lease_lsn($t->{args}, '$lsn')");
	like($late, qr/oldest/, "too late for $lsn") if $late ne '';
	next if $late ne '';
	my @pages = map { pages_of($_, $sample / 2) } qw(postgres two);
	my $n = @points;
	my $args = $t->{args};
	if ($n % 3 == 0)
	{
		my ($id, $at) = split /\|/, $ps->sql("SELECT * FROM neon_pageserver.branch_create('$t->{tenant}', 'b$n', 'main', '$lsn')");
		$branches{$id} = { lsn => $at, pages => [ @pages[ 0 .. 99 ] ] };
	}
	is(differing($t->{args}, $lsn, @pages), '', "point $n, $lsn: " . @pages . ' pages');
	$compared += @pages;
	push @points, { lsn => $lsn, pages => [ @pages[ grep { $_ % 10 == 0 } 0 .. $#pages ] ] };
	if (keys %branches > 5)
	{
		my ($gone) = sort keys %branches;
		delete $branches{$gone};
		$ps->sql("SELECT neon_pageserver.timeline_delete('$t->{tenant}', '$gone')");
	}
}
$gc->stop;
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$load->stop;
$standby->stop;
note("$compared pages compared, $tries pauses");
cmp_ok($compared, '>', $points * $sample / 2, 'thousands of pages');

# ---- the past without the rest ----

$ps->sql("SELECT neon_pageserver.tenant_configure('$t->{tenant}', '0', 0)");
{
	local $NeonPageserver::timeout = 600;
	$ps->sql("SELECT neon_pageserver.timeline_gc($t->{args})");
}
for my $n (0 .. $#points)
{
	is(differing($t->{args}, $points[$n]{lsn}, @{ $points[$n]{pages} }), '', "point $n again, the rest of the past is gone");
}

# a branch begins before the point that was asked for: a few of the pages are later
$ps->sql(<<'SQL');
CREATE FUNCTION page_at(timeline text, spc oid, db oid, rel oid, fork int, blk bigint, am text, lsn pg_lsn, tenant text)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN md5(neon_test_utils.masked_page(neon_pageserver.get_page(tenant, timeline, spc, db, rel, fork, blk, lsn), am, blk));
EXCEPTION WHEN undefined_file OR invalid_parameter_value THEN
	RETURN NULL;
END $$
SQL
for my $id (sort keys %branches)
{
	my ($at, @pages) = ($branches{$id}{lsn}, @{ $branches{$id}{pages} });
	my ($main) = $t->{args} =~ /, '(\w+)'/;
	my ($there, @different) = split /\|/, $ps->sql(<<"SQL");
SELECT count(of_main), string_agg(format('%s of %s/%s/%s fork %s block %s', am, spc, db, rel, fork, blk), ', ') FILTER (WHERE of_main IS DISTINCT FROM of_branch)
FROM (VALUES @{[ values_of(@pages) ]}) v(spc, db, rel, fork, blk, am, sum),
	LATERAL page_at('$main', spc, db, rel, fork, blk, am, '$at', '$t->{tenant}') of_main,
	LATERAL page_at('$id', spc, db, rel, fork, blk, am, '$at', '$t->{tenant}') of_branch
SQL
	cmp_ok($there, '>', @pages / 2, "most of the pages were there at $at");
	is_deeply(\@different, [], 'and the branch has the same');
}
is($ps->sql("SELECT count(*) FROM neon_pageserver.timeline_verify($t->{args})"), 0, 'timeline_verify finds nothing');
my $log = slurp_file($ps->node->logfile);
like($log, qr/$_ of partition/, "there was a $_") for qw(pull rebase);
unlike($log, qr/PANIC|TRAP|is corrupted|no image of block/, 'nothing is wrong in the log');
$ps->stop;
done_testing();
