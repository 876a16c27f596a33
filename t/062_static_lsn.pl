# Static endpoints at LSNs drawn at random while a rich workload ran: each is
# what stock PostgreSQL makes of the same WAL when its replay stops there.
use strict;
use warnings;
use NeonTest;
use RichWorkload;
use Test::More;

my $points = $NeonTest::long ? 4 : 2;
my $seconds = $NeonTest::long ? 30 : 7;
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->keep_wal;
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'max_prepared_transactions=20', 'checkpoint_timeout=30s',
	'autovacuum_naptime=1s', 'shared_buffers=16MB');
$t->neon('endpoint', 'start', 'main');
RichWorkload::setup($t, 'main', $NeonTest::long ? 5 : 1);
my $base = $t->vanilla_base('main', $t->tmp . '/base');
my $from = NeonTest::lsn_num($t->insert_lsn('main'));
my $load = RichWorkload::start($t, 'main');
sleep $seconds;
my $to = NeonTest::lsn_num($t->insert_lsn('main'));
cmp_ok($to, '>', $from + 1024 * 1024, 'the workload writes WAL');

# static endpoints are taken while the workload goes on
my @lsns = sort { $a <=> $b } map { $from + int(rand($to - $from)) } 1 .. $points;
note('LSNs: ' . join(' ', map { NeonTest::num_lsn($_) } @lsns));
my @got;
for my $i (0 .. $#lsns)
{
	my $ep = "s$i";
	my $want = NeonTest::num_lsn($lsns[$i]);
	$t->endpoint_start($ep, lsn => $want);
	if ($i == 1)
	{
		$load->stop;
		$t->psql('main', 'CHECKPOINT');
		$t->wait_ingest('main');
	}
	my $x = $t->boot_lsn($ep);
	cmp_ok(NeonTest::lsn_num($x), '<=', $lsns[$i], "$want is rounded down to $x");
	push @got, [ $x, $t->dump_all($ep) ];
	$t->amcheck($ep, "static endpoint at $x: amcheck and verify_heapam", readonly => 1);
	$t->psql_fails($ep, 'CREATE TABLE no(a int)', qr/read-only/, "static endpoint at $x is read-only");
	$t->endpoint_stop($ep);
	$t->neon('endpoint', 'destroy', $ep);
}

for my $g (@got)
{
	my ($x, $dump) = @$g;
	my $v = $t->vanilla_replay($base, $x, $t->wal_dir('main'));
	NeonTest::dumps_equal($dump, $v->dump_all, "static endpoint at $x equals stock replay");
	$v->stop;
}

# an ephemeral endpoint can be written to, and nothing of that stays
$t->endpoint_start('eph', lsn => $got[-1][0], ephemeral => 1);
$t->psql('eph', 'CREATE TABLE scribble AS SELECT 1 AS a');
is($t->psql('eph', 'SELECT a FROM scribble'), '1', 'an ephemeral endpoint is writable');
$t->endpoint_stop('eph');
$t->endpoint_start('eph2', lsn => $got[-1][0], ephemeral => 1);
is($t->psql('eph2', "SELECT to_regclass('scribble')"), '', 'what it wrote is not stored');
is($t->psql('main', "SELECT to_regclass('scribble')"), '', 'nor seen by main');

# the primary itself
$t->amcheck('main', 'amcheck of the primary');
$t->neon('stop');
done_testing();
