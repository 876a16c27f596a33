# Who is held for local disk space, and who is not: VACUUM takes a part only, as what it
# changes beside a transaction that writes cannot be dropped before that has ended; and
# nobody waits for space until somebody has ended who waits for him.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $lib = $ENV{NEON_TESTING_LIBDIR};
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=40MB', 'shared_buffers=2MB', 'autovacuum=off',
	'max_parallel_workers_per_gather=0');
$t->endpoint_start('main');
$t->psql('main', $_) for 'CREATE EXTENSION neon', 'CREATE EXTENSION pg_visibility',
  'CREATE TABLE w (id int, pad text)', 'CREATE TABLE other (id int, pad text)', 'CREATE TABLE dead (id int, pad text)';

# 23 MB where VACUUM has something to do on each page, and 10 MB to be updated.
sub fill
{
	$t->psql('main', 'TRUNCATE dead, w');
	$t->psql('main', "INSERT INTO dead SELECT i, repeat('d', 900) FROM generate_series(1, 4000) i") for 1 .. 6;
	$t->psql('main', 'DELETE FROM dead WHERE id % 8 = 0');
	$t->psql('main', "INSERT INTO w SELECT i, repeat('w', 900) FROM generate_series(1, 10000) i");
	# the evictor knows that not all fits
	sleep 1;
	return;
}

# Sessions in order, each with its time to wait for space; off: a rule that it does without.
sub sessions
{
	my ($timeout, $off) = @_;
	my @s = map { $t->session('main') } 1, 2;
	for my $s (@s)
	{
		$s->{pid} = $s->query("SET neon.fetch_timeout = '$timeout'" . ($off ? "; SET neon.test_bug = '$off'" : '') . '; SELECT pg_backend_pid()');
	}
	return @s;
}

sub succeeds
{
	my ($s, $sql) = @_;
	$s->query($sql);
	die "$sql: " . $s->error if $s->error =~ /ERROR|FATAL/;
	return;
}

sub wait_held { $t->poll('main', 'SELECT waiting > 0 FROM neon.local_disk'); return }

sub are_whole
{
	is($t->psql('main', 'SELECT count(*), sum(length(pad)) FROM w UNION ALL SELECT count(*), sum(length(pad)) FROM dead'), "10000|9000000\n21000|18900000", 'the tables');
	is($t->psql('main', q{SELECT count(*) FROM pg_check_visible('dead')}), '0', 'the visibility map is true');
	return;
}

# ---------------------------------------- VACUUM beside a transaction --

# One has begun to write, VACUUM does what it may, he goes on.  What both have said.
sub beside
{
	my ($off, $third) = @_;
	fill();
	my ($writer, $vacuum) = sessions('30s', $off);
	my $other = $third ? $t->session('main') : undef;
	succeeds($writer, $_) for "SET neon.fetch_timeout = '3s'", 'BEGIN', 'UPDATE w SET pad = pad WHERE id = 1';
	$vacuum->send('VACUUM dead');
	if ($off)
	{
		$vacuum->answer;
	}
	else
	{
		wait_held();
		note(my $disk = $t->psql('main', 'SELECT * FROM neon.local_disk', args => ['-x']));
		like($disk, qr/^blocker\|a transaction of process $writer->{pid} has not ended; VACUUM has changed \d+ MB that cannot be dropped yet\nblocker_pid\|$writer->{pid}$/m,
			'the view says what VACUUM waits for');
	}
	if ($third)
	{
		$other->send($third);
		$t->poll('main', q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'dead'::regclass AND NOT granted});
		sleep 1;
	}
	$writer->query('UPDATE w SET pad = pad WHERE id > 1');
	my $said = $writer->error;
	$writer->query('COMMIT');
	$vacuum->answer unless $off;
	my $vacuum_said = $vacuum->error;
	$other->answer if $third;
	$_->close for $writer, $vacuum, grep { $_ } $other;
	return ($said, $vacuum_said);
}

my ($writer_said, $vacuum_said) = beside();
unlike($writer_said, qr/ERROR/, 'the transaction succeeds') or diag($writer_said);
unlike($vacuum_said, qr/ERROR/, 'and VACUUM after it') or diag($vacuum_said);
are_whole();
is($t->psql('main', q{SELECT count(*) FILTER (WHERE all_visible) > 0.9 * count(*) FROM pg_visibility_map('dead')}), 't', 'all was vacuumed');
like($t->neon('endpoint', 'logs', 'main'), qr/LOG:  sessions are held for lack of local disk space: .*; VACUUM has changed \d+ MB/, 'the log says what hinders');

