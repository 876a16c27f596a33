# The compute's side of the page service: what it asks for, and what it does
# when the answers do not come or make no sense.
use strict;
use warnings;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use FakePageserver;
use NeonOverlay;
use NeonTest;

plan skip_all => 'needs the TESTING build' unless NeonOverlay::available();

my $rows = 60000;

my $ref = PostgreSQL::Test::Cluster->new('reference');
$ref->init;
$ref->append_conf('postgresql.conf', "fsync = off\nwal_level = replica\n");
$ref->start;
my @tables = map { "t$_" } 1 .. 24;
$ref->safe_psql('postgres', "CREATE TABLE $_ AS SELECT i AS id, repeat('p', 900) AS pad FROM generate_series(1, 2000) i;")
  for @tables;
$ref->safe_psql('postgres', q{CREATE TABLE long AS SELECT i AS id, repeat('p', 900) AS pad FROM generate_series(1, 12000) i;
CREATE INDEX long_id ON long (id);
CREATE TABLE chaos AS SELECT i AS id, repeat(chr(97 + i % 26), 700) AS pad FROM generate_series(1, 60000) i;
CREATE INDEX chaos_id ON chaos (id); CREATE TABLE wide AS SELECT i AS id, repeat('p', 900) AS pad FROM generate_series(1, 20000) i;
CREATE TABLE lost AS SELECT i AS id, repeat('p', 900) AS pad FROM generate_series(1, 4000) i;
CREATE TABLE far AS SELECT i AS id, i % 72 = 0 AS odd, repeat('p', 900) AS pad FROM generate_series(1, 12000) i;
CREATE INDEX far_odd ON far (odd); VACUUM (FREEZE, ANALYZE)});
my @small = map { "small_$_" } 1 .. 17;
$ref->safe_psql('postgres', "CREATE TABLE $_ AS SELECT 1 AS id") for @small;
my %path = map { $_ => $ref->safe_psql('postgres', "SELECT pg_relation_filepath('$_')") } @tables, 'long', 'far', 'wide';
my %node = map { $_ => $path{$_} =~ s{.*/}{}r } keys %path;
$ref->stop;

my $fake = FakePageserver->new($ref->data_dir);
my $node = NeonOverlay->boot($ref, 'compute', kind => 'ephemeral', no_reference => 1, conf => <<CONF);
shared_buffers = 4MB
autovacuum = off
neon.pageserver_connstring = '@{[ $fake->connstring ]}'
neon.fetch_timeout = 20s
CONF
my $lsn = NeonOverlay::control_data($node->data_dir)->{'Latest checkpoint location'};
my $count = sub { return "SELECT count(*), sum(id) FROM $_[0]" };
my $whole = '2000|2001000';

# --------------------------------------------------- what it asks for --

NeonOverlay::stats($node);
$fake->clear_requests;
is($node->safe_psql('postgres', $count->('t1')), $whole, 'a scan');
my @requests = grep { $_->{rel} eq $node{t1} && $_->{fork} == 0 } $fake->requests;
my ($hi, $lo) = map { hex } split m{/}, (slurp_file($node->data_dir . '/neon.boot') =~ /^boot_lsn=(.*)$/m)[0];
my $x = ($hi << 32) | $lo;
is_deeply([ grep { $_->{lsn} != $x || $_->{nms} != $x || $_->{term} != 0 } @requests ],
	[], 'an ephemeral endpoint asks for pages at its boot LSN, with term 0');
cmp_ok(scalar(@requests), '<', 9, 'few requests for 250 blocks: ' . join(' ', map { "$_->{blk}+$_->{nblocks}" } @requests));
my %asked;
$asked{ $_->{blk} + $_->{n} }++ for map { my $r = $_; map { { blk => $r->{blk}, n => $_ } } 0 .. $r->{nblocks} - 1 } @requests;
is_deeply([ grep { $asked{$_} > 1 } keys %asked ], [], 'no block is asked for twice');

$fake->clear_requests;
$node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT pad FROM long WHERE id IN (700, 5000, 11000)');
@requests = grep { $_->{rel} eq $node{long} } $fake->requests;
is_deeply([ map { $_->{nblocks} } @requests ], [ 1, 1, 1 ], 'random reads ask for single blocks');

# Which blocks of a table were asked for, and by how many requests.
sub asked_for
{
	my ($name) = @_;
	my @r = grep { $_->{rel} eq $node{$name} && $_->{fork} == 0 } $fake->requests;
	my $blocks = 0;
	$blocks += $_->{nblocks} for @r;
	return ($blocks, scalar(@r), join ' ', map { "$_->{blk}+$_->{nblocks}" } @r);
}

