//! Files: how many documents each holds, what they are called, and that the numbers reported are those in the bucket.

use super::fixture::{Database, Exported};

const ROWS: &str = "SELECT i, 'row ' || i AS t FROM generate_series(1, 2500) i";

/// Documents of each file, in order, after checking that what was reported is what is there.
#[track_caller]
fn counts(db: &Database, exported: &Exported) -> Vec<usize> {
    let files = db.bucket.files(&exported.prefix);
    let counts: Vec<usize> = files.iter().map(|file| super::fixture::lines(&db.bucket.get(&file.key)).len()).collect();
    assert_eq!(exported.files as usize, files.len());
    assert_eq!(exported.documents as usize, counts.iter().sum::<usize>());
    assert_eq!(exported.bytes, files.iter().map(|file| file.bytes).sum::<i64>());
    counts
}

#[test]
fn files_hold_a_thousand_documents_by_default_and_the_last_the_rest() {
    let db = Database::new("files_by_default");
    let exported = db.export(ROWS);
    assert_eq!(counts(&db, &exported), [1000, 1000, 500]);
    let documents = db.bucket.documents(&exported.prefix);
    assert_eq!(documents[0], r#"{"i":1,"t":"row 1"}"#);
    assert_eq!(documents[2499], r#"{"i":2500,"t":"row 2500"}"#);
}

#[test]
fn names_hold_the_export_id_and_a_number() {
    let db = Database::new("file_names");
    let exported = db.export_with(ROWS, "output_chunk_size => 2000");
    let (id, prefix) = (exported.export_id, &exported.prefix);
    let keys: Vec<String> = db.bucket.list(prefix).into_iter().map(|object| object.key).collect();
    assert_eq!(
        keys,
        [format!("{prefix}/{id}-000001.json"), format!("{prefix}/{id}-000002.json"), format!("{prefix}/_{id}.manifest")]
    );
    assert_eq!(exported.manifest, db.bucket.uri(&keys[2]));
    assert_eq!(id.get_version_num(), 7);
}

#[test]
fn include_query_id_puts_files_into_a_folder_named_by_the_export() {
    let db = Database::new("include_query_id");
    let exported = db.export_with("SELECT 1 AS a", "include_query_id => true");
    let (id, prefix) = (exported.export_id, &exported.prefix);
    let keys: Vec<String> = db.bucket.list(prefix).into_iter().map(|object| object.key).collect();
    assert_eq!(keys, [format!("{prefix}/{id}/000001.json"), format!("{prefix}/_{id}.manifest")]);
    assert_eq!(db.bucket.manifest(prefix)["entries"][0]["url"], db.bucket.uri(&keys[0]));
}

#[test]
fn chunk_size_comes_from_the_argument_else_the_setting() {
    let db = Database::new("chunk_size");
    let mut client = db.client();
    client.batch_execute("SET s3_export.output_chunk_size = 1500").unwrap();
    let by_setting = db.export_in(&mut client, ROWS, "").unwrap();
    assert_eq!(counts(&db, &by_setting), [1500, 1000]);
    let by_argument = db.export_in(&mut client, ROWS, "output_chunk_size => 1250").unwrap();
    assert_eq!(counts(&db, &by_argument), [1250, 1250]);
    let one_each = db.export_in(&mut client, "SELECT generate_series(1, 40) AS i", "output_chunk_size => 1").unwrap();
    assert_eq!(counts(&db, &one_each), [1; 40]);
    let all = db.export_in(&mut client, ROWS, "output_chunk_size => 2147483647").unwrap();
    assert_eq!(counts(&db, &all), [2500]);
}

#[test]
fn chunk_bytes_end_a_file_before_it_grows_larger() {
    let db = Database::new("chunk_bytes");
    // {"i":1234} and a line break: 11 bytes.
    let query = "SELECT i FROM generate_series(1001, 1010) i";
    let exported = db.export_with(query, "output_chunk_bytes => 34");
    assert_eq!(counts(&db, &exported), [3, 3, 3, 1]);
    let whichever_comes_first = db.export_with(query, "output_chunk_bytes => 34, output_chunk_size => 2");
    assert_eq!(counts(&db, &whichever_comes_first), [2; 5]);
    let alone = db.export_with(query, "output_chunk_bytes => 1");
    assert_eq!(counts(&db, &alone), [1; 10], "a document larger than the limit has a file of its own");
    let exact = db.export_with(query, "output_chunk_bytes => 33");
    assert_eq!(counts(&db, &exact), [3, 3, 3, 1], "a file may be just as large as the limit");
}

#[test]
fn keys_keep_every_character_of_the_location() {
    let db = Database::new("odd_keys");
    for name in ["größe=1 %/ü", "a+b&c=d;e@f:g,h", "q?#[x]{y}|~^`", "100%25", "it's \"quoted\"", "日本/ 🦀 "] {
        let prefix = format!("{}/{name}", db.prefix());
        let exported = db.export_to(&mut db.client(), &prefix.replace('\'', "''"), "SELECT 1 AS a", "").unwrap();
        let key = format!("{prefix}/{}-000001.json", exported.export_id);
        assert_eq!(&db.bucket.get(&key)[..], b"{\"a\":1}\n", "{name}");
        assert_eq!(db.bucket.manifest(&prefix)["entries"][0]["url"], db.bucket.uri(&key), "{name}");
    }
}

#[test]
fn a_rollback_deletes_under_every_character_too() {
    let db = Database::new("odd_keys_rollback");
    let prefix = format!("{}/größe=1 % + &amp; <x> \"q\"/日本", db.prefix());
    let mut client = db.client();
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "SELECT generate_series(1, 5) AS a", "output_chunk_size => 1").unwrap();
    assert_eq!(db.bucket.list(&prefix).len(), 5);
    client.batch_execute("ROLLBACK").unwrap();
    db.bucket.nothing_left(&prefix);
}

#[test]
fn a_location_may_be_a_whole_bucket_or_end_with_a_slash() {
    let db = Database::new("bucket_root");
    let slash = db.export_to(&mut db.client(), &format!("{}/", db.prefix()), "SELECT 1 AS a", "").unwrap();
    let keys: Vec<String> = db.bucket.files(slash.prefix.trim_end_matches('/')).into_iter().map(|file| file.key).collect();
    assert_eq!(keys, [format!("{}{}-000001.json", slash.prefix, slash.export_id)]);
    for prefix in ["", "/"] {
        let mut client = db.client();
        client.batch_execute("BEGIN").unwrap();
        let root = db.export_to(&mut client, prefix, "SELECT 1 AS a", "").unwrap();
        let own = root.export_id.to_string();
        assert_eq!(db.bucket.documents(&own), [r#"{"a":1}"#]);
        client.batch_execute("ROLLBACK").unwrap();
        db.bucket.nothing_left(&own);
    }
}

#[test]
fn two_exports_to_one_place_do_not_touch_each_other() {
    let db = Database::new("one_place");
    let (mut client, prefix) = (db.client(), db.prefix());
    let first = db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    let second = db.export_to(&mut client, &prefix, "SELECT 2 AS a", "").unwrap();
    assert_ne!(first.export_id, second.export_id);
    assert_eq!(db.bucket.documents(&prefix), [r#"{"a":1}"#, r#"{"a":2}"#]);
    assert_eq!(db.bucket.manifests(&prefix).len(), 2);
}

#[test]
fn what_lies_beside_an_export_stays_untouched() {
    let db = Database::new("beside");
    let (mut client, prefix) = (db.client(), db.prefix());
    let keys = [format!("{prefix}/000001.json"), format!("{prefix}/x.manifest"), format!("{prefix}-too/000001.json")];
    for key in &keys {
        db.bucket.put(key, b"theirs");
    }
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    let kept: Vec<String> = db.bucket.list(&prefix).into_iter().map(|object| object.key).collect();
    assert_eq!(kept.len(), keys.len(), "{kept:?}");
    assert!(keys.iter().all(|key| &db.bucket.get(key)[..] == b"theirs"));
}

#[test]
fn the_bucket_helper_sees_unfinished_multipart_uploads() {
    let db = Database::new("helper_multipart");
    let prefix = db.prefix();
    assert_eq!(db.bucket.multipart_uploads(&prefix), [] as [String; 0]);
    db.bucket.begin_multipart(&format!("{prefix}/x"));
    assert_eq!(db.bucket.multipart_uploads(&prefix), [format!("{prefix}/x")]);
    db.bucket.abort_multiparts(&prefix);
    db.bucket.nothing_left(&prefix);
}
