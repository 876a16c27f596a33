# A pageserver whose disk is full: it stops ingesting and says so, serves reads,
# survives kill -9, loses nothing acknowledged, and goes on by itself when there
# is space again.  Its neon/ directory is a small file system in a mount
# namespace of this test's own.
use strict;
use warnings;

BEGIN
{
	use Test::More;
	plan skip_all => 'needs root, to mount a small file system' if $> != 0;
	if (!$ENV{NEON_TEST_OWN_MOUNTS})
	{
		$ENV{NEON_TEST_OWN_MOUNTS} = 1;
		my $why = `unshare -m true 2>&1`;
		plan skip_all => "needs a mount namespace: $why" if $? != 0;
		exec 'unshare', '-m', $^X, (map { ('-I', $_) } @INC), $0;
	}
}
use NeonTest;
use PostgreSQL::Test::Utils;

my $t = NeonTest->new(safekeepers => 0);
$t->init;
my $neon = $t->ps_pgdata . '/neon';
mkdir $neon;
my ($uid, $gid) = (getpwnam('postgres'))[ 2, 3 ];
my $why = `mount -t tmpfs -o size=400m,mode=0700,uid=$uid,gid=$gid neon_test '$neon' 2>&1`;
plan skip_all => "a file system cannot be mounted here: $why" if $? != 0;

sub used_mb { my ($u) = `df -k --output=used '$neon'` =~ /(\d+)\s*$/ or die; return int($u / 1024) + 1 }
sub resize { my ($mb) = @_; system("mount -o remount,size=${mb}m '$neon'") == 0 or die "remount: $mb MB"; return }

# Takes all space that there is, but for some kilobytes.
my $filler = "$neon/filler";
sub fill
{
	my $free = (split ' ', (`df -k --output=avail '$neon'`)[1])[0];
	# somebody may be faster
	system("head -c " . ($free - $_[0]) * 1024 . " /dev/zero >> '$filler' 2>/dev/null");
	return;
}

$t->neon('start');
$t->neon('tenant', 'create', '--set-default');
$t->endpoint_start('main');
$t->neon('endpoint', 'config', 'main', 'neon.max_unflushed_wal=16MB', 'neon.fetch_timeout=3s');
$t->neon('endpoint', 'restart', 'main');
my $port = $t->{ps_port};
my %logged;
my ($tenant, $timeline) = ($t->tenant, $t->timeline('main'));
my $acknowledged = 0;

# What the pageserver has logged since it was asked before.
sub new_log
{
	my $new = '';
	for my $file ("$t->{dir}/pageserver/pageserver.log", sort glob "$t->{dir}/pageserver/log/*.log")
	{
		my $s = substr slurp_file($file), $logged{$file} // 0;
		$logged{$file} += length $s;
		$new .= $s;
	}
	return $new;
}

# 1 MB; true, or false and the error.
sub insert
{
	my ($rc, $out, $err) = $t->psql_raw('main',
		"INSERT INTO a SELECT i, repeat('x', 900) FROM generate_series($acknowledged + 1, $acknowledged + 1000) i",
		args => [ '-v', 'VERBOSITY=verbose' ]);
	$acknowledged += 1000 if $rc == 0;
	return ($rc == 0, $err);
}

# Writes until it is held; the error.
sub write_until_held
{
	for (1 .. 300)
	{
		my ($ok, $err) = insert();
		return $err if !$ok;
	}
	return 'never held';
}

