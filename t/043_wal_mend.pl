# Stored WAL that is in no layer file yet and is damaged is fetched again from
# the source: at a start, when a read meets it, on demand, and for a rebuild.
# Until then what is good of it stays, and nothing of it is believed.
use strict;
use warnings;
use Damage;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");
srand($seed);

my $ps = NeonPageserver->new('ps', conf => <<'CONF');
neon_pageserver.compaction_workers = 1
neon_pageserver.compaction_threshold = 0
neon_pageserver.wal_keep = 4GB
neon_pageserver.page_cache_size = 0
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ENV{PGUSER} = 'cloud_admin';
my $node = PostgreSQL::Test::Cluster->new('vanilla');
$node->init(allows_streaming => 1, extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync', '--wal-segsize', '1' ]);
$node->append_conf('postgresql.conf', <<'CONF');
fsync = off
full_page_writes = off
max_wal_size = 1GB
wal_keep_size = 1GB
autovacuum = off
CONF
my $t = import_vanilla($ps, $node, 'main');
$node->start;
$node->safe_psql('postgres', q(SELECT pg_create_physical_replication_slot('neon_pageserver', true)));
follow($ps, $t, $node);
my $f = 'neon_pageserver';
my $segsize = 1 << 20;
my $dir = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}";

sub number { return NeonPageserver::lsn_number($_[0]) }
sub segment_name { return sprintf '00000001%08X%08X', $_[0] >> 32, ($_[0] & 0xffffffff) / $segsize }
sub segment { return "$dir/wal/" . segment_name($_[0]) }
my $log_from = 0;
sub log_text { return substr(slurp_file($ps->node->logfile), $log_from) }

sub work
{
	my ($n) = @_;
	$node->safe_psql('postgres', "INSERT INTO a SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, $n) i; UPDATE a SET t = reverse(t) WHERE i % 3 = 0");
	my $lsn = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	wait_for_lsn($ps, $t, $lsn);
	return $lsn;
}
$node->safe_psql('postgres', 'CREATE TABLE a (i int, t text)');
work(1000);
my $rel = $node->safe_psql('postgres', q(SELECT pg_relation_filenode('a')));

# All pages of the table.
sub pages
{
	my ($lsn) = @_;
	return $ps->sql(<<SQL);
SELECT count(*) || ' ' || md5(string_agg(md5($f.get_page($t->{args}, 1663, 5, $rel, 0, b, '$lsn')), ' ' ORDER BY b))
FROM generate_series(0, @{[ $node->safe_psql('postgres', q(SELECT pg_relation_size('a') / 8192 - 1)) ]}) b
SQL
}

sub flip { my ($path, $offset) = @_; return flip_bit($path, $offset, int(rand(8))) }

# A bit of each of 16 bytes: one alone may be padding, which has no CRC.
sub flip_at { my ($at) = @_; flip(segment($at + $_), ($at + $_) % $segsize) for 0 .. 15; return }

sub verify { return $ps->sql("SELECT regexp_replace(file, '.*/', ''), byte_offset, problem, remedy, repaired FROM $f.timeline_verify($t->{args}, $_[0])") }

sub contents { my %c; $c{$_} = slurp_file($_) for glob "$dir/wal/0*"; return \%c }

