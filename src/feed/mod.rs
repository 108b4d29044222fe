//! Feeds: named incremental exports, each of whose runs exports what is new since the last.
//!
//! ```text
//! lock the feed's row ──► is there a manifest of this run already? adopt it ──► bound ──► query, upload ──► the mark moves
//!      └── another run waits here                                                                └── in the same commit: manifest
//! ```
//!
//! The mark moves in the transaction whose commit writes the manifest, and the manifest is written only where there is none of its
//! number. So a row version that the mark promises is in exactly one manifest. Where the server dies between the two, the next run
//! finds the manifest, and takes over its mark.
#![forbid(unsafe_code)]

mod bounds;
mod change;
mod setup;
mod source;
mod table;

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::chunker::Totals;
use s3_export_core::manifest::stored::Summary;
use s3_export_core::manifest::{FeedRun, WalPlace};
use s3_export_core::marks::{self, Kind, history_contains};
use s3_export_core::naming::keys::manifest_of_run;
use s3_export_core::request::Request;
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::change::{NewFeed, alter, create, drop_feed, rewind, setup_statements};
use self::table::Feed;
use crate::export::{self, Export, RunProperties};
use crate::pg::sql;
use crate::pg::{
    ActAs, current_full_transaction, current_user, flush_wal, has_one_snapshot, refuse_if_read_only, report, transaction_has_id,
};
use crate::run_key;
use crate::transaction;

/// Result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Documents, files and bytes of the run.
    pub totals: Totals,
    /// Id of the export and URL of its manifest; `None`: there was nothing new.
    pub written: Option<(Uuid, String)>,
    /// Number of the last run that has a manifest.
    pub run: u64,
    /// The mark before.
    pub from: String,
    /// The mark after.
    pub to: String,
}

/// Runs the feed as the current user, who must be the feed's role. Errors: 25006 on a standby and in a READ ONLY transaction, 25001
/// where the transaction sees too little or has written already, 42501, 42704, 55000, and those of an export.
pub fn run(name: &str, export_id: Uuid) -> Result<Outcome> {
    refuse_if_read_only(c"s3_export.run_feed()");
    export::check_context()?;
    if has_one_snapshot() {
        return Err(Error::new(Code::ActiveTransaction, "cannot run a feed in a REPEATABLE READ or SERIALIZABLE transaction")
            .detail("All statements of such a transaction see one snapshot, which may be older than the feed's last run.")
            .hint("Run the feed in a READ COMMITTED transaction."));
    }
    let has_written = transaction_has_id();
    let feed = table::lock(name)?.filter(change::may_see).ok_or_else(|| change::unknown(name))?;
    change::check_role(&feed)?;
    if has_written && feed.kind == Kind::Xid {
        return Err(Error::new(Code::ActiveTransaction, "cannot run a feed by \"xid\" in a transaction that has written")
            .detail("No snapshot says of a transaction's own rows that they are new.")
            .hint("Run the feed in a transaction of its own, or first in a transaction."));
    }
    let place = wal_place()?;
    if feed.kind == Kind::Xid && feed.mark_cluster != place.cluster && feed.mark != Kind::Xid.start() {
        return Err(Error::new(Code::NotReady, format!("the mark of feed \"{name}\" is of another cluster"))
            .detail("Ids of transactions mean something in their own cluster only.")
            .hint("After pg_upgrade, call s3_export.rewind_feed with the mark that s3_export.feeds shows. After a restore, see \"After a restore\" in the documentation of feeds."));
    }
    let column = source::check(feed.kind, &feed.mark_table, &feed.mark_column)?;
    if feed.kind == Kind::Xid && feed.is_marked_by_hand {
        source::refuse_foreign_ids(&feed.mark_table, &feed.mark_column)?;
    }
    let (mut from, mut number) = (feed.mark.clone(), feed.run + 1);
    loop {
        let request = request(&feed, number)?;
        let export = Export::open(&request, export_id)?;
        if transaction::writes_manifest(&manifest_url(&export, &feed, number - 1)) {
            return Err(Error::new(Code::ActiveTransaction, "this transaction has run the feed already")
                .detail(
                    "The manifests of two runs would be written at once, and a crash might leave the second without the first.",
                )
                .hint("Commit the transaction first."));
        }
        run_key::hold(&export.destination)?;
        let Some((stored, summary)) = run_key::read_manifest(&export.store, &export.destination)? else {
            return write(&feed, &column, (&from, number), export);
        };
        from = adopt(&feed, (&from, number), &summary, &place)?;
        run_key::refuse_without_files(&export.store, &export.destination, &stored, run_key::Files::All)?;
        let outcome = export.outcome_of(&summary);
        table::advance(&feed, number, &from, Some(&outcome))?;
        export.record_adopted(&summary, &stored.body)?;
        // The commit that was to notify of the run did not happen.
        export::notify(export.request(), &outcome, Some((&feed.name, number)))?;
        report::notice(format!("run {number} of feed \"{name}\" was written before a crash: its manifest is adopted"));
        number += 1;
    }
}

