//! How far an export is: for everybody in `pg_stat_progress_copy`, for its own client in NOTICEs. The count of documents is held to
//! the export's limit here, where it costs nothing.
//!
//! Postgres has no progress command of ours, so an export shows as a COPY TO with a callback, which it resembles. Parameters
//! that COPY leaves unused say which export it is; `s3_export.exports` reads them. A query may itself run commands that report
//! progress, so the report is begun anew where it was taken over.

use std::cell::Cell;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use s3_export_core::error::Result;
use s3_export_core::files::chunker::{Piece, Totals};
use s3_export_core::files::limits::ExportLimits;
use s3_export_core::io::wake::Wake;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::pg::ActAs;
use crate::pg::report;
use crate::pg::sql::read_latest;
use crate::pg::wait::{WaitFor, wait_until};
use crate::settings;

/// The parameters of the report, by Postgres's index. They stand here alone: what is written and what is read name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parameter {
    // Those that COPY has as well, which `pg_stat_progress_copy` shows.
    Bytes = 0,
    BytesTotal = 1,
    Documents = 2,
    Command = 4,
    Type = 5,
    // Ours, from the end, where COPY's own come last, if ever. Without the mark, nobody takes the others for ours.
    Mark = 15,
    IdHigh = 16,
    IdLow = 17,
    Role = 18,
    Files = 19,
}

impl Parameter {
    /// Name of the column of `pg_stat_get_progress_info`, which counts from 1.
    fn column(self) -> String {
        format!("param{}", self as c_int + 1)
    }
}

/// Documents that are shown one by one, for queries that take their time.
const EACH_IS_SHOWN: u64 = 1000;
/// Documents from one update to the next after that, besides an update at each piece of a file: for rows of a few bytes, an update each
/// would take a twentieth of the time.
const STEP: u64 = 64;

/// Values of COPY's parameters: the command COPY TO, and the type CALLBACK.
const COPY_TO: u64 = 2;
const CALLBACK: u64 = 4;
/// Tells an export from a COPY.
const EXPORT_MARK: u64 = u64::from_be_bytes(*b"s3export");

/// Work that is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The export of that id.
    Export(Uuid),
    /// A verification, which `s3_export.exports` shows only as a job of that id.
    Verification(Option<Uuid>),
}

// SAFETY: declared as Postgres declares it.
unsafe extern "C-unwind" {
    /// Postgres's own, undecorated: it only stores a number and cannot raise, and it is called for each row.
    fn pgstat_progress_update_param(index: c_int, value: i64);
}

/// The report of one export, or of one verification, until it is dropped.
pub struct Progress {
    work: Work,
    began: Instant,
    documents: Cell<u64>,
    limits: ExportLimits,
    /// Number of documents at which there is something to do.
    next_step: Cell<u64>,
    files: Cell<u64>,
    bytes: Cell<u64>,
    /// Rows that the planner expects.
    expected: Cell<Option<f64>>,
    interval: Option<Duration>,
    next_notice: Cell<Option<Instant>>,
}

impl Progress {
    /// Begins the report of an export within `limits`.
    pub fn start(export_id: Uuid, limits: ExportLimits) -> Self {
        Self::of_work(Work::Export(export_id), limits)
    }

    /// Begins the report of a verification.
    pub fn of_verification(job: Option<Uuid>) -> Self {
        Self::of_work(Work::Verification(job), ExportLimits::default())
    }

    fn of_work(work: Work, limits: ExportLimits) -> Self {
        let (began, interval) = (Instant::now(), settings::progress_interval());
        let progress = Progress {
            work,
            began,
            documents: Cell::default(),
            limits,
            next_step: Cell::default(),
            files: Cell::default(),
            bytes: Cell::default(),
            expected: Cell::default(),
            interval,
            next_notice: Cell::new(interval.map(|interval| began + interval)),
        };
        progress.begin_report();
        progress
    }

    /// Takes the number of rows that the planner expects.
    pub fn estimate(&self, rows: f64) {
        self.expected.set(Some(rows));
    }

    /// Counts a document. Errors: 54000 for the first that is too many.
    #[inline(always)]
    pub fn document(&self) -> Result<()> {
        let documents = self.documents.get() + 1;
        self.documents.set(documents);
        if documents >= self.next_step.get() { self.step(documents) } else { Ok(()) }
    }

