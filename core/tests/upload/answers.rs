//! Answers that a store should not give, or that say something else than they seem to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use s3_export_core::error::Code;
use s3_export_core::io::thread::IoThread;
use s3_export_core::maintenance::probe;
use s3_export_core::s3::Failure;
use s3_export_core::s3::network::{Network, Trust};
use s3_export_core::s3::retry::RetryPolicy;

use super::export::{Export, POLICY, Terms, bucket, destination_of, terms, wait};
use super::scripted::{Reply, Server};

#[test]
fn a_store_that_wants_the_length_of_empty_bodies_is_told_it() {
    let server = Server::start(|request| {
        let has_body = ["POST", "PUT"].iter().any(|method| request.head.starts_with(method));
        match request.header("content-length") {
            None if has_body => Reply::Answer("HTTP/1.1 411 Length Required", ""),
            _ => Reply::Usual,
        }
    });
    let export = Export::begin(server.connection(), terms(4, POLICY));
    export.file_in_pieces(1, 2).unwrap();
    // An empty file, such as a success marker is.
    export.file(2, Bytes::new()).unwrap();
    export.stored().unwrap();
    let requests = server.requests();
    let begun: Vec<_> = requests.iter().filter(|request| request.is("POST", "?uploads")).collect();
    assert!(begun.len() == 1 && begun[0].header("content-length") == Some("0"), "{begun:?}");
    assert!(begun[0].header("authorization").unwrap().contains("content-length"), "the length is signed");
    let empty = requests.iter().find(|request| request.is("PUT", "-000002.json")).unwrap();
    assert_eq!(empty.header("content-length"), Some("0"));
}

/// Successes that nobody can read: empty, somebody else's, cut off, and two that lack what they are for.
const UNREADABLE: [&str; 5] = [
    "",
    "<html>welcome</html>",
    "<?xml version=\"1.0\"?><CompleteMultipartUploadRes",
    "<CompleteMultipartUploadResult><Location>here</Location>",
    "<InitiateMultipartUploadResult><Bucket>bucket</Bucket></InitiateMultipartUploadResult>",
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
        let export = Export::begin(server.connection(), terms(4, POLICY));
        export.two_parts().unwrap_or_else(|error| panic!("{body}: {error:?}"));
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
            let export = Export::begin(server.connection(), terms(4, RetryPolicy { attempts: 3, ..POLICY }));
            match export.two_parts() {
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
    [Trust::System, Trust::Files(Arc::new(tls))]
}

#[test]
fn an_answer_without_end_is_an_error_and_not_read() {
    for (trust, head) in each_trust().into_iter().zip(["HTTP/1.1 400 Bad Request", "HTTP/1.1 503 Slow Down"]) {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let server = Server::start(move |_| Reply::Endless(head, Arc::clone(&counter)));
        let export = Export::begin(server.connection(), Terms { trust, ..terms(1, POLICY) });
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
    let export = Export::begin(server.connection(), terms(4, POLICY));
    assert_eq!(export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err().code(), Code::Io);
    let report = export.roll_back(Duration::from_secs(10));
    assert!(report.is_empty(), "{report:?}");
    assert_eq!(server.requests().len(), 1, "nothing is deleted");
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
    let tried = wait(&io, &io.spawn(async move { probe::probe(&connection, destination_of(None), &network).await }));
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
    let (io, bucket) = bucket(server.connection(), RetryPolicy { attempts: 2, ..POLICY });
    let listing = async move { bucket.each_object("x/", 2, |_| std::ops::ControlFlow::Continue(())).await };
    let error = wait(&io, &io.spawn(listing)).unwrap_err().error;
    assert!(error.summary().contains("a page that was read already"), "{error:?}");
}
