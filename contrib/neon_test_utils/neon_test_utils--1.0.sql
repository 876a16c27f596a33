\echo Use "CREATE EXTENSION neon_test_utils" to load this file. \quit

CREATE FUNCTION clear_buffer_cache(OUT dropped bigint, OUT kept bigint)
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION clear_buffer_cache() IS
'writes dirty shared buffers and drops all that nobody has pinned';

CREATE FUNCTION get_raw_page_at_lsn(rel regclass, fork text, blk bigint, lsn pg_lsn)
RETURNS bytea
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION get_raw_page_at_lsn(regclass, text, bigint, pg_lsn) IS
'a page as the pageserver has it at an LSN; null LSN: with all that was written up to now';

CREATE FUNCTION get_raw_page_at_lsn(spc oid, db oid, rel oid, fork text, blk bigint, lsn pg_lsn)
RETURNS bytea
AS 'MODULE_PATHNAME', 'get_raw_page_at_lsn_by_file' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION xlogflush(lsn pg_lsn DEFAULT NULL) RETURNS pg_lsn
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION xlogflush(pg_lsn) IS
'flushes WAL up to an LSN, or up to the insert position; returns what is flushed';

CREATE FUNCTION consume_xids(n int) RETURNS xid
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION consume_xids(int) IS
'assigns n transaction ids and returns the last one';

CREATE FUNCTION masked_page(page bytea, am text, blk bigint) RETURNS bytea
AS 'MODULE_PATHNAME' LANGUAGE C STRICT IMMUTABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION masked_page(bytea, text, bigint) IS
'a page without what redo need not restore, for comparisons';

CREATE FUNCTION crash_backend(how text DEFAULT 'segv') RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION crash_backend(text) IS
'ends this server process at once: segv, abort or kill';

CREATE FUNCTION launch_worker(sql text, interval_ms int) RETURNS int
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION launch_worker(text, int) IS
'starts a background worker that runs a SQL text in this database again and again; returns its process id';

CREATE FUNCTION flood_invalidations(rel oid, n int) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION flood_invalidations(oid, int) IS
'tells all processes n times to close the files of a relation';

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA @extschema@ FROM PUBLIC;
