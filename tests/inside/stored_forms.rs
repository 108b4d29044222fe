//! Values that are read in the form in which they are stored: each prints as Postgres's own JSON prints it.

use pgrx::prelude::*;
use s3_export_core::format::{NonFinite, Wrapping};

use crate::inside::documents::try_documents;
use crate::inside_tests;

inside_tests! {
    jsonb_of_every_shape,
    jsonb_of_many_children,
    jsonb_deeper_than_our_own_walk,
    jsonb_in_a_table_short_compressed_and_toasted,
    numerics_of_every_size,
    integers_around_every_power_of_ten,
    times_and_dates_of_every_length,
    arrays_where_they_stand,
}

/// Asserts that our plain documents of `query` are those of `row_to_json`. The query has no type that both print in different ways.
fn like_row_to_json(query: &str) {
    let ours = try_documents(query, Wrapping::Plain(NonFinite::String)).unwrap();
    let theirs = Spi::connect(|client| {
        let rows = client.select(&format!("SELECT row_to_json(exported)::text FROM ({query}) AS exported"), None, &[]).unwrap();
        rows.map(|row| row.get::<String>(1).unwrap().unwrap()).collect::<Vec<_>>()
    });
    assert!(!ours.is_empty());
    assert_eq!(ours, theirs);
}

fn jsonb_of_every_shape() {
    like_row_to_json(
        r#"SELECT j::jsonb AS j FROM unnest(ARRAY[
            'null', 'true', 'false', '0', '-1.50', '1e-20', '12345678901234567890.123456789', '""', '"a\"b\\c\n\u0001ü雪"',
            '[]', '{}', '[[]]', '[{}]', '{"a":[]}', '{"a":{}}', '[[1],[2,[3]],{"b":[4]}]', '{"":""}', '{"bb":1,"a":2}',
            '[1,"x",null,true,false,1.25,"",{"k":"v"}]', '{"a":{"b":{"c":[1,{"d":null}]}},"e":"f"}'
          ]) AS j"#,
    );
}

/// Past 32 children some entries hold an offset where the others hold a length.
fn jsonb_of_many_children() {
    like_row_to_json("SELECT to_jsonb(array_agg(g * 1.5)) AS j FROM generate_series(1, 200) AS g");
    like_row_to_json("SELECT jsonb_agg(repeat('x', g % 7)) AS j FROM generate_series(1, 200) AS g");
    like_row_to_json(
        "SELECT jsonb_object_agg('key' || g, jsonb_build_array(g, 'v' || g, g * 0.1, NULL)) AS j FROM generate_series(1, 100) AS g",
    );
    like_row_to_json(
        "SELECT jsonb_agg(jsonb_build_object('a', 'x' || g, 'b', g::numeric ^ 20)) AS j FROM generate_series(1, 70) AS g",
    );
}

fn jsonb_deeper_than_our_own_walk() {
    for levels in [10, 63, 64, 65, 66, 500] {
        like_row_to_json(&format!("SELECT (repeat('[', {levels}) || repeat(']', {levels}))::jsonb AS j"));
        like_row_to_json(&format!("SELECT (repeat('{{\"a\":', {levels}) || '1' || repeat('}}', {levels}))::jsonb AS j"));
    }
}

fn jsonb_in_a_table_short_compressed_and_toasted() {
    Spi::run(
        "CREATE TABLE t (j jsonb);
         INSERT INTO t SELECT jsonb_build_object('n', n, 'text', repeat('abc', n), 'amount', n * 1.25)
           FROM unnest(ARRAY[0, 1, 5, 20, 40, 100, 3000, 100000]) AS n;
         INSERT INTO t SELECT jsonb_agg(md5(g::text)) FROM generate_series(1, 5000) AS g",
    )
    .unwrap();
    like_row_to_json("SELECT j FROM t");
}

fn numerics_of_every_size() {
    like_row_to_json(
        "SELECT n, -n AS m, n / 10000 AS o, round(n, 2) AS p, trim_scale(n) AS q
           FROM (SELECT (10::numeric ^ e + d) * s AS n FROM generate_series(-12, 25) AS e,
                        unnest(ARRAY[0, 1, 0.5, 0.0001, 9999.9999]) AS d, unnest(ARRAY[1, 0.01, 100, 0]) AS s) AS x",
    );
}

fn integers_around_every_power_of_ten() {
    like_row_to_json(
        "SELECT n::bigint AS n, -n::bigint AS m FROM (
           SELECT 10::numeric ^ e + d AS n FROM generate_series(0, 18) AS e, generate_series(-2, 2) AS d) AS x",
    );
    like_row_to_json("SELECT '-9223372036854775808'::bigint AS a, 9223372036854775807 AS b, (-32768)::int2 AS c");
}

fn times_and_dates_of_every_length() {
    like_row_to_json(
        "SELECT time '00:00' + g * interval '1.000001 second' AS t, timestamp '1999-12-31 23:59:59.5' + g * interval '9.87654 hours' AS ts,
                date '0001-01-01' + g * 100 AS d
           FROM generate_series(0, 3000, 7) AS g",
    );
    like_row_to_json(
        "SELECT time '12:34:56' + f * interval '1 microsecond' AS t FROM unnest(ARRAY[0, 1, 10, 100, 1000, 10000, 100000, 999999, 120000]) AS f",
    );
}

fn arrays_where_they_stand() {
    like_row_to_json(
        "SELECT '{}'::int[] AS empty, ARRAY[1, NULL, 3] AS a, ARRAY[NULL]::text[] AS b, ARRAY[1, 2]::int2[] AS c,
                ARRAY[1, 2]::int8[] AS d, ARRAY[true, NULL, false] AS e, ARRAY[1.5, NULL]::float8[] AS f, ARRAY[0.1]::float4[] AS g,
                ARRAY['', 'a', NULL, repeat('x', 200), 'é'] AS h, ARRAY[[1, 2], [3, NULL]] AS i, ARRAY[[['a']], [['b']]] AS j,
                '[5:6]={7,8}'::int[] AS k, ARRAY['a', 'bc']::\"char\"[] AS l, ARRAY['x']::name[] AS m,
                ARRAY[1.25, NULL, 100000.5]::numeric[] AS n, ARRAY[md5('a')::uuid] AS o, ARRAY['{\"a\": 1}']::jsonb[] AS p,
                ARRAY['10.0.0.1', '::1', '10.0.0.0/8']::inet[] AS q, ARRAY[date '2020-01-01', NULL] AS r,
                ARRAY['pg_class'::regclass, NULL] AS s, ARRAY['(1,2)'::point] AS t, ARRAY['08:00:2b:01:02:03'::macaddr, NULL] AS u",
    );
    Spi::run("CREATE TABLE t AS SELECT array_agg(i) AS a, array_agg(repeat('x', i % 9)) AS b, array_agg(nullif(i % 3, 0)) AS c FROM generate_series(1, 4000) AS i GROUP BY i % 5").unwrap();
    like_row_to_json("SELECT * FROM t");
}
