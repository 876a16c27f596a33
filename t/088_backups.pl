# Base backups of hydrated computes of each kind: primary, static, ephemeral;
# with a tablespace, by its LOCATION and inside the data directory.
use strict;
use warnings;
use NeonTest;
use Test::More;

my $t = NeonTest->new;
$t->quickstart(tenant => ['--data-checksums']);
my $location = $t->tmp . '/location';
mkdir $location or die "$location: $!";
$t->psql('main', "CREATE TABLESPACE ts LOCATION '$location'");
$t->psql('main', 'CHECKPOINT');	# whose record says that the WAL has no page images
$t->psql('main', <<'SQL');
CREATE EXTENSION neon;
CREATE TABLE t AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 20000) g;
CREATE TABLE in_ts TABLESPACE ts AS SELECT * FROM t;
CREATE INDEX ON in_ts(v);
SQL
my $sums = 'SELECT count(*), sum(hashtext(x::text)) FROM t x UNION ALL SELECT count(*), sum(hashtext(x::text)) FROM in_ts x';
my $then = $t->psql('main', $sums);
my $lsn = $t->wait_ingest('main');
$t->psql('main', "UPDATE t SET v = upper(v); UPDATE in_ts SET v = ''");
my $now = $t->psql('main', $sums);

sub backup
{
	my ($ep, $want, @options) = @_;
	my $copy = $t->tmp . "/copy_$ep";
	my @command = ('pg_basebackup', '-w', '-d', $t->connstr($ep), '--checkpoint=fast', '--no-sync', '-D', $copy, @options);
	my ($rc, $out, $err) = $t->command(\@command);
	like($err, qr/physical replication is not possible before this compute is hydrated.*HINT:  Run SELECT neon.hydrate/s, "$ep: refused");
	cmp_ok($t->psql($ep, 'SELECT neon.hydrate()'), '>', 500, "$ep: hydrated");
	($rc, $out, $err) = $t->command(\@command);
	is($rc, 0, "$ep: pg_basebackup") or diag($err);
	my ($tar_rc, undef, $tar_err) = $t->command([ @command[ 0 .. $#command - 1 - @options ], "$copy.tar", '-Ft' ]);
	if (@options)
	{
		is($tar_rc, 0, "$ep: in tar format") or diag($tar_err);
		ok(-s (glob("$copy.tar/[0-9]*.tar"))[0], "$ep: with the tablespace");
	}
	else
	{
		like($tar_err, qr/ERROR:  a base backup in tar format is not possible, as there are tablespaces\nDETAIL:  .*\nHINT:  Use the plain format/, "$ep: not in tar format, which would lack the tablespace");
		($rc, $out, $err) = $t->command([ 'psql', '-XAtw', '-d', $t->connstr($ep) . ' replication=true', '-c', " BASE_BACKUP (Tablespace_map)" ]);
		like($err, qr/in tar format is not possible/, "$ep: nor when the command is written otherwise");
	}
	($rc, $out, $err) = $t->command([ 'pg_verifybackup', $copy ]);
	is($rc, 0, "$ep: pg_verifybackup") or diag("$out$err");
	for (['postgresql.conf', "allow_in_place_tablespaces = on\n"], ['pg_hba.conf', "host all all 127.0.0.1/32 trust\n"], ['pg_ident.conf', ''])
	{
		open my $f, '>', "$copy/$_->[0]" or die $!;
		print $f $_->[1];
		close $f;
	}
	unlink "$copy/standby.signal";
	my $port = $t->free_port;
	$t->set_port("copy_$ep", $port);
	($rc, $out, $err) = $t->command([ 'pg_ctl', '-D', $copy, '-l', "$copy.log", '-w', '-o', "-p $port -h 127.0.0.1 -k '' -F", 'start' ]);
	is($rc, 0, "$ep: the copy starts on the stock server") or diag(NeonTest::Vanilla::slurp("$copy.log"));
	is($t->psql("copy_$ep", $sums), $want, "$ep: and has the data");
	$t->amcheck("copy_$ep", "$ep: pg_amcheck of the copy");
	$t->command([ 'pg_ctl', '-D', $copy, '-w', '-m', 'fast', 'stop' ]);
	($rc, $out, $err) = $t->command([ 'pg_checksums', '--check', '-D', $copy ]);
	is($rc, 0, "$ep: its checksums") or diag("$out$err");
	return;
}

# in the life in which the tablespace was made, LOCATION is where it is
backup('main', $now, '-T', "$location=$location.copy");
$t->endpoint_start('static', lsn => $lsn);
backup('static', $then);
$t->endpoint_start('ephemeral', lsn => $lsn, ephemeral => 1);
$t->psql('ephemeral', "UPDATE t SET v = lower(v); DELETE FROM in_ts WHERE id % 2 = 0");
backup('ephemeral', $t->psql('ephemeral', $sums));
$t->neon('stop');
done_testing();
