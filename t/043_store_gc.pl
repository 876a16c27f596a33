# Compaction into partitions and a horizon that moves, against the model: at
# every LSN that is still readable the pages, sizes and values are those of the
# model, with kills in between and readers beside it.
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

# The model's records are no PostgreSQL records: only the sessions that know
# what they do to a page may compact.
my $ps = NeonPageserver->new('store', conf => <<'CONF');
neon_pageserver.image_chain = 0
neon_pageserver.compaction_threshold = 0
neon_pageserver.compaction_target_size = 64kB
neon_pageserver.maintenance_io_limit = 0
neon_pageserver.pitr_interval = 0
restart_after_crash = on
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $steps = $long ? 24000 : 8000;

sub gc { return $ps->sql("SELECT neon_test.store_gc($_[0], $_[1], @{[ $_[2] // 2000 ]})") }

sub background
{
	my ($sql) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = 'cloud_admin';
	my $h = start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $ps->node->connstr('postgres'), '-c', $sql ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(600));
	return { h => $h, out => \$out, err => \$err };
}

sub finished
{
	my ($job) = @_;
	eval { $job->{h}->finish; 1 } or return "not finished: $@";
	return ${ $job->{out} } . ${ $job->{err} };
}

# What timeline_verify says of layers and manifests: the model's WAL is no chain.
sub problems
{
	my ($where) = @_;
	$where //= 'true';
	return $ps->sql(<<SQL);
SELECT string_agg(format('%s at %s: %s', file, byte_offset, problem), E'\n')
FROM (SELECT * FROM neon_pageserver.timelines WHERE $where OFFSET 0) t, neon_pageserver.timeline_verify(tenant_id, timeline_id)
WHERE file !~ '/wal/'
SQL
}

# Of the root timeline of one model.
sub root_of { return 'ancestor_id IS NULL AND tenant_id = $$' . unpack('H*', pack('Q< a4 V', $_[0], 'ZZZZ', 0)) . '$$' }
sub problems_of { return problems(root_of($_[0])) }

cmp_ok(gc($seed, $steps), '>', 10, 'a run with compaction: all that is readable is what the model says');
is(problems(), '', 'files and partitions are in order');
my $log = slurp_file($ps->node->logfile);
# what a seed does not lead to, another one does
my @kinds = (map({ qr/$_ of partition \d+ of \d+/ } qw(pull fold rebase)), qr/which is divided/, qr/cannot be made/);
for my $more (1 .. 6)
{
	last if !grep { $log !~ $_ } @kinds;
	gc($seed + 1000 * $more, $steps);
	$log = slurp_file($ps->node->logfile);
}
like($log, qr/$_ of partition \d+ of \d+/, "there was a $_") for qw(pull fold rebase);
like($log, qr/which is divided/, 'partitions were divided');
my @unmade = $log =~ /(block \d+ of relation \S+ fork \d of timeline "\w+") cannot be made/g;
cmp_ok(scalar @unmade, '>', 0, 'pages that cannot be made (there are some in each run) stay as they are');
is(scalar keys %{ { map { $_ => 1 } @unmade } }, scalar @unmade, 'and are logged once each');
gc($seed, $steps);
$ps->restart;
cmp_ok(gc($seed, $steps), '>=', 0, 'and after a restart');

# readers beside it
my $other = $seed + 1;
my @jobs = (background("SELECT neon_test.store_gc($other, $steps, 500) > 0"),
	background("SELECT neon_test.store_gc_read($other, $steps, @{[ $long ? 20000 : 3000 ]}) > 0"));
# and whoever verifies: what is rewritten meanwhile is no problem
my (@said, $rounds);
while (grep { $_->{h}->pumpable } @jobs)
{
	my $said = eval { problems() } // $@;
	push @said, $said if $said ne '' && $said !~ /does not exist/;
	$rounds++;
	for (grep { $_->{h}->pumpable } @jobs) { eval { $_->{h}->pump_nb } }
}
is(join("\n", @said), '', "verified $rounds times meanwhile: in order");
is(finished($_), "t\n", 'a run, and a reader beside it') for @jobs;

# kills
for my $round (1 .. ($long ? 8 : 3))
{
	my $n = $round * ($long ? 4000 : 2500);
	my $job = background("SELECT neon_test.store_gc(@{[ $seed + 2 ]}, $n, 10)");
	usleep(200_000 + int(rand(1_500_000)));
	$ps->stop('immediate');
	finished($job);
	$ps->start;
	cmp_ok(gc($seed + 2, $n, 1000), '>=', 0, "after kill $round what is readable is what it was");
}
is(problems(), '', 'files and partitions are in order');

# a partition that says that it has what it has not
my $model = $seed + 3;
$ps->sql("SELECT neon_test.store_act($model, 3000, 'flush')");
is(problems(), '', 'files are in order');
my @hidden = split /\|/, $ps->sql('SELECT tenant_id, timeline_id FROM neon_pageserver.timelines WHERE ' . root_of($model));
$ps->sql("SELECT neon_test.hide_versions('$hidden[0]', '$hidden[1]')");
like(problems(), qr/timelines\/$hidden[1] at : Of the versions up to \S+ a partition lacks \d+ that wide files have, the first one at \S+ of key [\d\/]+: no reader finds them\./, 'hidden versions are found');

# a history point that a rewrite at the horizon did not know of; where a seed makes
# one partition only, no wide file is left beside it
for my $more (0 .. 9)
{
	$model = $seed + 4 + 1000 * $more;
	$ps->sql("SELECT neon_test.store_act($model, 1000 * $_, 'flush')") for 1 .. 4;
	is(problems_of($model), '', 'files are in order');
	last if $ps->sql_error("SELECT neon_test.store_act($model, 4000, 'point')") !~ /nothing was rewritten/;
}
like(problems_of($model), qr/Of the versions up to \S+ a partition lacks \d+ that wide files have, the first one at \S+ of key [\d\/]+: no reader finds them\./, 'what a history point lacks is found');
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|terminated by signal 6/, 'no panic in the log');
done_testing();
