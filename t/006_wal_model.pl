# The models of the WAL service: they hold within small bounds, and fail
# without any one of their rules.
use strict;
use warnings;
use Test::More;
use WalModel;

my $two = WalModel->new(LAUNCHERS => 2, LENGTH => 2);
ok($two->search(without => 'GOAL')->{errors}, 'two computes, one after the other, commit');
$two->holds;
$two->fails_without($_)
  for qw(NONSTRICT NOPERSIST LATESTREAM QUORUM1V QUORUM1 ELECTEDOLD NOTRUNC HISTFIRST DUPTRUNC NOCATCHUP NOHIST ACKNOSYNC COMMITBLIND NOZERO RESUME WIPE);

my $three = WalModel->new(LAUNCHERS => 3, LENGTH => 1, -optimize => $ENV{NEON_TEST_LONG} ? 1 : 0);
$three->holds if $ENV{NEON_TEST_LONG};
$three->fails_without($_) for qw(DONORLSN NOCUT TRUNCX DONORANY BOOTVOTES BOOTHIST);

my $replaced = WalModel->new(LAUNCHERS => 4, LENGTH => 2, REPLACED => '');
$replaced->holds;
$replaced->fails_without($_) for qw(DONORBLIND COPYFINAL GOSSIPLLT);

my $jump = WalModel->new(LAUNCHERS => 2, LENGTH => 2, JUMP => '');
$jump->holds;
ok($jump->search(without => 'JUMPED')->{errors}, 'who has jumped gets to report');
$jump->fails_without($_) for qw(KEEPSTORED JUMPBEHIND JUMPCOUNTS JUMPELECTED JUMPSTART);

if ($ENV{NEON_TEST_LONG})
{
	WalModel->new(LAUNCHERS => 3, LENGTH => 1, JUMP => '', -optimize => 1)->holds;
	WalModel->new(LAUNCHERS => 2, LENGTH => 2, TAIL => '', -optimize => 1)->holds;
	WalModel->new(LAUNCHERS => 3, LENGTH => 2, MEMBERS => 1)->holds;
	WalModel->new(LAUNCHERS => 4, LENGTH => 2, FIGURE8 => '', -optimize => 1)->fails_without('NOXGUARD', hash_bits => 24);
}
is_deeply([ WalModel::never_left_out('wal.pml') ], $ENV{NEON_TEST_LONG} ? [] : ['NOXGUARD'], 'every rule of the model is left out once');

# ---- the members change ----

sub change { return WalModel->new(model => 'reconf.pml', LAUNCHERS => 2, @_) }

# one safekeeper in place of another
my $one = change(LENGTH => 2, MEMBERS => 2, OLD => 1, NEW => 2);
ok($one->search(without => 'GOAL')->{errors}, 'a commit before the change of the members, and one of another compute after it');
$one->holds;
$one->fails_without($_)
  for qw(JOINTSTEP JOINTCOMMIT VOTEOLD VOTENEW STRANGER COUNTGEN SENDERS ORDER AWARE OLDTERM POSITION COMPUTEFLOOR LEARNTERM);

# from three safekeepers to one
my $less = change(LENGTH => 1, MEMBERS => 3, OLD => 7, NEW => 1, -optimize => $ENV{NEON_TEST_LONG} ? 2 : 0);
$less->fails_without($_) for qw(VOTEGEN BOTHSETS);

my @defence = qw(FLOORS FLOOR PROMISED LEARNPROMISE AWARENEW);
if ($ENV{NEON_TEST_LONG})
{
	$one->holds(without => $_) for @defence;
	$less->holds(hash_bits => 24);
	change(LENGTH => 1, MEMBERS => 3, OLD => 1, NEW => 7, -optimize => 2)->holds(hash_bits => 24);
	change(LENGTH => 1, MEMBERS => 3, OLD => 1, NEW => 2, CHANGES => 2, THIRD => 4, -optimize => 2)->holds(hash_bits => 24);
}
# without COUNTED it takes millions of states: t/soak_model.pl
is_deeply([ WalModel::never_left_out('reconf.pml') ], [ sort 'COUNTED', $ENV{NEON_TEST_LONG} ? () : @defence ], 'so is every rule of the change');
done_testing();
