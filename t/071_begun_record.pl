# A compute that dies in the middle of a record of many pages: whole pages of it
# are written before it is complete, and that is the end of the WAL, no damage,
# when laptop mode drains it.
# The segments are larger than PostgreSQL's default for min_wal_size allows.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $segment_size = 64 * 1024 * 1024;
my $t = NeonTest->new(safekeepers => 0);
$t->quickstart(tenant => [ '--wal-segsize', '64' ]);
is($t->psql('main', 'SHOW wal_segment_size'), '64MB', 'an endpoint with large segments starts');
$t->psql('main', 'CREATE TABLE t(a int)');
$t->wait_ingest('main');

# Zeros from the given LSN to the end of its segment, as in a file that was
# never written there.
sub cut_wal
{
	my ($lsn, $segment) = @_;
	my $offset = NeonTest::lsn_num($lsn) % $segment_size;
	open(my $fh, '+<:raw', $t->pgdata('main') . "/pg_wal/$segment") or die "$segment: $!";
	seek($fh, $offset, 0) or die $!;
	print $fh "\0" x ($segment_size - $offset);
	close($fh) or die $!;
}

# cut: bytes of the long record that are there
for my $cut (3 * 8192, 20 * 8192 + 4096, 100 * 8192 + 1234)
{
	my ($walsender) = $t->children_of($t->postmaster_pid('main'), qr/walsender/);
	kill 'STOP', $walsender;
	$t->psql('main', 'INSERT INTO t SELECT generate_series(1, 100)');
	my $before = NeonTest::lsn_num($t->psql('main', 'SELECT pg_current_wal_insert_lsn()'));
	$t->psql('main', "SELECT pg_logical_emit_message(true, 'long', repeat('y', 1000000))");
	my $at = NeonTest::num_lsn($before + $cut);
	my $segment = $t->psql('main', "SELECT pg_walfile_name('$at')");
	$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
	cut_wal($at, $segment);
	$t->neon_ok([ $t->endpoint_args('main') ], "start after $cut bytes of a record");
}
is($t->psql('main', 'SELECT count(*) FROM t'), '300', 'what was committed before is there');

done_testing();
