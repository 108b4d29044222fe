-- What the benchmark exports; the same on every run. lineitem's rows come from TPC-H's generator.
CREATE UNLOGGED TABLE lineitem (
    l_orderkey integer NOT NULL, l_partkey integer NOT NULL, l_suppkey integer NOT NULL, l_linenumber integer NOT NULL,
    l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL,
    l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL,
    l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL,
    l_comment varchar(44) NOT NULL);

-- Fifteen columns of the types that applications have, one million rows.
CREATE UNLOGGED TABLE mixed AS
SELECT g::bigint AS id,
       CASE WHEN g % 5 = 0 THEN NULL ELSE E'line one\nline "two" \\ naïve 雪 ' || g END AS note,
       jsonb_build_object('tags', jsonb_build_array(g % 10, 'blue', g % 7), 'ok', g % 2 = 0, 'name', 'customer ' || g,
                          'nested', jsonb_build_object('x', g * 1.5, 'y', NULL)) AS attributes,
       timestamptz '2020-01-01 00:00:00+00' + g * interval '1.000001 second' AS created,
       date '2020-01-01' + g % 2000 AS day,
       time '00:00:00' + g % 86400 * interval '1.01 second' AS at,
       (g * 1.37)::numeric(12,2) AS amount,
       md5('u' || g)::uuid AS reference,
       decode(md5(g::text), 'hex') AS digest,
       ARRAY[g % 10, g % 100, g % 1000] AS scores,
       ARRAY['red', 'tag ' || g % 50] AS labels,
       CASE WHEN g % 4 = 0 THEN NULL ELSE g % 5000 * interval '1 minute 1.5 second' END AS duration,
       sqrt(g) AS score,
       CASE WHEN g % 7 = 0 THEN NULL ELSE g % 3 = 0 END AS active,
       ('10.' || g % 256 || '.' || g / 256 % 256 || '.1')::inet AS address
  FROM generate_series(1, 1000000) AS g;

-- Two integers, twenty million rows.
CREATE UNLOGGED TABLE narrow AS
SELECT g AS id, (g * 7919::bigint % 1000003)::integer AS account FROM generate_series(1, 20000000) AS g;
