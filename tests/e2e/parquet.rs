//! Parquet: what programs that were not written here read is what Postgres has, type by type.

mod random;

use serde_json::{Value, json};

use super::fixture::{Database, Download, PeakMemory, cell, refused};

/// Makes the types that [`TYPES`] has.
pub fn setup(db: &Database) {
    db.client()
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'so so', 'glücklich');
             CREATE TYPE pair AS (a int, b text[]);
             CREATE DOMAIN money2 AS numeric(10,2);",
        )
        .unwrap();
}

/// One column of each type.
pub const TYPES: &str = "SELECT i AS id, i % 2 = 0 AS b, i::smallint AS i2, i * 10000000000 AS i8, (i / 4.0)::real AS f4, i / 4.0::float8 AS f8,
    (i * -1.5)::numeric(10,2) AS n, (i * 1.5)::numeric(38,10) AS n38, i * 1.5 AS any_n, (i * 2)::money2 AS domain,
    'é \"x\",\n' || i AS t, 'ab'::char(4) AS c, date '1969-12-31' + i AS d, time '01:02:03.5' AS tm,
    timestamp '2020-02-28 23:59:59.25' AS ts, timestamptz '2020-02-28 23:59:59.5+01' AS tz, '\\x00ff'::bytea AS by,
    '01a204fc-0000-7000-8000-0000000000ff'::uuid AS u, '{\"a\": [1, null]}'::jsonb AS jb, '{\"z\":  1}'::json AS j,
    '1 mon -2 days 1.5 s'::interval AS iv, 'so so'::mood AS e, ARRAY[i, NULL] AS a, '{}'::text[] AS empty,
    ROW(i, '{x,NULL}')::pair AS r, ARRAY[ROW(1, NULL)::pair, NULL] AS rs, '10.0.0.1/8'::inet AS ip, int4range(1, 5) AS rg, 7::oid AS o";

/// Makes table `t`: three rows of a column of each type, of which the third has NULLs beside its `id`. Returns the columns' names.
pub fn create_table_of_types(db: &Database) -> Vec<String> {
    let columns: Vec<String> = TYPES
        .matches(" AS ")
        .zip(TYPES.split(" AS ").skip(1))
        .map(|(_, rest)| rest.split([',', ' ', '\n']).next().unwrap().to_owned())
        .collect();
    assert!(columns.len() > 25);
    let nulls: Vec<String> = columns.iter().skip(1).map(|name| format!("{name} = NULL")).collect();
    db.client()
        .batch_execute(&format!(
            "CREATE TABLE t AS {TYPES} FROM generate_series(1, 3) i; UPDATE t SET {} WHERE id = 3",
            nulls.join(", ")
        ))
        .unwrap();
    columns
}

#[test]
fn pyarrow_reads_every_type_and_every_null() {
    let db = Database::new("parquet_pyarrow");
    setup(&db);
    create_table_of_types(&db);
    let exported = db.export_with("SELECT * FROM t ORDER BY id", "format => 'parquet'");
    assert_eq!((exported.documents, exported.files), (3, 1));
    let rows = Download::of(&db, &exported).rows("pyarrow_parquet");
    assert_eq!(rows.len(), 3);
    for (column, type_name, value) in [
        ("id", "int32", json!(1)),
        ("b", "bool", json!(false)),
        ("i2", "int16", json!(1)),
        ("i8", "int64", json!(10_000_000_000_i64)),
        ("f4", "float", json!("3e800000")),
        ("f8", "double", json!("3fd0000000000000")),
        ("n", "decimal128(10, 2)", json!("-1.50")),
        ("n38", "decimal128(38, 10)", json!("1.5000000000")),
        ("any_n", "string", json!("1.5")),
        ("domain", "decimal128(10, 2)", json!("2.00")),
        ("t", "string", json!("é \"x\",\n1")),
        ("c", "string", json!("ab  ")),
        ("d", "date32[day]", json!(0)),
        ("tm", "time64[us]", json!(3_723_500_000_i64)),
        ("ts", "timestamp[us]", json!(1_582_934_399_250_000_i64)),
        ("tz", "timestamp[us, tz=UTC]", json!(1_582_930_799_500_000_i64)),
        ("by", "binary", json!("00ff")),
        ("u", "extension<arrow.uuid>", json!("01a204fc0000700080000000000000ff")),
        ("jb", "extension<arrow.json>", json!("{\"a\": [1, null]}")),
        ("j", "extension<arrow.json>", json!("{\"z\":  1}")),
        (
            "iv",
            "struct<months: int32, days: int32, microseconds: int64>",
            json!({"months": 1, "days": -2, "microseconds": 1_500_000}),
        ),
        ("e", "dictionary<values=string, indices=int32, ordered=0>", json!("so so")),
        ("a", "list<element: int32>", json!([1, null])),
        ("empty", "list<element: string>", json!([])),
        ("r", "struct<a: int32, b: list<element: string>>", json!({"a": 1, "b": ["x", null]})),
        ("rs", "list<element: struct<a: int32, b: list<element: string>>>", json!([{"a": 1, "b": null}, null])),
        ("ip", "string", json!("10.0.0.1/8")),
        ("rg", "string", json!("[1,5)")),
        ("o", "uint32", json!(7)),
    ] {
        assert_eq!(cell(&rows, 0, column), &json!([column, type_name, value]), "{column}");
        if column != "id" {
            assert_eq!(cell(&rows, 2, column)[2], Value::Null, "{column}");
        }
    }
}

