//! The record of exports: a row of each that commits, in its own (sub)transaction, so that a rollback takes the row back too.
//!
//! ```text
//! Recorder::begin ──► may it be recorded? ──► the files are stored ──► claim_bytes: max_bytes_per_day ──► record: the row, a line
//! watched ──► an error passes through ──► a line of the log, if s3_export.log_exports is all
//! ```
//!
//! A standby and a READ ONLY transaction cannot write a row: there the line of the server's log is the record.
#![forbid(unsafe_code)]

mod table;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::chunker::Totals;
use s3_export_core::files::limits::ByteLimit;
use s3_export_core::manifest::stored::{Summary, files};
use s3_export_core::manifest::{FeedRun, Manifest};
use s3_export_core::request::{Permission, Request};
use s3_export_core::s3::checksum::{sha256_hex, sha256_hex_of};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::table::Who;
use crate::integration::Limits;
use crate::pg::errors::tell_failure;
use crate::pg::lock::Lock;
use crate::pg::report::{Report, in_callback};
use crate::pg::{check_interrupts, is_read_only, is_standby, is_superuser, refuse_if_read_only};
use crate::settings;
use crate::settings::LogExports;
use crate::transaction::LogLine;

/// Bytes of a manifest that are hashed between two looks whether the session shall stop.
const HASHED_AT_ONCE: usize = 1 << 20;
/// The limits of integrations count the last day, so that younger rows stay.
const LEAST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

thread_local! {
    /// Whether this process runs a job.
    static RUNS_JOB: Cell<bool> = const { Cell::new(false) };
    /// What is known of the export that is being tried, for the line of its failure.
    static TRIED: RefCell<LogLine> = RefCell::default();
}

/// Says that this process runs a job, whose end is written down whatever the settings of its caller say.
pub fn run_job() {
    RUNS_JOB.set(true);
}

/// Place of an export's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A row.
    Table,
    /// A line of the log: nothing can be written here.
    Log,
    /// None: it is switched off, or the extension is not updated yet.
    Nowhere,
}

/// Records one export.
pub struct Recorder {
    who: Who,
    place: Place,
    limits: Limits,
}

/// The result of an export.
pub struct Done<'a> {
    pub request: &'a Request,
    pub manifest: &'a Manifest,
    /// URL of the manifest.
    pub url: &'a str,
    /// Bytes of the manifest, where a limit counts them.
    pub manifest_bytes: u64,
}

/// Returns the length of a manifest in bytes.
pub fn length(manifest: &Manifest) -> u64 {
    manifest.blocks(HASHED_AT_ONCE).inspect(|_| check_interrupts()).map(|block| block.len() as u64).sum()
}

impl Recorder {
    /// Begins the record of an export with these limits. Errors: 55000 for an integration that counts bytes, where they cannot be written
    /// down.
    pub fn begin(limits: Limits) -> Result<Self> {
        let who = Who::now()?;
        let place = if !settings::history() || !who.has_table && !is_standby() {
            Place::Nowhere
        } else if is_standby() || is_read_only() && !RUNS_JOB.get() {
            Place::Log
        } else {
            Place::Table
        };
        let why = match place {
            Place::Table => None,
            Place::Log => Some("Export on the primary, in a transaction that is READ WRITE."),
            Place::Nowhere => Some("A superuser switches s3_export.history on."),
        };
        match why {
            Some(hint) if limits.max_bytes_per_day.is_some() => {
                Err(Error::new(Code::NotReady, "an integration with max_bytes_per_day cannot be used here")
                    .detail("The bytes of its exports are counted in s3_export.history, which cannot be written here.")
                    .hint(hint))
            }
            _ => Ok(Recorder { who, place, limits }),
        }
    }

    /// Returns the limit of bytes for an export that begins now; other exports may still use them up. Errors: 54000 when nothing is left,
    /// unless the export may have nothing to write.
    pub fn byte_limit(&self, may_be_nothing: bool) -> Result<Option<ByteLimit>> {
        let Some((integration_id, most)) = self.limits.of_day() else { return Ok(None) };
        let used = table::bytes_of_last_day(integration_id)?;
        if used >= most && !may_be_nothing {
            return Err(passed(most, used));
        }
        Ok(Some(ByteLimit { most: most.saturating_sub(used), passed: passed(most, used) }))
    }

    /// Claims so many bytes of the integration's until the end of the transaction, and waits for other transactions that do. Errors: 54000
    /// when it has not so many left.
    pub fn claim_bytes(&self, bytes: u64) -> Result<()> {
        let Some((integration_id, most)) = self.limits.of_day() else { return Ok(()) };
        Lock::Allowance(integration_id).hold_alone();
        let used = table::bytes_of_last_day(integration_id)?;
        if used.saturating_add(bytes) > most { Err(passed(most, used)) } else { Ok(()) }
    }

    /// Writes the row, and gives what the log may tell once the export is committed.
    pub fn record(&self, done: &Done<'_>) -> Result<LogLine> {
        let Done { request, manifest, url, manifest_bytes } = done;
        let destination = &manifest.destination;
        let is_told = self.place != Place::Nowhere || settings::log_exports() != LogExports::Off;
        // The bytes that the commit will write.
        let hash = || sha256_hex_of(manifest.blocks(HASHED_AT_ONCE).inspect(|_| check_interrupts()));
        let mut columns = columns_of(request, destination.export_id(), manifest.query_sha256.clone());
        columns.extend(columns_of_result(manifest.totals, url, is_told.then(hash), manifest.feed.as_ref()));
        columns.insert("manifest_bytes".to_owned(), json!(manifest_bytes));
        if !self.write(request, &columns)? {
            return Err(Error::new(Code::Internal, "the export has a row of the history already"));
        }
        let mut fields = self.who.fields();
        fields.extend(columns);
        Ok(LogLine {
            subject: format!("export {}", destination.export_id()),
            fields,
            is_only_record: self.place == Place::Log,
            tells_failure: !RUNS_JOB.get(),
        })
    }

