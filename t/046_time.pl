# Once WAL is in layers it is removed, and what is booted, branched or looked up
# by time is answered from time blocks.  Oracle: pg_waldump on the WAL that the
# writer still has, and the states that were derived while all WAL was here.
use strict;
use warnings;
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;

my $long = $ENV{NEON_TEST_LONG} ? 1 : 0;
my $segment = 1024 * 1024;
my $f = 'neon_pageserver';

my $ps = NeonPageserver->new('pageserver', conf => "neon_pageserver.wal_keep = 0\nneon_pageserver.compaction_threshold = 2\n");
$ps->sql('CREATE EXTENSION neon_pageserver_test');
$ENV{PGUSER} = 'cloud_admin';

sub lsn { return NeonPageserver::lsn_number($_[0]) }
sub text { return NeonPageserver::lsn_text($_[0]) }

# A server over a timeline at an LSN, followed by the pageserver.
sub writer
{
	my ($name, $t, $at, $term) = @_;
	my $node = $ps->vanilla($name, $t, $at, $term, 'primary', conf => "wal_keep_size = 10GB\ntrack_commit_timestamp = on\nautovacuum = off\n");
	$node->start;
	$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
	follow($ps, $t, $node);
	return $node;
}

sub caught_up
{
	my ($t, $node) = @_;
	my $end = $node->safe_psql('postgres', 'SELECT pg_switch_wal(); SELECT txid_current(); SELECT pg_current_wal_flush_lsn()');
	$end = (split /\n/, $end)[-1];
	wait_for_lsn($ps, $t, $end);
	return $end;
}

