//! Exports against scripted stores, without Postgres.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::network::Trust;
use super::retry::Patience;
use super::runtime::{IoThread, Job};
use super::scripted::{Reply, Server};
use super::*;
use crate::chunk::Body;
use crate::format::{FileType, Format, Wrapping};
use crate::names::Naming;
use crate::uri::Location;

const PATIENCE: Patience = Patience { attempts: 5, total: Duration::from_secs(60) };

fn wait<T>(io: &IoThread, job: &Job<T>) -> T {
    loop {
        io.wake().clear();
        match job.take().unwrap() {
            Some(value) => return value,
            None => io.wake().wait(Duration::from_secs(60)),
        }
    }
}

fn destination() -> Destination {
    let file_type = FileType::of(&Format::Json(Wrapping::Rockset), None);
    let naming = Naming { in_folder: false, file_type, file: None, manifest_copy: None, success_marker: None };
    Destination::new(Location::parse("s3://bucket/x").unwrap(), Uuid::now_v7(), naming).unwrap()
}

/// The backend's side of an export, its `file`s of one piece each.
struct Export {
    io: IoThread,
    upload: ExportUpload,
    /// Bytes that may be on their way.
    budget: usize,
}

impl Export {
    fn begin(server: &Server, concurrency: usize, budget: usize, patience: Patience) -> Self {
        Self::begin_with(Trust::System, server, concurrency, budget, patience)
    }

    fn begin_with(trust: Trust, server: &Server, concurrency: usize, budget: usize, patience: Patience) -> Self {
        let io = IoThread::start(trust).unwrap();
        let network = Arc::clone(io.network());
        let address = server.clone();
        let store = wait(&io, &io.spawn(async move { address.store(&network).await }));
        let packing = Packing { pack: Pack::Not, part: PART_BYTES, most_bytes: u64::MAX };
        let throttle = (concurrency, Throttle::new(concurrency));
        let upload = ExportUpload::start(&io, store, destination(), packing, throttle, Patiences::all(patience));
        Export { io, upload, budget }
    }

    fn wait_until(&self, ready: impl Fn() -> Result<bool>) -> Result<()> {
        loop {
            self.upload.wake().clear();
            if ready()? {
                return Ok(());
            }
            self.upload.wake().wait(Duration::from_secs(60));
        }
    }

    fn file(&self, number: u64, body: Bytes) -> Result<()> {
        let room = body.len();
        self.wait_until(|| self.upload.has_room(room, self.budget))?;
        self.upload.send(Piece { file: number, body: Body::Bytes(body), room, documents: Some(1) })
    }

    /// Writes that number of files, all of which are stored at the end.
    fn files(&self, count: u64, body: &Bytes) -> Result<()> {
        for number in 1..=count {
            self.file(number, body.clone())?;
        }
        self.upload.close();
        self.wait_until(|| self.upload.is_stored())
    }
}

#[test]
fn the_first_error_of_an_upload_is_told_however_full_the_buffer_is() {
    let refusal = "<Error><Code>AccessDenied</Code><Message>enough</Message></Error>";
    for round in 0..50 {
        let server = Server::start(move |request| match request.number {
            150 => Reply::Answer("HTTP/1.1 403 Forbidden\r\nx-amz-request-id: R7", refusal),
            _ => {
                thread::sleep(Duration::from_millis(5));
                Reply::Usual
            }
        });
        let export = Export::begin(&server, 32, 300, PATIENCE);
        let error = export.files(3_200, &Bytes::from_static(b"{}\n")).unwrap_err();
        assert_eq!(error.code(), Code::Privilege, "round {round}: {error:?}");
        assert!(error.summary().contains("AccessDenied (enough)"), "round {round}: {error:?}");
        assert!(error.summary().contains("request id R7"), "round {round}: {error:?}");
        // Whoever asks again is told the same.
        for again in
            [export.upload.has_room(1, 1).map(drop), export.upload.is_stored().map(drop), export.file(9_999, Bytes::new())]
        {
            assert_eq!(again.unwrap_err(), error, "round {round}");
        }
    }
}

