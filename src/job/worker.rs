//! The background worker: one process, one job.
#![allow(unsafe_code)]
//!
//! ```text
//! connect as the caller's session user ──► the enqueuing transaction has ended ──► a number ──► claim the job: RUNNING
//!   ──► as the role, with the caller's settings: export, and COMPLETED in the same transaction ──► or ERROR, CANCELLED
//!   ──► give the number back ──► start workers for what is queued
//! ```
//!
//! `session_user` is the caller's, as in the session, and may have more rights than the job's role. So the job's role is put on for
//! the whole transaction, its commit and the triggers that wait for that included, and cannot be taken off from within.
//!
//! A worker whose job another has taken meanwhile runs another job of the same two roles, if there is one: it may hold the last
//! process that Postgres has for us.

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_int};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::{pg_guard, pg_sys};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::request::{PermissionArguments, Request};
use serde_json::Value;
use uuid::Uuid;

use crate::export;
use crate::feed;
use crate::history;
use crate::job::attempts::{self, Attempts};
use crate::job::cancelled_before;
use crate::job::queue::{self, Look, Number};
use crate::job::status::Status;
use crate::job::table::{self, Claimed, Locked};
use crate::job::timer;
use crate::job::{OwnTransaction, set_own};
use crate::pg::background::{Assignment, end_at_sigterm, handle};
use crate::pg::caller::ServerSettings;
use crate::pg::lock::{Lock, SessionLock};
use crate::pg::raised::{Raised, catch};
use crate::pg::report::{Report, in_callback, log};
use crate::pg::wait::{WaitFor, pause, postmaster_is_alive};
use crate::pg::worker_transaction::{
    CancelsIgnored, Transaction, Writable, become_session_user, set_local, wait_for_transaction,
};
use crate::pg::{ActAs, caller, role_name, to_server};
use crate::settings;
use crate::stored_arguments;
use crate::verify::Verification;

/// Whether somebody has sent a cancel since the job was claimed: the error that follows may also be one that the query raised by itself.
static CANCELLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The job that this worker has claimed and not yet ended, and its attempts.
    static CLAIMED: Cell<Option<(Uuid, Attempts)>> = const { Cell::new(None) };
    /// Number of this worker among those that run.
    static NUMBER: RefCell<Option<Number>> = const { RefCell::new(None) };
    /// The job that it was started for.
    static ASSIGNED: Cell<Option<Uuid>> = const { Cell::new(None) };
    /// Whether others see to what is queued from here on.
    static HANDED_ON: Cell<bool> = const { Cell::new(false) };
}

/// Bounds of the timer's sleep. A timer whose jobs are cancelled ends after the longest.
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// A transaction's result, or what it raised.
type Ended<T> = std::result::Result<T, Box<Raised>>;

// SAFETY: declared as Postgres declares it, of the type that `pqsignal` takes.
unsafe extern "C-unwind" {
    /// Postgres's own handler, undecorated: a signal handler must not set up what catches errors.
    fn StatementCancelHandler(signal: c_int, #[cfg(since_pg19)] sender: *const pg_sys::pg_signal_info);
}

/// # Safety
/// Only called as the handler of SIGINT, with what such a handler is given.
unsafe extern "C-unwind" fn cancel(signal: c_int, #[cfg(since_pg19)] sender: *const pg_sys::pg_signal_info) {
    CANCELLED.store(true, Ordering::Relaxed);
    // SAFETY: it is made to be called from here.
    unsafe {
        #[cfg(not(since_pg19))]
        StatementCancelHandler(signal);
        #[cfg(since_pg19)]
        StatementCancelHandler(signal, sender);
    }
}

/// Entry point of a worker, which Postgres calls.
///
/// # Safety
/// Only Postgres calls it, once, in a process of its own.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn s3_export_worker_main(_argument: pg_sys::Datum) {
    end_at_sigterm();
    // SAFETY: signals are blocked until here.
    unsafe {
        handle(pg_sys::SIGINT, Some(cancel));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    let assignment = Assignment::of_this_worker();
    ASSIGNED.set(Some(assignment.export_id));
    let server = ServerSettings::before_connection();
    let is_superuser = assignment.connect();
    caller::fix();
    history::run_job();
    // SAFETY: the function lives as long as the library. It runs before Postgres's own callback, since that is there already.
    unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::null()) };
    let settled = if is_superuser { become_caller(&assignment, &server) } else { Ok(()) };
    if let Err(raised) = settled.and_then(|()| serve(&assignment, &server)) {
        log(format!("worker of export {} failed: {}", assignment.export_id, raised.message));
    }
}

