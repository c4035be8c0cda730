-- Answers the statements that give the three roles their rights in this database, and take from them
-- what is none of theirs: none if all is so. For a superuser; the roles are there.
--
-- REASSIGN OWNED does not work for the role that initdb made: what is its own is not told from what
-- is the server's. So every object is named.
WITH own_schema AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
    WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
), of_extension AS (
    SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
), relation AS (
    SELECT c.oid, c.relkind, c.relowner, c.relacl,
        n.nspname = 'public' AND c.relname ~ '^k1_' AS is_k1
    FROM pg_catalog.pg_class c JOIN own_schema n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND ('pg_catalog.pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM of_extension)
), object (classid, oid, owner, is_k1) AS (
    -- A sequence that belongs to a column goes with its table.
    SELECT 'pg_catalog.pg_class'::regclass, r.oid, r.relowner, r.is_k1 FROM relation r
    WHERE NOT (r.relkind = 'S' AND EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = r.oid
          AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')))
    UNION ALL
    -- Neither the row type of a table, nor the array or multirange that comes with a type.
    SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typowner, t.typname ~ '^_?k1_'
    FROM pg_catalog.pg_type t JOIN own_schema n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('b', 'c', 'd', 'e', 'r')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c
                      WHERE c.oid = t.typrelid AND c.relkind <> 'c')
    UNION ALL
    SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.proowner, p.proname ~ '^k1_'
    FROM pg_catalog.pg_proc p JOIN own_schema n ON n.oid = p.pronamespace
    UNION ALL
    SELECT 'pg_catalog.pg_operator'::regclass, o.oid, o.oprowner, false
    FROM pg_catalog.pg_operator o JOIN own_schema n ON n.oid = o.oprnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_opclass'::regclass, o.oid, o.opcowner, false
    FROM pg_catalog.pg_opclass o JOIN own_schema n ON n.oid = o.opcnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_opfamily'::regclass, o.oid, o.opfowner, false
    FROM pg_catalog.pg_opfamily o JOIN own_schema n ON n.oid = o.opfnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_collation'::regclass, c.oid, c.collowner, false
    FROM pg_catalog.pg_collation c JOIN own_schema n ON n.oid = c.collnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_conversion'::regclass, c.oid, c.conowner, false
    FROM pg_catalog.pg_conversion c JOIN own_schema n ON n.oid = c.connamespace
    UNION ALL
    SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxowner, s.stxname ~ '^k1_'
    FROM pg_catalog.pg_statistic_ext s JOIN own_schema n ON n.oid = s.stxnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_ts_config'::regclass, c.oid, c.cfgowner, false
    FROM pg_catalog.pg_ts_config c JOIN own_schema n ON n.oid = c.cfgnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictowner, false
    FROM pg_catalog.pg_ts_dict d JOIN own_schema n ON n.oid = d.dictnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_largeobject'::regclass, l.oid, l.lomowner, false
    FROM pg_catalog.pg_largeobject_metadata l
    UNION ALL
    SELECT 'pg_catalog.pg_namespace'::regclass, s.oid, s.nspowner, s.nspname ~ '^k1_'
    FROM own_schema s WHERE s.nspname <> 'public'
), moved AS (
    SELECT i.type, i.identity, o.is_k1 FROM object o
    JOIN pg_catalog.pg_roles r ON r.oid = o.owner
    CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.oid, 0) i
    WHERE r.rolname = CASE WHEN o.is_k1 THEN 'k1_server' ELSE current_user END
      AND (o.classid, o.oid) NOT IN (SELECT classid, objid FROM of_extension)
), granted AS (
    SELECT r.oid, r.relkind, r.relowner, r.is_k1, a.grantee, a.privilege_type AS privilege,
        CASE r.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS word
    FROM relation r CROSS JOIN LATERAL pg_catalog.aclexplode(r.relacl) a
), this AS (
    SELECT d.oid, d.datname, coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba)) AS acl
    FROM pg_catalog.pg_database d WHERE d.datname = current_database()
)
SELECT format('ALTER %s %s OWNER TO %I',
    CASE WHEN type = 'composite type' THEN 'TYPE'
         WHEN type = 'statistics object' THEN 'STATISTICS' ELSE upper(type) END,
    identity, CASE WHEN is_k1 THEN current_user ELSE 'k1_server' END)
