GRANT EXECUTE ON FUNCTION
	neon_safekeeper.tail(neon_safekeeper.id, neon_safekeeper.id, int, pg_lsn, int),
	neon_safekeeper.log_beginning(neon_safekeeper.id, neon_safekeeper.id, int)
	TO neon_storage;
GRANT EXECUTE ON FUNCTION
	neon_safekeeper.receive(neon_safekeeper.id, neon_safekeeper.id, bigint, int, text, text)
	TO neon_tenant;
GRANT SELECT ON neon_safekeeper.stat_replication, neon_safekeeper.replication_slots TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon_safekeeper.readers(), neon_safekeeper.slots() TO pg_monitor;
GRANT EXECUTE ON FUNCTION neon_safekeeper.configuration(neon_safekeeper.id, neon_safekeeper.id)
	TO neon_storage, neon_tenant;