/// Makes the session of a superuser the caller's: its user, and none of the superuser's own settings.
fn become_caller(assignment: &Assignment, server: &ServerSettings) -> Ended<()> {
    let of_superuser = caller::of_superuser();
    let of_database = in_transaction(table::settings_of_database)?;
    in_transaction(|| {
        server.restore(&of_superuser, &of_database);
        // As the superuser that the worker is connected as, nothing of the job may run.
        let gone = || Error::new(Code::Undefined, "the user whose session enqueued the export does not exist any more");
        become_session_user(role_name(assignment.login).as_deref().ok_or_else(gone)?);
        Ok(())
    })
}

fn serve(assignment: &Assignment, server: &ServerSettings) -> Ended<()> {
    if assignment.is_look() {
        HANDED_ON.set(true);
        return look();
    }
    if let Some(enqueuer) = assignment.enqueued_by {
        in_transaction(|| {
            wait_for_transaction(enqueuer);
            Ok(())
        })?;
    }
    let has_number = in_transaction(|| {
        NUMBER.set(queue::take_number());
        Ok(NUMBER.with_borrow(Option::is_some))
    })?;
    if !has_number {
        // Those who have numbers look at the queue later than this.
        HANDED_ON.set(true);
        return Ok(());
    }
    let mut claimed = in_transaction(|| claim(assignment))?;
    if claimed.is_none() {
        // Those who are committing count on this worker.
        let _ = in_transaction(|| {
            queue::wait_for_commits();
            Ok(())
        });
        claimed = in_transaction(|| claim(assignment))?;
    }
    let unclaimed = claimed.is_none().then_some(assignment.export_id);
    if let Some((job, lock)) = claimed {
        let (id, attempts) = (job.export_id, job.attempts);
        run(assignment, job, &lock, server);
        CLAIMED.set(None);
        set_own(None);
        drop(lock);
        end_if_cancelled(id, attempts);
    }
    hand_on(unclaimed)?;
    HANDED_ON.set(true);
    keep_time()
}

/// Looks at the queue for whoever cannot, and becomes the timer if there is to be one.
fn look() -> Ended<()> {
    if in_transaction(table::is_installed)? {
        in_transaction(queue::start_queued)?;
        keep_time()?;
    }
    Ok(())
}

/// Starts jobs when their next attempt is due, if this process is the timer or becomes it, until no job waits.
fn keep_time() -> Ended<()> {
    while in_transaction(timer::take)? {
        show("s3_export: waits for the next attempt of a job");
        // A job that begins to wait meanwhile is due no sooner than after the first delay.
        while let Some(due) = in_transaction(|| queue::start_queued().and_then(|_| attempts::next_due()))? {
            pause(WaitFor::Retry, due.min(settings::retry_delay()).clamp(SHORTEST_SLEEP, LONGEST_SLEEP));
        }
        timer::let_go();
    }
    Ok(())
}

/// Ends a job that is QUEUED for its next attempt although somebody was told that it is cancelled: the signal came while the end of its
/// attempt was written.
fn end_if_cancelled(id: Uuid, attempts: Attempts) {
    if CANCELLED.load(Ordering::Relaxed) {
        let _ignored = CancelsIgnored::begin();
        let error = cancelled_before(attempts);
        if let Err(raised) = in_transaction(|| table::end(id, Status::Queued, Status::Cancelled, &error, Locked::Wait)) {
            log(format!("the cancel of export {id} could not be written down: {}", raised.message));
        }
    }
}

