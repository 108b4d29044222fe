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

-- Logical replication brings jobs of another cluster, whose database may have the same OID. A rewrite fires no trigger.
ALTER TABLE s3_export.jobs
    ADD COLUMN cluster bigint NOT NULL DEFAULT (pg_catalog.pg_control_system()).system_identifier;
COMMENT ON COLUMN s3_export.jobs.cluster IS
    'system identifier of the cluster that the job was enqueued in; a subscriber to the table runs none of its jobs';

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

-- How much a grant can move at once.
ALTER TABLE s3_export.integrations
    ADD COLUMN max_documents bigint
        CONSTRAINT max_documents_is_positive CHECK (max_documents OPERATOR(pg_catalog.>) 0),
    ADD COLUMN max_bytes bigint
        CONSTRAINT max_bytes_is_positive CHECK (max_bytes OPERATOR(pg_catalog.>) 0);
COMMENT ON COLUMN s3_export.integrations.max_documents IS 'most documents of one export; NULL: any number';
COMMENT ON COLUMN s3_export.integrations.max_bytes IS 'most bytes of the files of one export, as they are stored; NULL: any number';
COMMENT ON CONSTRAINT max_documents_is_positive ON s3_export.integrations IS 'a positive number';
COMMENT ON CONSTRAINT max_bytes_is_positive ON s3_export.integrations IS 'a positive number';

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
    'after ALTER ROLE RENAME of one of your roles: writes the new name as the owner of the role''s integrations, unless another role has the old name by now; gives their number. usage_role stays, for the owner to write';
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
    'another server than Amazon''s, https://host[:port][/path]. Changing it voids the sealed credentials; http needs a superuser';

-- What objects carry.
ALTER TABLE s3_export.integrations
    ADD COLUMN tags jsonb
        CONSTRAINT tags_are_texts
        CHECK (pg_catalog.jsonb_typeof(tags) OPERATOR(pg_catalog.=) 'object'
               AND NOT pg_catalog.jsonb_path_exists(tags, '$.* ? (@.type() <> "string")', '{}', true)),
    ADD COLUMN object_lock_mode text
        CONSTRAINT object_lock_mode_is_known
        CHECK (object_lock_mode OPERATOR(pg_catalog.=) ANY (ARRAY['GOVERNANCE', 'COMPLIANCE']))
        CONSTRAINT object_lock_mode_needs_a_checksum
        CHECK (object_lock_mode IS NULL OR checksum OPERATOR(pg_catalog.<>) 'none'),
    ADD COLUMN object_lock_days integer
        CONSTRAINT object_lock_days_are_days
        CHECK (object_lock_days OPERATOR(pg_catalog.>=) 1 AND object_lock_days OPERATOR(pg_catalog.<=) 36500)
        CONSTRAINT object_lock_days_go_with_the_mode
        CHECK ((object_lock_days IS NULL) OPERATOR(pg_catalog.=) (object_lock_mode IS NULL)),
    ADD COLUMN kms_encryption_context jsonb
        CONSTRAINT kms_encryption_context_is_texts
        CHECK (pg_catalog.jsonb_typeof(kms_encryption_context) OPERATOR(pg_catalog.=) 'object'
               AND NOT pg_catalog.jsonb_path_exists(kms_encryption_context, '$.* ? (@.type() <> "string")', '{}', true))
        CONSTRAINT kms_encryption_context_goes_with_kms
        CHECK (kms_encryption_context IS NULL OR (sse IS NOT NULL AND sse OPERATOR(pg_catalog.~) '^aws:kms')),
    ADD COLUMN bucket_key boolean
        CONSTRAINT bucket_key_goes_with_kms
        CHECK (bucket_key IS NULL OR (sse IS NOT NULL AND sse OPERATOR(pg_catalog.=) 'aws:kms')),
    ADD COLUMN requester_pays boolean;
-- As a new table has it: a default that is added with its column would stay in the catalog as the value of older rows.
SET LOCAL session_replication_role = 'replica';
UPDATE ONLY s3_export.integrations SET requester_pays = false;
SET LOCAL session_replication_role = 'origin';
ALTER TABLE s3_export.integrations
    ALTER COLUMN requester_pays SET DEFAULT false,
    ALTER COLUMN requester_pays SET NOT NULL;
COMMENT ON COLUMN s3_export.integrations.tags IS
    'tags of every object, an object of texts; the option tags adds more, up to 10 in all';
COMMENT ON COLUMN s3_export.integrations.object_lock_mode IS 'Object Lock of every object: GOVERNANCE or COMPLIANCE';
COMMENT ON COLUMN s3_export.integrations.object_lock_days IS
    'days for which Object Lock keeps every object, from the beginning of the export';
COMMENT ON COLUMN s3_export.integrations.kms_encryption_context IS
    'encryption context of KMS, an object of texts, for sse aws:kms and aws:kms:dsse; no secret: CloudTrail shows it';
COMMENT ON COLUMN s3_export.integrations.bucket_key IS
    'for sse aws:kms, whether S3 Bucket Keys spare requests to KMS; NULL: they do';
COMMENT ON COLUMN s3_export.integrations.requester_pays IS 'true: every request says that the requester pays, which Requester Pays buckets ask for';
COMMENT ON CONSTRAINT tags_are_texts ON s3_export.integrations IS 'an object whose values are texts; each use checks what S3 takes';
COMMENT ON CONSTRAINT object_lock_mode_is_known ON s3_export.integrations IS 'GOVERNANCE or COMPLIANCE';
COMMENT ON CONSTRAINT object_lock_mode_needs_a_checksum ON s3_export.integrations IS 'S3 locks no object without a checksum';
COMMENT ON CONSTRAINT object_lock_days_are_days ON s3_export.integrations IS '1 to 36,500 days';
COMMENT ON CONSTRAINT object_lock_days_go_with_the_mode ON s3_export.integrations IS 'mode and days are both given, or neither';
COMMENT ON CONSTRAINT kms_encryption_context_is_texts ON s3_export.integrations IS 'an object whose values are texts';
COMMENT ON CONSTRAINT kms_encryption_context_goes_with_kms ON s3_export.integrations IS
    'an encryption context goes only with sse aws:kms and aws:kms:dsse';
COMMENT ON CONSTRAINT bucket_key_goes_with_kms ON s3_export.integrations IS 'a choice about bucket keys goes only with sse aws:kms';

-- Which feed a job runs.
ALTER TABLE s3_export.jobs ADD COLUMN feed text;
COMMENT ON COLUMN s3_export.jobs.feed IS 'feed that the job runs; NULL: a single export';

-- Which verification a job is.
ALTER TABLE s3_export.jobs ADD COLUMN verification jsonb;
COMMENT ON COLUMN s3_export.jobs.verification IS 'arguments of the verification that the job is: deep; NULL: an export';

-- A job may have several attempts, each an export of its own.
ALTER TABLE s3_export.jobs
    ADD COLUMN attempts int,
    ADD COLUMN next_attempt_at timestamptz,
    ADD COLUMN attempt_id uuid;
COMMENT ON COLUMN s3_export.jobs.attempts IS 'number of attempts that have begun; NULL: none';
COMMENT ON COLUMN s3_export.jobs.next_attempt_at IS 'when the next attempt is due, after one that failed; NULL: at once';
COMMENT ON COLUMN s3_export.jobs.attempt_id IS
    'id of the export that the last attempt is; that of the first attempt is the job''s';
-- The role that sees all, and changes nothing. Roles belong to the cluster: a second database, a restore or an earlier DROP EXTENSION has them already, and two
-- databases may be creating them at the same moment. A role that is there already may be somebody else's: whoever made it can
-- grant it, and so every privilege that it is given here.
DO $$
DECLARE
    wanted pg_catalog.name;
    purpose pg_catalog.text;
    found pg_catalog.oid;
    givers pg_catalog.text;
    members pg_catalog.text;
    attributes pg_catalog.text;
