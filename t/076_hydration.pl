# Hydration: of a relation with what belongs to it, of everything, in the
# background; its progress; its end by errors and cancels.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use FakePageserver;
use NeonOverlay;

plan skip_all => 'needs the TESTING build' unless NeonOverlay::available();

my $ref = PostgreSQL::Test::Cluster->new('reference');
$ref->init;
$ref->append_conf('postgresql.conf', "fsync = off\nwal_level = replica\n");
$ref->start;
$ref->safe_psql('postgres', q{CREATE TABLE docs (id int PRIMARY KEY, body text);
ALTER TABLE docs ALTER body SET STORAGE external;
INSERT INTO docs SELECT i, repeat('d', 4000) FROM generate_series(1, 1000) i;
CREATE INDEX docs_by_length ON docs (length(body), id);
CREATE VIEW look AS SELECT 1;
CREATE TABLE parts (id int, pad text) PARTITION BY RANGE (id);
CREATE INDEX ON parts (id);
CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (500);
CREATE TABLE part2 PARTITION OF parts FOR VALUES FROM (500) TO (2000) PARTITION BY RANGE (id);
CREATE TABLE part2a PARTITION OF part2 FOR VALUES FROM (500) TO (2000);
INSERT INTO parts SELECT i, repeat('p', 500) FROM generate_series(1, 1000) i;});
$ref->safe_psql('postgres', "CREATE TABLE big$_ AS SELECT i AS id, repeat('p', 900) AS pad FROM generate_series(1, 12000) i") for 1 .. 4;
$ref->safe_psql('postgres', 'VACUUM (FREEZE, ANALYZE)');
$ref->safe_psql('postgres', 'CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
CREATE FOREIGN TABLE part3 PARTITION OF parts FOR VALUES FROM (2000) TO (3000) SERVER s');
$ref->stop;

my $fake = FakePageserver->new($ref->data_dir);
my $node = NeonOverlay->boot($ref, 'compute', kind => 'ephemeral', no_reference => 1, conf => <<CONF);
autovacuum = off
neon.pageserver_connstring = '@{[ $fake->connstring ]}'
neon.fetch_timeout = 2s
CONF
NeonOverlay::extension($node);

sub sql { return $node->safe_psql('postgres', @_) }

# Blocks of a table, its indexes and its TOAST table that are not here.
sub absent
{
	my ($table) = @_;
	return sql(qq{WITH RECURSIVE r(id) AS (SELECT '$table'::regclass::oid UNION SELECT unnest(ARRAY[reltoastrelid, indexrelid])
		FROM r JOIN pg_class c ON c.oid = id LEFT JOIN pg_index ON indrelid = id)
	SELECT (sum(size_bytes - present_bytes) / 8192)::int || ' in ' || count(*) FROM neon.local_relations, r WHERE relation = id});
}

# ------------------------------------------------------ a relation --

my ($absent) = absent('docs') =~ /^(\d+) in 5$/;
cmp_ok($absent, '>', 500, 'nothing of a table is here');
is(sql(q{SELECT neon.hydrate('docs')}), $absent, 'hydrate fetches it');
is(absent('docs'), '0 in 5', 'with its indexes and TOAST table');
is(sql(q{SELECT neon.hydrate('docs')}), '0', 'once');
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT neon.hydrate('look')});
like($err, qr/relation "look" does not have storage/, 'not a view');
my $parts = 0;
/^(\d+) in 4$/ and $parts += $1 for map { absent($_) } qw(part1 part2a);
is(sql(q{SELECT neon.hydrate('parts')}), $parts, 'of a partitioned table its partitions');
is(join(' ', map { absent($_) } qw(part1 part2a)), '0 in 4 0 in 4', 'with their indexes');

# ------------------------------------------- progress, cancel, error --

my $progress = sub { return sql("SELECT $_[0] FROM neon.hydration_progress") };

sub start_sql
{
	my ($sql, $stdout, $stderr) = @_;
	($$stdout, $$stderr) = ('', '');
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ], '>', $stdout, '2>', $stderr, IPC::Run::timeout(90));
}
is($progress->('count(*)'), '0', 'no hydration is under way');
my ($blocks) = absent('big1') =~ /^(\d+)/;
my $path = sql(q{SELECT pg_relation_filepath('big1')});
my $some = 'SELECT count(*) = 1 FROM neon.hydration_progress WHERE blocks_done > 0';
my $shown = "kind || ' ' || phase || ' ' || blocks_total || ' ' || (blocks_done < blocks_total AND blocks_fetched <= blocks_done) || ' ' || file";
my $cancel = 'SELECT pg_cancel_backend(pid) FROM neon.hydration_progress';
# all that these queries need themselves
sql("$some; $cancel");
$progress->($shown);
$fake->mode('delay 1000');
my $query = start_sql(q{SET neon.fetch_timeout = '1min'; SELECT neon.hydrate('big1')}, \$out, \$err);
ok($node->poll_query_until('postgres', $some), 'its progress is shown');
$fake->mode('hang');
is($progress->($shown),
	"relation fetching $blocks true $path", 'with total, number and file');
