-- 0.2.0 → 0.3.0: what a superuser owns is kept from others, and what default privileges have given away is taken back.
\echo Use "ALTER EXTENSION s3_export UPDATE" to load this file. \quit

-- The policies do not suffice, since a role with BYPASSRLS is not bound by them. A superuser's ownership stands for every
-- column: the endpoint may be private, the secret was given for these locations and this usage_role, and exports name it.
CREATE FUNCTION s3_export.keep_what_superusers_own() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles AS r
               WHERE r.oid OPERATOR(pg_catalog.=) OLD.owner_oid AND r.rolsuper AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE')) THEN
        RAISE EXCEPTION 'only a superuser may change an integration that a superuser owns'
            USING ERRCODE = 'insufficient_privilege', DETAIL = pg_catalog.format('It is integration "%s".', OLD.name);
    END IF;
    IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION s3_export.keep_what_superusers_own() IS 'refuses changes of a superuser''s integration by others';
REVOKE ALL ON FUNCTION s3_export.keep_what_superusers_own() FROM PUBLIC;

CREATE TRIGGER a_keep_what_superusers_own BEFORE UPDATE OR DELETE ON s3_export.integrations
    FOR EACH ROW EXECUTE FUNCTION s3_export.keep_what_superusers_own();
COMMENT ON TRIGGER a_keep_what_superusers_own ON s3_export.integrations IS
    'refuses changes of a superuser''s integration by others';

-- Rows that came without the triggers, such as those of a restore with triggers switched off, have the OIDs of another cluster.
ALTER TABLE s3_export.integrations ADD COLUMN owner_cluster bigint;
COMMENT ON COLUMN s3_export.integrations.owner_cluster IS
    'system identifier of the cluster that owner_oid was set in; reclaim_integrations trusts the OID in that cluster alone';
-- Name and OID of an owner that exists are of this cluster. No trigger runs meanwhile, since default privileges may have let others make
-- one.
SET LOCAL session_replication_role = 'replica';
UPDATE ONLY s3_export.integrations AS i SET owner_cluster = s.system_identifier
    FROM pg_catalog.pg_control_system() AS s, pg_catalog.pg_roles AS r
    WHERE r.oid OPERATOR(pg_catalog.=) i.owner_oid AND r.rolname OPERATOR(pg_catalog.=) i.owner;
SET LOCAL session_replication_role = 'origin';

CREATE OR REPLACE FUNCTION s3_export.before_integration_update() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.integration_id IS DISTINCT FROM OLD.integration_id THEN
        RAISE EXCEPTION 'integration_id of an integration never changes' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    NEW.owner_oid := OLD.owner_oid;
    NEW.owner_cluster := OLD.owner_cluster;
    NEW.usage_role_oid := OLD.usage_role_oid;
    NEW.updated_at := pg_catalog.now();
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION s3_export.resolve_role() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted pg_catalog.name := CASE TG_ARGV[0] WHEN 'owner' THEN NEW.owner ELSE NEW.usage_role END;
    found pg_catalog.oid := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) wanted);
BEGIN
    IF TG_ARGV[0] OPERATOR(pg_catalog.=) 'owner' THEN
        NEW.owner_oid := found;
        NEW.owner_cluster := (SELECT system_identifier FROM pg_catalog.pg_control_system() WHERE found IS NOT NULL);
    ELSE
        NEW.usage_role_oid := found;
    END IF;
    -- The policies say the same, and do not bind roles with BYPASSRLS.
    IF TG_ARGV[0] OPERATOR(pg_catalog.=) 'owner'
       AND NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user)
       AND NOT coalesce(pg_catalog.pg_has_role(found, 'USAGE'), false) THEN
        RAISE EXCEPTION 'permission denied to make role "%" the owner of an integration', wanted
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- No error: a restore may well come before its roles.
    IF found IS NULL AND wanted OPERATOR(pg_catalog.<>) 'public' THEN
        RAISE WARNING '% of integration "%" does not exist: role "%"', TG_ARGV[0], NEW.name, wanted
            USING HINT = pg_catalog.format('Once it does: UPDATE s3_export.integrations SET %I = %L WHERE name = %L.',
                                           TG_ARGV[0], wanted, NEW.name);
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION s3_export.reclaim_integrations() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_reclaim_integrations';
COMMENT ON FUNCTION s3_export.reclaim_integrations() IS
    'after ALTER ROLE RENAME of a role of yours: writes its new name as the owner of its integrations, while no other role has the old name; gives how many. usage_role is then the owner''s to write';
