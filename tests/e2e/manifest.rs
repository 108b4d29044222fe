//! The manifest: Redshift's shape, our totals, and checksums that those who read the files can recompute.

use serde_json::{Value, json};

use super::fixture::{Database, Exported};

/// Base64 of the CRC-32 of `bytes`, as S3's headers have it.
fn crc32(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(crc32fast::hash(bytes).to_be_bytes())
}

fn hex_sha256(text: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks entries and checksums against the bucket; gives the manifest.
#[track_caller]
pub fn checked(db: &Database, exported: &Exported) -> Value {
    let manifest = db.bucket.manifest(&exported.prefix);
    let files = db.bucket.files(&exported.prefix);
    let entries = manifest["entries"].as_array().unwrap();
    let checksums = manifest["s3_export"]["checksums"].as_array().unwrap();
    assert_eq!((entries.len(), checksums.len()), (files.len(), files.len()));
    let mut documents = 0;
    for ((file, entry), checksum) in files.iter().zip(entries).zip(checksums) {
        let body = db.bucket.get(&file.key);
        let count = memchr::memchr_iter(b'\n', &body).count();
        documents += count;
        assert_eq!(
            entry,
            &json!({"url": db.bucket.uri(&file.key), "mandatory": true,
                    "meta": {"content_length": body.len(), "record_count": count}})
        );
        assert_eq!(checksum, &crc32(&body), "{}", file.key);
    }
    assert_eq!(exported.documents as usize, documents);
    assert_eq!(manifest["meta"], json!({"content_length": exported.bytes, "record_count": exported.documents}));
    manifest
}

#[test]
fn it_lists_every_file_with_its_size_documents_and_checksum() {
    let db = Database::new("manifest_lists");
    let exported = db.export_with("SELECT i, md5(i::text) AS m FROM generate_series(1, 350) i", "output_chunk_size => 100");
    let manifest = checked(&db, &exported);
    assert_eq!(manifest["entries"].as_array().unwrap().len(), 4);
}

#[test]
fn it_says_which_columns_and_which_export() {
    let db = Database::new("manifest_says");
    let query = r#"SELECT 1::int AS a, 'x'::varchar(7) AS "B b", ARRAY[now()] AS c, 1.5::numeric(10,2) AS d"#;
    let exported = db.export(query);
    let manifest = checked(&db, &exported);
    assert_eq!(
        manifest["schema"]["elements"],
        json!([
            {"name": "a", "type": {"base": "integer"}},
            {"name": "B b", "type": {"base": "character varying(7)"}},
            {"name": "c", "type": {"base": "timestamp with time zone[]"}},
            {"name": "d", "type": {"base": "numeric(10,2)"}},
        ])
    );
    let ours = &manifest["s3_export"];
    assert_eq!(ours["export_id"], exported.export_id.to_string());
    assert_eq!(ours["num_docs_inserted"], 1);
    assert_eq!(ours["num_files_written"], 1);
    assert_eq!(ours["num_bytes_written"], exported.bytes);
    assert_eq!(ours["format"], "json");
    assert_eq!(ours["wrap_types"], true);
    assert_eq!(ours["checksum_algorithm"], "crc32");
    assert_eq!(ours["query_sha256"], hex_sha256(query));
}

#[test]
fn it_holds_the_query_only_when_asked() {
    let db = Database::new("manifest_query");
    let query = "SELECT 'Grüße \"' AS secret";
    let silent = db.export(query);
    assert_eq!(db.bucket.manifest(&silent.prefix)["s3_export"].get("query"), None);
    assert!(!String::from_utf8_lossy(&db.bucket.get(db.bucket.key(&silent.manifest))).contains("Grüße"));
    let open = db.export_with(query, r#"options => '{"manifest_query": true}'"#);
    assert_eq!(db.bucket.manifest(&open.prefix)["s3_export"]["query"], query);
}

#[test]
fn an_export_of_no_rows_has_a_manifest_without_entries_and_no_file() {
    let db = Database::new("no_rows");
    let exported = db.export("SELECT 1 AS a WHERE false");
    assert_eq!((exported.documents, exported.files, exported.bytes), (0, 0, 0));
    let manifest = checked(&db, &exported);
    assert_eq!(manifest["entries"], json!([]));
    assert_eq!(manifest["schema"]["elements"][0]["name"], "a");
    assert_eq!(db.bucket.list(&exported.prefix).len(), 1);
}

#[test]
fn a_manifest_of_thousands_of_files_lists_them_all_in_order() {
    let db = Database::new("many_files");
    let exported = db.export_with("SELECT generate_series(1, 3000) AS i", "output_chunk_size => 1");
    assert_eq!(exported.files, 3000);
    let manifest = db.bucket.manifest(&exported.prefix);
    let urls: Vec<_> = manifest["entries"].as_array().unwrap().iter().map(|entry| entry["url"].as_str().unwrap()).collect();
    let listed: Vec<_> = db.bucket.files(&exported.prefix).iter().map(|file| db.bucket.uri(&file.key)).collect();
    assert_eq!(urls, listed);
    assert_eq!(manifest["s3_export"]["checksums"][2999], crc32(b"{\"i\":3000}\n"));
}

#[test]
fn checksums_follow_the_integration() {
    let db = Database::new("checksums");
    let body = b"{\"a\":1}\n";
    let sha256 = base64_simd::STANDARD.encode_to_string(ring::digest::digest(&ring::digest::SHA256, body));
    for (algorithm, expected) in [("sha256", json!([sha256])), ("none", json!([]))] {
        let update = format!("UPDATE s3_export.integrations SET checksum = '{algorithm}'");
        db.client().batch_execute(&update).unwrap();
        let manifest = db.bucket.manifest(&db.export("SELECT 1 AS a").prefix);
        assert_eq!(manifest["s3_export"]["checksum_algorithm"], algorithm);
        assert_eq!(manifest["s3_export"]["checksums"], expected);
    }
}
