
-- ---- serving: readers, replication slots ----

CREATE FUNCTION neon_safekeeper.readers(OUT pid int, OUT tenant_id text, OUT timeline_id text)
RETURNS SETOF record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'neon_sk_readers';

CREATE VIEW neon_safekeeper.stat_replication AS
  SELECT r.tenant_id, r.timeline_id, s.*
    FROM neon_safekeeper.readers() r JOIN pg_stat_replication s USING (pid);

CREATE FUNCTION neon_safekeeper.slots(OUT tenant_id text, OUT timeline_id text, OUT slot_name name,
  OUT temporary bool, OUT active bool, OUT active_pid int, OUT restart_lsn pg_lsn,
  OUT wal_status text, OUT safe_wal_size bigint)
RETURNS SETOF record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'neon_sk_slots';

CREATE VIEW neon_safekeeper.replication_slots AS
  SELECT tenant_id, timeline_id, slot_name, 'physical'::text AS slot_type, temporary, active,
         active_pid, restart_lsn, wal_status, safe_wal_size
    FROM neon_safekeeper.slots();

CREATE FUNCTION neon_safekeeper.create_physical_replication_slot(tenant text, timeline text,
  slot_name text, immediately_reserve bool DEFAULT false)
RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'neon_sk_create_slot';

CREATE FUNCTION neon_safekeeper.drop_replication_slot(tenant text, timeline text, slot_name text)
RETURNS void LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'neon_sk_drop_slot';
