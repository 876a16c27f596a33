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

-- removes WAL as retention would; the new wal_start
CREATE FUNCTION neon_sk_test.trim(tenant text, timeline text, lsn pg_lsn) RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_sk_test_trim' LANGUAGE C STRICT;

-- takes what neon_safekeeper.log_beginning() of a peer said
CREATE FUNCTION neon_sk_test.jump(tenant text, timeline text, term int, wal_start pg_lsn,
	first_record pg_lsn, commit_lsn pg_lsn, last_term int, last_start pg_lsn, boot_id text, data bytea)
RETURNS bool
AS 'MODULE_PATHNAME', 'neon_sk_test_jump' LANGUAGE C STRICT;
