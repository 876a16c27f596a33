# RichWorkload: everything that writes WAL of its own kind, in two databases
# and a tablespace, from several sessions; for comparisons with what stock
# PostgreSQL makes of the same WAL.
package RichWorkload;

use strict;
use warnings;

# Tables that the loops work on; run once.  The tablespace has no LOCATION, so
# a replay elsewhere does not meet it.
sub setup
{
	my ($t, $ep, $scale) = @_;
	$t->pgbench_init($ep, $scale);
	$t->psql($ep, <<'SQL');
CREATE EXTENSION amcheck;
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE ts LOCATION '';
SQL
	$t->psql($ep, 'CREATE DATABASE two');
	$t->psql($ep, 'CREATE EXTENSION amcheck', db => 'two');
	for my $db ('postgres', 'two')
	{
		$t->psql($ep, <<'SQL', db => $db);
CREATE TABLE am(id int, h int, p point, a int[], s text, d timestamptz, big text);
CREATE INDEX am_btree ON am(id);
CREATE INDEX am_hash ON am USING hash(h);
CREATE INDEX am_gist ON am USING gist(p);
CREATE INDEX am_gin ON am USING gin(a);
CREATE INDEX am_spgist ON am USING spgist(s);
CREATE INDEX am_brin ON am USING brin(d) WITH (pages_per_range = 4);
CREATE TABLE locked(id int PRIMARY KEY, v int);
INSERT INTO locked SELECT g, 0 FROM generate_series(1, 50) g;
CREATE TABLE spaced(id serial PRIMARY KEY, v text) TABLESPACE ts;
CREATE SEQUENCE sq;
CREATE UNLOGGED TABLE ul(id int PRIMARY KEY);
CREATE TABLE counters(id int PRIMARY KEY, n int);
SQL
	}
}

# Rows in all index types, TOAST, HOT and other updates, deletes, vacuum.
sub rows
{
	return <<'SQL';
INSERT INTO am SELECT :r + g, g % 97, point(random() * 1000, random() * 1000), ARRAY[g % 10, g % 100, :n],
	'key ' || (g * :r), now(), CASE WHEN g % 50 = 0 THEN (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 300)) END
	FROM generate_series(1, 300) g;
UPDATE am SET h = h + 1 WHERE id % 13 = :n % 13;
UPDATE am SET s = s || 'x', big = NULL WHERE id % 101 = :n % 101;
DELETE FROM am WHERE id % 7 = :n % 7;
SELECT nextval('sq') FROM generate_series(1, 40);
INSERT INTO spaced(v) SELECT repeat('v', 100) FROM generate_series(1, 50);
INSERT INTO counters VALUES (:r % 20, 1) ON CONFLICT (id) DO UPDATE SET n = counters.n + 1;
COPY (SELECT g, g FROM generate_series(1, 500) g) TO '/dev/null';
BEGIN;
SAVEPOINT a; INSERT INTO locked VALUES (100 + :n, 1);
SAVEPOINT b; UPDATE locked SET v = v + 1 WHERE id = 1 + :r % 50; ROLLBACK TO b;
SAVEPOINT c; UPDATE locked SET v = v + 1 WHERE id = 1 + :n % 50;
COMMIT;
VACUUM am;
INSERT INTO ul VALUES (:n) ON CONFLICT DO NOTHING;
SQL
}

# Row locks by several at once make multixacts.
sub locks
{
	return <<'SQL';
BEGIN; SELECT count(*) FROM (SELECT 1 FROM locked WHERE id <= 20 FOR KEY SHARE) x; SELECT pg_sleep(0.05);
UPDATE locked SET v = v + 1 WHERE id = 1 + :r % 20; COMMIT;
BEGIN; SELECT count(*) FROM (SELECT 1 FROM locked WHERE id > 30 FOR SHARE) x; SELECT pg_sleep(0.02); ROLLBACK;
SQL
}

# Definitions, rewrites, truncations, whole databases.
sub ddl
{
	return <<'SQL';
\set comment 'round ':n
CREATE TABLE tmp_t AS SELECT g AS id, repeat('t', 200) AS v FROM generate_series(1, 3000) g;
CREATE UNIQUE INDEX tmp_id ON tmp_t(id);
ALTER TABLE tmp_t ADD COLUMN w int DEFAULT 5;
DELETE FROM tmp_t WHERE id > 500;
VACUUM tmp_t;
ALTER TABLE tmp_t ALTER COLUMN id TYPE bigint;
CLUSTER tmp_t USING tmp_id;
ALTER TABLE tmp_t SET TABLESPACE ts;
BEGIN; TRUNCATE tmp_t; INSERT INTO tmp_t VALUES (1, 'after truncate', 1); COMMIT;
BEGIN; TRUNCATE tmp_t; ROLLBACK;
ALTER TABLE tmp_t SET UNLOGGED;
ALTER TABLE tmp_t SET LOGGED;
REINDEX INDEX CONCURRENTLY am_btree;
VACUUM FULL locked;
BEGIN; CREATE TABLE never(a int); INSERT INTO never SELECT generate_series(1, 1000); ROLLBACK;
DROP TABLE IF EXISTS tmp_t_old; DROP INDEX tmp_id; ALTER TABLE tmp_t RENAME TO tmp_t_old;
CREATE DATABASE gone TEMPLATE two;
DROP DATABASE gone;
CREATE ROLE r_:n; COMMENT ON TABLE am IS :'comment';
SQL
}

sub prepared
{
	return <<'SQL';
\set gid p:n
\set text 'prepared ':n
BEGIN; INSERT INTO spaced(v) VALUES (:'text'); UPDATE counters SET n = n + 1 WHERE id = :n % 20; PREPARE TRANSACTION :'gid';
SELECT pg_sleep(0.1);
SELECT :n % 3 = 0 AS keep, :n % 3 = 1 AS undo \gset
\if :undo
ROLLBACK PREPARED :'gid';
\else
COMMIT PREPARED :'gid';
\endif
SQL
}

# Starts all of it; the result's stop ends it.
sub start
{
	my ($t, $ep) = @_;
	my @l = (
		$t->loop($ep, rows()), $t->loop($ep, rows(), db => 'two'), $t->loop($ep, locks()),
		$t->loop($ep, locks()), $t->loop($ep, ddl()), $t->loop($ep, prepared()),
		$t->clients($ep, n => 2));
	my $open = $t->session($ep);
	$open->query("BEGIN; INSERT INTO spaced(v) VALUES ('never committed'); CREATE TABLE open_table(a int)");
	return bless { loops => \@l, open => $open }, __PACKAGE__;
}

sub stop
{
	my ($self) = @_;
	$_->stop for @{ $self->{loops} };
	$self->{open}->close;
	return;
}

1;
