# NeonTest: one state directory of the "neon" command per object, in a scratch
# directory, with free ports; everything that it started is stopped when the
# test ends, however it ends, by process id.
#
#   my $t = NeonTest->new;          # own HOME, passfile and state directory
#   $t->quickstart;                 # init, start, tenant create, endpoint "main"
#   is($t->psql('main', 'SELECT 1'), '1', 'a query');
#   $t->neon_fails([ 'init' ], qr/already/, qr/--force/, 'a second init');
#
# Every wait has a limit; a limit reached is an exception that says what was
# waited for.
package NeonTest;

use strict;
use warnings;
use Carp;
use Fcntl;
use File::Basename;
use File::Path qw(make_path remove_tree);
use File::Temp ();
use IO::Socket::INET;
use IPC::Run qw(run start timeout);
use LocalLimit;
use NeonTest::Clients;
use NeonTest::Loop;
use NeonTest::Session;
use NeonTest::Template;
use NeonTest::Vanilla;
use POSIX qw(WNOHANG);
use Test::More;
use TestSql;
use Time::HiRes qw(time sleep usleep);

# Larger sizes in "make check-long".
our $long = $ENV{NEON_TEST_LONG} ? 1 : 0;

# Random choices come from a seed that is printed and can be given.
our $seed = $ENV{NEON_TEST_SEED} || int(rand(2**31));
srand($seed);
note("NEON_TEST_SEED=$seed");

our $default_timeout = $ENV{NEON_TEST_TIMEOUT} || 120;
my @live;
my $count = 0;

# Tenants that many tests make.
my $usual_tenants = qr/^(?:--wal-segsize 1|--data-checksums)?$/;

# ---------------------------------------------------------------- life --

# Options: name, subdir (of the state directory, may hold blanks), auth (default:
# trust; a password costs both sides milliseconds at each connection), supervise (endpoints are started again after a crash), safekeepers (how many;
# NEON_TEST_SAFEKEEPERS runs tests that do not say it with so many), within
# (what to put before each command: another machine, see NeonMachine).
sub new
{
	my ($class, %o) = @_;
	my $base = $ENV{TESTDATADIR} || croak "TESTDATADIR is not set: run the tests by .ci/run-tests";
	my $name = ($o{name} || basename($0, '.pl')) . ($count++ ? ".$count" : '');
	# the file's other runs are beside it
	$name .= '.q' if $ENV{NEON_TEST_SAFEKEEPERS};
	$name .= '.l' if $ENV{NEON_TEST_LOCAL_LIMIT};
	my $tmp = "$base/$name";
	make_path($tmp);
	chmod 0755, $tmp;
	my $self = bless {
		tmp => $tmp,
		dir => "$tmp/" . ($o{subdir} || 'state'),
		auth => $o{auth} // 'trust',
		supervise => $o{supervise},
		within => $o{within} || [],
		safekeepers => $o{safekeepers} // $ENV{NEON_TEST_SAFEKEEPERS} // 0,
		first => !@live,
		ports => {},
		children => [],
		pid => $$
	}, $class;
	$self->{home} = $ENV{HOME};
	$self->{passfile} = "$tmp/passfile";
	push @live, $self;
	return $self;
}

# The same with another state directory, which is not there yet.
sub another
{
	my ($self, %o) = @_;
	my $other = bless { %$self, ports => {}, children => [], %o }, ref $self;
	push @live, $other;
	return $other;
}

# Are commits kept by safekeepers?  Then nothing that matters is only in an
# endpoint's directory.
sub quorum { return $_[0]{safekeepers} > 0 }

sub dir { $_[0]{dir} }
sub tmp { $_[0]{tmp} }

sub env
{
	my ($self) = @_;
	return (
		NEON_REPO_DIR => $self->{dir},
		PGPASSFILE => $self->{passfile},
		PGCONNECT_TIMEOUT => 60);
}

