//! Commit, rollback and savepoints: an export belongs to its transaction, as a row does.

use super::fixture::{Bucket, Database, Session, refused, threads};

const FIVE_FILES: &str = "SELECT generate_series(1, 5) AS i";

/// Exports five files to `prefix` in the session's transaction.
fn export_five(db: &Database, client: &mut Session, prefix: &str) {
    let exported = db.export_to(client, prefix, FIVE_FILES, "output_chunk_size => 1").unwrap();
    assert_eq!(exported.files, 5);
}

/// The export is there, with its manifest.
#[track_caller]
fn is_complete(db: &Database, prefix: &str) {
    assert_eq!(db.bucket.files(prefix).len(), 5);
    assert_eq!(db.bucket.manifest(prefix)["entries"].as_array().unwrap().len(), 5);
}

/// After whatever went wrong: no thread is left, and the same backend exports.
#[track_caller]
fn is_as_good_as_new(db: &Database, client: &mut Session) {
    assert_eq!(threads(client.pid), 1);
    let prefix = db.prefix();
    export_five(db, client, &prefix);
    is_complete(db, &prefix);
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn the_manifest_comes_with_the_commit() {
    let db = Database::new("at_commit");
    let (mut client, first, second) = (db.client(), db.prefix(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    export_five(&db, &mut client, &first);
    export_five(&db, &mut client, &second);
    for prefix in [&first, &second] {
        assert_eq!(db.bucket.files(prefix).len(), 5);
        assert_eq!(db.bucket.manifests(prefix), [] as [String; 0], "before the commit");
    }
    assert_eq!(threads(client.pid), 2, "one I/O thread serves both");
    client.batch_execute("COMMIT").unwrap();
    is_complete(&db, &first);
    is_complete(&db, &second);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_rollback_deletes_all_exports_of_the_transaction() {
    let db = Database::new("rolled_back");
    let (mut client, first, second) = (db.client(), db.prefix(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    export_five(&db, &mut client, &first);
    export_five(&db, &mut client, &second);
    client.batch_execute("ROLLBACK").unwrap();
    db.bucket.nothing_left(&first);
    db.bucket.nothing_left(&second);
    assert_eq!(super::fixture::messages(&client.notices()), "");
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn an_error_after_the_export_deletes_it_too() {
    let db = Database::new("later_error");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    export_five(&db, &mut client, &prefix);
    refused(client.batch_execute("SELECT 1 / 0")).sqlstate("22012");
    client.batch_execute("COMMIT").unwrap();
    db.bucket.nothing_left(&prefix);
    let call = db.call(&prefix, FIVE_FILES, "output_chunk_size => 1");
    refused(client.batch_execute(&format!("SELECT 1 / (num_files_written - 5) FROM {call}"))).sqlstate("22012");
    client.settle();
    db.bucket.nothing_left(&prefix);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_large_rollback_deletes_in_batches() {
    let db = Database::new("large_rollback");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    client.batch_execute("BEGIN").unwrap();
    let exported =
        db.export_to(&mut client, &prefix, "SELECT generate_series(1, 2100) AS i", "output_chunk_size => 1").unwrap();
    assert_eq!(exported.files, 2100);
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(super::fixture::messages(&client.notices()), "");
    db.bucket.nothing_left(&prefix);
}

/// A delete without a version would only hide what it deletes.
#[test]
fn a_rollback_in_a_versioned_bucket_deletes_versions() {
    let db = Database::new("versioned");
    let bucket = Bucket::versioned(db.environment(), "versioned");
    let mut client = db.client();
    client.batch_execute("UPDATE s3_export.integrations SET allowed_locations = '{s3://versioned}'").unwrap();
    let (kept, failed) = (db.prefix(), db.prefix());
    let call = |prefix: &str| db.call(prefix, FIVE_FILES, "output_chunk_size => 1").replace("s3://exports/", "s3://versioned/");
    client.batch_execute(&format!("SELECT {}", call(&kept))).unwrap();
    assert_eq!(bucket.versions(&kept).len(), 6);
    client.batch_execute(&format!("BEGIN; SELECT {}; ROLLBACK", call(&failed))).unwrap();
    assert_eq!(bucket.versions(&failed), [] as [String; 0]);
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 17000)";
    let call = db.call(&failed, large, "output_chunk_size => 100000").replace("s3://exports/", "s3://versioned/");
    client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
    assert_eq!(bucket.versions(&failed), [] as [String; 0]);
    assert!(client.notices().is_empty());
}

#[test]
fn a_rollback_to_a_savepoint_deletes_only_what_came_after_it() {
    let db = Database::new("savepoint");
    let (mut client, before, after, late) = (db.client(), db.prefix(), db.prefix(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    export_five(&db, &mut client, &before);
    client.batch_execute("SAVEPOINT s").unwrap();
    export_five(&db, &mut client, &after);
    client.batch_execute("ROLLBACK TO s").unwrap();
    db.bucket.nothing_left(&after);
    assert_eq!(db.bucket.files(&before).len(), 5);
    export_five(&db, &mut client, &late);
    client.batch_execute("COMMIT").unwrap();
    is_complete(&db, &before);
    is_complete(&db, &late);
    db.bucket.nothing_left(&after);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_released_savepoint_belongs_to_what_is_around_it() {
    let db = Database::new("released");
    let (mut client, inner, outer) = (db.client(), db.prefix(), db.prefix());
    client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    export_five(&db, &mut client, &outer);
    client.batch_execute("SAVEPOINT b; SAVEPOINT c").unwrap();
    export_five(&db, &mut client, &inner);
    client.batch_execute("RELEASE c; RELEASE b").unwrap();
    assert_eq!(db.bucket.files(&inner).len(), 5);
    client.batch_execute("ROLLBACK TO a").unwrap();
    db.bucket.nothing_left(&inner);
    db.bucket.nothing_left(&outer);
    client.batch_execute("COMMIT").unwrap();
    client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    export_five(&db, &mut client, &inner);
    client.batch_execute("RELEASE a").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    db.bucket.nothing_left(&inner);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn an_exception_block_of_plpgsql_deletes_what_it_exported() {
    let db = Database::new("exception_block");
    let (mut client, failed, kept) = (db.client(), db.prefix(), db.prefix());
    client
        .batch_execute(&format!(
            "DO $$ BEGIN
                 BEGIN
                     PERFORM {};
                     RAISE 'on purpose';
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
                 BEGIN PERFORM {}; EXCEPTION WHEN division_by_zero THEN NULL; END;
                 PERFORM {};
             END $$",
            db.call(&failed, FIVE_FILES, "output_chunk_size => 1"),
            db.call(&failed, "SELECT 1 / (3 - i) AS x FROM generate_series(1, 5) i", "output_chunk_size => 1"),
            db.call(&kept, FIVE_FILES, "output_chunk_size => 1"),
        ))
        .unwrap();
    db.bucket.nothing_left(&failed);
    is_complete(&db, &kept);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_procedure_that_commits_gets_a_manifest_for_each_transaction() {
    let db = Database::new("procedure");
    let (mut client, first, second, third) = (db.client(), db.prefix(), db.prefix(), db.prefix());
    let call = |prefix: &str| db.call(prefix, FIVE_FILES, "output_chunk_size => 1");
    client
        .batch_execute(&format!(
            "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM {}; COMMIT; PERFORM {}; ROLLBACK; PERFORM {};
             END $$",
            call(&first),
            call(&second),
            call(&third)
        ))
        .unwrap();
    client.batch_execute("CALL p()").unwrap();
    is_complete(&db, &first);
    db.bucket.nothing_left(&second);
    is_complete(&db, &third);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_cursor_exports_when_it_is_fetched() {
    let db = Database::new("cursor");
    let (mut client, prefix) = (db.client(), db.prefix());
    let call = db.call(&prefix, FIVE_FILES, "output_chunk_size => 1");
    client.batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR SELECT * FROM {call}")).unwrap();
    db.bucket.nothing_left(&prefix);
    client.batch_execute("FETCH c; COMMIT").unwrap();
    is_complete(&db, &prefix);
}

/// The rows of a cursor WITH HOLD are made at the commit, so its export is made and committed there too.
#[test]
fn a_cursor_with_hold_exports_by_its_commit() {
    let db = Database::new("cursor_hold");
    let (mut client, prefix) = (db.client(), db.prefix());
    let call = db.call(&prefix, FIVE_FILES, "output_chunk_size => 1");
    client
        .batch_execute(&format!("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT num_files_written FROM {call}; COMMIT"))
        .unwrap();
    assert_eq!(client.text("FETCH c"), "5");
    is_complete(&db, &prefix);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_do_block_exports_and_takes_back_what_it_catches() {
    let db = Database::new("do_block");
    let (mut client, kept, caught) = (db.client(), db.prefix(), db.prefix());
    let call = |prefix: &str| db.call(prefix, FIVE_FILES, "output_chunk_size => 1");
    client
        .batch_execute(&format!(
            "DO $$ BEGIN
                 PERFORM {};
                 BEGIN PERFORM {}; RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END;
             END $$",
            call(&kept),
            call(&caught)
        ))
        .unwrap();
    is_complete(&db, &kept);
    db.bucket.nothing_left(&caught);
}

/// One transaction, many exports: every manifest or none.
#[test]
fn exports_of_many_rows_get_their_manifests_together() {
    let db = Database::new("lateral");
    let (mut client, kept, failed) = (db.client(), db.prefix(), db.prefix());
    let each = |prefix: &str| {
        format!(
            "SELECT count(*), sum(num_docs_inserted) FROM generate_series(1, 50) AS n,
                 LATERAL s3_export('{}/' || n, 'local', format('SELECT %s AS n FROM generate_series(1, %s)', n, n))",
            db.bucket.uri(prefix)
        )
    };
    let row = client.query_one(&each(&kept), &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 50);
    assert_eq!(db.bucket.manifests(&kept).len(), 50);
    assert_eq!(db.bucket.documents(&kept).len(), 50 * 51 / 2);
    client.batch_execute(&format!("BEGIN; {}; ROLLBACK", each(&failed))).unwrap();
    db.bucket.nothing_left(&failed);
    is_as_good_as_new(&db, &mut client);
}

#[test]
fn a_notification_comes_with_the_manifest() {
    let db = Database::new("notify");
    let (mut client, mut listener, kept, failed) = (db.client(), db.client(), db.prefix(), db.prefix());
    listener.batch_execute("LISTEN exported").unwrap();
    let call = |prefix: &str| db.call(prefix, FIVE_FILES, "output_chunk_size => 1");
    client.batch_execute(&format!("BEGIN; SELECT {}; NOTIFY exported; COMMIT", call(&kept))).unwrap();
    client.batch_execute(&format!("BEGIN; SELECT {}; NOTIFY exported; ROLLBACK", call(&failed))).unwrap();
    is_complete(&db, &kept);
    db.bucket.nothing_left(&failed);
    listener.batch_execute("").unwrap();
    assert_eq!(listener.notifications().len(), 1);
}

#[test]
fn a_hundred_exports_leave_no_descriptor_and_no_memory_behind() {
    let db = Database::new("leaks");
    let mut client = db.client();
    let mut round = || {
        for _ in 0..25 {
            client.batch_execute(&format!("SELECT {}", db.call(&db.prefix(), FIVE_FILES, ""))).unwrap();
            let failing =
                db.call(&db.prefix(), "SELECT 1 / (3 - i) AS x FROM generate_series(1, 5) i", "output_chunk_size => 1");
            client.batch_execute(&format!("SELECT {failing}")).unwrap_err();
        }
        client.settle();
        (super::fixture::descriptors(client.pid), super::fixture::private_memory(client.pid).unwrap())
    };
    let (descriptors, memory) = round();
    let (later_descriptors, later_memory) = round();
    // Postgres opens and closes a few files of its own.
    assert!(later_descriptors < descriptors + 10, "descriptors grew from {descriptors} to {later_descriptors}");
    assert!(later_memory < memory + 2048, "private memory grew from {memory} kB to {later_memory} kB");
}

/// Each export had connections of its own, kept to the end of the transaction, so that some sixty exports in one transaction
/// ran out of descriptors.
#[test]
fn descriptors_do_not_grow_with_the_exports_of_a_transaction() {
    let db = Database::new("many_in_one");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    let mut exports = || {
        for _ in 0..10 {
            let query = "SELECT generate_series(1, 100) AS i";
            db.export_to(&mut client, &prefix, query, "output_chunk_size => 1").unwrap();
        }
        super::fixture::descriptors(client.pid)
    };
    let (after_ten, after_twenty) = (exports(), exports());
    assert!(after_twenty <= after_ten + 10, "{after_ten} after ten exports, {after_twenty} after twenty");
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(db.bucket.manifests(&prefix).len(), 20);
}
