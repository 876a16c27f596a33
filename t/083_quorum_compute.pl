# A compute over three safekeepers: which settings it refuses, what is told to
# whom before a majority has the WAL, the read lease, and its end.
use strict;
use warnings;
use IPC::Run qw(start);
use NeonControl;
use NeonTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

# ---- refused starts ----

{
	local $ENV{PGUSER} = 'cloud_admin';
	my $base = NeonControl::base();
	my @names = map { $_->{name} } @NeonControl::members;
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
		NeonControl::start_refused(NeonControl->compute($base, 'r' . $n++, conf => NeonControl::quorum_conf($key => $value)),
			$message, qr/neon endpoint start/, $what);
	}
}

# ---- the system ----

my $t = NeonTest->new(safekeepers => 3, auth => 'scram');
$t->init;
$t->neon('start');
$t->neon('tenant', 'create', '--set-default');
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'max_prepared_transactions=10');
my ($tenant, $timeline) = ($t->tenant, $t->timeline('main'));

sub sql { return $t->psql('main', $_[0]) }

sub log_text { return join '', map { slurp_file($_) } glob $t->dir . '/endpoints/main/log/*' }
sub logged { return log_text() =~ $_[0] }
sub streaming { return sql('SELECT count(*) FROM neon.safekeepers WHERE streaming') }

# A member is gone at once, and is back.
sub kill_members { $t->kill9("safekeeper $_") for @_ }
sub start_members { $t->neon('safekeeper', 'start', $_) for @_ }

# The member's own words, below its own right.
sub at_member { return $t->psql("safekeeper $_[0]", $_[1]) }

sub set_lease
{
	sql("ALTER SYSTEM SET neon.read_lease = '$_[0]'");
	sql('SELECT pg_reload_conf()');
	$t->poll('main', 'SHOW neon.read_lease', $_[0]);
}

# A session whose statements wait, that shows all tags.
sub waiter
{
	my (@setup) = @_;
	my $s = $t->session('main');
	$s->{in} .= "\\set QUIET off\n\\set VERBOSITY verbose\n";
	$s->query($_) for "SET application_name = 'waits'", @setup;
	return $s;
}

sub waiting
{
	return sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waits' AND wait_event = 'SyncRep'");
}

# What was answered so far, to all of them.
sub answered
{
	my (@s) = @_;
	$_->{h}->pump_nb for @s;
	return join '', map { $_->{out} . $_->{err} } @s;
}

# ---- admission ----

$t->neon('safekeeper', 'stop', $_) for 2, 3;
$t->neon_fails([ 'endpoint', 'start', 'main' ], qr/./, undef, 'no start with one of three');
start_members(2);
$t->endpoint_start('main');
pass('two of three are a majority');
my $postmaster = $t->postmaster_pid('main');
sql('CREATE EXTENSION IF NOT EXISTS neon; CREATE TABLE t(a int); CREATE TABLE w(a text)');
is(sql('SELECT id, streaming, problem IS NULL FROM neon.safekeepers ORDER BY id'), "1|t|t\n2|t|t\n3|f|f", 'the third one is shown as missing');
start_members(3);
$t->wait_for('the third one', sub { streaming() == 3 });
is(sql('SELECT id, node, host, port, streaming, flush_lsn IS NOT NULL, problem FROM neon.safekeepers ORDER BY id'),
	join("\n", map { join '|', $_, $t->config("safekeeper.$_.node"), '127.0.0.1', $t->config("safekeeper.$_.port"), 't', 't', '' } 1 .. 3),
	'neon.safekeepers');
is(sql('SELECT streaming, config_generation, lease_left_ms > 0 FROM neon.status'), 't|1|t', 'neon.status');
my $term = sql('SHOW neon.term');
is(at_member(1, "SELECT term, last_log_term FROM neon_safekeeper.timelines"), "$term|$term", 'term and boot id are shown');
my $lsn = sql('INSERT INTO t VALUES (1); SELECT pg_current_wal_flush_lsn()');
$t->poll("safekeeper $_", "SELECT commit_lsn >= '$lsn' FROM neon_safekeeper.timelines") for 1 .. 3;
pass('members are told a new position');
$t->wait_for_lsn('main', $lsn);
pass('the pageserver reads from them');

# ---- names and settings ----