#[test]
fn a_store_that_wants_the_length_of_empty_bodies_is_told_it() {
    let server = Server::start(|request| {
        let has_body = ["POST", "PUT"].iter().any(|method| request.head.starts_with(method));
        match request.header("content-length") {
            None if has_body => Reply::Answer("HTTP/1.1 411 Length Required", ""),
            _ => Reply::Usual,
        }
    });
    let export = Export::begin(&server, 4, 1 << 20, PATIENCE);
    let part = |documents| Piece { file: 1, body: Body::Bytes(Bytes::from_static(b"{}\n")), room: 3, documents };
    export.upload.send(part(None)).unwrap();
    export.upload.send(part(Some(2))).unwrap();
    // An empty file, such as a success marker is.
    export.file(2, Bytes::new()).unwrap();
    export.upload.close();
    export.wait_until(|| export.upload.is_stored()).unwrap();
    let requests = server.requests();
    let begun: Vec<_> = requests.iter().filter(|request| request.is("POST", "?uploads")).collect();
    assert!(begun.len() == 1 && begun[0].header("content-length") == Some("0"), "{begun:?}");
    assert!(begun[0].header("authorization").unwrap().contains("content-length"), "the length is signed");
    let empty = requests.iter().find(|request| request.is("PUT", "-000002.json")).unwrap();
    assert_eq!(empty.header("content-length"), Some("0"));
}

#[test]
fn a_store_that_asks_for_less_is_not_left_after_a_few_attempts() {
    // 200 requests a second, and no more.
    let next = Mutex::new(Instant::now());
    let server = Server::start(move |_| {
        let mut next = next.lock().unwrap();
        if *next > Instant::now() + Duration::from_millis(50) {
            return Reply::Answer("HTTP/1.1 503 Slow Down", "<Error><Code>SlowDown</Code></Error>");
        }
        *next = (*next).max(Instant::now()) + Duration::from_millis(5);
        Reply::Usual
    });
    let export = Export::begin(&server, 64, 1 << 20, Patience { attempts: 2, ..PATIENCE });
    export.files(300, &Bytes::from_static(b"{}\n")).unwrap();
    assert!(server.requests().len() > 300, "the store never asked for less");
}

#[test]
fn an_outage_of_a_store_that_has_answered_is_outlived_and_a_wrong_endpoint_is_told_soon() {
    for status in [None, Some("HTTP/1.1 429 Too Many Requests"), Some("HTTP/1.1 500 Internal Server Error\r\nretry-after: 1")] {
        let start = OnceLock::new();
        let server = Server::start(move |request| {
            let start: &Instant = start.get_or_init(Instant::now);
            match status {
                _ if request.number <= 2 || start.elapsed() > Duration::from_millis(1_500) => Reply::Usual,
                None => Reply::Break,
                Some(status) => Reply::Answer(status, ""),
            }
        });
        let export = Export::begin(&server, 4, 1 << 20, Patience { attempts: 2, ..PATIENCE });
        export.files(8, &Bytes::from_static(b"{}\n")).unwrap();
        assert!(server.requests().len() > 8, "there was no outage: {status:?}");
    }
    let server = Server::start(|_| Reply::Break);
    let export = Export::begin(&server, 1, 1 << 20, Patience { attempts: 2, ..PATIENCE });
    let error = export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err();
    assert_eq!((error.code(), server.requests().len()), (Code::Connection, 2), "{error:?}");
}

/// Two parts, so that the file is a multipart upload of six bytes.
fn two_parts(export: &Export) -> Result<()> {
    let part = |documents| Piece { file: 1, body: Body::Bytes(Bytes::from_static(b"{}\n")), room: 3, documents };
    export.upload.send(part(None))?;
    export.upload.send(part(Some(2)))?;
    export.upload.close();
    export.wait_until(|| export.upload.is_stored())
}

/// Successes that nobody can read: empty, somebody else's, cut off, and one that lacks what it is for.
const UNREADABLE: [&str; 4] = [
    "",
    "<html>welcome</html>",
    "<?xml version=\"1.0\"?><CompleteMultipartUploadRes",
    "<CompleteMultipartUploadResult><Location>here</Location>",
];

#[test]
fn a_success_that_cannot_be_read_is_asked_for_again() {
    for body in UNREADABLE {
        let met = AtomicUsize::new(0);
        let server = Server::start(move |request| match () {
            () if request.is("POST", "?uploads") && met.fetch_add(1, Ordering::Relaxed) == 0 => {
                Reply::Answer("HTTP/1.1 200 OK", body)
            }
            () => Reply::Usual,
        });
        let export = Export::begin(&server, 4, 1 << 20, PATIENCE);
        two_parts(&export).unwrap_or_else(|error| panic!("{body}: {error:?}"));
        let count = |method, part| server.requests().iter().filter(|request| request.is(method, part)).count();
        assert_eq!((count("POST", "?uploads"), count("GET", "uploads")), (2, 1), "{body}: the first upload is looked for");
    }
}

