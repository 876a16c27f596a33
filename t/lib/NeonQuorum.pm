# NeonQuorum: what the safekeepers of a NeonTest have of a branch.
package NeonQuorum;

use strict;
use warnings;
use Carp;
use NeonTest;
use Test::More;

sub ids { my ($t) = @_; return 1 .. $t->{safekeepers} }

# Columns of neon_safekeeper.positions() on one safekeeper, joined by "|"; '' if it has none.
sub positions
{
	my ($t, $branch, $id, $columns) = @_;
	return $t->psql("safekeeper $id",
		"SELECT $columns FROM neon_safekeeper.positions('" . $t->tenant . "', '" . branch_id($t, $branch) . "')");
}

# A branch's id, also while the pageserver is away.
sub branch_id { my ($t, $branch) = @_; return $t->{branch_id}{$branch} ||= $t->timeline($branch) }

# Waits until a compute is streamed by that many members which are up to date.
sub wait_streaming
{
	my ($t, $ep, $n, $limit) = @_;
	my $from = time;
	$t->poll($ep, 'SELECT 1', 1, timeout => $limit || $NeonTest::default_timeout);	# it may have lost its lease
	$t->poll($ep, "SELECT count(*) FROM neon.safekeepers WHERE streaming AND flush_lsn >= '" . $t->insert_lsn($ep) . "'",
		$n, timeout => $limit || $NeonTest::default_timeout);
	return time - $from;
}

sub wal_dir
{
	my ($t, $branch, $id) = @_;
	return $t->sk_pgdata($id) . '/neon/tenants/' . $t->tenant . '/timelines/' . branch_id($t, $branch) . '/wal';
}

sub segment_name
{
	my ($lsn, $segsize) = @_;
	my $per_id = 2**32 / $segsize;
	my $segno = int($lsn / $segsize);
	return sprintf('%08X%08X%08X', 1, int($segno / $per_id), $segno % $per_id);
}

# The bytes [from, to) of a member's log.
sub wal_bytes
{
	my ($t, $branch, $id, $from, $to, $segsize) = @_;
	my $data = '';
	while ($from < $to)
	{
		my $n = $segsize - $from % $segsize;
		$n = $to - $from if $n > $to - $from;
		my $path = wal_dir($t, $branch, $id) . '/' . segment_name($from, $segsize);
		open my $f, '<:raw', $path or croak "$path: $!";
		seek $f, $from % $segsize, 0;
		read($f, my $piece, $n) == $n or croak "$path is too short";
		$data .= $piece;
		$from += $n;
	}
	return $data;
}

# Committed WAL is the same on all members, and pg_waldump reads it from its
# first record to its last one.  Two tests.
sub check_wal
{
	my ($t, $branch, $name, @ids) = @_;
	@ids = ids($t) unless @ids;
	my ($start, $commit, $different, $problems);
	for my $try (1 .. 5)
	{
		($start, $commit) = common_wal($t, $branch, @ids);
		($different, $problems) = eval { compare_wal($t, $branch, $start, $commit, @ids) };
		my $error = $@;
		# retention may have removed what was looked at
		last if $try < 5 && (common_wal($t, $branch, @ids))[0] == $start && !$error;
		die $error if $error && $try == 5;
	}
	is("@$different", '', "$name: committed WAL is the same on safekeepers @ids from " . NeonTest::num_lsn($start) . ' to ' . NeonTest::num_lsn($commit));
	is("@$problems", '', "$name: pg_waldump reads it");
	return;
}

# What all of them have of committed WAL.
sub common_wal
{
	my ($t, $branch, @ids) = @_;
	my ($start, $commit) = (0, undef);
	for my $id (@ids)
	{
		my ($s, $c) = map { NeonTest::lsn_num($_) } split /\|/, positions($t, $branch, $id, 'wal_start, commit_lsn');
		$start = $s if $s > $start;
		$commit = $c if !defined $commit || $c < $commit;
	}
	return ($start, $commit);
}

# Where it differs, and of whom pg_waldump cannot read it.
sub compare_wal
{
	my ($t, $branch, $start, $commit, @ids) = @_;
	my $segsize = $t->psql("safekeeper $ids[0]", 'SELECT 1') && segment_size($t, $branch, $ids[0]);
	my @different;
	for (my $at = $start; $at < $commit;)
	{
		my $to = $at - $at % $segsize + $segsize;
		$to = $commit if $to > $commit;
		my ($first, @others) = map { wal_bytes($t, $branch, $_, $at, $to, $segsize) } @ids;
		push @different, NeonTest::num_lsn($at) if grep { $_ ne $first } @others;
		$at = $to;
	}
	my @problems;
	for my $id (@ids)
	{
		my ($rc, $out, $err) = $t->command(
			[
				'pg_waldump', '-q', '-p', wal_dir($t, $branch, $id), '-s', NeonTest::num_lsn($start),
				'-e', NeonTest::num_lsn($commit)
			],
			timeout => 300);
		push @problems, "safekeeper $id: $err" if $rc != 0;
	}
	return (\@different, \@problems);
}

sub segment_size
{
	my ($t, $branch, $id) = @_;
	my ($file) = glob(wal_dir($t, $branch, $id) . '/0*');
	return -s $file;
}

# What a safekeeper has logged since it was asked before.
sub new_log
{
	my ($t, $id) = @_;
	my $dir = "$t->{dir}/safekeepers/$id";
	my $new = '';
	for my $file ("$dir/safekeeper.log", sort glob "$dir/log/*.log")
	{
		open my $f, '<', $file or next;
		seek $f, $t->{logged}{$file} // 0, 0;
		local $/;
		my $s = <$f> // '';
		$t->{logged}{$file} = tell $f;
		$new .= $s;
	}
	return $new;
}

1;
