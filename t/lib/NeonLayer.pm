# NeonLayer: reads a layer file of the pageserver, all of it, and dies where it
# is wrong.  Written from docs/storage-format.md alone, so that the page says
# enough; nothing here is shared with the server's own reader.
#
#   my $l = NeonLayer->read($file);
#   $l->{header}, $l->{footer}          # hashes
#   for my $k (@{ $l->{keys} })         # { key (hex), base, newer, versions }
#   for my $v (@{ $k->{versions} })     # { lsn, kind, base, length, bytes, start }
package NeonLayer;

use strict;
use warnings;
use File::Temp;

# ---- CRC-32C ----

my @crc_table = map {
	my $c = $_;
	$c = $c & 1 ? 0x82F63B78 ^ ($c >> 1) : $c >> 1 for 1 .. 8;
	$c;
} 0 .. 255;

sub crc32c
{
	my $c = 0xFFFFFFFF;
	for my $bytes (@_)
	{
		$c = $crc_table[ ($c ^ $_) & 255 ] ^ ($c >> 8) for unpack('C*', $bytes);
	}
	return $c ^ 0xFFFFFFFF;
}

# Of bytes that belong at an offset of the file.
sub placed_crc
{
	my ($self, $offset, @bytes) = @_;
	return crc32c(pack('Q<Q<', $self->{header}{file_id}, $offset), @bytes);
}

sub wrong
{
	my ($self, $offset, $what) = @_;
	die sprintf("%s at %d: %s\n", $self->{file}, $offset, $what);
}

sub piece
{
	my ($self, $offset, $len) = @_;
	$self->wrong($offset, "$len bytes are not there") if $offset < 0 || $offset + $len > length($self->{data});
	return substr($self->{data}, $offset, $len);
}

# Takes a varint from the front of a string reference.
sub varint
{
	my ($ref) = @_;
	my ($v, $shift) = (0, 0);
	for (;;)
	{
		die "a varint has no end\n" if $$ref eq '' || $shift > 63;
		my $b = ord(substr($$ref, 0, 1, ''));
		$v |= ($b & 0x7f) << $shift;
		return $v if $b < 0x80;
		$shift += 7;
	}
}

sub take
{
	my ($ref, $n) = @_;
	die "$n bytes are not there\n" if length($$ref) < $n;
	return substr($$ref, 0, $n, '');
}

# ---- ends ----

sub read_header
{
	my ($self) = @_;
	my %h;
	my $raw = $self->piece(0, 64);
	(my $magic, @h{qw(version type flags system tenant timeline file_id generation)}, my $crc) =
	  unpack('a4 v C C Q< H32 H32 Q< V V', $raw);
	$self->{header} = \%h;
	$self->wrong(0, 'magic') if $magic ne 'NLY1';
	$self->wrong(0, "version $h{version}") if $h{version} != 2;
	$self->wrong(0, 'flags') if $h{flags} & 0xF0;
	$self->wrong(0, 'CRC') if $crc != $self->placed_crc(0, substr($raw, 0, 60));
}

sub read_footer
{
	my ($self) = @_;
	my %f;
	my $at = length($self->{data}) - 256;
	my $raw = $self->piece($at, 256);
	(my $magic, @f{qw(version type flags first_key last_key)}) = unpack('a4 v C C H36 H36', $raw);
	@f{qw(lsn_lo lsn_hi)} = unpack('Q<2', substr($raw, 48));
	@f{qw(dictionaries directory_blocks directory fences fence_blocks)} = unpack('V V Q< Q< V', substr($raw, 72));
	@f{qw(keys versions images raw image_bytes)} = unpack('Q<5', substr($raw, 104));
	my $file_crc = unpack('V', substr($raw, 160));
	my ($crc, $end) = unpack('V a4', substr($raw, 248));
	$self->{footer} = \%f;
	$self->wrong($at, 'magic') if $magic ne 'NLF1' || $end ne '1FLN';
	$self->wrong($at, 'CRC') if $crc != $self->placed_crc($at, substr($raw, 0, 248));
	$self->wrong($at, 'CRC of the file') if $file_crc != crc32c(substr($self->{data}, 0, $at));
	$self->wrong($at, 'not as the header')
	  if grep { $f{$_} != $self->{header}{$_} } qw(version type flags);
	$self->wrong($at, 'dictionaries') if $f{dictionaries};
	$self->wrong($at, 'offsets')
	  if $f{fences} != $f{directory} + 8192 * $f{directory_blocks} || $at != $f{fences} + 8192 * $f{fence_blocks};
}

