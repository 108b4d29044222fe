//! Jobs: exports that a background worker runs.
//!
//! ```text
//! s3_export_async ──► a row, QUEUED ──commit──► worker: RUNNING ──► COMPLETED, with its manifest
//!                         └── cancel ──► CANCELLED ◄── cancel ──┴─► ERROR
//! ```
//!
//! A job is COMPLETED by the very transaction that exports, so it is so if, and only if, its manifest is there. One that is
//! RUNNING and whose lock nobody holds has lost its worker.
#![deny(unsafe_code)]

pub mod pending;
pub mod queue;
pub mod status;
pub mod stored;
pub mod table;
pub mod worker;

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::pg_sys::{Datum, Oid};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::request::{Arguments, Permission, Request};
use serde_json::{Value, json};
use uuid::Uuid;

use self::status::Status;
use self::table::{Locked, NewJob, State};
use crate::export;
use crate::feed;
use crate::pg::lock::Lock;
use crate::pg::raised::{Raised, raise_again};
use crate::pg::wait::{WaitFor, pause};
use crate::pg::{caller, current_user, has_privileges_of, is_read_only, is_standby, role_named, session_user, sql};
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
            Status::Running if is_lost(export_id)? => {
                raise_again(&bury(export_id)?)?;
            }
            Status::Queued if Instant::now() >= next_look => {
                look_at_queue()?;
                next_look = Instant::now() + LOOK_AT_QUEUE;
            }
            Status::Queued | Status::Running => {}
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
                if table::end(export_id, Status::Queued, Status::Cancelled, &cancelled_before(), Locked::Wait)? {
                    return Ok(true);
                }
            }
            Status::Running if is_lost(export_id)? => {
                bury(export_id)?;
                return Ok(false);
            }
            Status::Running => {
                return state.pid.map_or(Ok(false), |pid| table::signal(export_id, pid));
            }
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
        Some(state) if state.status == Status::Running && is_lost(export_id)? => Ok(Some(DIED)),
        _ => Ok(None),
    }
}

/// Message of a job whose worker is gone, in the view `s3_export.exports` too.
const DIED: &str = "the worker of the export ended without an answer";

/// Whether nobody runs a job that says that it is RUNNING.
fn is_lost(export_id: Uuid) -> Result<bool> {
    // Locks of the primary's workers are not seen on a standby.
    if is_own(export_id) || is_standby() || Lock::Job(export_id).is_held() {
        return Ok(false);
    }
    // It may have ended since: a worker says how before it lets go of its lock.
    Ok(table::state(export_id)?.is_some_and(|state| state.status == Status::Running))
}

/// Writes down that its worker is gone, where this transaction may write.
fn bury(export_id: Uuid) -> Result<Raised> {
    let died = Raised {
        sqlstate: "57P02".to_owned(),
        message: DIED.to_owned(),
        detail: Some("The server crashed or was stopped. Files without a manifest may remain in S3.".to_owned()),
        hint: Some("s3_export.cleanup finds them.".to_owned()),
        ..Raised::default()
    };
    if !is_read_only() {
        table::end(export_id, Status::Running, Status::Error, &died, Locked::Skip)?;
    }
    Ok(died)
}

/// Writes down what a crash has left RUNNING.
pub fn mark_lost() -> Result<()> {
    for export_id in table::running()? {
        if !is_own(export_id) && !Lock::Job(export_id).is_held() {
            bury(export_id)?;
        }
    }
    Ok(())
}

fn cancelled_before() -> Raised {
    Raised { sqlstate: "57014".to_owned(), message: "the export was cancelled before it began".to_owned(), ..Raised::default() }
}
