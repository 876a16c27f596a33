# Stored WAL of the pageserver that is in no layer file, damaged in every way:
# the safekeepers, or in laptop mode the endpoint, still have it.  Nothing is
# lost, all pages are what they were.  While nobody has it, the log and the view
# say where it is damaged, older LSNs and other branches are served.
use strict;
use warnings;
use NeonQuorum;
use NeonTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $f = 'neon_pageserver';
my $segsize = 1 << 20;
my ($t, $tenant, $timeline, $args, $wal);
my $log_from = 0;

sub ps_log { return join '', map { slurp_file($_) } sort glob($t->dir . '/pageserver/log/*'), glob($t->dir . '/pageserver/pgdata/log/*') }
sub log_text { return substr(ps_log(), $log_from) }
sub number { return NeonTest::lsn_num($_[0]) }
sub segment { return "$wal/" . NeonQuorum::segment_name($_[0], $segsize) }
sub conf { my ($who, %s) = @_; $t->psql($who, join('; ', (map { "ALTER SYSTEM SET $_ = '$s{$_}'" } sort keys %s), 'SELECT pg_reload_conf()')); return }
sub flushed { return $t->timeline_field('main', 'disk_consistent_lsn') }

sub begin
{
	my ($n) = @_;
	$t = NeonTest->new(safekeepers => $n, name => $n ? '064_quorum' : '064_laptop');
	$t->quickstart(tenant => [ '--wal-segsize', '1' ]);
	$t->cold;
	($tenant, $timeline) = ($t->tenant, $t->timeline('main'));
	$args = "'$tenant', '$timeline'";
	$wal = $t->wal_dir('main');
	NeonQuorum::branch_id($t, "main");	# it is asked for while the pageserver is away
	conf("pageserver", "$f.page_cache_size" => 0);
	conf("safekeeper $_", 'neon_safekeeper.retention_interval' => '100ms') for 1 .. $n;
	$t->psql('main', 'CREATE EXTENSION neon; CREATE TABLE a (i int PRIMARY KEY, t text); ALTER TABLE a SET (autovacuum_enabled = off)');
	return;
}

# Some megabytes of WAL that are in no layer file; the LSN at their end.
my $rows = 20_000;
sub work
{
	$t->psql('pageserver', "SELECT $f.timeline_checkpoint($args)");
	$t->psql('main', "TRUNCATE a; INSERT INTO a SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, $rows) i; UPDATE a SET t = reverse(t) WHERE i % 5 = 0");
	my $lsn = $t->wait_ingest('main');
	# an endpoint would remove what lies before its checkpoints
	$t->psql('main', 'CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT') if !$t->quorum;
	return $lsn;
}

# All pages of the table and its index, at another LSN those that they have now.
sub relations { return split /\n/, $t->psql('main', q(SELECT pg_relation_filenode(c) || '|' || pg_relation_size(c) / 8192 - 1 FROM unnest('{a,a_pkey}'::regclass[]) c)) }
sub pages
{
	my ($lsn, @rels) = @_;
	@rels = relations() if !@rels;
	return join ' ', map {
		my ($rel, $last) = split /\|/;
		$t->psql('pageserver', "SELECT count(*) || ':' || md5(string_agg(md5($f.get_page($args, 1663, 5, $rel, 0, b, '$lsn')), ' ' ORDER BY b)) FROM generate_series(0, $last) b")
	} @rels;
}

sub patch
{
	my ($path, $offset, $len, $change) = @_;
	open my $h, '+<:raw', $path or die "$path: $!";
	seek $h, $offset, 0;
	read($h, my $bytes, $len) == $len or die "$path is too short";
	seek $h, $offset, 0;
	print $h $change->($bytes);
	close $h or die "$path: $!";
}

# A bit of each of 16 bytes: one alone may be padding, which has no CRC.
sub flip { my ($path, $offset) = @_; patch($path, $offset, 16, sub { $_[0] ^ "\x10" x 16 }); return }

my %damage = (
	'flipped bits' => sub { flip(segment($_[0]), 300_000) },
	'a page of zeros' => sub { patch(segment($_[0]), 40 * 8192, 8192, sub { "\0" x 8192 }) },
	'a missing segment' => sub { unlink segment($_[0]) or die },
	'a cut segment' => sub { truncate segment($_[0]), 100_000 or die });
# Each in a segment of its own, from the second one that is in no layer on.
sub damage
{
	my ($from, @kinds) = @_;
	my $at = $from + $segsize;
	for my $kind (@kinds)
	{
		$damage{$kind}->($at);
		$at += $segsize;
	}
	return;
}

