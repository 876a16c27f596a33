# init, start, stop, status: two state directories at once, one of them with
# blanks in its path; secrets, passfiles, JSON; the pageserver's failures.
use strict;
use warnings;
use File::Find;
use IPC::Run qw(start timeout);
use JSON::PP;
use NeonTest;
use Test::More;

my $t = NeonTest->new(subdir => 'state with blanks', auth => 'scram');
my $u = NeonTest->new(name => 'cli_trust');

sub mode { return sprintf('%04o', (stat($_[0]))[2] & 07777) }
sub slurp { local (@ARGV, $/) = ($_[0]); return scalar <> }

# ---- init ----

umask 0;
my $out = $t->init;
umask 022;
like($out, qr/Initializing pageserver node 1 at '127\.0\.0\.1:$t->{ps_port}'/, 'init says where');
like($out, $t->quorum ? qr/kept by 2 of 3 safekeepers/ : qr/[Ll]aptop mode.*one copy/, 'and how many copies there are');
$t->neon_fails([ 'init', '--pageserver-port', '0' ], qr/already/, qr/--force/, 'a second init');
$u->init;

my @open;
find(sub { push @open, $File::Find::name if ((lstat($_))[2] & 077) && !-l _ }, $t->dir);
is_deeply(\@open, [], 'nothing in the state directory is for others');
my ($password) = slurp($t->dir . '/config') =~ /^pageserver_password=(\w{40,})$/m;
ok($password, 'the password is in the config');
ok(!-e $t->dir . '/pageserver/initdb.password', "initdb's password file is gone");
unlike(slurp($t->dir . '/pageserver/pgdata/postmaster.opts') . $t->neon('pageserver', 'logs'),
	qr/$password/, 'no password in options or log');
is(mode($t->{passfile}), '0600', "the user's passfile is his own");
like(slurp($t->{passfile}), qr/^127\.0\.0\.1:$t->{ps_port}:\*:cloud_admin:$password$/m, 'with the line of the pageserver');

# ---- start, status ----

$t->neon_fails([ 'tenant', 'list' ], qr/pageserver is not running/, qr/neon start/, 'tenant list before start');
my ($rc) = $t->command([ 'neon', 'status' ]);
is($rc, 3, 'status of what is stopped: exit code 3');
like($t->neon_ok(['start'], 'start'), qr/pageserver started, pid: \d+/, 'start says so');
like($t->neon_ok(['start'], 'start again'), qr/already running/, 'starting twice is no error');
$u->neon_ok(['start'], 'another state directory at the same time');
like($t->neon_ok(['status']), qr/pageserver +127\.0\.0\.1:$t->{ps_port} +\d+ +running/, 'status');
is($t->psql('pageserver', 'SELECT extname FROM pg_extension WHERE extname ~ \'neon\''), 'neon_pageserver', 'the extension is there');
is($u->psql('pageserver', 'SELECT current_user'), 'cloud_admin', 'trust needs no password');
ok(!-e $u->{passfile} || slurp($u->{passfile}) !~ /cloud_admin/, 'and has none');
$t->psql_fails('pageserver', 'SELECT 1', qr/password/, 'scram needs it', env => { PGPASSFILE => '/dev/null' });

my $status = decode_json($t->neon('--json', 'status'));
is($status->[0]{status}, 'running', 'status in JSON');
is(decode_json($t->neon('--json', 'pageserver', 'status'))->{service}, 'pageserver', 'and of the pageserver');

# ---- tenants ----

my $created = $t->neon('tenant', 'create', '--set-default', '--wal-segsize', '1');
like($created, qr/^tenant ([0-9a-f]{32}) successfully created on the pageserver\nCreated an initial timeline '[0-9a-f]{32}' at Lsn [0-9A-F]+\/[0-9A-F]+ for tenant: \1\nSetting tenant \1 as a default one\n\z/,
	'tenant create says what Neon says');
my $id = 'ab' x 16;
my $json = decode_json($t->neon('tenant', 'create', '--tenant-id', uc $id, '--data-checksums', '--json'));
is($json->{tenant_id}, $id, 'an id of its own, in JSON');
$t->neon_fails([ 'tenant', 'create', '--tenant-id', $id ], qr/already/, qr/./, 'the same id again');
$t->neon_fails([ 'tenant', 'create', '--wal-segsize', '3' ], qr/3 is no size/, qr/16/, 'a bad segment size');
$t->neon_fails([ 'tenant', 'create', '--locale', 'no_SUCH' ], qr/\(initdb: error: invalid locale name "no_SUCH"\)/, qr/./, 'a bad locale');
my @list = @{ decode_json($t->neon('tenant', 'list', '--json')) };
is(scalar(@list), 2, 'failures leave no tenant');
is(scalar(grep { $_->{default} eq 'yes' } @list), 1, 'one is the default');
like($t->neon('tenant', 'list'), qr/TENANT +TIMELINES.*$id +1/s, 'tenant list');
$t->neon_ok([ 'tenant', 'set-default', $id ], 'set-default');
like($t->neon('timeline', 'list'), qr/^\(L\) main \[[0-9a-f]{32}\]\n\z/, 'timeline list of the default tenant');
$t->neon_fails([ 'tenant', 'set-default', 'cd' x 16 ], qr/no tenant/, qr/tenant list/, 'set-default of an unknown one');
$t->neon_ok([ 'tenant', 'delete', $id ], 'tenant delete');
$t->neon_fails([ 'timeline', 'list' ], qr/no default tenant/, qr/tenant create/, 'then there is no default');
unlike(slurp($t->dir . '/config'), qr/$id/, 'and no secret of it');
like(slurp($t->dir . '/config'), qr/^tenant\.[0-9a-f]{32}\.superuser_password=\w{40,}$/m, 'those of the other stay');