-- It acts on what its caller owns; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.reclaim_integrations() FROM PUBLIC;

-- GRANTs and the view that calls the function stay.
ALTER FUNCTION s3_export.death(uuid) RENAME TO lost_worker;

-- Other servers than Amazon's name regions as they like, and may lie below a path. All that was taken is taken still.
ALTER TABLE s3_export.integrations
    DROP CONSTRAINT region_is_a_name,
    ADD CONSTRAINT region_is_a_name
        CHECK (region OPERATOR(pg_catalog.~) '^[a-z0-9-]{1,64}$'
               OR endpoint IS NOT NULL AND region OPERATOR(pg_catalog.~) '^[A-Za-z0-9._-]{1,64}$'),
    DROP CONSTRAINT endpoint_is_a_url,
    ADD CONSTRAINT endpoint_is_a_url
        CHECK (endpoint OPERATOR(pg_catalog.~) '^https?://[^/?#@[:space:]]+(/[A-Za-z0-9._~-]+)*/?$');
COMMENT ON CONSTRAINT region_is_a_name ON s3_export.integrations IS 'lower-case letters, digits and hyphens; with an endpoint, capitals, dots and underscores too';
COMMENT ON CONSTRAINT endpoint_is_a_url ON s3_export.integrations IS 'a scheme, a host, and perhaps a path';
COMMENT ON COLUMN s3_export.integrations.endpoint IS
    'another server than Amazon''s, https://host[:port][/path]; changing it voids the sealed credentials; http needs a superuser';

-- A trigger outlives the privilege TRIGGER that it was made with, and runs with the rights of whoever writes the table. A trigger of
-- the extension's own that somebody has replaced, which needs no more than that privilege, is put back.
DO $$
DECLARE
    -- As src/pg/sql.rs has them.
    own CONSTANT pg_catalog.text[] := ARRAY[
        'CREATE TRIGGER a_before_integration_update BEFORE UPDATE ON s3_export.integrations'
        ' FOR EACH ROW EXECUTE FUNCTION s3_export.before_integration_update()',
        'CREATE TRIGGER a_keep_what_superusers_own BEFORE DELETE OR UPDATE ON s3_export.integrations'
        ' FOR EACH ROW EXECUTE FUNCTION s3_export.keep_what_superusers_own()',
        'CREATE TRIGGER b_resolve_owner BEFORE INSERT OR UPDATE OF owner ON s3_export.integrations'
        ' FOR EACH ROW EXECUTE FUNCTION s3_export.resolve_role(''owner'')',
        'CREATE TRIGGER b_resolve_usage_role BEFORE INSERT OR UPDATE OF usage_role ON s3_export.integrations'
        ' FOR EACH ROW EXECUTE FUNCTION s3_export.resolve_role(''usage_role'')',
        'CREATE TRIGGER c_keep_to_superusers AFTER INSERT OR UPDATE ON s3_export.integrations'
        ' FOR EACH ROW WHEN (((new.credential_source <> ''keys''::text) OR (new.endpoint ~ ''^http://''::text)'
        ' OR (new.sts_endpoint ~ ''^http://''::text))) EXECUTE FUNCTION s3_export.keep_to_superusers()'];
    foreigner record;
    definition pg_catalog.text;
