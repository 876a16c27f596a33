# Damaged layer files are made again from stored WAL: a bit is flipped in every
# file, each is rebuilt or said not to be, and every page, size and time is
# what it was before.  What cannot be rebuilt is refused, and only that.
use strict;
use warnings;
use Damage;
use Digest::MD5 qw(md5_hex);
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");
srand($seed);

my $ps = NeonPageserver->new('ps', conf => <<'CONF');
neon_pageserver.checkpoint_distance = 1MB
neon_pageserver.image_chain = 10
neon_pageserver.compaction_threshold = 0
neon_pageserver.compaction_workers = 0
neon_pageserver.compaction_target_size = 256kB
neon_pageserver.maintenance_io_limit = 0
neon_pageserver.wal_keep = 4GB
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $node = new_vanilla('vanilla', <<'CONF');
fsync = off
full_page_writes = off
wal_keep_size = 4GB
max_prepared_transactions = 5
track_commit_timestamp = on
CONF
$ENV{PGUSER} = 'cloud_admin';

sub pgbench
{
	my ($out, $err) = run_command([ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, @_, 'postgres' ]);
	die "pgbench: $err" if $err =~ /FATAL|could not|aborted/;
}

# ---- a timeline ----
my $t = import_vanilla($ps, $node, 'main');
$node->start;
$node->safe_psql('postgres', q(SELECT pg_create_physical_replication_slot('neon_pageserver', true)));
follow($ps, $t, $node);
my $f = 'neon_pageserver';
my @points;

sub work
{
	$node->safe_psql('postgres', $_) for @_;
	pgbench('-c', 2, '-t', $long ? 3000 : 300);
	push @points, $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
}
run_command([ 'pgbench', '-q', '-i', '-h', $node->host, '-p', $node->port, 'postgres' ]);
work('CREATE TABLE a (i int PRIMARY KEY, t text)', 'INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 20000) i',
	'CREATE DATABASE gone', "SELECT pg_replication_origin_create('o')");
work('UPDATE a SET t = t || i WHERE i % 3 = 0', 'DELETE FROM a WHERE i > 12000', 'VACUUM a', 'DROP DATABASE gone',
	"BEGIN; CREATE TABLE b (i int); PREPARE TRANSACTION 'left'");
work('TRUNCATE a', 'INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 3000) i', "COMMIT PREPARED 'left'");

# All of it in layer files.
sub finish_work
{
	$node->safe_psql('postgres', 'SELECT txid_current(); SELECT pg_switch_wal(); SELECT pg_logical_emit_message(true, $$x$$, $$$$)');
	wait_for_lsn($ps, $t, $points[-1]);
	$points[-1] = $ps->sql("SELECT neon_test.round_to_commit($t->{args}, '$points[-1]')");
	$ps->sql("SELECT $f.timeline_checkpoint($t->{args})");
	$node->stop('immediate');
}
finish_work();
$_ = $ps->sql("SELECT neon_test.round_to_commit($t->{args}, '$_')") for @points;

# ---- what it says: pages, values, SLRU pages, control state, times ----
my $db = 5;
my $some = $long ? 1 : 3;		# of the catalogs
my @times = split /\n/, $ps->sql(<<SQL);
SELECT now() - i * interval '1 second' FROM generate_series(0, 40, 2) i
SQL

sub state
{
	my @said;
	for my $lsn ($long ? @points : @points[ 1, -1 ])
	{
		push @said, split /\n/, $ps->sql(<<SQL);
SELECT '$lsn page ' || rel || ' ' || fork, md5(string_agg(md5($f.get_page($t->{args}, spc, db, rel::oid, fork, b, '$lsn')), ' ' ORDER BY b))
FROM neon_test.keys($t->{args}, '$lsn', 8),
	generate_series(0, get_byte(value, 0) + 256 * get_byte(value, 1) + 65536 * get_byte(value, 2) - 1) b
WHERE db IN (0, $db) AND get_byte(value, 4) = 0 AND (fork = 2 OR rel % $some = 0 OR rel >= 16384) GROUP BY rel, fork, 1 ORDER BY 1
SQL
		push @said, map { "$lsn kind $_ " . $ps->sql(<<SQL) } 2, 3, 8, 33, 48, 49, 50;
SELECT count(*) || ' ' || md5(string_agg(k::text, ' ' ORDER BY k::text)) FROM neon_test.keys($t->{args}, '$lsn', $_) k
SQL
		push @said, map { "$lsn slru $_ " . $ps->sql(<<SQL) } 0 .. 3;
SELECT md5(string_agg(blk || md5(neon_test.slru_page($t->{args}, '$lsn', $_, blk)), ' ' ORDER BY blk))
FROM neon_test.keys($t->{args}, '$lsn', 32) WHERE spc = $_
SQL
		push @said, map { "$lsn $_ " . $ps->sql("SELECT neon_test.$_($t->{args}, '$lsn')") } 'control_at', 'control_times';
	}
	push @said, map { "$_ " . $ps->sql("SELECT $f.lsn_for_timestamp($t->{args}, '$_')") } @times;
	return \@said;
}

