//! Files larger than a part, and documents larger than that: they leave in parts, and memory stays bounded.

use super::fixture::{Database, PeakMemory};
use super::manifest::checked;

/// Kilobytes.
const PART: i64 = 8 * 1024;

#[test]
fn a_file_larger_than_a_part_reads_back_whole() {
    let db = Database::new("multipart");
    let mut client = db.client();
    let query = "SELECT i, repeat(md5(i::text), 1000) AS t FROM generate_series(1, 1000) i";
    let exported = db.export_in(&mut client, query, "").unwrap();
    assert_eq!(exported.files, 1);
    assert!(exported.bytes > 3 * PART * 1024, "{} bytes are too few to be multipart", exported.bytes);
    checked(&db, &exported);
    let documents = db.bucket.documents(&exported.prefix);
    assert_eq!(documents.len(), 1000);
    let expected = client.text("SELECT row_to_json(r) FROM (SELECT 777 AS i, repeat(md5('777'), 1000) AS t) r");
    assert_eq!(documents[776], expected);
    assert_eq!(db.bucket.multipart_uploads(&exported.prefix), [] as [String; 0]);
}

#[test]
fn file_sizes_around_a_part() {
    let db = Database::new("part_edges");
    // {"t":"…"} and a line break: nine bytes around the text.
    for bytes in [PART * 1024 - 1, PART * 1024, PART * 1024 + 1, 2 * PART * 1024, 2 * PART * 1024 + 1] {
        let exported = db.export(&format!("SELECT repeat('x', {}) AS t", bytes - 9));
        assert_eq!(exported.bytes, bytes);
        checked(&db, &exported);
    }
}

#[test]
fn many_files_of_several_parts_go_through_one_request_at_a_time() {
    let db = Database::new("one_request");
    let mut client = db.client();
    client.batch_execute("SET s3_export.upload_concurrency = 1; SET s3_export.buffer_memory = '16MB'").unwrap();
    let query = "SELECT i, repeat('x', 3000000) AS t FROM generate_series(1, 20) i";
    let exported = db.export_in(&mut client, query, "output_chunk_size => 7").unwrap();
    assert_eq!(exported.files, 3);
    checked(&db, &exported);
}

#[test]
fn a_thousand_documents_of_a_megabyte_need_no_gigabyte() {
    let db = Database::new("thousand_megabytes");
    let mut client = db.client();
    db.export_in(&mut client, "SELECT 1 AS warm", "").unwrap();
    let memory = PeakMemory::of(client.pid);
    let query = "SELECT i, repeat('x', 1000000) AS t FROM generate_series(1, 1000) i";
    let exported = db.export_in(&mut client, query, "").unwrap();
    let peak = memory.peak();
    println!("peak private memory: {peak} kB");
    assert_eq!((exported.documents, exported.files), (1000, 1));
    assert_eq!(db.bucket.files(&exported.prefix)[0].bytes, exported.bytes);
    assert!(peak < 200 * 1024, "peak private memory: {peak} kB");
}

#[test]
fn one_document_of_a_hundred_megabytes() {
    let db = Database::new("hundred_megabytes");
    let exported = db.export("SELECT repeat('x', 100000000) AS t");
    assert_eq!((exported.documents, exported.files, exported.bytes), (1, 1, 100_000_009));
    let file = db.bucket.get(&db.bucket.files(&exported.prefix)[0].key);
    assert_eq!((&file[..7], &file[file.len() - 3..]), (&b"{\"t\":\"x"[..], &b"\"}\n"[..]));
    assert!(file[6..file.len() - 3].iter().all(|&byte| byte == b'x'));
}
