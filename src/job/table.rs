//! The SQL on `s3_export.jobs`.
//!
//! Nobody is granted the table. These statements run as the superuser, and see what has been committed up to now, since a job
//! is written by other sessions meanwhile. Who may see or stop which job is asked before, by whoever calls.

use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Status;
use crate::chunk::Totals;
use crate::error::Result;
use crate::pg::ActAs;
use crate::pg::errors::Raised;
use crate::pg::lock::WORKER_KIND;
use crate::pg::sql::{read_latest, write_latest};
use crate::pg::{server_is_utf8, sql};

/// A job to be enqueued.
pub struct NewJob<'a> {
    pub export_id: Uuid,
    pub role: pg_sys::Oid,
    pub uri: &'a str,
    pub integration: &'a str,
    pub query: &'a str,
    /// All other arguments.
    pub options: Value,
    /// The caller's, by name.
    pub settings: Value,
}

/// Writes it, as part of the current (sub)transaction.
pub fn insert(job: &NewJob<'_>) -> Result<()> {
    let _superuser = ActAs::superuser();
    sql::write(
        "INSERT INTO s3_export.jobs (export_id, role_oid, role, uri, integration, query, options, settings)
         SELECT ($argument ->> 'export_id')::uuid, r.oid, r.rolname, $argument ->> 'uri', $argument ->> 'integration',
             $argument ->> 'query', $argument -> 'options', $argument -> 'settings'
         FROM pg_roles AS r WHERE r.oid = ($argument ->> 'role')::oid
         RETURNING convert_to('{}', 'UTF8')",
        &json!({
            "export_id": job.export_id.to_string(), "role": job.role.to_u32(), "uri": job.uri, "integration": job.integration,
            "query": job.query, "options": job.options, "settings": job.settings,
        }),
    )?;
    Ok(())
}

/// A job that a worker has claimed.
pub struct Claimed {
    pub uri: String,
    pub integration: String,
    pub query: String,
    pub options: Value,
    pub settings: Vec<(String, String)>,
}

/// Makes a QUEUED job of that role this process's, RUNNING; `None`: it is not QUEUED, or its transaction was rolled back.
pub fn claim(export_id: Uuid, role: pg_sys::Oid) -> Result<Option<Claimed>> {
    let _superuser = ActAs::superuser();
    let row = write_latest(
        "UPDATE s3_export.jobs AS j SET status = 'RUNNING', started_at = clock_timestamp(), pid = pg_backend_pid()
         WHERE j.export_id = ($argument ->> 'export_id')::uuid AND j.role_oid = ($argument ->> 'role')::oid
               AND j.status = 'QUEUED'
         RETURNING convert_to(jsonb_build_object('uri', j.uri, 'integration', j.integration, 'query', j.query,
                                                 'options', j.options, 'settings', j.settings)::text, 'UTF8')",
        &json!({ "export_id": export_id.to_string(), "role": role.to_u32() }),
    )?;
    Ok(row.map(|row| Claimed {
        uri: text(&row, "uri").unwrap_or_default(),
        integration: text(&row, "integration").unwrap_or_default(),
        query: text(&row, "query").unwrap_or_default(),
        options: row.get("options").cloned().unwrap_or_default(),
        settings: pairs(row.get("settings")),
    }))
}

