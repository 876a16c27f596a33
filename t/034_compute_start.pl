# What a compute refuses to start on, and that a boot ticket is good for one
# start only.
use strict;
use warnings;
use NeonControl;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

$ENV{PGUSER} = 'cloud_admin';
my $base = NeonControl::base();
my $use_neon = qr/neon endpoint start/;
my $use_config = qr/neon endpoint config/;
my $n = 0;

sub refused
{
	my ($fatal, $hint, $test, %o) = @_;
	my $change = delete $o{change};
	my $node = NeonControl->compute($base, 'c' . $n++, %o);
	$change->($node->data_dir) if $change;
	NeonControl::start_refused($node, $fatal, $hint, $test);
	return;
}

sub edit
{
	my ($path, $from, $to) = @_;
	my $text = slurp_file($path);
	$text =~ s/$from/$to/ or die "nothing to edit in $path";
	NeonOverlay::write_file($path, $text);
	return;
}

# Puts the first bytes of a boot id into the checkpoint that pg_control has a
# copy of, whose checksum follows the last field.
sub give_boot_id
{
	my $path = "$_[0]/global/pg_control";
	my $bytes = slurp_file($path);
	my ($length) = grep { NeonOverlay::crc32c(substr $bytes, 0, $_) == unpack('V', substr $bytes, $_, 4) } map { 4 * $_ } 64 .. 100;
	substr($bytes, 40 + 17, 7) = "\x44" x 7;
	substr($bytes, $length, 4) = pack('V', NeonOverlay::crc32c(substr $bytes, 0, $length));
	NeonOverlay::write_file($path, $bytes);
	return;
}

# the ticket
refused(qr/has no boot ticket/, $use_neon, 'no ticket', change => sub { unlink "$_[0]/neon.ticket" });
refused(qr/not that of a compute/, $use_neon, 'no neon.boot', change => sub { unlink "$_[0]/neon.boot" });
refused(qr/neon.ticket.*checksum is wrong/, $use_neon, 'a ticket that was changed',
	change => sub { edit("$_[0]/neon.ticket", qr/term=3/, 'term=4') });
refused(qr/neon.ticket.*no checksum/, $use_neon, 'a ticket cut short',
	change => sub { edit("$_[0]/neon.ticket", qr/crc=.*/s, '') });
refused(qr/neon.ticket.*unknown format/, $use_neon, 'a ticket of another format',
	change => sub { edit("$_[0]/neon.ticket", qr/ticket 1/, 'ticket 2') });
refused(qr/neon.ticket.*too long/, $use_neon, 'a ticket too long',
	change => sub { append_to_file("$_[0]/neon.ticket", 'x' x 70000) });
refused(qr/issued for another start/, $use_neon, "another tenant's ticket", ticket => { tenant_id => '99' x 16 });
refused(qr/issued for another start/, $use_neon, 'a ticket of another LSN', ticket => { boot_lsn => '0/5000028' });
refused(qr/issued for another start/, $use_neon, 'a ticket of another term', ticket => { term => 2 });
refused(qr/issued for another start/, $use_neon, "another endpoint's ticket", ticket => { endpoint => 'other' });
refused(qr/issued for another start/, $use_neon, "another boot's record", change => \&give_boot_id);
refused(qr/neon.boot.*"term" is not a valid number/, $use_neon, 'neon.boot with nonsense', boot => { term => '-1' });
refused(qr/neon.boot.*"boot_lsn" is not a valid LSN/, $use_neon, 'neon.boot with nonsense', boot => { boot_lsn => 'x' });
refused(qr/neon.boot.*LSNs do not fit/, $use_neon, 'LSNs in disorder', boot => { boot_record_end => '0/1' });

# the data directory
refused(qr/written by PostgreSQL 16.1, this server is/, qr/Install PostgreSQL 16/, 'another major version',
	boot => { server_version_num => 160001 });
refused(qr/last written by PostgreSQL 15.99, this server is the older/, qr/Upgrade/, 'a later minor version',
	boot => { server_version_num => 150099 });
refused(qr/catalog version 1,/, qr/Install/, 'another catalog version', boot => { catalog_version => 1 });
refused(qr/pg_control.*another database system/, $use_neon, 'another system identifier', boot => { system_identifier => 1 });
refused(qr/data checksums of this data directory are off/, $use_neon, 'other checksums', boot => { data_checksums => 1 });
refused(qr/WAL segment size/, $use_neon, 'another segment size', boot => { wal_segment_size => 1048576 });
refused(qr/no longer at its boot record/, $use_neon, 'another boot record',
	boot => { boot_record_lsn => '0/9000028', boot_record_end => '0/90000A0' });
for my $f ('backup_label', 'recovery.signal')
{
	refused(qr/cannot start with file "$f"/, $use_neon, $f, change => sub { append_to_file("$_[0]/$f", '') });
}
refused(qr/only a static endpoint/, $use_neon, 'a primary with standby.signal',
	change => sub { append_to_file("$_[0]/standby.signal", '') });
