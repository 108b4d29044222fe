//! Two runs of a key at once: one waits for the other, and of two clusters one loses.

use std::time::{Duration, Instant};

use super::super::fixture::{Cluster, Database, Session, messages, refused, wait_for};
use super::{REFUSE, REPLACE, export, is_exactly_one_run, manifest_of, nightly, three, value_of};

/// Whether the backend waits for a lock.
fn waits_for_lock(witness: &mut Session, pid: i32) {
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
    wait_for("the second run to wait", || witness.query_opt(waiting, &[&pid]).unwrap());
}

#[test]
fn a_second_run_waits_for_the_first_and_then_returns_it() {
    let db = Database::new("run_waits");
    let elsewhere = Database::new("run_waits_elsewhere");
    let (mut first, mut witness, prefix) = (db.client(), db.client(), db.prefix());
    first.batch_execute("BEGIN").unwrap();
    let exported = export(&db, &mut first, &prefix, 1, "").unwrap();
    // A cancel reaches it at once.
    let second = format!("SELECT {}", db.call(&prefix, &three(2), &nightly("")));
    let running = db.client().start(&second);
    waits_for_lock(&mut witness, running.pid);
    let cancelled = Instant::now();
    witness.execute("SELECT pg_cancel_backend($1)", &[&running.pid]).unwrap();
    refused(running.join().1).sqlstate("57014");
    assert!(cancelled.elapsed() < Duration::from_secs(2), "{:?}", cancelled.elapsed());
    // So do its time limits.
    let mut limited = db.client();
    limited.batch_execute("SET lock_timeout = '100ms'").unwrap();
    refused(limited.batch_execute(&second)).sqlstate("55P03");
    let timeout = nightly(r#", "timeout": "200ms""#);
    refused(db.export_to(&mut db.client(), &prefix, &three(2), &timeout)).sqlstate("57014");
    // In any database of the cluster.
    let running = [db.client().start(&second), elsewhere.client().start(&second)];
    for running in &running {
        waits_for_lock(&mut witness, running.pid);
    }
    first.batch_execute("COMMIT").unwrap();
    for running in running {
        let (session, outcome) = running.join();
        outcome.unwrap();
        let notices = messages(&session.notices());
        assert!(notices.contains(&exported.export_id.to_string()), "{notices}");
    }
    is_exactly_one_run(&db.bucket, &prefix);
    // The first is rolled back: the second exports.
    let prefix = db.prefix();
    first.batch_execute("BEGIN").unwrap();
    export(&db, &mut first, &prefix, 1, "").unwrap();
    let running = db.client().start(&format!("SELECT {}", db.call(&prefix, &three(2), &nightly(""))));
    waits_for_lock(&mut witness, running.pid);
    first.batch_execute("ROLLBACK").unwrap();
    running.join().1.unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 2);
}

#[test]
fn keys_in_opposite_order_are_a_deadlock_and_one_key_twice_is_refused() {
    let db = Database::new("run_deadlock");
    let (mut one, mut other, mut witness, prefix) = (db.client(), db.client(), db.client(), db.prefix());
    let of =
        |key: &str| format!("SELECT {}", db.call(&prefix, "SELECT 1 AS v", &format!(r#"options => '{{"run_key": "{key}"}}'"#)));
    for (client, key) in [(&mut one, "a"), (&mut other, "b")] {
        client.batch_execute(&format!("SET deadlock_timeout = '100ms'; BEGIN; {}", of(key))).unwrap();
    }
    let running = one.start(&of("b"));
    waits_for_lock(&mut witness, running.pid);
    let outcome = other.batch_execute(&of("a"));
    let (mut one, first) = if outcome.is_err() {
        other.batch_execute("ROLLBACK").unwrap();
        running.join()
    } else {
        other.batch_execute("COMMIT").unwrap();
        running.join()
    };
    let deadlocks = [outcome, first].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert_eq!(deadlocks.len(), 1, "{deadlocks:?}");
    assert_eq!(deadlocks[0].code().unwrap().code(), "40P01");
    one.batch_execute("ROLLBACK").unwrap();

    let prefix = db.prefix();
    one.batch_execute("BEGIN").unwrap();
    export(&db, &mut one, &prefix, 1, "").unwrap();
    one.batch_execute("SAVEPOINT s").unwrap();
    for more in ["", REFUSE, REPLACE] {
        refused(export(&db, &mut one, &prefix, 2, more)).sqlstate("42710").message("this transaction has exported");
        one.batch_execute("ROLLBACK TO s").unwrap();
    }
    one.batch_execute("COMMIT").unwrap();
    let manifest = is_exactly_one_run(&db.bucket, &prefix);
    assert_eq!(value_of(&db.bucket, &manifest), 1);
}

#[test]
fn of_two_clusters_one_loses_and_leaves_nothing() {
    let db = Database::new("run_clusters");
    let cluster = Cluster::copy();
    let (mut here, mut there) = (db.client(), cluster.session(&db.name, "postgres"));
    here.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    for more in ["", REPLACE] {
        let prefix = db.prefix();
        if more == REPLACE {
            export(&db, &mut here, &prefix, 0, "").unwrap();
        }
        here.batch_execute("BEGIN").unwrap();
        export(&db, &mut here, &prefix, 1, more).unwrap();
        let winner = export(&db, &mut there, &prefix, 2, more).unwrap();
        let refusal = refused(here.batch_execute("COMMIT"));
        refusal.sqlstate("42710").message("_nightly.manifest").detail("othing is overwritten");
        here.settle();
        assert_eq!(messages(&here.notices()), "");
        let manifest = is_exactly_one_run(&db.bucket, &prefix);
        assert_eq!(manifest["s3_export"]["export_id"], winner.export_id.to_string());
    }
    // The run was deleted while another was to replace it.
    let prefix = db.prefix();
    export(&db, &mut here, &prefix, 0, "").unwrap();
    here.batch_execute("BEGIN").unwrap();
    export(&db, &mut here, &prefix, 1, REPLACE).unwrap();
    db.bucket.delete(&manifest_of(&prefix));
    refused(here.batch_execute("COMMIT")).sqlstate("42710").message("has changed").hint("again");
    here.settle();
    assert!(db.bucket.manifests(&prefix).is_empty());
    assert_eq!(db.bucket.files(&prefix).len(), 3, "those of the earlier run");
}
