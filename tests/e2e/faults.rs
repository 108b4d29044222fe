//! A fault at every step, end to end: a transient one is survived, a permanent one leaves nothing, and the backend is as good as new.
//! Every fault at every step is in `core/tests/upload`, without Postgres.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::fixture::{Action, Bucket, Database, Gateway, Integration, Session, messages, refused, threads};

/// Fault of a store or of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// 503 SlowDown
    SlowDown,
    /// 500 InternalError
    InternalError,
    /// 403 AccessDenied: no attempt changes it.
    Denied,
    /// The answer is cut off within its headers.
    CutLate,
    /// The connection breaks before the request is heard.
    Drop,
    /// The work is done, and nobody is told.
    LoseAnswer,
}

/// A fault that passes, and one that stays.
const FAULTS: [(Fault, u32); 2] = [(Fault::LoseAnswer, 1), (Fault::Denied, u32::MAX)];

impl Fault {
    fn action(self) -> Action {
        let error = |status: &str, code: &str| {
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>scripted</Message></Error>");
            Action::Answer(format!("HTTP/1.1 {status}\r\ncontent-type: application/xml"), body)
        };
        match self {
            Fault::SlowDown => error("503 Slow Down", "SlowDown"),
            Fault::InternalError => error("500 Internal Server Error", "InternalError"),
            Fault::Denied => error("403 Forbidden", "AccessDenied"),
            Fault::CutLate => Action::Cut(40),
            Fault::Drop => Action::Drop,
            Fault::LoseAnswer => Action::LoseAnswer,
        }
    }
}

/// A session whose exports go through a gateway that does `fault` to the first `times` requests of `step`. Of the scenes of a
/// database the newest has the integration.
struct Scene<'a> {
    db: &'a Database,
    client: Session,
    gateway: Gateway,
}

impl<'a> Scene<'a> {
    fn new(db: &'a Database, step: &'static str, fault: Fault, times: u32) -> Self {
        let met = AtomicU32::new(0);
        let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
            if request.step() == step && met.fetch_add(1, Ordering::Relaxed) < times { fault.action() } else { Action::Forward }
        });
        let mut client = db.client();
        let cleanup_time = if step == "delete" { "6s" } else { "60s" };
        client.batch_execute(&format!("SET s3_export.cleanup_timeout = '{cleanup_time}'")).unwrap();
        client.batch_execute("DELETE FROM s3_export.integrations WHERE name = 'faulty'").unwrap();
        Integration { name: "faulty", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut client).unwrap();
        Scene { db, client, gateway }
    }

    /// Two small files, or a large one of three parts.
    fn call(&self, prefix: &str, large: bool) -> String {
        let (query, size) = match large {
            false => ("SELECT a FROM generate_series(1, 20) AS a", 10),
            true => ("SELECT repeat('x', 1000) AS a FROM generate_series(1, 17000)", 100_000),
        };
        self.db.call(prefix, query, &format!("output_chunk_size => {size}")).replace("'local'", "'faulty'")
    }

    /// Temporary tables that Postgres cannot empty at the end of the transaction, which it finds out after the manifest was
    /// written.
    fn commit_too_late(&mut self, call: &str) {
        let tables = "CREATE TEMP TABLE emptied (i int PRIMARY KEY) ON COMMIT DELETE ROWS; CREATE TEMP TABLE kept (i int REFERENCES emptied)";
        self.client.batch_execute(&format!("BEGIN; {tables}; SELECT {call}")).unwrap();
        refused(self.client.batch_execute("COMMIT")).sqlstate("0A000");
        self.client.settle();
    }

    /// Checks what holds after any outcome.
    fn is_as_good_as_new(&mut self, what: &str) {
        assert_eq!(threads(self.client.pid), 1, "{what}");
        let exported = self.db.export_in(&mut self.client, "SELECT 1 AS a", "").unwrap();
        assert_eq!(self.db.bucket.manifests(&exported.prefix).len(), 1, "{what}");
    }
}

fn small(step: &str) -> bool {
    matches!(step, "put" | "manifest")
}

