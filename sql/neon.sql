-- the extension "neon" in a running endpoint
CREATE EXTENSION neon;

-- what this compute is
SELECT neon.tenant_id() ~ '^[0-9a-f]{32}$' AS tenant, neon.timeline_id() ~ '^[0-9a-f]{32}$' AS timeline;
SELECT neon.tenant_id() = current_setting('neon.tenant_id') AS same_tenant,
	neon.timeline_id() = current_setting('neon.timeline_id') AS same_timeline;
SELECT neon.version() ~ '^neon [0-9.]+ on PostgreSQL 15' AS version;
SELECT endpoint = current_setting('neon.endpoint_id') AS endpoint, kind, term > 0 AS term,
	boot_lsn < insert_lsn AS booted, storage_flush_lsn <= insert_lsn AS stored,
	unflushed_bytes >= 0 AS unflushed, problem
  FROM neon.status;

-- local copy
SELECT count(*), bool_and(hits > 0) AS hits, bool_and(misses >= 0) AS misses,
	bool_and(fetched_bytes >= fetched_pages * 8192) AS bytes, bool_and(limit_bytes IS NULL) AS no_limit
  FROM neon.stat_local;
SELECT misses >= 0 AS misses, fetches >= 0 AS fetches, pid IS NOT NULL AS pid, backend_type, wait_event, file
  FROM neon.stat_backends WHERE pid = pg_backend_pid();
SELECT limit_bytes, used_bytes > 1000000 AS used, present_bytes >= 0 AS present, evicted_chunks, holds, waiting, blocker
  FROM neon.local_disk;
ALTER SYSTEM SET neon.local_size_limit = '1MB';
ALTER SYSTEM SET neon.local_size_limit = '64MB';
CREATE TABLE h(a int PRIMARY KEY, b text);
INSERT INTO h SELECT g, repeat('x', 100) FROM generate_series(1, 1000) g;
SELECT neon.hydrate('h') AS nothing_to_fetch;
SELECT relation, kind, size_bytes = present_bytes AS present, present_percent
  FROM neon.local_relations WHERE relation IN ('h'::regclass, 'h_pkey'::regclass) ORDER BY 1;
SELECT neon.hydrate('pg_class') >= 0 AS fetched;
SELECT neon.hydrate('pg_class') AS nothing_left;
CREATE VIEW v AS SELECT 1;
SELECT neon.hydrate('v');
SELECT count(*) FROM neon.hydration_progress;

-- branches
SELECT neon.branch_create('regress_neon_a') IS NOT NULL AS created;
SELECT b.name, b.ancestor_id = neon.timeline_id() AS is_child, b.ancestor_lsn <= s.insert_lsn AS not_later, b.current
  FROM neon.branches b, neon.status s WHERE b.name = 'regress_neon_a';
SELECT count(*) FROM neon.branches WHERE current;
SELECT neon.branch_create('regress_neon_a');
SELECT neon.branch_create(NULL);
BEGIN;
SELECT neon.branch_create('regress_neon_b');
ROLLBACK;
\set VERBOSITY terse
SELECT neon.branch_create('regress_neon_b', 'FFFFFFFF/0');
SELECT neon.branch_create('regress_neon_b', '0/28');
\set VERBOSITY default
SELECT insert_lsn AS lsn FROM neon.status \gset
SELECT lsn <= :'lsn' AS not_later FROM neon.branch_create('regress_neon_b', :'lsn');

-- refusals
SELECT pg_backup_start('x');
SELECT pg_create_physical_replication_slot('x');
SELECT pg_create_logical_replication_slot('x', 'pgoutput');
SELECT pg_copy_logical_replication_slot('x', 'y');
ALTER SYSTEM SET fsync = off;
ALTER SYSTEM SET neon.tenant_id = '';
CREATE DATABASE regress_neon STRATEGY file_copy;
DROP DATABASE regress_neon;
LOAD 'neon';

-- who may see it
CREATE ROLE regress_neon_user;
CREATE ROLE regress_neon_monitor IN ROLE pg_monitor;
SELECT count(*) FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
 WHERE p.pronamespace = 'neon'::regnamespace AND a.grantee = 0;
SET ROLE regress_neon_user;
SELECT * FROM neon.status;
SELECT neon.hydrate();
RESET ROLE;
SET ROLE regress_neon_monitor;
SELECT count(*) FROM neon.status;
SELECT count(*) FROM neon.stat_local;
SELECT count(*) FROM neon.local_disk;
SELECT count(*) > 0 AS backends FROM neon.stat_backends;
SELECT count(*) > 0 AS relations FROM neon.local_relations;
SELECT neon.stat_reset();
SELECT count(*) > 0 AS branches FROM neon.branches;
SELECT neon.hydrate();
SELECT neon.branch_create('regress_neon_c');
RESET ROLE;

SELECT neon.stat_reset();
SELECT stats_reset > now() - interval '1 minute' AS reset FROM neon.stat_local;
DROP TABLE h;
DROP VIEW v;
DROP ROLE regress_neon_user, regress_neon_monitor;
DROP EXTENSION neon;
