-- A table of 16 columns of the types that applications have, one million rows; the same on every run.
DROP TABLE IF EXISTS wide;
CREATE UNLOGGED TABLE wide AS
SELECT g AS id,
       (g * 7919::bigint) % 1000003 AS account,
       g % 32000 AS branch,
       g % 3 = 0 AS active,
       'customer ' || g AS name,
       md5(g::text) AS token,
       CASE WHEN g % 5 = 0 THEN NULL ELSE E'line one\nline "two" \\ ' || g END AS note,
       (g * 1.37)::numeric(12,2) AS amount,
       sqrt(g) AS score,
       (g % 100) / 7.0::real AS ratio,
       date '2020-01-01' + g % 2000 AS day,
       timestamp '2020-01-01 00:00:00' + g * interval '1.5 seconds' AS seen,
       timestamptz '2020-01-01 00:00:00+00' + g * interval '1 second' AS created,
       md5('u' || g)::uuid AS reference,
       jsonb_build_object('tags', jsonb_build_array(g % 10, g % 7), 'ok', g % 2 = 0) AS attributes,
       ARRAY[g % 10, g % 100, g % 1000] AS scores
  FROM generate_series(1, 1000000) AS g;
VACUUM (FREEZE, ANALYZE) wide;
