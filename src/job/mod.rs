//! Jobs: exports that a background worker runs.
//!
//! ```text
//! s3_export_async ──► a row, QUEUED ──commit──► worker: RUNNING ──► COMPLETED, with its manifest
//!                         │  ▲── transient failure, with retries ──┤
//!                         └── cancel ──► CANCELLED ◄── cancel ──┴─► ERROR
//! ```
//!
//! A job is COMPLETED by the very transaction that exports, so it is so if, and only if, its manifest is there. One that is
//! RUNNING and whose lock nobody holds has lost its worker.
#![deny(unsafe_code)]

pub mod attempts;
pub mod pending;
pub mod queue;
pub mod status;
pub mod stored;
pub mod table;
pub mod timer;
pub mod worker;

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::pg_sys::{Datum, Oid};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::request::{Arguments, Permission, Request};
use serde_json::{Value, json};
use uuid::Uuid;

use self::attempts::Attempts;
use self::status::Status;
use self::table::{Locked, NewJob, State};
use crate::export;
use crate::feed;
use crate::pg::background::Assignment;
use crate::pg::lock::Lock;
use crate::pg::raised::{Raised, raise_again};
use crate::pg::wait::{WaitFor, pause};
use crate::pg::{
    caller, current_database, current_user, has_privileges_of, is_read_only, is_standby, role_named, session_user, sql,
};
use crate::stored_arguments;
use crate::verify::Verification;

/// Enqueues an export, which begins when the current transaction has committed; gives its id. Errors: as an export's before its
/// query runs.
pub fn enqueue(arguments: &Arguments, request: &Request) -> Result<Uuid> {
    crate::pg::refuse_if_read_only(c"s3_export_async()");
    enqueue_export(arguments, request, None)
}

/// Enqueues the next run of a feed, like [`enqueue`]. Errors: as of `feed::run`, before its query runs.
pub fn enqueue_feed(name: &str) -> Result<Uuid> {
    crate::pg::refuse_if_read_only(c"s3_export.run_feed_async()");
    let request = feed::check_run(name)?;
    enqueue_export(&feed::arguments(name)?, &request, Some(name))
}

fn enqueue_export(arguments: &Arguments, request: &Request, feed: Option<&str>) -> Result<Uuid> {
    export::check_context()?;
    let export_id = Uuid::now_v7();
    let options = stored_arguments::to_options(arguments);
    export::check(request, export_id)?;
    if request.retries.is_some() && !attempts::are_counted()? {
        return Err(Error::new(Code::NotReady, "the extension in this database does not know the option \"retries\" yet")
            .hint("ALTER EXTENSION s3_export UPDATE"));
    }
    add(&NewJob {
        export_id,
        role: current_user(),
        uri: &request.location.to_string(),
        permission: &request.permission,
        query: &request.query,
        options,
        settings: settings_of_caller(),
        feed,
        verification: None,
    })
}

/// Enqueues a verification, like [`enqueue`]. Errors: as of the verification before its first request.
pub fn enqueue_verification(verification: &Verification) -> Result<Uuid> {
    crate::pg::refuse_if_read_only(c"s3_export.verify_async()");
    verification.check()?;
    add(&NewJob {
        export_id: Uuid::now_v7(),
        role: current_user(),
        uri: &verification.manifest,
        permission: &Permission::Integration(verification.integration.clone()),
        query: &verification.statement(),
        options: json!({}),
        settings: settings_of_caller(),
        feed: None,
        verification: Some(json!({ "deep": verification.deep })),
    })
}

fn settings_of_caller() -> Value {
    let mut settings = stored::of_settings(&caller::settings());
    settings.insert(table::SESSION_USER.to_owned(), Value::String(session_user().to_u32().to_string()));
    Value::Object(settings)
}

fn add(job: &NewJob<'_>) -> Result<Uuid> {
    look_at_queue()?;
    table::insert(job)?;
    pending::add(job.export_id);
    Ok(job.export_id)
}

/// Starts what has been queued for a while, as far as it may run: what was enqueued just now has its worker on the way, and a second
/// one would take room for nothing. Not in a transaction with jobs of its own, which would be taken for jobs that anybody could run.
fn look_at_queue() -> Result<()> {
    if pending::has_any() { Ok(()) } else { queue::start_forgotten(LOOK_AT_QUEUE).map(drop) }
}

/// How long to sleep between two looks at a job: from here, growing, up to there.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often whoever waits sees to it that queued jobs have workers.
const LOOK_AT_QUEUE: Duration = Duration::from_secs(1);

