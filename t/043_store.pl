# The pageserver's storage against a model: random puts, sizes, truncations,
# branches and flushes, kills in between, too little memory, and files that
# were cut or changed.
use strict;
use warnings;
use IPC::Run qw(start);
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");

my $ps = NeonPageserver->new('store', conf => <<'CONF');
neon_pageserver.image_chain = 0
neon_pageserver.open_layer_memory = 32MB
neon_pageserver.compaction_threshold = 3
neon_pageserver.compaction_target_size = 64kB
neon_pageserver.compaction_image_chain = 0
neon_pageserver.maintenance_io_limit = 0
restart_after_crash = on
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $pgdata = $ps->node->data_dir;
my $steps = $long ? 60000 : 6000;

sub model { return $ps->sql("SELECT neon_test.store_model($_[0], $_[1], 2000) > $_[1]") }

# A statement in a session of its own.
sub background
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = 'cloud_admin';
	my $h = start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $ps->node->connstr('postgres'), '-c', $sql ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(300));
	return { h => $h, out => \$out, err => \$err };
}

sub finished
{
	my ($job) = @_;
	eval { $job->{h}->finish; 1 } or return "not finished: $@";
	return ${ $job->{out} } . ${ $job->{err} };
}

sub timeline_dir
{
	my ($seed, $n) = @_;
	my $id = sub { unpack('H*', pack('Q<', $seed) . 'Z' x 4 . pack('V', $_[0])) };
	return "$pgdata/neon/tenants/" . $id->(0) . '/timelines/' . $id->($n + 1);
}

sub newest_manifest { return (sort glob("$_[0]/manifest.*"))[-1] }

sub change_byte
{
	my ($file, $offset) = @_;
	open my $f, '+<:raw', $file or die "$file: $!";
	$offset += -s $file if $offset < 0;
	seek $f, $offset, 0;
	read $f, my $byte, 1;
	seek $f, $offset, 0;
	print $f chr(ord($byte) ^ 0x10);
	close $f;
}

# ---- the model, and kills ----
is(model($seed, $steps), 't', 'every version is what the model says');
is(model($seed, $steps), 't', 'and again in another session');
$ps->restart;
is(model($seed, $steps), 't', 'and after a restart');

for my $round (1 .. ($long ? 10 : 3))
{
	my $n = $round * 2500;
	my $job = background("SELECT neon_test.store_model(@{[ $seed + 1 ]}, $n, 10)");
	usleep(100_000 + int(rand(700_000)));
	$ps->stop('immediate');
	finished($job);
	$ps->start;
	is(model($seed + 1, $n), 't', "after kill $round what was flushed is there, and the rest can be put again");
}

