//! A committed export has its manifest; an aborted one has nothing.
//!
//! ```text
//! begin ──► uploads ──► ready_to_commit ──► PRE_COMMIT: the hook of the jobs; may it commit? then every manifest, at once
//!   └─ error, cancel, terminate, rollback, rollback to savepoint ──► ABORT: stop, delete, warn of what remains
//! ```
//!
//! Everything hangs on the transaction's callbacks and nothing on Drop: a FATAL error does not unwind Rust. Code that
//! waits holds no borrow of what `pending` and `session_io` keep, so that the abort callback always finds it. The callbacks for
//! commit and abort raise nothing and look at no catalog; the one before the commit raises, and so turns it into an abort.

mod log_line;
mod pending;
mod session_io;
mod slot;
mod undo;

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
use pgrx::pg_sys::XactEvent::{
    XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
};
use s3_export_core::error::{Code, Error, Result};

pub use self::log_line::LogLine;
use self::pending::Ending;
pub use self::pending::{Exporting, begin, forget, has_exports, is_exporting, ready_to_commit, writes_manifest};
pub use self::session_io::{call_policy, call_store, call_store_and_hear, connections, time_limit};
pub use self::slot::take as take_slot;
use crate::pg::callback::contained;
use crate::pg::errors::{guard, tell_failure};
use crate::pg::report::{Report, in_callback};
use crate::pg::serializable::refuse_if_doomed;

/// Work of a room above at the ends of transactions. All but the first two run where Postgres can take no error.
pub struct Hooks {
    /// Runs before the commit, and before any manifest. Errors: refuse the commit.
    pub before_commit: fn() -> Result<()>,
    /// Runs before a PREPARE TRANSACTION. Errors: refuse it.
    pub before_prepare: fn() -> Result<()>,
    /// Gives the parent what its subtransaction, the first argument, has done.
    pub hand_over: fn(pg_sys::SubTransactionId, pg_sys::SubTransactionId),
    /// Forgets what the subtransaction has done.
    pub undo_subtransaction: fn(pg_sys::SubTransactionId),
    /// Forgets what the transaction has done, since it has ended.
    pub at_end: fn(),
}

thread_local! {
    static HOOKS: Cell<Option<&'static Hooks>> = const { Cell::new(None) };
}

/// Registers the callbacks. Called once, when the library is loaded.
pub fn register_callbacks(hooks: &'static Hooks) {
    HOOKS.set(Some(hooks));
    // SAFETY: both functions live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_event), std::ptr::null_mut());
    }
}

/// # Safety
/// Only Postgres calls it, on the backend's own thread.
unsafe extern "C-unwind" fn at_transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    match event {
        // SAFETY: Postgres has called this, and nothing in it needs a drop.
        XACT_EVENT_PRE_COMMIT => unsafe {
            guard(|| tell_failure(before_commit, |sqlstate| in_callback(&pending::failed_lines(sqlstate))))
        },
        // SAFETY: as above.
        XACT_EVENT_PRE_PREPARE => unsafe { guard(refuse_prepare) },
        XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => quietly(|| end().committed()),
        XACT_EVENT_ABORT => quietly(|| end().undo()),
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

/// Manifests come last: whatever can refuse the commit is asked before a reader can see one.
fn before_commit() -> Result<()> {
    if let Some(hooks) = HOOKS.get() {
        (hooks.before_commit)()?;
    }
    if has_exports() {
        refuse_if_doomed();
    }
    pending::write_manifests()
}

fn refuse_prepare() -> Result<()> {
    if has_exports() {
        return Err(cannot_prepare("exported to S3", "Its manifests are written when it commits"));
    }
    HOOKS.get().map_or(Ok(()), |hooks| (hooks.before_prepare)())?;
    // Its exports were rolled back, and a prepared transaction may live for days.
    slot::let_go();
    Ok(())
}

/// The error of a PREPARE of a transaction that has `done` what waits for its commit.
pub fn cannot_prepare(done: &str, why: &str) -> Error {
    Error::new(Code::Unsupported, format!("cannot PREPARE a transaction that has {done}"))
        .detail(format!("{why}, and a prepared transaction may commit in another session."))
}

/// Takes what waits for the transaction's end, which is now.
fn end() -> Ending {
    let ending = Ending::begin();
    if let Some(hooks) = HOOKS.get() {
        (hooks.at_end)();
    }
    ending
}

fn hand_over(subtransaction: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId) {
    pending::hand_over(subtransaction, parent);
    if let Some(hooks) = HOOKS.get() {
        (hooks.hand_over)(subtransaction, parent);
    }
}

fn undo_subtransaction(subtransaction: pg_sys::SubTransactionId) -> Vec<Report> {
    // First, since taking back what is in S3 may take its time, and fail.
    if let Some(hooks) = HOOKS.get() {
        (hooks.undo_subtransaction)(subtransaction);
    }
    pending::undo_subtransaction(subtransaction)
}
