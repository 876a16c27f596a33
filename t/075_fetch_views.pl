# What a DBA sees of fetching: how much of each relation is here, counters of
# the server and of each process, who waits for what, slow fetches in the log.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FakePageserver;
use NeonOverlay;

plan skip_all => 'needs the TESTING build' unless NeonOverlay::available();

my $ref = PostgreSQL::Test::Cluster->new('reference');
$ref->init;
$ref->append_conf('postgresql.conf', "fsync = off\nwal_level = replica\n");
$ref->start;
my @tables = map { "t$_" } 1 .. 10;
$ref->safe_psql('postgres', "CREATE TABLE $_ AS SELECT i AS id, repeat('p', 900) AS pad FROM generate_series(1, 4000) i;") for @tables;
$ref->safe_psql('postgres', q{CREATE TABLE docs (id int PRIMARY KEY, body text);
ALTER TABLE docs ALTER body SET STORAGE external;
INSERT INTO docs SELECT i, repeat('d', 4000) FROM generate_series(1, 400) i;
VACUUM (FREEZE, ANALYZE)});
$ref->stop;

my $fake = FakePageserver->new($ref->data_dir);
my $node = NeonOverlay->boot($ref, 'compute', kind => 'ephemeral', no_reference => 1, conf => <<CONF);
autovacuum = off
neon.pageserver_connstring = '@{[ $fake->connstring ]}'
neon.fetch_timeout = 20s
CONF
NeonOverlay::extension($node);

sub sql { return $node->safe_psql('postgres', @_) }
my $next = 0;
sub scan { return "SELECT count(*) FROM $tables[ $next++ ]" }

# All that the views themselves need.
sql('SELECT * FROM neon.stat_local; SELECT * FROM neon.stat_backends; SELECT * FROM neon.local_relations; SELECT * FROM pg_stat_activity');

# ------------------------------------------------------- relations --

my $percent = sub { return sql("SELECT present_percent FROM neon.local_relations WHERE relation = '$_[0]'::regclass") };

is($percent->('t1'), '0.0', 'a table that nobody has read is not here');
is(sql(q{SELECT size_bytes = sum(pg_relation_size('t1', f)) FROM neon.local_relations, unnest(ARRAY['main', 'fsm', 'vm', 'init']) f
	WHERE relation = 't1'::regclass GROUP BY size_bytes}), 't', 'its size is right');
is(sql('SELECT length(body) FROM docs WHERE id = 7'), 4000, 'one value');
my $toast = sql(q{SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'docs'});
cmp_ok($percent->($toast), '>', 0, 'some of its relation is here');
cmp_ok($percent->($toast), '<', 50, 'not much');
is(sql(scan()), 4000, 'a scan');
cmp_ok($percent->('t1'), '>', 99, 'and the table is here, but for its visibility map');
cmp_ok($percent->('pg_class'), '>', 0, 'a mapped catalog');
sql('CREATE TABLE made AS SELECT generate_series(1, 10000) i; CREATE UNLOGGED TABLE quick AS SELECT 1');
is(sql(q{SELECT string_agg(relation || ' ' || kind::text || ' ' || present_percent || ' ' || (size_bytes > 0), ', ' ORDER BY relation::text)
	FROM neon.local_relations WHERE relation::text IN ('made', 'quick')}), 'made r 100.0 true, quick r 100.0 true', 'what was made here is here');
is(sql(q{CREATE TEMP TABLE passing AS SELECT 1 AS i; SELECT count(*) FROM neon.local_relations WHERE relation = 'passing'::regclass}), '0',
	'temporary ones are left out');
{
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN; LOCK TABLE t2 IN ACCESS EXCLUSIVE MODE');
	is($percent->('t2'), '0.0', 'locked relations do not make it wait');
	$session->quit;
}

# -------------------------------------------------------- counters --

my $mine = 'FROM neon.stat_backends WHERE pid = pg_backend_pid()';
my ($old, $new) = map { [ split /\|/ ] } split /\n/, sql(
	"SELECT misses, read_ahead_hits, fetches, fetched_pages, fetched_bytes, wait_ms > 0, backend_type, file IS NULL $mine; "
	  . scan() . ';' . "SELECT misses, read_ahead_hits, fetches, fetched_pages, fetched_bytes, wait_ms > 0, backend_type, file IS NULL $mine")
  =~ s/^4000\n//mr;
