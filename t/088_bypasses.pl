# What works on files below the storage manager, on a compute that has just
# booted and of whose files almost nothing is here, and on a hydrated one.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart(tenant => ['--data-checksums'], no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off', 'wal_level=logical', 'max_prepared_transactions=5', 'neon.prewarm_rate=0',
	'shared_buffers=2MB');
$t->endpoint_start('main');

my $files = <<'SQL';
CREATE TABLE t(id int PRIMARY KEY, v text);
INSERT INTO t SELECT g, repeat(md5(g::text), 5) FROM generate_series(1, 20000) g;
CREATE INDEX ON t(v);
CREATE TABLE big(id int, v text);
ALTER TABLE big ALTER v SET STORAGE EXTERNAL;
INSERT INTO big SELECT g, repeat(md5(g::text), 300) FROM generate_series(1, 100) g;
VACUUM (FREEZE, ANALYZE);
SQL
my $location = $t->tmp . '/location';
mkdir $location or die "$location: $!";
$t->psql('main', "CREATE TABLESPACE ts LOCATION '$location'");
$t->psql('main', $_) for 'CREATE DATABASE source', 'CREATE DATABASE moved', 'CREATE DATABASE there TABLESPACE ts';
$t->psql('main', $files, db => $_) for qw(postgres source moved there);
$t->psql('main', <<'SQL');
CREATE EXTENSION neon;
CREATE EXTENSION pg_prewarm;
CREATE EXTENSION pageinspect;
CREATE EXTENSION pgstattuple;
CREATE EXTENSION pg_visibility;
CREATE TABLE in_ts TABLESPACE ts AS SELECT * FROM t;
CREATE INDEX in_ts_v ON in_ts(v) TABLESPACE ts;
CREATE UNLOGGED TABLE u(a int PRIMARY KEY);
INSERT INTO u SELECT generate_series(1, 1000);
CREATE TABLE p(a int);
BEGIN;
INSERT INTO p SELECT generate_series(1, 100);
PREPARE TRANSACTION 'p1';
SQL

# Rows and sums of all tables of a database.
sub sums
{
	my ($db, %o) = @_;
	return $t->psql('main', <<'SQL', db => $db, %o);
SELECT c.relname, (xpath('/row/s/text()', query_to_xml(format('SELECT count(*) || ''/'' || coalesce(sum(hashtext(x::text)::int8), 0) AS s FROM %s x', c.oid::regclass), false, true, '')))[1]
  FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace = 'public'::regnamespace ORDER BY 1
SQL
}
my %sums = map { $_ => sums($_) } qw(postgres source moved there);
my $rows = $sums{source};
is($sums{moved}, $rows, 'the same data in several databases');

# A cold compute; its location is another directory now.
sub cold
{
	$t->neon('endpoint', 'restart', 'main');
	return;
}

sub absent_percent
{
	return $t->psql('main', 'SELECT round(100 * absent_bytes / (absent_bytes + present_bytes)) FROM neon.stat_local');
}

# ------------------------------------------------ refused on holes --

cold();
my ($rc, $out, $err);
my @basebackup = ('pg_basebackup', '-w', '-d', $t->connstr('main'), '--checkpoint=fast', '--no-sync');
($rc, $out, $err) = $t->command([ @basebackup, '-D', $t->tmp . '/refused' ]);
isnt($rc, 0, 'pg_basebackup of a cold compute fails');
like($err, qr/FATAL:  physical replication is not possible before this compute is hydrated\nDETAIL:  .*\nHINT:  Run SELECT neon.hydrate\(\) first/, 'and says why');
for my $replication (qw(true database))
{
	my $e = $t->psql_fails('main', 'BASE_BACKUP', qr/FATAL/, "BASE_BACKUP by replication=$replication is refused",
		connstr => $t->connstr('main') . " replication=$replication");
	like($e, qr/HINT/, 'with a hint');
}
like($t->psql_fails('main', "SELECT pg_backup_start('x')", qr/ERROR:  a base backup is not possible/, 'pg_backup_start() is refused'),
	qr/HINT:  Run SELECT neon.hydrate/, 'with a hint');