fn pairs(settings: Option<&Value>) -> Vec<(String, String)> {
    let members = settings.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// COMPLETED, once the current transaction commits.
pub fn complete(export_id: Uuid, totals: Totals, manifest: &str) -> Result<()> {
    let _superuser = ActAs::superuser();
    write_latest(
        "UPDATE s3_export.jobs SET status = 'COMPLETED', finished_at = clock_timestamp(), settings = NULL, pid = NULL,
             documents = ($argument ->> 'documents')::bigint, files = ($argument ->> 'files')::bigint,
             bytes = ($argument ->> 'bytes')::bigint, manifest = $argument ->> 'manifest'
         WHERE export_id = ($argument ->> 'export_id')::uuid
         RETURNING convert_to('{}', 'UTF8')",
        &json!({
            "export_id": export_id.to_string(), "documents": totals.documents, "files": totals.files, "bytes": totals.bytes,
            "manifest": manifest,
        }),
    )?;
    Ok(())
}

/// Ends a job that is `from` without a result; `false`: it is not any more.
pub fn end(export_id: Uuid, from: Status, to: Status, error: &Raised) -> Result<bool> {
    let _superuser = ActAs::superuser();
    let row = write_latest(
        "UPDATE s3_export.jobs SET status = $argument ->> 'to', finished_at = clock_timestamp(), settings = NULL, pid = NULL,
             error_sqlstate = $argument ->> 'sqlstate', error_message = $argument ->> 'message',
             error_detail = $argument ->> 'detail', error_hint = $argument ->> 'hint', error_context = $argument ->> 'context'
         WHERE export_id = ($argument ->> 'export_id')::uuid AND status = $argument ->> 'from'
         RETURNING convert_to('{}', 'UTF8')",
        &json!({
            "export_id": export_id.to_string(), "from": from.name(), "to": to.name(), "sqlstate": error.sqlstate,
            "message": storable(&error.message), "detail": error.detail.as_deref().map(storable),
            "hint": error.hint.as_deref().map(storable), "context": error.context.as_deref().map(storable),
        }),
    )?;
    Ok(row.is_some())
}

/// A database of another encoding may lack a character of what a store has said; that must not keep the rest from being kept.
fn storable(text: &str) -> String {
    let keep = |character: char| character != '\0' && (character.is_ascii() || server_is_utf8());
    text.chars().map(|character| if keep(character) { character } else { '?' }).collect()
}

/// A job as it is now.
pub struct State {
    pub role: pg_sys::Oid,
    pub status: Status,
    /// The process that claimed it.
    pub pid: Option<i32>,
    pub error: Raised,
}

/// `None`: there is no such job, or its transaction has not committed.
pub fn state(export_id: Uuid) -> Result<Option<State>> {
    let _superuser = ActAs::superuser();
    let row = read_latest(
        "SELECT convert_to(jsonb_build_object('role', j.role_oid::bigint, 'status', j.status, 'pid', j.pid,
             'sqlstate', j.error_sqlstate, 'message', j.error_message, 'detail', j.error_detail, 'hint', j.error_hint,
             'context', j.error_context)::text, 'UTF8')
         FROM s3_export.jobs AS j WHERE j.export_id = ($argument ->> 'export_id')::uuid",
        &json!({ "export_id": export_id.to_string() }),
    )?;
    Ok(row.and_then(|row| {
        Some(State {
            role: oid(&row, "role")?,
            status: Status::parse(row.get("status")?.as_str()?)?,
            pid: row.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok()),
            error: Raised {
                sqlstate: text(&row, "sqlstate").unwrap_or_default(),
                message: text(&row, "message").unwrap_or_default(),
                detail: text(&row, "detail"),
                hint: text(&row, "hint"),
                context: text(&row, "context"),
                is_cancel: false,
            },
        })
    }))
}

/// Cancels the process that holds the lock of a job, if any.
pub fn signal(export_id: Uuid, pid: i32) -> Result<bool> {
    let _superuser = ActAs::superuser();
    // The number may be another's by now; who holds the lock is asked where the lock's tag is known.
    let row = read_latest(
        "SELECT convert_to(to_jsonb(pg_cancel_backend(a.pid))::text, 'UTF8')
         FROM pg_stat_get_activity(($argument ->> 'pid')::int) AS a
         WHERE a.pid IN (SELECT j.pid FROM s3_export.jobs AS j
                         WHERE j.export_id = ($argument ->> 'export_id')::uuid AND j.status = 'RUNNING')
               AND a.backend_type = 's3_export worker'",
        &json!({ "export_id": export_id.to_string(), "pid": pid }),
    )?;
    Ok(row.and_then(|sent| sent.as_bool()).unwrap_or(false))
}

/// A QUEUED job, and what decides on whether a worker can run it.
pub struct Queued {
    pub export_id: Uuid,
    pub role: pg_sys::Oid,
    /// `None`: the role is gone.
    pub may_log_in: Option<bool>,
    pub may_connect: bool,
}