# What is stored, up to an LSN.
sub stored
{
	my ($from, $to) = map { number($_) } @_;
	my %s;
	for (my $at = $from; $at < $to; $at += $segsize - $at % $segsize)
	{
		$s{ segment($at) } = substr(slurp_file(segment($at)), 0, $to - $at + $at % $segsize);
	}
	return \%s;
}

sub log_like { my ($what, $re) = @_; ok(eval { $t->wait_for($what, sub { log_text() =~ $re }) }, $what) or diag(log_text()); return }
sub clean { my ($what) = @_; like($t->neon_ok([ 'storage', 'verify' ], "$what: neon storage verify"), qr/no problem found/, "$what: nothing is wrong"); return }

sub as_before
{
	my ($what, $lsn, $pages, $stored) = @_;
	$t->wait_for_lsn('main', $lsn);
	is(pages($lsn), $pages, "$what: all pages are what they were");
	is_deeply([ grep { substr(slurp_file($_), 0, length $stored->{$_}) ne $stored->{$_} } sort keys %$stored ], [], "$what: so is the WAL");
	clean($what);
	return;
}

# The pageserver is killed, and started on what is left.
sub killed
{
	my ($what, $meanwhile, @kinds) = @_;
	my $lsn = work();
	my ($pages, $stored, $from) = (pages($lsn), stored(flushed(), $lsn), number(flushed()));
	$t->kill9('pageserver');
	damage($from, @kinds);
	$meanwhile->($from) if $meanwhile;
	$log_from = length ps_log();
	$t->neon('pageserver', 'start');
	log_like("$what: the break is told", qr/stored WAL of timeline "$timeline" is damaged, or was never synchronized, behind \S+\n.*DETAIL:.*In file ".*", offset \d+: /);
	as_before($what, $lsn, $pages, $stored);
	like(log_text(), qr/damaged stored WAL behind \S+: It was fetched again, from \S+ to \S+\./, "$what: it was fetched again");
	unlike(log_text(), qr/cannot be fetched again/, "$what: at the first try") if !$meanwhile;
	is($t->psql('main', 'SELECT count(*), count(DISTINCT i) FROM a'), "$rows|$rows", "$what: the endpoint goes on");
	return;
}

# The same with an endpoint that is gone: its next start has it fetched.
sub killed_with_endpoint
{
	my ($what, @kinds) = @_;
	my $lsn = work();
	my ($pages, $stored, $from) = (pages($lsn), stored(flushed(), $lsn), number(flushed()));
	my @rels = relations();
	$t->kill9('main');
	$t->kill9('pageserver');
	damage($from, @kinds);
	$t->neon('pageserver', 'start');
	$t->endpoint_start('main');
	is($t->psql('main', 'SELECT count(*), count(DISTINCT i) FROM a'), "$rows|$rows", "$what: the endpoint has all");
	is(pages($lsn, @rels), $pages, "$what: all pages are what they were");
	clean($what);
	return;
}

# A read, a flush or a request meets the damage.
sub running
{
	my ($what, $sub) = @_;
	my $lsn = work();
	my ($pages, $stored) = (pages($lsn), stored(flushed(), $lsn));
	$log_from = length ps_log();
	damage(number(flushed()), 'flipped bits', 'a page of zeros');
	$sub->($lsn, $pages);
	as_before($what, $lsn, $pages, $stored);
	return;
}

# ---- three safekeepers ----
begin(3);
my $lsn = work();
for my $id (1 .. 3)
{
	my ($seen, $held) = map { number($_) } split /\|/, $t->poll("safekeeper $id",
		"SELECT commit_lsn, wal_start FROM neon_safekeeper.timelines WHERE timeline_id = '$timeline' AND commit_lsn >= '$lsn' AND pageserver_lsn >= '$lsn' AND retained_by = 'pageserver'", qr/./);
	cmp_ok($held, '<=', number(flushed()), "safekeeper $id keeps what is in no layer");
	cmp_ok($seen - $held, '>', 2 * $segsize, 'more than segments that it keeps anyway');
}
$t->psql('pageserver', "SELECT $f.timeline_checkpoint($args)");
$t->poll("safekeeper $_", "SELECT wal_start > pg_lsn '$lsn' - $segsize FROM neon_safekeeper.timelines WHERE timeline_id = '$timeline'") for 1 .. 3;
pass('and no more when it is');