# Tests kill endpoints and look at what is left, so nothing starts them again
# unless the object has the option "supervise".
sub starts_endpoints
{
	my ($neon, @args) = @_;
	return 0 if $neon ne 'neon' || grep { /^(--help|-h|--no-supervise|--)$/ } @args;
	return "@args" =~ /\bendpoint (?:start|restart)\b/ || "@args" =~ /^(?:\S+ \S+ )?start .*--endpoints\b/;
}

# Runs a command; returns (exit code, stdout, stderr).
sub command
{
	my ($self, $cmd, %o) = @_;
	my ($out, $err) = ('', '');
	$cmd = [ @$cmd, '--no-supervise' ] if !$self->{supervise} && starts_endpoints(@$cmd);
	my $in = defined $o{stdin} ? $o{stdin} : '';
	my $settings = LocalLimit::before($self, @$cmd);
	local %ENV = (%ENV, $self->env, %{ $o{env} || {} });
	my $limit = $o{timeout} || $default_timeout;
	my $h = eval {
		my $to = timeout($limit);
		my $h = start([ @{ $self->{within} }, @$cmd ], '<', \$in, '>', \$out, '2>', \$err, $to);
		eval { $h->finish; 1 } or do { my $e = $@; $h->kill_kill(grace => 2); die $e };
		$h;
	};
	LocalLimit::after($self, $settings, @$cmd);
	if (!$h)
	{
		croak "no end within $limit s: @$cmd\nstdout: $out\nstderr: $err\n$@";
	}
	my $rc = $h->full_result;
	$rc = ($rc & 127) ? 128 + ($rc & 127) : $rc >> 8;
	return ($rc, $out, $err);
}

# Runs "neon ..." and returns its standard output; dies if it fails.
sub neon
{
	my ($self, @args) = @_;
	my %o = ref $args[-1] eq 'HASH' ? %{ pop @args } : ();
	my ($rc, $out, $err) = $self->command([ 'neon', @args ], %o);
	croak "neon @args: exit code $rc\nstdout: $out\nstderr: $err" if $rc != 0;
	return $out;
}

# The same as a test.
sub neon_ok
{
	my ($self, $args, $name) = @_;
	my ($rc, $out, $err) = $self->command([ 'neon', @$args ]);
	is($rc, 0, $name || "neon @$args") or diag("stdout: $out\nstderr: $err");
	return $out;
}

# A failure has to be one "neon: error:" line and a HINT on standard error.
sub neon_fails
{
	my ($self, $args, $error, $hint, $name, %o) = @_;
	$name ||= "neon @$args fails";
	my ($rc, $out, $err) = $self->command([ 'neon', @$args ], %o);
	subtest $name => sub {
		isnt($rc, 0, 'exit code');
		my @errors = $err =~ /^neon: error: .*$/mg;
		is(scalar(@errors), 1, 'one error line') or diag("stdout: $out\nstderr: $err");
		like($err, $error, 'message');
		like(join("\n", $err =~ /^HINT:.*$/mg), $hint, 'hint') if $hint;
	};
	return $err;
}

# neon init, start, tenant create --set-default, endpoint start main.
sub quickstart
{
	my ($self, %o) = @_;
	my $tenant = $o{tenant} || [];
	$self->{ps_port} = $self->free_port;
	if (!NeonTest::Template::suits($self, %o)) { $self->make_state($tenant, %o) }
	# a branch knows its safekeepers' ports
	elsif ($self->quorum || "@$tenant" !~ $usual_tenants)
	{
		NeonTest::Template::state_directory($self);
		$self->make_tenant($tenant);
	}
	else
	{
		NeonTest::Template::state_directory($self, $tenant);
		$self->neon('start');
	}
	$self->endpoint_start('main', %{ $o{endpoint} || {} }) unless $o{no_endpoint};
	return $self;
}

# "neon init" and, if its options are given, a tenant; what the latter needs runs then.
sub make_state
{
	my ($self, $tenant, %o) = @_;
	my $said = $self->neon('init', $self->init_safekeepers, '--pageserver-port', $self->{ps_port}, '--auth', $self->{auth}, @{ $o{init} || [] });
	return $tenant ? $self->make_tenant($tenant) : $said;
}

