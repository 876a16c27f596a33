# A layer file whose data are whole is made again from them, whatever else of it
# is damaged and though no WAL is stored; one whose data are damaged is not.
use strict;
use warnings;
use Damage;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "$f.pitr_interval = 0\n$f.gc_horizon = 1TB\n$f.compaction_workers = 0\n$f.wal_keep = 0\n$f.checkpoint_distance = 4GB\n");
my $t = $ps->tenant;
my $dir = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}";
my $node = start_writer($ps, $t, "wal_compression = off\n");

# Many keys, so that there are several blocks of everything, and one large value.
my $end = write_layers($ps, $t, $node, <<'SQL');
CREATE TABLE t (i int, t text) WITH (fillfactor = 50);
INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i;
SELECT pg_logical_emit_message(true, 'x', repeat('y', 200000));
BEGIN; CREATE TABLE p (i int); PREPARE TRANSACTION 'left';
SELECT pg_switch_wal()
SQL
my ($db, $rel) = $node->safe_psql('postgres', "SELECT pg_relation_filepath('t')") =~ m{base/(\d+)/(\d+)};
my $blocks = $node->safe_psql('postgres', "SELECT pg_relation_size('t') / 8192");
$ps->sql("SELECT $f.timeline_compact($t->{args})");
$end = write_layers($ps, $t, $node, 'UPDATE t SET i = i + 1 WHERE i % 2 = 0; SELECT pg_switch_wal()');
# Is none left, now or when what is due has been removed?
sub no_wal_stored
{
	for (1 .. 50)
	{
		my @segments = glob "$dir/wal/*";
		return 1 if !@segments;
		usleep(100_000);
	}
	return 0;
}

# A segment is whole, and nothing of the next one was written: then no WAL is stored at all.
my $none;
for (1 .. 20)
{
	last if $none = no_wal_stored();
	$end = write_layers($ps, $t, $node, "SELECT pg_logical_emit_message(false, 'x', 'y'); SELECT pg_switch_wal()");
}
ok($none, 'no WAL is stored');
$node->stop('immediate');

sub all_pages
{
	return $ps->sql(<<SQL);
SELECT md5(string_agg(md5($f.get_page($t->{args}, 1663, $db, $rel, 0, b, '$end')), ' ' ORDER BY b)) FROM generate_series(0, $blocks - 1) b
SQL
}

sub files { return map { [ split /\|/ ] } split /\n/, $ps->sql("SELECT regexp_replace(file, '.*/', ''), type, bytes FROM $f.layers WHERE timeline_id = '$t->{timeline}' ORDER BY lsn_lo") }

sub verify
{
	my ($repair) = @_;
	return map { [ split /\|/ ] } split /\n/, $ps->sql("SELECT regexp_replace(file, '.*/', ''), byte_offset, repaired, remedy FROM $f.timeline_verify($t->{args}, repair => $repair)");
}

my $pages = all_pages();
my @files = files();
my ($image) = sort { $b->[2] <=> $a->[2] } grep { $_->[1] eq 'image' } @files;
my ($delta) = sort { $b->[2] <=> $a->[2] } grep { $_->[1] eq 'delta' } @files;
ok($image && $delta, 'there are files of both types');

for my $case (
	[ $delta, 'header', sub { 20 } ],
	[ $delta, 'the version in the header', sub { 4 } ],
	[ $delta, 'directory', sub { $_[0] + 100 } ],
	[ $delta, 'fences', sub { $_[1] + 12 } ],
	[ $delta, 'footer', sub { $_[2] - 200 } ],
	[ $delta, 'end', sub { $_[2] - 1 } ],
	[ $image, 'header', sub { 50 } ],
	[ $image, 'fences', sub { $_[1] + 30 } ],
	[ $image, 'footer', sub { $_[2] - 100 } ])
{
	my ($file, $what, $where) = @$case;
	my $path = "$dir/layers/$file->[0]";
	my $bytes = slurp_file($path);
	my $offset = $where->(unpack('Q<Q<', substr($bytes, -256 + 80, 16)), length $bytes);

	flip_bit($path, $offset, 3);
	$ps->node->restart;
	my @rows = verify('false');
	is(scalar(@rows) . " $rows[0][0] $rows[0][3]", "1 $file->[0] Its data are whole: it can be rebuilt from them.", "$file->[1] file, $what: reported");
	@rows = verify('true');
	like(join(' ', @{ $rows[0] }), qr/^\Q$file->[0]\E \d+ t It was rebuilt as file (\d+), with \d+ versions, from its own data/, 'rebuilt');
	is(all_pages(), $pages, 'all pages are what they were');
	is(scalar(verify('false')), 0, 'and nothing is wrong any more');
	# the next one is done to the new file
	my ($id) = $rows[0][3] =~ /as file (\d+)/;
	$file->[0] = sprintf('%016x-00000001.%s', $id, $file->[1]);
}

# ---- what only data, or the directory of images, know ----
for my $case ([ $delta, 'data', sub { 200 } ], [ $image, 'data', sub { 200 } ], [ $image, 'directory', sub { $_[0] + 100 } ])
{
	my ($file, $what, $where) = @$case;
	my $path = "$dir/layers/$file->[0]";
	my $bytes = slurp_file($path);
	my $offset = $where->(unpack('Q<Q<', substr($bytes, -256 + 80, 16)), length $bytes);

	flip_bit($path, $offset, 5);
	my @rows = verify('true');
	like(join(' ', @{ $rows[0] }), qr/^\Q$file->[0]\E \d+ f It cannot be rebuilt\. /, "$file->[1] file, $what: not rebuilt");
	flip_bit($path, $offset, 5);
	is(slurp_file($path), $bytes, 'nor touched');
}
is(all_pages(), $pages, 'with these bits put back all pages are what they were');
$ps->stop;
done_testing();
