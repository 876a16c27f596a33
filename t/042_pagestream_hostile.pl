# The page service against clients that break its protocol, and the ways to
# end a stream.
use strict;
use warnings;
use NeonPageserver;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $f = 'neon_pageserver';
my $ps = NeonPageserver->new('ps', conf => "neon_pageserver.wait_lsn_timeout = 300ms\n");
my $t = $ps->tenant('{"segsize": 1, "checksums": true}');
my @class = (1663, 5, 1259);
my $R = \&NeonPageserver::Connection::request;

# ---- what works ----
my $s = $ps->stream($t);
my $r = $s->get(lsn => $t->{lsn}, rel => \@class, n => 3, id => 77);
is("$r->{tag} $r->{n} $r->{id} $r->{lsn}", "p 3 77 $t->{lsn}", 'a request');
is(length $r->{pages}, 3 * 8192, 'has its pages');
isnt(unpack('x8 v', $r->{pages}), 0, 'with checksums');
$r = $s->get(since => $t->{lsn}, rel => \@class, term => 1);
is("$r->{tag} $r->{lsn}", "p $t->{lsn}", 'the newest version');
$r = $s->get(lsn => $t->{lsn}, rel => \@class, blk => 100000);
is($r->{pages}, "\0" x 8192, 'a block beyond the end is zeros');
$r = $s->get(lsn => $t->{lsn}, rel => [ 1663, 5, 999999 ], blk => 0);
is($r->{pages}, "\0" x 8192, 'as is one of no relation');
$r = $s->get(since => 'F/10', rel => \@class);
is("$r->{tag} $r->{class} $r->{sqlstate}", 'e R 57P03', 'WAL that does not come: try again');
like($r->{message}, qr{has not arrived up to F/10}, 'says which');
$r = $s->get(lsn => '0/10', rel => \@class);
is("$r->{tag} $r->{class} $r->{sqlstate}", 'e F 22023', 'before the history');

# many in one packet, answers in order
my $bytes = '';
for my $i (1 .. 200)
{
	my $q = $R->(lsn => $t->{lsn}, rel => \@class, blk => $i % 10, id => 1000 + $i);
	$bytes .= 'd' . pack('N', 4 + length $q) . $q;
}
$s->send_bytes($bytes);
is(join(',', map { $s->answer->{id} } 1 .. 200), join(',', 1001 .. 1200), 'pipelined requests are answered in order');

