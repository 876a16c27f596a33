# The page service and base backups on an encrypted connection: decrypted bytes
# that wait in the library are not forgotten, and whoever does not read holds up
# nobody.
use strict;
use warnings;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => 'no openssl program' if system('openssl version >/dev/null 2>&1') != 0;

my $ps = NeonPageserver->new('ps');
my $dir = $ps->node->data_dir;
system("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout '$dir/server.key' -out '$dir/server.crt' 2>/dev/null") == 0
  or die 'openssl req';
chmod 0600, "$dir/server.key";
$ps->node->append_conf('postgresql.conf', "ssl = on\nlisten_addresses = '127.0.0.1'\n");
append_to_file("$dir/pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n");
$ps->restart;
my $t = $ps->tenant('{"segsize": 1}');
my @class = (1663, 5, 1259);
my %ok = (lsn => $t->{lsn}, rel => \@class);

my $plain = $ps->stream($t);
my $log = $ps->node->basedir . '/records';
my $s = $ps->stream($t, ssl => 1, ssl_log => $log);
is($ps->sql("SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND query LIKE 'pagestream%'"), 1, 'the stream is encrypted');
is($s->get(%ok, n => 3)->{pages}, $plain->get(%ok, n => 3)->{pages}, 'the same pages');
is(length $s->get(%ok, n => 128)->{pages}, 128 * 8192, 'a megabyte');

sub data { my ($body) = @_; return 'd' . pack('N', 4 + length $body) . $body }
my $R = \&NeonPageserver::Connection::request;
# one record of the encryption with many requests, one with a part of one
$s->send_bytes(join '', map { data($R->(%ok, blk => $_ % 10, id => 2000 + $_)) } 1 .. 300);
is(join(',', map { $s->answer->{id} } 1 .. 300), join(',', 2001 .. 2300), 'pipelined requests');
for my $byte (split //, data($R->(%ok, id => 9))) { $s->send_bytes($byte); usleep 2000 }
is($s->answer->{id}, 9, 'a request in many pieces');
# libpq has room for 8 kB; 15.15 does not look for the rest of a larger record, 15.20 does
my @sizes = sort { $b <=> $a } map { hex s/ //r } slurp_file($log) =~ /^<<< .*\[length 0005\]\n\s+17 03 03 (.. ..)/mg;
cmp_ok($sizes[0], '<=', 8192 + 256, 'no record of more than 8 kB and what the encryption adds, of ' . @sizes);

my $tar = $ps->basebackup($t, $t->{lsn}, 0, 'static');
my $tar_ssl = $ps->basebackup($t, $t->{lsn}, 0, 'static', undef, ssl => 1);
is(length $tar_ssl, length $tar, 'a base backup');

# A compute.  Answers of a page each to requests that were sent together, and none after
# them: what that libpq has not looked at is missed here.  (An answer of many pages before
# them would give it room for more.)
{
	local $ENV{PGUSER} = 'cloud_admin';
	my $compute = $ps->compute('compute', $t, 'host=127.0.0.1 port=' . $ps->node->port . ' user=cloud_admin dbname=postgres sslmode=require');
	$compute->start;
	# one row of every other block, which this server has in the same places
	my @rows = split /\n/, $ps->sql(q{SELECT min(objoid) FROM (SELECT objoid, min((ctid::text::point)[0]::int) AS block
		FROM pg_description GROUP BY objoid HAVING count(*) = 1) r WHERE block % 2 = 0 GROUP BY block ORDER BY block});
	cmp_ok(scalar(@rows), '>=', 10, 'blocks of a table');
	my $query = 'SELECT count(*), sum(length(description)) FROM pg_description WHERE objoid';
	my $bitmap = 'enable_seqscan = off; SET enable_indexscan';
	# what else these queries read: catalogs and the index
	$compute->safe_psql('postgres', "SET enable_seqscan = off; SELECT count(*) FROM pg_description WHERE objoid > 0; SET $bitmap = off; EXPLAIN $query IN (1, 2)");
	for my $case (
		[ $bitmap, 'IN (' . join(',', @rows[ 0 .. 9 ]) . ')', 'a bitmap scan of a compute' ],
		[ 'enable_bitmapscan', '< 16384', 'a scan that reads ahead' ])
	{
		my ($off, $which, $what) = @$case;
		$compute->psql('postgres', "SET neon.fetch_timeout = '10s'; SET effective_io_concurrency = 32; SET $off = off; $query $which",
			stdout => \my $out, stderr => \my $err);
		is($out, $ps->sql("$query $which"), $what) or diag($err);
	}
	$compute->stop;
}

# does not read
my $stuck = $ps->stream($t, ssl => 1);
$stuck->send_bytes(join '', map { data($R->(%ok, n => 128)) } 1 .. 40);
usleep 500_000;
$ps->sql('CREATE DATABASE d');
my $before = time;
$ps->sql('DROP DATABASE d');
ok(time - $before < 10, 'DROP DATABASE is not held up');
is($s->get(%ok, id => 10)->{id}, 10, 'others are served');
$before = time;
$ps->stop('fast');
ok(time - $before < 5, 'fast shutdown');
unlike(slurp_file($ps->node->logfile), qr/PANIC|terminated by signal/, 'nothing crashed');
done_testing();