fn cross(step: &'static str) {
    let db = Database::new(&format!("fault_{step}"));
    let mut witness = db.client();
    for (fault, times) in FAULTS {
        let what = format!("{step}, {fault:?}");
        let mut scene = Scene::new(&db, step, fault, times);
        let prefix = scene.db.prefix();
        let call = scene.call(&prefix, !small(step));
        let outcome = scene.db.exported(&mut scene.client, &call, &prefix);
        assert!(scene.gateway.requests().iter().any(|request| request.step() == step), "{what}: the step was not met");
        if times == 1 {
            let exported = outcome.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            let documents: HashSet<String> = scene.db.bucket.documents(&prefix).into_iter().collect();
            assert_eq!(documents.len(), if small(step) { 20 } else { 1 }, "{what}");
            let bytes: i64 = scene.db.bucket.files(&prefix).iter().map(|file| file.bytes).sum();
            assert_eq!((bytes, scene.db.bucket.manifests(&prefix).len()), (exported.bytes, 1), "{what}");
            assert!(scene.db.bucket.multipart_uploads(&prefix).is_empty(), "{what}");
        } else {
            let refusal = refused(outcome);
            assert!(["08001", "42501", "57014", "58030"].contains(&refusal.0.code().code()), "{what}: {refusal:?}");
            let left: Vec<String> = scene.db.bucket.list(&prefix).into_iter().map(|object| object.key).collect();
            let uploads = scene.db.bucket.multipart_uploads(&prefix);
            let notices = messages(&scene.client.notices());
            assert!(left.is_empty() && uploads.is_empty(), "{what}: {left:?} {uploads:?} {notices}");
        }
        scene.is_as_good_as_new(&what);
        assert_eq!(witness.text("SELECT 1"), "1", "{what}");
    }
}

#[test]
fn faults_of_a_put() {
    cross("put");
}

#[test]
fn faults_of_the_manifest() {
    cross("manifest");
}

#[test]
fn faults_of_the_beginning_of_a_multipart_upload() {
    cross("create");
}

#[test]
fn faults_of_a_part() {
    cross("part");
}

#[test]
fn faults_of_the_completion_of_a_multipart_upload() {
    cross("complete");
}

/// Deletes come from a rollback alone.
#[test]
fn faults_of_a_delete() {
    let db = Database::new("fault_delete");
    for (fault, times) in FAULTS {
        let what = format!("delete, {fault:?}");
        let mut scene = Scene::new(&db, "delete", fault, times);
        let prefix = scene.db.prefix();
        let call = scene.call(&prefix, false);
        scene.client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
        let notices = messages(&scene.client.notices());
        let left = scene.db.bucket.list(&prefix);
        assert!(scene.db.bucket.manifests(&prefix).is_empty(), "{what}");
        if times == 1 {
            assert!(left.is_empty() && notices.is_empty(), "{what}: {left:?} {notices}");
        } else {
            assert!(notices.contains("may remain in S3"), "{what}: {notices}");
        }
        scene.is_as_good_as_new(&what);
    }
}

/// No connection comes about, or every one of them breaks at once.
#[test]
fn faults_of_a_connection() {
    let db = Database::new("fault_connect");
    let mut client = db.client();
    client.batch_execute("SET s3_export.request_timeout = '3s'; SET s3_export.cleanup_timeout = '1s'").unwrap();
    let dropped = Gateway::to(&Integration::local().endpoint, |_| Action::Drop);
    for (name, endpoint) in [
        ("refused", "http://127.0.0.1:1".to_owned()),
        ("unreachable", super::fixture::unreachable_endpoint()),
        ("dropped", dropped.endpoint()),
        ("handshake", super::fixture::hung_endpoint().replace("http:", "https:")),
    ] {
        Integration { name, endpoint, ..Integration::local() }.create(&mut client).unwrap();
        refused(db.export_by(&mut client, name, "SELECT 1 AS a")).sqlstate("08001");
        assert_eq!(threads(client.pid), 1, "{name}");
        db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    }
}

