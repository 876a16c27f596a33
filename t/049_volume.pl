# What the storage needs for a history much larger than the database: on disk
# once the past may go, and as a curve while it is written.
use strict;
use warnings;
use StorageVolume;
use Test::More;

plan skip_all => 'takes minutes (NEON_TEST_LONG)' if !$ENV{NEON_TEST_LONG};
my $share = ($ENV{NEON_TEST_VOLUME_PERCENT} || 100) / 100;
space_after_updates(100, 1024 * $share);
curves_under_load(256, 5 * 1024 * $share, 20);
done_testing();