/// Waits for the end of a job; gives its row of `s3_export.exports`. `limit`: at most so long. Raises what the export raised.
/// Errors: 42704 for a job that is not there or not to be seen, 55000 for one of this very transaction, 57014 after `limit`.
pub fn wait(export_id: Uuid, limit: Option<Duration>) -> Result<Datum> {
    if pending::has_enqueued(export_id) {
        return Err(Error::new(Code::NotReady, "cannot wait for an export that this transaction has enqueued")
            .detail("The export begins when the transaction has committed.")
            .hint("Commit the transaction first."));
    }
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    // A job that was enqueued just now has its worker on the way.
    let state = visible(export_id)?;
    if state.status != Status::Queued || state.age > LOOK_AT_QUEUE {
        look_at_queue()?;
    }
    let (mut sleep, mut next_look) = (FIRST_PAUSE, Instant::now() + LOOK_AT_QUEUE);
    loop {
        let state = visible(export_id)?;
        match state.status {
            Status::Completed => break,
            Status::Error | Status::Cancelled => {
                raise_again(&state.error)?;
            }
            Status::Running => {
                if let Some(died) = lost(export_id, &state)?.map(|attempts| bury(export_id, attempts)).transpose()?.flatten() {
                    raise_again(&died)?;
                }
            }
            Status::Queued if Instant::now() >= next_look => {
                look_at_queue()?;
                next_look = Instant::now() + LOOK_AT_QUEUE;
            }
            Status::Queued => {}
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(Error::new(Code::Timeout, format!("export {export_id} has not ended in time"))
                .detail(format!("The export is {} and goes on.", state.status.name())));
        }
        pause(WaitFor::Job, left.map_or(sleep, |left| left.min(sleep)));
        sleep = (sleep * 3 / 2).min(LONGEST_PAUSE);
    }
    let statement = "SELECT e FROM s3_export.exports AS e WHERE e.export_id = ($argument ->> 'export_id')::uuid";
    sql::row_latest(statement, &json!({ "export_id": export_id.to_string() }))?.ok_or_else(|| unknown(export_id))
}

/// Stops a job of the current user's; `false`: it had ended already. A job that runs is sent a cancel, and cleans up before it
/// ends. Errors: 42501, 42704.
pub fn cancel(export_id: Uuid) -> Result<bool> {
    if is_standby() {
        crate::pg::refuse_if_read_only(c"s3_export.cancel()");
    }
    visible(export_id)?;
    look_at_queue()?;
    loop {
        let state = visible(export_id)?;
        if !has_privileges_of(state.role) {
            return Err(Error::new(Code::Privilege, format!("permission denied to cancel export {export_id}"))
                .detail("Only the role of the export, and roles with the privileges of that role, may cancel it."));
        }
        match state.status {
            Status::Queued => {
                let error = cancelled_before(state.attempts);
                if table::end(export_id, Status::Queued, Status::Cancelled, &error, Locked::Wait)? {
                    return Ok(true);
                }
            }
            Status::Running => match lost(export_id, &state)? {
                None => return state.pid.map_or(Ok(false), |pid| table::signal(export_id, pid)),
                // It would start again.
                Some(attempts) if attempts.after(&died()).is_some() => {
                    let error = cancelled_before(attempts);
                    if table::end_attempt(export_id, attempts.made, &error, Status::Cancelled, Locked::Wait)? {
                        return Ok(true);
                    }
                }
                Some(attempts) => {
                    bury(export_id, attempts)?;
                    return Ok(false);
                }
            },
            Status::Completed | Status::Error | Status::Cancelled => return Ok(false),
        }
    }
}

/// Deletes jobs that have ended so long ago: the current user's, or everybody's for an administrator. Gives how many.
pub fn prune(older_than: Duration) -> Result<u64> {
    mark_lost()?;
    table::prune(older_than.as_secs_f64(), is_administrator())
}

/// A job that the current user may see, as it is now. Errors: 42704.
fn visible(export_id: Uuid) -> Result<State> {
    table::state(export_id)?.filter(|state| may_see(state.role)).ok_or_else(|| unknown(export_id))
}

/// Whether exports of that role are for the current user to see.
pub fn may_see(role: Oid) -> bool {
    has_privileges_of(role) || is_administrator() || role_named(c"s3_export_auditor").is_some_and(has_privileges_of)
}

fn is_administrator() -> bool {
    role_named(c"s3_export_admin").is_some_and(has_privileges_of)
}

fn unknown(export_id: Uuid) -> Error {
    Error::new(Code::Undefined, format!("no job of the current role has the id {export_id}"))
        .detail("A job can be seen once the transaction that enqueued it has committed, until it is pruned.")
}

