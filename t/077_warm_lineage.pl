# Local pages are kept only if the files are those that the life before left,
# and what it wrote is the branch's history: not if somebody worked on the
# stopped directory, not if the pageserver was put back, and not by a compute
# that stops cleanly after another one has taken over.
use strict;
use warnings;
use NeonOverlay;
use NeonTest;
use NeonWarm;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR};
# a life with wrong pages writes them, so that one comes last
my @bugs = $lib ? ('', 'any_lineage') : ('');

sub sums { my ($t, $name) = @_; return $t->psql($name // 'main', 'SELECT sum(id + n), count(*), sum(length(pad)) FROM one UNION ALL SELECT sum(id + n), count(*), sum(length(pad)) FROM two') }

# ---- a life that nobody had anything to do with ----

my $t = one_and_two(NeonTest->new(safekeepers => 0), tenant => ['--data-checksums'], settings => ['shared_buffers=2MB']);
my $sums = sums($t);
my $path = $t->psql('main', q{SELECT pg_relation_filepath('one')});
my $pgdata = $t->pgdata('main');

sub starts
{
	my ($kept, $reason, $name) = @_;
	$t->endpoint_start('main');
	is(warm($t, 'kept_bytes > 0'), $kept, "$name: kept or not");
	like(warm($t, 'reason'), $reason, 'and it is said why');
	is(sums($t), $sums, 'the data are right');
	pages_agree($t, $name, $NeonTest::long ? 2000 : 300);
	return;
}

# ---- somebody works on the stopped directory ----

$t->endpoint_stop('main');
my ($rc, $out, $err) = $t->command([ 'pg_checksums', '--check', '-D', $pgdata ]);
is($rc, 0, 'pg_checksums --check of the stopped directory') or diag($out, $err);
starts('t', qr/^$/, 'after it was only looked at');
$t->endpoint_stop('main');
($rc, $out, $err) = $t->command([ 'pg_checksums', '--disable', '-D', $pgdata ]);
is($rc, 0, 'pg_checksums --disable') or diag($out, $err);
starts('f', qr/used by another server/, 'after pg_checksums --disable');
$t->endpoint_stop('main');
truncate "$pgdata/global/pg_control", 100 or die $!;
starts('f', qr/used by another server/, 'with pg_control cut off');
$t->endpoint_stop('main');
unlink "$pgdata/global/pg_control" or die $!;
starts('f', qr/its files are missing/, 'without pg_control');
$t->endpoint_stop('main');
rename "$pgdata/base", "$pgdata/elsewhere" or die $!;
starts('t', qr/^$/, 'without the databases');
is(present($t, 'one'), 100, 'all was fetched');

# ---- another place, as the list has it ----

sub elsewhere
{
	my ($at, $more, $reason, $name) = @_;
	my $file = "$pgdata/neon.kept";
	my $list = NeonTest::Vanilla::slurp($file);
	substr($list, $at, 8) = pack 'q<', $more + unpack 'q<', substr $list, $at, 8;
	substr($list, 168, 4) = pack 'V', NeonOverlay::crc32c(substr $list, 0, 168);
	open my $f, '>:raw', $file or die "$file: $!";
	print $f $list;
	close $f or die "$file: $!";
	like($t->endpoint_start('main'), $reason, $name);
	$t->endpoint_stop('main');
	return;
}
$t->endpoint_stop('main');
elsewhere(96, -3600e9, qr/^Kept /m, 'the clock was set forward by an hour: kept');
elsewhere(96, 1e9, qr/are not kept: the machine's clock was set back since$/m, 'back by a second: not');
elsewhere(80, 1, qr/are not kept: they are on another disk/, 'another file system') if $NeonTest::long;
elsewhere(88, 1, qr/are not kept: they are on another disk, or it was attached anew$/m, 'a disk that was attached anew');
$t->endpoint_start('main');

# one page of one file, which is written back with another content and its old times
for my $bug ($lib ? ('any_file', '') : (''))
{
	break_rule($t, 'main', $bug) if $lib;
	$t->endpoint_stop('main', '-m', 'immediate') if $bug eq '';
	$t->endpoint_start('main') if $bug eq '';
	sums($t);
	$t->endpoint_stop('main');
	my $file = "$pgdata/$path";
	my @times = (stat $file)[ 8, 9 ];
	open my $f, '+<', $file or die "$file: $!";
	binmode $f;
	seek $f, 3 * 8192, 0;
	print $f "\0" x 8192;
	close $f or die "$file: $!";
	utime @times, $file or die "$file: $!";
	if ($bug ne '')
	{
		$t->endpoint_start('main');
		isnt(eval { sums($t) } // '', $sums, 'a file that was changed and is kept is wrong');
		next;
	}
	starts('t', qr/^$/, 'after one file was changed');
	like($t->neon('endpoint', 'logs', 'main'), qr/LOG:  1 relation files of the life before are not kept, as they were changed after it had ended/, 'the log tells');
}

# ---- the pageserver is put back, and a term is given twice ----

for my $bug (@bugs)
{
	my $name = $bug ? 'without the check' : 'with it';
	$t->neon('endpoint', 'stop', 'main');
	$t->neon('stop');
	if ($lib) { break_rule($t, $_, $bug) for qw(main pageserver) }
	system('cp', '-a', "$t->{dir}/pageserver", "$t->{dir}/pageserver.copy") == 0 or die;
	$t->neon('start');
	$t->endpoint_start('main');
	$t->psql('main', 'UPDATE one SET n = n + 100');
	$t->endpoint_stop('main');
	$t->neon('stop');
	system('rm', '-rf', "$t->{dir}/pageserver") == 0 or die;
	rename "$t->{dir}/pageserver.copy", "$t->{dir}/pageserver" or die $!;
	$t->neon('start');
	# more WAL, of other changes
	$t->endpoint_start('main2', branch => 'main');
	$t->psql('main2', 'UPDATE two SET n = n + 7') for 1 .. 3;
	my $right = sums($t, 'main2');
	$t->endpoint_stop('main2');
	$t->endpoint_start('main');
	my $now = eval { sums($t) } // '';
	if ($bug)
	{
		isnt($now, $right, "a pageserver that was put back, $name: wrong");
		last;
	}
	is($now, $right, "a pageserver that was put back, $name: right");
	is(warm($t, 'kept_bytes'), 0, 'nothing is kept');
	like($t->neon('endpoint', 'logs', 'main'), qr/nothing is kept of the local pages/, 'the log says so');
	pages_agree($t, 'which was put back', 2000);
	$t->amcheck('main');
}
$t->neon('endpoint', 'stop', 'main');
$t->neon('stop');
done_testing();
