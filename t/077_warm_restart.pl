# A compute that was stopped cleanly keeps its local pages for its next start,
# where they are right: with nobody having written since, after another compute
# wrote, and not after a crash, with a damaged list, or on another branch.
use strict;
use warnings;
use NeonTest;
use NeonWarm;
use Test::More;

my $scale = $NeonTest::long ? 20 : 6;
my $lib = $ENV{NEON_TESTING_LIBDIR};
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'autovacuum=off', 'neon.prewarm_rate=0');
$t->endpoint_start('main');
warm_extensions($t, 'main');
$t->psql('main', 'CREATE EXTENSION amcheck');
$t->pgbench_init('main', $scale);
$t->psql('main', q{CREATE TABLE gone AS SELECT i AS id, repeat('g', 500) AS pad FROM generate_series(1, 20000) i;
CREATE TABLE cut AS SELECT i AS id, repeat('c', 500) AS pad FROM generate_series(1, 20000) i;
CREATE TABLE still AS SELECT i AS id, repeat('s', 500) AS pad FROM generate_series(1, 20000) i;
CREATE UNLOGGED TABLE fleeting AS SELECT i AS id FROM generate_series(1, 20000) i;
CREATE INDEX cut_id ON cut (id)});
$t->psql('main', 'VACUUM (FREEZE, ANALYZE)');
$t->psql('pageserver', 'CREATE EXTENSION neon_test_utils');

sub misses { return $t->psql('main', 'SELECT misses FROM neon.stat_local') }
sub file { return $t->pgdata('main') . "/$_[0]" }

sub sums { return $t->psql('main', 'SELECT (SELECT sum(abalance + aid) FROM pgbench_accounts), (SELECT sum(id) FROM still), (SELECT sum(id) FROM cut)') }

# ---- nobody wrote in between ----

is(warm($t, 'stopped_lsn IS NULL AND kept_chunks = 0 AND reason IS NOT NULL'), 't', 'the first start has nothing to keep');
my $sums = sums();
$t->endpoint_stop('main');
ok(-f file('neon.kept'), 'a clean stop leaves the list of what is here');
for my $life (1, 2)
{
	my $told = $t->neon($life == 2 ? '--json' : (), $t->endpoint_args('main'));
	is(warm($t, 'stopped_lsn = boot_lsn AND dropped_chunks = 0 AND reason IS NULL'), 't', "life $life after it keeps all");
	cmp_ok(warm($t, 'kept_bytes'), '>', $scale * 13_000_000, 'which is much');
	my ($chunks, $bytes) = split /\|/, warm($t, 'kept_chunks, kept_bytes');
	my $mb = $bytes >> 20;
	$life == 2
	  ? like($told, qr/"kept_chunks": ?$chunks, ?"kept_bytes": ?$bytes, ?"dropped_chunks": ?0, ?"dropped_bytes": ?0, ?"kept_complete": ?true, ?"not_kept": ?null/, 'the command tells with --json')
	  : like($told, qr/^Kept $mb MB of local pages of the last run \($chunks chunks\), dropped 0 kB \(0 chunks\)$/m, 'the command tells');
	$t->wait_for('neon.kept.files to be removed', sub { !-e file('neon.kept.files') });
	ok(!-e file($_), "$_ is gone") for qw(neon.kept neon.kept.last neon.kept.files neon.changed);
	my $before = misses();
	is(sums(), $sums, 'the data are right');
	is(misses(), $before, 'and read without a fetch');
	is($t->psql('main', 'SELECT count(*) FROM fleeting'), 0, 'an unlogged table is empty as after any start');
	my $n = $life == 1 ? 10_000 : 1_000;
	is(pages_agree($t, "life $life", $n), $n, 'so many were compared');
	like($t->neon('endpoint', 'logs', 'main'), qr/LOG:  kept \d+ chunks \(\d+ MB\) of local pages of the life before, dropped 0 chunks/, 'the log tells');
	$t->psql('main', "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 1000 = $life; INSERT INTO still SELECT i, repeat('s', 500) FROM generate_series(1, 3000) i");
	$sums = sums();
	$t->endpoint_stop('main');
}

# ---- another compute wrote in between ----

$t->endpoint_start('main2', branch => 'main');
$t->psql('main2', q{UPDATE pgbench_accounts SET abalance = abalance + 5 WHERE aid BETWEEN 2000 AND 9000;
DROP TABLE gone;
DELETE FROM cut WHERE id > 5000});
$t->psql('main2', 'VACUUM cut');
$t->psql('main2', q{INSERT INTO cut SELECT i, repeat('n', 500) FROM generate_series(5001, 30000) i;
CREATE TABLE new AS SELECT i AS id, repeat('n', 500) AS pad FROM generate_series(1, 5000) i});
$t->endpoint_stop('main2');
$t->endpoint_start('main');
is(warm($t, 'stopped_lsn < boot_lsn AND reason IS NULL'), 't', 'after another compute wrote');
cmp_ok(warm($t, 'kept_bytes'), '>', $scale * 10_000_000, 'unchanged pages stay');
cmp_ok(warm($t, 'dropped_bytes'), '>', 5_000_000, 'changed ones go');
is(present($t, 'still'), 100, 'what nobody touched is here');
is(present($t, 'new'), 0, 'what is new is not');
cmp_ok(present($t, 'cut'), '<', 35, 'nor is what was cut off and grew again');
pages_agree($t, 'after another compute', $NeonTest::long ? 10_000 : 3_000);
is($t->psql('main', 'SELECT sum(id), count(*) FROM cut; SELECT sum(id) FROM still; SELECT sum(id) FROM new'), "450015000|30000\n" . (split /\|/, $sums)[1] . "\n12502500", 'the data are right');
$t->amcheck('main');
$sums = sums();

