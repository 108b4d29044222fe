//! Notifications (option `notify`): sent with the commit, and with nothing else.

use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;
use serde_json::Value;

use super::feeds::{create, table};
use super::fixture::{Cluster, Database, Session, ended, enqueued, refused};

const NOTIFY: &str = r#"options => '{"notify": "done"}'"#;

fn listener(db: &Database) -> Session {
    let mut listener = db.client();
    listener.batch_execute("LISTEN done").unwrap();
    listener
}

/// Payloads that come to the session, until `count` are there or none comes for a while.
fn payloads(listener: &mut Session, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    let limit = Duration::from_secs(if count == 0 { 1 } else { 20 });
    while found.len() < count.max(1) {
        let Some(notification) = listener.notifications_within(limit) else { break };
        assert_eq!(notification.channel(), "done");
        found.push(serde_json::from_str(notification.payload()).unwrap());
    }
    found
}

trait Notifications {
    fn notifications_within(&mut self, limit: Duration) -> Option<postgres::Notification>;
}

impl Notifications for Session {
    fn notifications_within(&mut self, limit: Duration) -> Option<postgres::Notification> {
        let client: &mut postgres::Client = &mut *self;
        client.notifications().timeout_iter(limit).next().unwrap()
    }
}

#[test]
fn a_commit_notifies_of_the_result_and_a_rollback_of_nothing() {
    let db = Database::new("notify");
    let (mut client, mut listener, prefix) = (db.client(), listener(&db), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    let exported = db.export_to(&mut client, &prefix, "SELECT i FROM generate_series(1, 2500) i", NOTIFY).unwrap();
    assert_eq!(payloads(&mut listener, 0), [Value::Null; 0], "before the commit");
    client.batch_execute("COMMIT").unwrap();
    let [payload] = payloads(&mut listener, 1).try_into().unwrap();
    assert_eq!(payload["export_id"], exported.export_id.to_string());
    assert_eq!(payload["manifest"], exported.manifest);
    assert_eq!(payload["uri"], db.bucket.uri(&prefix));
    assert_eq!((&payload["documents"], &payload["files"], &payload["format"]), (&2500.into(), &3.into(), &"json".into()));
    assert_eq!(payload["bytes"], exported.bytes);

    for statements in ["BEGIN; {export}; ROLLBACK", "BEGIN; SAVEPOINT s; {export}; ROLLBACK TO s; COMMIT"] {
        let export = format!("SELECT * FROM {}", db.call(&db.prefix(), "SELECT 1 AS a", NOTIFY));
        client.batch_execute(&statements.replace("{export}", &export)).unwrap();
        assert_eq!(payloads(&mut listener, 0), [Value::Null; 0], "{statements}");
    }
    assert!(db.export_in(&mut client, "SELECT 1 / 0 AS a", NOTIFY).is_err());
    assert_eq!(payloads(&mut listener, 0), [Value::Null; 0]);
    // A transaction that is READ ONLY may notify, as Postgres's own NOTIFY.
    client.batch_execute("BEGIN READ ONLY").unwrap();
    db.export_in(&mut client, "SELECT 1 AS a", NOTIFY).unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(payloads(&mut listener, 1).len(), 1);
}

#[test]
fn jobs_statements_runs_and_feeds_notify() {
    let db = Database::new("notify_all");
    let (mut client, mut listener, prefix) = (db.client(), listener(&db), db.prefix());
    let id = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", NOTIFY);
    ended(&mut client, &id).unwrap();
    assert_eq!(payloads(&mut listener, 1)[0]["export_id"], id);

    let statement = format!(
        "SELECT * FROM s3_export($$INSERT INTO '{}' INTEGRATION = 'local' FORMAT = (TYPE = 'CSV', NOTIFY = 'done') SELECT 1 AS a$$)",
        db.bucket.uri(&db.prefix())
    );
    client.batch_execute(&statement).unwrap();
    assert_eq!(payloads(&mut listener, 1)[0]["format"], "csv");

    let run = r#"options => '{"notify": "done", "run_key": "nightly"}'"#;
    let prefix = db.prefix();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", run).unwrap();
    assert_eq!(payloads(&mut listener, 1)[0]["run_key"], "nightly");
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", run).unwrap();
    assert_eq!(payloads(&mut listener, 0), [Value::Null; 0], "a run that is returned was told of already");

    table(&mut client, "orders");
    client.batch_execute(&create(&db, &db.prefix(), "xid", &format!(", {NOTIFY}"))).unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    for (documents, run) in [(1, true), (0, false)] {
        let told = client.text("SELECT num_docs_inserted || ' ' || run FROM s3_export.run_feed('xid')");
        assert_eq!(told, format!("{documents} 1"));
        let payloads = payloads(&mut listener, usize::from(run));
        assert_eq!(payloads.len(), usize::from(run), "nothing new is told to nobody");
        if let Some(payload) = payloads.first() {
            assert_eq!((&payload["feed"]["name"], &payload["feed"]["run"]), (&"xid".into(), &1.into()));
        }
    }
}

#[test]
fn what_cannot_notify_is_refused_before_the_query() {
    let db = Database::new("notify_refused");
    db.client().batch_execute("CREATE SEQUENCE ran").unwrap();
    let query = "SELECT nextval('ran') AS a";
    for options in [r#"{"notify": ""}"#, r#"{"notify": 1}"#] {
        db.refuse(query, &format!("options => '{options}'")).sqlstate("22023").message("notify");
    }
    let member = db.role("member", &["s3_export_member"]);
    db.client().batch_execute(&format!("GRANT USAGE ON SEQUENCE ran TO {member}")).unwrap();
    let mut client = db.client_as(&member);
    db.client().batch_execute("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC").unwrap();
    refused(db.export_in(&mut client, query, NOTIFY)).sqlstate("42501").message("pg_notify");
    assert_eq!(db.client().text("SELECT is_called FROM ran"), "f");
    let standby = Cluster::standby();
    let mut there = standby.session(&db.name, "postgres");
    refused(db.export_in(&mut there, "SELECT 1 AS a", NOTIFY)).sqlstate("0A000").hint("primary");
}