/// The lock is taken before the claim is seen, and kept beyond it.
fn claim(assignment: &Assignment) -> Result<Option<(Claimed, SessionLock)>> {
    let Some(job) = table::claim(assignment.export_id, assignment.role, assignment.login)? else { return Ok(None) };
    let id = job.export_id;
    // What came before was not meant for this job, which nobody can cancel before the commit.
    CANCELLED.store(false, Ordering::Relaxed);
    CLAIMED.set(Some((id, job.attempts)));
    set_own(Some(id));
    Ok(Some((job, SessionLock::hold(Lock::Job(id)))))
}

/// Runs the job to its end, whatever that is.
fn run(assignment: &Assignment, job: Claimed, lock: &SessionLock, server: &ServerSettings) {
    let (id, attempts) = (job.export_id, job.attempts);
    let settings = in_transaction_of_role(assignment, lock, Transaction::begin, || {
        show_activity(id, &job.query);
        caller::apply(&job.settings, server);
        Ok(())
    });
    // A feed cannot run in another.
    let begin: fn() -> Transaction = if job.feed.is_some() { Transaction::begin_read_committed } else { Transaction::begin };
    let ended = settings.and_then(|()| in_transaction_of_role(assignment, lock, begin, || export_and_complete(id, job)));
    caller::fix_again();
    // The query may have unlocked it, and the transaction has let go of it now.
    lock.retake();
    // What comes from here on is not the export any more.
    let _ignored = CancelsIgnored::begin();
    if let Err(raised) = ended {
        log(format!("export {id} failed: {} (SQLSTATE {})", raised.message, raised.sqlstate));
        if let Err(unrecorded) = in_transaction(|| record(id, attempts, &raised, Locked::Wait)) {
            log(format!("the end of export {id} could not be written down: {}", unrecorded.message));
        }
    }
}

/// Writes down what the failure of this attempt makes of the job: nothing of a cancelled job is tried again.
fn record(id: Uuid, attempts: Attempts, raised: &Raised, locked: Locked) -> Result<bool> {
    let is_cancelled = CANCELLED.load(Ordering::Relaxed);
    match attempts.after(raised).filter(|_| !is_cancelled) {
        Some(delay) => {
            log(format!("export {id} starts again in {:.0} s, for attempt {}", delay.as_secs_f64(), attempts.made + 1));
            attempts::requeue(id, attempts.made, delay, raised, locked)
        }
        None => {
            let status = if raised.is_cancel && is_cancelled { Status::Cancelled } else { Status::Error };
            table::end_own(id, status, raised, locked)
        }
    }
}

fn export_and_complete(id: Uuid, job: Claimed) -> Result<()> {
    let (totals, manifest) = match (&job.feed, verification_of(&job)) {
        (Some(name), _) => {
            let outcome = feed::run(name, job.attempt_id)?;
            (outcome.totals, outcome.written.map(|(_, manifest)| manifest))
        }
        (None, Some(verification)) => (verification.run_as_job(id)?, Some(verification.manifest)),
        (None, None) => {
            let arguments = stored_arguments::to_arguments(job.uri, job.permission, job.query, &job.options);
            let outcome = export::run(&Request::from_arguments(arguments)?, job.attempt_id)?;
            (outcome.totals, Some(outcome.manifest))
        }
    };
    // The caller's settings may make every transaction READ ONLY.
    let _writable = Writable::begin();
    table::complete(id, totals, manifest.as_deref())
}

/// The verification that the job is, if it is one.
fn verification_of(job: &Claimed) -> Option<Verification> {
    let deep = job.verification.as_ref()?.get("deep").and_then(Value::as_bool).unwrap_or_default();
    let PermissionArguments::Integration(integration) = job.permission.clone() else { return None };
    Some(Verification { manifest: job.uri.clone(), integration: integration?, deep })
}

/// A transaction of ours.
fn in_transaction<T>(work: impl FnOnce() -> Result<T>) -> Ended<T> {
    let ended = catch(|| {
        let _own = OwnTransaction::begin();
        let transaction = Transaction::begin_own();
        let value = work()?;
        transaction.commit();
        Ok(value)
    });
    ended.inspect_err(|_| Transaction::abort())
}

