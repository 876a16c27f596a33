# Each rule of dropping and fetching again (neon_compute/README.md, "Locks" and
# "Dropping") is needed: with it switched off, a sequence of steps ends with a
# page that is wrong, and with it on with a right one.
use strict;
use warnings;
use NeonTest;
use Test::More;
use Time::HiRes qw(sleep);

my $lib = $ENV{NEON_TESTING_LIBDIR} or plan skip_all => 'no build with TESTING=1';
my $t = NeonTest->new;
$t->quickstart(no_endpoint => 1);
append($t->ps_pgdata . '/postgresql.conf', "dynamic_library_path = '$lib:\$libdir'\nneon_pageserver.test_wait_at = 'recovery-next'\n");
$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
append("$t->{dir}/endpoints/main/conf/postgresql.conf", "dynamic_library_path = '$lib:\$libdir'\n");
# nobody writes or drops a page but who is told to
$t->neon('endpoint', 'config', 'main', 'neon.local_size_limit=128MB', 'shared_buffers=1MB', 'autovacuum=off',
	'bgwriter_lru_maxpages=0', 'checkpoint_timeout=1h', 'neon.save_interval=1h', 'synchronize_seqscans=off');
$t->endpoint_start('main');
$t->psql('main', <<'SQL');
CREATE EXTENSION pg_prewarm;
CREATE EXTENSION pg_visibility;
CREATE FUNCTION test_look() RETURNS void AS 'neon', 'neon_test_look' LANGUAGE C;
CREATE FUNCTION test_sample() RETURNS pg_lsn AS 'neon', 'neon_test_sample' LANGUAGE C;
CREATE FUNCTION test_evict(oid, oid, int) RETURNS int8 AS 'neon', 'neon_test_evict' LANGUAGE C;
CREATE FUNCTION test_flush(regclass, int, int) RETURNS void AS 'neon', 'neon_test_flush' LANGUAGE C;
-- what is read to have all other pages written, and leave shared buffers
CREATE UNLOGGED TABLE filler AS SELECT repeat('f', 900) FROM generate_series(1, 8000);
CREATE TABLE other AS SELECT repeat('o', 900) FROM generate_series(1, 80);
VACUUM filler, other;
CREATE FUNCTION held(i int) RETURNS box LANGUAGE plpgsql IMMUTABLE AS
 'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN box(point(i, i), point(i, i)); END';
CREATE FUNCTION held_late(i int) RETURNS box LANGUAGE plpgsql IMMUTABLE AS
 'BEGIN IF i > 1998 THEN PERFORM pg_advisory_xact_lock_shared(i); END IF; RETURN box(point(i, i), point(i, i)); END';
CREATE TABLE many AS SELECT generate_series(1, 2000) AS id;
SQL
$t->psql('main', 'CHECKPOINT');
mkdir "$t->{tmp}/space" or die;
$t->psql('main', "CREATE TABLESPACE space LOCATION '$t->{tmp}/space'");

sub append
{
	my ($file, $text) = @_;
	open my $f, '>>', $file or die "$file: $!";
	print $f $text;
	close $f or die "$file: $!";
	return;
}

# ------------------------------------------------------------- steps --

my $hold = $t->pgdata('main') . '/test_wait';
my ($bug, %s);		# the rule that is off, or ''; sessions by name
my @stopped;

sub log_text { return join '', map { NeonTest::Vanilla::slurp($_) } glob "$t->{dir}/endpoints/main/log/*" }

sub session
{
	my ($name) = @_;
	return $s{$name} if $s{$name};
	my $new = $s{$name} = $t->session('main');
	$new->{backend} = $new->query("SET neon.test_bug = '$bug'; SELECT pg_backend_pid()");
	return $new;
}

# A statement that has to succeed; the last line of its answer.
sub run
{
	my ($name, $sql) = @_;
	my $out = session($name)->query($sql) // die "no answer to $sql";
	die "$sql: " . session($name)->error if session($name)->error =~ /ERROR|FATAL/;
	return $out =~ /([^\n]*)\z/ ? $1 : '';
}

