# Endpoints: boot, drain, take-over, move, static, ephemeral, settings,
# concurrent starts, and what is refused so that nothing gets lost.
use strict;
use warnings;
use File::Path qw(remove_tree);
use IPC::Run qw(start finish timeout);
use JSON::PP;
use NeonTest;
use Test::More;

my $t = NeonTest->new(subdir => "it's a state", auth => 'scram');
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);

sub slurp { local (@ARGV, $/) = ($_[0]); return scalar <> }
sub status
{
	my ($name) = @_;
	my ($e) = grep { $_->{endpoint} eq $name } @{ decode_json($t->neon('--json', 'endpoint', 'list')) };
	return $e ? $e->{status} : 'absent';
}
sub count { return $t->psql($_[0], 'SELECT count(*) FROM t') }

$t->psql('main', 'CREATE TABLE t AS SELECT generate_series(1, 10) a');
my $info = decode_json($t->neon('--json', 'endpoint', 'list'))->[0];
is_deeply([ @$info{qw(endpoint address branch_name status)} ],
	[ 'main', '127.0.0.1:' . $t->port('main'), 'main', 'running' ], 'endpoint list');
like($t->neon('endpoint', 'list'), qr/^ ENDPOINT +ADDRESS +TIMELINE +BRANCH NAME +LSN +STATUS$/m, 'its head is that of Neon');
is($t->psql('main', "SELECT string_agg(setting, ',' ORDER BY name) FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'restart_after_crash')"),
	$t->quorum ? 'off,off,off' : 'on,off,off', 'safety settings');

# ---- settings are kept ----