sub all_is_there
{
	my ($what, $ep) = @_;
	my $want = join '|', $acknowledged, $acknowledged * ($acknowledged + 1) / 2;
	is($t->psql($ep // 'main', 'SELECT count(*), sum(i) FROM a', timeout => 300), $want, $what);
	return;
}

sub goes_on
{
	my ($what) = @_;
	$t->wait_for('writing to go on', sub { (insert())[0] }, 120);
	$t->wait_ingest('main');
	is($t->timeline_field('main', 'state'), 'active', "$what: the timeline is active");
	all_is_there("$what: nothing is lost");
	return;
}

$t->psql('main', 'CREATE TABLE a(i int, t text)');
insert();
my $early = $t->wait_ingest('main');
my $early_rows = $acknowledged;

# ---- full while the compute writes ----
resize(used_mb() + 20);
new_log();
my $err = write_until_held();
like($err, qr/ERROR:\s+53100: pageserver 127\.0\.0\.1:$port is too far behind/, 'writers are held with 53100, which names the pageserver');
like($err, qr/HINT:.*free disk space/, 'and a hint');
all_is_there('what is there is read');
my $said = new_log();
like($said, qr{ERROR:  could not write file "neon/tenants/$tenant/timelines/$timeline/wal/[^"]*": No space left on device}, 'the log says what could not be written');
like($said, qr{HINT:  Free space in the file system of directory "\Q$neon\E/tenants/$tenant/timelines/$timeline/wal"}, 'and where space is needed');
is($t->timeline_field('main', 'state'), 'active', 'the timeline is not given up');
like($t->psql('pageserver', 'SELECT last_error FROM neon_pageserver.sources'), qr/No space left on device/, 'the view "sources" tells it');
$t->endpoint_start('old', branch => 'main', lsn => $early);
is($t->psql('old', 'SELECT count(*) FROM a'), $early_rows, 'a static endpoint starts and reads');
$t->neon('endpoint', 'stop', 'old');
resize(used_mb() + 60);
goes_on('more space');

# ---- full to the last byte: layers, manifests, branches ----
fill(8);
my $checkpoint = "SELECT neon_pageserver.timeline_checkpoint('$tenant', '$timeline')";
my $layers = () = glob "$neon/tenants/$tenant/timelines/$timeline/layers/*";
insert();
$t->psql_fails('pageserver', $checkpoint, qr{53100: could not write file.*No space left on device.*HINT:\s+Free space in the file system of directory "\Q$neon\E}s,
	'a layer cannot be written', args => [ '-v', 'VERBOSITY=verbose' ]);
is(scalar(() = glob "$neon/tenants/$tenant/timelines/$timeline/layers/*"), $layers, 'nothing of it stays');
fill(0);
my $error = $t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b', '--ancestor-start-lsn', $early ], qr/No space left on device/, qr/Free space/, 'no branch without space');
if ($ENV{NEON_TEST_LONG})
{
	new_log();
	$t->wait_for('WAL that has no room', sub { insert(); new_log() =~ m{could not write file "[^"]*/wal/.*No space left} });
	$t->neon_fails([ 'timeline', 'branch', '--branch-name', 'b' ], qr/has not reached .*last error: .*No space left on device/, qr/neon pageserver logs/,
		'who waits for the pageserver in vain is told why', timeout => 200);
}
unlink $filler or die;
is($t->psql('pageserver', "$checkpoint > '$early'"), 't', 'a layer is written when there is space');
resize(used_mb() + 60);
$t->neon('timeline', 'branch', '--branch-name', 'b');
$t->endpoint_start('b', branch => 'b');
all_is_there('the branch has everything', 'b');
$t->neon('endpoint', 'stop', 'b');
goes_on('layers');

# ---- kill -9 of all of it ----
resize(used_mb() + 18);
$err = write_until_held();
like($err, qr/53100/, 'full again');
$t->kill9('pageserver');
$t->neon('pageserver', 'start');
all_is_there('after kill -9 of a full pageserver');
$t->wait_for('its next complaint', sub { new_log() =~ /No space left on device/ });
$t->kill9('main');
$err = $t->neon_fails([ $t->endpoint_args("main") ], qr/No space left on device/, qr/Free space/, 'a dead endpoint is not started without its WAL');
resize(used_mb() + 100);
$t->endpoint_start('main');
goes_on('after kill -9 and more space');
$t->amcheck('main');
$t->neon('stop');
%logged = ();
unlike(new_log(), qr/PANIC|TRAP|damaged|read-only|corrupted/, 'no panic and no damage in the log');
done_testing();
