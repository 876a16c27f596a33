# The models of the WAL service within large bounds, up to 6 GB.  What is bounded is
# searched for five minutes for each hour of the soak.
use strict;
use warnings;
use Test::More;
use WalModel;

sub large { WalModel->new(@_, -MEMLIM => 6000, -optimize => 2) }
sub change { large(model => 'reconf.pml', @_) }

large(LAUNCHERS => 3, LENGTH => 2)->holds(hash_bits => 26, seconds => 1800);
large(LAUNCHERS => 3, LENGTH => 1, TAIL => '')->holds(hash_bits => 26, seconds => 1200);
my $figure8 = large(LAUNCHERS => 4, LENGTH => 2, FIGURE8 => '');
$figure8->holds(hash_bits => 26, seconds => 1200);
$figure8->fails_without($_, hash_bits => 26, seconds => 1200) for qw(NOXGUARD GOSSIPLLT);
large(LAUNCHERS => 5, LENGTH => 2, REPLACED => '')->holds(hash_bits => 24);
large(LAUNCHERS => 2, LENGTH => 1, MEMBERS => 5)->holds(hash_bits => 26, seconds => 1200);
large(LAUNCHERS => 2, LENGTH => 2, MEMBERS => 5)->holds(hash_bits => 27, seconds => 300, bounded => 1);
large(LAUNCHERS => 3, LENGTH => 2, TAIL => '')->holds(hash_bits => 27, seconds => 300, bounded => 1);

# ---- the members change ----

my $replace = change(LAUNCHERS => 2, LENGTH => 1);
$replace->holds(hash_bits => 26, seconds => 1800);
$replace->fails_without($_, hash_bits => 26, seconds => 600)
  for qw(JOINTSTEP JOINTCOMMIT VOTEOLD VOTENEW VOTEGEN STRANGER COUNTGEN SENDERS ORDER AWARE OLDTERM POSITION COMPUTEFLOOR LEARNTERM BOTHSETS COUNTED);
$replace->holds(without => $_, hash_bits => 26, seconds => 300, bounded => 1) for qw(FLOORS FLOOR PROMISED AWARENEW);
# after 20 million states
$replace->fails_without('LEARNPROMISE', hash_bits => 26, seconds => 1800);
change(LAUNCHERS => 2, LENGTH => 2, MEMBERS => 3, OLD => 1, NEW => 7)->holds(hash_bits => 26, seconds => 900);
change(LAUNCHERS => 3, LENGTH => 2, MEMBERS => 2, OLD => 1, NEW => 2)->holds(hash_bits => 26, seconds => 900);
# two changes, one after the other, and a third launcher
change(LAUNCHERS => 3, LENGTH => 1, MEMBERS => 3, OLD => 1, NEW => 2, CHANGES => 2, THIRD => 4)->holds(hash_bits => 27, seconds => 3600);
change(LAUNCHERS => 3, LENGTH => 1)->holds(hash_bits => 27, seconds => 300, bounded => 1);
done_testing();
