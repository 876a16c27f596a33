# FaultSystem: three safekeepers, a pageserver and two machines for computes,
# each with an address of its own, so that the network between any two of them
# can be cut, and a clock of its own.
#
#   BEGIN { FaultSystem::enter_namespaces() }   # as root, before NeonTest
#   my $t = FaultSystem->new(seed => 1);
#   $t->start_system;
#   $t->cut('sk1', 'm1');                       # packets from sk1 to m1 are lost
#   $t->connect_all;
#
# Hosts: sk1 sk2 sk3 ps m1 m2.  A machine sees the endpoints' directories that
# are its own and no others, as another computer would: "neon endpoint start
# --take-over" there cannot end the processes of the other one.
package FaultSystem;

use strict;
use warnings;
use Carp;
use File::Path qw(make_path);
use Cwd qw(realpath);
use POSIX qw(WNOHANG);
use PowerCut;
use Test::More;
use Time::HiRes qw(time sleep);

our @ISA = ('NeonTest');

my %address = (
	sk1 => '127.0.0.11', sk2 => '127.0.0.12', sk3 => '127.0.0.13',
	ps => '127.0.0.20', m1 => '127.0.0.31', m2 => '127.0.0.32');
our @hosts = sort keys %address;
my %machine_of = (a => 'm1', b => 'm2');
my @faketime = ('/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1',
	'/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1');

# Goes on in mount, network, process and IPC namespaces of its own: nothing of
# the machine is touched, and nothing outlives the test.
sub enter_namespaces
{
	return 'needs root, for a network to cut and disks to fill' if $> != 0;
	return 'needs the build with TESTING=1' unless $ENV{NEON_TESTING_LIBDIR} && -x "$ENV{NEON_TESTING_LIBDIR}/faultclient";
	for my $tool ('nft', 'unshare', 'ip')
	{
		return "needs the program $tool" if !grep { -x "$_/$tool" } split(/:/, $ENV{PATH}), '/usr/sbin', '/sbin';
	}
	if (!$ENV{NEON_TEST_OWN_NAMESPACES})
	{
		$ENV{NEON_TEST_OWN_NAMESPACES} = 1;
		$ENV{PATH} .= ':/usr/sbin:/sbin';
		my @own = ('unshare', '-m', '-n', '-i', '-p', '-f', '--mount-proc', '--kill-child');
		my $why = `@own true 2>&1`;
		return "needs namespaces: $why" if $? != 0;
		exec @own, 'sh', '-c', '"$@"; exit $?', 'sh', $^X, (map { ('-I', $_) } @INC), $0, @ARGV;
	}
	must('ip', 'link', 'set', 'lo', 'up');
	must('mount', '-t', 'tmpfs', '-o', 'mode=1777', 'neon_test', '/dev/shm');
	# no connection takes the port of a server that is down
	write_file('/proc/sys/net/ipv4/ip_local_port_range', '20000 60999');
	must('nft', 'list', 'ruleset');
	return '';
}

sub must { system(@_) == 0 or croak "failed: @_"; return }

sub write_file
{
	my ($path, $text) = @_;
	open(my $f, '>', "$path") or croak "$path: $!";
	print $f $text;
	close $f or croak "$path: $!";
	return;
}

sub new
{
	my ($class, %o) = @_;
	my $self = NeonTest::new($class, safekeepers => 3, %o);
	my ($lib) = grep { -f } @faketime;
	$self->{faketime} = $lib;
	$self->{cuts} = {};
	$self->{jobs} = {};
	$self->{power} = {};
	return $self;
}

# ---- places ----

sub machine { return $machine_of{ $_[1] } }
sub endpoints_dir { my ($self, $m) = @_; return "$self->{tmp}/$m.endpoints" }
sub pgdata { my ($self, $ep) = @_; return $self->endpoints_dir($machine_of{$ep}) . "/$ep/pgdata" }
sub server_of { my ($host) = @_; return $host eq 'ps' ? 'pageserver' : $host =~ /^sk(\d)/ ? "safekeeper $1" : $host }
sub neon_dir { my ($self, $sk) = @_; return $self->sk_pgdata($sk) . '/neon' }

# ---- environment of a host's processes ----

sub clock_file { my ($self, $host) = @_; return "$self->{tmp}/$host.clock" }

sub set_clock
{
	my ($self, $host, $seconds) = @_;
	my $file = $self->clock_file($host);
	write_file("$file.new", sprintf("%+d\n", $seconds));
	chmod 0644, "$file.new";
	rename "$file.new", $file or croak "$file: $!";
	return;
}

sub host_env
{
	my ($self, $host) = @_;
	my @preload = ("$ENV{NEON_TESTING_LIBDIR}/fromaddr.so");
	my %power = $self->{power}{$host} ? $self->{power}{$host}->env : ();
	push @preload, $self->{faketime} if $self->has_clock($host);
	push @preload, delete $power{LD_PRELOAD} if %power;
	return (
		%power,
		(%power ? 'PRELOAD' : 'LD_PRELOAD') => join(':', @preload),
		FROM_ADDR => $address{$host},
		FAKETIME_TIMESTAMP_FILE => $self->clock_file($host),
		FAKETIME_CACHE_DURATION => 1,
		DONT_FAKE_MONOTONIC => 1,
		FAKETIME_DONT_FAKE_MONOTONIC => 1,
		NO_FAKE_STAT => 1);
}