#[test]
fn duckdb_and_pandas_read_it() {
    let db = Database::new("parquet_duckdb");
    setup(&db);
    let query = format!("{TYPES} FROM generate_series(1, 1500) i");
    let exported = db.export_with(&query, "format => 'parquet', output_chunk_size => 400");
    assert_eq!((exported.documents, exported.files), (1500, 4));
    let download = Download::of(&db, &exported);
    let rows = download.rows("duckdb_parquet");
    assert_eq!(rows.len(), 1500);
    for (column, type_name, value) in [
        ("b", "BOOLEAN", "False"),
        ("i2", "SMALLINT", "1"),
        ("i8", "BIGINT", "10000000000"),
        ("f4", "FLOAT", "0.25"),
        ("f8", "DOUBLE", "0.25"),
        ("n", "DECIMAL(10,2)", "Decimal('-1.50')"),
        ("n38", "DECIMAL(38,10)", "Decimal('1.5000000000')"),
        ("any_n", "VARCHAR", "1.5"),
        ("d", "DATE", "datetime.date(1970, 1, 1)"),
        ("tm", "TIME", "datetime.time(1, 2, 3, 500000)"),
        ("ts", "TIMESTAMP", "datetime.datetime(2020, 2, 28, 23, 59, 59, 250000)"),
        ("by", "BLOB", "b'\\x00\\xff'"),
        ("u", "UUID", "UUID('01a204fc-0000-7000-8000-0000000000ff')"),
        ("jb", "JSON", "{\"a\": [1, null]}"),
        ("e", "VARCHAR", "so so"),
        ("a", "INTEGER[]", "[1, None]"),
        ("r", "STRUCT(a INTEGER, b VARCHAR[])", "{'a': 1, 'b': ['x', None]}"),
        ("o", "UINTEGER", "7"),
    ] {
        assert_eq!(cell(&rows, 0, column), &json!([column, type_name, value]), "{column}");
    }
    assert_eq!(cell(&rows, 0, "tz")[1], "TIMESTAMP WITH TIME ZONE");
    let rows = download.rows("pandas_parquet");
    assert_eq!(rows.len(), 1500);
    assert_eq!(cell(&rows, 1499, "i8")[2], "15000000000000");
    assert_eq!(cell(&rows, 0, "t")[2], "é \"x\",\n1");
    assert_eq!(cell(&rows, 0, "n")[2], "Decimal('-1.50')");
}

