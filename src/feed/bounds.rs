//! The bound up to which a run exports, so that every row version that its mark promises is in exactly one run.
//!
//! ```text
//! xid:      the snapshot of the query itself
//! sequence: last value ──► wait for those who hold a lock on the table by now ──► snapshot of the query
//! time:     oldest transaction ──► prepared transactions ──► snapshot of the query
//! ```
//!
//! docs/feed-marks.md has the proof of each.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::marks::{Kind, Snapshot};
use serde_json::{Value, json};

use crate::feed::source::Column;
use crate::feed::table::Feed;
use crate::pg::lock;
use crate::pg::report;
use crate::pg::sql::{self, LatestSnapshot};
use crate::pg::wait::{WaitFor, pause};
use crate::pg::{ActAs, active_snapshot, current_full_transaction};
use crate::query::Parameter;

/// The bound of one run. The query sees its snapshot.
pub struct Bound {
    /// The new mark.
    pub to: String,
    /// Parameters of the query.
    pub parameters: Vec<Parameter>,
    _snapshot: LatestSnapshot,
}

/// Finds the bound of a run that begins at the mark `from`. Errors: 55000 when the mark is ahead of the database; 55P03 when writers
/// do not end in time.
pub fn find(feed: &Feed, column: &Column, from: &str) -> Result<Bound> {
    match feed.kind {
        Kind::Xid => by_snapshot(feed, column, from),
        Kind::Sequence => by_sequence(feed, column, from),
        Kind::Time => by_time(feed, column, from),
    }
}

/// An ALTER TABLE or TRUNCATE that commits between the snapshot and the query would leave the snapshot an empty table.
fn hold_tables(column: &Column) {
    for table in &column.family {
        lock::hold_table(pg_sys::Oid::from(*table));
    }
}

/// The error of a mark that the database has not reached, as after a restore of an older copy.
pub fn ahead(feed: &Feed, detail: String) -> Error {
    Error::new(Code::NotReady, format!("the bucket is ahead of the database of feed \"{}\"", feed.name))
        .detail(detail)
        .hint("The database may have been restored from an older copy. See \"After a restore\" in the documentation of feeds, and s3_export.rewind_feed.")
}

fn by_snapshot(feed: &Feed, column: &Column, from: &str) -> Result<Bound> {
    hold_tables(column);
    let mark = Snapshot::parse(from).ok_or_else(|| unreadable(feed, from))?;
    let snapshot = LatestSnapshot::push();
    // The transaction has an id by now, since it has locked the feed. What it writes after this run is for the next.
    let (own, text) = (current_full_transaction(), active_snapshot());
    let now = Snapshot::parse(&text).ok_or_else(|| unreadable(feed, &text))?;
    if mark.xmax > now.xmax {
        return Err(ahead(feed, format!("The mark is {from}, and the database is at {now}.")));
    }
    let parameters = vec![Parameter { type_oid: pg_sys::PG_SNAPSHOTOID, text: from.to_owned() }];
    Ok(Bound { to: now.with_running(own).to_string(), parameters, _snapshot: snapshot })
}

fn by_sequence(feed: &Feed, column: &Column, from: &str) -> Result<Bound> {
    let mark: i64 = from.parse().map_err(|_| unreadable(feed, from))?;
    let sequence = column.sequence.unwrap_or(pg_sys::InvalidOid);
    let last = {
        let _superuser = ActAs::superuser();
        sql::read_latest(
            "SELECT convert_to(jsonb_build_object('last', pg_sequence_last_value(s.seqrelid), 'first', s.seqmin)::text, 'UTF8')
             FROM pg_sequence AS s WHERE s.seqrelid = ($argument ->> 'oid')::oid",
            &json!({ "oid": sequence.to_u32() }),
        )?
    };
    let number = |key| last.as_ref().and_then(|last| last.get(key)).and_then(Value::as_i64);
    // NULL: the sequence has given no value yet.
    let last = number("last");
    // Below all that the sequence gives, as the start is.
    let is_first = mark == i64::MIN || number("first").is_some_and(|first| mark < first);
    if !is_first && last.is_none_or(|last| last < mark) {
        let last = last.map_or_else(|| "no value".to_owned(), |last| last.to_string());
        return Err(ahead(feed, format!("The mark is {mark}, and the sequence has given {last} last.")));
    }
    let bound = last.unwrap_or(mark);
    wait_for_writers(feed, column)?;
    // Not before: a writer that goes on to TRUNCATE would wait for the run that waits for the writer.
    hold_tables(column);
    let parameters = [mark, bound].map(|value| Parameter { type_oid: pg_sys::INT8OID, text: value.to_string() });
    Ok(Bound { to: bound.to_string(), parameters: parameters.into(), _snapshot: LatestSnapshot::push() })
}

