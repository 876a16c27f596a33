# Layer files: written and read against a model, every byte changed, the end
# cut off; read by a second reader that was written from the documentation; and
# shown by "neon layer dump".  Files of an older format are refused.
use strict;
use warnings;
use IPC::Run;
use JSON::PP;
use NeonLayer;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $seed = $ENV{NEON_TEST_SEED} || int(rand(2**30));
note("NEON_TEST_SEED=$seed");

# the model's records are not redone: no images of them
my $ps = NeonPageserver->new('layers', conf => <<'CONF');
neon_pageserver.image_chain = 0
neon_pageserver.compaction_image_chain = 0
CONF
$ps->sql('CREATE EXTENSION neon_pageserver_test');
my $t = $ps->tenant;
my $of = "'$t->{tenant}', '$t->{timeline}'";
my $layers = $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/layers";

# ---- the model ----
for my $round (1 .. ($long ? 20 : 2))
{
	for my $keys (1, 50, 4000)
	{
		cmp_ok($ps->sql("SELECT neon_test.layer_model($of, @{[ $seed + $round ]}, $keys, $_)"), '>=', $keys > 1 ? $keys / 2 : 1,
			"$keys keys in " . ($_ eq 'true' ? 'an image file' : 'a delta file'))
		  for 'false', 'true';
	}
}
for my $round (1 .. ($long ? 10 : 1))
{
	cmp_ok($ps->sql("SELECT neon_test.layer_flips($of, @{[ $seed + $round ]}, 4, $_)"), '>', 16384,
		'each changed byte and each cut of a file is noticed')
	  for 'false', 'true';
}
is(scalar(grep { !/-00000001\.(delta|image)$/ } glob "$layers/*"), 0, 'no other files stay');

# ---- the second reader, and the command ----
sub neon
{
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'neon', @_ ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(120));
	return ($? >> 8, $out, $err);
}

sub lsn { return sprintf('%X/%X', $_[0] >> 32, $_[0] & 0xffffffff) }

my @kinds = qw(wal image size tombstone blob);

