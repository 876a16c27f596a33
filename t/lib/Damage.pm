package Damage;

# Damage at rest.

use strict;
use warnings;
use Carp;
use Exporter 'import';

our @EXPORT = qw(flip_bit);

# The bit of the byte at the offset; the same call again takes it back.
sub flip_bit
{
	my ($path, $offset, $bit) = @_;
	open my $h, '+<:raw', $path or croak "$path: $!";
	seek $h, $offset, 0;
	(read($h, my $byte, 1) // 0) == 1 or croak "$path has no byte $offset";
	seek $h, $offset, 0;
	print $h chr(ord($byte) ^ 1 << $bit);
	close $h or croak "$path: $!";
	return;
}

1;
