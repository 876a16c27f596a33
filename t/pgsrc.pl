# PostgreSQL's own tests (core regression, isolation, contrib), run on an endpoint:
# no failure, and no line of difference, that the stock server of the same version
# does not have with this source tree and these settings.  Buffers and local disk
# space are so small, while a table as large as the space is read over and over, that
# pages are dropped and fetched again all the time.
use strict;
use warnings;
use File::Basename;
use File::Path qw(make_path);
use NeonTest;
use Test::More;

my $src = $ENV{NEON_TEST_PGSRC} or plan skip_all => 'no PGSRC';
my $limit = $ENV{NEON_TEST_PGSRC_LIMIT} || 0;
my @wanted = split ' ', $ENV{NEON_TEST_PGSRC_SUITES} || 'core isolation contrib';
my @settings = ('max_prepared_transactions=10', 'shared_buffers=1MB', 'autovacuum_naptime=10s');
my $dir = "$src/src/test/regress";
chomp(my $pkglibdir = `$ENV{PG_CONFIG} --pkglibdir`);
chomp(my $sharedir = `$ENV{PG_CONFIG} --sharedir`);
my $isolation = "$pkglibdir/pgxs/src/test/isolation/pg_isolation_regress";
my $t = NeonTest->new;

# regress.so holds C functions of the suite; it is built from that tree
my $lib = $t->tmp . '/lib';
make_path($lib);
chomp(my $include = `$ENV{PG_CONFIG} --includedir-server`);
my ($rc, $out, $err) = $t->command(
	[ 'gcc', '-shared', '-fPIC', '-O1', '-w', "-I$include", '-I/usr/include/libxml2', '-o', "$lib/regress.so", "$dir/regress.c" ]);
is($rc, 0, 'regress.so') or BAIL_OUT($err);
symlink "$pkglibdir/$_.so", "$lib/$_.so" or die "$lib/$_.so: $!" for qw(refint autoinc);

# What the Makefile of a module says of its "installcheck"; nothing if it has none.
sub module_variables
{
	my ($module) = @_;
	my ($rc, $out, $err) = $t->command(
		[
			'make', '-s', '-C', $module, 'USE_PGXS=1', "PG_CONFIG=$ENV{PG_CONFIG}",
			(map { "--eval=show-$_: ; \@echo '$_=\$($_)'" } qw(EXTENSION NO_INSTALLCHECK REGRESS REGRESS_OPTS ISOLATION ISOLATION_OPTS)),
			map { "show-$_" } qw(EXTENSION NO_INSTALLCHECK REGRESS REGRESS_OPTS ISOLATION ISOLATION_OPTS)
		]);
	my %v = map { /^(\w+)=(.*)$/ ? ($1 => $2) : () } split /\n/, $out;
	return () if $rc != 0 || $v{NO_INSTALLCHECK} || basename($module) eq 'sepgsql';
	return () if grep { !-e "$sharedir/extension/$_.control" } split ' ', $v{EXTENSION};
	return %v;
}

