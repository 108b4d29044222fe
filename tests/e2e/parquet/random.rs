//! Tables of random columns with random values: what pyarrow reads must be what Postgres says of them.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::Value;

use super::super::fixture::{Database, Download};
use super::setup;

const CASES: u32 = 20;
const ROWS: usize = 300;

/// A type, an expression that makes a value of it, and one that says all of it in JSON: numbers behind dates and times, bytes
/// of floats.
struct Kind(&'static str, &'static str, &'static str);

const KINDS: [Kind; 30] = [
    Kind("boolean", "random() < 0.5", "to_jsonb($v)"),
    Kind("smallint", "(random() * 65535 - 32768)::int", "to_jsonb($v)"),
    Kind("int", "(random() * 4294967295 - 2147483648)::bigint", "to_jsonb($v)"),
    Kind("bigint", "(random()::numeric * 18446744073709551615 - 9223372036854775808)::bigint", "to_jsonb($v)"),
    Kind("oid", "(random() * 4294967295)::bigint::oid", "to_jsonb($v::bigint)"),
    Kind(
        "real",
        "CASE WHEN random() < 0.1 THEN '-Infinity' ELSE (random() - 0.5)::real END",
        "to_jsonb(encode(float4send($v), 'hex'))",
    ),
    Kind(
        "float8",
        "CASE WHEN random() < 0.1 THEN 'Infinity' ELSE exp(random() * 100) END",
        "to_jsonb(encode(float8send($v), 'hex'))",
    ),
    Kind("numeric(9,0)", "random() * 999999999 - 500000000", "to_jsonb($v::text)"),
    Kind("numeric(12,3)", "random() * 1999999999 - 999999999", "to_jsonb($v::text)"),
    Kind("numeric(38,10)", "(random() * 1e18)::numeric * 1000000000 + random()::numeric", "to_jsonb($v::text)"),
    Kind("numeric(5,5)", "random() - 0.5", "to_jsonb($v::text)"),
    Kind("numeric", "CASE WHEN random() < 0.1 THEN 'NaN' ELSE random()::numeric END", "to_jsonb($v::text)"),
    Kind("money2", "random() * 100", "to_jsonb($v::text)"),
    Kind("text", "repeat(chr(32 + (random() * 5000)::int), (random() * 9)::int)", "to_jsonb($v)"),
    Kind("varchar(5)", "left(md5(random()::text), (random() * 5)::int)", "to_jsonb($v)"),
    Kind("char(5)", "left(md5(random()::text), (random() * 5)::int)", "to_jsonb($v::char(5)::bpchar)"),
    Kind("bytea", "substr(decode(md5(random()::text), 'hex'), 1, (random() * 16)::int)", "to_jsonb(encode($v, 'hex'))"),
    Kind("uuid", "md5(random()::text)::uuid", "to_jsonb(encode(uuid_send($v), 'hex'))"),
    Kind("date", "date '1970-01-01' + (random() * 2000000 - 700000)::int", "to_jsonb($v - date '1970-01-01')"),
    Kind("time", "time '00:00' + random() * interval '23:59:59'", "to_jsonb((extract(epoch FROM $v) * 1000000)::bigint)"),
    Kind(
        "timestamp",
        "timestamp '1970-01-01' + (random() * 4e7 - 1e7) * interval '1 hour'",
        "to_jsonb((extract(epoch FROM $v) * 1000000)::bigint)",
    ),
    Kind(
        "timestamptz",
        "timestamptz '1970-01-01 00:00+00' + (random() * 4e7 - 1e7) * interval '1 hour'",
        "to_jsonb((extract(epoch FROM $v) * 1000000)::bigint)",
    ),
    Kind("jsonb", "jsonb_build_object('a', random(), 'é\"', jsonb_build_array(NULL, 'x'))", "to_jsonb($v::text)"),
    Kind("json", "('[ ' || random() || ' ]')::json", "to_jsonb($v::text)"),
    Kind("mood", "(enum_range(NULL::mood))[1 + (random() * 2)::int]", "to_jsonb($v)"),
    Kind("inet", "('10.0.0.0'::inet + (random() * 100000)::bigint)", "to_jsonb(format('%s', $v))"),
    Kind("int[]", "CASE WHEN random() < 0.3 THEN '{}' ELSE ARRAY[(random() * 100)::int, NULL, 5] END", "to_jsonb($v)"),
    Kind("numeric(6,2)[]", "ARRAY[random(), NULL]", "to_jsonb($v::text[])"),
    Kind(
        "pair",
        "ROW((random() * 9)::int, ARRAY[md5(random()::text), NULL])::pair",
        "jsonb_build_object('a', ($v).a, 'b', ($v).b)",
    ),
    Kind(
        "pair[]",
        "CASE WHEN random() < 0.3 THEN '{}' ELSE ARRAY[ROW(1, '{x}')::pair, NULL, ROW(NULL, NULL)::pair] END",
        "to_jsonb($v)",
    ),
];

#[test]
fn random_schemas_and_values_read_back_the_same() {
    let db = Database::new("parquet_random");
    setup(&db);
    let schema = prop::collection::vec((0..KINDS.len(), prop::bool::weighted(0.2)), 1..12);
    let layouts = prop::sample::select(vec![
        "",
        ", compression => 'none', output_chunk_size => 70",
        ", compression => 'snappy', options => '{\"row_group_rows\": 64}'",
        ", compression => 'gzip', output_chunk_bytes => 5000",
        ", compression => 'lz4', options => '{\"row_group_bytes\": 1000}'",
    ]);
    let config = Config { cases: CASES, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&(schema, layouts, -1.0..1.0), |(schema, layout, seed)| {
        let columns = schema.iter().enumerate().map(|(index, (kind, not_null))| {
            let Kind(of_type, value, _) = KINDS[*kind];
            let (not_null, value) = if *not_null {
                (" NOT NULL", value.to_owned())
            } else {
                ("", format!("CASE WHEN random() < 0.1 THEN NULL ELSE {value} END"))
            };
            (format!(", c{index} {of_type}{not_null}"), format!(", ({value})::{of_type}"))
        });
        let (types, values): (Vec<_>, Vec<_>) = columns.unzip();
        let mut client = db.client();
        client
            .batch_execute(&format!(
                "SET TimeZone = 'UTC'; DROP TABLE IF EXISTS drawn; CREATE TABLE drawn (id int{}); SELECT setseed({seed});
                 INSERT INTO drawn SELECT i{} FROM generate_series(1, {ROWS}) i",
                types.concat(),
                values.concat()
            ))
            .map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let exported = db.export_in(&mut client, "SELECT * FROM drawn", &format!("format => 'parquet'{layout}"));
        let exported = exported.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let read = Download::of(&db, &exported).rows("pyarrow_parquet");
        let exact: Vec<_> = schema
            .iter()
            .enumerate()
            .map(|(index, (kind, _))| {
                let name = format!("c{index}");
                let value = KINDS[*kind].2.replace("$v", &name);
                format!("'{name}', CASE WHEN {name} IS DISTINCT FROM NULL THEN {value} END")
            })
            .collect();
        let expected =
            client.query(&format!("SELECT jsonb_build_object({})::text FROM drawn ORDER BY id", exact.join(", ")), &[]);
        let expected = expected.map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        prop_assert_eq!(read.len(), ROWS);
        for (read, expected) in read.iter().zip(&expected) {
            let expected: Value = serde_json::from_str(expected.get(0)).unwrap();
            for cell in read.as_array().unwrap().iter().filter(|cell| cell[0] != "id") {
                let name = cell[0].as_str().unwrap();
                prop_assert_eq!(&cell[2], &expected[name], "{} {}", name, &cell[1]);
            }
        }
        Ok(())
    });
    outcome.unwrap();
}
