GRANT EXECUTE ON FUNCTION
	neon_safekeeper.tail(neon_safekeeper.id, neon_safekeeper.id, int, pg_lsn, int)
	TO neon_storage;
GRANT EXECUTE ON FUNCTION
	neon_safekeeper.receive(neon_safekeeper.id, neon_safekeeper.id, bigint, int, text, text)
	TO neon_tenant;
