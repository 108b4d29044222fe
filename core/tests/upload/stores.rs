//! Exports against scripted stores, without Postgres.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use s3_export_core::error::{Code, Result};
use s3_export_core::files::chunker::{Body, Piece};
use s3_export_core::files::plan::{FileEncoding, FilePlan, PART_BYTES};
use s3_export_core::io::thread::IoThread;
use s3_export_core::maintenance::probe;
use s3_export_core::naming::keys::Destination;
use s3_export_core::s3::network::{Network, Trust};
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::s3::{Bucket, Failure, RetryPolicies, Throttle};
use s3_export_core::upload::{ExportUpload, refuse_taken_names};
use uuid::Uuid;

use super::export::{destination_of, wait};
use super::scripted::{Reply, Request, Server};

const POLICY: RetryPolicy = RetryPolicy { attempts: 5, total: Duration::from_secs(60) };

fn destination() -> Destination {
    destination_of(None)
}

/// The backend's side of an export, its `file`s of one piece each.
struct Export {
    io: IoThread,
    upload: ExportUpload,
    /// Bytes that may be on their way.
    budget: usize,
}

impl Export {
    fn begin(server: &Server, concurrency: usize, budget: usize, policy: RetryPolicy) -> Self {
        Self::begin_at(server, destination(), (concurrency, budget), policy)
    }

    fn begin_at(server: &Server, destination: Destination, room: (usize, usize), policy: RetryPolicy) -> Self {
        Self::begin_with(Trust::System, server, destination, room, policy)
    }

    fn begin_with(
        trust: Trust,
        server: &Server,
        destination: Destination,
        (concurrency, budget): (usize, usize),
        policy: RetryPolicy,
    ) -> Self {
        let io = IoThread::start().unwrap();
        let network = Arc::new(Network::new(trust));
        let address = server.clone();
        let store = wait(&io, &io.spawn(async move { address.store(&network).await }));
        let plan = FilePlan { encoding: FileEncoding::Not, part: PART_BYTES, most_bytes: u64::MAX };
        let throttle = (concurrency, Throttle::new(concurrency));
        let upload = ExportUpload::start(&io, store, destination, plan, throttle, RetryPolicies::all(policy));
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
        let export = Export::begin(&server, 32, 300, POLICY);
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
    let export = Export::begin(&server, 4, 1 << 20, POLICY);
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
    let export = Export::begin(&server, 64, 1 << 20, RetryPolicy { attempts: 2, ..POLICY });
    export.files(300, &Bytes::from_static(b"{}\n")).unwrap();
    assert!(server.requests().len() > 300, "the store never asked for less");
}

/// A store that is away for a second and a half, once it has stored two files; `None`: its connections break.
fn outlives_an_outage(status: Option<&'static str>) {
    let start = OnceLock::new();
    let server = Server::start(move |request| {
        let start: &Instant = start.get_or_init(Instant::now);
        match status {
            _ if request.number <= 2 || start.elapsed() > Duration::from_millis(1_500) => Reply::Usual,
            None => Reply::Break,
            Some(status) => Reply::Answer(status, ""),
        }
    });
    // One request at a time, so that the store has answered before it goes away.
    let export = Export::begin(&server, 1, 1 << 20, RetryPolicy { attempts: 2, ..POLICY });
    export.files(8, &Bytes::from_static(b"{}\n")).unwrap();
    assert!(server.requests().len() > 8, "there was no outage: {status:?}");
}

#[test]
fn an_outage_of_a_store_that_has_answered_is_outlived() {
    thread::scope(|scope| {
        for status in [
            None,
            Some("HTTP/1.1 429 Too Many Requests"),
            Some("HTTP/1.1 500 Internal Server Error\r\nretry-after: 1"),
            Some("HTTP/1.1 502 Bad Gateway"),
            Some("HTTP/1.1 504 Gateway Timeout"),
        ] {
            scope.spawn(move || outlives_an_outage(status));
        }
    });
}

#[test]
fn a_wrong_endpoint_is_told_soon() {
    let server = Server::start(|_| Reply::Break);
    let export = Export::begin(&server, 1, 1 << 20, RetryPolicy { attempts: 2, ..POLICY });
    let error = export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err();
    assert_eq!((error.code(), server.requests().len()), (Code::Connection, 2), "{error:?}");
    // A gateway's word is none of the store behind it.
    let server = Server::start(|_| Reply::Answer("HTTP/1.1 502 Bad Gateway", ""));
    let export = Export::begin(&server, 1, 1 << 20, RetryPolicy { attempts: 2, ..POLICY });
    export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err();
    assert_eq!(server.requests().len(), 2);
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
        let export = Export::begin(&server, 4, 1 << 20, POLICY);
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
            let export = Export::begin(&server, 4, 1 << 20, RetryPolicy { attempts: 3, ..POLICY });
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
        let export = Export::begin_with(trust, &server, destination(), (1, 1 << 20), POLICY);
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
        let io = IoThread::start().unwrap();
        let network = Arc::new(Network::new(trust));
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
    let export = Export::begin(&server, 4, 1 << 20, POLICY);
    assert_eq!(export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err().code(), Code::Io);
    let report = wait(&export.io, &export.upload.clean_up(&export.io, Duration::from_secs(10)));
    assert!(report.is_empty(), "{report:?}");
    assert_eq!(server.requests().len(), 1, "nothing is deleted");
}

/// More than what goes through a template, and more than the buffers of the kernel take.
fn large() -> Bytes {
    Bytes::from(vec![b'x'; 8 << 20])
}

#[test]
fn an_upload_that_has_to_wait_for_the_network_goes_on() {
    // Longer than the SDK's own protection against streams that stall bears: a period of grace of 5 s.
    let server = Server::slow(Duration::from_secs(8), |_| Reply::Usual);
    let export = Export::begin(&server, 2, 1 << 30, RetryPolicy { attempts: 1, total: Duration::from_secs(300) });
    export.files(2, &large()).unwrap();
    assert_eq!(server.requests().len(), 2, "each body was sent once");
}

#[test]
fn a_store_that_takes_nothing_is_given_up_and_the_error_says_so() {
    let server = Server::slow(Duration::from_secs(600), |_| Reply::Usual);
    let export = Export::begin(&server, 1, 1 << 30, RetryPolicy { attempts: 1, total: Duration::from_secs(3) });
    let error = export.files(1, &large()).unwrap_err();
    assert_eq!(error.code(), Code::Connection, "{error:?}");
    assert!(error.summary().contains("no answer within 1.0 s"), "{error:?}");
}

/// Head of the answer to a look at an object that carries the mark of the export `id`.
fn marked(id: Uuid) -> &'static str {
    Box::leak(format!("HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-amz-meta-s3-export-id: {id}").into_boxed_str())
}

