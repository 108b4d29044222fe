//! Shutdown, the postmaster's death, and kill -9, each in a cluster of its own.

use std::path::Path;
use std::time::Duration;

use super::fixture::{Cluster, Database, Integration, Running, Session, hung_endpoint, refused, threads, wait_for};

const ANSWERS: Duration = Duration::from_secs(20);

fn signal(signal: &str, pid: i32) {
    assert!(std::process::Command::new("kill").arg(signal).arg(pid.to_string()).status().unwrap().success());
}

fn wait_for_exit(pid: i32) {
    wait_for("the process to exit", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

/// An export whose uploads never get an answer, in that cluster.
fn hung(cluster: &Cluster, db: &Database) -> Running {
    let mut client = cluster.session(&db.name, "postgres");
    client.batch_execute("SET s3_export.cleanup_timeout = '500ms'").unwrap();
    let running = client.start(&format!("SELECT {}", db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'hung'")));
    let mut witness = cluster.session(&db.name, "postgres");
    wait_for("the export to wait for S3", || witness.sees_hanging(running.pid).then_some(()));
    running
}

#[test]
fn a_fast_shutdown_ends_an_export_that_hangs() {
    let db = Database::new("shutdown");
    db.create(&Integration { name: "hung", endpoint: hung_endpoint(), ..Integration::local() });
    let cluster = Cluster::copy();
    let running = hung(&cluster, &db);
    cluster.stop("fast");
    refused(running.join_within(ANSWERS).1).sqlstate("57P01");
}

#[test]
fn an_export_does_not_outlive_the_postmaster() {
    let db = Database::new("postmaster");
    db.create(&Integration { name: "hung", endpoint: hung_endpoint(), ..Integration::local() });
    let cluster = Cluster::copy();
    let running = hung(&cluster, &db);
    let backend = running.pid;
    signal("-9", cluster.postmaster());
    wait_for_exit(backend);
    assert!(running.join_within(ANSWERS).1.is_err());
}

/// Files of an export that goes on, and parts of another.
fn under_way(client: Session, db: &Database, prefix: &str, query: &str, chunk: u32, seen: impl Fn() -> bool) -> Running {
    let running = client.start(&format!("SELECT {}", db.call(prefix, query, &format!("output_chunk_size => {chunk}"))));
    wait_for("the export to write", || (running.is_finished() || seen()).then_some(()));
    assert!(!running.is_finished());
    running
}

#[test]
fn after_kill_9_and_the_restart_cleanup_finds_exactly_the_orphans() {
    let db = Database::new("kill_9");
    let cluster = Cluster::copy();
    let session = || cluster.session(&db.name, "postgres");
    let prefix = db.prefix();
    db.export_to(&mut session(), &prefix, "SELECT generate_series(1, 5) AS a", "output_chunk_size => 1").unwrap();
    let complete = db.bucket.list(&prefix);
    assert_eq!(complete.len(), 6);

    let slow = "SELECT i, pg_sleep(0.001)::text AS s FROM generate_series(1, 10000000) i";
    let small = under_way(session(), &db, &prefix, slow, 10, || db.bucket.files(&prefix).len() >= 8);
    let large = "SELECT repeat('x', 1000000) AS t, pg_sleep(0.01)::text AS s FROM generate_series(1, 10000000) i";
    let parts = under_way(session(), &db, &prefix, large, 1_000_000_000, || !db.bucket.multipart_uploads(&prefix).is_empty());
    signal("-9", small.pid);
    assert!(small.join_within(ANSWERS).1.is_err());
    assert!(parts.join_within(ANSWERS).1.is_err(), "the postmaster ends all others after a crash");
    let mut client = wait_for("the restart", || cluster.try_session(&db.name, "postgres"));

    let mut orphans: Vec<String> = db.bucket.list(&prefix).into_iter().map(|object| object.key).collect();
    orphans.retain(|key| complete.iter().all(|object| object.key != *key));
    orphans.extend(db.bucket.multipart_uploads(&prefix));
    orphans.sort();
    assert!(orphans.len() >= 4, "{orphans:?}");
    let mut cleanup = |arguments: &str| {
        let call =
            format!("s3_export.cleanup('{}', 'local', older_than => '0', force => true{arguments})", db.bucket.uri(&prefix));
        let rows = client.query(&format!("SELECT object FROM {call}"), &[]).unwrap();
        let mut found: Vec<String> = rows.iter().map(|row| db.bucket.key(row.get(0)).to_owned()).collect();
        found.sort();
        found
    };
    assert_eq!(cleanup(""), orphans);
    assert_eq!(cleanup(", dry_run => false"), orphans);
    assert_eq!(cleanup(""), [] as [String; 0]);
    assert_eq!(db.bucket.list(&prefix), complete);
    assert!(db.bucket.multipart_uploads(&prefix).is_empty());
    db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    assert_eq!(threads(client.pid), 1);
}
