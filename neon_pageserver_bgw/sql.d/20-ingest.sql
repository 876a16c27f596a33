-- ---- WAL in: sources, writers, positions ----

CREATE FUNCTION neon_pageserver.timeline_source(
	tenant neon_pageserver.id, timeline neon_pageserver.id, term int, conninfo text[],
	kind text DEFAULT 'auto')
RETURNS void
AS 'MODULE_PATHNAME', 'neon_timeline_source'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- the configuration of safekeepers: compare-and-set on its generation
CREATE FUNCTION neon_pageserver.timeline_members(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	expected_generation bigint, config jsonb)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_timeline_members'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_members_get(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	OUT generation bigint, OUT config jsonb)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_timeline_members_get'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- bytes of the stored WAL, for the first segment of another copy
CREATE FUNCTION neon_pageserver.wal_read(
	tenant neon_pageserver.id, timeline neon_pageserver.id, start_lsn pg_lsn, length int)
RETURNS bytea
AS 'MODULE_PATHNAME', 'neon_wal_read'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_feed(
	tenant neon_pageserver.id, timeline neon_pageserver.id, term int,
	boot_id neon_pageserver.id, start_lsn pg_lsn, data bytea)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_timeline_feed'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.writer_get(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	OUT endpoint text, OUT boot_id neon_pageserver.id, OUT term int, OUT boot_lsn pg_lsn,
	OUT pgdata text, OUT machine_boot_id text, OUT drained_lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_writer_get'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.writer_acquire(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	expected_term int, new_term int, endpoint text, boot_id neon_pageserver.id,
	boot_lsn pg_lsn, pgdata text, machine_boot_id text)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_writer_acquire'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.writer_drained(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	boot_id neon_pageserver.id, lsn pg_lsn)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_writer_drained'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.writer_abandon(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	boot_id neon_pageserver.id, accept_lsn pg_lsn)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_writer_abandon'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.lsn_for_timestamp(
	tenant neon_pageserver.id, timeline neon_pageserver.id, at_time timestamptz)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_lsn_for_timestamp'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_checkpoint(
	tenant neon_pageserver.id, timeline neon_pageserver.id)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_timeline_checkpoint'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- merges layer files while that is due; the number of merges
CREATE FUNCTION neon_pageserver.timeline_compact(
	tenant neon_pageserver.id, timeline neon_pageserver.id)
RETURNS int
AS 'MODULE_PATHNAME', 'neon_timeline_compact'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- reads everything that a timeline has; no row: all is well; remedy says whether a damaged
-- file can be rebuilt or, with repair, what was done
CREATE FUNCTION neon_pageserver.timeline_verify(
	tenant neon_pageserver.id, timeline neon_pageserver.id, repair boolean DEFAULT false)
RETURNS TABLE (file text, byte_offset bigint, problem text, remedy text, repaired boolean)
AS 'MODULE_PATHNAME', 'neon_timeline_verify'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- where timelines receive their WAL from, and why not
CREATE FUNCTION neon_pageserver.sources_info(
	OUT tenant_id neon_pageserver.id,
	OUT timeline_id neon_pageserver.id,
	OUT term int,
	OUT connected boolean,
	OUT received_lsn pg_lsn,
	OUT reported_lsn pg_lsn,
	OUT last_message timestamptz,
	OUT worker_pid int,
	OUT last_error text,
	OUT last_error_time timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sources_info'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW neon_pageserver.sources AS
	SELECT * FROM neon_pageserver.sources_info();

GRANT SELECT ON neon_pageserver.sources TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon_pageserver.sources_info() TO pg_monitor;
