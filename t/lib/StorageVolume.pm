# StorageVolume: what the storage needs on disk and in memory for a history
# that is much larger than the database.  The sizes are the caller's.
package StorageVolume;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use IngestVanilla;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(space_after_updates curves_under_load);

use constant MB => 1024 * 1024;

# A pageserver with a primary on a tenant of its own, and pgbench's tables of
# about so many MB in it.
sub new
{
	my ($class, $name, $mb, $conf) = @_;
	my $ps = NeonPageserver->new("$name.pageserver", conf => "neon_pageserver.pitr_interval = 0\n$conf");
	my $t = $ps->tenant;
	$t->{args} = "'$t->{tenant}', '$t->{timeline}'";
	local $ENV{PGUSER} = 'cloud_admin';
	my $node = $ps->vanilla("$name.primary", $t, $t->{lsn}, 1, 'primary', conf => <<'CONF');
max_wal_size = 1GB
shared_buffers = 256MB
wal_keep_size = 1GB
autovacuum = off
CONF
	$node->start;
	$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('neon_pageserver', true)");
	follow($ps, $t, $node);
	my $self = bless { ps => $ps, t => $t, node => $node, scale => int($mb / 15) || 1 }, $class;
	run_command([ 'pgbench', '-i', '-q', '-s', $self->{scale}, '-h', $node->host, '-p', $node->port, 'postgres' ]);
	$self->{begin} = $self->caught_up;
	return $self;
}

sub stop { my ($self) = @_; local $ENV{PGUSER} = 'cloud_admin'; $self->{node}->stop; $self->{ps}->stop; return }

# Waits until the pageserver has all; the LSN.
sub caught_up
{
	my ($self) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	my $end = (split /\n/, $self->{node}->safe_psql('postgres', 'CREATE TABLE IF NOT EXISTS e(i int); INSERT INTO e VALUES (1); SELECT pg_current_wal_flush_lsn()'))[-1];
	for (1 .. 20)
	{
		return $end if $self->{ps}->sql("SELECT neon_pageserver.wait_lsn($self->{t}{args}, '$end', '60 s')") eq 't';
	}
	croak "the pageserver does not reach $end";
}

# MB of WAL since the tables were made.
sub wal_mb
{
	my ($self) = @_;
	return (NeonPageserver::lsn_number($self->caught_up) - NeonPageserver::lsn_number($self->{begin})) / MB;
}

# A part of the table by a set-based update, then vacuum.
sub update
{
	my ($self, $round, $parts) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	$self->{node}->safe_psql('postgres', <<"SQL", timeout => 3600);
UPDATE pgbench_accounts SET abalance = abalance + 1, filler = md5((aid + $round)::text) WHERE aid % $parts = $round % $parts;
VACUUM pgbench_accounts;
SQL
}

# Rows by COPY, a tenth of the table; those of two rounds before go.
sub copy
{
	my ($self, $round) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	my $rows = $self->{scale} * 10000;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/rows';
	$self->{node}->safe_psql('postgres', <<"SQL", timeout => 3600);
CREATE TABLE IF NOT EXISTS copied(round int, i int, t text);
COPY (SELECT $round, g, md5(random()::text) FROM generate_series(1, $rows) g) TO '$file';
COPY copied FROM '$file';
DELETE FROM copied WHERE round < $round - 1;
VACUUM copied;
SQL
	unlink $file;
}

# Bytes of layers and manifests, of all timelines.
sub stored
{
	my ($self) = @_;
	my $bytes = 0;
	$bytes += -s $_ // 0 for glob($self->{ps}->node->data_dir . "/neon/tenants/$self->{t}{tenant}/timelines/*/{layers/*,manifest.*}");
	return $bytes;
}

sub stored_wal
{
	my ($self) = @_;
	my $bytes = 0;
	$bytes += -s $_ // 0 for glob($self->{ps}->node->data_dir . "/neon/tenants/$self->{t}{tenant}/timelines/*/wal/*");
	return $bytes;
}

sub logical
{
	my ($self) = @_;
	return $self->{ps}->sql("SELECT logical_size FROM neon_pageserver.timelines WHERE timeline_id = '$self->{t}{timeline}'");
}

# Bytes that the instance's processes have given to the disk.
sub written
{
	my ($self) = @_;
	my $bytes = 0;
	$bytes += /^write_bytes: (\d+)/m ? $1 : 0 for $self->{ps}->of_processes('io');
	return $bytes;
}

# Milliseconds of reading n random pages of the table: median and 99th of 100.
sub latencies
{
	my ($self, $n) = @_;
	local $ENV{PGUSER} = 'cloud_admin';
	my ($path, $blocks) = split /\|/, $self->{node}->safe_psql('postgres',
		"SELECT pg_relation_filepath('pgbench_accounts'), pg_relation_size('pgbench_accounts') / 8192");
	my ($db, $rel) = $path =~ m{base/(\d+)/(\d+)};
	my $lsn = $self->caught_up;
	my $s = $self->{ps}->stream($self->{t});
	my @ms;
	for (1 .. $n)
	{
		my $start = time;
		my $r = $s->get(lsn => $lsn, rel => [ 1663, $db, $rel ], blk => int(rand($blocks)));
		croak "no page: $r->{message}" if $r->{tag} ne 'p';
		push @ms, 1000 * (time - $start);
	}
	$s->close;
	@ms = sort { $a <=> $b } @ms;
	return @ms[ int($n / 2), int($n * 0.99) ];
}

