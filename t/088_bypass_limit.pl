# What works on files below the storage manager while chunks of these files are
# dropped, because local disk space is limited.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $limit_kb = 40960;
my $t = NeonTest->new;
$t->quickstart(tenant => ['--data-checksums'], no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'max_prepared_transactions=5', 'neon.prewarm_rate=0', 'autovacuum=off');
$t->endpoint_start('main');

sub fill
{
	my ($db, $rows) = @_;
	$t->psql('main', <<"SQL", db => $db);
CREATE TABLE t(id int PRIMARY KEY, v text, pad text);
INSERT INTO t SELECT g, md5(g::text), repeat(md5(g::text), 15) FROM generate_series(1, $rows) g;
CREATE INDEX ON t(v);
VACUUM (FREEZE, ANALYZE);
SQL
	return;
}

sub sums
{
	my ($db, $table) = @_;
	$table ||= 't';
	return $t->psql('main', "SELECT count(*), sum(hashtext(x::text)::int8), count(DISTINCT id) FROM $table x", db => $db);
}
$t->psql('main', $_) for 'CREATE EXTENSION neon', 'CREATE EXTENSION pg_prewarm', 'CREATE EXTENSION pageinspect', 'CREATE EXTENSION pg_visibility',
	"SET allow_in_place_tablespaces = on;\nCREATE TABLESPACE ts LOCATION ''",
	'CREATE DATABASE source', 'CREATE DATABASE moved', 'CREATE DATABASE large', 'CREATE DATABASE dropped';
fill('postgres', 60000);
fill($_, 4000) for qw(source moved dropped);
fill('large', 26000);
my %sums = map { $_ => sums($_) } qw(postgres source moved large);
my $one = $sums{source};
$t->endpoint_stop('main');
$t->neon('endpoint', 'config', 'main', "neon.local_size_limit=${limit_kb}kB", 'shared_buffers=2MB', 'checkpoint_timeout=30s');
$t->endpoint_start('main');

sub du
{
	my $pgdata = $t->pgdata('main');
	my ($rc, $out) = $t->command([ 'du', '-skc', map { "$pgdata/$_" } qw(base global pg_tblspc) ]);
	return $out =~ /^(\d+)\s+total/m ? $1 : die "du: $out";
}
sub dropped_mb { return $t->psql('main', 'SELECT evicted_bytes / 1048576 FROM neon.local_disk') }

# What others have written can be dropped: a command that writes much needs it.
sub settle
{
	$t->psql('main', 'CHECKPOINT');
	$t->poll('main', 'SELECT blocker IS NULL FROM neon.local_disk');
	return;
}

# Reads so much that all that can be dropped is.
sub churn
{
	my $before = dropped_mb();
	is(sums('postgres'), $sums{postgres}, 'a table larger than the limit');
	$t->psql('main', 'CHECKPOINT');
	is(sums('postgres'), $sums{postgres}, 'once more');
	cmp_ok(dropped_mb(), '>', $before + 30, 'for which others were dropped');
	cmp_ok(du(), '<=', $limit_kb, 'within the limit');
	return;
}

# ------------------------------------------------ base backups --

my ($rc, $out, $err) = $t->command([ 'pg_basebackup', '-w', '-d', $t->connstr('main'), '-D', $t->tmp . '/refused' ]);
like($err, qr/not possible before this compute is hydrated.*HINT:  Start the endpoint with "neon.local_size_limit" set to 0/s, 'pg_basebackup is refused');
$t->psql_fails('main', "SELECT pg_backup_start('x')", qr/HINT:  Start the endpoint with "neon.local_size_limit" set to 0/, 'and pg_backup_start()');

# ------------------------------------------------ reading --

my $blocks = $t->psql('main', q{SELECT pg_relation_size('t') / 8192});
cmp_ok($blocks * 8, '>', $limit_kb * 0.8, 'a table of about the limit');
is($t->psql('main', q{SELECT string_agg(pg_prewarm('t', m)::text, ' ') FROM unnest(ARRAY['prefetch', 'read', 'buffer', 'read']) m}), join(' ', ($blocks) x 4), 'pg_prewarm');
is($t->psql('main', q{SELECT count(*) FROM generate_series(0, pg_relation_size('t') / 8192 - 1) b, heap_page_items(get_raw_page('t', b::int)) WHERE t_data IS NOT NULL}), '60000', 'pageinspect');
is($t->psql('main', q{SELECT count(*) FROM pg_check_visible('t') UNION ALL SELECT count(*) FROM pg_check_frozen('t')}), "0\n0", 'pg_visibility');
cmp_ok(du(), '<=', $limit_kb, 'within the limit');

