//! Runs with a key (options `run_key`, `existing_run`): a key has one run, whoever asks for it, and whatever fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fixture::{
    Action, Bucket, Cluster, Database, Exported, Gateway, Integration, Request, Session, StandIn, ended, enqueued, messages,
    refused, threads, wait_for,
};

/// Three files of one document each; `value` tells one run from another.
fn three(value: i32) -> String {
    format!("SELECT {value} AS v, i FROM generate_series(1, 3) i")
}

/// Arguments of a run with the key `nightly`; `more`: further members of `options`.
fn nightly(more: &str) -> String {
    format!(r#"output_chunk_size => 1, options => '{{"run_key": "nightly"{more}}}'"#)
}

const REPLACE: &str = r#", "existing_run": "replace""#;
const REFUSE: &str = r#", "existing_run": "error""#;

fn export(db: &Database, client: &mut Session, prefix: &str, value: i32, more: &str) -> Result<Exported, postgres::Error> {
    db.export_to(client, prefix, &three(value), &nightly(more))
}

fn manifest_of(prefix: &str) -> String {
    format!("{prefix}/_nightly.manifest")
}

/// The objects below `prefix` are the manifest of the run and the files that it lists, and no others; gives the manifest.
#[track_caller]
fn is_exactly_one_run(bucket: &Bucket, prefix: &str) -> Value {
    let manifest = is_whole(bucket, prefix);
    let mut expected = listed(bucket, &manifest);
    expected.insert(manifest_of(prefix));
    let there: BTreeSet<String> = bucket.list(&format!("{prefix}/")).into_iter().map(|object| object.key).collect();
    assert_eq!(there, expected);
    assert_eq!(bucket.multipart_uploads(prefix), [""; 0]);
    manifest
}

/// There is one manifest, and all files that it lists; gives it.
#[track_caller]
fn is_whole(bucket: &Bucket, prefix: &str) -> Value {
    assert_eq!(bucket.manifests(prefix), [manifest_of(prefix)]);
    let manifest: Value = serde_json::from_slice(&bucket.get(&manifest_of(prefix))).unwrap();
    let there: BTreeSet<String> = bucket.list(prefix).into_iter().map(|object| object.key).collect();
    let missing: Vec<String> = listed(bucket, &manifest).difference(&there).cloned().collect();
    assert!(missing.is_empty(), "listed and gone: {missing:?}");
    manifest
}

fn listed(bucket: &Bucket, manifest: &Value) -> BTreeSet<String> {
    let entries = manifest["entries"].as_array().unwrap();
    entries.iter().map(|entry| bucket.key(entry["url"].as_str().unwrap()).to_owned()).collect()
}

/// Value of the column `v` in the documents that the manifest lists.
fn value_of(bucket: &Bucket, manifest: &Value) -> i64 {
    let file = listed(bucket, manifest).into_iter().next().unwrap();
    serde_json::from_str::<Value>(&super::fixture::lines(&bucket.get(&file))[0]).unwrap()["v"].as_i64().unwrap()
}

/// An integration of that name, to the store behind a gateway.
fn gateway(db: &Database, name: &str, decide: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Gateway {
    let gateway = Gateway::to(&Integration::local().endpoint, decide);
    db.create(&Integration { name, endpoint: gateway.endpoint(), ..Integration::local() });
    gateway
}

fn by(call: &str, integration: &str) -> String {
    call.replace("'local'", &format!("'{integration}'"))
}

/// Deletes what `cleanup` finds, at once; gives the keys.
fn cleanup(db: &Database, client: &mut Session, prefix: &str) -> BTreeSet<String> {
    let call = format!(
        "SELECT object FROM s3_export.cleanup('{}', 'local', older_than => '0', force => true, dry_run => false)",
        db.bucket.uri(prefix)
    );
    client.query(&call, &[]).unwrap().iter().map(|row| db.bucket.key(row.get(0)).to_owned()).collect()
}

#[test]
fn a_second_run_returns_the_first_and_exports_nothing() {
    let db = Database::new("run_return");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("CREATE SEQUENCE ran").unwrap();
    let first = export(&db, &mut client, &prefix, 1, "").unwrap();
    assert_eq!((first.documents, first.files), (3, 3));
    assert_eq!(first.manifest, db.bucket.uri(&manifest_of(&prefix)));
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(manifest["s3_export"]["run_key"], "nightly");
    client.notices();

    let recorded = gateway(&db, "recorded", |_| Action::Forward);
    for begin in ["BEGIN", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        client.batch_execute(begin).unwrap();
        let call = by(&db.call(&prefix, "SELECT nextval('ran')", &nightly("")), "recorded");
        let again = db.exported(&mut client, &call, &prefix).unwrap();
        client.batch_execute("COMMIT").unwrap();
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
        let notices = messages(&client.notices());
        assert!(notices.contains(&format!("{} exists: nothing is exported", first.manifest)), "{notices}");
        assert!(notices.contains(&first.export_id.to_string()), "{notices}");
    }
    assert_eq!(client.text("SELECT is_called FROM ran"), "f");
    let requests: Vec<String> = recorded.requests().iter().map(|request| request.head[..4].to_owned()).collect();
    // The manifest is read, and the first and the last file are looked up.
    assert_eq!(requests, ["GET "; 9], "a run that is returned takes three requests");
    assert_eq!(is_exactly_one_run(&db.bucket, &prefix), manifest);
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn error_refuses_a_second_run_and_another_key_or_folder_is_another_run() {
    let db = Database::new("run_error");
    let (mut client, prefix) = (db.client(), db.prefix());
    let first = export(&db, &mut client, &prefix, 1, REFUSE).unwrap();
    refused(export(&db, &mut client, &prefix, 2, REFUSE))
        .sqlstate("42710")
        .message("a run has the run_key already")
        .detail(&first.export_id.to_string())
        .detail(&first.manifest)
        .hint("existing_run");
    is_exactly_one_run(&db.bucket, &prefix);
    let other = r#"options => '{"run_key": "nightly 2", "existing_run": "error"}'"#;
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", other).unwrap();
    assert_eq!(db.bucket.manifests(&prefix).len(), 2);
    export(&db, &mut client, &format!("{prefix}/below"), 1, REFUSE).unwrap();
}

#[test]
fn replace_leaves_exactly_the_new_files() {
    let db = Database::new("run_replace");
    for (name, more) in [
        ("json", ""),
        ("parquet", "format => 'parquet'"),
        ("partitions", "partition_by => '{i}'"),
        ("folder", "include_query_id => true, partition_by => '{i}'"),
        ("single", ""),
    ] {
        let (mut client, prefix) = (db.client(), db.prefix());
        let members = if name == "single" { r#", "single_file": true, "success_marker": "_SUCCESS""# } else { "" };
        let arguments = |replace: &str| {
            let chunks = if name == "single" { "" } else { "output_chunk_size => 1, " };
            let comma = if more.is_empty() { "" } else { ", " };
            format!(r#"{chunks}options => '{{"run_key": "nightly"{members}{replace}}}'{comma}{more}"#)
        };
        let first = db.export_to(&mut client, &prefix, &three(1), &arguments("")).unwrap();
        // An ordinary export in the same folder stays.
        let beside = db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
        let second = db.export_to(&mut client, &prefix, &three(2), &arguments(REPLACE)).unwrap();
        assert_ne!(first.export_id, second.export_id);
        assert_eq!(messages(&client.notices()), "", "{name}");
        let keys: Vec<String> = db.bucket.list(&prefix).into_iter().map(|object| object.key).collect();
        assert!(!keys.iter().any(|key| key.contains(&first.export_id.to_string())), "{name}: {keys:?}");
        assert_eq!(keys.iter().filter(|key| key.contains(&beside.export_id.to_string())).count(), 2, "{name}: {keys:?}");
        let manifest: Value = serde_json::from_slice(&db.bucket.get(&manifest_of(&prefix))).unwrap();
        assert_eq!(manifest["s3_export"]["export_id"], second.export_id.to_string());
        let files = listed(&db.bucket, &manifest);
        assert_eq!(files.len() as i64, second.files, "{name}");
        assert!(files.iter().all(|file| keys.contains(file)), "{name}: {keys:?}");
        assert_eq!(keys.iter().any(|key| key.ends_with("_SUCCESS")), name == "single");
        // Where there is no run, there is nothing to replace.
        let elsewhere = db.prefix();
        db.export_to(&mut client, &elsewhere, &three(3), &arguments(REPLACE)).unwrap();
        is_whole(&db.bucket, &elsewhere);
    }
}

#[test]
fn a_rollback_leaves_the_earlier_run_and_a_savepoint_may_try_again() {
    let db = Database::new("run_rollback");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    let first = db.call(&prefix, &three(1), &nightly(""));
    client.batch_execute(&format!("BEGIN; SELECT {first}; ROLLBACK")).unwrap();
    db.bucket.nothing_left(&prefix);
    client.batch_execute(&format!("BEGIN; SAVEPOINT s; SELECT {first}; ROLLBACK TO s; SELECT {first}; COMMIT")).unwrap();
    let before = (db.bucket.list(&prefix), is_exactly_one_run(&db.bucket, &prefix));
    let second = db.call(&prefix, &three(2), &nightly(REPLACE));
    client.batch_execute(&format!("BEGIN; SELECT {second}; ROLLBACK")).unwrap();
    assert_eq!(db.bucket.list(&prefix), before.0);
    client.batch_execute(&format!("BEGIN; SAVEPOINT s; SELECT {second}; ROLLBACK TO s; COMMIT")).unwrap();
    assert_eq!((db.bucket.list(&prefix), is_exactly_one_run(&db.bucket, &prefix)), before);
    refused(db.export_to(&mut client, &prefix, "SELECT 1 / (2 - i) AS v FROM generate_series(1, 3) i", &nightly(REPLACE)))
        .sqlstate("22012");
    assert_eq!((db.bucket.list(&prefix), is_exactly_one_run(&db.bucket, &prefix)), before);
}

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

#[test]
fn a_job_and_a_statement_have_runs_too() {
    let db = Database::new("run_job");
    let (mut client, prefix) = (db.client(), db.prefix());
    let row = |client: &mut Session, value, more: &str| {
        let id = enqueued(&db, client, &prefix, &three(value), &nightly(more));
        ended(client, &id)
            .map(|row| (row.get::<_, i64>("documents"), row.get::<_, i64>("files"), row.get::<_, String>("manifest")))
    };
    let first = row(&mut client, 1, "").unwrap();
    assert_eq!(first, (3, 3, db.bucket.uri(&manifest_of(&prefix))));
    let before = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(row(&mut client, 2, "").unwrap(), first);
    assert_eq!(is_exactly_one_run(&db.bucket, &prefix), before);
    refused(row(&mut client, 2, REFUSE)).sqlstate("42710").message("run_key");
    row(&mut client, 4, REPLACE).unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 4);
    // The function returns the run of the job, and the statement that of both.
    let returned = export(&db, &mut client, &prefix, 5, "").unwrap();
    assert_eq!(returned.export_id.to_string(), manifest["s3_export"]["export_id"].as_str().unwrap());
    let statement = |existing: &str| {
        let uri = db.bucket.uri(&prefix);
        super::fixture::literal(&format!(
            "INSERT INTO '{uri}' INTEGRATION = 'local' FORMAT = (TYPE = 'json', RUN_KEY = 'nightly'{existing}) SELECT 6 AS v, 1 AS i"
        ))
    };
    let call = format!("s3_export({})", statement(""));
    assert_eq!(db.exported(&mut client, &call, &prefix).unwrap().export_id, returned.export_id);
    let call = format!("s3_export({})", statement(", EXISTING_RUN = 'replace'"));
    db.exported(&mut client, &call, &prefix).unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 6);
    // Two jobs at once: one exports, the other returns.
    let prefix = db.prefix();
    let ids: Vec<String> = (0..2).map(|value| enqueued(&db, &mut client, &prefix, &three(value), &nightly(""))).collect();
    for id in ids {
        ended(&mut client, &id).unwrap();
    }
    is_exactly_one_run(&db.bucket, &prefix);
}

#[test]
fn a_standby_and_a_read_only_transaction_have_runs() {
    let db = Database::new("run_standby");
    let standby = Cluster::standby();
    let (mut client, prefix) = (standby.session(&db.name, "postgres"), db.prefix());
    assert_eq!(client.text("SELECT pg_is_in_recovery()"), "t");
    let first = export(&db, &mut client, &prefix, 1, "").unwrap();
    assert_eq!(export(&db, &mut client, &prefix, 2, "").unwrap().export_id, first.export_id);
    refused(export(&db, &mut client, &prefix, 2, REFUSE)).sqlstate("42710");
    export(&db, &mut client, &prefix, 3, REPLACE).unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 3);
    let mut reader = db.client();
    reader.batch_execute("BEGIN READ ONLY").unwrap();
    export(&db, &mut reader, &prefix, 4, REPLACE).unwrap();
    reader.batch_execute("COMMIT").unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 4);
}

/// Whether the backend waits for a lock.
fn waits_for_lock(witness: &mut Session, pid: i32) {
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
    wait_for("the second run to wait", || witness.query_opt(waiting, &[&pid]).unwrap());
}

#[test]
fn a_second_run_waits_for_the_first_and_then_returns_it() {
    let db = Database::new("run_waits");
    let elsewhere = Database::new("run_waits_elsewhere");
    let (mut first, mut witness, prefix) = (db.client(), db.client(), db.prefix());
    first.batch_execute("BEGIN").unwrap();
    let exported = export(&db, &mut first, &prefix, 1, "").unwrap();
    // A cancel reaches it at once.
    let second = format!("SELECT {}", db.call(&prefix, &three(2), &nightly("")));
    let running = db.client().start(&second);
    waits_for_lock(&mut witness, running.pid);
    let cancelled = Instant::now();
    witness.execute("SELECT pg_cancel_backend($1)", &[&running.pid]).unwrap();
    refused(running.join().1).sqlstate("57014");
    assert!(cancelled.elapsed() < Duration::from_secs(2), "{:?}", cancelled.elapsed());
    // So do its time limits.
    let mut limited = db.client();
    limited.batch_execute("SET lock_timeout = '100ms'").unwrap();
    refused(limited.batch_execute(&second)).sqlstate("55P03");
    let timeout = nightly(r#", "timeout": "200ms""#);
    refused(db.export_to(&mut db.client(), &prefix, &three(2), &timeout)).sqlstate("57014");
    // In any database of the cluster.
    let running = [db.client().start(&second), elsewhere.client().start(&second)];
    for running in &running {
        waits_for_lock(&mut witness, running.pid);
    }
    first.batch_execute("COMMIT").unwrap();
    for running in running {
        let (session, outcome) = running.join();
        outcome.unwrap();
        let notices = messages(&session.notices());
        assert!(notices.contains(&exported.export_id.to_string()), "{notices}");
    }
    is_exactly_one_run(&db.bucket, &prefix);
    // The first is rolled back: the second exports.
    let prefix = db.prefix();
    first.batch_execute("BEGIN").unwrap();
    export(&db, &mut first, &prefix, 1, "").unwrap();
    let running = db.client().start(&format!("SELECT {}", db.call(&prefix, &three(2), &nightly(""))));
    waits_for_lock(&mut witness, running.pid);
    first.batch_execute("ROLLBACK").unwrap();
    running.join().1.unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 2);
}

#[test]
fn keys_in_opposite_order_are_a_deadlock_and_one_key_twice_is_refused() {
    let db = Database::new("run_deadlock");
    let (mut one, mut other, mut witness, prefix) = (db.client(), db.client(), db.client(), db.prefix());
    let of =
        |key: &str| format!("SELECT {}", db.call(&prefix, "SELECT 1 AS v", &format!(r#"options => '{{"run_key": "{key}"}}'"#)));
    for (client, key) in [(&mut one, "a"), (&mut other, "b")] {
        client.batch_execute(&format!("SET deadlock_timeout = '100ms'; BEGIN; {}", of(key))).unwrap();
    }
    let running = one.start(&of("b"));
    waits_for_lock(&mut witness, running.pid);
    let outcome = other.batch_execute(&of("a"));
    let (mut one, first) = if outcome.is_err() {
        other.batch_execute("ROLLBACK").unwrap();
        running.join()
    } else {
        other.batch_execute("COMMIT").unwrap();
        running.join()
    };
    let deadlocks = [outcome, first].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(deadlocks.len(), 1, "{deadlocks:?}");
    assert_eq!(deadlocks[0].code().unwrap().code(), "40P01");
    one.batch_execute("ROLLBACK").unwrap();

    let prefix = db.prefix();
    one.batch_execute("BEGIN").unwrap();
    export(&db, &mut one, &prefix, 1, "").unwrap();
    one.batch_execute("SAVEPOINT s").unwrap();
    for more in ["", REFUSE, REPLACE] {
        refused(export(&db, &mut one, &prefix, 2, more)).sqlstate("42710").message("this transaction has exported");
        one.batch_execute("ROLLBACK TO s").unwrap();
    }
    one.batch_execute("COMMIT").unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 1);
}

#[test]
fn of_two_clusters_one_loses_and_leaves_nothing() {
    let db = Database::new("run_clusters");
    let cluster = Cluster::copy();
    let (mut here, mut there) = (db.client(), cluster.session(&db.name, "postgres"));
    here.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    for more in ["", REPLACE] {
        let prefix = db.prefix();
        if more == REPLACE {
            export(&db, &mut here, &prefix, 0, "").unwrap();
        }
        here.batch_execute("BEGIN").unwrap();
        export(&db, &mut here, &prefix, 1, more).unwrap();
        let winner = export(&db, &mut there, &prefix, 2, more).unwrap();
        let refusal = refused(here.batch_execute("COMMIT"));
        refusal.sqlstate("42710").message("_nightly.manifest").detail("othing is overwritten");
        here.settle();
        assert_eq!(messages(&here.notices()), "");
        let manifest = is_exactly_one_run(&db.bucket, &prefix);
        assert_eq!(manifest["s3_export"]["export_id"], winner.export_id.to_string());
    }
    // The run was deleted while another was to replace it.
    let prefix = db.prefix();
    export(&db, &mut here, &prefix, 0, "").unwrap();
    here.batch_execute("BEGIN").unwrap();
    export(&db, &mut here, &prefix, 1, REPLACE).unwrap();
    db.bucket.delete(&manifest_of(&prefix));
    refused(here.batch_execute("COMMIT")).sqlstate("42710").message("has changed").hint("again");
    here.settle();
    assert!(db.bucket.manifests(&prefix).is_empty());
    assert_eq!(db.bucket.files(&prefix).len(), 3, "those of the earlier run");
}

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

#[test]
fn an_object_that_is_no_manifest_of_the_run_is_refused_and_stays() {
    let db = Database::new("run_hostile");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.buffer_memory = '16MB'; CREATE SEQUENCE ran").unwrap();
    let copied = {
        let other = db.prefix();
        db.export_to(&mut client, &other, "SELECT 1 AS v", r#"options => '{"run_key": "other"}'"#).unwrap();
        db.bucket.get(&format!("{other}/_other.manifest")).to_vec()
    };
    let huge = vec![b' '; 17 << 20];
    let redshift = br#"{"entries":[{"url":"s3://exports/x","mandatory":true}]}"#.to_vec();
    for (body, sqlstate, message) in [
        (b"<html>not found</html>".to_vec(), "55000", "is no manifest"),
        (b"".to_vec(), "55000", "is no manifest"),
        (vec![0xff; 100], "55000", "is no manifest"),
        (b"[".repeat(100_000), "55000", "is no manifest"),
        (redshift, "55000", "is no manifest"),
        (copied, "55000", "another run"),
        (huge, "53400", "too large"),
    ] {
        db.bucket.put(&manifest_of(&prefix), &body);
        for more in ["", REFUSE, REPLACE] {
            let refusal = refused(db.export_to(&mut client, &prefix, "SELECT nextval('ran') AS v", &nightly(more)));
            refusal.sqlstate(sqlstate).message(message).message(&manifest_of(&prefix)).hint(" ");
        }
        assert_eq!(db.bucket.get(&manifest_of(&prefix)).as_ref(), body);
        assert_eq!(db.bucket.list(&prefix).len(), 1);
    }
    assert_eq!(client.text("SELECT is_called FROM ran"), "f");
    // Numbers that no bigint holds.
    let id = uuid::Uuid::now_v7();
    let large = format!(
        r#"{{"entries":[],"s3_export":{{"export_id":"{id}","num_docs_inserted":18446744073709551615,"num_files_written":1,
            "num_bytes_written":1,"query_sha256":"","run_key":"nightly"}}}}"#
    );
    db.bucket.put(&manifest_of(&prefix), large.as_bytes());
    assert_eq!(export(&db, &mut client, &prefix, 1, "").unwrap().documents, i64::MAX);
}

