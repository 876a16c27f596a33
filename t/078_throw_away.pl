# Static and ephemeral endpoints need nothing but the pageserver: they start at an LSN
# or a time while no safekeeper runs, and what an ephemeral one writes is nowhere
# but in its own directory.
use strict;
use warnings;
use File::Find;
use JSON::PP;
use NeonTest;
use Test::More;

my $t = NeonTest->new(safekeepers => 3);
$t->quickstart;
$t->psql('main', "CREATE TABLE a AS SELECT g AS i, 'old' AS t FROM generate_series(1, 1000) g");
my $lsn = $t->insert_lsn('main');
my $time = $t->psql('main', 'SELECT clock_timestamp()');
$t->psql('main', "UPDATE a SET t = 'new'");
$t->wait_ingest('main');
$t->endpoint_stop('main');
$t->neon('safekeeper', 'stop');
# layers are written when nothing comes any more; then nothing should change
$t->psql('pageserver', "SELECT neon_pageserver.timeline_checkpoint('" . $t->tenant . "', '" . $t->timeline('main') . "')");

# Files and sizes of what is stored: WAL and layers, at pageserver and safekeepers.
sub stored
{
	my %files;
	my @dirs = grep { -d } map { "$_/neon/tenants" } $t->ps_pgdata, map { $t->sk_pgdata($_) } 1 .. 3;
	find(sub { $files{$File::Find::name} = -s if -f && $File::Find::name !~ m{/manifest\.} }, @dirs);
	return \%files;
}
my $before = stored();
cmp_ok(scalar(keys %$before), '>', 4, 'WAL and layers');
my $end = $t->timeline_field('main', 'last_record_lsn');

$t->neon_fails([ 'endpoint', 'start', 'static', '--lsn', $lsn, '--take-over' ], qr/--take-over is for primaries, and static endpoints run beside them/, qr/Leave it out/, 'there is nothing to take over');
$t->endpoint_start('static', lsn => $lsn);
$t->endpoint_start('static_time', time => $time);
$t->endpoint_start('eph', lsn => $lsn, ephemeral => 1);
$t->endpoint_start('eph_time', time => $time, ephemeral => 1);
is($t->psql($_, 'SELECT count(*), min(t), max(t) FROM a'), '1000|old|old', "$_: the data of that moment") for qw(static static_time eph eph_time);
$t->neon_fails([ 'endpoint', 'start', 'now', '--ephemeral' ], qr/majority of the safekeepers/, qr/neon start/, 'what "now" is needs a majority');

for my $ep (qw(static static_time))
{
	$t->psql_fails($ep, $_, qr/read-only transaction|during recovery/, "$ep: $_ is refused")
	  for 'INSERT INTO a VALUES (0)', 'CREATE TEMP TABLE x(i int)', 'SELECT txid_current()';
}
for my $ep (qw(eph eph_time))
{
	$t->psql($ep, "CREATE TABLE mine AS SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g; UPDATE a SET t = 'scribble'; CREATE TABLE own(i int PRIMARY KEY)");
	$t->psql($ep, 'CREATE DATABASE other');
	$t->psql($ep, 'CHECKPOINT');
	is($t->psql($ep, "SELECT count(*), min(t) FROM a"), '1000|scribble', "$ep is written to");
}
$t->psql_fails('eph', "CREATE EXTENSION neon; SELECT neon.branch_create('b')", qr/not stored and cannot be branched/, 'a branch of that is refused');
is($t->psql('eph', 'SELECT count(*) FROM pg_replication_slots'), '0', 'nothing streams from it');
is($t->psql('static', 'SELECT min(t) FROM a'), 'old', 'nobody else sees it');
is($t->psql('static', 'SHOW wal_retrieve_retry_interval'), '1d', 'recovery does not log each few seconds that no WAL comes');

my %list = map { $_->{endpoint} => $_ } @{ decode_json($t->neon('--json', 'endpoint', 'list')) };
is_deeply({ map { $_ => $list{$_}{kind} } keys %list },
	{ main => 'primary', static => 'static', static_time => 'static', eph => 'ephemeral', eph_time => 'ephemeral' }, 'the list tells what each is');
is($list{static}{status}, 'running', 'and that it runs');
my $text = $t->neon('endpoint', 'list');
like($text, qr/^ eph .* running, ephemeral$/m, 'for people too');
like($text, qr/^ main .* stopped$/m, 'a primary is what it is without saying');
is($t->timeline_field('main', 'last_record_lsn'), $end, 'the branch has not moved');
is_deeply(stored(), $before, 'no file of the pageserver or a safekeeper was added, removed or has grown');

$t->endpoint_stop($_) for qw(eph eph_time static static_time);
ok(!-e $t->pgdata('eph'), 'what an ephemeral endpoint wrote is gone with the stop');
$t->neon('safekeeper', 'start');
$t->endpoint_start('eph2', ephemeral => 1);
($text) = grep { $_->{endpoint} eq 'eph2' } @{ decode_json($t->neon('--json', 'endpoint', 'list')) };
my $boot = $text->{lsn};
$t->endpoint_start('main');
$t->psql('main', 'DELETE FROM a WHERE i > 10');
$t->wait_ingest('main');
is($t->psql('eph2', 'SELECT count(*), min(t) FROM a'), '1000|new', 'one of now stays where it began');
($text) = grep { $_->{endpoint} eq 'eph2' } @{ decode_json($t->neon('--json', 'endpoint', 'list')) };
is($text->{lsn}, $boot, 'as the list says');
is($boot, $t->boot_lsn('eph2'), 'and as it is');
is($t->psql('main', "SELECT count(*), min(t), to_regclass('mine') IS NULL FROM a"), '10|new|t', 'the primary has its own data');

# a name stays what it was, which is said where it becomes something else
$t->endpoint_stop('main');
my $said = $t->endpoint_start('main', ephemeral => 1);
like($said, qr/^Endpoint main was primary and is ephemeral from now on, until it is started with --branch-name alone$/m, 'a primary becomes an ephemeral one');
like($said, qr/^What is written to it is not stored, and gone when it stops$/m, 'which stores nothing');
$t->endpoint_stop('main');
$said = $t->endpoint_start('main');
like($said, qr/existing ephemeral endpoint main .*\nWhat is written to it is not stored/, 'it stays one');
unlike($said, qr/from now on/, 'and is not made one again');
$t->endpoint_stop('main');
unlike($t->endpoint_start('main', branch => 'main'), qr/ephemeral|not stored/, 'and is a primary again');
is($t->psql('main', 'SELECT count(*) > 0 FROM pg_replication_slots; SELECT count(*) FROM a'), "t\n10", 'with its data, and safekeepers that stream');
$t->neon('stop');
done_testing();