    /// Writes the row of an export whose own transaction has not survived, and whose manifest counts all the same. `manifest`: its URL and
    /// its bytes.
    pub fn record_adopted(&self, request: &Request, summary: &Summary, (url, manifest): (&str, &[u8])) -> Result<()> {
        // Whoever may write to the bucket could have written this manifest. The sizes of its files are those of objects that are there.
        let bytes = files(url, manifest)?.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        let totals = Totals { bytes, ..summary.totals };
        let is_hash = summary.query_sha256.len() == 64 && summary.query_sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let query_sha256 = if is_hash { summary.query_sha256.clone() } else { sha256_hex(request.query.as_bytes()) };
        let mut columns = columns_of(request, summary.export_id, query_sha256);
        columns.extend(columns_of_result(totals, url, Some(sha256_hex(manifest)), summary.feed.as_ref()));
        columns.insert("manifest_bytes".to_owned(), json!(manifest.len()));
        columns.insert("is_adopted".to_owned(), json!(true));
        self.write(request, &columns).map(drop)
    }

    /// Writes the row, where there is a table for it; `false`: the export has one already.
    fn write(&self, request: &Request, columns: &Map<String, Value>) -> Result<bool> {
        if self.place != Place::Table {
            return Ok(true);
        }
        let mut row = columns.clone();
        row.insert("integration_id".to_owned(), json!(self.limits.integration_id.map(|id| id.to_string())));
        row.insert("query".to_owned(), json!(settings::history_query().then_some(&request.query)));
        table::insert(&self.who, &row)
    }
}

/// Columns that are known before the export runs.
fn columns_of(request: &Request, export_id: Uuid, query_sha256: String) -> Map<String, Value> {
    let (integration, aws_role) = match &request.permission {
        Permission::Integration(name) => (Some(name), None),
        Permission::Role { aws_role, .. } => (None, Some(aws_role)),
    };
    let columns = json!({
        "export_id": export_id.to_string(),
        "uri": request.location.to_string(),
        "integration": integration,
        "aws_role": aws_role,
        "query_sha256": query_sha256,
        "format": request.file_type().format(),
        "compression": request.file_type().compression(),
        "run_key": request.run_key,
    });
    match columns {
        Value::Object(columns) => columns,
        _ => Map::new(),
    }
}

/// Columns of an export's result.
fn columns_of_result(totals: Totals, url: &str, sha256: Option<String>, feed: Option<&FeedRun>) -> Vec<(String, Value)> {
    let columns = [
        ("documents", json!(totals.documents)),
        ("files", json!(totals.files)),
        ("bytes", json!(totals.bytes)),
        ("manifest", json!(url)),
        ("manifest_sha256", json!(sha256)),
        ("feed", json!(feed.map(|run| &run.name))),
        ("feed_run", json!(feed.map(|run| run.run))),
    ];
    columns.map(|(column, value)| (column.to_owned(), value)).into()
}

fn passed(most: u64, used: u64) -> Error {
    Error::new(Code::ProgramLimit, format!("the integration allows no more than {most} bytes within 24 hours"))
        .detail(format!("Exports of the last 24 hours have written {used} bytes."))
        .hint("Export later, or have the integration's owner raise its max_bytes_per_day.")
}

/// Runs what a caller has asked for, which is an export. Its failure is told to the log, where the setting asks for that.
pub fn watched<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    if settings::log_exports() != LogExports::All || RUNS_JOB.get() {
        return work();
    }
    let tried = LogLine { fields: Who::now()?.fields(), tells_failure: true, ..LogLine::default() };
    // An export may be called by the query of another, which refuses it.
    let before = TRIED.replace(tried);
    let outcome = tell_failure(work, |sqlstate| {
        let line = TRIED.with_borrow(|tried| tried.failed(sqlstate));
        in_callback(&line.into_iter().map(Report::Log).collect::<Vec<_>>());
        TRIED.set(before.clone());
    });
    TRIED.set(before);
    outcome
}

/// Says which export is being tried.
pub fn tried(request: &Request, export_id: Uuid) {
    if settings::log_exports() == LogExports::All {
        let columns = columns_of(request, export_id, sha256_hex(request.query.as_bytes()));
        TRIED.with_borrow_mut(|tried| tried.fields.extend(columns));
    }
}

/// Errors: 42501 for a current user who is no superuser, as which exports write the history.
pub fn refuse_writers() -> Result<()> {
    if is_superuser() {
        return Ok(());
    }
    Err(Error::new(Code::Privilege, "only exports write the history of exports")
        .hint("A superuser deletes old rows by s3_export.prune_history."))
}

/// Deletes rows of exports that ended so long ago; gives how many. Errors: 22023 for less than a day, 25006, 42501 for who is no
/// superuser.
pub fn prune(older_than: Duration) -> Result<u64> {
    refuse_if_read_only(c"s3_export.prune_history()");
    if !is_superuser() {
        return Err(Error::new(Code::Privilege, "only a superuser may prune the history of exports"));
    }
    if older_than < LEAST_AGE {
        return Err(Error::new(Code::InvalidParameter, "older_than must be one day at least")
            .detail("The column max_bytes_per_day of integrations counts the exports of the last 24 hours."));
    }
    table::prune(older_than.as_secs_f64())
}