# Sends a statement that will wait at a place, and returns when it does.
sub run_until
{
	my ($name, $place, $sql) = @_;
	my $n = () = log_text() =~ /test point "$place" reached/g;
	run($name, "SET neon.test_wait_at = '$place'");
	append($hold, '');
	session($name)->send($sql);
	$t->wait_for("$place by: $sql", sub { session($name)->{h}->pump_nb; $n < (() = log_text() =~ /test point "$place" reached/g) });
	return;
}

# It goes on; its answer, or error.
sub go_on
{
	my ($name) = @_;
	unlink $hold;
	return finish($name);
}

sub finish
{
	my ($name) = @_;
	my $out = session($name)->answer // die 'no answer';
	return session($name)->error =~ /(ERROR|FATAL)/ ? session($name)->error : $out;
}

# Sends a statement; returns when it is done or waits for a lock of the map.
sub run_until_blocked
{
	my ($name, $sql) = @_;
	session($name)->send($sql);
	until (defined session($name)->answer_of(0.5))
	{
		return if run('monitor', "SELECT wait_event FROM pg_stat_activity WHERE pid = $s{$name}{backend}") eq 'neon_map';
	}
	return;
}

# The answer is kept for finish().
sub NeonTest::Session::answer_of
{
	my ($self, $limit) = @_;
	my $out = $self->answer($limit) // return undef;
	($self->{out}, $self->{err}) = ("$out\n--done $self->{n}--\n", "$self->{error}\n--done $self->{n}--\n");
	return $out;
}

# All pages of others are written, if they are dirty, and leave shared buffers.
sub flush { return run($_[0], "SELECT pg_prewarm('filler')") }

# Drops what may be dropped of a table; the number of blocks.  With a time of 0
# only what was written before the last time.
sub evict
{
	my ($table, $ms) = @_;
	return run('evictor', "SELECT pg_logical_emit_message(false, 'test', ''); SELECT test_evict(" . evict_args($table, $ms) . ')');
}

sub evict_args
{
	my ($table, $ms) = @_;
	return "(SELECT oid FROM pg_database WHERE datname = current_database()), pg_relation_filenode('$table'), $ms";
}

# As long as it takes if that is the bug, and for a moment if it cannot succeed.
sub evict_if_bug { return evict($_[0], $bug ? 20000 : 300) }

# 48 pages, with a row each and room for another; not in shared buffers.
sub make_table
{
	run('writer', $_) for 'DROP TABLE IF EXISTS t',
	  'CREATE TABLE t (id int, v int, pad text) WITH (fillfactor = 50)',
	  'ALTER TABLE t ALTER pad SET STORAGE PLAIN',
	  "INSERT INTO t SELECT i, 0, repeat('p', 3500) FROM generate_series(1, 48) i",
	  'VACUUM t';
	flush('writer');
	evict('t', 20000) >= 48 or die 'the table was not dropped';
	return;
}

sub row { return "SELECT id FROM t WHERE ctid = '($_[0],1)'" }
sub update { return run('writer', "UPDATE t SET v = 1 WHERE ctid = '(5,1)'") }

# A transaction changes t, opens a cursor that sees that, and changes it again.
sub change_twice
{
	run('writer', 'BEGIN');
	run('writer', "INSERT INTO t VALUES (100, 0, '')");
	run('writer', 'DECLARE c CURSOR FOR SELECT count(*) FROM t');
	run('writer', "INSERT INTO t VALUES (101, 0, '')");
	flush('writer');
	return;
}

# What the cursor sees.
sub end_cursor
{
	my $seen = run('writer', 'FETCH c');
	run('writer', 'COMMIT');
	return $seen;
}

# Reading the fourth page, after the third, asks for this one and the next three.
sub read_two { run('reader', row($_)) for 0, 2 }

sub content
{
	my ($sql) = @_;
	flush('writer') if $s{writer};
	my ($rc, $out, $err) = $t->psql_raw('main', "SET neon.test_bug = '$bug'; " . ($sql || 'SELECT count(*), max(v) FROM t'));
	chomp $out;
	return $rc == 0 ? $out : $err;
}

