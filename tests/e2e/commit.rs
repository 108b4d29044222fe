//! The commit itself: what fails in it, before or after the manifest, leaves nothing.

use super::fixture::{Action, Cluster, Database, Gateway, Integration, Proxy, Session, refused, threads, wait_for};

#[test]
fn a_deferred_constraint_that_fails_at_commit_leaves_nothing() {
    let db = Database::new("deferred");
    let (mut client, prefix) = (db.client(), db.prefix());
    client
        .batch_execute(
            "CREATE TABLE t (a int PRIMARY KEY, b int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
             BEGIN; INSERT INTO t VALUES (1, 2)",
        )
        .unwrap();
    db.export_to(&mut client, &prefix, "TABLE t", "").unwrap();
    assert_eq!(db.bucket.files(&prefix).len(), 1);
    refused(client.batch_execute("COMMIT")).sqlstate("23503");
    client.settle();
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
}

#[test]
fn an_export_from_a_deferred_trigger_commits_with_the_rest() {
    let db = Database::new("deferred_trigger");
    let (mut client, prefix) = (db.client(), db.prefix());
    client
        .batch_execute(&format!(
            "CREATE TABLE t (a int);
             CREATE FUNCTION exports() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {}; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER x AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION exports();
             INSERT INTO t VALUES (1)",
            db.call(&prefix, "TABLE t", "")
        ))
        .unwrap();
    assert_eq!(db.bucket.documents(&prefix), [r#"{"a":1}"#]);
    assert_eq!(db.bucket.manifests(&prefix).len(), 1);
}

/// A transaction that Postgres refuses to commit is refused before a reader can see its manifest.
#[test]
fn a_serialization_failure_at_commit_comes_before_the_manifest() {
    let db = Database::new("serializable");
    let (mut one, mut other, prefix) = (db.client(), db.client(), db.prefix());
    let gateway = recorded(&db);
    one.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (0)").unwrap();
    for client in [&mut one, &mut other] {
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(a) FROM t").unwrap();
    }
    one.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    other.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    one.batch_execute(&format!("SELECT {}", db.call(&prefix, "SELECT 1 AS a", "").replace("'local'", "'recorded'"))).unwrap();
    other.batch_execute("COMMIT").unwrap();
    refused(one.batch_execute("COMMIT")).sqlstate("40001");
    one.settle();
    db.bucket.nothing_left(&prefix);
    assert!(!gateway.requests().iter().any(|request| request.step() == "manifest"));
    assert_eq!(threads(one.pid), 1);
}

/// An integration `recorded`, whose requests the gateway knows.
fn recorded(db: &Database) -> Gateway {
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    db.create(&Integration { name: "recorded", endpoint: gateway.endpoint(), ..Integration::local() });
    gateway
}

/// Once the manifest is there, it is the other transaction of a conflict that fails, until this one has ended.
#[test]
fn a_serializable_transaction_that_writes_its_manifest_commits() {
    let db = Database::new("serializable_wins");
    let (mut one, mut other, prefix) = (db.client(), db.client(), db.prefix());
    one.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (0)").unwrap();
    for client in [&mut one, &mut other] {
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(a) FROM t").unwrap();
    }
    one.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    db.export_to(&mut one, &prefix, "SELECT 1 AS a", "").unwrap();
    one.batch_execute("COMMIT").unwrap();
    refused(other.batch_execute("INSERT INTO t VALUES (2); COMMIT")).sqlstate("40001");
    assert_eq!(db.bucket.manifests(&prefix).len(), 1);
}

#[test]
fn a_commit_that_finds_no_room_for_a_worker_shows_no_manifest() {
    let db = Database::new("no_room_no_manifest");
    let gateway = recorded(&db);
    let cluster = Cluster::copy_with("-c max_worker_processes=0");
    let (mut client, prefix) = (cluster.session(&db.name, "postgres"), db.prefix());
    let call = db.call(&prefix, "SELECT 1 AS a", "").replace("'local'", "'recorded'");
    let job = db.call_async(&prefix, "SELECT 1 AS a", "");
    client.batch_execute(&format!("BEGIN; SELECT {call}; SELECT {job}")).unwrap();
    refused(client.batch_execute("COMMIT")).sqlstate("53400");
    client.settle();
    assert!(!gateway.requests().iter().any(|request| request.step() == "manifest"));
    db.bucket.nothing_left(&prefix);
}

#[test]
fn a_transaction_with_an_export_cannot_be_prepared() {
    let db = Database::new("prepare");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    refused(client.batch_execute("PREPARE TRANSACTION 'x'")).sqlstate("0A000").message("exported to S3").detail("manifests");
    client.settle();
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
    // An export that was rolled back is none, and its thread does not outlive the transaction either.
    client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("ROLLBACK TO s").unwrap();
    let name = db.prefix();
    client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
    assert_eq!(threads(client.pid), 1);
    client.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).unwrap();
}

#[test]
fn a_dropped_connection_rolls_back() {
    let db = Database::new("dropped");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    drop(client);
    wait_for("the backend's clean-up", || db.bucket.list(&prefix).is_empty().then_some(()));
    db.bucket.nothing_left(&prefix);
}

/// A transaction whose files are stored, and whose manifest will not be: the network hangs.
fn hung_commit(db: &Database, settings: &str) -> (Session, Proxy, String) {
    let proxy = Proxy::to(&db.environment().endpoint);
    db.create(&Integration { name: "proxied", endpoint: proxy.endpoint(), ..Integration::local() });
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute(settings).unwrap();
    // With a transaction id, for others to see when the transaction is over.
    client.batch_execute("BEGIN; SELECT txid_current()").unwrap();
    let call = db.call(&prefix, "SELECT generate_series(1, 5) AS i", "output_chunk_size => 1").replace("'local'", "'proxied'");
    client.batch_execute(&format!("SELECT {call}")).unwrap();
    assert_eq!(db.bucket.files(&prefix).len(), 5);
    proxy.hang();
    (client, proxy, prefix)
}

/// The session's commit hangs, until `end` or a deadline ends it; gives what it came to when the network is back for the
/// clean-up.
fn end_hung_commit(db: &Database, client: Session, proxy: &Proxy, end: &str) -> (Session, Result<(), postgres::Error>) {
    let committing = client.start("COMMIT");
    let mut witness = db.client();
    wait_for("the commit to wait", || witness.sees_waiting(committing.pid).then_some(()));
    witness.batch_execute(&end.replace("PID", &committing.pid.to_string())).unwrap();
    let over = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND backend_xid IS NULL", committing.pid);
    wait_for("the clean-up to begin", || (witness.text(&over) == "1").then_some(()));
    proxy.heal();
    committing.join()
}

#[test]
fn a_commit_that_cannot_write_the_manifest_in_time_rolls_back() {
    let db = Database::new("commit_timeout");
    let settings = "SET s3_export.commit_timeout = '2s'; SET s3_export.cleanup_timeout = '60s'";
    let (client, proxy, prefix) = hung_commit(&db, settings);
    let (mut client, outcome) = end_hung_commit(&db, client, &proxy, "");
    refused(outcome).sqlstate("57014").message("could not write the manifests in time").detail("s3_export.commit_timeout");
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
    db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
}

/// The store asks for a longer pause than the commit has time for; or one manifest is refused while another waits.
#[test]
fn a_commit_without_a_manifest_says_what_the_store_said() {
    let db = Database::new("commit_answers");
    let error = |status: &str, code: &str| {
        Action::Answer(format!("HTTP/1.1 {status}"), format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>"))
    };
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| match request.step() {
        "manifest" if request.head.contains("refused") => error("403 Forbidden", "AccessDenied"),
        "manifest" => error("503 Slow Down", "SlowDown"),
        _ => Action::Forward,
    });
    db.create(&Integration { name: "busy", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute("SET s3_export.commit_timeout = '2s'").unwrap();
    let call = |client: &mut Session, folder: &str| {
        let call = db.call(&format!("{}{folder}", db.prefix()), "SELECT 1 AS a", "").replace("'local'", "'busy'");
        client.batch_execute(&format!("SELECT {call}"))
    };
    refused(call(&mut client, "slow")).sqlstate("57014").message("could not write the manifests in time").detail("SlowDown");
    client.batch_execute("SET s3_export.commit_timeout = '60s'; BEGIN").unwrap();
    for folder in ["slow", "refused", "slow"] {
        call(&mut client, folder).unwrap();
    }
    refused(client.batch_execute("COMMIT")).sqlstate("42501").detail("AccessDenied");
}

#[test]
fn a_commit_that_hangs_can_be_cancelled() {
    let db = Database::new("cancel_commit");
    let (client, proxy, prefix) = hung_commit(&db, "SET s3_export.cleanup_timeout = '60s'");
    let (client, outcome) = end_hung_commit(&db, client, &proxy, "SELECT pg_cancel_backend(PID)");
    refused(outcome).sqlstate("57014").message("canceling statement due to user request");
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn what_a_rollback_cannot_delete_is_named_in_a_warning() {
    let db = Database::new("remains");
    let (mut client, proxy, prefix) = hung_commit(&db, "SET s3_export.cleanup_timeout = '100ms'");
    client.batch_execute("ROLLBACK").unwrap();
    let notices = client.notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!((notices[0].severity(), notices[0].code().code()), ("WARNING", "58030"));
    let detail = notices[0].detail().unwrap();
    assert!(detail.contains(&db.bucket.uri(&prefix)) && detail.contains("and 2 more"), "{detail}");
    assert_eq!(db.bucket.files(&prefix).len(), 5);
    assert_eq!(threads(client.pid), 1);
    proxy.heal();
}
