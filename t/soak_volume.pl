# The same as t/049_volume.pl in full: 5 GB of WAL on 500 MB, 20 GB on 2 GB.
use strict;
use warnings;
use StorageVolume;
use Test::More;

space_after_updates(500, 5 * 1024);
curves_under_load(2048, 20 * 1024, 20);
done_testing();
