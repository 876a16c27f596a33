# What is kept over a stop with a limit of disk space: not what was dropped, and
# no more than the limit has room for.
use strict;
use warnings;
use NeonTest;
use NeonWarm;
use Test::More;

my $limit = 20;		# MB
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'autovacuum=off', 'neon.prewarm_rate=0', 'shared_buffers=2MB');
$t->endpoint_start('main');
warm_extensions($t, 'main');
$t->psql('pageserver', 'CREATE EXTENSION neon_test_utils');
$t->psql('main', "CREATE TABLE much$_ AS SELECT g AS id, repeat('m', 800) AS v FROM generate_series(1, 9000) g") for 1 .. 4;

sub sums { return $t->psql('main', join(' UNION ALL ', map { "SELECT $_ AS n, sum(id), count(*), sum(hashtext(v)::int8) FROM much$_" } 1 .. 4) . ' ORDER BY n') }
my $sums = sums();

sub start
{
	my ($name) = @_;
	$t->endpoint_start('main');
	is(warm($t, 'kept_bytes > 0 AND reason IS NULL'), 't', "$name: something is kept");
	cmp_ok(warm($t, 'kept_bytes'), '<=', $limit << 20, 'no more than the limit');
	pages_agree($t, $name, 1000);
	is(sums(), $sums, 'the data are right');
	return;
}

$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=${limit}MB");
my $all = $t->psql('main', q{SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ 'much[0-9]$'});
$t->endpoint_stop('main');
start('a limit that is lower than what was here');
my $told = warm($t, 'kept_bytes + dropped_bytes, kept_chunks + dropped_chunks, dropped_bytes');
note("$told of $all bytes");
my ($bytes, $chunks, $dropped) = split /\|/, $told;
cmp_ok($bytes, '>=', $all, 'what was here is kept or dropped');
cmp_ok($dropped, '>=', $all - ($limit << 20), 'what has no room is told as dropped');
cmp_ok($chunks, '>=', $all >> 20, 'with its chunks');
like($t->neon('endpoint', 'logs', 'main'), qr/LOG:  \d+ relation files of the life before are not kept, as they do not fit below neon.local_size_limit/, 'and the log says why');
cmp_ok($t->psql('main', 'SELECT evicted_bytes >> 20 FROM neon.local_disk'), '>', 0, 'chunks are dropped');
$t->psql('main', 'UPDATE much2 SET v = reverse(v || id) WHERE id % 50 = 0');
$sums = sums();
$t->endpoint_stop('main');
start('after chunks were dropped');
$t->endpoint_stop('main');
my ($rc, $out) = $t->command([ 'du', '-skc', map { $t->pgdata('main') . "/$_" } qw(base global pg_tblspc) ]);
cmp_ok($out =~ /^(\d+)\s+total/m ? $1 : 'inf', '<=', $limit << 10, 'and it takes no more space when it is stopped');
$t->neon('stop');
done_testing();
