
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

-- layer files against a model; the number of versions
CREATE FUNCTION neon_test.layer_model(tenant text, timeline text, seed bigint, keys int, image bool)
RETURNS bigint
AS 'MODULE_PATHNAME', 'neon_test_layer_model' LANGUAGE C STRICT;

-- every byte of a file changed, and the file cut after it
CREATE FUNCTION neon_test.layer_flips(tenant text, timeline text, seed bigint, keys int, image bool)
RETURNS bigint
AS 'MODULE_PATHNAME', 'neon_test_layer_flips' LANGUAGE C STRICT;

-- the same steps with compaction and a moving horizon between them: the number of jobs
CREATE FUNCTION neon_test.store_gc(seed bigint, steps int, lookups int)
RETURNS bigint
AS 'MODULE_PATHNAME', 'neon_test_store_gc' LANGUAGE C STRICT;

-- compares only
CREATE FUNCTION neon_test.store_gc_read(seed bigint, steps int, lookups int)
RETURNS int
AS 'MODULE_PATHNAME', 'neon_test_store_gc_read' LANGUAGE C STRICT;

-- the steps without anything between them, then one act on all timelines: put (none), flush,
-- compact, horizon, lease, branch (makes one that no step makes), fill (something of its own for that),
-- point (plants a fault: a history point that a rewrite at the horizon did not know of)
CREATE FUNCTION neon_test.store_act(seed bigint, steps int, what text)
RETURNS bigint
AS 'MODULE_PATHNAME', 'neon_test_store_act' LANGUAGE C STRICT;

-- plants a fault: readers do not look into wide files any more
CREATE FUNCTION neon_test.hide_versions(tenant text, timeline text)
RETURNS void
AS 'MODULE_PATHNAME', 'neon_test_hide_versions' LANGUAGE C STRICT;
