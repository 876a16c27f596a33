# FaultActs: the faults of a fault run.  Each begins at once and sets timers
# for its further steps; it returns what it did as text, or nothing if what it
# needs is in use by another one.
package FaultActs;

use strict;
use warnings;
use Carp;
use Test::More;
use Time::HiRes qw(time sleep);

my @safekeepers = ('sk1', 'sk2', 'sk3');

my %acts = (
	'kill -9 of a safekeeper' => sub { kill_host($_[0], $_[0]->take(@safekeepers)) },
	'kill -9 of the pageserver' => sub { kill_host($_[0], $_[0]->take('ps')) },
	'kill -9 of the compute' => \&kill_compute,
	'SIGSTOP of a safekeeper' => sub { stop_host($_[0], $_[0]->take(@safekeepers)) },
	'SIGSTOP of the pageserver' => sub { stop_host($_[0], $_[0]->take('ps')) },
	'SIGSTOP of the compute' => sub { stop_host($_[0], $_[0]->take($_[0]->primary_machine)) },
	'partition' => sub { partition($_[0], 0) },
	'one-way partition' => sub { partition($_[0], 1) },
	'power cut' => \&power_cut,
	'launcher killed' => \&launcher_killed,
	'take-over' => sub { take_over($_[0], 0) },
	'take-over across a partition' => sub { take_over($_[0], 1) },
	'full disk' => \&full_disk,
	'clock jump' => \&clock_jump,
	'damaged end of the WAL' => \&damaged_wal,
	'damaged state file' => \&damaged_state);

sub acts { return \%acts }

sub primary_machine { return $_[0]->t->machine($_[0]{primary}) }

# The server of a host; a machine's is the endpoint that is there.
sub server
{
	my ($self, $host) = @_;
	return $host eq 'm1' ? 'a' : $host eq 'm2' ? 'b' : FaultSystem::server_of($host);
}

sub is_booting { my ($self, $host) = @_; return $self->t->{jobs}{ $self->server($host) } ? 1 : 0 }

# Processes may end while they are looked for.
sub signal_tree
{
	my ($self, $signal, $host) = @_;
	my @pids = $self->t->tree($self->server($host)) or return 0;
	kill $signal, @pids;
	return scalar @pids;
}

# ---- processes ----

sub kill_host
{
	my ($self, $host) = @_;
	return if !$host;
	my ($pid) = $self->t->tree($self->server($host));
	if (!$pid || is_booting($self, $host)) { $self->give($host); return }
	my $whole = rand() < 0.5;
	$self->note_promise($host);
	$self->{down}{$host} = 1;
	if ($whole) { signal_tree($self, 'KILL', $host) }
	else { kill 'KILL', $pid }
	my $hold = rand() < 0.5 ? 0 : rand 6;
	$self->later($hold, sub { delete $self->{down}{$host}; $self->give($host) });
	return sprintf '%s, %s, down for %.1f s', $host, $whole ? 'all its processes' : 'its postmaster', $hold;
}

