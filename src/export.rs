//! One export, start to end: authorize, judge, upload while the query runs, seal.
//!
//! Nothing here undoes anything: an error leaves by `?`, the (sub)transaction aborts, and `transaction` takes back what
//! was written.

use std::cell::Cell;
use std::rc::Rc;

use pgrx::{PgTupleDesc, pg_sys};
use uuid::Uuid;

use crate::chunk::{Chunker, Limits, Piece, PieceSink, Totals};
use crate::encode::{RowEncoder, describe};
use crate::error::{Code, Error, Result};
use crate::integration::{self, Purpose};
use crate::manifest::{Column, Manifest};
use crate::names::Destination;
use crate::pg::wait::WaitFor;
use crate::pg::{in_parallel_operation, in_restricted_operation};
use crate::progress::Progress;
use crate::query::Query;
use crate::receiver::RowSink;
use crate::request::{Existing, Request, Wrapping};
use crate::settings;
use crate::transaction;
use crate::upload::checksum::sha256_hex;
use crate::upload::connection::{Connection, Store};
use crate::upload::{Bucket, ExportUpload, PART_BYTES, Patiences, Throttle};
use crate::uri::Location;

/// What the caller is told.
#[derive(Debug)]
pub struct Outcome {
    /// Documents, files and bytes written.
    pub totals: Totals,
    /// Names the export's objects.
    pub export_id: Uuid,
    /// URL of the manifest, which the commit writes.
    pub manifest: String,
}

/// Runs an export as the current user.
pub fn run(request: &Request, export_id: Uuid) -> Result<Outcome> {
    let _running = Running::enter()?;
    let (connection, query, destination) = check(request, export_id)?;
    let limit = transaction::time_limit(request.timeout.unwrap_or_else(settings::timeout))?;
    let progress = Progress::start(export_id);

    let algorithm = connection.object.checksum;
    let store = open(connection, request.location.bucket())?;
    if request.existing == Existing::Error {
        refuse_existing(&store, &request.location)?;
    }
    let upload = transaction::begin(store, destination.clone())?;
    let mut documents = Documents::new(request, &upload, &progress);
    query.run(&mut documents)?;
    let (totals, columns) = documents.finish()?;
    upload.close();
    progress.wait_until(WaitFor::Files, upload.wake(), || Ok(upload.is_stored()?.then_some(())))?;
    if let Some(limit) = limit {
        limit.end()?;
    }

    let outcome = Outcome { totals, export_id, manifest: destination.url(&destination.manifest_key()) };
    let manifest = Manifest {
        destination,
        files: upload.records()?,
        totals,
        columns,
        algorithm,
        wrap_types: request.wrapping == Wrapping::Rockset,
        query_sha256: sha256_hex(request.query.as_bytes()),
        query: request.manifest_query.then(|| request.query.clone()),
    };
    transaction::seal(&upload, manifest, &request.permission);
    if totals.files > MANY_FILES {
        warn_of_many_files(totals.files);
    }
    Ok(outcome)
}

/// What can be said before anything is written: whether the current user may write there, and whether this is a query that
/// can be exported.
pub fn check(request: &Request, export_id: Uuid) -> Result<(Connection, Query, Destination)> {
    let purpose = match request.existing {
        Existing::Append => Purpose::Export,
        Existing::Error => Purpose::ExportIntoEmpty,
    };
    let connection = integration::authorize(&request.permission, &request.location, purpose)?;
    let query = Query::parse(&request.query)?;
    let destination = Destination::new(request.location.clone(), export_id, request.include_query_id)?;
    Ok((connection, query, destination))
}

/// Finds out where the bucket is and fetches credentials, waiting for both.
pub fn open(connection: Connection, bucket: &str) -> Result<Store> {
    let bucket = bucket.to_owned();
    transaction::request(
        |network| async move { Store::open(&connection, &bucket, &network).await.map_err(|failure| failure.error) },
    )
}

/// Errors: 42710 when the location holds an object. Another export that begins at the same moment is not seen.
fn refuse_existing(store: &Store, location: &Location) -> Result<()> {
    let patience = Patiences::all(transaction::request_patience());
    let bucket = Bucket::new(store.clone(), location.bucket(), patience, Throttle::new(1));
    let folder = location.folder();
    let (objects, _) =
        transaction::request(|_| async move { bucket.list(&folder, 1, None).await.map_err(|failure| failure.error) })?;
    match objects.first() {
        None => Ok(()),
        Some(object) => Err(Error::new(Code::Duplicate, format!("{location} already holds objects"))
            .detail(format!("One of them is {}.", object.key))
            .hint("Export to another location, delete them, or leave out the option existing.")),
    }
}