#[test]
fn a_manifest_that_may_not_be_read_names_the_rights() {
    let db = Database::new("run_denied");
    let (mut client, prefix) = (db.client(), db.prefix());
    let gateway = gateway(&db, "denied", |request| {
        if request.head.starts_with("GET") {
            Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into())
        } else {
            Action::Forward
        }
    });
    for more in ["", REFUSE, REPLACE] {
        let call = by(&db.call(&prefix, &three(1), &nightly(more)), "denied");
        refused(db.exported(&mut client, &call, &prefix))
            .sqlstate("42501")
            .message("could not read a manifest")
            .hint("s3:GetObject")
            .hint("iam_policy")
            .hint("run_key");
    }
    assert!(gateway.requests().iter().all(|request| request.head.starts_with("GET")), "nothing is written");
    db.bucket.nothing_left(&prefix);
    // Without the bucket, nobody knows whether there is a run.
    db.create(&Integration { name: "lost", allowed_locations: "{s3://no-such-bucket}", ..Integration::local() });
    let call = by(&db.call(&prefix, &three(1), &nightly("")), "lost").replace("s3://exports", "s3://no-such-bucket");
    refused(db.exported(&mut client, &call, &prefix)).sqlstate("42704").message("bucket");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let db = Database::new("run_options");
    let refuse = |options: &str| db.refuse("SELECT 1 AS v", &format!("options => '{options}'"));
    for run_key in [r#""""#, r#""a/b""#, r#""..""#, "1", "true", r#"["a"]"#, r#""a\nb""#] {
        refuse(&format!(r#"{{"run_key": {run_key}}}"#)).sqlstate("22023").message("run_key").detail("200 characters");
    }
    refuse(&format!(r#"{{"run_key": "{}"}}"#, "x".repeat(201))).sqlstate("22023").message("run_key");
    refuse(&format!(r#"{{"run_key": "{}"}}"#, uuid::Uuid::now_v7())).sqlstate("22023").message("run_key");
    refuse(r#"{"run_key": "a", "existing_run": "append"}"#).sqlstate("22023").detail("replace");
    refuse(r#"{"existing_run": "replace"}"#).sqlstate("22023").message("run_key");
    refuse(r#"{"run_key": "a", "manifest_name": "_a.manifest"}"#).sqlstate("22023").message("_a.manifest");
    for name in ["single_file", "manifest_name"] {
        refuse(&format!(r#"{{"run_key": "a", "existing_run": "replace", "{name}": "x.json"}}"#)).sqlstate("22023");
    }
    let (mut client, prefix) = (db.client(), db.prefix());
    let odd = "日本 % ? # + 'é' \u{1f600}";
    let options = format!("options => '{}'", serde_json::json!({"run_key": odd}).to_string().replace('\'', "''"));
    let first = db.export_to(&mut client, &prefix, "SELECT 1 AS v", &options).unwrap();
    assert_eq!(first.manifest, db.bucket.uri(&format!("{prefix}/_{odd}.manifest")));
    assert_eq!(db.export_to(&mut client, &prefix, "SELECT 2 AS v", &options).unwrap().export_id, first.export_id);
}

/// The session policy of an assumed role, which ministack enforces, allows what a run needs.
#[test]
fn runs_work_with_an_assumed_role() {
    let db = Database::new("run_role");
    let StandIn { endpoint, access_key_id, secret_access_key, role, external_id } = StandIn::ministack();
    let (mut client, prefix) = (db.client(), db.prefix());
    client
        .batch_execute(&format!(
            "DELETE FROM s3_export.integrations;
             SELECT s3_export.create_integration('local', access_key_id => '{access_key_id}', secret_access_key => '{secret_access_key}',
                 aws_role => '{role}', aws_external_id => '{external_id}', endpoint => '{endpoint}', path_style => true,
                 allowed_locations => '{{s3://exports}}', options => '{{\"sts_endpoint\": \"{endpoint}\"}}')"
        ))
        .unwrap();
    let bucket = Bucket::of(&StandIn::ministack(), "exports");
    let first = export(&db, &mut client, &prefix, 1, "").unwrap();
    assert_eq!(export(&db, &mut client, &prefix, 2, "").unwrap().export_id, first.export_id);
    export(&db, &mut client, &prefix, 3, REPLACE).unwrap();
    let manifest = is_exactly_one_run(&bucket, &prefix);
    assert_eq!(value_of(&bucket, &manifest), 3);
    bucket.empty(&prefix);
}