#[test]
fn what_parquet_has_no_type_for_is_an_error_and_never_lost() {
    let db = Database::new("parquet_unfit");
    for (value, sqlstate, message) in [
        ("'NaN'::numeric(5,2)", "22003", "DECIMAL for NaN"),
        ("date 'infinity'", "22008", "DATE for infinity"),
        ("timestamp '-infinity'", "22008", "TIMESTAMP for infinity"),
        ("timestamptz '294276-12-31 00:00+00'", "22008", "294246"),
        ("time '24:00'", "22008", "24:00:00"),
        ("'{{1,2},{3,4}}'::int[]", "0A000", "several dimensions"),
    ] {
        let refusal = db.refuse(&format!("SELECT 1 AS id, {value} AS bad"), "format => 'parquet'");
        refusal.sqlstate(sqlstate).message(message).detail("column \"bad\"");
    }
    if db.major() >= 17 {
        db.refuse("SELECT interval '-infinity' AS bad", "format => 'parquet'").sqlstate("22008").message("for infinity");
    }
    db.refuse("SELECT", "format => 'parquet'").sqlstate("0A000").message("at least one column");
    db.refuse("SELECT 1 AS a, 2 AS a", "format => 'parquet'").sqlstate("42701").message("\"a\"");
    // What numeric has and DECIMAL has not is text where no digits are declared.
    let exported = db.export_with("SELECT 1 AS id, 'NaN'::numeric AS n, 'infinity'::float8 AS f", "format => 'parquet'");
    let rows = Download::of(&db, &exported).rows("pyarrow_parquet");
    assert_eq!((&cell(&rows, 0, "n")[2], &cell(&rows, 0, "f")[2]), (&json!("NaN"), &json!("7ff0000000000000")));
}

