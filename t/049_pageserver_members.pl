# The configuration of a timeline's safekeepers at the pageserver, and WAL from
# several servers that have the same history: here a stock primary and two
# standbys of it, which is what safekeepers look like to a replication client.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $ps = NeonPageserver->new('pageserver', conf => "restart_after_crash = on\n");
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ENV{PGUSER} = 'cloud_admin';
my $node = new_vanilla('primary', "wal_keep_size = 1GB\nwal_sender_timeout = 5s\n");
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE a(i int PRIMARY KEY)');
$node->stop;
my $t = import_vanilla($ps, $node, 'main');
my $other = import_vanilla($ps, $node, 'other');
my $f = 'neon_pageserver';

# ---- compare and set ----
sub config { return qq({"generation": $_[0], "members": [{"id": 1, "node": "@{[ '1' x 32 ]}", "host": "127.0.0.1", "port": 5454}], "new_members": null, "floor": 0}) }
sub set { return "SELECT $f.timeline_members($t->{args}, $_[0], '" . ($_[2] // config($_[1])) . "')" }
sub stored { return $ps->sql("SELECT generation, config->>'generation' FROM $f.timeline_members_get($t->{args})") }

is(stored(), '', 'no configuration: laptop mode');
like($ps->sql_error(set(0, 2)), qr/does not follow the expected one/, 'a generation left out');
like($ps->sql_error(set(1, 2)), qr/has generation 0, not 1.*HINT/s, 'another generation was expected');
like($ps->sql_error(set(0, 1, '[]')), qr/no JSON object/, 'no object');
like($ps->sql_error(set(0, 1, '{}')), qr/no number "generation"/, 'no generation');
like($ps->sql_error(set(0, 1, '{"generation": 1, "members": []}')), qr/no array "members"/, 'no members');
like($ps->sql_error(set(0, 1, '{"generation": 1, "members": [1], "x": "' . 'y' x 9000 . '"}')), qr/too long/, 'too long');
like($ps->sql_error('BEGIN; ' . set(0, 1)), qr/cannot run inside a transaction block/, 'a transaction block');
like($ps->sql_error("SELECT $f.timeline_source($t->{args}, 0, ARRAY['host=x'], 'safekeeper')"), qr/has no safekeepers/, 'safekeepers without a configuration');
$ps->sql(set(0, 1));
is(stored(), '1|1', 'the first configuration');
$ps->sql(set(0, 1));
is(stored(), '1|1', 'the same again');
like($ps->sql_error(set(0, 1, config(1) =~ s/5454/5455/r)), qr/has generation 1, not 0/, 'another one of the same generation');
$ps->sql(set(1, 2));
is($ps->sql("SELECT name, members_generation FROM $f.timelines ORDER BY name"), "main|2\nother|0", 'the view has the generation');
$ps->node->stop('immediate');
$ps->start;
is(stored(), '2|2', 'it is there after a crash');
like($ps->sql_error("SELECT $f.writer_acquire($t->{args}, 0, 1, 'ep', '" . 'b' x 32 . "', '$t->{lsn}', 'p', 'm')"),
	qr/has safekeepers, which elect its writer/, 'no writer is made here');
like($ps->sql_error("SELECT $f.timeline_source($t->{args}, 0, ARRAY['host=x'], 'compute')"), qr/from safekeepers only/, 'nor does a compute stream');

# ---- stored WAL ----
my $segment = (stat((glob $node->data_dir . '/pg_wal/0000*')[0]))[7];
my ($hi, $lo) = map { hex } split m{/}, $t->{lsn};
my $offset = $lo % $segment;
my $start = sprintf '%X/%X', $hi, $lo - $offset;
my $file = sprintf '%s/pg_wal/%08X%08X%08X', $node->data_dir, 1, $hi, $lo / $segment;
is($ps->sql("SELECT md5($f.wal_read($t->{args}, '$start', $offset)) = md5(substr(pg_read_binary_file('$file'), 1, $offset))"), 't', 'wal_read returns the true bytes');
like($ps->sql_error("SELECT $f.wal_read($t->{args}, '$start', $offset + 1)"), qr/is not stored/, 'not beyond the end');
like($ps->sql_error("SELECT $f.wal_read($t->{args}, '$start', -1)"), qr/length must be between/, 'a negative length');

# ---- several sources ----
$node->start;
$node->backup('b');
my @standby = map {
	my $s = PostgreSQL::Test::Cluster->new("standby$_");
	$s->init_from_backup($node, 'b', has_streaming => 1);
	$s->start;
	$s
} (1, 2);
my @members = ($node, @standby);

sub follow_all
{
	my @c = map { "'" . IngestVanilla::conninfo($_) . "'" } @members;
	$ps->sql("SELECT $f.timeline_source($t->{args}, 0, ARRAY[" . join(',', @c) . '])');
}

sub write_and_wait
{
	my ($what) = @_;
	$node->safe_psql('postgres', 'INSERT INTO a SELECT coalesce(max(i), 0) + 1 FROM a');
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	is($ps->sql("SELECT $f.wait_lsn($t->{args}, '$lsn', '60 s')"), 't', $what);
}

sub reader
{
	my @r = grep { $_->safe_psql('postgres', "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'neon_pageserver'") eq '1' }
	  grep { $_->{_pid} } @members;
	return @r;
}

follow_all();
write_and_wait('WAL comes from one of them');
my ($from) = reader();
ok($from, 'which has a replication connection of ours') or BAIL_OUT('nobody is read');
is($from->safe_psql('postgres', "SELECT current_setting('neon.timeline_id', true) IS NULL, flush_lsn IS NOT NULL FROM pg_stat_replication WHERE application_name = 'neon_pageserver'"),
	't|t', 'which reports what is stored');

# the one that is read dies, or hangs: another one is taken
@members = @standby;
follow_all();
write_and_wait('standbys alone are read');
($from) = reader();
$from->stop('immediate');
write_and_wait('it goes on when the one that is read dies');
$from->start;
write_and_wait('and when that one is back');
($from) = reader();
my @hung = ($from->{_pid}, split /\n/, `pgrep -P $from->{_pid}`);
kill 'STOP', @hung;
write_and_wait('it goes on when the one that is read hangs');
kill 'CONT', @hung;

# a standby that no longer follows is left for one that has more
my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
@members = ($standby[0]);
$standby[0]->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()");
follow_all();
ok($ps->node->poll_query_until('postgres', "SELECT connected FROM $f.sources"), 'a standby alone is read');
$node->safe_psql('postgres', 'INSERT INTO a SELECT max(i) + 1 FROM a');
@members = (@members, $node);
follow_all();
write_and_wait('the one that has most is read');

$ps->node->stop('immediate');
$ps->start;
is($ps->sql("SELECT count(*) FROM $f.sources"), '0', 'a restarted pageserver has no sources');
follow_all();
write_and_wait('until they are named again');

$_->stop('immediate') for @standby, $node;
$ps->stop if $ps->can('stop');
done_testing();