/// The reply was lost, the upload is gone, and so is what it made: somebody else has ended it.
#[test]
fn a_completion_that_nobody_remembers_is_an_error() {
    let db = Database::new("gone_upload");
    let lost = AtomicU32::new(0);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| match request.step() {
        "complete" if lost.fetch_add(1, Ordering::Relaxed) == 0 => Action::Drop,
        "complete" => Action::Answer(
            "HTTP/1.1 404 Not Found".into(),
            "<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>".into(),
        ),
        _ => Action::Forward,
    });
    Integration { name: "faulty", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    let mut client = db.client();
    let large = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 17000)";
    let prefix = db.prefix();
    let call = db.call(&prefix, large, "output_chunk_size => 100000").replace("'local'", "'faulty'");
    refused(db.exported(&mut client, &call, &prefix)).sqlstate("58030").message("the multipart upload is gone");
    db.bucket.nothing_left(&prefix);
}

/// Within the time of an attempt, and the error says how long the store was silent.
#[test]
fn an_upload_that_stalls_is_given_up() {
    let db = Database::new("stalled");
    Integration { name: "stalling", endpoint: super::fixture::stalling_endpoint(), ..Integration::local() }
        .create(&mut db.client())
        .unwrap();
    let mut client = db.client();
    let settings =
        "SET s3_export.request_attempts = 1; SET s3_export.request_timeout = '3s'; SET s3_export.cleanup_timeout = 0";
    client.batch_execute(settings).unwrap();
    let seven_megabytes = "SELECT repeat('x', 1000000) AS a FROM generate_series(1, 7)";
    refused(db.export_by(&mut client, "stalling", seven_megabytes)).sqlstate("08001").detail("no answer within 1.0 s");
}

#[test]
fn a_store_that_asks_for_less_gets_less() {
    let db = Database::new("slow_down");
    let met = AtomicU32::new(0);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        // Every third file is refused once in a while.
        if request.step() == "put" && met.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            Fault::SlowDown.action()
        } else {
            Action::Forward
        }
    });
    Integration { name: "busy", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    let mut client = db.client();
    client.batch_execute("SET s3_export.request_attempts = 1").unwrap();
    let prefix = db.prefix();
    let call = db.call(&prefix, "SELECT generate_series(1, 300) AS a", "output_chunk_size => 10").replace("'local'", "'busy'");
    assert_eq!(db.exported(&mut client, &call, &prefix).unwrap().files, 30);
    assert_eq!(db.bucket.documents(&prefix).len(), 300);
}

#[test]
fn a_clock_that_is_off_is_measured() {
    let db = Database::new("skew");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| {
        Action::Answer(
            "HTTP/1.1 403 Forbidden\r\ndate: Thu, 01 Jan 2015 00:00:00 GMT".into(),
            "<Error><Code>RequestTimeTooSkewed</Code><Message>skewed</Message></Error>".into(),
        )
    });
    Integration { name: "skewed", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    refused(db.export_by(&mut db.client(), "skewed", "SELECT 1 AS a"))
        .sqlstate("58030")
        .message("clock")
        .hint("seconds ahead of the store's");
    assert_eq!(gateway.requests().iter().filter(|request| request.step() == "put").count(), 1, "it was tried again");
}

/// The manifest is there when the commit fails; the first deletes fail too, or their answers are lost.
#[test]
fn faults_of_a_delete_after_the_manifest() {
    let db = Database::new("fault_late_delete");
    for fault in [Fault::InternalError, Fault::Drop, Fault::LoseAnswer, Fault::CutLate] {
        let mut scene = Scene::new(&db, "delete", fault, 2);
        let prefix = scene.db.prefix();
        let call = scene.call(&prefix, false);
        scene.commit_too_late(&call);
        assert!(scene.gateway.requests().iter().any(|request| request.step() == "manifest"), "{fault:?}");
        scene.db.bucket.nothing_left(&prefix);
        scene.is_as_good_as_new(&format!("{fault:?}"));
    }
}

