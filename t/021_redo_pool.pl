# The pool of redo processes: errors stay with their page, tenants do not
# share a process, and nothing is left behind, however anybody ends.
use strict;
use warnings;
use IPC::Run qw(start timeout);
use KillNode;
use NodeSql;
use POSIX qw(:sys_wait_h);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => 'no build with TESTING=1' unless $ENV{NEON_TESTING_LIBDIR};
my $testlib = $ENV{NEON_TESTING_LIBDIR};
my $limit = 30;
my ($ta, $tb, $tc) = map { $_ x 16 } ('aa', 'bb', 'cc');

my $node = PostgreSQL::Test::Cluster->new('pool');
# Checksums and large segments must not matter to the children.
$node->init(extra => [ '-k', '--wal-segsize=64' ]);
$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = '$testlib/neon_walredo_test'
dynamic_library_path = '\$libdir:$testlib'
neon_pageserver.redo_timeout = 10s
restart_after_crash = on
min_wal_size = 256MB
max_wal_senders = 0
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION redo_slots() RETURNS TABLE(slot int, state text, pid int, generation bigint, tenant text)
	LANGUAGE c AS 'neon_walredo_test';
CREATE FUNCTION redo_stats() RETURNS TABLE(name text, value bigint) LANGUAGE c AS 'neon_walredo_test';
CREATE FUNCTION redo_probe(tenant text, npages int, nrecords int, what text)
	RETURNS TABLE(page int, ok bool, error text) LANGUAGE c AS 'neon_walredo_test';
SQL

sub sql { return $node->safe_psql('postgres', shift) }
sub stat_of { return sql("SELECT value FROM redo_stats() WHERE name = '$_[0]'") }
sub children { return split /\n/, sql('SELECT pid FROM redo_slots() WHERE pid <> 0 ORDER BY slot') }

sub wait_until
{
	my ($what, $code) = @_;
	my $end = time + $limit;
	while (time < $end)
	{
		return pass($what) if $code->();
		sleep 0.05;
	}
	return fail("$what: not within $limit s");
}

sub all_idle { return sql("SELECT bool_and(state = 'idle') FROM redo_slots()") eq 't' }

