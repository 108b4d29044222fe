//! Workers of jobs: many jobs, few workers, restarts, crashes, and a server without room.

use std::process::Command;

use super::fixture::{
    Cluster, Database, cancel_job, ended, enqueued, literal, refused, status, threads, wait_for, wait_for_status,
};

const LONG: &str = "SELECT pg_sleep(600)::text AS a";

#[test]
fn fifty_jobs_over_four_workers_all_complete() {
    let db = Database::new("fifty");
    let (mut client, mut witness, prefix) = (db.client(), db.client(), db.prefix());
    let query = "SELECT i, pg_sleep(0.01)::text AS s FROM generate_series(1, 20) i";
    let mut ids: Vec<String> = (0..25).map(|_| enqueued(&db, &mut client, &prefix, query, "")).collect();
    client.batch_execute("BEGIN").unwrap();
    ids.extend((0..25).map(|_| enqueued(&db, &mut client, &prefix, query, "")));
    client.batch_execute("COMMIT").unwrap();
    let mut most = 0;
    // Nobody calls anything of ours while they run.
    wait_for("all jobs to end", || {
        let row = witness
            .query_one(
                "SELECT count(*) FILTER (WHERE status = 'RUNNING'), count(*) FILTER (WHERE status IN ('QUEUED', 'RUNNING'))
                 FROM s3_export.jobs",
                &[],
            )
            .unwrap();
        most = most.max(row.get::<_, i64>(0));
        (row.get::<_, i64>(1) == 0).then_some(())
    });
    assert_eq!(client.text("SELECT count(*) FROM s3_export.exports WHERE status = 'COMPLETED'"), "50");
    assert!((1..=4).contains(&most), "{most} at once");
    assert_eq!(db.bucket.manifests(&prefix).len(), 50);
    assert_eq!(db.bucket.documents(&prefix).len(), 1000);
}

#[test]
fn jobs_of_many_sessions_and_roles_all_complete() {
    let db = Database::new("job_crowd");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 2", db.name)).unwrap();
    let roles: Vec<String> = (0..3).map(|number| db.role(&format!("r{number}"), &["s3_export_member"])).collect();
    let prefix = db.prefix();
    std::thread::scope(|scope| {
        for session in 0..6 {
            let (db_name, role, prefix) = (&db, &roles[session % 3], &prefix);
            let mut client = db_name.client_as(role);
            let uri = db_name.bucket.uri(prefix);
            scope.spawn(move || {
                for _ in 0..5 {
                    client
                        .text(&format!("SELECT s3_export_async({}, 'local', 'SELECT current_user::text AS u')", literal(&uri)));
                }
            });
        }
    });
    let mut witness = db.client();
    let done = "SELECT count(*) FROM s3_export.jobs WHERE status = 'COMPLETED'";
    wait_for("all jobs to end", || (witness.text(done) == "30").then_some(()));
    for role in &roles {
        let own = db.bucket.values(&prefix).iter().filter(|row| row["u"] == **role).count();
        assert_eq!(own, 10, "{role}");
    }
}

#[test]
fn after_a_restart_any_call_starts_what_is_queued() {
    let db = Database::new("job_restart");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    for mode in ["fast", "immediate"] {
        let cluster = Cluster::copy();
        let mut client = cluster.session(&db.name, "postgres");
        let (prefix, cut_off) = (db.prefix(), db.prefix());
        let endless = "SELECT i, pg_sleep(0.001)::text AS s FROM generate_series(1, 10000000) i";
        let running = enqueued(&db, &mut client, &cut_off, endless, "output_chunk_size => 10");
        wait_for_status(&mut client, &running, "RUNNING");
        let queued: Vec<String> = (0..3).map(|_| enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "")).collect();
        wait_for("some files", || (db.bucket.files(&cut_off).len() >= 3).then_some(()));
        drop(client);
        cluster.restart(mode);

        let mut client = cluster.session(&db.name, "postgres");
        assert_eq!(status(&mut client, &running), "ERROR", "{mode}: it never runs for ever");
        let row = client
            .query_one(
                "SELECT error_sqlstate, error_message, pid FROM s3_export.exports WHERE export_id = $1::text::uuid",
                &[&running],
            )
            .unwrap();
        let expected = if mode == "fast" { ("57P01", "terminated") } else { ("57P02", "without an answer") };
        assert_eq!(row.get::<_, String>(0), expected.0, "{mode}");
        assert!(row.get::<_, String>(1).contains(expected.1), "{mode}");
        assert_eq!(row.get::<_, Option<i32>>(2), None);
        for id in &queued {
            assert_eq!(status(&mut client, id), "QUEUED", "{mode}: nothing of ours was called yet");
        }
        // Each of these is such a call, whatever it is about; what it starts is looked for by plain SQL.
        match mode {
            "fast" => assert!(!cancel_job(&mut client, &running)),
            _ => drop(refused(ended(&mut client, &running)).sqlstate(expected.0)),
        }
        let first = format!("SELECT status FROM s3_export.jobs WHERE export_id = '{}'", queued[0]);
        wait_for("the first to complete", || (client.text(&first) == "COMPLETED").then_some(()));
        refused(ended(&mut client, &running)).sqlstate(expected.0);
        cancel_job(&mut client, &queued[1]);
        let cancelled = ended(&mut client, &queued[1]).is_err();
        ended(&mut client, &queued[2]).unwrap();
        assert_eq!(db.bucket.manifests(&prefix).len(), if cancelled { 2 } else { 3 });
        if mode == "fast" {
            db.bucket.nothing_left(&cut_off);
        } else {
            assert!(db.bucket.manifests(&cut_off).is_empty());
            let cleanup =
                format!("s3_export.cleanup('{}', 'local', '0', dry_run => false, force => true)", db.bucket.uri(&cut_off));
            assert_ne!(client.text(&format!("SELECT count(*) FROM {cleanup}")), "0");
            db.bucket.nothing_left(&cut_off);
        }
    }
}