# who has changed nothing may wait for VACUUM
($writer_said, $vacuum_said) = beside('', 'ALTER TABLE dead ADD COLUMN IF NOT EXISTS more int');
unlike("$writer_said$vacuum_said", qr/ERROR/, 'both succeed when another waits for a lock of VACUUM') or diag("$writer_said$vacuum_said");
are_whole();

# what is not counted: unlogged tables, and what workers have changed a second time
for ([ 'CREATE UNLOGGED TABLE once (a int, pad text)', "INSERT INTO once SELECT i, repeat('u', 900) FROM generate_series(1, 12000) i", 'VACUUM once' ],
	[ 'CREATE TABLE once (a int)', 'INSERT INTO once SELECT i FROM generate_series(1, 38000) i', 'VACUUM (PARALLEL 5) once', ('CREATE INDEX ON once (a)') x 5 ])
{
	my ($create, $insert, $do, @indexes) = @$_;
	$t->psql('main', $_) for $create, $insert, @indexes, 'DELETE FROM once WHERE a % 8 = 0';
	$t->wait_ingest('main');
	sleep 1;
	my ($idle, $vacuum) = sessions('2s');
	succeeds($idle, $_) for 'BEGIN', 'INSERT INTO other VALUES (1)';
	$vacuum->query('SET min_parallel_index_scan_size = 0; SET max_parallel_maintenance_workers = 5');
	$vacuum->query($do);
	is($vacuum->error, '', "$do: $create");
	succeeds($idle, 'COMMIT');
	$_->close for $idle, $vacuum;
	$t->psql('main', 'DROP TABLE once');
}

# a transaction that does not end
{
	fill();
	my ($idle, $vacuum) = sessions('2s');
	succeeds($idle, $_) for 'BEGIN', 'INSERT INTO other VALUES (1)';
	$vacuum->query('VACUUM dead');
	like($vacuum->error,
		qr/ERROR:  VACUUM has used up its part of the local disk space\nDETAIL:  \d+ MB are in use; the limit \(neon.local_size_limit\) is 40 MB. For 2000 ms no space became free: a transaction of process $idle->{pid} has not ended; VACUUM has changed [5678] MB that cannot be dropped yet\.\nHINT:  /,
		'VACUUM fails, and says why');
	is($t->psql('main', 'UPDATE w SET pad = pad; SELECT 1'), '1', 'others go on');
	$vacuum->query("SET neon.fetch_timeout = '800ms'");
	$vacuum->query('VACUUM dead');
	like($vacuum->error, qr/For 800 ms no space became free: a transaction of process $idle->{pid} has not ended/, 'also after a short time');
	$vacuum->query("SET neon.fetch_timeout = '30s'");
	succeeds($idle, 'COMMIT');
	succeeds($vacuum, 'VACUUM dead');
	$_->close for $idle, $vacuum;
	are_whole();
}

# VACUUM has a number when it truncates.  Its part is used up just then: it waits for its
# lock while a reader has the table, and there is less to be had when it gets it.
sub truncates
{
	my ($off) = @_;
	fill_end();
	my ($writer, $vacuum) = sessions($off ? '2s' : '60s', $off);
	my $reader = $t->session('main');
	succeeds($reader, $_) for 'BEGIN', 'LOCK TABLE dead IN ACCESS SHARE MODE';
	succeeds($writer, $_) for 'BEGIN', 'INSERT INTO other VALUES (3)';
	my $blocks = $t->psql('main', q{SELECT pg_relation_size('dead') / 8192});
	$vacuum->send('VACUUM dead');
	$t->poll('main', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'VacuumTruncate'});
	# a quarter of what is left are 4 MB at most
	$t->psql('main', "CREATE UNLOGGED TABLE once AS SELECT repeat('o', 900) FROM generate_series(1, 20000)");
	$t->poll('main', 'SELECT other_bytes > 19000000 FROM neon.local_disk');
	sleep 1;
	succeeds($reader, 'COMMIT');
	$vacuum->answer;
	my $said = $vacuum->error;
	succeeds($writer, 'COMMIT');
	$_->close for $writer, $vacuum, $reader;
	$t->psql('main', 'DROP TABLE once');
	return ($said, $blocks, $t->psql('main', q{SELECT pg_relation_size('dead') / 8192}));
}

