//! A run that replaces another and is rolled back: the earlier run is whole again.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::fixture::{Action, Bucket, Database, messages, refused};
use super::{REPLACE, by, cleanup, export, gateway, is_exactly_one_run, is_whole, manifest_of, nightly, three, value_of};

/// One transaction with a run that replaces another and an export whose manifest fails.
#[test]
fn a_commit_that_fails_after_the_manifest_was_replaced_puts_it_back() {
    let db = Database::new("run_put_back");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    export(&db, &mut client, &prefix, 1, "").unwrap();
    let before = (db.bucket.list(&format!("{prefix}/")), db.bucket.get(&manifest_of(&prefix)));
    let failing = format!("{prefix}-fails");
    let second = db.call(&prefix, &three(2), &nightly(REPLACE));
    let fails = db.call(&failing, "SELECT 1 AS a", r#"options => '{"manifest_name": "taken.json"}'"#);
    client.batch_execute(&format!("BEGIN; SELECT {second}; SELECT {fails}")).unwrap();
    db.bucket.put(&format!("{failing}/taken.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710").message("taken.json");
    client.settle();
    assert_eq!(messages(&client.notices()), "");
    assert_eq!((db.bucket.list(&format!("{prefix}/")), db.bucket.get(&manifest_of(&prefix))), before);
    is_exactly_one_run(&db.bucket, &prefix);
    assert!(cleanup(&db, &mut client, &prefix).is_empty());
    // The run can be replaced afterwards.
    export(&db, &mut client, &prefix, 3, REPLACE).unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 3);
}

#[test]
fn a_rollback_in_a_versioned_bucket_puts_the_earlier_manifest_back() {
    let db = Database::new("run_versions");
    let bucket = Bucket::versioned(db.environment(), "versioned");
    let (mut client, prefix) = (db.client(), db.prefix());
    client
        .batch_execute(
            "UPDATE s3_export.integrations SET allowed_locations = '{s3://versioned}'; SET s3_export.cleanup_timeout = '60s'",
        )
        .unwrap();
    let call = |prefix: &str, value, more: &str| {
        db.call(prefix, &three(value), &nightly(more)).replace("s3://exports/", "s3://versioned/")
    };
    client.batch_execute(&format!("SELECT {}", call(&prefix, 1, ""))).unwrap();
    let before = bucket.get(&manifest_of(&prefix));
    let fails = db.call(&format!("{prefix}-fails"), "SELECT 1 AS a", r#"options => '{"manifest_name": "taken.json"}'"#);
    let fails = fails.replace("s3://exports/", "s3://versioned/");
    client.batch_execute(&format!("BEGIN; SELECT {}; SELECT {fails}", call(&prefix, 2, REPLACE))).unwrap();
    bucket.put(&format!("{prefix}-fails/taken.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710");
    client.settle();
    assert_eq!(bucket.get(&manifest_of(&prefix)), before);
    is_exactly_one_run(&bucket, &prefix);
    client.batch_execute(&format!("SELECT {}", call(&prefix, 3, REPLACE))).unwrap();
    let manifest = is_exactly_one_run(&bucket, &prefix);
    assert_eq!(value_of(&bucket, &manifest), 3);
    bucket.empty(&prefix);
}

/// The earlier manifest cannot be put back: the new one stays whole, the files of both stay, and a WARNING says so.
#[test]
fn a_manifest_that_cannot_be_put_back_keeps_its_files() {
    let db = Database::new("run_stands");
    let (mut client, prefix) = (db.client(), db.prefix());
    export(&db, &mut client, &prefix, 1, "").unwrap();
    let earlier = db.bucket.list(&prefix);
    let written = AtomicBool::new(false);
    gateway(&db, "once", move |request| {
        let refuse = request.step() == "manifest" && request.head.contains("_nightly") && written.swap(true, Ordering::SeqCst);
        if refuse {
            Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into())
        } else {
            Action::Forward
        }
    });
    let second = by(&db.call(&prefix, &three(2), &nightly(REPLACE)), "once");
    let fails = db.call(&format!("{prefix}-fails"), "SELECT 1 AS a", r#"options => '{"manifest_name": "taken.json"}'"#);
    client.batch_execute(&format!("BEGIN; SELECT {second}; SELECT {fails}")).unwrap();
    db.bucket.put(&format!("{prefix}-fails/taken.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710");
    client.settle();
    let notices = client.notices();
    let warning = messages(&notices);
    assert!(warning.contains("in the place of the run") && warning.contains(&manifest_of(&prefix)), "{warning}");
    assert!(notices.iter().any(|notice| notice.hint().is_some_and(|hint| hint.contains("existing_run"))), "{notices:?}");
    let manifest = is_whole(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 2);
    let there = db.bucket.list(&prefix);
    assert!(earlier.iter().all(|object| there.iter().any(|now| now.key == object.key)), "files of the earlier run are gone");
    // What the hint says.
    export(&db, &mut client, &prefix, 3, REPLACE).unwrap();
    assert_eq!(cleanup(&db, &mut client, &prefix).len(), 3);
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 3);
}