# ------------------------------------------------ databases --

# prepared transactions keep nothing from being dropped
$t->psql('main', "CREATE TABLE p(id int, v text); INSERT INTO p SELECT g, 'old' FROM generate_series(1, 1000) g");
$t->psql('main', "BEGIN; UPDATE p SET v = 'new'; PREPARE TRANSACTION 'yes'");
$t->psql('main', "BEGIN; INSERT INTO t SELECT -g, 'no' FROM generate_series(1, 1000) g; PREPARE TRANSACTION 'no'");
settle();
$t->psql('main', 'CREATE DATABASE copied TEMPLATE source STRATEGY file_copy');
settle();
$t->psql('main', 'CREATE DATABASE logged TEMPLATE source TABLESPACE ts');
is(sums($_), $one, "database $_") for qw(copied logged);
settle();
$t->psql('main', 'ALTER DATABASE moved SET TABLESPACE ts');
is(sums('moved'), $one, 'a database that is moved');
my $oid = $t->psql('main', q{SELECT oid FROM pg_database WHERE datname = 'dropped'});
is(sums('dropped'), $one, 'a database');
settle();
$t->psql('main', $_) for 'DROP DATABASE dropped', "CREATE DATABASE dropped OID $oid TEMPLATE template0";
$t->psql('main', "CREATE TABLE t AS SELECT g AS id, repeat('other', 100) AS v FROM generate_series(1, 3000) g", db => 'dropped');
$sums{dropped} = sums('dropped');
churn();
is(sums($_), $one, "$_, part of which was dropped") for qw(copied logged moved source);
is(sums('dropped'), $sums{dropped}, 'a database with the OID of a dropped one');
$t->psql('main', "COMMIT PREPARED 'yes'; ROLLBACK PREPARED 'no'");
is($t->psql('main', q{SELECT count(*) FROM p WHERE v = 'new'}), '1000', 'a prepared transaction whose pages were dropped');

# two copies of it are more than the limit
my $error = $t->psql_fails('main', 'ALTER DATABASE large SET TABLESPACE ts', qr/ERROR:  /, 'a database is not moved if two copies are more than the limit');
note($error);
cmp_ok(du(), '<=', $limit_kb, 'within the limit');
is(sums('large'), $sums{large}, 'it is as it was');

# tables
$t->psql('main', 'ALTER TABLE t SET TABLESPACE ts', db => 'source');
is(sums('source'), $one, 'a table that is moved');
settle();
$t->psql('main', 'ALTER DATABASE moved SET TABLESPACE pg_default');
churn();
is(sums($_), $one, "$_ again") for qw(moved source);
$t->amcheck('main');
# reads of the catalogs, of which that has many, are not held where the evictor is late
cmp_ok(du(), '<=', $limit_kb * 1.1, 'within the limit, or a tenth above');

# ------------------------------------------------ files, and the next start --

$t->endpoint_stop('main');
($rc, $out, $err) = $t->command([ 'pg_checksums', '--check', '-D', $t->pgdata('main') ]);
is($rc, 0, 'pg_checksums finds nothing in files with dropped chunks') or diag("$out$err");
$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=0');
$t->endpoint_start('main');
is(sums($_), $one, "$_ after a boot") for qw(copied logged moved source);
is(sums($_), $sums{$_}, "$_ after a boot") for qw(dropped large postgres);
cmp_ok($t->psql('main', 'SELECT neon.hydrate()'), '>', 100, 'hydrated, without a limit');
my $copy = $t->tmp . '/copy';
($rc, $out, $err) = $t->command([ 'pg_basebackup', '-w', '-d', $t->connstr('main'), '--checkpoint=fast', '--no-sync', '-D', $copy ]);
is($rc, 0, 'pg_basebackup') or diag($err);
($rc, $out, $err) = $t->command([ 'pg_verifybackup', $copy ]);
is($rc, 0, 'pg_verifybackup') or diag("$out$err");
$t->neon('stop');
done_testing();