my @fails = (
	[ "SET application_name = 'Neon_SK_1'", qr/application name "Neon_SK_1" is reserved/, 'SET application_name' ],
	map { [ "ALTER SYSTEM SET $_ = '1'", qr/"\Q$_\E" of a compute cannot be changed/, "ALTER SYSTEM SET $_" ] }
	  qw(neon.safekeepers neon.safekeeper_connstring neon.config_generation synchronous_standby_names fsync full_page_writes));
$t->psql_fails('main', @$_) for @fails;
$t->psql_fails('main', 'SELECT 1', qr/"neon_sk_9" is reserved/, 'and at connection', connstr => $t->connstr('main') . ' application_name=neon_sk_9');
for my $value (qw(local remote_write on))
{
	is(sql("SET synchronous_commit = $value; SHOW synchronous_commit"), 'on', "synchronous_commit = $value is on");
}
is(sql("SET synchronous_commit = $_; SHOW synchronous_commit"), $_, "synchronous_commit = $_ stays") for qw(off remote_apply);
sql('ALTER ROLE cloud_admin SET synchronous_commit = local');
is(sql('SHOW synchronous_commit'), 'on', 'also as a setting of a role');
sql('ALTER ROLE cloud_admin RESET ALL');
is($t->psql('main', 'SHOW synchronous_commit', connstr => $t->connstr('main') . " options='-c synchronous_commit=remote_write'"),
	'on', 'of a connection');
sql(q{CREATE FUNCTION f() RETURNS text LANGUAGE sql SET synchronous_commit = local AS $$ SELECT current_setting('synchronous_commit') $$});
is(sql('SELECT f()'), 'on', 'or of a function');
my $conf = $t->dir . '/endpoints/main/conf/neon.conf';
my $saved = slurp_file($conf);
NeonOverlay::write_file($conf, "$saved\nsynchronous_standby_names = ''\nsynchronous_commit = local\n");
sql('SELECT pg_reload_conf()');
$t->wait_for('the refusal', sub { logged(qr/invalid value for parameter "synchronous_standby_names"/) });
like(sql('SHOW synchronous_standby_names'), qr/^ANY 2/, 'nothing weaker by reload');
is(sql('SHOW synchronous_commit'), 'on', 'and synchronous_commit = local of a file is on');
NeonOverlay::write_file($conf, $saved);
sql('SELECT pg_reload_conf()');
is( sql('SET max_parallel_maintenance_workers = 2; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; '
		  . 'SET force_parallel_mode = on; CREATE INDEX ON t(a); SELECT count(*) FROM t'), '1', 'parallel workers start');

# ---- the lease ----