BEGIN
    FOR wanted, purpose IN VALUES
        ('s3_export_auditor', 'sees all exports of s3_export and their history, and may change nothing')
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) wanted) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', wanted);
                EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', wanted, purpose);
                CONTINUE;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        found := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) wanted);
        givers := (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(r.rolname), ', ' ORDER BY r.rolname)
                   FROM pg_catalog.pg_roles AS r
                   WHERE NOT r.rolsuper
                         -- Before Postgres 16, CREATEROLE grants any role that is no superuser.
                         AND ((r.rolcreaterole
                               AND pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.<) 160000)
                              OR EXISTS (SELECT FROM pg_catalog.pg_auth_members AS m
                                         WHERE m.roleid OPERATOR(pg_catalog.=) found
                                               AND m.member OPERATOR(pg_catalog.=) r.oid AND m.admin_option)));
        members := (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(r.rolname), ', ')
                    FROM pg_catalog.pg_auth_members AS m
                    JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) m.member
                    WHERE m.roleid OPERATOR(pg_catalog.=) found);
        attributes := (SELECT pg_catalog.concat_ws(', ', CASE WHEN rolsuper THEN 'SUPERUSER' END,
                           CASE WHEN rolcanlogin THEN 'LOGIN' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                           CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
                           CASE WHEN rolbypassrls THEN 'BYPASSRLS' END)
                       FROM pg_catalog.pg_roles WHERE oid OPERATOR(pg_catalog.=) found);
        IF givers IS NOT NULL OR members IS NOT NULL OR attributes OPERATOR(pg_catalog.<>) '' THEN
            RAISE WARNING 'role "%" exists already, and is given privileges of s3_export as it is', wanted
                USING DETAIL = pg_catalog.format('It %s. May grant it, besides superusers: %s. Its members: %s. Its attributes: %s.',
                                                 purpose, coalesce(givers, 'nobody'), coalesce(members, 'none'),
                                                 coalesce(nullif(attributes, ''), 'none')),
                    HINT = 'REVOKE it from whoever should not have it.';
        END IF;
    END LOOP;
END
$$;

ALTER TABLE s3_export.integrations ADD COLUMN max_bytes_per_day bigint
    CONSTRAINT max_bytes_per_day_is_positive CHECK (max_bytes_per_day OPERATOR(pg_catalog.>) 0);
COMMENT ON COLUMN s3_export.integrations.max_bytes_per_day IS
    'most bytes that all exports with the integration write within 24 hours; NULL: any number';
COMMENT ON CONSTRAINT max_bytes_per_day_is_positive ON s3_export.integrations IS 'at least one byte; NULL: no limit';

-- Amazon's further endpoints. A default that is no constant writes the rows anew, and fires no trigger: the catalog then has no value
-- for rows that lack the column, as it has none after a fresh installation.
ALTER TABLE s3_export.integrations
    ADD COLUMN fips boolean NOT NULL DEFAULT (pg_catalog.random() OPERATOR(pg_catalog.<) 0.0::double precision)
        CONSTRAINT fips_goes_without_an_endpoint CHECK (endpoint IS NULL OR NOT fips),
    ADD COLUMN dual_stack boolean NOT NULL DEFAULT (pg_catalog.random() OPERATOR(pg_catalog.<) 0.0::double precision)
        CONSTRAINT dual_stack_goes_without_an_endpoint CHECK (endpoint IS NULL OR NOT dual_stack);
ALTER TABLE s3_export.integrations ALTER COLUMN fips SET DEFAULT false, ALTER COLUMN dual_stack SET DEFAULT false;
COMMENT ON COLUMN s3_export.integrations.fips IS 'true: Amazon''s FIPS endpoints of S3 and STS';
COMMENT ON COLUMN s3_export.integrations.dual_stack IS 'true: Amazon''s endpoints of S3 and STS that have IPv6 beside IPv4';
COMMENT ON CONSTRAINT fips_goes_without_an_endpoint ON s3_export.integrations IS 'fips chooses among Amazon''s own endpoints';
COMMENT ON CONSTRAINT dual_stack_goes_without_an_endpoint ON s3_export.integrations IS 'dual_stack chooses among Amazon''s own endpoints';

-- History -----------------------------------------------------------------------------------------------------------

CREATE TABLE s3_export.history_entries (
    export_id uuid PRIMARY KEY,
    session_role name NOT NULL,
    session_role_oid oid NOT NULL,
    role name NOT NULL,
    role_oid oid NOT NULL,
    application_name text,
    client_address inet,
    database name NOT NULL,
    uri text NOT NULL,
    integration text,
    integration_id uuid,
    aws_role text,
    CONSTRAINT history_has_an_integration_or_a_role CHECK ((integration IS NULL) OPERATOR(pg_catalog.<>) (aws_role IS NULL)),
    query_sha256 text NOT NULL,
    query text,
    format text NOT NULL,
    compression text NOT NULL,
    documents bigint NOT NULL,
    files bigint NOT NULL,
    bytes bigint NOT NULL,
    manifest_bytes bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    manifest text NOT NULL,
    manifest_sha256 text NOT NULL,
    feed text,
    feed_run bigint,
    run_key text,
    cluster bigint NOT NULL DEFAULT (pg_catalog.pg_control_system()).system_identifier,
    adopted_at timestamptz
);
-- The limit of bytes a day sums by the first, dashboards by the second.
CREATE INDEX history_of_integration ON s3_export.history_entries (integration_id, finished_at);
CREATE INDEX history_of_day ON s3_export.history_entries (((finished_at AT TIME ZONE 'UTC')::date));
COMMENT ON TABLE s3_export.history_entries IS
    'exports that have committed; granted to nobody, see s3_export.history. Dumped with the database';
COMMENT ON INDEX s3_export.history_of_integration IS 'exports of an integration within a time';
COMMENT ON INDEX s3_export.history_of_day IS 'exports of a day';
COMMENT ON CONSTRAINT history_entries_pkey ON s3_export.history_entries IS 'ids are unique';
COMMENT ON CONSTRAINT history_has_an_integration_or_a_role ON s3_export.history_entries IS
    'an export has either an integration or an AWS role named inline';
COMMENT ON COLUMN s3_export.history_entries.export_id IS 'id of the export; the name of every object of the export contains it';
COMMENT ON COLUMN s3_export.history_entries.session_role IS 'user of the session that exported, by its name at that time';
COMMENT ON COLUMN s3_export.history_entries.session_role_oid IS 'user of the session that exported';
COMMENT ON COLUMN s3_export.history_entries.role IS 'role that exported, by its name at that time';
COMMENT ON COLUMN s3_export.history_entries.role_oid IS 'role that exported, whose members see the row';
COMMENT ON COLUMN s3_export.history_entries.application_name IS 'application_name of the session';
COMMENT ON COLUMN s3_export.history_entries.client_address IS 'address of the client; NULL for a Unix socket, and for a job';
COMMENT ON COLUMN s3_export.history_entries.database IS 'database that was exported from';
COMMENT ON COLUMN s3_export.history_entries.uri IS 'location that the export wrote to';
COMMENT ON COLUMN s3_export.history_entries.integration IS 'integration of the export, by its name at that time; NULL if the export named an AWS role inline';
COMMENT ON COLUMN s3_export.history_entries.integration_id IS 'id of that integration';
COMMENT ON COLUMN s3_export.history_entries.aws_role IS 'AWS role that the export named inline; NULL if the export used an integration';
COMMENT ON COLUMN s3_export.history_entries.query_sha256 IS 'SHA-256 of the query, in hexadecimal';
COMMENT ON COLUMN s3_export.history_entries.query IS 'query; NULL unless s3_export.history_query was on';
COMMENT ON COLUMN s3_export.history_entries.format IS 'format of the files';
COMMENT ON COLUMN s3_export.history_entries.compression IS 'compression of the files, or none';
COMMENT ON COLUMN s3_export.history_entries.documents IS 'number of documents written';
COMMENT ON COLUMN s3_export.history_entries.files IS 'number of files written';
COMMENT ON COLUMN s3_export.history_entries.bytes IS 'number of bytes written';
COMMENT ON COLUMN s3_export.history_entries.manifest_bytes IS 'number of bytes of the manifest, which the limit a day counts too';
COMMENT ON COLUMN s3_export.history_entries.started_at IS 'when the export began';
COMMENT ON COLUMN s3_export.history_entries.finished_at IS 'when all files of the export were stored';
COMMENT ON COLUMN s3_export.history_entries.manifest IS 'URL of the manifest';
COMMENT ON COLUMN s3_export.history_entries.manifest_sha256 IS 'SHA-256 of the bytes of the manifest, in hexadecimal';
COMMENT ON COLUMN s3_export.history_entries.feed IS 'feed of which the export is a run; NULL: of none';
COMMENT ON COLUMN s3_export.history_entries.feed_run IS 'number of that run';
COMMENT ON COLUMN s3_export.history_entries.run_key IS 'option run_key of the export; NULL: none';
COMMENT ON COLUMN s3_export.history_entries.adopted_at IS
    'when a later run of the feed found the manifest after a crash: the row has what the manifest says; NULL: the export wrote the row';