# Prefetches of blocks that follow each other are joined, none is lost.
NeonOverlay::extension($node);
$node->safe_psql('postgres', 'CREATE EXTENSION pg_prewarm; SELECT * FROM neon.stat_backends');
$fake->clear_requests;
is($node->safe_psql('postgres', "SELECT pg_prewarm('t24', 'prefetch'); " . $count->('t24')), "250\n$whole", 'prefetched, then read');
my ($blocks, $n, $list) = asked_for('t24');
is($blocks, 250, 'each block is asked for once');
cmp_ok($n, '<', 9, "by few requests: $list");

# A bitmap scan prefetches pages here and there: each is on its way when it is read.
$fake->clear_requests;
my $mine = 'FROM neon.stat_backends WHERE pid = pg_backend_pid()';
my ($misses, $hits) = split /\|/, $node->safe_psql('postgres', <<"SQL") =~ s/.*\n//sr;
SET enable_seqscan = off; SET enable_indexscan = off; SET effective_io_concurrency = 32;
SELECT count(pad) FROM far WHERE odd;
SELECT misses, read_ahead_hits $mine;
SQL
($blocks, $n, $list) = asked_for('far');
cmp_ok($hits, '>', 0.9 * $blocks, "of $blocks blocks that a bitmap scan reads nearly all were on their way: $hits");

# The processes of a parallel scan share the work.
$fake->clear_requests;
is($node->safe_psql('postgres', 'SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; '
	. 'SELECT count(*), sum(id) FROM wide'), '20000|200010000', 'a parallel scan');
($blocks, $n, $list) = asked_for('wide');
cmp_ok($blocks, '<', 1.6 * 2500, "asks for few blocks twice: $blocks");
cmp_ok($n, '<', 150, "and for many at once: $list");

# ---------------------------------------------- answers that do not come --

# From here on only the tables' own pages are absent.
$node->safe_psql('postgres', q{SELECT count(test_hydrate(oid)) FROM pg_class WHERE relkind = 'r' AND oid < 16384});

my $table = 1;

# The query goes on as if nothing had been.
sub survives
{
	my ($mode, $what) = @_;
	my $t = $tables[ $table++ ];
	$fake->mode($mode);
	is($node->safe_psql('postgres', $count->($t)), $whole, $what);
	$fake->mode('ok');
	return;
}

survives('3:drop', 'the connection is closed three times');
survives('3:retry', 'three answers say to try again');
survives('2:garbage', 'two answers make no sense');
survives('2:wrong_id', 'two answers to other requests');
survives('2:short', 'two answers with too few pages');
survives('2:truncated', 'two answers cut off');
survives('4:refuse', 'connections are closed at once');
survives('2:call_error', 'the page service is not ready');
survives('delay 20', 'slow answers');

# It comes back while a query waits, and the query's connection is replaced.
{
	my $t = $tables[ $table++ ];
	my $out = '';
	$fake->stop;
	my $query = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $count->($t) ],
		'>', \$out, IPC::Run::timeout(60));
	usleep(700_000);
	is($out, '', 'a query waits while the pageserver is down');
	is($node->safe_psql('postgres', $count->('t1')), $whole, 'another one reads present pages');
	$fake->start;
	ok($query->finish, 'and ends well when it is back');
	is($out, "$whole\n", 'with the right result');
}

# A connection that is gone is noticed while another process's answer is waited for.
{
	my $t = $tables[ $table++ ];
	my $far = 200;	# of its 250 blocks of 8 rows
	$node->safe_psql('postgres', 'CREATE EXTENSION dblink');
	$fake->mode('drop 300');
	$node->psql('postgres', <<"SQL", stdout => \my $out, stderr => \my $err);
SET neon.fetch_timeout = '10s';
-- the other process, which is going to ask for blocks 128 to 249
SELECT FROM dblink_connect('other', 'host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=postgres'), dblink_open('other', 'c', 'SELECT id FROM $t'), dblink_exec('other', 'MOVE 680 IN c');
-- asks for blocks 128 to 255, then for 256 to 383, for which there is no answer but the end of the connection
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM lost;
MOVE 1025 IN c;
-- here the other has just asked (not 200 ms ago), and does not store what it gets, so this one waits
SELECT dblink_exec('other', 'MOVE 1 IN c'), (SELECT id FROM $t WHERE ctid = '($far,1)');
SELECT dblink_exec('other', 'MOVE ALL IN c');
@{[ $count->($t) ]};
SQL
	$fake->mode('ok');
	is($out, "MOVE 1|@{[ 8 * $far + 1 ]}\nMOVE 1319\n$whole", 'a connection that ends while the answer to another process is waited for') or diag($err);
	is($node->safe_psql('postgres', $count->('lost')), '4000|8002000', 'and the table that it was reading');
}

