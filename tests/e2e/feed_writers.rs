//! Feeds of each mark beside writers that commit late, roll back, prepare and update, while the store fails, backends are ended and
//! the server is killed between a manifest and its commit: every row version that a mark promises is in the manifests exactly once.
//!
//! FEED_SECONDS=600 makes it a soak.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::fixture::{Action, Cluster, Database, Gateway, Integration, Session, literal, wait_for};

const WRITERS: usize = 8;
pub const MARKS: [&str; 3] = ["xid", "sequence", "time"];

/// Waits for the server, which may be recovering, or have ended the session.
pub fn session(cluster: &Cluster, database: &str) -> Session {
    wait_for("a session", || cluster.try_session(database, "postgres"))
}

/// A session of a writer. It ends what the writer has prepared in a session that was lost, which would block it for ever.
fn session_of_writer(cluster: &Cluster, database: &str, writer: usize) -> Session {
    let mut client = session(cluster, database);
    let prepared = format!("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE '{database}\\_{writer}\\_%'");
    for row in client.query(&prepared, &[]).unwrap_or_default() {
        let _ = client.batch_execute(&format!("COMMIT PREPARED '{}'", row.get::<_, String>(0)));
    }
    client
}

/// Writes until it is told to stop. A statement that fails fails with the server, and the writer goes on.
fn write(cluster: &Cluster, database: &str, writer: usize, stop: &AtomicBool) {
    let mut client = session_of_writer(cluster, database, writer);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let body = format!(
            "INSERT INTO versions (writer, body) SELECT {writer}, repeat('x', i) FROM generate_series(1, {}) i",
            fastrand::u32(1..4)
        );
        let update = format!(
            "UPDATE versions SET version = version + 1 WHERE id IN (SELECT id FROM versions WHERE writer = {writer} ORDER BY random() LIMIT 2)"
        );
        let pause = fastrand::f64() * fastrand::f64();
        let gid = format!("{database}_{writer}_{number}");
        let statements = match fastrand::u32(0..10) {
            0 => format!("BEGIN; {body}; {update}; ROLLBACK"),
            1 => format!("BEGIN; SAVEPOINT a; {body}; ROLLBACK TO a; {body}; SAVEPOINT b; {update}; RELEASE b; COMMIT"),
            2 => format!("BEGIN; {body}; SELECT pg_sleep({pause}); {update}; COMMIT"),
            3 => format!("BEGIN; SELECT pg_sleep({pause}); {body}; COMMIT"),
            4 => format!("BEGIN; {body}; {update}; PREPARE TRANSACTION '{gid}'"),
            5 => update,
            _ => body,
        };
        let is_prepared = statements.contains("PREPARE");
        let written = client.batch_execute(&statements);
        let ended = written.and_then(|()| {
            if !is_prepared {
                return Ok(());
            }
            thread::sleep(Duration::from_secs_f64(pause));
            client.batch_execute(&format!("{} PREPARED '{gid}'", if fastrand::bool() { "COMMIT" } else { "ROLLBACK" }))
        });
        if ended.is_err() && client.is_closed() {
            client = session_of_writer(cluster, database, writer);
        } else if ended.is_err() {
            let _ = client.batch_execute("ROLLBACK");
        }
    }
}

/// Runs the feed once. Gives the number of documents, `None` where it failed.
fn run(client: &mut Session, mark: &str) -> Option<i64> {
    let row = client.query_one(&format!("SELECT num_docs_inserted FROM s3_export.run_feed('{mark}')"), &[]);
    client.settle();
    row.ok().map(|row| row.get(0))
}

/// The documents of all manifests of the feed, in the order of their numbers, which have no gap.
pub fn exported(db: &Database, prefix: &str, mark: &str) -> Vec<Value> {
    let mut manifests = db.bucket.manifests(&format!("{prefix}/{mark}"));
    manifests.sort();
    let mut documents = Vec::new();
    for (key, number) in manifests.iter().zip(1..) {
        assert!(key.ends_with(&format!("/_{mark}-{number:010}.manifest")), "{key} is not number {number}");
        let manifest: Value = serde_json::from_slice(&db.bucket.get(key)).unwrap();
        let feed = &manifest["s3_export"]["feed"];
        assert_eq!(feed["run"], number);
        for entry in manifest["entries"].as_array().unwrap() {
            let body = db.bucket.get(db.bucket.key(entry["url"].as_str().unwrap()));
            documents.extend(
                body.split(|byte| *byte == b'\n')
                    .filter(|line| !line.is_empty())
                    .map(|line| serde_json::from_slice::<Value>(line).unwrap()),
            );
        }
    }
    documents
}

fn setup(client: &mut Session, db: &Database, prefix: &str) {
    client
        .batch_execute(
            "CREATE TABLE versions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, writer int NOT NULL, version int NOT NULL DEFAULT 1,
                 body text NOT NULL, written timestamptz NOT NULL DEFAULT now());
             INSERT INTO versions (writer, body) SELECT 0, 'before' FROM generate_series(1, 100)",
        )
        .unwrap();
    let statements = client.text("SELECT s3_export.feed_setup('versions.changed_in')");
    client.batch_execute(&statements).unwrap();
    for (mark, column, condition) in [
        ("xid", "changed_in", "changed_in >= pg_snapshot_xmin($1) AND NOT pg_visible_in_snapshot(changed_in, $1)"),
        ("sequence", "id", "id > $1 AND id <= $2"),
        ("time", "written", "written >= $1 AND written < $2"),
    ] {
        let query = format!("SELECT id, version, writer, body FROM versions WHERE {condition}");
        client
            .batch_execute(&format!(
                "SELECT s3_export.create_feed('{mark}', '{}', 'faulty', {}, '{mark}', 'versions.{column}', lag => '1s', wait => '20s',
                     wrap_types => false, output_chunk_size => 50)",
                db.bucket.uri(&format!("{prefix}/{mark}")),
                literal(&query)
            ))
            .unwrap();
    }
}

