-- 0.1.0 → 0.2.0: Parquet. What compression is usual depends on the format now, so the argument is NULL by default.
\echo Use "ALTER EXTENSION s3_export UPDATE" to load this file. \quit

CREATE OR REPLACE FUNCTION pg_catalog.s3_export(
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
    OUT num_docs_inserted bigint,
    OUT num_files_written bigint,
    OUT num_bytes_written bigint,
    OUT export_id uuid,
    OUT manifest text
) LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_run';
COMMENT ON FUNCTION pg_catalog.s3_export(text, text, text, text, text, int, bigint, text[], boolean, boolean, jsonb) IS
    'runs a query as you and writes its rows to S3 as JSON, CSV or Parquet, in files of output_chunk_size documents; the manifest follows with the commit. For options see s3_export.options(). Use it in FROM';

CREATE OR REPLACE FUNCTION pg_catalog.s3_export_async(
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
    options jsonb DEFAULT '{}'
) RETURNS uuid LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_run_async';

CREATE OR REPLACE FUNCTION pg_catalog.s3_export_with_role(
    uri text,
    aws_role text,
    aws_external_id text,
    query text,
    format text DEFAULT 'json',
    compression text DEFAULT NULL,
    output_chunk_size int DEFAULT NULL,
    output_chunk_bytes bigint DEFAULT NULL,
    partition_by text[] DEFAULT NULL,
    include_query_id boolean DEFAULT false,
    wrap_types boolean DEFAULT true,
    options jsonb DEFAULT '{}',
    OUT num_docs_inserted bigint,
    OUT num_files_written bigint,
    OUT num_bytes_written bigint,
    OUT export_id uuid,
    OUT manifest text
) LANGUAGE c VOLATILE PARALLEL UNSAFE CALLED ON NULL INPUT
    AS 'MODULE_PATHNAME', 's3_export_run_with_role';

-- What had no comment. The extension's own is the control file's, which an update does not read again.
COMMENT ON EXTENSION s3_export IS 'export a SELECT to Amazon S3 as type-preserving JSON, CSV or Parquet: complete or absent, never partial';
COMMENT ON CONSTRAINT integrations_pkey ON s3_export.integrations IS 'what secrets are bound to';
COMMENT ON CONSTRAINT integrations_name_key ON s3_export.integrations IS 'a name means one integration';
COMMENT ON CONSTRAINT name_is_printable ON s3_export.integrations IS '1 to 63 characters, none of them a control character';
COMMENT ON CONSTRAINT credential_source_is_known ON s3_export.integrations IS 'keys, ambient or profile';
COMMENT ON CONSTRAINT access_key_id_goes_with_keys ON s3_export.integrations IS 'the server''s own credentials need none';
COMMENT ON CONSTRAINT aws_profile_goes_with_profile ON s3_export.integrations IS 'there is one with credential_source profile, and else none';
COMMENT ON CONSTRAINT aws_role_is_an_arn ON s3_export.integrations IS 'of a role of IAM''s, as STS takes them';
COMMENT ON CONSTRAINT aws_external_id_has_the_characters_of_sts ON s3_export.integrations IS '2 to 1,224 of those that STS takes';
COMMENT ON CONSTRAINT aws_external_id_goes_with_a_role ON s3_export.integrations IS 'without a role nobody asks for it';
COMMENT ON CONSTRAINT sts_endpoint_is_a_url ON s3_export.integrations IS 'a scheme and a host, without a path';
COMMENT ON CONSTRAINT region_is_a_name ON s3_export.integrations IS 'letters, digits and hyphens';
COMMENT ON CONSTRAINT endpoint_is_a_url ON s3_export.integrations IS 'a scheme and a host, without a path';
COMMENT ON CONSTRAINT allowed_locations_are_s3_uris ON s3_export.integrations IS 'at least one, none of them NULL, each s3:// and more';
COMMENT ON CONSTRAINT expected_bucket_owner_is_an_account ON s3_export.integrations IS 'twelve digits';
COMMENT ON CONSTRAINT sse_is_known ON s3_export.integrations IS 'AES256, aws:kms or aws:kms:dsse';
COMMENT ON CONSTRAINT kms_key_id_goes_with_kms ON s3_export.integrations IS 'no other encryption takes a key';
COMMENT ON CONSTRAINT kms_key_id_is_an_arn ON s3_export.integrations IS 'of a key, which policies can name, and no alias; stores with an endpoint name keys as they like';
COMMENT ON CONSTRAINT storage_class_is_a_name ON s3_export.integrations IS 'capital letters and underscores';
COMMENT ON CONSTRAINT object_acl_is_canned ON s3_export.integrations IS 'the name of one, not a list of grants';
COMMENT ON CONSTRAINT checksum_is_known ON s3_export.integrations IS 'crc32, sha256 or none';
COMMENT ON CONSTRAINT credentials_pkey ON s3_export.credentials IS 'one secret an integration';
COMMENT ON CONSTRAINT credentials_integration_id_fkey ON s3_export.credentials IS 'a secret goes with its integration';
COMMENT ON CONSTRAINT jobs_pkey ON s3_export.jobs IS 'ids are unique';
COMMENT ON CONSTRAINT status_is_known ON s3_export.jobs IS 'QUEUED, RUNNING, COMPLETED, ERROR or CANCELLED';
COMMENT ON CONSTRAINT an_integration_or_a_role ON s3_export.jobs IS 'as s3_export_async takes an integration, and a pasted statement either';

DO $$
DECLARE
    wanted pg_catalog.name;
    purpose pg_catalog.text;
BEGIN
    FOR wanted, purpose IN VALUES
        ('s3_export_member', 'may export, with the integrations of s3_export whose usage_role it has'),
        ('s3_export_admin', 'may make integrations of s3_export, and change those that it owns')
    LOOP
        IF (SELECT pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles
            WHERE rolname OPERATOR(pg_catalog.=) wanted) IS NULL THEN
            BEGIN
                EXECUTE pg_catalog.format('COMMENT ON ROLE %I IS %L', wanted, purpose);
            EXCEPTION WHEN unique_violation THEN
                -- Another database is being upgraded at this moment.
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;
