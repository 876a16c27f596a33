# Streaming: the boot record's term, restarts of both sides, silence, another
# system, positions that are reported, times, branches of a live writer.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $ps = NeonPageserver->new('pageserver', conf => "neon_pageserver.source_timeout = 2s\nneon_pageserver.open_layer_memory = 4MB\nrestart_after_crash = on\n");
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ENV{PGUSER} = 'cloud_admin';

my $node = new_vanilla('source', "full_page_writes = off\nwal_sender_timeout = 5s\n");
$node->start;
$node->safe_psql('postgres', "CREATE TABLE a(i int PRIMARY KEY, t text)");
$node->stop;
my $dir = $node->data_dir;
my $t = import_vanilla($ps, $node, 'main');
my $other = import_vanilla($ps, $node, 'other');
my $boot = 'b' x 32;

sub acquire
{
	my ($x, $term) = @_;
	$ps->sql("SELECT neon_pageserver.writer_acquire($x->{args}, 0, $term, 'ep', '$boot', '$x->{lsn}', 'p', 'm')");
	return;
}

sub source
{
	my ($x, $term, $conninfo) = @_;
	return "SELECT neon_pageserver.timeline_source($x->{args}, $term, ARRAY['" . ($conninfo // IngestVanilla::conninfo($node)) . "'])";
}

sub poll
{
	my ($sql, $expected, $what) = @_;
	ok($ps->node->poll_query_until('postgres', $sql, $expected), $what);
	return;
}

sub view { return "SELECT $_[1] FROM neon_pageserver.sources WHERE timeline_id = '$_[0]->{timeline}'" }
sub flushed { return $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()') }

acquire($t, 3);
acquire($other, 4);
$ps->sql("SELECT neon_test.boot_pgdata('$dir', 3)");
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");

# ---- what is refused ----
like($ps->sql_error(source($t, 2)), qr/superseded by term 3/, 'a lower term');
like($ps->sql_error(source($t, 4)), qr/term 4 has not been acquired/, 'a higher term');
like($ps->sql_error(source($t, 3, 'host=x passfile=/etc/passwd')), qr/"passfile" is not allowed/, 'a parameter that is not allowed');
like($ps->sql_error(source($t, 3, 'port=5432')), qr/must name a host/, 'no host');
like($ps->sql_error(source($t, 3, 'nonsense')), qr/invalid connection string/, 'no connection string');
$ps->sql("CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA neon_pageserver TO stranger; GRANT EXECUTE ON FUNCTION neon_pageserver.timeline_source TO stranger");
like($ps->sql_error(source($t, 3), 'stranger'), qr/permission denied for this tenant/, 'a role of nobody');
$ps->sql("CREATE ROLE tenant_$t->{tenant} LOGIN; GRANT USAGE ON SCHEMA neon_pageserver TO tenant_$t->{tenant}; GRANT EXECUTE ON FUNCTION neon_pageserver.timeline_source TO tenant_$t->{tenant}");

# the WAL is that of term 3, the timeline was acquired with term 4
$ps->sql(source($other, 4));
poll(view($other, "last_error ~ 'does not begin with the boot record of term 4'"), 't', 'WAL of another term is refused');
is($ps->last_lsn($other), $other->{lsn}, 'and nothing of it is kept');
$ps->sql("SELECT neon_pageserver.writer_drained($other->{args}, '$boot', '$other->{lsn}')");
is($ps->sql(view($other, 'count(*)')), '0', 'a drained timeline has no source');

# ---- the stream ----
is($ps->sql_error(source($t, 3), "tenant_$t->{tenant}"), '', "the tenant's role names its source");
poll(view($t, 'connected'), 't', 'connected');
poll("SELECT term FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'", '3', 'the boot record is indexed');
$node->safe_psql('postgres', "INSERT INTO a SELECT i, 'one' FROM generate_series(1, 1000) i");
my $lsn = flushed();
my $began = time;
ok($node->poll_query_until('postgres',
		"SELECT flush_lsn >= '$lsn' AND replay_lsn = flush_lsn FROM pg_stat_replication"), 'the flush is reported');
cmp_ok(time - $began, '<', 5, 'soon');
is($ps->sql("SELECT flush_lsn >= '$lsn' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'"), 't',
	'and shown');

# Synchronous replication to the pageserver works as to a standby.
$node->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = 'neon_pageserver'");
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$began = time;
$node->safe_psql('postgres', "SET synchronous_commit = remote_apply; INSERT INTO a VALUES ($_, 'sync')") for 2001 .. 2005;
cmp_ok(time - $began, '<', 10, 'synchronous commits');
$node->safe_psql('postgres', "ALTER SYSTEM RESET synchronous_standby_names");
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');

# ---- times ----
my @marks;
for my $i (1 .. 4)
{
	$node->safe_psql('postgres', "INSERT INTO a VALUES (3000 + $i, 'time')");
	push @marks, $node->safe_psql('postgres', "SELECT clock_timestamp() || '|' || pg_current_wal_insert_lsn()");
	sleep 0.05;
}
wait_for_lsn($ps, $t, flushed());
for my $m (@marks)
{
	my ($time, $at) = split /\|/, $m;
	my $found = $ps->sql("SELECT neon_pageserver.lsn_for_timestamp($t->{args}, '$time')");
	my $rounded = $ps->sql("SELECT neon_test.round_to_commit($t->{args}, '$at')");
	is($found, $rounded, "commit at or before $time");
}
is($ps->sql("SELECT neon_pageserver.lsn_for_timestamp($t->{args}, '2001-01-01')"), '', 'a time before the history');
isnt($ps->sql("SELECT neon_pageserver.lsn_for_timestamp($t->{args}, now() + interval '1 day')"), '', 'a time to come');

# ---- a branch of the live writer has what was acknowledged ----
for my $i (1 .. 3)
{
	$node->safe_psql('postgres', "SET synchronous_commit = off; INSERT INTO a VALUES (4000 + $i, 'branch')");
	my $insert = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
	my $b = $ps->sql("SELECT lsn FROM neon_pageserver.branch_create('$t->{tenant}', 'now$i', 'main')");
	my $before = $ps->sql("SELECT neon_test.round_to_commit($t->{args}, '$insert')");
	cmp_ok(NeonPageserver::lsn_number($b), '>=', NeonPageserver::lsn_number($before), "branch now at $b");
}

# ---- restarts ----
sub work
{
	my ($lo, $hi) = @_;
	$node->safe_psql('postgres', "INSERT INTO a VALUES ($_, 'work')") for $lo .. $lo + 20;
	$node->safe_psql('postgres', "INSERT INTO a SELECT i, repeat('z', 300) FROM generate_series($lo + 100, $hi - 1) i");
	return;
}

sub caught_up
{
	my ($what) = @_;
	my $at = flushed();
	is($ps->sql("SELECT neon_pageserver.wait_lsn($t->{args}, '$at', '60 s')"), 't', "$what: caught up");
	return;
}

work(10_000, 20_000);
$ps->node->stop('immediate');
work(20_000, 30_000);
$ps->start;
$ps->sql(source($t, 3));
caught_up('pageserver killed');

$node->restart;
work(30_000, 31_000);
caught_up('source restarted');

my $walsender = $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_replication');
kill 'STOP', $walsender;
poll(view($t, "NOT connected AND last_error ~ 'silent|is active'"), 't', 'a silent source is given up');
kill 'CONT', $walsender;
work(31_000, 32_000);
caught_up('silent source awake');

# the worker crashes, and with it the whole instance for a moment
my $worker = $ps->sql(view($t, 'worker_pid'));
kill 'SEGV', $worker;
sleep 1;
work(32_000, 33_000);
ok($ps->node->poll_query_until('postgres', 'SELECT true', 't'), 'the pageserver is back');
$ps->sql(source($t, 3));
caught_up('worker crashed');

# ended by an administrator, it is started again
$worker = $ps->sql(view($t, 'worker_pid'));
$ps->sql("SELECT pg_terminate_backend($worker)");
kill 'TERM', $worker;
work(33_000, 34_000);
caught_up('worker terminated');

# ---- another system ----
my $stranger = new_vanilla('stranger');
$stranger->start;
$ps->sql(source($t, 3, IngestVanilla::conninfo($stranger)));
poll(view($t, "NOT connected AND last_error ~ 'another database system'"), 't', 'another system is refused');
$stranger->stop;
$ps->sql(source($t, 3));
work(34_000, 35_000);
caught_up('the right source again');

# ---- one record with hundreds of changes, and little memory ----
$node->safe_psql('postgres', 'CREATE DATABASE many');
$node->safe_psql('postgres', 'DROP DATABASE many');
caught_up('a database was dropped');

# ---- a layer while it streams; never more reported than is durable ----
is($ps->sql("SELECT neon_pageserver.timeline_checkpoint($t->{args}) >= '" . $ps->last_lsn($t) . "'"), 't', 'a layer');
# the report is on its way for a moment
my ($slot, $reported);
for (1 .. 300)
{
	$slot = $node->safe_psql('postgres', 'SELECT restart_lsn FROM pg_replication_slots');
	$reported = $ps->sql('SELECT reported_lsn FROM neon_pageserver.sources');
	last if $slot eq $reported;
	sleep 0.1;
}
is($slot, $reported, 'the slot is where the flush is');

# ---- when no WAL comes the open index becomes a layer ----
$node->safe_psql('postgres', 'CREATE TABLE idle AS SELECT 1');
my $idle = flushed();
wait_for_lsn($ps, $t, $idle);
my $in_layers = "SELECT disk_consistent_lsn >= '$idle' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'";
is($ps->sql($in_layers), 'f', 'what came last is in no layer');
$ps->sql("ALTER SYSTEM SET neon_pageserver.idle_flush_timeout = '1s'");
$ps->sql('SELECT pg_reload_conf()');
poll($in_layers, 't', 'after idle_flush_timeout it is');

# ---- drained, and what is stored ----
my $end = $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
$node->stop;
ok($ps->node->poll_query_until('postgres', "SELECT last_record_lsn > '$end' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'"),
	'the shutdown checkpoint has come');
my $last = $ps->last_lsn($t);
$ps->sql("SELECT neon_pageserver.writer_drained($t->{args}, '$boot', '$last')");
my $wal = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal";
my ($out, $err) = run_command([ 'pg_waldump', '-p', $wal, '-q', '-s', $t->{lsn}, '-e', $last ]);
is($err, '', 'pg_waldump accepts the stored WAL');
for my $f (sort map { s{.*/}{}r } glob "$wal/0*")
{
	next unless -f "$dir/pg_wal/$f";
	my ($ours, $theirs) = (slurp_file("$wal/$f"), slurp_file("$dir/pg_wal/$f"));
	(my $hex = $f) =~ s/^.{8}(.{8})(.{8})$/$1 $2/;
	my ($hi, $lo) = map { hex } split / /, $hex;
	my $start = ($hi << 32) + $lo * 16 * 1024 * 1024;
	my $n = NeonPageserver::lsn_number($last) - $start;
	$n = length $ours if $n > length $ours;
	ok(substr($ours, 0, $n) eq substr($theirs, 0, $n), "$f is as the source has it");
	ok(substr($ours, $n) =~ /^\0*$/, "$f is empty behind the end") if $n < length $ours;
}

$ps->stop;
done_testing();
