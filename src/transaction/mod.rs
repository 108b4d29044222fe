//! A committed export has its manifest; an aborted one has nothing.
//!
//! ```text
//! begin ──► uploads ──► seal ──► PRE_COMMIT: workers for its jobs; may it commit? then every manifest, at once
//!   └─ error, cancel, terminate, rollback, rollback to savepoint ──► ABORT: stop, delete, warn of what remains
//! ```
//!
//! Everything hangs on the transaction's callbacks and nothing on Drop: a FATAL error does not unwind Rust. Code that
//! waits holds no borrow of the state below, so that the abort callback always finds it. The callbacks for commit and
//! abort raise nothing and look at no catalog; the one before the commit raises, and so turns it into an abort.

mod undo;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::unsync::OnceCell;
use pgrx::pg_sys;
use pgrx::pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
use pgrx::pg_sys::XactEvent::{
    XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::plan::FilePlan;
use s3_export_core::io::task::Task;
use s3_export_core::io::task::lost_task;
use s3_export_core::io::thread::IoThread;
use s3_export_core::manifest::Manifest;
use s3_export_core::naming::keys::Destination;
use s3_export_core::request::Permission;
use s3_export_core::s3::client::Store;
use s3_export_core::s3::network::{Network, Trust};
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::s3::{RetryPolicies, Throttle};
use s3_export_core::upload::ExportUpload;
use uuid::Uuid;

use self::undo::undo;
use crate::pg::callback::contained;
use crate::pg::current_subtransaction;
use crate::pg::descriptors::ExternalDescriptors;
use crate::pg::errors::{forget_transaction, guard};
use crate::pg::limit::{self, TimeLimit};
use crate::pg::lock;
use crate::pg::report::{Report, in_callback};
use crate::pg::serializable::refuse_if_doomed;
use crate::pg::wait::{WaitFor, stop_quietly, wait_until};
use crate::settings;

/// The exports of the current top-level transaction.
#[derive(Default)]
struct Pending {
    /// Serves them all, from the first request to the end of the transaction.
    io: OnceCell<Io>,
    exports: Vec<PendingExport>,
    /// Enqueued, and not yet seen by anybody else.
    jobs: Vec<PendingJob>,
}

struct PendingJob {
    subtransaction: pg_sys::SubTransactionId,
    export_id: Uuid,
}

/// What all exports of a transaction share: a thousand of them open no more connections than one.
struct Io {
    thread: Rc<IoThread>,
    /// The connections of everything that runs on the thread.
    network: Arc<Network>,
    throttle: Arc<Throttle>,
    /// Most connections with bodies at once.
    connections: usize,
    /// Of all its connections.
    _descriptors: ExternalDescriptors,
}

impl Io {
    /// Errors: 53200, and F0000 for the CA file.
    fn start() -> Result<Self> {
        let descriptors = ExternalDescriptors::acquire(settings::upload_concurrency() + OTHER_DESCRIPTORS);
        let connections = descriptors.count().saturating_sub(OTHER_DESCRIPTORS);
        if connections == 0 {
            return Err(Error::new(Code::OutOfMemory, "too many open files")
                .detail("Postgres has no file descriptors to spare for connections to S3.")
                .hint("Raise max_files_per_process."));
        }
        let network = Arc::new(Network::new(Trust::load(settings::ca_file().as_deref())?));
        let thread = Rc::new(IoThread::start()?);
        Ok(Io { thread, network, throttle: Throttle::new(connections), connections, _descriptors: descriptors })
    }
}

struct PendingExport {
    subtransaction: pg_sys::SubTransactionId,
    upload: Rc<ExportUpload>,
    began: Instant,
    /// `None` while the export runs.
    ready: Option<ReadyToCommit>,
}

/// An export whose files are all stored.
struct ReadyToCommit {
    manifest: Arc<Manifest>,
    permission: Permission,
}

/// Beside the connections that carry bodies: for the eventfd, the runtime, names and small requests.
const OTHER_DESCRIPTORS: usize = 8;

thread_local! {
    static START_JOBS: Cell<Option<StartJobs>> = const { Cell::new(None) };
    static PENDING: RefCell<Pending> = RefCell::default();
    /// The subtransaction in which an export was begun that runs at this moment.
    static EXPORTING: Cell<Option<pg_sys::SubTransactionId>> = const { Cell::new(None) };
}

/// At most one export runs in a backend at a time: this one, until the drop, or the end of its (sub)transaction.
pub struct Exporting(());

impl Exporting {
    /// From now on.
    pub fn enter() -> Self {
        EXPORTING.set(Some(current_subtransaction()));
        Exporting(())
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        EXPORTING.set(None);
    }
}

/// Whether an export runs at this moment.
pub fn is_exporting() -> bool {
    EXPORTING.get().is_some()
}

/// The (sub)transaction of the export that runs ends, whatever has become of its scope.
fn leave_export() {
    EXPORTING.set(None);
    limit::forget();
}

/// Starts workers for the jobs that the transaction has enqueued. Errors: what refuses the commit.
pub type StartJobs = fn(&[Uuid]) -> Result<()>;

/// Registers the callbacks. Called once, when the library is loaded. `start_jobs` runs before the commit.
pub fn register_callbacks(start_jobs: StartJobs) {
    START_JOBS.set(Some(start_jobs));
    // SAFETY: both functions live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_event), std::ptr::null_mut());
    }
}

