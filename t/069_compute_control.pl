# A compute's control half in the whole system: databases that are copied,
# moved and dropped while they are still in the pageserver only, base backups,
# branches by SQL, settings kept over boots, back-pressure and fencing.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

my $t = NeonTest->new;
$t->quickstart;
$t->psql('main', 'CREATE EXTENSION neon; CREATE EXTENSION amcheck');

# What a database must be, wherever it is.
sub fill
{
	my ($db) = @_;
	$t->psql('main', "CREATE DATABASE $db");
	$t->psql('main', <<'SQL', db => $db);
CREATE EXTENSION amcheck;
CREATE TABLE t(id int PRIMARY KEY, v text);
INSERT INTO t SELECT g, repeat(md5(g::text), 5) FROM generate_series(1, 5000) g;
CREATE INDEX ON t(v);
CREATE TABLE big(id int, v text);
ALTER TABLE big ALTER v SET STORAGE EXTERNAL;
INSERT INTO big SELECT g, repeat(md5(g::text), 300) FROM generate_series(1, 100) g;
SQL
	return;
}

sub whole
{
	my ($db, $test) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $sql = <<'SQL';
SELECT count(*), sum(id), md5(string_agg(v, '' ORDER BY id)) FROM t;
SELECT count(*), md5(string_agg(v, '' ORDER BY id)) FROM big;
SELECT count(bt_index_check(c.oid, true)) > 100 FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
 WHERE c.relam = 403 AND c.relpersistence = 'p';
SELECT count(*) FROM pg_class c, verify_heapam(c.oid) WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p';
SQL
	our $first;
	my $result = $t->psql('main', $sql, db => $db);
	$first ||= $result;
	is($result, $first, $test);
	like($result, qr/\nt\n0$/, 'which passes all checks');
	return;
}

fill($_) for qw(moved template_one dropped);
whole('moved', 'a database');
$t->psql('main', "SET allow_in_place_tablespaces = on;\nCREATE TABLESPACE ts LOCATION '';\nCREATE TABLESPACE ts2 LOCATION '';\nCREATE DATABASE partly");
$t->psql('main', 'CREATE TABLE elsewhere TABLESPACE ts2 AS SELECT 1', db => 'partly');

# all of them are remote now, and no file of them is there
$t->cold;
$t->neon('endpoint', 'restart', 'main');
$t->psql_fails('main', 'DROP TABLESPACE ts2', qr/tablespace "ts2" is not empty/, 'a tablespace with relations is not dropped, though nothing of them is here');
is($t->psql('main', 'SELECT * FROM elsewhere', db => 'partly'), '1', 'they are whole');
$t->neon('endpoint', 'restart', 'main');
$t->psql_fails('main', 'ALTER DATABASE partly SET TABLESPACE ts2', qr/some relations of database "partly" are already in tablespace "ts2"/,
	'a database is not moved to where it has relations, though nothing of them is here');
$t->neon('endpoint', 'restart', 'main');
$t->psql_fails('main', 'CREATE DATABASE whole TEMPLATE partly TABLESPACE ts2', qr/cannot assign new default tablespace "ts2"/, 'and not copied there');
$t->psql('main', $_) for 'DROP DATABASE partly', 'DROP TABLESPACE ts2';
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', 'ALTER DATABASE moved SET TABLESPACE ts');
whole('moved', 'a database that was moved before anything of it was here');
$t->psql_fails('main', 'DROP TABLESPACE ts', qr/not empty/, 'its tablespace cannot be dropped');
$t->psql('main', 'CREATE DATABASE copied TEMPLATE template_one STRATEGY file_copy');
whole('copied', 'a copy of one of which nothing was here');
my $oid = $t->psql('main', "SELECT oid FROM pg_database WHERE datname = 'dropped'");
$t->psql('main', 'DROP DATABASE dropped');
$t->psql('main', "CREATE DATABASE again OID $oid");
is($t->psql('main', 'SELECT count(*) > 300 FROM pg_class', db => 'again'), 't', 'a new database with the OID of a dropped one');
$t->psql('main', 'CREATE TABLE other(a int)', db => 'again');

$t->neon('endpoint', 'restart', 'main');
whole('moved', 'the moved one after a boot');
whole('copied', 'the copied one after a boot');
is($t->psql('main', 'SELECT count(*) FROM other', db => 'again'), '0', 'the new one after a boot');
$t->psql('main', 'ALTER DATABASE moved SET TABLESPACE pg_default');
$t->psql('main', 'DROP TABLESPACE ts');
whole('moved', 'moved back');
$t->neon('endpoint', 'restart', 'main');
whole('moved', 'and after a boot');

# settings
$t->psql('main', "ALTER SYSTEM SET work_mem = '7MB'; ALTER SYSTEM SET neon.fetch_timeout = '3s'");
$t->psql('main', "ALTER SYSTEM SET neon.max_unflushed_wal = '16MB'");
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', "SELECT string_agg(setting || unit, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('work_mem', 'neon.fetch_timeout', 'neon.max_unflushed_wal')"),
	'3000ms 16MB 7168kB', 'settings of ALTER SYSTEM are kept');