/// A transaction of the job's role, from its beginning to its end; the query cannot let go of what says that the job lives.
fn in_transaction_of_role<T>(
    assignment: &Assignment,
    lock: &SessionLock,
    begin: fn() -> Transaction,
    work: impl FnOnce() -> Result<T>,
) -> Ended<T> {
    let ended = catch(|| {
        let transaction = begin();
        lock.hold_in_transaction();
        NUMBER.with_borrow(|number| number.as_ref().map(Number::hold_in_transaction));
        let _role = ActAs::role(assignment.role);
        let value = work()?;
        transaction.commit();
        Ok(value)
    });
    ended.inspect_err(|_| Transaction::abort())
}

/// Shows the job, as [`show`].
fn show_activity(id: Uuid, query: &str) {
    show(&format!("s3_export job {id}: {query}"));
}

/// Shows what the process does in `pg_stat_activity`, and where the log says STATEMENT.
fn show(activity: &str) {
    let Ok(activity) = to_server(activity).map(CString::into_raw) else { return };
    // SAFETY: the text is never freed: the process ends with the job.
    unsafe {
        pg_sys::debug_query_string = activity;
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity);
    }
}

/// Sees to it that what is queued has workers, before this one, which counted as one, is gone. Where this one takes up the last
/// room that Postgres has, the next who calls or waits has to do it. `unclaimed`: a job that it could not have.
fn hand_on(unclaimed: Option<Uuid>) -> Ended<()> {
    let Some(number) = NUMBER.take() else { return Ok(()) };
    let deadline = Instant::now() + number.policy();
    drop(number);
    // After its limit the next who looks finds what is committed by then.
    let _ = in_transaction(|| {
        queue::wait_for_commits();
        Ok(())
    });
    let look = || unclaimed.map_or_else(queue::start_queued, queue::start_queued_after);
    while in_transaction(look)? == Look::NoRoom && in_transaction(table::workers)? == 0 {
        if Instant::now() > deadline {
            log("no room for another background worker: what is queued waits for the next call of s3_export");
            break;
        }
        pause(WaitFor::Job, queue::ROOM_PAUSE);
    }
    Ok(())
}

/// How long the end of a process waits for commits that may have counted on it.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// A FATAL error unwinds nothing and passes through here: the job says that it was terminated, and others get their workers.
///
/// # Safety
/// Only Postgres calls it, at the end of the process.
#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: c_int, _argument: pg_sys::Datum) {
    if HANDED_ON.get() || !postmaster_is_alive() {
        return;
    }
    // SAFETY: nothing else runs in this process any more. The callbacks of the abort delete what the export wrote.
    unsafe { pg_sys::AbortOutOfAnyTransaction() };
    NUMBER.take();
    let terminated = Raised {
        sqlstate: "57P01".to_owned(),
        message: "the worker of the export was terminated".to_owned(),
        transient: true,
        ..Raised::default()
    };
    let claimed = CLAIMED.take();
    // First, since an error would end both: here it is FATAL.
    let recorded = in_transaction(|| {
        set_local(c"synchronous_commit", c"local");
        claimed.map_or(Ok(true), |(id, attempts)| record(id, attempts, &terminated, Locked::Skip))
    });
    set_own(None);
    let start = Instant::now();
    while in_transaction(|| Ok(queue::is_anybody_committing())) == Ok(true) && start.elapsed() < LAST_WAIT {
        std::thread::sleep(queue::ROOM_PAUSE);
    }
    // A job that could not be claimed would be started once more, and so for ever.
    let unclaimed = ASSIGNED.get().filter(|_| claimed.is_none());
    let started = in_transaction(|| {
        unclaimed.map_or_else(queue::start_queued, queue::start_queued_after)?;
        // This process cannot stay to be the timer.
        timer::ensure()
    });
    if let Err(raised) = recorded.map(drop).and(started.map(drop)) {
        in_callback(&[Report::Log(format!("the end of an export could not be written down: {}", raised.message))]);
    }
}