/// The thread that serves this transaction, started if need be.
fn io_thread() -> Result<(Rc<IoThread>, Arc<Network>)> {
    PENDING.with_borrow(|pending| {
        let io = pending.io.get_or_try_init(Io::start)?;
        Ok((Rc::clone(&io.thread), Arc::clone(&io.network)))
    })
}

/// Whether this transaction has exports, running or waiting for its commit.
pub fn has_exports() -> bool {
    PENDING.with_borrow(|pending| !pending.exports.is_empty())
}

/// Runs requests that make no object of an export, and waits for their end; whatever ends the waiting ends them.
pub fn call_store<T, F>(work: impl FnOnce(Arc<Network>) -> F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (io, network) = io_thread()?;
    let task = AbortOnDrop(io.spawn(work(network)));
    wait_until(WaitFor::Answer, io.wake(), None, || task.0.take())?.ok_or_else(lost_task)?
}

/// A cancel that is caught, or rolled back to a savepoint, leaves the thread running, and this must not run on.
struct AbortOnDrop<T>(Task<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts an export's uploads. From here on, whatever ends the (sub)transaction other than a commit undoes them.
pub fn begin(store: Store, destination: Destination, plan: FilePlan) -> Result<Rc<ExportUpload>> {
    io_thread()?;
    WaitFor::CleanUp.prepare();
    undo::forget_abort();
    lock::hold_export(destination.export_id(), PENDING.with_borrow(|pending| pending.exports.len()));
    PENDING.with_borrow_mut(|pending| {
        let io = pending.io.get().ok_or_else(lost_task)?;
        let throttle = Arc::clone(&io.throttle);
        let concurrency = (io.connections, throttle);
        let upload = Rc::new(ExportUpload::start(&io.thread, store, destination, plan, concurrency, retry_policies()));
        pending.exports.push(PendingExport {
            subtransaction: current_subtransaction(),
            upload: Rc::clone(&upload),
            began: Instant::now(),
            ready: None,
        });
        Ok(upload)
    })
}

/// For a request that is not the transaction's own.
pub fn call_policy() -> RetryPolicy {
    RetryPolicy { attempts: settings::request_attempts(), total: settings::request_timeout() }
}

/// What a transaction waits for has the time that the transaction has.
fn retry_policies() -> RetryPolicies {
    let within = |total| RetryPolicy { attempts: settings::request_attempts(), total };
    RetryPolicies {
        files: call_policy(),
        // So that an attempt has half of the commit's time, and the commit's own deadline comes first and says so.
        manifest: within(settings::commit_timeout() * 8 / 5),
        clean_up: within(settings::cleanup_timeout()),
    }
}

/// Says that all files are stored; the commit will write `manifest`.
pub fn ready_to_commit(upload: &Rc<ExportUpload>, manifest: Manifest, permission: &Permission) {
    PENDING.with_borrow_mut(|pending| {
        if let Some(export) = pending.exports.iter_mut().find(|export| Rc::ptr_eq(&export.upload, upload)) {
            export.ready = Some(ReadyToCommit { manifest: Arc::new(manifest), permission: permission.clone() });
        }
    });
}

/// A limit to the time from now on; `None` for zero, which is none.
pub fn time_limit(limit: Duration) -> Result<Option<TimeLimit>> {
    if limit.is_zero() { Ok(None) } else { Ok(Some(TimeLimit::start(&io_thread()?.0, limit))) }
}

/// The commit will start workers for this job, which the current (sub)transaction has written into the table.
pub fn enqueue(export_id: Uuid) {
    let job = PendingJob { subtransaction: current_subtransaction(), export_id };
    PENDING.with_borrow_mut(|pending| pending.jobs.push(job));
}

/// Whether this transaction has enqueued any.
pub fn has_jobs() -> bool {
    PENDING.with_borrow(|pending| !pending.jobs.is_empty())
}

/// Whether this transaction has enqueued the job, which nobody sees before its commit.
pub fn has_enqueued(export_id: Uuid) -> bool {
    PENDING.with_borrow(|pending| pending.jobs.iter().any(|job| job.export_id == export_id))
}

/// # Safety
/// Only Postgres calls it, on the backend's own thread.
unsafe extern "C-unwind" fn at_transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    match event {
        // SAFETY: Postgres has called this, and nothing in it needs a drop.
        XACT_EVENT_PRE_COMMIT => unsafe { guard(before_commit) },
        // SAFETY: as above.
        XACT_EVENT_PRE_PREPARE => unsafe { guard(refuse_prepare) },
        XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => quietly(|| committed_lines(&Ending::begin().0.exports)),
        XACT_EVENT_ABORT => quietly(|| {
            let Ending(pending) = &Ending::begin();
            undo(pending.io.get().map(|io| &io.thread), &uploads(&pending.exports))
        }),
        _ => {}
    }
}