/// Waits for the transactions that may have drawn a value and not committed it. Each holds a lock on the table, since the default is
/// computed after the lock is taken. VACUUM, ANALYZE and CREATE INDEX draw no values.
fn wait_for_writers(feed: &Feed, column: &Column) -> Result<()> {
    let _superuser = ActAs::superuser();
    let found = sql::read_latest(
        &format!(
            "SELECT convert_to(coalesce(jsonb_agg(DISTINCT l.virtualtransaction), '[]')::text, 'UTF8') FROM pg_locks AS l
             WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND {WRITES_TABLE}"
        ),
        &json!({ "tables": column.family }),
    )?;
    let mut writers = found.unwrap_or_default();
    let deadline = Instant::now().checked_add(Duration::try_from_secs_f64(feed.wait_seconds).unwrap_or(Duration::MAX));
    let mut sleep = FIRST_PAUSE;
    // A transaction holds a lock of its own to its end, and its number is never given again.
    while writers.as_array().is_some_and(|writers| !writers.is_empty()) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::new(
                Code::LockNotAvailable,
                format!("transactions that write {} did not end in time", column.table),
            )
            .detail(format!(
                "{} of them are older than the run of feed \"{}\". Nothing is exported, and the mark stays.",
                writers.as_array().map_or(0, Vec::len),
                feed.name
            ))
            .hint(
                "Run the feed again when they have ended, or raise wait of the feed. pg_locks and pg_prepared_xacts show them.",
            ));
        }
        pause(WaitFor::Writers, sleep);
        sleep = (sleep * 3 / 2).min(LONGEST_PAUSE);
        let left = sql::read_latest(
            "SELECT convert_to(coalesce(jsonb_agg(DISTINCT l.virtualtransaction), '[]')::text, 'UTF8') FROM pg_locks AS l
             WHERE $argument -> 'writers' ? l.virtualtransaction",
            &json!({ "writers": writers }),
        )?;
        writers = left.unwrap_or_default();
    }
    Ok(())
}

/// How long to sleep between two looks at writers: from here, growing, up to there.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Condition on `pg_locks AS l`: the transaction may write one of the tables.
const WRITES_TABLE: &str =
    "l.locktype = 'relation' AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND $argument -> 'tables' @> to_jsonb(l.relation::bigint)";

fn by_time(feed: &Feed, column: &Column, from: &str) -> Result<Bound> {
    hold_tables(column);
    let _superuser = ActAs::superuser();
    // Sessions are shown as they were when the transaction looked first.
    let _ = sql::read("SELECT convert_to(to_jsonb(pg_stat_clear_snapshot() IS NULL)::text, 'UTF8')", &json!({}))?;
    // A transaction that is not shown here has ended, or begins later than this one has.
    let found = sql::read_latest(
        "SELECT convert_to(jsonb_build_object(
             -- Of several transactions in one message, each takes the time of the message. Between two of them, a session shows none.
             -- A walsender never shows one.
             'bound', greatest(min(coalesce(a.xact_start, CASE
                     WHEN a.backend_type = 'walsender' AND a.state <> 'idle' THEN a.backend_start
                     WHEN a.state IN ('active', 'fastpath function call') THEN a.query_start END))
                 - make_interval(secs => ($argument ->> 'lag')::float8), ($argument ->> 'from')::timestamptz),
             'are_hidden', bool_or(a.state = 'disabled'))::text, 'UTF8')
         FROM pg_stat_activity AS a, pg_database AS d
         WHERE d.datname = current_database() AND (a.datid = d.oid OR a.datid IS NULL)
               AND a.backend_type NOT IN ('autovacuum worker', 'autovacuum launcher', 'checkpointer', 'walwriter',
                                          'background writer', 'archiver', 'startup', 'walreceiver')
               -- One that does not send runs statements as any session does.
               AND NOT (a.backend_type = 'walsender' AND (a.datid IS NULL OR EXISTS (
                   SELECT FROM pg_stat_replication AS r WHERE r.pid = a.pid AND r.state <> 'startup')))",
        &json!({ "lag": feed.lag_seconds, "from": from }),
    )?;
    let found = found.unwrap_or_default();
    if found.get("are_hidden").and_then(Value::as_bool) == Some(true) {
        return Err(Error::new(Code::NotReady, "a session does not show when its transaction began")
            .detail("The setting track_activities is off there, and a mark \"time\" goes by the oldest transaction.")
            .hint("Set track_activities to on everywhere, or follow the table by a mark \"xid\" or \"sequence\"."));
    }
    let mut bound = found.get("bound").and_then(Value::as_str).unwrap_or(from).to_owned();
    // After the look at the sessions: one that prepares its transaction meanwhile is seen there or here.
    let prepared = sql::read_latest(
        &format!(
            "SELECT convert_to(to_jsonb(p.gid)::text, 'UTF8')
             FROM pg_locks AS l
             JOIN pg_locks AS x ON x.virtualtransaction = l.virtualtransaction AND x.pid IS NULL AND x.locktype = 'transactionid'
             JOIN pg_prepared_xacts AS p ON p.transaction = x.transactionid AND p.database = current_database()
             WHERE l.pid IS NULL AND {WRITES_TABLE} LIMIT 1"
        ),
        &json!({ "tables": column.family }),
    )?;
    if let Some(gid) = prepared.as_ref().and_then(Value::as_str) {
        // It does not tell when it began.
        report::notice(format!("the prepared transaction \"{gid}\" holds up feed \"{}\"", feed.name));
        bound = from.to_owned();
    }
    let parameters = [from, &bound].map(|text| Parameter { type_oid: pg_sys::TIMESTAMPTZOID, text: text.to_owned() });
    Ok(Bound { to: bound.clone(), parameters: parameters.into(), _snapshot: LatestSnapshot::push() })
}

fn unreadable(feed: &Feed, mark: &str) -> Error {
    Error::new(Code::NotReady, format!("the mark of feed \"{}\" cannot be read: \"{mark}\"", feed.name))
        .hint("Set another with s3_export.rewind_feed.")
}