# one byte at a time
my $q = $R->(lsn => $t->{lsn}, rel => \@class, id => 5);
for my $byte (split //, 'd' . pack('N', 4 + length $q) . $q) { $s->send_bytes($byte); usleep 1000 }
is($s->answer->{id}, 5, 'a request in many packets');

# Flush and Sync are ignored, CopyDone ends the stream, the session goes on
$s->send_message('H', '');
$s->send_message('S', '');
is($s->get(lsn => $t->{lsn}, rel => \@class, id => 6)->{id}, 6, 'after Flush and Sync');
$s->send_message('c', '');
is(($s->message)[0], 'c', 'CopyDone is answered');
is($s->until('C'), "CALL\0", 'CommandComplete');
ok(defined $s->until('Z'), 'ReadyForQuery');
$s->query('SELECT 4711');
like($s->until('D'), qr/4711/, 'an ordinary query afterwards');
$s->until('Z');
$s->query("CALL $f.pagestream('$t->{tenant}', '$t->{timeline}')");
is(($s->message)[0], 'W', 'a second stream on the connection');
is($s->get(lsn => $t->{lsn}, rel => \@class, id => 7)->{id}, 7, 'works');

# ---- CopyFail: an error, the session goes on ----
$s->send_message('f', "I do not like it\0");
ok(defined $s->until('Z'), 'CopyFail ends the stream');
like($s->{error}, qr/ERROR.*I do not like it/, 'with an error');
$s->query('SELECT 4712');
like($s->until('D'), qr/4712/, 'and the session goes on');
$s->close;

# ---- what is fatal ----
sub fatal
{
	my ($test, $error, @bytes) = @_;
	my $c = $ps->stream($t);
	$c->send_bytes($_) for @bytes;
	while (my ($type, $body) = $c->message)
	{
		$c->{error} = NeonPageserver::Connection::error_text($body) if $type eq 'E';
	}
	like($c->{error} // 'no error', qr/FATAL.*$error/, "$test: fatal");
	$c->close;
	return;
}
sub data { my ($body) = @_; return 'd' . pack('N', 4 + length $body) . $body; }

my %ok = (lsn => $t->{lsn}, rel => \@class);
fatal('an empty request', 'invalid page request', data(''));
fatal('a short request', 'invalid page request', data(substr $R->(%ok), 0, 40));
fatal('a long request', 'invalid page request', data($R->(%ok) . 'x'));
fatal('an unknown version', 'invalid page request', data($R->(%ok, version => 9)));
fatal('no blocks', 'invalid page request', data($R->(%ok, n => 0)));
fatal('too many blocks', 'invalid page request', data($R->(%ok, n => 129)));
fatal('an unknown fork', 'invalid page request', data($R->(%ok, fork => 200)));
fatal('the last block', 'invalid page request', data($R->(%ok, blk => 0xffffffff)));
fatal('a request beyond the last block', 'invalid page request', data($R->(%ok, blk => 0xfffffff0, n => 128)));
fatal('not modified since 0', 'invalid page request', data($R->(rel => \@class, since => '0/0')));
fatal('two LSNs', 'invalid page request', data($R->(%ok, since => '0/20')));
fatal('no relation', 'invalid page request', data($R->(lsn => $t->{lsn}, rel => [ 0, 0, 0 ])));
fatal('a huge length', 'invalid message length', 'd' . pack('N', 0x7fffffff));
fatal('a length with the sign bit', 'invalid message length', 'd' . pack('N', 0xffffffff));
fatal('a length too small', 'invalid message length', 'd' . pack('N', 3));
fatal('more than 8 kB', 'invalid message length', data('x' x 9000));
fatal('another message', 'unexpected message type', 'Q' . pack('N', 13) . "SELECT 1\0");
fatal('noise', '(invalid message length|unexpected message)', join '', map { chr(200 + $_ % 56) } 1 .. 500);
fatal('a request after CopyDone', 'after the end of the stream', 'c' . pack('N', 4) . data($R->(%ok)));

# before the answer to the CALL, also by the extended protocol
{
	my $c = $ps->connect;
	my $call = "CALL $f.pagestream('$t->{tenant}', '$t->{timeline}')";
	$c->send_bytes('Q' . pack('N', 5 + length $call) . "$call\0" . data($R->(%ok)));
	$c->until('Z');
	like($c->{error} // '', qr/FATAL.*sent before/, 'a request before the answer: fatal');
	$c->close;
	$c = $ps->connect;
	$c->send_bytes('P' . pack('N', 4 + 1 + length($call) + 1 + 2) . "\0$call\0" . pack('n', 0)
		  . 'B' . pack('N', 12) . "\0\0" . pack('nnn', 0, 0, 0)
		  . 'E' . pack('N', 9) . "\0" . pack('N', 0) . 'S' . pack('N', 4));
	$c->until('Z');
	like($c->{error} // '', qr/FATAL.*sent before/, 'the extended protocol: fatal');
	$c->close;
}

# ---- disconnects ----
sub streams { return $ps->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'pagestream%' AND state = 'active'") }
sub no_streams
{
	my ($test) = @_;
	for (1 .. 500) { last if streams() == 0; usleep 20_000 }
	is(streams(), 0, $test);
	return;
}
my $c = $ps->stream($t);
is(streams(), 1, 'a stream is seen in pg_stat_activity');
is($ps->sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'pagestream%' AND backend_xmin IS NOT NULL"), 0, 'without an xmin');
$c->close;
no_streams('closed between messages');
$c = $ps->stream($t);
$c->send_bytes(substr data($R->(%ok)), 0, 20);
$c->close;
no_streams('closed in the middle of a message');
$c = $ps->stream($t);
$c->send_bytes(data($R->(%ok, n => 128)) x 20);
$c->close;
no_streams('closed with answers on their way');

# ---- a client that does not read; barrier, cancel, shutdown ----
my @stuck = map { $ps->stream($t) } 1 .. 2;
$_->send_bytes(data($R->(%ok, n => 128)) x 20) for @stuck;
my $idle = $ps->stream($t);
usleep 300_000;
$ps->sql('CREATE DATABASE d');
my $before = time;
$ps->sql('DROP DATABASE d');
ok(time - $before < 10, 'DROP DATABASE is not held up by streams');
$ps->sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'pagestream%'");
ok(defined $idle->until('Z'), 'a cancel ends an idle stream');
like($idle->{error} // '', qr/ERROR.*canceling/, 'with an error');
$idle->query('SELECT 4713');
like($idle->until('D'), qr/4713/, 'and the session goes on');
$idle->close;
$_->close for @stuck;
no_streams('the others ended');

$idle = $ps->stream($t);
$ps->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'pagestream%'");
while (my ($type, $body) = $idle->message) { $idle->{error} = NeonPageserver::Connection::error_text($body) if $type eq 'E' }
like($idle->{error} // '', qr/FATAL.*terminating/, 'terminate');

$idle = $ps->stream($t);
my $stuck = $ps->stream($t);
$stuck->send_bytes(data($R->(%ok, n => 128)) x 20);
usleep 300_000;
$before = time;
$ps->stop('fast');
ok(time - $before < 5, 'fast shutdown with an idle stream and a client that does not read');
$ps->start;

is($ps->sql("SELECT count(*) FROM $f.stat_pageserver WHERE name IN ('requests', 'pages_image', 'errors')"), 3, 'counters');
$s = $ps->stream($t);
is($s->get(%ok)->{tag}, 'p', 'and it serves again');

# the timeline goes away under the stream
$ps->sql("SELECT $f.tenant_delete('$t->{tenant}')");
$r = $s->get(%ok);
is("$r->{tag} $r->{class}", 'e F', 'a deleted timeline is a final error');
$s->close;
$ps->stop;
unlike(slurp_file($ps->node->logfile), qr/PANIC|terminated by signal|server process/, 'nothing crashed');
done_testing();
