-- The SQL of a safekeeper: a timeline's life without WAL, views, rights.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS neon_safekeeper;
\set tenant 0123456789abcdef0123456789abcdef
\set timeline 11111111111111111111111111111111
\set history0 '[[0, "0/2000028"]]'
\set history1 '[[0, "0/2000028"], [1, "0/2000028"]]'
SELECT neon_safekeeper.node_uuid() ~ '^[0-9a-f]{32}$' AS node;
SELECT format('{"generation": 1, "floor": 0, "members": [{"id": 1, "node": "%s", "host": "127.0.0.1", "port": 1}], "new_members": null}',
	neon_safekeeper.node_uuid()) AS config \gset

-- creation, again, and with other properties
SELECT neon_safekeeper.timeline_create(:'tenant', :'timeline', 42, 1048576, 1, '0/2000028', 0, :'history0', :'config');
SELECT neon_safekeeper.timeline_create(:'tenant', :'timeline', 42, 1048576, 1, '0/2000028', 0, :'history0', :'config');
SELECT neon_safekeeper.timeline_create(:'tenant', :'timeline', 43, 1048576, 1, '0/2000028', 0, :'history0', :'config');
\x on
SELECT state, generation, term, last_log_term, flush_lsn, commit_lsn, wal_start, members, receiving_from, pageserver_lsn, problem
FROM neon_safekeeper.timelines WHERE tenant_id = :'tenant';
\x off

-- an election
SELECT promised, last_log_term, flush_lsn, commit_lsn, history, config = :'config' AS config, lease_left_ms, last_writer
FROM neon_safekeeper.promise(:'tenant', :'timeline', 1, 1, 'endpoint=main');
SELECT neon_safekeeper.promise(:'tenant', :'timeline', 1, 1, 'endpoint=late');
SELECT * FROM neon_safekeeper.elected(:'tenant', :'timeline', 1, 1, '0/2000028', :'history1', NULL);
SELECT flush_lsn, commit_lsn, promised, floor, lease_granted FROM neon_safekeeper.commit(:'tenant', :'timeline', 1, 1, '0/2000028', 1000);
SELECT neon_safekeeper.release(:'tenant', :'timeline', 1, 1);
SELECT generation, promised, last_log_term, flush_lsn, commit_lsn, wal_start, counts, pageserver_lsn, lease_left_ms, last_writer, state
FROM neon_safekeeper.positions(:'tenant', :'timeline');
SELECT history, data FROM neon_safekeeper.tail(:'tenant', :'timeline', 1, '0/2000028', 100);

-- refusals
SELECT neon_safekeeper.timeline_create('not an id', :'timeline', 42, 1048576, 1, '0/2000028', 0, :'history0', :'config');
SELECT neon_safekeeper.timeline_create(:'tenant', repeat('2', 32), 42, 1000, 1, '0/2000028', 0, :'history0', :'config');
SELECT neon_safekeeper.timeline_create(:'tenant', repeat('2', 32), 42, 1048576, 2, '0/2000028', 0, :'history0', :'config');
SELECT neon_safekeeper.timeline_create(:'tenant', repeat('2', 32), 42, 1048576, 1, '0/2000028', 0, '[]', :'config');
SELECT neon_safekeeper.timeline_create(:'tenant', repeat('2', 32), 42, 1048576, 1, '0/2000028', 0, :'history0', '{"generation": 1}');
SELECT neon_safekeeper.promise(:'tenant', :'timeline', 2, 2, '');
SELECT neon_safekeeper.promise(:'tenant', repeat('9', 32), 1, 2, '');
SELECT neon_safekeeper.elected(:'tenant', :'timeline', 1, 1, '0/2000028', :'history0', NULL);
SELECT neon_safekeeper.receive(:'tenant', :'timeline', 1, 0, repeat('a', 32), 'host=127.0.0.1 port=1');
SELECT neon_safekeeper.receive(:'tenant', :'timeline', 1, 1, 'boot', 'host=127.0.0.1 port=1');
SELECT neon_safekeeper.receive(:'tenant', :'timeline', 1, 1, repeat('a', 32), 'port=1');
SELECT neon_safekeeper.receive(:'tenant', :'timeline', 1, 1, repeat('a', 32), 'host=127.0.0.1 password=secret');
SELECT neon_safekeeper.receive(:'tenant', :'timeline', 2, 1, repeat('a', 32), 'host=127.0.0.1 port=1');
SELECT neon_safekeeper.tail(:'tenant', :'timeline', 2, '0/2000028', 100);
SELECT neon_safekeeper.tail(:'tenant', :'timeline', 1, '0/2000028', -1);
BEGIN;
SELECT neon_safekeeper.promise(:'tenant', :'timeline', 1, 2, '');
ROLLBACK;

-- roles: a tenant's is for its own timelines, and computes need no more than that
CREATE ROLE tenant_0123456789abcdef0123456789abcdef IN ROLE neon_tenant;
CREATE ROLE tenant_ffffffffffffffffffffffffffffffff IN ROLE neon_tenant;
SET ROLE tenant_0123456789abcdef0123456789abcdef;
SELECT flush_lsn, lease_granted FROM neon_safekeeper.commit(:'tenant', :'timeline', 1, 1, '0/2000028', 0);
SELECT promised FROM neon_safekeeper.positions(:'tenant', :'timeline');
SELECT neon_safekeeper.promise(:'tenant', :'timeline', 1, 2, '');
SELECT neon_safekeeper.tail(:'tenant', :'timeline', 1, '0/2000028', 100);
SELECT count(*) FROM neon_safekeeper.timelines;
RESET ROLE;
SET ROLE tenant_ffffffffffffffffffffffffffffffff;
SELECT neon_safekeeper.commit(:'tenant', :'timeline', 1, 1, '0/2000028', 0);
SELECT neon_safekeeper.receive(:'tenant', :'timeline', 1, 1, repeat('a', 32), 'host=127.0.0.1 port=1');
RESET ROLE;
SET ROLE neon_storage;
SELECT history FROM neon_safekeeper.tail(:'tenant', :'timeline', 1, '0/2000028', 0);
SELECT neon_safekeeper.timeline_delete(:'tenant', :'timeline', 1);
RESET ROLE;
DROP ROLE tenant_0123456789abcdef0123456789abcdef, tenant_ffffffffffffffffffffffffffffffff;

-- slots
SELECT neon_safekeeper.create_physical_replication_slot(:'tenant', :'timeline', 'standby', true);
SELECT slot_name, slot_type, temporary, active, restart_lsn, wal_status FROM neon_safekeeper.replication_slots WHERE tenant_id = :'tenant';
SELECT neon_safekeeper.drop_replication_slot(:'tenant', :'timeline', 'standby');
SELECT count(*) FROM neon_safekeeper.stat_replication WHERE tenant_id = :'tenant';

-- deletion leaves a tombstone
SELECT neon_safekeeper.timeline_delete(:'tenant', :'timeline', 1);
SELECT neon_safekeeper.promise(:'tenant', :'timeline', 1, 2, '');
SELECT neon_safekeeper.timeline_create(:'tenant', :'timeline', 42, 1048576, 1, '0/2000028', 0, :'history0', :'config');
