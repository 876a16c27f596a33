-- ---- the messages of the protocol (docs/wal-service.md) ----

CREATE FUNCTION neon_safekeeper.node_uuid() RETURNS text
AS 'MODULE_PATHNAME', 'neon_sk_node_uuid'
LANGUAGE C STABLE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.timeline_create(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, sysid bigint, segsize int, tli int,
	start_lsn pg_lsn, term int, history jsonb, config jsonb, head bytea DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_sk_timeline_create'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.promise(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint, term int, launcher text,
	OUT promised int, OUT last_log_term int, OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn,
	OUT history jsonb, OUT config jsonb, OUT lease_left_ms int, OUT last_writer text)
AS 'MODULE_PATHNAME', 'neon_sk_promise'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.elected(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint, term int, x pg_lsn,
	history jsonb, donor text, timeout interval DEFAULT '30 s',
	OUT flush_lsn pg_lsn, OUT counts bool)
AS 'MODULE_PATHNAME', 'neon_sk_elected'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.commit(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint, term int, lsn pg_lsn,
	lease_ms int,
	OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn, OUT pageserver_lsn pg_lsn, OUT promised int,
	OUT floor int, OUT config_generation bigint, OUT lease_granted bool, OUT problem text)
AS 'MODULE_PATHNAME', 'neon_sk_commit'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.release(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint, term int)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_sk_release'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.members(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint, config jsonb)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_sk_members'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.timeline_delete(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint,
	force bool DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_sk_timeline_delete'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.positions(
	tenant neon_safekeeper.id DEFAULT NULL, timeline neon_safekeeper.id DEFAULT NULL,
	OUT tenant_id text, OUT timeline_id text, OUT generation bigint, OUT promised int,
	OUT last_log_term int, OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn, OUT wal_start pg_lsn,
	OUT counts bool, OUT pageserver_lsn pg_lsn, OUT lease_left_ms int, OUT last_writer text,
	OUT state text, OUT pageserver_durable_lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sk_positions'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- ---- views ----

CREATE FUNCTION neon_safekeeper.timelines_info(
	OUT tenant_id text, OUT timeline_id text, OUT state text, OUT generation bigint,
	OUT term int, OUT last_log_term int, OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn,
	OUT wal_start pg_lsn, OUT members text, OUT receiving_from text, OUT retained_by text,
	OUT pageserver_lsn pg_lsn, OUT problem text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sk_timelines_info'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE VIEW neon_safekeeper.timelines AS
	SELECT * FROM neon_safekeeper.timelines_info();
