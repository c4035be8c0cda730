-- Answers the statements that make the three roles what they have to be: none if they are.
-- For a superuser. Rights on what is in the database are the other file's.
WITH wanted (name, replication, comment) AS (VALUES
    ('k1_server', false, 'Conductor''s own. Kept by k1ops.'),
    ('k1_backup', true, 'Reads everything, for backups. Kept by k1ops.'),
    ('k1_query', false, 'Reads tables, for questions. Kept by k1ops.')
), found AS (
    SELECT w.*, r.* FROM wanted w JOIN pg_catalog.pg_roles r ON r.rolname = w.name
), groups (member, name) AS (VALUES
    ('k1_backup', 'pg_read_all_data'),
    ('k1_backup', 'pg_read_all_settings')
)
SELECT format('CREATE ROLE %I', name) FROM wanted
WHERE name NOT IN (SELECT name FROM found)
UNION ALL
-- Whoever reads all rows must not be kept from some of them by a policy.
SELECT format('ALTER ROLE %I LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE %s', name,
    CASE WHEN replication THEN 'REPLICATION BYPASSRLS' ELSE 'NOREPLICATION NOBYPASSRLS' END)
FROM found
WHERE NOT (rolcanlogin AND rolinherit) OR rolsuper OR rolcreatedb OR rolcreaterole
    OR rolreplication <> replication OR rolbypassrls <> replication
UNION ALL
SELECT format('COMMENT ON ROLE %I IS %L', name, comment) FROM found
WHERE pg_catalog.shobj_description(oid, 'pg_authid') IS DISTINCT FROM comment
UNION ALL
SELECT format('GRANT %I TO %I', g.name, g.member) FROM groups g
WHERE g.member IN (SELECT name FROM found) AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_auth_members m
    JOIN pg_catalog.pg_roles p ON p.oid = m.roleid
    JOIN pg_catalog.pg_roles r ON r.oid = m.member
    WHERE p.rolname = g.name AND r.rolname = g.member)
UNION ALL
SELECT format('REVOKE %I FROM %I', p.rolname, f.name)
FROM pg_catalog.pg_auth_members m
JOIN pg_catalog.pg_roles p ON p.oid = m.roleid
JOIN found f ON f.oid = m.member
WHERE NOT EXISTS (SELECT FROM groups g WHERE g.name = p.rolname AND g.member = f.name)
UNION ALL
-- A default, not a guard: what guards is that nothing is granted.
SELECT format('ALTER ROLE %I SET default_transaction_read_only = on', name) FROM found
WHERE name <> 'k1_server' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_db_role_setting s
    WHERE s.setrole = found.oid AND s.setdatabase = 0
      AND 'default_transaction_read_only=on' = ANY (s.setconfig))
