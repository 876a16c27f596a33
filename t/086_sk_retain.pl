# Retention in a whole system: WAL goes from all three safekeepers once the
# pageserver has it in layer files, and the members and the slots have it, and
# not before.  The
# pageserver finds another safekeeper when the one it reads from is killed.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(time);

my @sk = map { "safekeeper $_" } 1 .. 3;
my $t = NeonTest->new(safekeepers => 3);
$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
$t->cold;
my $dir = 'neon/tenants/' . $t->tenant . '/timelines/' . $t->timeline('main') . '/wal';
my $tl = "tenant_id = '" . $t->tenant . "' AND timeline_id = '" . $t->timeline('main') . "'";

sub set
{
	my ($sk, $name, $value) = @_;
	$t->psql($sk, "ALTER SYSTEM SET $name = '$value'");
	$t->psql($sk, 'SELECT pg_reload_conf()');
	return;
}

sub field { my ($sk, $field) = @_; return $t->psql($sk, "SELECT $field FROM neon_safekeeper.timelines WHERE $tl") }

sub segments
{
	my ($sk) = @_;
	my @s = glob $t->data_dir($sk) . "/$dir/0*";
	return scalar @s;
}

# WAL of so many megabytes; the LSN at its end.
my $rows = 0;
sub write_mb
{
	my ($mb) = @_;
	$t->psql('main', "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series($rows + 1, $rows + 900 * $mb) g");
	$rows += 900 * $mb;
	return $t->insert_lsn('main');
}

# All but the last segments, up to that LSN, are gone.
sub trimmed
{
	my ($lsn, @who) = @_;
	$t->poll($_, "SELECT wal_start > pg_lsn '$lsn' - 2 * 1024 * 1024 FROM neon_safekeeper.timelines WHERE $tl") for @who;
	return;
}

set($_, 'neon_safekeeper.retention_interval', '200ms') for @sk;
$t->psql('main', 'CREATE TABLE t (i int, a text)');

# ---- all have it, the pageserver in no layer ----
my $lsn = write_mb(8);
$t->wait_for_lsn('main', $lsn);
my $layers = $t->timeline_field('main', 'disk_consistent_lsn');
for my $sk (@sk)
{
	$t->poll($sk, "SELECT retained_by = 'pageserver' AND pageserver_lsn >= '$lsn' AND commit_lsn >= '$lsn' FROM neon_safekeeper.timelines WHERE $tl");
	is($t->psql($sk, "SELECT wal_start <= '$layers' FROM neon_safekeeper.timelines WHERE $tl"), 't', "$sk keeps what is in no layer there");
}

# ---- all have it in layers ----
$t->layers_soon;
trimmed($lsn, @sk);
pass('WAL that all have is removed from all three');
$t->wait_for("the files of $_", sub { segments($_) <= 6 }, 60) for @sk;
pass('the files, too: ' . join(', ', map { segments($_) } @sk));
is($t->psql('main', 'SELECT count(*) FROM t'), $rows, 'the endpoint does not mind');

# ---- the pageserver ----
$t->kill9('pageserver');
$lsn = write_mb(5);
for my $sk (@sk)
{
	$t->poll($sk, "SELECT retained_by = 'pageserver' AND commit_lsn >= '$lsn' FROM neon_safekeeper.timelines WHERE $tl");
	cmp_ok(segments($sk), '>=', 5, "$sk keeps what the pageserver lacks");
}
$t->neon('pageserver', 'start');
trimmed($lsn, @sk);
pass('until it has it');
is($t->psql($sk[1], "SELECT pageserver_lsn >= '$lsn' FROM neon_safekeeper.timelines WHERE $tl"), 't', 'the view shows how far it is');

