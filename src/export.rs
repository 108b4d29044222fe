//! One export, start to end: authorize, judge, upload while the query runs, seal.
//!
//! Nothing here undoes anything: an error leaves by `?`, the (sub)transaction aborts, and `transaction` takes back what
//! was written.

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::chunker::Totals;
use s3_export_core::files::limits::ExportLimits;
use s3_export_core::files::plan::{FilePlan, Room};
use s3_export_core::format::{Format, Wrapping};
use s3_export_core::manifest::notification::Notification;
use s3_export_core::manifest::stored::Summary;
use s3_export_core::manifest::{FeedRun, Manifest};
use s3_export_core::naming::keys::{Destination, Naming};
use s3_export_core::naming::uri::Location;
use s3_export_core::request::options::Existing;
use s3_export_core::request::{Cut, Request};
use s3_export_core::s3::checksum::{Algorithm, sha256_hex};
use s3_export_core::s3::client::{Connection, Store};
use s3_export_core::s3::{Bucket, RetryPolicies, Throttle};
use s3_export_core::upload;
use s3_export_core::upload::replaced::Replaced;
use uuid::Uuid;

use crate::history::{self, Done, Recorder};
use crate::integration::{self, Authorized, Purpose};
use crate::notification;
use crate::pg::limit::TimeLimit;
use crate::pg::report;
use crate::pg::wait::WaitFor;
use crate::pg::{in_parallel_operation, in_restricted_operation};
use crate::progress::Progress;
use crate::query::sink::Documents;
use crate::query::{Parameter, Query};
use crate::run_key::{self, Run};
use crate::settings;
use crate::transaction;

/// Result of an export, as its caller sees it.
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
    let export = Export::open(request, export_id)?;
    if request.run_key.is_none() {
        return export.write(RunProperties::default());
    }
    match run_key::claim(&export.store, &export.destination, request.existing_run)? {
        Run::Free => export.write(RunProperties::default()),
        Run::Replaced(replaced) => export.write(RunProperties { replaced: Some(replaced), ..RunProperties::default() }),
        Run::Returned(summary) => {
            let outcome = export.outcome_of(&summary);
            report::notice(format!(
                "{} exists: nothing is exported, and the result is that of export {}",
                outcome.manifest, outcome.export_id
            ));
            Ok(outcome)
        }
    }
}

/// An export that may begin: all is checked that can be before anything is written, and the store is open.
pub struct Export<'a> {
    request: &'a Request,
    export_id: Uuid,
    query: Query,
    /// Names of the objects.
    pub destination: Destination,
    /// Store of the destination.
    pub store: Store,
    algorithm: Algorithm,
    limits: ExportLimits,
    time_limit: Option<TimeLimit>,
    progress: Progress,
    recorder: Recorder,
    _running: transaction::Exporting,
}

/// The properties of an export that is a run of a feed, or that replaces another export.
#[derive(Debug, Default)]
pub struct RunProperties {
    /// Values of the parameters that the query names.
    pub parameters: Vec<Parameter>,
    /// The run of a feed that it is.
    pub feed: Option<FeedRun>,
    /// The export in whose place it comes.
    pub replaced: Option<Replaced>,
    /// Whether a query without rows writes no manifest.
    pub nothing_for_nothing: bool,
}

impl<'a> Export<'a> {
    /// Errors: those that an export has before its query runs.
    pub fn open(request: &'a Request, export_id: Uuid) -> Result<Self> {
        history::tried(request, export_id);
        check_context()?;
        let running = transaction::Exporting::enter();
        let (Authorized { connection, limits, of_export }, query, destination) = check(request, export_id)?;
        let recorder = Recorder::begin(limits)?;
        // Before whatever takes memory, connections or locks.
        transaction::take_slot()?;
        let time_limit = transaction::time_limit(request.timeout.unwrap_or_else(settings::timeout))?;
        let progress = Progress::start(export_id, of_export.clone());
        let algorithm = connection.object.checksum;
        let store = open(connection, request.location.bucket())?;
        let limits = of_export;
        Ok(Export {
            request,
            export_id,
            query,
            destination,
            store,
            algorithm,
            limits,
            time_limit,
            progress,
            recorder,
            _running: running,
        })
    }

