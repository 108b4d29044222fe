//! The changes that the role of a feed makes: create, alter, drop, rewind.
#![forbid(unsafe_code)]

use std::time::Duration;

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result, unknown_key};
use s3_export_core::marks::{Kind, LAST_RUN, Snapshot, check_name};
use s3_export_core::request::options::Existing;
use s3_export_core::request::{Arguments, PermissionArguments, Request, json_object, required};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::export;
use crate::feed::table::{self, Feed};
use crate::feed::{setup, source};
use crate::pg::sql;
use crate::pg::{current_user, current_user_name, has_privileges_of, refuse_if_read_only, role_named};
use crate::query::Query;
use crate::stored_arguments;

/// Arguments of `create_feed`: `None` is NULL.
#[derive(Debug)]
pub struct NewFeed {
    /// Name of the feed.
    pub name: Option<String>,
    /// `xid`, `sequence` or `time`
    pub mark: Option<String>,
    /// `table.column`
    pub mark_column: Option<String>,
    /// The first mark; NULL: all is new.
    pub start: Option<String>,
    /// Kept between the bound of a mark `time` and the oldest transaction; NULL: the default.
    pub lag: Option<Duration>,
    /// Longest wait for those who write the table of a mark `sequence`; NULL: the default.
    pub wait: Option<Duration>,
    /// A run with nothing new writes a manifest.
    pub manifest_when_empty: Option<bool>,
    /// Arguments of the exports.
    pub export: Arguments,
}

const DEFAULT_LAG: Duration = Duration::from_secs(10);
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// As long as a setting takes, and as `alter_feed` does.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

fn seconds(name: &str, time: Duration) -> Result<f64> {
    if time > LONGEST {
        return Err(Error::new(Code::InvalidParameter, format!("{name} of a feed must be at most 24 days")));
    }
    Ok(time.as_secs_f64())
}

/// Makes a feed of the current user. Errors: 22004, 22023, 42501, 42703, 42704, 42710, 42804, 55000, and those of an export before its
/// query.
pub fn create(new: NewFeed) -> Result<()> {
    refuse_if_read_only(c"s3_export.create_feed()");
    export::check_context()?;
    let name = required("name", new.name)?;
    check_name(&name)?;
    let kind = Kind::parse(&required("mark", new.mark)?)?;
    let (mark_table, mark_column) = source::resolve(&required("mark_column", new.mark_column)?)?;
    let PermissionArguments::Integration(Some(integration)) = &new.export.permission else {
        return Err(Error::new(Code::Null, "integration must not be null"));
    };
    let feed = Feed {
        id: String::new(),
        name,
        role: (current_user_name(), current_user()),
        uri: required("uri", new.export.uri.clone())?,
        integration: integration.clone(),
        query: required("query", new.export.query.clone())?,
        options: stored_arguments::to_options(&new.export),
        kind,
        mark_table,
        mark_column,
        lag_seconds: seconds("lag", new.lag.unwrap_or(DEFAULT_LAG))?,
        wait_seconds: seconds("wait", new.wait.unwrap_or(DEFAULT_WAIT))?,
        manifest_when_empty: required("manifest_when_empty", new.manifest_when_empty)?,
        mark: new.start.map_or_else(|| Ok(kind.start().to_owned()), |start| read_mark(kind, &start))?,
        is_marked_by_hand: true,
        mark_cluster: String::new(),
        run: 0,
    };
    check(&feed)?;
    if feed.kind == Kind::Xid {
        source::refuse_foreign_ids(&feed.mark_table, &feed.mark_column)?;
    }
    table::insert(&feed)
}