# The pageserver gets no WAL, and answers from what it has.
sub stop_ingest
{
	# what the monitor needs of the catalogs is here then: a lock of the map is for many chunks,
	# and a case may hold it
	run('monitor', 'SELECT wait_event FROM pg_stat_activity WHERE pid = 0');
	$t->wait_ingest('main');
	@stopped = $t->children_of($t->postmaster_pid('pageserver'), qr/neon ingest/) or die;
	# not where it holds a lock, for which readers would wait
	$t->wait_for('ingest to sleep', sub { !grep { NeonTest::stat_field($_, 3) ne 'S' } @stopped });
	$t->signal('STOP', @stopped);
	return;
}

sub end_case
{
	unlink $hold;
	$t->signal('CONT', splice @stopped);
	$_->close for values %s;
	%s = ();
	return;
}

# ------------------------------------------------------------- rules --

my %rule;
my @order;

# What has to come out, what comes out without the rule, and the steps.
sub rule
{
	my ($name, $right, $wrong, $steps) = @_;
	push @order, $name;
	$rule{$name} = { right => $right, wrong => $wrong, steps => $steps };
	return;
}

rule no_recheck => '48|1', '48|0', sub {
	# "a hydrator looks at the bits again, under the lock"
	make_table();
	read_two();
	run_until('reader', 'install_received', row(3));
	update();
	flush('writer');
	go_on('reader');
	return content();
};

rule no_generation => '48|1', '48|0', sub {
	# "... and at the generation": written and dropped since it asked
	make_table();
	read_two();
	run_until('reader', 'install_received', row(3));
	update();
	flush('writer');
	evict('t', 20000) or die;
	go_on('reader');
	return content();
};

rule read_once => '4', '', sub {
	# a reader looks whether it was dropped while it read
	make_table();
	read_two();
	run('reader', 'SELECT count(*) FROM t');
	flush('reader');
	run_until('reader', 'read_present', row(3));
	evict('t', 20000) or die;
	return go_on('reader');
};

rule bits_first => '6', '', sub {
	# the bits of fetched blocks are set after they are in the file
	make_table();
	read_two();
	run_until('reader', 'install_writes', row(3));
	run('writer', row(0));
	run_until_blocked('writer', row(5));
	go_on('reader');
	return finish('writer');
};

rule no_write_lock => '48|1', '48|0', sub {
	# a block that is absent is written under the lock
	make_table();
	run('writer', 'SELECT count(*) FROM t');
	flush('writer');
	stop_ingest();
	update();
	evict('t', 0) or die;
	read_two();
	run_until('reader', 'install_writes', row(3));
	run_until_blocked('writer', "SELECT pg_prewarm('filler')");
	go_on('reader');
	finish('writer');
	return content();
};

rule write_once => '48|1', '48|0', sub {
	# a writer looks whether the chunk was being dropped, and writes again
	make_table();
	run('writer', 'SELECT count(*) FROM t');
	flush('writer');
	stop_ingest();
	update();
	run_until('evictor', 'drop_decided', 'SELECT test_evict(' . evict_args('t', 0) . ')');
	run_until_blocked('writer', "SELECT pg_prewarm('filler')");
	go_on('evictor') or die;
	finish('writer');
	return content();
};

rule late_dirty => '48|1', '48|0', sub {
	# dirty_lsn is raised before the page is written
	make_table();
	run('writer', 'SELECT count(*) FROM t');
	flush('writer');
	stop_ingest();
	update();
	run_until('writer', 'write_done', "SELECT pg_prewarm('filler')");
	evict('t', 0);
	go_on('writer');
	return content();
};

# What was asked for is still on its way when the blocks are cut off.
sub read_ahead_of_cut
{
	my $some = 'SELECT count(*) FROM (SELECT 1 FROM t LIMIT 20) x';
	make_table();
	evict('other', 20000) or die;
	# planned before: then nothing else is read
	run('reader', "EXPLAIN $_") for $some, 'SELECT count(*) FROM other';
	run('writer', 'EXPLAIN DELETE FROM t WHERE id > 10');
	run('writer', "SELECT pg_prewarm('t', 'buffer', 'main', 20, 47)") for 1 .. 3;
	evict('t', 20000) or die;
	sleep 0.3;	# for so long it is left to the writer to read ahead
	run('reader', $some);
	run('writer', 'DELETE FROM t WHERE id > 10');
	return;
}

