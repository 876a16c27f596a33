# The pageserver dies at each of the places where a crash finds half-done work
# (TESTING build), and the store is what the model says after it.
use strict;
use warnings;
use IPC::Run qw(start);
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_pageserver.so";

my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");

my $ps = NeonPageserver->new('store', conf => "neon_pageserver.image_chain = 0\n");
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ps->stop;
my $pgdata = $ps->node->data_dir;
$ps->node->append_conf('postgresql.conf', "dynamic_library_path = '$lib:\$libdir'\n");

# Processes that work in the data directory.
sub attached
{
	return grep { (readlink($_) // '') eq $pgdata } glob('/proc/[0-9]*/cwd');
}

sub model { return $ps->sql("SELECT neon_test.store_model($seed, $_[0], 1000) > $_[0]") }

sub run_until_crash
{
	my ($steps) = @_;
	my ($out, $err) = ('', '');
	local $ENV{PGUSER} = 'cloud_admin';
	my $h = start([ 'psql', '-XAtq', '-d', $ps->node->connstr('postgres'), '-c',
			"SELECT neon_test.store_model($seed, $steps, 10)" ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(120));
	eval { $h->finish };
	my $crashed = $err =~ /server closed the connection|terminating connection|could not connect|connection to server/;
	for (1 .. 200)
	{
		last if !$crashed || !attached();
		usleep(50_000);
	}
	return $crashed && !attached();
}

my $steps = 0;
# Behind a colon: what begins a timeline, so such a run is a new one.  The others
# go on with the same one, whose manifest is rewritten often in this build.
for my $name (
	'layer-written', 'layer-synced', 'layer-in-manifest', 'edit-written',
	'snapshot-written', 'snapshot-synced',
	'new:snapshot-written', 'new:snapshot-synced', 'new:branch-point', 'new:branch-manifest')
{
	my ($new, $point) = $name =~ /^(new:)?(.*)/;
	$seed++ if $new;
	$steps = $new ? 20000 : $steps + 3000;
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = '$point'\n");
	$ps->start;
	ok(run_until_crash($steps), "the server died at $name");
	$ps->node->{_pid} = undef;
	unlink "$pgdata/postmaster.pid", glob($ps->node->host . '/.s.PGSQL.*');
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = ''\n");
	$ps->start;
	is(model($steps), 't', "$name: nothing that was flushed is lost, everything else can be done again");
	$ps->stop;
}
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|corrupted/, 'no panic, no damage in the log');
done_testing();