# ---------------------------------------- many wait for its return --

# All its sessions together try as one would.
sub waiting_sessions
{
	my ($mode, $n, $seconds) = @_;
	my @of = splice(@small, 0, $n);
	my @out = ('') x $n;
	$fake->stop;
	$fake->mode($mode);
	$fake->start;
	my $before = $fake->connections;
	my $start = time;
	my @queries = map {
		IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $count->($of[$_]) ],
			'>', \$out[$_], IPC::Run::timeout(60))
	} 0 .. $n - 1;
	$node->poll_query_until('postgres', "SELECT count(*) = $n FROM pg_stat_activity WHERE query ~ 'FROM small_[0-9]+\$' AND wait_event = 'Extension'");
	usleep($seconds * 1_000_000);
	my $tries = $fake->connections - $before;
	my $elapsed = time - $start;
	cmp_ok($tries, '>', 3, "$mode: the sessions try");
	cmp_ok($tries, '<', 12 + $elapsed / 0.3, sprintf("$mode: %d sessions try together %d times in %.1f s", $n, $tries, $elapsed));
	$node->psql('postgres', "SET statement_timeout = '300ms'; " . $count->($small[-1]), stderr => \my $err);
	like($err, qr/canceling statement due to statement timeout/, "$mode: one that waits for the others' tries can be cancelled");
	$fake->mode('ok');
	$_->finish for @queries;
	is_deeply(\@out, [ ("1|1\n") x $n ], "$mode: all of them end well");
	return;
}

waiting_sessions($_, 8, 2) for 'starting', 'call_error';

# Nobody has tried for a while: the next one does at once.
$fake->stop;
$fake->mode('starting');
$fake->start;
$node->psql('postgres', "SET neon.fetch_timeout = '1500ms'; " . $count->($small[-1]));
$fake->mode('ok');
usleep(700_000);
my $connections = $fake->connections;
is($node->safe_psql('postgres', $count->($small[-1])), '1|1', 'a query after that');
is($fake->connections - $connections, 1, 'connects at the first try');

# -------------------------------------------------------- errors --

# Fails with a message within the timeout; afterwards the same query succeeds.
sub fails
{
	my ($mode, $timeout, $like, $what) = @_;
	my $t = $tables[ $table++ ];
	$mode eq 'stop' ? $fake->stop : $fake->mode($mode);
	my $start = time;
	my ($rc, $out, $err) = $node->psql('postgres', "SET neon.fetch_timeout = '$timeout'; " . $count->($t));
	isnt($rc, 0, "$what: an error");
	is($out, '', "$what: no rows");
	like($err, $_, "$what: $_") for @$like;
	cmp_ok(time - $start, '<', 10, "$what: soon");
	$mode eq 'stop' ? $fake->start : $fake->mode('ok');
	is($node->safe_psql('postgres', $count->($t)), $whole, "$what: and later it works");
	return;
}

my $unreachable = qr/ERROR:  could not fetch block 0 of relation base\/\d+\/\d+ from pageserver 127\.0\.0\.1:\d+/;
fails('stop', '500ms', [ $unreachable, qr/DETAIL:.*Connection refused/s, qr/HINT:.*neon\.fetch_timeout/ ], 'pageserver down');
fails('hang', '500ms', [ $unreachable, qr/no answer in time/ ], 'pageserver hangs');
fails('retry', '500ms', [ $unreachable, qr/the WAL has not come yet/ ], 'WAL does not come');
fails('call_error', '500ms', [ $unreachable, qr/the page service is resting/ ], 'call refused');
fails(
	'final 3', '20s',
	[ qr/could not fetch block 3 of relation/, qr/DETAIL:  page 3 is damaged \(The checksum is wrong\.\)/, qr/HINT:  Restore it/ ],
	'a damaged page');
fails('superseded', '20s', [ qr/FATAL:  superseded by term 7/ ], 'superseded');

# ------------------------------------------------------ cancelling --

