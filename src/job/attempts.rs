//! Attempts of a job (option `retries`): which failures are worth another, when it is due, and the SQL on it.
//!
//! ```text
//! RUNNING ──► transient failure, worker gone ──► QUEUED, next_attempt_at ──(timer)──► RUNNING, with another export id
//! ```
//!
//! Each attempt is an export by itself, with an id of its own. So a failed attempt is taken back as any export, and what a crash has left
//! of it cannot be taken for the next attempt's. The job keeps the id that `wait` and `cancel` take.
#![forbid(unsafe_code)]

use std::time::Duration;

use s3_export_core::error::Result;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::job::status::Status;
use crate::job::table::{Locked, error_values, of_this_cluster};
use crate::pg::ActAs;
use crate::pg::raised::Raised;
use crate::pg::sql::{Table, read_latest, write_latest};
use crate::settings;

const QUEUED: &str = Status::Queued.name();
const RUNNING: &str = Status::Running.name();

/// Longest pause between two attempts.
const LONGEST_DELAY: Duration = Duration::from_secs(600);

/// How many attempts a job has had, and may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Those that have begun.
    pub made: u32,
    /// Those after the first that the job may have.
    pub retries: u32,
}

impl Attempts {
    /// Reads them from a job's row as JSON.
    pub fn of_row(row: &Value) -> Self {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        Attempts { made: number(row.get("attempts")).unwrap_or(0), retries: number(row.get("retries")).unwrap_or(0) }
    }

    /// The pause before the next attempt. `None`: the failure is the end of the job.
    pub fn after(self, failure: &Raised) -> Option<Duration> {
        (failure.transient && self.made <= self.retries).then(|| delay(settings::retry_delay(), self.made))
    }
}

/// The pause after so many attempts: twice as long after each.
fn delay(first: Duration, made: u32) -> Duration {
    first.saturating_mul(1 << made.saturating_sub(1).min(20)).min(LONGEST_DELAY)
}

/// SQL for the time from which a job may begin. `job`: the alias of the table, which lacks the column until the extension is updated.
pub fn due_at(job: &str) -> String {
    format!("coalesce((to_jsonb({job}) ->> 'next_attempt_at')::timestamptz, {job}.queued_at)")
}

/// Members of a JSON object that [`Attempts::of_row`] reads.
pub fn members(job: &str) -> String {
    format!("'attempts', to_jsonb({job}) -> 'attempts', 'retries', {job}.options -> 'options' -> 'retries'")
}

/// Whether the table of jobs counts attempts: it does once the extension is updated.
pub fn are_counted() -> Result<bool> {
    let found = read_latest(
        "SELECT convert_to(to_jsonb(EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = 's3_export.jobs'::regclass
             AND a.attname = 'attempt_id' AND NOT a.attisdropped))::text, 'UTF8')",
        &Value::Null,
    )?;
    Ok(found.and_then(|found| found.as_bool()).unwrap_or(false))
}

/// What a claim writes besides, where attempts are counted. The first attempt has the job's own id.
pub const CLAIMED: &str = ", attempts = coalesce(j.attempts, 0) + 1, next_attempt_at = NULL,
    attempt_id = CASE coalesce(j.attempts, 0) WHEN 0 THEN j.export_id ELSE ($argument ->> 'attempt_id')::uuid END";

/// Makes a RUNNING job QUEUED again, until its next attempt after `delay`, and keeps the error of this one; `false`: it is not in that
/// attempt any more, or was locked and is to be skipped. A tenth of the delay is random: a store that comes back must not have all
/// at once.
pub fn requeue(export_id: Uuid, made: u32, delay: Duration, error: &Raised, locked: Locked) -> Result<bool> {
    let _superuser = ActAs::superuser();
    let skip = if locked == Locked::Skip { "FOR NO KEY UPDATE SKIP LOCKED" } else { "" };
    let mut argument = error_values(error);
    argument.extend([
        ("export_id".to_owned(), json!(export_id.to_string())),
        ("attempts".to_owned(), json!(made)),
        ("delay".to_owned(), json!(delay.as_secs_f64())),
    ]);
    let row = write_latest(
        Table::Jobs,
        &format!(
            "UPDATE s3_export.jobs SET status = '{QUEUED}', pid = NULL, error_sqlstate = $argument ->> 'sqlstate',
                 error_message = $argument ->> 'message', error_detail = $argument ->> 'detail', error_hint = $argument ->> 'hint',
                 error_context = $argument ->> 'context',
                 next_attempt_at = clock_timestamp() + make_interval(secs => ($argument ->> 'delay')::float8 * (1 + random() / 10))
             WHERE export_id = (SELECT j.export_id FROM s3_export.jobs AS j WHERE j.export_id = ($argument ->> 'export_id')::uuid
                                    AND j.status = '{RUNNING}' {skip})
                   AND status = '{RUNNING}' AND attempts = ($argument ->> 'attempts')::int
             RETURNING convert_to('{{}}', 'UTF8')"
        ),
        &Value::Object(argument),
    )?;
    Ok(row.is_some())
}

/// The time until the next attempt of a job of this database is due. `None`: no job waits for one.
pub fn next_due() -> Result<Option<Duration>> {
    let _superuser = ActAs::superuser();
    let (due, ours) = (due_at("j"), of_this_cluster("j"));
    let seconds = read_latest(
        &format!(
            "SELECT convert_to(to_jsonb(extract(epoch FROM min({due}) - clock_timestamp()))::text, 'UTF8')
             FROM s3_export.jobs AS j, pg_database AS d
             WHERE j.status = '{QUEUED}' AND d.datname = current_database() AND j.database_oid = d.oid AND {ours}
                   AND {due} > clock_timestamp()"
        ),
        &Value::Null,
    )?;
    let seconds = seconds.and_then(|seconds| seconds.as_f64());
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        delays_double_up_to_ten_minutes,
        only_what_may_pass_is_tried_again,
    }

    fn delays_double_up_to_ten_minutes() {
        let seconds: Vec<u64> = (1..=8).map(|made| delay(Duration::from_secs(10), made).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(delay(Duration::MAX, 21), LONGEST_DELAY);
    }

    fn only_what_may_pass_is_tried_again() {
        let attempts = |made, retries| Attempts { made, retries };
        let failure = |transient| Raised { transient, ..Raised::default() };
        assert!(attempts(1, 0).after(&failure(true)).is_none());
        assert!(attempts(1, 1).after(&failure(true)).is_some());
        assert!(attempts(2, 1).after(&failure(true)).is_none());
        assert!(attempts(1, 1).after(&failure(false)).is_none());
    }
}
