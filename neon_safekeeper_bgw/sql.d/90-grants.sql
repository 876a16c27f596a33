-- ---- rights: the functions look at the tenant themselves ----

REVOKE ALL ON ALL TABLES IN SCHEMA neon_safekeeper FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA neon_safekeeper FROM PUBLIC;
GRANT USAGE ON SCHEMA neon_safekeeper TO neon_storage, neon_tenant, pg_monitor;
GRANT EXECUTE ON FUNCTION neon_safekeeper.node_uuid(),
	neon_safekeeper.positions(neon_safekeeper.id, neon_safekeeper.id)
	TO neon_storage, neon_tenant;
GRANT EXECUTE ON FUNCTION
	neon_safekeeper.commit(neon_safekeeper.id, neon_safekeeper.id, bigint, int, pg_lsn, int),
	neon_safekeeper.release(neon_safekeeper.id, neon_safekeeper.id, bigint, int)
	TO neon_tenant;
GRANT SELECT ON neon_safekeeper.timelines TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon_safekeeper.timelines_info() TO pg_monitor;
