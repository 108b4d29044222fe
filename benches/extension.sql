-- The extension, what only its benchmark has, and an integration for each server.
CREATE EXTENSION s3_export;
CREATE FUNCTION s3_export_bench_encode(query text, form text) RETURNS bigint STRICT LANGUAGE c AS '$libdir/s3_export';
\set key `echo "$S3_ACCESS_KEY_ID"`
\set secret `echo "$S3_SECRET_ACCESS_KEY"`
\set certificate `echo "$SINK_CERTIFICATE"`
\set seaweedfs `echo "$S3_ENDPOINT"`
\set http `echo "$SINK_HTTP"`
\set tls `echo "$SINK_TLS"`
\set http_slow `echo "$SINK_HTTP_SLOW"`
\set tls_slow `echo "$SINK_TLS_SLOW"`
ALTER SYSTEM SET s3_export.ca_file = :'certificate';
SELECT pg_reload_conf();
SELECT s3_export.create_integration(name, :'key', :'secret', endpoint => endpoint, region => 'us-east-1', path_style => true,
                                    allowed_locations => '{s3://exports}')
  FROM (VALUES ('seaweedfs', :'seaweedfs'), ('http', :'http'), ('tls', :'tls'),
               ('http_slow', :'http_slow'), ('tls_slow', :'tls_slow')) AS servers(name, endpoint);
