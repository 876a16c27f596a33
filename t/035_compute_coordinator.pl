# Admission, the coordinator, back-pressure and refusals of a running compute,
# with a stand-in for the storage.
use strict;
use warnings;
use IPC::Run;
use NeonControl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

$ENV{PGUSER} = 'cloud_admin';
my $base = NeonControl::base();
my $storage = NeonControl->storage();
my $recv_dir = PostgreSQL::Test::Utils::tempdir();
my $conf_dir = PostgreSQL::Test::Utils::tempdir();
my $node = NeonControl->compute($base, 'main',
	conf => NeonControl::connstr_conf($storage) . "neon.fetch_timeout = 2s\nneon.max_unflushed_wal = 1MB\nneon.conf_dir = '$conf_dir'\n");
my $address = $storage->host . ':' . $storage->port;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub fails
{
	my ($sql, $error, $test) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $sql);
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

sub calls { return $storage->safe_psql('postgres', 'SELECT count(*) FROM calls') }

# admission
$node->start;
my $t0 = time();
fails('SELECT 1', qr/FATAL:  the database system is starting up\nDETAIL:  Pageserver \Q$address\E does not stream.*\nHINT/,
	'nobody is let in before the storage streams');
cmp_ok(time() - $t0, '>=', 1.5, 'after waiting');
is( $storage->safe_psql('postgres', 'SELECT tenant, timeline, term, conninfo FROM calls ORDER BY n LIMIT 1'),
	"$NeonOverlay::tenant|$NeonOverlay::timeline|3|{\"host=here user=neon_storage\"}", 'the coordinator asked for it');
{
	local $ENV{PGUSER} = 'neon_storage';
	is(sql('SELECT slot_name, active, restart_lsn IS NOT NULL FROM pg_replication_slots'),
		'neon_pageserver|f|t', "the storage's own role is let in, and has a slot");
}
NeonControl::answer($storage, 'refused');
wait_for('refusal', sub { slurp_file($node->logfile) =~ /could not have the WAL .* streamed: no such timeline/ });
fails('SELECT 1', qr/DETAIL:  Pageserver .*: no such timeline/, 'and the client is told why');
NeonControl::answer($storage, 'ok');
my $recv = NeonControl::receive($node, $recv_dir);
is(sql('SELECT 1'), '1', 'clients are let in when it streams');
sql('CREATE EXTENSION neon');
is(sql('SELECT endpoint, kind, term, streaming, problem FROM neon.status'), 'main|primary|3|t|', 'neon.status');
is( () = slurp_file($node->logfile) =~ /clients are admitted/g, 1, 'which is logged once');

# base backups need all files
for my $mode ('true', 'database')
{
	my ($rc, $stdout, $stderr) = $node->psql('postgres', 'IDENTIFY_SYSTEM', replication => $mode);
	like($stderr, $mode eq 'true' ? qr/not possible before this compute is hydrated.*HINT:.*neon\.hydrate/s
		: qr/logical replication from a compute is not supported.*HINT/s, "replication=$mode is refused");
}
fails("SELECT pg_backup_start('x')", qr/base backup is not possible.*HINT:.*neon\.hydrate/s, 'pg_backup_start');
fails("SELECT pg_create_physical_replication_slot('x')", qr/replication slot is not possible.*HINT/s, 'a physical slot');
fails("SELECT pg_create_logical_replication_slot('x', 'pgoutput')", qr/logical replication slots.*not supported.*HINT:.*pg_dump/s, 'a logical slot');
fails("SELECT pg_copy_logical_replication_slot('x', 'y')", qr/logical replication slots.*not supported.*HINT:.*pg_dump/s, 'a copied logical slot');
is(sql('SELECT neon.hydrate()'), '0', 'hydrate');
is(sql('SELECT hydrated FROM neon.status'), 't', 'is noticed');
is(sql("SELECT lsn IS NULL FROM pg_create_physical_replication_slot('x')"), 't', 'a physical slot');
sql("SELECT pg_drop_replication_slot('x')");
fails("SELECT pg_create_logical_replication_slot('x', 'pgoutput')", qr/logical replication slots.*not supported.*HINT:.*pg_dump/s, 'a logical slot is still refused');
fails("SELECT pg_replication_slot_advance('neon_pageserver', pg_current_wal_lsn())", qr/cannot be advanced.*DETAIL.*HINT/s, 'no slot is advanced');
fails('SELECT pg_promote()', qr/ERROR:  recovery is not in progress/, 'a primary is not promoted, as by stock');
my $copy = PostgreSQL::Test::Cluster->new('copy');
command_ok([ 'pg_basebackup', '-D', $copy->data_dir, '-d', NeonControl::conninfo($node), '--checkpoint=fast', '--no-sync' ],
	'pg_basebackup of a hydrated compute');