sub is_as_before
{
	my ($before, $what) = @_;
	my $after = state();
	my @differ = grep { ($before->[$_] // '') ne ($after->[$_] // '') } 0 .. ($#$before > $#$after ? $#$before : $#$after);
	is(join("\n", map { "$before->[$_] became $after->[$_]" } splice @differ, 0, 3), '', "$what: " . @$before . ' things are what they were');
}

# ---- damage ----
my $dir = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}";

# [path, lsn_lo]
sub files { return map { [ split /\|/ ] } split /\n/, $ps->sql("SELECT regexp_replace(file, '.*/', ''), lsn_lo, lsn_hi FROM $f.layers WHERE timeline_id = '$t->{timeline}' ORDER BY lsn_lo") }

my @flipped;

sub flip
{
	my ($path, $offset, $bit) = @_;
	@flipped = ($path, $offset, $bit // int(rand(8)));
	return flip_bit(@flipped);
}

# The last one.
sub flip_back { return flip(@flipped) }

# Anywhere, but now and then where a reader looks first.
sub flip_somewhere
{
	my ($path) = @_;
	my $size = -s $path;
	# its data too: else it would be made again from them
	flip($path, 64 + int(rand(unpack('Q<', substr(slurp_file($path), -176, 8)) - 64)));
	my $offset = (int(rand($size)), int(rand(64)), $size - 1 - int(rand(256)), $size - 256 - 1 - int(rand(8192)))[ rand(4) ];
	flip($path, $offset);
	return $offset;
}

sub verify
{
	my ($repair) = @_;
	return map { [ split /\|/ ] } split /\n/, $ps->sql(<<SQL);
SELECT regexp_replace(file, '.*/', ''), byte_offset, problem, remedy FROM $f.timeline_verify($t->{args}, $repair) ORDER BY 1
SQL
}

sub shown { return join "\n", map { join '|', @$_ } @_ }

my $before = state();
# what an import or a compaction with it wrote begins below
sub made_of_wal
{
	return grep { $_->[0] =~ /delta$/ && NeonPageserver::lsn_number($_->[1]) >= NeonPageserver::lsn_number($t->{lsn}) } files();
}

my @wide = made_of_wal();
cmp_ok(scalar @wide, '>=', 2, @wide . ' files that flushes wrote');
$ps->stop;
flip_somewhere("$dir/layers/$_->[0]") for @wide;
unlink "$dir/layers/$wide[1][0]" or die;
$ps->start;
my @found = verify('false');
is(join(' ', map { $_->[0] } @found), join(' ', sort map { $_->[0] } @wide), 'each file is reported');
is(scalar(grep { $_->[3] =~ /^It can be rebuilt from the stored WAL from \S+ to \S+\.$|^It cannot be rebuilt yet: file "\S+" (is corrupted|has version)/ } @found),
	scalar @wide, 'and can be rebuilt, or when an older one is') or diag(shown(@found));
@found = verify('true');
is(scalar(grep { $_->[3] =~ /^It was rebuilt as file \d+, with \d+ versions, from the stored WAL/ } @found), scalar @wide, 'each is') or diag(shown(@found));
is(shown(verify('false')), '', 'then nothing is wrong');
is(scalar(grep { my $old = $_->[0]; grep { $_->[0] eq $old } files() } @wide), 0, 'all of them are other files');
is_as_before($before, 'rebuilt');
$ps->restart;
is_as_before($before, 'and after a restart') if $long;
$ps->node->append_conf('postgresql.conf', "neon_pageserver.compaction_workers = 1\n");

# ---- by itself, when a read meets it ----
my ($one) = made_of_wal();
$ps->stop;
flip("$dir/layers/$one->[0]", (-s "$dir/layers/$one->[0]") - 100);
$ps->start;
like(eval { state(); '' } // $@, qr/\Q$one->[0]\E" is corrupted.*DETAIL:  At offset \d+/s, 'a read that meets damage is refused');
sub wait_for
{
	my ($re) = @_;
	for (1 .. 600)
	{
		my $log = slurp_file($ps->node->logfile);
		return $log if $log =~ $re;
		usleep(200_000);
	}
	return slurp_file($ps->node->logfile);
}
like(wait_for(qr/damaged file \d+ of timeline "\w+": /), qr/damaged file \d+ of timeline "$t->{timeline}": It was rebuilt as file \d+/, 'and the file rebuilt soon after');
is($ps->sql("SELECT state FROM $f.timelines WHERE timeline_id = '$t->{timeline}'"), 'active', 'the timeline has been active all the time');
is_as_before($before, 'rebuilt by itself');

# ---- files of partitions ----
$ps->node->append_conf('postgresql.conf', "neon_pageserver.compaction_threshold = 3\nneon_pageserver.compaction_workers = 0\n");
$ps->restart;
$ps->sql("SELECT $f.timeline_compact($t->{args})");
$node->start;
follow($ps, $t, $node);
work('UPDATE a SET t = reverse(t)', 'CREATE TABLE c AS SELECT * FROM a');
finish_work();
$ps->sql("SELECT $f.timeline_compact($t->{args})");
$before = state();
# the values of the beginning are in no WAL; pages of that time are in image files
my @own = grep { $_->[0] =~ /delta$/ } files();
my %of_wal = map { $_->[0] => 1 } made_of_wal();
sub has_only_pages
{
	my ($out) = run_command([ 'neon', 'layer', 'dump', "$dir/layers/$_[0]" ]);
	return $out =~ /^First key +page .*\nLast key +page /m;
}
my @first = grep { !$of_wal{ $_->[0] } && !has_only_pages($_->[0]) } @own;
my @others = grep { my $name = $_->[0]; !grep { $_->[0] eq $name } @first } @own;
cmp_ok(scalar(grep { $of_wal{ $_->[0] } } @others), '>', 2, @others . ' of ' . @own . ' files of partitions have nothing but WAL');
$ps->stop;
flip_somewhere("$dir/layers/$_->[0]") for @others;
$ps->start;
my @repaired = verify('true');
is(join(' ', map { $_->[0] } @repaired), join(' ', sort map { $_->[0] } @others), 'each is reported');
is(shown(grep { $_->[3] !~ /^It was rebuilt/ } @repaired), '', 'and rebuilt');
is(shown(verify('false')), '', 'then nothing is wrong');
is_as_before($before, 'files of partitions rebuilt');

# ---- what cannot be rebuilt ----
my ($image) = grep { $_->[0] =~ /image$/ } files();
my $path = "$dir/layers/$image->[0]";
my $bytes = slurp_file($path);
$ps->stop;
flip($path, 64 + $_ * 997) for 0 .. (length($bytes) - 2000) / 997;
$ps->start;
like(eval { state(); '' } // $@, qr/\Q$image->[0]\E" is corrupted/, 'a page of a damaged image file is refused');
like(shown(verify('true')), qr/^\Q$image->[0]\E\|\d+\|[^|]*\|It cannot be rebuilt\. It is an image file/, 'it cannot be rebuilt');
cmp_ok(length $ps->sql("SELECT string_agg(k::text, ' ') FROM neon_test.keys($t->{args}, '$points[-1]', 8) k"), '>', 1000, 'what is in other files is served');
$ps->stop;
flip("$dir/layers/$first[0][0]", 100);
$ps->start;
like(shown(verify('true')), qr/^\Q$first[0][0]\E\|64\|[^|]*\|It cannot be rebuilt\. It has what the timeline was made of, which is in no WAL/m, 'nor the file with the first values');
flip_back();
my $t2 = $ps->tenant;
is($ps->sql("SELECT count(*) FROM $f.timeline_verify('$t2->{tenant}', '$t2->{timeline}')"), 0, 'and other timelines are');
$ps->stop;
open my $h, '>:raw', $path or die;
print $h $bytes;
close $h;
$ps->start;
is_as_before($before, 'put back') if $long;

# ---- WAL that is damaged, or gone ----
# of so much WAL that the damage lies in it
my ($last) = grep { NeonPageserver::lsn_number($_->[2]) - NeonPageserver::lsn_number($_->[1]) > 8192 } reverse made_of_wal();
SKIP:
{
	skip 'no file of a partition begins behind the import', 2 if !$last;
	# no byte of it but up to 7 of padding is without a CRC
	my $at = NeonPageserver::lsn_number($last->[1]) + 4000;
	my $segment = sprintf '%s/wal/00000001%08X%08X', $dir, $at >> 32, ($at & 0xffffffff) >> 24;
	$ps->stop;
	flip("$dir/layers/$last->[0]", 100);
	flip($segment, $at % (1 << 24) + $_) for 0 .. 15;
	$ps->start;
	like(shown(verify('true')), qr/It cannot be rebuilt\. Its WAL is not stored as a whole: behind \S+, /, 'damaged WAL is not taken');
	unlink $segment or die;
	$ps->restart;
	like(shown(verify('true')), qr/It cannot be rebuilt\. /, 'nor WAL that is gone');
}
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash in the log');
done_testing();
