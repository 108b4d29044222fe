//! Jobs: when one begins, what becomes of it, and how to wait for it and stop it.

use std::time::Duration;

use super::fixture::job::{ENDLESS, under_way};
use super::fixture::{
    Action, Database, Gateway, Integration, cancel_job, ended, enqueued, literal, messages, refused, status, threads, wait_for,
};

#[test]
fn a_job_begins_with_the_commit_and_ends_with_its_manifest() {
    let db = Database::new("job_commit");
    let (mut client, mut witness, prefix) = (db.client(), db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    let id = enqueued(&db, &mut client, &prefix, "SELECT generate_series(1, 25) AS i", "output_chunk_size => 10");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(status(&mut client, &id), "QUEUED");
    assert_eq!(status(&mut witness, &id), "", "nobody sees it before the commit");
    client.batch_execute("COMMIT").unwrap();

    let row = ended(&mut witness, &id).unwrap();
    assert_eq!(row.get::<_, String>("status"), "COMPLETED");
    assert_eq!((row.get::<_, i64>("documents"), row.get::<_, i64>("files")), (25, 3));
    assert_eq!(row.get::<_, String>("export_id"), id);
    assert_eq!(row.get::<_, String>("role"), "postgres");
    assert_eq!(row.get::<_, String>("uri"), db.bucket.uri(&prefix));
    assert_eq!(row.get::<_, String>("integration"), "local");
    assert_eq!(row.get::<_, String>("query"), "SELECT generate_series(1, 25) AS i");
    assert!(row.get::<_, String>("options").contains(r#""output_chunk_size": 10"#));
    assert!(row.get::<_, bool>("in_order"));
    assert_eq!(row.get::<_, Option<i32>>("pid"), None);
    let manifests = db.bucket.manifests(&prefix);
    assert_eq!(manifests.len(), 1);
    assert_eq!(row.get::<_, String>("manifest"), db.bucket.uri(&manifests[0]));
    assert_eq!(db.bucket.files(&prefix).len(), 3);
    assert!(db.bucket.files(&prefix).iter().all(|file| file.key.contains(&id)));
}

/// A string of a jsonb, as which an error is written down, has at most 256 MB.
#[test]
fn a_job_keeps_the_beginning_of_an_error_that_is_too_long() {
    let db = Database::new("job_long_error");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION USING ERRCODE = 'P0042', MESSAGE = 'é' || repeat('x', 270000000), DETAIL = repeat('é', 40000);
             END $$",
        )
        .unwrap();
    let id = enqueued(&db, &mut client, &db.prefix(), "SELECT boom() AS a", "");
    refused(ended(&mut client, &id)).sqlstate("P0042").message("éxxx").detail("éé");
    let kept = "SELECT status || octet_length(error_message) || right(error_message, 2) || octet_length(error_detail)";
    assert_eq!(client.text(&format!("{kept} FROM s3_export.exports WHERE export_id = '{id}'")), "ERROR65539x…65539");
}

#[test]
fn what_is_rolled_back_never_begins() {
    let db = Database::new("job_rollback");
    let (mut client, prefix, kept) = (db.client(), db.prefix(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    let rolled_back = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    client.batch_execute("ROLLBACK; BEGIN; SAVEPOINT a").unwrap();
    let in_savepoint = enqueued(&db, &mut client, &prefix, "SELECT 2 AS a", "");
    client.batch_execute("ROLLBACK TO a; SAVEPOINT b").unwrap();
    let released = enqueued(&db, &mut client, &kept, "SELECT 3 AS a", "");
    client.batch_execute("RELEASE b; COMMIT").unwrap();
    ended(&mut client, &released).unwrap();
    for id in [rolled_back, in_savepoint] {
        refused(ended(&mut client, &id)).sqlstate("42704").message(&id);
    }
    db.bucket.nothing_left(&prefix);
    assert_eq!(db.bucket.manifests(&kept).len(), 1);
}

#[test]
fn a_commit_that_fails_starts_nothing() {
    let db = Database::new("job_failed_commit");
    let (mut client, prefix) = (db.client(), db.prefix());
    let deferred = "CREATE TABLE t (a int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1)";
    client.batch_execute(&format!("{deferred}; BEGIN; INSERT INTO t VALUES (1)")).unwrap();
    let id = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    refused(client.batch_execute("COMMIT")).sqlstate("23505");
    refused(ended(&mut client, &id)).sqlstate("42704");
    db.bucket.nothing_left(&prefix);
}

/// The check for serializability comes after the workers were asked for.
#[test]
fn a_commit_that_fails_after_its_workers_were_started_runs_nothing() {
    let db = Database::new("job_write_skew");
    let (mut client, mut other, prefix) = (db.client(), db.client(), db.prefix());
    client.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2)").unwrap();
    for session in [&mut client, &mut other] {
        session.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(a) FROM t").unwrap();
    }
    client.batch_execute("INSERT INTO t VALUES (10)").unwrap();
    other.batch_execute("INSERT INTO t VALUES (20)").unwrap();
    let id = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    other.batch_execute("COMMIT").unwrap();
    refused(client.batch_execute("COMMIT")).sqlstate("40001");
    refused(ended(&mut client, &id)).sqlstate("42704");
    let kept = enqueued(&db, &mut client, &prefix, "SELECT 2 AS a", "");
    ended(&mut client, &kept).unwrap();
    assert_eq!(db.bucket.manifests(&prefix).len(), 1);
}

#[test]
fn prepare_transaction_is_refused_after_a_job() {
    let db = Database::new("job_prepare");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    let id = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    refused(client.batch_execute("PREPARE TRANSACTION 'x'")).sqlstate("0A000").message("enqueued").detail("Workers");
    assert_eq!(status(&mut client, &id), "");
}

#[test]
fn what_an_export_would_be_refused_for_is_refused_at_once() {
    let db = Database::new("job_refused");
    let mut client = db.client();
    let prefix = db.prefix();
    for (query, arguments, sqlstate) in [
        ("DELETE FROM t", "", "0A000"),
        ("SELEC 1", "", "42601"),
        ("SELECT 1", "format => 'xml'", "22023"),
        ("SELECT 1", "options => '{\"timeout\": \"soon\"}'", "22023"),
        ("SELECT 1", "output_chunk_size => 0", "22023"),
    ] {
        let call = db.call_async(&prefix, query, arguments);
        refused(client.query(&format!("SELECT {call}"), &[])).sqlstate(sqlstate);
    }
    let call = db.call_async(&prefix, "SELECT 1", "");
    refused(client.query(&format!("SELECT {}", call.replace("'local'", "'none'")), &[])).sqlstate("42704");
    refused(client.query(&format!("SELECT {}", call.replace("'local'", "NULL")), &[])).sqlstate("22004");
    refused(client.batch_execute(&format!("BEGIN READ ONLY; SELECT {call}"))).sqlstate("25006").message("s3_export_async()");
    client.batch_execute("ROLLBACK").unwrap();
    let within = db.call(&prefix, &format!("SELECT {call}"), "");
    refused(client.query(&format!("SELECT {within}"), &[])).sqlstate("0A000").message("within a query that is being exported");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.exports"), "0");
    db.bucket.nothing_left(&prefix);
}

#[test]
fn wait_raises_the_error_of_the_export_whole() {
    let db = Database::new("job_error");
    let (mut client, prefix) = (db.client(), db.prefix());
    client
        .batch_execute(
            "CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'no such luck: ü' USING ERRCODE = 'ZX9AB', DETAIL = 'On the way.', HINT = 'Try again.';
             END $$",
        )
        .unwrap();
    let id = enqueued(&db, &mut client, &prefix, "SELECT fails() AS f", "");
    let refusal = refused(ended(&mut client, &id));
    refusal.sqlstate("ZX9AB").message("no such luck: ü").detail("On the way.").hint("Try again.");
    assert!(refusal.0.where_().unwrap_or_default().contains("fails()"), "{:?}", refusal.0);
    let row = client
        .query_one("SELECT status, error_sqlstate, error_message, error_detail, error_hint FROM s3_export.exports", &[])
        .unwrap();
    let texts: Vec<String> = (0..5).map(|column| row.get(column)).collect();
    assert_eq!(texts, ["ERROR", "ZX9AB", "no such luck: ü", "On the way.", "Try again."]);
    db.bucket.nothing_left(&prefix);

    let id = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a, 2 AS a", "");
    refused(ended(&mut client, &id)).sqlstate("42701").message("a");
    refused(client.query(&format!("SELECT s3_export.wait('{id}')"), &[])).sqlstate("42701");
}

#[test]
fn wait_sees_the_end_under_repeatable_read_and_not_a_job_of_its_own_transaction() {
    let db = Database::new("job_wait");
    let (mut client, mut other, prefix) = (db.client(), db.client(), db.prefix());
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    let own = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    refused(client.query(&format!("SELECT s3_export.wait('{own}')"), &[]))
        .sqlstate("55000")
        .hint("Commit the transaction first");
    client.batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    let slow = "SELECT pg_sleep(0.5)::text AS a";
    let id = enqueued(&db, &mut other, &prefix, slow, "");
    assert_eq!(ended(&mut client, &id).unwrap().get::<_, String>("status"), "COMPLETED");
    client.batch_execute("COMMIT").unwrap();
    refused(client.query("SELECT s3_export.wait(NULL)", &[])).sqlstate("22004");
}

#[test]
fn wait_gives_up_after_its_timeout_and_answers_a_cancel() {
    let db = Database::new("job_wait_timeout");
    let (mut client, prefix) = (db.client(), db.prefix());
    let (id, _) = under_way(&db, &mut client, &prefix);
    refused(client.query(&format!("SELECT s3_export.wait('{id}', '200ms')"), &[]))
        .sqlstate("57014")
        .message("has not ended in time")
        .detail("RUNNING");
    let waiting = db.client().start(&format!("SELECT s3_export.wait('{id}')"));
    wait_for("it to wait", || client.sees_waiting(waiting.pid).then_some(()));
    assert_eq!(client.text(&format!("SELECT pg_cancel_backend({})", waiting.pid)), "t");
    refused(waiting.join_within(Duration::from_secs(20)).1).sqlstate("57014").message("user request");
    assert_eq!(status(&mut client, &id), "RUNNING", "only the waiting was cancelled");
    assert!(cancel_job(&mut client, &id));
}

#[test]
fn prune_forgets_what_has_ended_and_nothing_else() {
    let db = Database::new("job_prune");
    let (mut client, prefix) = (db.client(), db.prefix());
    let complete = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    ended(&mut client, &complete).unwrap();
    let failed = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 / 0 AS a", "");
    refused(ended(&mut client, &failed)).sqlstate("22012");
    let (running, _) = under_way(&db, &mut client, &db.prefix());
    assert_eq!(client.text("SELECT s3_export.prune()"), "0");
    assert_eq!(client.text("SELECT s3_export.prune(older_than => '0')"), "2");
    assert_eq!(status(&mut client, &failed), "");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.jobs"), "1");
    assert_eq!(status(&mut client, &complete), "COMPLETED", "the history remembers");
    assert_eq!(status(&mut client, &running), "RUNNING");
    assert_eq!(db.bucket.manifests(&prefix).len(), 1, "nothing in S3 is touched");
    refused(client.query("SELECT s3_export.prune('-1 day')", &[])).sqlstate("22023");
    assert_eq!(client.text("SELECT s3_export.prune('178000000 years')"), "0", "longer ago than any time there is");
    refused(client.query("SELECT s3_export.prune(NULL)", &[])).sqlstate("22004");
    cancel_job(&mut client, &running);
}

#[test]
fn the_time_limit_ends_an_export_wherever_it_is() {
    let db = Database::new("time_limit");
    let mut client = db.client();
    fn exceeded<T: std::fmt::Debug>(result: Result<T, postgres::Error>, limit: &str) {
        refused(result).sqlstate("57014").message("longer than its time limit").detail(limit).hint("s3_export.timeout");
    }
    // In the executor, which hands over no row.
    let prefix = db.prefix();
    let long = "SELECT count(*) FROM generate_series(1, 10000000000)";
    exceeded(db.export_to(&mut client, &prefix, long, r#"options => '{"timeout": "300ms"}'"#), "300ms");
    client.batch_execute("SET s3_export.timeout = '1s'").unwrap();
    exceeded(db.export_to(&mut client, &prefix, ENDLESS, "output_chunk_size => 10"), "1s");
    // Nothing of it reaches what comes after.
    client.batch_execute("SELECT pg_sleep(0.2)").unwrap();
    let more = r#"options => '{"timeout": 0}'"#;
    db.export_to(&mut client, &db.prefix(), "SELECT pg_sleep(1.5)::text AS a", more).unwrap();
    // While S3 hangs.
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Hang);
    db.create(&Integration { name: "hung", endpoint: gateway.endpoint(), ..Integration::local() });
    client.batch_execute("SET s3_export.cleanup_timeout = '100ms'").unwrap();
    exceeded(db.export_by(&mut client, "hung", "SELECT 1 AS a"), "1s");
    assert_eq!(threads(client.pid), 1);
    db.bucket.nothing_left(&prefix);

    let id = enqueued(&db, &mut client, &prefix, ENDLESS, r#"options => '{"timeout": "0.5 s"}'"#);
    exceeded(ended(&mut client, &id), "500ms");
    assert_eq!(status(&mut client, &id), "ERROR", "nobody has cancelled it");
    client.batch_execute("SET s3_export.timeout = '400ms'").unwrap();
    let id = enqueued(&db, &mut client, &prefix, ENDLESS, "");
    exceeded(ended(&mut client, &id), "400ms");
    db.bucket.nothing_left(&prefix);
}

#[test]
fn the_log_has_a_line_for_each_export_that_was_committed() {
    let db = Database::new("logged");
    let log = db.environment().run_dir.join("postgres.log");
    let mut client = db.client();
    let (committed, rolled_back) = (db.prefix(), db.prefix());
    client.batch_execute("SET s3_export.log_exports = on").unwrap();
    let exported = db.export_to(&mut client, &committed, "SELECT generate_series(1, 7) AS a", "").unwrap();
    let call = db.call(&rolled_back, "SELECT 1 AS a", "");
    client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
    let job = enqueued(&db, &mut client, &committed, "SELECT generate_series(1, 9) AS a", "");
    ended(&mut client, &job).unwrap();
    let log = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("LOG:  export ") && line.contains(&db.name)).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, id, documents) in [(lines[0], exported.export_id.to_string(), 7), (lines[1], job, 9)] {
        let expected = format!("export {id}: {documents} documents, 1 files");
        assert!(line.contains(&expected) && line.contains(&db.bucket.uri(&committed)), "{line}");
    }
    assert!(messages(&client.notices()).is_empty(), "the client is not told");
}

#[test]
fn a_job_may_end_a_session_that_is_read_only_or_serializable_by_default() {
    let db = Database::new("job_defaults");
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let (mut client, prefix) = (db.client(), db.prefix());
        client
            .batch_execute(&format!(
                "SET default_transaction_isolation = '{isolation}'; SET default_transaction_read_only = on"
            ))
            .unwrap();
        client.batch_execute("BEGIN READ WRITE").unwrap();
        let query = "SELECT current_setting('transaction_isolation') AS i, current_setting('transaction_read_only') AS r";
        let id = enqueued(&db, &mut client, &prefix, query, "");
        client.batch_execute("COMMIT").unwrap();
        ended(&mut client, &id).unwrap();
        let documents = db.bucket.documents(&prefix);
        assert_eq!(documents, [format!(r#"{{"i":"{isolation}","r":"on"}}"#)], "{}", literal(isolation));
    }
}