# 6 MB, and at their end 2 MB that are to be given back.
sub fill_end
{
	$t->psql('main', 'TRUNCATE dead, w');
	$t->psql('main', "INSERT INTO dead SELECT i, repeat('d', 900) FROM generate_series(1, 6000) i");
	$t->psql('main', "INSERT INTO w SELECT i, repeat('w', 900) FROM generate_series(1, 20000) i") for 1, 2;
	$t->psql('main', 'DELETE FROM dead WHERE id % 8 = 0 OR id > 4000');
	# else VACUUM finds the last pages changed already
	$t->psql('main', 'CHECKPOINT');
	$t->wait_ingest('main');
	sleep 1;
	return;
}

{
	my ($said, $before, $after) = truncates();
	unlike($said, qr/ERROR/, 'VACUUM that truncates does not wait for its own end');
	cmp_ok($after, '<', 0.8 * $before, 'and has truncated') or diag($said);
}

# ------------------------------------------- who has what he waits for --

# What makes him wait: a lock, and a page that is being read.
my %wants = ('a lock' => 'LOCK TABLE dead', 'a page' => 'SELECT sum(length(pad)) FROM dead');

# He waits for a VACUUM that is held because of him.
sub wants_vacuumed
{
	my ($what, $off) = @_;
	fill();
	my ($writer, $vacuum) = sessions($off ? '2s' : '60s', $off);
	succeeds($writer, $_) for 'BEGIN', 'INSERT INTO other VALUES (2)';
	$vacuum->send('VACUUM dead');
	wait_held();
	succeeds($writer, $_) for $wants{$what}, 'COMMIT';
	$vacuum->answer;
	my $said = $vacuum->error;
	$_->close for $writer, $vacuum;
	return $said;
}

# He has taken nearly all space, and waits for a reader who is held.
sub wants_read
{
	my ($what, $off) = @_;
	fill();
	$t->psql('main', 'VACUUM (FREEZE) dead');
	my ($writer, $reader) = sessions($off ? '2s' : '60s', $off);
	succeeds($writer, 'BEGIN');
	my $n = 0;
	while ($t->psql('main', 'SELECT used_bytes < limit_bytes * 0.945 FROM neon.local_disk') eq 't')
	{
		succeeds($writer, "INSERT INTO other SELECT i, repeat('o', 900) FROM generate_series(1, 200) i");
		die 'no end' if $n++ > 500;
	}
	$reader->send('SELECT count(*), sum(length(pad)) FROM dead');
	wait_held();
	succeeds($writer, $_) for $wants{$what}, 'ROLLBACK';
	my $out = $reader->answer . $reader->error;
	$_->close for $writer, $reader;
	return $out;
}

for my $what (sort keys %wants)
{
	unlike(wants_vacuumed($what), qr/ERROR/, "VACUUM goes on when somebody waits for $what of it");
	is(wants_read($what), '21000|18900000', 'so does a reader');
}
are_whole();

# ------------------------------------------------- without the rules --

SKIP:
{
	skip 'no build with TESTING=1', 6 unless $lib;
	open my $conf, '>>', "$t->{dir}/endpoints/main/conf/postgresql.conf" or die $!;
	print $conf "dynamic_library_path = '$lib:\$libdir'\n";
	close $conf or die $!;
	$t->psql('main', q{UPDATE pg_proc SET probin = 'neon' WHERE probin = '$libdir/neon'});
	$t->neon('endpoint', 'restart', 'main');
	my ($said) = beside('no_vacuum_part');
	like($said, qr/ERROR:  the limit of local disk space is reached.*VACUUM has changed \d+ MB/s, 'a VACUUM that may take all: the transaction fails');
	like((truncates('numbered_vacuum'))[0], qr/ERROR:  VACUUM has used up/, 'one with a number that waits: it waits for its own end');
	for my $what (sort keys %wants)
	{
		like(wants_vacuumed($what, 'waited_for'), qr/ERROR:  VACUUM has used up/, "a VACUUM that waits for who waits for $what of it fails");
		like(wants_read($what, 'waited_for'), qr/ERROR:  the limit of local disk space is reached/, 'so does a reader');
	}
}

# where all fits VACUUM may change all
$t->psql('main', $_) for "ALTER SYSTEM SET neon.local_size_limit = '1GB'", 'SELECT pg_reload_conf()';
$t->poll('main', 'SELECT limit_bytes > 1000000000 FROM neon.local_disk');
fill();
{
	my ($idle, $vacuum) = sessions('20s');
	succeeds($idle, $_) for 'BEGIN', 'INSERT INTO other VALUES (1)';
	$vacuum->query('VACUUM dead');
	is($vacuum->error, '', 'VACUUM beside a transaction where all fits');
	$_->close for $idle, $vacuum;
}
$t->neon('stop');
done_testing();
