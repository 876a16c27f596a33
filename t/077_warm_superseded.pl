# A compute that another one has taken over from, and that is stopped cleanly
# without having heard of it, has pages that are in nobody's history: its next
# start keeps none of them.  Two state directories that do not know of each
# other, with the same pageserver and safekeepers.
use strict;
use warnings;
use File::Copy;
use NeonTest;
use NeonWarm;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR};
my $t = one_and_two(NeonTest->new(safekeepers => 3), settings => ['neon.save_interval=1h']);

my $o = NeonTest->new(safekeepers => 3, name => 'other');
mkdir $o->dir;
copy($t->dir . '/config', $o->dir . '/config') or die "config: $!";
chmod 0600, $o->dir . '/config';
symlink $t->dir . "/$_", $o->dir . "/$_" or die "$_: $!" for qw(pageserver safekeepers);
@{$o}{qw(ps_port tenant)} = ($t->{ps_port}, $t->tenant);

sub sums { my ($side, $name) = @_; return $side->psql($name, 'SELECT sum(id + n), count(*) FROM one UNION ALL SELECT sum(id + n), count(*) FROM two') }

# a life with wrong pages writes them, so that one comes last
for my $bug ($lib ? ('', 'any_lineage') : (''))
{
	my $name = $bug ? 'without the check' : 'with it';
	if ($lib)
	{
		$t->endpoint_stop('main');
		break_rule($t, $_, $bug) for qw(main pageserver);
		$t->neon('pageserver', 'stop');
		$t->neon('pageserver', 'start');
		$t->endpoint_start('main');
	}
	# it goes on without anybody who could tell it something
	my $pid = $t->postmaster_pid('main');
	my @deaf = $t->children_of($pid, qr/neon coordinator|walsender/);
	$t->signal('STOP', @deaf);
	$t->psql('main', 'DO $$ BEGIN SET LOCAL synchronous_commit = off; UPDATE one SET n = 1000000; END $$');

	$o->endpoint_start('other', branch => 'main', take_over => 1);
	$o->psql('other', 'UPDATE two SET n = n - 1') for 1 .. 4;
	my $right = sums($o, 'other');
	# nobody answers it while it is stopped
	$o->endpoint_stop('other');
	$t->neon($_, 'stop') for 'pageserver';
	$t->neon('safekeeper', 'stop', $_) for 1 .. 3;
	$t->signal('INT', $pid);
	$t->signal('CONT', @deaf);
	$t->wait_for('its end', sub { !NeonTest::alive($pid) });
	ok(-f $t->pgdata('main') . '/neon.kept', "$name: it was stopped cleanly");
	$t->neon('safekeeper', 'start', $_) for 1 .. 3;
	$t->neon('pageserver', 'start');
	my $stopped = unpack 'x104 Q<', NeonTest::Vanilla::slurp($t->pgdata('main') . '/neon.kept');
	$t->endpoint_start('main');
	cmp_ok($stopped, '<', NeonTest::lsn_num($t->boot_lsn('main')), 'where the branch went on');
	my $now = eval { sums($t, 'main') } // '';
	if ($bug)
	{
		isnt($now, $right, "$name: wrong");
		last;
	}
	is($now, $right, "$name: right");
	is(warm($t, 'kept_bytes'), 0, 'nothing is kept');
	pages_agree($t, 'superseded', 2000);
	$t->amcheck('main');
}
$t->neon('stop');
done_testing();