($rc, $out, $err) = $t->command([ 'pg_receivewal', '-w', '-d', $t->connstr('main'), '-D', $t->tmp, '--no-loop' ]);
like($err, qr/not possible before this compute is hydrated/, 'pg_receivewal is refused');
ok(!-e $t->tmp . '/refused/base', 'nothing was copied');
my $rewind = q{SELECT length(pg_read_binary_file('global/pg_control', 0, 100, true))};
like($t->psql_fails('main', $rewind, qr/ERROR:  reading parts of files is not possible before this compute is hydrated/, 'what pg_rewind asks its source for is refused'),
	qr/HINT:  Run SELECT neon.hydrate/, 'with a hint');
is($t->psql('main', q{SELECT length(pg_read_binary_file('global/pg_control')) > 0, length(pg_read_file('PG_VERSION'))}), 't|3', 'reading whole files is not');

# ------------------------------------------------ right on holes --

cmp_ok(absent_percent(), '>', 50, 'most is absent');
my $blocks = $t->psql('main', q{SELECT pg_relation_size('t') / 8192});
cmp_ok($blocks, '>', 400, 'sizes are true');
is($t->psql('main', q{SELECT string_agg(pg_prewarm('t', m)::text, ' ') FROM unnest(ARRAY['prefetch', 'read', 'buffer']) m}), "$blocks $blocks $blocks", 'pg_prewarm in three modes');
is($t->psql('main', q{SELECT count(*) FROM generate_series(0, pg_relation_size('in_ts') / 8192 - 1) b, heap_page_items(get_raw_page('in_ts', b::int)) WHERE t_data IS NOT NULL}), '20000', 'pageinspect');
is($t->psql('main', q{SELECT tuple_count, dead_tuple_count FROM pgstattuple('t')}), '20000|0', 'pgstattuple');
is($t->psql('main', q{SELECT count(*) FROM pg_check_visible('t') UNION ALL SELECT count(*) FROM pg_check_frozen('t')}), "0\n0", 'pg_visibility');
$t->psql('main', 'CREATE DATABASE copied TEMPLATE source STRATEGY file_copy');
$t->psql('main', 'CREATE DATABASE logged TEMPLATE source STRATEGY wal_log TABLESPACE ts');
$t->psql('main', 'ALTER DATABASE moved SET TABLESPACE ts');
$t->psql('main', 'ALTER TABLE in_ts SET TABLESPACE pg_default; ALTER INDEX in_ts_v SET TABLESPACE pg_default; ALTER TABLE t SET TABLESPACE ts');
is(sums($_), $rows, "database $_") for qw(copied logged moved there);
is(sums('postgres'), $sums{postgres}, 'tables that were moved');
$t->psql_fails('main', 'DROP TABLESPACE ts', qr/not empty/, 'the tablespace is not empty');

# an OID of a database that is dropped, all of it absent
cold();
my $oid = $t->psql('main', q{SELECT oid FROM pg_database WHERE datname = 'copied'});
my $absent = $t->psql('main', 'SELECT absent_bytes FROM neon.stat_local');
$t->psql('main', 'DROP DATABASE copied');
cmp_ok($t->psql('main', 'SELECT absent_bytes FROM neon.stat_local'), '<', $absent - 8192 * $blocks, 'nothing of a dropped database is to be fetched any more');
$t->psql('main', "CREATE DATABASE copied OID $oid TEMPLATE there");
is(sums('copied'), $rows, 'a database with the OID of a dropped one');
$t->psql('main', 'UPDATE t SET v = upper(v)', db => 'copied');
my $changed = sums('copied');
$t->psql('main', $_) for 'DROP DATABASE copied', "CREATE DATABASE copied OID $oid TEMPLATE template0", 'DROP DATABASE logged', 'ALTER DATABASE moved SET TABLESPACE pg_default';
is(sums('copied'), '', 'and once more, empty');
is(sums('moved'), $rows, 'a database that is moved back');
$t->psql('main', "CREATE TABLE t AS SELECT 1 AS a", db => 'copied');
$t->amcheck('main', 'pg_amcheck of all databases');

# the files as they are
cold();
is(sums('copied'), 't|1/' . $t->psql('main', q{SELECT hashtext('(1)')}), 'what it has after a boot');
is(sums($_), $rows, "$_ after a boot") for qw(moved source);
$t->psql('main', 'SELECT count(*) FROM t');
$t->endpoint_stop('main');
($rc, $out, $err) = $t->command([ 'pg_checksums', '--check', '-D', $t->pgdata('main') ]);
is($rc, 0, 'pg_checksums finds nothing in the files of a stopped compute') or diag("$out$err");
my ($scanned) = $out =~ /Blocks scanned:\s+(\d+)/;
cmp_ok($scanned, '>', 4 * $blocks, "in $scanned blocks");
like($out, qr/Bad checksums:\s+0\n/, 'none is bad');