my $size = q{SELECT pg_relation_size('t') / 8192, count(*) FROM t};
rule no_watermark => '10|10', qr/^4\d\|[234]\d$/, sub {
	# what is cut off is never fetched
	read_ahead_of_cut();
	run('writer', 'VACUUM (TRUNCATE) t');
	run('reader', 'SELECT count(*) FROM other');
	return content($size);
};

rule no_pass => '10|10', qr/^4\d\|[234]\d$/, sub {
	# a truncation waits for those who saw the old watermark
	read_ahead_of_cut();
	run_until('reader', 'install_writes', 'SELECT count(*) FROM other');
	run_until_blocked('writer', 'VACUUM (TRUNCATE) t');
	go_on('reader');
	finish('writer');
	return content($size);
};

rule watermark_first => '48|0', qr/^47\|0$/, sub {
	# when the map grows: bits and dirty_lsn before the watermark
	make_table();
	run_until('writer', 'map_extends', 'VACUUM FULL t');
	run('evictor', 'SELECT test_evict(oid, 0, 0) FROM pg_database WHERE datname = current_database()');
	go_on('writer');
	return content();
};

rule early_look => '2', '34', sub {
	# whether the file has what is in no WAL is looked at when nobody can write it: here by
	# a writer who was held up so long that his dirty_lsn counts as old
	run('writer', 'DROP SEQUENCE IF EXISTS q; CREATE SEQUENCE q');
	flush('writer');
	run('writer', "SELECT nextval('q')");
	run_until('writer', 'write_present', "SELECT test_flush('q', 0, 0)");
	run('evictor', "SELECT pg_logical_emit_message(false, 'test', '')");
	run_until('evictor', 'drop_begins', 'SELECT test_evict(' . evict_args('q', 20000) . ')');
	$t->signal('STOP', @stopped = $s{evictor}{backend});
	go_on('writer');
	$t->signal('CONT', splice @stopped);
	finish('evictor');
	flush('writer');
	return run('writer', "SELECT nextval('q')");
};

rule local_only => '100', qr/^0$|could not fetch/, sub {
	# a relation that is not in the WAL is never dropped
	run('writer', 'DROP TABLE IF EXISTS u; CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 100)');
	flush('writer');
	evict('u', 20000);
	return content('SELECT count(*) FROM u');
};

rule one_sample => '49', '50', sub {
	# H1 is before transactions that run began, or they have to end: command ids are not in the WAL
	make_table();
	change_twice();
	evict_if_bug('t');
	return end_cursor();
};

rule late_begin => '49', '50', sub {
	# when a transaction began is noted while it has no number
	make_table();
	change_twice();
	run('writer', 'SELECT pg_switch_wal()');
	run('writer', 'SELECT 1');
	evict('t', 20000);
	return end_cursor();
};

rule late_look => '49', '50', sub {
	# what the evictor sees of a transaction with a number is that it began earlier
	make_table();
	change_twice();
	run('evictor', 'SELECT test_look()');
	run('writer', 'SELECT pg_switch_wal()');
	run('evictor', 'SELECT test_look()');
	evict('t', 20000);
	return end_cursor();
};

# What another has written before a transaction began that runs may be dropped.  The
# evictor, which might find that out in its own time, stands still.
sub drop_what_is_older
{
	my ($begin, $end) = @_;
	make_table();
	@stopped = $t->children_of($t->postmaster_pid('main'), qr/neon evictor/) or die;
	$t->signal('STOP', @stopped);
	run('evictor', 'SELECT test_look()');
	run('other', $_) for 'CREATE TABLE w AS SELECT * FROM other', 'UPDATE w SET repeat = repeat';
	flush('other');
	$begin->();
	my $seen = evict('w', $bug ? 300 : 20000) ? 'dropped' : 'kept';
	$end->();
	run('other', 'DROP TABLE w');
	return $seen;
}

rule look_now => '49', '50', sub {
	# nor that one that is new to him began only now
	make_table();
	run('evictor', 'SELECT test_look()');
	change_twice();
	run('other', 'SELECT pg_switch_wal()');
	run('evictor', 'SELECT test_look()');
	evict_if_bug('t');
	return end_cursor();
};