/// Returns the URL of the manifest of that run.
fn manifest_url(export: &Export<'_>, feed: &Feed, number: u64) -> String {
    let location = export.destination.location();
    export.destination.url(&location.key(&manifest_of_run(&marks::run_key(&feed.name, number))))
}

fn request(feed: &Feed, number: u64) -> Result<Request> {
    let request = Request::from_arguments(feed.arguments())?;
    Ok(Request { run_key: Some(marks::run_key(&feed.name, number)), ..request })
}

fn write(feed: &Feed, column: &source::Column, (from, number): (&str, u64), export: Export<'_>) -> Result<Outcome> {
    let bound = bounds::find(feed, column, from)?;
    let feed_run = FeedRun {
        id: feed.id.clone(),
        name: feed.name.clone(),
        run: number,
        mark: feed.kind.name().to_owned(),
        from: from.to_owned(),
        to: bound.to.clone(),
        // After the snapshot was taken: whatever it sees has been written by then.
        wal: wal_place()?,
    };
    let properties = RunProperties {
        parameters: bound.parameters,
        feed: Some(feed_run),
        nothing_for_nothing: !feed.manifest_when_empty,
        ..RunProperties::default()
    };
    let exported = export.write(properties)?;
    let is_empty = exported.totals.documents == 0 && exported.totals.files == 0 && !feed.manifest_when_empty;
    let run = if is_empty { number - 1 } else { number };
    table::advance(feed, run, &bound.to, (!is_empty).then_some(&exported))?;
    if !is_empty {
        // Ids of transactions, and values of sequences, that the manifest is about to name must not be given again after a crash.
        flush_wal();
    }
    let written = (!is_empty).then_some((exported.export_id, exported.manifest));
    Ok(Outcome { totals: exported.totals, written, run, from: from.to_owned(), to: bound.to })
}

