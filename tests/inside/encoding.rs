//! Documents of values that need Postgres to be made; every type's golden lines are in `tests/`.

use pgrx::prelude::*;
use s3_export_core::format::{NonFinite, Wrapping};

use crate::inside::documents::{documents, try_documents};
use crate::inside_tests;

inside_tests! {
    keys_come_in_column_order_and_are_escaped,
    two_columns_of_one_name_are_refused raises "column \"a\" appears more than once",
    two_columns_of_one_name_are_refused_at_any_depth raises "column \"a\" appears more than once",
    of_two_columns_that_fail_the_first_is_named raises "column \"a\" appears more than once",
    dropped_columns_of_a_composite_are_not_written,
    wrappers_stand_at_any_depth,
    output_functions_see_pinned_settings_and_the_query_does_not,
    plain_json_has_one_json_type_a_column,
    toasted_and_compressed_values_are_written_whole,
}

fn keys_come_in_column_order_and_are_escaped() {
    assert_eq!(documents(r#"SELECT 1 AS "b""x", NULL AS a, true AS "ü""#), [r#"{"b\"x":1,"a":null,"ü":true}"#]);
    assert_eq!(documents("SELECT FROM generate_series(1, 2)"), ["{}", "{}"]);
}

fn two_columns_of_one_name_are_refused() {
    documents("SELECT 1 AS a, 2 AS a");
}

fn two_columns_of_one_name_are_refused_at_any_depth() {
    documents("SELECT ARRAY[x] AS x FROM (SELECT 1 AS a, 2 AS a) AS x");
}

/// Once the later column's error took the place of the first.
fn of_two_columns_that_fail_the_first_is_named() {
    documents("SELECT x, y FROM (SELECT 1 AS a, 2 AS a) AS x, (SELECT 1 AS b, 2 AS b) AS y");
}

fn dropped_columns_of_a_composite_are_not_written() {
    Spi::run("CREATE TABLE t (a int, b int, c int); INSERT INTO t VALUES (1, 2, 3); ALTER TABLE t DROP COLUMN a").unwrap();
    assert_eq!(documents("SELECT t FROM t"), [r#"{"t":{"b":2,"c":3}}"#]);
    assert_eq!(documents("SELECT * FROM t"), [r#"{"b":2,"c":3}"#]);
}

fn wrappers_stand_at_any_depth() {
    Spi::run("CREATE TYPE pair AS (day date, at timestamptz[])").unwrap();
    let query = "SELECT ARRAY[ROW('2018-01-01', ARRAY['epoch'])::pair, NULL] AS p";
    let day = r#"{"__rockset_type":"date","value":"2018-01-01"}"#;
    let at = r#"{"__rockset_type":"timestamp","value":"0"}"#;
    assert_eq!(documents(query), [format!(r#"{{"p":[{{"day":{day},"at":[{at}]}},null]}}"#)]);
}

fn output_functions_see_pinned_settings_and_the_query_does_not() {
    Spi::run("SET datestyle = 'German'; SET timezone = 'Asia/Kolkata'; SET intervalstyle = 'sql_standard'").unwrap();
    let query = "SELECT tstzrange('epoch', NULL) AS r, date '2018-12-31'::text AS d, interval '1 month 1 day' AS i";
    let expected = r#"{"r":"[\"1970-01-01 00:00:00+00\",)","d":"31.12.2018","i":"P1M1D"}"#;
    assert_eq!(documents(query), [expected]);
    assert_eq!(Spi::get_one::<&str>("SELECT date '2018-12-31'::text"), Ok(Some("31.12.2018")));
}

fn plain_json_has_one_json_type_a_column() {
    let query = "SELECT 'NaN'::float8 AS f, date '2018-01-01' AS d, '\\x00'::bytea AS b, interval '1 month' AS i";
    let plain = |rule| try_documents(query, Wrapping::Plain(rule)).unwrap().concat();
    assert_eq!(plain(NonFinite::String), r#"{"f":"NaN","d":"2018-01-01","b":"AA==","i":"P1M"}"#);
    assert_eq!(plain(NonFinite::Null), r#"{"f":null,"d":"2018-01-01","b":"AA==","i":"P1M"}"#);
}

fn toasted_and_compressed_values_are_written_whole() {
    Spi::run("CREATE TABLE t (x text, j jsonb, a int[]); ALTER TABLE t ALTER x SET STORAGE EXTERNAL").unwrap();
    Spi::run(
        "INSERT INTO t SELECT repeat('ab', 50000), jsonb_build_object('k', repeat('c', 50000)),
                (SELECT array_agg(g % 2) FROM generate_series(1, 50000) AS g)",
    )
    .unwrap();
    let whole = Spi::get_one::<String>("SELECT row_to_json(t)::text FROM t").unwrap().unwrap();
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(&documents("SELECT * FROM t").concat()), parse(&whole));
}
