# The library refuses a server that does not call one of the replaced slots.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use NeonOverlay;

plan skip_all => 'needs the TESTING build' unless NeonOverlay::available();

my $ref = PostgreSQL::Test::Cluster->new('reference');
$ref->init;
$ref->start;
$ref->stop;

my $node = NeonOverlay->boot($ref, 'compute', no_start => 1);

for my $slot (qw(create exists unlink extend prefetch read write nblocks truncate))
{
	local $ENV{NEON_TEST_SKIP_SLOT} = $slot;
	unlink $node->logfile;
	ok(!$node->start(fail_ok => 1), "without slot $slot the server does not start");
	my $log = slurp_file($node->logfile);
	like($log, qr/FATAL:  this PostgreSQL server cannot be used with neon/, "$slot: refused");
	like($log, qr/does not call slot "$slot" of its table/, "$slot: named");
	like($log, qr/HINT:  Use an unmodified PostgreSQL 15 package/, "$slot: hint");
	ok(-f $node->data_dir . '/neon.ticket', "$slot: the boot ticket is not used up");
	ok(!-e $node->data_dir . '/neon.map', "$slot: no map was made");
}
is_deeply([ glob($node->data_dir . '/base/1/t*') ], [], 'the self-test leaves no file');

# And with all of them it does.
unlink $node->logfile;
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) > 300 FROM pg_class'), 't', 'a query');
my $maps = slurp_file('/proc/' . slurp_file($node->data_dir . '/postmaster.pid') =~ s/\n.*//sr . '/maps');
unlike($maps, qr{rw.*x.*/postgres$}m, 'no memory of the program is writable and executable');
$node->stop;

done_testing();