FROM moved
UNION ALL
-- Nobody makes anything where Conductor looks for its own.
SELECT format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', s.nspname)
FROM own_schema s CROSS JOIN LATERAL pg_catalog.aclexplode(s.nspacl) a
WHERE a.grantee = 0 AND a.privilege_type = 'CREATE'
UNION ALL
SELECT 'REVOKE TEMPORARY ON DATABASE ' || quote_ident(t.datname) || ' FROM PUBLIC'
FROM this t CROSS JOIN LATERAL pg_catalog.aclexplode(t.acl) a
WHERE a.grantee = 0 AND a.privilege_type = 'TEMPORARY'
UNION ALL
SELECT format('GRANT %s ON DATABASE %I TO %I', g.privilege, t.datname, g.role)
FROM this t CROSS JOIN (VALUES ('k1_server', 'CONNECT'), ('k1_server', 'TEMPORARY'),
    ('k1_backup', 'CONNECT'), ('k1_query', 'CONNECT')) g (role, privilege)
WHERE NOT EXISTS (SELECT FROM pg_catalog.aclexplode(t.acl) a
    WHERE a.grantee = g.role::regrole AND a.privilege_type = g.privilege)
UNION ALL
SELECT format('REVOKE %s ON DATABASE %I FROM %s', a.privilege_type, t.datname,
    a.grantee::regrole)
FROM this t CROSS JOIN LATERAL pg_catalog.aclexplode(t.acl) a
WHERE a.grantee = ANY ('{k1_server,k1_backup,k1_query}'::regrole[])
  AND NOT (a.privilege_type = 'CONNECT'
      OR a.grantee = 'k1_server'::regrole AND a.privilege_type = 'TEMPORARY')
UNION ALL
SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO k1_server', nspname) FROM own_schema
WHERE nspname = 'public' AND NOT (has_schema_privilege('k1_server', oid, 'USAGE')
    AND has_schema_privilege('k1_server', oid, 'CREATE'))
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %I TO k1_query', nspname) FROM own_schema
WHERE NOT has_schema_privilege('k1_query', oid, 'USAGE')
UNION ALL
SELECT format('REVOKE CREATE ON SCHEMA %I FROM %s', s.nspname, a.grantee::regrole)
FROM own_schema s CROSS JOIN LATERAL pg_catalog.aclexplode(s.nspacl) a
WHERE a.grantee = ANY ('{k1_backup,k1_query}'::regrole[]) AND a.privilege_type = 'CREATE'
UNION ALL
SELECT format('GRANT SELECT ON TABLE %s TO k1_query', r.oid::regclass) FROM relation r
WHERE r.relkind <> 'S' AND NOT EXISTS (SELECT FROM granted g
    WHERE g.oid = r.oid AND g.grantee = 'k1_query'::regrole AND g.privilege = 'SELECT')
UNION ALL
SELECT format('REVOKE %s ON %s %s FROM %s', privilege, word, oid::regclass,
    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
FROM granted
WHERE grantee <> relowner AND (
    grantee = 'k1_backup'::regrole AND privilege <> 'SELECT'
    OR grantee = 'k1_query'::regrole AND privilege <> 'SELECT'
    OR grantee IN (0, 'k1_server'::regrole) AND is_k1)
UNION ALL
-- For tables that are made later, by Conductor or by k1ops.
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT SELECT ON TABLES TO k1_query', w.maker)
FROM (VALUES ('k1_server'::name), (current_user)) w (maker)
WHERE NOT EXISTS (
    SELECT FROM pg_catalog.pg_default_acl d CROSS JOIN LATERAL pg_catalog.aclexplode(d.defaclacl) a
    WHERE d.defaclrole = w.maker::regrole AND d.defaclnamespace = 0 AND d.defaclobjtype = 'r'
      AND a.grantee = 'k1_query'::regrole AND a.privilege_type = 'SELECT')
UNION ALL
SELECT format('GRANT SELECT ON LARGE OBJECT %s TO k1_backup', l.oid)
FROM pg_catalog.pg_largeobject_metadata l
WHERE NOT EXISTS (SELECT FROM pg_catalog.aclexplode(l.lomacl) a
    WHERE a.grantee = 'k1_backup'::regrole AND a.privilege_type = 'SELECT')
