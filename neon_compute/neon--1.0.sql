/* neon_compute/neon--1.0.sql */

-- complain if the script is sourced in psql, rather than by CREATE EXTENSION
\echo Use "CREATE EXTENSION neon" to load this file. \quit

-- What this compute is.
CREATE FUNCTION neon.tenant_id() RETURNS text
AS 'MODULE_PATHNAME', 'neon_sql_tenant_id'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION neon.timeline_id() RETURNS text
AS 'MODULE_PATHNAME', 'neon_sql_timeline_id'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION neon.version() RETURNS text
AS 'MODULE_PATHNAME', 'neon_sql_version'
LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION neon.get_status(
	OUT endpoint text,
	OUT kind text,				-- primary, static or ephemeral
	OUT term int8,				-- 0 unless primary
	OUT boot_lsn pg_lsn,
	OUT insert_lsn pg_lsn,		-- null if static
	OUT storage_flush_lsn pg_lsn,	-- null unless primary
	OUT unflushed_bytes int8,	-- null unless primary
	OUT streaming bool,			-- null unless primary
	OUT hydrated bool,
	OUT problem text,			-- why nothing streams; null if nothing is known
	OUT pageserver_lsn pg_lsn,	-- the pageserver has received; null without safekeepers
	OUT config_generation int4,	-- in force; null without safekeepers
	OUT lease_left_ms int4,		-- for reads; null without safekeepers
	OUT writers_held text)		-- why they are slowed down or held; null: they are not
AS 'MODULE_PATHNAME', 'neon_sql_status'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.status AS SELECT * FROM neon.get_status();

-- The safekeepers of a primary; empty if it has none.
CREATE FUNCTION neon.get_safekeepers(
	OUT id int4,
	OUT node text,
	OUT host text,
	OUT port int4,
	OUT streaming bool,
	OUT flush_lsn pg_lsn,		-- null: it has not reported any
	OUT problem text,			-- why it does not stream, or what hinders it
	OUT lag_bytes int8)			-- what it lacks of the majority's WAL
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sql_safekeepers'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.safekeepers AS SELECT * FROM neon.get_safekeepers();

-- The local copy: what is here, and counters since the start or the last reset.
CREATE FUNCTION neon.get_stat_local(
	OUT hits int8,				-- reads of blocks that were here
	OUT misses int8,			-- reads that had to wait for the pageserver
	OUT fetched_pages int8,
	OUT fetched_bytes int8,
	OUT evicted_chunks int8,
	OUT present_bytes int8,		-- of what was remote at the start
	OUT limit_bytes int8,		-- null if there is no limit
	OUT absent_bytes int8,		-- of what was remote at the start
	OUT fetches int8,			-- requests answered with pages
	OUT read_ahead_hits int8,	-- misses whose block was on its way already
	OUT retries int8,			-- attempts that failed
	OUT failures int8,			-- waits that ended with an error, or were cancelled
	OUT wait_ms float8,			-- time that processes waited, those that hydrate too
	OUT stats_reset timestamptz)	-- null: never
AS 'MODULE_PATHNAME', 'neon_sql_stat_local'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.stat_local AS SELECT * FROM neon.get_stat_local();

