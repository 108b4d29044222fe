//! CSV and compression.

use std::io::{Read, Write};

use serde_json::json;

use super::fixture::{Action, Database, Gateway, Integration, Request, refused, threads, wait_for};

/// A row of every kind of value that CSV has to quote, or that follows a setting.
const VALUES: &str = "SELECT i AS id, CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'a,\"b\"\nc' ELSE 'plain ü' END AS t,
        i / 3.0 AS n, (i / 7.0)::float8 AS f, (i / 7.0)::real AS r, i % 2 = 0 AS b, date '2020-02-28' + i AS d,
        timestamp '2020-02-28 23:59:59.5' + i * interval '1 h' AS ts, timestamptz '2020-02-28 23:59:59.5+02' + i * interval '1 h' AS tz,
        time '00:00:01' + i * interval '1 min' AS tm, i * interval '1 month 2 days 3 h' AS iv, decode(lpad(to_hex(i), 4, '0'), 'hex') AS by,
        ARRAY[i, NULL, 3] AS a, jsonb_build_object('k', i, 'q', '\"') AS j, (i || '.1.1.1')::inet AS ip, ROW(i, 'x,y') AS c,
        '\\.' AS dot, infinity::float8 AS inf, rpad('c', i % 3, 'c')::char(3) AS ch, i::money AS m, '01:02:03+02'::timetz AS tt,
        (ARRAY['infinity', '-infinity', '0044-03-15 BC', '20000-01-01'])[1 + i % 4]::date AS far,
        (ARRAY['infinity', '-infinity', '0044-03-15 12:00+00 BC', '20000-01-01 00:00+00'])[1 + i % 4]::timestamptz AS farther,
        tstzrange('2020-01-01 00:00+02', NULL) AS rg, (ARRAY['NaN', '1e-20', '-0.00', '1e30'])[1 + i % 4]::numeric AS nu,
        (ARRAY['NaN', '1e-20', '-0', '1e300'])[1 + i % 4]::float8 AS fl, '\"'::\"char\" AS qc, E'tab\\tand, \\\\' AS e
    FROM generate_series(1, 40) i, (SELECT 'infinity' AS infinity) x";

fn unpacked(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if name.ends_with(".gz") {
        flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    } else if name.ends_with(".zst") {
        out = zstd::stream::decode_all(bytes).unwrap();
    } else {
        out.extend_from_slice(bytes);
    }
    out
}

