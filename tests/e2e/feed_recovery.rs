//! Feeds after a crash, a failover and a restore: what a manifest says that no commit followed is taken over or refused, and no row comes
//! twice or never.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::feed_writers::{MARKS, exported, kill, session};
use super::feeds::{create, run, table};
use super::fixture::{Action, Cluster, Database, Gateway, Integration, Session, messages, refused, wait_for};

/// Makes an integration `held` whose manifests are stored, and not answered while the flag is set.
fn held(db: &Database) -> Arc<AtomicBool> {
    let hold = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&hold);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        if request.step() != "manifest" || !flag.load(Ordering::Relaxed) {
            return Action::Forward;
        }
        let flag = Arc::clone(&flag);
        Action::Change(Box::new(move |body| {
            while flag.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            body
        }))
    });
    db.create(&Integration { name: "held", endpoint: gateway.endpoint(), ..Integration::local() });
    hold
}

/// Makes the feed of each mark, by the integration `held`.
fn create_held(db: &Database, client: &mut Session, prefix: &str) {
    table(client, "orders");
    for mark in MARKS {
        let call = create(db, &format!("{prefix}/{mark}"), mark, ", lag => '0'").replace("'local'", "'held'");
        client.batch_execute(&call).unwrap();
    }
}

/// Values of all manifests of the feed, whose numbers have no gap.
fn values(db: &Database, prefix: &str, mark: &str) -> Vec<i64> {
    exported(db, prefix, mark).iter().map(|document| document["a"].as_i64().unwrap()).collect()
}

fn wait_for_manifests(db: &Database, prefix: &str, count: usize) {
    wait_for("the manifest", || (db.bucket.manifests(prefix).len() == count).then_some(()));
}

#[test]
fn the_manifest_of_a_server_that_was_killed_before_the_commit_is_adopted() {
    let db = Database::new("feed_kill");
    let (hold, prefix) = (held(&db), db.prefix());
    create_held(&db, &mut db.client(), &prefix);
    let cluster = Cluster::copy();
    for (mark, count) in MARKS.iter().zip(1..) {
        let folder = format!("{prefix}/{mark}");
        let mut client = session(&cluster, &db.name);
        client.batch_execute("TRUNCATE orders; INSERT INTO orders (a) VALUES (1)").unwrap();
        hold.store(true, Ordering::Relaxed);
        let killed = session(&cluster, &db.name).start(&format!("SELECT s3_export.run_feed('{mark}')"));
        wait_for_manifests(&db, &folder, 1);
        kill(killed.pid);
        assert!(killed.join().1.is_err());
        hold.store(false, Ordering::Relaxed);

        // It is adopted with the next run, which has nothing new of its own ...
        let mut client = session(&cluster, &db.name);
        let before = client.text(&format!("SELECT run || mark FROM s3_export.feeds WHERE name = '{mark}'"));
        assert!(before.starts_with('0'), "{mark}: {before}");
        client.notices();
        assert_eq!(run(&db, &mut client, mark), [] as [i64; 0], "{mark}");
        assert!(messages(&client.notices()).contains(&format!("run 1 of feed \"{mark}\" was written before a crash")));
        let row = format!(
            "SELECT run = 1 AND documents = 1 AND manifest LIKE '%-0000000001.manifest' FROM s3_export.feeds WHERE name = '{mark}'"
        );
        assert_eq!(client.text(&row), "t", "{mark}");
        let history =
            "SELECT documents = 1 AND files = 1 AND manifest LIKE '%-0000000001.manifest' AND length(manifest_sha256) = 64";
        assert_eq!(client.text(&format!("{history} FROM s3_export.history WHERE feed = '{mark}' AND feed_run = 1")), "t");
        // What comes from the bucket is marked, and nothing else is.
        let adopted = "SELECT string_agg(feed_run::text, ',') FROM s3_export.history WHERE adopted_at IS NOT NULL";
        assert_eq!(client.text(&format!("{adopted} AND feed = '{mark}'")), "1");

        // ... or has.
        client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();
        hold.store(true, Ordering::Relaxed);
        let killed = session(&cluster, &db.name).start(&format!("SELECT s3_export.run_feed('{mark}')"));
        wait_for_manifests(&db, &folder, 2);
        kill(killed.pid);
        assert!(killed.join().1.is_err());
        hold.store(false, Ordering::Relaxed);
        let mut client = session(&cluster, &db.name);
        client.batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
        assert_eq!(run(&db, &mut client, mark), [3], "{mark}");
        assert_eq!(run(&db, &mut client, mark), [] as [i64; 0], "{mark}");
        assert_eq!(values(&db, &prefix, mark), [1, 2, 3], "{mark}");
        assert_eq!(db.bucket.manifests(&prefix).len(), 3 * count);
    }
}