# ---- crash and stop ----

my $pid = $t->postmaster_pid('pageserver');
kill 'KILL', $pid;
$t->wait_for('the pageserver to be gone', sub { $t->neon_status_is('crashed') });
like($t->neon_ok(['start'], 'start after kill -9'), qr/pageserver started/, 'starts again after kill -9');
is(scalar(@{ decode_json($t->neon('tenant', 'list', '--json')) }), 1, 'with its tenants');
my $stopped = $t->postmaster_pid('pageserver');
kill 'STOP', $stopped;
$t->neon_ok([ 'pageserver', 'stop', '-m', 'immediate' ], 'stop of a process that SIGSTOP holds');
$t->neon_fails([ 'pageserver', 'stop' ], qr/not running/, qr/neon status/, 'stop of a stopped pageserver');
like($t->neon_ok(['stop'], 'neon stop of what is stopped'), qr/not running/, 'is no error');
is(($t->command([ 'neon', 'pageserver', 'status' ]))[0], 3, 'pageserver status: exit code 3');
like($t->neon('pageserver', 'logs'), qr/database system is ready/, 'logs');
my $log = $t->dir . '/pageserver/pageserver.log';
unlike(slurp($log), qr/database system is ready/, 'not in the file of the start');
find(sub { $out = $_ if /^postgresql-/ }, $t->dir . '/pageserver/log');
like($out, qr/^postgresql-(Mon|Tue|Wed|Thu|Fri|Sat|Sun)\.log$/, 'but in that of the day');
truncate $log, 11 * 1024 * 1024 or die;

# ---- init --force ----

$t->neon_ok(['start']);
is(-s "$log.old", 11 * 1024 * 1024, 'a large one is put aside');
cmp_ok(-s $log, '<', 1024 * 1024, 'for a new one');
$t->neon_fails([ 'init', '--force' ], qr/is running/, qr/neon stop/, 'init --force while it runs');
$t->neon('stop');
$t->neon_ok([ 'init', '--force', $t->init_safekeepers, '--pageserver-port', $t->{ps_port} ], 'init --force');
$t->neon('start');
is_deeply(decode_json($t->neon('tenant', 'list', '--json')), [], 'wipes it');
is($t->psql('pageserver', "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name ~ '^log_(rot|trunc)'"), '1440 0 on', 'log files are overwritten after a week');

# ---- an init that fails or is killed leaves nothing running ----

my $broken = $t->tmp . '/broken';
my @broken = ('-D', $broken, 'init', $t->init_safekeepers, '--pageserver-port', '0');
sub broken_runs { return grep { index(readlink("/proc/$_/cwd") || '', "$broken/") == 0 || index(NeonTest::cmdline($_), "$broken/") >= 0 } map { m{(\d+)$} } glob '/proc/[0-9]*' }
$t->neon_fails(\@broken, qr/could not connect/, qr/./, 'init whose sessions are refused', env => { PGCHANNELBINDING => 'require' });
is(join(' ', broken_runs()), '', 'leaves nothing running');
like(slurp("$broken/pageserver/pageserver.log"), qr/ready to accept|redirecting log output/, 'although it was started');
$t->neon_fails([ '-D', $broken, 'start' ], qr/did not come to its end/, qr/--force/, 'what it left cannot be started');
my $init = start([ 'neon', @broken, '--force' ], '>', '/dev/null', '2>', '/dev/null', timeout(120));
$t->wait_for('an instance of the init to run', sub { -e "$broken/pageserver/pgdata/postmaster.pid" || !$init->pumpable });
$init->kill_kill(grace => 0);
$t->wait_for('its end', sub { !broken_runs() });
pass('a killed init neither');
$t->neon_ok([ @broken, '--force' ], 'which can be done anew');

# ---- the port ----

$t->neon('stop');
my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $t->{ps_port}, Listen => 1, Proto => 'tcp', ReuseAddr => 1) or die;
$t->neon_fails(['start'], qr/port $t->{ps_port}.*in use/, qr/./, "the pageserver's port is in use");
$t->neon('stop') if $t->quorum;	# the safekeepers were started
$t->neon_fails([ 'init', '--force', '--pageserver-port', $t->{ps_port} ], qr/in use/, qr/--pageserver-port/, 'also for init');
my $new = $t->tmp . '/new';
my @init = ('-D', $new, 'init', $t->init_safekeepers, '--pageserver-port', $t->{ps_port});
$t->neon_fails(\@init, qr/in use/, qr/--pageserver-port/, 'init of a new directory with such a port');
ok(!-e $new, 'leaves no directory behind');
mkdir $new or die;
$t->neon_fails(\@init, qr/in use/, qr/--pageserver-port/, 'the same in an empty directory');
ok(-d $new, 'which stays');
close $s;
$t->neon_ok(['start'], 'which has wiped nothing');
$t->neon('stop');
$u->neon_ok([ 'stop', '-m', 'immediate' ], 'immediate stop');

done_testing();

sub NeonTest::neon_status_is
{
	my ($self, $want) = @_;
	my ($rc, $out) = $self->command([ 'neon', '--json', 'pageserver', 'status' ]);
	return decode_json($out)->{status} eq $want;
}
