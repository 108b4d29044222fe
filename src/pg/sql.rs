//! Short statements of our own, on our own tables: JSON in, JSON out.
//!
//! The statements run with a pinned search_path, and values cross as JSON in UTF-8 bytes, so that no encoding and no operator of the
//! session's takes part. `$argument` in a statement is its argument; its only column, of its only row, is
//! `convert_to(…::text, 'UTF8')` of a jsonb.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::{IntoDatum, pg_sys, spi};
use s3_export_core::error::{Code, Error, Result};
use serde_json::{Value, json};

use crate::pg::ActAs;
use crate::pg::Settings;
use crate::pg::Spi;

/// Nothing of the user's is found before, or instead of, Postgres's own; and policies apply, where a session that turned them
/// off would get an error for every row that they hide. Definitions are printed as [`OWN_TRIGGERS`] has them.
const PINNED: [(&CStr, &CStr); 3] =
    [(c"search_path", c"pg_catalog, pg_temp"), (c"row_security", c"on"), (c"quote_all_identifiers", c"off")];

/// The triggers of the extension's tables, as `pg_get_triggerdef` prints them. The condition after WHEN is code as well, and
/// CREATE OR REPLACE TRIGGER needs no ownership: so the whole definition counts, not the name or the function.
const OWN_TRIGGERS: &[&str] = &[
    "CREATE TRIGGER a_before_integration_update BEFORE UPDATE ON s3_export.integrations \
     FOR EACH ROW EXECUTE FUNCTION s3_export.before_integration_update()",
    "CREATE TRIGGER a_keep_what_superusers_own BEFORE DELETE OR UPDATE ON s3_export.integrations \
     FOR EACH ROW EXECUTE FUNCTION s3_export.keep_what_superusers_own()",
    "CREATE TRIGGER b_resolve_owner BEFORE INSERT OR UPDATE OF owner ON s3_export.integrations \
     FOR EACH ROW EXECUTE FUNCTION s3_export.resolve_role('owner')",
    "CREATE TRIGGER b_resolve_usage_role BEFORE INSERT OR UPDATE OF usage_role ON s3_export.integrations \
     FOR EACH ROW EXECUTE FUNCTION s3_export.resolve_role('usage_role')",
    "CREATE TRIGGER c_keep_to_superusers AFTER INSERT OR UPDATE ON s3_export.integrations \
     FOR EACH ROW WHEN (((new.credential_source <> 'keys'::text) OR (new.endpoint ~ '^http://'::text) \
     OR (new.sts_endpoint ~ '^http://'::text))) EXECUTE FUNCTION s3_export.keep_to_superusers()",
    "CREATE TRIGGER resolve_feed_role BEFORE INSERT OR UPDATE OF role ON s3_export.feed_definitions \
     FOR EACH ROW EXECUTE FUNCTION s3_export.resolve_feed_role()",
    OF_HISTORY,
];

const OF_HISTORY: &str = "CREATE TRIGGER keep_history BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE ON s3_export.history_entries \
     FOR EACH STATEMENT EXECUTE FUNCTION s3_export.keep_history()";

/// Gives a row for a table that carries nothing but the history's own trigger. Each export asks, and planning takes longer the more
/// tables a statement names. A foreign key is a trigger, of the referenced table too.
const CARRIES_NOTHING: &str = "SELECT convert_to('true', 'UTF8') FROM pg_class AS c JOIN pg_authid AS o ON o.oid = c.relowner
     WHERE c.oid = ($argument ->> 'table')::regclass AND o.rolsuper AND NOT c.relhasrules AND NOT c.relhassubclass
           AND NOT EXISTS (SELECT FROM pg_trigger AS t
                           WHERE t.tgrelid = c.oid AND pg_get_triggerdef(t.oid) <> $argument ->> 'of_history')";

/// Runs a SELECT. `None`: no row.
pub fn read(statement: &str, argument: &Value) -> Result<Option<Value>> {
    run(statement, argument, |statement, argument| {
        let arguments = [DatumWithOid::from(argument)];
        spi::Spi::connect(|client| first_bytes(client.select(statement, Some(1), &arguments)?)).map_err(|error| failed(&error))
    })
}