#[test]
fn a_completion_whose_answer_cannot_be_read_is_found_by_a_look_at_the_object() {
    for body in UNREADABLE {
        // The object is there at once, only at the second look, or never.
        for looks in [1, 2, usize::MAX] {
            let looked = AtomicUsize::new(0);
            let server = Server::start(move |request| match () {
                () if request.is("POST", "uploadId=") => Reply::Answer("HTTP/1.1 200 OK", body),
                () if request.is("HEAD", "") && looked.fetch_add(1, Ordering::Relaxed) + 1 >= looks => {
                    Reply::Answer("HTTP/1.1 200 OK\r\netag: \"1\"", "{}\n{}\n")
                }
                () if request.is("HEAD", "") => Reply::Answer("HTTP/1.1 404 Not Found", ""),
                () => Reply::Usual,
            });
            let export = Export::begin(&server, 4, 1 << 20, Patience { attempts: 3, ..PATIENCE });
            match two_parts(&export) {
                Ok(()) => assert!(looks <= 2, "{body}"),
                Err(error) => {
                    assert!(looks > 2 && error.code() == Code::Io, "{body}: {error:?}");
                    assert!(error.summary().contains("cannot be read"), "{body}: {error:?}");
                }
            }
            let completions = server.requests().iter().filter(|request| request.is("POST", "uploadId=")).count();
            assert_eq!(completions, looks.min(3), "{body}");
        }
    }
}

/// Each kind of client: of the system's authorities, and of a file's.
fn each_trust() -> [Trust; 2] {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    [Trust::System, Trust::Only(Arc::new(tls))]
}

#[test]
fn an_answer_without_end_is_an_error_and_not_read() {
    for (trust, head) in each_trust().into_iter().zip(["HTTP/1.1 400 Bad Request", "HTTP/1.1 503 Slow Down"]) {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let server = Server::start(move |_| Reply::Endless(head, Arc::clone(&counter)));
        let export = Export::begin_with(trust, &server, 1, 1 << 20, PATIENCE);
        let error = export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err();
        assert!(error.code() == Code::Io && error.summary().contains("too long"), "{head}: {error:?}");
        assert_eq!(server.requests().len(), 1, "{head}: another attempt");
        let sent = sent.load(Ordering::Relaxed);
        // What is on its way is in the buffers of two sockets.
        assert!(sent < 32 << 20, "{head}: {sent} bytes were read");
    }
}

#[test]
fn a_full_page_of_a_listing_is_read_and_a_listing_without_end_is_not() {
    for trust in each_trust() {
        let key = "&quot;".repeat(1_024);
        let contents = format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>").repeat(1_000);
        let page = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>");
        let page: &'static str = page.leak();
        let server = Server::start(move |request| match request.number {
            1 => Reply::Answer("HTTP/1.1 200 OK", page),
            _ => Reply::Endless("HTTP/1.1 200 OK", Arc::default()),
        });
        let io = IoThread::start(trust).unwrap();
        let network = Arc::clone(io.network());
        let (full, endless) = wait(
            &io,
            &io.spawn(async move {
                let store = server.store(&network).await;
                let list = || store.client.list_objects_v2().bucket("bucket").send();
                (list().await, list().await)
            }),
        );
        assert_eq!(full.unwrap().contents().len(), 1_000);
        let failure = Failure::new("list", "s3://bucket", &endless.unwrap_err());
        assert!(!failure.transient && failure.error.summary().contains("too long"), "{:?}", failure.error);
    }
}

#[test]
fn a_refusal_that_has_done_nothing_leaves_nothing_to_warn_of() {
    let server = Server::start(|request| match () {
        () if request.is("PUT", "") => {
            Reply::Answer("HTTP/1.1 501 Not Implemented", "<Error><Code>NotImplemented</Code></Error>")
        }
        () => Reply::Usual,
    });
    let export = Export::begin(&server, 4, 1 << 20, PATIENCE);
    assert_eq!(export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err().code(), Code::Io);
    let remains = wait(&export.io, &export.upload.clean_up(&export.io, Duration::from_secs(10)));
    assert!(remains.is_empty(), "{remains:?}");
    assert_eq!(server.requests().len(), 1, "nothing is deleted");
}
