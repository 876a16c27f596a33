# A fault run: three safekeepers, a pageserver and computes on two machines
# under random faults, with clients that know what they were told.
use strict;
use warnings;
use FaultSystem;

BEGIN
{
	use Test::More;
	my $why = FaultSystem::enter_namespaces();
	plan skip_all => $why if $why;
}
use NeonTest;
use FaultRun;
use Time::HiRes qw(time);

my $hours = $ENV{NEON_TEST_SOAK_HOURS};
my $until = time + ($hours ? $hours * 3600 : $NeonTest::long ? 600 : 30);
my $t = FaultSystem->new;
# a rule that the safekeepers break: then this test has to fail
my $bug = $ENV{NEON_TEST_FAULT_BUG};
$until = time + 300 if $bug;
$t->start_system(bug => $bug);
my $run = FaultRun->new(t => $t);
my $ok;
do
{
	$ok = $run->round($hours || $NeonTest::long || $bug ? 30 + rand 30 : 35);
} while ($ok && time < $until);
$run->finish if $ok;
done_testing();
