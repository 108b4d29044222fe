//! The SQL on `s3_export.feed_definitions`.
//!
//! Nobody is granted the table. These statements run as the superuser; who may see or change which feed is asked before, by whoever
//! calls.
#![forbid(unsafe_code)]

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::marks::Kind;
use s3_export_core::request::{Arguments, PermissionArguments};
use serde_json::{Value, json};

use crate::export::Outcome;
use crate::pg::ActAs;
use crate::pg::sql::{self, Table};

/// A feed as its row has it.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Empty for a feed that is not written yet.
    pub id: String,
    pub name: String,
    /// Name and OID of the role that the feed runs as.
    pub role: (String, pg_sys::Oid),
    pub uri: String,
    pub integration: String,
    pub query: String,
    /// All other arguments of its exports, as [`crate::stored_arguments`] has them.
    pub options: Value,
    pub kind: Kind,
    /// Table with the marked column, with its schema, quoted as SQL wants it.
    pub mark_table: String,
    pub mark_column: String,
    /// Kept between the bound of a mark `time` and the oldest transaction.
    pub lag_seconds: f64,
    /// Longest wait for those who write the table of a mark `sequence`.
    pub wait_seconds: f64,
    pub manifest_when_empty: bool,
    pub mark: String,
    /// Whether the mark was not set by a run.
    pub is_marked_by_hand: bool,
    /// Cluster in which the mark was set.
    pub mark_cluster: String,
    /// Number of the last run that has a manifest.
    pub run: u64,
}

/// Columns of the row that an administrator of the feed gives.
const GIVEN: &str = "uri, integration, query, options, mark_table, mark_column, lag, wait, manifest_when_empty";

/// Values of [`GIVEN`], from the argument of a statement.
const VALUES: &str = "$argument ->> 'uri', $argument ->> 'integration', $argument ->> 'query', $argument -> 'options',
    $argument ->> 'mark_table', $argument ->> 'mark_column', make_interval(secs => ($argument ->> 'lag_seconds')::float8),
    make_interval(secs => ($argument ->> 'wait_seconds')::float8), ($argument ->> 'manifest_when_empty')::boolean";

/// The row as JSON.
const ROW: &str = "convert_to((to_jsonb(f) || jsonb_build_object('role_oid', f.role_oid::bigint,
    'mark_cluster', f.mark_cluster::text, 'lag_seconds', extract(epoch FROM f.lag), 'wait_seconds', extract(epoch FROM f.wait)))::text,
    'UTF8')";

impl Feed {
    fn given(&self) -> Value {
        json!({
            "name": self.name, "role": self.role.1.to_u32(), "uri": self.uri, "integration": self.integration, "query": self.query,
            "options": self.options, "kind": self.kind.name(), "mark_table": self.mark_table, "mark_column": self.mark_column,
            "lag_seconds": self.lag_seconds, "wait_seconds": self.wait_seconds, "manifest_when_empty": self.manifest_when_empty,
            "mark": self.mark,
        })
    }

    fn of_row(row: &Value) -> Option<Self> {
        let text = |column: &str| row.get(column).and_then(Value::as_str).map(str::to_owned);
        let number = |column: &str| row.get(column).and_then(Value::as_f64);
        let role_oid = row.get("role_oid").and_then(Value::as_u64).and_then(|oid| u32::try_from(oid).ok()).unwrap_or_default();
        Some(Feed {
            id: text("feed_id")?,
            name: text("name")?,
            role: (text("role")?, pg_sys::Oid::from(role_oid)),
            uri: text("uri")?,
            integration: text("integration")?,
            query: text("query")?,
            options: row.get("options")?.clone(),
            kind: Kind::parse(row.get("kind")?.as_str()?).ok()?,
            mark_table: text("mark_table")?,
            mark_column: text("mark_column")?,
            lag_seconds: number("lag_seconds")?,
            wait_seconds: number("wait_seconds")?,
            manifest_when_empty: row.get("manifest_when_empty")?.as_bool()?,
            mark: text("mark")?,
            is_marked_by_hand: row.get("marked_at")?.is_null(),
            mark_cluster: text("mark_cluster")?,
            run: row.get("run")?.as_u64()?,
        })
    }

    /// The arguments of its exports.
    pub fn arguments(&self) -> Arguments {
        let permission = PermissionArguments::Integration(Some(self.integration.clone()));
        crate::stored_arguments::to_arguments(self.uri.clone(), permission, self.query.clone(), &self.options)
    }
}

/// Locks the feed of that name until the end of the transaction, and so waits for a run that has not ended. `None`: there is none.
pub fn lock(name: &str) -> Result<Option<Feed>> {
    let _superuser = ActAs::superuser();
    let statement = format!("SELECT {ROW} FROM s3_export.feed_definitions AS f WHERE f.name = $argument ->> 'name' FOR UPDATE");
    let row = sql::write(Table::Feeds, &statement, &json!({ "name": name }))?;
    row.map(|row| Feed::of_row(&row).ok_or_else(unreadable)).transpose()
}

