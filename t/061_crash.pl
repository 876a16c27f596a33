# Crashes under load: every acknowledged transaction is there afterwards.
use strict;
use warnings;
use File::Path qw(remove_tree);
use NeonTest;
use Test::More;

my $scale = $NeonTest::long ? 8 : 2;
my $run = $NeonTest::long ? 1500 : 300;
my $t = NeonTest->new;
$t->quickstart;
$t->psql('main', 'CREATE EXTENSION amcheck; CREATE EXTENSION neon');
$t->pgbench_init('main', $scale);

my @all;

sub check
{
	my ($what) = @_;
	my @lost = map { $_->lost('main') } @all;
	is(scalar(@lost), 0, "$what: no acknowledged transaction is lost") or diag("@lost[0 .. ($#lost > 9 ? 9 : $#lost)]");
	$t->balances_agree('main', "$what: balances agree");
}

sub load
{
	my $c = $t->clients('main', n => 8, scale => $scale);
	push @all, $c;
	ok($c->wait_progress($run, 120), 'load runs') or diag($c->errors);
	return $c;
}

# kill -9 of the postmaster, three boots in a row
for my $i (1 .. 3)
{
	my $c = load();
	$t->kill9('main', nowait => $i != 2);
	$t->endpoint_start('main');
	$c->stop;
	check("kill -9 of the compute, $i");
}
$t->amcheck('main', 'amcheck after three crashes');

# a backend of the compute
{
	my $c = load();
	my $pid = $t->postmaster_pid('main');
	my ($backend) = $t->children_of($pid, qr/cloud_admin/);
	$t->signal('SEGV', $backend);
	$t->wait_for('the end of the postmaster', sub { !NeonTest::alive($pid) }, 60);
	pass('a crashed backend ends the compute');
	$c->stop;
	$t->endpoint_start('main');
	check('SIGSEGV of a backend of the compute');
}

# the pageserver: clients see a pause, no error, though most pages are absent
{
	$t->neon('endpoint', 'config', 'main', 'shared_buffers=1MB', 'neon.prewarm_rate=0', 'neon.keep_local=off');
	$t->neon('endpoint', 'restart', 'main');
	my $size = $t->psql('main', 'SELECT sum(pg_database_size(oid)) FROM pg_database');
	my $c = $t->clients('main', n => 8, scale => $scale);
	push @all, $c;
	ok($c->wait_progress(20, 120), 'load on a compute that has just booted') or diag($c->errors);
	my ($present, $misses) = split /\|/, $t->psql('main', 'SELECT present_bytes, misses FROM neon.stat_local');
	cmp_ok($present, '<', $size / 2, "$present bytes of $size are present");
	$t->kill9('pageserver', nowait => 1);
	$t->neon('pageserver', 'start');
	ok($c->wait_progress($run, 120), 'load goes on');
	cmp_ok($t->psql('main', 'SELECT misses FROM neon.stat_local'), '>', $misses, 'with pages fetched after the crash');
	is(scalar($c->running), 8, 'no client had an error') or diag($c->errors);
	$c->stop;
	check('kill -9 of the pageserver under a cold compute');
	$t->neon('endpoint', 'config', 'main', 'shared_buffers=', 'neon.prewarm_rate=');
	$t->neon('endpoint', 'restart', 'main');
}

# and again with everything warm
{
	my $c = load();
	$t->kill9('pageserver', nowait => 1);
	sleep 2;
	$t->neon('pageserver', 'start');
	ok($c->wait_progress($run, 120), 'load goes on after kill -9 of the pageserver');
	is(scalar($c->running), 8, 'no client had an error') or diag($c->errors);
	my $pid = $t->postmaster_pid('pageserver');
	for my $title (qr/pagestream|CALL|tenant_/, qr/neon/)
	{
		my ($victim) = $t->children_of($pid, $title);
	  SKIP:
		{
			skip "no process like $title", 2 unless $victim;
			note('SIGSEGV to ' . NeonTest::cmdline($victim));
			$t->signal('SEGV', $victim);
			ok($c->wait_progress($run, 120), "load goes on after SIGSEGV of a process like $title");
			is(scalar($c->running), 8, 'no client had an error') or diag($c->errors);
		}
	}
	$c->stop;
	$t->wait_ingest('main');
	check('crashes of the pageserver');
}

