# NeonBench: what the files of "make bench" share.  The parts and their names,
# rows of the table, rounds and medians, stock servers, empty page caches.
#
# Nothing here asserts a time: a row may have a target, and says whether it is
# met.  Rows go to the file NEON_BENCH_RESULTS, as "bench" runs several files and
# prints one table; without it a file prints its own.
package NeonBench;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use JSON::PP;
use List::Util qw(sum0);
use POSIX ();
use Time::HiRes qw(time sleep);

our @EXPORT = qw(wanted row median percentile alternate drop_caches stock_init stock_start stock_stop
  endpoint_init must pgbench_run cpu_seconds timed finish);

our $scale = $ENV{NEON_BENCH_SCALE} || 10;
our $seconds = $ENV{NEON_BENCH_SECONDS} || 10;
our $rounds = $ENV{NEON_BENCH_ROUNDS} || 3;

# name, file, minutes with the default sizes on 2 CPUs, what
our @parts = (
	[ 'tpcb', 'write.pl', 6, 'TPC-B with 3 safekeepers, against one stock server and one with ANY 2 of 3 standbys; WAL per transaction' ],
	[ 'commits', 'write.pl', 2, 'the same with pgbench -N' ],
	[ 'warm', 'write.pl', 2, 'pgbench -S, everything in memory' ],
	[ 'copy', 'write.pl', 1, 'COPY into a new table' ],
	[ 'index', 'write.pl', 1, 'CREATE INDEX' ],
	[ 'laptop', 'laptop.pl', 2, 'TPC-B without safekeepers, against one stock server' ],
	[ 'latency', 'cold.pl', 2, 'random pages that are not here, against a TCP echo of 8 kB' ],
	[ 'scans', 'cold.pl', 4, 'sequential, parallel, bitmap and index scans of what is not here, against dropped caches' ],
	[ 'branch', 'cold.pl', 1, 'a branch, against a copy of the directory' ],
	[ 'relations', 'relations.pl', 1, 'boot to the first query with 1,000 and 10,000 relations' ],
	[ 'relations100k', 'relations.pl', 1, 'the same with 100,000' ],
	[ 'storage', 'storage.pl', 2, 'the pageserver by itself: ingest, pages, compaction, restarts' ]);

my @rows;

# Is one of these parts to be run?
sub wanted
{
	my %chosen = map { $_ => 1 } split /,/, $ENV{NEON_BENCH_ONLY} // '';
	return !%chosen || grep { $chosen{$_} } @_;
}

sub load { open(my $f, '<', '/proc/loadavg') or croak $!; return (split ' ', <$f>)[0] }