# A database of $mb, a branch, $wal_mb of updates, nothing else of the past
# kept: at most 2.2 times the logical size; 100 more branches: less than 1 %.
sub space_after_updates
{
	my ($mb, $wal_mb) = @_;
	my $self = StorageVolume->new('space', $mb, "neon_pageserver.gc_horizon = 64MB\n");
	my ($ps, $t) = @$self{qw(ps t)};
	my $branch = sub { $ps->sql("SELECT lsn FROM neon_pageserver.branch_create('$t->{tenant}', '$_[0]', 'main', '$_[1]')") };
	my $lsn = $branch->('first', $self->caught_up);
	my $was = $self->logical;
	for (my $round = 0; $self->wal_mb < $wal_mb; $round++) { $self->update($round, 4) }
	my $before = $self->stored;
	$ps->sql("SELECT neon_pageserver.tenant_configure('$t->{tenant}', '0', 0)");
	{
		local $NeonPageserver::timeout = 3600;
		$ps->sql("SELECT neon_pageserver.timeline_gc($t->{args})");
	}
	my ($after, $logical) = ($self->stored, $self->logical);
	diag(sprintf '%d MB at the branch, %d MB now, %d MB of WAL: layers %d MB, after timeline_gc %d MB (%.2f x logical size)',
		$was / MB, $logical / MB, $self->wal_mb, $before / MB, $after / MB, $after / $logical);
	cmp_ok($after, '<=', 2.2 * $logical, 'at most 2.2 times the logical size');
	$branch->("more$_", $lsn) for 1 .. 100;
	my $more = $self->stored;
	diag(sprintf '100 more branches: %d bytes, %.3f %%', $more - $after, 100 * ($more - $after) / $after);
	cmp_ok($more - $after, '<', $after / 100, '100 branches add less than 1 %');
	is($ps->sql("SELECT count(*) FROM neon_pageserver.timeline_verify($t->{args})"), 0, 'timeline_verify finds nothing');
	$self->stop;
	return;
}

# $wal_mb of set-based updates and COPY on a database of $mb: disk and memory
# do not grow with the history.
sub curves_under_load
{
	my ($mb, $wal_mb, $rounds) = @_;
	my $horizon = int($wal_mb / 20) + 1;
	my $self = StorageVolume->new('curves', $mb, "neon_pageserver.gc_horizon = ${horizon}MB\nneon_pageserver.checkpoint_distance = @{[ $horizon < 256 ? $horizon : 256 ]}MB\n");
	my @sample;
	my ($written, $round) = ($self->written, 0);
	for my $n (1 .. $rounds)
	{
		while ($self->wal_mb < $wal_mb * $n / $rounds)
		{
			$round % 3 == 2 ? $self->copy($round) : $self->update($round, 8);
			$round++;
		}
		my ($p50, $p99) = $self->latencies(300);
		my %s = (wal_mb => $self->wal_mb, logical => $self->logical / MB, layers => $self->stored / MB, wal => $self->stored_wal / MB,
			pss => $self->{ps}->pss, p50 => $p50, p99 => $p99);
		push @sample, \%s;
		diag(sprintf '%6d MB of WAL: logical %d MB, layers %d MB (%.2f), stored WAL %d MB, memory %d MB, read %.2f ms, 99 %% %.1f ms',
			@s{qw(wal_mb logical layers)}, $s{layers} / $s{logical}, @s{qw(wal pss p50 p99)});
	}
	diag(sprintf 'write amplification: %.2f bytes written for each of WAL', ($self->written - $written) / ($self->wal_mb * MB));
	# the first part fills what is kept
	my $most = sub { my ($field, @of) = @_; my ($max) = sort { $b <=> $a } map { $_->{$field} } @of; return $max };
	my @early = @sample[ 0 .. int($rounds / 2) ];
	my @late = @sample[ int($rounds / 2) + 1 .. $#sample ];
	cmp_ok($most->('layers', @late), '<', 1.5 * $most->('layers', @early) + 64, 'layers do not grow with the history');
	cmp_ok($most->('wal', @late), '<', 1.5 * $most->('wal', @early) + 64, 'nor does stored WAL');
	cmp_ok($most->('pss', @late), '<', 1.3 * $most->('pss', @early) + 100, 'nor does memory');
	cmp_ok($most->('pss', @sample), '<', 1024, 'which is below 1 GB');
	is($self->{ps}->sql("SELECT count(*) FROM neon_pageserver.timeline_verify($self->{t}{args})"), 0, 'timeline_verify finds nothing');
	$self->stop;
	return;
}

1;
