# Measures an endpoint over three safekeepers against stock PostgreSQL with
# three synchronous standbys, ANY 2 of which must have a commit, on the same
# disk; alternating runs, medians.  NEON_BENCH_QUORUM_SECONDS (10) is the length
# of a run, NEON_BENCH_RUNS (3) how many there are of each.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{NEON_BENCH_QUORUM_SECONDS} || 10;
my $runs = $ENV{NEON_BENCH_RUNS} || 3;
my $scale = $ENV{NEON_BENCH_SCALE} || 10;
my $load_mb = $ENV{NEON_BENCH_LOAD_MB} || 100;
my @clients = (1, 8, 32);
my @systems = ('stock', 'main');
my $conf = "shared_buffers=128MB\nmax_wal_size=4GB\n";

my $t = NeonTest->new(safekeepers => 3);
my @started;

sub must
{
	my ($rc, $out, $err) = $t->command([@_], timeout => 600);
	die "@_: $out$err" if $rc != 0;
	return $out;
}

sub start_stock
{
	my ($dir, $port, $more) = @_;
	open(my $f, '>>', "$dir/postgresql.conf") or die "$dir: $!";
	print $f "port = $port\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n$conf$more";
	close $f or die;
	must('pg_ctl', '-D', $dir, '-l', "$dir.log", '-w', '-t', '300', 'start');
	push @started, $dir;
	return;
}

# ---- stock: a primary and three standbys from base backups ----

my $primary = $t->tmp . '/stock';
my $port = $t->free_port;
must('initdb', '-D', $primary, '-A', 'trust', '-U', 'cloud_admin');
start_stock($primary, $port, "wal_keep_size = 1GB\n");
$t->set_port('stock', $port);
for my $n (1 .. 3)
{
	my $dir = $t->tmp . "/standby$n";
	must('pg_basebackup', '-D', $dir, '-R', '-c', 'fast', '-d', "host=127.0.0.1 port=$port user=cloud_admin");
	# by this name it is known to the primary
	start_stock($dir, $t->free_port, "hot_standby = on\ncluster_name = 's$n'\n");
}
$t->psql('stock', "ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (s1, s2, s3)'");
$t->psql('stock', 'SELECT pg_reload_conf()');
$t->poll('stock', "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'", '3');

# ---- ours ----

$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', split /\n/, $conf);
$t->neon('endpoint', 'start', 'main');

sub median { my @s = sort { $a <=> $b } @_; return $s[ int($#s / 2) ] }

# Transactions per second, and the latencies' median and 99th of a hundred in ms.
sub pgbench
{
	my ($system, $clients) = @_;
	my $log = $t->tmp . "/latency";
	unlink glob "$log.*";
	my $out = $t->pgbench($system, '-N', '-c', $clients, '-j', 2, '-T', $seconds, '-l', "--log-prefix=$log");
	my ($tps) = $out =~ /^tps = ([\d.]+)/m or die "no figure in: $out";
	my @ms;
	for my $file (glob "$log.*")
	{
		open(my $f, '<', $file) or die "$file: $!";
		while (my $line = <$f>) { push @ms, (split ' ', $line)[2] / 1000 }
	}
	@ms = sort { $a <=> $b } @ms;
	return [ $tps, $ms[ int($#ms * 0.5) ], $ms[ int($#ms * 0.99) ] ];
}

# MB of WAL per second of one COPY.
sub bulk_load
{
	my ($system) = @_;
	my $file = $t->tmp . '/load';
	if (!-e $file)
	{
		open(my $f, '>', $file) or die "$file: $!";
		print $f "$_\t" . ('x' x 1000) . "\n" for 1 .. $load_mb * 1000;
		close $f or die;
	}
	$t->psql($system, 'DROP TABLE IF EXISTS load; CREATE TABLE load(i int, t text)');
	my $from = NeonTest::lsn_num($t->psql($system, 'SELECT pg_current_wal_insert_lsn()'));
	my $began = time;
	$t->psql($system, "\\copy load FROM '$file'", timeout => 600);
	my $took = time - $began;
	return [ (NeonTest::lsn_num($t->psql($system, 'SELECT pg_current_wal_insert_lsn()')) - $from) / 1048576 / $took ];
}

# Alternately on both; figures by system, medians of the runs.
sub alternate
{
	my ($code) = @_;
	my %all;
	for my $run (1 .. $runs)
	{
		for my $system ($run % 2 ? @systems : reverse @systems) { push @{ $all{$system} }, $code->($system) }
	}
	my %result;
	for my $system (@systems)
	{
		my @r = @{ $all{$system} };
		for my $i (0 .. $#{ $r[0] }) { $result{$system}[$i] = median(map { $_->[$i] } @r) }
	}
	return \%result;
}

my @rows;
sub row
{
	my ($what, $unit, $stock, $ours, $lower) = @_;
	push @rows, [ $what, $unit, $stock, $ours, $lower ? $stock / $ours : $ours / $stock ];
}

$t->pgbench_init($_, $scale) for @systems;
for my $n (@clients)
{
	my $r = alternate(sub { pgbench($_[0], $n) });
	row("commits, $n clients", 'tps', $r->{stock}[0], $r->{main}[0]);
	row("latency, $n clients, p50", 'ms', $r->{stock}[1], $r->{main}[1], 1);
	row("latency, $n clients, p99", 'ms', $r->{stock}[2], $r->{main}[2], 1);
}
my $r = alternate(\&bulk_load);
row('bulk load (COPY), WAL', 'MB/s', $r->{stock}[0], $r->{main}[0]);

open(my $load, '<', '/proc/loadavg') or die;
diag('');
diag("three safekeepers against three stock standbys, ANY 2; $runs runs of $seconds s each; load average at the end " . (split ' ', <$load>)[0]);
diag(sprintf '%-35s %-5s %10s %12s %8s', '', 'unit', 'stock', 'safekeepers', 'ratio');
diag(sprintf '%-35s %-5s %10.1f %12.1f %8.2f', @$_) for @rows;
diag('A ratio above 1 means that the endpoint is better.');
ok(1, 'table printed');
$t->neon('stop');
$t->command([ 'pg_ctl', '-D', $_, '-m', 'immediate', '-w', 'stop' ]) for reverse @started;
done_testing();

END
{
	my $status = $?;
	$t->command([ 'pg_ctl', '-D', $_, '-m', 'immediate', 'stop' ]) for grep { -e "$_/postmaster.pid" } reverse @started;
	$? = $status;
}
