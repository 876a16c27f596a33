# FaultCheck: what has to be true after each round of a fault run, when all is
# well again and no client runs.
package FaultCheck;

use strict;
use warnings;
use Carp;
use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(time sleep);

sub check
{
	my ($self) = @_;
	my $r = "round $self->{round}";
	my $ok = 1;
	$self->say('checking');
	$self->note_promise("sk$_") for 1 .. 3;
	$ok &= $self->check_clients($r);
	$ok &= $self->check_invariants($r);
	$ok &= $self->check_members($r);
	$ok &= $self->t->amcheck($self->{primary}, "$r: amcheck") ? 1 : 0;
	$ok &= $self->check_logs($r);
	return $ok;
}

# ---- what clients were told ----

sub read_client
{
	my ($self, $id) = @_;
	my (%state, @violations);
	my %letter = (A => 'acknowledged', R => 'refused', B => 'refused', U => 'unknown', S => 'unknown', C => '');
	open(my $f, '<', $self->client_log($id)) or return ({}, []);
	while (<$f>)
	{
		my ($time, $what, $n) = split ' ';
		if ($what eq 'V') { push @violations, "client $id: $_" }
		elsif ($what eq 'C') { $self->count('refused connections') }
		else
		{
			$state{$n} = $letter{$what};
			$self->count($what eq 'B' ? 'rolled back' : $letter{$what}) if $what =~ /[ARB]/;
		}
	}
	$self->count('unknown') for grep { $_ eq 'unknown' } values %state;
	return (\%state, \@violations);
}

# $found: { client => { n => 1 } }
sub compare_client
{
	my ($self, $id, $found) = @_;
	my ($state, $violations) = $self->read_client($id);
	my @bad = @$violations;
	for my $n (keys %$state)
	{
		push @bad, "client $id: $n was acknowledged and is lost" if $state->{$n} eq 'acknowledged' && !$found->{$n};
		push @bad, "client $id: $n was refused and is there" if $state->{$n} eq 'refused' && $found->{$n};
	}
	push @bad, map { "client $id: $_ was never sent and is there" } grep { !$state->{$_} } keys %$found;
	return @bad;
}