{
	my $t = $tables[ $table++ ];
	$fake->mode('hang');
	my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '300ms'; " . $count->($t));
	like($err, qr/canceling statement due to statement timeout/, 'a waiting query can be cancelled');
	$fake->mode('ok');
	is($node->safe_psql('postgres', $count->($t)), $whole, 'and repeated');

	# in one session, so that the same process goes on after the cancel
	my $u = $tables[ $table++ ];
	$fake->mode('delay 100');
	($rc, $out, $err) = $node->psql('postgres',
		"SET statement_timeout = '250ms'; " . $count->($u) . ";\nSET statement_timeout = 0;\n" . $count->($u) . ";\n",
		on_error_stop => 0);
	like($err, qr/canceling statement due to statement timeout/, 'cancelled in the middle of a scan');
	is($out, $whole, 'and right afterwards in the same session');

	my $v = $tables[ $table++ ];
	my $waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%FROM $v' AND (wait_event_type, wait_event) = ('Extension', 'Extension')";
	my $terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%FROM $v' AND pid <> pg_backend_pid()";
	$node->safe_psql('postgres', "$waits; $terminate");	# their catalog pages
	$fake->mode('hang');
	my $query = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $count->($v) ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(60));
	ok($node->poll_query_until('postgres', $waits), 'pg_stat_activity shows who waits for a page');
	$node->safe_psql('postgres', $terminate);
	ok(!$query->finish, 'a waiting session can be terminated');
	like($err, qr/terminating connection due to administrator command/, 'and says so');
	$fake->mode('ok');
}

# ------------------------------------------- everything at once --

{
	my $file = $node->basedir . '/chaos.sql';
	NeonOverlay::write_file($file, <<'SQL');
\set id random(1, 59000)
SET enable_seqscan = off;
SET max_parallel_workers_per_gather = 2;
SELECT 1 / (count(*) = 301 AND min(pad) = repeat('a', 700))::int FROM chaos WHERE id BETWEEN :id AND :id + 300;
SQL
	my $out = '';
	my $load = IPC::Run::start(
		[ 'pgbench', '-n', '-f', $file, '-c', '6', '-T', '8', '-h', $node->host, '-p', $node->port, 'postgres' ],
		'>&', \$out, IPC::Run::timeout(120));
	my $end = time + 7;
	while (time < $end)
	{
		for my $mode ('3:drop', '3:retry', '3:garbage', '3:wrong_id', '3:short', '3:truncated', '3:refuse', '2:call_error', 'delay 5')
		{
			$fake->mode($mode);
			usleep(150_000);
		}
		$fake->stop;
		usleep(200_000);
		$fake->start;
	}
	$fake->mode('ok');
	$load->finish;
	like($out, qr/number of failed transactions: 0/, 'a load while all of this happens: no error');
	unlike($out, qr/aborted|ERROR|FATAL/, 'and no client lost') or diag($out);
	is($node->safe_psql('postgres', 'SELECT count(*), sum(id), sum(length(pad)) FROM chaos'),
		"$rows|" . $rows * ($rows + 1) / 2 . '|' . $rows * 700, 'and all data are right');
}

# ------------------------------------------------- another pageserver --

{
	my $other = FakePageserver->new($ref->data_dir);
	$other->mode('ok');
	$fake->stop;
	$node->append_conf('postgresql.conf', "neon.pageserver_connstring = '" . $other->connstring . "'");
	$node->reload;
	is($node->safe_psql('postgres', $count->($tables[ $table++ ])), $whole, 'after a reload the other pageserver is asked');
	my ($rc, $out, $err) = $node->psql('postgres', "ALTER SYSTEM SET neon.pageserver_connstring = 'x y z'");
	isnt($rc, 0, 'a connection string that is none is refused');
}

# ------------------------------------------------------ a static one --

{
	my $fake2 = FakePageserver->new($ref->data_dir);
	my $static = NeonOverlay->boot($ref, 'standby', kind => 'static', no_reference => 1, conf => <<CONF);
neon.pageserver_connstring = '@{[ $fake2->connstring ]}'
hot_standby = on
CONF
	$static->poll_query_until('postgres', 'SELECT pg_is_in_recovery()');
	is($static->safe_psql('postgres', $count->('t1')), $whole, 'a static endpoint reads');
	my ($rc, $out, $err) = $static->psql('postgres', 'CREATE TABLE no (i int)');
	like($err, qr/cannot execute CREATE TABLE in a read-only transaction/, 'and does not write');
	$static->safe_psql('postgres', 'SELECT pg_database_size(oid) FROM pg_database');
	NeonTest->wait_for('the end of the file creator', sub { !NeonOverlay::creator_runs($static) });
	pass('the file creator ends');
	$static->stop;
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing crashed');
$node->stop;

done_testing();
