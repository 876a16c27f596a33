# Serving of WAL by a safekeeper: stock pg_receivewal, a stock standby and one
# behind it, by slots, over crashes; the commands; clients that misbehave; what
# retention leaves; deletion under a reader.
use strict;
use warnings;
use IPC::Run qw(start);
use KillNode;
use NeonSafekeeper;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use WalClient;

my $limit = 60;
my ($tenant, $timeline) = ($NeonSafekeeper::tenant, $NeonSafekeeper::timeline);
my $options = "-c neon.tenant_id=$tenant -c neon.timeline_id=$timeline";
my $num = \&NeonSafekeeper::lsn_number;
my $text = \&NeonSafekeeper::lsn_text;
my $mb = 1024 * 1024;

# ---- a stock server whose WAL the safekeeper keeps; standbys are copies of its directory ----
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 1, extra => [ '--wal-segsize=1', '--no-sync' ]);
$source->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\nwal_keep_size = 1GB\n");
$source->start;
$source->safe_psql('postgres', 'CREATE TABLE t (i int PRIMARY KEY, a text); INSERT INTO t VALUES (0); SELECT pg_switch_wal()');
my $start = $num->($source->safe_psql('postgres', 'CHECKPOINT; SELECT pg_current_wal_lsn()'));
$start -= $start % $mb;
my $sysid = $source->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
$source->stop('fast');

sub standby
{
	my ($name, $conninfo, $slot) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	PostgreSQL::Test::RecursiveCopy::copypath($source->data_dir, $node->data_dir);
	chmod 0700, $node->data_dir;
	mkdir $node->archive_dir;
	$node->append_conf('postgresql.conf', <<CONF);
port = @{[ $node->port ]}
unix_socket_directories = '@{[ $node->host ]}'
primary_conninfo = '$conninfo'
primary_slot_name = '$slot'
hot_standby_feedback = on
wal_retrieve_retry_interval = 100ms
wal_receiver_status_interval = 1s
CONF
	$node->set_standby_mode;
	return $node;
}

my $sk = NeonSafekeeper->new('sk', conf => "neon_safekeeper.retention_interval = 100ms\nlog_replication_commands = on\nlog_statement = none\n");
my $skconn = 'host=' . $sk->node->host . ' port=' . $sk->node->port . " user=neon_storage application_name=vanilla options=''$options''";
my $standby = standby('standby', $skconn, 's1');
my $second = standby('second', 'host=' . $standby->host . ' port=' . $standby->port, '');
$source->start;

my $wal = { sysid => $sysid, start => $text->($start), segsize => $mb, dir => $source->data_dir . '/pg_wal' };
$sk->create(NeonSafekeeper::config(1, $sk), $wal);
$sk->call('promise', 1, 1, "'test'");
$sk->call('elected', 1, 1, "'$wal->{start}'", qq('[[0, "$wal->{start}"], [1, "$wal->{start}"]]'), 'NULL');
my $fed = $start;

