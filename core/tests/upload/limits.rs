//! Limits of an export as a whole, and its bandwidth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use s3_export_core::error::Code;
use s3_export_core::files::limits::ExportLimits;

use super::export::{Export, POLICY, Terms, terms};
use super::scripted::{Reply, Request, Server};

const FILE: usize = 1000;

fn limited(bytes: u64) -> Terms {
    let limits = ExportLimits { setter: "integration \"lake\"".to_owned(), bytes: Some(bytes), ..ExportLimits::default() };
    Terms { limits, ..terms(4, POLICY) }
}

/// Files that were asked to be written.
fn files(server: &Server) -> usize {
    server.requests().iter().filter(|request| request.is("PUT", "/bucket/")).count()
}

#[test]
fn files_together_may_have_the_bytes_of_the_limit_and_no_more_are_sent() {
    for (limit, is_enough) in [(10 * FILE, true), (10 * FILE - 1, false), (1, false)] {
        let server = Server::start(|_| Reply::Usual);
        let export = Export::begin(server.connection(), limited(limit as u64));
        let body = Bytes::from(vec![b'x'; FILE]);
        // The error may come before the last file is handed over.
        let outcome = export.files(10, &body);
        assert_eq!(outcome.as_ref().err().map(|error| error.code()), (!is_enough).then_some(Code::ProgramLimit));
        assert!(files(&server) * FILE <= limit, "{} files", files(&server));
    }
}

#[test]
fn parts_of_one_file_count_together() {
    let server = Server::start(|_| Reply::Usual);
    let export = Export::begin(server.connection(), limited(8));
    // Three bytes each.
    let outcome = export.file_in_pieces(1, 3).and_then(|()| export.stored());
    assert_eq!(outcome.map_err(|error| error.code()), Err(Code::ProgramLimit));
    assert!(!server.requests().iter().any(|request| request.is("PUT", "partNumber=3")));
}

/// Each file takes a quarter of a second at that bandwidth.
fn paced(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (Server, Export) {
    let server = Server::start(script);
    let export = Export::begin(server.connection(), Terms { bandwidth: FILE as u64 * 4, ..terms(8, POLICY) });
    (server, export)
}

#[test]
fn bodies_are_paced_and_bodies_that_are_sent_again_too() {
    let failures = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&failures);
    let (_server, export) = paced(move |request| {
        let fails = request.is("PUT", "/bucket/") && counted.fetch_add(1, Ordering::Relaxed) < 2;
        if fails { Reply::Answer("HTTP/1.1 500 Internal Server Error", "") } else { Reply::Usual }
    });
    let start = Instant::now();
    export.files(6, &Bytes::from(vec![b'x'; FILE])).unwrap();
    // Eight bodies of a quarter of a second. The clocks of the two threads differ by a millisecond at most.
    assert!(start.elapsed() >= Duration::from_millis(1990), "{:?}", start.elapsed());
}

#[test]
fn a_rollback_waits_for_no_bandwidth_and_nor_does_the_manifest() {
    let (server, export) = paced(|_| Reply::Usual);
    export.files(1, &Bytes::from(vec![b'x'; FILE])).unwrap();
    // An hour's worth of a query's text.
    export.commit_with(Some("x".repeat(FILE * 4 * 3600))).unwrap();
    assert!(export.roll_back(Duration::from_secs(60)).is_empty());
    assert!(server.requests().iter().any(|request| request.is("DELETE", "/bucket/") || request.is("POST", "?delete")));

    let (_server, export) = paced(|_| Reply::Usual);
    // Two minutes' worth of files that wait.
    for number in 1..=480 {
        export.file(number, Bytes::from(vec![b'x'; FILE])).unwrap();
    }
    let start = Instant::now();
    assert!(export.roll_back(Duration::from_secs(60)).is_empty());
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// A part that fails ends the file at once, though the next part would have to wait for a quarter of an hour.
#[test]
fn a_failed_part_ends_a_file_that_waits_for_its_bandwidth() {
    let server = Server::start(|request| {
        if request.is("PUT", "partNumber=1") { Reply::Answer("HTTP/1.1 403 Forbidden", "") } else { Reply::Usual }
    });
    let export = Export::begin(server.connection(), Terms { bandwidth: 1000, ..terms(8, POLICY) });
    let start = Instant::now();
    export.pieces(1, &[1, 1_000_000, 1]).unwrap();
    assert!(export.stored().is_err());
    assert!(start.elapsed() < Duration::from_secs(300), "{:?}", start.elapsed());
}
