# NeonControl: computes without the rest of the system, to test what decides
# whether a compute starts, whom it lets in and what it refuses.
#
#   my $base = NeonControl::base();           # a data directory, shut down
#   my $node = NeonControl->compute($base, 'main', kind => 'primary');
#   my $storage = NeonControl->storage();     # answers the coordinator
#
# The compute's relation files are all there, so it asks nobody for pages.  The
# storage is an ordinary server with the one function that the coordinator
# calls; what streams is pg_receivewal, which a test starts and stops.
package NeonControl;

use strict;
use warnings;
use Carp;
use File::Path qw(make_path);
use IPC::Run qw(start);
use LocalLimit;
use NeonOverlay;
use NeonTest::Template;
use NodeSql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;

sub base
{
	my $node = PostgreSQL::Test::Cluster->new('base');
	NeonTest::Template::init_node($node, extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync' ]);
	$node->append_conf('postgresql.conf', "listen_addresses = ''\nunix_socket_directories = '" . $node->host . "'\n"
		. "wal_level = replica\nmax_wal_senders = 10\n");
	local $ENV{PGUSER} = 'cloud_admin';
	$node->start;
	$node->safe_psql('postgres', 'CREATE ROLE neon_storage LOGIN REPLICATION; CREATE TABLE t(a int, b text)');
	$node->stop;
	return $node;
}

# The files of a boot: neon.boot, neon.relsizes (nothing is remote), neon.ticket.
# Options: kind, boot => {}, ticket => {} (changed keys).
sub write_boot_files
{
	my ($dir, $name, %o) = @_;
	my $c = NeonOverlay::control_data($dir);
	my $kind = $o{kind} // 'primary';
	my $lsn = $c->{'Latest checkpoint location'};
	my ($hi, $lo) = map { hex } split m{/}, $lsn;
	my $end = $lo + 120;
	$end += 24 if int(($end - 1) / 8192) != int($lo / 8192);
	my %same = (
		tenant_id => $NeonOverlay::tenant,
		timeline_id => $NeonOverlay::timeline,
		kind => $kind,
		term => $kind eq 'primary' ? 3 : 0,
		boot_lsn => $lsn);
	my %boot = (
		%same,
		format => 1,
		boot_record_lsn => $lsn,
		boot_record_end => sprintf('%X/%X', $hi, $end),
		system_identifier => $c->{'Database system identifier'},
		wal_segment_size => $c->{'Bytes per WAL segment'},
		data_checksums => $c->{'Data page checksum version'} ? 1 : 0,
		server_version_num => 150013,
		catalog_version => $c->{'Catalog version number'},
		max_prepared_xacts => $c->{'max_prepared_xacts setting'},
		%{ $o{boot} || {} });
	NeonOverlay::write_file("$dir/neon.boot", join '', map { "$_=$boot{$_}\n" } sort keys %boot);
	NeonOverlay::write_file("$dir/neon.relsizes", pack('a4 V Q< V V', 'NRS1', 1, ($hi << 32) | $lo, 0, 0));
	NeonOverlay::write_ticket($dir, %same, endpoint => $name, boot_id => '33' x 16, %{ $o{ticket} || {} });
	NeonOverlay::write_file("$dir/standby.signal", '') if $kind eq 'static';
	return;
}

# Not started.  Options: those of write_boot_files, conf.
sub compute
{
	my ($class, $base, $name, %o) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $dir = $node->data_dir;

	make_path($node->basedir, $node->backup_dir, $node->archive_dir);
	PostgreSQL::Test::RecursiveCopy::copypath($base->data_dir, $dir, filterfn => sub { $_[0] ne 'postmaster.opts' });
	chmod 0700, $dir;
	write_boot_files($dir, $name, %o);
	$node->append_conf('postgresql.conf', <<CONF . LocalLimit::settings() . ($o{conf} // ''));
fsync = on
full_page_writes = off
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
restart_after_crash = on
listen_addresses = ''
unix_socket_directories = '@{[ $node->host ]}'
port = @{[ $node->port ]}
shared_preload_libraries = 'neon'
neon.tenant_id = '$NeonOverlay::tenant'
neon.timeline_id = '$NeonOverlay::timeline'
neon.endpoint_id = '$name'
CONF
	return $node;
}

# A start that must fail: FATAL, with a hint; the ticket is still there.
sub start_refused
{
	my ($node, $fatal, $hint, $test) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $had_ticket = -e $node->data_dir . '/neon.ticket';
	unlink $node->logfile;
	subtest $test => sub {
		ok(!$node->start(fail_ok => 1), 'does not start');
		my @fatal = slurp_file($node->logfile) =~ /FATAL:  (.*)/g;
		is(scalar(@fatal), 1, 'one FATAL');
		like($fatal[0], $fatal, 'message');
		like(join("\n", slurp_file($node->logfile) =~ /HINT:  (.*)/g), $hint, 'hint');
		is(-e $node->data_dir . '/neon.ticket' ? 1 : 0, $had_ticket ? 1 : 0, 'the ticket was not touched');
	};
	return;
}

# A server that answers timeline_source as its table "answer" says.
sub storage
{
	my ($class) = @_;
	my $node = PostgreSQL::Test::Cluster->new('storage');
	NeonTest::Template::init_node($node, extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync' ]);
	$node->append_conf('postgresql.conf', "listen_addresses = ''\nunix_socket_directories = '" . $node->host . "'\n");
	local $ENV{PGUSER} = 'cloud_admin';
	$node->start;
	$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA neon_pageserver;
CREATE TABLE answer(kind text);
INSERT INTO answer VALUES ('ok');
CREATE TABLE calls(n serial, tenant text, timeline text, term int, conninfo text[]);
CREATE FUNCTION neon_pageserver.timeline_source(tenant text, timeline text, term int, conninfo text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	k text := (SELECT kind FROM answer);
BEGIN
	IF k = 'superseded' THEN
		RAISE EXCEPTION 'superseded by term 9' USING ERRCODE = 'NS001';
	ELSIF k = 'refused' THEN
		RAISE EXCEPTION 'no such timeline' USING HINT = 'Look again.';
	ELSIF k = 'hang' THEN
		PERFORM pg_sleep(600);
	END IF;
	INSERT INTO calls(tenant, timeline, term, conninfo) VALUES (tenant, timeline, term, conninfo);
END $$;
SQL
	return $node;
}

# Safekeepers that nobody reaches: for starts that are refused before that.
our @members = map { { id => $_, node => "$_" x 32, name => "neon_sk_${_}_" . "$_" x 8 . '_' . '3' x 14 } } 1 .. 3;

# Settings of a compute with them; names: synchronous_standby_names.
sub quorum_conf
{
	my (%o) = @_;
	my $list = $o{safekeepers} // join ',', map { "$_->{id}:$_->{node}:127.0.0.1:1" } @members;
	my $names = $o{names} // 'ANY 2 (' . join(', ', map { $_->{name} } @members) . ')';
	return <<CONF;
neon.pageserver_connstring = 'host=127.0.0.1 port=1 user=cloud_admin dbname=postgres'
neon.storage_conninfo = 'host=here user=neon_storage'
fsync = off
max_prepared_transactions = 5
neon.safekeepers = '$list'
neon.safekeeper_connstring = 'user=cloud_admin dbname=postgres'
neon.config_generation = 7
synchronous_standby_names = '$names'
CONF
}

sub answer
{
	my ($storage, $kind) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	$storage->safe_psql('postgres', "UPDATE answer SET kind = '$kind'");
	return;
}

sub connstr_conf
{
	my ($storage) = @_;
	return "neon.pageserver_connstring = '" . conninfo($storage) . "'\n"
	  . "neon.storage_conninfo = 'host=here user=neon_storage'\n";
}

sub conninfo
{
	my ($node) = @_;
	return join ' ', 'host=' . $node->host, 'port=' . $node->port, 'user=cloud_admin', 'dbname=postgres';
}

# Something that streams and reports what it has: returns its handle.
sub receive
{
	my ($node, $dir) = @_;
	my $h = start(
		[
			'pg_receivewal', '-d', 'host=' . $node->host . ' port=' . $node->port . ' user=neon_storage',
			'--slot', 'neon_pageserver', '--synchronous', '--no-loop', '-D', $dir
		],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null');
	return $h;
}

1;
