//! Retries of jobs (option `retries`): which failures are tried again, what a failed attempt leaves, and who starts the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::feeds::{create, table};
use super::fixture::{
    Action, Cluster, Database, Gateway, Integration, Session, cancel_job, ended, enqueued, literal, refused, status, threads,
    wait_for, wait_for_status,
};

fn retries(count: u32) -> String {
    format!(r#"options => '{{"retries": {count}}}'"#)
}

/// A database in which requests are not tried again, and jobs are after `delay`.
fn database(name: &str, delay: &str) -> Database {
    let db = Database::new(name);
    db.client()
        .batch_execute(&format!(
            "ALTER DATABASE {0} SET s3_export.request_attempts = 1; ALTER DATABASE {0} SET s3_export.retry_delay = '{delay}'",
            db.name
        ))
        .unwrap();
    db
}

/// An integration `failing`, whose store answers 500 to so many requests of that step; gives what is left of them.
fn failing(db: &Database, step: &'static str, times: i32) -> Arc<AtomicI32> {
    let left = Arc::new(AtomicI32::new(times));
    let count = Arc::clone(&left);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        if request.step() == step && count.fetch_sub(1, Ordering::SeqCst) > 0 {
            let body = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>scripted</Message></Error>";
            return Action::Answer("HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/xml".into(), body.into());
        }
        Action::Forward
    });
    db.create(&Integration { name: "failing", endpoint: gateway.endpoint(), ..Integration::local() });
    left
}

/// Enqueues an export by the integration `failing`.
fn enqueued_failing(db: &Database, client: &mut Session, prefix: &str, query: &str, arguments: &str) -> String {
    let call = db.call_async(prefix, query, arguments).replace("'local'", "'failing'");
    client.text(&format!("SELECT {call}"))
}

fn attempts(client: &mut Session, id: &str) -> String {
    client.text(&format!("SELECT attempts FROM s3_export.exports WHERE export_id = '{id}'"))
}

/// Each object below `prefix` is the last attempt's.
#[track_caller]
fn is_one_export(db: &Database, client: &mut Session, id: &str, prefix: &str) {
    let attempt = client.text(&format!("SELECT attempt_id FROM s3_export.exports WHERE export_id = '{id}'"));
    assert_ne!(attempt, id, "each attempt has an id of its own");
    let keys: Vec<String> = db.bucket.list(prefix).into_iter().map(|object| object.key).collect();
    assert!(keys.iter().all(|key| key.contains(&attempt)), "{attempt}: {keys:?}");
    assert_eq!(db.bucket.manifests(prefix).len(), 1);
}

#[test]
fn a_store_that_fails_for_a_while_is_tried_again_wherever_the_error_comes_up() {
    for (name, step, query) in [
        // In the wait for the files, in the middle of the rows, and in the commit.
        ("retry_put", "put", "SELECT 1 AS a"),
        ("retry_rows", "put", "SELECT i, repeat('x', 100) AS t FROM generate_series(1, 50000) i"),
        ("retry_commit", "manifest", "SELECT 1 AS a"),
    ] {
        let db = database(name, "20ms");
        // What is on its way when the export fails reaches the store through the gateway however late.
        db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.upload_concurrency = 1", db.name)).unwrap();
        let (mut client, prefix) = (db.client(), db.prefix());
        failing(&db, step, 2);
        let id = enqueued_failing(&db, &mut client, &prefix, query, &retries(3));
        let row = ended(&mut client, &id).unwrap();
        assert_eq!(row.get::<_, String>("status"), "COMPLETED", "{name}");
        assert_eq!(row.get::<_, String>("export_id"), id);
        let made: i32 = attempts(&mut client, &id).parse().unwrap();
        assert!((2..=3).contains(&made), "{name}: {made}");
        is_one_export(&db, &mut client, &id, &prefix);
        let rest = "SELECT (error_sqlstate, error_message, next_attempt_at) IS NULL FROM s3_export.exports";
        assert_eq!(client.text(rest), "t", "{name}");
    }
}

