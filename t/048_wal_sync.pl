# A sync of stored WAL that fails (TESTING build): nothing that it was for is
# ever reported as flushed, by nobody, and after a restart the bytes are written
# again and not only synchronized.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $lib = $ENV{NEON_TESTING_LIBDIR};
plan skip_all => 'no build with test points' if !$lib || !-e "$lib/neon_pageserver.so";

my $ps = NeonPageserver->new('pageserver', conf => "neon_pageserver.wal_keep = 10GB\n");
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ps->stop;
$ps->node->append_conf('postgresql.conf', "dynamic_library_path = '$lib:\$libdir'\n");
$ps->start;
$ENV{PGUSER} = 'cloud_admin';
my $source = new_vanilla('source', "full_page_writes = off\nwal_keep_size = 1GB\nautovacuum = off\n");
$source->start;
$source->stop;
my $t = import_vanilla($ps, $source, 'main');
$source->start;
$source->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true); CREATE TABLE a(i int, t text)");

sub field { return $ps->sql("SELECT $_[0] FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'") }
sub number { return NeonPageserver::lsn_number($_[0] || '0/0') }
sub is_poll { my ($sql, $what) = @_; return ok($ps->node->poll_query_until('postgres', $sql), $what) }

# Inserts about 200 kB; returns where the WAL ended before.
sub insert
{
	return $source->safe_psql('postgres',
		"SELECT pg_current_wal_insert_lsn(); INSERT INTO a SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i");
}

# What anybody has been told to be safe.
sub reported
{
	return (
		'the slot' => $source->safe_psql('postgres', 'SELECT restart_lsn FROM pg_replication_slots'),
		'the walsender' => $source->safe_psql('postgres', 'SELECT max(flush_lsn) FROM pg_stat_replication'),
		'flush_lsn' => field('flush_lsn'),
		'disk_consistent_lsn' => field('disk_consistent_lsn'),
		'sources.reported_lsn' =>
		  $ps->sql("SELECT max(reported_lsn) FROM neon_pageserver.sources WHERE timeline_id = '$t->{timeline}'"));
}

sub nothing_above
{
	my ($lsn, $what) = @_;
	my %r = reported();
	my @wrong = map { "$_: $r{$_}" } grep { number($r{$_}) > number($lsn) } sort keys %r;
	is("@wrong", '', "$what: nothing above $lsn is reported as flushed");
	return;
}

sub fail_at
{
	$ps->node->append_conf('postgresql.conf', "neon_pageserver.test_fail_at = '$_[0]'\n");
	return;
}

follow($ps, $t, $source);
insert();
my $end = $source->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
wait_for_lsn($ps, $t, $end);
is_poll("SELECT flush_lsn >= '$end' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'", 'WAL is stored durably');

# ---- the worker's sync fails ----
fail_at('wal-sync');
$ps->node->reload;
sleep 2;
my $safe;
for (1 .. 20)
{
	# a worker that has not seen the setting yet may still succeed
	$safe = insert();
	last if field('state') eq 'readonly';
	sleep 0.5;
	last if field('state') eq 'readonly';
}
is(field('state'), 'readonly', 'a failed sync makes the timeline read-only');
cmp_ok(number(field('last_record_lsn')), '>', number($safe), 'though its WAL was received');
nothing_above($safe, 'after the failure');
for my $n (1 .. 3)
{
	insert();
	sleep 1.2;	# the worker is started again meanwhile
	nothing_above($safe, "while the source writes on ($n)");
}
like($ps->sql_error("SELECT neon_pageserver.timeline_checkpoint($t->{args})"), qr/is read-only after a failed write.*DETAIL.*wal.*HINT/s,
	'a checkpoint does not make it durable');
nothing_above($safe, 'after the checkpoint');

# ---- again when the server starts ----
my $before = field('last_record_lsn');
$ps->node->stop('immediate');
$ps->start;
is_poll("SELECT state = 'readonly' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'",
	'what was stored is not taken for durable at a start: its sync fails too');
follow($ps, $t, $source);
sleep 1.5;
nothing_above($safe, 'after a restart');

# ---- and then it succeeds ----
$ps->node->stop('immediate');
fail_at('');
my $wal = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal";
my ($last) = reverse sort grep { m{/0[0-9A-F]{23}$} } glob "$wal/*";
utime 1000000000, 1000000000, $last or die "$last: $!";
$ps->start;
is_poll("SELECT flush_lsn >= '$before' FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'",
	'after another restart all that was received is durable');
cmp_ok((stat $last)[9], '>', 1000000000, 'its bytes were written again');
is(field('state'), 'active', 'the timeline is writable');
follow($ps, $t, $source);
insert();
$end = $source->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
wait_for_lsn($ps, $t, $end);
ok($source->poll_query_until('postgres', "SELECT restart_lsn >= '$end' FROM pg_replication_slots"), 'the source is told');
is($ps->sql("SELECT neon_pageserver.timeline_checkpoint($t->{args}) >= '$end'"), 't', 'a checkpoint succeeds');
$source->stop;

my @differ;
for my $f (map { s{.*/}{}r } grep { m{/0[0-9A-F]{23}$} } glob "$wal/*")
{
	my ($hi, $lo) = map { hex } $f =~ /^.{8}(.{8})(.{8})$/;
	my $start = ($hi << 32) + $lo * 16 * 1024 * 1024;
	my ($from, $to) = map { number($_) - $start } $t->{lsn}, $end;
	my ($ours, $theirs) = (slurp_file("$wal/$f"), slurp_file($source->data_dir . "/pg_wal/$f"));
	$from = 0 if $from < 0;
	$to = length $ours if $to > length $ours;
	push @differ, $f if substr($ours, $from, $to - $from) ne substr($theirs, $from, $to - $from);
}
is("@differ", '', 'stored WAL is byte for byte what the source has');
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP/, 'no panic');
done_testing();
