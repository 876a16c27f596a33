# A database many times as large as the local disk space that its endpoint has:
# it is loaded and runs TPC-B, and what du says never passes the limit.  160 MB
# on 24 MB; in the long form 4 GB on 256 MB for ten minutes, in "make soak" for
# the hours given.
use strict;
use warnings;
use File::Temp;
use IPC::Run;
use NeonTest;
use POSIX ();
use Test::More;
use Time::HiRes qw(time sleep);

my $hours = $ENV{NEON_TEST_SOAK_HOURS} || 0;
my $big = $NeonTest::long || $hours;
my ($scale, $limit_mb, $seconds, $step) = $big ? (280, 256, $hours ? $hours * 3600 : 600, 50000) : (11, 24, 8, 10000);
my $patience = $seconds + 3600;

my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=${limit_mb}MB", 'shared_buffers=' . $limit_mb / 8 . 'MB');
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon; CREATE EXTENSION amcheck');

# kB that are allocated, in what is limited and in all but the WAL
sub du
{
	my ($pgdata) = @_;
	my %kb = map { m{^(\d+)\s+\Q$pgdata\E(?:/(.*))?$} ? ($2 // '' => $1) : () } split /\n/, `du -k --max-depth=1 '$pgdata' 2>/dev/null`;
	return ($kb{base} + $kb{global} + $kb{pg_tblspc}, $kb{''} - $kb{pg_wal});
}

# A process that measures all the time; its file has how often, and the largest of both.
my $measured = $t->tmp . '/measured';
my $sampler = fork // die "fork: $!";
if (!$sampler)
{
	my $stop = 0;
	my ($n, $limited, $all) = (0, 0, 0);
	my $pgdata = $t->pgdata('main');
	$SIG{TERM} = sub { $stop = 1 };
	while (!$stop && getppid() != 1)
	{
		my ($l, $a) = du($pgdata);
		$limited = $l if $l > $limited;
		$all = $a if $a > $all;
		$n++;
		open my $f, '>', "$measured.new" or POSIX::_exit(1);
		print $f "$n $limited $all\n";
		close $f and rename "$measured.new", $measured or POSIX::_exit(1);
		sleep($big ? 0.5 : 0.1);
	}
	POSIX::_exit(0);
}
END
{
	local $?;
	kill 'TERM', $sampler if $sampler;
	waitpid $sampler, 0 if $sampler;
}

sub check_disk
{
	my ($what) = @_;
	my ($n, $limited, $all) = split / /, NeonTest::Vanilla::slurp($measured);
	chomp $all;
	note("$what: measured $n times, at most $limited kB of what is limited, $all kB in all");
	cmp_ok($n, '>', 3, "$what: measured");
	cmp_ok($limited, '<=', $limit_mb * 1024, "$what: what is limited never passes the limit");
	cmp_ok($all, '<=', $limit_mb * 1024 * 1.1, "$what: nor does all but the WAL by more than a tenth");
}

# The load: an index that is built at once would be one transaction of more than the limit.
my $begin = time;
my ($rc, $out, $err) = $t->command([ 'pgbench', '-i', '-q', '-I', 'dtp', '-s', $scale, $t->connstr('main') ]);
is($rc, 0, 'tables and primary keys') or diag("$out\n$err");
$t->psql('main', <<"SQL");
INSERT INTO pgbench_branches (bid, bbalance) SELECT i, 0 FROM generate_series(1, $scale) i;
INSERT INTO pgbench_tellers (tid, bid, tbalance) SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, 10 * $scale) i;
CREATE PROCEDURE fill(low int, high int) LANGUAGE plpgsql AS \$\$
BEGIN
	FOR i IN low .. high BY $step LOOP
		INSERT INTO pgbench_accounts (aid, bid, abalance, filler)
			SELECT a, (a - 1) / 100000 + 1, 0, '' FROM generate_series(i, least(i + $step - 1, high)) a;
		COMMIT;
	END LOOP;
END \$\$;
SQL
my $half = 50000 * $scale;
my @loads = map { $t->session('main') } 0, 1;
$loads[$_]->send('CALL fill(' . ($_ * $half + 1) . ', ' . ($_ + 1) * $half . ')') for 0, 1;
for my $load (@loads)
{
	my $answer = $load->answer($patience);
	is($answer // 'no answer', '', 'a half is loaded');
	is($load->error, '', 'without an error');
	$load->close;
}
note(sprintf('load: %d s', time - $begin));
$t->psql('main', 'VACUUM ANALYZE pgbench_accounts', timeout => $patience);
note(sprintf('with VACUUM: %d s', time - $begin));
my $megabytes = $t->psql('main', "SELECT sum(pg_total_relation_size(oid)) / 1048576 FROM pg_class WHERE relname ~ '^pgbench_' AND relkind = 'r'");
cmp_ok($megabytes, '>', 6 * $limit_mb, 'the database is much larger than the limit');
check_disk('load');

# TPC-B; in the long form other tests run beside it
my @rate = $big && !$hours ? ('-R', 60) : ();
($out, $err) = ('', '');
my $run = do {
	local %ENV = (%ENV, $t->env);
	IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', $seconds, '-P', $big ? 60 : 5, @rate, $t->connstr('main') ], '>', \$out, '2>', \$err, IPC::Run::timeout($seconds + 300));
};
$run->finish;
note("$err$out");
is($run->result(0), 0, 'pgbench ends well');
like($out, qr/failed transactions: 0 /, 'no transaction failed');
my ($done) = $out =~ /number of transactions actually processed: (\d+)/;
check_disk('TPC-B');

# Sums; reads all of it.  Nothing here sorts: temporary files count, too, and cannot be dropped.
is($t->psql('main', 'SELECT count(*) FROM pgbench_history'), $done, 'each transaction is there');
is($t->psql('main', 'SELECT count(*), sum(aid::int8) FROM pgbench_accounts', timeout => $patience),
	join('|', 100000 * $scale, 100000 * $scale * (100000 * $scale + 1) / 2), 'each account');
$t->balances_agree('main', 'balances agree', timeout => $patience);
($rc, $out, $err) = $t->command(
	[ 'pg_amcheck', ($big ? () : '--heapallindexed'), '-t', 'pgbench_*', '-h', '127.0.0.1', '-p', $t->port('main'), '-U', 'cloud_admin', 'postgres' ],
	timeout => $patience);
is($rc, 0, 'pg_amcheck of all its tables and indexes') or diag("$out\n$err");
check_disk('sums and pg_amcheck');
note($t->psql('main', 'SELECT * FROM neon.local_disk', args => ['-x']));
cmp_ok($t->psql('main', 'SELECT evicted_bytes FROM neon.local_disk'), '>', 10 * $limit_mb * 1024 * 1024, 'more than ten times the limit was dropped');
($rc, $out) = $t->command([ 'neon', 'endpoint', 'logs', 'main' ]);
note("held: $_") for $out =~ /^.*sessions are (?:no longer )?held for lack.*$/mg;
unlike($out, qr/the limit of local disk space is reached/, 'nobody failed for lack of space');
$t->neon('stop');
done_testing();