/// Checks all that a run relies on and that can be known before it.
fn check(feed: &Feed) -> Result<()> {
    source::check(feed.kind, &feed.mark_table, &feed.mark_column)?;
    let request = Request::from_arguments(feed.arguments())?;
    if request.run_key.is_some() {
        return Err(Error::new(Code::InvalidParameter, "option \"run_key\" does not go with a feed")
            .detail("The number of the run names the manifest."));
    }
    if request.existing == Existing::Error {
        return Err(Error::new(Code::InvalidParameter, "option \"existing\" does not go with a feed")
            .detail("Each run but the first finds the objects of the runs before."));
    }
    if request.has_own_names() {
        return Err(Error::new(Code::InvalidParameter, "a feed has no names of its own for objects")
            .detail("Each run would give the same name to its single file, its marker or the copy of its manifest."));
    }
    export::check(&request, Uuid::now_v7())?;
    let query = Query::parse(&request.query, None)?;
    for number in 1..=feed.kind.parameters() {
        if !query.uses(number) {
            let meaning = match (feed.kind, number) {
                (Kind::Xid, _) => "the mark, a pg_snapshot",
                (Kind::Sequence, 1) => "the mark, a bigint that was exported",
                (Kind::Sequence, _) => "the new mark, the last bigint to be exported",
                (Kind::Time, 1) => "the mark, the first timestamptz to be exported",
                (Kind::Time, _) => "the new mark, a timestamptz that is not exported yet",
            };
            return Err(Error::new(
                Code::InvalidParameter,
                format!("the query of a feed by \"{}\" must use ${number}", feed.kind.name()),
            )
            .detail(format!("${number} is {meaning}."))
            .hint(condition(feed)));
        }
    }
    let one = match feed.kind {
        Kind::Xid => pg_sys::PG_SNAPSHOTOID,
        Kind::Sequence => pg_sys::INT8OID,
        Kind::Time => pg_sys::TIMESTAMPTZOID,
    };
    let types: Vec<pg_sys::Oid> = (0..feed.kind.parameters()).map(|_| one).collect();
    query.analyze(&types)
}

fn condition(feed: &Feed) -> String {
    let column = &feed.mark_column;
    let condition = match feed.kind {
        Kind::Xid => format!("{column} >= pg_snapshot_xmin($1) AND NOT pg_visible_in_snapshot({column}, $1)"),
        Kind::Sequence => format!("{column} > $1 AND {column} <= $2"),
        Kind::Time => format!("{column} >= $1 AND {column} < $2"),
    };
    format!("Write: … WHERE {condition}")
}

/// Changes a feed: `changes` is a JSON object of arguments of `create_feed`; null: the default. Errors: as of `create_feed`.
pub fn alter(name: &str, changes: &str) -> Result<()> {
    refuse_if_read_only(c"s3_export.alter_feed()");
    export::check_context()?;
    let mut feed = owned(name)?;
    check_role(&feed)?;
    for (key, value) in json_object("changes", changes)? {
        let invalid = || Error::new(Code::InvalidParameter, format!("invalid value for \"{key}\" of a feed"));
        let text = || value.as_str().map(str::to_owned).ok_or_else(invalid);
        let seconds = |default: Duration| -> Result<f64> {
            match &value {
                Value::Null => Ok(default.as_secs_f64()),
                Value::String(text) => {
                    s3_export_core::request::duration::parse(text).map(|time| time.as_secs_f64()).ok_or_else(invalid)
                }
                _ => Err(invalid()),
            }
        };
        match key.as_str() {
            "uri" => feed.uri = text()?,
            "integration" => feed.integration = text()?,
            "query" => feed.query = text()?,
            "mark_column" => (feed.mark_table, feed.mark_column) = source::resolve(&text()?)?,
            "lag" => feed.lag_seconds = seconds(DEFAULT_LAG)?,
            "wait" => feed.wait_seconds = seconds(DEFAULT_WAIT)?,
            "manifest_when_empty" => feed.manifest_when_empty = !value.is_null() && value.as_bool().ok_or_else(invalid)?,
            stored if stored_arguments::NAMES.contains(&stored) => {
                if let Some(options) = feed.options.as_object_mut() {
                    match value {
                        Value::Null => drop(options.remove(stored)),
                        value => drop(options.insert(stored.to_owned(), value)),
                    }
                }
            }
            unknown => return Err(unknown_key("change", unknown, &known_changes())),
        }
    }
    feed.options = stored_arguments::with_defaults(feed.options);
    let understood = stored_arguments::to_options(&feed.arguments());
    if let Some(name) = stored_arguments::NAMES.into_iter().find(|name| understood.get(name) != feed.options.get(name)) {
        return Err(Error::new(Code::InvalidParameter, format!("invalid value for \"{name}\" of a feed")));
    }
    check(&feed)?;
    table::update(&feed)
}

fn known_changes() -> Vec<&'static str> {
    let mut known = vec!["uri", "integration", "query", "mark_column", "lag", "wait", "manifest_when_empty"];
    known.extend(stored_arguments::NAMES);
    known
}

/// Deletes a feed; what it has exported stays. Errors: 42501, 42704.
pub fn drop_feed(name: &str) -> Result<()> {
    refuse_if_read_only(c"s3_export.drop_feed()");
    owned(name)?;
    table::delete(name)
}