# The pageserver's redo processes may not open files: the clock is not for them.
sub has_clock { my ($self, $host) = @_; return $self->{faketime} && $host ne 'ps' }

# The command as a host runs it.
sub on_host
{
	my ($self, $host, @cmd) = @_;
	# the power's log is the servers' own
	return ('runuser', '-u', 'postgres', '--', 'sh', '-c', 'LD_PRELOAD=$PRELOAD exec "$0" "$@"', @cmd) if $self->{power}{$host};
	return @cmd if $host !~ /^m/;
	my $own = $self->endpoints_dir($host);
	return ('unshare', '-m', 'sh', '-c', 'mount --bind "$0" "$1" && shift && exec "$@"', $own, "$self->{dir}/endpoints", @cmd);
}

# From here on a cut of a safekeeper's power takes away what it has not synchronized.
sub watch_power
{
	my ($self, $sk) = @_;
	my $log = "$self->{tmp}/sk$sk.power";
	$self->{power}{"sk$sk"} = PowerCut->new(log => $log, dirs => [ realpath($self->neon_dir($sk)) . '/tenants' ]);
	$self->own_power_log("sk$sk");
	return;
}

# The log is not on the disk that may be full; what it links to is on that disk.
sub own_power_log
{
	my ($self, $host) = @_;
	my $log = $self->{power}{$host}{log};
	my $saved = realpath($self->neon_dir(substr $host, 2)) . '/power.saved';
	must('rm', '-rf', $saved);
	must('mkdir', $saved);
	rmdir "$log/saved";
	symlink $saved, "$log/saved" or croak "$log/saved: $!";
	must('chown', '-R', 'postgres:', $log, $saved);
	return;
}

