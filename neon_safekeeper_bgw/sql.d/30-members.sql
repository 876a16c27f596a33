-- ---- changing the members: memberfuncs.c ----

CREATE FUNCTION neon_safekeeper.configuration(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id,
	OUT generation bigint, OUT floor int,
	OUT members text,			-- ID:NODE:HOST:PORT,...; joint: old ones;new ones
	OUT config jsonb, OUT history jsonb,
	OUT commit_lsn pg_lsn)		-- below it, the history is final
AS 'MODULE_PATHNAME', 'neon_sk_configuration'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION neon_safekeeper.follow(
	tenant neon_safekeeper.id, timeline neon_safekeeper.id, generation bigint,
	history jsonb, upto pg_lsn, donor text, timeout interval DEFAULT '5 s',
	OUT flush_lsn pg_lsn, OUT commit_lsn pg_lsn)
AS 'MODULE_PATHNAME', 'neon_sk_follow'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