/// # Safety
/// Only Postgres calls it, on the backend's own thread.
unsafe extern "C-unwind" fn at_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    match event {
        SUBXACT_EVENT_COMMIT_SUB => quietly(|| {
            hand_over(subtransaction, parent);
            Vec::new()
        }),
        SUBXACT_EVENT_ABORT_SUB => quietly(|| undo_subtransaction(subtransaction)),
        _ => {}
    }
}

/// A panic in a callback would raise where Postgres cannot take an error any more. What `work` has to say is said when all of
/// it is done, its drops included.
fn quietly(work: impl FnOnce() -> Vec<Report>) {
    let reports = contained(work).unwrap_or_else(|_| {
        vec![Report::Warning(Error::new(Code::Internal, "s3_export could not clean up after a transaction"))]
    });
    in_callback(&reports);
}

/// Manifests come last: whatever can refuse the commit is asked before a reader can see one. Workers that were started for
/// nothing end by themselves: they wait for this transaction, and find no job when it has aborted.
fn before_commit() -> Result<()> {
    let jobs: Vec<Uuid> = PENDING.with_borrow(|pending| pending.jobs.iter().map(|job| job.export_id).collect());
    if let (false, Some(start_jobs)) = (jobs.is_empty(), START_JOBS.get()) {
        start_jobs(&jobs)?;
    }
    if has_exports() {
        refuse_if_doomed();
    }
    write_manifests()
}

/// One line for each export that is committed, where the setting asks for it.
fn committed_lines(exports: &[PendingExport]) -> Vec<Report> {
    if !settings::log_exports() {
        return Vec::new();
    }
    let line = |export: &PendingExport| {
        let ReadyToCommit { manifest, permission } = export.ready.as_ref()?;
        let totals = manifest.totals;
        Some(Report::Log(format!(
            "export {} to {} by {permission}: {} documents, {} files, {} bytes, {:.3} s",
            export.upload.export_id(),
            manifest.destination.location(),
            totals.documents,
            totals.files,
            totals.bytes,
            export.began.elapsed().as_secs_f64(),
        )))
    };
    exports.iter().filter_map(line).collect()
}