# both at once
{
	my $c = load();
	$t->kill9('main', nowait => 1);
	$t->kill9('pageserver', nowait => 1);
	$c->stop;
	$t->neon('pageserver', 'start');
	$t->endpoint_start('main');
	check('kill -9 of both');
}

# clean stop: the directory may go
$t->endpoint_stop('main');
remove_tree($t->pgdata('main'));
$t->endpoint_start('main');
check('clean stop, directory removed');
$t->amcheck('main', 'amcheck');

# killed, and the directory lost before anything was drained: refused in laptop
# mode, and nothing to safekeepers
$t->quorum ? lose_cache() : lose_directory();

sub lose_cache
{
	for my $i (1 .. 2)
	{
		my $c = load();
		$t->kill9('main', nowait => $i == 2);
		remove_tree($t->pgdata('main'));
		$t->endpoint_start('main');
		$c->stop;
		check("kill -9 and directory removed, $i");
	}
	return;
}

sub lose_directory
{
	my $c = load();
	my ($sender) = $t->children_of($t->postmaster_pid('main'), qr/walsender/);
	ok($sender, 'there is a walsender');
	$t->signal('STOP', $sender) if $sender;
	$c->wait_progress(20, 30);
	# the other way round the postmaster may be faster
	$t->kill9('main', nowait => 1);
	$t->signal('KILL', $sender) if $sender;
	$c->stop;
	my $dir = $t->pgdata('main');
	rename $dir, "$dir.away" or die;
	my $err = $t->neon_fails([ 'endpoint', 'start', 'main' ],
		qr/./, qr/accept-data-loss/, 'start without the directory of an undrained writer');
	my ($lsn) = $err =~ m{\b([0-9A-F]+/[0-9A-F]+)\b};
	ok($lsn, 'the LSN is named') or diag($err);
	$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'toosoon' ],
		qr/./, undef, 'a branch is refused as well');

	# the directory comes back: all is well
	rename "$dir.away", $dir or die;
	$t->endpoint_start('main');
	check('directory put back');

	# the loss is accepted
	my $d = load();
	$t->kill9('main');
	$d->stop;
	pop @all;
	remove_tree($dir);
	$err = $t->neon_fails([ 'endpoint', 'start', 'main' ], qr/./, qr/accept-data-loss/, 'refused again');
	($lsn) = $err =~ m{--accept-data-loss[ =]([0-9A-F]+/[0-9A-F]+)};
	ok($lsn, 'the hint has the LSN') or diag($err);
	$t->neon_ok([ 'endpoint', 'start', 'main', '--accept-data-loss', $lsn || '0/0' ], 'the loss is accepted');
	check('after an accepted loss');
	return;
}

# prepared transactions survive
$t->neon('endpoint', 'config', 'main', 'max_prepared_transactions=10');
$t->neon('endpoint', 'restart', 'main');
$t->psql('main', "CREATE TABLE p(a int); BEGIN; INSERT INTO p VALUES (1); PREPARE TRANSACTION 'p1'");
$t->kill9('main');
$t->endpoint_start('main');
is($t->psql('main', 'SELECT gid FROM pg_prepared_xacts'), 'p1', 'a prepared transaction survives a crash');
$t->psql('main', "COMMIT PREPARED 'p1'");
is($t->psql('main', 'SELECT count(*) FROM p'), '1', 'and can be committed');

# unlogged tables are empty after a boot, and usable
$t->psql('main', 'CREATE UNLOGGED TABLE u(a int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 1000)');
$t->neon('endpoint', 'restart', 'main');
is($t->psql('main', 'SELECT count(*) FROM u'), '0', 'an unlogged table is empty after a boot');
$t->psql('main', 'INSERT INTO u SELECT generate_series(1, 1000)');
is($t->psql('main', 'SELECT count(*) FROM u WHERE a = 500'), '1', 'and usable');

$t->neon('stop');
done_testing();