# ---- blocks ----

# All data blocks: { offset, len, type, raw }, by offset.
sub read_blocks
{
	my ($self) = @_;
	my $packed = File::Temp->new;
	binmode $packed;
	my @zstd;
	for (my $at = 64; $at < $self->{footer}{directory};)
	{
		my $head = $self->piece($at, 16);
		my ($stored, $raw, $codec, $type, $dictionary, $crc) = unpack('V V C C v V', $head);
		my $payload = $self->piece($at + 16, $stored);
		$self->wrong($at, 'CRC of a block') if $crc != $self->placed_crc($at, substr($head, 0, 12), $payload);
		$self->wrong($at, 'codec') if $codec != 0 && $codec != 2;
		my $b = { offset => $at, len => 16 + $stored, type => $type, length => $raw };
		if ($codec == 0) { $b->{raw} = $payload }
		else { print $packed $payload; push @zstd, $b }
		push @{ $self->{blocks} }, $b;
		$self->{block_at}{$at} = $#{ $self->{blocks} };
		$at += 16 + $stored;
	}
	close $packed;
	if (@zstd)
	{
		# frames one behind the other
		open my $pipe, '-|', 'zstd', '-dcq', "$packed" or die "zstd: $!";
		binmode $pipe;
		for my $b (@zstd)
		{
			(read($pipe, $b->{raw}, $b->{length}) // 0) == $b->{length} or $self->wrong($b->{offset}, 'decompression');
		}
		$self->wrong(0, 'more than the raw lengths') if read($pipe, my $rest, 1);
		close $pipe or die "zstd failed\n";
	}
	for my $b (@{ $self->{blocks} })
	{
		$self->wrong($b->{offset}, 'raw length') if length($b->{raw}) != $b->{length};
	}
}

# The versions in a block of entries: [ key, version ].
sub entries
{
	my ($self, $i) = @_;
	my $block = $self->{blocks}[$i];
	my $raw = $block->{raw};
	my ($object, $blk, $lsn, @found) = (undef, 0, 0);
	while ($raw ne '')
	{
		my $tag = ord(take(\$raw, 1));
		if ($tag & 2) { $object = take(\$raw, 14); $blk = 0 }
		$blk += varint(\$raw) if $tag & 4;
		die "an entry without an object\n" unless defined $object;
		$lsn = $self->{footer}{lsn_lo} if $tag & 6;
		$lsn += 8 * varint(\$raw);
		my %v = (lsn => $lsn, kind => ($tag >> 3) & 7, base => $tag & 1 ? 1 : 0);
		$v{start} = $lsn - 8 * varint(\$raw) if $v{kind} == 0;
		$v{length} = varint(\$raw);
		if ($tag & 64)
		{
			$v{bytes} = '';
			for (my $j = $i + 1; length($v{bytes}) < $v{length}; $j++)
			{
				my $more = $self->{blocks}[$j];
				$self->wrong($block->{offset}, 'a large value') if !$more || $more->{type} != 3 || $raw ne '';
				$v{bytes} .= $more->{raw};
			}
		}
		else { $v{bytes} = take(\$raw, $v{length}) }
		$self->wrong($block->{offset}, 'length') if length($v{bytes}) != $v{length};
		push @found, [ unpack('H*', $object . pack('N', $blk)), \%v ];
	}
	return @found;
}

# ---- directory ----

sub directory_block
{
	my ($self, $number) = @_;
	my $at = $self->{footer}{directory} + 8192 * $number;
	my $raw = $self->piece($at, 8192);
	my ($crc, $n, $nkeys, $ngroups, $end) = unpack('V V v v v', $raw);
	$self->wrong($at, 'CRC of the directory') if $crc != $self->placed_crc($at, substr($raw, 4));
	$self->wrong($at, 'number') if $n != $number;
	my @groups = map { substr($raw, 8192 - 32 * $_, 32) } 1 .. $ngroups;
	my @keys;
	for my $g (0 .. $#groups)
	{
		my ($key, $from, $count, $hint, $lo, $hi, $len) = unpack('a18 v C C V v V', $groups[$g]);
		my $to = $g < $#groups ? unpack('x18 v', $groups[ $g + 1 ]) : $end;
		my $entries = substr($raw, $from, $to - $from);
		my $offset = $lo | $hi << 32;
		for my $i (0 .. $count)
		{
			my %k;
			my $tag = ord(take(\$entries, 1));
			if ($i > 0)
			{
				if (my $gap = varint(\$entries)) { substr($key, 14) = pack('N', unpack('N', substr($key, 14)) + $gap) }
				else
				{
					my $shared = ord(take(\$entries, 1));
					substr($key, $shared) = take(\$entries, 18 - $shared);
				}
			}
			$k{newer} = $tag >> 3;
			$k{newer} += varint(\$entries) if $k{newer} == 31;
			if ($tag & 2) { $offset += $len; $len = varint(\$entries) }
			@k{qw(key base offset len more)} = (unpack('H*', $key), $tag & 1, $offset, $len, 0);
			if ($tag & 4)
			{
				$k{more} = varint(\$entries);
				my ($sum, $last) = (0, 0);
				if ($k{more} <= 255) { $sum += $last = varint(\$entries) for 1 .. $k{more} }
				else { $sum = varint(\$entries); $last = varint(\$entries) }
				$offset += $len + $sum - $last;
				$len = $last;
			}
			push @keys, \%k;
		}
		$self->wrong($at, 'a group has more bytes than keys') if $entries ne '';
	}
	$self->wrong($at, 'number of keys') if $nkeys != @keys;
	return @keys;
}

sub read_fences
{
	my ($self) = @_;
	my @fences;
	for my $n (0 .. $self->{footer}{fence_blocks} - 1)
	{
		my $at = $self->{footer}{fences} + 8192 * $n;
		my $raw = $self->piece($at, 8192);
		my ($crc, $number, $count) = unpack('V V v', $raw);
		$self->wrong($at, 'CRC of fences') if $crc != $self->placed_crc($at, substr($raw, 4));
		$self->wrong($at, 'number') if $number != $n;
		push @fences, unpack("x10 (H36)$count", $raw);
	}
	return @fences;
}

# ---- all of it ----

# The versions of a key, by what the directory says of it.
sub versions
{
	my ($self, $k) = @_;
	my $first = $self->{block_at}{ $k->{offset} } // $self->wrong($k->{offset}, 'no block begins here');
	my @found;
	for my $i ($first .. $first + $k->{more})
	{
		my $b = $self->{blocks}[$i];
		$self->wrong($b->{offset}, 'stored length') if $i == $first && $b->{len} != $k->{len};
		if ($b->{type} == 2)
		{
			my ($lsn, $page) = unpack('Q< a*', $b->{raw});
			push @found, { lsn => $lsn, kind => 1, base => 1, length => length($page), bytes => $page };
		}
		elsif ($b->{type} == 1)
		{
			$self->{entries}[$i] //= [ $self->entries($i) ];
			push @found, map { $_->[0] eq $k->{key} ? $_->[1] : () } @{ $self->{entries}[$i] };
		}
		elsif ($b->{type} != 3) { $self->wrong($b->{offset}, 'type') }
	}
	return \@found;
}

sub read
{
	my ($class, $file) = @_;
	open my $f, '<:raw', $file or die "$file: $!\n";
	my $self = bless { file => $file, blocks => [], keys => [] }, $class;
	{ local $/; $self->{data} = <$f> }
	$self->read_header;
	$self->read_footer;
	$self->read_blocks;
	my @fences = $self->read_fences;
	my ($total, $last) = (0, '');
	for my $n (0 .. $self->{footer}{directory_blocks} - 1)
	{
		my @keys = $self->directory_block($n);
		$self->wrong(0, "fence $n") if $fences[$n] ne $keys[0]{key};
		push @{ $self->{keys} }, @keys;
	}
	$self->wrong(0, 'number of fences') if @fences != $self->{footer}{directory_blocks};
	for my $k (@{ $self->{keys} })
	{
		$self->wrong($k->{offset}, 'order of keys') if $k->{key} le $last;
		$last = $k->{key};
		$k->{versions} = $self->versions($k);
		$total += @{ $k->{versions} };
		my $newer = 0;
		for my $v (reverse @{ $k->{versions} }) { last if $v->{base}; $newer++ }
		$self->wrong($k->{offset}, 'newer') if $newer != $k->{newer};
		my $bases = grep { $_->{base} } @{ $k->{versions} };
		$self->wrong($k->{offset}, 'base') if $k->{base} != ($bases > 0 ? 1 : 0);
	}
	$self->wrong(0, 'counts') if $total != $self->{footer}{versions} || @{ $self->{keys} } != $self->{footer}{keys};
	return $self;
}

1;