my @delta = map { $new->[$_] - ($old->[$_] || 0) } 0 .. 4;
my $pages = 500;
cmp_ok($delta[3], '>=', $pages, 'a process: its fetched pages');
cmp_ok($delta[4], '>=', $delta[3] * 8192, 'and bytes');
cmp_ok($delta[2], '<', 40, 'in few fetches');
cmp_ok($delta[0], '<=', $delta[2], 'with fewer waits');
cmp_ok($delta[1], '>', 0, 'as some were on their way');
is("@$new[ 5 .. 7 ]", 't client backend t', 'the time that it waited, what it is, and that it needs nothing now');

my $total = sub { return sql("SELECT $_[0] FROM neon.stat_local") };
my $fetched = $total->('fetched_pages');
sql(scan());
cmp_ok($total->('fetched_pages') - $fetched, '>=', $pages, 'what a process counted stays when it ends');
is($total->('present_bytes > 0 AND absent_bytes > 0 AND fetches > 0 AND read_ahead_hits > 0 AND wait_ms > 0'), 't', 'the totals');
cmp_ok(sql('SELECT count(*) FROM neon.stat_backends b LEFT JOIN pg_stat_activity a USING (pid) WHERE a.pid IS NULL'), '==', 0,
	'only processes that are there');

# -------------------------------------------------------- prefetch --

sql('CREATE EXTENSION pg_prewarm');

# In a session that has needed no page yet: blocks whose answer was on its way when
# they were read.
sub prefetched
{
	my ($table) = @_;
	my $read = "SELECT count(*) FROM $table WHERE ctid = '(0,1)'; SELECT read_ahead_hits $mine";
	my $prefetch = "SELECT pg_prewarm('$table', 'prefetch', 'main', 0, 3)";
	# what the catalogs have to say is here before
	sql("EXPLAIN $prefetch; EXPLAIN $read; SELECT pg_prewarm('t1', 'prefetch', 'main', 0, 3)");
	return [ split /\n/, sql("SELECT count(*) $mine AND fetches > 0; $prefetch; $read") ];
}
{
	my ($connected, $blocks, $rows, $counters) = prefetched('t9')->@*;
	is($connected, '0', 'a session that is not connected');
	is($blocks, '4', 'prefetches blocks');
	is($counters, '1', 'and the read finds the first one on its way');
	$fake->stop;
	($connected, $blocks) = split /\n/, sql("SELECT count(*) $mine AND fetches > 0; SELECT pg_prewarm('t10', 'prefetch')");
	cmp_ok($blocks, '>', 100, 'while the pageserver is away this is no error');
	$fake->start;
}

# ------------------------------------------------- waits and errors --

my ($out, $err);

sub start_scan
{
	($out, $err) = ('', '');
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', scan() ], '>', \$out, '2>', \$err, IPC::Run::timeout(60));
}
my $waits = sub {
	my ($event) = @_;
	my $file = sql("SELECT pg_relation_filepath('$tables[ $next - 1 ]')");
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM neon.stat_backends b JOIN pg_stat_activity a USING (pid)"
		  . " WHERE b.wait_event = '$event' AND b.file = '$file' AND b.block = 0 AND b.waiting_ms > 0"
		  . " AND (a.wait_event_type, a.wait_event) = ('Extension', 'Extension')");
};
{
	my $retries = $total->('retries');
	$fake->mode('hang');
	my $query = start_scan();
	ok($waits->('NeonFetch'), 'who waits for an answer, with file and block');
	$fake->mode('ok');
	$query->finish;
	is($out, "4000\n", 'and then it has it');

	$fake->stop;
	$query = start_scan();
	ok($waits->('NeonRetry'), 'who waits because the pageserver is away');
	$fake->start;
	$query->finish;
	is($out, "4000\n", 'and then it has it');
	cmp_ok($total->('retries'), '>', $retries, 'failed attempts are counted');

	my $failures = $total->('failures');
	$fake->mode('hang');
	my ($rc, $stdout, $stderr) = $node->psql('postgres', "SET neon.fetch_timeout = '300ms';" . scan());
	like($stderr, qr/could not fetch block \d+ of relation/, 'an error');
	$fake->mode('ok');
	is($total->('failures') - $failures, 1, 'is counted');
	is(sql('SELECT count(*) FROM neon.stat_backends WHERE file IS NOT NULL OR wait_event IS NOT NULL'), '0', 'nobody needs a block any more');
}

# ----------------------------------------------------- slow fetches --

my $log = -s $node->logfile;
$fake->mode('delay 30');
sql('SET neon.log_slow_fetch = 15000;' . scan());
unlike(slurp_file($node->logfile, $log), qr/slow fetch/, 'fetches that are not slow are not logged');
sql("SET neon.log_slow_fetch = '10ms'; SELECT count(*) FROM docs WHERE md5(body) <> ''");
$fake->mode('ok');
like(
	slurp_file($node->logfile, $log),
	qr{LOG:  slow fetch of block \d+ of relation base/\d+/\d+: \d+\.\d+ ms\n.*DETAIL:  Asked for LSN: [0-9A-F]+/[0-9A-F]+; tries: 1\n},
	'slow ones are, if they shall be');

