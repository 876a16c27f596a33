/* neon_safekeeper_test: installed with CREATE EXTENSION neon_safekeeper_test */

-- complain if the script is sourced in psql
\echo Use "CREATE EXTENSION neon_safekeeper_test" to load this file. \quit

-- appends WAL under a term as the receiver would; the new flush_lsn
CREATE FUNCTION neon_sk_test.append(tenant text, timeline text, term int, lsn pg_lsn, data bytea)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_sk_test_append' LANGUAGE C STRICT;

-- the end of a process that wrote in good order
CREATE FUNCTION neon_sk_test.close(tenant text, timeline text) RETURNS bool
AS 'MODULE_PATHNAME', 'neon_sk_test_close' LANGUAGE C STRICT;

-- persists commit_lsn and acked_lsn
CREATE FUNCTION neon_sk_test.refresh(tenant text, timeline text) RETURNS void
AS 'MODULE_PATHNAME', 'neon_sk_test_refresh' LANGUAGE C STRICT;

-- bytes as they are stored; NULL if some are not
CREATE FUNCTION neon_sk_test.read(tenant text, timeline text, lsn pg_lsn, len int) RETURNS bytea
AS 'MODULE_PATHNAME', 'neon_sk_test_read' LANGUAGE C STRICT;

-- walks of the model on the functions of the library, see replay.c; the steps that were compared
CREATE FUNCTION neon_sk_test.replay(traces text, seed int, kills bool, begin int) RETURNS int
AS 'MODULE_PATHNAME', 'neon_sk_test_replay' LANGUAGE C STRICT;
