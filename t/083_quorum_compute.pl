# A compute in quorum mode with stand-ins for the safekeepers: which settings
# it refuses, admission, acknowledgement, names, the read lease and the end.
use strict;
use warnings;
use IPC::Run qw(start);
use NeonControl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

$ENV{PGUSER} = 'cloud_admin';
my $base = NeonControl::base();
my $storage = NeonControl->storage();
NeonControl::safekeepers($storage);
my @members = @NeonControl::members;
my @names = map { $_->{name} } @members;
my $address = $storage->host . ':' . $storage->port;
my $node;
my @streams;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub fails
{
	my ($sql, $error, $test, %o) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql, %o);
	like($stderr, $error, $test);
	return $stderr;
}

sub wait_for
{
	my ($what, $code) = @_;
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;
	while (time() < $until)
	{
		return 1 if $code->();
		sleep 0.1;
	}
	die "timed out waiting for $what";
}

sub stream { $streams[$_] = NeonControl::stream($node, $members[$_], PostgreSQL::Test::Utils::tempdir()) for @_ }
sub end_stream { $streams[$_]->kill_kill for @_ }
sub streaming { return sql('SELECT count(*) FROM neon.safekeepers WHERE streaming') }
sub logged { return slurp_file($node->logfile) =~ $_[0] }
sub calls { return $storage->safe_psql('postgres', "SELECT $_[0]") }

# A session whose statement waits.
sub session
{
	my ($sql) = @_;
	my $s = { out => '', err => '' };
	$s->{h} = start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', NeonControl::conninfo($node) . ' application_name=waits',
			map { ('-c', $_) } ref $sql ? @$sql : $sql ], '<', \undef, '>', \$s->{out}, '2>', \$s->{err});
	return $s;
}

sub waiting
{
	return sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waits' AND wait_event = 'SyncRep'");
}

sub ended { my ($s) = @_; $s->{h}->finish; return $s->{h}->result(0) }

sub slurp_proc
{
	my ($file) = @_;
	open my $f, '<', $file or return '';
	local $/;
	my $text = <$f>;
	return $text // '';
}
sub process_title { return slurp_proc("/proc/$_[0]/cmdline") }
sub parent { return slurp_proc("/proc/$_[0]/stat") =~ /\) \S (\d+)/ ? $1 : 0 }

