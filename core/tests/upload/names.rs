//! Objects under names of the user's: none is overwritten, and none of the export's own is taken for another's.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use s3_export_core::error::{Code, Result};
use s3_export_core::naming::keys::Destination;
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::upload::refuse_taken_names;
use uuid::Uuid;

use super::export::{Export, POLICY, Terms, bucket, destination_of, terms, wait};
use super::scripted::{Reply, Request, Server};

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
    let export = Export::begin(server.connection(), Terms { destination, ..terms(4, policy) });
    let outcome = if in_parts { export.two_parts() } else { export.files(1, &Bytes::from_static(b"{}\n{}\n")) };
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
            let report = export.roll_back(Duration::from_secs(10));
            assert_eq!(report.is_empty(), is_known, "in parts: {in_parts}, {looks:?}: {report:?}");
        }
    }
}

#[test]
fn one_look_that_fails_leaves_no_object_of_a_users_name_behind() {
    let destination = destination_of(Some("all.json"));
    let (written, looked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mark = marked(destination.export_id());
    let server = Server::start(move |request| match () {
        () if request.is("PUT", "") => {
            written.store(true, Ordering::Relaxed);
            Reply::Usual
        }
        () if request.is("HEAD", "") && !written.load(Ordering::Relaxed) => NOT_FOUND,
        // The rollback's look, which is to be tried again.
        () if request.is("HEAD", "") && looked.fetch_add(1, Ordering::Relaxed) == 0 => FAILED,
        () if request.is("HEAD", "") => Reply::Answer(mark, "{}\n"),
        () => Reply::Usual,
    });
    let export = Export::begin(server.connection(), Terms { destination, ..terms(4, POLICY) });
    export.files(1, &Bytes::from_static(b"{}\n")).unwrap();
    let report = export.roll_back(Duration::from_secs(60));
    assert!(report.is_empty(), "{report:?}");
    assert!(server.requests().iter().any(|request| request.is("POST", "?delete")));
}

#[test]
fn a_name_that_may_not_be_looked_at_is_refused_where_the_store_may_ignore_the_condition() {
    let server = Server::start(|request| if request.is("HEAD", "") { FORBIDDEN } else { Reply::Usual });
    let (io, bucket) = bucket(server.connection(), RetryPolicy { attempts: 2, ..POLICY });
    let destination = destination_of(Some("all.json"));
    let refused = wait(&io, &io.spawn(async move { refuse_taken_names(&bucket, &destination).await }));
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Code::Unsupported, "{error:?}");
    assert!(server.requests().iter().all(|request| request.is("HEAD", "")), "nothing is written: {:?}", server.requests());
    // The same before the end of a multipart upload, whose condition more stores ignore.
    let export =
        Export::begin(server.connection(), Terms { destination: destination_of(Some("all.json")), ..terms(4, POLICY) });
    assert_eq!(export.two_parts().unwrap_err().code(), Code::Unsupported);
    assert!(server.requests().iter().all(|request| !makes_object(request, true)));
}

/// Ceph ignores If-None-Match at a PUT into a bucket with versions.
#[test]
fn an_object_that_appeared_under_a_name_of_the_users_is_not_overwritten_by_a_store_that_ignores_the_condition() {
    let server = Server::start(|request| match () {
        () if request.is("HEAD", "") => Reply::Answer(marked(Uuid::now_v7()), "{}\n"),
        () => Reply::Usual,
    });
    let export =
        Export::begin(server.connection(), Terms { destination: destination_of(Some("all.json")), ..terms(1, POLICY) });
    assert_eq!(export.files(1, &Bytes::from_static(b"{}\n")).unwrap_err().code(), Code::Duplicate);
    assert!(server.requests().iter().all(|request| !request.is("PUT", "")), "the object was overwritten");
    let report = export.roll_back(Duration::from_secs(10));
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
        let export = Export::begin(server.connection(), Terms { destination: destination_of(name), ..terms(1, POLICY) });
        export.two_parts().unwrap();
        let doubled = export.upload.doubled_uploads();
        // The upload of a key of the export's own is found and given up.
        assert_eq!(doubled.len(), usize::from(name.is_some()), "{doubled:?}");
    }
}