mkdir $copy->archive_dir;
NeonOverlay::write_file($copy->data_dir . '/postgresql.conf',
	"port = " . $copy->port . "\nlisten_addresses = ''\nunix_socket_directories = '" . $copy->host . "'\nfsync = off\n");
$copy->start;
is($copy->safe_psql('postgres', 'SELECT count(*) FROM t'), '0', 'starts as an ordinary server');
$copy->stop;

# settings
for my $name (qw(full_page_writes wal_level synchronous_standby_names shared_preload_libraries listen_addresses))
{
	fails("ALTER SYSTEM SET $name = 'on'", qr/"$name" of a compute cannot be changed.*HINT:  Use "neon endpoint config main $name=/s, "ALTER SYSTEM SET $name");
}
for my $name (qw(primary_conninfo restore_command hot_standby recovery_target_lsn))
{
	fails("ALTER SYSTEM SET $name = 'on'", qr/"$name" of a compute cannot be changed.*HINT:  A compute gets its data from the storage/s, "ALTER SYSTEM SET $name");
}
for my $name (qw(fsync archive_mode restart_after_crash max_slot_wal_keep_size neon.tenant_id neon.pageserver_connstring neon.conf_dir port hba_file))
{
	fails("ALTER SYSTEM SET $name = 'x'", qr/"$name" of a compute cannot be changed.*HINT/s, "ALTER SYSTEM SET $name");
}
fails('ALTER SYSTEM SET "FSYNC" TO DEFAULT', qr/cannot be changed/, 'in capitals, to the default');
sql("ALTER SYSTEM SET work_mem = '7MB'");
like(slurp_file("$conf_dir/postgresql.auto.conf"), qr/^work_mem = '7MB'$/m, 'what is permitted is kept');
sql('ALTER SYSTEM RESET fsync');
sql('ALTER SYSTEM RESET ALL');
unlike(slurp_file("$conf_dir/postgresql.auto.conf"), qr/work_mem/, 'also when it is taken back');

# the storage's role
fails($_, qr/role "neon_storage" cannot be changed or dropped.*HINT/s, $_)
  for ('DROP ROLE neon_storage', 'ALTER ROLE neon_storage NOLOGIN', 'ALTER ROLE neon_storage RENAME TO x', "ALTER ROLE neon_storage PASSWORD 'x'");
sql('CREATE ROLE other; ALTER ROLE other LOGIN; DROP ROLE other');

# the superuser of the command
sql('CREATE ROLE boss SUPERUSER');
fails("SET SESSION AUTHORIZATION boss; $_", qr/role "cloud_admin" must stay a superuser.*HINT/s, $_)
  for ('DROP ROLE cloud_admin', 'ALTER ROLE cloud_admin NOSUPERUSER', 'ALTER ROLE cloud_admin NOLOGIN', 'ALTER ROLE cloud_admin RENAME TO x',
	'ALTER ROLE cloud_admin CONNECTION LIMIT 0', "ALTER ROLE cloud_admin VALID UNTIL '2001-01-01'");
sql("ALTER ROLE cloud_admin CONNECTION LIMIT 50 VALID UNTIL 'infinity' NOCREATEDB; ALTER ROLE cloud_admin SET work_mem = '5MB'");
sql('ALTER ROLE cloud_admin CONNECTION LIMIT -1 CREATEDB; ALTER ROLE cloud_admin RESET ALL; DROP ROLE boss');

# databases
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'CREATE DATABASE one STRATEGY file_copy');
like($stderr, qr/NOTICE:  using strategy "wal_log"/, 'no copy of files');
is($node->safe_psql('one', 'SELECT count(*) > 300 FROM pg_class'), 't', 'a database');
fails('ALTER DATABASE one SET TABLESPACE nosuch', qr/does not exist/, 'an unknown tablespace');
fails('ALTER DATABASE nosuch SET TABLESPACE pg_default', qr/database "nosuch" does not exist/, 'an unknown database');
fails('ALTER DATABASE postgres SET TABLESPACE pg_default', qr/cannot change the tablespace of the currently open/, 'the own database');
($rc, $stdout, $stderr) = $node->psql('postgres', "BEGIN; ALTER DATABASE one SET TABLESPACE pg_default");
like($stderr, qr/cannot run inside a transaction block/, 'not in a transaction block');
my $ts_dir = PostgreSQL::Test::Utils::tempdir();
sql("CREATE TABLESPACE ts LOCATION '$ts_dir'");
sql('ALTER DATABASE one SET TABLESPACE ts');
is($node->safe_psql('one', 'SELECT count(*) > 300 FROM pg_class'), 't', 'a moved database');
fails('DROP TABLESPACE ts', qr/not empty/, 'its tablespace is in use');
sql('ALTER DATABASE one SET TABLESPACE pg_default');
sql('DROP TABLESPACE ts');
sql('DROP DATABASE one');
is(sql("SELECT count(*) FROM pg_database WHERE datname = 'one'"), '0', 'DROP DATABASE');
fails('DROP DATABASE one', qr/does not exist/, 'twice');

