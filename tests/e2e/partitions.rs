//! Folders by values: where documents lie, what is left of them, and that many partitions take no more than one.

use serde_json::json;

use super::fixture::{Database, PeakMemory, refused};

#[test]
fn documents_lie_in_the_folders_of_their_values() {
    let db = Database::new("partitions");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'").unwrap();
    let query = "SELECT * FROM (VALUES ('FR', date '2026-01-02', 1), (NULL, '2026-01-01', 2), ('', '2026-01-01', 3),
        ('FR', '2026-01-01', 4), ('FR', '2026-01-02', 5), ('a/b=c%', NULL, 6), ('__HIVE_DEFAULT_PARTITION__', NULL, 7), ('é x', NULL, 8))
        v(country, day, id) ORDER BY id DESC";
    let exported = db.export_to(&mut client, &prefix, query, "partition_by => '{country,day}'").unwrap();
    assert_eq!((exported.documents, exported.files), (8, 7));
    let mut folders: Vec<(String, Vec<String>)> = Vec::new();
    for file in db.bucket.list(&prefix).iter().filter(|object| object.key.ends_with(".json")) {
        let folder = file.key.strip_prefix(&format!("{prefix}/")).unwrap().rsplit_once('/').unwrap().0.to_owned();
        let mut lines = super::fixture::lines(&db.bucket.get(&file.key));
        lines.sort();
        folders.push((folder, lines));
    }
    folders.sort();
    let null = "__HIVE_DEFAULT_PARTITION__";
    let mut expected = vec![
        ("country=/day=2026-01-01".to_owned(), vec![r#"{"id":3}"#]),
        (format!("country=%5F_HIVE_DEFAULT_PARTITION__/day={null}"), vec![r#"{"id":7}"#]),
        ("country=FR/day=2026-01-01".to_owned(), vec![r#"{"id":4}"#]),
        ("country=FR/day=2026-01-02".to_owned(), vec![r#"{"id":1}"#, r#"{"id":5}"#]),
        (format!("country={null}/day=2026-01-01"), vec![r#"{"id":2}"#]),
        (format!("country=a%2Fb%3Dc%25/day={null}"), vec![r#"{"id":6}"#]),
        (format!("country=é%20x/day={null}"), vec![r#"{"id":8}"#]),
    ];
    expected.sort();
    let expected: Vec<(String, Vec<String>)> =
        expected.into_iter().map(|(folder, lines)| (folder, lines.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(folders, expected);
    let manifest = db.bucket.manifest(&prefix);
    let partitions = manifest["s3_export"]["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 7);
    let of_two = partitions.iter().find(|partition| partition["folder"] == "country=FR/day=2026-01-02").unwrap();
    assert_eq!((&of_two["num_docs_inserted"], &of_two["num_files_written"]), (&json!(2), &json!(1)));
    let urls: Vec<&str> = manifest["entries"].as_array().unwrap().iter().map(|entry| entry["url"].as_str().unwrap()).collect();
    assert!(urls.iter().all(|url| db.bucket.get(db.bucket.key(url)).len() > 5));
}

#[test]
fn columns_stay_in_the_documents_where_that_is_asked_for() {
    let db = Database::new("partition_columns");
    let (mut client, prefix) = (db.client(), db.prefix());
    let query = "SELECT i % 2 = 0 AS even, i AS id FROM generate_series(1, 4) i";
    let include = r#"partition_by => '{even}', include_query_id => true, options => '{"partition_columns": "include"}'"#;
    let exported = db.export_to(&mut client, &prefix, query, include).unwrap();
    let key = format!("{prefix}/{}/even=true/000002.json", exported.export_id);
    assert_eq!(super::fixture::lines(&db.bucket.get(&key)), [r#"{"even":true,"id":2}"#, r#"{"even":true,"id":4}"#]);
    // CSV leaves them out too, header included.
    let prefix = db.prefix();
    let csv = r#"partition_by => '{even}', format => 'csv', options => '{"header": true}'"#;
    db.export_to(&mut client, &prefix, query, csv).unwrap();
    let mut lines: Vec<String> = db
        .bucket
        .list(&prefix)
        .iter()
        .filter(|object| object.key.ends_with(".csv"))
        .flat_map(|object| super::fixture::lines(&db.bucket.get(&object.key)))
        .collect();
    lines.sort();
    assert_eq!(lines, ["1", "2", "3", "4", "id", "id"]);
}

#[test]
fn what_cannot_be_a_partition_is_refused() {
    let db = Database::new("partition_errors");
    db.refuse("SELECT 1 AS a", "partition_by => '{b}'").sqlstate("42703").message("\"b\"").hint("a");
    db.refuse("SELECT 1 AS a", "partition_by => '{}'").sqlstate("22023").message("partition_by");
    db.refuse("SELECT 1 AS a", "partition_by => '{a,a}'").sqlstate("22023").message("more than once");
    db.refuse("SELECT 1 AS a", "partition_by => '{NULL}'").sqlstate("22004");
    db.refuse("SELECT 1 AS a, 2 AS b, 3 AS a", "partition_by => '{a}', format => 'csv'")
        .sqlstate("42701")
        .message("partition_by");
    db.refuse("SELECT repeat('x', 300000000) AS a, 1 AS b", "partition_by => '{a}'").sqlstate("22023").message("1,024 bytes");
    let forced = r#"partition_by => '{a}', format => 'csv', options => '{"force_quote": ["a"]}'"#;
    db.refuse("SELECT 1 AS a, 2 AS b", forced).sqlstate("42703").message("force_quote");
    for value in ["ARRAY[1]", "ROW(1)", "'{}'::jsonb", "'x'::bytea"] {
        db.refuse(&format!("SELECT {value} AS a, 1 AS b"), "partition_by => '{a}'").sqlstate("42804").message("\"a\"");
    }
    let long = "SELECT repeat('x', 1000) AS a, 1 AS b";
    db.refuse(long, "partition_by => '{a}'").sqlstate("22023").message("1,024 bytes");
}

#[test]
fn ten_thousand_partitions_take_no_more_memory_than_one_and_spill_to_disk() {
    let db = Database::new("many_partitions");
    let mut client = db.client();
    // Else how much of either export waits for the store would differ with the store's speed.
    client.batch_execute("SET s3_export.buffer_memory = '16MB'; SET work_mem = '4MB'; SET jit = off").unwrap();
    let query = "SELECT i % 10000 AS k, i AS id, repeat('x', 200) AS t FROM generate_series(1, 400000) i";
    let temporary = "SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()";
    let mut peak = |arguments: &str| {
        let watch = PeakMemory::of(client.pid);
        let exported = db.export_in(&mut client, query, arguments).unwrap();
        (exported, watch.peak())
    };
    let (one, memory_of_one) = peak("output_chunk_size => 40");
    let (many, memory_of_many) = peak("partition_by => '{k}'");
    assert_eq!((one.files, many.files, many.documents), (10_000, 10_000, 400_000));
    assert!(memory_of_many < memory_of_one + 24_000, "{memory_of_one} kB for one, {memory_of_many} kB for ten thousand");
    let manifest = db.bucket.manifest(&many.prefix);
    let partitions = manifest["s3_export"]["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 10_000);
    assert!(partitions.iter().all(|partition| partition["num_docs_inserted"] == 40 && partition["num_files_written"] == 1));
    super::fixture::wait_for("the temporary files to be counted", || {
        let bytes: i64 = db.client().query_one(temporary, &[]).unwrap().get(0);
        (bytes > 50_000_000).then_some(())
    });
    client.batch_execute("SET temp_file_limit = '10MB'").unwrap();
    let prefix = db.prefix();
    refused(db.export_to(&mut client, &prefix, query, "partition_by => '{k}'")).sqlstate("53400").message("temp_file_limit");
    db.bucket.nothing_left(&prefix);
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
}

#[test]
fn cleanup_knows_the_files_of_partitions() {
    let db = Database::new("partition_cleanup");
    let (mut client, prefix) = (db.client(), format!("{}/day=2026-01-01", db.prefix()));
    for arguments in
        ["partition_by => '{k}'", "partition_by => '{k}', include_query_id => true", "format => 'csv', compression => 'gzip'"]
    {
        db.export_to(&mut client, &prefix, "SELECT i AS k, i AS id FROM generate_series(1, 3) i", arguments).unwrap();
    }
    let cleanup = |client: &mut super::fixture::Session, uri: &str| {
        client.text(&format!("SELECT count(*) FROM s3_export.cleanup('{uri}', 'local', '0', force => true)"))
    };
    assert_eq!(cleanup(&mut client, &db.bucket.uri(&prefix)), "0");
    assert_eq!(cleanup(&mut client, &db.bucket.uri(&format!("{prefix}/k=1"))), "0", "the manifest lies outside");
    // As after a crash.
    for manifest in db.bucket.manifests(&prefix) {
        db.bucket.delete(&manifest);
    }
    assert_eq!(cleanup(&mut client, &db.bucket.uri(&prefix)), "7");
}
