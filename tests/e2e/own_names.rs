//! Objects under names of one's own: a single file, a copy of the manifest, a marker. Nothing is overwritten, and a rollback
//! takes back only what the export has made.

use super::fixture::{Action, Database, Gateway, Integration, refused};

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
    let failing = marked(r#", "manifest_name": "late.json""#);
    client.batch_execute(&format!("BEGIN; SELECT {}; SELECT {failing}", marked(""))).unwrap();
    db.bucket.put(&format!("{prefix}/late.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710");
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
    let failing = db.call(&prefix, "SELECT 1 AS a", r#"options => '{"manifest_name": "taken.json"}'"#);
    client.batch_execute(&format!("BEGIN; SELECT {call}; SELECT {failing}")).unwrap();
    db.bucket.put(&format!("{prefix}/taken.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710");
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
    let made = std::sync::Mutex::new(std::collections::HashSet::new());
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        let line = request.head.lines().next().unwrap_or_default();
        let path = line.split(['?', ' ']).nth(1).unwrap_or_default().to_owned();
        // The right to look goes once the object is there.
        if line.starts_with("PUT") {
            made.lock().unwrap().insert(path.clone());
        }
        if line.starts_with("HEAD") && path.contains(".json") && made.lock().unwrap().contains(&path) {
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

/// Backblaze B2 refuses the header with 501; markers and manifests failed in the COMMIT, after everything was uploaded.
#[test]
fn a_store_that_refuses_the_condition_is_asked_by_a_look_instead() {
    let db = Database::new("single_501");
    let gateway = Gateway::to(&Integration::local().endpoint, |request| match request.header("if-none-match") {
        Some(_) => Action::Answer("HTTP/1.1 501 Not Implemented".into(), "<Error><Code>NotImplemented</Code></Error>".into()),
        None => Action::Forward,
    });
    db.create(&Integration { name: "b2", endpoint: gateway.endpoint(), ..Integration::local() });
    let (mut client, prefix) = (db.client(), db.prefix());
    let export = |client: &mut super::fixture::Session, query: &str, options: &str| {
        let call = db.call(&prefix, query, &format!("options => '{options}'")).replace("'local'", "'b2'");
        db.exported(client, &call, &prefix)
    };
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    let named = r#"{"single_file": "all.json", "manifest_name": "list.json", "success_marker": "_SUCCESS"}"#;
    assert_eq!(export(&mut client, large, named).unwrap().documents, 20000);
    assert_eq!(db.bucket.list(&prefix).len(), 4);
    // A marker that is there says what it is to say.
    export(&mut client, "SELECT 1 AS a", r#"{"success_marker": "_SUCCESS"}"#).unwrap();
    let before = db.bucket.list(&prefix);
    // What is there is seen before the query runs.
    client.batch_execute("CREATE SEQUENCE ran").unwrap();
    for options in [r#"{"single_file": "all.json"}"#, r#"{"manifest_name": "list.json"}"#] {
        refused(export(&mut client, "SELECT nextval('ran')", options)).sqlstate("42710").detail("Nothing is overwritten");
    }
    assert_eq!(client.text("SELECT is_called FROM ran"), "f");
    assert_eq!(db.bucket.list(&prefix), before);
    // Who may not look would overwrite, and is told so before the query runs.
    let blind = Gateway::to(&Integration::local().endpoint, |request| {
        let line = request.head.lines().next().unwrap_or_default();
        match (request.header("if-none-match"), line.starts_with("HEAD") && line.contains(".json")) {
            (Some(_), _) => Action::Answer("HTTP/1.1 501 Not Implemented".into(), String::new()),
            (None, true) => Action::Answer("HTTP/1.1 403 Forbidden".into(), String::new()),
            (None, false) => Action::Forward,
        }
    });
    db.create(&Integration { name: "blind", endpoint: blind.endpoint(), ..Integration::local() });
    for options in [r#"{"single_file": "new.json"}"#, r#"{"success_marker": "new.json"}"#] {
        let call = db.call(&prefix, "SELECT nextval('ran')", &format!("options => '{options}'")).replace("'local'", "'blind'");
        refused(db.exported(&mut client, &call, &prefix)).sqlstate("0A000").hint("s3:GetObject");
    }
    assert_eq!(client.text("SELECT is_called FROM ran"), "f");
    let validated = "SELECT string_agg(step, ',') FROM s3_export.validate_integration('b2') WHERE NOT ok";
    assert_eq!(client.text(validated), "conditional put,conditional multipart");
}

/// Ceph's gateway obeys the condition at a PUT and ignores it at the end of a multipart upload.
#[test]
fn a_large_file_of_ones_own_name_is_looked_for_before_its_upload_is_completed() {
    let db = Database::new("single_rgw");
    let (mut client, prefix) = (db.client(), db.prefix());
    db.bucket.put(&format!("{prefix}/all.json"), b"somebody else's");
    let looked = std::sync::atomic::AtomicBool::new(false);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        // It came to be there after the query began.
        let first = request.head.starts_with("HEAD") && !looked.swap(true, std::sync::atomic::Ordering::Relaxed);
        if first { Action::Answer("HTTP/1.1 404 Not Found".into(), String::new()) } else { Action::Forward }
    });
    db.create(&Integration { name: "rgw", endpoint: gateway.endpoint(), ..Integration::local() });
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 20000)";
    let call = db.call(&prefix, large, r#"options => '{"single_file": "all.json"}'"#).replace("'local'", "'rgw'");
    refused(db.exported(&mut client, &call, &prefix)).sqlstate("42710").message("all.json");
    assert!(gateway.requests().iter().all(|request| request.step() != "complete"));
    assert_eq!(db.bucket.get(&format!("{prefix}/all.json")).as_ref(), b"somebody else's");
    assert!(db.bucket.multipart_uploads(&prefix).is_empty());
}