thread_local! {
    /// The job that this process runs, whose lock it would not see itself.
    static OWN: Cell<Option<Uuid>> = const { Cell::new(None) };
}

/// Says which job this process runs.
pub fn set_own(export_id: Option<Uuid>) {
    OWN.set(export_id);
}

fn is_own(export_id: Uuid) -> bool {
    OWN.get() == Some(export_id)
}

/// Returns the error of a job that the caller's snapshot shows as RUNNING and whose worker is gone. `None`: the job runs, or has ended.
pub fn lost_worker(export_id: Uuid) -> Result<Option<&'static str>> {
    match table::state(export_id)? {
        Some(state) if state.status == Status::Running && lost(export_id, &state)?.is_some() => Ok(Some(DIED)),
        _ => Ok(None),
    }
}

/// Message of a job whose worker is gone, in the view `s3_export.exports` too.
const DIED: &str = "the worker of the export ended without an answer";

/// The attempts of a job that was `seen` RUNNING and that nobody runs. `None`: somebody does, or it has ended.
fn lost(export_id: Uuid, seen: &State) -> Result<Option<Attempts>> {
    // Locks of the primary's workers are not seen on a standby.
    if is_own(export_id) || is_standby() || Lock::Job(export_id).is_held() {
        return Ok(None);
    }
    // It may have ended since, or be in its next attempt: a worker says how before it lets go of its lock.
    let now = table::state(export_id)?;
    Ok(now.filter(|now| now.status == Status::Running && now.attempts == seen.attempts).map(|now| now.attempts))
}

/// The error of a job whose worker is gone.
fn died() -> Raised {
    Raised {
        sqlstate: "57P02".to_owned(),
        message: DIED.to_owned(),
        detail: Some("The server crashed or was stopped. Files without a manifest may remain in S3.".to_owned()),
        hint: Some("s3_export.cleanup finds them.".to_owned()),
        transient: true,
        ..Raised::default()
    }
}

/// Writes down that its worker is gone, where this transaction may write; gives the error, or `None` for a job that starts again.
fn bury(export_id: Uuid, attempts: Attempts) -> Result<Option<Raised>> {
    let died = died();
    if let Some(delay) = attempts.after(&died) {
        if OwnTransaction::is_here() {
            attempts::requeue(export_id, attempts.made, delay, &died, Locked::Skip)?;
        } else {
            ask_for_look();
        }
        return Ok(None);
    }
    if !is_read_only() {
        table::end_attempt(export_id, attempts.made, &died, Status::Error, Locked::Skip)?;
    }
    Ok(Some(died))
}

thread_local! {
    /// Whether the current transaction is a worker's own, and commits at once.
    static OWN_TRANSACTION: Cell<bool> = const { Cell::new(false) };
    /// When a process was asked for last.
    static ASKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Says until the drop that the current transaction is a worker's own. Only such a transaction makes a job QUEUED again: nobody else would
/// see that before the end of a session's transaction, which may wait for the very job.
pub struct OwnTransaction(());

impl OwnTransaction {
    /// From now on.
    pub fn begin() -> Self {
        OWN_TRANSACTION.set(true);
        OwnTransaction(())
    }

    fn is_here() -> bool {
        OWN_TRANSACTION.get()
    }
}

impl Drop for OwnTransaction {
    fn drop(&mut self) {
        OWN_TRANSACTION.set(false);
    }
}

/// Asks for a process that looks at the queue in transactions of its own, at most as often as whoever waits looks.
fn ask_for_look() {
    let is_on_the_way = ASKED.get().is_some_and(|asked| asked.elapsed() < LOOK_AT_QUEUE);
    if !is_on_the_way && !is_standby() {
        ASKED.set(Some(Instant::now()));
        Assignment::look(current_database()).start_worker();
    }
}

/// Writes down what a crash has left RUNNING.
pub fn mark_lost() -> Result<()> {
    for export_id in table::running()? {
        // Most of them run, and are not read for that.
        if is_own(export_id) || Lock::Job(export_id).is_held() {
            continue;
        }
        if let Some(state) = table::state(export_id)?.filter(|state| state.status == Status::Running)
            && let Some(attempts) = lost(export_id, &state)?
        {
            bury(export_id, attempts)?;
        }
    }
    Ok(())
}

/// The error of a job that was cancelled while no worker had it.
fn cancelled_before(attempts: Attempts) -> Raised {
    let what = if attempts.made == 0 { "it began" } else { "its next attempt" };
    Raised { sqlstate: "57014".to_owned(), message: format!("the export was cancelled before {what}"), ..Raised::default() }
}
