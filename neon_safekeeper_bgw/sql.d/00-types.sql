/* neon_safekeeper: installed with CREATE EXTENSION neon_safekeeper */

-- complain if the script is sourced in psql
\echo Use "CREATE EXTENSION neon_safekeeper" to load this file. \quit

-- tenants, timelines and nodes: 128 bits as lower-case hexadecimal digits
CREATE DOMAIN neon_safekeeper.id AS text
	CHECK (VALUE ~ '^[0-9a-f]{32}$');

-- who asks: peers and the pageserver; computes (roles of tenants are members of neon_tenant)
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_storage') THEN
		CREATE ROLE neon_storage LOGIN REPLICATION;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'neon_tenant') THEN
		CREATE ROLE neon_tenant NOLOGIN;
	END IF;
END $$;