sub check_clients
{
	my ($self, $r) = @_;
	my %found;
	my @bad;
	for (split /\n/, $self->t->psql($self->{primary}, "SELECT client, n FROM fault_rows WHERE client > $self->{round} * 100", timeout => 300))
	{
		my ($client, $n) = split /\|/;
		$found{$client}{$n} = 1;
	}
	push @bad, $self->compare_client($_, $found{$_} // {}) for map { $self->{round} * 100 + $_ } 1 .. $self->{clients};
	my $ok = is(scalar(@bad), 0, "$r: every client finds what it was told") or diag(join "\n", @bad[ 0 .. ($#bad > 19 ? 19 : $#bad) ]);
	return $self->check_older($r) && $ok;
}

# What earlier rounds' clients have is what it was when it was looked at.
sub check_older
{
	my ($self, $r) = @_;
	my %now = map { split /:/, $_, 2 } split /\n/, $self->t->psql($self->{primary},
		"SELECT client / 100 || ':' || count(*) || ' ' || sum(hashtextextended(client || ' ' || n, 0)) FROM fault_rows GROUP BY client / 100 ORDER BY 1",
		timeout => 300);
	my @changed = grep { ($now{$_} // '') ne $self->{seen}{$_} } sort keys %{ $self->{seen} };
	$self->{seen} = \%now;
	return is("@changed", '', "$r: what earlier rounds wrote is unchanged");
}

sub check_invariants
{
	my ($self, $r) = @_;
	return is($self->t->psql($self->{primary}, <<'SQL', timeout => 300), '0|0', "$r: no money came or went");
SELECT sum(balance), (SELECT count(*) FROM fault_accounts a WHERE balance <>
	(SELECT coalesce(sum(amount) FILTER (WHERE to_account = a.id), 0) - coalesce(sum(amount) FILTER (WHERE from_account = a.id), 0)
	FROM fault_rows WHERE amount > 0 AND a.id IN (from_account, to_account))) FROM fault_accounts
SQL
}

# ---- what the members have ----

sub check_members
{
	my ($self, $r) = @_;
	my $t = $self->t;
	my $lsn = NeonTest::record_end($t->psql($self->{primary}, 'SELECT lsn FROM (SELECT pg_logical_emit_message(true, \'fault\', \'\')) m, LATERAL pg_current_wal_insert_lsn() lsn'));
	my %p;
	my $all = eval {
		$t->wait_for("all members to have $lsn", sub {
				for my $n (1 .. 3) { $p{$n} = [ $self->positions($n, 'state, commit_lsn, wal_start, promised, flush_lsn') ] }
				return !grep { !@{ $p{$_} } || $p{$_}[0] ne 'active' || NeonTest::lsn_num($p{$_}[1]) < NeonTest::lsn_num($lsn) } 1 .. 3;
			}, 120);
	};
	ok($all, "$r: every member catches up") or diag(join "\n", "at $lsn", map { "safekeeper $_: @{ $p{$_} }" } 1 .. 3);
	return 0 if !$all;
	my ($end) = sort { $a <=> $b } map { NeonTest::lsn_num($p{$_}[1]) } 1 .. 3;
	my ($start) = sort { $b <=> $a } map { NeonTest::lsn_num($p{$_}[2]) } 1 .. 3;
	$self->say(sprintf 'WAL from %s to %s', NeonTest::num_lsn($start), NeonTest::num_lsn($end));
	return $self->compare_wal($r, $start, $end);
}

# [file, from, to] of the segments in a range; 16 MB each.
sub pieces
{
	my ($start, $end) = @_;
	my $segsize = 16 * 1024 * 1024;
	my @pieces;
	for (my $at = $start; $at < $end;)
	{
		my $next = (int($at / $segsize) + 1) * $segsize;
		$next = $end if $next > $end;
		push @pieces, [ sprintf('%08X%08X%08X', 1, int($at / 2**32), int(($at % 2**32) / $segsize)), $at % $segsize, $next - $at ];
		$at = $next;
	}
	return @pieces;
}

sub compare_wal
{
	my ($self, $r, $start, $end) = @_;
	my %dir = map { $_ => $self->timeline_dir($_) . '/wal' } 1 .. 3;
	my @bad;
	for my $piece (pieces($start, $end))
	{
		my ($file, $from, $len) = @$piece;
		my %bytes = map { $_ => -f "$dir{$_}/$file" ? FaultActs::bytes_at("$dir{$_}/$file", $from, $len) : '' } 1 .. 3;
		push @bad, map { "$file, $len bytes from $from: safekeepers 1 and $_ differ at " . first_difference($bytes{1}, $bytes{$_}) } grep { $bytes{$_} ne $bytes{1} } 2, 3;
		push @bad, $self->compare_with_past($file, $from, $bytes{1});
	}
	my $ok = is(scalar(@bad), 0, "$r: one history") or diag(join "\n", @bad);
	my $n = 1 + $self->{round} % 3;
	my ($rc, $out, $err) = $self->t->command([ 'pg_waldump', '-q', '-p', $dir{$n}, '-s', NeonTest::num_lsn($start), '-e', NeonTest::num_lsn($end) ]);
	return is("$rc$err", '0', "$r: pg_waldump reads what safekeeper $n has committed") && $ok;
}

sub first_difference
{
	my ($x, $y) = @_;
	return 'the length' if length $x != length $y;
	($x ^ $y) =~ /[^\0]/g or return 'nothing';
	return $-[0];
}

# What was committed once never changes.
sub compare_with_past
{
	my ($self, $file, $from, $bytes) = @_;
	my $was = $self->{wal}{$file};
	$self->{wal}{$file} = { from => $from, len => length $bytes, digest => sha256_hex($bytes) };
	return () if !$was || $was->{from} != $from || $was->{len} > length $bytes;
	return () if sha256_hex(substr $bytes, 0, $was->{len}) eq $was->{digest};
	return ("$file: what was committed before has changed");
}

# ---- logs ----

sub check_logs
{
	my ($self, $r) = @_;
	my @bad;
	my $t = $self->t;
	for my $file (glob("$t->{dir}/*/log/*.log $t->{dir}/*/*.log $t->{dir}/safekeepers/*/log/*.log $t->{dir}/safekeepers/*/*.log $t->{tmp}/m?.endpoints/*/log/*.log $t->{tmp}/m?.endpoints/*/*.log"))
	{
		open(my $f, '<', $file) or next;
		seek($f, $self->{logs}{$file} // 0, 0);
		while (<$f>)
		{
			push @bad, "$file: $_" if /PANIC:|TRAP:|terminated by signal (?:4|6|7|8|11)\b|could not read block|invalid page/;
		}
		$self->{logs}{$file} = tell $f;
		close $f;
	}
	return is(scalar(@bad), 0, "$r: nothing bad in the logs") || !diag(join '', @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ]);
}

1;
