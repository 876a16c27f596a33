# The fault run finds bugs: with a rule of the protocol broken on purpose it
# fails; it goes on for five minutes at most.
use strict;
use warnings;
use FaultSystem;

BEGIN
{
	use Test::More;
	plan skip_all => 'make check-long has it' if !$ENV{NEON_TEST_LONG};
	my $why = FaultSystem::enter_namespaces();
	plan skip_all => $why if $why;
}
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(time);

my %finds = (
	'acknowledge-before-sync' => qr/nothing has damaged it|every client finds what it was told|all is well again/,
	'forget-promise' => qr/has promised term \d+ and says now that it was|one history|every client finds/);

for my $bug (sort keys %finds)
{
	my $began = time;
	local %ENV = (%ENV, NEON_TEST_FAULT_BUG => $bug, TESTDATADIR => "$ENV{TESTDATADIR}/$bug");
	delete $ENV{NEON_TEST_OWN_NAMESPACES};
	mkdir $ENV{TESTDATADIR};
	open(my $run, '-|', $^X, (map { ('-I', $_) } @INC), $0 =~ s/091_planted_bugs_root/090_faults_root/r) or die $!;
	my @failed = grep { /^not ok/ } <$run>;
	close $run;
	like(join('', @failed), $finds{$bug}, "$bug is found") or diag(@failed);
	note(sprintf '%s: after %.0f s', $bug, time - $began);
}
done_testing();