# All pages of a batch are right, but the odd ones fail with an error like this.
sub odd_fail
{
	my ($what, $error, $tenant) = @_;
	my @bad = grep { !/^(\d+)\|t\|$/ || $1 % 2 } split /\n/,
	  sql("SELECT * FROM redo_probe('" . ($tenant // $ta) . "', 6, 2, '$what')");
	is(scalar(@bad), 3, "$what: three of six pages fail");
	like($_, qr/^[135]\|f\|.*$error/, "$what: error of a page") for @bad;
	return;
}

# ------------------------------------------------------------------ batches --

wait_until('all processes are ready', \&all_idle);
is(sql("SELECT count(*) FROM redo_probe('$ta', 1000, 3, 'ok') WHERE ok AND error IS NULL"),
	1000, 'a batch of 1000 pages, answered in order');
is(sql("SELECT count(*) FROM redo_probe('$ta', 3, 0, 'ok') WHERE ok"), 3, 'pages without records');
is(sql("SELECT count(*) FROM redo_probe('$ta', 0, 0, 'ok')"), 0, 'a batch without pages');
is(sql("SELECT count(*) FROM redo_probe('$ta', 2, 20000, 'ok') WHERE ok AND error IS NULL"),
	2, 'chains much larger than all buffers');

odd_fail('fetch_error', 'probe has no record');
odd_fail('panic', 'btree_redo: unknown op code');
odd_fail('foreign', 'does not change pages');
odd_fail('no_base', 'WILL_INIT');
odd_fail('no_image', 'no image of the page');
odd_fail('other_page', 'does not change the page');
odd_fail('wrong_end', 'does not end at');
is(sql("SELECT count(*) FROM redo_probe('$ta', 6, 2, 'missing') WHERE error ~ 'all zeros'"),
	3, 'a chain without its beginning is an error, not a page of zeros');
is(sql("SELECT count(*) FROM redo_probe('$ta', 200, 1, 'garbage') WHERE page % 2 = 0 AND ok"),
	100, 'broken records hurt no other page');
wait_until('all processes are ready again', \&all_idle);

# ----------------------------------------------------------------- tenants --

sql("SELECT redo_probe('$ta', 1, 1, 'ok')");
my ($pid_a) = split /\n/, sql("SELECT pid FROM redo_slots() WHERE tenant = '$ta'");
sql("SELECT redo_probe('$tb', 1, 1, 'ok')");
is(sql("SELECT count(*) FROM redo_slots() WHERE pid = $pid_a AND tenant = '$ta'"),
	1, "another tenant does not get the first one's process");
my $before = stat_of('replaced');
sql("SELECT redo_probe('$tc', 1, 1, 'ok')");
cmp_ok(stat_of('replaced'), '>', $before, 'a third tenant has a process replaced');
sql("SELECT redo_probe('$_', 5, 1, 'ok')") for ($ta, $tb, $tc) x 3;
wait_until('still ready', \&all_idle);

# More sessions than processes, of several tenants.
my @sessions = map {
	my $t = ($ta, $tb, $tc)[ $_ % 3 ];
	my ($in, $out, $err) = ('', '', '');
	my $h = start [ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c',
		join(';', map { "SELECT count(*) FROM redo_probe('$t', 20, 3, 'ok') WHERE ok AND error IS NULL" } 1 .. 10) ],
	  '<', \$in, '>', \$out, '2>', \$err, timeout($limit * 2);
	[ $h, \$out, \$err ];
} 1 .. 6;
my $bad = 0;
for my $s (@sessions)
{
	$s->[0]->finish;
	$bad++ if ${ $s->[1] } ne "20\n" x 10 || ${ $s->[2] } ne '';
	note(${ $s->[2] }) if ${ $s->[2] };
}
is($bad, 0, 'six sessions of three tenants share two processes');

# -------------------------------------------------- ends of all kinds --

# A killed process: noticed, replaced, and no page is lost.
my @pids = children();
kill 'KILL', @pids;
is(sql("SELECT count(*) FROM redo_probe('$ta', 50, 2, 'ok') WHERE ok"), 50, 'pages after all processes were killed');
wait_until('they are replaced', sub { all_idle() && !grep { my $p = $_; grep { $_ == $p } @pids } children() });

# Again and again under one session, which keeps its connection.
is(sql(<<"SQL"), '', 'no page is blamed for the death of an idle process');
DO \$\$
DECLARE bad text;
BEGIN
	FOR i IN 1 .. 10 LOOP
		SELECT string_agg(error, ', ') INTO bad FROM redo_probe('$ta', 4 + 0 * i, 2, 'ok') WHERE NOT ok;
		IF bad IS NOT NULL THEN RAISE EXCEPTION '%', bad; END IF;
		EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'cat > /dev/null; kill -9 '
			|| coalesce(string_agg(pid::text, ' '), '') || '; true')
			FROM redo_slots() WHERE pid <> 0;
	END LOOP;
END \$\$
SQL

# In the middle of a batch.
sub in_background
{
	my ($query) = @_;
	my %s = (in => '', out => '', err => '');
	$s{h} = start [ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $query ],
	  '<', \$s{in}, '>', \$s{out}, '2>', \$s{err}, timeout($limit * 2);
	return \%s;
}
sub leased { return sql("SELECT pid FROM redo_slots() WHERE state = 'leased'") }
sub wait_leased
{
	my $pid;
	wait_until('a batch is in work', sub { $pid = leased(); $pid ne '' });
	return $pid;
}

my $s = in_background("SELECT count(*) FROM redo_probe('$ta', 20, 1, 'sleep') WHERE ok");
kill 'KILL', wait_leased();
$s->{h}->finish;
is($s->{out}, "20\n", 'a batch whose process is killed is done by another');

# Hangs.
$node->append_conf('postgresql.conf', 'neon_pageserver.redo_timeout = 1s');
$node->reload;
wait_until('reloaded', sub { sql('SHOW neon_pageserver.redo_timeout') eq '1s' });
my @stopped = children();
kill 'STOP', @stopped;
my ($rc, $out, $err) = $node->psql('postgres', "SELECT error FROM redo_probe('$ta', 2, 1, 'ok')");
like($out, qr/took longer than neon_pageserver.redo_timeout \(1000 ms\)/, 'a process that hangs is an error of the page');
kill 'KILL', @stopped;
$node->append_conf('postgresql.conf', 'neon_pageserver.redo_timeout = 10s');
$node->reload;
wait_until('ready after hanging', \&all_idle);

# A cancelled, a terminated and a killed session.
$s = in_background("SET statement_timeout = '300ms'; SELECT count(*) FROM redo_probe('$ta', 100, 1, 'sleep')");
$s->{h}->finish;
like($s->{err}, qr/canceling statement due to statement timeout/, 'a batch can be cancelled');
wait_until('ready after a cancel', \&all_idle);
$s = in_background("SELECT count(*) FROM redo_probe('$ta', 100, 1, 'sleep')");
wait_leased();
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%sleep%' AND pid <> pg_backend_pid()");
$s->{h}->finish;
like($s->{err}, qr/terminating connection/, 'a session can be terminated in a batch');
wait_until('ready after a terminate', \&all_idle);

my $backend = in_background("SELECT count(*) FROM redo_probe('$ta', 100, 1, 'sleep')");
wait_leased();
my $old = join ' ', children();
kill 'KILL', sql("SELECT pid FROM pg_stat_activity WHERE query LIKE '%sleep%' AND pid <> pg_backend_pid()");
$backend->{h}->finish;
wait_until('the instance comes back after a crash of a backend',
	sub { my ($r, $o) = $node->psql('postgres', 'SELECT bool_and(state = $$idle$$) FROM redo_slots()'); $r == 0 && $o eq 't' });
isnt(join(' ', children()), $old, 'with new processes');
wait_until('the old ones are gone', sub { !grep { kill 0, $_ } split / /, $old });

# The supervisor.
@pids = children();
my ($supervisor) = slurp_file("/proc/$pids[0]/stat") =~ /^\d+ \(.*\) \S (\d+) /;
kill 'TERM', $supervisor;
wait_until('processes end with their supervisor', sub { !grep { kill 0, $_ } @pids });
is(sql("SELECT count(*) FROM redo_probe('$ta', 10, 1, 'ok') WHERE ok"), 10, 'a new supervisor starts new ones');

# The postmaster, by kill -9 and orderly.
wait_until('ready once more', \&all_idle);
@pids = children();
kill_node($node);
wait_until('processes end with the postmaster', sub { !grep { kill 0, $_ } @pids });
$node->start;
wait_until('ready after a restart', \&all_idle);
@pids = children();
for my $pid (@pids)
{
	my $status = slurp_file("/proc/$pid/status");
	like($status, qr/^Seccomp:\s+2$/m, 'system calls of a process are filtered');
	like($status, qr/^NoNewPrivs:\s+1$/m, 'it can gain no privileges');
	ok(!opendir(my $d, "/proc/$pid/fd"), 'and is not open to inspection') if $> != 0;
}
my $dir = $node->data_dir . '/neon/redo/0';
is((stat $dir)[2] & 07777, 0700, 'the directory of a process is private');
ok(!-e "$dir/postmaster.pid", 'and has no lock file');
$node->stop('fast');
wait_until('a fast shutdown ends the processes', sub { !grep { kill 0, $_ } @pids });

# ------------------------------------------------------------- the sandbox --

# An injection point makes the child open a file once it is in its sandbox.
$node->append_conf('postgresql.conf', "dynamic_library_path = '$testlib:\$libdir'");
$ENV{NEON_WALREDO_TEST_ESCAPE} = 1;
$node->start;
delete $ENV{NEON_WALREDO_TEST_ESCAPE};
my $log = $node->logfile;
wait_until('opening a file in the sandbox is fatal', sub { slurp_file($log) =~ /could not start WAL redo process.*Bad system call|could not start WAL redo process.*signal 31/ });
sql('SELECT 1');
$node->append_conf('postgresql.conf', 'neon_pageserver.redo_timeout = 500ms');
$node->reload;
wait_until('reloaded', sub { sql('SHOW neon_pageserver.redo_timeout') eq '500ms' });
($rc, $out, $err) = $node->psql('postgres', "SELECT error FROM redo_probe('$ta', 2, 1, 'ok')");
like($err, qr/no WAL redo process became available within 500 ms.*could not be started/s, 'no process at all is an error');
$node->stop('fast');

# Neither a server nor a session can load the library.
for my $how ('preloaded', 'loaded')
{
	my $other = PostgreSQL::Test::Cluster->new($how);
	$other->init;
	$other->append_conf('postgresql.conf', "shared_preload_libraries = 'neon_walredo'") if $how eq 'preloaded';
	if ($how eq 'preloaded')
	{
		ok(!$other->start(fail_ok => 1), 'a server cannot preload neon_walredo');
		like(slurp_file($other->logfile), qr/FATAL.*cannot be loaded by a server/, 'it says so');
	}
	else
	{
		local $ENV{NEON_WALREDO} = 1;
		$other->start;
		my ($r, $o, $e) = $other->psql('postgres', "LOAD 'neon_walredo'");
		like($e, qr/FATAL.*must be preloaded/, 'a session cannot load neon_walredo, not even when asked to');
		is($other->safe_psql('postgres', 'SELECT 1'), 1, 'and the server lives on');
		$other->stop('fast');
	}
}
done_testing();
