//! `s3_export.max_exports`: so many transactions of the cluster export at once, whatever they try.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fixture::{Cluster, Database, Running, Session, cancel_job, ended, enqueued, refused, wait_for, wait_for_status};

/// The slots are the cluster's, so these tests run one after the other. No other test takes slots.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A database whose sessions share that number of slots.
fn database(name: &str, slots: u32, settings: &[&str]) -> Database {
    let db = Database::new(name);
    let mut client = db.client();
    client.batch_execute("LOAD 's3_export'").unwrap();
    for setting in settings.iter().map(|setting| (*setting).to_owned()).chain([format!("s3_export.max_exports = {slots}")]) {
        client.batch_execute(&format!("ALTER DATABASE {} SET {setting}", db.name)).unwrap();
    }
    db
}

/// Slots that are held, as `pg_locks` shows them.
fn held(client: &mut Session) -> usize {
    let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 21305 AND granted AND database = 0";
    client.text(count).parse().unwrap()
}

/// A session with a transaction that has exported.
fn holder(db: &Database) -> Session {
    let mut client = db.client();
    client.batch_execute("BEGIN").unwrap();
    db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    client
}

fn export(db: &Database) -> String {
    format!("SELECT {}", db.call(&db.prefix(), "SELECT 1 AS a", ""))
}

/// Starts an export that finds no slot. `place`: 1 for the first of those who wait.
fn waiter(db: &Database, watcher: &mut Session, place: usize, client: Session, statements: &str) -> Running {
    let running = client.start(statements);
    let lock =
        format!("SELECT count(*) FROM pg_locks WHERE pid = {} AND objsubid = 21306 AND granted = {}", running.pid, place == 1);
    let event = if db.major() >= 17 { "S3ExportSlot" } else { "Extension" };
    let shown = format!("SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = {}", running.pid);
    let expected = if place == 1 { event } else { "advisory" };
    wait_for("the wait", || (watcher.text(&lock) == "1" && watcher.text(&shown) == expected).then_some(()));
    running
}

#[test]
fn sixteen_sessions_never_have_more_slots_than_there_are() {
    let _alone = alone();
    let db = database("sixteen", 3, &[]);
    let mut watcher = db.client();
    let running: Vec<Running> = (0..16)
        .map(|number| {
            // The query fails where its transaction has no slot.
            let query = "SELECT i, pg_sleep(0.02)::text AS s, 1 / (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
                             AND objsubid = 21305 AND granted) AS one FROM generate_series(1, 5) i";
            let call = |more: &str| format!("SELECT {}", db.call(&db.prefix(), query, more));
            let (export, more) = (call(""), call("partition_by => '{i}'"));
            // All that a session may try on its way.
            let statements = match number % 4 {
                0 => export,
                1 => format!(
                    "BEGIN; SAVEPOINT a; {export}; ROLLBACK TO a; {more}; SELECT pg_advisory_unlock_all(); {export}; COMMIT"
                ),
                2 => format!(
                    "DO $do$ BEGIN BEGIN {}; RAISE 'x'; EXCEPTION WHEN raise_exception THEN NULL; END; END $do$; {more}",
                    export.replacen("SELECT", "PERFORM", 1)
                ),
                _ => format!("BEGIN; {export}; ROLLBACK"),
            };
            db.client().start(&statements)
        })
        .collect();
    let mut most = 0;
    while running.iter().any(|running| !running.is_finished()) {
        let now = held(&mut watcher);
        assert!(now <= 3, "{now} at once");
        most = most.max(now);
    }
    for running in running {
        running.join().1.unwrap();
    }
    assert_eq!((most, held(&mut watcher)), (3, 0));
}

