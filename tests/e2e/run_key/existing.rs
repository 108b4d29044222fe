//! A second run of a key: returned, refused or put in the place of the first; in jobs, statements, and where nothing can be written.

use serde_json::Value;

use super::super::fixture::{Action, Cluster, Database, Session, ended, enqueued, messages, refused, threads};
use super::{
    REFUSE, REPLACE, by, export, gateway, is_exactly_one_run, is_whole, listed, manifest_of, nightly, three, value_of,
};

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
        super::super::fixture::literal(&format!(
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
