# Two branches of one name, as files that are put back may bring them: nobody picks
# one of them, by no command and no function; by their IDs they can be used and renamed.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->init;
$t->neon('start');
$t->neon('tenant', 'create', '--set-default');
my $tenant = $t->tenant;
$t->neon('timeline', 'branch', '--branch-name', 'twin');
my $old = $t->timeline('twin');
my $dir = $t->ps_pgdata . "/neon/tenants/$tenant/timelines/$old";
$t->neon('pageserver', 'stop');
system('cp', '-a', $dir, "$t->{tmp}/copy") == 0 or die;
$t->neon('pageserver', 'start');
$t->neon('timeline', 'rename', 'twin', 'first');
$t->neon('timeline', 'branch', '--branch-name', 'twin');
my $new = $t->timeline('twin');
isnt($new, $old, 'a name is given again');
$t->neon('pageserver', 'stop');
system('rm', '-r', $dir) == 0 && system('cp', '-a', "$t->{tmp}/copy", $dir) == 0 or die;
$t->neon('pageserver', 'start');
is($t->psql('pageserver', "SELECT count(*) FROM neon_pageserver.timelines WHERE name = 'twin' AND state = 'active'"), '2', 'two branches have it');

my @error = (qr/2 branches are named "twin"/, qr/by its ID.*neon timeline list/);
for my $args (
	[ 'timeline', 'branch', '--branch-name', 'child', '--ancestor-branch-name', 'twin' ],
	[ 'timeline', 'rename', 'twin', 'other' ],
	[ 'timeline', 'delete', 'twin' ],
	[ 'endpoint', 'create', 'ep', '--branch-name', 'twin' ],
	[ 'endpoint', 'start', 'ep', '--branch-name', 'twin' ])
{
	$t->neon_fails($args, @error, "neon @$args");
}
my $f = 'neon_pageserver';
for my $call ("branch_create('$tenant', 'child', 'twin')", "timeline_rename('$tenant', 'twin', 'other')")
{
	$t->psql_fails('pageserver', "SELECT $f.$call", qr/ERROR:  2 branches are named "twin"\n.*HINT:  Name it by its ID/s, $call);
}
$t->psql_fails('pageserver', "SELECT $f.branch_create('$tenant', 'twin', 'main')", qr/ERROR:  .*"twin"/, 'nor is there a third');
is($t->psql('pageserver', "SELECT count(*) FROM $f.timelines WHERE name IN ('child', 'other')"), '0', 'nothing was done to either of them');
my ($rc, $out) = $t->command([ 'neon', 'timeline', 'list' ]);
like($out, qr/twin \[$_\]/, "the list has both: $_") for $old, $new;

$t->neon_ok([ 'timeline', 'branch', '--branch-name', 'child', '--ancestor-branch-name', $old ], 'a branch of the one with this ID');
is($t->psql('pageserver', "SELECT ancestor_id FROM $f.timelines WHERE name = 'child'"), $old, 'it is of that one');
# each of them, so that it cannot be right by chance
$t->neon_ok([ 'timeline', 'rename', $old, 'first' ], 'one of them gets another name by its ID');
is($t->timeline('first'), $old, 'that one');
is($t->timeline('twin'), $new, 'the other keeps it, and now it is enough again');
$t->neon_ok([ 'timeline', 'rename', $new, 'second' ], 'a name by an ID without another of that name');
$t->neon_ok([ 'timeline', 'rename', 'second', 'twin' ], 'and back');
$t->neon_ok([ 'timeline', 'delete', 'twin' ], 'it is deleted by its name');
is($t->psql('pageserver', "SELECT string_agg(name, ' ' ORDER BY name) FROM $f.timelines"), 'child first main', 'and only that');
$t->neon('stop');
done_testing();
