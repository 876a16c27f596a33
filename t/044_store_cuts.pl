# The power is cut at each change and each sync of every path of the storage:
# the timelines open, have what was acknowledged, and are what the model says.
# The long run takes all of them, the short one some, others with each seed.
use strict;
use warnings;
use Cwd qw(realpath);
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

# The server's own compaction and horizon stand still: the acts below are theirs.
my $ps = NeonPageserver->new('store', conf => <<'CONF');
neon_pageserver.image_chain = 0
neon_pageserver.compaction_threshold = 0
neon_pageserver.compaction_target_size = 64kB
neon_pageserver.maintenance_io_limit = 0
neon_pageserver.wal_keep = 0
autovacuum = off
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ps->stop;
my $pgdata = realpath($ps->node->data_dir);
$ps->node->append_conf('postgresql.conf', "dynamic_library_path = '$ENV{NEON_TESTING_LIBDIR}:\$libdir'\n");
mkdir "$pgdata/neon";
my $cut = PowerCut->new(log => $PostgreSQL::Test::Utils::tmp_check . '/cuts', dirs => ["$pgdata/neon"]);

sub start_watched
{
	local %ENV = (%ENV, $cut->env(@_));
	local $ENV{PGUSER} = 'cloud_admin';
	return $ps->node->start(fail_ok => 1);
}

# ---- the model, whose steps go on from cut to cut ----

my ($model, $steps, $extra) = ($seed, 0, 0);

sub act_sql { return "SELECT neon_test.store_act($model, $steps, '$_[0]')" }
sub act { return $ps->sql(act_sql($_[0])) }
sub id { return unpack 'H*', pack('Q< a4 V', $model, 'ZZZZ', $_[0]) }

# Longer models are slower ones.
sub more_steps
{
	my ($n) = @_;
	($model, $steps) = ($model + 1, 0) if $steps > 12000;
	$steps += $n;
	act('put');
	return;
}

sub flushed { return { split /[|\n]/, $ps->sql('SELECT timeline_id, disk_consistent_lsn FROM neon_pageserver.timelines') } }

# ---- paths: what is made before, what is cut, what holds once it has returned ----

my %number = (setting => 1000, name => 0, leases => 0);
my $left;	# what is opened again and again: the directory, and what was flushed
my %path = (
	'flush' => {
		changes => 12,
		before => sub { more_steps(400) },
		sql => sub { act_sql('flush') },
	},
	'removal of stored WAL' => {
		changes => 13,
		before => sub { more_steps(3000) },
		sql => sub { act_sql('flush') },
	},
	'compaction' => {
		changes => 32,
		before => sub { more_steps(400); act('flush'); act('horizon') },
		sql => sub { act_sql('compact') },
	},
	'horizon' => {
		changes => 3,
		before => sub { more_steps(100); act('flush'); act('horizon') },
		sql => sub { act_sql('horizon') },
	},
	'lease' => {
		changes => 7,
		before => sub { more_steps(100); $number{leases} = leases() },
		sql => sub { act_sql('lease') },
		there => sub { leases() > $number{leases} },
	},
	'branch' => {
		changes => 15,
		before => sub { delete_extra(); more_steps(50); act('flush') if rand() < 0.5 },
		sql => sub { act_sql('branch') },
		there => sub { has_extra() },
	},
	'deletion' => {
		changes => 10,
		before => sub { more_steps(10); if (!has_extra()) { act('branch'); act('fill') } },
		sql => sub { "SELECT neon_pageserver.timeline_delete('@{[ id(0) ]}', '@{[ id(100) ]}')" },
		there => sub { !has_extra() && !-e timeline_dir(100) },
	},
	'new manifest' => {
		changes => 7,
		fresh => 1,
		before => sub { more_steps(1); $number{name}++ },
		sql => sub { "SELECT neon_pageserver.timeline_rename('@{[ id(0) ]}', '@{[ name() ]}', 'n$number{name}')" },
		there => sub { name() eq "n$number{name}" },
	},
	'opening' => {
		changes => 80,
		before => sub { $left ? put_back() : leave_cut_compaction() },
		opening => 1,
	},
	'settings' => {
		changes => 6,
		before => sub { more_steps(1); $number{setting}++ },
		sql => sub { "SELECT neon_pageserver.tenant_configure('@{[ id(0) ]}', '7 days', $number{setting})" },
		there => sub { setting() == $number{setting} },
		holds => sub { setting() =~ /^(67108864|$number{setting}|@{[ $number{setting} - 1 ]})$/ },
	});

sub leave_cut_compaction
{
	more_steps(300);
	act($_) for qw(flush horizon);
	$left = { dir => $PostgreSQL::Test::Utils::tmp_check . '/left', flushed => flushed() };
	run_cut(act_sql('compact'), 1 + int(rand(25)));
	undo();
	system_or_bail('cp', '-a', "$pgdata/neon", $left->{dir});
	return;
}

# All cuts of an opening are cuts of the same one: else it would have more to do each time.
sub put_back
{
	kill_node($ps->node, all => 1);
	$cut->reset;
	system_or_bail('rm', '-r', "$pgdata/neon");
	system_or_bail('cp', '-a', $left->{dir}, "$pgdata/neon");
	return;
}

