CREATE EXTENSION neon;
SELECT plan(35);

SELECT has_function('neon', 'tenant_id', '{}'::name[]);
SELECT has_function('neon', 'timeline_id', '{}'::name[]);
SELECT has_function('neon', 'version', '{}'::name[]);
SELECT has_function('neon', 'hydrate', ARRAY['regclass']);
SELECT has_function('neon', 'branch_create', ARRAY['text', 'pg_lsn']);
SELECT has_view('neon', 'stat_local', 'view stat_local');
SELECT has_view('neon', 'branches', 'view branches');
SELECT has_view('neon', 'local_disk', 'view local_disk');
SELECT columns_are('neon', 'local_disk', ARRAY['limit_bytes', 'used_bytes', 'present_bytes', 'other_bytes', 'evicted_chunks',
	'evicted_bytes', 'droppable_before', 'holds', 'waiting', 'blocker', 'blocker_pid']);
SELECT has_view('neon', 'status', 'view status');
SELECT columns_are('neon', 'stat_local', ARRAY['hits', 'misses', 'fetched_pages', 'fetched_bytes',
	'evicted_chunks', 'present_bytes', 'limit_bytes', 'absent_bytes', 'fetches', 'read_ahead_hits', 'retries', 'failures',
	'wait_ms', 'stats_reset']);
SELECT columns_are('neon', 'stat_backends', ARRAY['pid', 'backend_type', 'hits', 'misses', 'read_ahead_hits', 'fetches', 'fetched_pages',
	'fetched_bytes', 'retries', 'failures', 'wait_ms', 'wait_event', 'file', 'block', 'waiting_ms']);
SELECT columns_are('neon', 'hydration_progress', ARRAY['pid', 'kind', 'phase', 'started_at', 'blocks_total', 'blocks_done', 'blocks_fetched', 'file']);
SELECT columns_are('neon', 'local_relations', ARRAY['relation', 'kind', 'size_bytes', 'present_bytes', 'present_percent']);
SELECT has_view('neon', 'saved', 'view saved');
SELECT columns_are('neon', 'saved', ARRAY['kind', 'restored_bytes', 'restored_lsn', 'restored_from', 'saved_bytes',
	'saved_lsn', 'saved_at', 'problem']);
SELECT is((SELECT string_agg(kind, ' ') FROM neon.saved), 'statistics fsm warm', 'the kinds of what is saved');
SELECT columns_are('neon', 'branches', ARRAY['timeline_id', 'name', 'ancestor_id', 'ancestor_lsn', 'start_lsn',
	'last_record_lsn', 'state', 'current']);

-- the local copy
CREATE TABLE ht(a int PRIMARY KEY, b text);
INSERT INTO ht SELECT g, repeat('x', 3000) || g FROM generate_series(1, 300) g;
SELECT is(neon.hydrate('ht'), 0::bigint, 'what was written here is here');
SELECT cmp_ok(neon.hydrate('pg_proc'), '>=', 0::bigint, 'a catalog is fetched');
SELECT is(neon.hydrate('pg_proc'), 0::bigint, 'once');
SELECT ok((SELECT count(*) > 300 FROM pg_proc), 'and read');
SELECT is((SELECT kind FROM neon.status), 'primary', 'the kind of endpoint');
SELECT ok((SELECT streaming FROM neon.status), 'the storage streams');

-- branches
SELECT matches((SELECT timeline_id FROM neon.branch_create('pgtap_neon_now')), '^[0-9a-f]{32}$', 'a branch of now');
SELECT matches((SELECT timeline_id FROM neon.branch_create('pgtap_neon_then', (SELECT ancestor_lsn FROM neon.branches WHERE name = 'pgtap_neon_now'))),
	'^[0-9a-f]{32}$', 'a branch at an LSN');
SELECT is((SELECT ancestor_lsn FROM neon.branches WHERE name = 'pgtap_neon_then'),
	(SELECT ancestor_lsn FROM neon.branches WHERE name = 'pgtap_neon_now'), 'at the same one');
SELECT results_eq($$SELECT DISTINCT ancestor_id FROM neon.branches WHERE name LIKE 'pgtap\_neon\_%'$$,
	ARRAY[neon.timeline_id()], 'of this timeline');
SELECT throws_ok($$SELECT neon.branch_create('pgtap_neon_x')$$, '25001', NULL, 'not in a subtransaction');

-- refusals
SELECT throws_ok($$SELECT pg_create_logical_replication_slot('x', 'pgoutput')$$, '0A000', NULL, 'logical slots');
SELECT throws_ok($$ALTER SYSTEM SET full_page_writes = on$$, '55P02', NULL, 'guarded settings');

-- rights
CREATE ROLE pgtap_neon_user;
CREATE ROLE pgtap_neon_monitor IN ROLE pg_monitor;
SET ROLE pgtap_neon_monitor;
SELECT ok((SELECT hits >= 0 FROM neon.stat_local), 'pg_monitor sees the views');
SELECT throws_ok('SELECT neon.hydrate()', '42501', NULL, 'and does not hydrate');
SELECT throws_ok('SELECT neon.stat_reset()', '42501', NULL, 'nor resets counters');
SET ROLE pgtap_neon_user;
SELECT throws_ok('SELECT * FROM neon.status', '42501', NULL, 'others see nothing');
RESET ROLE;

SELECT * FROM finish();
DROP ROLE pgtap_neon_user, pgtap_neon_monitor;
DROP TABLE ht;
DROP EXTENSION neon;