#[test]
fn a_manifest_of_the_next_number_that_is_not_the_next_run_is_refused_and_stays() {
    let db = Database::new("feed_foreign");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    for mark in MARKS {
        let folder = format!("{prefix}/{mark}");
        client.batch_execute(&create(&db, &folder, mark, ", lag => '0'")).unwrap();
        client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
        run(&db, &mut client, mark);
        client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();
        let first = db.bucket.get(&format!("{folder}/_{mark}-0000000001.manifest"));
        let second = format!("{folder}/_{mark}-0000000002.manifest");
        let first = String::from_utf8(first.to_vec()).unwrap();
        // As if somebody had written it for this number.
        let copied = first.replace("-0000000001", "-0000000002").replace("\"run\":1", "\"run\":2");
        let of_another_export = db.export("SELECT 1 AS a").prefix;
        let of_another_export = db.bucket.get(&db.bucket.manifests(&of_another_export)[0]);
        for (body, message) in [
            (b"not JSON".to_vec(), "is no manifest"),
            (b"{}".to_vec(), "is no manifest"),
            (of_another_export.to_vec(), "the manifest of another run"),
            (first.clone().into_bytes(), "the manifest of another run"),
            (copied.clone().into_bytes(), "ahead of the database"),
            (copied.replace(&format!("\"name\":\"{mark}\""), "\"name\":\"other\"").into_bytes(), "ahead of the database"),
            (copied.replace("\"feed\":{\"id\":\"", "\"feed\":{\"id\":\"0").into_bytes(), "of another feed"),
            (copied.replace("\"feed\":", "\"not_feed\":").into_bytes(), "ahead of the database"),
        ] {
            db.bucket.put(&second, &body);
            let before = db.bucket.list(&prefix);
            let error = refused(client.query(&format!("SELECT s3_export.run_feed('{mark}')"), &[]));
            client.settle();
            error.sqlstate("55000").message(message);
            assert!(error.0.hint().is_some());
            assert_eq!(db.bucket.get(&second), body);
            assert_eq!(db.bucket.list(&prefix), before);
        }
        db.bucket.delete(&second);
        assert_eq!(run(&db, &mut client, mark), [2], "{mark}");
        client.batch_execute("TRUNCATE orders").unwrap();
    }
}

/// Stops the standby from receiving what the primary does from now on.
fn cut_off(standby: &mut Session) {
    standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    standby.batch_execute("SELECT pg_reload_conf()").unwrap();
    wait_for("the end of replication", || (standby.text("SELECT count(*) FROM pg_stat_wal_receiver") == "0").then_some(()));
}

/// Waits until the standby has replayed all that the primary has made durable.
fn catch_up(primary: &mut Session, standby: &mut Session) {
    let place = primary.text("SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{place}'");
    wait_for("the standby", || (standby.text(&replayed) == "t").then_some(()));
}

