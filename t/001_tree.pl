# The tree itself: every directory explains itself, no file is too long, no
# marks of unfinished work, the demo's script and the SQL suites are complete.
use strict;
use warnings;
use File::Find;
use Test::More;

my $top = $ENV{NEON_TEST_TOP};

for my $d (qw(common neon_walredo neon_pageserver_bgw neon_compute contrib/neon_ctl contrib/neon_test_utils contrib/bench contrib/demo contrib/wal_model
	contrib/powercut contrib/faultrun contrib/testsql neon_safekeeper_bgw))
{
	ok(-s "$top/$d/README.md", "$d has a README.md");
}
ok(-s "$top/$_", $_) for qw(LICENSE README.md CONTRIBUTING.md docs/architecture.md docs/source-tree.md docs/glossary.md
  docs/wal-service.md docs/settings.md docs/server-memory.md docs/limits.md docs/leaving.md docs/operations.md);

# what a build or the other tests make
my $made = qr/^(\.git|\.build|results|tmp_check|log|home\..*)$/;
my (@long, @marks);
find(
	sub {
		if (-d && /$made/) { $File::Find::prune = 1; return }
		return unless /\.(c|h|sql|pl|pm|sh|md)$/ && -f;
		my $name = substr($File::Find::name, length("$top/"));
		open my $f, '<', $_ or return;
		my $n = 0;
		while (<$f>)
		{
			$n++;
			push @marks, "$name:$n" if $name =~ /\.[ch]$/ && /\b(TODO|FIXME|XXX)\b/;
		}
		push @long, "$name: $n lines" if $n > 900 && $name =~ /\.[ch]$/;
	},
	$top);
is_deeply(\@long, [], 'no C file is longer than 900 lines');
is_deeply(\@marks, [], 'no marks of unfinished work');

for my $sql (glob "$top/sql/*.sql")
{
	my ($name) = $sql =~ m{([^/]+)\.sql$};
	ok(-e "$top/expected/$name.out", "expected/$name.out");
}
ok(-e "$top/sql/$_.sql", "$_ has a pg_regress suite") for qw(neon neon_pageserver neon_safekeeper neon_test_utils);
ok(-e "$top/t/pgtap/$_.sql", "$_ has a pgTAP suite") for qw(neon neon_pageserver neon_safekeeper neon_test_utils);

# every setting that the code defines is documented
my %defined;
my $code = '';
find(
	sub {
		if (-d && (/$made/ || $_ eq 'test')) { $File::Find::prune = 1; return }
		return unless /\.c$/;
		open my $f, '<', $_ or return;
		local $/;
		my $c = <$f>;
		$code .= $c;
		$defined{$1} = 1 while $c =~ /DefineCustom\w+Variable\(\s*"(neon[\w.]*)"/g;
	},
	$top);
my $doc = '';
if (open my $f, '<', "$top/docs/settings.md") { local $/; $doc = <$f> }
my @missing = grep { !/\.test_|^neon_test_utils\./ && $doc !~ /`\Q$_\E`/ } sort keys %defined;
is_deeply(\@missing, [], 'docs/settings.md has every setting');

# every view and function of a compute, but the functions that only views call
my %sql = map { $_ => 1 } text("$top/neon_compute/neon--1.0.sql") =~ /^CREATE (?:VIEW|FUNCTION) (neon\.\w+)/mg;
my $docs = join '', map { text($_) } glob "$top/docs/*.md";
cmp_ok(scalar(keys %sql), '>', 10, 'the views and functions of a compute');
is_deeply([ grep { !/\.get_/ && $docs !~ /\b\Q$_\E\b/ } sort keys %sql ], [], 'each of them is in the documents');

# "neon endpoint config" knows each of a compute's own, but those that only tell
my $checks = '';
if (open my $f, '<', "$top/contrib/neon_ctl/confcheck.c") { local $/; $checks = <$f> }
is_deeply([ grep { /^neon\.\w+$/ && !/\.test_|\.(?:applied_generation|boot_id|term|warm_start)$/ && $checks !~ /"\Q$_\E"/ } sort keys %defined ], [],
	'endpoint config knows the settings of a compute');

# a library of several services may put the prefix before the name itself
my @gone = grep { !$defined{$_} && $code !~ /"[\w.%]*\b\Q@{[ s{.*\.}{}r ]}\E"/ } $doc =~ /^\| `(neon(?:_\w+)?\.\w+)`/mg;
is_deeply(\@gone, [], 'and no other');

# documents point to what is there, files are what their heads say
sub text
{
	my ($file) = @_;
	open my $f, '<', $file or return '';
	local $/;
	return <$f> // '';
}
my (@dead, @wrong_head, @layouts);
find(
	sub {
		if (-d && /$made/) { $File::Find::prune = 1; return }
		return unless /\.(c|h|md)$/ && -f;
		my $text = text($_);
		my $name = substr($File::Find::name, length("$top/"));
		if (/\.md$/)
		{
			push @dead, map { "$name: $_" } grep { !-e } $text =~ /\]\((?!https?:)([^)#\s]+)/g;
			return;
		}
		push @wrong_head, $name unless $text =~ m{\A/\*-+\n \*\n \* \Q$_\E\n};
		push @layouts, $name if $text =~ /^typedef struct f_smgr\b|\b0x9a503d32\b/mi;
	},
	$top);
is_deeply(\@dead, [], 'links in documents lead somewhere');
is_deeply(\@wrong_head, [], 'the head of each C file names it');
is_deeply(\@layouts, ['common/pg15_private.h'], 'private layouts of the server are stated in one place');

my @named = text("$top/docs/source-tree.md") =~ m{`((?:[\w.]+/)+(?:[\w]+\.\w+)?)`}g;
is_deeply([ grep { !m{^[^/]+/$} && !-e "$top/$_" } @named ], [], 'docs/source-tree.md names what is there');
my @commands = text("$top/contrib/neon_ctl/main.c") =~ /^\t\{((?:NULL|"[\w-]+"), "[\w-]+"), "/mg;
s/NULL, |"|,//g for @commands;
my @titles = text("$top/docs/commands.md") =~ /^## (.*)$/mg;
my %described = map { my ($first, @more) = split /, /; ($first => 1, map { $first =~ s/\S+$//r . $_ => 1 } @more) } @titles;
cmp_ok(scalar(@commands), '>', 20, 'the table of commands');
is_deeply([ grep { !$described{$_} } @commands ], [], 'docs/commands.md has every command');

done_testing();
