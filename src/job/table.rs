//! The SQL on `s3_export.jobs`.
#![forbid(unsafe_code)]
//!
//! Nobody is granted the table. These statements run as the superuser, and see what has been committed up to now, since a job
//! is written by other sessions meanwhile. Who may see or stop which job is asked before, by whoever calls.

use std::time::Duration;

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::chunker::Totals;
use s3_export_core::request::{Permission, PermissionArguments};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::job::attempts::{self, Attempts, due_at};
use crate::job::status::Status;
use crate::job::stored;
use crate::pg::ActAs;
use crate::pg::caller::Carried;
use crate::pg::encoding::storable;
use crate::pg::lock::{Lock, WORKER_KIND};
use crate::pg::raised::Raised;
use crate::pg::sql;
use crate::pg::sql::{Table, read_latest, write_latest};

/// Texts of the states that the statements here name. They stand in a statement as literals, as the partial indexes want them.
const QUEUED: &str = Status::Queued.name();
const RUNNING: &str = Status::Running.name();
const COMPLETED: &str = Status::Completed.name();

/// Returns the condition that this cluster has enqueued a job. Logical replication brings jobs of other clusters, whose database may have
/// the same OID. `job`: the alias of the table, which lacks the column until the extension is updated.
pub fn of_this_cluster(job: &str) -> String {
    format!(
        "coalesce((to_jsonb({job}) ->> 'cluster')::bigint = (SELECT c.system_identifier FROM pg_control_system() AS c), true)"
    )
}

/// Member of a job's `settings` with the OID of the session's user, who need not be whom the job runs as. Jobs that were enqueued
/// before 0.3.0 have none.
pub const SESSION_USER: &str = "session_authorization";

/// A job to be enqueued.
pub struct NewJob<'a> {
    pub export_id: Uuid,
    pub role: pg_sys::Oid,
    pub uri: &'a str,
    pub permission: &'a Permission,
    pub query: &'a str,
    /// All other arguments.
    pub options: Value,
    /// The caller's, by name.
    pub settings: Value,
    /// The feed that it runs, if it runs one.
    pub feed: Option<&'a str>,
    /// The arguments of the verification that it is, if it is one.
    pub verification: Option<Value>,
}

/// Reaction to a row that another transaction has locked: a transaction that stays open must not hold up the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// Wait for its end.
    Wait,
    /// Leave the row alone.
    Skip,
}

/// Writes it, as part of the current (sub)transaction. Errors: 42704 when the role was dropped meanwhile.
pub fn insert(job: &NewJob<'_>) -> Result<()> {
    let _superuser = ActAs::superuser();
    let (integration, role) = match job.permission {
        Permission::Integration(name) => (Some(name), None),
        Permission::Role { aws_role, aws_external_id } => (None, Some((aws_role, aws_external_id))),
    };
    // These columns are missing until the extension is updated, and so are the functions that need them.
    let (column, value) = match (job.feed, &job.verification) {
        (Some(_), _) => (", feed", ", $argument ->> 'feed'"),
        (None, Some(_)) => (", verification", ", $argument -> 'verification'"),
        (None, None) => ("", ""),
    };
    let statement = format!(
        "INSERT INTO s3_export.jobs (export_id, database_oid, role_oid, role, uri, integration, aws_role, aws_external_id, query,
             options, settings{column})
         SELECT ($argument ->> 'export_id')::uuid, d.oid, r.oid, r.rolname, $argument ->> 'uri', $argument ->> 'integration',
             $argument ->> 'aws_role', $argument ->> 'aws_external_id', $argument ->> 'query', $argument -> 'options',
             $argument -> 'settings'{value}
         FROM pg_roles AS r, pg_database AS d
         WHERE r.oid = ($argument ->> 'role')::oid AND d.datname = current_database()
         RETURNING convert_to('{{}}', 'UTF8')"
    );
    let inserted = sql::write(
        Table::Jobs,
        &statement,
        &json!({
            "export_id": job.export_id.to_string(), "role": job.role.to_u32(), "uri": job.uri, "integration": integration,
            "aws_role": role.map(|role| role.0), "aws_external_id": role.map(|role| role.1), "query": job.query,
            "options": job.options, "settings": job.settings, "feed": job.feed,
            "verification": job.verification,
        }),
    )?;
    inserted.map(drop).ok_or_else(|| Error::new(Code::Undefined, "the current role does not exist any more"))
}