const NOT_FOUND: Reply = Reply::Answer("HTTP/1.1 404 Not Found", "");
const FORBIDDEN: Reply = Reply::Answer("HTTP/1.1 403 Forbidden", "");
const FAILED: Reply = Reply::Answer("HTTP/1.1 500 Internal Server Error", "");
const PRECONDITION_FAILED: Reply = Reply::Answer("HTTP/1.1 412 Precondition Failed", "");

/// Whether the request makes an object under a condition.
fn makes_object(request: &Request, in_parts: bool) -> bool {
    if in_parts { request.is("POST", "uploadId=") } else { request.is("PUT", "all.json") }
}

/// One export of a file with a user's name. The store says 412 to the request that makes the object, and has `looks` for those
/// who look at the object afterwards, the last one again and again.
fn refused_with_412(in_parts: bool, looks: Vec<Reply>, destination: Destination) -> (Export, Result<()>) {
    let (made, looked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let server = Server::start(move |request| match () {
        () if makes_object(request, in_parts) => {
            made.fetch_add(1, Ordering::Relaxed);
            PRECONDITION_FAILED
        }
        () if request.is("HEAD", "") && made.load(Ordering::Relaxed) == 0 => NOT_FOUND,
        () if request.is("HEAD", "") => looks[looked.fetch_add(1, Ordering::Relaxed).min(looks.len() - 1)].clone(),
        () => Reply::Usual,
    });
    let policy = RetryPolicy { attempts: 2, ..POLICY };
    let export = Export::begin_at(&server, destination, (4, 1 << 20), policy);
    let outcome = if in_parts { two_parts(&export) } else { export.files(1, &Bytes::from_static(b"{}\n{}\n")) };
    (export, outcome)
}

/// A proxy sends a request again whose answer was lost behind it: the 412 is then about what the request itself has made.
#[test]
fn a_conflict_over_a_name_of_the_users_is_resolved_by_a_look() {
    for in_parts in [false, true] {
        let made = |id| Reply::Answer(marked(id), "{}\n{}\n");
        let destination = destination_of(Some("all.json"));
        let id = destination.export_id();
        // One look that fails is not the last.
        let (_, outcome) = refused_with_412(in_parts, vec![FAILED, made(id)], destination);
        outcome.unwrap_or_else(|error| panic!("in parts: {in_parts}: {error:?}"));
        for (looks, code, is_known) in
            [(made(Uuid::now_v7()), Code::Duplicate, true), (FORBIDDEN, Code::Duplicate, false), (FAILED, Code::Io, false)]
        {
            let (export, outcome) = refused_with_412(in_parts, vec![looks.clone()], destination_of(Some("all.json")));
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), code, "in parts: {in_parts}, {looks:?}: {error:?}");
            let report = wait(&export.io, &export.upload.clean_up(&export.io, Duration::from_secs(10)));
            assert_eq!(report.is_empty(), is_known, "in parts: {in_parts}, {looks:?}: {report:?}");
        }
    }
}