/// Reads the feed of that name. `None`: there is none.
pub fn read(name: &str) -> Result<Option<Feed>> {
    let _superuser = ActAs::superuser();
    let statement = format!("SELECT {ROW} FROM s3_export.feed_definitions AS f WHERE f.name = $argument ->> 'name'");
    let row = sql::read_latest(&statement, &json!({ "name": name }))?;
    row.map(|row| Feed::of_row(&row).ok_or_else(unreadable)).transpose()
}

fn unreadable() -> Error {
    Error::new(Code::Internal, "a row of s3_export.feed_definitions cannot be read")
}

/// Writes a new feed. Errors: 42710 when there is one of its name.
pub fn insert(feed: &Feed) -> Result<()> {
    let _superuser = ActAs::superuser();
    let statement = format!(
        "INSERT INTO s3_export.feed_definitions (name, role, kind, mark, {GIVEN})
         SELECT $argument ->> 'name', r.rolname, $argument ->> 'kind', $argument ->> 'mark', {VALUES}
         FROM pg_roles AS r WHERE r.oid = ($argument ->> 'role')::oid
         ON CONFLICT (name) DO NOTHING
         RETURNING convert_to('{{}}', 'UTF8')"
    );
    match sql::write(Table::Feeds, &statement, &feed.given())? {
        Some(_) => Ok(()),
        None => Err(Error::new(Code::Duplicate, format!("feed \"{}\" exists already", feed.name))),
    }
}

/// Writes what the feed's administrator has changed.
pub fn update(feed: &Feed) -> Result<()> {
    let _superuser = ActAs::superuser();
    let statement = format!(
        "UPDATE s3_export.feed_definitions SET ({GIVEN}) = ROW ({VALUES}) WHERE name = $argument ->> 'name'
         RETURNING convert_to('{{}}', 'UTF8')"
    );
    sql::write(Table::Feeds, &statement, &feed.given()).map(drop)
}

/// Deletes the feed.
pub fn delete(name: &str) -> Result<()> {
    let _superuser = ActAs::superuser();
    let statement =
        "DELETE FROM s3_export.feed_definitions WHERE name = $argument ->> 'name' RETURNING convert_to('{}', 'UTF8')";
    sql::write(Table::Feeds, statement, &json!({ "name": name })).map(drop)
}

/// Sets the mark by hand, and the number of the last run. The feed gets another id, so that it adopts no manifest of its time before.
pub fn rewind(name: &str, mark: &str, last_run: u64) -> Result<()> {
    let _superuser = ActAs::superuser();
    let statement = "UPDATE s3_export.feed_definitions SET mark = $argument ->> 'mark', run = ($argument ->> 'run')::bigint,
             feed_id = gen_random_uuid(), mark_cluster = (SELECT c.system_identifier FROM pg_control_system() AS c), marked_at = NULL
         WHERE name = $argument ->> 'name' RETURNING convert_to('{}', 'UTF8')";
    sql::write(Table::Feeds, statement, &json!({ "name": name, "mark": mark, "run": last_run })).map(drop)
}

/// Moves the mark with the commit of the current transaction. `run`: the last that has a manifest. `outcome`: of a run that has
/// exported.
pub fn advance(feed: &Feed, run: u64, mark: &str, outcome: Option<&Outcome>) -> Result<()> {
    let _superuser = ActAs::superuser();
    let statement = "UPDATE s3_export.feed_definitions SET mark = $argument ->> 'mark', run = ($argument ->> 'run')::bigint,
             mark_cluster = (SELECT c.system_identifier FROM pg_control_system() AS c), marked_at = clock_timestamp(),
             last_run_at = clock_timestamp(), export_id = coalesce(($argument ->> 'export_id')::uuid, export_id),
             documents = coalesce(($argument ->> 'documents')::bigint, documents),
             files = coalesce(($argument ->> 'files')::bigint, files), bytes = coalesce(($argument ->> 'bytes')::bigint, bytes),
             manifest = coalesce($argument ->> 'manifest', manifest)
         WHERE name = $argument ->> 'name' RETURNING convert_to('{}', 'UTF8')";
    let of_outcome = |value: fn(&Outcome) -> Value| outcome.map_or(Value::Null, value);
    let argument = json!({
        "name": feed.name, "mark": mark, "run": run,
        "export_id": of_outcome(|outcome| json!(outcome.export_id.to_string())),
        "documents": of_outcome(|outcome| json!(outcome.totals.documents)),
        "files": of_outcome(|outcome| json!(outcome.totals.files)),
        "bytes": of_outcome(|outcome| json!(outcome.totals.bytes)),
        "manifest": of_outcome(|outcome| json!(outcome.manifest)),
    });
    sql::write(Table::Feeds, statement, &argument).map(drop)
}
