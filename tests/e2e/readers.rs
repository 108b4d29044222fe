//! Exports are read by programs that were not written here: Rockset's client, DuckDB, pandas, pyarrow. Parquet is also read by the
//! oldest versions that people still run.

use serde_json::{Value, json};

use super::fixture::{Database, Download, cell};
use super::parquet::{create_table_of_types, setup};

const TYPES: &str = "SELECT i AS id, i % 2 = 0 AS b, i * 10000000000 AS big, i / 4.0::float8 AS f, i * 1.50 AS n,
        CASE WHEN i = 2 THEN NULL ELSE 'é \"x\",\n' || i END AS t, date '2020-02-28' + i AS d, time '01:02:03.5' AS tm,
        timestamp '2020-02-28 23:59:59.25' + i * interval '1 day' AS ts, timestamptz '2020-02-28 23:59:59.5+00' AS tz,
        '\\x00ff'::bytea AS by, ARRAY[i, 2] AS a, i * interval '1 month' AS mi, i * interval '1 second' AS us
    FROM generate_series(1, 3) i";

#[test]
fn rocksets_own_client_adapts_every_type() {
    let db = Database::new("read_rockset");
    let exported = db.export_with(TYPES, "output_chunk_size => 2, compression => 'gzip'");
    let rows = Download::of(&db, &exported).rows("rockset");
    assert_eq!(rows.len(), 3);
    for (column, type_name, value) in [
        ("id", "int", json!("1")),
        ("b", "bool", json!("False")),
        ("big", "int", json!("10000000000")),
        ("f", "float", json!("0.25")),
        ("n", "float", json!("1.5")),
        ("t", "str", json!("é \"x\",\n1")),
        ("d", "date", json!("datetime.date(2020, 2, 29)")),
        ("tm", "time", json!("datetime.time(1, 2, 3, 500000)")),
        ("ts", "datetime", json!("datetime.datetime(2020, 2, 29, 23, 59, 59, 250000)")),
        // It knows the type, and leaves the value as the export's documentation has it.
        ("tz", "dict", json!("{'__rockset_type': 'timestamp', 'value': '1582934399500000'}")),
        ("a", "list", json!("[1, 2]")),
        ("us", "timedelta", json!("datetime.timedelta(seconds=1)")),
    ] {
        assert_eq!(cell(&rows, 0, column), &json!([column, type_name, value]), "{column}");
    }
    assert_eq!(cell(&rows, 1, "t"), &json!(["t", "NoneType", null]));
    assert!(cell(&rows, 0, "mi")[2].as_str().unwrap().contains("1"));
}

#[test]
fn plain_json_is_read_without_a_clash_of_types() {
    let db = Database::new("read_plain");
    // NaN and infinity among the floats, and dates that no wrapper could express.
    let query = format!(
        "{TYPES} UNION ALL SELECT 4, NULL, NULL, 'NaN', 'NaN', '', 'infinity', '24:00:00', '-infinity', '-infinity', '', '{{}}',
             '1 mon 2 days', '-1 h'"
    );
    let plain = r#"wrap_types => false, output_chunk_size => 3, options => '{"nan": "null"}'"#;
    for compression in ["none", "gzip", "zstd"] {
        let exported = db.export_with(&query, &format!("{plain}, compression => '{compression}'"));
        let download = Download::of(&db, &exported);
        let rows = download.rows("pyarrow_json");
        assert_eq!(rows.len(), 4);
        assert_eq!(cell(&rows, 0, "big"), &json!(["big", "int64", "10000000000"]));
        assert_eq!(cell(&rows, 0, "f"), &json!(["f", "double", "0.25"]));
        assert!(cell(&rows, 0, "d")[2].as_str().unwrap().contains("2020"));
        let rows = download.rows("duckdb_json");
        assert_eq!(rows.len(), 4);
        assert_eq!(cell(&rows, 1, "b"), &json!(["b", "BOOLEAN", "True"]));
        assert_eq!(cell(&rows, 1, "big"), &json!(["big", "BIGINT", "20000000000"]));
        assert_eq!(cell(&rows, 1, "t")[2], Value::Null);
        assert_eq!(cell(&rows, 0, "t")[2], json!("é \"x\",\n1"));
        assert_eq!(cell(&rows, 3, "f")[2], Value::Null);
        if compression == "none" {
            assert_eq!(download.rows("spark_rules").len(), 4);
        }
        if compression != "zstd" {
            let rows = download.rows("pandas_json");
            assert_eq!(cell(&rows, 2, "f")[2], json!("0.75"));
        }
    }
}

