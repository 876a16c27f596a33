# PowerCut: what a server's disk would have after a power cut.  contrib/powercut
# tells how; the servers run with $cut->env, and are all dead before undo().
package PowerCut;

use strict;
use warnings;
use Carp;
use Fcntl;
use File::Find;
use File::Path qw(make_path remove_tree);
use IO::Handle;
use Time::HiRes ();

use constant {
	BYTES => 1, SIZE => 2, CREATED => 3, REMOVED => 4, RENAMED => 5, MADE_DIR => 6, REMOVED_DIR => 7,
	HEAD => 40, MAGIC => 0x31435750, PAGE => 4096
};

sub available { return $ENV{NEON_TESTING_LIBDIR} && -f "$ENV{NEON_TESTING_LIBDIR}/powercut.so" }

my $boots = 0;

# log: a directory that is made anew; dirs: what is watched, real paths; one that
# ends in "/." is watched without its subdirectories.
sub new
{
	my ($class, %o) = @_;
	my $self = bless { log => $o{log}, dirs => $o{dirs} }, $class;
	$self->reset;
	return $self;
}

# Forgets everything: for another life of the servers.
sub reset
{
	my ($self) = @_;
	remove_tree($self->{log});
	make_path("$self->{log}/saved");
	chmod 0777, $self->{log}, "$self->{log}/saved";
	open(my $f, '>', "$self->{log}/boot_id") or croak "boot_id: $!";
	printf $f "%08x-0000-4000-8000-%012x\n", rand(2**32), ++$boots;
	close $f;
}

sub env
{
	my ($self, %o) = @_;
	return (
		LD_PRELOAD => "$ENV{NEON_TESTING_LIBDIR}/powercut.so",
		POWERCUT_LOG => $self->{log},
		POWERCUT_BOOT_ID => "$self->{log}/boot_id",
		POWERCUT_DIRS => join(':', @{ $self->{dirs} }),
		$o{at} ? (POWERCUT_AT => $o{at}) : ());
}

sub state
{
	my ($self) = @_;
	open(my $f, '<:raw', "$self->{log}/state") or return;
	read($f, my $data, 40) == 40 or croak 'state is too short';
	my %s;
	@s{qw(sequence changes saved cut_at cut root)} = unpack('QQQQLl', $data);
	return \%s;
}

# Changes and syncs so far, and whether the power has been cut.
sub changes { my $s = $_[0]->state; return $s ? $s->{changes} : 0 }
sub was_cut { my $s = $_[0]->state; return $s ? $s->{cut} : 0 }

# Cuts the power now: from here on nothing changes any more, then kill everything.
sub cut
{
	my ($self) = @_;
	open(my $f, '+<:raw', "$self->{log}/state") or croak "state: $!";
	sysseek($f, 32, 0);
	syswrite($f, pack('L', 1)) == 4 or croak "state: $!";
}

# Cuts the power at the k'th change or sync from now on, of the server with this postmaster.
sub arm
{
	my ($self, $k, $postmaster) = @_;
	open(my $f, '+<:raw', "$self->{log}/state") or croak "state: $!";
	for ([ 36, pack('l', $postmaster) ], [ 24, pack('Q', $self->changes + $k) ])
	{
		sysseek($f, $_->[0], 0);
		syswrite($f, $_->[1]) == length $_->[1] or croak "state: $!";
	}
}

# The same for all servers of a NeonTest, which are killed then.
sub cut_machine
{
	my ($self, $t) = @_;
	$self->cut;
	Time::HiRes::sleep(0.2);
	for (1 .. 50)
	{
		my @pids = $t->our_processes or last;
		kill 'KILL', @pids;
		Time::HiRes::sleep(0.1);
	}
}

# Puts back what was not synchronized.  With a seed, each page of a file, its
# size, and the names of a directory from some point on, or not: a disk may
# have any part of it.  Returns how many records were undone.
sub undo
{
	my ($self, %o) = @_;
	my $draw = sub { 1 };
	if (defined $o{seed})
	{
		my $x = $o{seed} * 2 + 1;
		$draw = sub { $x = ($x * 1103515245 + 12345) & 0x7fffffff; return ($x >> 12) & 1 };
	}
	my $n = $self->undo_contents($draw) + $self->undo_names($draw);
	$self->reset;
	return $n;
}