/// Runs a SELECT of one parameter, `text` in UTF-8, with the session's own search_path and as its user.
pub fn read_as_session(statement: &str, text: &str) -> Result<Option<Value>> {
    let arguments = [DatumWithOid::from(text.as_bytes().to_vec())];
    let bytes = spi::Spi::connect(|client| first_bytes(client.select(statement, Some(1), &arguments)?));
    bytes.map_err(|error| failed(&error))?.map(parse).transpose()
}

/// A table of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Integrations,
    Credentials,
    Jobs,
    Feeds,
    History,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Integrations => "s3_export.integrations",
            Table::Credentials => "s3_export.credentials",
            Table::Jobs => "s3_export.jobs",
            Table::Feeds => "s3_export.feed_definitions",
            Table::History => "s3_export.history_entries",
        }
    }
}

/// Runs a statement that writes `table`; gives its row as [`read`] does. Errors: 55000 where somebody else's code would run.
pub fn write(table: Table, statement: &str, argument: &Value) -> Result<Option<Value>> {
    refuse_foreign_code(table)?;
    run(statement, argument, |statement, argument| {
        let arguments = [DatumWithOid::from(argument)];
        spi::Spi::connect_mut(|client| first_bytes(client.update(statement, None, &arguments)?)).map_err(|error| failed(&error))
    })
}

/// Does the same as [`read`], and sees all that has been committed up to now, whatever the transaction's isolation level.
pub fn read_latest(statement: &str, argument: &Value) -> Result<Option<Value>> {
    run(statement, argument, |statement, argument| run_latest(statement, argument, true, bytes))
}

/// Does the same as [`write()`], and sees all that has been committed up to now, whatever the transaction's isolation level.
pub fn write_latest(table: Table, statement: &str, argument: &Value) -> Result<Option<Value>> {
    refuse_foreign_code(table)?;
    run(statement, argument, |statement, argument| run_latest(statement, argument, false, bytes))
}

/// Does the same as [`read_latest`] for a statement that each export runs: its plan is kept, since planning takes longer than
/// running. The statement is one of a fixed number, and the current user is the superuser.
pub fn read_often(statement: &'static str, argument: &Value) -> Result<Option<Value>> {
    run(statement, argument, |statement, argument| run_planned(statement, argument, (true, Plan::Kept), bytes))
}

/// Does the same as [`write_latest`] for a statement that each export runs, like [`read_often`].
pub fn write_often(table: Table, statement: &'static str, argument: &Value) -> Result<Option<Value>> {
    refuse_foreign_code(table)?;
    run(statement, argument, |statement, argument| run_planned(statement, argument, (false, Plan::Kept), bytes))
}

/// Does the same as [`read_latest`] for a statement whose only column is a whole row; gives the row as the result of a function that
/// returns such a row.
pub fn row_latest(statement: &str, argument: &Value) -> Result<Option<pg_sys::Datum>> {
    execute(statement, argument, |statement, argument| run_latest(statement, argument, true, transferred_row))
}

