# NeonSafekeeper: safekeepers without the rest of the system, given the WAL of
# a stock server.
#
#   my $wal = NeonSafekeeper::wal_source();    # { sysid, start, end, segsize, dir }
#   my $sk = NeonSafekeeper->new('sk1');
#   $sk->create($config, $wal); $sk->append(1, $from, $to);
package NeonSafekeeper;

use strict;
use warnings;
use NeonTest::Template;
use NodeSql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our $timeout = 120;
our ($tenant, $timeline) = ('1' x 32, '2' x 32);

sub new
{
	my ($class, $name, %o) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	NeonTest::Template::init_node($node, extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync' ]);
	$node->append_conf('postgresql.conf', <<CONF . ($o{conf} // ''));
listen_addresses = ''
unix_socket_directories = '@{[ $node->host ]}'
shared_preload_libraries = 'neon_safekeeper'
@{[ $ENV{NEON_TESTING_LIBDIR} ? "dynamic_library_path = '$ENV{NEON_TESTING_LIBDIR}:\$libdir'" : '' ]}
fsync = on
wal_level = replica
max_wal_senders = 20
CONF
	my $self = bless { node => $node }, $class;
	$self->start;
	$self->sql('CREATE EXTENSION neon_safekeeper; CREATE EXTENSION neon_safekeeper_test');
	$self->{uuid} = $self->sql('SELECT neon_safekeeper.node_uuid()');
	return $self;
}

sub node { $_[0]{node} }
sub start { my ($self, %o) = @_; local $ENV{PGUSER} = 'cloud_admin'; return $self->{node}->start(%o) }

sub restart
{
	my ($self, $mode) = @_;
	$self->{node}->stop($mode);
	$self->start;
}

sub sql
{
	my ($self, $sql) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
	return $self->{node}->safe_psql('postgres', $sql, timeout => $timeout);
}

# "SQLSTATE message" of a statement that must fail ('' if it did not).
sub sql_error
{
	my ($self, $sql, $user) = @_;
	local $ENV{PGUSER} = $user // 'cloud_admin';
	my ($rc, $out, $err) = $self->{node}->psql('postgres', "\\set VERBOSITY verbose\n$sql", timeout => $timeout);
	return $rc == 0 ? '' : $err;
}

# A function of the protocol on the timeline.
sub call
{
	my ($self, $function, @args) = @_;
	return $self->sql("SELECT * FROM neon_safekeeper.$function(" . join(', ', "'$tenant'", "'$timeline'", @args) . ')');
}

sub call_error
{
	my ($self, $function, @args) = @_;
	return $self->sql_error("SELECT * FROM neon_safekeeper.$function(" . join(', ', "'$tenant'", "'$timeline'", @args) . ')');
}

sub positions
{
	my ($self) = @_;
	return $self->sql("SELECT promised, last_log_term, flush_lsn, commit_lsn, counts, state FROM neon_safekeeper.positions('$tenant', '$timeline')");
}

sub config
{
	my ($generation, @members) = @_;
	my $n = 0;
	my $list = join ', ', map { $n++; qq({"id": $n, "node": "$_->{uuid}", "host": "127.0.0.1", "port": @{[ 5000 + $n ]}}) } @members;
	return qq('{"generation": $generation, "floor": 0, "members": [$list], "new_members": null}');
}

sub create
{
	my ($self, $config, $wal) = @_;
	$self->call('timeline_create', $wal->{sysid}, $wal->{segsize}, 1, "'$wal->{start}'", 0, "'[[0, \"$wal->{start}\"]]'", $config);
}

# Bytes [from, to) of the source's WAL are written under term.
sub append
{
	my ($self, $term, $wal, $from, $to) = @_;
	my $data = unpack('H*', wal_bytes($wal, $from, $to));
	return $self->sql("SELECT neon_sk_test.append('$tenant', '$timeline', $term, '@{[ lsn_text($from) ]}', '\\x$data')");
}

sub read
{
	my ($self, $from, $len) = @_;
	return $self->sql("SELECT encode(neon_sk_test.read('$tenant', '$timeline', '@{[ lsn_text($from) ]}', $len), 'hex')");
}

sub dir { $_[0]{node}->data_dir . "/neon/tenants/$tenant/timelines/$timeline" }

sub segment_file
{
	my ($self, $wal, $lsn) = @_;
	return $self->dir . '/wal/' . segment_name($wal, $lsn);
}

sub lsn_number { my ($hi, $lo) = map { hex } split m{/}, $_[0]; return ($hi << 32) | $lo; }
sub lsn_text { return sprintf('%X/%X', $_[0] >> 32, $_[0] & 0xffffffff) }

sub segment_name
{
	my ($wal, $lsn) = @_;
	my $per_id = (2**32) / $wal->{segsize};
	my $segno = int($lsn / $wal->{segsize});
	return sprintf('%08X%08X%08X', 1, int($segno / $per_id), $segno % $per_id);
}

sub wal_bytes
{
	my ($wal, $from, $to) = @_;
	my $data = '';
	while ($from < $to)
	{
		my $offset = $from % $wal->{segsize};
		my $n = $wal->{segsize} - $offset;
		$n = $to - $from if $n > $to - $from;
		open my $f, '<:raw', "$wal->{dir}/" . segment_name($wal, $from) or die "$wal->{dir}: $!";
		seek $f, $offset, 0;
		CORE::read($f, my $piece, $n) == $n or die;
		$data .= $piece;
		$from += $n;
	}
	return $data;
}

# WAL of a stock server: from the start of a segment (after XLOG_SWITCH) on.
sub wal_source
{
	my ($sql) = @_;
	my $node = PostgreSQL::Test::Cluster->new('source');
	$node->init(extra => [ '--wal-segsize=1', '--no-sync' ]);
	$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\n");
	$node->start;
	$node->safe_psql('postgres', 'CHECKPOINT');
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
	my $start = $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	$node->safe_psql('postgres', $sql);
	my $end = $node->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
	my $sysid = $node->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
	$node->stop('immediate');
	return { sysid => $sysid, start => $start, end => $end, segsize => 1024 * 1024, dir => $node->data_dir . '/pg_wal' };
}

1;