BEGIN
    -- Definitions are printed and read as above; the end of this script undoes the settings.
    PERFORM pg_catalog.set_config('quote_all_identifiers', 'off', true);
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    FOR foreigner IN
        SELECT 'trigger' AS kind, t.tgname AS name, t.tgrelid::pg_catalog.regclass AS relation
        FROM pg_catalog.pg_trigger AS t
        WHERE t.tgrelid OPERATOR(pg_catalog.=) ANY (ARRAY['s3_export.integrations', 's3_export.credentials', 's3_export.jobs']
                                                    ::pg_catalog.regclass[]::pg_catalog.oid[])
              AND NOT t.tgisinternal AND pg_catalog.pg_get_triggerdef(t.oid) OPERATOR(pg_catalog.<>) ALL (own)
        UNION ALL
        SELECT 'foreign key', c.conname, c.confrelid::pg_catalog.regclass
        FROM pg_catalog.pg_constraint AS c
        WHERE c.confrelid OPERATOR(pg_catalog.=) ANY (ARRAY['s3_export.integrations', 's3_export.credentials', 's3_export.jobs']
                                                      ::pg_catalog.regclass[]::pg_catalog.oid[])
              AND c.conrelid OPERATOR(pg_catalog.<>) 's3_export.credentials'::pg_catalog.regclass
        ORDER BY 1, 2, 3
    LOOP
        RAISE WARNING '% "%" on table % is not the extension''s', foreigner.kind, foreigner.name, foreigner.relation
            USING DETAIL = 'Its code would run with the rights of whoever writes the table, a superuser among them.',
                  HINT = 'A superuser has to look who made it, and to drop it; exports and changes of integrations may be refused '
                         'until then. Triggers of the extension''s own are put back.';
    END LOOP;
    FOREACH definition IN ARRAY own LOOP
        EXECUTE pg_catalog.replace(definition, 'CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER');
    END LOOP;
END
$$;

-- Last, since default privileges have widened what this script has made, too: the privileges that nobody meant to give.
--
-- The installation script has granted nothing to others than the two roles. So what pg_init_privs holds beside that came from
-- default privileges (ALTER DEFAULT PRIVILEGES of the installing role), and a privilege that a superuser has granted since is
-- not there and is kept. What lets a role run code as a superuser, or read and write the queries and secrets of all, is taken
-- back whoever has granted it.
DO $$
DECLARE
    widened record;
    columns pg_catalog.text[];
    again pg_catalog.text;
