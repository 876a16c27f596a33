# What is in no WAL and has to outlive a compute: free space maps and cumulative
# statistics.  Tables of an endpoint that is stopped and started again and again stay
# about as large as those of stock PostgreSQL, autovacuum runs, and whatever becomes of
# what was saved costs no start.
use strict;
use warnings;
use NeonTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $cycles = $NeonTest::long ? 20 : 5;
my $rows = $NeonTest::long ? 50_000 : 10_000;
my $t = NeonTest->new;
my $settings = "autovacuum_naptime = 1s\nautovacuum_vacuum_threshold = 100\n";

# with checksums, which pages of a map that is put back must have too
$t->quickstart(no_endpoint => 1, tenant => ['--data-checksums']);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', map { s/ //gr } split /\n/, $settings);
$t->endpoint_start('main');
$t->psql('main', 'CREATE EXTENSION neon; CREATE EXTENSION pg_freespacemap');

sub slurp_log { return join '', map { PostgreSQL::Test::Utils::slurp_file($_) } glob "$t->{dir}/endpoints/$_[0]/{postgres.log,log/*}" }

# The saved file of a kind, of a branch.
sub saved_file
{
	my ($kind, $branch) = @_;
	return $t->ps_pgdata . '/neon/tenants/' . $t->tenant . '/timelines/' . $t->timeline($branch || 'main') . "/saved.$kind";
}

sub restart
{
	my ($ep) = @_;
	$t->endpoint_stop($ep);
	$t->endpoint_start($ep);
	return;
}

# What came with the start: "statistics fsm", or one of them, or nothing.  (The
# third kind is that of 077_prewarm.pl.)
sub restored
{
	return $t->psql($_[0], "SELECT coalesce(string_agg(kind, ' ' ORDER BY kind DESC), '') FROM neon.saved WHERE restored_bytes > 0 AND kind <> 'warm'");
}

sub free_space
{
	my ($ep, $rel) = @_;
	return $t->psql($ep, "SELECT count(*) FILTER (WHERE avail > 0) || ' ' || md5(string_agg(avail::text, ',' ORDER BY blkno)) FROM pg_freespace('$rel')");
}

# ---- cycles beside stock PostgreSQL ----