#[test]
fn nullability_comments_and_the_exports_id_are_in_the_file() {
    let db = Database::new("parquet_layout");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL, note text);
             COMMENT ON COLUMN t.name IS 'who, größer';
             INSERT INTO t SELECT i, 'n' || i, 'x' FROM generate_series(1, 1000) i;
             CREATE TABLE parent (id int NOT NULL); CREATE TABLE child () INHERITS (parent)",
        )
        .unwrap();
    let mut layout = |query: &str, arguments: &str| {
        let exported = db.export_in(&mut client, query, &format!("format => 'parquet'{arguments}")).unwrap();
        let rows = Download::of(&db, &exported).rows("pyarrow_layout");
        (exported, rows[0].clone())
    };
    let of = |row: &Value, name: &str| cell(std::slice::from_ref(row), 0, name)[2].clone();
    let (exported, row) = layout("SELECT id, name, note, id + 1 AS next FROM t", ", options => '{\"row_group_rows\": 300}'");
    assert_eq!(of(&row, "rows"), json!([300, 300, 300, 100]));
    assert_eq!(of(&row, "nullable"), json!([false, false, true, true]));
    assert_eq!(of(&row, "comments"), json!(["", "who, größer", "", ""]));
    assert_eq!(of(&row, "metadata"), json!({"s3_export.export_id": exported.export_id.to_string()}));
    assert_eq!(of(&row, "compression"), json!(["ZSTD"]));
    assert_eq!(of(&row, "index"), json!([true, true, true, true]));
    assert_eq!(of(&row, "statistics")[0], "(1, 300)");
    let (_, floats) = layout("SELECT id / 4::float8 AS f, id / 4::real AS r FROM t", "");
    assert_eq!(of(&floats, "statistics"), json!(["(0.25, 250.0)", "(0.25, 250.0)"]));
    assert!(of(&row, "created_by").as_str().unwrap().starts_with("s3_export version "));
    for (algorithm, expected) in
        [("none", "UNCOMPRESSED"), ("snappy", "SNAPPY"), ("gzip", "GZIP"), ("lz4", "LZ4"), ("zstd", "ZSTD")]
    {
        let (_, row) = layout("SELECT id, name FROM t", &format!(", compression => '{algorithm}'"));
        assert_eq!(of(&row, "compression"), json!([expected]));
    }
    // Where the query makes NULLs of a table that has none, the file does not promise otherwise.
    for query in [
        "SELECT t.id FROM generate_series(1, 2000) i LEFT JOIN t ON t.id = i",
        "SELECT id FROM t GROUP BY ROLLUP (id)",
        "SELECT s.id FROM (SELECT u.id FROM t RIGHT JOIN t u ON u.id = t.id) s",
        "WITH w AS (SELECT t.id FROM generate_series(1, 2000) i LEFT JOIN t ON t.id = i) SELECT id FROM w",
        "SELECT id FROM t UNION ALL SELECT NULL",
        "SELECT id FROM parent UNION SELECT 1",
    ] {
        assert_eq!(of(&layout(query, "").1, "nullable"), json!([true]), "{query}");
    }
    assert_eq!(of(&layout("SELECT id FROM parent", r#", options => '{"empty_file": true}'"#).1, "nullable"), json!([true]));
    assert_eq!(
        of(&layout("WITH w AS (SELECT id FROM t) SELECT a.id FROM w a JOIN t USING (id)", "").1, "nullable"),
        json!([false])
    );
}

#[test]
fn postgis_geometries_are_geoparquet() {
    let db = Database::new("parquet_geo");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE EXTENSION postgis;
             CREATE TABLE places (id int, at geometry(Point, 4326), area geometry, world geography);
             INSERT INTO places VALUES (1, 'SRID=4326;POINT(1 2)', 'SRID=3857;POLYGON Z((0 0 1,1 0 1,1 1 1,0 0 1))', 'LINESTRING(0 0,1 1)'),
                                       (2, NULL, 'GEOMETRYCOLLECTION(POINT(1 1),MULTIPOINT((2 2)))', NULL)",
        )
        .unwrap();
    let exported = db.export_in(&mut client, "SELECT * FROM places ORDER BY id", "format => 'parquet'").unwrap();
    let download = Download::of(&db, &exported);
    let rows = download.rows("pyarrow_parquet");
    for column in ["at", "area", "world"] {
        for row in 0..2 {
            let id = row + 1;
            let expected = client
                .query_one(&format!("SELECT encode(ST_AsBinary({column}, 'NDR'), 'hex') FROM places WHERE id = {id}"), &[]);
            let expected: Option<String> = expected.unwrap().get(0);
            assert_eq!(cell(&rows, row, column)[2], json!(expected), "{column} {row}");
        }
    }
    let layout = download.rows("pyarrow_layout");
    let geo: Value = serde_json::from_str(cell(&layout, 0, "metadata")[2]["geo"].as_str().unwrap()).unwrap();
    assert_eq!(geo["primary_column"], "at");
    assert_eq!(geo["columns"]["at"], json!({"encoding": "WKB", "geometry_types": []}));
    assert_eq!(geo["columns"]["world"]["edges"], "spherical");
    assert_eq!(geo["columns"]["area"], json!({"encoding": "WKB", "geometry_types": [], "crs": null}));

    // What the columns say, a domain's and a geography's too, holds for each value.
    client
        .batch_execute(
            "CREATE DOMAIN spot AS geometry(Point, 4326); CREATE TABLE spots AS SELECT 'SRID=4326;POINT(1 2)'::spot AS s,
             'SRID=4269;POINT(1 2)'::geography(Point, 4269) AS nad",
        )
        .unwrap();
    let exported = db.export_in(&mut client, "SELECT * FROM spots", "format => 'parquet'").unwrap();
    let layout = Download::of(&db, &exported).rows("pyarrow_layout");
    let geo: Value = serde_json::from_str(cell(&layout, 0, "metadata")[2]["geo"].as_str().unwrap()).unwrap();
    assert_eq!(geo["columns"]["s"], json!({"encoding": "WKB", "geometry_types": []}));
    assert_eq!(geo["columns"]["nad"]["crs"], Value::Null);
    let refuse = |value: &str| db.refuse(&format!("SELECT {value} AS g"), "format => 'parquet'");
    refuse("'SRID=4269;POINT(1 2)'::geography").sqlstate("22023").message("SRID 4269").detail("\"g\"");
    for value in ["'POINT M (1 2 3)'", "'CIRCULARSTRING(0 0,1 1,2 0)'", "'GEOMETRYCOLLECTION(CURVEPOLYGON((0 0,1 1,1 0,0 0)))'"]
    {
        refuse(&format!("{value}::geometry")).sqlstate("0A000").message("curves").hint("ST_CurveToLine");
    }
}

#[test]
fn files_end_by_rows_by_bytes_and_by_partitions() {
    let db = Database::new("parquet_files");
    let query = "SELECT i AS id, i % 3 AS k, repeat('x', 100) AS t FROM generate_series(1, 3000) i";
    let by_rows = db.export_with(query, "format => 'parquet', output_chunk_size => 1000");
    assert_eq!((by_rows.files, by_rows.documents), (3, 3000));
    // 4 + 4 + 104 bytes a row.
    let by_bytes = db.export_with(query, "format => 'parquet', output_chunk_bytes => 112000");
    assert_eq!((by_bytes.files, by_bytes.documents), (3, 3000));
    let by_default = db.export_with(query, "format => 'parquet'");
    assert_eq!(by_default.files, 1);
    let single = db.export_with(query, "format => 'parquet', options => '{\"single_file\": \"all.parquet\"}'");
    assert_eq!(single.files, 1);
    let by_partitions = db.export_with(query, "format => 'parquet', partition_by => '{k}'");
    assert_eq!((by_partitions.files, by_partitions.documents), (3, 3000));
    for exported in [by_rows, by_bytes, by_default, single, by_partitions] {
        let rows = Download::of(&db, &exported).rows("duckdb_parquet");
        assert_eq!(rows.len(), 3000);
        assert_eq!(cell(&rows, 2999, "k")[2], "0");
    }
    let none = db.export_with("SELECT 1 AS id WHERE false", "format => 'parquet'");
    assert_eq!(none.files, 0);
    let empty = db.export_with("SELECT 1 AS id WHERE false", r#"format => 'parquet', options => '{"empty_file": true}'"#);
    assert_eq!((empty.files, Download::of(&db, &empty).rows("duckdb_parquet").len()), (1, 0));
    let manifest = db.bucket.manifest(&empty.prefix);
    assert_eq!((&manifest["s3_export"]["format"], &manifest["s3_export"]["compression"]), (&json!("parquet"), &json!("zstd")));
}

#[test]
fn rows_of_partitions_keep_what_is_stored_apart() {
    let db = Database::new("parquet_toast");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE wide (id int, k text, t text, a int[]); ALTER TABLE wide ALTER t SET STORAGE EXTERNAL;
             INSERT INTO wide SELECT i, 'k' || i % 2, repeat('x' || i, 5000), array_agg(j) FROM generate_series(1, 20) i,
                 generate_series(1, 3000) j GROUP BY i",
        )
        .unwrap();
    let exported = db.export_in(&mut client, "SELECT * FROM wide", "format => 'parquet', partition_by => '{k}'").unwrap();
    let rows = Download::of(&db, &exported).rows("pyarrow_parquet");
    assert_eq!((exported.files, rows.len()), (2, 20));
    assert_eq!(cell(&rows, 6, "t")[2], "x7".repeat(5000));
    assert_eq!(cell(&rows, 6, "a")[2].as_array().unwrap().len(), 3000);
}

#[test]
fn bloom_filters_are_where_they_are_asked_for() {
    let db = Database::new("parquet_bloom");
    let size = |options: &str| {
        let query = "SELECT i AS id, md5(i::text) AS t, i % 2 = 0 AS b, ARRAY[i] AS a FROM generate_series(1, 5000) i";
        db.export_with(query, &format!("format => 'parquet', options => '{options}'")).bytes
    };
    assert!(size(r#"{"bloom_filter_columns": ["t"]}"#) > size("{}") + 4000);
    let query = "SELECT 1 AS id, ARRAY[1] AS a, 1::real AS r, 1::float8 AS f";
    let refuse = |options: &str| db.refuse(query, &format!("format => 'parquet', options => '{options}'"));
    refuse(r#"{"bloom_filter_columns": ["nope"]}"#).sqlstate("42703").message("\"nope\"");
    for column in ["a", "r", "f"] {
        let filter = format!(r#"{{"bloom_filter_columns": ["{column}"]}}"#);
        refuse(&filter).sqlstate("42804").message(&format!("\"{column}\"")).detail("double precision");
    }
    refuse(r#"{"row_group_bytes": 1000000000000}"#).sqlstate("53400").hint("buffer_memory");
    let filters = r#"{"bloom_filter_columns": ["id"], "row_group_rows": 1000000000}"#;
    refuse(filters).sqlstate("53400").message("bloom filters of 128 MB").hint("row_group_rows");
    let json = |arguments: &str| db.refuse("SELECT 1 AS id", arguments);
    json(r#"options => '{"row_group_rows": 5}'"#).sqlstate("22023").message("format \"parquet\" only");
    json("compression => 'snappy'").sqlstate("22023").message("format \"parquet\" only");
    json(r#"format => 'parquet', compression => 'lz4', options => '{"compression_level": 3}'"#)
        .sqlstate("22023")
        .message("no levels");
}

#[test]
fn what_a_file_takes_in_memory_is_bounded() {
    let db = Database::new("parquet_bounds");
    let columns: Vec<String> = (1..100).map(|column| format!("i AS c{column}")).collect();
    let query = |rows: u32| format!("SELECT i AS id, {} FROM generate_series(1, {rows}) i", columns.join(", "));
    let hardest = r#"format => 'parquet', options => '{"compression_level": 19}'"#;
    db.refuse(&query(10), hardest).sqlstate("53400").message("600 MB to compress 100 columns").hint("compression_level");
    let footer = r#"format => 'parquet', options => '{"row_group_rows": 1, "single_file": true}'"#;
    db.refuse(&query(2000), footer)
        .sqlstate("53400")
        .message("100 columns has more than 1000 row groups")
        .hint("row_group_rows");
    // Files of few rows, each of which begins with the row that the one before had no room for.
    let exported = db.export_with(&query(500), "format => 'parquet', output_chunk_bytes => 1000");
    assert_eq!((exported.documents, exported.files), (500, 250));
    let rows = Download::of(&db, &exported).rows("duckdb_parquet");
    assert_eq!((rows.len(), &cell(&rows, 499, "c99")[2]), (500, &json!("500")));
}

#[test]
fn an_error_halfway_and_a_rollback_leave_nothing() {
    let db = Database::new("parquet_error");
    let mut client = db.client();
    let prefix = db.prefix();
    let query = "SELECT i, repeat(md5(i::text), 30) AS t, 1 / (200000 - i) AS q FROM generate_series(1, 300000) i";
    refused(db.export_to(&mut client, &prefix, query, "format => 'parquet', output_chunk_size => 20000")).sqlstate("22012");
    db.bucket.nothing_left(&prefix);
    let call = db.call(&prefix, "SELECT i FROM generate_series(1, 10) i", "format => 'parquet'");
    client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
    db.bucket.nothing_left(&prefix);
}

/// Neither batches and row groups nor, in whatever format, parts that are compressed on the way gather.
#[test]
fn memory_does_not_grow_with_the_result() {
    let db = Database::new("parquet_memory");
    for arguments in ["format => 'parquet'", "compression => 'zstd', output_chunk_size => 100000000"] {
        let mut client = db.client();
        client.batch_execute("SET s3_export.buffer_memory = '32MB'").unwrap();
        let watch = PeakMemory::of(client.pid);
        // 230 MB of values in one file; how much of the buffers is in use meanwhile depends on the store's speed.
        let query = "SELECT i, md5(i::text) AS t, i * 1.5 AS n FROM generate_series(1, 4500000) i";
        assert_eq!(db.export_in(&mut client, query, arguments).unwrap().documents, 4_500_000);
        let peak = watch.peak();
        assert!(peak < 115 * 1024, "{arguments}: {peak} kB");
    }
}

#[test]
fn a_statement_writes_it() {
    let db = Database::new("parquet_statement");
    let mut client = db.client();
    let prefix = db.prefix();
    let statement = format!(
        "INSERT INTO '{}' INTEGRATION = 'local' FORMAT = (TYPE = 'PARQUET') SELECT i AS id FROM generate_series(1, 5) i",
        db.bucket.uri(&prefix)
    );
    client.execute("SELECT s3_export($1)", &[&statement]).unwrap();
    assert!(db.bucket.list(&prefix).iter().any(|object| object.key.ends_with("-000001.parquet")));
}
