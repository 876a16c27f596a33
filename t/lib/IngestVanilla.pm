# IngestVanilla: a vanilla server whose WAL a pageserver ingests, copies of it
# recovered by vanilla at some LSN, and comparisons with what the pageserver
# derived from the WAL alone.
package IngestVanilla;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use NeonPageserver;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(new_vanilla import_vanilla start_writer follow wait_for_lsn write_layers recovered_copy
  compare_slrus compare_control compare_twophase compare_relmaps compare_sizes);

my @slru = ('pg_xact', 'pg_multixact/offsets', 'pg_multixact/members', 'pg_commit_ts');
my $copies = 0;

# A vanilla server, stopped.
sub new_vanilla
{
	my ($name, $conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => 1,
		extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync' ]);
	$node->append_conf('postgresql.conf', <<CONF . ($conf // ''));
wal_level = logical
max_prepared_transactions = 20
max_wal_size = 4GB
autovacuum_naptime = 5s
allow_in_place_tablespaces = on
restart_after_crash = off
CONF
	return $node;
}

# Its data directory as a timeline of the pageserver.
sub import_vanilla
{
	my ($ps, $node, $name) = @_;
	my $dir = $node->data_dir;
	my ($tenant, $timeline, $lsn) =
	  split /\|/, $ps->sql("SELECT * FROM neon_test.import_pgdata('$dir', '$name')");
	return { tenant => $tenant, timeline => $timeline, lsn => $lsn, args => "'$tenant', '$timeline'" };
}

sub conninfo
{
	my ($node) = @_;
	return 'host=' . $node->host . ' port=' . $node->port . ' user=cloud_admin dbname=postgres';
}

# The pageserver streams from the running node.
sub follow
{
	my ($ps, $t, $node, $term) = @_;
	$term //= 0;
	my $conninfo = conninfo($node);
	$ps->sql("SELECT neon_pageserver.timeline_source($t->{args}, $term, ARRAY['$conninfo'])");
	return;
}

sub wait_for_lsn
{
	my ($ps, $t, $lsn) = @_;
	my $r = $ps->sql("SELECT neon_pageserver.wait_lsn($t->{args}, '$lsn', '60 s')");
	croak "the pageserver did not reach $lsn: " . tail_log($ps) if $r ne 't';
	return;
}

# A primary of the timeline, booted from its first base backup; the pageserver follows it.
sub start_writer
{
	my ($ps, $t, $conf) = @_;
	$t->{args} //= "'$t->{tenant}', '$t->{timeline}'";
	my $node = $ps->vanilla('writer', $t, $t->{lsn}, 1, 'primary',
		conf => "autovacuum = off\nfsync = off\n" . ($conf // ''));
	$ENV{PGUSER} = 'cloud_admin';
	$node->start;
	$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
	follow($ps, $t, $node);
	return $node;
}

# The WAL of the statements, if any, and all before it is put into layers; its end.
sub write_layers
{
	my ($ps, $t, $node, $sql) = @_;
	$sql = defined $sql ? "$sql; " : '';
	my $end = (split /\n/, $node->safe_psql('postgres', "${sql}SELECT txid_current(); SELECT pg_current_wal_flush_lsn()"))[-1];
	wait_for_lsn($ps, $t, $end);
	$ps->sql("SELECT neon_pageserver.timeline_checkpoint($t->{args})");
	return $end;
}

sub tail_log
{
	my ($ps) = @_;
	my @lines = split /\n/, slurp_file($ps->node->logfile);
	return join "\n", @lines[ -($#lines < 10 ? $#lines : 10) .. -1 ];
}

# Crash recovery by vanilla of a copy of a crashed data directory.  Returns
# { dir, lsn } with lsn = end of the last record that recovery replayed.
sub recovered_copy
{
	my ($ps, $t, $node) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . '/copy' . $copies++;
	system_or_bail('cp', '-a', $node->data_dir, $dir);
	unlink "$dir/postmaster.pid";
	my ($in, $out, $err) = ('', '', '');
	IPC::Run::run([ 'postgres', '--single', '-D', $dir, '-c', 'log_min_messages=log', '-c', 'logging_collector=off',
			'-c', 'log_destination=stderr', 'template1' ], '<', \$in, '>', \$out, '2>', \$err)
	  or croak "single-user recovery failed: $err";
	$err =~ /redo done at ([0-9A-F]+\/[0-9A-F]+)/ or croak "no recovery: $err";
	return { dir => $dir, last_record => $1 };
}

# The end of the record that starts at an LSN, as the pageserver has it.
sub record_end
{
	my ($ps, $t, $start) = @_;
	return $ps->sql("SELECT min(e) FROM neon_test.record_ends($t->{args}, '$start', '$start'::pg_lsn + 2000000) e");
}

# ---- comparisons; $dir is a data directory of vanilla, as of $lsn ----

sub compare_slrus
{
	my ($ps, $t, $lsn, $dir, $what) = @_;
	for my $s (0 .. 3)
	{
		my @files = sort map { s{.*/}{}r } grep { /\/[0-9A-F]{4,5}$/ } glob "$dir/$slru[$s]/*";
		my $bounds = $ps->sql("SELECT array_to_string(neon_test.slru_bounds($t->{args}, '$lsn', $s), ' ')");
		my @ours;
		if ($bounds ne '')
		{
			my ($oldest, $latest) = split / /, $bounds;
			@ours = map { sprintf '%04X', $_ } int($oldest / 32) .. int($latest / 32);
		}
		is("@ours", "@files", "$what: files of $slru[$s]");
		my $bad = '';
		my $pages = 0;
		for my $f (@files)
		{
			my $n = (-s "$dir/$slru[$s]/$f") / 8192;
			my $first = hex($f) * 32;
			$pages += $n;
			$bad .= $ps->sql(<<"SQL");
SELECT string_agg(' ' || p, '') FROM generate_series(0, $n - 1) p
WHERE neon_test.slru_page($t->{args}, '$lsn', $s, $first + p) <>
	pg_read_binary_file('$dir/$slru[$s]/$f', p * 8192, 8192)
SQL
		}
		is($bad, '', "$what: $pages pages of $slru[$s]");
	}
	return;
}

sub controldata
{
	my ($dir) = @_;
	my ($out, $err) = run_command([ 'pg_controldata', $dir ]);
	my %c;
	$c{$1} = $2 while $out =~ /^(.*?):\s*(.*)$/mg;
	return \%c;
}

sub compare_control
{
	my ($ps, $t, $lsn, $dir, $what, %o) = @_;
	my $c = controldata($dir);
	my $level = { minimal => 0, replica => 1, logical => 2 };
	my $on = { off => 0, on => 1 };
	my $l = 'Latest checkpoint\'s ';
	my $expected = join ' ',
	  "nextxid=" . $c->{"${l}NextXID"}, "nextoid=" . $c->{"${l}NextOID"},
	  "nextmulti=" . $c->{"${l}NextMultiXactId"}, "nextoffset=" . $c->{"${l}NextMultiOffset"},
	  "oldestxid=" . $c->{"${l}oldestXID"}, "oldestxiddb=" . $c->{"${l}oldestXID's DB"},
	  "oldestmulti=" . $c->{"${l}oldestMultiXid"}, "oldestmultidb=" . $c->{"${l}oldestMulti's DB"},
	  "oldestcts=" . $c->{"${l}oldestCommitTsXid"}, "newestcts=" . $c->{"${l}newestCommitTsXid"},
	  "fpw=" . $on->{ $c->{"${l}full_page_writes"} },
	  "wal_level=" . $level->{ $c->{'wal_level setting'} }, "conn=" . $c->{'max_connections setting'},
	  "workers=" . $c->{'max_worker_processes setting'}, "senders=" . $c->{'max_wal_senders setting'},
	  "prepared=" . $c->{'max_prepared_xacts setting'}, "locks=" . $c->{'max_locks_per_xact setting'},
	  "cts=" . $on->{ $c->{'track_commit_timestamp setting'} },
	  "hints=" . $on->{ $c->{'wal_log_hints setting'} };
	my $got = $ps->sql("SELECT neon_test.control_at($t->{args}, '$lsn')");
	$got =~ s/ term=\d+$//;
	for my $field (@{ $o{ignore} // [] })
	{
		s/ $field=\d+// for $got, $expected;
	}
	is($got, $expected, "$what: control state");
	return;
}

sub compare_twophase
{
	my ($ps, $t, $lsn, $dir, $what) = @_;
	my @files = sort map { s{.*/}{}r } glob "$dir/pg_twophase/*";
	my $ours = $ps->sql("SELECT upper(lpad(to_hex(blk), 8, '0')) FROM neon_test.keys($t->{args}, '$lsn', 48) ORDER BY 1");
	is(join(' ', split /\n/, $ours), "@files", "$what: " . scalar(@files) . ' prepared transactions');
	for my $f (@files)
	{
		# the blob has a version byte before the state, the file a CRC behind it
		my $same = $ps->sql(<<"SQL");
SELECT substr(value, 2) = pg_read_binary_file('$dir/pg_twophase/$f', 0, (pg_stat_file('$dir/pg_twophase/$f')).size - 4)
FROM neon_test.keys($t->{args}, '$lsn', 48) WHERE upper(lpad(to_hex(blk), 8, '0')) = '$f'
SQL
		is($same, 't', "$what: state of prepared transaction $f");
	}
	return;
}

# Directory of a database in a data directory.
sub database_dir
{
	my ($dir, $spc, $db) = @_;
	return "$dir/global" if $spc == 1664;
	return "$dir/base/$db" if $spc == 1663;
	my ($version) = glob "$dir/pg_tblspc/$spc/PG_15_*";
	return ($version // "$dir/pg_tblspc/$spc/none") . "/$db";
}

sub compare_relmaps
{
	my ($ps, $t, $lsn, $dir, $what) = @_;
	my @ours = split /\n/, $ps->sql("SELECT spc || ' ' || db FROM neon_test.keys($t->{args}, '$lsn', 2) ORDER BY 1");
	my @theirs = ('1664 0');
	push @theirs, map { m{/base/(\d+)/} ? "1663 $1" : () } glob "$dir/base/*/PG_VERSION";
	push @theirs, map { m{/pg_tblspc/(\d+)/PG_15[^/]*/(\d+)/} ? "$1 $2" : () } glob "$dir/pg_tblspc/*/PG_15_*/*/PG_VERSION";
	is(join(', ', sort @ours), join(', ', sort @theirs), "$what: databases");
	for my $d (@theirs)
	{
		my ($spc, $db) = split / /, $d;
		my $file = database_dir($dir, $spc, $db) . '/pg_filenode.map';
		# where in the blob the map lies is blobs.c's business
		my $same = $ps->sql(<<"SQL");
SELECT position(pg_read_binary_file('$file') IN value) > 0
FROM neon_test.keys($t->{args}, '$lsn', 2) WHERE spc = $spc AND db = $db
SQL
		is($same, 't', "$what: relation map of $d");
	}
	return;
}

# A visibility map is extended without WAL when a page of it is only pinned:
# the page has no LSN and no bits.
sub empty_vm
{
	my ($bytes) = @_;
	for (my $at = 0; $at < length $bytes; $at += 8192)
	{
		return 0 if substr($bytes, $at, 8) ne "\0" x 8 || substr($bytes, $at + 24, 8168) ne "\0" x 8168;
	}
	return 1;
}

# Sizes: every fork that WAL knows has a file that is as long, or longer by zeros.
sub compare_sizes
{
	my ($ps, $t, $lsn, $dir, $what) = @_;
	my @suffix = ('', '_fsm', '_vm', '_init');
	my (@bad, %known);
	my $zero = "\0" x 8192;
	for my $row (split /\n/, $ps->sql(<<"SQL"))
SELECT spc, db, rel, fork,
	get_byte(value, 0) + 256 * get_byte(value, 1) + 65536 * get_byte(value, 2), get_byte(value, 4)
FROM neon_test.keys($t->{args}, '$lsn', 8)
SQL
	{
		my ($spc, $db, $rel, $fork, $nblocks, $dropped) = split /\|/, $row;
		my $file = database_dir($dir, $spc, $db) . "/$rel$suffix[$fork]";
		next if $dropped;
		$known{$file} = 1;
		my $bytes = -f $file ? slurp_file($file) : undef;
		if (!defined $bytes) { push @bad, "$file does not exist, $nblocks blocks"; next }
		my $have = length($bytes) / 8192;
		push @bad, "$file has $have blocks, not $nblocks" if $have < $nblocks;
		for my $b ($nblocks .. $have - 1)
		{
			next if substr($bytes, $b * 8192, 8192) eq $zero;
			push @bad, "$file has data in block $b, beyond $nblocks";
			last;
		}
	}
	for my $file (glob("$dir/base/*/*"), glob("$dir/global/*"), glob("$dir/pg_tblspc/*/PG_15_*/*/*"))
	{
		next if $file !~ m{/\d+(_vm)?$} || $known{$file} || -e "${file}_init" || $file =~ /_vm$/ && !-s $file;
		(my $main = $file) =~ s/_vm$//;
		next if -e "${main}_init";
		next if $file =~ /_vm$/ && empty_vm(slurp_file($file));
		push @bad, "$file is not known (" . (-s $file) . ' bytes)';
	}
	is(join("\n", @bad), '', "$what: sizes of " . scalar(keys %known) . ' forks');
	return;
}

1;