sub make_tenant
{
	my ($self, $tenant) = @_;
	$self->neon('start');
	return $self->neon('tenant', 'create', '--set-default', @$tenant);
}

# Options of "neon init".
sub init_safekeepers
{
	my ($self) = @_;
	return ('--safekeepers', $self->{safekeepers}, $self->quorum ? ('--safekeeper-port', '0') : ());
}

sub init
{
	my ($self, %o) = @_;
	$self->{ps_port} = $self->free_port;
	return NeonTest::Template::state_directory($self) if NeonTest::Template::suits($self, %o);
	return $self->make_state(undef, %o);
}

# Options: branch, lsn, time, ephemeral, args => [...].
sub endpoint_start
{
	my ($self, $name, %o) = @_;
	return $self->neon($self->endpoint_args($name, %o),
		{ timeout => $o{timeout} || $default_timeout });
}

sub endpoint_args
{
	my ($self, $name, %o) = @_;
	my @a = ('endpoint', 'start', $name);
	push @a, '--branch-name', $o{branch} if $o{branch};
	push @a, '--lsn', $o{lsn} if $o{lsn};
	push @a, '--time', $o{time} if $o{time};
	push @a, '--ephemeral' if $o{ephemeral};
	push @a, '--take-over' if $o{take_over};
	if (!$self->{ports}{$name})
	{
		$self->{ports}{$name} = $self->free_port;
		push @a, '--port', $self->{ports}{$name};
	}
	return (@a, @{ $o{args} || [] });
}

sub endpoint_stop
{
	my ($self, $name, @args) = @_;
	return $self->neon('endpoint', 'stop', $name, @args);
}