if ($NeonTest::long)
{
	killed($_, undef, $_) for sort keys %damage;
	killed('all at once', undef, sort keys %damage);
}
killed('all at once, one safekeeper down', sub { $t->neon('safekeeper', 'stop', 2, '-m', 'immediate') }, sort keys %damage);
$t->neon('safekeeper', 'start', 2);
NeonQuorum::wait_streaming($t, 'main', 3);

killed_with_endpoint('endpoint and pageserver gone', sort keys %damage) if $NeonTest::long;

# two of them have the same damage: the third one has it
sub sk_segment { my ($id, $at) = @_; return NeonQuorum::wal_dir($t, 'main', $id) . '/' . NeonQuorum::segment_name($at, $segsize) }
killed('two damaged safekeepers', sub { my ($from) = @_; flip(sk_segment($_, $from + $segsize), 300_000) for 1, 2 }, 'flipped bits') if $NeonTest::long;

# the whole end is missing: that cannot be told from WAL that never came
$lsn = work();
my ($pages, $stored) = (pages($lsn), stored(flushed(), $lsn));
my $last = number(flushed());
$t->kill9('pageserver');
for (my $at = number($lsn); $at > $last + $segsize; $at -= $segsize) { unlink segment($at) or die }
$t->neon('pageserver', 'start');
as_before('without the last segments', $lsn, $pages, $stored);

running('a read', sub {
		my ($lsn, $pages) = @_;
		like(eval { pages($lsn); '' } // $@, qr/could not read the WAL record at \S+ in file ".*", offset \d+/, 'a read that meets damage is refused');
		log_like('it is fetched again by itself', qr/stored WAL of timeline "$timeline" with a damaged record at \S+: It was fetched again/);
	});
running('a flush', sub { $t->wait_for('a layer', sub { ($t->psql_raw('pageserver', "SELECT $f.timeline_checkpoint($args)"))[0] == 0 }); pass('a layer is written') }) if $NeonTest::long;
running('on demand', sub {
		$t->neon_fails([ 'storage', 'verify' ], qr/\d+ places? (?:is|are) damaged/, qr/--repair/, 'neon storage verify finds damage');
		like($t->neon_ok([ 'storage', 'verify', '--repair' ]), qr/It was fetched again, from \S+ to \S+\./, 'and has it fetched again');
	});

# ---- nobody has it ----
work();
$t->psql('pageserver', "SELECT $f.timeline_checkpoint($args)");
my $old = flushed();
my @old = relations();
my $old_pages = pages($old, @old);
$t->neon('timeline', 'branch', '--branch-name', 'other', '--ancestor-start-lsn', $old);
$t->endpoint_start('other', branch => 'other');
$t->psql('main', 'UPDATE a SET t = reverse(t)');
$lsn = $t->wait_ingest('main');
($pages, $stored, my $from) = (pages($lsn), stored(flushed(), $lsn), number(flushed()));
$t->kill9('pageserver');
damage($from, 'a missing segment');
flip(sk_segment($_, $from + $segsize), 300_000) for 1 .. 3;
$log_from = length ps_log();
$t->neon('pageserver', 'start');
log_like('nobody has it', qr/timeline "$timeline" receives no WAL: what is stored behind \S+ is damaged\n.*DETAIL:.*In file ".*", offset \d+\..*cannot be fetched again: .*port=\d+.*not valid.*\n.*HINT:/);
like($t->psql('pageserver', "SELECT last_error FROM $f.sources WHERE timeline_id = '$timeline'"), qr/stored WAL is damaged/, 'the view says so');
cmp_ok(number($t->timeline_field('main', 'last_record_lsn')), '<', number($lsn), 'nothing behind it is believed');
is(pages($old, @old), $old_pages, 'older LSNs are served');
$t->psql('other', 'CREATE TABLE b (i int)');
$t->wait_ingest('other', 'other');
is($t->psql('other', 'SELECT count(*) FROM a'), $rows, 'another branch goes on');
flip(sk_segment(3, $from + $segsize), 300_000);
as_before('when one has it again', $lsn, $pages, $stored);
$t->neon('stop');

# ---- laptop mode: the endpoint has it, checkpoints or not ----
begin(0);
if ($NeonTest::long)
{
	killed("laptop: $_", undef, $_) for sort keys %damage;
	running('laptop: on demand', sub { like($t->neon_ok([ 'storage', 'verify', '--repair' ]), qr/It was fetched again, from \S+ to \S+\./, 'it is fetched again') });
}
killed('laptop', undef, sort keys %damage);
killed_with_endpoint('laptop: endpoint and pageserver gone', sort keys %damage) if $NeonTest::long;
$t->neon('stop');
is_deeply([ $t->left_running ], [], 'nothing is left');
done_testing();