/// A job that a worker has claimed.
pub struct Claimed {
    pub export_id: Uuid,
    pub uri: String,
    pub permission: PermissionArguments,
    pub query: String,
    pub options: Value,
    pub settings: Vec<(String, Carried)>,
    /// The feed that it runs, if it runs one.
    pub feed: Option<String>,
    /// The arguments of the verification that it is, if it is one.
    pub verification: Option<Value>,
    /// Id of the export that this attempt is.
    pub attempt_id: Uuid,
    /// This attempt included.
    pub attempts: Attempts,
}

/// Makes a QUEUED job this process's, RUNNING: the one of that id, or else, so that the process is not there for nothing, the oldest
/// that was enqueued as that role in a session of that user. `None`: there is none that no other transaction has locked.
pub fn claim(export_id: Uuid, role: pg_sys::Oid, session_user: pg_sys::Oid) -> Result<Option<Claimed>> {
    let _superuser = ActAs::superuser();
    let (ours, due, members) = (of_this_cluster("q"), due_at("q"), attempts::members("j"));
    let counted = if attempts::are_counted()? { attempts::CLAIMED } else { "" };
    let row = write_latest(
        Table::Jobs,
        &format!(
            "UPDATE s3_export.jobs AS j SET status = '{RUNNING}', started_at = clock_timestamp(), pid = pg_backend_pid(){counted}
         WHERE j.export_id = (SELECT q.export_id FROM s3_export.jobs AS q, pg_database AS d
                              WHERE q.status = '{QUEUED}' AND q.role_oid = ($argument ->> 'role')::oid
                                    AND coalesce((q.settings ->> '{SESSION_USER}')::oid, q.role_oid)
                                        = ($argument ->> 'session_user')::oid
                                    AND q.database_oid = d.oid AND d.datname = current_database() AND {ours}
                                    AND {due} <= clock_timestamp()
                              ORDER BY q.export_id <> ($argument ->> 'export_id')::uuid, {due} LIMIT 1
                              FOR NO KEY UPDATE OF q SKIP LOCKED)
         RETURNING convert_to(jsonb_build_object('export_id', j.export_id, 'uri', j.uri, 'integration', j.integration,
             'aws_role', j.aws_role, 'aws_external_id', j.aws_external_id, 'query', j.query, 'options', j.options,
             'settings', j.settings, 'feed', to_jsonb(j) -> 'feed', 'verification', to_jsonb(j) -> 'verification',
             'attempt_id', to_jsonb(j) -> 'attempt_id', {members})::text, 'UTF8')"
        ),
        &json!({
            "export_id": export_id.to_string(), "role": role.to_u32(), "session_user": session_user.to_u32(),
            "attempt_id": Uuid::now_v7().to_string(),
        }),
    )?;
    let id = |row: &Value, name| row.get(name).and_then(Value::as_str).and_then(|id| Uuid::parse_str(id).ok());
    Ok(row.map(|row| Claimed {
        export_id: id(&row, "export_id").unwrap_or(export_id),
        attempt_id: id(&row, "attempt_id").or(id(&row, "export_id")).unwrap_or(export_id),
        attempts: Attempts::of_row(&row),
        uri: text(&row, "uri").unwrap_or_default(),
        permission: match text(&row, "aws_role") {
            None => PermissionArguments::Integration(text(&row, "integration")),
            aws_role => PermissionArguments::Role { aws_role, aws_external_id: text(&row, "aws_external_id") },
        },
        query: text(&row, "query").unwrap_or_default(),
        options: row.get("options").cloned().unwrap_or_default(),
        settings: stored::to_settings(row.get("settings")),
        feed: text(&row, "feed"),
        verification: row.get("verification").filter(|arguments| !arguments.is_null()).cloned(),
    }))
}