COMMENT ON COLUMN s3_export.history_entries.cluster IS 'system identifier of the cluster that exported; OIDs mean something there alone';

-- A record is worth what it is kept from: a privilege on the table, pg_write_all_data and BYPASSRLS together change nothing.
CREATE FUNCTION s3_export.keep_history() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_keep_history';
COMMENT ON FUNCTION s3_export.keep_history() IS 'refuses changes of the history by others than superusers';
REVOKE ALL ON FUNCTION s3_export.keep_history() FROM PUBLIC;
CREATE TRIGGER keep_history BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON s3_export.history_entries
    FOR EACH STATEMENT EXECUTE FUNCTION s3_export.keep_history();
-- Replication and session_replication_role switch off other triggers.
ALTER TABLE s3_export.history_entries ENABLE ALWAYS TRIGGER keep_history;
COMMENT ON TRIGGER keep_history ON s3_export.history_entries IS 'refuses changes by others than superusers';

-- A record that lasts is restored by pg_dump.
SELECT pg_catalog.pg_extension_config_dump('s3_export.history_entries', '');

-- Exports of all roles: granted to nobody; and since pg_read_all_data reads any table, row security without a policy hides every
-- row as well.
REVOKE ALL ON s3_export.history_entries FROM PUBLIC;
ALTER TABLE s3_export.history_entries ENABLE ROW LEVEL SECURITY;

-- In another cluster, such as that of a restore, an OID may be a stranger's: there the name must be the role's as well.
CREATE VIEW s3_export.history WITH (security_barrier) AS
    SELECT h.export_id, h.session_role, h.role, h.application_name, h.client_address, h.database, h.uri, h.integration,
        h.integration_id, h.aws_role, h.query_sha256, h.query, h.format, h.compression, h.documents, h.files, h.bytes,
        h.started_at, h.finished_at, h.manifest, h.manifest_sha256, h.feed, h.feed_run, h.run_key,
        h.adopted_at
    FROM s3_export.history_entries AS h
    WHERE (SELECT coalesce(pg_catalog.bool_or(pg_catalog.pg_has_role(r.oid, 'USAGE')), false) FROM pg_catalog.pg_roles AS r
           WHERE r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['s3_export_admin', 's3_export_auditor']::pg_catalog.name[]))
          OR h.cluster OPERATOR(pg_catalog.=) (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c)
             AND h.role_oid OPERATOR(pg_catalog.=) ANY (SELECT r.oid FROM pg_catalog.pg_roles AS r
                                                        WHERE pg_catalog.pg_has_role(r.oid, 'USAGE'))
          OR (h.role_oid, h.role) OPERATOR(pg_catalog.=) ANY (SELECT r.oid, r.rolname FROM pg_catalog.pg_roles AS r
                                                              WHERE pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON VIEW s3_export.history IS
    'exports that have committed: those of your roles, or all for s3_export_admin and s3_export_auditor';
COMMENT ON COLUMN s3_export.history.export_id IS 'id of the export; the name of every object of the export contains it';
COMMENT ON COLUMN s3_export.history.session_role IS 'user of the session that exported, by its name at that time';
COMMENT ON COLUMN s3_export.history.role IS 'role that exported, by its name at that time';
COMMENT ON COLUMN s3_export.history.application_name IS 'application_name of the session';
COMMENT ON COLUMN s3_export.history.client_address IS 'address of the client; NULL for a Unix socket, and for a job';
COMMENT ON COLUMN s3_export.history.database IS 'database that was exported from';
COMMENT ON COLUMN s3_export.history.uri IS 'location that the export wrote to';
COMMENT ON COLUMN s3_export.history.integration IS 'integration of the export, by its name at that time; NULL if the export named an AWS role inline';
COMMENT ON COLUMN s3_export.history.integration_id IS 'id of that integration';
COMMENT ON COLUMN s3_export.history.aws_role IS 'AWS role that the export named inline; NULL if the export used an integration';
COMMENT ON COLUMN s3_export.history.query_sha256 IS 'SHA-256 of the query, in hexadecimal';
COMMENT ON COLUMN s3_export.history.query IS 'query; NULL unless s3_export.history_query was on';
COMMENT ON COLUMN s3_export.history.format IS 'format of the files';
COMMENT ON COLUMN s3_export.history.compression IS 'compression of the files, or none';
COMMENT ON COLUMN s3_export.history.documents IS 'number of documents written';
COMMENT ON COLUMN s3_export.history.files IS 'number of files written';
COMMENT ON COLUMN s3_export.history.bytes IS 'number of bytes written';
COMMENT ON COLUMN s3_export.history.started_at IS 'when the export began';
COMMENT ON COLUMN s3_export.history.finished_at IS 'when all files of the export were stored';
COMMENT ON COLUMN s3_export.history.manifest IS 'URL of the manifest';
COMMENT ON COLUMN s3_export.history.manifest_sha256 IS 'SHA-256 of the bytes of the manifest, in hexadecimal';
COMMENT ON COLUMN s3_export.history.feed IS 'feed of which the export is a run; NULL: of none';
COMMENT ON COLUMN s3_export.history.feed_run IS 'number of that run';
COMMENT ON COLUMN s3_export.history.run_key IS 'option run_key of the export; NULL: none';
COMMENT ON COLUMN s3_export.history.adopted_at IS
    'when a later run of the feed found the manifest after a crash: the row has what the manifest says; NULL: the export wrote the row';
REVOKE ALL ON s3_export.history FROM PUBLIC;

CREATE VIEW s3_export.daily_exports WITH (security_barrier) AS
    SELECT (h.finished_at AT TIME ZONE 'UTC')::date AS day, h.role, h.integration, pg_catalog.count(*) AS exports,
        least(pg_catalog.sum(h.documents), 9223372036854775807)::bigint AS documents, least(pg_catalog.sum(h.files), 9223372036854775807)::bigint AS files,
        least(pg_catalog.sum(h.bytes), 9223372036854775807)::bigint AS bytes
    FROM s3_export.history AS h
    GROUP BY 1, 2, 3;
COMMENT ON VIEW s3_export.daily_exports IS
    'sums of s3_export.history: those of your roles, or all for s3_export_admin and s3_export_auditor';
COMMENT ON COLUMN s3_export.daily_exports.day IS 'day on which the exports ended, in UTC';
COMMENT ON COLUMN s3_export.daily_exports.role IS 'role that exported, by its name at that time';
COMMENT ON COLUMN s3_export.daily_exports.integration IS 'integration of the exports; NULL: they named AWS roles inline';
COMMENT ON COLUMN s3_export.daily_exports.exports IS 'number of exports';
COMMENT ON COLUMN s3_export.daily_exports.documents IS 'number of documents written';
COMMENT ON COLUMN s3_export.daily_exports.files IS 'number of files written';
COMMENT ON COLUMN s3_export.daily_exports.bytes IS 'number of bytes written';
REVOKE ALL ON s3_export.daily_exports FROM PUBLIC;

CREATE FUNCTION s3_export.prune_history(older_than interval) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_prune_history';
COMMENT ON FUNCTION s3_export.prune_history(interval) IS
    'deletes the rows of s3_export.history that are older than older_than, which is one day at least; gives their number. For superusers';
-- It deletes the record of all roles.
REVOKE ALL ON FUNCTION s3_export.prune_history(interval) FROM PUBLIC;

-- A barrier of its own: Postgres makes one scan of the branches of a UNION ALL, and forgets the barrier of the view around them.
CREATE VIEW s3_export.visible_jobs WITH (security_barrier) AS
    SELECT j.export_id,
        CASE WHEN d.cause IS NULL THEN j.status WHEN d.is_retried THEN 'QUEUED' ELSE 'ERROR' END AS status,
        coalesce((SELECT r.rolname FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) j.role_oid), j.role) AS role,
        j.uri, j.integration, j.query, j.options,
        coalesce(j.documents, p.documents) AS documents,
        coalesce(j.files, p.files) AS files,
        coalesce(j.bytes, p.bytes) AS bytes,
        j.queued_at, j.started_at, j.finished_at, j.manifest,
        CASE WHEN d.cause IS NULL THEN j.error_sqlstate ELSE '57P02' END AS error_sqlstate,
        coalesce(d.cause, j.error_message) AS error_message,
        j.error_detail, j.error_hint, j.error_context,
        CASE WHEN d.cause IS NULL THEN j.pid END AS pid,
        j.verification,
        coalesce(j.attempts, 0) AS attempts,
        CASE j.status WHEN 'QUEUED' THEN j.next_attempt_at END AS next_attempt_at,
        coalesce(j.attempt_id, j.export_id) AS attempt_id
    FROM s3_export.jobs AS j
    LEFT JOIN s3_export.running() AS p ON p.export_id OPERATOR(pg_catalog.=) coalesce(j.attempt_id, j.export_id)
    LEFT JOIN LATERAL (SELECT CASE j.status WHEN 'RUNNING' THEN s3_export.lost_worker(j.export_id) END AS cause,
            coalesce((j.options OPERATOR(pg_catalog.->) 'options' OPERATOR(pg_catalog.->>) 'retries')::int, 0)
                OPERATOR(pg_catalog.>=) j.attempts AS is_retried) AS d ON true
    WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r
                  WHERE (r.oid OPERATOR(pg_catalog.=) j.role_oid
                         OR r.rolname OPERATOR(pg_catalog.=) ANY (ARRAY['s3_export_admin', 's3_export_auditor']::pg_catalog.name[]))
                        AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON VIEW s3_export.visible_jobs IS 'jobs of your roles, or all for s3_export_admin and s3_export_auditor: part of s3_export.exports; granted to nobody';
