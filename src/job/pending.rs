//! Jobs that the current transaction has enqueued. Nobody else sees them before its commit, which starts workers for them.
//!
//! A worker that is started for nothing ends by itself: it waits for this transaction, and finds no job when that has aborted.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use pgrx::pg_sys::SubTransactionId;
use s3_export_core::error::Result;
use uuid::Uuid;

use crate::job::queue;
use crate::pg::current_subtransaction;
use crate::transaction::{Hooks, cannot_prepare};

struct PendingJob {
    subtransaction: SubTransactionId,
    export_id: Uuid,
}

thread_local! {
    static PENDING: RefCell<Vec<PendingJob>> = RefCell::default();
}

/// Work on pending jobs at the ends of transactions.
pub static HOOKS: Hooks = Hooks { before_commit, before_prepare, hand_over, undo_subtransaction, at_end };

/// Says that the commit is to start workers for this job, which the current (sub)transaction has written into the table.
pub fn add(export_id: Uuid) {
    let job = PendingJob { subtransaction: current_subtransaction(), export_id };
    PENDING.with_borrow_mut(|jobs| jobs.push(job));
}

/// Whether this transaction has enqueued any.
pub fn has_any() -> bool {
    PENDING.with_borrow(|jobs| !jobs.is_empty())
}

/// Whether this transaction has enqueued the job, which nobody sees before its commit.
pub fn has_enqueued(export_id: Uuid) -> bool {
    PENDING.with_borrow(|jobs| jobs.iter().any(|job| job.export_id == export_id))
}

fn before_commit() -> Result<()> {
    let jobs: Vec<Uuid> = PENDING.with_borrow(|jobs| jobs.iter().map(|job| job.export_id).collect());
    if jobs.is_empty() { Ok(()) } else { queue::start_before_commit(&jobs) }
}

fn before_prepare() -> Result<()> {
    if has_any() { Err(cannot_prepare("enqueued an export", "Workers are started when it commits")) } else { Ok(()) }
}

fn hand_over(subtransaction: SubTransactionId, parent: SubTransactionId) {
    PENDING.with_borrow_mut(|jobs| {
        for job in jobs.iter_mut().filter(|job| job.subtransaction == subtransaction) {
            job.subtransaction = parent;
        }
    });
}

fn undo_subtransaction(subtransaction: SubTransactionId) {
    PENDING.with_borrow_mut(|jobs| jobs.retain(|job| job.subtransaction != subtransaction));
}

fn at_end() {
    PENDING.take();
}