rule no_begin => 'dropped', 'kept', sub {
	# who began is known by his own note
	return drop_what_is_older(
		sub { run('writer', $_) for 'BEGIN', "INSERT INTO t VALUES (100, 0, '')" },
		sub { run('writer', 'COMMIT') });
};

rule no_look => 'dropped', 'kept', sub {
	# or by the evictor's look, here a later transaction of one command
	return drop_what_is_older(
		sub { run('evictor', 'SELECT test_look()'); run_until('writer', 'map_extends', 'VACUUM FULL t') },
		sub { go_on('writer') });
};

rule no_changed => '49', qr/^(?!49$)/, sub {
	# of a chunk that was written lately what was not changed may be dropped, and nothing else
	make_table();
	run('writer', 'SELECT count(*) FROM t');
	change_twice();
	cmp_ok(evict('t', 300), '>=', $bug ? 48 : 40, 'most of it is dropped');
	return end_cursor();
};

rule forget_once => '48|1', '48|0', sub {
	# whoever takes a page for unchanged looks whether somebody began to write it
	make_table();
	run('writer', 'SELECT count(*) FROM t');
	flush('writer');
	stop_ingest();
	update();
	run_until('evictor', 'forget_changed', 'SELECT test_evict(' . evict_args('t', 0) . ')');
	run_until_blocked('writer', "SELECT pg_prewarm('filler')");
	go_on('evictor') or die;
	finish('writer');
	run('writer', 'SELECT count(*) FROM other');
	evict('t', 0);
	return content();
};

rule h1_only => '0', '1', sub {
	# the record of a change may come after the page with it was written: of the
	# bit in the visibility map, when a row is deleted
	make_table();
	run('writer', 'BEGIN');
	run_until('writer', 'record_made', "DELETE FROM t WHERE ctid = '(5,1)'");
	run('evictor', "SELECT test_flush('t', 2, 0)");
	run('evictor', "SELECT pg_logical_emit_message(false, 'test', '')");
	my $h1 = run('evictor', 'SELECT test_sample()');
	stop_ingest();
	go_on('writer');
	run('writer', 'COMMIT');
	evict_if_bug('t');
	return content("SELECT count(*) FROM pg_check_visible('t')");
};

rule visible_is_hint => '0', '1', sub {
	# a page gets its bit for "all visible" without an LSN
	make_table();
	run('writer', q{INSERT INTO t SELECT 49, 0, repeat('p', 3500)});
	flush('writer');
	evict('t', 20000) or die 'the table was not dropped';
	run('writer', 'SELECT count(*) FROM t');
	stop_ingest();
	run('writer', 'VACUUM (INDEX_CLEANUP OFF, TRUNCATE OFF) t');
	flush('writer');
	evict('t', 0);
	run('writer', 'DELETE FROM t WHERE id = 49');
	return content("SELECT count(*) FROM pg_check_visible('t')");
};