sql($cancel);
$query->finish;
$fake->mode('ok');
like($err, qr/canceling statement due to user request/, 'it can be cancelled');
is($progress->('count(*)'), '0', 'and is not shown any more');
is(sql(q{SELECT count(*) FROM pg_locks WHERE relation = 'big1'::regclass}), '0', 'its locks are gone');

$fake->stop;
($rc, $out, $err) = $node->psql('postgres', "SET neon.fetch_timeout = '300ms'; SELECT neon.hydrate('big1')");
like($err, qr/could not fetch block \d+ of relation \Q$path\E/, 'without the pageserver it fails');
is($progress->('count(*)'), '0', 'and is not shown any more');
$fake->start;
my ($left) = absent('big1') =~ /^(\d+)/;
cmp_ok($left, '<', $blocks, 'what was fetched before is here');
is(sql(q{SELECT neon.hydrate('big1')}), $left, 'the rest is fetched later');
is(sql('SELECT count(*), sum(id), sum(length(pad)) FROM big1'), '12000|72006000|10800000', 'and all is right');

# Two sessions at once do not fetch the same twice into the files.
{
	$fake->mode('delay 5');
	($blocks) = absent('big2') =~ /^(\d+)/;
	my @out;
	my @both = map { start_sql(q{SELECT neon.hydrate('big2')}, \$out[$_], \my $e) } 0, 1;
	$_->finish for @both;
	is($out[0] + $out[1], $blocks, 'two sessions share the work');
	is(sql('SELECT count(*), sum(id), sum(length(pad)) FROM big2'), '12000|72006000|10800000', 'and all is right');
}

# --------------------------------------------------- in the background --

sub worker_runs
{
	my ($ps) = run_command([ 'ps', '-o', 'args=', '--ppid', $node->{_pid} ]);
	return $ps =~ /neon hydrator/ ? 1 : 0;
}
for (1 .. 300) { last unless worker_runs(); usleep(100_000) }
is(worker_runs(), 0, 'the worker that has nothing to do is gone');

my $log = -s $node->logfile;
$fake->mode('ok');
is(sql('SHOW neon.hydrate_rate'), '0', 'it is off');

sub set_rate
{
	my ($rate) = @_;
	sql("ALTER SYSTEM SET neon.hydrate_rate = '$rate'");
	$node->reload;
	return;
}
set_rate('400kB');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM neon.hydration_progress
	WHERE kind = 'background' AND blocks_fetched > 0 AND blocks_done < blocks_total}), 'it fetches when it has a rate');
set_rate('0');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM neon.hydration_progress'), 'and stops without one');
cmp_ok(sql('SELECT absent_bytes FROM neon.stat_local'), '>', 8_000_000, 'in the middle');
is(sql('SELECT hydrated FROM neon.status'), 'f', 'not all is here');

$fake->stop;
set_rate('1GB');
ok($node->wait_for_log(qr/LOG:  background worker "neon hydrator" .* exited with exit code 1/, $log), 'it gives up when the pageserver is away');
$fake->start;
ok($node->poll_query_until('postgres', 'SELECT hydrated FROM neon.status'), 'and comes back: all is here');
is(sql('SELECT absent_bytes FROM neon.stat_local'), '0', 'all of it');
is($progress->('count(*)'), '0', 'and nothing under way');
$fake->clear_requests;
is(sql("SELECT count(*), sum(id), sum(length(pad)) FROM big$_"), '12000|72006000|10800000', "big$_ is right") for 3, 4;
is(scalar(@{[ $fake->requests ]}), 0, 'without a request');
is(sql('SELECT neon.hydrate()'), '0', 'hydrate has nothing to do');
like(slurp_file($node->logfile, $log), qr/LOG:  all data are here: \d+ blocks were fetched in the background/, 'the log says so');

sql('CREATE ROLE watcher IN ROLE pg_monitor');
is(sql('SET ROLE watcher; SELECT count(*) FROM neon.hydration_progress'), '0', 'pg_monitor sees the progress');
$log = -s $node->logfile;
$node->stop;
unlike(slurp_file($node->logfile, $log), qr/FATAL|hydrator/, 'a stop ends the worker without a word');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing crashed');

done_testing();