COMMENT ON COLUMN s3_export.visible_jobs.export_id IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.status IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.role IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.uri IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.integration IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.query IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.options IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.documents IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.files IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.bytes IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.queued_at IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.started_at IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.finished_at IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.manifest IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.error_sqlstate IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.error_message IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.error_detail IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.error_hint IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.error_context IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.pid IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.verification IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.attempts IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.next_attempt_at IS 'as in s3_export.exports';
COMMENT ON COLUMN s3_export.visible_jobs.attempt_id IS 'as in s3_export.exports';
-- Part of s3_export.exports, which reads it as its owner.
REVOKE ALL ON s3_export.visible_jobs FROM PUBLIC;

CREATE OR REPLACE VIEW s3_export.exports WITH (security_barrier) AS
    SELECT v.export_id, v.status, v.role, v.uri, v.integration, v.query, v.options, v.documents, v.files, v.bytes,
        v.queued_at, v.started_at, v.finished_at, v.manifest, v.error_sqlstate, v.error_message, v.error_detail, v.error_hint, v.error_context, v.pid,
        v.verification, v.attempts, v.next_attempt_at, v.attempt_id
    FROM s3_export.visible_jobs AS v
    UNION ALL
    SELECT p.export_id, 'RUNNING', r.rolname, NULL, NULL, NULL, NULL, p.documents, p.files, p.bytes,
        NULL,
        -- A UUIDv7 begins with the milliseconds since 1970.
        pg_catalog.to_timestamp(
            ('x' OPERATOR(pg_catalog.||) pg_catalog.substr(pg_catalog.replace(p.export_id::text, '-', ''), 1, 12))::bit(48)::bigint
            OPERATOR(pg_catalog./) 1000.0),
        NULL, NULL, NULL, NULL, NULL, NULL, NULL, p.pid, NULL, NULL, NULL, p.export_id
    FROM s3_export.running() AS p LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) p.role_oid
    WHERE NOT EXISTS (SELECT FROM s3_export.jobs AS j WHERE j.export_id OPERATOR(pg_catalog.=) p.export_id)
          AND NOT EXISTS (SELECT FROM s3_export.jobs AS j
                          WHERE j.status OPERATOR(pg_catalog.=) 'RUNNING' AND j.attempt_id OPERATOR(pg_catalog.=) p.export_id)
    UNION ALL
    SELECT h.export_id, 'COMPLETED', h.role, h.uri, h.integration, h.query, NULL, h.documents, h.files, h.bytes,
        NULL, h.started_at, h.finished_at, h.manifest, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, h.export_id
    FROM s3_export.history AS h
    WHERE NOT EXISTS (SELECT FROM s3_export.jobs AS j WHERE j.export_id OPERATOR(pg_catalog.=) h.export_id)
          AND NOT EXISTS (SELECT FROM s3_export.jobs AS j WHERE j.attempt_id OPERATOR(pg_catalog.=) h.export_id);
COMMENT ON COLUMN s3_export.exports.verification IS 'arguments of a job of verify_async, whose uri is that of the manifest; NULL for an export';
COMMENT ON VIEW s3_export.exports IS
    'jobs, whatever their status, exports that run in sessions, and those that have committed: of your roles, or all for s3_export_admin and s3_export_auditor';
COMMENT ON FUNCTION s3_export.running() IS
    'exports that run now in this database, with their counts so far: those of your roles, or all for s3_export_admin and s3_export_auditor. Part of s3_export.exports';
COMMENT ON COLUMN s3_export.exports.attempts IS
    'number of attempts of the job that have begun; NULL for an export that runs in a session';
COMMENT ON COLUMN s3_export.exports.next_attempt_at IS 'when the next attempt of a job is due, after one that failed';
COMMENT ON COLUMN s3_export.exports.attempt_id IS
    'id of the export that the last attempt is: the names of its objects contain it; that of the first attempt is export_id';

-- Feeds -------------------------------------------------------------------------------------------------------------