# Its next starts have no local pages: what it reads then is the storage's.
sub cold { $_[0]->neon('endpoint', 'config', $_[1] // 'main', 'neon.keep_local=off') }

sub port { $_[0]{ports}{ $_[1] } || croak "endpoint \"$_[1]\" was never started" }
sub set_port { $_[0]{ports}{ $_[1] } = $_[2] }
sub pgdata { "$_[0]{dir}/endpoints/$_[1]/pgdata" }
sub sk_pgdata { "$_[0]{dir}/safekeepers/$_[1]/pgdata" }
sub ps_pgdata { "$_[0]{dir}/pageserver/pgdata" }

# The data directory of an endpoint, of "pageserver" or of "safekeeper N".
sub data_dir
{
	my ($self, $ep) = @_;
	return $self->ps_pgdata if $ep eq 'pageserver';
	return $ep =~ /^safekeeper (\d)$/ ? $self->sk_pgdata($1) : $self->pgdata($ep);
}

# A line of the state directory's file "config".
sub config
{
	my ($self, $key) = @_;
	open my $f, '<', "$self->{dir}/config" or croak "$self->{dir}/config: $!";
	my ($value) = map { /^\Q$key\E\s*=\s*(.*?)\s*$/ ? $1 : () } <$f>;
	close $f;
	return $value // croak "no \"$key\" in $self->{dir}/config";
}

# A TCP port of 127.0.0.1 that nobody listens on, below the ephemeral range
# and the range of PostgreSQL::Test, given to no other test of this run.
sub free_port
{
	my $given = "$ENV{TESTDATADIR}/ports";

	mkdir $given;
	for (1 .. 500)
	{
		my $p = 6000 + int(rand(4000));
		sysopen(my $mine, "$given/$p", O_CREAT | O_EXCL) or next;
		my $s = IO::Socket::INET->new(
			LocalAddr => '127.0.0.1', LocalPort => $p, Proto => 'tcp', Listen => 1) or next;
		close $s;
		return $p;
	}
	croak 'no free port';
}

# ----------------------------------------------------------------- SQL --

sub connstr
{
	my ($self, $ep, $db) = @_;
	my $port = $ep eq 'pageserver' ? $self->{ps_port}
	  : $ep =~ /^safekeeper (\d)$/ ? $self->config("safekeeper.$1.port") : $self->port($ep);
	return "host=127.0.0.1 port=$port user=cloud_admin dbname='" . ($db || 'postgres') . "'";
}

# Runs SQL at an endpoint, at "pageserver" or "safekeeper N"; (exit code, stdout, stderr).
sub psql_raw
{
	my ($self, $ep, $sql, %o) = @_;
	my $connstr = $o{connstr} || $self->connstr($ep, $o{db});
	return $self->test_sql->run($connstr, $sql, $o{timeout} || $default_timeout)
	  if TestSql::available() && TestSql::suits($sql) && !@{ $self->{within} } && !grep { !/^(?:connstr|db|timeout)$/ } keys %o;
	# not by a pipe: a psql that cannot connect does not read it; in memory, as ext4
	# writes a file that is truncated and written anew at once
	my $file = File::Temp->new(TEMPLATE => 'neon-check-XXXXXX', DIR => -w '/dev/shm' ? '/dev/shm' : $self->{tmp});
	print $file $sql;
	close $file or croak "$file: $!";
	return $self->command(
		[
			'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', @{ $o{args} || [] },
			'-d', $connstr, '-f', "$file"
		],
		%o);
}

sub test_sql
{
	my ($self) = @_;
	return $self->{test_sql} //= TestSql->new($self->env);
}

sub psql
{
	my ($self, $ep, $sql, %o) = @_;
	my ($rc, $out, $err) = $self->psql_raw($ep, $sql, %o);
	croak "psql at \"$ep\": exit code $rc\nSQL: $sql\n$err" if $rc != 0;
	chomp $out;
	return $out;
}

sub psql_fails
{
	my ($self, $ep, $sql, $error, $name, %o) = @_;
	my ($rc, $out, $err) = $self->psql_raw($ep, $sql, %o);
	subtest $name => sub {
		isnt($rc, 0, 'exit code') or diag($out);
		like($err, $error, 'message');
	};
	return $err;
}

# A psql session of its own that is fed bit by bit; see NeonTest::Session.
sub session
{
	my ($self, $ep, %o) = @_;
	return NeonTest::Session->new($self, $ep, %o);
}

# Waits until a query's result is the wanted text (or matches a regexp).
sub poll
{
	my ($self, $ep, $sql, $want, %o) = @_;
	$want = 't' unless defined $want;
	my $end = time + ($o{timeout} || $default_timeout);
	my ($rc, $out, $err);
	my $pause = 0.1;	# a psql costs as much as a small test
	do
	{
		($rc, $out, $err) = $self->psql_raw($ep, $sql, %o);
		chomp $out;
		return $out if $rc == 0 && (ref $want ? $out =~ $want : $out eq $want);
		sleep $pause;
		$pause *= 1.3 if $pause < 0.5;
	} while (time < $end);
	croak "still not \"$want\" at \"$ep\": $sql\nlast result: $out $err";
}

# Waits for a condition given as code.
sub wait_for
{
	my ($self, $what, $code, $limit) = @_;
	my $end = time + ($limit || $default_timeout);
	while (time < $end)
	{
		my $r = $code->();
		return $r if $r;
		sleep 0.1;
	}
	croak "timed out waiting for $what";
}

# ------------------------------------------------------ ids and positions --

sub tenant
{
	my ($self) = @_;
	return $self->{tenant} ||= $self->psql('pageserver', 'SELECT min(tenant_id::text) FROM neon_pageserver.tenants');
}

sub timeline
{
	my ($self, $branch) = @_;
	my $id = $self->psql('pageserver',
		"SELECT timeline_id FROM neon_pageserver.timelines WHERE name = '$branch' AND tenant_id::text = '" . $self->tenant . "'");
	croak "no branch \"$branch\"" if $id eq '';
	return $id;
}

sub timeline_field
{
	my ($self, $branch, $field) = @_;
	return $self->psql('pageserver',
		"SELECT $field FROM neon_pageserver.timelines WHERE name = '$branch' AND tenant_id::text = '" . $self->tenant . "'");
}

# Where a branch's WAL is stored, as plain segment files.
sub wal_dir
{
	my ($self, $branch) = @_;
	return $self->ps_pgdata . '/neon/tenants/' . $self->tenant . '/timelines/' . $self->timeline($branch) . '/wal';
}

# The pageserver keeps all WAL from now on, for those who compare with it.
sub keep_wal
{
	my ($self) = @_;
	$self->psql('pageserver', "ALTER SYSTEM SET neon_pageserver.wal_keep = '100GB'");
	$self->psql('pageserver', 'SELECT pg_reload_conf()');
	return;
}

# The end of the last record.
sub insert_lsn { return record_end($_[0]->psql($_[1], 'SELECT pg_current_wal_insert_lsn()')) }

# The insert position at the start of a page lies behind the header of that
# page, which no record has written: the last record ends before it.
sub record_end
{
	my $n = lsn_num($_[0]);
	return num_lsn($n - 40) if $n % (1024 * 1024) == 40;
	return num_lsn($n - 24) if $n % 8192 == 24;
	return $_[0];
}

# Flushes a primary's WAL and waits until the pageserver has it; the LSN.
sub wait_ingest
{
	my ($self, $ep, $branch) = @_;
	my $lsn = $self->psql($ep,
		"SELECT lsn FROM (SELECT pg_logical_emit_message(true, 'neon_test', '')) m, LATERAL pg_current_wal_insert_lsn() lsn");
	$lsn = record_end($lsn);
	$self->wait_for_lsn($branch || 'main', $lsn);
	return $lsn;
}

# Layers are written after a megabyte of WAL or a second without: then safekeepers
# need not keep it for the pageserver any more.
sub layers_soon
{
	my ($self) = @_;
	$self->psql('pageserver', "ALTER SYSTEM SET neon_pageserver.checkpoint_distance = '1MB'; ALTER SYSTEM SET neon_pageserver.idle_flush_timeout = '1s'");
	$self->psql('pageserver', 'SELECT pg_reload_conf()');
	return;
}

sub wait_for_lsn
{
	my ($self, $branch, $lsn, $limit) = @_;
	return $self->poll('pageserver',
		"SELECT last_record_lsn >= '$lsn' FROM neon_pageserver.timelines WHERE name = '$branch' AND tenant_id::text = '" . $self->tenant . "'",
		't', timeout => $limit || $default_timeout);
}

sub lsn_num
{
	my ($lsn) = @_;
	my ($h, $l) = split m{/}, $lsn;
	return hex($h) * 2**32 + hex($l);
}

sub num_lsn
{
	my ($n) = @_;
	return sprintf('%X/%X', int($n / 2**32), $n % 2**32);
}

# ------------------------------------------------------------ processes --

sub postmaster_pid
{
	my ($self, $ep) = @_;
	open my $f, '<', $self->data_dir($ep) . '/postmaster.pid' or return undef;
	my $pid = <$f>;
	close $f;
	return undef unless defined $pid && $pid =~ /^(\d+)$/;
	return $1;
}

# Pids of a postmaster's children whose title matches.
sub children_of
{
	my ($self, $pid, $title) = @_;
	my @found;
	for my $p (map { m{/proc/(\d+)$} ? $1 : () } glob '/proc/[0-9]*')
	{
		next unless (stat_field($p, 4) || 0) == $pid;
		push @found, $p if cmdline($p) =~ $title;
	}
	return @found;
}

sub stat_field
{
	my ($pid, $n) = @_;
	open my $f, '<', "/proc/$pid/stat" or return undef;
	my $line = <$f>;
	close $f;
	return undef unless defined $line;
	$line =~ s/^(\d+) \(.*\) /$1 x /s;
	return (split / /, $line)[ $n - 1 ];
}

sub cmdline
{
	my ($pid) = @_;
	open my $f, '<', "/proc/$pid/cmdline" or return '';
	local $/;
	my $c = <$f>;
	close $f;
	$c = '' unless defined $c;
	$c =~ tr/\0/ /;
	return $c;
}

sub signal
{
	my ($self, $sig, @pids) = @_;
	for my $p (@pids)
	{
		croak 'no such process' unless $p;
		kill($sig, $p) or run([ 'kill', "-$sig", $p ], '>', '/dev/null', '2>', '/dev/null');
	}
}

sub alive
{
	my ($pid) = @_;
	my $s = stat_field($pid, 3);
	return defined $s && $s ne 'Z' && $s ne 'X';
}

# Endpoints that this object has started, and that are there.
sub running_endpoints
{
	my ($self) = @_;
	return grep { alive($self->postmaster_pid($_) || 0) } sort keys %{ $self->{ports} };
}

# kill -9 of a postmaster (endpoint, "pageserver", "safekeeper N"); its children
# follow by themselves, which is waited for unless nowait is given.
sub kill9
{
	my ($self, $ep, %o) = @_;
	LocalLimit::ask($self, $ep) if $self->{ports}{$ep};
	my $pid = $self->postmaster_pid($ep) or croak "\"$ep\" does not run";
	my @kids = $self->children_of($pid, qr/./);
	$self->signal('KILL', $pid);
	$self->wait_for("the end of process $pid", sub { !alive($pid) }, 30);
	$self->wait_for('the end of its children', sub { !grep { alive($_) } @kids }, 60)
	  if @kids && !$o{nowait};
	return $pid;
}

# All processes that work below our scratch directory.
sub our_processes
{
	my ($self) = @_;
	my @found;
	for my $p (glob '/proc/[0-9]*')
	{
		my $cwd = readlink("$p/cwd");
		if (!defined $cwd)
		{
			next;
		}
		next unless index($cwd, "$self->{dir}/") == 0 || $cwd eq $self->{dir};
		push @found, $1 if $p =~ m{/(\d+)$} && $1 != $$;
	}
	return @found;
}

# What is still there a moment after everything was stopped.
sub left_running
{
	my ($self) = @_;
	my @left;
	for (1 .. 100)
	{
		@left = $self->our_processes or return ();
		sleep 0.1;
	}
	diag("$_: " . cmdline($_)) for @left;
	return @left;
}

sub DESTROY_all
{
	local $?;
	for my $t (reverse @live)
	{
		next unless $t->{pid} == $$;
		for my $h (@{ $t->{children} })
		{
			eval { $h->kill_kill(grace => 1) if $h->pumpable };
		}
		next unless -d $t->{dir};
		my @stopped = grep { (stat_field($_, 3) || '') eq 'T' } $t->our_processes;
		$t->signal('CONT', @stopped) if @stopped;
		if ($t->our_processes)
		{
			eval { $t->command([ 'neon', 'stop', '-m', 'immediate' ], timeout => 60) };
			diag("neon stop at the end: $@") if $@;
		}
		for (1 .. 50)
		{
			my @left = $t->our_processes or last;
			$t->signal('KILL', @left);
			sleep 0.1;
		}
	}
}

END
{
	DESTROY_all();
	$? ||= 1 if LocalLimit::did_nothing();
}
$SIG{INT} = $SIG{TERM} = sub { exit 1 };
$SIG{PIPE} = 'IGNORE';

# -------------------------------------------------------------- workload --

# Runs psql with a script file over and over until NeonTest::Loop::stop; errors
# of single statements do not matter.
sub loop
{
	my ($self, $ep, $sql, %o) = @_;
	return NeonTest::Loop->new($self, $ep, $sql, %o);
}

# The LSN at which an endpoint was booted.
sub boot_lsn
{
	my ($self, $ep) = @_;
	open my $f, '<', $self->pgdata($ep) . '/neon.boot' or croak "neon.boot of \"$ep\": $!";
	my ($lsn) = map { m{^boot_lsn=([0-9A-F]+/[0-9A-F]+)} ? $1 : () } <$f>;
	close $f;
	return $lsn;
}

# pgbench's scripts with the transaction's own number written to a table, and
# to a log at the client after the answer: what has to be there after a crash.
sub pgbench
{
	my ($self, $ep, @args) = @_;
	my ($rc, $out, $err) =
	  $self->command([ 'pgbench', '-n', @args, $self->connstr($ep) ], timeout => 600);
	croak "pgbench @args: exit code $rc\n$out\n$err" if $rc != 0;
	return "$out$err";
}

sub pgbench_init
{
	my ($self, $ep, $scale) = @_;
	my ($rc, $out, $err) =
	  $self->command([ 'pgbench', '-i', '-q', '-s', $scale, $self->connstr($ep) ], timeout => 600);
	croak "pgbench -i: $out\n$err" if $rc != 0;
}

# Starts clients that run TPC-B and log each acknowledged transaction; see
# NeonTest::Clients.
sub clients
{
	my ($self, $ep, %o) = @_;
	return NeonTest::Clients->new($self, $ep, %o);
}

# pgbench's invariants: all sums are equal.
sub balances_agree
{
	my ($self, $ep, $name, %o) = @_;
	is( $self->psql($ep, <<'SQL', %o), 't', $name || 'balances agree');
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
   AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)
   AND (SELECT coalesce(sum(delta), 0) FROM pgbench_history) = (SELECT sum(bbalance) FROM pgbench_branches)
SQL
}

# Every index by amcheck (heapallindexed), every heap by verify_heapam.
sub amcheck
{
	my ($self, $ep, $name, %o) = @_;
	my ($rc, $out, $err) = $self->command(
		[
			'pg_amcheck', '--heapallindexed', '-j', '1', $o{readonly} ? () : '--install-missing',
			'-h', '127.0.0.1', '-p', $self->port($ep), '-U', 'cloud_admin', '--all'
		],
		timeout => 600);
	is($rc, 0, $name || 'amcheck is clean') or diag("$out\n$err");
}

# The whole instance as text, without what differs from run to run.
sub dump_all
{
	my ($self, $ep, %o) = @_;
	my $port = $o{port} || $self->port($ep);
	my $host = $o{host} || '127.0.0.1';
	my ($rc, $out, $err) = $self->command(
		[
			'pg_dumpall', '--no-unlogged-table-data', '-h', $host, '-p', $port, '-U', 'cloud_admin', '-w'
		],
		timeout => 600);
	croak "pg_dumpall: $err" if $rc != 0;
	$out =~ s/^\\(un)?restrict .*$//mg;
	return $out;
}

sub dumps_equal
{
	my ($got, $want, $name) = @_;
	if ($got eq $want)
	{
		pass($name);
		return 1;
	}
	my @g = split /\n/, $got, -1;
	my @w = split /\n/, $want, -1;
	my ($i, @d) = (0);
	while (($i < @g || $i < @w) && @d < 10)
	{
		my ($a, $b) = ($g[$i] // '(end)', $w[$i] // '(end)');
		push @d, 'line ' . ($i + 1) . ": got  $a\n" . (' ' x 9) . "want $b" if $a ne $b;
		$i++;
	}
	fail($name);
	diag(scalar(@g) . ' against ' . scalar(@w) . " lines\n" . join("\n", @d));
	return 0;
}

# ----------------------------------------------------- stock PostgreSQL --

# A base copy of an endpoint for stock PostgreSQL, taken now: the endpoint is
# made whole first, then copied by pg_basebackup.
sub vanilla_base
{
	my ($self, $ep, $to) = @_;
	LocalLimit::lift($self, $ep);
	$self->psql($ep, 'CREATE EXTENSION IF NOT EXISTS neon; SELECT neon.hydrate()', timeout => 600);
	my ($rc, $out, $err) = $self->command(
		[
			'pg_basebackup', '-D', $to, '-X', 'none', '--checkpoint=fast', '--no-sync', '-w',
			'-d', $self->connstr($ep)
		],
		timeout => 600);
	croak "pg_basebackup: $err" if $rc != 0;
	LocalLimit::put_back($self, $ep);
	return $to;
}

# Starts stock PostgreSQL on a copy of $base that replays WAL from the given
# directories (in this order), stops before the first record that starts at or
# after $lsn, and ends recovery there; a NeonTest::Vanilla.
sub vanilla_replay
{
	my ($self, $base, $lsn, @wal_dirs) = @_;
	return NeonTest::Vanilla->new($self, $base, $lsn, @wal_dirs);
}

1;