# refused starts
my $n = 0;
for my $r (
	[ 'an empty list of standbys', names => '', qr/"synchronous_standby_names" set to ""/ ],
	[ 'a minority', names => "ANY 1 (" . join(', ', @names) . ')', qr/"synchronous_standby_names" set to "ANY 1/ ],
	[ 'a member left out', names => "ANY 2 ($names[0], $names[1])", qr/"synchronous_standby_names"/ ],
	[ 'another name', names => "ANY 2 ($names[0], $names[1], other)", qr/"synchronous_standby_names"/ ],
	[ 'the first ones', names => 'FIRST 2 (' . join(', ', @names) . ')', qr/"synchronous_standby_names"/ ],
	[ 'a member without port', safekeepers => '1:' . '1' x 32 . ':here', qr/"neon.safekeepers"/ ],
	[ 'a short uuid', safekeepers => '1:11:here:5454', qr/"neon.safekeepers"/ ],
	[ 'one safekeeper twice', safekeepers => join(',', ('1:' . '1' x 32 . ':here:5454') x 2), qr/"neon.safekeepers"/ ])
{
	my ($what, $key, $value, $message) = @$r;
	NeonControl::start_refused(NeonControl->compute($base, 'r' . $n++, conf => NeonControl::quorum_conf($storage, $key => $value)),
		$message, qr/neon endpoint start/, $what);
}

# admission
$node = NeonControl->compute($base, 'main',
	conf => NeonControl::quorum_conf($storage) . "neon.fetch_timeout = 2s\nneon.read_lease = 3s\n");
$node->start;
fails('SELECT 1', qr/FATAL:  the database system is starting up\nDETAIL:  No majority of the safekeepers.*\nHINT/,
	'nobody is let in before members stream');
stream(0);
fails('SELECT 1', qr/No majority/, 'one of three is none');
stream(1);
wait_for('admission', sub { my ($rc) = $node->psql('postgres', 'SELECT 1'); $rc == 0 });
pass('two of three are a majority');
sql('CREATE EXTENSION neon');
is(sql('SELECT id, node, port, streaming, flush_lsn IS NOT NULL FROM neon.safekeepers ORDER BY id'),
	join("\n", map { $_ . '|' . $_ x 32 . '|' . $storage->port . '|' . ($_ < 3 ? 't|t' : 'f|f') } 1 .. 3), 'neon.safekeepers');
is(sql('SELECT streaming, config_generation, lease_left_ms > 0 FROM neon.status'), 't|7|t', 'neon.status');
is(sql('SHOW neon.term') . sql('SHOW neon.boot_id'), '3' . '3' x 32, 'term and boot id are shown');
is(calls("count(*) > 0 FROM sk_calls WHERE what = 'receive' AND term = 3 AND generation = 7 AND boot_id = repeat('3', 32) AND conninfo = 'host=here user=neon_storage'"),
	't', 'members were asked to stream');
is(calls("count(*) > 0 FROM sk_calls WHERE what = 'commit' AND lease_ms = 3000"), 't', 'and are told the position');
is(calls("tenant || conninfo[1] FROM calls ORDER BY n LIMIT 1"),
	'safekeeperhost=' . $storage->host . ' port=' . $storage->port . ' user=neon_storage', 'the pageserver is told the members');
sql('INSERT INTO t VALUES (1)');
my $lsn = sql('SELECT flush_lsn FROM neon.safekeepers WHERE id = 1');
wait_for('commit_lsn', sub { calls("max(lsn) >= '$lsn' FROM sk_calls") eq 't' });
pass('members are told a new position');

# names and settings
fails("SET application_name = 'Neon_SK_1'", qr/application name "Neon_SK_1" is reserved/, 'SET application_name');
fails('SELECT 1', qr/application name "neon_sk_9" is reserved/, 'and at connection', extra_params => [ '-d', 'application_name=neon_sk_9' ]);
fails("ALTER SYSTEM SET $_ = '1'", qr/"\Q$_\E" of a compute cannot be changed/, "ALTER SYSTEM SET $_")
  for qw(neon.safekeepers neon.safekeeper_connstring neon.config_generation synchronous_standby_names fsync full_page_writes);
for my $value (qw(local remote_write on))
{
	is(sql("SET synchronous_commit = $value; SHOW synchronous_commit"), 'on', "synchronous_commit = $value is on");
}
is(sql("SET synchronous_commit = $_; SHOW synchronous_commit"), $_, "synchronous_commit = $_ stays") for qw(off remote_apply);
sql('ALTER ROLE cloud_admin SET synchronous_commit = local');
is(sql('SHOW synchronous_commit'), 'on', 'also as a setting of a role');
sql('ALTER ROLE cloud_admin RESET ALL');
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\nsynchronous_commit = local\n");
$node->reload;
wait_for('the refusal', sub { logged(qr/invalid value for parameter "synchronous_standby_names"/) });
like(sql('SHOW synchronous_standby_names'), qr/^ANY 2/, 'nothing weaker by reload');
is(sql('SHOW synchronous_commit'), 'on', 'and synchronous_commit = local of a file is on');

# acknowledgement: two members are gone
sql("BEGIN; INSERT INTO t VALUES (50); PREPARE TRANSACTION 'p'");
sql('CREATE PROCEDURE two() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (60); COMMIT; INSERT INTO t VALUES (61); COMMIT; END $$');
end_stream(1);
wait_for('one stream', sub { streaming() == 1 });
my @sessions = map { session($_) } (
	'INSERT INTO t VALUES (10)', "COMMIT PREPARED 'p'", 'CALL two()',
	[ "SET statement_timeout = '500ms'", 'CALL two()' ],
	[ 'BEGIN', "INSERT INTO t VALUES (20); SET LOCAL synchronous_commit = local", 'COMMIT', 'SELECT 77' ],
	'INSERT INTO t VALUES (30)');
wait_for('the waiters', sub { waiting() == 6 });
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waits'") for 1 .. 2;
$sessions[0]{h}->signal('INT');
sleep 1;
is(waiting(), '6', 'no cancel ends the wait for the quorum');
is(sql('SELECT count(*) FROM t WHERE a >= 10'), '0', 'and nothing is visible');
is(join('', map { $_->{out} } @sessions), '', 'nor answered');
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'waits' AND query = 'INSERT INTO t VALUES (30)'");
isnt(ended($sessions[5]), 0, 'a terminated session ends');
unlike($sessions[5]{out}, qr/INSERT/, 'without an answer');
stream(2);
ended($_) for @sessions[ 0 .. 4 ];
unlike($sessions[0]{err}, qr/WARNING|ERROR|FATAL/, 'the waiting commit ends well when a majority is back');
is($sessions[1]{err}, '', 'COMMIT PREPARED too');
like($sessions[2]{err}, qr/57014.*due to user request/s, 'a procedure is cancelled after its commit');
like($sessions[3]{err}, qr/57014.*canceling/s, 'or by its timeout');
like($sessions[4]{out}, qr/77/, 'the session goes on');
is(sql('SELECT string_agg(a::text, $$,$$ ORDER BY a) FROM t WHERE a >= 10 AND a <> 30'), '10,20,50,60,60', 'everything acknowledged is there');

# the lease
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe('SELECT 1');
NeonControl::safekeepers_answer($storage, 'refused');
wait_for('the end of the lease', sub { my ($rc, $out, $err) = $node->psql('postgres', 'SELECT 1'); $err =~ /FATAL:  this endpoint has lost its lease/ });
pass('without a lease nobody is let in');
eval { $session->query('SELECT 1') };
eval { $session->quit };
ok(logged(qr/FATAL:  this endpoint has lost its lease/), 'sessions end at their next statement');
NeonControl::safekeepers_answer($storage, 'ok');
wait_for('the lease', sub { my ($rc) = $node->psql('postgres', 'SELECT 1'); $rc == 0 });
pass('all goes on when a majority grants again');
my ($coordinator) = grep { parent($_) == $node->{_pid} && process_title($_) =~ /neon coordinator/ }
  map { m{^/proc/(\d+)$} ? $1 : () } glob '/proc/[0-9]*';
kill 'STOP', $coordinator;
wait_for('the end of the lease', sub { my ($rc, $out, $err) = $node->psql('postgres', 'SELECT 1'); $err =~ /lost its lease/ });
pass('a coordinator that hangs fences too');
kill 'CONT', $coordinator;
wait_for('the lease', sub { my ($rc) = $node->psql('postgres', 'SELECT 1'); $rc == 0 });

# a member that comes back while its old stream hangs
my $before = sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '$names[2]'");
$streams[2]->signal('STOP');
my $hung = $streams[2];
stream(2);
wait_for('the new stream', sub { my $p = sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '$names[2]'"); $p ne '' && $p ne $before });
pass('a member takes its slot from its old stream');
$hung->kill_kill;

# writers too far ahead
sql("SET synchronous_commit = off; CREATE TABLE w(a text)");
$node->append_conf('postgresql.conf', "neon.max_unflushed_wal = 1MB\n");
$node->reload;
end_stream(0, 2);
wait_for('no stream', sub { streaming() == 0 });
fails("SET synchronous_commit = off; INSERT INTO w SELECT repeat('x', 500) FROM generate_series(1, 10000)",
	qr/majority of the safekeepers is too far behind.*DETAIL:.*Behind: safekeeper 1 \(\Q$address\E\).*HINT/s, 'writers are held, and told by whom');
stream(0, 1);
wait_for('streams', sub { streaming() == 2 });

# the end
NeonControl::safekeepers_answer($storage, 'promised');
wait_for('the shutdown', sub { !-e $node->data_dir . '/postmaster.pid' });
ok(logged(qr/LOG:  superseded by term 9/), 'a superseded compute says so and exits');
$node->{_pid} = undef;
NeonControl::safekeepers_answer($storage, 'ok');

$node = NeonControl->compute($base, 'mismatch', conf => NeonControl::quorum_conf($storage));
$node->start;
$node->append_conf('postgresql.conf', "neon.safekeepers = '1:" . '1' x 32 . ":$address'\n");
$node->reload;
wait_for('the shutdown', sub { !-e $node->data_dir . '/postmaster.pid' });
ok(logged(qr/synchronous_standby_names does not name the safekeepers/), 'settings that disagree end the server');
$node->{_pid} = undef;
end_stream(0, 1);

done_testing();