#[test]
fn csv_is_what_copy_writes_and_copy_reads_it_back() {
    let db = Database::new("csv");
    let mut client = db.client();
    client.batch_execute("SET TimeZone = 'UTC'").unwrap();
    client.batch_execute("CREATE TYPE pair AS (a int, b text)").unwrap();
    client.batch_execute(&format!("CREATE TABLE back AS {}", VALUES.replace("ROW(i, 'x,y')", "ROW(i, 'x,y')::pair"))).unwrap();
    // What the session has set changes nothing.
    let mut other = db.client();
    other
        .batch_execute(
            "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 0;
             SET bytea_output = 'escape'",
        )
        .unwrap();
    for (options, copy, force) in [
        ("{}", "", ""),
        (r#"{"header": true}"#, ", HEADER true", ""),
        (
            r#"{"delimiter": ";", "quote": "|", "null": "NIL", "force_quote": ["t", "n"]}"#,
            ", DELIMITER ';', QUOTE '|', NULL 'NIL'",
            ", FORCE_QUOTE (t, n)",
        ),
        (r#"{"delimiter": "\t", "force_quote": "*", "header": true}"#, ", DELIMITER E'\\t', HEADER true", ", FORCE_QUOTE *"),
    ] {
        let prefix = db.prefix();
        let arguments = format!("format => 'csv', options => '{options}'");
        let exported = db.export_to(&mut other, &prefix, VALUES, &arguments).unwrap();
        assert_eq!((exported.documents, exported.files), (40, 1));
        let key = db.bucket.files(&prefix)[0].key.clone();
        assert!(key.ends_with("-000001.csv"), "{key}");
        let ours = db.bucket.get(&key).to_vec();
        let mut copied = Vec::new();
        let copy_out = format!("COPY ({VALUES}) TO STDOUT (FORMAT csv{copy}{force})");
        client.copy_out(&copy_out).unwrap().read_to_end(&mut copied).unwrap();
        assert_eq!(String::from_utf8(ours.clone()).unwrap(), String::from_utf8(copied).unwrap(), "{options}");

        client.batch_execute("TRUNCATE back").unwrap();
        let mut writer = client.copy_in(&format!("COPY back FROM STDIN (FORMAT csv{copy})")).unwrap();
        writer.write_all(&ours).unwrap();
        assert_eq!(writer.finish().unwrap(), 40);
        // A composite without a type has other keys.
        let rows = |from: &str| format!("SELECT to_jsonb(v) - 'c' FROM {from} v");
        let differing = format!("SELECT count(*) FROM ({} EXCEPT {}) d", rows("back"), rows(&format!("({VALUES})")));
        assert_eq!(client.text(&differing), "0", "{options}");
    }
}

#[test]
fn csv_of_one_column_and_of_none() {
    let db = Database::new("csv_one");
    let mut client = db.client();
    let query = "SELECT * FROM (VALUES ('\\.'), (NULL), (''), ('x')) v(\"a,b\")";
    let prefix = db.prefix();
    db.export_to(&mut client, &prefix, query, r#"format => 'csv', options => '{"header": true}'"#).unwrap();
    assert_eq!(db.bucket.documents(&prefix), ["\"a,b\"", "\"\\.\"", "", "\"\"", "x"]);
    db.refuse("SELECT FROM generate_series(1, 2)", "format => 'csv'").sqlstate("22023").message("CSV needs a column");
    db.refuse("SELECT 1 AS a", "format => 'csv', partition_by => '{a}'").sqlstate("22023").message("CSV needs a column");
    db.refuse("SELECT 1 AS a", r#"format => 'csv', options => '{"force_quote": ["b"]}'"#)
        .sqlstate("42703")
        .message("force_quote");
    // Two columns of one name are no trouble for CSV.
    let prefix = db.prefix();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a, 2 AS a", "format => 'csv'").unwrap();
    assert_eq!(db.bucket.documents(&prefix), ["1,2"]);
}

#[test]
fn compressed_files_hold_what_others_do() {
    let db = Database::new("compressed");
    let (mut client, plain) = (db.client(), db.prefix());
    let query = "SELECT i, repeat(md5(i::text), 3) AS t FROM generate_series(1, 2500) i";
    db.export_to(&mut client, &plain, query, "").unwrap();
    let expected: Vec<Vec<u8>> = db.bucket.files(&plain).iter().map(|file| db.bucket.get(&file.key).to_vec()).collect();
    for (compression, level, suffix, content_type) in [
        ("gzip", "", ".json.gz", "application/gzip"),
        ("gzip", "9", ".json.gz", "application/gzip"),
        ("zstd", "", ".json.zst", "application/zstd"),
        ("zstd", "19", ".json.zst", "application/zstd"),
    ] {
        let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
        let name = format!("{compression}{level}");
        db.create(&Integration { name: &name, endpoint: gateway.endpoint(), ..Integration::local() });
        let prefix = db.prefix();
        let options = if level.is_empty() { "{}".to_owned() } else { format!(r#"{{"compression_level": {level}}}"#) };
        let call = db
            .call(&prefix, query, &format!("compression => '{compression}', options => '{options}'"))
            .replace("'local'", &format!("'{name}'"));
        let exported = db.exported(&mut client, &call, &prefix).unwrap();
        let files = db.bucket.files(&prefix);
        assert_eq!(files.len(), 3);
        let found: Vec<Vec<u8>> = files.iter().map(|file| unpacked(&file.key, &db.bucket.get(&file.key))).collect();
        assert!(found == expected && files.iter().all(|file| file.key.ends_with(suffix)));
        let bytes: i64 = files.iter().map(|file| file.bytes).sum();
        assert_eq!(exported.bytes, bytes, "what is in the bucket");
        assert!(bytes < 2500 * 110);
        let manifest = db.bucket.manifest(&prefix);
        assert_eq!(manifest["s3_export"]["compression"], compression);
        assert_eq!(manifest["entries"][0]["meta"]["content_length"], json!(files[0].bytes));
        let puts: Vec<Request> = gateway.requests().into_iter().filter(|request| request.head.contains(suffix)).collect();
        assert_eq!(puts.len(), 3);
        assert!(
            puts.iter().all(|put| put.header("content-type") == Some(content_type) && put.header("content-encoding").is_none())
        );
    }
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn a_compressed_file_larger_than_a_part_goes_in_parts() {
    let db = Database::new("compressed_large");
    let (mut client, prefix) = (db.client(), db.prefix());
    // Random digits: half of their bytes remain.
    let query =
        "SELECT i, random()::text || random()::text || random()::text || random()::text AS t FROM generate_series(1, 600000) i";
    let arguments = r#"compression => 'zstd', options => '{"compression_level": 1, "single_file": true}'"#;
    let exported = db.export_to(&mut client, &prefix, query, arguments).unwrap();
    assert!(exported.files == 1 && exported.bytes > 16 << 20, "{exported:?}");
    let key = db.bucket.files(&prefix)[0].key.clone();
    let lines = unpacked(&key, &db.bucket.get(&key));
    assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 600_000);
}

/// Bytes that gather for the next part counted as on their way: the backend waited for the part, and the part for the backend.
#[test]
fn compression_goes_on_where_the_buffer_holds_hardly_a_part() {
    let db = Database::new("compressed_tight");
    let mut client = db.client();
    client.batch_execute("SET s3_export.buffer_memory = '16MB'; SET statement_timeout = '100s'").unwrap();
    let random = "SELECT i, random()::text || random()::text || random()::text AS t FROM generate_series(1, 500000) i";
    let parts =
        r#"compression => 'gzip', options => '{"compression_level": 1, "single_file": true, "max_file_bytes": 150000000000}'"#;
    for (query, arguments) in
        [(random, parts), ("SELECT repeat(md5(i::text), 2000000) AS t FROM generate_series(1, 2) i", "compression => 'zstd'")]
    {
        let prefix = db.prefix();
        let exported = db.export_to(&mut client, &prefix, query, arguments).unwrap();
        let key = db.bucket.files(&prefix)[0].key.clone();
        let lines = unpacked(&key, &db.bucket.get(&key)).iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines as i64, exported.documents);
    }
}

#[test]
fn csv_and_partitions_of_a_database_of_another_encoding_are_utf8() {
    let db = Database::with_options("csv_latin1", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    let (mut client, prefix) = (db.client(), db.prefix());
    let statement = format!(
        "INSERT INTO '{}' INTEGRATION = 'local' FORMAT = (TYPE = 'csv', HEADER = true) SELECT 'ü' AS k, 'é,' AS \"wé\", 1 AS id PARTITION BY k",
        db.bucket.uri(&prefix)
    );
    client.batch_execute(&format!("SELECT s3_export({})", super::fixture::literal(&statement))).unwrap();
    let key = db.bucket.files(&prefix)[0].key.clone();
    assert!(key.contains("/k=ü/"), "{key}");
    assert_eq!(db.bucket.documents(&prefix), ["wé,id", "\"é,\",1"]);
    let wrong = statement.replace("SELECT 'ü'", "SELECT nope");
    refused(client.batch_execute(&format!("SELECT s3_export({})", super::fixture::literal(&wrong))))
        .sqlstate("42703")
        .points_to("nope");
}

#[test]
fn cancel_during_compression_ends_all_threads_and_leaves_nothing_behind() {
    let db = Database::new("compressed_cancel");
    let (client, prefix) = (db.client(), db.prefix());
    let query = "SELECT i, random()::text || random()::text || random()::text AS t FROM generate_series(1, 100000000) i";
    let arguments = r#"output_chunk_size => 50000, compression => 'zstd', options => '{"compression_level": 19}'"#;
    let running = client.start(&format!("SELECT {}", db.call(&prefix, query, arguments)));
    let mut witness = db.client();
    // The backend's, the I/O thread, and at least one that compresses.
    wait_for("some threads", || (threads(running.pid) >= 3).then_some(()));
    assert_eq!(witness.text(&format!("SELECT pg_cancel_backend({})", running.pid)), "t");
    let (client, outcome) = running.join();
    refused(outcome).sqlstate("57014");
    assert_eq!(threads(client.pid), 1);
    db.bucket.nothing_left(&prefix);
}

#[test]
fn an_empty_result_writes_a_file_only_where_it_is_asked_for() {
    let db = Database::new("empty");
    let mut client = db.client();
    for (arguments, files, body) in [
        (r#"options => '{}'"#, 0, ""),
        (r#"options => '{"empty_file": true}'"#, 1, ""),
        (r#"format => 'csv', options => '{"empty_file": true, "header": true}'"#, 1, "a\n"),
        (r#"options => '{"empty_file": true, "single_file": "none.json"}'"#, 1, ""),
    ] {
        let prefix = db.prefix();
        let exported = db.export_to(&mut client, &prefix, "SELECT 1 AS a WHERE false", arguments).unwrap();
        assert_eq!((exported.documents, exported.files, exported.bytes), (0, files, body.len() as i64), "{arguments}");
        let objects: Vec<_> = db.bucket.list(&prefix).into_iter().filter(|object| !object.key.ends_with(".manifest")).collect();
        assert_eq!(objects.len() as i64, files);
        assert!(objects.iter().all(|object| db.bucket.get(&object.key) == body.as_bytes()));
    }
    let prefix = db.prefix();
    let exported = db.export_to(&mut client, &prefix, "SELECT 1 AS a", r#"options => '{"empty_file": true}'"#).unwrap();
    assert_eq!(exported.files, 1);
}
