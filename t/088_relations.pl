# Many relations: 100,000 in the long form, here so many that their files are
# not made before the first client connects.  Start, list, size, stop.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

my $tables = $NeonTest::long ? 50000 : 1200;	# each with an index
my $t = NeonTest->new(safekeepers => 1);	# no fsync of each file
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'max_locks_per_transaction=1024', 'autovacuum=off');
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon');

sub timed
{
	my ($what, $code) = @_;
	my $start = time;
	my @result = $code->();
	note(sprintf('%s: %.2f s', $what, time - $start));
	return wantarray ? @result : $result[0];
}
my $step = 500;
timed("$tables tables with an index each", sub {
	$t->psql('main', <<"SQL", timeout => 1200);
CREATE PROCEDURE make(first int, last int) LANGUAGE plpgsql AS \$\$
BEGIN
	FOR i IN first .. last LOOP
		EXECUTE format('CREATE TABLE t%s(a int PRIMARY KEY, b int)', i);
		EXECUTE format('INSERT INTO t%s VALUES (%s, 1)', i, i);
		IF i % $step = 0 THEN COMMIT; END IF;
	END LOOP;
END \$\$;
CALL make(1, $tables);
CREATE FUNCTION total(every int) RETURNS bigint LANGUAGE plpgsql AS \$\$
DECLARE one bigint; result bigint = 0;
BEGIN
	FOR i IN 1 .. $tables LOOP
		IF i % every = 0 THEN
			EXECUTE format('SELECT sum(a * b) FROM t%s', i) INTO one;
			result = result + one;
		END IF;
	END LOOP;
	RETURN result;
END \$\$;
SQL
});
my $sql_count = q{SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+'};
my $sql_sizes = q{SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ '^t[0-9]+'};
my $every = $NeonTest::long ? 50 : 4;
my $n = int($tables / $every);
my $total = $every * $n * ($n + 1) / 2;
is($t->psql('main', "SELECT total($every)"), $total, 'they are readable');
my $sizes = $t->psql('main', $sql_sizes);
is($sizes, $tables * 3 * 8192, 'with their sizes');	# an index has two blocks

sub check
{
	my ($what) = @_;
	is(timed("$what, count", sub { $t->psql('main', $sql_count) }), 2 * $tables, "$what: all are listed");
	is(timed("$what, total", sub { $t->psql('main', "SELECT total($every)", timeout => 600) }), $total, "$what: they are readable");
	is(timed("$what, sizes", sub { $t->psql('main', $sql_sizes) }), $sizes, "$what: sizes are true");
	my ($rc, $out, $err) = timed("$what, \\dt+", sub { $t->psql_raw('main', '\dt+ t*', timeout => 300) });
	is(scalar(() = $out =~ /^public\|t\d+\|/mg), $tables, "$what: psql lists them") or diag($err);
	return;
}
timed('stop', sub { $t->endpoint_stop('main') });
mkdir "$t->{dir}/endpoints/main/pgdata.old.$_" or die $! for 0, 3;	# as if their removal had been killed
timed('start', sub { $t->endpoint_start('main') });
timed('first query', sub { $t->psql('main', 'SELECT 1') });
check('after a boot');
timed('removal of the old files', sub {
	$t->wait_for('the end of the old data directories', sub { my @old = glob "$t->{dir}/endpoints/main/pgdata.old.*"; !@old }, 600);
});
pass('the old data directories are removed');

# commands on many of them
$t->psql('main', 'CREATE PROCEDURE remove(first int, last int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN first .. last LOOP EXECUTE format($f$DROP TABLE t%s$f$, i); IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$');
$t->psql('main', "UPDATE t$tables SET b = 2 WHERE a = $tables; TRUNCATE t1; INSERT INTO t1 VALUES (1, 1)");
timed('kill -9', sub { $t->kill9('main') });
timed('start after it', sub { $t->endpoint_start('main') });
if (!$NeonTest::long)
{
	timed('CREATE DATABASE', sub { $t->psql('main', 'CREATE DATABASE copied TEMPLATE postgres STRATEGY file_copy', connstr => $t->connstr('main', 'template1'), timeout => 600) });
	is($t->psql('main', $sql_count, db => 'copied'), 2 * $tables, 'a copy of the database');
	is($t->psql('main', "SELECT b FROM t$tables", db => 'copied'), '2', 'has what was written last');
	timed('DROP DATABASE', sub { $t->psql('main', 'DROP DATABASE copied', timeout => 600) });
}
is($t->psql('main', "SELECT b FROM t$tables"), '2', 'what was written last');
my $few = $tables / 10;
timed('VACUUM', sub { $t->psql('main', $NeonTest::long ? 'VACUUM pg_class, pg_attribute, pg_index' : 'VACUUM', timeout => 600) });
timed("DROP of $few", sub { $t->psql('main', "CALL remove(1, $few)", timeout => 600) });
timed('restart', sub { $t->neon('endpoint', 'restart', 'main') });
is($t->psql('main', $sql_count), 2 * ($tables - $few), 'after dropping some of them');
cmp_ok(timed('hydrate', sub { $t->psql('main', 'SELECT neon.hydrate()', timeout => 600) }), '>', $tables / 2, 'hydrate');
if (!$NeonTest::long)
{
	my ($rc, $out, $err) = timed('pg_basebackup', sub {
		$t->command([ 'pg_basebackup', '-w', '-d', $t->connstr('main'), '--checkpoint=fast', '--no-sync', '-D', $t->tmp . '/copy' ], timeout => 600);
	});
	is($rc, 0, 'pg_basebackup') or diag($err);
	($rc, $out, $err) = timed('pg_verifybackup', sub { $t->command([ 'pg_verifybackup', $t->tmp . '/copy' ], timeout => 600) });
	is($rc, 0, 'pg_verifybackup') or diag($err);
	$t->amcheck('main');
}

# "neon stop" leaves nobody who removes files, the next start goes on
$t->neon('endpoint', 'restart', 'main');
my $old = "$t->{dir}/endpoints/main/pgdata.old.9";
my $full = "$t->{dir}/endpoints/main/full";	# who removes files still runs, perhaps
mkdir $full or die $!;
for my $i (1 .. 5000) { open my $f, '>', "$full/$i" or die $!; close $f }
rename $full, $old or die $!;
$t->neon('endpoint', 'restart', 'main');
timed('stop', sub { $t->neon('stop') });
my ($locked) = $t->command([ 'flock', '-n', "$t->{dir}/run/discard.main.lock", 'true' ]);
is($locked, 0, 'nobody removes files after "neon stop"');
$t->neon('start');
$t->endpoint_start('main');
$t->wait_for('the end of the old data directories', sub { my @old = glob "$t->{dir}/endpoints/main/pgdata.old.*"; !@old }, 600);
$t->neon('stop');
done_testing();
