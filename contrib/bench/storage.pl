# Measures the pageserver's storage: how fast WAL comes in, beside a stock standby
# that replays the same WAL; how long pages take to be read, beside a process
# that answers without work; compaction; branches; restarts.  Prints a table.
#
# NEON_BENCH_SCALE (10) is the size of everything: pgbench's scale, 50 MB of WAL
# and 100 branches for each.  1 takes a minute or two.
use strict;
use warnings;
use Carp;
use IO::Socket::UNIX;
use IngestVanilla;
use lib "$ENV{NEON_TEST_TOP}/contrib/bench";
use NeonBench;
use NeonPageserver;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $scale = $NeonBench::scale;
my $samples = 2000;
my $seconds = 4;
my $range_pages = 64;
my $mb = 1024 * 1024;
my $f = 'neon_pageserver';

$ENV{PGUSER} = 'cloud_admin';
$NeonPageserver::timeout = 600;

# A figure of the reference may be missing.  Options as of a row.
sub compared
{
	my ($what, $unit, $theirs, $ours, %o) = @_;
	return row(what => $what, unit => $unit, ours => $ours, theirs => $theirs, %o);
}

# ---- a pageserver; a writer that began from its first LSN; a standby of that ----

my $ps = NeonPageserver->new('pageserver', conf => <<CONF);
shared_buffers = 128MB
neon_pageserver.compaction_workers = 0
neon_pageserver.maintenance_io_limit = 0
neon_pageserver.max_timelines = 4096
CONF
my $t = $ps->tenant;
$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
my $node = $ps->vanilla('writer', $t, $t->{lsn}, 1, 'primary',
	conf => "max_wal_size = 4GB\nshared_buffers = 256MB\nautovacuum = off\nsynchronous_commit = off\n");
my $standby = PostgreSQL::Test::Cluster->new('standby');
system_or_bail('cp', '-a', $node->data_dir . '/.', $standby->data_dir);
append_to_file($standby->data_dir . '/standby.signal', '');
append_to_file($standby->data_dir . '/postgresql.conf', <<CONF);
port = @{[ $standby->port ]}
unix_socket_directories = '@{[ $standby->host ]}'
primary_conninfo = '@{[ IngestVanilla::conninfo($node) ]}'
fsync = on
CONF
$node->start;
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot(s, true) FROM unnest('{neon_pageserver,standby}'::text[]) s");