/// Writes the manifests of all exports at once; the first that fails aborts the transaction.
fn write_manifests() -> Result<()> {
    let uploads = PENDING.with_borrow(start_manifests)?;
    let Some(first) = uploads.first() else { return Ok(()) };
    let deadline = Instant::now() + settings::commit_timeout();
    let mut unwritten: Vec<_> = uploads.iter().collect();
    // All of them each time: the first that fails is told, whichever it is.
    let all_written = || {
        let mut first_error = None;
        unwritten.retain(|upload| match upload.is_manifest_written() {
            Ok(is_written) => !is_written,
            Err(error) => {
                first_error.get_or_insert(error);
                true
            }
        });
        first_error.map_or(Ok(unwritten.is_empty().then_some(())), Err)
    };
    wait_until(WaitFor::Manifests, first.wake(), Some(deadline), all_written)?.ok_or_else(|| {
        let passed = "s3_export.commit_timeout passed before S3 had acknowledged every manifest of this transaction.";
        let failure = uploads.iter().find_map(|upload| upload.last_failure());
        let last = failure.map(|failure| format!(" A request failed before: {}", failure.summary())).unwrap_or_default();
        Error::new(Code::Timeout, "could not write the manifests in time").detail(format!("{passed}{last}"))
    })
}

/// Sends every manifest on its way. Errors: XX000 when an export is not finished, since somebody caught its error without
/// rolling back what it did.
fn start_manifests(pending: &Pending) -> Result<Vec<Rc<ExportUpload>>> {
    let Some(Io { thread: io, .. }) = pending.io.get() else { return Ok(Vec::new()) };
    let unfinished = || Error::new(Code::Internal, "an export of this transaction did not finish");
    let mut uploads = Vec::new();
    for export in &pending.exports {
        let ready = export.ready.as_ref().ok_or_else(unfinished)?;
        export.upload.write_manifest(io, Arc::clone(&ready.manifest));
        uploads.push(Rc::clone(&export.upload));
    }
    Ok(uploads)
}

fn refuse_prepare() -> Result<()> {
    let (exports, jobs) = PENDING.with_borrow(|pending| (pending.exports.len(), pending.jobs.len()));
    let (done, why) = match (exports, jobs) {
        (0, 0) => return Ok(()),
        (0, _) => ("enqueued an export", "Workers are started when it commits"),
        _ => ("exported to S3", "Its manifests are written when it commits"),
    };
    Err(Error::new(Code::Unsupported, format!("cannot PREPARE a transaction that has {done}"))
        .detail(format!("{why}, and a prepared transaction may commit in another session.")))
}

/// What a subtransaction exported is its parent's now.
fn hand_over(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    PENDING.with_borrow_mut(|pending| {
        for export in pending.exports.iter_mut().filter(|export| export.subtransaction == subtransaction) {
            export.subtransaction = parent;
        }
        for job in pending.jobs.iter_mut().filter(|job| job.subtransaction == subtransaction) {
            job.subtransaction = parent;
        }
    });
}

fn undo_subtransaction(subtransaction: pg_sys::SubTransactionId) -> Vec<Report> {
    if EXPORTING.get() == Some(subtransaction) {
        leave_export();
    }
    let (io, undone) = PENDING.with_borrow_mut(|pending| {
        let exports = std::mem::take(&mut pending.exports);
        let (undone, kept) = exports.into_iter().partition::<Vec<_>, _>(|export| export.subtransaction == subtransaction);
        pending.exports = kept;
        pending.jobs.retain(|job| job.subtransaction != subtransaction);
        (pending.io.get().map(|io| Rc::clone(&io.thread)), undone)
    });
    undo(io.as_ref(), &uploads(&undone))
}

fn uploads(exports: &[PendingExport]) -> Vec<Rc<ExportUpload>> {
    exports.iter().map(|export| Rc::clone(&export.upload)).collect()
}

/// The pending exports and jobs of the transaction that ends. The drop ends the thread and forgets all else, whatever happens before:
/// afterwards the backend has no connection and no thread of ours.
struct Ending(Pending);

impl Ending {
    fn begin() -> Self {
        Ending(PENDING.take())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        leave_export();
        forget_transaction();
        undo::forget_abort();
        if let Some(io) = self.0.io.get() {
            stop_quietly(&io.thread);
        }
    }
}