#[test]
fn a_worker_that_is_killed_shows_as_an_error() {
    let db = Database::new("job_kill_9");
    let cluster = Cluster::copy();
    let mut client = cluster.session(&db.name, "postgres");
    let id = enqueued(&db, &mut client, &db.prefix(), LONG, "");
    wait_for_status(&mut client, &id, "RUNNING");
    let pid: i32 = client.query_one("SELECT pid FROM s3_export.exports", &[]).unwrap().get(0);
    assert!(Command::new("kill").arg("-9").arg(pid.to_string()).status().unwrap().success());
    let mut client = wait_for("the restart", || {
        let mut session = cluster.try_session(&db.name, "postgres").filter(|_| threads(pid) == 0)?;
        // One that came before the postmaster knew is ended with all others.
        std::thread::sleep(std::time::Duration::from_millis(100));
        session.batch_execute("SELECT 1").is_ok().then_some(session)
    });
    assert_eq!(status(&mut client, &id), "ERROR");
    // Before anybody has written it down, in a transaction that cannot, and after.
    client.batch_execute("BEGIN READ ONLY").unwrap();
    refused(ended(&mut client, &id)).sqlstate("57P02").hint("s3_export.cleanup");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(client.text("SELECT status FROM s3_export.jobs"), "RUNNING");
    refused(ended(&mut client, &id)).sqlstate("57P02").hint("s3_export.cleanup");
    assert_eq!(client.text("SELECT s3_export.prune('0')"), "1");
}

#[test]
fn without_room_for_a_worker_the_commit_fails_and_says_what_to_raise() {
    let db = Database::new("job_no_room");
    let cluster = Cluster::copy_with("-c max_worker_processes=0");
    let mut client = cluster.session(&db.name, "postgres");
    let call = db.call_async(&db.prefix(), "SELECT 1 AS a", "");
    refused(client.batch_execute(&format!("SELECT {call}"))).sqlstate("53400").hint("max_worker_processes");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.jobs"), "0");
}

#[test]
fn one_worker_process_is_enough_where_somebody_waits() {
    let db = Database::new("job_little_room");
    // The launcher of logical replication takes the other.
    let cluster = Cluster::copy_with("-c max_worker_processes=2");
    let mut client = cluster.session(&db.name, "postgres");
    let prefix = db.prefix();
    let ids: Vec<String> = (0..6).map(|_| enqueued(&db, &mut client, &prefix, "SELECT pg_sleep(0.1)::text AS a", "")).collect();
    for id in ids {
        ended(&mut client, &id).unwrap();
    }
    assert_eq!(db.bucket.manifests(&prefix).len(), 6);
}

/// A second worker for a job that had one on the way took the room of the next job, and ended without a look at the queue.
#[test]
fn jobs_that_are_enqueued_one_by_one_all_run_while_there_is_room() {
    let db = Database::new("job_one_by_one");
    // The launcher of logical replication takes one.
    let cluster = Cluster::copy_with("-c max_worker_processes=7 -c s3_export.max_workers=20");
    let mut client = cluster.session(&db.name, "postgres");
    let prefix = db.prefix();
    for _ in 0..6 {
        enqueued(&db, &mut client, &prefix, LONG, "");
    }
    // Nobody calls anything of ours: no look at the queue but the workers' own.
    let running = "SELECT count(*) FROM s3_export.jobs WHERE status = 'RUNNING'";
    wait_for("all of them to run", || (client.text(running) == "6").then_some(()));
}

