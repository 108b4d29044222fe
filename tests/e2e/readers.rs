//! What programs make of an export that were not written here: Rockset's client, DuckDB, pandas, pyarrow.

use serde_json::{Value, json};

use super::fixture::{Database, Download, cell};

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
