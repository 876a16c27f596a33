-- The pageserver's extension: its objects, rights, and what its functions give.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

CREATE EXTENSION IF NOT EXISTS neon_pageserver;
SELECT plan(53);

SELECT has_schema('neon_pageserver');
SELECT has_domain('neon_pageserver', 'id', 'domain id');
SELECT has_view('neon_pageserver', 'tenants', 'view tenants');
SELECT has_view('neon_pageserver', 'timelines', 'view timelines');
SELECT has_view('neon_pageserver', 'layers', 'view layers');
SELECT has_view('neon_pageserver', 'stat_pageserver', 'view stat_pageserver');
SELECT has_column('neon_pageserver', 'timelines', c, 'timelines.' || c)
FROM unnest(ARRAY['tenant_id', 'timeline_id', 'name', 'ancestor_id', 'ancestor_lsn', 'last_record_lsn',
	'disk_consistent_lsn', 'remote_consistent_lsn', 'logical_size', 'physical_size', 'state']) c;
SELECT has_function('neon_pageserver', f, 'function ' || f)
FROM unnest(ARRAY['tenant_create', 'tenant_delete', 'timeline_create', 'timeline_rename', 'timeline_delete',
	'branch_create', 'timeline_source', 'timeline_feed', 'lsn_for_timestamp', 'lease_lsn', 'wait_lsn',
	'timeline_checkpoint', 'timeline_compact', 'timeline_verify', 'get_page']) f;
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
	WHERE pronamespace = 'neon_pageserver'::regnamespace AND a.grantee = 0$$, 'nothing may be called by PUBLIC');
SELECT table_privs_are('neon_pageserver', v, 'pg_monitor', ARRAY['SELECT'], 'pg_monitor reads ' || v)
FROM unnest(ARRAY['tenants', 'timelines', 'layers', 'stat_pageserver']) v;
SELECT schema_privs_are('neon_pageserver', 'pg_monitor', ARRAY['USAGE']);

SELECT tenant_id AS tenant, timeline_id AS timeline, lsn FROM neon_pageserver.tenant_create(NULL, '{"segsize": 1}') \gset
SELECT ok(:'tenant' ~ '^[0-9a-f]{32}$' AND :'timeline' ~ '^[0-9a-f]{32}$', 'tenant_create makes ids');
SELECT ok(bool_and(bytes > 0 AND versions > 0 AND lsn_hi = :'lsn') AND count(*) = 2, 'the view layers shows what was imported')
FROM neon_pageserver.layers WHERE timeline_id = :'timeline';
SELECT is_empty(format('SELECT * FROM neon_pageserver.timeline_verify(%L, %L)', :'tenant', :'timeline'), 'timeline_verify finds nothing wrong');
SELECT has_role('tenant_' || :'tenant');
SELECT is_superuser('cloud_admin');
SELECT isnt_superuser('tenant_' || :'tenant');
SELECT is(length(neon_pageserver.get_page(:'tenant', :'timeline', 1664, 0, 1262, 0, 0, :'lsn')), 8192, 'get_page gives a page');
SELECT throws_ok(format('SELECT neon_pageserver.get_page(%L, %L, 1664, 0, 1262, 0, 0, %L)', :'tenant', :'timeline', '0/1'),
	'22023', NULL, 'get_page before the history');
SELECT throws_ok(format('SELECT neon_pageserver.get_page(%L, %L, 1664, 0, 1262, 0, 0, %L)', :'tenant', :'timeline', 'FFFF/1'),
	'22023', NULL, 'get_page in the future');
SELECT throws_ok(format('SELECT neon_pageserver.get_page(%L, %L, 1664, 0, 1262, 0, 1000000, %L)', :'tenant', :'timeline', :'lsn'),
	'22023', NULL, 'get_page beyond the end');
SELECT throws_ok(format('SELECT neon_pageserver.get_page(%L, %L, 1664, 0, 1, 0, 0, %L)', :'tenant', :'timeline', :'lsn'),
	'58P01', NULL, 'get_page of no relation');
SELECT throws_ok(format('SELECT neon_pageserver.get_page(%L, %L, 1664, 0, 1262, 0, 0, %L)', :'tenant', :'tenant', '0/1'),
	'42704', NULL, 'get_page of no timeline');
SELECT throws_ok('SELECT neon_pageserver.tenant_create()', '25001', NULL, 'tenant_create in a subtransaction');
SELECT throws_ok(format('SELECT neon_pageserver.branch_create(%L, %L, %L)', :'tenant', 'x', 'main'),
	'25001', NULL, 'branch_create in a subtransaction');

SELECT neon_pageserver.tenant_delete(:'tenant');
SELECT hasnt_role('tenant_' || :'tenant');
SELECT * FROM finish();
