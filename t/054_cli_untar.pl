# Unpacking a base backup: good archives in pieces of any size, and hostile
# ones, of which nothing may get outside the directory.
use strict;
use warnings;
use File::Path qw(make_path remove_tree);
use IPC::Run qw(run timeout);
use Test::More;

my $dir = "$ENV{NEON_TEST_TOP}/contrib/neon_ctl";
my $build = '';
run([ 'make', '-s', '-C', $dir, 'test/untar_test' ], '>&', \$build, timeout(120)) or die $build;
my $tmp = "$ENV{TESTDATADIR}/untar";
make_path($tmp);

# A header, its checksum made good unless it is given.
sub header
{
	my (%h) = @_;
	my $size = defined $h{size} ? $h{size} : length($h{data} // '');
	my $b = pack('a100a8a8a8a12a12a8a1a100a6a2a32a32a8a8a155a12',
		$h{name}, "0000600\0", "0000000\0", "0000000\0",
		$h{raw_size} // sprintf("%011o\0", $size), "00000000000\0", ' ' x 8, $h{type} // '0', $h{link} // '',
		$h{magic} // "ustar\0", '00', '', '', '', '', $h{prefix} // '', '');
	my $sum = 0;
	$sum += ord for split //, $b;
	substr($b, 148, 8) = sprintf("%06o\0 ", $h{sum} // $sum);
	return $b;
}

sub entry
{
	my (%h) = @_;
	my $data = $h{data} // '';
	return header(%h) . $data . ("\0" x (-length($data) % 512));
}
my $end = "\0" x 1024;

my $number = 0;
sub unpack_it
{
	my ($tar, $piece) = @_;
	my $target = "$tmp/" . $number++;
	make_path($target);
	my ($out, $err) = ('', '');
	open my $f, '>:raw', "$target.tar" or die;
	print $f $tar;
	close $f or die;
	run([ "$dir/test/untar_test", $target, $piece // 100_000 ], '<', "$target.tar", '>', \$out, '2>', \$err, timeout(60));
	return ($? >> 8, $err, $target);
}

# ---- good ones ----

my $big = join('', map { chr($_ % 251) } 1 .. 70_000);
my $good = entry(name => 'global/', type => '5') . entry(name => 'global/empty')
  . entry(name => 'global/exact', data => 'x' x 1024)
  . entry(name => 'deep', prefix => 'global', data => 'prefixed')
  . entry(name => 'big', data => $big) . $end;
for my $piece (1, 7, 511, 512, 513, 8192, 1_000_000)
{
	my ($rc, $err, $target) = unpack_it($good, $piece);
	my %have = map { my $f = "$target/$_"; ($_ => -e $f ? do { local (@ARGV, $/) = ($f); -s $f ? scalar <> : '' } : undef) }
	  qw(global/empty global/exact global/deep big);
	is($rc, 0, "pieces of $piece bytes") or diag($err);
	is_deeply(\%have, { 'global/empty' => '', 'global/exact' => 'x' x 1024, 'global/deep' => 'prefixed', 'big' => $big }, 'all files');
}

# ---- hostile ones ----

my @bad = (
	[ 'parent',               entry(name => '../escaped', data => 'x') . $end,                  qr/not allowed/ ],
	[ 'parent in the middle', entry(name => 'a/../../escaped', data => 'x') . $end,             qr/not allowed/ ],
	[ 'parent in the prefix', entry(name => 'escaped', prefix => '..', data => 'x') . $end,     qr/not allowed/ ],
	[ 'absolute',             entry(name => "$tmp/escaped", data => 'x') . $end,                qr/not allowed/ ],
	[ 'absolute prefix',      entry(name => 'escaped', prefix => $tmp, data => 'x') . $end,     qr/not allowed/ ],
	[ 'dot',                  entry(name => './x') . $end,                                      qr/not allowed/ ],
	[ 'empty name',           entry(name => '') . $end,                                         qr/not allowed/ ],
	[ 'control character',    entry(name => "a\nb") . $end,                                     qr/not allowed/ ],
	[ 'too deep',             entry(name => join('/', ('d') x 9)) . $end,                       qr/not allowed/ ],
	[ 'symbolic link',        entry(name => 'l', type => '2', link => '/etc') . $end,           qr/neither file nor directory/ ],
	[ 'hard link',            entry(name => 'l', type => '1', link => '/etc/passwd') . $end,    qr/neither file nor directory/ ],
	[ 'device',               entry(name => 'l', type => '3') . $end,                           qr/neither file nor directory/ ],
	[ 'pax header',           entry(name => 'l', type => 'x', data => '20 path=../escaped') . $end, qr/neither file nor directory/ ],
	[ 'same file twice',      entry(name => 'a') . entry(name => 'a') . $end,                   qr/twice/ ],
	[ 'file as directory',    entry(name => 'a') . entry(name => 'a/b') . $end,                 qr/could not create/ ],
	[ 'checksum',             entry(name => 'a', sum => 1) . $end,                              qr/checksum/ ],
	[ 'magic',                entry(name => 'a', magic => 'xxxxxx') . $end,                     qr/checksum/ ],
	[ 'huge file',            header(name => 'a', size => 8 * 2**30 - 1) . $end,               qr/too large/ ],
	[ 'huge binary size',     header(name => 'a', raw_size => "\x80" . "\xff" x 11) . $end,     qr/too large/ ],
	[ 'directory with size',  header(name => 'd/', type => '5', size => 512) . $end,            qr/directory has a size/ ],
	[ 'cut in a header',      substr($good, 0, 700),                                            qr/too early/ ],
	[ 'cut in a file',        substr($good, 0, 512 * 3 + 100),                                  qr/too early/ ],
	[ 'no end',               entry(name => 'a', data => 'x'),                                  qr/too early/ ],
	[ 'nothing',              '',                                                               qr/too early/ ],
	[ 'more after the end',   $end . entry(name => 'a') . $end,                                 qr/after its end/ ]);
for my $case (@bad)
{
	my ($name, $tar, $error) = @$case;
	for my $piece (100_000, 100)
	{
		my ($rc, $err, $target) = unpack_it($tar, $piece);
		ok($rc == 1 && $err =~ /^neon: error: .*\nHINT: .+\n\z/ && $err =~ $error, "$name, pieces of $piece bytes") or diag("$rc $err");
	}
}
ok(!-e "$tmp/escaped" && !-e "$tmp/../escaped", 'nothing got outside');

# ---- noise: never more than an error ----

srand($ENV{NEON_TEST_SEED} || 4711);
my $crashes = 0;
for (1 .. 60)
{
	my $noisy = $good;
	substr($noisy, int(rand(4096)), 1) = chr(int(rand(256))) for 1 .. 1 + int(rand(3));
	my ($rc) = unpack_it($noisy, 1 + int(rand(3000)));
	$crashes++ if $rc > 1;
}
is($crashes, 0, 'flipped bytes');
remove_tree($tmp);
done_testing();