sub leases { return $ps->sql("SELECT count(*) FROM neon_pageserver.history_points WHERE kind = 'lease'") }
sub has_extra { return $ps->sql("SELECT count(*) FROM neon_pageserver.timelines WHERE timeline_id = '@{[ id(100) ]}'") > 0 }
sub timeline_dir { return "$pgdata/neon/tenants/@{[ id(0) ]}/timelines/@{[ id($_[0]) ]}" }
sub delete_extra { $ps->sql($path{deletion}{sql}->()) if has_extra(); return }
sub name { return $ps->sql("SELECT name FROM neon_pageserver.timelines WHERE timeline_id = '@{[ id(1) ]}'") }
sub setting { return $ps->sql("SELECT gc_horizon FROM neon_pageserver.tenant_settings('@{[ id(0) ]}')") }

# ---- a cut ----

# Runs the statement until it ends or the power is cut; its error, undef if it was cut.
sub run_cut
{
	my ($sql, $k) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = 'cloud_admin';
	my $before = $cut->changes;
	$cut->arm($k, $ps->node->{_pid});
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-d', $ps->node->connstr('postgres'), '-c', $sql ],
		'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(180));
	while (!$cut->was_cut && $h->pumpable) { $h->pump_nb; usleep(2_000) }
	my $was_cut = $cut->was_cut;
	$cut->cut if !$was_cut;
	my $n = $cut->changes - $before;
	kill_node($ps->node, all => 1);
	eval { $h->finish };
	return ($was_cut ? undef : $err, $n);
}

# Puts back what was not synchronized, or a part of it.
sub undo { return $cut->undo(rand() < 0.5 ? () : (seed => int(rand(2**30)))) }

# The cut is while the server opens what another cut has left.
sub open_cut
{
	my ($k) = @_;
	start_watched(at => $k);
	for (my $last = -1; !$cut->was_cut && $last != $cut->changes; usleep(300_000)) { $last = $cut->changes }
	my $was_cut = $cut->was_cut;
	$cut->cut if !$was_cut;
	my $n = $cut->changes;
	kill_node($ps->node, all => 1);
	return ($was_cut ? undef : '', $n);
}

# Nothing that is in files is worse than what the model says.
sub check
{
	my ($what, $before) = @_;
	my $after = flushed();
	my @back = grep { defined $after->{$_} && NeonPageserver::lsn_number($after->{$_}) < NeonPageserver::lsn_number($before->{$_}) } keys %$before;
	my @gone = grep { !defined $after->{$_} && $_ ne id(100) } keys %$before;
	my $error = $ps->sql_error(act_sql('put'))
	  || $ps->sql_error("SELECT neon_test.store_gc_read($model, $steps, 200)") || problems();
	return ok(!@back && !@gone && $error eq '', $what) || diag("back: @back, gone: @gone, $error");
}

# What timeline_verify says of layers and manifests: the model's WAL is no chain.
sub problems
{
	return $ps->sql(<<"SQL");
SELECT string_agg(format('%s at %s: %s', file, byte_offset, problem), E'\\n')
FROM neon_pageserver.timelines, neon_pageserver.timeline_verify(tenant_id, timeline_id)
WHERE file !~ '/wal/' AND tenant_id = '@{[ id(0) ]}'
SQL
}

sub restart_watched
{
	$ps->stop;
	$cut->reset;
	return start_watched();
}

# One cut: true if it was before the end.
sub cut_at
{
	my ($name, $k) = @_;
	my $p = $path{$name};
	$p->{before}->();
	restart_watched() if $p->{fresh};
	my $before = $p->{opening} ? $left->{flushed} : flushed();
	my ($error, $n) = $p->{opening} ? open_cut($k) : run_cut($p->{sql}->(), $k);
	my $undone = undo();
	my $what = defined $error ? "$name: cut after its $n changes" : "$name: cut at change $k";
	if (!start_watched()) { fail("$what: a start"); BAIL_OUT("no start after it") }
	is($error, '', "$name: no error") if defined $error;
	ok($p->{there}->(), "$what: it is there") if defined $error && $p->{there};
	ok($p->{holds}->(), "$what: it is there or not") if $p->{holds};
	check("$what, $undone undone", $before);
	return !defined $error;
}

start_watched() or die 'no start';
more_steps(2000);
if ($long)
{
	# an opening takes its changes for each timeline: first, while there are few
	for my $name ('opening', grep { $_ ne 'opening' } sort keys %path)
	{
		my $k = 1;
		while (cut_at($name, $k)) { $k++ }
		diag("$name: @{[ $k - 1 ]} changes");
		cmp_ok($k, '>', 1, "$name has changes");
	}
}
else
{
	# a cut after the end is one in four
	for my $name (sort keys %path)
	{
		cut_at($name, rand() < 0.25 ? 1_000_000 : 1 + int(rand($path{$name}{changes})));
	}
}
$ps->stop('immediate');
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|corrupted|damaged/, 'no panic, no damage in the log');
done_testing();