# ---- a member ----
$t->neon('safekeeper', 'stop', '3');
$lsn = write_mb(4);
for my $sk (@sk[ 0, 1 ])
{
	$t->poll($sk, "SELECT retained_by = 'safekeeper 3' AND commit_lsn >= '$lsn' FROM neon_safekeeper.timelines WHERE $tl");
}
pass('a member that is down holds WAL');
cmp_ok(segments($sk[0]), '>=', 4, 'in files');
set($_, 'neon_safekeeper.max_retained', '2MB') for @sk[ 0, 1 ];
$t->poll($_, "SELECT wal_start > pg_lsn '$lsn' - 4 * 1024 * 1024 FROM neon_safekeeper.timelines WHERE $tl") for @sk[ 0, 1 ];
pass('up to max_retained');
set($_, 'neon_safekeeper.max_retained', '1GB') for @sk[ 0, 1 ];
$t->neon('safekeeper', 'start', '3');
trimmed($lsn, @sk);
pass('when it is back, nothing is held');

# ---- the pageserver's own source ----
sub source { my @s = grep { eval { $t->psql($_, "SELECT count(*) FROM neon_safekeeper.stat_replication WHERE $tl AND application_name = 'neon_pageserver'") } } @sk; return @s == 1 ? $s[0] : undef }
my $source = $t->wait_for('a source of the pageserver', \&source);
my $load = NeonTest::Loop->new($t, 'main', "INSERT INTO t SELECT 0, repeat('y', 1000) FROM generate_series(1, 100);\n");
$t->kill9($source);
my $from = time;
my $lag = "SELECT pg_wal_lsn_diff('%s', last_record_lsn) < 1048576 FROM neon_pageserver.timelines WHERE name = 'main'";
$t->wait_for('a small lag', sub { time - $from > 1 && $t->psql('pageserver', sprintf($lag, $t->insert_lsn('main'))) eq 't' }, 60);
my $took = time - $from;
$load->stop;
my $new = $t->wait_for('another source', sub { my $s = source(); $s && $s ne $source && $s });
$lsn = $t->insert_lsn('main');
$t->wait_for_lsn('main', $lsn);
pass(sprintf('the pageserver goes on by another safekeeper: lag below 1 MB after %.1f s', $took));
cmp_ok($took, '<', 10, 'soon') if $NeonTest::long;
$t->neon('safekeeper', 'start', substr($source, -1));
$t->psql('main', 'TRUNCATE t');

# ---- a slot, and the end of the endpoint ----
$rows = 0;
$t->psql($sk[0], "SELECT neon_safekeeper.create_physical_replication_slot('" . $t->tenant . "', '" . $t->timeline('main') . "', 'consumer', true)");
my $held = field($sk[0], 'wal_start');
$lsn = write_mb(4);
trimmed($lsn, @sk[ 1, 2 ]);
is(field($sk[0], 'retained_by, wal_start'), "slot consumer|$held", 'a slot holds WAL where it is');
$t->endpoint_stop('main');
$t->wait_for('the end of the receiver', sub { !$t->children_of($t->postmaster_pid($sk[0]), qr/neon wal receiver/) });
is(field($sk[0], 'retained_by, wal_start'), "slot consumer|$held", 'also when nobody writes any more');
$t->psql($sk[0], "SELECT neon_safekeeper.drop_replication_slot('" . $t->tenant . "', '" . $t->timeline('main') . "', 'consumer')");
trimmed($lsn, $sk[0]);
pass('such a timeline is trimmed, too');
$t->wait_for('its files', sub { segments($sk[0]) <= 4 }, 60);
$t->endpoint_start('main');
is($t->psql('main', 'SELECT count(*) FROM t'), $rows, 'the endpoint starts from what is left');

# ---- when nobody names the source any more, what came is put into a layer and told ----
if ($NeonTest::long)
{
	set('pageserver', 'neon_pageserver.idle_flush_timeout', '1h');
	set('pageserver', 'neon_pageserver.checkpoint_distance', '1GB');
	set('pageserver', 'neon_pageserver.source_timeout', '5s');
	$lsn = write_mb(4);
	$t->wait_for_lsn('main', $lsn);
	is($t->psql($sk[0], "SELECT retained_by FROM neon_safekeeper.timelines WHERE $tl"), 'pageserver', 'it is in no layer');
	$t->endpoint_stop('main');
	trimmed($lsn, @sk);
	pass('the end of an endpoint is the end of its WAL');
	$t->poll('pageserver', 'SELECT count(*) FROM neon_pageserver.sources', 0);
	pass('and of its source');
}
$t->neon('stop');
done_testing();
