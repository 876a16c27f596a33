# Safekeepers whose disks are full, one and then two of three: they take no more
# WAL and say so, nothing stops or is invalidated, commits wait for a majority,
# and all goes on by itself when there is space again.  The neon/ directories
# are small file systems in a mount namespace of this test's own.
use strict;
use warnings;

BEGIN
{
	use Test::More;
	plan skip_all => 'make check-long has it' if !$ENV{NEON_TEST_LONG};
	plan skip_all => 'needs root, to mount a small file system' if $> != 0;
	if (!$ENV{NEON_TEST_OWN_MOUNTS})
	{
		$ENV{NEON_TEST_OWN_MOUNTS} = 1;
		my $why = `unshare -m true 2>&1`;
		plan skip_all => "needs a mount namespace: $why" if $? != 0;
		exec 'unshare', '-m', $^X, (map { ('-I', $_) } @INC), $0;
	}
}
use NeonQuorum;
use NeonTest;
use Time::HiRes qw(sleep);

my $t = NeonTest->new(safekeepers => 3, auth => 'scram');
$t->init;
my ($uid, $gid) = (getpwnam('postgres'))[ 2, 3 ];
# of 1 and 2 what they keep, of 3 all
for my $neon ((map { $t->sk_pgdata($_) . '/neon' } 1, 2), "$t->{dir}/safekeepers/3")
{
	my $why = `cp -a '$neon' '$neon.saved' && mount -t tmpfs -o size=300m,mode=0700,uid=$uid,gid=$gid neon_test '$neon' 2>&1 && cp -a '$neon.saved/.' '$neon/'`;
	plan skip_all => "a file system cannot be mounted here: $why" if $? != 0;
}
$t->neon('start');
$t->psql("safekeeper $_", "ALTER SYSTEM SET neon_safekeeper.min_free_disk = '20MB'; SELECT pg_reload_conf()") for 1 .. 3;
$t->neon('tenant', 'create', '--set-default', '--wal-segsize', '1');
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon; CREATE TABLE a (i int, t text)');
NeonQuorum::wait_streaming($t, 'main', 3);
my $rows = 0;

# The disk of a safekeeper has so much space left.
sub leave
{
	my ($id, $kb) = @_;
	my $neon = $t->sk_pgdata($id) . '/neon';
	unlink "$neon/filler";
	my $free = (split ' ', (`df -k --output=avail '$neon'`)[1])[0];
	my $size = $kb ? 'head -c ' . ($free - $kb) * 1024 : 'cat';
	system("$size /dev/zero > '$neon/filler' 2>/dev/null");
}
sub make_space { my ($id) = @_; unlink $t->sk_pgdata($id) . '/neon/filler' }

# 1 MB
sub insert_sql { $rows += 1000; return "INSERT INTO a SELECT i, repeat('x', 900) FROM generate_series($rows - 999, $rows) i" }

# A log line, and the problem in the view.
sub says_full
{
	my ($id) = @_;
	my $log = '';
	$t->wait_for("the log line of safekeeper $id",
		sub { $log .= NeonQuorum::new_log($t, $id); $log =~ /no more WAL is taken, because the disk is nearly full.*DETAIL:.*HINT:/s });
	pass("safekeeper $id says so");
	is($t->psql("safekeeper $id", 'SELECT problem FROM neon_safekeeper.timelines'), 'the disk is nearly full', 'also in the view');
}

sub slots { return $t->psql('main', "SELECT count(*) FROM pg_replication_slots WHERE active AND wal_status IN ('reserved', 'extended')") }

# ---- one ----
NeonQuorum::new_log($t, $_) for 1 .. 3;
leave(1, 5000);
$t->psql('main', insert_sql());
says_full(1);
$t->psql('main', insert_sql());
pass('commits go on with one full disk');
is(slots(), 3, 'it streams still, its slot is valid');
like($t->poll('main', 'SELECT problem FROM neon.safekeepers WHERE id = 1', qr/./), qr/the disk is nearly full/, 'the compute knows');

# ---- two of three: a majority ----
leave(2, 5000);
my $session = $t->session('main');
$session->send(insert_sql());
says_full(2);
is($session->answer(3), undef, 'a commit waits');
is($t->psql('main', 'SELECT count(*) FROM a'), $rows - 1000, 'and nobody sees it');
is(slots(), 3, 'all stream still, no slot is lost');

# both die with it, and boot when there is space
$t->kill9('main');
$session->close;
$t->kill9('safekeeper 1');
$t->neon('safekeeper', 'start', 1);
SKIP:
{
	skip 'make check-long has it: a start that waits for space says why after half a minute', 2 if !$NeonTest::long;
	my $pid = fork // die;
	if ($pid == 0) { sleep 50; make_space($_) for 1, 2; require POSIX; POSIX::_exit(0) }
	my ($rc, $out, $err) = $t->command([ 'neon', $t->endpoint_args('main') ], timeout => 300);
	waitpid $pid, 0;
	is($rc, 0, 'a start waits until there is space') or diag($err);
	like($err, qr/^neon: warning: a majority of the safekeepers of branch "main" does not have its WAL up to \S+ yet: .*safekeeper 2: the disk is nearly full/m,
		'and says who has none');
	$t->kill9('main');
}
make_space($_) for 1, 2;
$t->endpoint_start('main');
my $there = $t->psql('main', 'SELECT count(*) FROM a');
ok($there == $rows || $there == $rows - 1000, 'what was not acknowledged is there as a whole or not at all');
$rows = $there;

