# PostgreSQL's own regression tests, run on an endpoint: the failures have to be
# those that the stock server of the same version has with this source tree.
use strict;
use warnings;
use File::Path qw(make_path);
use NeonTest;
use Test::More;

my $src = $ENV{NEON_TEST_PGSRC} or plan skip_all => 'no PGSRC';
my $dir = "$src/src/test/regress";
chomp(my $pkglibdir = `$ENV{PG_CONFIG} --pkglibdir`);
my $t = NeonTest->new;

# regress.so holds C functions of the suite; it is built from that tree
my $lib = $t->tmp . '/lib';
make_path($lib);
chomp(my $include = `$ENV{PG_CONFIG} --includedir-server`);
my ($rc, $out, $err) = $t->command(
	[ 'gcc', '-shared', '-fPIC', '-O1', '-w', "-I$include", '-I/usr/include/libxml2', '-o', "$lib/regress.so", "$dir/regress.c" ]);
is($rc, 0, 'regress.so') or BAIL_OUT($err);

sub suite
{
	my ($name, $port) = @_;
	my $o = $t->tmp . "/$name";
	make_path($o);
	my ($rc, $stdout, $stderr) = $t->command(
		[
			$ENV{PG_REGRESS}, '--host=127.0.0.1', "--port=$port", '--user=cloud_admin', "--inputdir=$dir",
			"--outputdir=$o", "--dlpath=$lib", '--max-connections=10', "--schedule=$dir/parallel_schedule"
		],
		timeout => 1800);
	my %failed = map { $_ => 1 } "$stdout$stderr" =~ /^\s*(?:test )?(\S+)\s+\.\.\. FAILED/mg;
	my ($n) = $stdout =~ /(\d+) tests? /;
	note("$name: " . join(' ', sort keys %failed));
	ok($stdout =~ /tests (?:passed|failed)/, "$name: the suite ran to its end") or diag("$stdout$stderr");
	return \%failed;
}

# stock first
my $plain = $t->tmp . '/plain';
$t->command([ 'initdb', '-D', $plain, '-A', 'trust', '-U', 'cloud_admin', '--no-sync', '--no-locale', '-E', 'UTF8' ]);
my $p = $t->free_port;
$t->command([ 'pg_ctl', '-D', $plain, '-l', "$plain.log", '-w', '-o',
		"-p $p -h 127.0.0.1 -k '' -c fsync=off -c max_prepared_transactions=10", 'start' ]);
my $stock = suite('stock', $p);
$t->command([ 'pg_ctl', '-D', $plain, '-m', 'immediate', '-w', 'stop' ]);

$t->quickstart(no_endpoint => 1, tenant => [ '--locale', 'C', '--encoding', 'UTF8' ]);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'max_prepared_transactions=10');
$t->neon('endpoint', 'start', 'main');
my $ours = suite('endpoint', $t->port('main'));
my @more = grep { !$stock->{$_} } sort keys %$ours;
is_deeply(\@more, [], 'nothing fails that does not fail on the stock server');
for my $f (@more)
{
	my $d = `diff -u $t->{tmp}/stock/results/$f.out $t->{tmp}/endpoint/results/$f.out | head -60`;
	diag("$f:\n$d");
}
$t->amcheck('main');
$t->neon('endpoint', 'restart', 'main');
$t->amcheck('main', 'amcheck after a boot');
$t->neon('stop');
done_testing();
