
-- ---- rights: a tenant's role is granted what it needs when it is made ----

REVOKE ALL ON ALL TABLES IN SCHEMA neon_pageserver FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA neon_pageserver FROM PUBLIC;
GRANT USAGE ON SCHEMA neon_pageserver TO pg_monitor;
GRANT SELECT ON neon_pageserver.tenants, neon_pageserver.timelines, neon_pageserver.layers,
	neon_pageserver.history_points,
	neon_pageserver.stat_pageserver TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon_pageserver.timelines_info(), neon_pageserver.layers_info(),
	neon_pageserver.history_points_info(),
	neon_pageserver.stat_pageserver_info() TO pg_monitor;
