//! Feeds: what is new since the last run, once.

use std::time::Duration;

use serde_json::Value;

use super::fixture::{Database, Session, literal, messages, refused, wait_for};

pub const BY_XID: &str = "changed_in >= pg_snapshot_xmin($1) AND NOT pg_visible_in_snapshot(changed_in, $1)";

/// A table with a column for each mark.
pub fn table(client: &mut Session, name: &str) {
    client
        .batch_execute(&format!(
            "CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int NOT NULL, written timestamptz NOT NULL DEFAULT now())"
        ))
        .unwrap();
    let statements = client.text(&format!("SELECT s3_export.feed_setup('{name}.changed_in')"));
    client.batch_execute(&statements).unwrap();
}

/// `create_feed` of a feed whose name is its mark's.
pub fn create(db: &Database, prefix: &str, mark: &str, more: &str) -> String {
    let (column, condition) = match mark {
        "xid" => ("changed_in", BY_XID),
        "sequence" => ("id", "id > $1 AND id <= $2"),
        _ => ("written", "written >= $1 AND written < $2"),
    };
    let query = literal(&format!("SELECT a FROM orders WHERE {condition}"));
    let uri = db.bucket.uri(prefix);
    format!(
        "SELECT s3_export.create_feed('{mark}', '{uri}', 'local', {query}, '{mark}', 'orders.{column}', wrap_types => false{more})"
    )
}

/// Runs the feed; gives the values that it has exported, in order.
pub fn run(db: &Database, client: &mut Session, feed: &str) -> Vec<i64> {
    let row = client.query_one(&format!("SELECT manifest FROM s3_export.run_feed('{feed}')"), &[]).unwrap();
    let manifest: Option<String> = row.get(0);
    let Some(manifest) = manifest else { return Vec::new() };
    let manifest: Value = serde_json::from_slice(&db.bucket.get(db.bucket.key(&manifest))).unwrap();
    let mut values = Vec::new();
    for entry in manifest["entries"].as_array().unwrap() {
        let body = db.bucket.get(db.bucket.key(entry["url"].as_str().unwrap()));
        let documents = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        values.extend(documents.map(|line| serde_json::from_slice::<Value>(line).unwrap()["a"].as_i64().unwrap()));
    }
    values.sort_unstable();
    values
}

#[test]
fn a_run_exports_what_is_new_and_the_mark_moves_with_the_commit() {
    let db = Database::new("feed");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    client.batch_execute("INSERT INTO orders (a) VALUES (1), (2)").unwrap();
    for mark in ["xid", "sequence", "time"] {
        client.batch_execute(&create(&db, &format!("{prefix}/{mark}"), mark, ", lag => '0'")).unwrap();
        assert_eq!(run(&db, &mut client, mark), [1, 2], "{mark}");
    }
    client.batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
    client.batch_execute("BEGIN; INSERT INTO orders (a) VALUES (4); ROLLBACK").unwrap();
    for mark in ["xid", "sequence", "time"] {
        // What is rolled back with the run is new again.
        client.batch_execute(&format!("BEGIN; SELECT s3_export.run_feed('{mark}'); ROLLBACK")).unwrap();
        client.settle();
        assert_eq!(run(&db, &mut client, mark), [3], "{mark}");
        let empty = client.query_one(&format!("SELECT manifest IS NULL, run FROM s3_export.run_feed('{mark}')"), &[]).unwrap();
        assert_eq!((empty.get(0), empty.get(1)), (true, 2_i64), "{mark}");
        let manifests = db.bucket.manifests(&format!("{prefix}/{mark}"));
        let expected: Vec<String> = (1..=2).map(|run| format!("{prefix}/{mark}/_{mark}-{run:010}.manifest")).collect();
        assert_eq!(manifests, expected);
        let second: Value = serde_json::from_slice(&db.bucket.get(&manifests[1])).unwrap();
        let feed = &second["s3_export"]["feed"];
        assert_eq!((&feed["name"], &feed["run"], &feed["mark"]), (&mark.into(), &2.into(), &mark.into()));
        let first: Value = serde_json::from_slice(&db.bucket.get(&manifests[0])).unwrap();
        assert_eq!(first["s3_export"]["feed"]["to"], feed["from"]);
    }
    client.batch_execute("UPDATE orders SET a = 30 WHERE a = 3").unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [30]);
    assert_eq!(run(&db, &mut client, "sequence"), [] as [i64; 0]);
    let row = client
        .query_one("SELECT kind, run, documents, lag < interval '1 min' FROM s3_export.feeds WHERE name = 'xid'", &[])
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1), row.get::<_, i64>(2), row.get::<_, bool>(3)), ("xid", 3, 1, true));
    client.batch_execute("SELECT s3_export.rewind_feed('xid', 'start', 10)").unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [1, 2, 30]);
    assert!(db.bucket.manifests(&prefix).contains(&format!("{prefix}/xid/_xid-0000000010.manifest")));
    client.batch_execute("SELECT s3_export.drop_feed('xid')").unwrap();
    refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("42704");
}