    #[inline(never)]
    fn step(&self, documents: u64) -> Result<()> {
        self.limits.check_documents(documents)?;
        // Whoever wants notices has the clock asked for each document.
        let apart = if documents < EACH_IS_SHOWN || self.interval.is_some() { 1 } else { STEP };
        // The first document that is too many is a step, whatever lies between.
        let most = self.limits.documents.unwrap_or(u64::MAX);
        self.next_step.set((documents + apart).min(most.saturating_add(1)));
        if is_ours() {
            update(Parameter::Documents, documents);
        }
        self.notice_when_due();
        Ok(())
    }

    /// Counts a piece that is about to be handed over.
    pub fn piece(&self, piece: &Piece) {
        self.files.set(piece.file);
        self.bytes.set(self.bytes.get() + piece.body.len() as u64);
        if is_ours() {
            update_together([
                (Parameter::Documents, self.documents.get()),
                (Parameter::Files, self.files.get()),
                (Parameter::Bytes, self.bytes.get()),
            ]);
        } else {
            self.begin_report();
        }
    }

    /// Takes the number of bytes that the files of a verification have.
    pub fn expect_bytes(&self, bytes: u64) {
        update(Parameter::BytesTotal, bytes);
    }

    /// Shows what a verification has looked at so far.
    pub fn looked_at(&self, totals: Totals) {
        self.documents.set(totals.documents);
        self.files.set(totals.files);
        self.bytes.set(totals.bytes);
        update_together([
            (Parameter::Documents, totals.documents),
            (Parameter::Files, totals.files),
            (Parameter::Bytes, totals.bytes),
        ]);
        self.notice_when_due();
    }

    /// Waits like [`wait_until`], with notices meanwhile.
    pub fn wait_until<T>(&self, what: WaitFor, wake: &Wake, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            if let Some(value) = wait_until(what, wake, self.next_notice.get(), &mut ready)? {
                return Ok(value);
            }
            self.notice_when_due();
        }
    }

    fn begin_report(&self) {
        let (id, mark) = match self.work {
            Work::Export(id) | Work::Verification(Some(id)) => (id, EXPORT_MARK),
            Work::Verification(None) => (Uuid::nil(), 0),
        };
        let (high, low) = id.as_u64_pair();
        // SAFETY: stores numbers in the backend's own entry, if it has one.
        let role = unsafe {
            pg_sys::pgstat_progress_start_command(pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY, pg_sys::InvalidOid);
            pg_sys::GetUserId().to_u32()
        };
        update_together([
            (Parameter::Command, COPY_TO),
            (Parameter::Type, CALLBACK),
            (Parameter::IdHigh, high),
            (Parameter::IdLow, low),
            (Parameter::Role, u64::from(role)),
            (Parameter::Documents, self.documents.get()),
            (Parameter::Files, self.files.get()),
            (Parameter::Bytes, self.bytes.get()),
            (Parameter::Mark, mark),
        ]);
    }

    fn notice_when_due(&self) {
        let (Some(interval), Some(due)) = (self.interval, self.next_notice.get()) else { return };
        let now = Instant::now();
        if now >= due {
            self.next_notice.set(Some(now + interval));
            report::notice(self.so_far(now));
        }
    }

    fn so_far(&self, now: Instant) -> String {
        let (documents, bytes) = (self.documents.get(), self.bytes.get());
        let seconds = now.duration_since(self.began).as_secs_f64();
        let percent = percent(documents, self.expected.get()).map(|percent| format!(", about {percent} %")).unwrap_or_default();
        let work = match self.work {
            Work::Export(id) => format!("export {id}"),
            Work::Verification(_) => "verification".to_owned(),
        };
        format!(
            "{work}: {documents} documents, {} files, {}, {}/s{percent}",
            self.files.get(),
            size(bytes as f64),
            size(bytes as f64 / seconds),
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // An abort ends every report by itself.
        if !std::thread::panicking() && is_ours() {
            // SAFETY: stores a number in the backend's own entry.
            unsafe { pg_sys::pgstat_progress_end_command() }
        }
    }
}