# A crash of one process restarts the others and reopens everything.
my $job = background("SELECT pg_sleep(60)");
my $victim = '';
for (1 .. 100)
{
	$victim = $ps->sql("SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'");
	last if $victim ne '';
	usleep(100_000);
}
kill 'SEGV', $victim;
finished($job);
for (1 .. 300)
{
	# psql may be gone before it was given its statement
	last if (eval { $ps->sql_error('SELECT 1') } // 'none') eq '';
	usleep(100_000);
}
is(model($seed, $steps), 't', 'after a crash of a process');

# ---- a reader beside the writer, and several writers with little memory ----
$ps->node->append_conf('postgresql.conf', "neon_pageserver.open_layer_memory = 4MB\n");
$ps->restart;
my @jobs = map { background("SELECT neon_test.store_model(@{[ $seed + 10 + $_ ]}, 5000, 500) > 5000") } 0 .. 1;
push @jobs, background("SELECT neon_test.store_read(@{[ $seed + 10 ]}, 5000, 3000) > 0");
is(finished($_), "t\n", 'writers that share too little memory, and a reader') for @jobs;
# Each alone would have enough; the indexes of all are more than there is.  Few steps:
# a long model writes to many branches from one process, which when it waits for
# one of them gives away no other; an ingest worker has one timeline.
my $many = $long ? 24 : 10;
@jobs = map { background("SELECT neon_test.store_model(@{[ $seed + 100 + $_ ]}, 800, 200) > 0") } 1 .. $many;
is(join('', map { finished($_) } @jobs), "t\n" x $many, "$many writers, none of which starves");
$ps->node->append_conf('postgresql.conf', "neon_pageserver.open_layer_memory = 32MB\n");

# ---- merges ----
# what is due by now, whatever the workers came to
$ps->sql("SELECT neon_pageserver.timeline_compact('$_->[0]', '$_->[1]')")
  for map { [ split /\|/ ] } split /\n/, $ps->sql('SELECT tenant_id, timeline_id FROM neon_pageserver.layers GROUP BY 1, 2 ORDER BY count(*) DESC LIMIT 4');
my $log = slurp_file($ps->node->logfile);
like($log, qr/pull of partition 2 of \d+ of timeline/, 'files were pulled into several partitions meanwhile');
like($log, qr/layers of timeline "\w+" from \S+ to \S+ merged: \d+ runs/, 'and wide files merged');
for my $i (0 .. 1)
{
	my $of = join ', ', map { "'$_'" } (split m{/}, timeline_dir($seed + $i, 0))[ -3, -1 ];
	$ps->sql("SELECT neon_pageserver.timeline_compact($of)");
	is($ps->sql("SELECT neon_pageserver.timeline_compact($of)"), 0, 'after timeline_compact there is nothing to merge');
}
is(model($seed, $steps), 't', 'and every version is there');
# below, only readers may find the damage
$ps->node->append_conf('postgresql.conf', "neon_pageserver.compaction_threshold = 0\n");

# ---- what a crash leaves ----
my $dir = timeline_dir($seed, 0);
my $other = timeline_dir($seed + 1, 0);
$ps->stop;
append_to_file(newest_manifest($dir), "\x40\0\0\0torn record");
append_to_file("$dir/layers/00000000deadbeef-00000001.delta", 'half of a layer');
mkdir "$pgdata/neon/tenants/" . 'c' x 32;
mkdir "$pgdata/neon/tenants/" . 'c' x 32 . '/timelines';
rename timeline_dir($seed + 11, 0), timeline_dir($seed + 11, 0) . '.deleted' or die;
$ps->start;
is(model($seed, $steps + 500), 't', 'a torn tail of the manifest is cut, and edits go on');
ok(!-e "$dir/layers/00000000deadbeef-00000001.delta", 'a layer that no manifest names is removed');
ok(!-e "$pgdata/neon/tenants/" . 'c' x 32, 'a tenant without a timeline is removed');
ok(!-e timeline_dir($seed + 11, 0) . '.deleted', 'a deletion is completed');
is($ps->sql("SELECT state FROM neon_pageserver.timelines WHERE timeline_id = '" . (split m{/}, $dir)[-1] . "'"),
	'active', 'and the timeline is active');
my $orphans = "FROM neon_pageserver.timelines WHERE ancestor_id = '" . (split m{/}, timeline_dir($seed + 11, 0))[-1] . "'";
is($ps->sql("SELECT count(*) FILTER (WHERE state <> 'damaged') $orphans"), 0,
	'branches of a vanished timeline are refused (' . $ps->sql("SELECT count(*) $orphans") . ' here)');

# ---- damage ----
my ($tenant, $timeline) = (split m{/}, $dir)[ -3, -1 ];
$ps->stop;
change_byte(newest_manifest($dir), 64 + 16 + 40);
$ps->start;
like($ps->sql_error("SELECT neon_test.store_model($seed, $steps, 10)"), qr/is damaged.*manifest.*corrupted|is damaged.*DETAIL.*manifest/s,
	'a changed byte in a manifest: the timeline is damaged');
is(model($seed + 1, 2500), 't', 'and others are served');
$ps->stop;
change_byte(newest_manifest($dir), 64 + 16 + 40);
my ($layer) = sort { -s $b <=> -s $a } glob("$dir/layers/*.delta");
# one byte in each 3000: some of them are read by any large number of lookups
my $spoil = sub { change_byte($layer, $_ * 3000 + 1000) for 0 .. int(((-s $layer) - 2000) / 3000) };
$spoil->();
$ps->start;
sub read_error { return $ps->sql_error("SELECT neon_test.store_read($seed, $steps, 20000)") }
my $error = read_error();
like($error, qr/file "[^"]*\.delta" is corrupted.*offset \d+/s, 'changed bytes in a layer are named');
like(read_error(), qr/file "[^"]*\.delta" is corrupted/, 'each time');
is($ps->sql("SELECT state FROM neon_pageserver.timelines WHERE timeline_id = '$timeline'"), 'active', 'what is in other places is served');
is(model($seed + 1, 2500), 't', 'others are served');
$spoil->();

# The end of the index, and the header, are read whenever a layer is opened.  A
# worker would make the file again from its data.
$ps->node->append_conf('postgresql.conf', "neon_pageserver.compaction_workers = 0\n");
for my $offset (-140, 4)
{
	$ps->stop;
	change_byte($layer, $offset);
	$ps->start;
	like(read_error(), qr/\.delta" (is corrupted|has version)/,
		"a changed byte at $offset of a layer");
	change_byte($layer, $offset);
}
$ps->stop;
$ps->start;
is(model($seed, $steps), 't', 'put right, it is served again');

$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|terminated by signal 6/, 'no panic in the log');
done_testing();
