# A data directory of stock PostgreSQL becomes a tenant; a stock standby made
# from a copy of it follows the tenant by a safekeeper, over restarts of the
# endpoint; a branch's standby sees the branch only.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use Test::More;

# ---- a stock server ----
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 1, extra => [ '--wal-segsize=4', '--data-checksums', '--no-sync' ]);
$source->append_conf('postgresql.conf', "max_prepared_transactions = 5\nfsync = off\nallow_in_place_tablespaces = on\n");
$source->start;
my $pgdata = $source->data_dir;
$source->safe_psql('postgres', $_) for (
	"CREATE ROLE owner LOGIN; CREATE TABLE t (i int PRIMARY KEY, a text); INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 20000) g",
	"CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 10); CREATE UNLOGGED TABLE u (i int); INSERT INTO u VALUES (1)",
	"SELECT pg_replication_origin_create('elsewhere'); SELECT pg_replication_origin_advance('elsewhere', '0/4711')",
	'CREATE DATABASE app OWNER owner');
$source->safe_psql('app', "CREATE TABLE big AS SELECT g i, repeat('x', 200) a FROM generate_series(1, 30000) g; DELETE FROM big WHERE i % 3 = 0; VACUUM big");

my $t = NeonTest->new(safekeepers => 3, auth => 'scram');
$t->init;
$t->neon('start');
sub refused { my ($dir, $error, $hint, $name) = @_; return $t->neon_fails([ 'tenant', 'create', '--pgdata', $dir ], $error, $hint, $name) }

# ---- what is refused ----
refused($pgdata, qr/is in use by a server with PID \d+/, qr/pg_ctl stop/, 'a running server');
$source->stop('immediate');
refused($pgdata, qr/was not shut down cleanly/, qr/Start a server in it/, 'one that was not stopped cleanly');
$source->start;
$source->safe_psql('postgres', "BEGIN; INSERT INTO t VALUES (-1); PREPARE TRANSACTION 'p'");
$source->stop('fast');
refused($pgdata, qr/has prepared transactions/, qr/commit them/, 'prepared transactions');
$source->start;
$source->safe_psql('postgres', "ROLLBACK PREPARED 'p'");
$source->safe_psql('postgres', "CREATE TABLESPACE ts LOCATION ''");
$source->stop('fast');
refused($pgdata, qr/has tablespaces/, qr/pg_default/, 'tablespaces');
$source->start;
$source->safe_psql('postgres', 'DROP TABLESPACE ts');
my %sums = map { $_ => $source->safe_psql($_ eq 'big' ? 'app' : 'postgres', "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY i)) FROM $_ x") } qw(t big);
my $sysid = $source->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
$source->stop('fast');
refused("$pgdata/base", qr/cannot be read as a data directory/, qr/must be able to read/, 'no data directory');
refused('/nowhere', qr/cannot be read as a data directory/, undef, 'no directory');
my $old = $t->tmp . '/old';
mkdir $old;
$t->command([ 'sh', '-c', "echo 14 > $old/PG_VERSION" ]);
refused($old, qr/is of PostgreSQL 14, not 15/, qr/pg_upgrade/, 'another version');
$t->command([ 'touch', "$pgdata/standby.signal" ]);
refused($pgdata, qr/is a standby or a backup/, qr/recovery/, 'a standby');
unlink "$pgdata/standby.signal";
$t->neon_fails([ 'tenant', 'create', '--pgdata', $pgdata, '--wal-segsize', '1' ], qr/cannot be given with --pgdata/, qr/has its own/, 'other properties');
is($t->psql('pageserver', 'SELECT count(*) FROM neon_pageserver.tenants'), '0', 'nothing is left of all that');

# ---- taken over ----
sub standby
{
	my ($name, $from, $branch) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	PostgreSQL::Test::RecursiveCopy::copypath($from, $node->data_dir);
	chmod 0700, $node->data_dir;
	$node->append_conf('postgresql.conf', <<CONF);
port = @{[ $node->port ]}
unix_socket_directories = '@{[ $node->host ]}'
max_connections = 200
max_worker_processes = 64
max_prepared_transactions = 200
max_wal_senders = 64
max_locks_per_transaction = 256
wal_retrieve_retry_interval = 100ms
CONF
	$node->set_standby_mode if !-e $node->data_dir . '/standby.signal';
	follow($node, $branch) if $branch;
	return $node;
}

# By the safekeepers' ports: whoever answers.
sub follow
{
	my ($node, $branch) = @_;
	my $ports = join ',', map { $t->config("safekeeper.$_.port") } 1 .. 3;
	my $hosts = join ',', ('127.0.0.1') x 3;
	my $ids = '-c neon.tenant_id=' . $t->tenant . ' -c neon.timeline_id=' . $t->timeline($branch);
	my $password = $t->config('storage_service_password');
	$node->append_conf('postgresql.conf',
		"primary_conninfo = 'host=$hosts port=$ports user=neon_storage password=$password options=''$ids'''\n");
	return;
}