# The directory of a dead compute is a cache: it may be gone as well.
sub kill_compute
{
	my ($self) = @_;
	my $host = $self->take(primary_machine($self));
	my $text = kill_host($self, $host) or return;
	return $text if rand() < 0.5;
	my $dir = $self->t->pgdata($self->{primary});
	my $end = time + 20;
	sleep 0.1 while time < $end && grep { (readlink("/proc/$_/cwd") // '') =~ m{/\Q$self->{primary}\E/pgdata} } processes();
	FaultSystem::must('rm', '-rf', $dir);
	return "$text, its directory removed";
}

sub processes { return map { m{(\d+)} ? $1 : () } glob '/proc/[0-9]*' }

sub stop_host
{
	my ($self, $host) = @_;
	return if !$host;
	if (is_booting($self, $host) || !signal_tree($self, 'STOP', $host)) { $self->give($host); return }
	my $hold = 1 + rand 8;
	$self->{down}{$host} = 1;
	$self->later($hold, sub { signal_tree($self, 'CONT', $host); delete $self->{down}{$host}; $self->give($host) });
	return sprintf '%s for %.1f s', $host, $hold;
}

# The power of one safekeeper, or of all at the same moment; then half the time
# the compute and its directory are gone too.
sub power_cut
{
	my ($self) = @_;
	my $t = $self->t;
	return if !%{ $t->{power} };
	my @free = grep { !$self->{busy}{$_} && !is_booting($self, $_) && $t->runs($self->server($_)) } @safekeepers or return;
	my @hosts = @free == 3 && rand() < 0.7 ? @free : $free[ rand @free ];
	$self->{busy}{$_} = $self->{down}{$_} = 1 for @hosts;
	$self->note_promise($_) for @hosts;
	$t->{power}{$_}->cut for @hosts;
	my $text = "of @hosts";
	my $compute = @hosts == 3 && rand() < 0.5 ? kill_compute($self) : undef;
	$text .= ", compute $compute" if $compute;
	sleep 0.2;
	for my $host (@hosts)
	{
		my ($n) = $host =~ /(\d)/;
		for (1 .. 100)
		{
			my @left = $t->all_of($n) or last;
			kill 'KILL', @left;
			sleep 0.05;
		}
		my $seed = rand() < 0.5 ? int rand 2**30 : undef;
		$text .= sprintf ', %s: %d undone%s', $host, $t->cut_power($n, $seed), defined $seed ? " of seed $seed" : '';
	}
	my $hold = rand 3;
	$self->later($hold, sub { delete $self->{down}{$_} for @hosts; $self->give(@hosts) });
	return $text;
}

# ---- network ----

# One host is cut off from some or all others, in one direction or both.
sub partition
{
	my ($self, $one_way) = @_;
	return if $self->{busy}{network};
	my @all = (@safekeepers, 'ps', primary_machine($self));
	my $host = $all[ rand @all ];
	my @others = grep { $_ ne $host } @all;
	@others = $others[ rand @others ] if rand() < 0.4;
	my $out = rand() < 0.5;
	my @pairs = !$one_way ? map { ([ $host, $_ ], [ $_, $host ]) } @others : map { $out ? [ $host, $_ ] : [ $_, $host ] } @others;
	return cut_for($self, 1 + rand 8, @pairs) . ($one_way ? $out ? ": packets from $host to @others" : ": packets to $host from @others" : ": $host and @others");
}

sub cut_for
{
	my ($self, $hold, @pairs) = @_;
	$self->{busy}{network} = 1;
	@pairs = $self->t->cut(@pairs);
	$self->later($hold, sub { $self->t->reconnect(@pairs); $self->give('network') });
	return sprintf '%.1f s', $hold;
}

# ---- another machine becomes the primary ----

# It leaves a burnt term, or a compute that nobody waits for.  Safekeepers that
# are killed then must still know what they promised.
sub launcher_killed
{
	my ($self) = @_;
	my $text = take_over($self, 0) or return;
	if (!@{ $self->{steps} })
	{
		my @steps = qw(positions elected committed ingested built before-start started);
		push @{ $self->{steps} }, 'promised';
		push @{ $self->{steps} }, splice(@steps, rand @steps, 1) while @steps;
	}
	$self->{kill_at} = shift @{ $self->{steps} };
	return "at \"$self->{kill_at}\", $text";
}

# By what is left when the launcher is dead.
sub launcher_died
{
	my ($self, $ep) = @_;
	my @hosts = grep { !$self->{busy}{$_} } @safekeepers;
	my $m = $self->t->machine($ep);
	$self->{down}{$m} = 1;
	$self->later(5, sub { delete $self->{down}{$m} });
	for my $host (@hosts)
	{
		$self->{busy}{$host} = 1;
		my $text = kill_host($self, $host);
		$self->say("after the launcher: $text") if $text;
	}
	return;
}

# With a partition the old compute and perhaps one safekeeper are on the other side.
sub take_over
{
	my ($self, $cut) = @_;
	my $t = $self->t;
	my $old = $self->{primary};
	my $new = $old eq 'a' ? 'b' : 'a';
	return if $self->{busy}{network} || $self->{busy}{m1} || $self->{busy}{m2} || %{ $self->{old} } || $t->{jobs}{a} || $t->{jobs}{b} || !$t->runs($old);
	my $text = "from $old to $new";
	if ($cut)
	{
		my @minority = ($t->machine($old), rand() < 0.5 ? $safekeepers[ rand @safekeepers ] : ());
		my %minor = map { $_ => 1 } @minority;
		my @majority = grep { !$minor{$_} } @safekeepers, 'ps', $t->machine($new);
		my @pairs = map { my $x = $_; map { ([ $x, $_ ], [ $_, $x ]) } @majority } @minority;
		$text .= ', @minority cut off for ' =~ s/\@minority/@minority/r . cut_for($self, 4 + rand 10, @pairs);
	}
	$self->{old}{$old} = 1;
	$self->{primary} = $new;
	$self->{take_over} = 1;
	$self->write_targets;
	return $text;
}

# ---- disks and clocks ----

sub full_disk
{
	my ($self) = @_;
	return if $self->{busy}{disk};
	my $n = 1 + int rand 3;
	my $mb = int rand 40;
	my $hold = 2 + rand 8;
	$self->{busy}{disk} = 1;
	$self->t->disk_free($n, $mb);
	$self->later($hold, sub { $self->t->disk_free($n); $self->give('disk') });
	return sprintf 'sk%d, %d MB left for %.1f s', $n, $mb, $hold;
}

# It stays as it is until the next one.
sub clock_jump
{
	my ($self) = @_;
	return if !$self->t->{faketime};
	my @all = grep { $self->t->has_clock($_) } @FaultSystem::hosts;
	my $host = $all[ rand @all ];
	my $by = (-86400, -3600, -30, 0, 30, 3600, 86400 * 30)[ rand 7 ];
	$self->t->set_clock($host, $by);
	return "$host by $by s";
}

# ---- damage: of one member at a time; it says so, and its disk is repaired ----

sub timeline_dir
{
	my ($self, $n) = @_;
	my ($dir) = glob $self->t->neon_dir($n) . '/tenants/*/timelines/*/state';
	return $dir ? $dir =~ s{/state$}{}r : undef;
}

sub positions
{
	my ($self, $n, $columns) = @_;
	my ($rc, $out) = $self->t->psql_raw("safekeeper $n", "SELECT $columns FROM neon_safekeeper.positions($self->{timeline})", timeout => 20);
	chomp $out;
	return $rc == 0 && $out ne '' ? split(/\|/, $out, -1) : ();
}

# Takes a member that is well; $damage gets its timeline's directory and the
# commit_lsn of some seconds ago, when nothing of it runs any more.
sub damage_member
{
	my ($self, $damage) = @_;
	return if $self->{busy}{damage};
	my $host = $self->take(@safekeepers) or return;
	my ($n) = $host =~ /(\d)/;
	my ($state, $commit, $counts) = positions($self, $n, 'state, commit_lsn, counts');
	my $dir = timeline_dir($self, $n);
	if (!$dir || !defined $state || $state ne 'active' || $counts ne 't' || is_booting($self, $host)) { $self->give($host); return }
	$self->{busy}{damage} = 1;
	$self->later(2.5, sub {
			$self->{down}{$host} = 1;
			signal_tree($self, 'KILL', $host);
			$self->later(0.5, sub { do_damage($self, $host, $dir, $commit, $damage) });
	});
	return $host;
}

sub done_with { my ($self, $host) = @_; $self->give($host, 'damage'); return }

sub do_damage
{
	my ($self, $host, $dir, $commit, $damage) = @_;
	FaultSystem::must('rm', '-rf', "$self->{tmp}/repair");
	FaultSystem::must('cp', '-a', $dir, "$self->{tmp}/repair");
	my $what = $damage->($dir, NeonTest::lsn_num($commit));
	$self->{damaged} = $host if $what;
	delete $self->{down}{$host};
	return done_with($self, $host) if !$what;
	$self->say("damage: $host: $what");
	await_damage($self, $host, $dir, $what, time + 60);
	return;
}

# Until it is asked it does not know.
sub await_damage
{
	my ($self, $host, $dir, $what, $deadline) = @_;
	my ($n) = $host =~ /(\d)/;
	my ($state, $commit, $flush) = positions($self, $n, 'state, commit_lsn, flush_lsn');
	if (($state // '') eq 'damaged' || time > $deadline)
	{
		$self->count('members that were found damaged') if ($state // '') eq 'damaged';
		is($state // 'nothing', 'damaged', "round $self->{round}: $host knows that it is damaged: $what");
		$self->{down}{$host} = 1;
		signal_tree($self, 'KILL', $host);
		$self->later(0.5, sub { repair($self, $host, $dir) });
		return;
	}
	$self->later(0.3, sub { await_damage($self, $host, $dir, $what, $deadline) });
	return;
}

sub repair
{
	my ($self, $host, $dir) = @_;
	FaultSystem::must('rm', '-rf', $dir);
	FaultSystem::must('cp', '-a', "$self->{tmp}/repair", $dir);
	$self->t->forget_power($host);
	$self->say("damage: $host: repaired");
	$self->{damaged} = '';
	delete $self->{down}{$host};
	return done_with($self, $host);
}

sub overwrite
{
	my ($path, $offset, $bytes) = @_;
	open(my $f, '+<:raw', $path) or croak "$path: $!";
	seek($f, $offset, 0);
	print $f $bytes;
	close $f or croak "$path: $!";
	return;
}

sub bytes_at
{
	my ($path, $offset, $len) = @_;
	open(my $f, '<:raw', $path) or croak "$path: $!";
	seek($f, $offset, 0);
	read($f, my $bytes, $len);
	close $f;
	return $bytes;
}

# Below what was committed some seconds ago, in the segment where that ended, if
# nothing came into the next one meanwhile (a start reads the last): zeros from some point on, or some bits that are others (more than the padding
# between two records).
sub damaged_wal
{
	my ($self) = @_;
	return damage_member($self, sub {
			my ($dir, $commit) = @_;
			my $segsize = 16 * 1024 * 1024;
			my ($file, $next) = map { sprintf '%s/wal/%08X%08X%08X', $dir, 1, int($_ / 2**32), int(($_ % 2**32) / $segsize) } $commit, $commit + $segsize;
			my $used = $commit % $segsize;
			return if $used < 20000 || !-f $file || (-f $next && bytes_at($next, 0, 8) ne "\0" x 8);
			my $at = $used - 8192 - int rand($used < 100000 ? $used - 16384 : 80000);
			if (rand() < 0.5)
			{
				overwrite($file, $at, "\0" x ($segsize - $at));
				return "zeros from $at on";
			}
			overwrite($file, $at, join '', map { chr(ord($_) ^ (1 << int rand 8)) } split //, bytes_at($file, $at, 16));
			return "flipped bits at $at";
	});
}

sub damaged_state
{
	my ($self) = @_;
	return damage_member($self, sub {
			my ($dir) = @_;
			my $file = "$dir/state";
			my $size = -s $file or return;
			my $at = int rand $size;
			if (rand() < 0.3)
			{
				truncate($file, $at) or croak "$file: $!";
				return "the state file ends at $at";
			}
			overwrite($file, $at, chr(ord(bytes_at($file, $at, 1)) ^ (1 << int rand 8)));
			return "a flipped bit at $at of the state file";
	});
}

1;