CREATE TABLE s3_export.feed_definitions (
    feed_id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    name text PRIMARY KEY
        CONSTRAINT feed_name_is_plain CHECK (name OPERATOR(pg_catalog.~) '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    role name NOT NULL,
    role_oid oid,
    uri text NOT NULL,
    integration text NOT NULL,
    query text NOT NULL,
    options jsonb NOT NULL,
    kind text NOT NULL
        CONSTRAINT feed_kind_is_known CHECK (kind OPERATOR(pg_catalog.=) ANY (ARRAY['xid', 'sequence', 'time'])),
    mark_table text NOT NULL,
    mark_column text NOT NULL,
    lag interval NOT NULL,
    wait interval NOT NULL,
    manifest_when_empty boolean NOT NULL,
    mark text NOT NULL,
    mark_cluster bigint NOT NULL DEFAULT (pg_catalog.pg_control_system()).system_identifier,
    marked_at timestamptz,
    run bigint NOT NULL DEFAULT 0
        CONSTRAINT feed_run_is_a_number CHECK (run OPERATOR(pg_catalog.>=) 0),
    last_run_at timestamptz,
    export_id uuid,
    documents bigint,
    files bigint,
    bytes bigint,
    manifest text
);
COMMENT ON TABLE s3_export.feed_definitions IS
    'feeds: named incremental exports, with their marks; granted to nobody, see s3_export.feeds. Dumped with the database';
COMMENT ON COLUMN s3_export.feed_definitions.feed_id IS 'id of the feed, which its manifests hold: a feed that is made anew, or rewound, has another';
COMMENT ON COLUMN s3_export.feed_definitions.name IS 'name of the feed; the names of its manifests begin with it';
COMMENT ON COLUMN s3_export.feed_definitions.role IS 'role that the feed runs as';
COMMENT ON COLUMN s3_export.feed_definitions.role_oid IS
    'OID of role; set by itself when role is written, so that a new role of an old name has no feed';
COMMENT ON COLUMN s3_export.feed_definitions.uri IS 'location that the feed writes to';
COMMENT ON COLUMN s3_export.feed_definitions.integration IS 'integration that the feed uses';
COMMENT ON COLUMN s3_export.feed_definitions.query IS 'query of each run; $1 is the mark, and $2 the new mark of a sequence or a time';
COMMENT ON COLUMN s3_export.feed_definitions.options IS 'all other arguments of its exports';
COMMENT ON COLUMN s3_export.feed_definitions.kind IS 'kind of the mark: xid, sequence or time';
COMMENT ON COLUMN s3_export.feed_definitions.mark_table IS 'table that the feed follows';
COMMENT ON COLUMN s3_export.feed_definitions.mark_column IS 'column of mark_table that the mark goes by';
COMMENT ON COLUMN s3_export.feed_definitions.lag IS 'time between the bound of a mark time and the oldest transaction';
COMMENT ON COLUMN s3_export.feed_definitions.wait IS 'longest wait for transactions that write the table of a mark sequence';
COMMENT ON COLUMN s3_export.feed_definitions.manifest_when_empty IS 'true: a run with nothing new writes a manifest';
COMMENT ON COLUMN s3_export.feed_definitions.mark IS 'how far the feed has exported: a pg_snapshot, a number or a time';
COMMENT ON COLUMN s3_export.feed_definitions.mark_cluster IS 'system identifier of the cluster that the mark was set in';
COMMENT ON COLUMN s3_export.feed_definitions.marked_at IS 'when the mark was read; NULL if it was set by hand';
COMMENT ON COLUMN s3_export.feed_definitions.run IS 'number of the last run that has a manifest';
COMMENT ON COLUMN s3_export.feed_definitions.last_run_at IS 'when the last run ended, with a manifest or without';
COMMENT ON COLUMN s3_export.feed_definitions.export_id IS 'id of the export of the last run that has a manifest';
COMMENT ON COLUMN s3_export.feed_definitions.documents IS 'number of documents of that run';
COMMENT ON COLUMN s3_export.feed_definitions.files IS 'number of files of that run';
COMMENT ON COLUMN s3_export.feed_definitions.bytes IS 'number of bytes of that run';
COMMENT ON COLUMN s3_export.feed_definitions.manifest IS 'URL of the manifest of that run';
COMMENT ON CONSTRAINT feed_definitions_pkey ON s3_export.feed_definitions IS 'names are unique';
COMMENT ON CONSTRAINT feed_name_is_plain ON s3_export.feed_definitions IS
    '1 to 63 ASCII letters, digits, underscores, dots and hyphens, of which the first is a letter or a digit';
COMMENT ON CONSTRAINT feed_kind_is_known ON s3_export.feed_definitions IS 'xid, sequence or time';
COMMENT ON CONSTRAINT feed_run_is_a_number ON s3_export.feed_definitions IS 'runs are numbered from 1; 0: none yet';

-- As the roles of integrations: a restore writes names, and OIDs are those of the cluster that is restored into.
CREATE FUNCTION s3_export.resolve_feed_role() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.role_oid := (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) NEW.role);
    -- No error: a restore may well come before its roles.
    IF NEW.role_oid IS NULL THEN
        RAISE WARNING 'role of feed "%" does not exist: role "%"', NEW.name, NEW.role
            USING HINT = pg_catalog.format('Once it does: UPDATE s3_export.feed_definitions SET role = %L WHERE name = %L.',
                                           NEW.role, NEW.name);
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION s3_export.resolve_feed_role() IS 'sets the OID of the role of a feed';
REVOKE ALL ON FUNCTION s3_export.resolve_feed_role() FROM PUBLIC;
CREATE TRIGGER resolve_feed_role BEFORE INSERT OR UPDATE OF role ON s3_export.feed_definitions
    FOR EACH ROW EXECUTE FUNCTION s3_export.resolve_feed_role();
COMMENT ON TRIGGER resolve_feed_role ON s3_export.feed_definitions IS 'sets role_oid';

-- Feeds are restored by pg_dump, their marks too.
SELECT pg_catalog.pg_extension_config_dump('s3_export.feed_definitions', '');

-- Queries of all roles: granted to nobody; and since pg_read_all_data reads any table, row security without a policy hides every
-- row as well.
REVOKE ALL ON s3_export.feed_definitions FROM PUBLIC;
ALTER TABLE s3_export.feed_definitions ENABLE ROW LEVEL SECURITY;

CREATE VIEW s3_export.feeds WITH (security_barrier) AS
    SELECT f.name, f.role, f.uri, f.integration, f.query, f.options, f.kind, f.mark_table, f.mark_column, f.mark, f.run,
        f.export_id, f.documents, f.manifest, f.last_run_at,
        pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) CASE f.kind
            WHEN 'time' THEN nullif(f.mark, '-infinity')::timestamptz ELSE f.marked_at END AS lag,
        e.finished_at AS last_error_at, e.error_sqlstate AS last_error_sqlstate, e.error_message AS last_error_message
    FROM s3_export.feed_definitions AS f
    LEFT JOIN LATERAL (
        SELECT j.finished_at, j.error_sqlstate, j.error_message FROM s3_export.jobs AS j
        WHERE j.feed OPERATOR(pg_catalog.=) f.name AND j.status OPERATOR(pg_catalog.=) ANY (ARRAY['ERROR', 'CANCELLED'])
              AND (f.last_run_at IS NULL OR j.finished_at OPERATOR(pg_catalog.>) f.last_run_at)
        ORDER BY j.finished_at DESC LIMIT 1) AS e ON true
    WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r
                  WHERE (r.oid OPERATOR(pg_catalog.=) f.role_oid OR r.rolname OPERATOR(pg_catalog.=) 's3_export_admin')
                        AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON VIEW s3_export.feeds IS 'feeds, with their marks and their last runs: those of your roles, or all for s3_export_admin';
COMMENT ON COLUMN s3_export.feeds.name IS 'name of the feed; the names of its manifests begin with it';
COMMENT ON COLUMN s3_export.feeds.role IS 'role that the feed runs as';
COMMENT ON COLUMN s3_export.feeds.uri IS 'location that the feed writes to';
COMMENT ON COLUMN s3_export.feeds.integration IS 'integration that the feed uses';
COMMENT ON COLUMN s3_export.feeds.query IS 'query of each run; $1 is the mark, and $2 the new mark of a sequence or a time';
COMMENT ON COLUMN s3_export.feeds.options IS 'all other arguments of its exports';
COMMENT ON COLUMN s3_export.feeds.kind IS 'kind of the mark: xid, sequence or time';
COMMENT ON COLUMN s3_export.feeds.mark_table IS 'table that the feed follows';
COMMENT ON COLUMN s3_export.feeds.mark_column IS 'column of mark_table that the mark goes by';
COMMENT ON COLUMN s3_export.feeds.mark IS 'how far the feed has exported: a pg_snapshot, a number or a time';
COMMENT ON COLUMN s3_export.feeds.run IS 'number of the last run that has a manifest; 0: none yet';
COMMENT ON COLUMN s3_export.feeds.export_id IS 'id of the export of that run';
COMMENT ON COLUMN s3_export.feeds.documents IS 'number of documents of that run';
COMMENT ON COLUMN s3_export.feeds.manifest IS 'URL of the manifest of that run';
COMMENT ON COLUMN s3_export.feeds.last_run_at IS 'when the last run ended, with a manifest or without';
COMMENT ON COLUMN s3_export.feeds.lag IS 'time since the mark: what is older is exported; NULL before the first run, and after a rewind of xid or sequence';
COMMENT ON COLUMN s3_export.feeds.last_error_at IS 'when the last job of the feed failed; NULL if a run has succeeded since';
COMMENT ON COLUMN s3_export.feeds.last_error_sqlstate IS 'SQLSTATE of that failure';
COMMENT ON COLUMN s3_export.feeds.last_error_message IS 'message of that failure';
REVOKE ALL ON s3_export.feeds FROM PUBLIC;

CREATE FUNCTION s3_export.create_feed(
    name text,
    uri text,
    integration text,
    query text,
    mark text,
    mark_column text,
    start text DEFAULT NULL,
    lag interval DEFAULT NULL,
    wait interval DEFAULT NULL,
    manifest_when_empty boolean DEFAULT false,
    format text DEFAULT 'json',
    compression text DEFAULT NULL,
    output_chunk_size int DEFAULT NULL,
    output_chunk_bytes bigint DEFAULT NULL,
    partition_by text[] DEFAULT NULL,
    include_query_id boolean DEFAULT false,
    wrap_types boolean DEFAULT true,
    options jsonb DEFAULT '{}'
) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_create_feed';
COMMENT ON FUNCTION s3_export.create_feed(text, text, text, text, text, text, text, interval, interval, boolean, text, text, int, bigint, text[], boolean, boolean, jsonb) IS
    'makes a feed, which exports with each run what is new since the last. mark: xid, sequence or time; mark_column: table.column; start: the first mark (default: everything is new). The query uses $1, the mark, and $2, the new mark of a sequence or a time';
