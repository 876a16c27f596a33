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
