//! Runs whose server or session was killed, and what `cleanup` makes of their files.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::super::fixture::{Action, Bucket, Cluster, Database, messages, refused, wait_for};
use super::{REPLACE, by, cleanup, export, gateway, is_exactly_one_run, manifest_of, nightly, three, value_of};

/// Point at which the server is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// The manifest of the run is being looked for.
    BeforeTheQuery,
    /// Files are on their way.
    DuringTheUpload,
    /// The manifest is written, and the commit waits for another export's.
    BeforeTheCommit,
    /// The commit has happened, and the files of the replaced export are there still.
    BeforeTheDeletion,
}

/// kill -9 of the backend, or an immediate stop of the server; then the run is repeated.
fn killed(kill: Kill, immediately: bool, more: &str) {
    let what = format!("{kill:?}, immediately: {immediately}, {more}");
    let db = Database::new("run_killed");
    let hangs = Arc::new(AtomicBool::new(false));
    let hanging = Arc::clone(&hangs);
    let seen = gateway(&db, "gated", move |request| {
        let line = request.head.lines().next().unwrap_or_default();
        let hangs = match kill {
            Kill::BeforeTheQuery => line.starts_with("GET"),
            Kill::DuringTheUpload => line.contains("-000002.json"),
            Kill::BeforeTheCommit => line.contains("_second.manifest") && line.starts_with("PUT"),
            Kill::BeforeTheDeletion => request.step() == "delete",
        };
        if hangs {
            hanging.store(true, Ordering::SeqCst);
            Action::Hang
        } else {
            Action::Forward
        }
    });
    let prefix = db.prefix();
    let replaces = more == REPLACE;
    if replaces {
        export(&db, &mut db.client(), &prefix, 1, "").unwrap();
    }
    let cluster = Cluster::copy();
    let mut client = cluster.session(&db.name, "postgres");
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    let call = by(&db.call(&prefix, &three(2), &nightly(more)), "gated");
    let second = by(&db.call(&format!("{prefix}-2"), "SELECT 1 AS a", r#"options => '{"run_key": "second"}'"#), "gated");
    let statements = if kill == Kill::BeforeTheCommit {
        format!("BEGIN; SELECT {call}; SELECT {second}; COMMIT")
    } else {
        format!("SELECT {call}")
    };
    let running = client.start(&statements);
    wait_for("the step", || {
        let is_there = match kill {
            // All files but the one that hangs.
            Kill::DuringTheUpload => db.bucket.files(&prefix).len() == if replaces { 5 } else { 2 },
            Kill::BeforeTheCommit => {
                db.bucket.manifests(&format!("{prefix}/")).len() == 1
                    && value_of(&db.bucket, &manifest_within(&db.bucket, &prefix)) == 2
            }
            Kill::BeforeTheQuery | Kill::BeforeTheDeletion => true,
        };
        (hangs.load(Ordering::SeqCst) && is_there).then_some(())
    });
    if immediately {
        cluster.restart("immediate");
    } else {
        assert!(std::process::Command::new("kill").arg("-9").arg(running.pid.to_string()).status().unwrap().success());
    }
    assert!(running.join_within(Duration::from_secs(30)).1.is_err(), "{what}");
    drop(seen);
    let mut client = wait_for("the restart", || cluster.try_session(&db.name, "postgres"));
    let again = export(&db, &mut client, &prefix, 3, more).unwrap();
    let manifest = manifest_within(&db.bucket, &prefix);
    assert_eq!(manifest["s3_export"]["export_id"], again.export_id.to_string(), "{what}");
    // The manifest was there before the commit: the run counts.
    let is_returned = !replaces && kill == Kill::BeforeTheCommit;
    assert_eq!(value_of(&db.bucket, &manifest), if is_returned { 2 } else { 3 }, "{what}");
    let orphans = cleanup(&db, &mut client, &prefix);
    let expected = match kill {
        Kill::BeforeTheQuery => 0,
        Kill::DuringTheUpload => 2,
        // The files of the first run, which the crash kept the second from deleting.
        Kill::BeforeTheCommit | Kill::BeforeTheDeletion => {
            if replaces {
                3
            } else {
                0
            }
        }
    };
    assert_eq!(orphans.len(), expected, "{what}: {orphans:?}");
    assert_eq!(is_exactly_one_run(&db.bucket, &prefix), manifest, "{what}");
}

/// The only manifest in the folder, beside other folders whose names begin alike.
#[track_caller]
fn manifest_within(bucket: &Bucket, prefix: &str) -> Value {
    let manifests = bucket.manifests(&format!("{prefix}/"));
    assert_eq!(manifests, [manifest_of(prefix)]);
    serde_json::from_slice(&bucket.get(&manifests[0])).unwrap()
}

#[test]
fn a_run_that_was_killed_before_its_query_is_repeated() {
    killed(Kill::BeforeTheQuery, false, "");
    killed(Kill::BeforeTheQuery, true, REPLACE);
}

#[test]
fn a_run_that_was_killed_while_it_uploaded_is_repeated() {
    killed(Kill::DuringTheUpload, true, "");
    killed(Kill::DuringTheUpload, false, REPLACE);
}

#[test]
fn a_run_that_was_killed_between_its_manifest_and_the_commit_is_returned_or_replaced() {
    killed(Kill::BeforeTheCommit, false, "");
    killed(Kill::BeforeTheCommit, true, REPLACE);
    killed(Kill::BeforeTheCommit, false, REPLACE);
}

#[test]
fn files_that_a_kill_kept_from_being_deleted_are_found_by_cleanup() {
    killed(Kill::BeforeTheDeletion, false, REPLACE);
    killed(Kill::BeforeTheDeletion, true, REPLACE);
}

/// The server died between the manifest and the marker: a reader waits for the marker.
#[test]
fn a_run_that_is_returned_gets_the_objects_that_it_lacks() {
    let db = Database::new("run_completed");
    let (mut client, prefix) = (db.client(), db.prefix());
    let more = r#", "success_marker": "_SUCCESS", "manifest_name": "list.json""#;
    let first = export(&db, &mut client, &prefix, 1, more).unwrap();
    let before = db.bucket.list(&prefix);
    for name in ["_SUCCESS", "list.json"] {
        db.bucket.delete(&format!("{prefix}/{name}"));
    }
    let again = export(&db, &mut client, &prefix, 1, more).unwrap();
    assert_eq!(format!("{again:?}"), format!("{first:?}"));
    assert_eq!(db.bucket.list(&prefix), before);
    assert_eq!(db.bucket.get(&format!("{prefix}/list.json")), db.bucket.get(&manifest_of(&prefix)));
}

#[test]
fn cleanup_leaves_files_of_runs_and_finds_those_of_a_replaced_one() {
    let db = Database::new("run_cleanup");
    let (mut client, prefix) = (db.client(), db.prefix());
    let arguments = |key: &str, more: &str| {
        format!(r#"output_chunk_size => 1, partition_by => '{{i}}', options => '{{"run_key": "{key}"{more}}}'"#)
    };
    db.export_to(&mut client, &prefix, &three(1), &arguments("a", "")).unwrap();
    db.export_to(&mut client, &prefix, &three(2), &arguments("b", "")).unwrap();
    let before = db.bucket.list(&prefix);
    for location in [prefix.clone(), format!("{prefix}/i=1")] {
        assert!(cleanup(&db, &mut client, &location).is_empty(), "{location}");
    }
    // Whoever copies a bucket may lose the mark; the manifest itself tells.
    let manifest = format!("{prefix}/_a.manifest");
    db.bucket.put(&manifest, &db.bucket.get(&manifest));
    for location in [prefix.clone(), format!("{prefix}/i=1")] {
        assert!(cleanup(&db, &mut client, &location).is_empty(), "{location}");
    }
    assert_eq!(db.bucket.list(&prefix), before);
    // A store that lets nobody delete: the commit stands, and a WARNING tells.
    gateway(&db, "kept", |request| match request.step() {
        "delete" => Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into()),
        _ => Action::Forward,
    });
    let call = by(&db.call(&prefix, &three(3), &arguments("a", REPLACE)), "kept");
    client.notices();
    db.exported(&mut client, &call, &prefix).unwrap();
    let warning = messages(&client.notices());
    assert!(warning.contains("files of the replaced export") && warning.contains("AccessDenied"), "{warning}");
    assert_eq!(cleanup(&db, &mut client, &format!("{prefix}/i=1")).len(), 1);
    assert_eq!(cleanup(&db, &mut client, &prefix).len(), 2);
    assert_eq!(db.bucket.list(&prefix).len(), 8);
}

/// Between the write of the new manifest and the end of the transaction, no manifest lists the files of the earlier run.
#[test]
fn cleanup_takes_no_file_of_a_run_that_a_rollback_puts_back() {
    let db = Database::new("run_window");
    let (mut client, prefix) = (db.client(), db.prefix());
    export(&db, &mut client, &prefix, 1, "").unwrap();
    let before = db.bucket.list(&prefix);
    let hangs = Arc::new(AtomicBool::new(false));
    let hanging = Arc::clone(&hangs);
    gateway(&db, "hung", move |request| {
        if request.step() == "manifest" {
            hanging.store(true, Ordering::SeqCst);
            Action::Hang
        } else {
            Action::Forward
        }
    });
    let mut exporting = db.client();
    exporting.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    let second = db.call(&prefix, &three(2), &nightly(REPLACE));
    let hung = by(&db.call(&format!("{prefix}-2"), "SELECT 1 AS a", ""), "hung");
    let running = exporting.start(&format!("BEGIN; SELECT {second}; SELECT {hung}; COMMIT"));
    wait_for("the manifest to be replaced", || {
        let is_replaced = value_of(&db.bucket, &manifest_within(&db.bucket, &prefix)) == 2;
        (is_replaced && hangs.load(Ordering::SeqCst)).then_some(())
    });
    assert_eq!(cleanup(&db, &mut client, &prefix), BTreeSet::new());
    client.execute("SELECT pg_cancel_backend($1)", &[&running.pid]).unwrap();
    refused(running.join().1).sqlstate("57014");
    assert_eq!(db.bucket.list(&format!("{prefix}/")), before);
    manifest_within(&db.bucket, &prefix);
}
