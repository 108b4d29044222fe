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
    Action, Database, Gateway, Integration, Proxy, Running, Session, messages, private_memory, refused, threads, wait_for,
};

/// How long a backend has to answer.
pub const ANSWERS: Duration = Duration::from_secs(20);
/// Runs for hours, a file about every ten milliseconds.
const ENDLESS: &str = "SELECT i, pg_sleep(0.001)::text AS s FROM generate_series(1, 10000000) i";

/// An export that has written some files and goes on.
fn under_way(db: &Database, client: Session, prefix: &str) -> Running {
    let running = client.start(&format!("SELECT {}", db.call(prefix, ENDLESS, "output_chunk_size => 10")));
    wait_for("some files", || (running.is_finished() || db.bucket.files(prefix).len() >= 3).then_some(()));
    running
}

/// Calls a function that signals the backend.
pub fn send(db: &Database, function: &str, pid: i32) {
    assert_eq!(db.client().text(&format!("SELECT {function}({pid})")), "t");
}

/// Waits until the process is gone.
pub fn wait_for_exit(pid: i32) {
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

/// Nothing stops an encoder between two looks at the cancel; the end of the transaction waits for the next look.
#[test]
fn no_encoder_outlives_its_transaction() {
    let db = Database::new("cancel_encoders");
    let mut client = db.client();
    client
        .batch_execute(
            // As large as values may be that are compressed at the hardest level.
            "CREATE TABLE big AS SELECT (SELECT string_agg(md5((i * n)::text), '') FROM generate_series(1, 1900) i) AS t
             FROM generate_series(1, 600) n",
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
        assert!(memory < first + 400 * 1024, "{arguments}: {memory} kB, {first} kB after the first");
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
        // What leaks would grow in each round; the allocator may keep a large buffer once, whenever the machine is busy.
        let leaks = memory.windows(2).all(|pair| pair[1] > pair[0] + 2 * 1024);
        assert!(!leaks, "{query}: {memory:?} kB after each");
    }
}
