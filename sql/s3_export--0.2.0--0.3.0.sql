-- 0.2.0 → 0.3.0: privileges that default privileges had widened are taken back, and more is kept to superusers.
\echo Use "ALTER EXTENSION s3_export UPDATE" to load this file. \quit