# What both say of a file, key by key.
sub same_contents
{
	my ($file, $what) = @_;
	my $mine = eval { NeonLayer->read($file) } or return fail("$what: $@");
	my ($rc, $out, $err) = neon('--json', 'layer', 'dump', '--versions', $file);
	is($rc, 0, "$what: dump") or diag($err);
	my $theirs = decode_json($out);
	is(scalar @{ $theirs->{entries} }, scalar @{ $mine->{keys} }, "$what: keys");
	my @differ;
	for my $i (0 .. $#{ $mine->{keys} })
	{
		my ($m, $d) = ($mine->{keys}[$i], $theirs->{entries}[$i]);
		my $mine_text = join ' ', $m->{base}, $m->{newer}, $m->{offset}, $m->{len}, $m->{more},
		  map { join ',', lsn($_->{lsn}), $kinds[ $_->{kind} ], $_->{base}, $_->{length}, $_->{kind} == 0 ? lsn($_->{start}) : () } @{ $m->{versions} };
		my $dump_text = join ' ', ($d->{base} ? 1 : 0), @$d{qw(newer offset length more_blocks)},
		  map { join ',', $_->{lsn}, $_->{kind}, ($_->{base} ? 1 : 0), $_->{length}, $_->{start} // () } @{ $d->{versions} };
		push @differ, "$m->{key}: $mine_text\n$d->{key}: $dump_text" if $mine_text ne $dump_text;
	}
	is_deeply([ splice(@differ, 0, 2) ], [], "$what: versions");
	is($theirs->{versions}, $mine->{footer}{versions}, "$what: their number");
	return ($mine, $theirs);
}

my ($image) = glob "$layers/*.image";
my ($delta) = glob "$layers/*.delta";
my ($pages) = same_contents($image, 'the pages of a new tenant');
same_contents($delta, 'the rest of it');

# bytes of pages, through the server and through the Perl reader
my @some = grep { substr($_->{key}, 0, 2) eq '10' } @{ $pages->{keys} };
my @differ;
for my $k (map { $some[ int(rand(@some)) ] } 1 .. 20)
{
	my ($spc, $db, $rel, $fork, $blk) = unpack('x N N N C N', pack('H*', $k->{key}));
	my $page = pack 'H*', $ps->sql("SELECT encode(neon_pageserver.get_page($of, $spc, $db, $rel, $fork, $blk, '$t->{lsn}'), 'hex')");
	my $mine = $k->{versions}[0]{bytes};
	substr($_, 8, 2) = "\0\0" for $page, $mine;
	push @differ, $k->{key} if $page ne $mine;
}
is_deeply(\@differ, [], 'pages are what the server serves');

# a delta file of a flush, with records
$ps->sql("SELECT neon_test.store_model($seed, 1500, 10)");
my $id = sub { unpack('H*', pack('Q<', $seed) . 'Z' x 4 . pack('V', $_[0])) };
my $model = $ps->node->data_dir . '/neon/tenants/' . $id->(0) . '/timelines/' . $id->(1) . '/layers';
my ($flushed) = sort { -s $b <=> -s $a } glob "$model/*.delta";
my ($mine, $theirs) = same_contents($flushed, 'a flushed index');
ok((grep { $_->{kind} == 0 } map { @{ $_->{versions} } } @{ $mine->{keys} }), 'it has WAL records');

# ---- what the command says ----
my ($rc, $out, $err) = neon('layer', 'dump', $image);
is($rc, 0, 'dump of an image file');
like($out, qr/^Type +image, format version 2\n.*^Tenant +$t->{tenant}\n.*^Timeline +$t->{timeline}\n.*^ ?OBJECT.*page 1663\/\d+\/1259 main/ms, 'names it and its objects');
($rc, $out, $err) = neon('layer', 'dump', '--keys', $delta);
like($out, qr/^size 1663\/\d+\/1259 main 0: base, 0 newer records, block at \d+ of \d+ bytes, 0 more$/m, '--keys');
($rc, $out, $err) = neon('layer', 'dump', '--versions', $flushed);
like($out, qr/^  [0-9A-F]+\/[0-9A-F]+  wal, \d+ bytes, from [0-9A-F]+\/[0-9A-F]+, Heap info [0-9A-F]+ xid \d+$/m, '--versions');
is_deeply([ sort keys %{ decode_json((neon('--json', 'layer', 'dump', $delta))[1]) } ],
	[sort qw(bytes data_bytes directory_bytes file file_id first_key generation images keys last_key lsn_hi lsn_lo objects raw_bytes system_identifier tenant_id timeline_id type version versions)],
	'JSON without the entries');

my $copy = PostgreSQL::Test::Utils::tempdir() . '/copy.delta';
sub spoiled
{
	my ($offset, $value, $sealed) = @_;
	my $bytes = slurp_file($flushed);
	substr($bytes, $offset, length $value) = $value;
	substr($bytes, 60, 4) = pack('V', NeonLayer::crc32c(substr($bytes, 48, 8) . "\0" x 8 . substr($bytes, 0, 60))) if $sealed;
	unlink $copy;
	append_to_file($copy, $bytes);
	return neon('layer', 'dump', $copy);
}
for (
	[ 70, 'x', qr/is corrupted at offset 64: A block has a wrong CRC/ ],
	[ (-s $flushed) - 10, 'x', qr/is corrupted at offset @{[ (-s $flushed) - 256 ]}: The footer has a wrong CRC/ ],
	[ 4, "\3", qr/is corrupted at offset 0: The header has a wrong CRC/ ],
	[ 4, "\3", qr/has format version 3, which this command cannot read\nHINT: /, 1 ],
	[ 0, 'X', qr/is corrupted at offset 0: This is not the header of a layer file/ ])
{
	my ($offset, $value, $expected, $sealed) = @$_;
	($rc, $out, $err) = spoiled($offset, $value, $sealed);
	is($rc, 1, "a file that is changed at $offset");
	like($err, qr/^neon: error: file "\Q$copy\E" .*\nHINT: /, 'an error and a hint');
	like($err, $expected, 'that say what it is');
	ok(!eval { NeonLayer->read($copy) }, 'the other reader sees it too');
}
for ([ '/nowhere', qr/could not open file/ ], [ $layers, qr/is not a file/ ], [ $0, qr/is corrupted at offset 0/ ])
{
	($rc, $out, $err) = neon('layer', 'dump', $_->[0]);
	is($rc, 1, "dump of $_->[0]");
	like($err, qr/^neon: error: .*$_->[1].*\nHINT: \S/s, 'an error and a hint');
}

# ---- an older format ----
$ps->stop;
my ($manifest) = glob "$layers/../manifest.*";
my $bytes = slurp_file($manifest);
substr($bytes, 4, 2) = pack('v', 1);
substr($bytes, 60, 4) = pack('V', NeonLayer::crc32c(substr($bytes, 0, 60)));
unlink $manifest;
append_to_file($manifest, $bytes);
my @before = map { "$_ " . -s $_ } sort glob "$layers/* $layers/../*";
$ps->start;
my $refused = $ps->sql_error("SELECT neon_pageserver.get_page($of, 1663, 5, 1259, 0, 0, '$t->{lsn}')");
like($refused, qr/manifest\.\d+" has version 1, which this library cannot read\. Nothing is converted: dump the databases/, 'a directory of an older format is refused, and what to do is said');
like(slurp_file($ps->node->logfile), qr/has version 1, which this library cannot read\n.*HINT:  Nothing is converted/, 'in the log too');
is_deeply([ map { "$_ " . -s $_ } sort glob "$layers/* $layers/../*" ], \@before, 'nothing in it is touched');
is($ps->sql("SELECT neon_test.store_model($seed, 1500, 10) > 0"), 't', 'others are served');
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash in the log');
done_testing();