#[test]
fn who_does_not_want_to_wait_is_refused() {
    let _alone = alone();
    let db = database("refused", 1, &[]);
    let (mut watcher, mut holder) = (db.client(), holder(&db));
    let refuse = |settings: &str| {
        let mut client = db.client();
        client.batch_execute(settings).unwrap();
        let refusal = refused(client.batch_execute(&export(&db)));
        refusal.sqlstate("55P03").message("too many exports").detail("max_exports allows 1").hint("max_exports_wait");
    };
    let limits = ["SET s3_export.max_exports_wait = 0", "SET s3_export.max_exports_wait = '50ms'", "SET lock_timeout = '50ms'"];
    limits.iter().for_each(|limit| refuse(limit));
    // Behind another who waits as well.
    let first = waiter(&db, &mut watcher, 1, db.client(), &export(&db));
    limits.iter().for_each(|limit| refuse(limit));
    holder.batch_execute("COMMIT").unwrap();
    first.join().1.unwrap();
    let mut client = db.client();
    client.batch_execute("SET s3_export.max_exports_wait = 0; SET lock_timeout = '1min'").unwrap();
    client.batch_execute(&export(&db)).unwrap();
    assert_eq!(client.text("SHOW lock_timeout"), "1min");
    assert_eq!(held(&mut watcher), 0);
}

#[test]
fn who_waits_is_cancelled_timed_out_and_terminated_at_any_place() {
    let _alone = alone();
    let db = database("interrupted", 1, &[]);
    let (mut watcher, mut holder) = (db.client(), holder(&db));
    for place in [1, 2] {
        let first = (place == 2).then(|| waiter(&db, &mut watcher, 1, db.client(), &export(&db)));
        for end in ["pg_cancel_backend", "pg_terminate_backend"] {
            let running = waiter(&db, &mut watcher, place, db.client(), &export(&db));
            watcher.batch_execute(&format!("SELECT {end}({})", running.pid)).unwrap();
            let outcome = running.join().1;
            assert!(outcome.is_err());
            if end == "pg_cancel_backend" {
                refused(outcome).sqlstate("57014");
            }
        }
        let mut client = db.client();
        client.batch_execute("SET statement_timeout = '100ms'").unwrap();
        refused(client.batch_execute(&export(&db))).sqlstate("57014");
        // In a subtransaction, whose end leaves the queue as well.
        client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
        refused(client.batch_execute(&export(&db))).sqlstate("57014");
        client.batch_execute("ROLLBACK TO a").unwrap();
        let queued = "SELECT count(*) FROM pg_locks WHERE objsubid = 21306";
        assert_eq!(watcher.text(queued), if first.is_some() { "1" } else { "0" });
        client.batch_execute("ROLLBACK").unwrap();
        if let Some(first) = first {
            holder.batch_execute("COMMIT").unwrap();
            first.join().1.unwrap();
        }
    }
    assert_eq!(held(&mut watcher), 0);
}

#[test]
fn a_transaction_has_one_slot_to_its_end() {
    let _alone = alone();
    let db = database("one_slot", 1, &["s3_export.max_exports_wait = 0"]);
    let (mut client, mut other, mut watcher) = (db.client(), db.client(), db.client());
    let unlocking = format!("SELECT {}", db.call(&db.prefix(), "SELECT pg_advisory_unlock_all()::text AS u", ""));
    for end in ["COMMIT", "ROLLBACK"] {
        client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
        client.batch_execute(&unlocking).unwrap();
        client.batch_execute("ROLLBACK TO a; SELECT pg_advisory_unlock_all()").unwrap();
        assert_eq!(held(&mut watcher), 1);
        refused(other.batch_execute(&export(&db))).sqlstate("55P03");
        client.batch_execute(&export(&db)).unwrap();
        client.batch_execute(&export(&db)).unwrap();
        assert_eq!(held(&mut watcher), 1);
        refused(other.batch_execute(&export(&db))).sqlstate("55P03");
        client.batch_execute(end).unwrap();
        assert_eq!(held(&mut watcher), 0);
        other.batch_execute(&export(&db)).unwrap();
    }
    // An error within the export, and outside of a transaction block.
    refused(client.batch_execute(&format!("SELECT {}", db.call(&db.prefix(), "SELECT 1 / 0 AS a", "")))).sqlstate("22012");
    client.settle();
    assert_eq!(held(&mut watcher), 0);
    // What is refused for its lack of rights takes no slot.
    let mut plain = db.client_as(&db.role("plain", &["s3_export_member"]));
    plain.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    refused(plain.batch_execute(&export(&db).replace("'local'", "'nobodys'"))).sqlstate("42704");
    plain.batch_execute("ROLLBACK TO a").unwrap();
    refused(plain.batch_execute("SELECT s3_export.run_feed('nobodys')")).sqlstate("42704");
    plain.batch_execute("ROLLBACK TO a").unwrap();
    assert_eq!(held(&mut watcher), 0);
}