set_lease('2s');
my $reader = $t->session('main');
$reader->query('SELECT 1');
my $in_block = $t->session('main');
$in_block->query($_) for 'BEGIN', q{SELECT lo_create(4711)};
my $writer = waiter();
kill_members(2, 3);
$writer->send('INSERT INTO t VALUES (70)');
sub refused { my (undef, undef, $err) = $t->psql_raw('main', 'SELECT 1'); return $err =~ /FATAL:  this endpoint has lost its lease/ }
$t->wait_for('the end of the lease', \&refused);
pass('without a lease nobody is let in');
$reader->query('SELECT 1');
like($reader->error, qr/lost its lease|terminat/, 'sessions end at their next statement');
$in_block->query('\lo_unlink 4711');
like($in_block->error, qr/lost its lease|terminat/, 'or at their next function call');
is(answered($writer), '', 'who waits for the quorum goes on waiting');
start_members(2);
like($writer->answer // 'no answer', qr/INSERT 0 1/, 'until a majority is back');
is(sql('SELECT count(*) FROM t WHERE a = 70'), '1', 'which grants the lease again');
is($t->postmaster_pid('main'), $postmaster, 'in the same server');
my ($coordinator) = $t->children_of($postmaster, qr/neon coordinator/);
$t->signal('STOP', $coordinator);
$t->wait_for('the end of the lease', \&refused);
pass('a coordinator that hangs fences too');
$t->signal('CONT', $coordinator);
$t->wait_for('the lease', sub { !refused() });
start_members(3);
$t->wait_for('all streams', sub { streaming() == 3 });
set_lease('2min');
sql('DELETE FROM t WHERE a = 70');


# ---- acknowledgement: two members are gone ----

sql($_)
  for "BEGIN; INSERT INTO t VALUES (50); PREPARE TRANSACTION 'p'",
  'CREATE PROCEDURE two(a int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (a); COMMIT; INSERT INTO t VALUES (a + 1); COMMIT; END $$',
  'CREATE TABLE vacuumed AS SELECT generate_series(1, 1000) a; DELETE FROM vacuumed WHERE a > 500';
my $listener = $t->session('main');
$listener->query('LISTEN news');

# what is said when a majority is back, what is there then (of t)
my $tag = sub { my ($tags) = @_; return sub { is($_[1], '', "$_[2]: no error"); like($_[0], qr/\A$tags\z/, "$_[2]: the answer") } };
my $cancelled = sub {
	my ($tags) = @_;
	return sub {
		like($_[1], qr/ERROR:  57014: canceling statement due to/, "$_[2]: cancelled after its commit");
		like($_[0], qr/\A$tags\z/, "$_[2]: and says no more");
	};
};
my @cases = (
	[ 'INSERT', [], 'INSERT INTO t VALUES (10)', $tag->('INSERT 0 1'), 10 ],
	[ 'statement_timeout', ["SET statement_timeout = '500ms'"], 'INSERT INTO t VALUES (11)', $tag->('INSERT 0 1'), 11 ],
	[ 'lock_timeout', ["SET lock_timeout = '300ms'"], 'INSERT INTO t VALUES (12)', $tag->('INSERT 0 1'), 12 ],
	[ 'COMMIT', [ 'BEGIN', 'SET LOCAL synchronous_commit = local', 'INSERT INTO t VALUES (13)' ], 'COMMIT', $tag->('COMMIT'), 13 ],
	[ 'COMMIT AND CHAIN', [ 'BEGIN', 'INSERT INTO t VALUES (14)' ], 'COMMIT AND CHAIN', $tag->('COMMIT'), 14 ],
	[ 'COMMIT PREPARED', [], "COMMIT PREPARED 'p'", $tag->('COMMIT PREPARED'), 50 ],
	[ 'PREPARE TRANSACTION', [ 'BEGIN', 'CREATE TABLE prepared(a int)' ], "PREPARE TRANSACTION 'q'", $tag->('PREPARE TRANSACTION') ],
	[ 'CALL', [], 'CALL two(20)', $cancelled->(''), 20 ],
	[ 'CALL with a timeout', ["SET statement_timeout = '500ms'"], 'CALL two(22)', $cancelled->(''), 22 ],
	[ 'DO', [], 'DO $$ BEGIN INSERT INTO t VALUES (24); COMMIT; INSERT INTO t VALUES (25); END $$', $cancelled->(''), 24 ],
	[ 'several statements', [], 'INSERT INTO t VALUES (26)\; INSERT INTO t VALUES (27)', $tag->("INSERT 0 1\nINSERT 0 1"), 26, 27 ],
	[ 'COMMIT between statements', [], 'BEGIN\; INSERT INTO t VALUES (28)\; COMMIT\; INSERT INTO t VALUES (29)', $cancelled->("BEGIN\nINSERT 0 1\nCOMMIT"), 28 ],
	[ 'CREATE INDEX CONCURRENTLY', [], 'CREATE INDEX CONCURRENTLY i ON t(a)', $cancelled->('') ],
	[ 'VACUUM', [], 'VACUUM (FULL) vacuumed', sub { like($_[0] . $_[1], qr/^VACUUM$|57014/m, "$_[2]: done or cancelled") } ],
	[ 'NOTIFY', [ 'BEGIN', 'INSERT INTO t VALUES (30)', "NOTIFY news, 'some'" ], 'COMMIT', $tag->('COMMIT'), 30 ],
	[ 'CREATE TABLE AS', [], 'CREATE TABLE made AS SELECT 1 a', $tag->('SELECT 1') ],
	[ 'COPY', [], "COPY t FROM PROGRAM 'echo 31'", $tag->('COPY 1'), 31 ],
	[ 'data-modifying WITH', [], 'WITH x AS (INSERT INTO t VALUES (32) RETURNING a) SELECT a FROM x', $tag->('32'), 32 ]);

my @sessions = map { waiter(@{ $_->[1] }) } @cases;
kill_members(2, 3);
$t->wait_for('one stream', sub { streaming() == 1 });
my $off = waiter('SET synchronous_commit = off');
like($off->query('INSERT INTO t VALUES (2)', 10), qr/INSERT 0 1/, 'synchronous_commit = off keeps its meaning');
$sessions[$_]->send($cases[$_][2]) for 0 .. $#cases;
my %bench = (extended => "INSERT INTO t VALUES (40);\n", pipeline => "\\startpipeline\nINSERT INTO t VALUES (41);\nINSERT INTO t VALUES (42);\n\\endpipeline\n");
for my $name (sort keys %bench)
{
	my $script = $t->tmp . "/$name.sql";
	NeonOverlay::write_file($script, $bench{$name});
	local %ENV = (%ENV, $t->env);
	my $b = $bench{$name} = { out => '', err => '' };
	$b->{h} = start([ 'pgbench', '-n', '-M', 'extended', '-t', '1', '-f', $script, $t->connstr('main') . ' application_name=waits' ],
		'<', \undef, '>', \$b->{out}, '2>', \$b->{err});
	push @{ $t->{children} }, $b->{h};
}
my $terminated = waiter();
$terminated->send('INSERT INTO t VALUES (60)');
my $n = @cases + 3;
$t->wait_for('the waiters', sub { waiting() == $n });
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'waits'") for 1 .. 2;
# psql prints nothing more of several results once it has sent a cancel
my @asked = grep { $cases[$_][0] !~ /statements|WITH/ } 0 .. $#cases;
$sessions[$_]{h}->signal('INT') for @asked;
$t->wait_for('the cancels', sub { answered($sessions[$_]) =~ /Cancel request sent/ }) for @asked;
sleep 1;
is(waiting(), $n, 'no cancel ends the wait for the quorum');
my $there = "SELECT coalesce(string_agg(a::text, ',' ORDER BY a), '') FROM t WHERE a > 2 AND a <> 60";
is(sql($there), '', 'no row is visible');
is(sql("SELECT to_regclass('made') IS NULL AND to_regclass('i') IS NULL"), 't', 'nor any relation');
is($listener->query('SELECT 1'), '1', 'nobody is notified');
is(answered(@sessions) . join('', map { $_->{out} =~ s/^pgbench .*\n//r } values %bench), "Cancel request sent\n" x @asked, 'nothing is answered');
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'waits' AND query = 'INSERT INTO t VALUES (60);'");
my $out = $terminated->answer;
unlike($out, qr/INSERT/, 'a terminated session ends without an answer');
like($terminated->error, qr/connection|terminat/, 'and is told that');

start_members(3);
my @rows = map { @{$_}[ 4 .. $#$_ ] } @cases;
for my $i (0 .. $#cases)
{
	my ($name, undef, undef, $check) = @{ $cases[$i] };
	my $out = $sessions[$i]->answer // 'no answer';
	(my $error = $sessions[$i]->error // '') =~ s/^Cancel request sent\n//mg;
	$check->($out, $error, $name);
	$sessions[$i]->close;
}
for my $name (sort keys %bench)
{
	my $b = $bench{$name};
	$b->{h}->finish;
	like($b->{out} . $b->{err}, qr{transactions actually processed: 1/1}, "$name protocol: the answer");
}
is(sql($there), join(',', sort { $a <=> $b } @rows, 40, 41, 42), 'all that was acknowledged is there, and no more');
is(sql("SELECT gid FROM pg_prepared_xacts"), 'q', 'the prepared transaction too');
like($listener->query('SELECT 1'), qr/Asynchronous notification "news" with payload "some"/, 'who listens is notified');
is(sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass"), 'f', 'the index was given up after its first step');
is($t->postmaster_pid('main'), $postmaster, 'in the same server');
sql("ROLLBACK PREPARED 'q'; DROP INDEX i");
$off->close;

# ---- a stranger on a member's slot ----

my $slot = sql("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'neon_sk_2_%'");
{
	my $password = $t->config('tenant.' . $tenant . '.storage_password');
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $h = start(
		[
			'pg_receivewal', '-d', 'host=127.0.0.1 port=' . $t->port('main') . " user=neon_storage password=$password application_name=other",
			'--slot', $slot, '--no-loop', '-D', $dir
		],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
	push @{ $t->{children} }, $h;
	$t->wait_for('the end of the stranger', sub { logged(qr/uses the replication slot "$slot" of a safekeeper, and is terminated/) });
	pass('a stranger on a member\'s slot is terminated');
	is(sql('SELECT streaming FROM neon.safekeepers WHERE id = 2'), 'f', 'and never counts');
	$h->kill_kill;

	# ---- its old stream, whose end the compute has not noticed ----
	# which it does after 5 s: when the member takes longer, it is done again
	my $taken;
	for (1 .. 5)
	{
		$h = start(
			[
				'pg_receivewal', '-d', 'host=127.0.0.1 port=' . $t->port('main') . " user=neon_storage password=$password application_name=$slot",
				'--slot', $slot, '--no-loop', '-D', PostgreSQL::Test::Utils::tempdir()
			],
			'<', \undef, '>', '/dev/null', '2>', '/dev/null');
		push @{ $t->{children} }, $h;
		$t->wait_for('the old stream', sub { streaming() == 3 });
		my $old = sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '$slot'");
		$h->signal('STOP');
		start_members(2);
		at_member(2, "SELECT neon_safekeeper.receive('$tenant', '$timeline', 1, " . sql('SHOW neon.term') . ", '" . sql('SHOW neon.boot_id') . "', '" . sql('SHOW neon.storage_conninfo') . "')");
		my $sender = sub { logged(qr/"$slot" connects again: WAL sender $old of its old connection is terminated/) };
		$t->wait_for('its end', sub { $sender->() || logged(qr/\[$old\] LOG:  terminating walsender process due to replication timeout/) });
		$h->signal('CONT');
		$h->kill_kill;
		last if $taken = $sender->();
		kill_members(2);
		$t->wait_for('the end of the member', sub { streaming() == 2 });
	}
	ok($taken, 'a member that comes back ends its old stream, and does not wait for a timeout');
}
$t->wait_for('all streams', sub { streaming() == 3 });
pass('the member has its slot again');

# ---- writers too far ahead ----

sql("ALTER SYSTEM SET neon.max_unflushed_wal = '1MB'; ALTER SYSTEM SET neon.fetch_timeout = '2s'");
sql('SELECT pg_reload_conf()');
kill_members(2, 3);
my @ports = map { $t->config("safekeeper.$_.port") } 2, 3;
$t->psql_fails('main', "SET synchronous_commit = off; INSERT INTO w SELECT repeat('x', 500) FROM generate_series(1, 10000)",
	qr/53100: a majority of the safekeepers is too far behind.*DETAIL:.*Behind: safekeeper 2 \(127\.0\.0\.1:$ports[0]\), safekeeper 3 \(127\.0\.0\.1:$ports[1]\).*HINT/s,
	'writers are held, and told by whom', args => [ '-v', 'VERBOSITY=verbose' ]);
start_members(2, 3);
$t->wait_for('all streams', sub { streaming() == 3 });
is(sql("INSERT INTO w VALUES ('y'); SELECT count(*) FROM w"), '1', 'and go on');

# ---- the end ----

sub gone { my ($why) = @_; return $t->wait_for($why, sub { !$t->postmaster_pid('main') || !NeonTest::alive($t->postmaster_pid('main')) }) }
at_member(2, "SELECT neon_safekeeper.promise('$tenant', '$timeline', 1, $term + 1, 'test')");
gone('the end of the superseded server');
ok(logged(qr/LOG:  superseded by term @{[ $term + 1 ]}/), 'a compute that hears of a later term says so and exits');
# its supervisor would do that; there is none
at_member($_, "SELECT neon_safekeeper.release('$tenant', '$timeline', 1, $term)") for 1 .. 3;
$t->endpoint_start('main');
cmp_ok(sql('SHOW neon.term'), '>', $term + 1, 'the next start takes a term above it');

NeonOverlay::write_file($conf, slurp_file($conf) . "neon.safekeepers = '1:" . '1' x 32 . ":127.0.0.1:5454'\n");
$t->psql_raw('main', 'SELECT pg_reload_conf()');	# it may end before it answers
gone('the end of the server');
ok(logged(qr/synchronous_standby_names does not name the safekeepers/), 'settings that disagree end the server');
$t->endpoint_start('main');
is(sql($there), join(',', sort { $a <=> $b } @rows, 40, 41, 42), 'nothing acknowledged was lost');
$t->amcheck('main');
$t->neon('stop');
unlike(log_text(), qr/PANIC|TRAP|FATAL:  .*corrupt/, 'no panic in the log');
done_testing();
