//! The exports that wait for the end of the current transaction: a commit writes their manifests, an abort takes them back.
//!
//! Each export belongs to the subtransaction that it ran in. A subtransaction that commits hands its exports over to its parent;
//! one that aborts has only its own taken back.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pgrx::pg_sys::SubTransactionId;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::plan::FilePlan;
use s3_export_core::manifest::Manifest;
use s3_export_core::naming::keys::Destination;
use s3_export_core::s3::client::Store;
use s3_export_core::upload::ExportUpload;
use s3_export_core::upload::replaced::Replaced;

use crate::pg::current_subtransaction;
use crate::pg::errors::forget_transaction;
use crate::pg::limit;
use crate::pg::lock;
use crate::pg::report::Report;
use crate::pg::wait::{WaitFor, wait_until};
use crate::settings;
use crate::transaction::log_line::LogLine;
use crate::transaction::session_io::{self, SessionIo};
use crate::transaction::slot;
use crate::transaction::undo::{self, delete_replaced, undo};

struct PendingExport {
    subtransaction: SubTransactionId,
    upload: Rc<ExportUpload>,
    began: Instant,
    /// `None` while the export runs.
    ready: Option<ReadyToCommit>,
}

/// An export whose files are all stored.
struct ReadyToCommit {
    manifest: Arc<Manifest>,
    line: LogLine,
}

thread_local! {
    /// The exports of the current top-level transaction.
    static PENDING: RefCell<Vec<PendingExport>> = RefCell::default();
    /// The subtransaction in which an export was begun that runs at this moment.
    static EXPORTING: Cell<Option<SubTransactionId>> = const { Cell::new(None) };
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

/// Whether this transaction has exports, running or waiting for its commit.
pub fn has_exports() -> bool {
    PENDING.with_borrow(|exports| !exports.is_empty())
}

/// Starts an export's uploads. From here on, whatever ends the (sub)transaction other than a commit undoes them.
pub fn begin(store: Store, destination: Destination, plan: FilePlan, replaced: Option<Replaced>) -> Result<Rc<ExportUpload>> {
    session_io::start()?;
    WaitFor::CleanUp.prepare();
    undo::forget_abort();
    let held = PENDING.with_borrow(Vec::len);
    lock::hold_export(destination.export_id(), held);
    if let Some(replaced) = &replaced {
        // Its manifest is away between the write of the new one and a rollback that puts it back: cleanup must not take its files then.
        lock::hold_export(replaced.export_id(), held);
    }
    let subtransaction = current_subtransaction();
    // From here on nothing may raise before the abort callback can find the uploads.
    let upload = Rc::new(session_io::start_upload(store, destination, plan)?);
    if let Some(replaced) = replaced {
        upload.replace(replaced);
    }
    let export = PendingExport { subtransaction, upload: Rc::clone(&upload), began: Instant::now(), ready: None };
    PENDING.with_borrow_mut(|exports| exports.push(export));
    Ok(upload)
}

/// Says that all files are stored; the commit will write `manifest`.
pub fn ready_to_commit(upload: &Rc<ExportUpload>, manifest: Manifest, line: LogLine) {
    PENDING.with_borrow_mut(|exports| {
        if let Some(export) = exports.iter_mut().find(|export| Rc::ptr_eq(&export.upload, upload)) {
            export.ready = Some(ReadyToCommit { manifest: Arc::new(manifest), line });
        }
    });
}

/// Forgets an export that has written nothing, and that the commit shall write nothing of.
pub fn forget(upload: &Rc<ExportUpload>) {
    PENDING.with_borrow_mut(|exports| exports.retain(|export| !Rc::ptr_eq(&export.upload, upload)));
}

/// Whether the commit of this transaction writes the manifest at that URL.
pub fn writes_manifest(url: &str) -> bool {
    PENDING.with_borrow(|exports| exports.iter().any(|export| export.upload.manifest_url() == url))
}

/// Writes the manifests of all exports at once; the first that fails aborts the transaction.
pub fn write_manifests() -> Result<()> {
    let uploads = PENDING.with_borrow(|exports| start_manifests(exports))?;
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
        Error::new(Code::Timeout, "could not write the manifests in time").detail(format!("{passed}{last}")).transient()
    })
}

