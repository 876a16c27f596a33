/* neon_pageserver: installed with CREATE EXTENSION neon_pageserver */

-- complain if the script is sourced in psql
\echo Use "CREATE EXTENSION neon_pageserver" to load this file. \quit

-- tenants, timelines and boots: 128 bits as lower-case hexadecimal digits
CREATE DOMAIN neon_pageserver.id AS text
	CHECK (VALUE ~ '^[0-9a-f]{32}$');