/// In a versioned bucket each attempt makes a version; what was hidden by the last must not come to light when that is deleted.
#[test]
fn a_lost_answer_in_a_versioned_bucket_leaves_nothing_to_be_seen() {
    let db = Database::new("fault_versions");
    for step in ["put", "manifest"] {
        let mut scene = Scene::new(&db, step, Fault::LoseAnswer, 1);
        let bucket = Bucket::versioned(scene.db.environment(), "versioned");
        scene
            .client
            .batch_execute("UPDATE s3_export.integrations SET allowed_locations = '{s3://versioned}' WHERE name = 'faulty'")
            .unwrap();
        let prefix = scene.db.prefix();
        let call = scene.call(&prefix, false).replace("s3://exports/", "s3://versioned/");
        scene.commit_too_late(&call);
        assert_eq!(bucket.list(&prefix), [], "{step}");
        let notices = messages(&scene.client.notices());
        assert!(notices.contains("may remain in S3") && notices.contains(&prefix), "{step}: {notices}");
    }
}

/// Manifests and deletes of many exports share the transaction's connections, which are counted among Postgres's descriptors.
#[test]
fn a_commit_of_many_exports_opens_no_more_connections_than_one() {
    let db = Database::new("many_manifests");
    let gateway = Gateway::to(&Integration::local().endpoint, |request| match request.step() {
        "manifest" | "delete" => Action::Delay(Duration::from_millis(300)),
        _ => Action::Forward,
    });
    Integration { name: "slow", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    for end in ["COMMIT", "ROLLBACK"] {
        let (mut client, prefix) = (db.client(), db.prefix());
        client.batch_execute("SET s3_export.upload_concurrency = 8; SET s3_export.cleanup_timeout = '60s'; BEGIN").unwrap();
        let many = format!(
            "SELECT count(*) FROM generate_series(1, 60) AS n, LATERAL s3_export('{}', 'slow', 'SELECT ' || n || ' AS n')",
            db.bucket.uri(&prefix)
        );
        client.batch_execute(&many).unwrap();
        let pid = client.pid;
        let before = super::fixture::descriptors(pid);
        let running = client.start(end);
        let mut most = 0;
        while !running.is_finished() {
            most = most.max(super::fixture::descriptors(pid));
            std::thread::sleep(Duration::from_millis(5));
        }
        running.join().1.unwrap();
        assert!(most <= before + 20, "{end}: {most} descriptors, {before} before");
        assert_eq!(db.bucket.manifests(&prefix).len(), if end == "COMMIT" { 60 } else { 0 });
        if end == "ROLLBACK" {
            db.bucket.nothing_left(&prefix);
        }
    }
}

/// One request in twenty fails, and one session in a few is ended; each export is whole or absent.
#[test]
fn thirty_two_sessions_at_once_are_each_complete_or_absent() {
    let db = Database::new("many_sessions");
    let met = AtomicU32::new(0);
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        let number = met.fetch_add(1, Ordering::Relaxed);
        match (number % 20, request.step()) {
            (7, _) => {
                [Fault::InternalError, Fault::Drop, Fault::LoseAnswer, Fault::Denied][(number / 20 % 4) as usize].action()
            }
            _ => Action::Forward,
        }
    });
    Integration { name: "faulty", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut db.client()).unwrap();
    let sessions: Vec<_> = (0..32)
        .map(|_| {
            let prefix = db.prefix();
            let call = db
                .call(&prefix, "SELECT generate_series(1, 100) AS a", "output_chunk_size => 10")
                .replace("'local'", "'faulty'");
            (prefix, db.client().start(&format!("SELECT {call}")))
        })
        .collect();
    let (mut complete, mut witness) = (0, db.client());
    for (_, running) in sessions.iter().step_by(8) {
        witness.execute("SELECT pg_terminate_backend($1)", &[&running.pid]).unwrap();
    }
    let mut failed = 0;
    for (prefix, running) in sessions {
        let (session, outcome) = running.join();
        match outcome {
            Ok(()) => {
                complete += 1;
                assert_eq!((db.bucket.documents(&prefix).len(), db.bucket.manifests(&prefix).len()), (100, 1));
            }
            Err(_) => {
                failed += 1;
                // What a fault kept from being deleted was named; and a manifest is never left. A session that was ended tells
                // the log, not its client.
                let warned = session.is_closed() || messages(&session.notices()).contains("may remain in S3");
                assert!(db.bucket.manifests(&prefix).is_empty());
                assert!(warned || db.bucket.list(&prefix).is_empty());
            }
        }
    }
    assert!(complete > 0 && failed > 0, "{complete} complete, {failed} failed");
}