# All processes that work in a safekeeper's data directory.
sub all_of
{
	my ($self, $sk) = @_;
	my $dir = realpath($self->sk_pgdata($sk));
	return grep { (readlink("/proc/$_/cwd") // '') eq $dir } map { m{(\d+)} ? $1 : () } glob '/proc/[0-9]*';
}

# What a safekeeper has not synchronized is gone, all of it or what a seed draws.
sub cut_power
{
	my ($self, $sk, $seed) = @_;
	my $power = $self->{power}{"sk$sk"};
	my $undone = $power->undo(defined $seed ? (seed => $seed) : ());
	$self->own_power_log("sk$sk");
	return $undone;
}

# Files came back from elsewhere: nothing of the log is about them.
sub forget_power
{
	my ($self, $host) = @_;
	my $power = $self->{power}{$host} or return;
	$power->reset;
	$self->own_power_log($host);
	return;
}

# Runs "neon" on a host and waits for its end.
sub neon_on
{
	my ($self, $host, @args) = @_;
	my ($rc, $out, $err) = $self->command([ $self->on_host($host, 'neon', @args) ], env => { $self->host_env($host) });
	croak "neon @args on $host: exit code $rc\n$out$err" if $rc != 0;
	return $out;
}

# ---- jobs: commands that run beside the test ----

sub begin_job
{
	my ($self, $name, $host, @args) = @_;
	return 0 if $self->{jobs}{$name};
	my %o = ref $args[-1] ? %{ pop @args } : ();
	my $file = "$self->{tmp}/job." . ($name =~ tr/ /_/r);
	# the launcher that can be killed at each of its steps
	my @cmd = $self->on_host($host, $o{kill_at} ? "$ENV{NEON_TESTING_LIBDIR}/bin/neon" : 'neon', @args);
	my $pid = fork // croak "fork: $!";
	if ($pid == 0)
	{
		$SIG{INT} = $SIG{TERM} = $SIG{PIPE} = 'DEFAULT';
		%ENV = (%ENV, $self->env, $self->host_env($host), $o{kill_at} ? (NEON_TEST_KILL_AT => $o{kill_at}) : ());
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', $file or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT;
		{ exec @cmd }
		POSIX::_exit(127);
	}
	$self->{jobs}{$name} = { pid => $pid, file => $file, began => time };
	return 1;
}

# undef while it runs, else (exit code, output); it is forgotten then.
sub job_result
{
	my ($self, $name) = @_;
	my $job = $self->{jobs}{$name} or return;
	if (waitpid($job->{pid}, WNOHANG) == 0)
	{
		return if time < $job->{began} + 240;
		kill 'KILL', $job->{pid};
		waitpid($job->{pid}, 0);
	}
	my $rc = $?;
	delete $self->{jobs}{$name};
	return ($rc, NeonTest::Vanilla::slurp($job->{file}), time - $job->{began});
}

# ---- network ----

sub ports
{
	my ($self, $host) = @_;
	return ($self->{ps_port}) if $host eq 'ps';
	return ($self->config("safekeeper.$1.port")) if $host =~ /^sk(\d)/;
	return map { $self->{ports}{$_} // () } grep { $machine_of{$_} eq $host } sort keys %machine_of;
}

# Packets from one host to another: what its connections send, and its answers.
sub rules
{
	my ($self, $from, $to) = @_;
	return ((map { "ip saddr $address{$from} tcp dport $_ drop" } $self->ports($to)),
		(map { "ip daddr $address{$to} tcp sport $_ drop" } $self->ports($from)));
}

sub apply_cuts
{
	my ($self) = @_;
	my @rules = map { $self->rules(split / /, $_) } sort keys %{ $self->{cuts} };
	my $file = "$self->{tmp}/cuts.nft";
	write_file($file, join("\n", 'table inet neon_fault', 'delete table inet neon_fault', 'table inet neon_fault {',
			'chain out {', 'type filter hook output priority 0; policy accept;', @rules, '}', '}', ''));
	must('nft', '-f', $file);
	return;
}

# Each pair is [from, to]; returns what was not cut before.
sub cut
{
	my ($self, @pairs) = @_;
	my @new = grep { !$self->{cuts}{"$_->[0] $_->[1]"} } @pairs;
	$self->{cuts}{"$_->[0] $_->[1]"} = 1 for @new;
	$self->apply_cuts;
	return @new;
}

sub reconnect
{
	my ($self, @pairs) = @_;
	delete $self->{cuts}{"$_->[0] $_->[1]"} for @pairs;
	$self->apply_cuts;
	return;
}

# ---- disks ----

sub mount_disk
{
	my ($self, $sk) = @_;
	my ($uid, $gid) = (getpwnam('postgres'))[ 2, 3 ];
	my $dir = $self->neon_dir($sk);
	must('mv', $dir, "$dir.was");
	mkdir $dir;
	must('mount', '-t', 'tmpfs', '-o', "size=1g,mode=0700,uid=$uid,gid=$gid", 'neon_test', $dir);
	must('cp', '-a', "$dir.was/.", "$dir/");
	must('rm', '-rf', "$dir.was");
	return;
}

# The disk has so many megabytes free, or all that it ever had.
sub disk_free
{
	my ($self, $sk, $mb) = @_;
	my $dir = $self->neon_dir($sk);
	my ($used) = `df -k --output=used '$dir'` =~ /(\d+)\s*$/ or croak 'df';
	my $size = defined $mb ? $used + $mb * 1024 : 1024 * 1024;
	must('mount', '-o', "remount,size=${size}k", $dir);
	return;
}

# ---- the whole ----

sub allow_hosts
{
	my ($self, $file) = @_;
	my $hba = NeonTest::Vanilla::slurp($file) or croak "$file is empty";
	$hba =~ s{127\.0\.0\.1/32}{127.0.0.0/8}g;
	write_file($file, $hba);
	return;
}

sub append_conf
{
	my ($self, $file, $text) = @_;
	open(my $f, '>>', $file) or croak "$file: $!";
	print $f $text;
	close $f or croak "$file: $!";
	return;
}

# Options: bug, a rule that all safekeepers break.
sub start_system
{
	my ($self, %o) = @_;
	my ($uid, $gid) = (getpwnam('postgres'))[ 2, 3 ];
	$self->init;
	$self->allow_hosts($_) for map { "$_/pg_hba.conf" } $self->ps_pgdata, map { $self->sk_pgdata($_) } 1 .. 3;
	$self->set_clock($_, 0) for @hosts;
	for my $m ('m1', 'm2')
	{
		make_path($self->endpoints_dir($m));
		chown $uid, $gid, $self->endpoints_dir($m);
		chmod 0700, $self->endpoints_dir($m);
	}
	for my $sk (1 .. 3)
	{
		$self->append_conf($self->sk_pgdata($sk) . '/postgresql.conf',
			"neon_safekeeper.min_free_disk = 24MB\ndynamic_library_path = '$ENV{NEON_TESTING_LIBDIR}:\$libdir'\n" .
			($o{bug} ? "neon_safekeeper.test_bug = '$o{bug}'\n" : ''));
		$self->mount_disk($sk);
		$self->watch_power($sk) if PowerCut::available();
		$self->neon_on("sk$sk", 'safekeeper', 'start', $sk);
	}
	$self->neon_on('ps', 'pageserver', 'start');
	$self->neon_on('ps', 'tenant', 'create', '--set-default');
	for my $ep ('a', 'b')
	{
		$self->set_port($ep, $self->free_port);
		$self->neon_on($machine_of{$ep}, 'endpoint', 'create', $ep, '--branch-name', 'main', '--port', $self->port($ep));
		$self->allow_hosts($self->endpoints_dir($machine_of{$ep}) . "/$ep/conf/pg_hba.conf");
	}
	$self->neon_on('m1', 'endpoint', 'start', 'a', '--no-supervise');
	return;
}

# The process that accepts connections and all its children.
sub tree
{
	my ($self, $server) = @_;
	my $pid = $self->postmaster_pid($server);
	return () unless $pid && NeonTest::alive($pid);
	return ($pid, $self->children_of($pid, qr/./));
}

sub runs { my ($self, $server) = @_; my ($pid) = $self->tree($server); return $pid ? 1 : 0 }

1;