#[test]
fn rows_that_the_runs_own_transaction_writes_later_come_with_the_next_run() {
    let db = Database::new("feed_own");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &prefix, "xid", "")).unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    client
        .batch_execute("BEGIN; SELECT s3_export.run_feed('xid'); INSERT INTO orders (a) VALUES (2); SELECT pg_sleep(0)")
        .unwrap();
    // Others go on, so that the id of the run's transaction is in the middle of the next snapshot.
    db.client().batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [2, 3]);
    assert_eq!(run(&db, &mut client, "xid"), [] as [i64; 0]);
    client.batch_execute("BEGIN; INSERT INTO orders (a) VALUES (4)").unwrap();
    refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("25001").hint("transaction of its own");
    client.batch_execute("ROLLBACK").unwrap();
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        client.batch_execute(begin).unwrap();
        refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("25001").hint("READ COMMITTED");
        client.batch_execute("ROLLBACK").unwrap();
    }
    client.batch_execute("BEGIN READ ONLY").unwrap();
    refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("25006");
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn writers_that_commit_late_are_waited_for_or_hold_up_the_bound() {
    let db = Database::new("feed_late");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    for mark in ["xid", "sequence", "time"] {
        let more = ", lag => '0', wait => '300ms'";
        client.batch_execute(&create(&db, &format!("{prefix}/{mark}"), mark, more)).unwrap();
    }
    let mut late = db.client();
    late.batch_execute("BEGIN; INSERT INTO orders (a) VALUES (1)").unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [2]);
    assert_eq!(run(&db, &mut client, "time"), [] as [i64; 0]);
    refused(client.query("SELECT s3_export.run_feed('sequence')", &[])).sqlstate("55P03").detail("the mark stays");
    // One that is waited for commits meanwhile.
    client.batch_execute(r#"SELECT s3_export.alter_feed('sequence', '{"wait": "1min"}')"#).unwrap();
    let waiting = db.client().start("SELECT s3_export.run_feed('sequence')");
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished());
    late.batch_execute("COMMIT").unwrap();
    waiting.join().1.unwrap();
    assert_eq!(run(&db, &mut client, "sequence"), [] as [i64; 0]);
    assert_eq!(run(&db, &mut client, "xid"), [1]);
    assert_eq!(run(&db, &mut client, "time"), [1, 2]);
    // A prepared transaction is one that commits late.
    late.batch_execute(&format!("BEGIN; INSERT INTO orders (a) VALUES (5); PREPARE TRANSACTION '{}'", db.name)).unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (6)").unwrap();
    client.batch_execute(r#"SELECT s3_export.alter_feed('sequence', '{"wait": "300ms"}')"#).unwrap();
    refused(client.query("SELECT s3_export.run_feed('sequence')", &[])).sqlstate("55P03");
    client.notices();
    assert_eq!(run(&db, &mut client, "time"), [] as [i64; 0]);
    assert!(messages(&client.notices()).contains("holds up feed"));
    assert_eq!(run(&db, &mut client, "xid"), [6]);
    late.batch_execute(&format!("COMMIT PREPARED '{}'", db.name)).unwrap();
    assert_eq!(run(&db, &mut client, "xid"), [5]);
    assert_eq!(run(&db, &mut client, "sequence"), [5, 6]);
    assert_eq!(run(&db, &mut client, "time"), [5, 6]);
}

#[test]
fn two_runs_at_once_wait_for_each_other() {
    let db = Database::new("feed_two");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &prefix, "xid", "")).unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    client.batch_execute("BEGIN; SELECT s3_export.run_feed('xid')").unwrap();
    let second = db.client().start("SELECT s3_export.run_feed('xid')");
    wait_for("the second run to wait", || {
        let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {} AND NOT granted", second.pid);
        (client.text(&waits) == "1").then_some(())
    });
    client.batch_execute("COMMIT").unwrap();
    second.join().1.unwrap();
    assert_eq!(db.bucket.manifests(&prefix).len(), 1);
}

#[test]
fn a_feed_runs_as_a_job_too() {
    let db = Database::new("feed_job");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    client.batch_execute(&create(&db, &prefix, "xid", ", format => 'csv'")).unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    let job = |client: &mut Session| {
        let id = client.text("SELECT s3_export.run_feed_async('xid')");
        client.query_one(&format!("SELECT status, documents, manifest FROM s3_export.wait('{id}')"), &[]).unwrap()
    };
    let row = job(&mut client);
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("COMPLETED", 1));
    assert!(row.get::<_, String>(2).ends_with("/_xid-0000000001.manifest"));
    let row = job(&mut client);
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1), row.get::<_, Option<String>>(2)), ("COMPLETED", 0, None));
    // What has failed is shown until a run succeeds.
    client.batch_execute("ALTER TABLE orders ALTER changed_in DROP DEFAULT").unwrap();
    refused(client.query("SELECT s3_export.run_feed_async('xid')", &[])).sqlstate("55000").hint("ALTER TABLE");
    client.batch_execute("ALTER TABLE orders ALTER changed_in SET DEFAULT pg_current_xact_id()").unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (0)").unwrap();
    client.batch_execute(r#"SELECT s3_export.alter_feed('xid', jsonb_build_object('query', replace(query, 'SELECT a', 'SELECT 1 / a AS a'))) FROM s3_export.feeds"#).unwrap();
    let id = client.text("SELECT s3_export.run_feed_async('xid')");
    refused(client.query(&format!("SELECT s3_export.wait('{id}')"), &[])).sqlstate("22012");
    assert_eq!(client.text("SELECT last_error_sqlstate FROM s3_export.feeds"), "22012");
}