#[test]
fn a_promoted_standby_adopts_what_it_has_seen_and_says_what_it_has_not() {
    let db = Database::new("feed_promoted");
    let (mut client, hold, prefix) = (db.client(), held(&db), db.prefix());
    create_held(&db, &mut client, &prefix);
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    let (informed, late) = (Cluster::standby(), Cluster::standby());
    let (mut of_informed, mut of_late) = (informed.session(&db.name, "postgres"), late.session(&db.name, "postgres"));
    refused(of_late.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("25006");
    catch_up(&mut client, &mut of_late);
    cut_off(&mut of_late);
    client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();

    // All three have a manifest, and no commit.
    hold.store(true, Ordering::Relaxed);
    let running: Vec<_> = MARKS.iter().map(|mark| db.client().start(&format!("SELECT s3_export.run_feed('{mark}')"))).collect();
    wait_for_manifests(&db, &prefix, 3);
    catch_up(&mut client, &mut of_informed);
    cut_off(&mut of_informed);
    hold.store(false, Ordering::Relaxed);
    for running in running {
        running.join().1.unwrap();
    }
    for standby in [&mut of_informed, &mut of_late] {
        standby.batch_execute("SELECT pg_promote()").unwrap();
        standby.batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
    }
    for mark in MARKS {
        let before = db.bucket.list(&prefix);
        let error = refused(of_late.query(&format!("SELECT s3_export.run_feed('{mark}')"), &[]));
        error.sqlstate("55000").message("ahead of the database").hint("rewind_feed");
        assert_eq!(db.bucket.list(&prefix), before);
        assert_eq!(run(&db, &mut of_informed, mark), [3], "{mark}");
        assert_eq!(values(&db, &prefix, mark), [1, 2, 3], "{mark}");
    }
}

/// A database from a dump, with its credentials.
fn restored(name: &str, dump: &str) -> (Database, Session) {
    let db = Database::empty(name, "");
    db.restore(dump);
    let mut client = db.client();
    let Integration { access_key_id, secret_access_key, .. } = Integration::local();
    client.query("SELECT s3_export.set_credentials('local', $1, $2)", &[&access_key_id, &secret_access_key]).unwrap();
    (db, client)
}

#[test]
fn a_restored_database_goes_on_or_says_that_the_bucket_is_ahead() {
    let db = Database::new("feed_restored");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    for mark in MARKS {
        client.batch_execute(&create(&db, &format!("{prefix}/{mark}"), mark, ", lag => '0'")).unwrap();
    }
    client.batch_execute("INSERT INTO orders (a) VALUES (1)").unwrap();
    for mark in MARKS {
        assert_eq!(run(&db, &mut client, mark), [1], "{mark}");
    }
    let dump = db.dump();

    // A restore of the newest dump goes on.
    let (same, mut client) = restored("feed_restored_same", &dump);
    client.batch_execute("INSERT INTO orders (a) VALUES (2)").unwrap();
    for mark in MARKS {
        assert_eq!(run(&same, &mut client, mark), [2], "{mark}");
        assert_eq!(values(&db, &prefix, mark), [1, 2], "{mark}");
    }

    // One of an older dump finds the manifests of what it has lost, even in the same cluster.
    let (older, mut client) = restored("feed_restored_older", &dump);
    client.batch_execute("INSERT INTO orders (a) VALUES (3)").unwrap();
    for mark in MARKS {
        let error = refused(client.query(&format!("SELECT s3_export.run_feed('{mark}')"), &[]));
        error.sqlstate("55000").message("ahead of the database").hint("rewind_feed");
        let rewind = format!("SELECT s3_export.rewind_feed('{mark}', mark, 3) FROM s3_export.feeds WHERE name = '{mark}'");
        client.batch_execute(&rewind).unwrap();
        assert_eq!(run(&older, &mut client, mark), [3], "{mark}");
    }

    // In another cluster, ids of transactions mean nothing.
    let (elsewhere, mut client) = restored("feed_restored_elsewhere", &dump);
    client.batch_execute("UPDATE s3_export.feed_definitions SET mark_cluster = 1, run = 10").unwrap();
    client.batch_execute("INSERT INTO orders (a) VALUES (4)").unwrap();
    refused(client.query("SELECT s3_export.run_feed('xid')", &[])).sqlstate("55000").message("of another cluster");
    assert_eq!(run(&elsewhere, &mut client, "sequence"), [4]);
    assert_eq!(run(&elsewhere, &mut client, "time"), [4]);
}