sub follows
{
	my ($node, $ep, $name) = @_;
	my $lsn = $t->insert_lsn($ep);
	$node->poll_query_until('postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'") or diag('it lags');
	return is($node->safe_psql('postgres', 'SELECT count(*), sum(i), max(i) FROM t'),
		$t->psql($ep, 'SELECT count(*), sum(i), max(i) FROM t'), $name);
}

my $standby = standby('standby', $pgdata);
my $control = `pg_controldata $pgdata`;
my ($checkpoint) = $control =~ /^Latest checkpoint location:\s+(\S+)/m;
$t->neon_ok([ 'tenant', 'create', '--pgdata', $pgdata, '--set-default' ], 'a cleanly stopped directory becomes a tenant');
is(`pg_controldata $pgdata`, $control, 'and stays as it is');
$t->endpoint_start('main');
is($t->psql('main', 'SELECT system_identifier FROM pg_control_system()'), $sysid, 'its system identifier goes on');
is($t->psql('main', "SELECT pg_current_wal_lsn() > '$checkpoint' AND pg_wal_lsn_diff(pg_current_wal_lsn(), '$checkpoint') < 1048576"), 't', 'so does its LSN');
is($t->psql('main', 'SHOW wal_segment_size'), '4MB', 'its segment size');
is($t->psql('main', 'SHOW data_checksums'), 'on', 'its checksums');
is($t->psql('main', "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY i)) FROM t x"), $sums{t}, 'its rows');
is($t->psql('main', "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY i)) FROM big x", db => 'app'), $sums{big}, 'of all databases');
is($t->psql('main', "SELECT nextval('s') > 10"), 't', 'its sequences');
is($t->psql('main', 'SELECT count(*) FROM u'), '0', 'unlogged tables are empty, as after a crash');
is($t->psql('main', "SELECT remote_lsn FROM pg_replication_origin_status WHERE external_id = 'elsewhere'"), '0/4711', 'its replication origins');
is($t->psql('main', "SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolname IN ('owner', 'cloud_admin', 'neon_storage')"), 'cloud_admin,neon_storage,owner', 'its roles, and ours');
$t->psql('main', "CREATE EXTENSION amcheck; SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE amname = 'btree' AND relkind = 'i' AND relpersistence = 'p'");
pass('amcheck finds nothing');

# ---- a stock standby of the same origin ----
follow($standby, 'main');
$standby->start;
follows($standby, 'main', 'a standby made from a copy follows');
$t->psql('main', 'INSERT INTO t SELECT g FROM generate_series(30001, 31000) g');
follows($standby, 'main', 'new rows');
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', 'INSERT INTO t SELECT g FROM generate_series(31001, 32000) g');
follows($standby, 'main', 'across a restart');
$t->kill9('main');
$t->endpoint_start('main');
$t->psql('main', 'UPDATE t SET a = NULL WHERE i > 30000; INSERT INTO t SELECT g FROM generate_series(32001, 33000) g');
follows($standby, 'main', 'across kill -9');
$t->kill9('main');
$t->command([ 'rm', '-rf', $t->pgdata('main') ]);
$t->endpoint_start('main');
$t->psql('main', 'DELETE FROM t WHERE i > 32500');
follows($standby, 'main', 'across kill -9 and the loss of the directory');

# ---- a branch ----
# its standby must not be beyond the branch point; WAL below that is in the branch's first segment
$standby->stop('fast');
$t->psql('main', 'INSERT INTO t SELECT g FROM generate_series(33001, 33010) g');
$t->neon('timeline', 'branch', '--branch-name', 'b');
my $other = standby('other', $standby->data_dir, 'b');
$_->start for $standby, $other;
$t->endpoint_start('b', branch => 'b');
$t->psql('main', 'INSERT INTO t SELECT g FROM generate_series(100001, 100500) g');
$t->psql('b', 'INSERT INTO t SELECT g FROM generate_series(200001, 200100) g');
follows($other, 'b', "a branch's standby follows the branch");
follows($standby, 'main', "its parent's follows the parent");
is($other->safe_psql('postgres', 'SELECT count(*) FROM t WHERE i BETWEEN 100001 AND 200000'), '0', "and sees nothing of the other's WAL");
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t WHERE i > 200000'), '0', 'neither way');
$_->stop('immediate') for $standby, $other;
$t->neon('stop');

# ---- laptop mode ----
my $laptop = NeonTest->new(safekeepers => 0);
$laptop->init;
$laptop->neon('start');
$laptop->neon('tenant', 'create', '--pgdata', $pgdata, '--set-default');
$laptop->endpoint_start('main');
is($laptop->psql('main', "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY i)) FROM t x"), $sums{t}, 'without safekeepers');
$laptop->neon('stop');
$source->start;
is($source->safe_psql('postgres', 'SELECT count(*) FROM t'), '20000', "the user's server still starts");
$source->stop('immediate');
done_testing();