sub append_auto { open my $f, '>>', $t->dir . '/endpoints/main/conf/postgresql.auto.conf' or die; print $f "$_[0]\n"; close $f }
append_auto(q{geqo_effort = '7'});
$t->psql('main', q{ALTER SYSTEM SET work_mem = '5MB'});
append_auto(q{deadlock_timeout = '7s'});
$t->neon('endpoint', 'config', 'main', q{maintenance_work_mem=17MB}, q{cluster_name=it's mine});
$t->neon_fails([ 'endpoint', 'config', 'main', 'maintenance_work_mem=much' ], qr/refuses.*much/, qr/as before/, 'a value that makes no sense');
$t->neon_fails([ 'endpoint', 'config', 'main', 'fsync=off' ], qr/fsync.*cannot be changed/, qr/./, 'a guarded setting');
$t->neon_fails([ 'endpoint', 'config', 'main', 'port=1' ], qr/port.*cannot be changed/, qr/--port/, 'the port');
$t->neon_fails([ 'endpoint', 'config', 'main', 'wal_level=minimal' ], qr/wal_level=minimal/, qr/logical/, 'a value that a compute refuses');
$t->neon_fails([ 'endpoint', 'config', 'main', 'work_mem' ], qr/no setting/, qr/name=value/, 'no value');
$t->neon_fails([ 'endpoint', 'config', 'main', "$_=auto_explain, nosuchlib" ], qr/"nosuchlib" of $_ is not installed/, qr/as before/, "$_ of a library that is not there")
  for qw(shared_preload_libraries session_preload_libraries);
$t->neon_fails([ 'endpoint', 'config', 'main', 'local_preload_libraries=auto_explain' ], qr/"auto_explain" of local/, qr/as before/, 'a library that not every user may load');
$t->neon_fails([ 'endpoint', 'config', 'main', $_->[0] ], $_->[1], $_->[2], "endpoint config $_->[0]")
  for [ 'neon.fetch_timeout=banana', qr/invalid value.*"banana"/, qr/30s/ ], [ 'neon.max_unflushed_wal=0', qr/invalid value/, qr/1MB/ ],
  [ 'neon.fetch_timeot=5s', qr/no setting "neon.fetch_timeot"/, qr/settings.md/ ], [ 'recovery_target_lsn=0/1', qr/cannot be changed/, qr/./ ],
  [ 'max_replication_slots=0', qr/cannot run with max_replication_slots=0/, qr/10/ ];
$t->neon('endpoint', 'config', 'main', 'neon.max_ingest_lag=100000000000', 'neon.fetch_timeout=1min', 'neon.max_unflushed_wal=1.5GB', 'neon.read_lease=0.5s');
$t->neon('endpoint', 'config', 'main', map { "neon.$_=" } qw(max_ingest_lag fetch_timeout max_unflushed_wal read_lease));
$t->neon_fails([ 'endpoint', 'config', 'main', 'work_mem=9MB', 'fsync=off' ], qr/fsync/, qr/./, 'one of two settings cannot be');
like($t->neon('endpoint', 'config', 'main'), qr/VALUE *\n maintenance_work_mem +17MB\n cluster_name +it's mine$/m, 'shown');
open my $hba, '>>', $t->dir . '/endpoints/main/conf/pg_hba.conf' or die;
print $hba "# mine\n";
close $hba;
$t->neon_ok([ 'endpoint', 'restart', 'main' ], 'restart');
is($t->psql('main', "SELECT current_setting('work_mem') || current_setting('maintenance_work_mem') || current_setting('cluster_name')"),
	q{5MB17MBit's mine}, 'ALTER SYSTEM and endpoint config survive a boot');
is($t->psql('main', "SELECT current_setting('geqo_effort') || current_setting('deadlock_timeout')"),
	'77s', 'and so does what was written into postgresql.auto.conf by hand, before and after an ALTER SYSTEM');
$t->neon('endpoint', 'config', 'main', 'maintenance_work_mem=', 'shared_preload_libraries=auto_explain');
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SHOW shared_preload_libraries'), 'neon,auto_explain', 'libraries of the user come after ours');
is($t->psql('main', 'SHOW maintenance_work_mem'), '64MB', 'a setting taken away');
is($t->psql('main', 'SHOW work_mem'), '5MB', 'the other is still there');
like(slurp($t->dir . '/endpoints/main/conf/pg_hba.conf'), qr/^# mine$/m, 'pg_hba.conf is kept');
is(count('main'), 10, 'the data too');

# ---- what the server says when it cannot start ----

my $rules = slurp($t->dir . '/endpoints/main/conf/pg_hba.conf');
sub write_hba { open my $f, '>', $t->dir . '/endpoints/main/conf/pg_hba.conf' or die; print $f $_[0]; close $f }
write_hba("nonsense\n");
$t->neon_fails([ 'endpoint', 'restart', 'main' ], qr/did not start: could not load .*pg_hba\.conf/, qr/endpoint logs main/, 'a file that the server refuses once its log is collected');
like($t->neon('endpoint', 'logs', 'main'), qr/invalid connection type "nonsense".*FATAL:  could not load/s, 'the log says more');
write_hba($rules);
append_auto('ssl = on');
my $auto = $t->dir . '/endpoints/main/conf/postgresql.auto.conf';
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/did not start: could not load server certificate file/, qr/"neon endpoint config main".*ALTER SYSTEM has set \(.*\bssl\).*"\Q$auto\E"/,
	'a setting with which it cannot start');
append_auto('ssl = off');
$t->endpoint_start('main');
$t->psql_fails('main', $_, qr/role "cloud_admin" must stay.*DETAIL.*HINT/s, $_)
  for ("ALTER ROLE cloud_admin PASSWORD 'other'", 'ALTER ROLE cloud_admin PASSWORD NULL');

my $conf = $t->dir . '/endpoints/main/conf/postgresql.conf';
my $settings = slurp($conf);
for my $case ([ "session_preload_libraries = 'nosuchlib'", qr/"nosuchlib" of session/ ], [ 'maintenance_work_mem = much', qr/not valid: invalid value.*much/ ])
{
	open my $f, '>>', $conf or die;
	print $f "$case->[0]\n";
	close $f;
	$t->neon_fails([ 'endpoint', 'restart', 'main' ], $case->[1], qr/conf"/, "restart with $case->[0]");
	is(count('main'), 10, 'has stopped nothing');
	open $f, '>', $conf or die;
	print $f $settings;
	close $f;
}

# ---- kill -9, drain, missing directories ----

$t->psql('main', 'INSERT INTO t SELECT generate_series(1, 5)');
my $postmaster = $t->postmaster_pid('main');
my %shared = map { $_ => 1 } slurp("/proc/$postmaster/maps") =~ m{ (/dev/shm/PostgreSQL\.\d+)$}mg;
cmp_ok(scalar(keys %shared), '>', 0, 'a server has dynamic shared memory');
kill 'KILL', $postmaster;
$t->wait_for('the crash to be seen', sub { status('main') eq 'crashed' });
$t->neon_ok([ 'timeline', 'branch', '--branch-name', 'of_the_dead' ], 'branch of a dead endpoint');
$t->endpoint_start('dead', branch => 'of_the_dead');
is(count('dead'), 15, 'has all that it acknowledged');
my $line = '127.0.0.1:' . $t->port('dead') . ':*:cloud_admin:';
like(slurp($t->{passfile}), qr/\A\Q$line\E\w+$/m, 'its line is the first of the passfile');
open my $passfile, '>>', $t->{passfile} or die;
print $passfile "${line}anothers\n";
close $passfile;
$t->neon('endpoint', 'destroy', 'dead');
is(join(',', slurp($t->{passfile}) =~ /^\Q$line\E(\w+)$/mg), 'anothers', 'destroy takes our line away and leaves others');
is(status('dead'), 'absent', 'destroy');
mkdir $t->dir . "/endpoints/half$_" or die $! for '', '/conf', '/pgdata.new';
like($t->neon('endpoint', 'destroy', 'half'), qr/Removed what an unfinished start/, 'destroy takes away what a start has left that was killed');
ok(!-e $t->dir . '/endpoints/half', 'it is gone');
if ($t->quorum)
{
	$t->endpoint_start('main');
	$t->kill9('main');
}
is(join(' ', grep { -e } sort keys %shared), '', 'what the dead one had in shared memory is removed');
remove_tree($t->pgdata('main'));
$t->endpoint_start('main');
is(count('main'), 15, 'a directory that nothing is missing from may be missing');

$t->psql('main', 'INSERT INTO t VALUES (0)');
$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
$t->quorum ? without_directory() : undrained();

# With safekeepers a data directory is a cache.
sub without_directory
{
	remove_tree($t->pgdata('main'));
	$t->neon_ok([ 'timeline', 'branch', '--branch-name', 'x' ], 'a branch of an endpoint without its directory');
	$t->endpoint_start('x', branch => 'x');
	is(count('x'), 16, 'has all that it acknowledged');
	$t->neon('endpoint', 'destroy', 'x');
	$t->endpoint_start('main');
	is(count('main'), 16, 'so has the endpoint itself');
	$t->kill9('main');
	remove_tree($t->pgdata('main'));
	$t->endpoint_start('thief', branch => 'main', take_over => 1);
	is(count('thief'), 16, 'and another in its place');
	$t->neon('endpoint', 'destroy', 'thief');
	$t->neon_ok([ 'endpoint', 'destroy', 'main' ], 'destroy of one without its directory');
	$t->neon('endpoint', 'create', 'main', '--port', $t->port('main'));
	like($t->neon('--json', 'endpoint', 'start', 'main'), qr/"kept_chunks": ?0, .*"kept_complete": ?true, ?"not_kept": ?"[^"]+"/, 'that nothing is kept is final');
	$t->psql('main', q{ALTER SYSTEM SET work_mem = '5MB'});
	$t->psql('main', 'SELECT pg_reload_conf()');
	return;
}

sub undrained
{
	rename $t->pgdata('main'), $t->tmp . '/kept' or die;
	my $err;
	for my $case ([ 'endpoint', 'start', 'main' ], [ 'endpoint', 'stop', 'main' ], [ 'endpoint', 'destroy', 'main' ],
		[ 'timeline', 'branch', '--branch-name', 'x' ], [ 'endpoint', 'start', 'thief', '--take-over' ])
	{
		$err = $t->neon_fails($case, qr/missing.*would be lost/, qr/--accept-data-loss/, "@$case: an undrained directory is missing");
	}
	my ($lsn) = $err =~ /--accept-data-loss ([0-9A-F]+\/[0-9A-F]+)/;
	$t->neon_fails([ 'endpoint', 'start', 'main', '--accept-data-loss', '0/1' ], qr/has branch "main" up to/, qr/\Q$lsn\E/, 'a wrong LSN accepted');
	rename $t->tmp . '/kept', $t->pgdata('main') or die;
	$t->endpoint_start('main');
	is(count('main'), 16, 'the directory is back, and nothing is lost');

	$t->neon('endpoint', 'stop', 'main', '-m', 'immediate');
	remove_tree($t->pgdata('main'));
	($lsn) = $t->neon_fails([ 'endpoint', 'start', 'main' ], qr/missing/, qr/--accept-data-loss/, 'gone for good') =~ /--accept-data-loss ([0-9A-F\/]+)/;
	$t->endpoint_start('main', args => [ '--accept-data-loss', $lsn ]);
	cmp_ok(count('main'), '>=', 15, 'started without what is lost');
	return;
}

# ---- a process that hangs ----

my $pid = $t->postmaster_pid('main');
kill 'STOP', $pid;
my $session = time;
$t->neon_ok([ 'endpoint', 'stop', 'main', '-m', 'fast' ], 'stop of a stopped process');
cmp_ok(time - $session, '<', 60, 'in bounded time');
is(status('main'), 'stopped', 'it is stopped');
$t->neon_fails([ 'endpoint', 'stop', 'main' ], qr/not running/, qr/endpoint start/, 'stop of what is stopped');

# ---- two starts at once: one boot ----

my @runs = map {
	my ($out, $errs) = ('', '');
	local %ENV = (%ENV, $t->env);
	{ out => \$out, err => \$errs, h => start([ 'neon', 'endpoint', 'start', 'main' ], '<', \undef, '>', \$out, '2>', \$errs, timeout(120)) }
} 1 .. 2;
$_->{h}->finish for @runs;
is(join(',', map { $_->{h}->full_result || 0 } @runs), '0,0', 'two starts at once both succeed')
  or diag(map { ${ $_->{out} } . ${ $_->{err} } } @runs);
is(scalar(grep { ${ $_->{out} } =~ /started by another command/ } @runs), 1, 'one of them joined the other');
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/already running/, qr/restart/, 'a start of what runs');

# ---- second primary, take-over, move ----

my $rows = count('main');
$t->neon_fails([ 'endpoint', 'start', 'second', '--branch-name', 'main', '--port', $t->free_port ],
	qr/already has a running primary, endpoint "main"/, qr/--take-over/, 'a second primary');
is(status('second'), 'absent', 'is not made');
like($t->endpoint_start('second', branch => 'main', take_over => 1), qr/Taking branch 'main' over from endpoint main/, 'take-over');
is(status('main'), 'stopped', 'stops the first');
is(count('second'), $rows, 'and has its data');
$t->neon('endpoint', 'stop', 'second');

my $before = $t->psql('pageserver', 'SELECT clock_timestamp()');
$t->endpoint_start('main');
$t->psql('main', 'DROP TABLE t');
$t->neon('timeline', 'branch', '--branch-name', 'restored', '--ancestor-start-time', $before);
$t->neon('endpoint', 'stop', 'main');
like($t->endpoint_start('main', branch => 'restored'), qr/Moving endpoint main from timeline [0-9a-f]{32} to branch 'restored'/, 'a move is said');
is(count('main'), $rows, 'restored under the same name and port');
is($t->psql('main', 'SHOW work_mem'), '5MB', 'with its settings');
$t->neon_fails([ 'timeline', 'delete', 'restored' ], qr/endpoint "main" belongs to branch "restored"/, qr/destroy/, 'a branch with an endpoint');
$t->neon_fails([ 'timeline', 'delete', 'main' ], qr/./, qr/./, 'a branch with branches');

# ---- static and ephemeral ----

$t->psql('main', 'INSERT INTO t VALUES (7)');
my $lsn = $t->insert_lsn('main');
$t->psql('main', 'INSERT INTO t VALUES (8)');
$t->endpoint_start('static', branch => 'restored', lsn => $lsn);
is(count('static'), $rows + 1, 'a static endpoint is where it was told');
$t->psql_fails('static', 'INSERT INTO t VALUES (9)', qr/read-only/, 'and read-only');
$t->neon('endpoint', 'restart', 'static');
is(count('static'), $rows + 1, 'also after a restart');
$t->neon_fails([ 'endpoint', 'start', 'static2', '--branch-name', 'restored', '--lsn', 'F/0' ], qr/future/, qr/ends at/, 'in the future');
$t->neon_fails([ 'endpoint', 'start', 'static2', '--branch-name', 'restored', '--lsn', '0/28' ], qr/before/, qr/./, 'before the branch');
$t->neon_fails([ 'endpoint', 'start', 'static2', '--branch-name', 'restored', '--time', '2001-01-01 00:00+00' ], qr/before/, qr/./, 'before the history');
$t->neon_fails([ 'endpoint', 'start', 'static2', '--branch-name', 'restored', '--time', 'tea time' ], qr/tea time/, qr/./, 'no time');
$t->neon_fails([ 'endpoint', 'start', 'static2', '--branch-name', 'restored', '--time', '2999-01-01 00:00+00' ], qr/future/, qr/./, 'a time in the future');
is(status('static2'), 'absent', 'none of them is made');
$t->endpoint_start('scratch', branch => 'restored', ephemeral => 1);
is(count('scratch'), $rows + 2, 'an ephemeral endpoint begins with what is there now');
$t->psql('scratch', 'DELETE FROM t');
$t->neon('endpoint', 'stop', 'scratch');
ok(!-e $t->pgdata('scratch'), 'leaves nothing');
is(count('main'), $rows + 2, 'and has changed nothing');

# ---- a start that fails makes no endpoint ----

my $backup = 'ALTER PROCEDURE neon_pageserver.%s RENAME TO %s';
$t->psql('pageserver', sprintf($backup, 'basebackup', 'hidden'));
$t->neon_fails([ 'endpoint', 'start', 'ghost', '--branch-name', 'restored', '--lsn', $lsn ], qr/basebackup/, qr/./, 'a start that fails at the base backup');
is(status('ghost'), 'absent', 'makes no endpoint');
ok(!-e $t->dir . '/endpoints/ghost', 'and leaves nothing');
$t->neon_fails([ 'endpoint', 'restart', 'static' ], qr/basebackup/, qr/./, 'the same of an old endpoint');
is(status('static'), 'stopped', 'which stays');
$t->psql('pageserver', sprintf($backup, 'hidden', 'basebackup'));
$t->neon('endpoint', 'start', 'static');

my $port = decode_json($t->neon('--json', 'endpoint', 'create', 'ghost', '--branch-name', 'restored'))->{port};
$t->neon('endpoint', 'destroy', 'ghost');
open my $reserved, '>', $t->dir . "/run/port.$port.lock" or die;
flock $reserved, 2 or die;
isnt(decode_json($t->neon('--json', 'endpoint', 'create', 'ghost', '--branch-name', 'restored'))->{port}, $port,
	'a port that another start has chosen is not given');
$t->neon_fails([ 'endpoint', 'start', 'ghost', '--lsn', $lsn, '--port', $port ], qr/port $port is already in use/, qr/--port/, 'nor taken');
close $reserved;
$t->neon('endpoint', 'destroy', 'ghost');

# ---- a second root ----

like($t->neon('timeline', 'create', '--branch-name', 'fresh'), qr/^Created timeline '\w{32}' at Lsn/m, 'timeline create');
$t->endpoint_start('fresh', branch => 'fresh');
$t->psql('fresh', 'CREATE TABLE t AS SELECT 1');
$t->neon('endpoint', 'restart', 'fresh');
is(count('fresh'), 1, 'its endpoint works');
$t->neon('endpoint', 'destroy', 'fresh');
$t->neon_ok([ 'timeline', 'delete', 'fresh' ], 'and it is deleted');
like($t->neon('--json', 'tenant', 'list'), qr/"timelines": \d+, "logical_size": \d+,/, 'numbers in JSON are numbers');

# ---- the pageserver is away ----

$t->neon('pageserver', 'stop');
$t->neon_fails([ 'endpoint', 'start', 'scratch' ], qr/pageserver is not running/, qr/neon start/, 'start without a pageserver');
my ($rc, undef, $warning) = $t->command([ 'neon', 'endpoint', 'stop', 'main' ]);
is($rc, 0, 'stop without a pageserver');
like($warning, $t->quorum ? qr/\A\z/ : qr/not drained/, 'says whether it is not drained');
$t->neon_ok(['stop'], 'neon stop');
$t->neon_ok([ 'start', '--endpoints' ], 'start --endpoints');
is(status('static'), 'running', 'starts what ran');
is(status('main'), 'stopped', 'and not what was stopped');
$t->endpoint_start('main');
is(count('main'), $rows + 2, 'nothing is lost');
$t->neon_ok(['stop'], 'stop');
is(join(',', map { status($_) } qw(main second static scratch)), 'stopped,stopped,stopped,stopped', 'everything');

done_testing();