#[test]
fn one_look_that_fails_leaves_no_object_of_a_users_name_behind() {
    let destination = destination_of(Some("all.json"));
    let (looked, mark) = (AtomicUsize::new(0), marked(destination.export_id()));
    let server = Server::start(move |request| match () {
        () if request.is("HEAD", "") && looked.fetch_add(1, Ordering::Relaxed) == 0 => FAILED,
        () if request.is("HEAD", "") => Reply::Answer(mark, "{}\n"),
        () => Reply::Usual,
    });
    let export = Export::begin_at(&server, destination, (4, 1 << 20), POLICY);
    export.files(1, &Bytes::from_static(b"{}\n")).unwrap();
    let report = wait(&export.io, &export.upload.clean_up(&export.io, Duration::from_secs(60)));
    assert!(report.is_empty(), "{report:?}");
    assert!(server.requests().iter().any(|request| request.is("POST", "?delete")));
}

/// The bucket of a store behind `server`, with a thread for its requests.
fn bucket(server: &Server) -> (IoThread, Bucket) {
    let io = IoThread::start().unwrap();
    let (network, address) = (Arc::new(Network::new(Trust::System)), server.clone());
    let store = wait(&io, &io.spawn(async move { address.store(&network).await }));
    let bucket = Bucket::new(store, "bucket", RetryPolicies::all(RetryPolicy { attempts: 2, ..POLICY }), Throttle::new(1));
    (io, bucket)
}

#[test]
fn a_name_that_may_not_be_looked_at_is_refused_where_the_store_may_ignore_the_condition() {
    let server = Server::start(|request| if request.is("HEAD", "") { FORBIDDEN } else { Reply::Usual });
    let (io, bucket) = bucket(&server);
    let destination = destination_of(Some("all.json"));
    let refused = wait(&io, &io.spawn(async move { refuse_taken_names(&bucket, &destination).await }));
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error:?}");
    assert!(server.requests().iter().all(|request| request.is("HEAD", "")), "nothing is written: {:?}", server.requests());
    // The same before the end of a multipart upload, whose condition more stores ignore.
    let export = Export::begin_at(&server, destination_of(Some("all.json")), (4, 1 << 20), POLICY);
    assert_eq!(two_parts(&export).unwrap_err().code(), Code::Unsupported);
    assert!(server.requests().iter().all(|request| !makes_object(request, true)));
}

#[test]
fn a_multipart_upload_whose_beginning_is_tried_again_holds_up_no_other_file() {
    let (asked, others) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |request| match () {
        // SlowDown leaves one permit, which the other file needs.
        () if request.is("POST", "?uploads") && others.load(Ordering::Relaxed) == 0 => {
            counter.fetch_add(1, Ordering::Relaxed);
            Reply::Answer("HTTP/1.1 503 Slow Down", "<Error><Code>SlowDown</Code></Error>")
        }
        () if request.is("PUT", "-000002.json") => {
            others.fetch_add(1, Ordering::Relaxed);
            Reply::Usual
        }
        () => Reply::Usual,
    });
    let export = Export::begin(&server, 2, 1 << 20, RetryPolicy { attempts: 2, total: Duration::from_secs(10) });
    let part = |documents| Piece { file: 1, body: Body::Bytes(Bytes::from_static(b"{}\n")), room: 3, documents };
    export.upload.send(part(None)).unwrap();
    export.upload.send(part(Some(2))).unwrap();
    while asked.load(Ordering::Relaxed) < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    export.file(2, Bytes::from_static(b"{}\n")).unwrap();
    export.upload.close();
    export.wait_until(|| export.upload.is_stored()).unwrap();
}