-- It makes a feed of its caller's, who must be able to export; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.create_feed(text, text, text, text, text, text, text, interval, interval, boolean, text, text, int, bigint, text[], boolean, boolean, jsonb) FROM PUBLIC;

CREATE FUNCTION s3_export.alter_feed(name text, changes jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_alter_feed';
COMMENT ON FUNCTION s3_export.alter_feed(text, jsonb) IS
    'changes a feed of your role: changes has arguments of create_feed by name; null: the default. The mark stays';
-- It asks whose the feed is; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.alter_feed(text, jsonb) FROM PUBLIC;

CREATE FUNCTION s3_export.drop_feed(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_drop_feed';
COMMENT ON FUNCTION s3_export.drop_feed(text) IS 'deletes a feed of one of your roles; touches nothing in S3';
-- It asks whose the feed is; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.drop_feed(text) FROM PUBLIC;

CREATE FUNCTION s3_export.rewind_feed(name text, "to" text, next_run bigint DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_rewind_feed';
COMMENT ON FUNCTION s3_export.rewind_feed(text, text, bigint) IS
    'sets the mark of a feed of one of your roles, or start for the beginning, and the number of the next run. What is exported again is in the bucket twice';
-- It asks whose the feed is; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.rewind_feed(text, text, bigint) FROM PUBLIC;

CREATE FUNCTION s3_export.run_feed(
    name text,
    OUT num_docs_inserted bigint,
    OUT num_files_written bigint,
    OUT num_bytes_written bigint,
    OUT export_id uuid,
    OUT manifest text,
    OUT run bigint,
    OUT mark_from text,
    OUT mark_to text
) LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_run_feed';
COMMENT ON FUNCTION s3_export.run_feed(text) IS
    'exports what is new since the last run of a feed of your role, and moves its mark with the commit. Use it in FROM';
-- It runs the feed of its caller's role; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.run_feed(text) FROM PUBLIC;

CREATE FUNCTION s3_export.run_feed_async(name text) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_run_feed_async';
COMMENT ON FUNCTION s3_export.run_feed_async(text) IS
    'does the same as run_feed in a background worker, once this transaction has committed; gives the id of the job. See s3_export.exports, wait and cancel';
-- As run_feed.
REVOKE ALL ON FUNCTION s3_export.run_feed_async(text) FROM PUBLIC;

CREATE FUNCTION s3_export.feed_setup(mark_column text, mark text DEFAULT 'xid') RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_feed_setup';
COMMENT ON FUNCTION s3_export.feed_setup(text, text) IS
    'prints the statements that give a table a column for the mark of a feed, with its default and its trigger. mark_column: table.column';
-- It only prints; others have no use for it.
REVOKE ALL ON FUNCTION s3_export.feed_setup(text, text) FROM PUBLIC;

-- Verification ------------------------------------------------------------------------------------------------------

CREATE FUNCTION s3_export.verify(
    manifest text,
    integration text,
    deep boolean DEFAULT false,
    OUT file text,
    OUT ok boolean,
    OUT problem text,
    OUT detail text,
    OUT bytes bigint,
    OUT checked text
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_verify';
COMMENT ON FUNCTION s3_export.verify(text, text, boolean) IS
    'compares an export with its manifest: a row for the manifest, for each file that it lists, and for each file of the export that it does not list. Looks at size and checksum; deep: reads each file. Writes nothing';
-- It reads from the bucket.
REVOKE ALL ON FUNCTION s3_export.verify(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION s3_export.verify_async(manifest text, integration text, deep boolean DEFAULT false) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_verify_async';
COMMENT ON FUNCTION s3_export.verify_async(text, text, boolean) IS
    'does the same as verify in a background worker, once this transaction has committed; gives the id of the job, which ends with the error XX001 if an object is not as the manifest says. See s3_export.exports, wait and cancel';
-- As verify.
REVOKE ALL ON FUNCTION s3_export.verify_async(text, text, boolean) FROM PUBLIC;
CREATE FUNCTION s3_export.dry_run(
    uri text,
    integration text,
    query text,
    format text DEFAULT 'json',
    compression text DEFAULT NULL,
    output_chunk_size int DEFAULT NULL,
    output_chunk_bytes bigint DEFAULT NULL,
    partition_by text[] DEFAULT NULL,
    include_query_id boolean DEFAULT false,
    wrap_types boolean DEFAULT true,
    options jsonb DEFAULT '{}',
    OUT item text,
    OUT value text,
    OUT meaning text
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_dry_run';
COMMENT ON FUNCTION s3_export.dry_run(text, text, text, text, text, int, bigint, text[], boolean, boolean, jsonb) IS
    'checks all that s3_export with the same arguments checks before its first byte, and tells estimates, names, columns and the IAM policy. Plans the query without running it, sends requests that read, and writes nothing';
-- As s3_export.
REVOKE ALL ON FUNCTION s3_export.dry_run(text, text, text, text, text, int, bigint, text[], boolean, boolean, jsonb) FROM PUBLIC;

CREATE FUNCTION s3_export.dry_run(
    statement text,
    OUT item text,
    OUT value text,
    OUT meaning text
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_dry_run_statement';
COMMENT ON FUNCTION s3_export.dry_run(text) IS 'does the same for a statement of Rockset''s, as s3_export(statement) takes it';
-- As s3_export(statement).
REVOKE ALL ON FUNCTION s3_export.dry_run(text) FROM PUBLIC;

-- Comments that say more. A superuser may have dropped a constraint or a policy, which an upgrade does not mind.
COMMENT ON TABLE s3_export.integrations IS
    'integrations: named permissions to write to S3, made by administrators; each role sees those that it may use';
COMMENT ON COLUMN s3_export.integrations.integration_id IS
    'id of the integration; it never changes, and the sealed credentials are bound to it';
COMMENT ON COLUMN s3_export.integrations.name IS 'name of the integration, as s3_export(uri, integration, query) takes it';
COMMENT ON COLUMN s3_export.integrations.owner IS 'role whose members may change the integration, if they are in s3_export_admin';
COMMENT ON COLUMN s3_export.integrations.owner_oid IS
    'OID of owner; set by itself when owner is written, so that a new role of an old name owns nothing';
COMMENT ON COLUMN s3_export.integrations.usage_role_oid IS
    'OID of usage_role; set by itself when usage_role is written, so that a new role of an old name may use nothing';
COMMENT ON COLUMN s3_export.integrations.usage_role IS
    'role whose members see and use the integration; public: every member of s3_export_member';
COMMENT ON COLUMN s3_export.integrations.enabled IS 'false: exports with the integration are refused';
COMMENT ON COLUMN s3_export.integrations.access_key_id IS
    'public half of the credentials; s3_export.owned_identifiers shows it to owners. The secret half is in s3_export.credentials';
COMMENT ON COLUMN s3_export.integrations.sts_endpoint IS
    'another STS than the region''s, https://host[:port]; needed if there is an endpoint and a role. Changing it voids the sealed credentials; http needs a superuser';
COMMENT ON COLUMN s3_export.integrations.region IS 'region of the bucket; NULL: Amazon is asked (us-east-1 if there is an endpoint)';
COMMENT ON COLUMN s3_export.integrations.path_style IS 'true: the bucket is in the path of a URL instead of its host name';
COMMENT ON COLUMN s3_export.integrations.allowed_locations IS
    'locations that exports may write to: s3://bucket or s3://bucket/prefix, which covers whole parts of a path; s3:// allows every location';
COMMENT ON COLUMN s3_export.integrations.expected_bucket_owner IS 'id of the account that must own the bucket';
COMMENT ON COLUMN s3_export.integrations.storage_class IS 'storage class of files; the storage class of a manifest is STANDARD';
COMMENT ON COLUMN s3_export.integrations.checksum IS 'checksum that S3 verifies: crc32, sha256, or none for stores that refuse checksums';
COMMENT ON COLUMN s3_export.integrations.created_at IS 'when the integration was made';
COMMENT ON COLUMN s3_export.integrations.updated_at IS 'when the integration was last changed';
COMMENT ON FUNCTION s3_export.before_integration_update() IS
    'keeps integration_id, which the sealed credentials are bound to, and sets updated_at';
COMMENT ON FUNCTION s3_export.resolve_role() IS 'sets the OID of owner or of usage_role, whichever its argument names';
COMMENT ON FUNCTION s3_export.keep_to_superusers() IS 'refuses values that only a superuser may give';
COMMENT ON VIEW s3_export.owned_identifiers IS 'access key ids and external ids of the integrations that one of your roles owns';
COMMENT ON COLUMN s3_export.owned_identifiers.name IS 'name of the integration';
COMMENT ON COLUMN s3_export.owned_identifiers.access_key_id IS 'public half of the integration''s credentials';
COMMENT ON COLUMN s3_export.owned_identifiers.aws_external_id IS 'external id that the trust policy of the integration''s role asks for';
COMMENT ON COLUMN s3_export.credentials.key_id IS 'key of the ring that opens the secret';
COMMENT ON COLUMN s3_export.credentials.sealed IS
    'the secret, sealed with AES-256-GCM and bound to integration_id, endpoint and sts_endpoint';
COMMENT ON INDEX s3_export.jobs_queued IS 'jobs that wait for a worker';
COMMENT ON INDEX s3_export.jobs_running IS 'jobs that run, or that ran when the server crashed';
COMMENT ON COLUMN s3_export.jobs.export_id IS 'id of the job, and of the export that its first attempt is';
COMMENT ON COLUMN s3_export.jobs.status IS
    'state of the job, as last written; a job that is RUNNING and whose lock nobody holds has lost its worker';
COMMENT ON COLUMN s3_export.jobs.database_oid IS 'database that the job was enqueued in; a copy of the database runs none of its jobs';
COMMENT ON COLUMN s3_export.jobs.role IS 'role that the job runs as, by its name when the job was enqueued';
COMMENT ON COLUMN s3_export.jobs.role_oid IS 'role that the job runs as';
COMMENT ON COLUMN s3_export.jobs.uri IS 'location that the job writes to';
COMMENT ON COLUMN s3_export.jobs.integration IS 'integration that the job uses; NULL if the job names an AWS role inline';
COMMENT ON COLUMN s3_export.jobs.aws_role IS 'AWS role that the job names inline; NULL if the job uses an integration';
COMMENT ON COLUMN s3_export.jobs.aws_external_id IS 'external id that the trust policy of aws_role asks for; NULL once the job has ended';
COMMENT ON COLUMN s3_export.jobs.query IS 'query that the job exports';
COMMENT ON COLUMN s3_export.jobs.options IS 'all other arguments of the job';
COMMENT ON COLUMN s3_export.jobs.settings IS 'settings of the session that enqueued the job, for the worker; NULL once the job has ended';
COMMENT ON COLUMN s3_export.jobs.documents IS 'number of documents written; NULL until the job has completed';
COMMENT ON COLUMN s3_export.jobs.files IS 'number of files written; NULL until the job has completed';
COMMENT ON COLUMN s3_export.jobs.bytes IS 'number of bytes written; NULL until the job has completed';
COMMENT ON COLUMN s3_export.jobs.manifest IS 'URL of the manifest; NULL until the job has completed';
COMMENT ON COLUMN s3_export.jobs.error_sqlstate IS 'SQLSTATE of the error that ended the job';
COMMENT ON COLUMN s3_export.jobs.error_message IS 'message of the error that ended the job';
COMMENT ON COLUMN s3_export.jobs.error_detail IS 'detail of the error that ended the job';
COMMENT ON COLUMN s3_export.jobs.error_hint IS 'hint of the error that ended the job';
COMMENT ON COLUMN s3_export.jobs.error_context IS 'context of the error that ended the job';
COMMENT ON COLUMN s3_export.jobs.pid IS 'process id of the worker, while the job runs';
COMMENT ON COLUMN s3_export.jobs.queued_at IS 'when the job was enqueued';
COMMENT ON COLUMN s3_export.jobs.started_at IS 'when a worker took the job';
COMMENT ON COLUMN s3_export.jobs.finished_at IS 'when the job ended';
COMMENT ON FUNCTION s3_export.lost_worker(uuid) IS
    'error of a job that is RUNNING and whose worker is gone; NULL if the job runs or has ended. Part of s3_export.exports';
COMMENT ON COLUMN s3_export.exports.export_id IS 'id of the export or job, as wait and cancel take it';
COMMENT ON COLUMN s3_export.exports.role IS 'role that the export runs as';
COMMENT ON COLUMN s3_export.exports.uri IS 'location that the export writes to; NULL while an export runs in a session';
COMMENT ON COLUMN s3_export.exports.integration IS 'integration that the export uses; NULL while an export runs in a session';
COMMENT ON COLUMN s3_export.exports.query IS
    'query that is exported; of an export in a session, NULL while it runs, and afterwards unless s3_export.history_query was on';
COMMENT ON COLUMN s3_export.exports.documents IS 'number of documents written so far';
COMMENT ON COLUMN s3_export.exports.files IS 'number of files begun so far';
COMMENT ON COLUMN s3_export.exports.bytes IS 'number of bytes handed to the uploads so far';
COMMENT ON COLUMN s3_export.exports.options IS 'all other arguments of s3_export_async; NULL for an export in a session';
COMMENT ON COLUMN s3_export.exports.queued_at IS 'when the job was enqueued; NULL for an export in a session';
COMMENT ON COLUMN s3_export.exports.started_at IS 'when the export began';
COMMENT ON COLUMN s3_export.exports.finished_at IS 'when the export ended';
COMMENT ON COLUMN s3_export.exports.manifest IS 'URL of the manifest, once the export has completed';
COMMENT ON COLUMN s3_export.exports.pid IS 'process id of the worker or session that runs the export, as in pg_stat_activity';
COMMENT ON COLUMN s3_export.exports.error_sqlstate IS 'SQLSTATE of the error that ended the export';
COMMENT ON COLUMN s3_export.exports.error_message IS 'message of the error that ended the export';
COMMENT ON COLUMN s3_export.exports.error_detail IS 'detail of the error that ended the export';
COMMENT ON COLUMN s3_export.exports.error_hint IS 'hint of the error that ended the export';
COMMENT ON COLUMN s3_export.exports.error_context IS 'context of the error that ended the export';
COMMENT ON FUNCTION s3_export.cancel(uuid) IS
    'stops a job of one of your roles, queued or running; gives false if the job had ended already. A job that runs cleans up before it ends: see wait';
COMMENT ON FUNCTION s3_export.prune(interval) IS
    'forgets jobs that ended longer ago than older_than: those of your roles, or all for s3_export_admin; gives their number. Touches nothing in S3';
COMMENT ON FUNCTION s3_export.create_integration(text, text, text, text, text, text, text, text, text, boolean, text[], name, jsonb) IS
    'makes an integration and seals its secret; gives its id. usage_role: role whose members may use the integration (default: you; public: everyone). An aws_role without aws_external_id gets a new external id. options: aws_profile, bucket_key, checksum, dual_stack, enabled, expected_bucket_owner, fips, kms_encryption_context, kms_key_id, max_bytes, max_bytes_per_day, max_documents, object_acl, object_lock_days, object_lock_mode, requester_pays, sse, storage_class, sts_endpoint, tags';
COMMENT ON FUNCTION s3_export.set_credentials(text, text, text, text) IS
    'seals other credentials and stores them in an integration that you may change';
COMMENT ON FUNCTION s3_export.set_credentials_from_file(text, text) IS
    'does the same as set_credentials, with the keys in a file on the server: AWS''s credentials file with one profile, or the JSON that AWS''s command line prints; needs pg_read_server_files';
COMMENT ON FUNCTION s3_export.reseal() IS
    'seals all credentials of this database with the newest key of the ring; gives the number that were sealed anew. Other databases of the cluster may still need the old keys';
COMMENT ON FUNCTION s3_export.validate_integration(text, text) IS
    'tries an integration at uri (default: its first allowed location) and tells the outcome of each step: region, credentials, put, head, conditional put, multipart, delete';
COMMENT ON FUNCTION s3_export.cleanup(text, text, interval, boolean, boolean) IS
    'lists files and multipart uploads below uri whose export has no manifest, does not run in this cluster and began longer ago than older_than; deletes them unless dry_run. force: an older_than of less than a day is accepted, for when no other cluster exports there';
COMMENT ON FUNCTION s3_export.iam_policy(text, text) IS
    'smallest IAM policy for the integration''s identity or role, as JSON. kind: export, run_key for exports with that option, cleanup, verify, or base for the identity that assumes the role';
COMMENT ON FUNCTION s3_export.trust_policy(text, text) IS
    'trust policy for the integration''s role, with its external id, as JSON. principal: ARN to trust (default: STS is asked whose the integration''s credentials are)';
COMMENT ON FUNCTION pg_catalog.s3_export(text) IS
    'does the same for a statement of Rockset''s, pasted whole: INSERT INTO ''s3://...'' INTEGRATION = ''...'' [FORMAT = (...)] SELECT ... [PARTITION BY ...] [HINT(...)]. Use it in FROM';
COMMENT ON FUNCTION pg_catalog.s3_export_async(text) IS
    'does the same as s3_export(statement) in a background worker, once this transaction has committed; gives the export_id';
COMMENT ON FUNCTION s3_export.options() IS 'members of the argument options of s3_export, with their defaults';
COMMENT ON FUNCTION pg_catalog.s3_export_async(text, text, text, text, text, int, bigint, text[], boolean, boolean, jsonb) IS
    'does the same as s3_export in a background worker, once this transaction has committed; gives the export_id. See s3_export.exports, wait and cancel';
COMMENT ON FUNCTION pg_catalog.s3_export_with_role(text, text, text, text, text, text, int, bigint, text[], boolean, boolean, jsonb) IS
    'does the same as s3_export, with an AWS role that the caller names and the server assumes with its own AWS credentials. Granted to nobody, and only for the roles and locations in the setting s3_export.inline_roles: a caller who could name any role would write wherever a role trusts this server (the confused deputy)';
DO $$
DECLARE
    kind pg_catalog.text;
    name pg_catalog.name;
    relation pg_catalog.regclass;
    comment pg_catalog.text;
BEGIN
    FOR kind, name, relation, comment IN VALUES
        ('CONSTRAINT', 'integrations_pkey', 's3_export.integrations', 'ids are unique: secrets are bound to them'),
        ('CONSTRAINT', 'integrations_name_key', 's3_export.integrations', 'names are unique'),
        ('CONSTRAINT', 'access_key_id_goes_with_keys', 's3_export.integrations', 'an access key id goes only with credential_source keys'),
        ('CONSTRAINT', 'aws_profile_goes_with_profile', 's3_export.integrations', 'a profile goes with credential_source profile, and with no other'),
        ('CONSTRAINT', 'aws_role_is_an_arn', 's3_export.integrations', 'the ARN of an IAM role, in the form that STS takes'),
        ('CONSTRAINT', 'aws_external_id_has_the_characters_of_sts', 's3_export.integrations', '2 to 1,224 characters, all of which STS takes'),
        ('CONSTRAINT', 'aws_external_id_goes_with_a_role', 's3_export.integrations', 'an external id goes only with a role'),
        ('CONSTRAINT', 'allowed_locations_are_s3_uris', 's3_export.integrations', 'at least one location, none of them NULL, all of which begin with s3://'),
        ('CONSTRAINT', 'kms_key_id_goes_with_kms', 's3_export.integrations', 'a key goes only with sse aws:kms and aws:kms:dsse'),
        ('CONSTRAINT', 'kms_key_id_is_an_arn', 's3_export.integrations', 'the ARN of a key, which policies can name, and no alias; with an endpoint, any name, since other stores name keys as they like'),
        ('CONSTRAINT', 'object_acl_is_canned', 's3_export.integrations', 'the name of a canned ACL, not a list of grants'),
        ('POLICY', 'members_see_what_they_may_use', 's3_export.integrations', 'a member sees the integrations whose usage_role it has, and those for public'),
        ('POLICY', 'admins_change_what_they_own', 's3_export.integrations', 'an administrator sees and changes the integrations that one of its roles owns'),
        ('POLICY', 'superuser_needed_to_insert_http_ambient_or_profile', 's3_export.integrations', 'only a superuser may give the server''s own credentials or an unencrypted endpoint'),
        ('POLICY', 'superuser_needed_to_update_http_ambient_or_profile', 's3_export.integrations', 'only a superuser may give the server''s own credentials or an unencrypted endpoint'),
        ('CONSTRAINT', 'credentials_pkey', 's3_export.credentials', 'an integration has one secret'),
        ('CONSTRAINT', 'credentials_integration_id_fkey', 's3_export.credentials', 'a secret is deleted with its integration'),
        ('CONSTRAINT', 'an_integration_or_a_role', 's3_export.jobs', 'a job has either an integration or an AWS role named inline')
    LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_constraint AS c
                   WHERE c.conrelid OPERATOR(pg_catalog.=) relation AND c.conname OPERATOR(pg_catalog.=) name)
           OR EXISTS (SELECT FROM pg_catalog.pg_policy AS p
                      WHERE p.polrelid OPERATOR(pg_catalog.=) relation AND p.polname OPERATOR(pg_catalog.=) name) THEN
            EXECUTE pg_catalog.format('COMMENT ON %s %I ON %s IS %L', kind, name, relation, comment);
        END IF;
    END LOOP;
END
$$;

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
                  AND c.relname OPERATOR(pg_catalog.=) ANY (ARRAY['credentials', 'jobs', 'feed_definitions', 'history_entries']::pg_catalog.name[])
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
                ('SELECT', ARRAY['exports', 'feeds'], ARRAY['s3_export_member', 's3_export_admin']),
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
                o.name OPERATOR(pg_catalog.=) ANY (ARRAY['credentials', 'jobs', 'feed_definitions', 'history_entries', 'reseal']::pg_catalog.name[])
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
GRANT SELECT (max_documents, max_bytes) ON s3_export.integrations TO s3_export_member, s3_export_admin;
GRANT SELECT (tags, object_lock_mode, object_lock_days, kms_encryption_context, bucket_key, requester_pays)
    ON s3_export.integrations TO s3_export_member;
GRANT SELECT (tags, object_lock_mode, object_lock_days, kms_encryption_context, bucket_key, requester_pays)
    ON s3_export.integrations TO s3_export_admin;
GRANT USAGE ON SCHEMA s3_export TO s3_export_auditor;
GRANT SELECT (max_bytes_per_day) ON s3_export.integrations TO s3_export_member;
GRANT SELECT (max_bytes_per_day) ON s3_export.integrations TO s3_export_admin;
GRANT SELECT (fips, dual_stack) ON s3_export.integrations TO s3_export_member, s3_export_admin;
GRANT EXECUTE ON FUNCTION s3_export.running() TO s3_export_auditor;
GRANT EXECUTE ON FUNCTION s3_export.lost_worker(uuid) TO s3_export_auditor;
GRANT SELECT ON s3_export.history, s3_export.daily_exports TO s3_export_member, s3_export_admin, s3_export_auditor;
GRANT SELECT ON s3_export.exports TO s3_export_auditor;
GRANT EXECUTE ON FUNCTION s3_export.verify(text, text, boolean) TO s3_export_member, s3_export_admin;
GRANT EXECUTE ON FUNCTION s3_export.verify_async(text, text, boolean) TO s3_export_member, s3_export_admin;
GRANT EXECUTE ON FUNCTION s3_export.dry_run(text, text, text, text, text, int, bigint, text[], boolean, boolean, jsonb) TO s3_export_member;
GRANT EXECUTE ON FUNCTION s3_export.dry_run(text) TO s3_export_member;
GRANT SELECT ON s3_export.feeds TO s3_export_member, s3_export_admin;
GRANT EXECUTE ON FUNCTION s3_export.drop_feed(text) TO s3_export_member, s3_export_admin;
GRANT EXECUTE ON FUNCTION s3_export.rewind_feed(text, text, bigint) TO s3_export_member, s3_export_admin;
-- Whoever may export.
GRANT EXECUTE ON FUNCTION s3_export.create_feed(text, text, text, text, text, text, text, interval, interval, boolean, text, text, int, bigint, text[], boolean, boolean, jsonb) TO s3_export_member;
GRANT EXECUTE ON FUNCTION s3_export.alter_feed(text, jsonb) TO s3_export_member;
GRANT EXECUTE ON FUNCTION s3_export.run_feed(text) TO s3_export_member;
GRANT EXECUTE ON FUNCTION s3_export.run_feed_async(text) TO s3_export_member;
GRANT EXECUTE ON FUNCTION s3_export.feed_setup(text, text) TO s3_export_member;