#[test]
fn every_row_version_is_in_the_manifests_exactly_once() {
    let seconds = std::env::var("FEED_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    let db = Database::new("feed_writers");
    let prefix = db.prefix();
    let (manifests, crash, heal) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let gateway = {
        let (manifests, crash, heal) = (Arc::clone(&manifests), Arc::clone(&crash), Arc::clone(&heal));
        Gateway::to(&Integration::local().endpoint, move |request| {
            if heal.load(Ordering::Relaxed) {
                return Action::Forward;
            }
            if request.step() == "manifest" && manifests.fetch_add(1, Ordering::Relaxed) % 12 == 11 {
                // The manifest is stored, and nobody will commit.
                crash.store(true, Ordering::Relaxed);
                return Action::Delay(Duration::from_secs(2));
            }
            match fastrand::u32(0..100) {
                0 => Action::Drop,
                1 => Action::LoseAnswer,
                2 => Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into()),
                _ => Action::Forward,
            }
        })
    };
    db.create(&Integration { name: "faulty", endpoint: gateway.endpoint(), ..Integration::local() });
    setup(&mut db.client(), &db, &prefix);
    let cluster = Arc::new(Cluster::copy_with("-c max_prepared_transactions=20 -c max_connections=60"));
    let stop = AtomicBool::new(false);
    let (mut runs, mut crashes, mut kills) = (0, 0, 0);
    thread::scope(|scope| {
        for writer in 1..=WRITERS {
            let (cluster, database, stop) = (&cluster, db.name.as_str(), &stop);
            scope.spawn(move || write(cluster, database, writer, stop));
        }
        let feeds: Vec<_> = MARKS
            .iter()
            .map(|mark| {
                let (cluster, database, stop) = (&cluster, db.name.as_str(), &stop);
                scope.spawn(move || {
                    let (mut client, mut runs) = (session(cluster, database), 0);
                    while !stop.load(Ordering::Relaxed) {
                        runs += i32::from(run(&mut client, mark).is_some());
                        if client.is_closed() {
                            client = session(cluster, database);
                        }
                        thread::sleep(Duration::from_millis(fastrand::u64(0..300)));
                    }
                    runs
                })
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            thread::sleep(Duration::from_millis(100));
            if crash.swap(false, Ordering::Relaxed) {
                // Postgres ends all sessions, and recovers.
                let client = session(&cluster, &db.name);
                kill(client.pid);
                crashes += 1;
            } else if fastrand::u32(0..15) == 0 {
                let mut client = session(&cluster, &db.name);
                let ended = client.query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%run_feed%' AND pid <> pg_backend_pid() LIMIT 1",
                    &[],
                );
                kills += ended.map_or(0, |rows| rows.len());
            }
        }
        stop.store(true, Ordering::Relaxed);
        runs += feeds.into_iter().map(|feed| feed.join().unwrap()).sum::<i32>();
    });
    heal.store(true, Ordering::Relaxed);

    let mut client = session(&cluster, &db.name);
    let gids = client.query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()", &[]).unwrap();
    for gid in gids {
        client.batch_execute(&format!("COMMIT PREPARED '{}'", gid.get::<_, String>(0))).unwrap();
    }
    thread::sleep(Duration::from_millis(1500));
    for mark in MARKS {
        // Once for what is left, and once to see that nothing is new.
        run(&mut client, mark).unwrap_or_else(|| panic!("{mark}: {:?}", client.notices()));
        assert_eq!(run(&mut client, mark), Some(0), "{mark}");
    }
    let rows = client.query("SELECT id, version::bigint, writer || body FROM versions", &[]).unwrap();
    let table: HashMap<i64, (i64, String)> = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    println!("{runs} runs, {crashes} crashes, {kills} backends ended, {} rows", table.len());
    for mark in MARKS {
        let documents = exported(&db, &prefix, mark);
        let (mut versions, mut latest) = (HashSet::new(), HashMap::new());
        for document in &documents {
            let (id, version) = (document["id"].as_i64().unwrap(), document["version"].as_i64().unwrap());
            assert!(versions.insert((id, version)), "{mark}: version {version} of row {id} is exported twice");
            let text = format!("{}{}", document["writer"], document["body"].as_str().unwrap());
            let newest = latest.entry(id).or_insert((version, text.clone()));
            if version > newest.0 {
                *newest = (version, text);
            }
        }
        let missing: Vec<_> = table.keys().filter(|id| !latest.contains_key(id)).collect();
        assert!(missing.is_empty(), "{mark}: {} of {} rows are missing: {missing:?}", missing.len(), table.len());
        assert_eq!(latest.len(), table.len(), "{mark}: rows are exported that were rolled back");
        if mark == "xid" {
            // The last version of each row, and some in between.
            assert_eq!(latest, table, "{mark}");
        } else {
            assert_eq!(documents.len(), table.len(), "{mark}");
        }
    }
    assert!(crashes > 0 && kills > 0 && runs > 20, "{runs} runs, {crashes} crashes, {kills} backends ended");
}

pub fn kill(pid: i32) {
    assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}