sub lsn { return NeonPageserver::lsn_number($_[0]) }
sub end_of_wal { return $node->safe_psql('postgres', 'SELECT pg_switch_wal() IS NULL; SELECT pg_current_wal_flush_lsn()') =~ s/.*\n//sr }
sub pgbench { run_command([ 'pgbench', '-h', $node->host, '-p', $node->port, @_, 'postgres' ]) }

# Table of a page per row; each of its pages has one row and room.
sub make_pages
{
	my ($name, $pages) = @_;
	$node->safe_psql('postgres', <<SQL);
CREATE TABLE $name(a int, v int, pad text) WITH (fillfactor = 10);
ALTER TABLE $name ALTER pad SET STORAGE PLAIN;
INSERT INTO $name SELECT i, 0, repeat(md5(i::text), 14) FROM generate_series(1, $pages) i;
ALTER TABLE $name SET (fillfactor = 100);
SQL
	my ($path, $n) = split /\|/, $node->safe_psql('postgres', "SELECT pg_relation_filepath('$name'), pg_relation_size('$name') / 8192");
	$path =~ m{base/(\d+)/(\d+)};
	return { rel => [ 1663, $1, $2 ], pages => $n };
}

my $start = lsn($t->{lsn});
my $image = make_pages('image', 2000 * $scale);
pgbench('-i', '-q', '-s', $scale);
for (my $round = 0; lsn(end_of_wal()) - $start < 50 * $mb * $scale; $round++)
{
	$node->safe_psql('postgres', "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 4 = $round % 4; VACUUM pgbench_accounts");
	pgbench('-n', '-c', 4, '-t', 500 * $scale);
}
my $end = end_of_wal();
my ($stats) = run_command([ 'pg_waldump', '-z', '-p', $node->data_dir . '/pg_wal', '-s', $t->{lsn}, '-e', $end ]);
my ($records) = $stats =~ /^Total\s+(\d+)/m or croak "pg_waldump: $stats";
my $wal = (lsn($end) - $start) / $mb;

# ---- ingest, replay ----

sub wait_until
{
	my ($what) = @_;
	for (1 .. 60 * 1000)
	{
		return if $what->();
		usleep(10 * 1000);
	}
	croak 'timeout';
}

my (%s, %cpu);
my $began = time;
my $before = cpu_seconds($ps->node->data_dir);
follow($ps, $t, $node);
wait_until(sub { $ps->sql("SELECT $f.wait_lsn($t->{args}, '$end', '60 s')") eq 't' });
$s{ours} = time - $began;
$cpu{ours} = cpu_seconds($ps->node->data_dir) - $before;
$began = time;
system_or_bail('pg_ctl', '-D', $standby->data_dir, '-l', $standby->logfile, '-W', '-s', 'start');
my $replayed = "SELECT pg_last_wal_replay_lsn() >= '$end'";
wait_until(sub { ($standby->psql('postgres', $replayed))[1] eq 't' });
$s{stock} = time - $began;
$cpu{stock} = cpu_seconds($standby->data_dir);
system_or_bail('pg_ctl', '-D', $standby->data_dir, '-m', 'immediate', '-s', '-w', 'stop');
compared(sprintf('ingest of %d MB of WAL', $wal), 'MB/s', $wal / $s{stock}, $wal / $s{ours}, against => 'standby, same WAL', at_least => 2);
compared('  the same, records', '1000/s', $records / $s{stock} / 1000, $records / $s{ours} / 1000, against => 'standby, same WAL');
compared('  CPU time of it', 's', $cpu{stock}, $cpu{ours}, lower => 1, against => 'standby, same WAL');

# ---- reads through the page service ----

sub request_bytes
{
	my ($rel, $blk, $n) = @_;
	my $body = NeonPageserver::Connection::request(since => $t->{lsn}, rel => $rel, blk => $blk, n => $n // 1);
	return 'd' . pack('N', 4 + length $body) . $body;
}

# Reads one answer; what lies behind it stays in the buffer.
sub take_answer
{
	my ($sock, $buf) = @_;
	while (length $$buf < 5 || length $$buf < 1 + unpack('N', substr $$buf, 1, 4))
	{
		sysread($sock, $$buf, 1 << 20, length $$buf) or croak "connection: $!";
	}
	my $len = 1 + unpack('N', substr $$buf, 1, 4);
	my $tag = substr $$buf, 5, 1;
	croak 'answer: ' . NeonPageserver::Connection::parse_answer(substr $$buf, 5)->{message} if $tag ne 'p';
	$$buf = length $$buf == $len ? '' : substr $$buf, $len;
	return;
}

# Answers each request with as many bytes as a page server would, from another process.
sub echo
{
	my ($bytes) = @_;
	socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak $!;
	my $pid = fork() // croak $!;
	if ($pid == 0)
	{
		close $ours;
		my $answer = 'd' . pack('N', $bytes + 24) . 'p' . "\0" x ($bytes + 19);
		my $buf;
		while (sysread $theirs, $buf, 8192)
		{
			NeonPageserver::Connection::send_bytes({ sock => $theirs }, $answer);
		}
		POSIX::_exit(0);
	}
	close $theirs;
	return $ours;
}

# Milliseconds of each request, one at a time.
sub latencies
{
	my ($sock, @requests) = @_;
	my $buf = '';
	my @ms;
	for (@requests)
	{
		my $from = time;
		syswrite $sock, $_ or croak $!;
		take_answer($sock, \$buf);
		push @ms, 1000 * (time - $from);
	}
	return @ms;
}

# Keeps some requests in flight; answers per second.
sub rate
{
	my ($sock, $flight, $next) = @_;
	my ($n, $sent, $buf, $from) = (0, 0, '', time);
	while (time < $from + $seconds)
	{
		for (; $sent < $n + $flight; $sent++)
		{
			syswrite $sock, $next->() or croak $!;
		}
		take_answer($sock, \$buf);
		$n++;
	}
	return $n / (time - $from);
}

# The sum of that over some connections, each with a process of its own.
sub rates
{
	my ($connect, $n, $flight, $next) = @_;
	my (@pipes, $sum);
	for my $i (1 .. $n)
	{
		pipe(my $r, my $w) or croak $!;
		my $pid = fork() // croak $!;
		if ($pid == 0)
		{
			srand($i);
			syswrite $w, rate($connect->(), $flight, $next->());
			POSIX::_exit(0);
		}
		close $w;
		push @pipes, $r;
	}
	for my $r (@pipes) { $sum += do { local $/; <$r> } || croak 'a client failed' }
	while (wait() != -1) { }
	return $sum;
}

sub connect_ours { return $ps->stream($t)->{sock} }
sub random_block { my ($x) = @_; return request_bytes($x->{rel}, int rand $x->{pages}) }

# As a compute does: what has not arrived is asked for again.
sub first_page
{
	my ($x) = @_;
	my $s;
	wait_until(sub { $s = eval { $ps->stream($t) } });
	wait_until(sub { $s->get(lsn => $x->{lsn}, rel => $x->{rel}, blk => 1)->{tag} eq 'p' });
	$s->close;
	return;
}

sub restart
{
	my ($mode, $x) = @_;
	$ps->stop($mode);
	my $from = time;
	my $log = -s $ps->node->logfile;
	system_or_bail('pg_ctl', '-D', $ps->node->data_dir, '-l', $ps->node->logfile, '-W', '-s', 'start');
	first_page($x);
	my $took = time - $from;
	$ps->node->_update_pid(1);
	return ($took, substr slurp_file($ps->node->logfile), $log);
}

# ---- restart with WAL in no layer ----

my $path = $node->safe_psql('postgres', "SELECT pg_relation_filepath('pgbench_accounts')");
my ($db, $rel) = $path =~ m{base/(\d+)/(\d+)};
my $accounts = { rel => [ 1663, $db, $rel ], lsn => $end };
my $last = $ps->last_lsn($t);
my $flushed = $ps->sql("SELECT disk_consistent_lsn FROM $f.timelines WHERE timeline_id = '$t->{timeline}'");
my ($took) = restart('immediate', $accounts);
compared(sprintf('restart after kill, %d MB of WAL in no layer: newest page', (lsn($last) - lsn($flushed)) / $mb), 'ms', undef, 1000 * $took, lower => 1);

# ---- compaction ----

sub layer_mb { return $ps->sql("SELECT coalesce(sum(bytes), 0) / 1048576.0 FROM $f.layers WHERE timeline_id = '$t->{timeline}'") }
sub compact
{
	my ($what, $function) = @_;
	my $layers = layer_mb();
	my $from = time;
	$ps->sql("SELECT $f.$function($t->{args})");
	my $took = time - $from;
	compared(sprintf('%s: layers of %d MB to %d MB', $what, $layers, layer_mb()), 'MB/s', undef, $layers / $took);
	compared("  WAL that it was", 'MB/s', undef, $wal / $took);
	return;
}
$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");
compact('compaction', 'timeline_compact');
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '0', 0)");
compact('rewrite without history', 'timeline_gc');
my $logical = $node->safe_psql('postgres', 'SELECT sum(pg_database_size(oid)) / 1048576.0 FROM pg_database');
compared('stored without history', 'MB', $logical, layer_mb(), lower => 1, against => 'size of its databases', at_least => 1 / 0.6);
$ps->sql("SELECT $f.tenant_configure('$t->{tenant}', '7 days', 1000000000)");

# ---- pages ----

follow($ps, $t, $node);			# the restart has forgotten it
my $chain = make_pages('chain', 2 * $samples);
$node->safe_psql('postgres', "UPDATE chain SET v = v + 1") for 1 .. 9;
$end = end_of_wal();
wait_until(sub { $ps->sql("SELECT $f.wait_lsn($t->{args}, '$end', '60 s')") eq 't' });
$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");

my @echo = latencies(echo(8192), map { random_block($image) } 1 .. $samples);
my $no_work = 'process that does nothing';
sub page_row
{
	my ($what, @ms) = @_;
	compared("GetPage, $what, p$_", 'us', 1000 * percentile($_ / 100, @echo), 1000 * percentile($_ / 100, @ms), lower => 1, against => $no_work) for 50, 99;
	return;
}
my $sock = connect_ours();
latencies($sock, map { random_block($image) } 1 .. 100);
page_row('image', latencies($sock, map { random_block($image) } 1 .. $samples));
my %seen;
$seen{ int rand $chain->{pages} } = 1 while keys %seen < $samples;
page_row('10 records', latencies($sock, map { request_bytes($chain->{rel}, $_) } keys %seen));

# files that are not in the page cache, and connections that have read none of them
my (@cold, @first);
for (1 .. 20)
{
	for my $file (glob $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/layers/*")
	{
		run_command([ 'dd', "if=$file", 'iflag=nocache', 'count=0', 'status=none' ]);
	}
	my ($first, @ms) = latencies(connect_ours(), map { random_block($image) } 1 .. 26);
	push @first, $first;
	push @cold, @ms;
}
page_row('cold layer', @cold);
compared('GetPage, cold layer, first of a connection, p50', 'us', undef, 1000 * percentile(0.5, @first), lower => 1);

for my $n (1, 8)
{
	my $next = sub { return sub { random_block($image) } };
	compared("pages per second, $n connection" . ($n > 1 ? 's' : '') . ', 8 requests in flight', '1/s',
		rates(sub { echo(8192) }, $n, 1, $next), rates(\&connect_ours, $n, 8, $next), against => $no_work);
}

# Ranges of so many pages, one after the other.
sub ranges
{
	my ($x, $pages) = @_;
	my $blk = 0;
	return sub {
		$blk = 0 if $blk + $pages > $x->{pages};
		$blk += $pages;
		return request_bytes($x->{rel}, $blk - $pages, $pages);
	};
}
my $ranges = sub { return ranges($image, $range_pages) };
compared('pages of 10 records, batches of 16, 2 in flight', '1/s', 16 * rates(sub { echo(16 * 8192) }, 1, 1, sub { return ranges($chain, 16) }),
	16 * rates(\&connect_ours, 1, 2, sub { return ranges($chain, 16) }), against => $no_work, at_least_ours => 60000);
my $range_mb = $range_pages * 8192 / $mb;
compared("ranges of $range_pages pages, one connection, 2 in flight", 'MB/s',
	$range_mb * rates(sub { echo($range_pages * 8192) }, 1, 1, $ranges), $range_mb * rates(\&connect_ours, 1, 2, $ranges), against => $no_work);

# ---- branches, restart with many ----

my $at = $ps->sql("SELECT $f.round_lsn($t->{args}, '$end')");
my $made = 0;
sub branches
{
	my ($n) = @_;
	my $out = $ps->sql("\\timing on\n" . join '', map { $made++; "SELECT lsn FROM $f.branch_create('$t->{tenant}', 'b$made', 'main', '$at');\n" } 1 .. $n);
	return $out =~ /^Time: ([0-9.]+) ms/mg;
}
my $branches = 100 * $scale;
branches(1);
compared('create a branch, 1 is there, p50', 'ms', undef, percentile(0.5, branches(10)), lower => 1, at_most => 20);
branches($branches - $made);
compared("create a branch, $branches are there, p50", 'ms', undef, percentile(0.5, branches(10)), lower => 1, at_most => 20);
$image->{lsn} = $end;
($took, my $log) = restart('fast', $image);
compared(sprintf('restart with %d timelines: first page', $made + 1), 'ms', undef, 1000 * $took, lower => 1);
note($1) if $log =~ /(opened \d+ timelines in \d+ ms)/;

finish();
$node->stop('immediate');
$ps->stop;
done_testing();