refused(qr/static endpoint cannot start without/, $use_neon, 'a static endpoint without it',
	kind => 'static', change => sub { unlink "$_[0]/standby.signal" });

# settings
refused(qr/"wal_level" set to "minimal"/, $use_config, 'wal_level', conf => "wal_level = minimal\nmax_wal_senders = 0\n");
refused(qr/"archive_mode" set to "on"/, $use_config, 'archive_mode', conf => "archive_mode = on\n");
refused(qr/"fsync" set to "off"/, $use_config, 'fsync', conf => "fsync = off\n");
refused(qr/"max_wal_senders" set to "0"/, $use_config, 'max_wal_senders', conf => "max_wal_senders = 0\n");
refused(qr/"max_replication_slots" set to "0"/, $use_config, 'max_replication_slots', conf => "max_replication_slots = 0\n");
refused(qr/"neon.safekeepers" set to "a:1"/, $use_config, 'safekeepers', conf => "neon.safekeepers = 'a:1'\n");
refused(qr/must be set/, $use_neon, 'no tenant', conf => "neon.tenant_id = ''\n");
refused(qr/must be set/, $use_neon, 'an id that is none', conf => "neon.timeline_id = 'zz'\n");
refused(qr/max_prepared_transactions is 0.*with 5/, $use_config, 'room for prepared transactions', boot => { max_prepared_xacts => 5 });

SKIP:
{
	my $lib = $ENV{NEON_TESTING_LIBDIR} or skip 'no build with TESTING=1', 1;
	for my $order ("neon,$lib/neon_compute_test", "$lib/neon_compute_test,neon")
	{
		refused(qr/custom WAL resource manager "neon_test"/, $use_config, 'a custom resource manager',
			conf => "shared_preload_libraries = '$order'\n");
	}
}

# looking at settings, and single-user mode, do not use the ticket up
my $node = NeonControl->compute($base, 'ephemeral', kind => 'ephemeral');
my $dir = $node->data_dir;
my ($out, $err) = run_command([ 'postgres', '-D', $dir, '-C', 'shared_memory_size' ]);
like($out, qr/^\d+$/, 'postgres -C');
ok(-f "$dir/neon.ticket", 'which leaves the ticket');
($out, $err) = run_command([ 'postgres', '--single', '-D', $dir, 'postgres' ]);
like($err, qr/FATAL:  a compute cannot run in single-user mode.*HINT:  Use "neon endpoint start"/s, 'single-user mode');
ok(-f "$dir/neon.ticket", 'leaves it too');

# one start
$node->start;
ok(!-e "$dir/neon.ticket" && -f "$dir/neon.ticket.used", 'the start uses the ticket up');
is($node->safe_psql('postgres', 'SHOW restart_after_crash'), 'off', 'there is no restart after a crash');
$node->stop;
NeonControl::start_refused($node, qr/already started once/, $use_neon, 'a second start after a clean stop');
command_like([ 'pg_controldata', $dir ], qr/shut down/, 'the data directory is as it was');

# a crash is the end of it
$node = NeonControl->compute($base, 'crash', kind => 'ephemeral');
$node->start;
$node->psql('postgres', 'COPY (SELECT pg_backend_pid()) TO PROGRAM \'xargs kill -9\'');
for (1 .. 300)
{
	last unless -e $node->data_dir . '/postmaster.pid';
	select(undef, undef, undef, 0.1);
}
ok(!-e $node->data_dir . '/postmaster.pid', 'a server whose backend crashed goes down');
$node->{_pid} = undef;
NeonControl::start_refused($node, qr/already started once/, $use_neon, 'and does not recover');

# a static endpoint
$node = NeonControl->compute($base, 'static', kind => 'static');
mkdir $node->data_dir . '/pg_tblspc/12345';
$node->start;
is($node->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a static endpoint is in recovery, with a tablespace too');
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'INSERT INTO t VALUES (1)');
like($stderr, qr/read-only transaction/, 'and read-only');
($rc, $stdout, $stderr) = $node->psql('postgres', 'SELECT pg_promote()');
like($stderr, qr/a static endpoint cannot be promoted.*DETAIL.*HINT/s, 'and stays so');
run_command([ 'pg_ctl', '-D', $node->data_dir, '--no-wait', 'promote' ]);
for (1 .. 300)
{
	last unless -e $node->data_dir . '/postmaster.pid';
	select(undef, undef, undef, 0.1);
}
like(slurp_file($node->logfile), qr/LOG:  a static endpoint cannot be promoted/, 'or goes down');
ok(!-e $node->data_dir . '/postmaster.pid', 'at once');
$node->{_pid} = undef;

# an ordinary server
$base->start;
($rc, $stdout, $stderr) = $base->psql('postgres', "LOAD 'neon'");
like($stderr, qr/must be loaded at server start.*shared_preload_libraries.*HINT/s, 'LOAD in an ordinary server');
$base->stop;

done_testing();
