//! Jobs that are stopped: by their owner at each stage, and by a signal to their worker.

use super::fixture::job::{hung, under_way};
use super::fixture::{
    Action, Database, Gateway, Integration, Request, cancel_job, ended, enqueued, refused, status, threads, wait_for,
};

#[test]
fn cancel_stops_a_job_that_runs_and_leaves_nothing_behind() {
    let db = Database::new("job_cancel");
    let (mut client, prefix) = (db.client(), db.prefix());
    let (id, pid) = under_way(&db, &mut client, &prefix);
    assert_eq!(
        client.text(&format!("SELECT documents > 20 AND files > 2 AND bytes > 0 FROM s3_export.exports WHERE pid = {pid}")),
        "t"
    );
    assert!(cancel_job(&mut client, &id));
    refused(ended(&mut client, &id)).sqlstate("57014").message("user request");
    assert_eq!(status(&mut client, &id), "CANCELLED");
    db.bucket.nothing_left(&prefix);
    assert!(!cancel_job(&mut client, &id), "it has ended");
    refused(client.query("SELECT s3_export.cancel('01a20fdb-b929-7267-a31a-d4ee50573122')", &[])).sqlstate("42704");
}

/// The statistics of a transaction are those of its first look, in which the worker was not there yet.
#[test]
fn cancel_stops_a_job_that_began_after_the_transaction_had_looked_at_the_sessions() {
    let db = Database::new("job_cancel_stale");
    let (mut client, mut other, prefix) = (db.client(), db.client(), db.prefix());
    client.batch_execute("BEGIN; SELECT count(*) FROM pg_stat_activity").unwrap();
    let (id, _) = under_way(&db, &mut other, &prefix);
    assert!(cancel_job(&mut client, &id));
    client.batch_execute("COMMIT").unwrap();
    refused(ended(&mut other, &id)).sqlstate("57014");
}

#[test]
fn cancel_stops_a_job_that_is_queued() {
    let db = Database::new("job_cancel_queued");
    let (mut client, prefix, other) = (db.client(), db.prefix(), db.prefix());
    client.batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let mut client = {
        drop(client);
        db.client()
    };
    let (running, _) = under_way(&db, &mut client, &other);
    let queued = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    assert_eq!(status(&mut client, &queued), "QUEUED");
    client.batch_execute("BEGIN").unwrap();
    let own = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    assert!(cancel_job(&mut client, &own), "of this very transaction");
    client.batch_execute("COMMIT").unwrap();
    assert!(cancel_job(&mut client, &queued));
    for id in [&queued, &own] {
        refused(ended(&mut client, id)).sqlstate("57014").message("before it began");
        assert_eq!(status(&mut client, id), "CANCELLED");
    }
    assert!(cancel_job(&mut client, &running));
    refused(ended(&mut client, &running)).sqlstate("57014");
    db.bucket.nothing_left(&prefix);
}

#[test]
fn cancel_stops_a_job_that_hangs() {
    let db = Database::new("job_cancel_hung");
    let mut client = db.client();
    let (id, pid, _gateway) = hung(&db, &mut client);
    assert!(cancel_job(&mut client, &id));
    refused(ended(&mut client, &id)).sqlstate("57014");
    assert_eq!(status(&mut client, &id), "CANCELLED");
    wait_for("the worker to be gone", || (threads(pid) == 0).then_some(()));
}

#[test]
fn cancel_stops_a_job_that_hangs_in_its_commit() {
    let db = Database::new("job_cancel_commit");
    let (mut client, prefix) = (db.client(), db.prefix());
    let manifest = |request: &Request| request.head.contains(".manifest");
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        if manifest(request) && request.head.starts_with("PUT") { Action::Hang } else { Action::Forward }
    });
    db.create(&Integration { name: "slow", endpoint: gateway.endpoint(), ..Integration::local() });
    let call = db.call_async(&prefix, "SELECT 1 AS a", "").replace("'local'", "'slow'");
    let id = client.text(&format!("SELECT {call}"));
    wait_for("the manifest to be sent", || gateway.requests().iter().any(manifest).then_some(()));
    assert_eq!(status(&mut client, &id), "RUNNING");
    assert!(cancel_job(&mut client, &id));
    refused(ended(&mut client, &id)).sqlstate("57014");
    assert_eq!(status(&mut client, &id), "CANCELLED");
    db.bucket.nothing_left(&prefix);
}

#[test]
fn sigterm_ends_a_worker_that_hangs_and_the_job_says_so() {
    let db = Database::new("job_sigterm");
    let mut client = db.client();
    let (id, pid, _gateway) = hung(&db, &mut client);
    assert_eq!(client.text(&format!("SELECT pg_terminate_backend({pid})")), "t");
    wait_for("the worker to be gone", || (threads(pid) == 0).then_some(()));
    refused(ended(&mut client, &id)).sqlstate("57P01").message("terminated");
    assert_eq!(status(&mut client, &id), "ERROR");
}

#[test]
fn sigterm_to_a_worker_leaves_nothing_behind_and_the_queue_goes_on() {
    let db = Database::new("job_sigterm_files");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let (mut client, prefix, other) = (db.client(), db.prefix(), db.prefix());
    let (id, pid) = under_way(&db, &mut client, &prefix);
    let next = enqueued(&db, &mut client, &other, "SELECT 1 AS a", "");
    assert_eq!(client.text(&format!("SELECT pg_terminate_backend({pid})")), "t");
    // Nobody calls anything of ours meanwhile.
    let done = format!("SELECT count(*) FROM s3_export.jobs WHERE export_id = '{next}' AND status = 'COMPLETED'");
    wait_for("the next job", || (client.text(&done) == "1").then_some(()));
    refused(ended(&mut client, &id)).sqlstate("57P01");
    db.bucket.nothing_left(&prefix);
    assert_eq!(db.bucket.manifests(&other).len(), 1);
}

/// A worker whose claim was lost ended the job of the worker that had claimed it since.
#[test]
fn a_worker_ends_no_job_that_another_process_has_claimed() {
    let db = Database::new("job_claimed_since");
    let (mut client, prefix) = (db.client(), db.prefix());
    let (id, pid) = under_way(&db, &mut client, &prefix);
    client.batch_execute(&format!("UPDATE s3_export.jobs SET pid = 1 WHERE export_id = '{id}'")).unwrap();
    client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    wait_for("the worker to be gone", || (threads(pid) == 0).then_some(()));
    // Nobody holds its lock: whoever waits says so.
    refused(ended(&mut client, &id)).sqlstate("57P02");
}
