//! Cancel, terminate and timeouts while an export runs: the backend answers, and deletes what it wrote.
//!
//! The limits here are generous: they tell an answer from none, on the slowest machine, not a fast one from a slow one.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::fixture::{
    Action, Cluster, Database, Gateway, Integration, Proxy, Running, Session, hung_endpoint, messages, private_memory, refused,
    threads, unreachable_endpoint, wait_for,
};

const ANSWERS: Duration = Duration::from_secs(20);
/// Runs for hours, a file about every ten milliseconds.
const ENDLESS: &str = "SELECT i, pg_sleep(0.001)::text AS s FROM generate_series(1, 10000000) i";

/// An export that has written some files and goes on.
fn under_way(db: &Database, client: Session, prefix: &str) -> Running {
    let running = client.start(&format!("SELECT {}", db.call(prefix, ENDLESS, "output_chunk_size => 10")));
    wait_for("some files", || (running.is_finished() || db.bucket.files(prefix).len() >= 3).then_some(()));
    running
}

/// An export whose uploads never get an answer.
fn hung(db: &Database, cleanup_timeout: &str, query: &str) -> Running {
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Hang);
    db.create(&Integration { name: "hung", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute(&format!("SET s3_export.cleanup_timeout = '{cleanup_timeout}'")).unwrap();
    let running = client.start(&format!("SELECT {}", db.call(&db.prefix(), query, "").replace("'local'", "'hung'")));
    let mut witness = db.client();
    // It waits for credentials too, before anything is sent.
    let waits = |witness: &mut Session| !gateway.requests().is_empty() && witness.sees_waiting(running.pid);
    wait_for("the export to wait for S3", || waits(&mut witness).then_some(()));
    running
}

fn send(db: &Database, function: &str, pid: i32) {
    assert_eq!(db.client().text(&format!("SELECT {function}({pid})")), "t");
}

fn wait_for_exit(pid: i32) {
    wait_for("the backend to exit", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

/// A store that takes longer than a moment to answer is warned of, on a slow machine too.
fn only_what_was_cut_off(client: &Session) {
    let warnings = messages(&client.notices());
    assert!(warnings.is_empty() || warnings.contains("cut off before S3 had answered"), "{warnings}");
}

#[test]
fn cancel_during_an_export_leaves_nothing_behind() {
    let db = Database::new("cancelled");
    let prefix = db.prefix();
    let running = under_way(&db, db.client(), &prefix);
    send(&db, "pg_cancel_backend", running.pid);
    let (mut client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014").message("user request");
    only_what_was_cut_off(&client);
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
}

#[test]
fn terminate_during_an_export_leaves_nothing_behind_and_nobody_else_notices() {
    let db = Database::new("terminated");
    let (mut witness, prefix) = (db.client(), db.prefix());
    let running = under_way(&db, db.client(), &prefix);
    let pid = running.pid;
    send(&db, "pg_terminate_backend", pid);
    refused(running.join_within(ANSWERS).1).sqlstate("57P01");
    wait_for_exit(pid);
    db.bucket.nothing_left(&prefix);
    assert_eq!(witness.text("SELECT 'still here'"), "still here");
}

#[test]
fn statement_timeout_during_an_export_leaves_nothing_behind() {
    let db = Database::new("statement_timeout");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET statement_timeout = '700ms'").unwrap();
    let (mut client, outcome) = under_way(&db, client, &prefix).join_within(ANSWERS);
    refused(outcome).sqlstate("57014").message("statement timeout");
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
    assert_eq!(client.text("SELECT 1"), "1");
}

#[test]
fn a_cancelled_export_can_be_caught_and_the_transaction_goes_on() {
    let db = Database::new("cancel_caught");
    let (first, second) = (db.prefix(), db.prefix());
    let body = format!(
        "DO $$ BEGIN
             BEGIN PERFORM {}; EXCEPTION WHEN query_canceled THEN NULL; END;
             PERFORM {};
         END $$",
        db.call(&first, ENDLESS, "output_chunk_size => 10"),
        db.call(&second, "SELECT 1 AS a", "")
    );
    let running = db.client().start(&body);
    wait_for("some files", || (db.bucket.files(&first).len() >= 3).then_some(()));
    send(&db, "pg_cancel_backend", running.pid);
    let (client, outcome) = running.join_within(ANSWERS);
    outcome.unwrap();
    db.bucket.nothing_left(&first);
    assert_eq!(db.bucket.manifests(&second).len(), 1);
    assert_eq!(threads(client.pid), 1);
}

/// A request that is cut off may still be carried out by S3 a moment later: the clean-up has to come after it.
fn cancel_at_many_moments(db: &Database, query: &str, arguments: &str) {
    let (mut client, mut witness) = (db.client(), db.client());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    for round in 0..20 {
        let prefix = db.prefix();
        let running = client.start(&format!("SELECT {}", db.call(&prefix, query, arguments)));
        let active = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active'";
        wait_for("the export to begin", || witness.query_opt(active, &[&running.pid]).unwrap());
        std::thread::sleep(Duration::from_millis(5 + 17 * round));
        send(db, "pg_cancel_backend", running.pid);
        let outcome;
        (client, outcome) = running.join_within(ANSWERS * 4);
        refused(outcome).sqlstate("57014");
        only_what_was_cut_off(&client);
        assert_eq!(threads(client.pid), 1, "a thread outlives the transaction");
        db.bucket.nothing_left(&prefix);
    }
    // What was cut off is carried out by now, if ever.
    std::thread::sleep(Duration::from_secs(1));
    db.bucket.nothing_left(&db.name);
}

#[test]
fn cancels_at_any_moment_leave_no_file_behind_not_even_later() {
    let db = Database::new("any_moment");
    let query = "SELECT i, repeat('x', 3000) AS t FROM generate_series(1, 10000000) i";
    cancel_at_many_moments(&db, query, "output_chunk_size => 20");
}

#[test]
fn cancels_at_any_moment_leave_no_multipart_upload_behind_not_even_later() {
    let db = Database::new("any_moment_parts");
    let query = "SELECT i, repeat('x', 9000000) AS t FROM generate_series(1, 1000) i";
    cancel_at_many_moments(&db, query, "output_chunk_size => 2");
}

#[test]
fn cancels_at_any_moment_of_parquets_encoding_leave_nothing_behind() {
    let db = Database::new("any_moment_parquet");
    let query = "SELECT i, repeat(md5(i::text), 30) AS t FROM generate_series(1, 10000000) i";
    let rest = r#"format => 'parquet', output_chunk_bytes => 20000000, options => '{"compression_level": 19}'"#;
    cancel_at_many_moments(&db, query, rest);
}

/// Proxies and stores keep a whole request and carry it out when the client is long gone. What was sent, and neither
/// answered nor known to be refused, may come into being after its key was deleted.
#[test]
fn a_file_that_arrives_after_the_clean_up_was_named_in_a_warning() {
    let db = Database::new("late_file");
    let proxy = Proxy::to(&db.environment().endpoint);
    db.create(&Integration { name: "proxied", endpoint: proxy.endpoint(), ..Integration::local() });
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.cleanup_timeout = '2s'").unwrap();
    proxy.hang();
    let call = db.call(&prefix, "SELECT 1 AS a", "").replace("'local'", "'proxied'");
    let running = client.start(&format!("SELECT {call}"));
    let mut witness = db.client();
    wait_for("the export to wait for S3", || witness.sees_waiting(running.pid).then_some(()));
    wait_for("the request to be sent", || proxy.has_connections().then_some(()));
    proxy.hang_old_connections();
    send(&db, "pg_cancel_backend", running.pid);
    let (client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    proxy.release();
    std::thread::sleep(Duration::from_secs(1));
    let warned = messages(&client.notices()).contains(&db.bucket.uri(&prefix));
    assert!(warned || db.bucket.list(&prefix).is_empty(), "a file was left behind, and nobody was told");
}

#[test]
fn cancel_during_a_hung_upload_is_answered() {
    let db = Database::new("hung_cancel");
    let running = hung(&db, "0", "SELECT 1 AS a");
    send(&db, "pg_cancel_backend", running.pid);
    let (mut client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    assert_eq!(threads(client.pid), 1);
    let warnings = client.notices();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "58030");
    assert!(warnings[0].message().contains("may remain in S3") && warnings[0].hint().is_some(), "{warnings:?}");
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1, "by another integration");
}

/// Wherever an upload hangs: no connection, no TLS, no policy.
#[test]
fn cancel_is_answered_whatever_an_upload_waits_for() {
    let db = Database::new("hung_everywhere");
    let busy = Gateway::to(&Integration::local().endpoint, |_| {
        Action::Answer("HTTP/1.1 503 Slow Down".into(), "<Error><Code>SlowDown</Code></Error>".into())
    });
    for (name, endpoint) in [
        ("connect", unreachable_endpoint()),
        ("handshake", hung_endpoint().replace("http:", "https:")),
        ("backoff", busy.endpoint()),
    ] {
        db.create(&Integration { name, endpoint, ..Integration::local() });
        for function in ["pg_cancel_backend", "pg_terminate_backend"] {
            let mut client = db.client();
            client.batch_execute("SET s3_export.cleanup_timeout = '100ms'; SET s3_export.request_attempts = 1000").unwrap();
            let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", &format!("'{name}'"));
            let running = client.start(&format!("SELECT {call}"));
            let (pid, mut witness) = (running.pid, db.client());
            wait_for("the export to wait for S3", || witness.sees_waiting(pid).then_some(()));
            send(&db, function, pid);
            let (_session, outcome) = running.join_within(ANSWERS);
            let refusal = refused(outcome);
            if function == "pg_cancel_backend" {
                refusal.sqlstate("57014");
                assert_eq!(threads(pid), 1, "{name}");
            } else {
                refusal.sqlstate("57P01");
                wait_for_exit(pid);
            }
        }
    }
}

#[test]
fn a_client_that_vanishes_ends_its_export() {
    let db = Database::new("vanished");
    let environment = db.environment();
    let proxy = Proxy::to(&format!("http://127.0.0.1:{}", environment.port));
    let (host, port) = proxy
        .endpoint()
        .strip_prefix("http://")
        .unwrap()
        .split_once(':')
        .map(|(h, p)| (h.to_owned(), p.parse().unwrap()))
        .unwrap();
    let mut client = environment.try_session_at(&host, port, &db.name, "postgres").unwrap();
    client.batch_execute("SET client_connection_check_interval = '50ms'").unwrap();
    let prefix = db.prefix();
    let running = under_way(&db, client, &prefix);
    let pid = running.pid;
    proxy.heal();
    assert!(running.join_within(ANSWERS).1.is_err());
    wait_for_exit(pid);
    db.bucket.nothing_left(&prefix);
}

#[test]
fn cancel_while_the_buffer_is_full_is_answered() {
    let db = Database::new("hung_full");
    let running = hung(&db, "1s", "SELECT repeat('x', 1000000) AS t FROM generate_series(1, 10000)");
    send(&db, "pg_cancel_backend", running.pid);
    let (client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn terminate_during_a_hung_upload_is_answered() {
    let db = Database::new("hung_terminate");
    let mut witness = db.client();
    let running = hung(&db, "1s", "SELECT 1 AS a");
    let pid = running.pid;
    send(&db, "pg_terminate_backend", pid);
    refused(running.join_within(ANSWERS).1).sqlstate("57P01");
    wait_for_exit(pid);
    assert_eq!(witness.text("SELECT 'still here'"), "still here");
}

#[test]
fn statement_timeout_during_a_hung_upload_is_answered() {
    let db = Database::new("hung_timeout");
    db.create(&Integration { name: "hung", endpoint: hung_endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute("SET s3_export.cleanup_timeout = 0; SET statement_timeout = '300ms'").unwrap();
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'hung'");
    let (client, outcome) = client.start(&format!("SELECT {call}")).join_within(ANSWERS);
    refused(outcome).sqlstate("57014").message("statement timeout");
    assert_eq!(threads(client.pid), 1);
}

#[test]
fn the_clean_up_of_a_hung_upload_ends_by_itself() {
    let db = Database::new("hung_clean_up");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Hang);
    db.create(&Integration { name: "hung", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute("SET s3_export.cleanup_timeout = '1500ms'").unwrap();
    let call = db.call(&db.prefix(), "SELECT generate_series(1, 5000) AS i", "").replace("'local'", "'hung'");
    let running = client.start(&format!("SELECT {call}"));
    wait_for("all five files to be sent", || (gateway.requests().len() >= 5).then_some(()));
    send(&db, "pg_cancel_backend", running.pid);
    let (client, outcome) = running.join_within(ANSWERS);
    refused(outcome).sqlstate("57014");
    let detail = client.notices()[0].detail().unwrap_or_default().to_owned();
    assert!(detail.contains("-000001.json") && detail.contains("and 2 more"), "{detail}");
}

/// Nothing stops an encoder between two looks at the cancel; the end of the transaction waits for the next look.
#[test]
fn no_encoder_outlives_its_transaction() {
    let db = Database::new("cancel_encoders");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE big AS SELECT (SELECT string_agg(md5((i * n)::text), '') FROM generate_series(1, 30000) i) AS t
             FROM generate_series(1, 60) n",
        )
        .unwrap();
    let parquet = |compression: &str, level: u32| {
        format!("format => 'parquet', compression => '{compression}', options => '{{\"compression_level\": {level}}}'")
    };
    let mut after_first = None;
    for arguments in [
        parquet("zstd", 19),
        parquet("zstd", 16),
        parquet("gzip", 9),
        "compression => 'zstd', options => '{\"compression_level\": 19}'".to_owned(),
        parquet("zstd", 19),
        parquet("zstd", 19),
    ] {
        client.batch_execute("SET statement_timeout = '1s'").unwrap();
        let cancelled = db.export_in(&mut client, "SELECT b.t, c.t AS u FROM big b, big c", &arguments);
        refused(cancelled).sqlstate("57014");
        assert_eq!(threads(client.pid), 1, "{arguments}");
        let memory = private_memory(client.pid).unwrap();
        let first = *after_first.get_or_insert(memory);
        assert!(memory < first + 100 * 1024, "{arguments}: {memory} kB, {first} kB after the first");
    }
    client.batch_execute("SET statement_timeout = 0").unwrap();
    // A value that takes long at that level is written with less effort, for the same reason.
    db.export_in(&mut client, "SELECT repeat('x', 2000000) AS t", &parquet("zstd", 19)).unwrap();
}

/// A way to the database by a Unix socket, whose buffers a few hundred messages fill, for one client, that stops reading while
/// `hang` says so: then the backend waits within the message that it sends.
struct SlowReader {
    folder: PathBuf,
    hang: Arc<AtomicBool>,
}

impl SlowReader {
    /// Also gives the client.
    fn connect(db: &Database) -> (Self, Session) {
        let environment = db.environment();
        let socket = |folder: &Path| folder.join(format!(".s.PGSQL.{}", environment.port));
        let reader = SlowReader { folder: std::env::temp_dir().join(&db.name), hang: Arc::default() };
        std::fs::create_dir(&reader.folder).unwrap();
        let listener = UnixListener::bind(socket(&reader.folder)).unwrap();
        let (server, hang) = (socket(environment.host.as_ref()), Arc::clone(&reader.hang));
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut server = UnixStream::connect(server).unwrap();
            let (mut requests, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut requests, &mut to_server));
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = server.read(&mut buffer) {
                while hang.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if client.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
        });
        let client =
            environment.try_session_at(reader.folder.to_str().unwrap(), environment.port, &db.name, "postgres").unwrap();
        (reader, client)
    }
}

impl Drop for SlowReader {
    fn drop(&mut self) {
        self.hang.store(false, Ordering::Relaxed);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A message below ERROR answers interrupts, and a jump out of it must not skip what has to be undone. A cancel that comes while
/// the message is being sent is answered at the end of the message, and nowhere else.
#[test]
fn cancels_that_are_answered_inside_a_notice_leave_the_session_as_it_was() {
    let db = Database::new("cancel_notice");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Hang);
    db.create(&Integration { name: "hung", endpoint: gateway.endpoint(), ..Integration::local() });
    let (reader, mut client) = SlowReader::connect(&db);
    client.batch_execute("SET s3_export.cleanup_timeout = 0; SET s3_export.progress_interval = '1ms'").unwrap();
    let mut witness = db.client();
    // Nothing but notices is sent to the client. While files are waited for; with a piece that finds no room.
    for query in ["SELECT 1 AS a", "SELECT repeat('x', 1000000) AS t FROM generate_series(1, 10000)"] {
        let mut memory = Vec::new();
        for round in 0..4 {
            let call = db.call(&db.prefix(), query, r#"options => '{"timeout": "1h"}'"#).replace("'local'", "'hung'");
            reader.hang.store(true, Ordering::Relaxed);
            let running = client.start(&format!("SELECT {call}"));
            let sends = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientWrite'";
            wait_for("the backend to wait within a notice", || witness.query_opt(sends, &[&running.pid]).unwrap());
            send(&db, "pg_cancel_backend", running.pid);
            reader.hang.store(false, Ordering::Relaxed);
            let outcome;
            (client, outcome) = running.join_within(ANSWERS);
            refused(outcome).sqlstate("57014").message("user request");
            assert_eq!(threads(client.pid), 1);
            db.export_in(&mut client, "SELECT 1 AS a", "").unwrap_or_else(|error| panic!("{query}, {round}: {error:?}"));
            memory.push(private_memory(client.pid).unwrap());
        }
        assert!(memory[3] < memory[0] + 10 * 1024, "{query}: {memory:?} kB after each");
    }
}

/// Each savepoint took the whole time of a clean-up, with the transaction's locks held.
#[test]
fn a_rollback_of_many_savepoints_takes_the_time_of_one_clean_up() {
    let db = Database::new("clean_up_savepoints");
    let proxy = Proxy::to(&Integration::local().endpoint);
    db.create(&Integration { name: "slow", endpoint: proxy.endpoint(), ..Integration::local() });
    for end in ["ROLLBACK", "ROLLBACK TO s; ROLLBACK", "SELECT pg_terminate_backend(pg_backend_pid())"] {
        let mut client = db.client();
        client.batch_execute("SET s3_export.cleanup_timeout = '1s'; BEGIN; SAVEPOINT s").unwrap();
        for _ in 0..6 {
            let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'slow'");
            client.batch_execute(&format!("SAVEPOINT s; SELECT {call}")).unwrap();
        }
        proxy.hang();
        let start = std::time::Instant::now();
        let (client, outcome) = client.start(end).join();
        assert_eq!(outcome.is_ok(), end.starts_with("ROLLBACK"), "{outcome:?}");
        wait_for("the session to be free", || (threads(client.pid) <= 1).then_some(()));
        assert!(start.elapsed() < Duration::from_secs(4), "{end}: {:?}", start.elapsed());
        proxy.heal();
    }
}

/// DROP DATABASE waits until every backend has closed its files, whatever that backend does.
#[test]
fn a_clean_up_that_hangs_shows_a_wait_event_and_holds_up_no_drop_of_another_database() {
    let db = Database::new("clean_up_barrier");
    let other = Database::empty("clean_up_other", "");
    let proxy = Proxy::to(&Integration::local().endpoint);
    db.create(&Integration { name: "slow", endpoint: proxy.endpoint(), ..Integration::local() });
    let (mut client, mut witness) = (db.client(), db.client());
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'; BEGIN").unwrap();
    client
        .batch_execute(&format!("SELECT {}", db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'slow'")))
        .unwrap();
    proxy.hang();
    let running = client.start("ROLLBACK");
    wait_for("the clean-up to wait", || witness.sees_hanging(running.pid).then_some(()));
    let start = std::time::Instant::now();
    witness.batch_execute(&format!("DROP DATABASE {}", other.name)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(!running.is_finished(), "the clean-up ended too early for the test to show anything");
    proxy.release();
    running.join().1.unwrap();
}

/// The end of the transaction waited for the read for ever, and passed no barrier meanwhile.
#[test]
fn a_file_server_that_hangs_holds_up_no_session_and_no_drop_of_another_database() {
    let db = Database::new("hung_file");
    let endpoint = Integration::local().endpoint;
    db.client()
        .batch_execute(&format!(
            "SELECT s3_export.create_integration('profile', credential_source => 'profile', options => '{{\"aws_profile\": \"x\"}}',
                 endpoint => '{endpoint}', path_style => true, allowed_locations => '{{s3://exports}}')"
        ))
        .unwrap();
    let fifo = db.environment().run_dir.join(format!("{}.fifo", db.name));
    assert!(std::process::Command::new("mkfifo").args(["-m", "666"]).arg(&fifo).status().unwrap().success());
    let files = [("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", fifo.to_str().unwrap())];
    let cluster = Cluster::copy_in(&files);
    let (mut client, mut witness) = (cluster.session(&db.name, "postgres"), cluster.session(&db.name, "postgres"));
    witness.batch_execute("CREATE DATABASE other").unwrap();
    client.batch_execute("SET statement_timeout = '1s'").unwrap();
    let call = db.call(&db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'profile'");
    let running = client.start(&format!("SELECT {call}"));
    std::thread::sleep(Duration::from_secs(3));
    let start = std::time::Instant::now();
    witness.batch_execute("DROP DATABASE other").unwrap();
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert!(!running.is_finished(), "the read ended too early for the test to show anything");
    // Nobody ever writes into the file; the session is free all the same.
    let (mut client, outcome) = running.join_within(Duration::from_secs(60));
    refused(outcome).sqlstate("57014");
    assert_eq!(client.text("SELECT 1"), "1");
    std::fs::remove_file(&fifo).unwrap();
}
