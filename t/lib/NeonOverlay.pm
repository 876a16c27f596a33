# NeonOverlay: a compute over a local reference data directory, without a
# pageserver.  Needs the TESTING build of neon.so.
#
#   my $ref = PostgreSQL::Test::Cluster->new('reference');
#   $ref->init(...); ...; $ref->stop;
#   my $node = NeonOverlay->boot($ref, 'compute', conf => "shared_buffers = 1MB\n");
#
# The compute's data directory has everything of the reference but the
# relation files, neon.relsizes, neon.boot and a boot ticket.  The reference
# must not be started again while a compute runs on it.
package NeonOverlay;

use strict;
use warnings;
use Carp;
use File::Basename;
use File::Copy;
use File::Find;
use File::Path qw(make_path);
use LocalLimit;
use NodeSql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our $tenant = '11' x 16;
our $timeline = '22' x 16;

my @crc_table = map {
	my $c = $_;
	$c = $c & 1 ? ($c >> 1) ^ 0x82F63B78 : $c >> 1 for 1 .. 8;
	$c
} 0 .. 255;

sub crc32c
{
	my ($bytes) = @_;
	my $crc = 0xFFFFFFFF;
	$crc = $crc_table[ ($crc ^ $_) & 0xFF ] ^ ($crc >> 8) for unpack('C*', $bytes);
	return $crc ^ 0xFFFFFFFF;
}

sub available
{
	return $ENV{NEON_TESTING_LIBDIR} && -f "$ENV{NEON_TESTING_LIBDIR}/neon.so";
}

sub write_file
{
	my ($path, $bytes) = @_;
	open(my $fh, '>', $path) or croak "$path: $!";
	binmode $fh;
	print $fh $bytes;
	close($fh) or croak "$path: $!";
	return;
}

# What a compute starts with, once.
sub write_ticket
{
	my ($pgdata, %fields) = @_;
	my $ticket = "neon-boot-ticket 1\n" . join '', map { "$_=$fields{$_}\n" } sort keys %fields;
	write_file("$pgdata/neon.ticket", $ticket . sprintf("crc=%08x\n", crc32c($ticket)));
	return;
}

sub control_data
{
	my ($pgdata) = @_;
	my ($out) = run_command([ 'pg_controldata', $pgdata ]);
	my %c = map { /^(.*?):\s*(.*)$/ ? ($1 => $2) : () } split /\n/, $out;
	return \%c;
}

# The database's directories below a data directory: [ spc, db, path ].
sub database_dirs
{
	my ($pgdata) = @_;
	my @dirs = ([ 1664, 0, 'global' ]);
	for my $path (glob("$pgdata/base/*"))
	{
		push @dirs, [ 1663, basename($path), 'base/' . basename($path) ] if $path =~ m{/\d+$};
	}
	for my $path (glob("$pgdata/pg_tblspc/*/PG_15_*/*"))
	{
		push @dirs, [ $1, $3, "pg_tblspc/$1/$2/$3" ] if $path =~ m{pg_tblspc/(\d+)/([^/]+)/(\d+)$};
	}
	return @dirs;
}

