# NeonTest::Vanilla: a stock server that replays an archive up to an LSN.
package NeonTest::Vanilla;
use strict;
use warnings;
use Carp;
use Fcntl;
use File::Basename;
use File::Path qw(remove_tree);

my $vcount = 0;

sub new
{
	my ($class, $t, $base, $lsn, @wal) = @_;
	my $dir = "$t->{tmp}/vanilla" . ++$vcount;
	my $sock = "$t->{tmp}";
	system('cp', '-a', $base, $dir) == 0 or croak "cannot copy $base";
	unlink glob("$dir/neon.*"), "$dir/postmaster.pid", "$dir/standby.signal",
	  "$dir/postgresql.auto.conf", "$dir/postgresql.conf", "$dir/pg_hba.conf", "$dir/pg_ident.conf";
	my $port = $t->free_port;
	my $restore = join ' || ', map { "cp \"$_/%f\" \"%p\" 2>/dev/null" } @wal;
	my $self = bless { t => $t, dir => $dir, port => $port }, $class;
	$self->write('postgresql.conf', <<"CONF");
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
fsync = off
autovacuum = off
max_connections = 200
max_worker_processes = 64
max_prepared_transactions = 200
max_wal_senders = 64
max_locks_per_transaction = 256
hot_standby = off
allow_in_place_tablespaces = on
restore_command = '$restore'
recovery_target_lsn = '$lsn'
recovery_target_inclusive = off
recovery_target_action = 'promote'
recovery_target_timeline = 'current'
wal_retrieve_retry_interval = '100ms'
log_min_messages = notice
CONF
	$self->write('pg_hba.conf', "local all all trust\nhost all all 127.0.0.1/32 trust\n");
	$self->write('pg_ident.conf', '');
	$self->write('recovery.signal', '');
	my ($rc, $out, $err) = $t->command(
		[ 'pg_ctl', '-D', $dir, '-l', "$dir.log", '-w', '-t', '300', 'start' ], timeout => 320);
	croak "stock replay does not start: $out $err\n" . slurp("$dir.log") if $rc != 0;
	my $ok = eval {
		$t->poll('pageserver', 'SELECT pg_is_in_recovery()', 'f',
			connstr => $self->connstr, timeout => 300);
		1;
	};
	if (!$ok)
	{
		my $e = $@;
		my $log = slurp("$dir.log");
		$self->stop;
		croak "stock replay did not reach $lsn: $e\n$log";
	}
	return $self;
}

sub connstr { "host=127.0.0.1 port=$_[0]{port} user=cloud_admin dbname=" . ($_[1] || 'postgres') }
sub psql { my ($s, $sql, $db) = @_; return $s->{t}->psql('pageserver', $sql, connstr => $s->connstr($db)) }
sub dump_all { my ($s) = @_; return $s->{t}->dump_all('vanilla', port => $s->{port}) }

sub stop
{
	my ($self) = @_;
	$self->{t}->command([ 'pg_ctl', '-D', $self->{dir}, '-m', 'immediate', '-w', 'stop' ]);
	remove_tree($self->{dir}) unless $ENV{NEON_TEST_KEEP};
	return;
}

sub write
{
	my ($self, $file, $text) = @_;
	open my $f, '>', "$self->{dir}/$file" or croak "$file: $!";
	print $f $text;
	close $f or croak "$file: $!";
}

sub slurp
{
	my ($file) = @_;
	open my $f, '<', $file or return '';
	local $/;
	my $x = <$f>;
	return defined $x ? $x : '';
}

1;
