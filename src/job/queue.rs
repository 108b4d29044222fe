//! Workers for queued jobs: when they start, and for which job.
#![forbid(unsafe_code)]
//!
//! At most `s3_export.max_workers` workers of a database run jobs, each of which holds a number. Nobody is in charge of the
//! queue: whoever commits jobs starts workers while there are free numbers, and a worker that ends starts others for what is
//! queued. So that no job falls between the two:
//!
//! ```text
//! commit: hold Enqueue ──► count numbers ──► start workers, if any is free ──► let go with the commit
//! worker: give the number back ──► wait for all who hold Enqueue ──► look at the queue
//! ```
//!
//! A worker that finds no number free ends at once: those who have them will look at the queue later than that.

use std::time::{Duration, Instant};

use s3_export_core::error::{Code, Error, Result};
use uuid::Uuid;

use crate::job::mark_lost;
use crate::job::status::Status;
use crate::job::table::{self, Locked, Queued, Which};
use crate::job::timer;
use crate::pg::background::Assignment;
use crate::pg::launcher;
use crate::pg::lock::{Lock, SessionLock};
use crate::pg::raised::Raised;
use crate::pg::report;
use crate::pg::wait::{WaitFor, pause};
use crate::pg::worker_transaction::set_local;
use crate::pg::{Settings, current_database, current_transaction, is_read_only, is_standby};
use crate::settings;

/// Starts workers for jobs that the current transaction is about to commit. Errors: 53400 when there is no worker and no room
/// for one, 42501.
pub fn start_before_commit(jobs: &[Uuid]) -> Result<()> {
    let deadline = Instant::now() + ROOM_TIMEOUT;
    loop {
        // Kept until the commit, if that is to rely on a worker that has a number now. Behind a worker that waits for a commit
        // that hangs, this takes a second.
        {
            let _patient = Settings::set(&[(c"lock_timeout", c"0")]);
            Lock::Enqueue.hold();
        }
        let workers = table::workers()?;
        let waiting = table::queued(free(workers), Which::Only(jobs))?;
        if let Some(obstacle) = waiting.iter().find_map(obstacle) {
            return Err(obstacle);
        }
        let enqueued_by = Some(current_transaction());
        let started = waiting.iter().take_while(|job| assignment(job, enqueued_by).start_worker()).count();
        if workers > 0 || started > 0 || waiting.is_empty() {
            return Ok(());
        }
        // The timer may take up the room, and so may a worker that has no number yet, or none any more.
        timer::make_room()?;
        Lock::Enqueue.let_go();
        if Instant::now() > deadline {
            return Err(no_room());
        }
        pause(WaitFor::Job, ROOM_PAUSE);
    }
}

fn no_room() -> Error {
    Error::new(Code::Limit, "could not start a background worker for the export")
        .detail("Postgres has no room for another background worker, and no worker of s3_export runs in this database.")
        .hint("Raise max_worker_processes, or wait until another background worker ends.")
}

/// Outcome of a look at the queue.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// All workers run that may run, or all jobs have one.
    Done,
    /// Postgres has no room for another worker.
    NoRoom,
}

/// Starts workers for what is queued, as far as numbers are free. Jobs that no worker can run become ERROR.
pub fn start_queued() -> Result<Look> {
    start(Which::Any)
}

/// Does the same as [`start_queued`], for a session, and for jobs that were enqueued so long ago that no worker is on the way. Sees to it
/// that jobs whose next attempt is due later have a timer.
pub fn start_forgotten(age: Duration) -> Result<Look> {
    let look = start(Which::Since(age))?;
    timer::ensure()?;
    Ok(look)
}

/// Does the same as [`start_queued`] for jobs that were enqueued later than a job that a worker could not claim. That job would be
/// started again and again.
pub fn start_queued_after(export_id: Uuid) -> Result<Look> {
    start(Which::After(export_id))
}

fn start(which: Which<'_>) -> Result<Look> {
    if is_standby() || is_read_only() {
        return Ok(Look::Done);
    }
    mark_lost()?;
    let mut free = free(table::workers()?);
    let mut waited = 0;
    // Some more than can be started, since there may be some that no worker can run.
    for job in table::queued(if free == 0 { 0 } else { free + UNSTARTABLE_BATCH }, which)? {
        if let Some(obstacle) = obstacle(&job) {
            table::end(job.export_id, Status::Queued, Status::Error, &Raised::from(&obstacle), Locked::Skip)?;
        } else if free == 0 {
            break;
        } else if assignment(&job, None).start_worker() {
            free -= 1;
            waited += u32::from(job.before_start);
        } else {
            return Ok(Look::NoRoom);
        }
    }
    if waited > 0 && !launcher::is_registered() {
        report::log(format!(
            "jobs that were queued before the server's start begin now: {waited} (with s3_export in shared_preload_libraries they begin at the start)"
        ));
    }
    Ok(Look::Done)
}

/// Jobs that no worker can run which one look at the queue finds, at most.
const UNSTARTABLE_BATCH: u32 = 100;

fn free(workers: u32) -> u32 {
    settings::max_workers().saturating_sub(workers)
}

fn assignment(job: &Queued, enqueued_by: Option<pgrx::pg_sys::TransactionId>) -> Assignment {
    Assignment {
        database: current_database(),
        role: job.role,
        login: job.login,
        may_log_in: job.may_log_in.unwrap_or(false),
        export_id: job.export_id,
        enqueued_by,
    }
}

/// Why no worker could connect for it.
fn obstacle(job: &Queued) -> Option<Error> {
    if !job.role_exists {
        return Some(Error::new(Code::Undefined, "the role of the export does not exist any more"));
    }
    if job.may_log_in.is_none() {
        return Some(Error::new(Code::Undefined, "the user whose session enqueued the export does not exist any more"));
    }
    (!job.may_connect).then(|| {
        Error::new(Code::Privilege, "permission denied for the role of the export to connect to the database")
            .detail("That role is the user of the session that enqueued the export.")
            .hint("GRANT CONNECT ON DATABASE … TO …")
    })
}

/// A worker's number, until it is dropped.
pub struct Number {
    number: u32,
    lock: SessionLock,
}

/// A number for this worker; `None`: as many workers run as may.
pub fn take_number() -> Option<Number> {
    (0..settings::max_workers())
        .find_map(|number| SessionLock::try_alone(Lock::Worker(number)).map(|lock| Number { number, lock }))
}

impl Number {
    /// Keeps it through the current transaction, whatever that unlocks.
    pub fn hold_in_transaction(&self) {
        self.lock.hold_in_transaction();
    }

    /// How long the worker that had it waits for room for another; each a little longer, so that those who end make room.
    pub fn policy(&self) -> Duration {
        Duration::from_secs(2) + Duration::from_millis(100) * self.number.min(10)
    }
}

/// Waits for those who have counted on a worker that gave its number back since, for at most a second: one of them may hang in
/// its commit. Raises 55P03 after that.
pub fn wait_for_commits() {
    set_local(c"lock_timeout", c"1s");
    Lock::Enqueue.pass();
}

/// Whether somebody is committing who may have counted on a worker.
pub fn is_anybody_committing() -> bool {
    Lock::Enqueue.is_held()
}

/// Between two looks of who waits for room.
pub const ROOM_PAUSE: Duration = Duration::from_millis(50);
/// How long a commit waits for room: longer than any worker that waits for room, and takes it up itself.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);
