# LocalLimit: tests that know nothing of it run with little local disk space.
# With NEON_TEST_LOCAL_LIMIT=24MB each primary endpoint that a test makes starts
# with neon.local_size_limit at that, and with an eighth of it as
# shared_buffers, so that pages are written to files and dropped from there; what
# a test sets itself wins.  NEON_TEST_LOCAL_BALLAST=16MB of it are taken from the
# outside as soon as an endpoint has started, so that chunks are dropped of a few
# catalogs, too.  NeonTest calls this, NeonOverlay and NeonControl take the
# settings.  How much was dropped is asked for before an endpoint stops, and a test
# of which nothing was dropped at all fails: it says nothing.
package LocalLimit;

use strict;
use warnings;
use Carp;
use File::Path qw(make_path remove_tree);
use Test::More;
use Time::HiRes qw(time sleep);

our $limit = $ENV{NEON_TEST_LOCAL_LIMIT};
our $ballast = megabytes('NEON_TEST_LOCAL_BALLAST', $ENV{NEON_TEST_LOCAL_BALLAST} // '0MB');

my ($asked, $dropped) = (0, 0);
my $owner = $$;

sub megabytes
{
	my ($name, $value) = @_;
	return $value =~ /^(\d+)MB$/ ? $1 : croak "$name is a number of MB, as 24MB";
}

# Lines of a configuration file, or nothing.
sub settings
{
	return '' unless $limit;
	my $kb = megabytes('NEON_TEST_LOCAL_LIMIT', $limit) * 1024;
	return "neon.local_size_limit = '$limit'\nshared_buffers = '" . $kb / 8 . "kB'\n";
}

# Before a command of a NeonTest: asks endpoints that it will end, and writes
# the settings of one that it will make, since "neon" keeps a file that is there.
# Returns the directory conf that is to go if it was not made.
sub before
{
	my ($t, $program, @args) = @_;
	return unless $limit && $program eq 'neon' && -e "$t->{dir}/config";
	ask($t, $t->running_endpoints) if "@args" =~ /^(?:endpoint (?:stop|restart|destroy)\b|stop\b)/;
	my ($name) = "@args" =~ /^endpoint (?:start|create) ([A-Za-z0-9_][A-Za-z0-9_-]*)(?: |$)/ or return;
	my $conf = "$t->{dir}/endpoints/$name/conf";
	return if -e $conf || grep { /^--(?:lsn|time|ephemeral|help)\b/ } @args;

	my @made = make_path($conf, { mode => 0700 });
	my $file = "$conf/settings.conf";
	open my $f, '>', $file or croak "$file: $!";
	print $f settings();
	close $f or croak "$file: $!";
	give($t, @made, $file);
	return $conf;
}

# To whom the state directory belongs.
sub give
{
	my ($t, @files) = @_;
	my ($uid, $gid) = (stat $t->{dir})[ 4, 5 ];
	chown $uid, $gid, @files if $> == 0;
	return;
}

sub after
{
	my ($t, $conf, $program, @args) = @_;
	local $@;
	return unless $limit && $program eq 'neon';
	if ($conf && !-e "$conf/endpoint")
	{
		remove_tree($conf);
		rmdir $conf =~ s{/conf$}{}r;
	}
	take_space($t) if $ballast && "@args" =~ /^(?:endpoint )?(?:re)?start\b/;
	return;
}

# Into a data directory.
sub put_ballast
{
	my ($pgdata) = @_;
	return unless $limit && $ballast;
	my $file = "$pgdata/base/neon.ballast";
	system('fallocate', '-l', "${ballast}MiB", $file) == 0 or croak "cannot allocate $file";
	chmod 0600, $file;
	return;
}

# From the primaries that run with the limit and have lost nothing yet; until it is counted.
sub take_space
{
	my ($t) = @_;
	for my $ep ($t->running_endpoints)
	{
		my $pgdata = $t->pgdata($ep);
		my $file = "$pgdata/base/neon.ballast";
		next if -e $file || slurp("$pgdata/neon.boot") !~ /^kind=primary$/m
		  || slurp("$pgdata/../conf/settings.conf") !~ /^neon.local_size_limit = '\Q$limit\E'$/m;
		put_ballast($pgdata);
		give($t, $file);
		my $end = time + 20;
		sleep 0.3 until ((local_disk($t, $ep))[2] // 0) >= $ballast * 1024 * 1024 || time > $end;
	}
	return;
}

sub slurp
{
	my ($file) = @_;
	open my $f, '<', $file or return '';
	local $/;
	return <$f> // '';
}

# What needs a whole compute can be done in between, at the cost of two boots.
sub lift
{
	my ($t, $ep) = @_;
	$t->neon('endpoint', 'config', $ep, 'neon.local_size_limit=0') if $limit;
	$t->neon('endpoint', 'restart', $ep) if $limit;
	return;
}

sub put_back
{
	my ($t, $ep) = @_;
	$t->neon('endpoint', 'config', $ep, "neon.local_size_limit=$limit") if $limit;
	$t->neon('endpoint', 'restart', $ep) if $limit;
	return;
}

# Bytes that were dropped, how often somebody was held, bytes in use, and the
# setting; nothing from an endpoint that does not answer.  The extension may be
# in no database of it, so the function is made and given up.
sub local_disk
{
	my ($t, $ep) = @_;
	my ($rc, $out) = eval {
		$t->psql_raw($ep, <<'SQL', env => { PGCONNECT_TIMEOUT => 5, PGOPTIONS => '-c statement_timeout=10s' }, timeout => 60);
BEGIN;
SET LOCAL synchronous_commit = off;
CREATE FUNCTION public.neon_test_local_disk(OUT limit_bytes int8, OUT used_bytes int8, OUT present_bytes int8, OUT only_here_bytes int8,
 OUT evicted_chunks int8, OUT evicted_bytes int8, OUT clean_before pg_lsn, OUT holds int8, OUT waiting int4, OUT blocker text, OUT blocker_pid int4)
 AS 'neon', 'neon_sql_local_disk' LANGUAGE C;
SELECT evicted_bytes, holds, used_bytes, current_setting('neon.local_size_limit') FROM public.neon_test_local_disk();
ROLLBACK;
SQL
	};
	return defined $rc && $rc == 0 && $out =~ /^(\d+)\|(\d+)\|(\d+)\|(\S+)$/m ? ($1, $2, $3, $4) : ();
}

sub ask
{
	my ($t, @endpoints) = @_;
	return unless $limit && $$ == $owner;
	for my $ep (@endpoints)
	{
		my ($bytes, $holds, $used, $setting) = local_disk($t, $ep) or next;
		note("endpoint $ep: limit $setting, $used bytes in use, $bytes dropped, $holds holds");
		$asked++;
		$dropped += $bytes;
	}
	return;
}

# Was no chunk of the endpoints that were asked dropped?
sub did_nothing
{
	return 0 unless $limit && $$ == $owner && $asked && !$dropped;
	diag("nothing was dropped with NEON_TEST_LOCAL_LIMIT=$limit");
	return 1;
}

1;
