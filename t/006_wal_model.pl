# The model of the WAL service: it holds within small bounds, and fails
# without any one of its rules.
use strict;
use warnings;
use Test::More;
use WalModel;

my $two = WalModel->new(LAUNCHERS => 2, LENGTH => 2);
ok($two->search(without => 'GOAL')->{errors}, 'two computes, one after the other, commit');
$two->holds;
$two->fails_without($_)
  for qw(NONSTRICT NOPERSIST LATESTREAM QUORUM1V QUORUM1 ELECTEDOLD NOTRUNC HISTFIRST DUPTRUNC NOCATCHUP NOHIST ACKNOSYNC COMMITBLIND NOZERO RESUME WIPE);

my $three = WalModel->new(LAUNCHERS => 3, LENGTH => 1);
$three->holds if $ENV{NEON_TEST_LONG};
$three->fails_without($_) for qw(DONORLSN NOCUT TRUNCX DONORANY BOOTVOTES BOOTHIST);

my $replaced = WalModel->new(LAUNCHERS => 4, LENGTH => 2, REPLACED => '');
$replaced->holds;
$replaced->fails_without($_) for qw(DONORBLIND COPYFINAL GOSSIPLLT);

if ($ENV{NEON_TEST_LONG})
{
	WalModel->new(LAUNCHERS => 2, LENGTH => 2, TAIL => '')->holds;
	WalModel->new(LAUNCHERS => 3, LENGTH => 2, MEMBERS => 1)->holds;
	WalModel->new(LAUNCHERS => 4, LENGTH => 2, FIGURE8 => '')->fails_without('NOXGUARD', hash_bits => 24);
}
is_deeply([ WalModel::never_left_out() ], $ENV{NEON_TEST_LONG} ? [] : ['NOXGUARD'], 'every rule of the model is left out once');
done_testing();