# a base backup once everything is here
my @basebackup = ('pg_basebackup', '-w', '-d', $t->connstr('main'), '--checkpoint=fast', '--no-sync');
my ($rc, $out, $err) = $t->command([ @basebackup, '-D', $t->tmp . '/refused' ]);
like($err, qr/FATAL:.*hydrated.*HINT:.*neon\.hydrate/s, 'pg_basebackup is refused');
LocalLimit::lift($t, 'main');
cmp_ok($t->psql('main', 'SELECT neon.hydrate()'), '>', 600, 'neon.hydrate() fetches');
is($t->psql('main', 'SELECT neon.hydrate()'), '0', 'once');
is($t->psql('main', 'SELECT hydrated FROM neon.status'), 't', 'and neon.status tells');
my $copy = $t->tmp . '/copy';
($rc, $out, $err) = $t->command([ @basebackup, '-D', $copy ]);
is($rc, 0, 'pg_basebackup') or diag($err);
open my $f, '>', "$copy/postgresql.conf" or die $!;
close $f;
open $f, '>', "$copy/pg_hba.conf" or die $!;
print $f "host all all 127.0.0.1/32 trust\n";
close $f;
open $f, '>', "$copy/pg_ident.conf" or die $!;
close $f;
my $port = $t->free_port;
($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $copy, '-l', "$copy.log", '-w', '-o', "-p $port -h 127.0.0.1 -k '' -F", 'start' ]);
is($rc, 0, 'is a data directory of an ordinary server');
for my $db (qw(moved copied))
{
	is($t->psql('main', "SELECT count(*), sum(id) FROM t", connstr => "host=127.0.0.1 port=$port user=cloud_admin dbname=$db"),
		'5000|12502500', "with database $db");
}
$t->command([ 'pg_ctl', '-D', $copy, '-w', '-m', 'immediate', 'stop' ]);
LocalLimit::put_back($t, 'main');

# branches
$t->psql('main', 'CREATE TABLE b(a int); INSERT INTO b VALUES (1)');
$t->psql('main', "SELECT neon.branch_create('by_sql')");
$t->psql('main', 'INSERT INTO b VALUES (2)');
$t->endpoint_start('by_sql', branch => 'by_sql');
is($t->psql('by_sql', 'SELECT string_agg(a::text, $$,$$) FROM b'), '1', 'a branch made by SQL has what was committed, and no more');
is($t->psql('by_sql', "SELECT ancestor_id FROM neon.branches WHERE current"), $t->timeline('main'), 'it knows its ancestor');
$t->endpoint_stop('by_sql');

$t->quorum ? superseded_by_election() : laptop();
done_testing();

# a majority promised a higher term to somebody else
sub superseded_by_election
{
	my ($tenant, $timeline) = ($t->tenant, $t->timeline('main'));
	my $next = 1 + $t->psql('main', 'SELECT term FROM neon.status');
	for my $i (1, 3)
	{
		$t->psql("safekeeper $i", <<"SQL");
SELECT promised FROM neon_safekeeper.timelines t, neon_safekeeper.promise(tenant_id, timeline_id, generation, $next, 'elsewhere')
WHERE tenant_id::text = '$tenant' AND timeline_id::text = '$timeline'
SQL
	}
	$t->wait_for('the superseded compute', sub { !$t->postmaster_pid('main') });
	like($t->neon('endpoint', 'logs', 'main'), qr/LOG:  superseded by term $next\n/, 'a superseded compute says so and ends');
	$t->endpoint_start('main');
	is($t->psql('main', 'SELECT count(*) FROM b'), '2', 'and another one goes on');
	return;
}

sub laptop
{
	# a storage that hangs
	my $ps = $t->postmaster_pid('pageserver');
	my ($ingest) = $t->children_of($ps, qr/neon ingest/);
	$t->signal('STOP', $ingest);
	like($t->psql_fails('main', "CREATE TABLE w AS SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) g",
			qr/ERROR:  pageserver 127.0.0.1:$t->{ps_port} is too far behind/, 'a writer too far ahead'),
		qr/DETAIL:.*16 MB.*HINT/s, 'is told the limit');
	is($t->psql('main', 'SELECT count(*) FROM b'), '2', 'readers go on');
	$t->signal('CONT', $ingest);
	$t->poll('main', 'SELECT streaming AND unflushed_bytes < 1000000 FROM neon.status');
	$t->psql('main', "CREATE TABLE w AS SELECT g, repeat('x', 1000) FROM generate_series(1, 30000) g");
	is($t->psql('main', 'SELECT count(*) FROM w'), '30000', 'writers go on when it does');

	# a fast stop does not wait for it longer than for its connection
	($ingest) = $t->children_of($ps, qr/neon ingest/);
	$t->signal('STOP', $ingest);
	$t->psql('main', 'INSERT INTO b VALUES (3)');
	my $t0 = time();
	($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $t->pgdata('main'), '-m', 'fast', '-w', 'stop' ]);
	is($rc, 0, 'a fast stop') or diag($err);
	cmp_ok(time() - $t0, '<', 30, 'in time');
	$t->signal('CONT', $ingest);
	$t->endpoint_start('main');
	is($t->psql('main', 'SELECT count(*) FROM b'), '3', 'which loses nothing');

	# another writer
	my ($tenant, $timeline) = ($t->tenant, $t->timeline('main'));
	my $term = $t->psql('main', 'SELECT term FROM neon.status');
	my $boot_id = $t->psql('pageserver', "SELECT boot_id FROM neon_pageserver.writer_get('$tenant', '$timeline')");
	$t->wait_ingest('main');
	my $last = $t->timeline_field('main', 'last_record_lsn');
	$t->psql('pageserver', "SELECT neon_pageserver.writer_drained('$tenant', '$timeline', '$boot_id', '$last')");
	$t->psql('pageserver', "SELECT neon_pageserver.writer_acquire('$tenant', '$timeline', $term, $term + 1, 'other', '"
		  . '5' x 32 . "', '$last', 'endpoints/other/pgdata', 'elsewhere')");
	$t->wait_for('the superseded compute', sub { !$t->postmaster_pid('main') });
	my $log = $t->neon('endpoint', 'logs', 'main');
	my $next = $term + 1;
	like($log, qr/LOG:  superseded by term $next\n/, 'a superseded compute says so and ends');
	return;
}