sub records
{
	my ($self, $file) = @_;
	open(my $f, '<:raw', $file) or croak "$file: $!";
	my @records;
	while (read($f, my $head, HEAD) == HEAD)
	{
		my ($magic, $type, $seq, $offset, $saved, $len) = unpack('LLQQQQ', $head);
		croak "$file: bad record" if $magic != MAGIC;
		my $data = '';
		# the process may have died while it wrote the last one: then the change was not made
		last if $len && read($f, $data, $len) != $len;
		push @records, { type => $type, seq => $seq, offset => $offset, saved => $saved, data => $data };
	}
	return @records;
}

# Where the watched files are now, by device and inode.
sub places
{
	my ($self) = @_;
	my %place;
	find({ no_chdir => 1, wanted => sub { my ($d, $i) = lstat $_; $place{"$d.$i"} = $_ if defined $i } },
		grep { -e } map { s{/\.$}{}r } @{ $self->{dirs} }, "$self->{log}/saved/.");
	return \%place;
}

sub undo_contents
{
	my ($self, $draw) = @_;
	my $place = $self->places;
	my $n = 0;
	for my $log (sort glob "$self->{log}/f.*")
	{
		my ($id) = $log =~ /f\.(\d+\.\d+)$/;
		my $path = $place->{$id} or next;
		my %lost;
		my $undo = sub { my $what = shift; $lost{$what} = $draw->() unless exists $lost{$what}; return $lost{$what} };
		sysopen(my $f, $path, O_RDWR) or croak "$path: $!";
		for my $r (reverse $self->records($log))
		{
			if ($r->{type} == SIZE)
			{
				next unless $undo->('size');
				truncate($f, $r->{offset}) or croak "$path: $!";
				$n++;
				next;
			}
			for (my $done = 0; $done < length $r->{data};)
			{
				my $at = $r->{offset} + $done;
				my $len = PAGE - $at % PAGE;
				$len = length($r->{data}) - $done if $len > length($r->{data}) - $done;
				if ($undo->(int($at / PAGE)))
				{
					sysseek($f, $at, 0);
					syswrite($f, $r->{data}, $len, $done) == $len or croak "$path: $!";
					$n++;
				}
				$done += $len;
			}
		}
		close $f;
	}
	return $n;
}

# Changes of names are in a journal: what is kept is kept up to some point.
sub undo_names
{
	my ($self, $draw) = @_;
	my $place = $self->places;
	my @records;
	for my $log (glob "$self->{log}/d.*")
	{
		my ($id) = $log =~ /d\.(\d+\.\d+)$/;
		push @records, map { { %$_, dir => $id } } $self->records($log);
	}
	@records = sort { $b->{seq} <=> $a->{seq} } @records;
	my $n = 0;
	my %kept;
	for my $r (@records)
	{
		$kept{ $r->{dir} } ||= !$draw->();
		next if $kept{ $r->{dir} };
		my $dir = $place->{ $r->{dir} };
		next unless defined $dir && -d $dir;
		$self->undo_name($dir, $r);
		$n++;
	}
	return $n;
}

sub undo_name
{
	my ($self, $dir, $r) = @_;
	my ($name, $other) = split /\0/, $r->{data};
	my $path = "$dir/$name";
	my $saved = "$self->{log}/saved/$r->{saved}";
	if ($r->{type} == CREATED) { unlink $path }
	elsif ($r->{type} == REMOVED) { link($saved, $path) or croak "$path: $!" }
	elsif ($r->{type} == RENAMED)
	{
		rename($path, $other) or croak "$path: $!";
		if ($r->{saved}) { link($saved, $path) or croak "$path: $!" }
	}
	elsif ($r->{type} == MADE_DIR) { remove_tree($path) }
	elsif ($r->{type} == REMOVED_DIR) { mkdir $path }
}

1;
