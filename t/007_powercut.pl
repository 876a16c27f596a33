# The power-cut library itself: what is synchronized stays, the rest is undone.
use strict;
use warnings;
use Cwd qw(realpath);
use File::Path qw(make_path);
use PowerCut;
use Test::More;

plan skip_all => 'no libraries with injection points' unless PowerCut::available();

my $tmp = realpath($ENV{TESTDATADIR}) . '/powercut';
my $dir = "$tmp/watched";
make_path($dir, "$tmp/other");
my $cut = PowerCut->new(log => "$tmp/log", dirs => [$dir]);

# Runs Perl code in a process of its own, with the library.
sub run_watched
{
	my ($code, %o) = @_;
	local %ENV = (%ENV, $cut->env(%o));
	return system($^X, '-MFcntl', '-MIO::Handle', '-e', <<'EOF' . $code, $dir);
my $dir = $ARGV[0];
sub put { my ($n, $at, $data) = @_; sysopen(my $f, "$dir/$n", O_RDWR | O_CREAT) or die; sysseek($f, $at, 0); syswrite($f, $data) == length $data or die; return $f }
sub sync_file { my ($n) = @_; open(my $f, '+<', "$dir/$n") or die; $f->sync or die }
sub sync_dir { sysopen(my $f, $dir, O_RDONLY) or die; $f->sync or die }
EOF
}

sub slurp { my ($n) = @_; open(my $f, '<', "$dir/$n") or return undef; local $/; my $d = <$f>; return $d }

sub names { opendir(my $d, $dir) or die; return join ' ', sort grep { !/^\./ } readdir $d }

run_watched(q{put('a', 0, 'old'); sync_file('a'); sync_dir(); put('a', 0, 'new and longer'); put('b', 0, 'x'); sync_file('b');});
is(slurp('a'), 'new and longer', 'before the cut');
cmp_ok($cut->undo, '>', 0, 'something is undone');
is(names(), 'a', 'a name that was not synchronized is gone, though its contents were');
is(slurp('a'), 'old', 'contents that were not synchronized are the old ones');

run_watched(q{put('a', 0, 'new'); sync_file('a'); rename "$dir/a", "$dir/c" or die; put('c', 3, '!');});
$cut->undo;
is(names(), 'a', 'a rename is undone');
is(slurp('a'), 'new', 'and what was written after it');

run_watched(q{put('d', 0, 'replaced'); sync_file('d'); sync_dir(); put('e', 0, 'by this'); sync_file('e'); rename "$dir/e", "$dir/d" or die;});
$cut->undo;
is(names(), 'a d', 'a rename over another name is undone');
is(slurp('d'), 'replaced', 'and the replaced file is back');

run_watched(q{rename "$dir/a", "$dir/d" or die; sync_dir(); unlink "$dir/d" or die; mkdir "$dir/m" or die; open(my $f, '>', "$dir/m/f") or die;});
$cut->undo;
is(names(), 'd', 'removed names are back, new directories gone');
is(slurp('d'), 'new', 'a synchronized rename stays');

run_watched(q{put('g', 0, 'g'); rename "$dir/g", "$dir/h" or die; system('sync', '-f', $dir) == 0 or die; put('h', 0, 'lost');});
$cut->undo;
is(names(), 'd h', 'a sync of the file system keeps names');
is(slurp('h'), 'g', 'and contents, but nothing that came after it');
run_watched(q{unlink "$dir/h" or die; sync_dir();});

run_watched(q{open(my $f, '+<', "$dir/d") or die; truncate($f, 1) or die;});
is(slurp('d'), 'n', 'truncated');
$cut->undo;
is(slurp('d'), 'new', 'a truncation is undone');

# cut at the k'th step: name, bytes, sync, rename, sync of the directory
my @left;
my $steps = q{my $f = put('t', 0, 'data'); $f->sync or die; rename "$dir/t", "$dir/u" or die; sync_dir();};
for my $k (1 .. 5)
{
	isnt(run_watched($steps, at => $k), 0, "the power goes off at step $k");
	ok($cut->was_cut, 'which is noted');
	$cut->undo;
	push @left, names();
}
is(join(',', @left), 'd,d,d,d,d', 'without the last step nothing of it remains');
is(run_watched($steps, at => 6), 0, 'a cut after the end');
is($cut->changes, 5, 'steps are counted');
$cut->undo;
is(names(), 'd u', 'after the last step everything remains');

# with a seed a part of it remains: of many pages some, not all and not none
run_watched(q{put('p', 0, 'o' x 409600); sync_file('p'); sync_dir(); put('p', 0, 'n' x 409600);});
$cut->undo(seed => 5);
my $new = (slurp('p') =~ tr/n//);
cmp_ok($new, '>', 0, 'some pages have reached the disk');
cmp_ok($new, '<', 409600, 'others have not');
is($new % 4096, 0, 'whole ones');

# a directory without its subdirectories
make_path("$dir/sub");
my $flat = PowerCut->new(log => "$tmp/log2", dirs => ["$dir/."]);
$cut = $flat;
run_watched(q{put('flat', 0, 'x'); put('sub/deep', 0, 'x');});
$cut->undo;
is(names(), 'd p sub u', 'names in the directory are undone');
is(slurp('sub/deep'), 'x', 'those in its subdirectories are not watched');

done_testing();
