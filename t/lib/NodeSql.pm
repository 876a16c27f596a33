# NodeSql: scripts that a test gives a PostgreSQL::Test::Cluster go through
# TestSql where that can run them, with the answers and errors of the node's own
# function psql (which safe_psql calls, too): no psql is started for each.
package NodeSql;

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use TestSql;

my $by_psql = \&PostgreSQL::Test::Cluster::psql;
my $default_timeout = 3600;
# a process for each environment
my %run;

# Options of psql that make no difference here.
sub usual { my (%o) = @_; return !grep { !/^(?:stdout|stderr|timeout|on_error_die)$/ && !($_ eq 'on_error_stop' && $o{$_}) } keys %o }

sub psql
{
	my ($node, $database, $sql, %o) = @_;
	goto &$by_psql unless usual(%o) && TestSql::available() && TestSql::suits($sql) && (wantarray || $o{stdout} && $o{stderr});

	my $run = $run{join "\0", map { $_ // '' } @ENV{qw(PGUSER PGOPTIONS)}} //= TestSql->new;
	my ($rc, $out, $err) = $run->run($node->connstr($database), $sql, $o{timeout} // $default_timeout);
	chomp($out, $err);
	die(($rc == 2 ? 'connection error' : 'error running SQL') . ": '$err'\nwith sql '$sql'") if $rc && $o{on_error_die};
	${ $o{stdout} } = $out if $o{stdout};
	${ $o{stderr} } = $err if $o{stderr};
	return wantarray ? ($rc, $out, $err) : $rc;
}

no warnings 'redefine';
*PostgreSQL::Test::Cluster::psql = \&psql;

1;