#[test]
fn a_prepared_transaction_keeps_no_slot() {
    let _alone = alone();
    let db = database("prepared_slot", 1, &["s3_export.max_exports_wait = 0"]);
    let (mut client, mut watcher) = (db.client(), db.client());
    client.batch_execute("BEGIN; SAVEPOINT a").unwrap();
    client.batch_execute(&export(&db)).unwrap();
    client.batch_execute(&format!("ROLLBACK TO a; PREPARE TRANSACTION '{}'", db.name)).unwrap();
    assert_eq!(held(&mut watcher), 0);
    db.client().batch_execute(&export(&db)).unwrap();
    client.batch_execute(&format!("ROLLBACK PREPARED '{}'", db.name)).unwrap();
    client.batch_execute(&export(&db)).unwrap();
}

#[test]
fn attack_slots_and_their_queue_are_no_users_locks() {
    let _alone = alone();
    let db = database("user_locks", 2, &["s3_export.max_exports_wait = 0"]);
    let mut attacker = db.client_as(&db.role("attacker", &["s3_export_member"]));
    for (high, low) in [(0, 0), (1, 0), (0, 1), (0, 21305), (21305, 0), (0, 21306)] {
        attacker.batch_execute(&format!("SELECT pg_advisory_lock({high}, {low})")).unwrap();
        attacker.batch_execute(&format!("SELECT pg_advisory_lock({})", (i64::from(high) << 32) + i64::from(low))).unwrap();
    }
    db.client().batch_execute(&export(&db)).unwrap();
}

#[test]
fn slots_go_to_those_who_wait_in_their_order() {
    let _alone = alone();
    let db = database("in_order", 1, &[]);
    let (mut watcher, mut first) = (db.client(), holder(&db));
    watcher.batch_execute("CREATE TABLE served (place int, at serial)").unwrap();
    let waiting: Vec<Running> = (1..=4)
        .map(|place| {
            let statements = format!("BEGIN; {}; INSERT INTO served VALUES ({place}); COMMIT", export(&db));
            waiter(&db, &mut watcher, place, db.client(), &statements)
        })
        .collect();
    first.batch_execute("COMMIT").unwrap();
    for running in waiting {
        running.join().1.unwrap();
    }
    assert_eq!(watcher.text("SELECT string_agg(place::text, '' ORDER BY at) FROM served"), "1234");
}

#[test]
fn a_deadlock_over_a_slot_ends_with_the_one_who_waits_for_it() {
    let _alone = alone();
    for place in [1, 2] {
        let db = database("jam", 1, &["deadlock_timeout = '100ms'"]);
        let (mut watcher, holder) = (db.client(), holder(&db));
        watcher.batch_execute("CREATE TABLE t AS SELECT 1 AS a").unwrap();
        let innocent = (place == 2).then(|| waiter(&db, &mut watcher, 1, db.client(), &export(&db)));
        let mut blocker = db.client();
        blocker.batch_execute("BEGIN; UPDATE t SET a = 2").unwrap();
        let blocker = waiter(&db, &mut watcher, place, blocker, &export(&db));
        // Nobody who has a slot waits yet, so everybody goes on waiting.
        std::thread::sleep(Duration::from_millis(500));
        assert!(!blocker.is_finished());
        let holder = holder.start("UPDATE t SET a = 3; COMMIT");
        let (mut blocker, outcome) = blocker.join();
        refused(outcome).sqlstate("40P01").message("deadlock detected").detail("waits for one of the 1 exports");
        blocker.batch_execute("ROLLBACK").unwrap();
        holder.join().1.unwrap();
        if let Some(innocent) = innocent {
            innocent.join().1.unwrap();
        }
        assert_eq!((held(&mut watcher), watcher.text("SELECT a FROM t").as_str()), (0, "3"));
    }
}