#[test]
fn the_last_attempt_gives_the_error_and_nothing_is_left() {
    let db = database("retry_in_vain", "20ms");
    let (mut client, prefix) = (db.client(), db.prefix());
    failing(&db, "put", i32::MAX);
    let id = enqueued_failing(&db, &mut client, &prefix, "SELECT 1 AS a", &retries(2));
    refused(ended(&mut client, &id)).sqlstate("58030").detail("InternalError");
    assert_eq!((status(&mut client, &id), attempts(&mut client, &id)), ("ERROR".to_owned(), "3".to_owned()));
    db.bucket.nothing_left(&prefix);
    // Without the option, one attempt.
    let id = enqueued_failing(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    refused(ended(&mut client, &id)).sqlstate("58030");
    assert_eq!(attempts(&mut client, &id), "1");
    db.bucket.nothing_left(&prefix);
}

/// A query may raise what a store's failure has as its SQLSTATE.
#[test]
fn an_error_of_the_query_or_a_refusal_is_not_tried_again() {
    let db = database("retry_not", "20ms");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE FUNCTION fails(state text) RETURNS int LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'could not upload a file: S3 reported an error' USING ERRCODE = state; END $$",
        )
        .unwrap();
    for (query, sqlstate) in
        [("SELECT 1 / 0 AS a", "22012"), ("SELECT fails('58030') AS a", "58030"), ("SELECT fails('08001') AS a", "08001")]
    {
        let id = enqueued(&db, &mut client, &db.prefix(), query, &retries(5));
        refused(ended(&mut client, &id)).sqlstate(sqlstate);
        assert_eq!(attempts(&mut client, &id), "1", "{sqlstate}");
    }
    let gateway = Gateway::to(&Integration::local().endpoint, |_| {
        let body = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>scripted</Message></Error>";
        Action::Answer("HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml".into(), body.into())
    });
    db.create(&Integration { name: "failing", endpoint: gateway.endpoint(), ..Integration::local() });
    let id = enqueued_failing(&db, &mut client, &db.prefix(), "SELECT 1 AS a", &retries(5));
    refused(ended(&mut client, &id)).sqlstate("42501");
    assert_eq!(attempts(&mut client, &id), "1");
}

#[test]
fn a_job_between_attempts_is_queued_and_can_be_cancelled() {
    let db = database("retry_cancel", "10min");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let (mut client, prefix) = (db.client(), db.prefix());
    failing(&db, "put", i32::MAX);
    let id = enqueued_failing(&db, &mut client, &prefix, "SELECT 1 AS a", &retries(20));
    let waits = "SELECT status = 'QUEUED' AND attempts = 1 AND error_sqlstate = '58030' AND pid IS NULL
                        AND next_attempt_at BETWEEN now() + '9 min' AND now() + '12 min'
                 FROM s3_export.exports";
    wait_for("the first attempt to fail", || (client.text(waits) == "t").then_some(()));
    db.bucket.nothing_left(&prefix);
    // Who waits for the time takes no place among the workers.
    let timer =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%waits for the next attempt%' AND pid <> pg_backend_pid()
                 AND datname = current_database()";
    wait_for("the timer", || (client.text(timer) == "1").then_some(()));
    let other = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 AS a", "");
    ended(&mut client, &other).unwrap();
    refused(client.query(&format!("SELECT s3_export.wait('{id}', '300 ms')"), &[])).sqlstate("57014").detail("QUEUED");
    assert!(cancel_job(&mut client, &id));
    refused(ended(&mut client, &id)).sqlstate("57014").message("before its next attempt");
    assert_eq!(status(&mut client, &id), "CANCELLED");
    assert!(!cancel_job(&mut client, &id));
    wait_for("the timer to end", || (client.text(timer) == "0").then_some(()));
}

/// A cancel that comes while the worker fails by itself is a cancel.
#[test]
fn a_job_that_is_cancelled_is_not_tried_again() {
    let db = database("retry_cancelled", "20ms");
    let (mut client, prefix) = (db.client(), db.prefix());
    let id = enqueued(&db, &mut client, &prefix, "SELECT pg_sleep(600)::text AS a", &retries(5));
    wait_for_status(&mut client, &id, "RUNNING");
    assert!(cancel_job(&mut client, &id));
    refused(ended(&mut client, &id)).sqlstate("57014");
    assert_eq!((status(&mut client, &id), attempts(&mut client, &id)), ("CANCELLED".to_owned(), "1".to_owned()));
}

/// A query that takes for ever until the flag is taken down.
const GATED: &str = "SELECT pg_sleep(CASE WHEN (SELECT up FROM flag) THEN 600 ELSE 0 END)::text AS s";