/// Whether the backend reports the progress of a COPY, which is ours unless the query runs one at this moment.
fn is_ours() -> bool {
    // SAFETY: the entry is NULL or lives as long as the backend, which alone writes to it.
    unsafe {
        !pg_sys::MyBEEntry.is_null()
            && (*pg_sys::MyBEEntry).st_progress_command == pg_sys::ProgressCommandType::PROGRESS_COMMAND_COPY
    }
}

fn update(parameter: Parameter, value: u64) {
    // SAFETY: stores a number in the backend's own entry.
    unsafe { pgstat_progress_update_param(parameter as c_int, value.cast_signed()) }
}

/// A reader sees all of these counters from the same update, or none.
fn update_together<const N: usize>(updates: [(Parameter, u64); N]) {
    let (indexes, values) = (updates.map(|(parameter, _)| parameter as c_int), updates.map(|(_, value)| value.cast_signed()));
    // SAFETY: stores so many numbers in the backend's own entry.
    unsafe { pg_sys::pgstat_progress_update_multi_param(N as c_int, indexes.as_ptr(), values.as_ptr()) }
}

/// Percentage of the rows that the planner expects. `None`: its estimate is of no use, or is proven wrong.
fn percent(documents: u64, expected: Option<f64>) -> Option<u64> {
    let share = documents as f64 / expected.filter(|expected| *expected >= 1.0)?;
    (share <= 1.0).then_some((share * 100.0) as u64)
}

/// In the units of `pg_size_pretty`.
fn size(bytes: f64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let steps = (0..UNITS.len() - 1).find(|step| bytes < 10_240.0 * 1024_f64.powi(*step as i32)).unwrap_or(UNITS.len() - 1);
    format!("{:.0} {}", bytes / 1024_f64.powi(steps as i32), UNITS[steps])
}

/// An export that runs, as it reports itself.
#[derive(Debug)]
pub struct Running {
    /// Id of the export.
    pub export_id: Uuid,
    /// Role of the export.
    pub role: pg_sys::Oid,
    /// The process that runs it.
    pub pid: i32,
    /// Written so far, the one that is being encoded among them.
    pub documents: u64,
    /// Begun so far.
    pub files: u64,
    /// Handed to the uploads so far.
    pub bytes: u64,
}

/// All that run in this database. Who may see which is for the caller to say.
pub fn running() -> Result<Vec<Running>> {
    let _superuser = ActAs::superuser();
    let mark = Parameter::Mark.column();
    let rows = read_latest(
        &format!(
            "SELECT convert_to(coalesce(jsonb_agg(to_jsonb(p)), '[]')::text, 'UTF8')
             FROM pg_stat_get_progress_info('COPY') AS p, pg_database AS d
             WHERE p.datid = d.oid AND d.datname = current_database() AND p.{mark} = ($argument ->> 'mark')::bigint"
        ),
        &json!({ "mark": EXPORT_MARK }),
    )?;
    let rows = rows.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(rows.iter().filter_map(Running::from_report).collect())
}

impl Running {
    fn from_report(row: &Value) -> Option<Self> {
        let number = |column: &str| row.get(column).and_then(Value::as_i64);
        let count = |parameter: Parameter| number(&parameter.column()).map(i64::cast_unsigned);
        Some(Running {
            pid: i32::try_from(number("pid")?).ok()?,
            export_id: Uuid::from_u64_pair(count(Parameter::IdHigh)?, count(Parameter::IdLow)?),
            role: pg_sys::Oid::from(u32::try_from(count(Parameter::Role)?).ok()?),
            documents: count(Parameter::Documents)?,
            files: count(Parameter::Files)?,
            bytes: count(Parameter::Bytes)?,
        })
    }
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        sizes_are_those_of_pg_size_pretty,
        a_percentage_is_shown_while_the_estimate_holds,
    }

    fn sizes_are_those_of_pg_size_pretty() {
        for (bytes, text) in
            [(0.0, "0 bytes"), (10_239.0, "10239 bytes"), (10_240.0, "10 kB"), (20.0 * 1048576.0, "20 MB"), (3e10, "28 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    fn a_percentage_is_shown_while_the_estimate_holds() {
        assert_eq!(percent(50, Some(200.0)), Some(25));
        assert_eq!(percent(200, Some(200.0)), Some(100));
        assert_eq!(percent(201, Some(200.0)), None);
        assert_eq!(percent(1, Some(0.0)), None);
        assert_eq!(percent(1, None), None);
    }
}