-- The same counters of each process that has read anything, and what it waits for.
CREATE FUNCTION neon.get_stat_backends(
	OUT pid int4,
	OUT hits int8,
	OUT misses int8,
	OUT read_ahead_hits int8,
	OUT fetches int8,
	OUT fetched_pages int8,
	OUT fetched_bytes int8,
	OUT retries int8,
	OUT failures int8,
	OUT wait_ms float8,
	OUT wait_event text,		-- NeonConnect, NeonFetch, NeonRetry; null: none
	OUT file text,				-- of the block that is needed now; null: none
	OUT block int8,
	OUT waiting_ms float8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sql_stat_backends'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.stat_backends AS
SELECT s.pid, a.backend_type, s.hits, s.misses, s.read_ahead_hits, s.fetches, s.fetched_pages, s.fetched_bytes,
	s.retries, s.failures, s.wait_ms, s.wait_event, s.file, s.block, s.waiting_ms
  FROM neon.get_stat_backends() s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.pid;

CREATE FUNCTION neon.stat_reset() RETURNS void
AS 'MODULE_PATHNAME', 'neon_sql_stat_reset'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

-- How much of each relation of this database is here.
CREATE FUNCTION neon.get_local_relations(
	OUT relation regclass,
	OUT kind "char",			-- as pg_class.relkind
	OUT size_bytes int8,		-- of all forks
	OUT present_bytes int8)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sql_local_relations'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.local_relations AS
SELECT relation, kind, size_bytes, present_bytes,
	CASE WHEN size_bytes = 0 THEN 100.0 ELSE pg_catalog.trunc(100.0 * present_bytes / size_bytes, 1) END AS present_percent
  FROM neon.get_local_relations();

-- What the limit of local disk space allows, and what hinders it.
CREATE FUNCTION neon.get_local_disk(
	OUT limit_bytes int8,		-- null if there is no limit
	OUT used_bytes int8,		-- allocated below base, global and pg_tblspc
	OUT present_bytes int8,		-- of pages that can be fetched again
	OUT other_bytes int8,		-- of everything else
	OUT evicted_chunks int8,
	OUT evicted_bytes int8,
	OUT droppable_before pg_lsn,	-- what was written last before this may be dropped
	OUT holds int8,				-- how often a session was held for space
	OUT waiting int4,			-- sessions that are held now
	OUT blocker text,			-- why nothing more can be dropped; null if something can
	OUT blocker_pid int4)		-- whose transaction, or temporary files; null if nobody
AS 'MODULE_PATHNAME', 'neon_sql_local_disk'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.local_disk AS SELECT * FROM neon.get_local_disk();

-- Fetches what is absent of a relation with its indexes and TOAST table, or
-- of everything; returns the number of blocks fetched.
CREATE FUNCTION neon.hydrate(relation regclass DEFAULT NULL) RETURNS int8
AS 'MODULE_PATHNAME', 'neon_sql_hydrate'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

-- One row for each hydration that is under way.
CREATE FUNCTION neon.get_hydration_progress(
	OUT pid int4,
	OUT kind text,				-- relation, database, all or background
	OUT phase text,				-- fetching or flushing files
	OUT started_at timestamptz,
	OUT blocks_total int8,		-- that were absent when it began
	OUT blocks_done int8,		-- of them, that are here by now
	OUT blocks_fetched int8,	-- by this process
	OUT file text)				-- that is being fetched
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sql_hydration_progress'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.hydration_progress AS SELECT * FROM neon.get_hydration_progress();

-- Branches of this compute's tenant, as the pageserver knows them.
CREATE FUNCTION neon.branch_create(
	name text,
	at_lsn pg_lsn DEFAULT NULL,
	OUT timeline_id text,
	OUT lsn pg_lsn)
AS 'MODULE_PATHNAME', 'neon_sql_branch_create'
LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE;

CREATE FUNCTION neon.get_branches(
	OUT timeline_id text,
	OUT name text,
	OUT ancestor_id text,
	OUT ancestor_lsn pg_lsn,
	OUT start_lsn pg_lsn,
	OUT last_record_lsn pg_lsn,
	OUT state text,
	OUT current bool)			-- is it the one that this compute serves?
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sql_branches'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE VIEW neon.branches AS SELECT * FROM neon.get_branches();

-- What is carried from one life of this branch's primary to the next.
CREATE FUNCTION neon.get_saved(
	OUT kind text,				-- statistics, fsm or warm
	OUT restored_bytes int8,	-- null: there was nothing at the start
	OUT restored_lsn pg_lsn,	-- insert position when that was saved
	OUT restored_from timestamptz,	-- and the time
	OUT saved_bytes int8,		-- null: nothing was saved yet
	OUT saved_lsn pg_lsn,
	OUT saved_at timestamptz,	-- last time that the pageserver had, or got, all
	OUT problem text)			-- why it was not, or not wholly, saved last time
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'neon_sql_saved'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.saved AS SELECT * FROM neon.get_saved();

-- What this start took over of the local pages of the life before.
CREATE FUNCTION neon.get_warm_start(
	OUT stopped_lsn pg_lsn,		-- where that life's WAL ends; null: it left nothing
	OUT boot_lsn pg_lsn,		-- of this one
	OUT complete bool,			-- false while files are still being looked at
	OUT kept_chunks int8,		-- of 1 MB, of which pages are kept
	OUT dropped_chunks int8,	-- of which none is
	OUT kept_bytes int8,
	OUT dropped_bytes int8,		-- of pages that have changed, or whose file was not kept
	OUT reason text)			-- why nothing is kept; null: something may be
AS 'MODULE_PATHNAME', 'neon_sql_warm_start'
LANGUAGE C VOLATILE STRICT PARALLEL SAFE;

CREATE VIEW neon.warm_start AS SELECT * FROM neon.get_warm_start();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA neon FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA neon FROM PUBLIC;
GRANT USAGE ON SCHEMA neon TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon.tenant_id(), neon.timeline_id(), neon.version(),
	neon.get_status(), neon.get_safekeepers(), neon.get_stat_local(), neon.get_stat_backends(), neon.get_local_disk(),
	neon.get_local_relations(), neon.get_hydration_progress(), neon.get_branches() TO pg_monitor;
GRANT SELECT ON neon.status, neon.safekeepers, neon.stat_local, neon.stat_backends, neon.local_relations, neon.hydration_progress, neon.local_disk,
	neon.branches TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon.get_saved() TO pg_monitor;
GRANT SELECT ON neon.saved TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon.get_warm_start() TO pg_monitor;
GRANT SELECT ON neon.warm_start TO pg_monitor;
