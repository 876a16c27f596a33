# kill -9 of a server of PostgreSQL::Test::Cluster that can be started again at
# once.
package KillNode;

use strict;
use warnings;
use Carp;
use Exporter 'import';
use Time::HiRes qw(sleep);

our @EXPORT = qw(kill_node);

# Pids of the processes that work in a directory; a dead one that nobody has
# collected yet works nowhere.
sub working_in
{
	my ($dir) = @_;
	return grep { (readlink("/proc/$_/cwd") // '') eq $dir } map { m{(\d+)$} } glob '/proc/[0-9]*';
}

# Kills the postmaster; its children notice that by themselves, which is waited
# for, or are killed too (all => 1).  The files by which the next postmaster, and
# Cluster's start, would take a dead one for alive are removed.
sub kill_node
{
	my ($node, %o) = @_;
	my $dir = $node->data_dir;
	$node->kill9;
	for (1 .. 600)
	{
		my @left = working_in($dir) or last;
		kill 'KILL', @left if $o{all};
		sleep 0.1;
	}
	croak "processes still work in $dir" if working_in($dir);
	unlink "$dir/postmaster.pid", glob($node->host . '/.s.PGSQL.' . $node->port . '*');
	return;
}

1;
