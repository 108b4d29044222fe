//! Runs that are refused, and the rights that runs need.

use super::super::fixture::{Action, Bucket, Database, Integration, StandIn, refused};
use super::{REFUSE, REPLACE, by, export, gateway, is_exactly_one_run, manifest_of, nightly, three, value_of};

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