/// COMPLETED, once the current transaction commits. Errors: 55000 when the job is not RUNNING any more, or is another process's.
/// `manifest`: `None` for a run of a feed with nothing new.
pub fn complete(export_id: Uuid, totals: Totals, manifest: Option<&str>) -> Result<()> {
    let _superuser = ActAs::superuser();
    let completed = write_latest(
        Table::Jobs,
        &format!("UPDATE s3_export.jobs SET status = '{COMPLETED}', finished_at = clock_timestamp(), settings = NULL, aws_external_id = NULL,
             pid = NULL, documents = ($argument ->> 'documents')::bigint, files = ($argument ->> 'files')::bigint,
             bytes = ($argument ->> 'bytes')::bigint, manifest = $argument ->> 'manifest', error_sqlstate = NULL,
             error_message = NULL, error_detail = NULL, error_hint = NULL, error_context = NULL
         WHERE export_id = ($argument ->> 'export_id')::uuid AND status = '{RUNNING}' AND pid = pg_backend_pid()
         RETURNING convert_to('{{}}', 'UTF8')"),
        &json!({
            "export_id": export_id.to_string(), "documents": totals.documents, "files": totals.files, "bytes": totals.bytes,
            "manifest": manifest,
        }),
    )?;
    completed.map(drop).ok_or_else(|| Error::new(Code::NotReady, "the job is not running any more"))
}

/// Most bytes of each text of an error that a job keeps. A string of a jsonb has at most 256 MB, and a longer one would lose the
/// whole error.
const MAX_BYTES_OF_ERROR: usize = 64 << 10;

/// Returns the text as a job keeps it: its beginning, where it is long, with an ellipsis.
fn kept(text: &str) -> String {
    if text.len() <= MAX_BYTES_OF_ERROR {
        return storable(text);
    }
    let beginning = text.get(..text.floor_char_boundary(MAX_BYTES_OF_ERROR)).unwrap_or_default();
    storable(&format!("{beginning}…"))
}

/// Ends a job that is `from` without a result; `false`: it is not any more, or was locked and is to be skipped.
pub fn end(export_id: Uuid, from: Status, to: Status, error: &Raised, locked: Locked) -> Result<bool> {
    end_where("true", export_id, (from, to), error, locked)
}

/// Ends a RUNNING job that has begun that many attempts, as [`end`]; one that has begun another since is left alone.
pub fn end_attempt(export_id: Uuid, made: u32, error: &Raised, to: Status, locked: Locked) -> Result<bool> {
    let condition = format!("coalesce((to_jsonb(jobs) ->> 'attempts')::int, 0) = {made}");
    end_where(&condition, export_id, (Status::Running, to), error, locked)
}

/// Ends the RUNNING job that this process has claimed, as [`end`]; a job that another process has claimed since is left alone.
pub fn end_own(export_id: Uuid, to: Status, error: &Raised, locked: Locked) -> Result<bool> {
    end_where("pid = pg_backend_pid()", export_id, (Status::Running, to), error, locked)
}

/// `condition`: what must hold of the row besides.
fn end_where(condition: &str, export_id: Uuid, (from, to): (Status, Status), error: &Raised, locked: Locked) -> Result<bool> {
    const THE_JOB: &str = "SELECT j.export_id FROM s3_export.jobs AS j WHERE j.export_id = ($argument ->> 'export_id')::uuid";
    let the_job = match locked {
        Locked::Wait => THE_JOB.to_owned(),
        Locked::Skip => format!("{THE_JOB} AND j.status = $argument ->> 'from' FOR NO KEY UPDATE SKIP LOCKED"),
    };
    let _superuser = ActAs::superuser();
    let statement =
        "UPDATE s3_export.jobs SET status = $argument ->> 'to', finished_at = clock_timestamp(), settings = NULL,
             aws_external_id = NULL, pid = NULL, error_sqlstate = $argument ->> 'sqlstate', error_message = $argument ->> 'message',
             error_detail = $argument ->> 'detail', error_hint = $argument ->> 'hint', error_context = $argument ->> 'context'
         WHERE export_id = (THE_JOB) AND status = $argument ->> 'from' AND CONDITION
         RETURNING convert_to('{}', 'UTF8')";
    let mut argument = error_values(error);
    argument.extend([
        ("export_id".to_owned(), json!(export_id.to_string())),
        ("from".to_owned(), json!(from.name())),
        ("to".to_owned(), json!(to.name())),
    ]);
    let statement = statement.replace("THE_JOB", &the_job).replace("CONDITION", condition);
    Ok(write_latest(Table::Jobs, &statement, &Value::Object(argument))?.is_some())
}

/// Texts of an error as a job keeps them, by the names that statements give them.
pub fn error_values(error: &Raised) -> Map<String, Value> {
    let text = |text: &Option<String>| json!(text.as_deref().map(kept));
    [
        ("sqlstate", json!(error.sqlstate)),
        ("message", json!(kept(&error.message))),
        ("detail", text(&error.detail)),
        ("hint", text(&error.hint)),
        ("context", text(&error.context)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

/// A job as it is now.
pub struct State {
    pub role: pg_sys::Oid,
    pub status: Status,
    /// The process that claimed it.
    pub pid: Option<i32>,
    /// Since it was enqueued, or its next attempt has been due. Zero until then.
    pub age: Duration,
    pub error: Raised,
    pub attempts: Attempts,
}

/// `None`: there is no such job, or its transaction has not committed.
pub fn state(export_id: Uuid) -> Result<Option<State>> {
    let _superuser = ActAs::superuser();
    let (due, members) = (due_at("j"), attempts::members("j"));
    let row = read_latest(
        &format!("SELECT convert_to(jsonb_build_object('role', j.role_oid::bigint, 'status', j.status, 'pid', j.pid,
             'age', greatest(extract(epoch FROM clock_timestamp() - {due}), 0), 'sqlstate', j.error_sqlstate, 'message', j.error_message, 'detail', j.error_detail, 'hint', j.error_hint,
             'context', j.error_context, {members})::text, 'UTF8')
         FROM s3_export.jobs AS j WHERE j.export_id = ($argument ->> 'export_id')::uuid"),
        &json!({ "export_id": export_id.to_string() }),
    )?;
    Ok(row.and_then(|row| {
        Some(State {
            role: oid(&row, "role")?,
            status: Status::parse(row.get("status")?.as_str()?)?,
            pid: row.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok()),
            age: Duration::try_from_secs_f64(row.get("age")?.as_f64()?).unwrap_or_default(),
            error: Raised {
                sqlstate: text(&row, "sqlstate").unwrap_or_default(),
                message: text(&row, "message").unwrap_or_default(),
                detail: text(&row, "detail"),
                hint: text(&row, "hint"),
                context: text(&row, "context"),
                ..Raised::default()
            },
            attempts: Attempts::of_row(&row),
        })
    }))
}

/// Cancels the process that runs a job, if it holds the lock of that job: by now the number may be another process's.
pub fn signal(export_id: Uuid, pid: i32) -> Result<bool> {
    let _superuser = ActAs::superuser();
    let (field2, field3, kind) = Lock::of_job_as_shown(export_id);
    // Locks are looked at anew each time; pg_stat_activity is as it was when the transaction first looked.
    let row = read_latest(
        &format!(
            "SELECT convert_to(to_jsonb(pg_cancel_backend(l.pid))::text, 'UTF8')
         FROM pg_locks AS l
         WHERE l.pid IN (SELECT j.pid FROM s3_export.jobs AS j
                         WHERE j.export_id = ($argument ->> 'export_id')::uuid AND j.status = '{RUNNING}')
               AND l.pid = ($argument ->> 'pid')::int AND l.locktype = 'advisory' AND l.granted
               AND l.mode = 'RowExclusiveLock' AND l.objsubid = ($argument ->> 'kind')::int
               AND l.classid = ($argument ->> 'field2')::oid AND l.objid = ($argument ->> 'field3')::oid
               AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
         LIMIT 1"
        ),
        &json!({ "export_id": export_id.to_string(), "pid": pid, "kind": kind, "field2": field2, "field3": field3 }),
    )?;
    Ok(row.and_then(|sent| sent.as_bool()).unwrap_or(false))
}

/// A QUEUED job, and what decides on whether a worker can run it.
pub struct Queued {
    pub export_id: Uuid,
    pub role: pg_sys::Oid,
    /// Whether there still is such a role.
    pub role_exists: bool,
    /// The user of the session that enqueued it.
    pub login: pg_sys::Oid,
    /// `None`: that user is gone.
    pub may_log_in: Option<bool>,
    pub may_connect: bool,
    /// Whether the server has been started since it was enqueued.
    pub before_start: bool,
}

/// Choice among the QUEUED jobs that may begin.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// All jobs.
    Any,
    /// Jobs that were enqueued at least so long ago.
    Since(Duration),
    /// The jobs of these ids.
    Only(&'a [Uuid]),
    /// Jobs that were enqueued later than this job, if this job is still QUEUED; else all.
    After(Uuid),
}

/// The oldest QUEUED jobs, at most so many.
pub fn queued(most: u32, which: Which<'_>) -> Result<Vec<Queued>> {
    let _superuser = ActAs::superuser();
    let (only, after, age): (Option<Vec<String>>, _, _) = match which {
        Which::Any => (None, None, 0.0),
        Which::Since(age) => (None, None, age.as_secs_f64()),
        Which::Only(ids) => (Some(ids.iter().map(Uuid::to_string).collect()), None, 0.0),
        Which::After(id) => (None, Some(id.to_string()), 0.0),
    };
    let (ours, due, due_after) = (of_this_cluster("j"), due_at("j"), due_at("a"));
    let rows = read_latest(
        &format!(
            "SELECT convert_to(coalesce(jsonb_agg(q), '[]')::text, 'UTF8') FROM (
             SELECT j.export_id, j.role_oid::bigint AS role, r.oid IS NOT NULL AS role_exists,
                 coalesce((j.settings ->> '{SESSION_USER}')::oid, j.role_oid)::bigint AS login, s.rolcanlogin AS may_log_in,
                 s.oid IS NOT NULL AND has_database_privilege(s.oid, d.oid, 'CONNECT') AS may_connect,
                 {due} < pg_postmaster_start_time() AS before_start
             FROM s3_export.jobs AS j LEFT JOIN pg_roles AS r ON r.oid = j.role_oid
                 LEFT JOIN pg_roles AS s ON s.oid = coalesce((j.settings ->> '{SESSION_USER}')::oid, j.role_oid),
                 pg_database AS d
             WHERE j.status = '{QUEUED}' AND clock_timestamp() - {due} >= make_interval(secs => ($argument ->> 'age')::float8)
                   AND d.datname = current_database() AND j.database_oid = d.oid AND {ours}
                   AND ($argument ->> 'after' IS NULL
                        OR NOT EXISTS (SELECT FROM s3_export.jobs AS a
                                       WHERE a.export_id = ($argument ->> 'after')::uuid AND a.status = '{QUEUED}'
                                             AND {due_after} <= clock_timestamp())
                        OR {due} > (SELECT {due_after} FROM s3_export.jobs AS a
                                          WHERE a.export_id = ($argument ->> 'after')::uuid))
                   AND ($argument ->> 'only' IS NULL
                        OR j.export_id IN (SELECT e.id::uuid FROM jsonb_array_elements_text(
                               CASE jsonb_typeof($argument -> 'only') WHEN 'array' THEN $argument -> 'only' END) AS e(id)))
             ORDER BY {due} LIMIT ($argument ->> 'most')::int) AS q"
        ),
        &json!({ "most": most, "only": only, "after": after, "age": age }),
    )?;
    let queued = |row: &Value| {
        Some(Queued {
            export_id: Uuid::parse_str(row.get("export_id")?.as_str()?).ok()?,
            role: oid(row, "role")?,
            role_exists: row.get("role_exists")?.as_bool()?,
            login: oid(row, "login")?,
            may_log_in: row.get("may_log_in").and_then(Value::as_bool),
            may_connect: row.get("may_connect")?.as_bool()?,
            before_start: row.get("before_start")?.as_bool()?,
        })
    };
    Ok(rows.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter().filter_map(queued).collect())
}

/// Settings of this database for all its sessions, as `ALTER ROLE ALL SET` and then `ALTER DATABASE … SET` have them.
pub fn settings_of_database() -> Result<Vec<(String, String)>> {
    let _superuser = ActAs::superuser();
    let rows = read_latest(
        "SELECT convert_to(coalesce(jsonb_agg(c.line ORDER BY s.setdatabase, c.at), '[]')::text, 'UTF8')
         FROM pg_db_role_setting AS s, unnest(s.setconfig) WITH ORDINALITY AS c(line, at)
         WHERE s.setrole = 0 AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))",
        &Value::Null,
    )?;
    let lines = rows.as_ref().and_then(Value::as_array).into_iter().flatten();
    Ok(lines
        .filter_map(|line| line.as_str()?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// Whether this database has the extension.
pub fn is_installed() -> Result<bool> {
    let found = read_latest(
        "SELECT convert_to(to_jsonb(to_regclass('s3_export.jobs') IS NOT NULL
             AND EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 's3_export'))::text, 'UTF8')",
        &Value::Null,
    )?;
    Ok(found.and_then(|found| found.as_bool()).unwrap_or(false))
}

/// Ids of all jobs that say that they are RUNNING.
pub fn running() -> Result<Vec<Uuid>> {
    let _superuser = ActAs::superuser();
    let rows = read_latest(
        &format!(
            "SELECT convert_to(coalesce(jsonb_agg(j.export_id), '[]')::text, 'UTF8')
         FROM s3_export.jobs AS j WHERE j.status = '{RUNNING}'"
        ),
        &Value::Null,
    )?;
    let ids = rows.as_ref().and_then(Value::as_array).into_iter().flatten();
    Ok(ids.filter_map(|id| Uuid::parse_str(id.as_str()?).ok()).collect())
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
        Table::Jobs,
        "WITH pruned AS (
             DELETE FROM s3_export.jobs AS j
             WHERE extract(epoch FROM clock_timestamp() - j.finished_at) >= ($argument ->> 'seconds')::float8
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