my $schema = <<"SQL";
CREATE TABLE whole(id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
INSERT INTO whole SELECT i, repeat('a', 100) FROM generate_series(1, $rows) i;
CREATE TABLE bit(id int PRIMARY KEY, v text);
INSERT INTO bit SELECT i, repeat('a', 100) FROM generate_series(1, $rows) i;
VACUUM ANALYZE whole; VACUUM ANALYZE bit;
SQL
# In one life a twelfth of a table changes: less than what autovacuum begins at, a fifth.
# Who analyzes at that moment may keep a vacuum from removing all.
sub life
{
	my ($i, $sql) = @_;
	$sql->("UPDATE whole SET v = repeat(chr(97 + $i), 100)");
	$t->wait_for('a vacuum of all', sub {
		$sql->('VACUUM whole');
		$sql->("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'whole'") eq '0' });
	$sql->("UPDATE bit SET v = repeat(chr(97 + $i), 100) WHERE id % 12 = $i % 12");
	$t->wait_for('autovacuum', sub { $sql->("SELECT n_dead_tup <= 100 + 0.2 * $rows FROM pg_stat_user_tables WHERE relname = 'bit'") eq 't' });
	return;
}
my @tables = qw(whole bit whole_pkey);
my $node = PostgreSQL::Test::Cluster->new('vanilla');
$node->init;
$node->append_conf('postgresql.conf', "${settings}fsync = off\n");
$node->start;
$node->safe_psql('postgres', $schema);
$t->psql('main', $schema);
my $begun = $t->psql('main', 'SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = \'whole\'');
for my $i (1 .. $cycles)
{
	life($i, sub { $t->psql('main', $_[0]) });
	restart('main');
	life($i, sub { $node->safe_psql('postgres', $_[0]) });
	$node->restart;
}
is(restored('main'), 'statistics fsm', 'both kinds came with the last start');
for my $rel (@tables)
{
	my $ours = $t->psql('main', "SELECT pg_relation_size('$rel')");
	my $theirs = $node->safe_psql('postgres', "SELECT pg_relation_size('$rel')");
	cmp_ok($ours, '<=', 1.3 * $theirs, "$rel: $ours bytes after $cycles lives, with stock PostgreSQL $theirs");
}
is($t->psql('main', "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'whole'"), $begun, 'statistics go on');
$t->poll('main', "SELECT autovacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'bit'");
pass('autovacuum runs when the changes of several lives are enough');
$node->stop;

# ---- exactly, over a stop ----

$t->psql('main', 'ALTER SYSTEM SET autovacuum = off');
$t->psql('main', 'SELECT pg_reload_conf()');
$t->psql('main', 'CREATE TABLE more(a int, b text); INSERT INTO more SELECT i, repeat(\'x\', i % 900) FROM generate_series(1, 20000) i; DELETE FROM more WHERE a % 3 = 0; VACUUM more;');
$t->psql('main', 'SELECT count(*) FROM more');
my %space = map { $_ => free_space('main', $_) } qw(whole more pg_attribute);
my $numbers = "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_live_tup, n_dead_tup, vacuum_count, last_vacuum FROM pg_stat_user_tables ORDER BY 1";
my $stats = $t->psql('main', $numbers);
restart('main');
is($t->psql('main', $numbers), $stats, 'the numbers of tables after a stop and a start');
is(free_space('main', $_), $space{$_}, "$_: the free space map too") for sort keys %space;
like($space{more}, qr/^[1-9]/, 'which says something');
# what nobody touches is not lost in the second life
restart('main');
restart('main');
is(free_space('main', 'more'), $space{more}, 'nor over lives in which nobody looked at it');

# ---- killed ----

$t->psql('main', "ALTER SYSTEM SET neon.save_interval = '500ms'");
$t->psql('main', 'SELECT pg_reload_conf()');
$t->psql('main', 'CREATE TABLE late(a int, b text); INSERT INTO late SELECT i, repeat(\'x\', 300) FROM generate_series(1, 3000) i; DELETE FROM late WHERE a % 2 = 0; DELETE FROM more WHERE a > 2000; VACUUM late, more;');
$t->poll('main', "SELECT min(saved_at) > (SELECT max(last_vacuum) + '0.2 second' FROM pg_stat_user_tables) FROM neon.saved");
my $late = free_space('main', 'late');
# changes that come after what was saved: a table that is gone, one that is cut
my $wait = $t->psql('main', "ALTER SYSTEM SET neon.save_interval = '-1'");
$t->psql('main', 'SELECT pg_reload_conf()');
$t->poll('main', "SELECT current_setting('neon.save_interval')", '-1');
$t->psql('main', 'DROP TABLE whole; TRUNCATE late; INSERT INTO late SELECT 1, \'y\';');
$t->wait_ingest('main');
$t->kill9('main');
$t->endpoint_start('main');
is(restored('main'), 'statistics fsm', 'after kill -9, what was saved last');
is($t->psql('main', "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'more'"), '20000', 'as the numbers say');
is($t->psql('main', "SELECT count(*) FROM pg_freespace('late') WHERE avail > 0"), '0', 'a map of a file that was replaced is not used');
is($t->psql('main', "WITH i AS (INSERT INTO more SELECT 1, repeat('z', 500) FROM generate_series(1, 3000) RETURNING 1) SELECT count(*) FROM i"),
	'3000', 'a relation takes rows by its map');
$t->endpoint_stop('main', '-m', 'immediate');
$t->endpoint_start('main');
is(restored('main'), 'statistics fsm', 'after an immediate stop too');

# ---- whose is it ----

my $term = $t->psql('main', 'SELECT term FROM neon.status');
my $put = sub {
	my ($at, $kind, $lsn, $data) = @_;
	return "SELECT neon_pageserver.saved_put('" . $t->tenant . "', '" . $t->timeline('main') . "', $at, '$kind', '$lsn', $data)";
};
$t->psql_fails('pageserver', $put->($term - 1, 'fsm', 'F/0', "'old'"), qr/superseded by term $term/, 'an older compute cannot save');
$t->psql_fails('pageserver', $put->($term, 'nothing', 'F/0', "'old'"), qr/unknown kind/, 'nor anybody another kind');
$t->psql_fails('pageserver', $put->($term, 'fsm', 'F/0', "decode(repeat('00', 16777217), 'hex')"), qr/too large/, 'nor too much');
my $size = -s saved_file('fsm');
$t->psql('pageserver', $put->($term, 'fsm', 'F/0', "'newest'"));
$t->psql('pageserver', $put->($term, 'fsm', 'E/0', "'older'"));
like(PostgreSQL::Test::Utils::slurp_file(saved_file('fsm')), qr/newest$/, 'what comes late does not replace what is newer');
is(sprintf('%o', (stat saved_file('fsm'))[2] & 07777), '600', 'rights of the file');
restart('main');
is(restored('main'), 'statistics', 'a start does without what is no free space map');
like(slurp_log('main'), qr/saved free space maps of the last life are not used/, 'which is logged');
# its compute saves at no time now, so it is still there
$t->psql('main', 'ALTER SYSTEM RESET neon.save_interval');
$t->psql('main', 'SELECT pg_reload_conf()');
$t->psql('main', 'VACUUM more');
restart('main');
is(restored('main'), 'statistics fsm', 'and is whole again after the next stop');

# ---- branches, static and ephemeral endpoints ----

$t->neon('timeline', 'branch', '--branch-name', 'child');
$t->endpoint_start('child', branch => 'child');
is(restored('child'), 'fsm', 'a branch begins with free space maps and without statistics');
is(free_space('child', 'more'), free_space('main', 'more'), 'which are those of its ancestor');
is($t->psql('child', "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'more'"), '0', 'its numbers begin at zero');
$t->psql('child', 'INSERT INTO more SELECT 5');
restart('child');
is(restored('child'), 'statistics fsm', 'then it has its own');
is($t->psql('child', "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'more'"), '1', 'numbers');
$t->endpoint_stop('child');
my @before = map { (stat saved_file($_))[1] } qw(statistics fsm);
$t->endpoint_start('static', lsn => $t->insert_lsn('main'));
is(restored('static'), '', 'a static endpoint gets nothing');
$t->endpoint_stop('static');
$t->endpoint_start('eph', ephemeral => 1);
is(restored('eph'), 'fsm', 'an ephemeral one free space maps');
$t->psql('eph', 'INSERT INTO more SELECT 5; VACUUM more');
$t->endpoint_stop('eph');
is_deeply([ map { (stat saved_file($_))[1] } qw(statistics fsm) ], \@before, 'neither of them saves anything');

# ---- damage ----

# CRC-32C
my @crc_table = map { my $c = $_; $c = $c & 1 ? ($c >> 1) ^ 0x82F63B78 : $c >> 1 for 1 .. 8; $c } 0 .. 255;
sub crc32c { my $c = 0xFFFFFFFF; $c = ($c >> 8) ^ $crc_table[($c ^ $_) & 0xFF] for unpack 'C*', $_[0]; return $c ^ 0xFFFFFFFF }

# The compute's bytes: a head of 64 with length and checksum at its end, the body.
sub mutate
{
	my ($data) = @_;
	my $body = substr($data, 64);
	for (1 .. 1 + int rand 8)
	{
		my $at = rand() < 0.5 ? int rand(length($body) < 64 ? length $body : 64) : int rand length $body;
		substr($body, $at, 1) = chr int rand 256;
	}
	$body = substr($body, 0, int rand length $body) if rand() < 0.3;
	return substr($data, 0, 56) . pack('VV', length $body, crc32c($body)) . $body;
}

$t->endpoint_stop('main');
my %good = map { $_ => PostgreSQL::Test::Utils::slurp_file(saved_file($_)) } qw(statistics fsm);
sub overwrite { my ($file, $data) = @_; open my $f, '>:raw', $file or die "$file: $!"; print $f $data; close $f or die; return }

my %damaged = map { my $g = $good{$_}; $_ => [ substr($g, 0, 50) . chr(ord(substr $g, 50, 1) ^ 16) . substr($g, 51), substr($g, 0, -5), '' ] } keys %good;
for my $case ([ 0, 1 ], [ 2, 0 ])
{
	overwrite(saved_file('statistics'), $damaged{statistics}[ $case->[0] ]);
	overwrite(saved_file('fsm'), $damaged{fsm}[ $case->[1] ]);
	$t->endpoint_start('main');
	is(restored('main'), '', 'damaged files: a start without');
	$t->endpoint_stop('main', '-m', 'immediate');
}
for my $round (1 .. ($NeonTest::long ? 20 : 2))
{
	for my $kind (qw(statistics fsm))
	{
		# the pageserver's own head: its checksum covers it with zero in its place
		my $data = mutate(substr($good{$kind}, 32));
		my $head = substr($good{$kind}, 0, 12) . pack('V', length $data) . substr($good{$kind}, 16, 8) . ("\0" x 8);
		substr($head, 24, 4) = pack('V', crc32c($head . $data));
		overwrite(saved_file($kind), $head . $data);
	}
	$t->endpoint_start('main');
	note('restored: ' . restored('main'));
	$t->psql('main', "SELECT count(*) FROM pg_stat_all_tables; SELECT count(*) FROM pg_freespace('more'); INSERT INTO more SELECT 6, repeat('m', 100) FROM generate_series(1, 500); VACUUM more");
	$t->endpoint_stop('main', '-m', 'immediate');
}
pass('hostile contents harm neither start nor work');
# statistics that are well packed, as stock PostgreSQL wrote them, then with an entry that it never writes
my $stock = slurp_file($node->data_dir . '/pg_stat/pgstat.stat');
for my $case ([ '', 'statistics' ], [ 'S' . pack('V3', 6, 0, 0), '' ])
{
	my $body = join '', map { pack('VV', length, length) . $_ } unpack '(a32768)*', substr($stock, 0, -1) . $case->[0] . 'E';
	my $data = substr($good{statistics}, 32, 56) . pack('VV', length $body, crc32c($body)) . $body;
	my $head = substr($good{statistics}, 0, 12) . pack('V', length $data) . substr($good{statistics}, 16, 8) . ("\0" x 8);
	substr($head, 24, 4) = pack('V', crc32c($head . $data));
	overwrite(saved_file('statistics'), $head . $data);
	overwrite(saved_file('fsm'), '');
	$t->endpoint_start('main');
	is(restored('main'), $case->[1], $case->[1] ? 'statistics as the server writes them' : 'an entry of a kind that has none is refused');
	$t->endpoint_stop('main', '-m', 'immediate');
}
overwrite(saved_file($_), $good{$_}) for qw(statistics fsm);
$t->endpoint_start('main');
is(restored('main'), 'statistics fsm', 'the true ones are as good as before');
$t->amcheck('main', 'amcheck');

# ---- without a pageserver ----

$t->neon('pageserver', 'stop');
my ($rc) = $t->command([ 'neon', 'endpoint', 'stop', 'main' ]);
is($rc, 0, 'a stop without a pageserver');
$t->neon('pageserver', 'start');
$t->endpoint_start('main');
is(restored('main'), 'statistics fsm', 'the next start has what was saved before');
$t->neon('stop');
done_testing();