/// Buffers grow in steps, so that those of files of about one size can take each other's place.
const BUFFER_STEP: usize = 64 << 10;

/// More files than readers and listings handle well.
const MANY_FILES: u64 = 100_000;

fn warn_of_many_files(files: u64) {
    Error::new(Code::Limit, format!("the export wrote {files} files"))
        .hint("Raise output_chunk_size for fewer, larger files.")
        .warn();
}

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Refuses where somebody else's maintenance runs our code, and where the end of the transaction would not be seen.
pub fn check_context() -> Result<()> {
    if in_restricted_operation() {
        return Err(Error::new(Code::Privilege, "cannot export within a security-restricted operation"));
    }
    if in_parallel_operation() {
        return Err(Error::new(Code::Unsupported, "cannot export during a parallel operation")
            .detail("A function that calls s3_export must be PARALLEL UNSAFE, as s3_export is."));
    }
    if RUNNING.get() {
        return Err(Error::new(Code::Unsupported, "cannot export from within a query that is being exported")
            .hint("Call s3_export in a statement of its own."));
    }
    Ok(())
}

/// At most one export runs in a backend at a time.
struct Running;

impl Running {
    fn enter() -> Result<Self> {
        check_context()?;
        RUNNING.set(true);
        Ok(Running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(false);
    }
}

/// Rows → documents → pieces of files, handed to the uploads.
struct Documents<'a> {
    wrapping: Wrapping,
    encoder: Option<RowEncoder>,
    columns: Vec<Column>,
    chunker: Chunker<Backpressure<'a>>,
    progress: &'a Progress,
}

impl<'a> Documents<'a> {
    fn new(request: &Request, upload: &'a Rc<ExportUpload>, progress: &'a Progress) -> Self {
        let limits = Limits {
            documents: request.chunk_size.unwrap_or_else(settings::output_chunk_size),
            bytes: request.chunk_bytes,
            part: PART_BYTES,
        };
        let sink = Backpressure { upload, budget: settings::buffer_memory(), progress };
        let chunker = Chunker::new(limits, sink);
        Documents { wrapping: request.wrapping, encoder: None, columns: Vec::new(), chunker, progress }
    }

    fn finish(self) -> Result<(Totals, Vec<Column>)> {
        Ok((self.chunker.finish()?, self.columns))
    }
}

impl RowSink for Documents<'_> {
    fn expect(&mut self, rows: f64) {
        self.progress.expect(rows);
    }

    fn start(&mut self, shape: &PgTupleDesc<'_>) -> Result<()> {
        self.encoder = Some(RowEncoder::new(shape, self.wrapping)?);
        self.columns = describe(shape);
        Ok(())
    }

    fn row(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> Result<()> {
        let encoder = self.encoder.as_ref().ok_or_else(|| Error::new(Code::Internal, "a row came before its shape"))?;
        self.chunker.document(|out| encoder.document(values, nulls, out))?;
        self.progress.document();
        Ok(())
    }
}

/// Hands pieces over when there is room for them, waiting on the latch meanwhile.
struct Backpressure<'a> {
    upload: &'a Rc<ExportUpload>,
    /// Bytes that may be on their way.
    budget: usize,
    progress: &'a Progress,
}

impl PieceSink for Backpressure<'_> {
    fn send(&mut self, piece: Piece) -> Result<()> {
        let room = piece.room;
        self.progress.piece(&piece);
        let has_room = || Ok(self.upload.has_room(room, self.budget)?.then_some(()));
        self.progress.wait_until(WaitFor::Room, self.upload.wake(), has_room)?;
        self.upload.send(piece)
    }

    fn buffer(&mut self, expected: usize) -> Vec<u8> {
        let mut buffer = self.upload.spare_buffer();
        // Some more, so that a file a little longer than the last does not double its buffer.
        let expected = (expected + expected / 8).next_multiple_of(BUFFER_STEP);
        // What cannot be had now is asked for again, and then an error, when there is something to write.
        let _ = buffer.try_reserve(expected);
        buffer
    }
}