# what was turned on or off there is of no consequence
($rc, $out, $err) = $t->command([ 'pg_checksums', '--disable', '-D', $t->pgdata('main') ]);
is($rc, 0, 'pg_checksums --disable on it') or diag("$out$err");
$t->endpoint_start('main');
is($t->psql('main', 'SHOW data_checksums'), 'on', 'is undone by the next start');

# ------------------------------------------------ hydrated --

cmp_ok($t->psql('main', 'SELECT neon.hydrate()'), '>', 1000, 'neon.hydrate()');
is($t->psql('main', 'SELECT absent_bytes FROM neon.stat_local'), '0', 'nothing is absent');
is($t->psql('main', $rewind), '100', 'parts of files can be read');
my $want = $t->dump_all('main');
%sums = map { $_ => sums($_) } qw(postgres source moved there copied);
my $copy = $t->tmp . '/copy';
($rc, $out, $err) = $t->command([ @basebackup, '-D', $copy ]);
is($rc, 0, 'pg_basebackup, which verifies checksums') or diag($err);
($rc, $out, $err) = $t->command([ 'pg_verifybackup', $copy ]);
is($rc, 0, 'pg_verifybackup') or diag("$out$err");
my $port = $t->free_port;
for (['postgresql.conf', "max_prepared_transactions = 5\nallow_in_place_tablespaces = on\nwal_level = logical\n"],
	['pg_hba.conf', "host all all 127.0.0.1/32 trust\n"], ['pg_ident.conf', ''])
{
	open my $f, '>', "$copy/$_->[0]" or die $!;
	print $f $_->[1];
	close $f;
}
my @start = ('pg_ctl', '-D', $copy, '-l', "$copy.log", '-w', '-o', "-p $port -h 127.0.0.1 -k '' -F", 'start');
($rc, $out, $err) = $t->command(\@start);
is($rc, 0, 'the copy starts on the stock server') or diag(NeonTest::Vanilla::slurp("$copy.log"));
$t->set_port('copy', $port);
is(sums($_, connstr => $t->connstr('copy', $_)), $sums{$_}, "it has database $_") for sort keys %sums;
my $got = $t->dump_all('copy');
s/^CREATE EXTENSION.*neon.*$|^COMMENT ON EXTENSION neon .*$|^CREATE SCHEMA neon;$//mg for $got, $want;
NeonTest::dumps_equal($got, $want, 'and gives the same dump');
is($t->psql('copy', 'SELECT count(*) FROM u'), '0', 'its unlogged table is empty');
is($t->psql('copy', q{SELECT gid FROM pg_prepared_xacts; COMMIT PREPARED 'p1'; SELECT count(*) FROM p}), "p1\n100", 'its prepared transaction can be committed');
$t->amcheck('copy', 'pg_amcheck of the copy');
$t->command([ 'pg_ctl', '-D', $copy, '-w', '-m', 'fast', 'stop' ]);
($rc, $out, $err) = $t->command([ 'pg_checksums', '--check', '-D', $copy ]);
is($rc, 0, 'its checksums') or diag("$out$err");

# the directory itself, once it was stopped
$t->endpoint_stop('main');
my $own = $t->tmp . '/own';
system('cp', '-a', $t->pgdata('main'), $own) == 0 or die;
unlink glob("$own/neon.*"), "$own/postgresql.auto.conf";
system('cp', "$copy/$_", "$own/$_") for qw(postgresql.conf pg_hba.conf pg_ident.conf);
$port = $t->free_port;
($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $own, '-l', "$own.log", '-w', '-o', "-p $port -h 127.0.0.1 -k '' -F", 'start' ]);
is($rc, 0, 'a hydrated directory that was stopped starts on the stock server') or diag(NeonTest::Vanilla::slurp("$own.log"));
$t->set_port('own', $port);
is(sums($_, connstr => $t->connstr('own', $_)), $sums{$_}, "it has database $_") for sort keys %sums;
$t->command([ 'pg_ctl', '-D', $own, '-w', '-m', 'immediate', 'stop' ]);

$t->neon('stop');
done_testing();