# What pg_waldump says of a directory from an LSN on: [ end, start, kind, time in us or undef ]
# of each record that ends a transaction.
sub transactions
{
	my ($dir, $from) = @_;
	local $ENV{TZ} = 'UTC';
	my ($out) = run_command([ 'pg_waldump', '-p', "$dir/pg_wal", '-s', $from ]);
	my (@found, $open);
	for my $line (split /\n/, $out)
	{
		my ($rmgr, $start, $desc) = $line =~ m{^rmgr: (\S+) .*lsn: (\S+), prev .*desc: (.*)} or next;
		my $pos = lsn($start);
		if ($open)
		{
			# a record ends where the next page header, if there is one, begins
			$open->[0] = $pos % $segment == 40 ? $pos - 40 : $pos % 8192 == 24 ? $pos - 24 : $pos;
			push @found, $open;
			$open = undef;
		}
		next if $rmgr ne 'Transaction' || $desc !~ /^(COMMIT|ABORT|PREPARE)/;
		$open = [ 0, $pos, $1 ];
		$open->[3] = $1 if $desc =~ /(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC/;
	}
	return @found;
}

# Pages whose first record begins there: LSNs of the pages.
sub page_begins
{
	my ($dir, $from) = @_;
	my ($out) = run_command([ 'pg_waldump', '-p', "$dir/pg_wal", '-s', $from ]);
	return map { $_ - 24 } grep { $_ % 8192 == 24 } map { lsn($_) } $out =~ m{^rmgr: .*? lsn: (\S+), prev }mg;
}

my $sequence = 0;

sub work
{
	my ($node, $n) = @_;
	$sequence++;
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE IF NOT EXISTS w(i int, t text);
CREATE TABLE d$sequence AS SELECT 1 AS i;
BEGIN; INSERT INTO w VALUES (1, 'x'); SAVEPOINT a; INSERT INTO w VALUES (2, 'y'); ROLLBACK;
BEGIN; INSERT INTO w VALUES (3, 'p'); PREPARE TRANSACTION 'p$sequence';
COMMIT PREPARED 'p$sequence';
INSERT INTO w SELECT i, repeat('z', 500) FROM generate_series(1, @{[ 1000 * $n ]}) i;
SELECT * FROM w LIMIT 1 FOR SHARE;
DO \$\$ BEGIN FOR i IN 1..@{[ 150 * $n ]} LOOP INSERT INTO w VALUES (i, 'c'); IF i % 5 = 0 THEN ROLLBACK; ELSE COMMIT; END IF; END LOOP; END \$\$;
DROP TABLE d$sequence;
CHECKPOINT;
SQL
	# sessions side by side: the time of a commit is taken before its place in the WAL
	my $script = PostgreSQL::Test::Utils::tempdir() . '/script';
	append_to_file($script, "INSERT INTO w VALUES (1, 'b');\n") if !-e $script;
	my ($out, $err) = run_command([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 10 * $n, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ]);
	like($out, qr/number of failed transactions: 0 /, 'sessions side by side');
	return;
}

# Everything that is known of places, as one text per place.
sub states
{
	my ($t, @lsns) = @_;
	my $list = join ',', map { "'$_'" } @lsns;
	return $ps->sql("SELECT neon_test.control_times($t->{args}, l) || ' ' || neon_test.control_at($t->{args}, l) FROM unnest(ARRAY[$list]::pg_lsn[]) l");
}

# The commit that a time means: the last one before the first later one in LSN order.
sub expected
{
	my ($commits, $us) = @_;
	my $last;
	for my $c (@$commits)
	{
		last if $c->[4] > $us;
		$last = $c;
	}
	return $last ? text($last->[0]) : '';
}

sub compare_times
{
	my ($t, $commits, $what) = @_;
	my $n = @$commits;
	my @pick = $n <= 60 ? (0 .. $n - 1) : (0 .. 4, (map { int($n * $_ / 50) } 1 .. 49), $n - 3 .. $n - 1);
	my @times = map { my $us = $commits->[$_][4]; ($us - 1, $us, $us + 1) } @pick;
	# what lies before the first of them is another matter
	@times = grep { $_ >= $commits->[0][4] } @times;
	my $list = join ',', @times;
	my $got = $ps->sql(<<"SQL");
SELECT coalesce($f.lsn_for_timestamp($t->{args}, 'epoch'::timestamptz + us * interval '1 us')::text, '')
FROM unnest(ARRAY[$list]::bigint[]) WITH ORDINALITY AS u(us, n) ORDER BY n
SQL
	is($got, join("\n", map { expected($commits, $_) } @times), "$what: times of " . @pick . " of $n commits, and a microsecond beside them");
	return;
}

# Commits with their times in microseconds.
sub commits
{
	my (@all) = grep { $_->[2] eq 'COMMIT' } @_;
	my $list = join ',', map { "'$_->[3]+00'" } @all;
	my @us = split /\n/, $ps->sql("SELECT (extract(epoch FROM x) * 1000000)::bigint FROM unnest(ARRAY[$list]::timestamptz[]) WITH ORDINALITY AS u(x, n) ORDER BY n");
	$all[$_][4] = $us[$_] for 0 .. $#all;
	return \@all;
}

sub segments
{
	my ($t) = @_;
	my @names = sort map { s{.*/}{}r } glob $ps->node->data_dir . "/neon/tenants/$t->{tenant}/timelines/$t->{timeline}/wal/0*";
	return @names;
}

sub checkpoint { return $ps->sql("SELECT $f.timeline_checkpoint($_[0]{args})") }

my $t = $ps->tenant('{"segsize": 1}');
$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
my $node = writer('writer', $t, $t->{lsn}, 1);
my (@all, $before);
my $rounds = $long ? 4 : 2;
for my $round (1 .. $rounds)
{
	work($node, $long ? 10 : 4);
	my $end = caught_up($t, $node);
	my @found = grep { $_->[0] <= lsn($end) } transactions($node->data_dir, $t->{lsn});
	@all = map { text($_->[0]) } @found;
	my $commits = commits(@found);
	# of what is not in layers yet the states come from WAL
	my $now = states($t, @all);
	if (defined $before)
	{
		is(substr($now, 0, length $before), $before, "round $round: the states at known places are what they were");
	}
	$before = $now;
	my $wrong = 0;
	my @lines = split /\n/, $now;
	for my $i (0 .. $#found)
	{
		$wrong++ if $lines[$i] !~ m{^lsn=\Q@{[ text($found[$i][0]) ]}\E prev=\Q@{[ text($found[$i][1]) ]}\E };
	}
	is($wrong, 0, "round $round: " . @found . " ends of transactions are where pg_waldump sees them");
	# an LSN within the first record's header, of a page that begins with a record
	my @pages = grep { $_ + 8192 < lsn($end) } page_begins($node->data_dir, $t->{lsn});
	like($ps->sql_error("SELECT neon_test.control_at($t->{args}, '@{[ text($_ + 26) ]}')"), qr/is not the end of a WAL record/, 'within the first record of a page')
	  for @pages > 3 ? @pages[ -3 .. -1 ] : @pages;
	compare_times($t, $commits, "round $round, not flushed");
	checkpoint($t);
	is(states($t, @all), $now, "round $round: flushed, the states are the same");
	compare_times($t, $commits, "round $round, flushed");
	my @left = segments($t);
	my $flushed = $ps->sql("SELECT disk_consistent_lsn FROM $f.timelines WHERE timeline_id = '$t->{timeline}'");
	is(hex substr($left[0], 8) , int(lsn($flushed) / $segment) % 4096 + (int(lsn($flushed) / $segment / 4096) << 32), "round $round: WAL below $flushed is removed");
	is($ps->sql("SELECT count(*) FROM $f.timeline_verify($t->{args})"), 0, "round $round: verified");
}
$ps->sql("SELECT $f.timeline_compact($t->{args})");
is(states($t, @all), $before, 'merged, the states are the same');
$ps->node->stop('immediate');
$ps->start;
is(states($t, @all), $before, 'and after a crash');
my @found = transactions($node->data_dir, $t->{lsn});
my $known = commits(grep { $_->[0] <= lsn($all[-1]) } @found);
compare_times($t, $known, 'after a crash');

# ---- LSNs that are no end of a transaction ----
my ($first, $second) = @found[ 20, 21 ];
is($ps->sql("SELECT neon_test.round_to_commit($t->{args}, '@{[ text($second->[0] - 8) ]}')"), text($first->[0]), 'an LSN in between is rounded down');
like($ps->sql_error("SELECT neon_test.control_at($t->{args}, '@{[ text($second->[0] - 8) ]}')"),
	qr/is not the end of a transaction.*no longer stored.*below it is @{[ text($first->[0]) ]}\./s, 'nobody boots there');

# ---- branches of branches at old LSNs ----
sub branch
{
	my ($name, $from, $lsn) = @_;
	my ($id, $at) = split /\|/, $ps->sql("SELECT * FROM $f.branch_create('$t->{tenant}', '$name', '$from', '$lsn')");
	return { tenant => $t->{tenant}, timeline => $id, lsn => $at, args => "'$t->{tenant}', '$id'" };
}
my $name = $ps->sql("SELECT name FROM $f.timelines WHERE timeline_id = '$t->{timeline}'");
my $middle = $found[ int(@found / 2) ];
my $one = branch('one', $name, text($middle->[0] + 8));
is($one->{lsn}, text($middle->[0]), 'a branch at an old LSN');
my $quarter = $found[ int(@found / 4) ];
my $two = branch('two', 'one', text($middle->[0]));
my @upto = grep { lsn($_) <= $middle->[0] } @all;
is(states($one, @upto), states($t, @upto), 'the states on a branch are its ancestor\'s');
my $bnode = writer('on_branch', $one, $one->{lsn}, 2);
like(slurp_file($bnode->logfile), qr/database system is ready to accept connections/, 'a server boots there');
my ($dump, $err) = run_command([ 'pg_waldump', '-p', $bnode->data_dir . '/pg_wal', '-s', text(lsn($one->{lsn}) - lsn($one->{lsn}) % $segment), '-e', $one->{lsn} ]);
is($err, '', 'the bytes below its start, whose true ones are gone, are valid WAL');
my $last = sprintf '%X/%08X', $middle->[1] >> 32, $middle->[1] & 0xffffffff;
like($dump, qr/lsn: \Q$last\E,.*NOOP/, 'which does nothing');
is($ps->sql("SELECT length($f.wal_read($one->{args}, '@{[ text(lsn($one->{lsn}) - lsn($one->{lsn}) % $segment) ]}', @{[ lsn($one->{lsn}) % $segment ]}))"),
	lsn($one->{lsn}) % $segment, 'other copies are given the same');
work($bnode, 2);
my $end = caught_up($one, $bnode);
my @own = grep { $_->[0] <= lsn($end) } transactions($bnode->data_dir, $one->{lsn});
my @line = ((grep { $_->[0] <= $middle->[0] } @found), @own);
my @places = map { text($_->[0]) } @line;
my $line = commits(@line);
my $states = states($one, @places);
compare_times($one, $line, 'a branch, not flushed');
checkpoint($one);
is(states($one, @places), $states, 'a branch, flushed');
compare_times($one, $line, 'a branch, flushed');
my $three = branch('three', 'one', text($own[ int(@own / 2) ][0]));
compare_times($three, [ grep { $_->[0] <= lsn($three->{lsn}) } @$line ], 'a branch of it');
compare_times($two, [ grep { $_->[0] <= lsn($two->{lsn}) } @$line ], 'a branch of its beginning');

# ---- before and after ----
is($ps->sql("SELECT $f.lsn_for_timestamp($t->{args}, '2001-01-01') IS NULL"), 't', 'before the history there is nothing');
is($ps->sql("SELECT $f.lsn_for_timestamp($two->{args}, '2100-01-01')"), text((grep { $_->[0] <= lsn($two->{lsn}) } @$line)[-1][0]), 'after the end it is the last commit');

# ---- the pageserver dies between the steps (TESTING build) ----
sub attached
{
	my $pgdata = $ps->node->data_dir;
	return map { m{/proc/(\d+)/cwd} && (readlink($_) // '') eq $pgdata ? $1 : () } glob('/proc/[0-9]*/cwd');
}

my $lib = $ENV{NEON_TESTING_LIBDIR};
if ($long && $lib && -e "$lib/neon_pageserver.so")
{
	my $set = sub { $ps->node->append_conf('postgresql.conf', "neon_pageserver.test_crash_at = '$_[0]'\n") };
	$ps->node->append_conf('postgresql.conf', "dynamic_library_path = '$lib:\$libdir'\n");
	$ps->restart;
	for my $point ('layer-synced', 'layer-in-manifest', 'wal-removed')
	{
		follow($ps, $t, $node);
		work($node, 5);
		my $end = caught_up($t, $node);
		@places = map { text($_->[0]) } grep { $_->[0] <= lsn($end) } transactions($node->data_dir, $t->{lsn});
		my $want = states($t, @places);
		my $n = segments($t);
		# a clean stop would leave nothing to write
		$ps->stop('immediate');
		$set->($point);
		$ps->start;
		wait_for_lsn($ps, $t, $end);
		eval { checkpoint($t) };
		my $postmaster = (split /\n/, slurp_file($ps->node->data_dir . '/postmaster.pid'))[0];
		# on a busy machine it has not yet left
		for (1 .. 600) { last if !grep { $_ == $postmaster } attached(); select undef, undef, undef, 0.05 }
		ok(!(grep { $_ == $postmaster } attached()), "the server died at $point");
		kill 'KILL', attached();
		for (1 .. 200) { last if !attached(); select undef, undef, undef, 0.05 }
		$ps->node->{_pid} = undef;
		unlink $ps->node->data_dir . '/postmaster.pid', glob($ps->node->host . '/.s.PGSQL.' . $ps->node->port . '*');
		$set->('');
		$ps->start;
		cmp_ok(scalar(segments($t)), '>', 1, 'WAL is left over') if $point ne 'layer-synced';
		is(states($t, @places), $want, 'the states are the same');
		follow($ps, $t, $node);
		work($node, 1);
		caught_up($t, $node);
		checkpoint($t);
		is(states($t, @places), $want, 'and after the next flush');
		cmp_ok(scalar(segments($t)), '<', $n, "of $n segments " . segments($t) . ' are left');
		is($ps->sql("SELECT count(*) FROM $f.timeline_verify($t->{args})"), 0, 'verified');
	}
}

$_->stop for $node, $bnode;
$ps->stop;
done_testing();
