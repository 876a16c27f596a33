-- The safekeeper's extension: its objects, rights, and what its functions give.
\unset ECHO
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
SET client_min_messages = warning;

CREATE EXTENSION IF NOT EXISTS neon_safekeeper;
SELECT plan(53);

SELECT has_schema('neon_safekeeper');
SELECT has_domain('neon_safekeeper', 'id', 'domain id');
SELECT has_view('neon_safekeeper', v, 'view ' || v) FROM unnest(ARRAY['timelines', 'replication_slots', 'stat_replication']) v;
SELECT has_column('neon_safekeeper', 'timelines', c, 'timelines.' || c)
FROM unnest(ARRAY['tenant_id', 'timeline_id', 'state', 'generation', 'term', 'last_log_term', 'flush_lsn', 'commit_lsn',
	'wal_start', 'members', 'receiving_from', 'retained_by', 'pageserver_lsn', 'problem']) c;
SELECT has_function('neon_safekeeper', f, 'function ' || f)
FROM unnest(ARRAY['node_uuid', 'timeline_create', 'timeline_delete', 'promise', 'elected', 'receive', 'tail', 'commit',
	'release', 'positions', 'members', 'create_physical_replication_slot', 'drop_replication_slot']) f;
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
	WHERE pronamespace = 'neon_safekeeper'::regnamespace AND a.grantee = 0$$, 'nothing may be called by PUBLIC');
SELECT table_privs_are('neon_safekeeper', v, 'pg_monitor', ARRAY['SELECT'], 'pg_monitor reads ' || v)
FROM unnest(ARRAY['timelines', 'replication_slots', 'stat_replication']) v;
SELECT table_privs_are('neon_safekeeper', v, r, ARRAY[]::text[], r || ' does not read ' || v)
FROM unnest(ARRAY['neon_storage', 'neon_tenant']) r, unnest(ARRAY['timelines', 'replication_slots']) v;
SELECT schema_privs_are('neon_safekeeper', r, ARRAY['USAGE']) FROM unnest(ARRAY['pg_monitor', 'neon_storage', 'neon_tenant']) r;
SELECT isnt_superuser(r) FROM unnest(ARRAY['neon_storage', 'neon_tenant']) r;
SELECT is(rolreplication AND rolcanlogin, true, 'neon_storage replicates') FROM pg_roles WHERE rolname = 'neon_storage';
SELECT is(rolreplication OR rolcanlogin, false, 'neon_tenant is a group') FROM pg_roles WHERE rolname = 'neon_tenant';

-- Autocommit: what changes a timeline is refused in throws_ok's subtransaction.
SELECT matches(neon_safekeeper.node_uuid(), '^[0-9a-f]{32}$', 'a node uuid');
SELECT format('{"generation": 7, "floor": 0, "members": [{"id": 1, "node": "%s", "host": "127.0.0.1", "port": 1}], "new_members": null}',
	neon_safekeeper.node_uuid()) AS config, md5(random()::text) AS tenant, md5(random()::text) AS timeline \gset
SELECT neon_safekeeper.timeline_create(:'tenant', :'timeline', 42, 1048576, 1, '0/2000028', 0, '[[0, "0/2000028"]]', :'config');
SELECT results_eq(format('SELECT state, generation, members, wal_start FROM neon_safekeeper.timelines WHERE timeline_id = %L', :'timeline'),
	$$VALUES ('active', 7::bigint, '1', '0/2000028'::pg_lsn)$$, 'a timeline in the view');
SELECT throws_ok(format('SELECT neon_safekeeper.promise(%L, %L, 7, 5, %L)', :'tenant', :'timeline', ''), '25001', NULL, 'promise in a subtransaction');
SELECT promised AS promised FROM neon_safekeeper.promise(:'tenant', :'timeline', 7, 5, 'pgTAP') \gset
SELECT is(:promised, 5, 'a promise');
SELECT results_eq(format('SELECT promised, counts, last_writer FROM neon_safekeeper.positions(%L, %L)', :'tenant', :'timeline'),
	$$VALUES (5, false, 'pgTAP'::text)$$, 'its history does not have the term yet');
SELECT neon_safekeeper.timeline_delete(:'tenant', :'timeline', 7);
SELECT is_empty(format('SELECT * FROM neon_safekeeper.timelines WHERE timeline_id = %L AND state <> %L', :'timeline', 'deleted'), 'deleted');
SELECT * FROM finish();