# Copies what is not a relation file; returns the sizes of those that are.
sub copy_without_relations
{
	my ($from, $to) = @_;
	my @forks;

	for my $entry (database_dirs($from))
	{
		my ($spc, $db, $dir) = @$entry;
		my (%init, %size);
		make_path("$to/$dir", { mode => 0700 });
		opendir(my $dh, "$from/$dir") or croak "$from/$dir: $!";
		my @names = sort grep { -f "$from/$dir/$_" } readdir($dh);
		closedir($dh);
		/^(\d+)_init$/ and $init{$1} = 1 for @names;
		for my $name (@names)
		{
			next if $name eq 'pg_internal.init';
			if ($name =~ /^(\d+)(?:_(fsm|vm|init))?(?:\.\d+)?$/)
			{
				my ($rel, $fork) = ($1, $2 // 'main');
				next if $fork eq 'fsm';
				if (!$init{$rel})
				{
					$size{$rel}{ $fork eq 'vm' ? 2 : 0 } += -s "$from/$dir/$name";
					next;
				}
				next if $fork ne 'init';
				copy("$from/$dir/$name", "$to/$dir/$rel") or croak "$dir/$name: $!";
			}
			copy("$from/$dir/$name", "$to/$dir/$name") or croak "$dir/$name: $!";
		}
		for my $rel (keys %size)
		{
			push @forks, [ $spc, $db, $rel, $_, $size{$rel}{$_} / 8192 ] for keys %{ $size{$rel} };
		}
	}
	return sort { $a->[0] <=> $b->[0] || $a->[1] <=> $b->[1] || $a->[2] <=> $b->[2] || $a->[3] <=> $b->[3] } @forks;
}

sub copy_tree
{
	my ($from, $to) = @_;
	find(
		{
			no_chdir => 1,
			wanted => sub {
				my $target = $to . substr($_, length($from));
				-d $_ ? make_path($target, { mode => 0700 }) : (copy($_, $target) or croak "$_: $!");
			}
		},
		$from);
	return;
}

# Options: kind (primary, static, ephemeral), conf, relsizes (a function that
# may change the bytes of neon.relsizes), no_start.
sub boot
{
	my ($class, $ref, $name, %o) = @_;
	my $from = $ref->data_dir;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $to = $node->data_dir;
	my $c = control_data($from);
	my $kind = $o{kind} // 'primary';
	my $term = $kind eq 'primary' ? 1 : 0;
	my $boot_id = '33' x 16;

	croak 'reference was not shut down' if $c->{'Database cluster state'} ne 'shut down';
	make_path($node->basedir, $node->backup_dir, $node->archive_dir);
	make_path($to, { mode => 0700 });
	my @forks = copy_without_relations($from, $to);
	copy_tree("$from/$_", "$to/$_")
	  for qw(pg_wal pg_xact pg_multixact pg_commit_ts pg_twophase pg_logical pg_subtrans pg_notify
	  pg_replslot pg_serial pg_snapshots pg_dynshmem pg_stat_tmp);
	make_path("$to/$_", { mode => 0700 }) for qw(pg_stat pg_tblspc);
	copy("$from/$_", "$to/$_") or croak "$_: $!" for qw(PG_VERSION pg_hba.conf pg_ident.conf);

	my $lsn = $c->{'Latest checkpoint location'};
	my ($hi, $lo) = map { hex } split m{/}, $lsn;
	my $entries = join '', map { pack('V5', @$_) } @forks;
	my $relsizes =
	  pack('a4 V Q< V V', 'NRS1', 1, ($hi << 32) | $lo, scalar(@forks), crc32c($entries)) . $entries;
	$relsizes = $o{relsizes}->($relsizes) if $o{relsizes};
	write_file("$to/neon.relsizes", $relsizes);

	my %same = (
		tenant_id => $tenant,
		timeline_id => $timeline,
		kind => $kind,
		term => $term,
		boot_lsn => $lsn);
	my %boot = (
		%same,
		format => 1,
		boot_record_lsn => $lsn,
		boot_record_end => sprintf('%X/%X', $hi, $lo + 120),
		prev_record_lsn => '0/0',
		system_identifier => $c->{'Database system identifier'},
		wal_segment_size => $c->{'Bytes per WAL segment'},
		data_checksums => $c->{'Data page checksum version'} ? 1 : 0,
		server_version_num => 150013,
		catalog_version => $c->{'Catalog version number'},
		max_connections => $c->{'max_connections setting'},
		max_worker_processes => $c->{'max_worker_processes setting'},
		max_wal_senders => $c->{'max_wal_senders setting'},
		max_prepared_xacts => $c->{'max_prepared_xacts setting'},
		max_locks_per_xact => $c->{'max_locks_per_xact setting'},
		wal_level => $c->{'wal_level setting'},
		track_commit_timestamp => $c->{'track_commit_timestamp setting'} eq 'on' ? 1 : 0,
		branched_at => '0/0');
	write_file("$to/neon.boot", join '', map { "$_=$boot{$_}\n" } sort keys %boot);
	write_ticket($to, %same, endpoint => $name, boot_id => $boot_id);
	write_file("$to/standby.signal", '') if $kind eq 'static';

	write_file("$to/postgresql.conf", <<CONF . LocalLimit::settings() . ($o{conf} // ''));
fsync = on
full_page_writes = off
wal_level = replica
max_wal_senders = 10
max_prepared_transactions = 5
listen_addresses = ''
unix_socket_directories = '@{[ $node->host ]}'
port = @{[ $node->port ]}
log_line_prefix = '%m [%p] %q%a '
log_statement = none
dynamic_library_path = '$ENV{NEON_TESTING_LIBDIR}:\$libdir'
shared_preload_libraries = 'neon'
neon.tenant_id = '$tenant'
neon.timeline_id = '$timeline'
neon.endpoint_id = '$name'
neon.prewarm_rate = 0
@{[ $o{no_reference} ? '' : "neon.test_reference_dir = '$from'" ]}
CONF
	LocalLimit::put_ballast($to);
	$node->start unless $o{no_start};
	return $node;
}

# Does the worker run that creates relation files?  It is in no view.
sub creator_runs
{
	my ($node) = @_;
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	return scalar NeonTest->children_of($pid, qr/neon file creator/);
}

# The relation files of a database that are there.
sub relation_files
{
	my ($node, $db) = @_;
	return scalar grep { m{/\d+(?:_vm)?$} } glob $node->data_dir . "/base/$db/*";
}

# The OID counter of a server that is stopped.
sub set_next_oid
{
	my ($pgdata, $oid) = @_;
	my $file = "$pgdata/global/pg_control";
	my $bytes = slurp_file($file);
	my ($crc_at) = grep { unpack("x$_ V", $bytes) == crc32c(substr($bytes, 0, $_)) } map { 4 * $_ } 40 .. 120;
	substr($bytes, 72, 4) = pack('V', $oid);
	substr($bytes, $crc_at, 4) = pack('V', crc32c(substr($bytes, 0, $crc_at)));
	write_file($file, $bytes);
	return;
}

# The extension's library is the installed one, which is not preloaded here: its
# objects over the preloaded one.
sub extension
{
	my ($node, $db) = @_;
	my $sql = slurp_file("$ENV{NEON_TEST_TOP}/neon_compute/neon--1.0.sql");
	$sql =~ s/^\\echo.*$//m;
	$sql =~ s/MODULE_PATHNAME/neon/g;
	$node->safe_psql($db // 'postgres', "SET client_min_messages = warning; CREATE SCHEMA neon; $sql");
	return;
}

sub stats
{
	my ($node, $db) = @_;
	$db //= 'postgres';
	$node->safe_psql($db, <<'SQL');
CREATE OR REPLACE FUNCTION test_stat_local(OUT hits int8, OUT misses int8, OUT fetched_pages int8,
 OUT fetched_bytes int8, OUT evicted_chunks int8, OUT present_bytes int8, OUT limit_bytes int8)
 AS 'neon', 'neon_sql_stat_local' LANGUAGE C;
CREATE OR REPLACE FUNCTION test_hydrate(regclass DEFAULT NULL) RETURNS int8
 AS 'neon', 'neon_sql_hydrate' LANGUAGE C CALLED ON NULL INPUT;
SQL
	my @names = qw(hits misses fetched_pages fetched_bytes evicted_chunks present_bytes);
	my @values = split /\|/, $node->safe_psql($db, 'SELECT ' . join(',', @names) . ' FROM test_stat_local()');
	my %stats;
	@stats{@names} = @values;
	return \%stats;
}

1;