#[test]
fn partitions_are_columns_again() {
    let db = Database::new("read_partitions");
    let query = "SELECT i AS id, (ARRAY['FR', 'a/b=c%', 'é x', '__HIVE_DEFAULT_PARTITION__', NULL, ''])[i] AS country,
        date '2026-01-01' + i AS day FROM generate_series(1, 6) i";
    for (arguments, reader) in [
        ("wrap_types => false, compression => 'gzip'", "duckdb_json"),
        ("wrap_types => false, compression => 'zstd'", "duckdb_json"),
        (r#"format => 'csv', options => '{"header": true}'"#, "duckdb_csv"),
        (r#"format => 'csv', compression => 'zstd', options => '{"header": true}'"#, "duckdb_csv"),
    ] {
        let exported = db.export_with(query, &format!("partition_by => '{{country,day}}', {arguments}"));
        let rows = Download::of(&db, &exported).rows(reader);
        assert_eq!(rows.len(), 6);
        for (row, country) in ["FR", "a/b=c%", "é x"].iter().enumerate() {
            assert_eq!(cell(&rows, row, "country")[2], json!(country), "{reader} {arguments}");
        }
        assert_eq!(cell(&rows, 4, "country")[2], Value::Null);
        assert_ne!(cell(&rows, 3, "country")[2], Value::Null, "a value that looks like NULL's name");
        assert_ne!(cell(&rows, 5, "country")[2], Value::Null, "the empty string");
        assert!(cell(&rows, 0, "day")[2].as_str().unwrap().contains("2026"));
    }
}

#[test]
fn csv_is_read_by_others() {
    let db = Database::new("read_csv");
    let query =
        "SELECT i AS id, i * 1.25 AS n, CASE i WHEN 2 THEN NULL ELSE 'é \"x\", ' || i END AS t, date '2020-02-28' + i AS d,
        i % 2 = 0 AS b FROM generate_series(1, 3) i";
    for compression in ["none", "gzip"] {
        let arguments = format!(
            r#"format => 'csv', compression => '{compression}', output_chunk_size => 2, options => '{{"header": true}}'"#
        );
        let exported = db.export_with(query, &arguments);
        let download = Download::of(&db, &exported);
        for reader in ["pandas_csv", "duckdb_csv"] {
            let rows = download.rows(reader);
            assert_eq!(rows.len(), 3);
            assert_eq!(cell(&rows, 0, "t")[2], json!("é \"x\", 1"), "{reader}");
            assert_eq!(cell(&rows, 1, "t")[2], Value::Null, "{reader}");
            assert!(cell(&rows, 2, "n")[2].as_str().unwrap().contains("3.75"), "{reader}");
        }
    }
}

/// Packages of `scripts/old-readers.txt` that read together, who of `tests/readers/read.py` reads by them, and what it has no type for.
const OLD_READERS: [(&[&str], &str, &[&str]); 8] = [
    (&["polars==0.20.31"], "polars_parquet", &[]),
    (&["polars==1.9.0"], "polars_parquet", &[]),
    (&["duckdb==0.9.2"], "duckdb_parquet", &[]),
    (&["duckdb==1.1.3"], "duckdb_parquet", &[]),
    (&["pyarrow==10.0.1", "numpy==1.26.4"], "pyarrow_parquet", &[]),
    (&["pyarrow==17.0.0", "numpy==1.26.4"], "pyarrow_parquet", &[]),
    (&["datafusion==43.1.0", "pyarrow==17.0.0", "numpy==1.26.4", "typing_extensions==4.12.2"], "datafusion_parquet", &[]),
    (&["deltalake==0.18.2", "pyarrow==17.0.0", "pyarrow-hotfix==0.6", "numpy==1.26.4"], "deltalake_parquet", &["tm"]),
];

/// Values of the first row, in each form that some reader shows.
const FIRST_ROW: [(&str, &[&str]); 18] = [
    ("b", &["False", "false"]),
    ("i8", &["10000000000"]),
    // The bits, or the number.
    ("f4", &["0.25", "3e800000"]),
    ("f8", &["0.25", "3fd0000000000000"]),
    // Polars 0.20 makes doubles of DECIMAL.
    ("n", &["-1.50", "Decimal('-1.50')", "-1.5"]),
    ("n38", &["1.5000000000", "Decimal('1.5000000000')", "1.5"]),
    ("any_n", &["1.5"]),
    ("t", &["é \"x\",\n1"]),
    ("d", &["datetime.date(1970, 1, 1)", "0"]),
    ("tm", &["datetime.time(1, 2, 3, 500000)", "3723500000"]),
    ("ts", &["datetime.datetime(2020, 2, 28, 23, 59, 59, 250000)", "1582934399250000"]),
    ("by", &[r"b'\x00\xff'", "00ff"]),
    // pyarrow 10 and 17 show JSON as bytes.
    ("jb", &[r#"{"a": [1, null]}"#, "7b2261223a205b312c206e756c6c5d7d"]),
    ("e", &["so so"]),
    ("a", &["[1, None]", "[1,null]"]),
    ("iv", &["{'months': 1, 'days': -2, 'microseconds': 1500000}", r#"{"months":1,"days":-2,"microseconds":1500000}"#]),
    ("r", &["{'a': 1, 'b': ['x', None]}", r#"{"a":1,"b":["x",null]}"#]),
    ("rs", &["[{'a': 1, 'b': None}, None]", r#"[{"a":1,"b":null},null]"#, "[{'a': 1, 'b': None}, {'a': None, 'b': None}]"]),
];

/// Whether that is NULL. Polars 0.20 shows a NULL of a struct as one of NULLs.
fn is_null(value: &Value) -> bool {
    let without_names = |text: &str| text.starts_with('{') && text.matches(':').count() == text.matches(": None").count();
    value.is_null() || value.as_str().is_some_and(without_names)
}

#[test]
fn the_oldest_readers_that_people_still_run_read_every_type_and_every_null() {
    let db = Database::new("read_old");
    setup(&db);
    let columns = create_table_of_types(&db);
    let export = |left_out: &[&str]| {
        let kept: Vec<&str> = columns.iter().map(String::as_str).filter(|column| !left_out.contains(column)).collect();
        let exported = db.export_with(&format!("SELECT {} FROM t ORDER BY id", kept.join(", ")), "format => 'parquet'");
        (kept.len(), Download::of(&db, &exported))
    };
    let of_all = export(&[]);
    for (packages, reader, left_out) in OLD_READERS {
        let some = (!left_out.is_empty()).then(|| export(left_out));
        let (count, download) = some.as_ref().unwrap_or(&of_all);
        let rows = download.rows_of_old(packages, reader);
        assert_eq!((rows.len(), rows[0].as_array().unwrap().len()), (3, *count), "{packages:?}");
        for (column, forms) in FIRST_ROW.iter().filter(|(column, _)| !left_out.contains(column)) {
            let value = &cell(&rows, 0, column)[2];
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert!(forms.contains(&shown.as_str()), "{packages:?}: {column} is {shown}");
        }
        for value in rows[2].as_array().unwrap().iter().filter(|value| value[0] != "id") {
            assert!(is_null(&value[2]), "{packages:?}: {value}");
        }
    }
}
