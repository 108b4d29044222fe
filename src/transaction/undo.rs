//! Taking back what aborted exports have written, and what committed exports replace; saying what could not be taken back.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use s3_export_core::error::{Code, Error};
use s3_export_core::io::task::Task;
use s3_export_core::io::thread::IoThread;
use s3_export_core::upload::{ExportUpload, RollbackReport};
use uuid::Uuid;

use crate::pg::report::Report;
use crate::pg::wait::{WaitFor, postmaster_is_alive, wait_until_quietly};
use crate::settings;

/// Stops uploads and deletes what they wrote, all exports at once, for at most `s3_export.cleanup_timeout` in the whole abort. Postgres still
/// holds the transaction's locks meanwhile, and answers no interrupt. Gives what is to be said when all else is done.
pub fn undo(io: Option<&Rc<IoThread>>, exports: &[Rc<ExportUpload>]) -> Vec<Report> {
    let Some(io) = io else { return Vec::new() };
    if exports.is_empty() {
        return Vec::new();
    }
    let deadline = deadline_of_abort();
    let limit = deadline.saturating_duration_since(Instant::now());
    let tasks: Vec<Task<RollbackReport>> = exports.iter().map(|export| export.clean_up(io, limit)).collect();
    let report = |(task, export): (&Task<RollbackReport>, &Rc<ExportUpload>)| {
        let report = answer(io, task, deadline).unwrap_or_else(|| export.unanswered_rollback());
        warning_of(&report, &format!("objects of the aborted export {}", export.export_id()))
    };
    let reports = tasks.iter().zip(exports).filter_map(report).collect();
    LAST.set(Some(Last { deadline, ended: Instant::now() }));
    reports
}

/// Deletes the files of the exports in whose place `exports` have come with this commit, for at most `s3_export.cleanup_timeout`.
pub fn delete_replaced(io: Option<&Rc<IoThread>>, exports: &[Rc<ExportUpload>]) -> Vec<Report> {
    let Some(io) = io else { return Vec::new() };
    let limit = settings::cleanup_timeout();
    let deadline = Instant::now() + limit;
    let begin = |export: &Rc<ExportUpload>| Some((export.replaced()?, export.delete_replaced(io, limit)));
    let tasks: Vec<(Uuid, Task<RollbackReport>)> = exports.iter().filter_map(begin).collect();
    let report = |(replaced, task): &(Uuid, Task<RollbackReport>)| {
        let report = answer(io, task, deadline).unwrap_or_else(RollbackReport::unanswered);
        warning_of(&report, &format!("files of the replaced export {replaced}"))
    };
    tasks.iter().filter_map(report).collect()
}

fn answer(io: &IoThread, task: &Task<RollbackReport>, deadline: Instant) -> Option<RollbackReport> {
    let answer = wait_until_quietly(WaitFor::CleanUp, io.wake(), deadline + ANSWER_TIME, || task.take().transpose());
    answer.and_then(Result::ok)
}

thread_local! {
    /// The last clean-up of the transaction.
    static LAST: Cell<Option<Last>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Last {
    deadline: Instant,
    ended: Instant,
}

/// How soon after a clean-up the next one belongs to the same abort. Postgres aborts nested savepoints one after the other, each with
/// a callback of its own, and runs little between two of them.
const SAME_ABORT: Duration = Duration::from_secs(1);

/// The deadline of this clean-up: that of the whole abort, which would else take the time of a clean-up for each savepoint, with all
/// locks held.
fn deadline_of_abort() -> Instant {
    let now = Instant::now();
    if !postmaster_is_alive() {
        return now;
    }
    LAST.get()
        .filter(|last| last.ended.elapsed() < SAME_ABORT)
        .map_or_else(|| now + settings::cleanup_timeout(), |last| last.deadline)
}

/// Forgets the abort under way: the transaction has ended, or another export begins, so that an abort from here on is another one.
pub fn forget_abort() {
    LAST.set(None);
}

/// The clean-up keeps to its limit by itself; so much later it is taken for lost.
const ANSWER_TIME: Duration = Duration::from_millis(500);

fn warning_of(report: &RollbackReport, objects: &str) -> Option<Report> {
    if report.is_empty() {
        return None;
    }
    let more = report.count - report.named.len();
    let mut detail = match report.named.as_slice() {
        [] => "The clean-up did not end in time.".to_owned(),
        _ => format!(
            "Not known to be deleted: {}{}.",
            report.named.join(", "),
            if more > 0 { format!(" and {more} more") } else { String::new() }
        ),
    };
    if let Some(cause) = &report.cause {
        detail = format!("{detail} The first cause: {}.", cause.summary().trim_end_matches('.'));
    }
    if report.may_stand {
        let warning =
            Error::new(Code::Io, format!("{objects} may remain in S3, in the place of the run that they were to replace"))
                .detail(detail)
                .hint("Run the export again with existing_run \"replace\". Then s3_export.cleanup finds what is left of both.");
        return Some(Report::Warning(warning));
    }
    let warning = Error::new(Code::Io, format!("{objects} may remain in S3"))
        .detail(detail)
        .hint("No manifest lists these objects. Delete the objects whose names contain the id of the export.");
    Some(Report::Warning(warning))
}
