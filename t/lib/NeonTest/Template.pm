# NeonTest::Template: directories that many tests begin with are made once in a
# run of the tests and then copied, which takes a fraction of the CPU time: what initdb
# makes of the same options (t/initdb/initdb), and what "neon init" and
# "neon tenant create" make.  Tests of these commands call them.
package NeonTest::Template;

use strict;
use warnings;
use Carp;
use Digest::MD5 qw(md5_hex);
use Fcntl qw(:flock);
use File::Basename;
use File::Path qw(make_path remove_tree);

# Directories of another user than the tests' are none's to copy.
sub usable { return $> != 0 && $ENV{TESTDATADIR} }

# Copies the template for a key, which may be made before, by make(directory), to a directory.
sub copy
{
	my ($key, $to, $make) = @_;
	my $template = "$ENV{TESTDATADIR}/template." . substr(md5_hex($key), 0, 8);

	open my $lock, '>>', "$template.lock" or croak "$template.lock: $!";
	flock($lock, LOCK_EX) or croak "$template.lock: $!";
	if (!-e "$template.made")
	{
		remove_tree($template);
		$make->($template);
		open my $made, '>', "$template.made" or croak "$template.made: $!";
	}
	close $lock;
	make_path(dirname($to));
	system('cp', '-a', $template, $to) == 0 or croak "could not copy $template to $to";
	return $template;
}

# $node->init of PostgreSQL::Test::Cluster, with a data directory that is copied.
sub init_node
{
	my ($node, %o) = @_;
	local $ENV{PATH} = "$ENV{NEON_TEST_TOP}/t/initdb:$ENV{PATH}" if usable();
	return $node->init(%o);
}

# Can the state directory of a NeonTest be a copy?  Options as of its function quickstart.
sub suits
{
	my ($t, %o) = @_;
	return usable() && $t->{first} && $t->{auth} eq 'trust' && !@{ $t->{within} } && !$o{init} && $t->dir !~ /['"]/ && !-e $t->dir;
}

# The state directory, with a tenant if its options (a list) are given.
sub state_directory
{
	my ($t, $tenant) = @_;
	my $template = copy(join("\0", $t->{safekeepers}, $tenant ? ('tenant', @$tenant) : ()),
		$t->dir,
		sub {
			# if it fails, what it started is stopped like a test's
			my $maker = $t->another(dir => $_[0]);
			$maker->make_state($tenant);
			$maker->neon('stop') if $tenant;
		});
	move($t, $template);
	return;
}

# What names places: the ports in config, and the instances' settings.
sub move
{
	my ($t, $template) = @_;
	my %port = (pageserver => $t->{ps_port}, map { ("safekeepers/$_" => $t->free_port) } 1 .. $t->{safekeepers});

	edit($t->dir . '/config', sub {
		s/^pageserver_port=.*/pageserver_port=$port{pageserver}/m or return 0;
		s/^(safekeeper\.(\d+)\.port)=.*/$1=$port{"safekeepers\/$2"}/mg == $t->{safekeepers};
	});
	for my $instance (sort keys %port)
	{
		my $socket = $t->dir . "/run/.s.PGSQL.$port{$instance}";
		# as "neon init" does it
		my $run = length($socket) < 108 ? '"' . $t->dir . '/run"' : '';
		edit($t->dir . "/$instance/pgdata/postgresql.conf", sub {
			s/^port = .*/port = $port{$instance}/m && s/^(unix_socket_directories) = .*/$1 = '$run'/m
			  && s{^(neon_\w+\.passfile) = '\Q$template\E/}{"$1 = '" . $t->dir . '/'}me;
		});
	}
	return;
}

sub edit
{
	my ($file, $change) = @_;
	open my $in, '<', $file or croak "$file: $!";
	local $_ = join '', <$in>;
	close $in;
	$change->() or croak "$file is not what was expected";
	open my $out, '>', $file or croak "$file: $!";
	print $out $_;
	close $out or croak "$file: $!";
	return;
}

1;
