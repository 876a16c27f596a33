
-- the store against a model: runs the steps that follow from a seed, then compares
CREATE FUNCTION neon_test.store_model(seed bigint, steps int, lookups int)
RETURNS int
AS 'MODULE_PATHNAME', 'neon_test_store_model' LANGUAGE C STRICT;

-- compares only
CREATE FUNCTION neon_test.store_read(seed bigint, steps int, lookups int)
RETURNS int
AS 'MODULE_PATHNAME', 'neon_test_store_read' LANGUAGE C STRICT;

CREATE FUNCTION neon_test.store_bench(seed bigint, refs int, pages int)
RETURNS text
AS 'MODULE_PATHNAME', 'neon_test_store_bench' LANGUAGE C STRICT;