/// The answer to the completion is lost, and the upload is gone at the next attempt.
#[test]
fn a_probe_does_not_take_the_object_of_one_step_for_that_of_the_next() {
    let completions = AtomicUsize::new(0);
    let server = Server::start(move |request| match () {
        () if request.is("POST", "uploadId=") => match completions.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Usual,
            1 => Reply::Break,
            _ => Reply::Answer("HTTP/1.1 404 Not Found", "<Error><Code>NoSuchUpload</Code></Error>"),
        },
        () if request.is("HEAD", "") => Reply::Answer("HTTP/1.1 200 OK\r\netag: \"1\"", probe::BODY),
        () => Reply::Usual,
    });
    let io = IoThread::start().unwrap();
    let (network, connection) = (Arc::new(Network::new(Trust::System)), server.connection());
    let tried = wait(&io, &io.spawn(async move { probe::probe(&connection, destination(), &network).await }));
    let step = tried.iter().find(|tried| tried.step == probe::Step::ConditionalMultipart).unwrap();
    let error = step.outcome.clone().unwrap().unwrap_err();
    assert!(error.summary().contains("the multipart upload is gone"), "{error:?}");
}

#[test]
fn a_listing_that_goes_round_in_circles_with_new_tokens_is_a_failure() {
    let server = Server::start(|request| {
        let (is_last, number) = (request.number > 50, request.number);
        let objects = "<Contents><Key>x/1</Key><Size>1</Size></Contents><Contents><Key>x/2</Key><Size>1</Size></Contents>";
        let more = format!("<IsTruncated>{}</IsTruncated><NextContinuationToken>{number}</NextContinuationToken>", !is_last);
        let page = format!("<ListBucketResult>{more}{objects}</ListBucketResult>");
        Reply::Answer("HTTP/1.1 200 OK", Box::leak(page.into_boxed_str()))
    });
    let (io, bucket) = bucket(&server);
    let listing = async move { bucket.each_object("x/", 2, |_| std::ops::ControlFlow::Continue(())).await };
    let error = wait(&io, &io.spawn(listing)).unwrap_err().error;
    assert!(error.summary().contains("a page that was read already"), "{error:?}");
}

/// An upload over a slow link is cut off in favour of others. `is_whole`: the network has taken all of its body by then.
async fn cut_off(is_whole: bool) -> bool {
    let server = Server::start(|_| Reply::Usual);
    let throttle = Throttle::new(2);
    let store = server.store(&Arc::new(Network::new(Trust::System))).await;
    let bucket = Bucket::new(store, "bucket", RetryPolicies::all(POLICY), Arc::clone(&throttle));
    let other = throttle.permit().await;
    tokio::spawn(async move {
        tokio::time::sleep(POLICY.total / 2).await;
        drop(other);
    });
    let (lost, attempts) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut pace = bucket.pace(None);
    let meter = pace.meter();
    let sent = bucket.upload((POLICY, &mut pace), "send", "here", &lost, || async {
        if attempts.fetch_add(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        loop {
            if is_whole {
                meter.ended()
            } else {
                meter.moved()
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    sent.await.unwrap();
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
    lost.load(Ordering::Relaxed)
}

#[test]
fn an_upload_that_is_cut_off_within_its_body_has_made_no_object() {
    let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    assert!(!paused().block_on(cut_off(false)));
    assert!(paused().block_on(cut_off(true)));
}

/// Ceph ignores If-None-Match at a PUT into a bucket with versions.
#[test]
fn an_object_that_appeared_under_a_name_of_the_users_is_not_overwritten_by_a_store_that_ignores_the_condition() {
    let server = Server::start(|request| match () {
        () if request.is("HEAD", "") => Reply::Answer(marked(Uuid::now_v7()), "{}\n"),
        () => Reply::Usual,
    });
    let export = Export::begin_at(&server, destination_of(Some("all.json")), (1, 1 << 20), POLICY);
    assert_eq!(export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err().code(), Code::Duplicate);
    assert!(server.requests().iter().all(|request| !request.is("PUT", "")), "the object was overwritten");
    let report = wait(&export.io, &export.upload.clean_up(&export.io, Duration::from_secs(10)));
    assert!(report.is_empty() && server.requests().iter().all(|request| !request.is("DELETE", "")), "{report:?}");
}

#[test]
fn an_upload_whose_beginning_was_lost_is_told_of_where_it_has_to_be_left() {
    for name in [Some("all.json"), None] {
        let lost = AtomicUsize::new(0);
        let server = Server::start(move |request| match () {
            () if request.is("POST", "?uploads") && lost.fetch_add(1, Ordering::Relaxed) == 0 => Reply::Break,
            () if request.is("HEAD", "") => Reply::Answer("HTTP/1.1 404 Not Found", ""),
            () => Reply::Usual,
        });
        let export = Export::begin_at(&server, destination_of(name), (1, 1 << 20), POLICY);
        two_parts(&export).unwrap();
        let doubled = export.upload.doubled_uploads();
        // The upload of a key of the export's own is found and given up.
        assert_eq!(doubled.len(), usize::from(name.is_some()), "{doubled:?}");
    }
}