# of a statement in all
$log = -s $node->logfile;
$fake->mode('delay 30');
my $set = "SET neon.log_statement_fetches = '10ms'; SET neon.log_slow_fetch = -1;";
my $plan = sql("$set SET track_io_timing = on; EXPLAIN (ANALYZE, BUFFERS) SELECT count(*) FROM t10");
cmp_ok($plan =~ /Seq Scan.*?I\/O Timings: \S+ read=(\d+)/s ? $1 : 0, '>=', 30, 'EXPLAIN has the time of fetches where track_io_timing is on');
my $line = qr/LOG:  waited for pages: (\d+)\.\d+ ms  misses: (\d+)  fetched: (\d+)  retries: 0  statement: /;
my @explain = slurp_file($node->logfile, $log) =~ /$line.*EXPLAIN \(ANALYZE/;
cmp_ok($explain[0] // 0, '>=', 30, 'what a statement waited is logged');
cmp_ok($explain[1] // 0, '>', 0, 'how often');
cmp_ok($explain[2] // 0, '>=', 500, 'for how many pages');
$log = -s $node->logfile;
sql("$set CREATE FUNCTION reads() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t9); END'; SELECT reads(); SELECT reads();");
$fake->mode('ok');
my @told = slurp_file($node->logfile, $log) =~ /${line}SELECT reads\(\)/g;
is(scalar(@told), 3, 'one line for a function with what it runs, none without waiting');
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'CREATE ROLE plain; SET ROLE plain; SET neon.log_statement_fetches = 0');
like($stderr, qr/permission denied to set parameter/, 'a user cannot set it');
($rc, $stdout, $stderr) = $node->psql('postgres', 'SET ROLE plain; SET neon.log_slow_fetch = 0');
like($stderr, qr/permission denied to set parameter "neon\.log_slow_fetch"/, 'a user cannot set it');

# ---------------------------------------------------- reset, rights --

{
	my $session = $node->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	is($total->('stats_reset IS NULL'), 't', 'never reset');
	$session->query_safe(scan());
	cmp_ok($session->query_safe("SELECT fetched_pages $mine"), '>', 0, 'a session has counters');
	is($total->('hits') > 1000, 1, 'the server too');
	sql('SELECT neon.stat_reset()');
	cmp_ok($total->('hits'), '<', 1000, 'the reset sets them to zero');
	is($total->('misses = 0 AND fetched_pages = 0 AND retries = 0 AND failures = 0'), 't', 'all of them');
	is($total->(q{stats_reset > now() - interval '1 minute'}), 't', 'and says when');
	is($total->('present_bytes > 0'), 't', 'what is here is still here');
	is(sql("SELECT fetched_pages FROM neon.stat_backends WHERE pid = $pid"), 0, "the session's, too");
	# two, as the place of the one that ends last is taken by who looks
	my $second = $node->background_psql('postgres');
	my $pids = "$pid, " . $second->query_safe('SELECT pg_backend_pid()');
	$second->query_safe('SELECT count(*) FROM pg_class');
	is(sql("SELECT count(*) FROM neon.stat_backends WHERE pid IN ($pids)"), 2, 'two sessions');
	$_->quit for $session, $second;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids)"), 'when they have ended');
	is(sql("SELECT count(*) FROM neon.stat_backends WHERE pid IN ($pids)"), 0, 'they have no counters any more');
}
sql('CREATE ROLE watcher IN ROLE pg_monitor');
is(sql("SET ROLE watcher; SELECT count(*) >= 0 FROM neon.$_"), 't', "pg_monitor reads $_")
  for qw(stat_local stat_backends local_relations status safekeepers local_disk hydration_progress saved warm_start);
for my $what ('SELECT * FROM neon.stat_backends', 'SELECT * FROM neon.local_relations', 'SELECT neon.stat_reset()')
{
	($rc, $stdout, $stderr) = $node->psql('postgres', "SET ROLE plain; $what");
	like($stderr, qr/permission denied/, "others do not: $what");
}
($rc, $stdout, $stderr) = $node->psql('postgres', 'SET ROLE watcher; SELECT neon.stat_reset()');
like($stderr, qr/permission denied/, 'nor does pg_monitor reset');

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing crashed');
$node->stop;

done_testing();