# back-pressure
$recv->signal('STOP');
fails("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g",
	qr/ERROR:  53100: pageserver \Q$address\E is too far behind|pageserver \Q$address\E is too far behind.*DETAIL:.*HINT/s,
	'a writer too far ahead');
fails('DELETE FROM t', qr/too far behind/, 'every writer');
fails('CREATE TABLE t2(a int)', qr/too far behind/, 'and every commit');
is(sql('SELECT count(*) FROM t'), '0', 'readers go on');
sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	return;
}

sub writer
{
	return IPC::Run::start([ 'psql', '-Xq', '-d', NeonControl::conninfo($node), '-c', "SET neon.fetch_timeout = '2min'", '-c', 'DELETE FROM t' ],
		'<', \undef, IPC::Run::timeout(300));
}

sub shows
{
	my ($where, $test) = @_;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM $where"), $test);
	return;
}

my $is_held = "pg_stat_activity WHERE query = 'DELETE FROM t' AND (wait_event_type, wait_event) = ('Extension', 'Extension')";
my $held = writer();
shows($is_held, 'pg_stat_activity shows who is held');
set('neon.max_unflushed_wal', '1GB');
ok($held->finish, 'who goes on when the limit is raised');
set('neon.max_ingest_lag', '256kB');
shows("neon.status WHERE writers_held LIKE '%max_ingest_lag is 0 MB%'", 'the limit of the lag of ingest');
$held = writer();
shows($is_held, 'holds writers, too');
set('neon.max_ingest_lag', '0');
ok($held->finish, 'until it is lifted');
set('neon.max_unflushed_wal', '1MB');
shows("neon.status WHERE writers_held LIKE '%max_unflushed_wal%'", 'a lower limit');
$held = writer();
shows($is_held, 'holds writers again');
$recv->signal('CONT');
ok($held->finish, 'who go on when the storage does');
wait_for('the writer', sub { my ($r) = $node->psql('postgres', 'INSERT INTO t VALUES (1)'); $r == 0 });
is(sql('SELECT count(*) FROM t'), '1', 'writers go on when the storage does');

# the stream breaks
my $before = calls();
$recv->kill_kill;
wait_for('a new request', sub { calls() > $before });
is(sql('SELECT streaming FROM neon.status'), 'f', 'a broken stream is noticed');
like(slurp_file($node->logfile), qr/no longer streams/, 'and logged');
is(sql('INSERT INTO t VALUES (2); SELECT count(*) FROM t'), '2', 'and disturbs nobody yet');
NeonControl::answer($storage, 'hang');
$recv = NeonControl::receive($node, $recv_dir);
wait_for('the stream', sub { sql('SELECT streaming FROM neon.status') eq 't' });
$recv->kill_kill;

# stopping does not wait for a dead or hanging storage
wait_for('no stream', sub { sql('SELECT streaming FROM neon.status') eq 'f' });
sleep 1.5;
$t0 = time();
$node->stop('fast');
cmp_ok(time() - $t0, '<', 10, 'a fast stop with a hanging storage');

# another compute has taken over
NeonControl::answer($storage, 'superseded');
$node = NeonControl->compute($base, 'second', conf => NeonControl::connstr_conf($storage));
$node->start(fail_ok => 1);
wait_for('the shutdown', sub { !-e $node->data_dir . '/postmaster.pid' });
like(slurp_file($node->logfile), qr/LOG:  superseded by term 9/, 'a superseded compute says so and exits');
$node->{_pid} = undef;

done_testing();
