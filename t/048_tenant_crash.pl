# The pageserver dies at each step of the creation of a tenant (TESTING build):
# afterwards the tenant is not there at all, and can be made.
use strict;
use warnings;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_pageserver.so";

my $id = 'e' x 32;
my $ps = NeonPageserver->new('ps', conf => "dynamic_library_path = '$lib:\$libdir'\n");
my $other = $ps->tenant('{"segsize": 1}');
my $pgdata = $ps->node->data_dir;

sub attached { return grep { (readlink($_) // '') eq $pgdata } glob('/proc/[0-9]*/cwd') }

for my $point ('tenant-directory', 'tenant-imported', 'tenant-role', 'edit-written')
{
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = '$point'\n");
	$ps->restart;
	like($ps->sql_error("SELECT neon_pageserver.tenant_create('$id')"), qr/server closed|terminat|connection/, "$point: crash");
	for (1 .. 400)
	{
		last if !attached();
		usleep 50_000;
	}
	is(scalar(attached()), 0, 'all processes are gone');
	unlink "$pgdata/postmaster.pid", glob($ps->node->host . '/.s.PGSQL.*');
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = ''\n");
	$ps->node->{_pid} = undef;
	$ps->start;
	is($ps->sql('SELECT string_agg(tenant_id, \',\') FROM neon_pageserver.tenants'), $other->{tenant}, 'only the other tenant is there');
	is($ps->sql("SELECT neon_pageserver.tenant_create('$id') IS NOT NULL"), 't', 'it can be made');
	is_deeply([ glob "$pgdata/neon/tmp/create.*" ], [], 'no temporary directory');
	$ps->sql("SELECT neon_pageserver.tenant_delete('$id')");
	is_deeply([ glob "$pgdata/neon/tenants/$id*" ], [], 'and deleted');
}
$ps->stop;
done_testing();