# Those that are not what they were; behind the last record more may come.
sub changed
{
	my ($before, $after) = @_;
	my @changed;
	for my $name (sort keys %$before)
	{
		my $n = length($before->{$name} =~ s/\0+$//r);
		push @changed, $name =~ s/.*\///r if substr($after->{$name} // '', 0, $n) ne substr($before->{$name}, 0, $n);
	}
	return "@changed";
}

sub wait_for
{
	my ($what, $sub) = @_;
	for (1 .. 600)
	{
		return pass($what) if $sub->();
		usleep(200_000);
	}
	return fail($what) || diag(IngestVanilla::tail_log($ps));
}

# ---- at a start ----
sub damage_and_start
{
	my ($what, $damage, $lost) = @_;
	$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");
	my $from = number($ps->sql("SELECT disk_consistent_lsn FROM $f.timelines WHERE timeline_id = '$t->{timeline}'"));
	my $lsn = work(8_000);
	my $pages = pages($lsn);
	$ps->node->stop('immediate');
	$log_from = -s $ps->node->logfile;
	my $good = contents();
	my $at = $from + int((number($lsn) - $from) * (0.2 + rand(0.5)));
	$damage->($at);
	my $before = contents();
	# the source has lost it, too
	my $there = $node->data_dir . '/pg_wal/' . segment_name($at);
	rename $there, "$there.away" or die if $lost;
	$ps->start;
	wait_for("$what: the break is told", sub { log_text() =~ /stored WAL of timeline "$t->{timeline}" is damaged, or was never synchronized, behind (\S+)\n.*DETAIL:.*In file ".*", offset \d+: .*It goes on up to/ });
	cmp_ok(number($ps->last_lsn($t)), '<', number($lsn), "$what: nothing behind it is believed");
	like(verify('false'), qr/^\w+\|\d+\|Nothing behind \S+ can be used: [^|]+ It goes on up to \S+\.\|It is in no layer file yet\.[^|]+\|f$/, "$what: timeline_verify tells of it");
	follow($ps, $t, $node);
	if ($lost)
	{
		wait_for("$what: the source does not have it", sub { log_text() =~ /timeline "$t->{timeline}" receives no WAL: what is stored behind \S+ is damaged\n.*DETAIL:.*In file ".*", offset \d+.*cannot be fetched again: .*has already been removed.*\n.*HINT:/ });
		cmp_ok(number($ps->last_lsn($t)), '<', number($lsn), "$what: nothing behind it is believed");
		like($ps->sql("SELECT last_error FROM $f.sources WHERE timeline_id = '$t->{timeline}'"), qr/stored WAL is damaged/, 'the view says so');
		is(changed($before, contents()), '', "$what: what is good stays");
		rename "$there.away", $there or die;
	}
	wait_for_lsn($ps, $t, $lsn);
	is(pages($lsn), $pages, "$what: all pages are what they were");
	is(changed($good, contents()), '', "$what: so is the WAL");
	is(verify('false'), '', "$what: nothing is wrong");
	return;
}
damage_and_start('a bit', \&flip_at);
like(log_text(), qr/damaged stored WAL behind \S+: It was fetched again, from \S+ to \S+\./, 'it was fetched again');
damage_and_start('a lost bit', \&flip_at, 1);
# the short run has one of these
my @others = (
	[ 'the header of a page', sub { flip(segment($_[0]), $_[0] % $segsize - $_[0] % 8192 + 8 + $_) for 0 .. 7 } ],
	[ 'the header of a segment', sub { flip(segment($_[0]), $_) for 8 .. 15 } ],
	[ 'a missing segment', sub { unlink segment($_[0]) or die } ],
	[ 'a cut segment', sub { truncate segment($_[0]), 100_000 or die } ]);
damage_and_start(@$_) for $ENV{NEON_TEST_LONG} ? @others : $others[ rand @others ];

# ---- while it runs ----
sub damage_running
{
	my $lsn = work(20_000);
	my $pages = pages($lsn);
	my $good = contents();
	flip_at(number($lsn) - 900_000 - int(rand(300_000)));
	return ($lsn, $pages, $good);
}
my ($lsn, $pages, $good) = damage_running();
like(verify('false'), qr/^\w+\|\d+\|The record at \S+ is not valid: [^|]+\|It is in no layer file yet\. It can be fetched again [^|]+\|f$/, 'damage is reported');
like(verify('true'), qr/\|It was fetched again, from \S+ to \S+\.\|t$/, 'and fetched again on demand');
is(verify('false'), '', 'then nothing is wrong');
is(changed($good, contents()), '', 'the WAL is what it was');

($lsn, $pages, $good) = damage_running();
like(eval { pages($lsn); '' } // $@, qr/could not read the WAL record at \S+ in file ".*", offset \d+/, 'a read that meets damage is refused');
wait_for('it is fetched again by itself', sub { log_text() =~ /stored WAL of timeline "$t->{timeline}" with a damaged record at \S+: It was fetched again/ });
is(pages($lsn), $pages, 'and all pages are what they were');

# a flush meets it
($lsn, $pages, $good) = damage_running();
wait_for('a layer is written', sub { $ps->sql_error("SELECT $f.timeline_checkpoint($t->{args})") eq '' });
is(changed($good, contents()), '', 'the WAL is what it was');
is(pages($lsn), $pages, 'all pages are, too');
is(verify('false'), '', 'nothing is wrong');

# ---- a file that is to be rebuilt from damaged WAL ----
my ($file, $lo, $hi) = split /\|/, $ps->sql("SELECT regexp_replace(file, '.*/', ''), lsn_lo, lsn_hi FROM $f.layers WHERE timeline_id = '$t->{timeline}' ORDER BY lsn_lo DESC LIMIT 1");
flip("$dir/layers/$file", 200);
flip_at(number($lo) + int((number($hi) - number($lo)) / 2));
like(verify('false'), qr/It cannot be rebuilt\. Its WAL is not stored as a whole.*\n.*It is in layer files too/, 'a damaged file of damaged WAL');
like(verify('true'), qr/^\Q$file\E\|[^\n]*\|It was rebuilt as file \d+, with \d+ versions, from the stored WAL from \S+ to \S+\.\|t$/, 'is rebuilt with WAL from the source');
is(verify('false'), '', 'then nothing is wrong');
is(pages($lsn), $pages, 'all pages are what they were');

# ---- by default a file's WAL is kept until the next one is written ----
$ps->node->append_conf('postgresql.conf', 'neon_pageserver.wal_keep = -1');
$ps->restart;
follow($ps, $t, $node);
sub newest { return split /\|/, $ps->sql("SELECT regexp_replace(file, '.*/', ''), lsn_lo, lsn_hi FROM $f.layers WHERE timeline_id = '$t->{timeline}' ORDER BY lsn_hi DESC LIMIT 1") }
for my $n (1 .. 2)
{
	$node->safe_psql('postgres', q(SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 60000))) FROM generate_series(1, 1400)));
	$lsn = work(1000);
	$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");
	($file, $lo, $hi) = newest();
	cmp_ok(number($hi) - number($lo), '>', 64 << 20, 'a file of more than 64 MB of WAL');
	wait_for('its WAL is kept, and no more', sub { (sort map { s/.*\///r } glob "$dir/wal/0*")[0] eq segment_name(number($lo)) });
}
$pages = pages($lsn);
flip("$dir/layers/$file", 200);
like(verify('true'), qr/It was rebuilt as file/, 'so the file can be rebuilt');
is(pages($lsn), $pages, 'all pages are what they were');
$ps->stop;
$node->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash in the log');
done_testing();