# One test writes 100 MB in one transaction; it has a suite of its own.
sub isolation_suites
{
	my $iso = "$src/src/test/isolation";
	my @tests = grep { !/^#/ } NeonTest::Vanilla::slurp("$iso/isolation_schedule") =~ /^test: (\S+)/mg;
	return ([ 'isolation', $isolation, $iso, grep { $_ ne 'multiple-row-versions' } @tests ],
		[ 'large', $isolation, $iso, 'multiple-row-versions' ]);
}

# Where a module's tests are: a copy if libpq within the server connects to it, which
# then has to use TCP, as we do.
sub module_directory
{
	my ($module) = @_;
	my @files = split /\n/, `grep -rlF "current_setting('port')" $module/sql $module/expected $module/specs 2>/dev/null`;
	return $module if !@files;
	my $copy = $t->tmp . '/' . basename($module);
	system('cp', '-R', $module, $copy) == 0 or die;
	s/^\Q$module\E/$copy/ for @files;
	system('sed', '-i', "s/ port=\\\$\\\$||/ host=127.0.0.1&/; s/port '\\\$\\\$||/host '127.0.0.1', &/", @files) == 0 or die;
	return $copy;
}

# [name, program, directory, arguments] of each suite.
sub suites
{
	my @suites;
	for my $wanted (@wanted)
	{
		push @suites, [ 'core', $ENV{PG_REGRESS}, $dir, "--schedule=$dir/parallel_schedule" ] if $wanted eq 'core';
		push @suites, isolation_suites() if $wanted eq 'isolation';
		for my $module (sort glob("$src/contrib/*"))
		{
			next unless $wanted eq 'contrib' || $wanted eq basename($module);
			my %v = module_variables($module) or next;
			my $name = basename($module);
			$module = module_directory($module);
			push @suites, [ $name, $ENV{PG_REGRESS}, $module, split(' ', "$v{REGRESS_OPTS} $v{REGRESS}") ] if $v{REGRESS};
			push @suites, [ "$name.isolation", $isolation, $module, split(' ', "$v{ISOLATION_OPTS} $v{ISOLATION}") ] if $v{ISOLATION};
		}
	}
	return @suites;
}

# Runs a suite; returns its failed tests.
sub run_suite
{
	my ($server, $port, $name, $program, $in, @args) = @_;
	my $o = $t->tmp . "/$server/$name";
	make_path($o);
	my ($rc, $stdout, $stderr) = $t->command(
		[
			'env', "--chdir=$in", $program, "--inputdir=$in", @args, '--host=127.0.0.1', "--port=$port", '--user=cloud_admin', "--outputdir=$o", "--dlpath=$lib",
			'--max-connections=10'
		],
		timeout => 3600);
	my %failed = map { $_ => 1 } "$stdout$stderr" =~ /^\s*(?:test )?(\S+)\s+\.\.\. FAILED/mg;
	note("$server, $name: " . (join(' ', sort keys %failed) || 'all passed')) if %failed || $name =~ /^(core|isolation)$/;
	diag("$server, $name:\n$stdout$stderr") if $stdout !~ /tests? .*(?:passed|failed)/;
	return ($stdout =~ /tests? .*(?:passed|failed)/, \%failed);
}

# What the endpoint prints, where it is not what the stock server prints.
sub different
{
	my ($name, $test) = @_;
	return scalar `diff -u $t->{tmp}/stock/$name/results/$test.out $t->{tmp}/endpoint/$name/results/$test.out`;
}

sub set_limit
{
	my ($bytes) = @_;
	$t->psql('main', "ALTER SYSTEM SET neon.local_size_limit = '$bytes'");
	$t->psql('main', 'SELECT pg_reload_conf()');
	$t->poll('main', "SELECT limit_bytes = pg_size_bytes('$bytes') FROM neon.local_disk");
	return;
}

my @suites = suites();

# who libpq within the servers connects as
my $role = 'CREATE ROLE "' . getpwuid($>) . '" LOGIN SUPERUSER';
my $plain = $t->tmp . '/plain';
$t->command([ 'initdb', '-D', $plain, '-A', 'trust', '-U', 'cloud_admin', '--no-sync', '--no-locale', '-E', 'UTF8' ]);
my $p = $t->free_port;
$t->command(
	[
		'pg_ctl', '-D', $plain, '-l', "$plain.log", '-w', '-o',
		join(' ', "-p $p -h 127.0.0.1 -k '' -c fsync=off", map { "-c $_" } @settings), 'start'
	]);
$t->psql('stock', $role, connstr => "host=127.0.0.1 port=$p user=cloud_admin dbname=postgres");
my %stock = map { $_->[0] => (run_suite('stock', $p, @$_))[1] } @suites;
$t->command([ 'pg_ctl', '-D', $plain, '-m', 'immediate', '-w', 'stop' ]);

$t->quickstart(no_endpoint => 1, tenant => [ '--locale', 'C', '--encoding', 'UTF8' ]);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', @settings);
$t->neon('endpoint', 'start', 'main');
$t->psql('main', "CREATE EXTENSION neon; CREATE DATABASE filler; $role");
$t->psql('main', <<"SQL", db => 'filler');
CREATE EXTENSION pg_prewarm;
CREATE TABLE filler AS SELECT repeat('f', 1000) AS pad FROM generate_series(1, pg_size_bytes('$limit') / 1100);
VACUUM FREEZE filler;
SQL
$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=$limit");
$t->neon('endpoint', 'restart', 'main');
my $filler = $limit ? $t->loop('main', q{SELECT pg_prewarm('filler'); SELECT pg_sleep(0.5);}, db => 'filler') : undef;
for my $suite (@suites)
{
	my $name = $suite->[0];
	set_limit($name eq 'large' ? '192MB' : $limit) if $limit;
	my $dropped = $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk');
	my ($ended, $failed) = run_suite('endpoint', $t->port('main'), @$suite);
	$dropped = $t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk') - $dropped;
	my %diffs = map { $_ => different($name, $_) } keys %$failed;
	my @more = grep { $diffs{$_} || !$stock{$name}{$_} } sort keys %$failed;
	ok($ended && !@more, sprintf('%s: nothing differs from the stock server; %d MB were dropped meanwhile', $name, $dropped / 1048576));
	diag("$_:\n" . substr($diffs{$_}, 0, 4000)) for @more;
	cmp_ok($dropped, '>', 0, "$name: with a limit of disk space") if $limit && $name =~ /^(core|isolation)$/;
}
set_limit($limit) if $limit;
$filler->stop if $filler;
note($t->psql('main', 'SELECT * FROM neon.local_disk', args => ['-x']));
$t->amcheck('main');
$t->neon('endpoint', 'restart', 'main');
$t->amcheck('main', 'amcheck after a boot');
$t->neon('stop');
done_testing();
