CREATE EXTENSION neon_test_utils;
SELECT plan(7);
SELECT has_function('neon_test_utils', 'clear_buffer_cache', '{}'::name[]);
SELECT has_function('neon_test_utils', 'get_raw_page_at_lsn', ARRAY['regclass', 'text', 'bigint', 'pg_lsn']);
CREATE TABLE tu AS SELECT g AS id FROM generate_series(1, 10000) g;
SELECT ok((neon_test_utils.clear_buffer_cache()).dropped > 0, 'buffers are dropped');
SELECT is((SELECT sum(id) FROM tu), 50005000::bigint, 'the table is read again');
SELECT throws_ok($$SELECT neon_test_utils.crash_backend('no')$$, '22023', NULL, 'an unknown crash');
SELECT throws_ok($$SELECT neon_test_utils.get_raw_page_at_lsn('tu', 'main', -1, NULL)$$, '22023', NULL,
	'a negative block');
SELECT is(length(neon_test_utils.get_raw_page_at_lsn('tu', 'main', 0, NULL)), 8192, 'one page');
SELECT * FROM finish();
DROP TABLE tu;
DROP EXTENSION neon_test_utils;