BEGIN
    FOR widened IN
        WITH made AS (
            SELECT d.classid, d.objid
            FROM pg_catalog.pg_depend AS d
            JOIN pg_catalog.pg_extension AS e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
            WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
                  AND d.deptype OPERATOR(pg_catalog.=) 'e' AND e.extname OPERATOR(pg_catalog.=) 's3_export'
        ), object AS (
            SELECT m.classid, m.objid, c.relname AS name, c.relowner AS owner, c.relacl AS acl,
                pg_catalog.format('TABLE %I.%I', n.nspname, c.relname) AS designation
            FROM made AS m
            JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) m.objid
            JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
            UNION ALL
            -- A privilege on one column of these is as bad as one on the table.
            SELECT m.classid, m.objid, c.relname, c.relowner, t.attacl, pg_catalog.format('TABLE %I.%I', n.nspname, c.relname)
            FROM made AS m
            JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) m.objid
            JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
            JOIN pg_catalog.pg_attribute AS t ON t.attrelid OPERATOR(pg_catalog.=) c.oid
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND c.relname OPERATOR(pg_catalog.=) ANY (ARRAY['credentials', 'jobs']::pg_catalog.name[])
            UNION ALL
            SELECT m.classid, m.objid, p.proname, p.proowner, p.proacl,
                pg_catalog.format('FUNCTION %s', p.oid::pg_catalog.regprocedure)
            FROM made AS m JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) m.objid
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
            UNION ALL
            SELECT m.classid, m.objid, n.nspname, n.nspowner, n.nspacl, pg_catalog.format('SCHEMA %I', n.nspname)
            FROM made AS m JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) m.objid
            WHERE m.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass
        ), meant (privilege, names, roles) AS (
            VALUES
                ('USAGE', ARRAY['s3_export'], ARRAY['s3_export_member', 's3_export_admin']),
                ('SELECT', ARRAY['exports'], ARRAY['s3_export_member', 's3_export_admin']),
                ('SELECT', ARRAY['owned_identifiers'], ARRAY['s3_export_admin']),
                ('INSERT', ARRAY['integrations'], ARRAY['s3_export_admin']),
                ('UPDATE', ARRAY['integrations'], ARRAY['s3_export_admin']),
                ('DELETE', ARRAY['integrations'], ARRAY['s3_export_admin']),
                ('EXECUTE', ARRAY['running', 'lost_worker', 'wait', 'cancel', 'prune', 'options'],
                 ARRAY['s3_export_member', 's3_export_admin']),
                ('EXECUTE', ARRAY['s3_export', 's3_export_async'], ARRAY['s3_export_member']),
                ('EXECUTE', ARRAY['create_integration', 'set_credentials', 'set_credentials_from_file', 'validate_integration',
                                  'cleanup', 'iam_policy', 'trust_policy'], ARRAY['s3_export_admin'])
        ), given AS (
            SELECT o.*, a.grantee, a.privilege_type, a.is_grantable,
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END AS role,
                EXISTS (SELECT FROM meant AS m
                        WHERE m.privilege OPERATOR(pg_catalog.=) a.privilege_type
                              AND o.name OPERATOR(pg_catalog.=) ANY (m.names)
                              AND a.grantee::pg_catalog.regrole::pg_catalog.text OPERATOR(pg_catalog.=) ANY (m.roles)) AS is_meant,
                EXISTS (SELECT FROM pg_catalog.pg_init_privs AS i, LATERAL pg_catalog.aclexplode(i.initprivs) AS b
                        WHERE i.classoid OPERATOR(pg_catalog.=) o.classid AND i.objoid OPERATOR(pg_catalog.=) o.objid
                              AND i.objsubid OPERATOR(pg_catalog.=) 0 AND b.grantee OPERATOR(pg_catalog.=) a.grantee
                              AND b.privilege_type OPERATOR(pg_catalog.=) a.privilege_type) AS is_initial,
                o.name OPERATOR(pg_catalog.=) ANY (ARRAY['credentials', 'jobs', 'reseal']::pg_catalog.name[])
                OR a.privilege_type OPERATOR(pg_catalog.=) ANY (ARRAY['TRIGGER', 'TRUNCATE', 'REFERENCES', 'MAINTAIN', 'CREATE'])
                AS is_dangerous
            FROM object AS o, LATERAL pg_catalog.aclexplode(o.acl) AS a
            WHERE a.grantee OPERATOR(pg_catalog.<>) o.owner
        )
        SELECT DISTINCT g.objid, g.name, g.designation, g.grantee, g.role, g.privilege_type AS privilege,
            g.is_meant AS only_the_option
        FROM given AS g
        WHERE (g.is_dangerous OR g.is_initial) AND (g.is_grantable OR NOT g.is_meant)
        ORDER BY g.designation, g.role, g.privilege_type
    LOOP
        RAISE WARNING 'privilege % on % was taken back from %',
            CASE WHEN widened.only_the_option THEN 'to grant ' ELSE '' END OPERATOR(pg_catalog.||) widened.privilege,
            widened.designation, widened.role
            USING DETAIL = 'Default privileges had given it, or it would have made the role as powerful as a superuser.';
        -- A REVOKE from the table takes the columns along.
        columns := ARRAY(
            SELECT pg_catalog.format('GRANT %s (%s) ON %s TO %s%s', widened.privilege,
                       pg_catalog.string_agg(pg_catalog.quote_ident(t.attname), ', ' ORDER BY t.attnum), widened.designation,
                       widened.role, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
            FROM pg_catalog.pg_attribute AS t, LATERAL pg_catalog.aclexplode(t.attacl) AS a
            WHERE widened.name OPERATOR(pg_catalog.=) 'integrations' AND t.attrelid OPERATOR(pg_catalog.=) widened.objid
                  AND a.grantee OPERATOR(pg_catalog.=) widened.grantee
                  AND a.privilege_type OPERATOR(pg_catalog.=) widened.privilege
                  AND a.privilege_type OPERATOR(pg_catalog.=) ANY (ARRAY['SELECT', 'INSERT', 'UPDATE'])
            GROUP BY a.is_grantable);
        EXECUTE pg_catalog.format('REVOKE %s%s ON %s FROM %s CASCADE',
                                  CASE WHEN widened.only_the_option THEN 'GRANT OPTION FOR ' ELSE '' END, widened.privilege,
                                  widened.designation, widened.role);
        FOREACH again IN ARRAY columns LOOP
            EXECUTE again;
        END LOOP;
    END LOOP;
END
$$;

GRANT EXECUTE ON FUNCTION s3_export.reclaim_integrations() TO s3_export_admin;
