//! CSV, compression, and objects of names of one's own.

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

/// What gathers for the next part counted as on its way, and the backend waited for it, which waited for the backend.
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
fn a_single_file_has_the_name_it_is_given_and_overwrites_nothing() {
    let db = Database::new("single");
    let (mut client, prefix) = (db.client(), db.prefix());
    let options = r#"options => '{"single_file": "all.json", "manifest_name": "list.json", "success_marker": "_SUCCESS"}'"#;
    let query = "SELECT generate_series(1, 2500) AS i";
    let exported = db.export_to(&mut client, &prefix, query, options).unwrap();
    assert_eq!((exported.documents, exported.files), (2500, 1));
    assert_eq!(exported.manifest, db.bucket.uri(&format!("{prefix}/list.json")));
    let get = |name: &str| db.bucket.get(&format!("{prefix}/{name}"));
    assert_eq!(get("all.json").iter().filter(|byte| **byte == b'\n').count(), 2500);
    assert_eq!(get("_SUCCESS").len(), 0);
    let manifest: serde_json::Value = serde_json::from_slice(&get("list.json")).unwrap();
    assert_eq!(manifest["entries"][0]["url"], db.bucket.uri(&format!("{prefix}/all.json")));
    assert_eq!(db.bucket.manifest(&prefix), manifest, "there is one of the usual name as well");
    let before = db.bucket.list(&prefix);

    // Whatever is there stays, and the rest of the export goes.
    for (options, name) in [
        (r#"{"single_file": "all.json"}"#, "all.json"),
        (r#"{"manifest_name": "list.json"}"#, "list.json"),
        (r#"{"manifest_name": "other.json", "single_file": "all.json"}"#, "all.json"),
    ] {
        refused(db.export_to(&mut client, &prefix, query, &format!("options => '{options}'")))
            .sqlstate("42710")
            .message(name)
            .detail("Nothing is overwritten");
        assert_eq!(db.bucket.list(&prefix), before);
    }
    // Several parts as well: it is the last request that finds the object there.
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    let named = r#"options => '{"single_file": "all.json"}'"#;
    refused(db.export_to(&mut client, &prefix, large, named)).sqlstate("42710").message("all.json");
    client.settle();
    assert_eq!(db.bucket.list(&prefix), before);
    assert!(db.bucket.multipart_uploads(&prefix).is_empty());
    // A marker that is there says what it is to say, and stays when another export's commit fails.
    let marked =
        |more: &str| db.call(&prefix, "SELECT 1 AS a", &format!(r#"options => '{{"success_marker": "_SUCCESS"{more}}}'"#));
    client.batch_execute(&format!("SELECT {}", marked(""))).unwrap();
    client.batch_execute(&format!("BEGIN; SELECT {}", marked(""))).unwrap();
    let failing = format!("SELECT {}; COMMIT", marked(r#", "manifest_name": "list.json""#));
    refused(client.batch_execute(&failing)).sqlstate("42710");
    client.settle();
    assert_eq!(get("_SUCCESS").len(), 0);
    assert_eq!(db.bucket.manifests(&prefix).len(), 2);
}

#[test]
fn what_a_name_of_ones_own_made_goes_with_a_rollback() {
    let db = Database::new("single_rollback");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    let options = r#"options => '{"single_file": "all.json", "manifest_name": "list.json", "success_marker": "_SUCCESS"}'"#;
    let call = db.call(&prefix, "SELECT generate_series(1, 10) AS i", options);
    client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
    db.bucket.nothing_left(&prefix);
    // At the commit: one export has written all of its objects, another fails.
    let call = db.call(&prefix, "SELECT 1 AS a", options);
    db.bucket.put(&format!("{prefix}/taken.json"), b"somebody else's");
    let failing = db.call(&prefix, "SELECT 1 AS a", r#"options => '{"manifest_name": "taken.json"}'"#);
    refused(client.batch_execute(&format!("BEGIN; SELECT {call}; SELECT {failing}; COMMIT"))).sqlstate("42710");
    client.settle();
    assert_eq!(db.bucket.list(&prefix).len(), 1);
    // What somebody else has put in its place meanwhile is not ours to delete.
    client.batch_execute(&format!("BEGIN; SELECT {call}")).unwrap();
    db.bucket.put(&format!("{prefix}/all.json"), b"somebody else's too");
    client.batch_execute("ROLLBACK").unwrap();
    client.settle();
    assert_eq!(db.bucket.get(&format!("{prefix}/all.json")).as_ref(), b"somebody else's too");
    for name in ["all.json", "taken.json"] {
        db.bucket.delete(&format!("{prefix}/{name}"));
    }
    // Another transaction's export of the same name, which came first at the commit.
    client
        .batch_execute(&format!(
            "BEGIN; SELECT {}",
            db.call(&prefix, "SELECT 1 AS a", r#"options => '{"manifest_name": "list.json"}'"#)
        ))
        .unwrap();
    db.bucket.put(&format!("{prefix}/list.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710").message("list.json");
    client.settle();
    assert_eq!(db.bucket.list(&prefix).len(), 1);
    assert_eq!(db.bucket.get(&format!("{prefix}/list.json")).as_ref(), b"somebody else's");
}

/// The answer to the first PUT of the name is lost; the second finds the object there, by its mark our own.
#[test]
fn a_lost_answer_for_a_name_of_ones_own_is_resolved_by_a_look() {
    let db = Database::new("single_lost");
    for (name, query, parts) in
        [("put", "SELECT 1 AS a", false), ("complete", "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)", true)]
    {
        let lost = std::sync::atomic::AtomicBool::new(false);
        let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
            let line = request.head.lines().next().unwrap_or_default().to_owned();
            let makes = if parts { line.starts_with("POST") && line.contains("uploadId=") } else { line.starts_with("PUT") };
            if makes && line.contains("all.json") && !lost.swap(true, std::sync::atomic::Ordering::Relaxed) {
                Action::LoseAnswer
            } else {
                Action::Forward
            }
        });
        db.create(&Integration { name, endpoint: gateway.endpoint(), ..Integration::local() });
        let (mut client, prefix) = (db.client(), db.prefix());
        let call =
            db.call(&prefix, query, r#"options => '{"single_file": "all.json"}'"#).replace("'local'", &format!("'{name}'"));
        let exported = db.exported(&mut client, &call, &prefix).unwrap();
        assert_eq!(exported.files, 1);
        assert!(gateway.requests().iter().any(|request| request.head.starts_with("HEAD")), "{name}: it was looked at");
        assert_eq!(db.bucket.list(&prefix).len(), 2);
    }
}

/// Without `s3:GetObject` nobody can tell whose it is: it is left, and named.
#[test]
fn an_object_of_ones_own_name_that_cannot_be_looked_at_is_left_and_named() {
    let db = Database::new("single_no_look");
    let lost = std::sync::atomic::AtomicBool::new(true);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        let line = request.head.lines().next().unwrap_or_default();
        if line.starts_with("HEAD") && line.contains(".json") {
            Action::Answer("HTTP/1.1 403 Forbidden".into(), String::new())
        } else if line.starts_with("PUT")
            && line.contains("lost.json")
            && lost.swap(false, std::sync::atomic::Ordering::Relaxed)
        {
            Action::LoseAnswer
        } else {
            Action::Forward
        }
    });
    db.create(&Integration { name: "blind", endpoint: gateway.endpoint(), ..Integration::local() });
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    let call = |name: &str| {
        let options = format!(r#"options => '{{"single_file": "{name}"}}'"#);
        db.call(&prefix, "SELECT 1 AS a", &options).replace("'local'", "'blind'")
    };
    client.batch_execute(&format!("BEGIN; SELECT {}; ROLLBACK", call("kept.json"))).unwrap();
    refused(client.batch_execute(&format!("SELECT {}", call("lost.json")))).sqlstate("42501");
    client.settle();
    let warnings = super::fixture::messages(&client.notices());
    for name in ["kept.json", "lost.json"] {
        assert!(warnings.contains(&db.bucket.uri(&format!("{prefix}/{name}"))), "{name}: {warnings}");
    }
    assert_eq!(db.bucket.list(&prefix).len(), 2);
}

#[test]
fn a_single_file_keeps_to_its_limit_and_to_the_buffer() {
    let db = Database::new("single_limit");
    let query = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    db.refuse(query, r#"options => '{"single_file": true, "max_file_bytes": 1000000}'"#)
        .sqlstate("53400")
        .hint("max_file_bytes");
    db.refuse(query, r#"options => '{"single_file": true, "max_file_bytes": 5497558138880}'"#)
        .sqlstate("53400")
        .hint("buffer_memory");
    let mut client = db.client();
    let prefix = db.prefix();
    // Larger parts: two requests instead of three.
    let large = r#"options => '{"single_file": true, "max_file_bytes": 150000000000}'"#;
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    db.create(&Integration { name: "counted", endpoint: gateway.endpoint(), ..Integration::local() });
    let call = db.call(&prefix, query, large).replace("'local'", "'counted'");
    db.exported(&mut client, &call, &prefix).unwrap();
    let parts = gateway.requests().iter().filter(|request| request.head.contains("partNumber=")).count();
    assert_eq!(parts, 2);
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