#[test]
fn a_job_waits_for_its_slot_as_a_running_one() {
    let _alone = alone();
    let db = database("jobs_wait", 1, &[]);
    let (mut client, mut holder) = (db.client(), holder(&db));
    let (first, second) = (db.prefix(), db.prefix());
    let [kept, cancelled] = [&first, &second].map(|prefix| enqueued(&db, &mut client, prefix, "SELECT 1 AS a", ""));
    for job in [&kept, &cancelled] {
        wait_for_status(&mut client, job, "RUNNING");
    }
    wait_for("both to wait", || (client.text("SELECT count(*) FROM pg_locks WHERE objsubid = 21306") == "2").then_some(()));
    assert!(cancel_job(&mut client, &cancelled));
    wait_for_status(&mut client, &cancelled, "CANCELLED");
    assert_eq!((db.bucket.list(&first).len(), db.bucket.list(&second).len()), (0, 0));
    holder.batch_execute("COMMIT").unwrap();
    ended(&mut client, &kept).unwrap();
    assert_eq!(db.bucket.manifests(&first).len(), 1);
    wait_for("the slot", || (held(&mut client) == 0).then_some(()));
}

#[test]
fn a_feed_that_waits_for_a_slot_is_not_locked() {
    let _alone = alone();
    let db = database("feed_waits", 1, &[]);
    let (mut watcher, mut holder) = (db.client(), holder(&db));
    watcher
        .batch_execute(&format!(
            "CREATE TABLE t (a bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
             SELECT s3_export.create_feed('feed', '{}', 'local', 'SELECT a FROM t WHERE a > $1 AND a <= $2', 'sequence', 't.a')",
            db.bucket.uri(&db.prefix())
        ))
        .unwrap();
    let waiting = waiter(&db, &mut watcher, 1, db.client(), "SELECT s3_export.run_feed('feed')");
    watcher
        .batch_execute(r#"SET lock_timeout = '10s'; SELECT s3_export.alter_feed('feed', '{"output_chunk_size": 5}')"#)
        .unwrap();
    assert!(!waiting.is_finished());
    holder.batch_execute("COMMIT").unwrap();
    waiting.join().1.unwrap();
}

#[test]
fn a_standby_has_slots_of_its_own() {
    let _alone = alone();
    let db = database("standby_slots", 1, &["s3_export.max_exports_wait = 0"]);
    let standby = Cluster::standby();
    let [mut first, mut second] = [(); 2].map(|()| standby.session(&db.name, "postgres"));
    let _holder = holder(&db);
    first.batch_execute("BEGIN").unwrap();
    db.export_in(&mut first, "SELECT 1 AS a", "").unwrap();
    refused(second.batch_execute(&export(&db))).sqlstate("55P03");
    first.batch_execute("COMMIT").unwrap();
    second.batch_execute(&export(&db)).unwrap();
}

/// A session of its own number competes for as many slots.
#[test]
fn a_role_may_have_fewer_slots_than_others() {
    let _alone = alone();
    let db = database("fewer", 3, &["s3_export.max_exports_wait = 0"]);
    let small = db.role("small", &["s3_export_member"]);
    db.client().batch_execute(&format!("LOAD 's3_export'; ALTER ROLE {small} SET s3_export.max_exports = 1")).unwrap();
    let start = Instant::now();
    let _first = holder(&db);
    refused(db.client_as(&small).batch_execute(&export(&db))).sqlstate("55P03");
    let _second = holder(&db);
    db.client().batch_execute(&export(&db)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(60), "nobody waits");
}

/// Whoever may have one slot waits for that one, and others take theirs meanwhile.
#[test]
fn a_role_that_waits_for_its_few_slots_holds_up_no_other() {
    let _alone = alone();
    let db = database("few", 3, &[]);
    let small = db.role("small", &["s3_export_member"]);
    db.client().batch_execute(&format!("LOAD 's3_export'; ALTER ROLE {small} SET s3_export.max_exports = 1")).unwrap();
    let (mut watcher, mut first) = (db.client(), holder(&db));
    let waiting = waiter(&db, &mut watcher, 1, db.client_as(&small), &export(&db));
    let mut other = db.client();
    other.batch_execute(&format!("SET s3_export.max_exports_wait = 0; {}", export(&db))).unwrap();
    first.batch_execute("COMMIT").unwrap();
    waiting.join().1.unwrap();
}