# A row: what, unit, ours, theirs (may be undefined), against (what theirs is);
# lower => 1 if less is better.  Targets are those of the design: at_least (of
# the ratio, which is above 1 where we are better), at_most or at_least_ours (of
# our figure).
sub row
{
	my (%r) = @_;
	$r{ratio} = $r{lower} ? $r{theirs} / $r{ours} : $r{ours} / $r{theirs} if $r{theirs} && $r{ours};
	$r{met} = $r{ratio} >= $r{at_least} if defined $r{at_least} && defined $r{ratio};
	$r{met} = $r{ours} <= $r{at_most} if defined $r{at_most};
	$r{met} = $r{ours} >= $r{at_least_ours} if defined $r{at_least_ours};
	$r{met} = $r{met} ? 'yes' : 'NO' if defined $r{met};
	$r{load} = load();
	push @rows, \%r;
	Test::More::note(join ' ', map { $_ // '-' } @r{qw(what against unit ours theirs ratio)});
	if (my $file = $ENV{NEON_BENCH_RESULTS})
	{
		open(my $f, '>>', $file) or croak "$file: $!";
		print $f encode_json(\%r) . "\n";
		close $f or croak "$file: $!";
	}
	return;
}

sub percentile { my ($p, @x) = @_; @x = sort { $a <=> $b } @x; return $x[ int($p * $#x + 0.5) ] }
sub median { return percentile(0.5, @_) }

# Runs code once on each system in every round, in turns; it returns a list of
# figures.  By system: the medians over the rounds.
sub alternate
{
	my ($systems, $code) = @_;
	my (%all, %result);
	for my $round (1 .. $rounds)
	{
		for my $system ($round % 2 ? @$systems : reverse @$systems)
		{
			my @figures = $code->($system);
			Test::More::note("round $round, $system, load " . load() . ': ' . join ' ', map { sprintf '%.6g', $_ } @figures);
			push @{ $all{$system} }, \@figures;
		}
	}
	for my $system (@$systems)
	{
		my @runs = @{ $all{$system} };
		$result{$system} = [ map { my $i = $_; median(map { $_->[$i] } @runs) } 0 .. $#{ $runs[0] } ];
	}
	return \%result;
}

# Milliseconds that code takes.
sub timed
{
	my ($code) = @_;
	my $began = time;
	$code->();
	return 1000 * (time - $began);
}

# Seconds of CPU that the processes with these working directories, or ones below
# them, have used, and their children that have ended.
sub cpu_seconds
{
	my $dirs = join '|', map { quotemeta } @_;
	my $ticks = 0;
	for my $proc (glob '/proc/[0-9]*')
	{
		next unless (readlink("$proc/cwd") // '') =~ m{^(?:$dirs)(?:/|$)};
		open(my $f, '<', "$proc/stat") or next;
		my $stat = <$f> // next;
		my @field = split / /, $stat =~ s/^.*\) //sr;
		$ticks += $_ for @field[ 11 .. 14 ];
	}
	return $ticks / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# ---- the page cache ----

# Of these files, those of which something is in the page cache: bytes by name.
sub resident
{
	my %bytes;
	while (my @some = splice @_, 0, 500)
	{
		open(my $f, '-|', 'fincore', '-nrb', '-o', 'RES,FILE', @some) or croak "fincore: $!";
		while (my $line = <$f>) { $bytes{$2} = $1 if $line =~ /^([1-9]\d*) (.*)$/ }
		close $f;
	}
	return %bytes;
}

# Files below these directories leave the page cache: each is written out, then
# posix_fadvise(DONTNEED).  That needs no privileges and leaves other people's
# files alone, unlike /proc/sys/vm/drop_caches.  Bytes before and after.
sub drop_caches
{
	my (@dirs) = @_;
	open(my $f, '-|', 'find', @dirs, qw(-type f -size +0 -print0)) or croak "find: $!";
	my @files = do { local $/ = "\0"; map { chomp; $_ } <$f> };
	close $f;
	my %before = resident(@files);
	@files = keys %before;
	while (my @some = splice @files, 0, 100)
	{
		# a file may be removed meanwhile
		system('sh', '-c', 'for f; do dd of="$f" oflag=nocache conv=notrunc,nocreat,fdatasync count=0 status=none 2>/dev/null; done; true', 'sh', @some) == 0
		  or croak 'dd';
	}
	my %after = resident(keys %before);
	my ($before, $after) = (sum0(values %before), sum0(values %after));
	Test::More::note(sprintf 'dropped from the page cache by posix_fadvise: %.1f of %.1f MB', ($before - $after) / 1048576, $before / 1048576);
	return ($before, $after);
}

# ---- commands, stock servers ----

sub must
{
	my ($t, @command) = @_;
	my ($rc, $out, $err) = $t->command(\@command, timeout => 900);
	croak "@command: $out$err" if $rc != 0;
	return $out;
}

my %stock;

# A stock server below the test's directory that NeonTest knows by the name, not
# started.  Option "from": a base backup of that one, as its standby.
sub stock_init
{
	my ($t, $name, %o) = @_;
	my $dir = $t->tmp . "/$name";
	my $port = $t->free_port;
	if ($o{from})
	{
		must($t, 'pg_basebackup', '-D', $dir, '-R', '-c', 'fast', '-d', $t->connstr($o{from}));
	}
	else
	{
		must($t, 'initdb', '-D', $dir, '-A', 'trust', '-U', 'cloud_admin');
	}
	open(my $f, '>>', "$dir/postgresql.conf") or croak "$dir: $!";
	print $f "port = $port\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\ncluster_name = '$name'\n", $o{conf} // '';
	close $f or croak "$dir: $!";
	$t->set_port($name, $port);
	$stock{$name} = { t => $t, dir => $dir };
	return $dir;
}

sub stock_start
{
	my ($name) = @_;
	my $s = $stock{$name};
	must($s->{t}, 'pg_ctl', '-D', $s->{dir}, '-l', "$s->{dir}.log", '-w', '-t', '300', 'start');
	$s->{started} = 1;
	return;
}

sub stock_stop
{
	my ($name, $mode) = @_;
	my $s = $stock{$name};
	must($s->{t}, 'pg_ctl', '-D', $s->{dir}, '-m', $mode // 'fast', '-w', '-t', '300', 'stop');
	delete $s->{started};
	return;
}

# Everything of "neon", and the endpoint "main" with these settings, started.
sub endpoint_init
{
	my ($t, @settings) = @_;
	$t->quickstart(no_endpoint => 1);
	$t->neon('endpoint', 'create', 'main', '--port', $t->{ports}{main} = $t->free_port);
	$t->neon('endpoint', 'config', 'main', @settings);
	$t->neon('endpoint', 'start', 'main');
	return;
}

# Transactions per second, and the latencies' median and 99th of a hundred in ms.
sub pgbench_run
{
	my ($t, $system, $clients, @args) = @_;
	my $log = $t->tmp . '/latency';
	unlink glob "$log.*";
	my $out = $t->pgbench($system, '-c', $clients, '-j', 2, '-T', $seconds, '-l', "--log-prefix=$log", @args);
	my ($tps) = $out =~ /^tps = ([\d.]+)/m or croak "no figure in: $out";
	my @ms;
	for my $file (glob "$log.*")
	{
		open(my $f, '<', $file) or croak "$file: $!";
		while (my $line = <$f>) { push @ms, (split ' ', $line)[2] / 1000 }
	}
	unlink glob "$log.*";
	return ($tps, percentile(0.5, @ms), percentile(0.99, @ms));
}

# ---- the table ----

sub figure
{
	my ($x) = @_;
	return !defined $x ? '-' : $x >= 100 ? sprintf('%.0f', $x) : $x >= 10 ? sprintf('%.1f', $x) : sprintf('%.2f', $x);
}

# Lines of the table of these rows.
sub table
{
	my (@r) = @_;
	my @lines;
	for my $r (
		{ what => 'what', against => 'against', unit => 'unit', load => 'load' },
		@r)
	{
		my $head = $r->{what} eq 'what';
		my $target = defined $r->{at_least} ? sprintf('>= %.3g x', $r->{at_least}) : defined $r->{at_most} ? "<= $r->{at_most} $r->{unit}"
		  : defined $r->{at_least_ours} ? ">= $r->{at_least_ours}" : '';
		push @lines, sprintf '%-58s %-24s %-6s %10s %10s %7s %-10s %-4s %5s', $r->{what}, $r->{against} // '', $r->{unit},
		  $head ? 'ours' : figure($r->{ours}), $head ? 'theirs' : figure($r->{theirs}),
		  $head ? 'ratio' : defined $r->{ratio} ? sprintf('%.2f', $r->{ratio}) : '-', $head ? 'target' : $target, $head ? 'met' : $r->{met} // '', $r->{load};
	}
	return (@lines, 'A ratio above 1 means that ours is better. Load: average over a minute when the figure was there.');
}

# The end of a file.
sub finish
{
	Test::More::ok(scalar(@rows), 'figures');
	if (!$ENV{NEON_BENCH_RESULTS})
	{
		Test::More::diag($_) for '', table(@rows);
	}
	return;
}

END
{
	my $status = $?;
	for my $s (grep { $_->{started} } values %stock)
	{
		$s->{t}->command([ 'pg_ctl', '-D', $s->{dir}, '-m', 'immediate', '-w', 'stop' ]);
	}
	$? = $status;
}

1;