# ---- nothing is kept ----

# The command says why if there was a list that it could read.
sub nothing
{
	my ($reason, $name, %o) = @_;
	my $told = $t->endpoint_start('main');
	$o{list} ? like($told, qr/^Local pages of the last run are not kept: \Q@{[ warm($t, 'reason') ]}\E$/m, "$name: the command says why")
	  : unlike($told, qr/local pages/i, "$name: the command says nothing");
	is(warm($t, 'kept_bytes'), 0, "$name: nothing is kept");
	like(warm($t, 'reason'), $reason, 'and it is said why');
	is(present($t, 'still'), 0, 'nothing is here');
	is(sums(), $sums, 'the data are right');
	return;
}
sub damage
{
	my ($do) = @_;
	open my $f, '+<', file('neon.kept') or die $!;
	binmode $f;
	$do->($f);
	close $f or die $!;
	return;
}

$t->kill9('main');
nothing(qr/the life before, if any, was not stopped cleanly here/, 'after kill -9');
$t->endpoint_stop('main', '-m', 'immediate');
nothing(qr/the life before, if any, was not stopped cleanly here/, 'after an immediate stop');
if ($NeonTest::long)
{
	$t->endpoint_stop('main');
	damage(sub { truncate $_[0], (-s $_[0]) - 8 });
	nothing(qr/its list of blocks is damaged/, 'with a list that was cut', list => 1);
	$t->endpoint_stop('main');
	damage(sub { truncate $_[0], 0 });
	nothing(qr/the life before, if any/, 'with an empty list');
}
$t->endpoint_stop('main');
damage(sub { seek $_[0], -10, 2; read $_[0], my $byte, 1; seek $_[0], -10, 2; print { $_[0] } chr(ord($byte) ^ 1) });
nothing(qr/its list of blocks is damaged/, 'with a bit flipped', list => 1);
$t->endpoint_stop('main');
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=off');
nothing(qr/neon.keep_local is off/, 'switched off', list => 1);
$t->endpoint_stop('main');
ok(!-e file('neon.kept'), 'and a stop leaves no list');
$t->neon('endpoint', 'config', 'main', 'neon.keep_local=on');
nothing(qr/the life before, if any/, 'switched on again');
$t->neon('timeline', 'branch', '--branch-name', 'twig');
$t->endpoint_stop('main');
$t->endpoint_start('main', branch => 'twig');
is(warm($t, 'kept_bytes'), 0, 'on another branch nothing is kept');
is(sums(), $sums, 'and the data are right');
$t->endpoint_stop('main');
$t->endpoint_start('main', branch => 'main');

# ---- a start that is killed while it moves the files ----

SKIP:
{
	skip 'no build with TESTING=1', 1 unless $lib;
	for my $step (qw(kept-list kept-files), $NeonTest::long ? qw(built before-start) : ())
	{
		$t->endpoint_stop('main');
		my ($rc, $out, $err) = $t->command([ "$lib/bin/neon", 'endpoint', 'start', 'main', '--no-supervise' ],
			env => { NEON_TEST_KILL_AT => $step });
		is($rc, 128 + 9, "a start killed at \"$step\"") or diag("$out\n$err");
		($rc, $out, $err) = $t->command([ 'neon', 'endpoint', 'start', 'main' ]);
		is($rc, 0, 'the next one') or diag("$out\n$err");
		is(warm($t, 'kept_bytes'), 0, 'which keeps nothing');
		is(sums(), $sums, 'the data are right');
		ok(!-e file($_), "no $_ is left") for qw(neon.kept neon.kept.last neon.kept.files neon.changed);
	}
}

# ---- a part is here ----

$t->endpoint_stop('main', '-m', 'immediate');
$t->endpoint_start('main');
$t->psql('main', 'SELECT count(*) FROM still');
$t->psql('main', 'SET enable_seqscan = off; SELECT sum(abalance) FROM pgbench_accounts WHERE aid < 20000');
my $part = present($t, 'pgbench_accounts');
$t->endpoint_stop('main');
$t->endpoint_start('main');
warm($t, '1');
is(present($t, 'still'), 100, 'what was here before a stop is here after it');
is(present($t, 'pgbench_accounts'), $part, 'and what was not is not');
pages_agree($t, 'a part', 1_000);
is(sums(), $sums, 'the data are right');

# ---- the rules are needed ----

SKIP:
{
	skip 'no build with TESTING=1', 2 unless $lib;
	my $conf = "$t->{dir}/endpoints/main/conf/postgresql.conf";
	my $text = NeonTest::Vanilla::slurp($conf);
	$t->endpoint_stop('main');
	$t->endpoint_start('main2');
	$t->psql('main2', 'UPDATE pgbench_accounts SET abalance = abalance + 7');
	$t->endpoint_stop('main2');
	open my $f, '>', $conf or die $!;
	print $f $text, "dynamic_library_path = '$lib:\$libdir'\nneon.test_bug = 'keep_changed'\n";
	close $f or die $!;
	$t->endpoint_start('main');
	my ($rc, $out) = $t->psql_raw('main', 'SELECT sum(abalance + aid) FROM pgbench_accounts');
	isnt($rc == 0 ? $out : '', $t->psql('main', "SELECT @{[ (split /\|/, $sums)[0] ]} + 7 * 100000 * $scale"), 'pages that changed, kept, are wrong');
	$t->endpoint_stop('main', '-m', 'immediate');
	open $f, '>', $conf or die $!;
	print $f $text;
	close $f or die $!;
	$t->endpoint_start('main');
	is($t->psql('main', 'SELECT sum(abalance + aid) FROM pgbench_accounts'), (split /\|/, $sums)[0] + 7 * 100000 * $scale, 'and right without that');
}

done_testing();
