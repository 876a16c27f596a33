# The model of the WAL service within large bounds: an hour and up to 6 GB.
use strict;
use warnings;
use Test::More;
use WalModel;

sub large { WalModel->new(@_, -MEMLIM => 6000) }

large(LAUNCHERS => 3, LENGTH => 2)->holds(hash_bits => 26, seconds => 1800);
large(LAUNCHERS => 3, LENGTH => 1, TAIL => '')->holds(hash_bits => 26, seconds => 1200);
my $figure8 = large(LAUNCHERS => 4, LENGTH => 2, FIGURE8 => '');
$figure8->holds(hash_bits => 26, seconds => 1200);
$figure8->fails_without($_, hash_bits => 26, seconds => 1200) for qw(NOXGUARD GOSSIPLLT);
large(LAUNCHERS => 5, LENGTH => 2, REPLACED => '')->holds(hash_bits => 24);
large(LAUNCHERS => 2, LENGTH => 1, MEMBERS => 5)->holds(hash_bits => 26, seconds => 1200);
large(LAUNCHERS => 2, LENGTH => 2, MEMBERS => 5)->holds(hash_bits => 27, seconds => 900, bounded => 1);
large(LAUNCHERS => 3, LENGTH => 2, TAIL => '')->holds(hash_bits => 27, seconds => 900, bounded => 1);
done_testing();
