# The neon command without any server: help, options, wrong usage, and state
# directories that are not there or not ours.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;

# ---- help: every verb of the overview has a page with an example ----

my $overview = $t->neon_ok(['--help'], 'help');
my @verbs = $overview =~ /^  neon ((?:(?:pageserver|safekeeper|tenant|timeline|endpoint|storage|layer) )?[a-z-]+)\b.* {2,}/mg;
cmp_ok(scalar(@verbs), '>=', 24, 'the overview lists the commands');
for my $verb (@verbs)
{
	my ($rc, $out, $err) = $t->command([ 'neon', split(/ /, $verb), '--help' ]);
	ok($rc == 0 && $err eq '' && $out =~ /^Usage: neon \Q$verb\E/ && $out =~ /^Examples:\n  neon/m,
		"help of \"$verb\"")
	  or diag("$rc\n$out\n$err");
}
like($t->neon_ok([ 'endpoint', '--help' ], 'help of a group'), qr/neon endpoint start/, 'help of a group lists its verbs');
like($t->neon_ok(['--version'], 'version'), qr/^neon \d+\.\d+ \(PostgreSQL 15\)$/, 'version');

# ---- wrong usage: exit code 2, one line, a hint, nothing made ----

my $id = '0' x 32;
my @usage = (
	[ [], qr/no command/ ],
	[ ['frobnicate'], qr/unknown command "frobnicate"/ ],
	[ ['tenant'], qr/needs a verb/ ],
	[ [ 'tenant', 'frobnicate' ], qr/unknown command "tenant frobnicate"/ ],
	[ [ 'init', '--frobnicate' ], qr/unknown option "--frobnicate"/ ],
	[ [ 'init', '--port', '1' ], qr/"neon init" has no option --port/ ],
	[ [ 'init', '--pageserver-port' ], qr/--pageserver-port needs a value/ ],
	[ [ 'init', '--pageserver-port', '65536' ], qr/invalid value "65536"/ ],
	[ [ 'init', '--pageserver-port=12x' ], qr/invalid value "12x"/ ],
	[ [ 'init', '--auth', 'md5' ], qr/invalid value "md5"/, qr/scram\|trust/ ],
	[ [ 'init', '--force=1' ], qr/--force takes no value/ ],
	[ [ 'init', '--force', '--force' ], qr/given twice/ ],
	[ [ 'init', 'here' ], qr/unexpected argument "here"/ ],
	[ [ 'init', '--safekeepers', '2' ], qr/2 is no number of safekeepers/, qr/1, 3 or 5/ ],
	[ [ 'stop', '-m', 'smart' ], qr/invalid value "smart"/ ],
	[ [ 'tenant', 'create', '--tenant-id', 'abc' ], qr/invalid value "abc"/, qr/32 hexadecimal/ ],
	[ [ 'tenant', 'create', '--tenant-id', $id ], qr/invalid value "0{32}"/, qr/not all/ ],
	[ [ 'tenant', 'delete' ], qr/needs ID/ ],
	[ [ 'timeline', 'rename', 'a' ], qr/needs OLD NEW/ ],
	[ [ 'timeline', 'branch', '--ancestor-start-lsn', '16F9A00' ], qr/invalid value "16F9A00"/, qr{0/16F9A00} ],
	[ [ 'timeline', 'branch', '--ancestor-start-lsn', '123456789/0' ], qr/invalid value/ ],
	[ [ 'endpoint', 'start' ], qr/needs NAME/ ],
	[ [ 'endpoint', 'start', 'a', 'b' ], qr/unexpected argument "b"/ ],
	[ [ 'endpoint', 'start', 'a', '--lsn', '0/0x' ], qr/invalid value/ ],
	[ [ 'endpoint', 'start', 'a', '--port', '-1' ], qr/invalid value "-1"/ ],
	[ [ 'endpoint', 'start', 'a', '--branch-name', '' ], qr/invalid value ""/ ]);
for my $case (@usage)
{
	my ($args, $error, $hint) = @$case;
	my $name = "neon @$args";
	my ($rc) = $t->command([ 'neon', @$args ]);
	is($rc, 2, "$name: exit code 2");
	$t->neon_fails($args, $error, $hint || qr/./, $name);
}
ok(!-e $t->dir, 'wrong usage makes no state directory');

# ---- state directories ----

for my $args ([ 'status' ], [ 'start' ], [ 'stop' ], [ 'endpoint', 'list' ], [ 'tenant', 'create' ])
{
	$t->neon_fails($args, qr/there is no state directory/, qr/neon init/, "neon @$args without a state directory");
}
mkdir $t->dir or die;
$t->neon_fails([ 'status' ], qr/there is no state directory/, qr/neon init/, 'an empty directory is no state directory');
open my $f, '>', $t->dir . '/precious' or die;
close $f;
for my $force ([], ['--force'])
{
	$t->neon_fails([ 'init', '--pageserver-port', '0', @$force ], qr/not empty and no state directory/, qr/-D DIR/,
		"init @$force in a directory of something else");
}
ok(-e $t->dir . '/precious', 'which is left as it is');
unlink $t->dir . '/precious';
open $f, '>', $t->dir . '/config' or die;
print $f "format=1\nstate=ready\nthis is no setting\n";
close $f;
$t->neon_fails([ 'status' ], qr/line 3 of ".*config" is not understood/, qr/./, 'a damaged config file');
$t->neon_fails([ 'init', '--force' ], qr/line 3/, qr/./, 'is not wiped either');
open $f, '>', $t->dir . '/config' or die;
print $f "format=1\nstate=initializing\nauth=scram\n";
close $f;
$t->neon_fails([ 'status' ], qr/did not come to its end/, qr/--force/, 'an init that broke off');

done_testing();
