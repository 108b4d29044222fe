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
