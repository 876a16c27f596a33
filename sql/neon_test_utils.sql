CREATE EXTENSION neon_test_utils;
CREATE TABLE tu (id int, t text);
INSERT INTO tu SELECT g, repeat('x', 100) FROM generate_series(1, 1000) g;
SELECT dropped > 0 AS dropped_some FROM neon_test_utils.clear_buffer_cache();
SELECT count(*), sum(id) FROM tu;

-- a page as the pageserver has it, now and before a change
SELECT neon_test_utils.xlogflush() AS before \gset
UPDATE tu SET t = 'y' WHERE id = 1;
SELECT neon_test_utils.xlogflush() > :'before' AS moved_on;
SELECT length(neon_test_utils.get_raw_page_at_lsn('tu', 'main', 0, NULL));
SELECT neon_test_utils.get_raw_page_at_lsn('tu', 'main', 0, :'before')
	<> neon_test_utils.get_raw_page_at_lsn('tu', 'main', 0, NULL) AS differ;
SELECT neon_test_utils.get_raw_page_at_lsn('tu', 'main', 0, :'before')
	= neon_test_utils.get_raw_page_at_lsn(
		(SELECT oid FROM pg_tablespace WHERE spcname = 'pg_default'),
		(SELECT oid FROM pg_database WHERE datname = current_database()),
		pg_relation_filenode('tu'), 'main', 0, :'before') AS same;
SELECT neon_test_utils.get_raw_page_at_lsn('tu', 'nofork', 0, NULL);
SELECT neon_test_utils.get_raw_page_at_lsn(NULL, 'main', 0, NULL);

-- a page without what redo need not restore
SELECT length(neon_test_utils.masked_page(neon_test_utils.get_raw_page_at_lsn('tu', 'main', 0, NULL), 'heap', 0));
SELECT neon_test_utils.masked_page(decode(repeat('00', 8192), 'hex'), 'none', 0);
SELECT neon_test_utils.masked_page('\x00', 'heap', 0);
-- transaction ids
SELECT txid_current() AS x1 \gset
SELECT neon_test_utils.consume_xids(1000) IS NOT NULL AS consumed;
SELECT txid_current() - :x1 AS difference;
SELECT neon_test_utils.consume_xids(0);

-- only arguments that do not crash
SELECT neon_test_utils.crash_backend('x');
DO $$
BEGIN
	PERFORM neon_test_utils.xlogflush('FFFFFFFF/0');
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE NOTICE 'refused';
END $$;

-- nobody else may call them
SELECT count(*) FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
 WHERE p.pronamespace = 'neon_test_utils'::regnamespace AND a.grantee = 0;
DROP TABLE tu;
DROP EXTENSION neon_test_utils;
