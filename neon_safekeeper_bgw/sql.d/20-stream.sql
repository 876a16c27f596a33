-- ---- where WAL comes from: streamfuncs.c ----

CREATE FUNCTION neon_safekeeper.receive(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint, term int,
	boot_id text, conninfo text)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_sk_receive'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.tail(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, term int, from_lsn pg_lsn,
	max_bytes int,
	OUT history jsonb, OUT data bytea)
AS 'MODULE_PATHNAME', 'neon_sk_tail'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.log_beginning(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, asked_term int,
	OUT wal_start pg_lsn, OUT first_record pg_lsn, OUT commit_lsn pg_lsn, OUT term int,
	OUT term_start pg_lsn, OUT boot_id text, OUT data bytea)
AS 'MODULE_PATHNAME', 'neon_sk_log_beginning'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