/// Sends every manifest on its way. Errors: XX000 when an export is not finished, since somebody caught its error without
/// rolling back what it did.
fn start_manifests(exports: &[PendingExport]) -> Result<Vec<Rc<ExportUpload>>> {
    let Some(io) = session_io::running_thread() else { return Ok(Vec::new()) };
    let unfinished = || Error::new(Code::Internal, "an export of this transaction did not finish");
    let mut uploads = Vec::new();
    for export in exports {
        let ready = export.ready.as_ref().ok_or_else(unfinished)?;
        export.upload.write_manifest(&io, Arc::clone(&ready.manifest));
        uploads.push(Rc::clone(&export.upload));
    }
    Ok(uploads)
}

/// Gives the parent what its subtransaction exported.
pub fn hand_over(subtransaction: SubTransactionId, parent: SubTransactionId) {
    PENDING.with_borrow_mut(|exports| {
        for export in exports.iter_mut().filter(|export| export.subtransaction == subtransaction) {
            export.subtransaction = parent;
        }
    });
}

/// Takes back what the subtransaction exported; gives what is to be said of it.
pub fn undo_subtransaction(subtransaction: SubTransactionId) -> Vec<Report> {
    if EXPORTING.get() == Some(subtransaction) {
        leave_export();
    }
    let undone = PENDING.with_borrow_mut(|exports| {
        let (undone, kept) = std::mem::take(exports).into_iter().partition(|export| export.subtransaction == subtransaction);
        *exports = kept;
        undone
    });
    let mut reports = undo(session_io::running_thread().as_ref(), &uploads(undone.as_slice()));
    reports.extend(undone.iter().filter_map(rolled_back_line));
    reports
}

fn uploads(exports: &[PendingExport]) -> Vec<Rc<ExportUpload>> {
    exports.iter().map(|export| Rc::clone(&export.upload)).collect()
}

/// The pending exports of the transaction that ends. The drop ends the thread and forgets all else, whatever happens before:
/// afterwards the backend has no connection and no thread of ours.
pub struct Ending {
    io: Option<SessionIo>,
    exports: Vec<PendingExport>,
}

impl Ending {
    /// Takes what there is.
    pub fn begin() -> Self {
        Ending { io: session_io::take(), exports: PENDING.take() }
    }

    /// Takes all exports back; gives what is to be said of it.
    pub fn undo(&self) -> Vec<Report> {
        let mut reports = undo(self.io.as_ref().map(SessionIo::thread), &uploads(&self.exports));
        reports.extend(self.exports.iter().filter_map(rolled_back_line));
        reports
    }

    /// Deletes the exports in whose place others have come; gives what is to be said of it, and the lines of the exports that are
    /// committed.
    pub fn committed(&self) -> Vec<Report> {
        let mut reports = delete_replaced(self.io.as_ref().map(SessionIo::thread), &uploads(&self.exports));
        reports.extend(self.exports.iter().filter_map(committed_line));
        reports
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        leave_export();
        forget_transaction();
        slot::forget();
        undo::forget_abort();
        if let Some(io) = &self.io {
            io.stop();
        }
    }
}

fn committed_line(export: &PendingExport) -> Option<Report> {
    let ReadyToCommit { manifest, line } = export.ready.as_ref()?;
    line.committed(manifest.totals, export.began.elapsed()).map(Report::Log)
}

/// Until the rollback, whoever may read the bucket could read the files.
fn rolled_back_line(export: &PendingExport) -> Option<Report> {
    let ReadyToCommit { manifest, line } = export.ready.as_ref()?;
    line.rolled_back(manifest.totals).map(Report::Log)
}

/// Returns the lines of the exports, whose commit has failed.
pub fn failed_lines(sqlstate: &str) -> Vec<Report> {
    PENDING.with_borrow(|exports| {
        let lines = exports.iter().filter_map(|export| export.ready.as_ref()?.line.failed(sqlstate));
        lines.map(Report::Log).collect()
    })
}
