# The end of a manifest: a change that was synchronized and is damaged later is
# no torn one, whatever bit it is; the timeline is refused, and nothing removed.
use strict;
use warnings;
use Damage;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "$f.pitr_interval = 0\n$f.gc_horizon = 1TB\n$f.compaction_workers = 0\n");
my $t = $ps->tenant;
my $timelines = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines";
my $dir = "$timelines/$t->{timeline}";
my $node = start_writer($ps, $t);

sub info { my ($what) = @_; return $ps->sql("SELECT $what FROM $f.timelines WHERE timeline_id = '$t->{timeline}'") }

sub newest_manifest { return (sort glob("$dir/manifest.*"))[-1] }

# Offset and length of the last edit, and what is behind it.
sub last_edit
{
	my $bytes = slurp_file(newest_manifest());
	my ($at, $next, $behind) = (64, 64, '');
	my @last;
	while ($next + 16 <= length $bytes)
	{
		my ($len, undef, $type) = unpack 'VVv', substr $bytes, $next, 12;
		if ($type == 3)
		{
			$behind = substr $bytes, $next;
			last;
		}
		@last = ($next, 16 + $len);
		$next += 16 + $len;
	}
	return (@last, $behind);
}

sub files { return join ' ', map { s{.*/}{}r } glob "$dir/layers/* $dir/manifest.*" }

my $end = write_layers($ps, $t, $node, 'CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i');
my ($db, $rel) = $node->safe_psql('postgres', "SELECT pg_relation_filepath('t')") =~ m{base/(\d+)/(\d+)};
my $kid;
my %change = (
	'a flush' => sub { follow($ps, $t, $node); $end = write_layers($ps, $t, $node, 'UPDATE t SET i = i + 1') },
	'a compaction' => sub { $ps->sql("SELECT $f.timeline_compact($t->{args})") },
	'a branch point' => sub { $kid = $ps->sql("SELECT timeline_id FROM $f.branch_create('$t->{tenant}', 'kid', 'main', '$end')") });
sub page { return $ps->sql("SELECT md5($f.get_page($t->{args}, 1663, $db, $rel, 0, 7, '$end'))") }

for my $what ('a flush', 'a compaction', 'a branch point')
{
	$change{$what}->();
	my $page = page();
	$ps->node->stop('immediate');
	my ($at, $len, $behind) = last_edit();
	my $bytes = slurp_file(newest_manifest());
	my $files = files();
	is(length $behind, 16, "$what: its change is marked as synchronized");
	my %wrong;
	# length, type, sequence, body; CRC
	my @places = (0, 8, 12, $len - 1);
	@places = (@places, 1, 5, 16, int($len / 2)) if $ENV{NEON_TEST_LONG};
	@places = (5) if $what eq 'a flush' && !$ENV{NEON_TEST_LONG};
	for my $place (@places)
	{
		flip_bit(newest_manifest(), $at + $place, $place % 8);
		$ps->start;
		my $told = info("state || ' ' || state_detail");
		$wrong{$place} = "$told, " . files() unless $told =~ /^damaged .*manifest\.\d+" is corrupted.* offset $at / && files() eq $files;
		my $rows = $ps->sql("SELECT file, byte_offset, problem FROM $f.timeline_verify($t->{args})");
		$wrong{"verify $place"} = $rows unless $rows =~ m{/manifest\.\d+\|$at\|.*offset $at };
		$ps->node->stop('immediate');
		flip_bit(newest_manifest(), $at + $place, $place % 8);
	}
	is_deeply(\%wrong, {}, "$what: a bit of it makes the timeline damaged, and removes nothing");
	is(slurp_file(newest_manifest()), $bytes, "$what: nor is it written");
	$ps->start;
	is(page(), $page, "$what: with that bit put back all is as it was");
}
is($ps->sql("SELECT count(*) FROM $f.timelines WHERE timeline_id = '$kid' AND state = 'active'"), 1, 'the branch is there');

# ---- without the mark, as a power cut may leave it ----
sub cut_last
{
	my ($at, $len) = last_edit();
	truncate newest_manifest(), $at + $len - 3 or die $!;
	return $at;
}
$change{'a flush'}->();
my $page = page();
$ps->node->stop('immediate');
my $log = -s $ps->node->logfile;
cut_last();
$ps->start;
is(info('state'), 'active', 'a torn change is left out');
is(page(), $page, 'and what it had comes from WAL');
like(slurp_file($ps->node->logfile, $log), qr/ends with a change that was not written whole/, 'the log says so');

$change{$_}->() for 'a flush', 'a compaction';
$ps->node->stop('immediate');
my $keep = slurp_file(newest_manifest());
my $files = files();
my $at = cut_last();
$ps->start;
like(info("state || ' ' || state_detail"), qr/^damaged .* unreadable from offset $at on, and file .* is missing/, 'what looks torn, but has removed files before, is damage');
is(files(), $files, 'and nothing is removed');
$ps->node->stop('immediate');
open my $h, '>:raw', newest_manifest() or die $!;
print $h $keep;
close $h or die $!;
$ps->start;
is($ps->sql("SELECT count(*) FROM $f.timeline_verify($t->{args})"), 0, 'put back, nothing is wrong');

# ---- verify tells of each file, whatever it cannot read meanwhile ----
my @layers = sort { -s $b <=> -s $a } glob "$dir/layers/*";
$ps->node->stop('immediate');
for my $file (@layers)
{
	flip_bit($file, 20, 2);
}
$ps->start;
is($ps->sql("SELECT count(*) FROM $f.timeline_verify($t->{args}) WHERE file LIKE '%/layers/%' AND byte_offset = 0"), scalar @layers, 'timeline_verify reports each of the damaged files');
$ps->node->stop('immediate');
flip_bit($_, 20, 2) for @layers;
$ps->start;
$ps->sql("SELECT $f.timeline_rename('$t->{tenant}', '$t->{timeline}', '$_')") for 'other', 'renamed';
$ps->node->stop('immediate');

# ---- a damaged branch keeps its name, and who comes from it is told ----
flip_bit(newest_manifest(), 70, 1);
$ps->start;
is(info("name || ' ' || state"), 'renamed damaged', 'of a manifest of which nothing can be read the name is known');
like($ps->sql_error("SELECT $f.branch_create('$t->{tenant}', 'renamed', 'kid')"), qr/branch "renamed" already exists/, 'nobody else gets it');
is($ps->sql("SELECT count(*) FROM $f.timeline_verify('$t->{tenant}', '$kid') WHERE problem LIKE 'The branch that this one comes from is damaged%'"), 1, 'timeline_verify of a child tells of its parent');
$ps->node->stop('immediate');
unlink "$dir/name" or die $!;
$ps->start;
is(info('name'), $t->{timeline}, 'without the other file it is named by its id');
$node->stop;
$ps->node->stop('immediate');
done_testing();
