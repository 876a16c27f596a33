# A rebuild of a layer file, or of stored WAL, is killed where a crash finds
# half-done work, and the power is cut at its changes: the timeline opens, what
# is not damaged is right, and the rebuild ends the second time.  The long run
# has every change.
use strict;
use warnings;
use Cwd qw(realpath);
use Damage;
use IngestVanilla;
use IPC::Run;
use KillNode;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use PowerCut;
use Test::More;
use Time::HiRes qw(usleep);

plan skip_all => 'no libraries with injection points' unless PowerCut::available();

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");
srand($seed);

my $ps = NeonPageserver->new('ps', conf => <<'CONF');
neon_pageserver.compaction_threshold = 0
neon_pageserver.compaction_workers = 0
neon_pageserver.wal_keep = 4GB
neon_pageserver.page_cache_size = 0
autovacuum = off
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $node = new_vanilla('vanilla', "fsync = off\nfull_page_writes = off\nwal_keep_size = 1GB\n");
$ENV{PGUSER} = 'cloud_admin';
my $t = import_vanilla($ps, $node, 'main');
$ps->stop;
my $pgdata = realpath($ps->node->data_dir);
$ps->node->append_conf('postgresql.conf', "dynamic_library_path = '$ENV{NEON_TESTING_LIBDIR}:\$libdir'\n");
my $cut = PowerCut->new(log => $PostgreSQL::Test::Utils::tmp_check . '/rebuild_cuts', dirs => ["$pgdata/neon"]);
my $f = 'neon_pageserver';
my $dir = "$pgdata/neon/tenants/$t->{tenant}/timelines/$t->{timeline}";

sub start_watched
{
	local %ENV = (%ENV, $cut->env);
	return $ps->node->start(fail_ok => 1);
}
start_watched() or die 'no start';
$node->start;
$node->safe_psql('postgres', q(SELECT pg_create_physical_replication_slot('neon_pageserver', true)));
follow($ps, $t, $node);
$node->safe_psql('postgres', 'CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 20000) i');
my $lsn;

sub flushed
{
	$lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	wait_for_lsn($ps, $t, $lsn);
	$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");
	return;
}
flushed();
$node->safe_psql('postgres', 'UPDATE a SET t = reverse(t) WHERE i % 3 = 0');
flushed();
my $rel = $node->safe_psql('postgres', q(SELECT pg_relation_filenode('a')));
my $blocks = $node->safe_psql('postgres', q(SELECT pg_relation_size('a') / 8192));

sub pages { return $ps->sql("SELECT md5(string_agg(md5($f.get_page($t->{args}, 1663, 5, $rel, 0, b, '$lsn')), ' ' ORDER BY b)) FROM generate_series(0, $blocks - 1) b") }
sub verify { return $ps->sql("SELECT regexp_replace(file, '.*/', ''), problem, remedy, repaired FROM $f.timeline_verify($t->{args}, $_[0])") }
my $pages = pages();
is(verify('false'), '', 'nothing is wrong');

sub layer { return split /\|/, $ps->sql("SELECT regexp_replace(file, '.*/', ''), lsn_lo, lsn_hi FROM $f.layers WHERE timeline_id = '$t->{timeline}' ORDER BY lsn_hi DESC LIMIT 1") }

# The newest file, and its WAL too if that is asked for.
sub damage
{
	my ($wal) = @_;
	my ($file, $lo, $hi) = layer();
	flip_bit("$dir/layers/$file", 200, 2);
	my $at = int((NeonPageserver::lsn_number($lo) + NeonPageserver::lsn_number($hi)) / 2);
	flip_bit(sprintf('%s/wal/00000001%08X%08X', $dir, $at >> 32, ($at & 0xffffffff) >> 24), $at % (1 << 24) + $_, 2) for $wal ? 0 .. 15 : ();
	return $file;
}

sub repair_sql { return "SELECT * FROM $f.timeline_verify($t->{args}, true)" }

# What holds after it: the file is damaged or another one is there, and then all is well.
sub check
{
	my ($what, $file) = @_;
	follow($ps, $t, $node);
	my $said = verify('false');
	like($said, $said eq '' ? qr/^/ : qr/^\Q$file\E\|/, "$what: the file is as it was, or rebuilt");
	my $repaired = verify('true');
	like($repaired, $said eq '' ? qr/^$/ : qr/It was rebuilt as file \d+[^|]*\|t/, "$what: the rebuild ends") || diag("before: $said");
	is(verify('false') . pages(), $pages, "$what: nothing is wrong");
	my @there = map { s/.*\///r } glob "$dir/layers/*";
	my $named = $ps->sql("SELECT string_agg(regexp_replace(file, '.*/', ''), ' ' ORDER BY 1) FROM $f.layers WHERE timeline_id = '$t->{timeline}'");
	is(join(' ', sort @there), join(' ', sort split / /, $named), "$what: no file is left over");
	return;
}

# ---- kills ----
sub ended_by_itself
{
	my ($h) = @_;
	for (1 .. 600)
	{
		return 1 if !KillNode::working_in($pgdata) || !kill 0, $ps->node->{_pid};
		eval { $h->pump_nb };
		usleep(100_000);
	}
	return 0;
}

for my $point (qw(rebuild-written rebuild-in-manifest wal-replaced))
{
	my $file = damage($point eq 'wal-replaced');
	$ps->sql("ALTER SYSTEM SET neon_pageserver.test_crash_at = '$point'");
	$ps->sql('SELECT pg_reload_conf()');
	my ($out, $err) = ('', '');
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-d', $ps->node->connstr('postgres'), '-c', repair_sql() ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(180));
	ok(ended_by_itself($h), "$point: it died there");
	eval { kill_node($ps->node, all => 1) };
	eval { $h->finish };
	unlike($out, qr/rebuilt/, "$point: before the end");
	open my $conf, '>>', "$pgdata/postgresql.auto.conf" or die;
	print $conf "neon_pageserver.test_crash_at = ''\n";
	close $conf;
	start_watched() or die "no start after $point";
	check($point, $file);
}

# ---- power cuts ----
sub cut_at
{
	my ($k) = @_;
	my $file = damage(rand() < 0.5);
	$ps->stop('immediate');
	$cut->reset;
	start_watched() or die 'no start';
	follow($ps, $t, $node);
	my ($out, $err) = ('', '');
	my $before = $cut->changes;
	$cut->arm($k, $ps->node->{_pid});
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-d', $ps->node->connstr('postgres'), '-c', repair_sql() ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(180));
	while (!$cut->was_cut && $h->pumpable) { eval { $h->pump_nb }; usleep(2_000) }
	my $was_cut = $cut->was_cut;
	$cut->cut if !$was_cut;
	my $n = $cut->changes - $before;
	kill_node($ps->node, all => 1);
	eval { $h->finish };
	my $undone = $cut->undo(rand() < 0.5 ? () : (seed => int(rand(2**30))));
	my $what = $was_cut ? "cut at change $k" : "cut after its $n changes";
	start_watched() or die "no start after a $what";
	check("$what, $undone undone", $file);
	return $was_cut;
}

if ($long)
{
	my $k = 1;
	while (cut_at($k)) { $k++ }
	cmp_ok($k, '>', 5, "a rebuild has @{[ $k - 1 ]} changes");
}
else { cut_at(1 + int(rand(12))) for 1 .. 2 }
$ps->stop('immediate');
$node->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP/, 'no panic in the log');
done_testing();