/// Errors: 55000 for a table that carries a trigger, rule, foreign key or child table that is not the extension's, or whose owner is
/// no superuser: such code would run with the rights of whoever writes, often a superuser.
///
/// Only an owner adds policies, defaults, constraints of the table's own, indexes and statistics. An event trigger is a
/// superuser's, and no write here fires one.
fn refuse_foreign_code(table: Table) -> Result<()> {
    let _superuser = ActAs::superuser();
    {
        let _settings = Settings::set(&PINNED);
        // The lock that the write takes anyway; whatever adds such code waits from here on.
        let lock = format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", table.name());
        spi::Spi::connect_mut(|client| client.update(lock.as_str(), None, &[]).map(drop)).map_err(|error| failed(&error))?;
    }
    if read_often(CARRIES_NOTHING, &json!({ "table": table.name(), "of_history": OF_HISTORY }))?.is_some() {
        return Ok(());
    }
    let found = read_latest(
        "SELECT convert_to(to_jsonb(f.what)::text, 'UTF8')
         FROM (SELECT ($argument ->> 'table')::regclass AS oid) AS the,
             LATERAL (
                 SELECT format('trigger \"%s\"', t.tgname) AS what FROM pg_trigger AS t
                 WHERE t.tgrelid = the.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                       AND (NOT $argument -> 'own_triggers' ? pg_get_triggerdef(t.oid)
                            OR NOT EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                                           WHERE d.classid = 'pg_proc'::regclass AND d.objid = t.tgfoid AND d.deptype = 'e'
                                                 AND d.refclassid = 'pg_extension'::regclass AND e.extname = 's3_export'))
                 UNION ALL SELECT format('rule \"%s\"', r.rulename) FROM pg_rewrite AS r WHERE r.ev_class = the.oid
                 UNION ALL SELECT format('foreign key \"%s\"', c.conname) FROM pg_constraint AS c
                 WHERE c.confrelid = the.oid AND c.contype = 'f' AND c.conrelid <> 's3_export.credentials'::regclass
                 UNION ALL SELECT format('child or parent table \"%s\"', i.inhrelid::regclass) FROM pg_inherits AS i
                 WHERE the.oid IN (i.inhparent, i.inhrelid)
                 UNION ALL SELECT format('owner \"%s\", who is no superuser,', o.rolname)
                 FROM pg_class AS c JOIN pg_roles AS o ON o.oid = c.relowner AND NOT o.rolsuper WHERE c.oid = the.oid
             ) AS f LIMIT 1",
        &json!({ "table": table.name(), "own_triggers": OWN_TRIGGERS }),
    )?;
    match found.as_ref().and_then(Value::as_str) {
        None => Ok(()),
        Some(what) => {
            Err(Error::new(Code::NotReady, format!("table {} has a {what} that is not the extension's", table.name()))
                .detail("Its code would run with the rights of every role that writes the table, superusers included.")
                .hint("A superuser must find out who made it, and drop it. The owner of the table must be a superuser."))
        }
    }
}

fn execute<T>(statement: &str, argument: &Value, execute: impl FnOnce(&str, Vec<u8>) -> Result<T>) -> Result<T> {
    let statement = statement.replace("$argument", "(convert_from($1, 'UTF8')::jsonb)");
    let _settings = Settings::set(&PINNED);
    execute(&statement, argument.to_string().into_bytes())
}

fn run(
    statement: &str,
    argument: &Value,
    work: impl FnOnce(&str, Vec<u8>) -> Result<Option<Vec<u8>>>,
) -> Result<Option<Value>> {
    let bytes = execute(statement, argument, work)?;
    bytes.map(parse).transpose()
}

fn parse(bytes: Vec<u8>) -> Result<Value> {
    serde_json::from_slice(&bytes).map_err(|_| Error::new(Code::Internal, "a table of s3_export gave no JSON"))
}

fn first_bytes(rows: spi::SpiTupleTable<'_>) -> spi::Result<Option<Vec<u8>>> {
    if rows.is_empty() { Ok(None) } else { rows.first().get_one() }
}

/// The bytes of a bytea. Errors: XX000 for a value of another type.
///
/// # Safety
/// The value is of that type and not NULL, and SPI is connected, whose memory the value may be detoasted into.
unsafe fn bytes(value: pg_sys::Datum, type_id: pg_sys::Oid) -> Result<Vec<u8>> {
    if type_id != pg_sys::BYTEAOID {
        return Err(failed(&"the result is no bytea"));
    }
    // SAFETY: by the caller's promise, a bytea; its bytes are copied at once.
    Ok(unsafe { pgrx::varlena::varlena_to_byte_slice(pg_sys::pg_detoast_datum(value.cast_mut_ptr())) }.to_vec())
}

/// The row, in memory that outlives SPI's. Errors: XX000 for a value that is no row.
///
/// # Safety
/// The value is of that type and not NULL, and SPI is connected.
unsafe fn transferred_row(value: pg_sys::Datum, type_id: pg_sys::Oid) -> Result<pg_sys::Datum> {
    // SAFETY: a catalog look-up; a row is passed by reference, with its length in its header.
    unsafe {
        if !pg_sys::type_is_rowtype(type_id) {
            return Err(failed(&"the result is no row"));
        }
        Ok(pg_sys::SPI_datumTransfer(value, false, -1))
    }
}

