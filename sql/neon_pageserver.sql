-- The SQL of the pageserver: tenants, branches, pages by LSN, rights.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS neon_pageserver;
\set tenant 0123456789abcdef0123456789abcdef
\set main 11111111111111111111111111111111

SELECT tenant_id, timeline_id, lsn > '0/0' AS lsn
FROM neon_pageserver.tenant_create(:'tenant', '{"timeline_id": "11111111111111111111111111111111", "segsize": 1, "checksums": true}');

\x on
SELECT tenant_id, timeline_id, name, ancestor_id, ancestor_lsn, start_lsn = last_record_lsn AS unwritten,
	flush_lsn = last_record_lsn AS flushed, disk_consistent_lsn = last_record_lsn AS durable,
	remote_consistent_lsn, logical_size > 10000000 AS logical_size, physical_size > 0 AS physical_size,
	state, term, writer_endpoint, source_connected, system_identifier > 0 AS system_identifier,
	wal_segment_size, data_checksums
FROM neon_pageserver.timelines WHERE tenant_id = :'tenant';
SELECT tenant_id, timelines, logical_size > 0 AS logical_size, wal_segment_size, data_checksums
FROM neon_pageserver.tenants WHERE tenant_id = :'tenant';
\x off

-- branches
SELECT lsn AS start_lsn FROM neon_pageserver.branch_create(:'tenant', 'probe', 'main') \gset
SELECT timeline_id, lsn = :'start_lsn' AS at_start
FROM neon_pageserver.branch_create(:'tenant', 'first', 'main', NULL, NULL, '22222222222222222222222222222222');
SELECT timeline_id, lsn = :'start_lsn' AS at_start
FROM neon_pageserver.branch_create(:'tenant', 'second', '22222222222222222222222222222222', :'start_lsn', NULL, '33333333333333333333333333333333');
SELECT neon_pageserver.timeline_rename(:'tenant', 'probe', 'release-1.0/rc');
SELECT name, ancestor_id, ancestor_lsn = :'start_lsn' AS at_start, state
FROM neon_pageserver.branches(:'tenant') ORDER BY name COLLATE "C";
SELECT neon_pageserver.round_lsn(:'tenant', :'main', :'start_lsn') = :'start_lsn' AS rounded;
SELECT neon_pageserver.wait_lsn(:'tenant', :'main', :'start_lsn', '1 s') AS reached,
	neon_pageserver.wait_lsn(:'tenant', :'main', 'FF/0', '10 ms') AS not_reached;

-- a page through the ancestors is the same page; a catalog's first page is not empty
SELECT length(a) AS length, a = b AS same, get_byte(a, 18) AS page_size_and_version
FROM neon_pageserver.get_page(:'tenant', :'main', 1663, 1, 1259, 0, 0, :'start_lsn') a,
	neon_pageserver.get_page(:'tenant', '33333333333333333333333333333333', 1663, 1, 1259, 0, 0, :'start_lsn') b;
SELECT neon_pageserver.lease_lsn(:'tenant', :'main', :'start_lsn', '1 hour') > now() + interval '59 minutes' AS leased;

-- refusals
SELECT neon_pageserver.tenant_create(:'tenant');
SELECT neon_pageserver.tenant_create('not an id');
SELECT neon_pageserver.tenant_create(repeat('0', 32));
SELECT neon_pageserver.tenant_create(NULL, '{"segsize": 5}');
SELECT neon_pageserver.tenant_create(NULL, '{"checksums": "perhaps"}');
SELECT neon_pageserver.tenant_create(NULL, '{"nonsense": 1}');
SELECT neon_pageserver.branch_create(:'tenant', 'main', 'main');
SELECT neon_pageserver.branch_create(:'tenant', 'x', 'y');
SELECT neon_pageserver.branch_create(:'tenant', '-x', 'main');
SELECT neon_pageserver.branch_create(:'tenant', 'x y', 'main');
SELECT neon_pageserver.branch_create(:'tenant', '', 'main');
SELECT neon_pageserver.branch_create(:'tenant', :'main', 'main');
SELECT neon_pageserver.branch_create(:'tenant', repeat('x', 64), 'main');
SELECT neon_pageserver.branch_create(:'tenant', 'x', 'main', '0/1', now());
SELECT neon_pageserver.timeline_rename(:'tenant', 'first', 'second');
SELECT neon_pageserver.timeline_delete(:'tenant', :'main');
SELECT neon_pageserver.timeline_delete(:'tenant', '44444444444444444444444444444444');
SELECT neon_pageserver.get_page(:'tenant', :'main', 1663, 1, 1259, 4, 0, :'start_lsn');
SELECT neon_pageserver.get_page(:'tenant', :'main', 1663, 1, 1259, 0, 4294967295, :'start_lsn');
CALL neon_pageserver.basebackup(:'tenant', :'main', :'start_lsn', 0, 'primary');
CALL neon_pageserver.basebackup(:'tenant', :'main', :'start_lsn', 1, 'static');
CALL neon_pageserver.basebackup(:'tenant', :'main', :'start_lsn', 0, 'other');
CALL neon_pageserver.basebackup(:'tenant', :'main', NULL, 0, 'static');
BEGIN;
SELECT neon_pageserver.tenant_delete(:'tenant');
ROLLBACK;
BEGIN;
CALL neon_pageserver.pagestream(:'tenant', :'main');
ROLLBACK;

-- the tenant's role: its own tenant only, and only what computes need
SET ROLE tenant_0123456789abcdef0123456789abcdef;
SELECT count(*) FROM neon_pageserver.branches(:'tenant');
SELECT count(*) FROM neon_pageserver.branches('44444444444444444444444444444444');
SELECT neon_pageserver.tenant_delete(:'tenant');
SELECT count(*) FROM neon_pageserver.timelines;
RESET ROLE;

-- deletion, children first
SELECT neon_pageserver.timeline_delete(:'tenant', '33333333333333333333333333333333');
SELECT neon_pageserver.timeline_delete(:'tenant', '22222222222222222222222222222222');
SELECT name FROM neon_pageserver.branches(:'tenant') ORDER BY name COLLATE "C";
SELECT neon_pageserver.tenant_delete(:'tenant');
SELECT count(*) FROM neon_pageserver.timelines WHERE tenant_id = :'tenant';
SELECT count(*) FROM pg_roles WHERE rolname = 'tenant_' || :'tenant';
SELECT neon_pageserver.tenant_delete(:'tenant');

-- counters
SELECT count(*) > 10 AS counters, bool_and(value >= 0) AS sane FROM neon_pageserver.stat_pageserver;
