# The WAL that the pageserver stored passes pg_waldump from its first to its
# last byte, over three boots, and a branch's WAL does too.
use strict;
use warnings;
use File::Basename;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->keep_wal;

sub waldump
{
	my ($branch, $what) = @_;
	my $dir = $t->wal_dir($branch);
	my @segments = sort grep { /^[0-9A-F]{24}$/ } map { basename($_) } glob("\Q$dir\E/*");
	ok(@segments > 0, "$what: there is WAL") or return;
	my $end = $t->timeline_field($branch, 'last_record_lsn');
	my $start = NeonTest::num_lsn(hex(substr($segments[0], 8, 8)) * 2**32 + hex(substr($segments[0], 16, 8)) * 2**20);
	my ($rc, $out, $err) =
	  $t->command([ 'pg_waldump', '-p', $dir, '-s', $start, '-e', $end ], timeout => 300);
	is($rc, 0, "$what: pg_waldump up to $end") or diag($err);
	my @lines = grep { /^rmgr/ } split /\n/, $out;
	cmp_ok(scalar(@lines), '>', 50, "$what: many records");
	my ($prev, $bad) = (undef, 0);
	for (@lines)
	{
		my ($lsn, $p) = m{lsn: ([0-9A-F]+/[0-9A-F]+), prev ([0-9A-F]+/[0-9A-F]+)} or next;
		$bad++ if defined $prev && NeonTest::lsn_num($p) != NeonTest::lsn_num($prev);
		$prev = $lsn;
	}
	is($bad, 0, "$what: each record names the one before it");
	return scalar grep { /CHECKPOINT_SHUTDOWN/ } @lines;
}

my $first = waldump('main', 'first boot');
for my $boot (2 .. 4)
{
	$t->psql('main', "CREATE TABLE t$boot AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g");
	$t->pgbench_init('main', 1) if $boot == 3;
	if ($boot == 3) { $t->kill9('main') }
	elsif ($boot == 2) { $t->endpoint_stop('main', '-m', 'immediate') }
	else { $t->endpoint_stop('main') }
	$t->endpoint_start('main');
}
$t->wait_ingest('main');
my $now = waldump('main', 'after three more boots');
cmp_ok($now, '>=', $first + 3, 'each boot left a boot record');
cmp_ok($t->timeline_field('main', 'term'), '>=', 4, 'the term grows');

$t->neon('timeline', 'branch', '--branch-name', 'b');
$t->endpoint_start('b', branch => 'b');
$t->psql('b', 'CREATE TABLE onbranch AS SELECT g FROM generate_series(1, 100000) g');
$t->wait_ingest('b', 'b');
waldump('b', 'branch');
cmp_ok($t->timeline_field('b', 'term'), '>', $t->timeline_field('main', 'term') - 1, "a branch's terms go on");

$t->neon('stop');
done_testing();