/// The oldest QUEUED jobs, at most so many. `only`: of these.
pub fn queued(most: u32, only: Option<&[Uuid]>) -> Result<Vec<Queued>> {
    let _superuser = ActAs::superuser();
    let only: Option<Vec<String>> = only.map(|ids| ids.iter().map(Uuid::to_string).collect());
    let rows = read_latest(
        "SELECT convert_to(coalesce(jsonb_agg(q), '[]')::text, 'UTF8') FROM (
             SELECT j.export_id, j.role_oid::bigint AS role, r.rolcanlogin AS may_log_in,
                 r.oid IS NOT NULL AND has_database_privilege(r.oid, d.oid, 'CONNECT') AS may_connect
             FROM s3_export.jobs AS j LEFT JOIN pg_roles AS r ON r.oid = j.role_oid, pg_database AS d
             WHERE j.status = 'QUEUED' AND d.datname = current_database()
                   AND ($argument ->> 'only' IS NULL
                        OR j.export_id IN (SELECT e.id::uuid FROM jsonb_array_elements_text(
                               CASE jsonb_typeof($argument -> 'only') WHEN 'array' THEN $argument -> 'only' END) AS e(id)))
             ORDER BY j.queued_at LIMIT ($argument ->> 'most')::int) AS q",
        &json!({ "most": most, "only": only }),
    )?;
    let queued = |row: &Value| {
        Some(Queued {
            export_id: Uuid::parse_str(row.get("export_id")?.as_str()?).ok()?,
            role: oid(row, "role")?,
            may_log_in: row.get("may_log_in").and_then(Value::as_bool),
            may_connect: row.get("may_connect")?.as_bool()?,
        })
    };
    Ok(rows.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter().filter_map(queued).collect())
}

/// Ids of all jobs that say that they are RUNNING, with the processes that claimed them.
pub fn running() -> Result<Vec<(Uuid, Option<i32>)>> {
    let _superuser = ActAs::superuser();
    let rows = read_latest(
        "SELECT convert_to(coalesce(jsonb_object_agg(j.export_id, j.pid), '{}')::text, 'UTF8')
         FROM s3_export.jobs AS j WHERE j.status = 'RUNNING'",
        &Value::Null,
    )?;
    let members = rows.as_ref().and_then(Value::as_object).into_iter().flatten();
    let pid = |pid: &Value| pid.as_i64().and_then(|pid| i32::try_from(pid).ok());
    Ok(members.filter_map(|(id, process)| Some((Uuid::parse_str(id).ok()?, pid(process)))).collect())
}

/// How many workers of this database there are.
pub fn workers() -> Result<u32> {
    let _superuser = ActAs::superuser();
    let count = read_latest(
        "SELECT convert_to(to_jsonb(count(*))::text, 'UTF8') FROM pg_locks AS l
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = ($argument ->> 'kind')::smallint
               AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())",
        &json!({ "kind": WORKER_KIND }),
    )?;
    Ok(count.and_then(|count| count.as_u64()).and_then(|count| u32::try_from(count).ok()).unwrap_or(0))
}

/// Deletes jobs that have ended before that time, and are of a role whose privileges the current user has; those of all roles if
/// `of_all`. Gives how many. `seconds`: since their end.
pub fn prune(seconds: f64, of_all: bool) -> Result<u64> {
    let caller = crate::pg::current_user();
    let _superuser = ActAs::superuser();
    let count = write_latest(
        "WITH pruned AS (
             DELETE FROM s3_export.jobs AS j
             WHERE j.finished_at <= clock_timestamp() - make_interval(secs => ($argument ->> 'seconds')::float8)
                   AND (($argument ->> 'of_all')::boolean
                        OR EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = j.role_oid
                                   AND pg_has_role(($argument ->> 'caller')::oid, r.oid, 'USAGE')))
             RETURNING 1)
         SELECT convert_to(to_jsonb(count(*))::text, 'UTF8') FROM pruned",
        &json!({ "seconds": seconds, "of_all": of_all, "caller": caller.to_u32() }),
    )?;
    Ok(count.and_then(|count| count.as_u64()).unwrap_or(0))
}

fn text(row: &Value, column: &str) -> Option<String> {
    row.get(column).and_then(Value::as_str).map(str::to_owned)
}

fn oid(row: &Value, column: &str) -> Option<pg_sys::Oid> {
    row.get(column).and_then(Value::as_u64).and_then(|oid| u32::try_from(oid).ok()).map(pg_sys::Oid::from)
}
