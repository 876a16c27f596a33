
-- ---- tenants and timelines ----

CREATE FUNCTION neon_pageserver.tenant_create(
	tenant neon_pageserver.id DEFAULT NULL, options jsonb DEFAULT '{}',
	OUT tenant_id neon_pageserver.id, OUT timeline_id neon_pageserver.id, OUT lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_tenant_create'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_create(
	tenant neon_pageserver.id, name text, options jsonb DEFAULT '{}',
	OUT timeline_id neon_pageserver.id, OUT lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_timeline_create'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.tenant_delete(tenant neon_pageserver.id)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_tenant_delete'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.branch_create(
	tenant neon_pageserver.id, name text, from_branch text,
	at_lsn pg_lsn DEFAULT NULL, at_time timestamptz DEFAULT NULL,
	new_id neon_pageserver.id DEFAULT NULL,
	OUT timeline_id neon_pageserver.id, OUT lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_branch_create'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.round_lsn(
	tenant neon_pageserver.id, timeline neon_pageserver.id, lsn pg_lsn)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_round_lsn'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_rename(
	tenant neon_pageserver.id, from_name text, to_name text)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_timeline_rename'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_delete(
	tenant neon_pageserver.id, timeline neon_pageserver.id)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_timeline_delete'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- ---- what computes ask ----

CREATE PROCEDURE neon_pageserver.pagestream(tenant text, timeline text)
AS 'MODULE_PATHNAME', 'neon_pagestream'
LANGUAGE C;

CREATE PROCEDURE neon_pageserver.basebackup(
	tenant text, timeline text, lsn pg_lsn, term int, kind text,
	boot_id text DEFAULT NULL)
AS 'MODULE_PATHNAME', 'neon_basebackup'
LANGUAGE C;

-- which blocks differ between where a life's WAL ends and an LSN, as a file; null: too many
CREATE FUNCTION neon_pageserver.changed_blocks(
	tenant neon_pageserver.id, timeline neon_pageserver.id, term int,
	from_lsn pg_lsn, to_lsn pg_lsn)
RETURNS bytea
AS 'MODULE_PATHNAME', 'neon_changed_blocks'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- what a primary saves for the next one: kind is statistics, fsm or warm
CREATE FUNCTION neon_pageserver.saved_put(
	tenant neon_pageserver.id, timeline neon_pageserver.id, term int,
	kind text, lsn pg_lsn, data bytea)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_saved_put'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- how far compaction is behind, and bytes of WAL per second that a writer should keep to, or null
CREATE FUNCTION neon_pageserver.writer_pace(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	OUT debt bigint, OUT max_debt bigint, OUT bytes_per_second bigint)
AS 'MODULE_PATHNAME', 'neon_writer_pace'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.get_page(
	tenant neon_pageserver.id, timeline neon_pageserver.id,
	spc oid, db oid, rel oid, fork int, blk bigint, lsn pg_lsn)
RETURNS bytea
AS 'MODULE_PATHNAME', 'neon_get_page'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.wait_lsn(
	tenant neon_pageserver.id, timeline neon_pageserver.id, lsn pg_lsn,
	timeout interval DEFAULT '1 minute')
RETURNS boolean
AS 'MODULE_PATHNAME', 'neon_wait_lsn'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.lease_lsn(
	tenant neon_pageserver.id, timeline neon_pageserver.id, lsn pg_lsn,
	duration interval DEFAULT '1 hour', lease neon_pageserver.id DEFAULT NULL)
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'neon_lease_lsn'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.lease_release(
	tenant neon_pageserver.id, timeline neon_pageserver.id, lease neon_pageserver.id)
RETURNS boolean
AS 'MODULE_PATHNAME', 'neon_lease_release'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- how much history is kept: NULL is the instance's setting
CREATE FUNCTION neon_pageserver.tenant_configure(
	tenant neon_pageserver.id, pitr_interval interval DEFAULT NULL, gc_horizon bigint DEFAULT NULL)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_tenant_configure'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.tenant_settings(
	tenant neon_pageserver.id,
	OUT pitr_interval interval, OUT gc_horizon bigint,
	OUT own_pitr_interval boolean, OUT own_gc_horizon boolean)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_tenant_settings'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION neon_pageserver.timeline_gc(
	tenant neon_pageserver.id, timeline neon_pageserver.id)
RETURNS pg_lsn
AS 'MODULE_PATHNAME', 'neon_timeline_gc'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- what a tenant's own computes may see of it
CREATE FUNCTION neon_pageserver.branches(
	tenant neon_pageserver.id,
	OUT timeline_id text, OUT name text, OUT ancestor_id text,
	OUT ancestor_lsn pg_lsn, OUT start_lsn pg_lsn, OUT last_record_lsn pg_lsn,
	OUT state text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_branches'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

-- ---- views ----

CREATE FUNCTION neon_pageserver.timelines_info(
	OUT tenant_id neon_pageserver.id,
	OUT timeline_id neon_pageserver.id,
	OUT name text,
	OUT ancestor_id neon_pageserver.id,
	OUT ancestor_lsn pg_lsn,
	OUT start_lsn pg_lsn,
	OUT last_record_lsn pg_lsn,
	OUT flush_lsn pg_lsn,
	OUT disk_consistent_lsn pg_lsn,
	OUT remote_consistent_lsn pg_lsn,
	OUT logical_size bigint,
	OUT physical_size bigint,
	OUT state text,
	OUT term bigint,
	OUT writer_endpoint text,
	OUT source_connected boolean,
	OUT system_identifier numeric,
	OUT wal_segment_size int,
	OUT data_checksums boolean,
	OUT members_generation bigint,
	OUT gc_cutoff pg_lsn,
	OUT gc_cutoff_time timestamptz,
	OUT state_detail text,
	OUT compaction_debt bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_timelines_info'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW neon_pageserver.timelines AS
	SELECT * FROM neon_pageserver.timelines_info();

CREATE FUNCTION neon_pageserver.layers_info(
	OUT tenant_id neon_pageserver.id,
	OUT timeline_id neon_pageserver.id,
	OUT file text,
	OUT type text,
	OUT lsn_lo pg_lsn,
	OUT lsn_hi pg_lsn,
	OUT bytes bigint,
	OUT versions bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_layers_info'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW neon_pageserver.layers AS
	SELECT * FROM neon_pageserver.layers_info();

CREATE FUNCTION neon_pageserver.history_points_info(
	OUT tenant_id neon_pageserver.id,
	OUT timeline_id neon_pageserver.id,
	OUT kind text,
	OUT id neon_pageserver.id,
	OUT lsn pg_lsn,
	OUT expires timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_history_points_info'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW neon_pageserver.history_points AS
	SELECT * FROM neon_pageserver.history_points_info();

CREATE VIEW neon_pageserver.tenants AS
	SELECT tenant_id,
		count(*) AS timelines,
		sum(logical_size)::bigint AS logical_size,
		sum(physical_size)::bigint AS physical_size,
		min(system_identifier) AS system_identifier,
		min(wal_segment_size) AS wal_segment_size,
		bool_or(data_checksums) AS data_checksums
	FROM neon_pageserver.timelines_info()
	GROUP BY tenant_id;

CREATE FUNCTION neon_pageserver.stat_pageserver_info(OUT name text, OUT value bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_stat_pageserver_info'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE VIEW neon_pageserver.stat_pageserver AS
	SELECT name, value FROM neon_pageserver.stat_pageserver_info();
