//! Exports against scripted stores, without Postgres.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

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
    _io: IoThread,
    upload: ExportUpload,
    /// Bytes that may be on their way.
    budget: usize,
}

impl Export {
    fn begin(server: &Server, concurrency: usize, budget: usize, patience: Patience) -> Self {
        let io = IoThread::start(Trust::System).unwrap();
        let network = Arc::clone(io.network());
        let address = server.clone();
        let store = wait(&io, &io.spawn(async move { address.store(&network).await }));
        let packing = Packing { pack: Pack::Not, part: PART_BYTES, most_bytes: u64::MAX };
        let throttle = (concurrency, Throttle::new(concurrency));
        let upload = ExportUpload::start(&io, store, destination(), packing, throttle, Patiences::all(patience));
        Export { _io: io, upload, budget }
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

    /// So many files, all stored at the end.
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
            600 => Reply::Answer("HTTP/1.1 403 Forbidden\r\nx-amz-request-id: R7", refusal),
            _ => {
                thread::sleep(Duration::from_millis(5));
                Reply::Usual
            }
        });
        let export = Export::begin(&server, 64, 1_000, PATIENCE);
        let error = export.files(3_200, &Bytes::from_static(b"{}\n")).unwrap_err();
        assert_eq!(error.code(), Code::Privilege, "round {round}: {error:?}");
        assert!(error.summary().contains("AccessDenied (enough)"), "round {round}: {error:?}");
        assert!(error.summary().contains("request id R7"), "round {round}: {error:?}");
        // Whoever asks again is told the same.
        for again in [export.upload.has_room(1, 1).map(drop), export.upload.is_stored().map(drop), export.file(9_999, Bytes::new())] {
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