# Returns when an index build has got to its first row.
sub wait_for_build
{
	return $t->wait_for('the function', sub { run('monitor', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") });
}

my $by_index = 'SET enable_seqscan = off; SELECT count(*) FROM t WHERE held(id) && held(6)';
rule not_strict => '1', qr/ERROR/, sub {
	# dirty_lsn = H1 does not tell what was first: the page, or the sample
	make_table();
	run('holder', 'SELECT pg_advisory_lock(42)');
	for (1 .. 10)
	{
		# between its transactions; the second one writes no WAL until the index is built
		run('writer', 'DROP INDEX IF EXISTS t_held');
		run_until('writer', 'committed', 'CREATE INDEX CONCURRENTLY t_held ON t USING gist (held(id))');
		my $h1 = run('evictor', 'SELECT test_sample()');
		unlink $hold;
		wait_for_build();
		flush('holder');
		last if run('holder', 'SELECT pg_current_wal_insert_lsn()') eq $h1;
		run('holder', "SELECT pg_cancel_backend($s{writer}{backend})");
		finish('writer');
	}
	run('evictor', 'SELECT test_evict(' . evict_args('t_held', 20000) . ')');
	run('holder', 'SELECT pg_advisory_unlock(42)');
	return finish('writer') || content($by_index);
};

rule no_builds => '1', qr/ERROR/, sub {
	# who builds an index CONCURRENTLY has no transaction number, and logs pages at the end
	make_table();
	run('writer', 'DROP INDEX IF EXISTS t_held');
	run('holder', 'SELECT pg_advisory_lock(42)');
	session('writer')->send('CREATE INDEX CONCURRENTLY t_held ON t USING gist (held(id))');
	wait_for_build();
	flush('holder');
	evict_if_bug('t_held');
	run('holder', 'SELECT pg_advisory_unlock(42)');
	return finish('writer') || content($by_index);
};

rule note_builds => '2000', qr/ERROR|^(?!2000$)/, sub {
	# statements of functions of the index do not tell when he began, though he has no number
	make_table();
	my $waits = sub { my ($lock) = @_; $t->wait_for('the build', sub { run('monitor', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $lock AND NOT granted") }) };
	run('writer', 'DROP INDEX IF EXISTS many_held');
	run('holder', 'SELECT pg_advisory_lock(1999), pg_advisory_lock(2000)');
	session('writer')->send('CREATE INDEX CONCURRENTLY many_held ON many USING gist (held_late(id))');
	$waits->(1999);
	flush('holder');
	run('holder', 'SELECT pg_switch_wal()');
	run('holder', 'SELECT pg_advisory_unlock(1999)');
	$waits->(2000);
	evict_if_bug('many_held');
	run('holder', 'SELECT pg_advisory_unlock(2000)');
	return finish('writer') || content("SET enable_seqscan = off; SELECT count(*) FROM many WHERE held_late(id) <@ box '((0,0),(9999,9999))'");
};

rule waits_build => 'dropped', 'kept', sub {
	# but not while he waits until others have ended: who is held for space may be one of them
	make_table();
	run('reader', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	run('reader', 'SELECT 1');
	session('writer')->send('CREATE INDEX CONCURRENTLY t_id ON t (id)');
	$t->wait_for('the end of the build', sub { run('monitor', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'virtualxid'") });
	# the evictor itself goes by the same rule
	$t->psql('main', $_) for "ALTER SYSTEM SET neon.test_bug = '$bug'", 'SELECT pg_reload_conf()';
	my $dropped = sub {
		run('holder', $_) for 'DROP TABLE IF EXISTS w', 'CREATE TABLE w AS SELECT * FROM other', 'UPDATE w SET repeat = repeat';
		flush('holder');
		return evict('w', $bug ? 300 : 20000);
	};
	$t->wait_for('the evictor to know', sub { $dropped->() == 0 }) if $bug;
	my $seen = $dropped->() ? 'dropped' : 'kept';
	$t->psql('main', $_) for 'ALTER SYSTEM RESET neon.test_bug', 'SELECT pg_reload_conf()';
	run('reader', 'COMMIT');
	finish('writer');
	run('holder', 'DROP TABLE w');
	return $seen;
};

rule not_ingested => '48|1', qr/could not fetch/, sub {
	# nothing is dropped that could not be fetched at once
	make_table();
	run('writer', 'SELECT count(*) FROM t');
	flush('writer');
	stop_ingest();
	update();
	flush('writer');
	evict_if_bug('t');
	return content("SET neon.fetch_timeout = '1s'; SELECT count(*), max(v) FROM t");
};

rule old_request => '48|1', qr/^\d+\|0$/, sub {
	# a request names what was dropped: a pageserver that was just started has not
	# decoded all that it has on disk
	make_table();
	my @writers = $t->children_of($t->postmaster_pid('pageserver'), qr/layer writer/);
	$t->signal('STOP', @writers);
	$t->wait_ingest('main');
	update();
	flush('writer');
	evict('t', 20000) or die;
	run('reader', row(0));
	@stopped = $t->children_of($t->postmaster_pid('main'), qr/neon coordinator/);
	$t->signal('STOP', @stopped);
	my $wait = $t->ps_pgdata . '/test_wait';
	append($wait, '');
	$t->kill9('pageserver', nowait => 1);
	$t->signal('KILL', $_) for @writers;
	$t->neon('pageserver', 'start');
	my $seen = content();
	unlink $wait;
	return $seen;
};

# ------------------------------------------------------------- pins --

# A database whose files are about to be copied, by the session "writer".
sub begin_move
{
	$t->psql('main', 'DROP DATABASE IF EXISTS moved');
	$t->psql('main', 'CREATE DATABASE moved');
	$t->psql('main', 'CREATE TABLE m AS SELECT i FROM generate_series(1, 1000) i', db => 'moved');
	evict_moved(20000) or die;
	run_until('writer', 'database_whole', 'ALTER DATABASE moved SET TABLESPACE space');
	return;
}

sub evict_moved
{
	my ($ms) = @_;
	return run('evictor', "SELECT pg_logical_emit_message(false, 'test', ''); SELECT test_evict(oid, 0, $ms) FROM pg_database WHERE datname = 'moved'");
}

sub pins { return run('evictor', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 20037 AND database <> 0}) }
sub in_moved { return $t->psql_raw('main', 'SELECT count(*) FROM m', db => 'moved') }

rule no_pin => '1000', qr/ERROR|FATAL/, sub {
	# what is copied file by file is not dropped before that is done
	begin_move();
	evict_moved(20000);
	go_on('writer');
	my ($rc, $out, $err) = in_moved();
	chomp $out;
	return $rc == 0 ? $out : $err;
};

# some pages are older than others: rows that are there twice, or not changed
rule kept_map => '1000|1', qr/^(?!1000\|1$)(?:\d+\|[01]$|.*unexpected zero page)/s, sub {
	# what the map says of a database ends when it is moved: of the files that come
	# back it would say that they were not written since
	$t->psql('main', 'DROP DATABASE IF EXISTS moved');
	$t->psql('main', 'CREATE DATABASE moved');
	$t->psql('main', 'CREATE TABLE m AS SELECT i, 0 AS v FROM generate_series(1, 1000) i', db => 'moved');
	$t->psql('main', 'CHECKPOINT');
	flush('writer');
	evict_moved(20000) or die;
	stop_ingest();
	run('writer', 'ALTER DATABASE moved SET TABLESPACE space');
	$t->psql('main', 'UPDATE m SET v = 1', db => 'moved');
	run('writer', 'ALTER DATABASE moved SET TABLESPACE pg_default');
	evict_moved(0);
	return $t->psql('main', 'SELECT count(*), max(v) FROM m', db => 'moved');
};

# A pin does not outlive its process.
sub pins_end
{
	$bug = '';
	begin_move();
	is(pins(), '1', 'who copies a database has it pinned');
	is(evict_moved(20000), '0', 'nothing of it is dropped');
	run('monitor', "SELECT pg_terminate_backend($s{writer}{backend}, 20000)");
	is(pins(), '0', 'pg_terminate_backend ends the pin');
	cmp_ok(evict_moved(20000), '>', 0, 'the database is dropped from disk');
	end_case();
	is((in_moved())[1], "1000\n", 'and is where it was');

	begin_move();
	my $postmaster = $t->postmaster_pid('main');
	$t->signal('KILL', $s{writer}{backend});
	$t->wait_for('the end of the server', sub { !NeonTest::alive($postmaster) });
	pass('when a process is killed the server ends, as there is no crash recovery on what is here');
	end_case();
	$t->endpoint_start('main');
	is(pins(), '0', 'the next start has no pin');
	in_moved();
	cmp_ok(evict_moved(20000), '>', 0, 'the database is dropped from disk');
	end_case();
	is((in_moved())[1], "1000\n", 'and is where it was');
	return;
}

# ------------------------------------------------------------- all of them --

my @chosen = split ' ', $ENV{NEON_TEST_RULES} // '';
for my $name (@chosen ? grep { $rule{$_} } @chosen : @order)
{
	my $rule = $rule{$name};
	next if $name eq 'old_request' && $t->quorum;
	for my $off ('', $name)
	{
		$bug = $off;
		my $seen = eval { $rule->{steps}->() } // "did not work: $@";
		end_case();
		my $wrong = ref $rule->{wrong} ? $rule->{wrong} : qr/^\Q$rule->{wrong}\E$/;
		is($seen, $rule->{right}, "$name: with the rule") if !$bug;
		like($seen, $wrong, "$name: without it") if $bug;
	}
}
pins_end() if !@chosen || grep { $_ eq 'pins' } @chosen;
$t->neon('stop');
done_testing();
