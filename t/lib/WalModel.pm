# WalModel: a model of the WAL service (contrib/wal_model), compiled with some
# bounds, and run with or without one of its rules.
#
#   my $model = WalModel->new(LAUNCHERS => 2, LENGTH => 2);	# of wal.pml
#   my $change = WalModel->new(model => 'reconf.pml', CHANGES => 1);
#   $model->holds('name'); $model->fails_without('NOPERSIST');
package WalModel;

use strict;
use warnings;
use Cwd qw(getcwd);
use File::Temp;
use Test::More;

my $source = "$ENV{NEON_TEST_TOP}/contrib/wal_model";

# Numbers of the rules, from the model itself.
sub rules
{
	my ($model) = @_;
	open my $f, '<', "$source/$model" or die "$model: $!";
	my ($text) = join('', <$f>) =~ m{^(#define WITHOUT.*?)^/\* ---- the state}ms or die $model;
	return $text =~ /^#define ([A-Z0-9]+)\s+(\d+)\s/mg;
}

my %left_out;
sub never_left_out { my ($model) = @_; my %rules = rules($model); return grep { !$left_out{$model}{$_} } sort keys %rules }

# Options: model; bounds of the model; -NAME => value: for the compiler.
sub new
{
	my ($class, %options) = @_;
	my $model = delete $options{model} // 'wal.pml';
	my %gcc = (SAFETY => '', NOREDUCE => '', HC4 => '', map { /^-(.*)/ ? ($1 => delete $options{$_}) : () } keys %options);
	my $optimize = delete $gcc{optimize} // 0;
	my $dir = File::Temp->newdir;
	my $define = sub { my ($d) = @_; map { "-D$_" . ($d->{$_} ne '' ? "=$d->{$_}" : '') } sort keys %$d };
	my $cwd = getcwd;
	chdir "$dir" or die;
	my $ok = system("spin @{[ $define->(\%options) ]} -a $source/$model >spin.out 2>&1 && "
		  . "gcc -O$optimize -w @{[ $define->(\%gcc) ]} -o pan pan.c >gcc.out 2>&1") == 0;
	diag(`cat spin.out gcc.out`) unless $ok;
	chdir $cwd or die;
	die "the model could not be compiled" unless $ok;
	my $name = join ' ', $model eq 'wal.pml' ? () : $model, map { lc($_) . ($options{$_} ne '' ? " $options{$_}" : '') } sort keys %options;
	return bless { dir => $dir, name => $name, model => $model, rules => { rules($model) } }, $class;
}

# { errors, states, assertion, complete } of a search.
sub search
{
	my ($self, %o) = @_;
	my $cwd = getcwd;
	chdir "$self->{dir}" or die;
	$left_out{ $self->{model} }{ $o{without} // '' } = 1;
	local $ENV{WITHOUT} = $o{without} ? $self->{rules}{ $o{without} } // die $o{without} : 0;
	my $out = `timeout -s INT @{[ $o{seconds} // 300 ]} ./pan -E -m20000 -w@{[ $o{hash_bits} // 22 ]} 2>&1`;
	chdir $cwd or die;
	my ($errors) = $out =~ /errors: (\d+)/;
	my ($states) = $out =~ /^\s*(\S+) states, stored/m;
	my ($assertion) = $out =~ /(assertion violated .*?)(?: \(at depth|$)/m;
	return {
		errors => $errors // -1, states => $states // 0, assertion => $assertion // '', output => $out,
		complete => $out !~ /Search not completed|max search depth too small|memory (?:limit|bound)|out of memory/i };
}

# Random walks, as contrib/wal_model/trace.pml describes them.
sub traces
{
	my ($self, %o) = @_;
	local @ENV{qw(SEED TRACES STEPS)} = @o{qw(seed traces steps)};
	local $ENV{ALLCRASH} = 1 if $o{all_crash};
	my $depth = $o{traces} * $o{steps} * 300;
	my @walk;
	for (`cd $self->{dir} && timeout 600 ./pan -RS$o{seed} -m$depth -w22`)
	{
		/^(\d+)(?: (.*))?$/ or next;
		# a step that was taken back
		pop @walk while @walk && $walk[-1][0] >= $1;
		push @walk, [ $1, $2 ] if defined $2;
	}
	my $out = join '', map { "$_->[1]\n" } @walk;
	my $n = () = $out =~ /^end$/mg;
	die "the model gave $n traces" if $n != $o{traces};
	return $out;
}

# The whole state space without an error; bounded: as far as the time goes, so
# many seconds for each hour of the soak.
sub holds
{
	my ($self, %o) = @_;
	$o{seconds} *= $ENV{NEON_TEST_SOAK_HOURS} || 1 if $o{bounded};
	my $r = $self->search(%o);
	my $good = $r->{errors} == 0 && ($r->{complete} || $o{bounded}) && $r->{states} > 100;
	my $idle = $o{without} ? " without $o{without}, which others imply" : '';
	ok($good, "$self->{name}: holds$idle in $r->{states} states" . ($r->{complete} ? '' : ', not all of them')) or diag($r->{output});
	return $good;
}

sub fails_without
{
	my ($self, $rule, %o) = @_;
	my $r = $self->search(without => $rule, %o);
	return ok($r->{errors} > 0 && $r->{assertion} ne '', "$self->{name}: fails without $rule, after $r->{states} states") || diag($r->{output});
}

1;