/// `take`: what to take of the first row's first column, before SPI frees it; it is called with a value and the value's type, as
/// [`bytes`] and [`transferred_row`] ask for.
fn run_latest<T>(
    statement: &str,
    argument: Vec<u8>,
    read_only: bool,
    take: unsafe fn(pg_sys::Datum, pg_sys::Oid) -> Result<T>,
) -> Result<Option<T>> {
    run_planned(statement, argument, (read_only, Plan::New), take)
}

/// Plan of a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// Made for one run.
    New,
    /// Kept until the session ends.
    Kept,
}

thread_local! {
    /// The plans that are kept, by statement.
    static PLANS: RefCell<HashMap<String, pg_sys::SPIPlanPtr>> = RefCell::default();
}

fn run_planned<T>(
    statement: &str,
    argument: Vec<u8>,
    (read_only, keep): (bool, Plan),
    take: unsafe fn(pg_sys::Datum, pg_sys::Oid) -> Result<T>,
) -> Result<Option<T>> {
    let kept = PLANS.with_borrow(|plans| plans.get(statement).copied()).filter(|_| keep == Plan::Kept);
    let text = CString::new(statement).map_err(|_| Error::new(Code::Internal, "a statement holds a NUL byte"))?;
    let _snapshot = LatestSnapshot::push();
    let _spi = Spi::connect()?;
    // SAFETY: the text is NUL-terminated, with one parameter, of type bytea, as is the one value. The snapshot is registered
    // until the guard's drop. SPI frees plan and rows when it is disconnected, after they were taken. The value is of the type that
    // its column has. A plan that is kept is never freed, and Postgres makes it anew when a table changes.
    unsafe {
        let mut types = [pg_sys::BYTEAOID];
        let mut values = [argument.into_datum().unwrap_or_else(pg_sys::Datum::null)];
        let plan = kept.unwrap_or_else(|| pg_sys::SPI_prepare(text.as_ptr(), 1, types.as_mut_ptr()));
        if plan.is_null() {
            return Err(failed(&"the statement could not be prepared"));
        }
        if keep == Plan::Kept && kept.is_none() && pg_sys::SPI_keepplan(plan) == 0 {
            PLANS.with_borrow_mut(|plans| plans.insert(statement.to_owned(), plan));
        }
        let (snapshot, none) = (pg_sys::GetActiveSnapshot(), std::ptr::null_mut());
        let outcome =
            pg_sys::SPI_execute_snapshot(plan, values.as_mut_ptr(), std::ptr::null(), snapshot, none, read_only, true, 0);
        if outcome < 0 {
            return Err(failed(&outcome));
        }
        if pg_sys::SPI_processed == 0 || pg_sys::SPI_tuptable.is_null() {
            return Ok(None);
        }
        let (row, shape) = (*(*pg_sys::SPI_tuptable).vals, (*pg_sys::SPI_tuptable).tupdesc);
        let mut is_null = false;
        let value = pg_sys::SPI_getbinval(row, shape, 1, &mut is_null);
        (!is_null).then(|| take(value, pg_sys::SPI_gettypeid(shape, 1))).transpose()
    }
}

fn failed(why: &dyn std::fmt::Display) -> Error {
    Error::new(Code::Internal, "could not use the catalog").detail(format!("SPI answered: {why}."))
}

/// The active snapshot, as of now, until the drop.
pub struct LatestSnapshot(());

impl LatestSnapshot {
    /// Sees all that has been committed up to now.
    pub fn push() -> Self {
        // SAFETY: inside a transaction; the drop, or the (sub)transaction's abort, pops it.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        LatestSnapshot(())
    }
}

impl Drop for LatestSnapshot {
    fn drop(&mut self) {
        // On an error, the (sub)transaction's abort pops it, and may have done so already.
        if !std::thread::panicking() {
            // SAFETY: pushed in `push`, and guards nest.
            unsafe { pg_sys::PopActiveSnapshot() }
        }
    }
}