/// Sets the mark by hand. `next_run`: number of the next run; `None`: as it is. Errors: 22023, 42501, 42704.
pub fn rewind(name: &str, to: &str, next_run: Option<i64>) -> Result<()> {
    refuse_if_read_only(c"s3_export.rewind_feed()");
    let feed = owned(name)?;
    let last_run = match next_run {
        None => feed.run,
        Some(next) => {
            u64::try_from(next).ok().filter(|next| (1..=LAST_RUN).contains(next)).map(|next| next - 1).ok_or_else(|| {
                Error::new(Code::InvalidParameter, format!("next_run must be between 1 and {LAST_RUN}, not {next}"))
            })?
        }
    };
    // It reads a table of the feed's role, whose code no other role may run. The next run looks in any case.
    if feed.kind == Kind::Xid && check_role(&feed).is_ok() {
        source::check(feed.kind, &feed.mark_table, &feed.mark_column)?;
        source::refuse_foreign_ids(&feed.mark_table, &feed.mark_column)?;
    }
    table::rewind(name, &read_mark(feed.kind, to)?, last_run)
}

/// Returns the mark that `text` is, in the one form that is stored; `start`: before everything. Errors: 22023, and what Postgres raises
/// for a time.
fn read_mark(kind: Kind, text: &str) -> Result<String> {
    if text == "start" {
        return Ok(kind.start().to_owned());
    }
    let mark = match kind {
        Kind::Xid => Snapshot::parse(text).map(|snapshot| snapshot.to_string()),
        Kind::Sequence => text.parse::<i64>().ok().map(|value| value.to_string()),
        Kind::Time => {
            let time = sql::read(
                "SELECT convert_to(to_jsonb(($argument ->> 'time')::timestamptz)::text, 'UTF8')",
                &json!({ "time": text }),
            )?;
            // Nothing is new after the end of time.
            time.as_ref().and_then(Value::as_str).filter(|time| *time != "infinity").map(str::to_owned)
        }
    };
    mark.ok_or_else(|| {
        let takes = match kind {
            Kind::Xid => "a pg_snapshot, such as 100:200:150",
            Kind::Sequence => "a whole number",
            Kind::Time => "a timestamptz",
        };
        Error::new(Code::InvalidParameter, format!("invalid mark: \"{text}\""))
            .detail(format!("A mark \"{}\" is {takes}, or \"start\".", kind.name()))
    })
}

/// Returns the statements that give a table a column for a mark.
pub fn setup_statements(column: &str, mark: &str) -> Result<String> {
    let kind = Kind::parse(mark)?;
    let (table, column) = source::resolve(column)?;
    Ok(setup::statements(kind, &table, &column))
}

/// The feed, locked until the end of the transaction. Errors: 42704, 42501.
fn owned(name: &str) -> Result<Feed> {
    let feed = table::lock(name)?.filter(may_see).ok_or_else(|| unknown(name))?;
    if has_privileges_of(feed.role.1) {
        return Ok(feed);
    }
    Err(Error::new(Code::Privilege, format!("permission denied for feed \"{name}\""))
        .detail("Only the role of the feed, and roles with the privileges of that role, may change it."))
}

/// Whether the feed is for the current user to see.
pub fn may_see(feed: &Feed) -> bool {
    has_privileges_of(feed.role.1) || role_named(c"s3_export_admin").is_some_and(has_privileges_of)
}

/// One message for both, so that nobody learns of feeds of others.
pub fn unknown(name: &str) -> Error {
    Error::new(Code::Undefined, format!("feed \"{name}\" does not exist or is not one of the current role"))
        .hint("SELECT name FROM s3_export.feeds lists those of the current role.")
}

/// Errors: 42501 for another role than the feed's: its query would run with the rights of whoever calls.
pub fn check_role(feed: &Feed) -> Result<()> {
    if current_user() == feed.role.1 && current_user_name() == feed.role.0 {
        return Ok(());
    }
    let role = feed.role.0.replace('"', "\"\"");
    let hint = if current_user() == feed.role.1 {
        format!("The role was called \"{role}\". A superuser writes its new name into s3_export.feed_definitions.role.")
    } else {
        format!("SET ROLE \"{role}\" first.")
    };
    Err(Error::new(Code::Privilege, format!("feed \"{}\" runs as the role \"{}\" only", feed.name, feed.role.0))
        .detail("The query of a feed runs with the rights of whoever calls.")
        .hint(hint))
}