/// Gives the mark that the manifest of the run `number` takes over, where the server died before the commit that was to move the mark
/// `from`. Errors: 55000 where the manifest is not the next of this feed in the server's own history.
fn adopt(feed: &Feed, (from, number): (&str, u64), summary: &Summary, here: &WalPlace) -> Result<String> {
    let url_of = format!("run {number}, export {}", summary.export_id);
    let Some(of_manifest) = &summary.feed else {
        return Err(bounds::ahead(feed, format!("The manifest of {url_of}, is no feed's.")));
    };
    if of_manifest.id != feed.id {
        return Err(Error::new(Code::NotReady, format!("{url_of} is of another feed \"{}\"", of_manifest.name))
            .detail("A feed that was dropped has written to the same location under the same name.")
            .hint("Choose another name or location, or the number of the next run: s3_export.rewind_feed."));
    }
    let fits = of_manifest.name == feed.name && of_manifest.run == number && of_manifest.mark == feed.kind.name();
    if !fits || of_manifest.from != from {
        let detail = format!("The manifest of {url_of}, begins at {}, and the mark is {from}.", of_manifest.from);
        return Err(bounds::ahead(feed, detail));
    }
    if !history_contains(&timeline_history(here.timeline)?, here, &of_manifest.wal) {
        let WalPlace { cluster, database, timeline, lsn, .. } = &of_manifest.wal;
        let detail = format!(
            "The manifest of {url_of}, was written by database {database} of cluster {cluster}, at {lsn} of timeline {timeline}, which is not in the history of this database."
        );
        return Err(bounds::ahead(feed, detail));
    }
    if !has_aborted(of_manifest.wal.transaction)? {
        let transaction = of_manifest.wal.transaction;
        let detail =
            format!("The manifest of {url_of}, is of transaction {transaction}, which this server does not know as aborted.");
        return Err(bounds::ahead(feed, detail));
    }
    Ok(of_manifest.to.clone())
}

/// Whether the transaction has aborted, as one does that a crash has ended before its commit. In the history of another server, of which
/// this one may be an older copy, the id is a later one, or another transaction's.
fn has_aborted(transaction: u64) -> Result<bool> {
    let found = sql::read_latest(
        "SELECT convert_to(to_jsonb(CASE WHEN x.id < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(x.id) END)::text, 'UTF8')
         FROM (SELECT ($argument ->> 'id')::xid8) AS x (id)",
        &json!({ "id": transaction.to_string() }),
    )?;
    Ok(found.as_ref().and_then(Value::as_str) == Some("aborted"))
}

/// Returns the server's place in its history.
fn wal_place() -> Result<WalPlace> {
    let _superuser = ActAs::superuser();
    let found = sql::read_latest(
        "SELECT convert_to(jsonb_build_object('cluster', s.system_identifier::text, 'database', d.oid::bigint, 'lsn', l.lsn::text,
             'transaction', $argument -> 'transaction',
             'timeline', ('x' || left(pg_walfile_name(l.lsn), 8))::bit(32)::int)::text, 'UTF8')
         FROM pg_control_system() AS s, pg_current_wal_insert_lsn() AS l (lsn), pg_database AS d WHERE d.datname = current_database()",
        // The run has locked its feed, so that its transaction has an id.
        &json!({ "transaction": current_full_transaction() }),
    )?;
    found
        .and_then(|found| serde_json::from_value(found).ok())
        .ok_or_else(|| Error::new(Code::Internal, "the place in the write-ahead log cannot be read"))
}

/// Returns the content of the history file of a timeline. The first timeline has none, and a restore may have left one behind.
fn timeline_history(timeline: u32) -> Result<String> {
    if timeline == 1 {
        return Ok(String::new());
    }
    let _superuser = ActAs::superuser();
    let found = sql::read_latest(
        "SELECT convert_to(to_jsonb(convert_from(pg_read_binary_file($argument ->> 'file', 0, 1 << 24, true), 'SQL_ASCII'))::text, 'UTF8')",
        &json!({ "file": format!("pg_wal/{timeline:08X}.history") }),
    )?;
    Ok(found.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Checks that the current user may run the feed now, for a job that will; gives the request of its next run.
pub fn check_run(name: &str) -> Result<Request> {
    let feed = table::read(name)?.filter(change::may_see).ok_or_else(|| change::unknown(name))?;
    change::check_role(&feed)?;
    debug_assert_eq!(current_user(), feed.role.1);
    source::check(feed.kind, &feed.mark_table, &feed.mark_column)?;
    request(&feed, feed.run + 1)
}

/// Returns the arguments of the exports of a feed.
pub fn arguments(name: &str) -> Result<s3_export_core::request::Arguments> {
    Ok(table::read(name)?.ok_or_else(|| change::unknown(name))?.arguments())
}