    /// Runs the query and uploads its rows; the commit writes the manifest.
    pub fn write(self, properties: RunProperties) -> Result<Outcome> {
        let Export {
            request,
            export_id,
            query,
            destination,
            store,
            algorithm,
            limits,
            time_limit,
            progress,
            recorder,
            _running,
        } = self;
        look(request, &store, &destination)?;
        let destination = match &properties.replaced {
            Some(replaced) => destination.replacing(replaced.etag(), replaced.export_id()),
            None => destination,
        };
        let limits = ExportLimits { of_day: recorder.byte_limit(properties.nothing_for_nothing)?, ..limits };
        let (cut, plan) = FilePlan::new(request, export_id, room(), limits.clone())?;
        let upload = transaction::begin(store, destination.clone(), plan, properties.replaced)?;
        let mut documents = Documents::new(request, &destination, cut, &upload, &progress);
        query.run(&properties.parameters, &mut documents)?;
        let (encoded, columns) = documents.finish()?;
        upload.close();
        progress.wait_until(WaitFor::Files, upload.wake(), || Ok(upload.is_stored()?.then_some(())))?;
        let files = upload.records()?;
        // What is in S3, compressed or not.
        let totals = Totals { bytes: files.iter().map(|file| file.bytes).sum(), ..encoded };
        limits.check(&totals)?;
        if let Some(time_limit) = time_limit {
            time_limit.end()?;
        }

        warn_of_doubled_uploads(&upload.doubled_uploads());
        let outcome = outcome(&destination, export_id, totals);
        if properties.nothing_for_nothing && totals.documents == 0 && totals.files == 0 {
            transaction::forget(&upload);
            return Ok(outcome);
        }
        let run = properties.feed.as_ref().map(|feed| (feed.name.clone(), feed.run));
        let manifest = Manifest {
            destination,
            files,
            totals,
            columns,
            algorithm,
            wrap_types: request.format == Format::Json(Wrapping::Rockset),
            query_sha256: sha256_hex(request.query.as_bytes()),
            query: request.manifest_query.then(|| request.query.clone()),
            feed: properties.feed,
        };
        // The manifest holds names of partitions, and may hold the text of the query: data as well as files do.
        let manifest_bytes = if limits.count_bytes() { history::length(&manifest) } else { 0 };
        limits.check_bytes(totals.bytes.saturating_add(manifest_bytes))?;
        recorder.claim_bytes(totals.bytes.saturating_add(manifest_bytes))?;
        notify(request, &outcome, run.as_ref().map(|(name, run)| (name.as_str(), *run)))?;
        let line = recorder.record(&Done { request, manifest: &manifest, url: &outcome.manifest, manifest_bytes })?;
        transaction::ready_to_commit(&upload, manifest, line);
        if totals.files > MANY_FILES {
            warn_of_many_files(totals.files);
        }
        Ok(outcome)
    }

    /// Writes down that the manifest under this export's name counts, whose own transaction has not survived. `manifest`: its bytes.
    pub fn record_adopted(&self, summary: &Summary, manifest: &[u8]) -> Result<()> {
        let url = self.outcome_of(summary).manifest;
        self.recorder.record_adopted(self.request, summary, (&url, manifest))
    }

    /// Returns the request of the export.
    pub fn request(&self) -> &Request {
        self.request
    }

    /// Returns the outcome of the export that the manifest under this export's name describes.
    pub fn outcome_of(&self, summary: &Summary) -> Outcome {
        outcome(&self.destination, summary.export_id, summary.totals)
    }
}

fn outcome(destination: &Destination, export_id: Uuid, totals: Totals) -> Outcome {
    let manifest_key = destination.manifest_copy_key().unwrap_or_else(|| destination.manifest_key());
    Outcome { totals, export_id, manifest: destination.url(&manifest_key) }
}

/// Notifies the channel of the request, if there is one. `feed`: its name, and the number of the run.
pub fn notify(request: &Request, outcome: &Outcome, feed: Option<(&str, u64)>) -> Result<()> {
    let notification = Notification {
        export_id: outcome.export_id,
        manifest: &outcome.manifest,
        uri: &request.location.to_string(),
        format: request.format.name(),
        totals: outcome.totals,
        run_key: request.run_key.as_deref(),
        feed,
    };
    notification::send(request, &notification)
}