#[test]
fn a_worker_that_is_terminated_is_followed_by_another() {
    let db = database("retry_terminated", "20ms");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("CREATE TABLE flag AS SELECT true AS up").unwrap();
    let id = enqueued(&db, &mut client, &prefix, GATED, &retries(1));
    wait_for_status(&mut client, &id, "RUNNING");
    let pid: i32 = client.query_one("SELECT pid FROM s3_export.exports", &[]).unwrap().get(0);
    client.batch_execute(&format!("UPDATE flag SET up = false; SELECT pg_terminate_backend({pid})")).unwrap();
    wait_for("the worker to be gone", || (threads(pid) == 0).then_some(()));
    ended(&mut client, &id).unwrap();
    assert_eq!(attempts(&mut client, &id), "2");
    is_one_export(&db, &mut client, &id, &prefix);
}

/// A job that runs, with retries, and one that is queued behind it.
fn running_and_queued(db: &Database, client: &mut Session, prefix: &str) -> (String, String) {
    let running = enqueued(db, client, prefix, GATED, &retries(2));
    wait_for_status(client, &running, "RUNNING");
    let queued = enqueued(db, client, &db.prefix(), "SELECT 1 AS a", "");
    (running, queued)
}

fn one_worker(db: &Database) {
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    db.client().batch_execute("CREATE TABLE flag AS SELECT true AS up").unwrap();
}

#[test]
fn after_a_crash_a_call_starts_the_next_attempt() {
    let db = database("retry_crash", "20ms");
    one_worker(&db);
    let cluster = Cluster::copy();
    let (mut client, prefix) = (cluster.session(&db.name, "postgres"), db.prefix());
    client.batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 2", db.name)).unwrap();
    let mut client = cluster.session(&db.name, "postgres");
    let unwanted = enqueued(&db, &mut client, &db.prefix(), GATED, &retries(2));
    wait_for_status(&mut client, &unwanted, "RUNNING");
    let (running, queued) = running_and_queued(&db, &mut client, &prefix);
    client.batch_execute("UPDATE flag SET up = false").unwrap();
    drop(client);
    cluster.restart("immediate");
    let mut client = cluster.session(&db.name, "postgres");
    // Nothing of ours was called yet: the view tells what the next call will find.
    assert_eq!(status(&mut client, &running), "QUEUED");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.jobs WHERE status = 'RUNNING'"), "2");
    client.batch_execute("BEGIN").unwrap();
    assert!(cancel_job(&mut client, &unwanted));
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(status(&mut client, &unwanted), "CANCELLED");
    // The wait is a transaction, and others have to see the next attempt before it ends.
    ended(&mut client, &running).unwrap();
    assert_eq!(attempts(&mut client, &running), "2");
    ended(&mut client, &queued).unwrap();
}

#[test]
fn with_the_library_preloaded_the_queue_goes_on_after_a_restart_without_a_call() {
    let db = database("retry_preload", "20ms");
    one_worker(&db);
    let cluster = Cluster::copy_with("-c shared_preload_libraries=s3_export -c max_worker_processes=12");
    for mode in ["fast", "immediate"] {
        let (mut client, prefix) = (cluster.session(&db.name, "postgres"), db.prefix());
        client.batch_execute("UPDATE flag SET up = true").unwrap();
        let (running, queued) = running_and_queued(&db, &mut client, &prefix);
        client.batch_execute("UPDATE flag SET up = false").unwrap();
        drop(client);
        cluster.restart(mode);
        let mut client = cluster.session(&db.name, "postgres");
        for id in [&running, &queued] {
            let done = format!("SELECT status FROM s3_export.jobs WHERE export_id = '{id}'");
            wait_for("the job to complete by itself", || (client.text(&done) == "COMPLETED").then_some(()));
        }
        assert_eq!(attempts(&mut client, &running), "2", "{mode}");
        let launcher = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 's3_export launcher'";
        assert_eq!(client.text(launcher), "1", "{mode}");
    }
    // A backend that dies takes all others with it, and the launcher comes back.
    let (mut client, prefix) = (cluster.session(&db.name, "postgres"), db.prefix());
    client.batch_execute("UPDATE flag SET up = true").unwrap();
    let (running, _) = running_and_queued(&db, &mut client, &prefix);
    client.batch_execute("UPDATE flag SET up = false").unwrap();
    let pid: i32 = client.query_one("SELECT pid FROM s3_export.exports WHERE status = 'RUNNING'", &[]).unwrap().get(0);
    assert!(std::process::Command::new("kill").arg("-9").arg(pid.to_string()).status().unwrap().success());
    let done = format!("SELECT status FROM s3_export.jobs WHERE export_id = '{running}'");
    wait_for("the job to complete after the crash", || {
        let mut client = cluster.try_session(&db.name, "postgres")?;
        let row = client.query_one(&done, &[]).ok()?;
        (row.get::<_, String>(0) == "COMPLETED").then_some(())
    });
}