#[test]
fn a_standby_shows_jobs_and_runs_none() {
    let db = Database::new("job_standby");
    let mut client = db.client();
    let id = enqueued(&db, &mut client, &db.prefix(), LONG, "");
    wait_for_status(&mut client, &id, "RUNNING");
    let standby = Cluster::standby();
    let mut there = standby.session(&db.name, "postgres");
    assert_eq!(status(&mut there, &id), "RUNNING", "whose worker is not seen there");
    let call = db.call_async(&db.prefix(), "SELECT 1", "");
    refused(there.query(&format!("SELECT {call}"), &[])).sqlstate("25006");
    refused(there.query(&format!("SELECT s3_export.cancel('{id}')"), &[])).sqlstate("25006").message("s3_export.cancel()");
    assert!(cancel_job(&mut client, &id));
    refused(ended(&mut there, &id)).sqlstate("57014");
}

/// A worker waited for the row with its number in hand, and all others with it.
#[test]
fn a_cancel_that_is_not_committed_holds_up_nobody_else() {
    let db = Database::new("job_idle_cancel");
    db.client().batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let (mut client, mut idle, prefix) = (db.client(), db.client(), db.prefix());
    let running = enqueued(&db, &mut client, &db.prefix(), LONG, "");
    wait_for_status(&mut client, &running, "RUNNING");
    let held: Vec<String> = (0..2).map(|_| enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "")).collect();
    let free = enqueued(&db, &mut client, &prefix, "SELECT 2 AS a", "");
    idle.batch_execute("BEGIN").unwrap();
    for id in &held {
        assert!(cancel_job(&mut idle, id));
    }
    assert!(cancel_job(&mut client, &running));
    ended(&mut client, &free).unwrap();
    // Nobody spins over what is held.
    let workers =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 's3_export worker' AND datname = current_database()";
    wait_for("the workers to be gone", || (client.text(workers) == "0").then_some(()));
    idle.batch_execute("ROLLBACK").unwrap();
    for id in &held {
        ended(&mut client, id).unwrap();
    }
}

/// A copy of a database holds its jobs as well.
#[test]
fn a_copy_of_a_database_runs_none_of_its_jobs() {
    let db = Database::new("job_template");
    let cluster = Cluster::copy_with("-c max_worker_processes=8");
    let mut client = cluster.session(&db.name, "postgres");
    client.batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let mut client = cluster.session(&db.name, "postgres");
    let (running, prefix) = (enqueued(&db, &mut client, &db.prefix(), LONG, ""), db.prefix());
    wait_for_status(&mut client, &running, "RUNNING");
    let queued = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    drop(client);
    cluster.restart("immediate");
    let mut maintenance = cluster.session("postgres", "postgres");
    maintenance.batch_execute(&format!("CREATE DATABASE {}_copy TEMPLATE {}", db.name, db.name)).unwrap();
    let mut copy = cluster.session(&format!("{}_copy", db.name), "postgres");
    refused(ended(&mut copy, &running)).sqlstate("57P02");
    let other = enqueued(&db, &mut copy, &db.prefix(), "SELECT 1 AS a", "");
    ended(&mut copy, &other).unwrap();
    assert_eq!(status(&mut copy, &queued), "QUEUED");
    db.bucket.nothing_left(&prefix);
}

/// Logical replication brings jobs of another cluster, whose database may have the same OID.
#[test]
fn a_job_that_another_cluster_has_enqueued_is_left_alone() {
    let db = Database::new("job_cluster");
    let mut client = db.client();
    client.batch_execute(&format!("ALTER DATABASE {} SET s3_export.max_workers = 1", db.name)).unwrap();
    let mut client = db.client();
    let (running, prefix) = (enqueued(&db, &mut client, &db.prefix(), LONG, ""), db.prefix());
    wait_for_status(&mut client, &running, "RUNNING");
    let replicated = enqueued(&db, &mut client, &prefix, "SELECT 1 AS a", "");
    client.batch_execute(&format!("UPDATE s3_export.jobs SET cluster = 7 WHERE export_id = '{replicated}'")).unwrap();
    let own = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 AS a", "");
    client.batch_execute(&format!("SELECT s3_export.cancel('{running}')")).unwrap();
    ended(&mut client, &own).unwrap();
    let later = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 AS a", "");
    ended(&mut client, &later).unwrap();
    assert_eq!(status(&mut client, &replicated), "QUEUED");
    db.bucket.nothing_left(&prefix);
}