# ---- a majority again, the compute goes on ----
NeonQuorum::wait_streaming($t, 'main', 3);
NeonQuorum::new_log($t, $_) for 1 .. 3;
leave($_, 5000) for 1, 2;
$session = $t->session('main');
$session->send(insert_sql() . q(; SELECT 'done'));
says_full($_) for 1, 2;
make_space(2);
is($session->answer, 'done', 'the waiting commit ends well when there is space on one');
is($t->psql("safekeeper 2", 'SELECT problem FROM neon_safekeeper.timelines'), '', 'which has no problem any more');
$session->close;

# ---- not a byte is free: no PANIC, and back by itself ----
leave(1, 0);
$t->psql('main', insert_sql());
$t->kill9('safekeeper 1');
NeonQuorum::new_log($t, 1);
$t->neon('safekeeper', 'start', 1);
for (1 .. 6) { $t->psql('main', insert_sql()); sleep 1 }
my @complaints = grep { /No space left|exited with exit code/ } split /\n/, NeonQuorum::new_log($t, 1);
cmp_ok(scalar(@complaints), '<=', 3, 'it does not complain each second') or diag(join "\n", @complaints);
# (while the safekeeper tries again it is silent for a moment)
$t->poll('main', "SELECT problem ~ 'No space|nearly full' FROM neon.safekeepers WHERE id = 1", 't');
pass('the compute shows why it lacks a safekeeper');
make_space(1);
NeonQuorum::wait_streaming($t, 'main', 3);
pass('safekeeper 1 is back in the quorum');
is($t->psql('main', 'SELECT count(*) FROM a'), $rows, 'all rows are there');

# ---- it lacks what the others have, and no compute runs: it is told once ----
$t->neon('safekeeper', 'stop', 1);
$t->psql('main', insert_sql());
$t->endpoint_stop('main');
leave(1, 5000);
NeonQuorum::new_log($t, 1);
$t->neon('safekeeper', 'start', 1);
$t->poll('safekeeper 1', 'SELECT problem FROM neon_safekeeper.timelines', 'the disk is nearly full');
sleep 5;
@complaints = grep { /copying WAL|receiving WAL stopped/ } split /\n/, NeonQuorum::new_log($t, 1);
is(scalar(@complaints), 1, 'a member that cannot copy from the others says so once') or diag(join "\n", @complaints);
make_space(1);
for my $id (1 .. 3)
{
	my $log = NeonTest::Vanilla::slurp("$t->{dir}/safekeepers/$id/safekeeper.log");
	$log .= NeonTest::Vanilla::slurp($_) for glob "$t->{dir}/safekeepers/$id/log/*.log";
	unlike($log, qr/PANIC|is damaged/, "safekeeper $id has neither crashed nor damaged anything");
}
$t->wait_for('equal positions',
	sub { my %p = map { NeonQuorum::positions($t, 'main', $_, 'flush_lsn, commit_lsn') => 1 } 1 .. 3; keys %p == 1 });
NeonQuorum::check_wal($t, 'main', 'at the end');

# ---- all of a safekeeper's directory is on a disk that takes nothing: that is in nobody's way ----
my $dir = "$t->{dir}/safekeepers/3";
sub password_lines { my @lines = split /\n/, NeonTest::Vanilla::slurp("$dir/passfile"); return scalar @lines }
$t->endpoint_start('main');
$t->neon('timeline', 'branch', '--branch-name', 'b');
system("cat /dev/zero > '$dir/filler' 2>/dev/null");
my ($rc, $out, $err) = $t->command([ qw(neon endpoint restart main) ]);
is($rc, 0, 'an endpoint restarts');
unlike($err, qr/warning/i, 'what is in its password file is not written again');
$t->neon('safekeeper', 'stop', 3);
unlink "$dir/filler";
system('mount', '-o', 'remount,ro', $dir) == 0 or die;
my $lines = password_lines();
($rc, $out, $err) = $t->command([ 'neon', $t->endpoint_args('b', branch => 'b') ]);
is($rc, 0, 'another one starts');
like($err, qr/could not write "[^"]*safekeepers\/3\/passfile": Read-only file system.*"neon safekeeper start 3"/, 'what is not is warned of');
$err = $t->neon_fails([ 'safekeeper', 'replace', 2 ], qr/could not remove/, qr/mounted/);
like($err, qr/safekeepers\/3\/passfile/, 'of another safekeeper, too');
system('umount', $t->sk_pgdata(2) . '/neon') == 0 or die;
$t->neon('safekeeper', 'replace', 2);
pass('then it is replaced');
system('mount', '-o', 'remount,rw', $dir) == 0 or die;
$t->neon('safekeeper', 'start', 3);
is(password_lines(), $lines + 2, 'the start of the other one writes what it lacked');
NeonQuorum::wait_streaming($t, $_, 3) for 'main', 'b';
$t->neon('safekeeper', 'replace', 3);
ok(-d $dir && !glob("$dir/*"), 'a mount point that is given up is emptied');
is($t->psql('main', 'SELECT count(*) FROM a'), $rows, 'all rows are there');
$t->neon('stop');

done_testing();
