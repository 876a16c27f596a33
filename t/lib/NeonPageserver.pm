# NeonPageserver: a pageserver without the rest of the system, and a client
# of its protocols that can also misbehave.
#
#   my $ps = NeonPageserver->new('ps', conf => '...');
#   my $t = $ps->tenant;                       # { tenant, timeline, lsn }
#   my $files = $ps->basebackup($t, $lsn, 0, 'static', $dir);
#   my $s = $ps->stream($t); $s->get(lsn => ..., rel => [spc, db, rel], blk => 0);
package NeonPageserver;

use strict;
use warnings;
use Carp;
use File::Path qw(make_path);
use IO::Select;
use IO::Socket::UNIX;
use IPC::Run;
use NeonOverlay;
use NeonTest::Template;
use NodeSql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket;
use Test::More;

our $timeout = 120;

sub new
{
	my ($class, $name, %o) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	NeonTest::Template::init_node($node, extra => [ '--username', 'cloud_admin', '--auth', 'trust', '--no-sync' ]);
	$node->append_conf('postgresql.conf', <<CONF . ($o{conf} // ''));
listen_addresses = ''
unix_socket_directories = '@{[ $node->host ]}'
shared_preload_libraries = 'neon_pageserver'
max_worker_processes = 32
max_connections = 50
fsync = on
CONF
	# a library that is not installed
	$node->append_conf('postgresql.conf', "dynamic_library_path = '$ENV{NEON_PAGESERVER_LIBDIR}:\$libdir'")
	  if $ENV{NEON_PAGESERVER_LIBDIR};
	my $self = bless { node => $node }, $class;
	if (!$o{stopped})
	{
		$self->start;
		$self->sql('CREATE EXTENSION neon_pageserver');
	}
	return $self;
}

sub node { $_[0]{node} }
sub start { my $self = shift; local $ENV{PGUSER} = 'cloud_admin'; return $self->{node}->start(@_) }
sub stop { my $self = shift; $self->{node}->stop(@_) }
sub restart { local $ENV{PGUSER} = 'cloud_admin'; $_[0]{node}->restart }

sub sql
{
	my ($self, $sql) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
	return $self->{node}->safe_psql('postgres', $sql, timeout => $timeout);
}

# stderr of a statement that must fail ('' if it did not).
sub sql_error
{
	my ($self, $sql, $user) = @_;
	local $ENV{PGUSER} = $user // 'cloud_admin';
	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
	my ($rc, $out, $err) = $self->{node}->psql('postgres', $sql, timeout => $timeout);
	return $rc == 0 ? '' : $err;
}

sub tenant
{
	my ($self, $options, $id) = @_;
	$options //= '{}';
	my $arg = defined $id ? "'$id'" : 'NULL';
	my ($tenant, $timeline, $lsn) = split /\|/,
	  $self->sql("SELECT * FROM neon_pageserver.tenant_create($arg, '$options')");
	return { tenant => $tenant, timeline => $timeline, lsn => $lsn };
}

# Files of this name in /proc of all processes of the instance.
sub of_processes
{
	my ($self, $file) = @_;
	my $pgdata = $self->{node}->data_dir;
	return grep { $_ ne '' } map { eval { slurp_file("$_/$file") } // '' } grep { (readlink("$_/cwd") // '') eq $pgdata } glob '/proc/[0-9]*';
}

# Their memory, the sum of proportional set sizes, in MB.
sub pss
{
	my ($self) = @_;
	my $kb = 0;
	$kb += /^Pss:\s+(\d+) kB/m ? $1 : 0 for $self->of_processes('smaps_rollup');
	return int($kb / 1024);
}

sub last_lsn
{
	my ($self, $t) = @_;
	return $self->sql("SELECT last_record_lsn FROM neon_pageserver.timelines WHERE timeline_id = '$t->{timeline}'");
}

sub lsn_number { my ($hi, $lo) = map { hex } split m{/}, $_[0]; return ($hi << 32) | $lo; }
sub lsn_text { return sprintf('%X/%X', $_[0] >> 32, $_[0] & 0xffffffff) }

# ---- raw connections ----

sub connect
{
	my ($self, %o) = @_;
	my $user = $o{user} // 'cloud_admin';
	my $path = $self->{node}->host . '/.s.PGSQL.' . $self->{node}->port;
	my $sock = $o{ssl} ? ssl_socket($self->{node}->port, $o{ssl_log}) : IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $path)
	  or croak "could not connect to $path: $!";
	my $c = bless { sock => $sock, buf => '' }, 'NeonPageserver::Connection';
	my $body = pack('N', 196608) . "user\0$user\0database\0postgres\0client_min_messages\0warning\0\0";
	$c->send_bytes(pack('N', 4 + length $body) . $body);
	$c->until('Z');
	return $c;
}

# One end of a socket pair whose other end "openssl s_client" encrypts; what it says
# of each record of the encryption goes to the file log, if there is one.
sub ssl_socket
{
	my ($port, $log) = @_;
	socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak $!;
	my $pid = fork() // croak $!;
	if ($pid == 0)
	{
		open(STDIN, '<&', $theirs);
		open(STDOUT, '>&', $theirs);
		open(STDERR, '>', '/dev/null');
		exec('openssl', 's_client', '-quiet', '-starttls', 'postgres', '-connect', "127.0.0.1:$port",
			defined $log ? ('-msg', '-msgfile', $log) : ());
		exit 1;
	}
	close $theirs;
	return $ours;
}

# A connection in COPY BOTH mode.
sub stream
{
	my ($self, $t, %o) = @_;
	my $c = $self->connect(%o);
	$c->query("CALL neon_pageserver.pagestream('$t->{tenant}', '$t->{timeline}')");
	my ($type, $body) = $c->message;
	croak 'no stream: ' . ($type // 'end') . ' ' . ($body // '') if ($type // '') ne 'W';
	return $c;
}

# Unpacks a base backup into dir; returns the tar's bytes.
sub basebackup
{
	my ($self, $t, $lsn, $term, $kind, $dir, %o) = @_;
	my $c = $self->connect(%o);
	$c->query("CALL neon_pageserver.basebackup('$t->{tenant}', '$t->{timeline}', '$lsn', $term, '$kind')");
	my $tar = '';
	while (my ($type, $body) = $c->message)
	{
		if ($type eq 'd') { $tar .= $body }
		elsif ($type eq 'E') { croak 'basebackup: ' . NeonPageserver::Connection::error_text($body) }
		elsif ($type eq 'Z') { last }
	}
	if (defined $dir)
	{
		make_path($dir);
		chmod 0700, $dir;
		open(my $fh, '>', "$dir.tar") or croak $!;
		binmode $fh;
		print $fh $tar;
		close $fh or croak $!;
		my ($out, $err) = ('', '');
		IPC::Run::run([ 'tar', 'xf', "$dir.tar", '-C', $dir ], '<', \undef, '>', \$out, '2>', \$err)
		  or croak "tar: $err";
		croak "tar says: $err" if $err ne '';
		unlink "$dir.tar";
	}
	return $tar;
}

# [spc, db, rel, fork, nblocks] of neon.relsizes
sub relsizes
{
	my ($dir) = @_;
	my $bytes = slurp_file("$dir/neon.relsizes");
	my ($magic, $version, $lsn, $n, $crc) = unpack 'a4 V Q< V V', $bytes;
	croak 'bad neon.relsizes' if $magic ne 'NRS1' || $version != 1 || length($bytes) != 24 + 20 * $n;
	my @u = unpack 'V*', substr($bytes, 24);
	return map { [ @u[ 5 * $_ .. 5 * $_ + 4 ] ] } 0 .. $n - 1;
}

our @fork_suffix = ('', '_fsm', '_vm', '_init');

sub relpath
{
	my ($dir, $spc, $db, $rel, $fork) = @_;
	return "$dir/global/$rel$fork_suffix[$fork]" if $spc == 1664;
	return "$dir/base/$db/$rel$fork_suffix[$fork]" if $spc == 1663;
	my ($version) = glob "$dir/pg_tblspc/$spc/PG_15_*";
	return "$version/$db/$rel$fork_suffix[$fork]";
}

# Makes a complete data directory out of an unpacked base backup.
sub hydrate
{
	my ($self, $t, $lsn, $dir) = @_;
	my $s = $self->stream($t);
	my $n = 0;
	for my $e (relsizes($dir))
	{
		my ($spc, $db, $rel, $fork, $nblocks) = @$e;
		open(my $fh, '>', relpath($dir, $spc, $db, $rel, $fork)) or croak "$!: $spc/$db/$rel/$fork";
		binmode $fh;
		for (my $blk = 0; $blk < $nblocks; $blk += 64)
		{
			my $count = $nblocks - $blk < 64 ? $nblocks - $blk : 64;
			my $r = $s->get(lsn => $lsn, rel => [ $spc, $db, $rel ], fork => $fork, blk => $blk, n => $count);
			croak "page $spc/$db/$rel/$fork/$blk: $r->{message} ($r->{detail})" if $r->{tag} ne 'p';
			print $fh $r->{pages};
			$n += $count;
		}
		close $fh or croak $!;
	}
	$s->close;
	return $n;
}

# A node over an unpacked base backup, without relation files, stopped.
sub unpacked
{
	my ($self, $name, $t, $lsn, $term, $kind, $conf) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $dir = $node->data_dir;
	make_path($node->basedir, $node->backup_dir, $node->archive_dir);
	$self->basebackup($t, $lsn, $term, $kind, $dir);
	append_to_file("$dir/pg_hba.conf", "local all all trust\nlocal replication all trust\n");
	append_to_file("$dir/pg_ident.conf", '');
	append_to_file("$dir/postgresql.conf", <<CONF . $conf);
listen_addresses = ''
unix_socket_directories = '@{[ $node->host ]}'
port = @{[ $node->port ]}
wal_level = replica
full_page_writes = off
max_wal_senders = 10
max_connections = 100
max_worker_processes = 8
max_prepared_transactions = 10
fsync = off
CONF
	chmod 0600, "$dir/postgresql.conf", "$dir/pg_hba.conf", "$dir/pg_ident.conf";
	return $node;
}

# A stopped vanilla node over a hydrated directory.
sub vanilla
{
	my ($self, $name, $t, $lsn, $term, $kind, %o) = @_;
	my $node = $self->unpacked($name, $t, $lsn, $term, $kind, $o{conf} // '');
	$self->hydrate($t, $lsn, $node->data_dir);
	return $node;
}

# A stopped ephemeral compute, which gets its pages by the connection string.
sub compute
{
	my ($self, $name, $t, $connstring) = @_;
	my $node = $self->unpacked($name, $t, $t->{lsn}, 0, 'ephemeral', <<CONF);
fsync = on
shared_preload_libraries = 'neon'
neon.tenant_id = '$t->{tenant}'
neon.timeline_id = '$t->{timeline}'
neon.endpoint_id = '$name'
neon.pageserver_connstring = '$connstring'
neon.prewarm_rate = 0
CONF
	my %boot = slurp_file($node->data_dir . '/neon.boot') =~ /^(\w+)=(.*)$/mg;
	NeonOverlay::write_ticket($node->data_dir, endpoint => $name, boot_id => '33' x 16,
		map { $_ => $boot{$_} } qw(tenant_id timeline_id kind term boot_lsn));
	return $node;
}

package NeonPageserver::Connection;

use strict;
use warnings;
use Carp;

sub send_bytes
{
	my ($c, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	my $off = 0;
	while ($off < length $bytes)
	{
		my $n = syswrite $c->{sock}, $bytes, length($bytes) - $off, $off;
		return 0 if !defined $n;
		$off += $n;
	}
	return 1;
}

sub send_message { my ($c, $type, $body) = @_; return $c->send_bytes($type . pack('N', 4 + length $body) . $body); }
sub query { my ($c, $sql) = @_; return $c->send_message('Q', "$sql\0"); }

# (type, body), or the empty list at the end of the connection.
sub message
{
	my ($c) = @_;
	while (1)
	{
		if (length $c->{buf} >= 5)
		{
			my ($type, $len) = unpack 'a N', $c->{buf};
			if (length $c->{buf} >= 1 + $len)
			{
				my $body = substr $c->{buf}, 5, $len - 4;
				substr($c->{buf}, 0, 1 + $len) = '';
				return ($type, $body);
			}
		}
		IO::Select->new($c->{sock})->can_read($NeonPageserver::timeout) or croak 'timeout in reading';
		my $n = sysread $c->{sock}, $c->{buf}, 1 << 20, length $c->{buf};
		return () if !$n;
	}
}

# Skips to a message of this type; its body, undef at the end of the connection.
sub until
{
	my ($c, $want) = @_;
	while (my ($type, $body) = $c->message)
	{
		return $body if $type eq $want;
		$c->{error} = error_text($body) if $type eq 'E';
	}
	return undef;
}

sub error_text
{
	my %f = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $_[0];
	return "$f{V} $f{C} $f{M}";
}

our $reqid = 0;
our $max_lsn = pack('N N', 0xffffffff, 0xffffffff);

sub lsn_bytes { my $l = NeonPageserver::lsn_number($_[0]); return pack('N N', $l >> 32, $l & 0xffffffff); }

# The bytes of a request: lsn (undef: newest), since, term, rel, fork, blk, n
sub request
{
	my (%r) = @_;
	my $since = lsn_bytes($r{since} // $r{lsn});
	return pack('a C n N N', 'P', $r{version} // 1, $r{n} // 1, 0, $r{id} // ++$reqid)
	  . (defined $r{lsn} ? lsn_bytes($r{lsn}) : $max_lsn) . $since
	  . pack('N N N N C N', $r{term} // 0, @{ $r{rel} }, $r{fork} // 0, $r{blk} // 0);
}

sub parse_answer
{
	my ($body) = @_;
	my ($tag, $version, $n, $id_hi, $id, $hi, $lo) = unpack 'a C n N N N N', $body;
	my %a = (tag => $tag, n => $n, id => $id, lsn => sprintf('%X/%X', $hi, $lo));
	if ($tag eq 'p') { $a{pages} = substr $body, 20 }
	else
	{
		($a{class}, $a{sqlstate}, my $text) = unpack 'a a5 a*', substr $body, 20;
		@a{qw(message detail hint)} = split /\0/, $text, -1;
	}
	return \%a;
}

sub answer
{
	my ($c) = @_;
	my ($type, $body) = $c->message;
	croak 'connection closed' if !defined $type;
	croak 'no answer: ' . error_text($body) if $type eq 'E';
	croak "no answer: $type" if $type ne 'd';
	return parse_answer($body);
}

sub get
{
	my ($c, %r) = @_;
	$c->send_message('d', request(%r)) or croak 'connection closed';
	return $c->answer;
}

sub close { my ($c) = @_; close $c->{sock}; return; }

1;