/// Checks what can be checked before anything is written: whether the current user may write there, and whether the query can be
/// exported.
pub fn check(request: &Request, export_id: Uuid) -> Result<(Authorized, Query, Destination)> {
    let purpose = if request.looks() { Purpose::ExportAfterALook } else { Purpose::Export };
    let authorized = integration::authorize(&request.permission, &request.location, purpose, &request.properties)?;
    let query = Query::parse(&request.query, request.statement.as_ref())?;
    notification::check(request)?;
    let naming = Naming {
        in_folder: request.include_query_id,
        file_type: request.file_type(),
        file: match &request.cut {
            Cut::SingleFile { name, .. } => name.clone(),
            Cut::Chunks { .. } => None,
        },
        run_key: request.run_key.clone(),
        manifest_copy: request.manifest_name.clone(),
        success_marker: request.success_marker.clone(),
    };
    let destination = Destination::new(request.location.clone(), export_id, naming)?;
    Ok((authorized, query, destination))
}

/// An upload that nobody completes holds storage that is paid for.
fn warn_of_doubled_uploads(urls: &[String]) {
    if urls.is_empty() {
        return;
    }
    let warning = Error::new(Code::Io, "a multipart upload that nobody completes may remain in S3")
        .detail(format!("The answer to the request that began the upload was lost: {}.", urls.join(", ")))
        .hint("A lifecycle rule of the bucket that aborts incomplete multipart uploads removes such an upload.");
    report::warn(&warning);
}

/// Looks at what the store has already. Errors: 42710, 0A000, and those of the requests.
pub fn look(request: &Request, store: &Store, destination: &Destination) -> Result<()> {
    if request.existing == Existing::Error {
        refuse_existing(store, &request.location)?;
    }
    refuse_taken_names(store, destination)
}

/// Returns the room that the settings give an export.
pub fn room() -> Room {
    Room { buffer_memory: settings::buffer_memory(), chunk_size: settings::output_chunk_size() }
}

/// Finds out where the bucket is and fetches credentials, waiting for both.
pub fn open(connection: Connection, bucket: &str) -> Result<Store> {
    let bucket = bucket.to_owned();
    transaction::call_store(|network| async move {
        Store::open(&connection, &bucket, &network).await.map_err(|failure| failure.error)
    })
}

/// Errors: 42710 when the location holds an object. Another export that begins at the same moment is not seen.
fn refuse_existing(store: &Store, location: &Location) -> Result<()> {
    let policy = RetryPolicies::all(transaction::call_policy());
    let bucket = Bucket::new(store.clone(), location.bucket(), policy, Throttle::new(1));
    let folder = location.folder();
    match transaction::call_store(|_| async move { bucket.first_within(&folder).await.map_err(|failure| failure.error) })? {
        None => Ok(()),
        Some(key) => Err(Error::new(Code::Duplicate, format!("{location} already holds objects"))
            .detail(format!("One of them is {key}."))
            .hint("Export to another location, delete the objects, or leave out the option existing.")),
    }
}

/// Errors: 42710 and 0A000 for names that the user has given, better before the query than after hours.
fn refuse_taken_names(store: &Store, destination: &Destination) -> Result<()> {
    if !destination.has_names() {
        return Ok(());
    }
    let policy = RetryPolicies::all(transaction::call_policy());
    let bucket = Bucket::new(store.clone(), destination.bucket(), policy, Throttle::new(1));
    let destination = destination.clone();
    transaction::call_store(|_| async move { upload::refuse_taken_names(&bucket, &destination).await })
}

/// More files than readers and listings handle well.
const MANY_FILES: u64 = 100_000;

fn warn_of_many_files(files: u64) {
    report::warn(
        &Error::new(Code::Limit, format!("the export wrote {files} files"))
            .hint("Raise output_chunk_size for fewer, larger files."),
    );
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
    if transaction::is_exporting() {
        return Err(Error::new(Code::Unsupported, "cannot export from within a query that is being exported")
            .hint("Call s3_export in a statement of its own."));
    }
    Ok(())
}
