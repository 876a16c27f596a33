/* neon_pageserver_test: installed with CREATE EXTENSION neon_pageserver_test */

-- complain if the script is sourced in psql
\echo Use "CREATE EXTENSION neon_pageserver_test" to load this file. \quit

-- a timeline made from a cleanly stopped data directory
CREATE FUNCTION neon_test.import_pgdata(dir text, name text,
	OUT tenant text, OUT timeline text, OUT lsn pg_lsn)
RETURNS record
AS 'MODULE_PATHNAME', 'neon_test_import_pgdata' LANGUAGE C STRICT;

-- puts a boot record with this term behind the last record of a cleanly stopped data directory
CREATE FUNCTION neon_test.boot_pgdata(dir text, term int)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_test_boot_pgdata' LANGUAGE C STRICT;

CREATE FUNCTION neon_test.control_at(tenant text, timeline text, lsn pg_lsn)
RETURNS text
AS 'MODULE_PATHNAME', 'neon_test_control_at' LANGUAGE C STRICT;

-- positions and times of the same state
CREATE FUNCTION neon_test.control_times(tenant text, timeline text, lsn pg_lsn)
RETURNS text
AS 'MODULE_PATHNAME', 'neon_test_control_times' LANGUAGE C STRICT;

CREATE FUNCTION neon_test.round_to_commit(tenant text, timeline text, lsn pg_lsn)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_test_round_to_commit' LANGUAGE C STRICT;

CREATE FUNCTION neon_test.slru_bounds(tenant text, timeline text, lsn pg_lsn, slru int)
RETURNS bigint[]
AS 'MODULE_PATHNAME', 'neon_test_slru_bounds' LANGUAGE C STRICT;

CREATE FUNCTION neon_test.slru_page(tenant text, timeline text, lsn pg_lsn, slru int, page bigint)
RETURNS bytea
AS 'MODULE_PATHNAME', 'neon_test_slru_page' LANGUAGE C STRICT;

-- keys of a kind that exist at an LSN; value: of all kinds but pages
CREATE FUNCTION neon_test.keys(tenant text, timeline text, lsn pg_lsn, kind int,
	OUT spc oid, OUT db oid, OUT rel bigint, OUT fork int, OUT blk bigint, OUT value bytea)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_test_keys' LANGUAGE C STRICT;

-- record ends in (from_lsn, to_lsn]: every one, for choosing LSNs
CREATE FUNCTION neon_test.record_ends(tenant text, timeline text, from_lsn pg_lsn, to_lsn pg_lsn)
RETURNS SETOF pg_lsn
AS 'MODULE_PATHNAME', 'neon_test_record_ends' LANGUAGE C STRICT;

-- boot records at every alignment are read again by PostgreSQL's reader: 'ok'
CREATE FUNCTION neon_test.boot_record_sweep() RETURNS text
AS 'MODULE_PATHNAME', 'neon_test_boot_record_sweep' LANGUAGE C STRICT;

-- the record that PostgreSQL wrote at an LSN at the end of a recovery is what a boot record would be
CREATE FUNCTION neon_test.boot_record_like_vanilla(tenant text, timeline text, lsn pg_lsn) RETURNS boolean
AS 'MODULE_PATHNAME', 'neon_test_boot_record_like_vanilla' LANGUAGE C STRICT;