#[test]
fn with_the_library_preloaded_the_queue_goes_on_after_a_promotion() {
    let db = database("retry_promoted", "20ms");
    one_worker(&db);
    let (mut client, prefix) = (db.client(), db.prefix());
    let (running, queued) = running_and_queued(&db, &mut client, &prefix);
    let standby = Cluster::standby_options("-c shared_preload_libraries=s3_export");
    let mut there = standby.session(&db.name, "postgres");
    assert_eq!(status(&mut there, &queued), "QUEUED");
    assert!(cancel_job(&mut client, &queued) && cancel_job(&mut client, &running));
    refused(ended(&mut client, &running)).sqlstate("57014");
    let mut apart = db.client();
    let (again, behind) = running_and_queued(&db, &mut apart, &prefix);
    wait_for("the standby to know", || (status(&mut there, &behind) == "QUEUED").then_some(()));
    there.batch_execute("SELECT pg_promote()").unwrap();
    there.batch_execute("UPDATE flag SET up = false").unwrap();
    for id in [&again, &behind] {
        let done = format!("SELECT status FROM s3_export.jobs WHERE export_id = '{id}'");
        wait_for("the job to complete there", || (there.text(&done) == "COMPLETED").then_some(()));
    }
    assert!(cancel_job(&mut client, &behind) && cancel_job(&mut client, &again));
}

/// The timer took the only room, and no job could be enqueued until the next attempt of another.
#[test]
fn the_timer_makes_room_for_a_new_job() {
    let db = database("retry_room", "10min");
    failing(&db, "put", i32::MAX);
    // The launcher of logical replication takes the other.
    let cluster = Cluster::copy_with("-c max_worker_processes=2");
    let mut client = cluster.session(&db.name, "postgres");
    let id = enqueued_failing(&db, &mut client, &db.prefix(), "SELECT 1 AS a", &retries(20));
    wait_for("the first attempt to fail", || {
        (status(&mut client, &id) == "QUEUED" && attempts(&mut client, &id) == "1").then_some(())
    });
    for _ in 0..3 {
        let other = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 AS a", "");
        ended(&mut client, &other).unwrap();
    }
    assert_eq!(status(&mut client, &id), "QUEUED");
    let timer =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%waits for the next attempt%' AND pid <> pg_backend_pid()";
    wait_for("a worker to become the timer again", || (client.text(timer) == "1").then_some(()));
}

#[test]
fn statements_and_feeds_take_retries_and_sessions_refuse_them() {
    let db = database("retry_forms", "20ms");
    let (mut client, prefix) = (db.client(), db.prefix());
    db.refuse("SELECT 1 AS a", &retries(1)).sqlstate("22023").message("retries").hint("s3_export again");
    failing(&db, "put", 1);
    let statement = literal(&format!(
        "INSERT INTO '{}' INTEGRATION = 'failing' FORMAT = (TYPE = 'JSON', RETRIES = 2) SELECT 1 AS a",
        db.bucket.uri(&prefix)
    ));
    refused(client.query(&format!("SELECT * FROM s3_export({statement})"), &[])).sqlstate("22023");
    let id = client.text(&format!("SELECT s3_export_async({statement})"));
    ended(&mut client, &id).unwrap();
    assert_eq!(attempts(&mut client, &id), "2");

    db.client().batch_execute("DELETE FROM s3_export.integrations WHERE name = 'failing'").unwrap();
    failing(&db, "put", 1);
    table(&mut client, "orders");
    let feed = create(&db, &db.prefix(), "xid", &format!(", {}", retries(2))).replace("'local'", "'failing'");
    client.batch_execute(&format!("{feed}; INSERT INTO orders (a) VALUES (1)")).unwrap();
    let id = client.text("SELECT s3_export.run_feed_async('xid')");
    ended(&mut client, &id).unwrap();
    assert_eq!(attempts(&mut client, &id), "2");
    let (last, attempt) =
        ("SELECT export_id FROM s3_export.feeds", "SELECT attempt_id FROM s3_export.exports WHERE export_id =");
    assert_eq!(client.text(last), client.text(&format!("{attempt} '{id}'")));
    // In a session the feed goes without them.
    client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();
    assert_eq!(client.text("SELECT num_docs_inserted FROM s3_export.run_feed('xid')"), "1");
}