# All that the source has flushed is on the safekeeper, and committed; its end.
sub feed
{
	my ($sql) = @_;
	$source->safe_psql('postgres', $sql) if $sql;
	my $end = $num->($source->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()'));
	while ($fed < $end)
	{
		my $to = $fed + $mb < $end ? $fed + $mb : $end;
		my $flush = $num->($sk->append(1, $wal, $fed, $to));
		last if $flush == $fed;
		$fed = $flush;
	}
	$sk->call('commit', 1, 1, "'" . $text->($fed) . "'", 0);
	return $fed;
}

sub insert { my ($from, $to) = @_; return "INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series($from, $to) i" }

sub client { my (%o) = @_; return WalClient->new($sk->node, options => $options, %o) }
sub refused { my ($code) = @_; return eval { $code->(); 1 } ? 'not refused' : $@ }

sub replayed
{
	my ($node, $lsn) = @_;
	return $node->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '@{[ $text->($lsn) ]}'");
}

sub eventually
{
	my ($sql, $want) = @_;
	my $got = '';
	for my $end (time + $limit)
	{
		do { $got = $sk->sql($sql); usleep 50_000 if $got ne $want } until $got eq $want || time > $end;
	}
	return $got;
}

sub wait_for
{
	my ($code) = @_;
	my $until = time + $limit;
	do { return 1 if $code->(); usleep 50_000 } while (time < $until);
	return 0;
}

# ---- who may read ----
like(refused(sub { WalClient->new($sk->node) }), qr/22023 a replication connection .* must name a timeline; Add options='-c neon\.tenant_id/, 'no options: a HINT');
like(refused(sub { WalClient->new($sk->node, options => '-c neon.tenant_id=zz') }), qr/invalid value for parameter "neon.tenant_id"/, 'no id');
like(refused(sub { WalClient->new($sk->node, options => $options =~ s/2{32}/3 x 32/er) }), qr/NS004/, 'an unknown timeline');
my $other = 'tenant_' . '4' x 32;
$sk->sql(qq(CREATE ROLE tenant_$tenant LOGIN REPLICATION IN ROLE neon_tenant; CREATE ROLE $other LOGIN REPLICATION IN ROLE neon_tenant; CREATE ROLE nobody LOGIN));
like(refused(sub { client(user => $other) }), qr/^42501/, "another tenant's role");
like(refused(sub { client(user => 'nobody') }), qr/^42501 must be superuser or replication role/, 'a role without REPLICATION');
my $end = feed(insert(1, 4000));
my $c = client(user => "tenant_$tenant");

# ---- commands ----
is(join(',', $c->rows('IDENTIFY_SYSTEM')), "$sysid|1|" . $text->($end) . '|', 'IDENTIFY_SYSTEM');
is(join(',', $c->rows('SHOW wal_segment_size')), '1MB', "SHOW: the timeline's");
is(join(',', $c->rows('SHOW data_directory_mode')), '0700', 'SHOW');
like(refused(sub { $c->rows('TIMELINE_HISTORY 1') }), qr/^58P01 could not open file .*00000001\.history/, 'TIMELINE_HISTORY: there is none');
is(join(',', $c->rows('READ_REPLICATION_SLOT s1')), '||', 'READ_REPLICATION_SLOT of none');
is(join(',', $c->rows('CREATE_REPLICATION_SLOT s1 PHYSICAL RESERVE_WAL')), 's1|0/0||', 'CREATE_REPLICATION_SLOT');
like(refused(sub { $c->rows('CREATE_REPLICATION_SLOT s1 PHYSICAL') }), qr/^42710 replication slot "s1" already exists/, 'twice');
is(join(',', $c->rows('READ_REPLICATION_SLOT s1')), 'physical|' . $text->($start) . '|1', 'READ_REPLICATION_SLOT');
like(refused(sub { $c->rows('CREATE_REPLICATION_SLOT l LOGICAL test_decoding') }), qr/^0A000/, 'no logical slots');
like(refused(sub { $c->rows('BASE_BACKUP') }), qr/^0A000.*from an endpoint/, 'no base backups');
like(refused(sub { $c->rows('SELECT 1') }), qr/^0A000 cannot execute SQL/, 'no SQL');
like(refused(sub { $c->rows('NONSENSE') }), qr/^(42601|0A000)/, 'nonsense');
like(refused(sub { $c->start($text->($start), tail => ' TIMELINE 7') }), qr/^22023 requested timeline 7 is not in this server's history/, 'another timeline');
$c->ready;
is($c->rows('CREATE_REPLICATION_SLOT tmp TEMPORARY PHYSICAL RESERVE_WAL') && $sk->sql("SELECT slot_name FROM neon_safekeeper.replication_slots WHERE temporary"), 'tmp', 'a temporary slot');
ok(!-e $sk->dir . '/slots/tmp', 'is not on disk');
$c->close;
is(eventually('SELECT count(*) FROM neon_safekeeper.replication_slots WHERE temporary', '0'), '0', 'and ends with its session');

# ---- bytes: all of [wal_start, commit_lsn), nothing else ----
$c = client()->start($text->($start));
is($c->read_to($end) eq NeonSafekeeper::wal_bytes($wal, $start, $end), 1, 'the true bytes');
$sk->append(1, $wal, $fed, $num->($source->safe_psql('postgres', insert(4001, 4010) . '; SELECT pg_current_wal_flush_lsn()')));
$c->status($end, ask => 1);
my $m = $c->next;
is("$m->{type} " . $text->($m->{end}), 'k ' . $text->($end), 'a reply that was asked for; nothing that is not committed');
$end = feed();
is($c->read_to($end) ne '', 1, 'when it is committed it comes');
$c->send_message('c', '');
is($c->until('c') . join(',', $c->ready), '', 'CopyDone ends the stream in good order');
$c->start($text->($end + 8));
like($c->next->{error}, qr/^22023 requested starting point \S+ is ahead of the WAL flush position/, 'a start beyond commit_lsn');
$c->ready;
is(scalar($c->rows('IDENTIFY_SYSTEM')), 1, 'and the session goes on');
$c->close;

# ---- stock clients ----
$sk->sql("SELECT neon_safekeeper.create_physical_replication_slot('$tenant', '$timeline', 'rw', true)");
my $dir = PostgreSQL::Test::Utils::tempdir;
my ($rwlog, $rw) = ('');
sub receivewal
{
	return start([ 'pg_receivewal', '-D', $dir, '-S', 'rw', '--synchronous', '-v', '-d',
			'host=' . $sk->node->host . ' port=' . $sk->node->port . " user=cloud_admin application_name=rw options='$options'" ],
		'<', '/dev/null', '&>', \$rwlog);
}
$rw = receivewal();
$_->start for $standby, $second;
$end = feed(insert(5000, 12000));
is(eventually("SELECT write_lag BETWEEN '1 us' AND '1 h' AND flush_lag >= write_lag FROM pg_stat_replication WHERE application_name = 'rw'", 't'), 't', 'how long it takes them');
replayed($_, $end) or BAIL_OUT('a standby does not follow') for $standby, $second;
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), $source->safe_psql('postgres', 'SELECT count(*) FROM t'), 'a stock standby follows');
is($second->safe_psql('postgres', 'SELECT count(*) FROM t'), $standby->safe_psql('postgres', 'SELECT count(*) FROM t'), 'and one behind it');
my $at_end = "flush_lsn = '" . $text->($end) . "' AND sent_lsn = flush_lsn AND state = 'streaming'";
is(eventually("SELECT string_agg(application_name, ',' ORDER BY application_name) FROM neon_safekeeper.stat_replication WHERE timeline_id = '$timeline' AND $at_end", 'rw,vanilla'),
	'rw,vanilla', 'both in pg_stat_replication');
is(eventually("SELECT bool_and(active) AND min(restart_lsn) = '@{[ $text->($end) ]}' FROM neon_safekeeper.replication_slots", 't'), 't', 'slots follow');
$c = client();
like(refused(sub { $c->rows('DROP_REPLICATION_SLOT s1') }), qr/^55006 replication slot "s1" is active for PID/, 'a slot in use is not dropped');
like(refused(sub { $c->start($text->($start), slot => 's1') }), qr/^55006/, 'nor taken');
$c->ready;
$c->query('DROP_REPLICATION_SLOT rw WAIT');
usleep 300_000;
is($sk->sql("SELECT count(*) FROM neon_safekeeper.replication_slots WHERE slot_name = 'rw'"), '1', 'DROP ... WAIT waits');
$rw->signal('INT');
$rw->finish;
is(join(',', $c->ready), '', 'until it is free');
is($sk->sql("SELECT count(*) FROM neon_safekeeper.replication_slots WHERE slot_name = 'rw'"), '0', 'and drops it');
$c->rows('CREATE_REPLICATION_SLOT rw PHYSICAL RESERVE_WAL');
$c->close;
$rw = receivewal();
is(eventually("SELECT active FROM neon_safekeeper.replication_slots WHERE slot_name = 'rw'", 't'), 't', 'made again, it is used again');

# ---- kill -9 under them, and while one is away ----
kill_node($sk->node);
$standby->stop('fast');
$sk->start;
$end = feed(insert(20000, 26000));
is(eventually("SELECT active FROM neon_safekeeper.replication_slots WHERE slot_name = 'rw'", 't'), 't', 'after kill -9: pg_receivewal comes back') or diag(substr $rwlog, -1000);
is($sk->sql("SELECT restart_lsn <= '@{[ $text->($end - 2 * $mb) ]}' AND NOT active FROM neon_safekeeper.replication_slots WHERE slot_name = 's1'"), 't',
	"the absent standby's slot is where it was");
$standby->start;
replayed($_, $end) or BAIL_OUT('a standby does not come back') for $standby, $second;
is($second->safe_psql('postgres', 'SELECT count(*) FROM t'), $source->safe_psql('postgres', 'SELECT count(*) FROM t'), 'standbys come back');
$end = feed('SELECT pg_switch_wal()');
my $last = NeonSafekeeper::segment_name($wal, $end - $mb);
is(wait_for(sub { -e "$dir/$last" }), 1, 'pg_receivewal has whole segments');
my @same = grep { PostgreSQL::Test::Utils::slurp_file("$dir/$_") eq slurp_file($sk->dir . "/wal/$_") } grep { /^[0-9A-F]{24}$/ } slurp_dir($dir);
my @whole = grep { /^[0-9A-F]{24}$/ } slurp_dir($dir);
is(scalar(@same), scalar(@whole), 'which are equal (' . @whole . ')');

# ---- time ----
my $before = time;
$c = client(options => "$options -c wal_sender_timeout=1s")->start($text->($end));
$m = $c->next;
is("$m->{type} $m->{reply}", 'k 1', 'an idle client is asked');
cmp_ok(time - $before, '>=', 0.4, 'after half of wal_sender_timeout');
is($c->next, undef, 'and left when it is silent');
like(slurp_file($sk->node->logfile), qr/terminating walsender process due to replication timeout/, 'the log says so');

# ---- settings that are read again in a stream ----
sub set_timeout { return $sk->sql("ALTER SYSTEM SET wal_sender_timeout = '$_[0]'") . $sk->sql('SELECT pg_reload_conf()') }
set_timeout(0);
is(eventually('SHOW wal_sender_timeout', '0'), '0', 'no timeout');
$c = client()->start($text->($end));
$c->status($end, ask => 1);
$m = $c->next;
is("$m->{type} $m->{reply}", 'k 0', 'a client that is not asked');
set_timeout('1s');
$m = $c->next;
is("$m->{type} $m->{reply}", 'k 1', 'is asked when a reload has set one');
$c->close;
$sk->sql($_) for 'ALTER SYSTEM RESET wal_sender_timeout', 'SELECT pg_reload_conf()';

# ---- encrypted ----
SKIP:
{
	skip 'no openssl program', 4 if system('openssl version >/dev/null 2>&1') != 0;
	my $data = $sk->node->data_dir;
	system("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout '$data/server.key' -out '$data/server.crt' 2>/dev/null") == 0
	  or die 'openssl req';
	chmod 0600, "$data/server.key";
	append_to_file("$data/pg_hba.conf", "hostssl replication all 127.0.0.1/32 trust\n");
	$sk->node->append_conf('postgresql.conf', "ssl = on\nlisten_addresses = '127.0.0.1'\n");
	$sk->restart('fast');
	$sk->sql("SELECT neon_safekeeper.create_physical_replication_slot('$tenant', '$timeline', 'ssl', true)");
	my $ssldir = PostgreSQL::Test::Utils::tempdir;
	my $ssl = start([ 'pg_receivewal', '-D', $ssldir, '-S', 'ssl', '--synchronous', '-d',
			'host=127.0.0.1 sslmode=require port=' . $sk->node->port . " user=cloud_admin application_name=ssl options='$options'" ],
		'<', '/dev/null', '&>', \my $ssllog);
	is(eventually("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE application_name = 'ssl'", 't'), 't', 'an encrypted stream') or diag($ssllog);
	$end = feed(insert(26001, 30000) . '; SELECT pg_switch_wal()');
	is(eventually("SELECT restart_lsn = '@{[ $text->($end) ]}' FROM neon_safekeeper.replication_slots WHERE slot_name = 'ssl'", 't'), 't', 'gets all');
	my @segments = grep { /^[0-9A-F]{24}$/ } slurp_dir($ssldir);
	is(join(' ', grep { slurp_file("$ssldir/$_") ne slurp_file($sk->dir . "/wal/$_") } @segments), '', 'and the same (' . @segments . ')');
	$ssl->signal('INT');
	$ssl->finish;
	$sk->sql("SELECT neon_safekeeper.drop_replication_slot('$tenant', '$timeline', 'ssl')");
	is(eventually("SELECT active FROM neon_safekeeper.replication_slots WHERE slot_name = 'rw'", 't'), 't', 'the others are back');
}

# ---- clients that break the protocol ----
for (
	[ 'junk in the stream', sub { $_[0]->start($text->($end)); $_[0]->send_message('d', 'zzzz') }, qr/08P01 unexpected message type "z"/ ],
	[ 'a short report', sub { $_[0]->start($text->($end)); $_[0]->send_message('d', 'r12') }, qr/08P01/ ],
	[ 'a long message', sub { $_[0]->send_bytes('Q' . pack('N', 2_000_000_000) . 'START') }, qr/08P01 invalid message length/ ],
	[ 'no such message', sub { $_[0]->send_message('~', 'x') }, qr/08P01 invalid frontend message type/ ])
{
	my ($name, $act, $error) = @$_;
	$c = client();
	$act->($c);
	my $m;
	do { $m = $c->next } while ($m && $m->{type} ne 'E');
	like($m && $m->{error}, $error, $name);
}
$c = client();
$c->send_message('P', "\0select 1\0\0\0");
$c->send_message('B', "\0\0\0\0\0\0\0\0");
$c->send_message('S', '');
like(refused(sub { $c->ready }), qr/08P01 extended query protocol not supported/, 'the extended protocol is refused');
is(scalar($c->rows('IDENTIFY_SYSTEM')), 1, 'once');
$c->send_bytes('Q' . pack('N', 100) . 'START');
$c->close;
$c = client();
$c->query("START_REPLICATION PHYSICAL @{[ $text->($end) ]}");
$c->until('W');
$c->send_message('Q', "IDENTIFY_SYSTEM\0");
like($c->next->{error}, qr/08P01 invalid standby message type 81/, 'a query within the stream');

# ---- what retention leaves ----
$_->stop('fast') for $second, $standby;
my $held = $num->($sk->sql("SELECT min(restart_lsn) FROM neon_safekeeper.replication_slots"));
sub first_segment { return (sort grep { /^[0-9A-F]{24}$/ } slurp_dir($sk->dir . '/wal'))[0] }
is(first_segment(), NeonSafekeeper::segment_name($wal, $start), 'without a pageserver all is kept');
is(eventually('SELECT retained_by FROM neon_safekeeper.timelines', 'pageserver'), 'pageserver', 'and the view says why');
my $silent = "$options -c wal_sender_timeout=0";
my $ps = client(user => 'neon_storage', application_name => 'neon_pageserver', options => $silent)->start($text->($end));
my $ps_has = $start + 3 * $mb + 100;
$ps->status($end, flushed => $start + 5 * $mb, applied => $ps_has);
is(eventually('SELECT wal_start FROM neon_safekeeper.timelines', $text->($start + 3 * $mb)), $text->($start + 3 * $mb), 'WAL goes up to what it has durably');
is(wait_for(sub { first_segment() eq NeonSafekeeper::segment_name($wal, $start + 3 * $mb) }), 1, 'segments are removed');
is($sk->sql('SELECT retained_by, pageserver_lsn FROM neon_safekeeper.timelines'), 'pageserver|' . $text->($end), 'pageserver_lsn is what it received');
$c = client()->start($text->($start));
like($c->next->{error}, qr/^58P01 requested WAL segment @{[ NeonSafekeeper::segment_name($wal, $start) ]} has already been removed/, 'below it: the error of a walsender');
$c->close;
my $peer = client(user => 'neon_storage', application_name => 'neon_safekeeper', options => $silent)->start($text->($start + 3 * $mb));
$ps->status($end);
is(eventually('SELECT retained_by FROM neon_safekeeper.timelines', 'a copying safekeeper'), 'a copying safekeeper', 'another safekeeper that copies holds WAL');
$sk->sql("SELECT neon_safekeeper.create_physical_replication_slot('$tenant', '$timeline', 'lag', true)");
is($sk->sql('SELECT wal_start FROM neon_safekeeper.timelines'), $text->($start + 3 * $mb), 'from where it is');
$peer->status($end);
is(eventually('SELECT retained_by FROM neon_safekeeper.timelines', 'slot lag'), 'slot lag', 'a slot holds WAL');
is($sk->sql("SELECT restart_lsn, wal_status FROM neon_safekeeper.replication_slots WHERE slot_name = 'lag'"), $text->($start + 3 * $mb) . '|reserved', 'from where it was made');
$sk->node->append_conf('postgresql.conf', "neon_safekeeper.max_retained = 2MB\n");
$sk->node->reload;
is(eventually("SELECT wal_status FROM neon_safekeeper.replication_slots WHERE slot_name = 'lag'", 'lost'), 'lost', 'beyond max_retained it is invalidated');
like(slurp_file($sk->node->logfile), qr/invalidating slot "lag" because its restart_lsn \S+ exceeds neon_safekeeper.max_retained/, 'the log says so');
$c = client();
my $lost = refused(sub { $c->start($text->($start + 3 * $mb), slot => 'lag') });
like($lost, qr/^55000 .*"lag".*; .*max_retained/, 'as does the error');
$c->close;
is(eventually("SELECT wal_start >= '@{[ $text->($held - $held % $mb - $mb) ]}' FROM neon_safekeeper.timelines", 't'), 't', 'its WAL is gone');
$sk->restart('immediate');
is($sk->sql("SELECT wal_status FROM neon_safekeeper.replication_slots WHERE slot_name = 'lag'"), 'lost', 'that survives a crash');
$sk->sql("SELECT neon_safekeeper.drop_replication_slot('$tenant', '$timeline', 'lag')");

# ---- deletion under a reader ----
is(eventually("SELECT active FROM neon_safekeeper.replication_slots WHERE slot_name = 'rw'", 't'), 't', 'a reader');
$sk->call('timeline_delete', 1, 'true');
is(wait_for(sub { $rw->pump_nb; $rwlog =~ /the timeline (has been|was) deleted/ }), 1, 'a reader is told of the deletion') or diag($rwlog);
$rw->kill_kill;
is($sk->sql('SELECT count(*) FROM neon_safekeeper.replication_slots'), '0', 'its slots are gone');
unlike(slurp_file($sk->node->logfile), qr/PANIC|TRAP:|terminated by signal (?!9)/, 'nothing crashed');
$_->stop('immediate') for $source, $sk->node;
done_testing();
