//! Errors of the exported query, whole.
//!
//! pgrx turns a Postgres ERROR into a Rust panic and back, and keeps message, detail and hint of it: the position in the
//! query, the CONTEXT of functions that the query calls, and the names of tables and constraints are lost. So a context
//! callback copies each error while it is being raised inside the query, and [`boundary`], the outermost frame of our SQL
//! functions, raises the copy instead of what pgrx kept. [`catch`] is the worker's, which nobody calls: it gives the error to be
//! recorded, and [`raise_again`] raises it to whoever waits for the job.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, pgrx_extern_c_guard};
use pgrx::pg_sys::pg_try::PgTryBuilder;

use super::call::Call;
use super::limit;
use super::{server_is_utf8, to_server};
use crate::error::{Error, Result};

thread_local! {
    /// The last error raised inside a [`QueryErrors`] scope that is still open, or was left by that error.
    static LAST: Cell<*mut pg_sys::ErrorData> = const { Cell::new(std::ptr::null_mut()) };
}

/// A query, and what its errors point into: itself, or a statement that it is a part of. In the server's encoding.
pub struct Source {
    query: CString,
    /// The statement, and how many of its characters come before the query.
    statement: Option<(CString, i32)>,
}

impl Source {
    /// `statement`: with how many characters before the query.
    pub fn new(query: CString, statement: Option<(CString, usize)>) -> Self {
        let statement = statement.map(|(text, before)| (text, i32::try_from(before).unwrap_or(0)));
        Source { query, statement }
    }

    /// The query.
    pub fn query(&self) -> &CStr {
        &self.query
    }

    /// What to point into, and where, for that position in the query.
    fn place(&self, position: i32) -> (&CStr, i32) {
        match &self.statement {
            Some((text, before)) => (text, position.saturating_add(*before)),
            None => (&self.query, position),
        }
    }
}

/// Errors raised in its scope point into the query's source instead of the statement that called us, as SPI does it, and are
/// kept whole.
pub struct QueryErrors<'a> {
    callback: Box<pg_sys::ErrorContextCallback>,
    _source: &'a Source,
}

impl<'a> QueryErrors<'a> {
    /// Of the query of that source.
    pub fn of(source: &'a Source) -> Self {
        forget_last();
        let mut callback = Box::new(pg_sys::ErrorContextCallback {
            // SAFETY: reads the top of the backend's own stack of callbacks.
            previous: unsafe { pg_sys::error_context_stack },
            callback: Some(at_error),
            arg: std::ptr::from_ref(source).cast_mut().cast(),
        });
        // SAFETY: the box stays where it is until the drop, which takes it off the stack again.
        unsafe { pg_sys::error_context_stack = &mut *callback };
        QueryErrors { callback, _source: source }
    }
}

impl Drop for QueryErrors<'_> {
    fn drop(&mut self) {
        // SAFETY: guards nest, so this is the top of the stack, or Postgres has unwound past it already.
        unsafe { pg_sys::error_context_stack = self.callback.previous };
        if !std::thread::panicking() {
            // What was raised in here was caught in here, by an exception handler of a function.
            forget_last();
        }
    }
}

/// Copies an error while it is being raised.
///
/// # Safety
/// Only Postgres calls it, while a message of any level is being built; `arg` is the source of a live [`QueryErrors`].
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_error(arg: *mut c_void) {
    // SAFETY: the functions below are made to be called from here. The copy lives as long as the transaction, since the
    // subtransaction of an exception handler may end before the error reaches us.
    unsafe {
        let (position, source) = (pg_sys::geterrposition(), &*arg.cast::<Source>());
        if position > 0 {
            point(source, position);
        }
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let mut copy = pg_sys::CopyErrorData();
        // SPI has pointed into the query before us.
        let spis = source.statement.is_some()
            && position <= 0
            && (*copy).internalpos > 0
            && !(*copy).internalquery.is_null()
            && CStr::from_ptr((*copy).internalquery) == source.query();
        if spis {
            point(source, (*copy).internalpos);
            pg_sys::FreeErrorData(copy);
            copy = pg_sys::CopyErrorData();
        }
        pg_sys::MemoryContextSwitchTo(previous);
        if (*copy).elevel >= pgrx::PgLogLevel::ERROR as i32 {
            keep(copy);
        } else {
            pg_sys::FreeErrorData(copy);
        }
    }
}

/// Makes the error that is being raised point to that position of the query.
///
/// # Safety
/// Only while a message is being built.
unsafe fn point(source: &Source, position: i32) {
    let (text, position) = source.place(position);
    // SAFETY: by the caller's promise; the text is copied.
    unsafe {
        pg_sys::errposition(0);
        pg_sys::internalerrposition(position);
        pg_sys::internalerrquery(text.as_ptr());
    }
}

fn forget_last() {
    let last = LAST.replace(std::ptr::null_mut());
    if !last.is_null() {
        // SAFETY: a copy made in `at_error` by the current transaction, since every transaction ends with its slot empty.
        unsafe { pg_sys::FreeErrorData(last) };
    }
}

/// The transaction ends, and the memory of its errors with it.
pub fn forget_transaction() {
    LAST.set(std::ptr::null_mut());
}

/// Runs the body of an SQL function, and raises what it fails with.
///
/// # Safety
/// `fcinfo` is what Postgres passed to the running function, which is declared with the arguments that `body` reads.
pub unsafe fn boundary(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Call) -> Result<pg_sys::Datum>) -> pg_sys::Datum {
    unsafe extern "C-unwind" {
        /// Postgres's own, undecorated: its jump must not be caught by the frames it is to leave.
        fn ThrowErrorData(edata: *mut pg_sys::ErrorData);
    }
    // SAFETY: by the caller's promise.
    match unsafe { run(fcinfo, body) } {
        Ok(datum) => datum,
        // SAFETY: the copy is alive; nothing in this frame or its callers needs a drop when Postgres jumps over them.
        Err(whole) => unsafe {
            ThrowErrorData(whole);
            unreachable!("an ERROR does not return")
        },
    }
}

/// Gives the whole error, or raises it through pgrx where there is none.
///
/// # Safety
/// As [`boundary`]'s.
#[inline(never)]
unsafe fn run(
    fcinfo: pg_sys::FunctionCallInfo,
    body: fn(&Call) -> Result<pg_sys::Datum>,
) -> std::result::Result<pg_sys::Datum, *mut pg_sys::ErrorData> {
    // SAFETY: by the caller's promise.
    let call = unsafe { Call::new(fcinfo) };
    let panic = match catch_unwind(AssertUnwindSafe(|| body(&call).unwrap_or_else(|error| error.raise()))) {
        Ok(datum) => return Ok(datum),
        Err(panic) => panic,
    };
    let caught = panic.downcast_ref::<CaughtError>();
    if let Some(limit) = limit::take_exceeded().filter(|_| caught.is_some_and(is_cancel)) {
        drop(panic);
        // SAFETY: as below.
        return unsafe { pgrx_extern_c_guard(move || limit.raise()) };
    }
    match caught.and_then(whole_error) {
        Some(whole) => Err(whole),
        // SAFETY: the panic goes straight back into pgrx's guard, which raises it when this frame holds nothing more.
        None => unsafe { pgrx_extern_c_guard(move || resume_unwind(panic)) },
    }
}

/// Whether it is what Postgres raises for SIGINT.
fn is_cancel(caught: &CaughtError) -> bool {
    let canceled = pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED;
    matches!(caught, CaughtError::PostgresError(report) if report.sql_error_code() == canceled)
}

/// The kept copy, if it is of the error that was caught. It stays kept: Postgres copies it once more to raise it, and the next
/// query or the end of the transaction frees it.
fn whole_error(caught: &CaughtError) -> Option<*mut pg_sys::ErrorData> {
    let CaughtError::PostgresError(caught) = caught else { return None };
    let last = LAST.get();
    if last.is_null() {
        return None;
    }
    // SAFETY: the copy and its message live as long as the transaction.
    let (code, message) = unsafe {
        let message = (*last).message;
        (pgrx::PgSqlErrorCode::from((*last).sqlerrcode as isize), (!message.is_null()).then(|| CStr::from_ptr(message)))
    };
    let is_same =
        code == caught.sql_error_code() && message.is_some_and(|message| message.to_string_lossy() == caught.message());
    is_same.then_some(last)
}

/// An error that was raised, as far as a job's row keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raised {
    /// Five characters.
    pub sqlstate: String,
    /// In one line.
    pub message: String,
    /// Whole sentences about the circumstances.
    pub detail: Option<String>,
    /// Whole sentences about what to do.
    pub hint: Option<String>,
    /// Where it was raised, function by function.
    pub context: Option<String>,
    /// Whether Postgres raised it for a cancel.
    pub is_cancel: bool,
}

impl Raised {
    fn of(caught: &CaughtError) -> Self {
        if let Some(whole) = whole_error(caught) {
            // SAFETY: the copy and its texts live as long as the transaction.
            return Raised { is_cancel: is_cancel(caught), ..unsafe { Self::copy_of(&*whole) } };
        }
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = caught;
        Raised {
            sqlstate: sqlstate(report.sql_error_code() as i32),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            hint: report.hint().map(str::to_owned),
            context: None,
            is_cancel: is_cancel(caught),
        }
    }

    /// # Safety
    /// Texts of `error` are NULL or NUL-terminated.
    unsafe fn copy_of(error: &pg_sys::ErrorData) -> Self {
        // SAFETY: by the caller's promise.
        let text = |text: *mut c_char| (!text.is_null()).then(|| readable(unsafe { CStr::from_ptr(text) }.to_bytes()));
        Raised {
            sqlstate: sqlstate(error.sqlerrcode),
            message: text(error.message).unwrap_or_default(),
            detail: text(error.detail),
            hint: text(error.hint),
            context: text(error.context),
            is_cancel: false,
        }
    }
}

impl From<&Error> for Raised {
    fn from(error: &Error) -> Self {
        Raised {
            sqlstate: sqlstate(error.sqlstate() as i32),
            message: error.message().to_owned(),
            detail: error.detail_text().map(str::to_owned),
            hint: error.hint_text().map(str::to_owned),
            context: None,
            is_cancel: false,
        }
    }
}

/// Text of a failed transaction, where no conversion can be looked up any more.
fn readable(server_text: &[u8]) -> String {
    if server_is_utf8() || server_text.is_ascii() {
        return String::from_utf8_lossy(server_text).into_owned();
    }
    server_text.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect()
}

/// As MAKE_SQLSTATE packs it: six bits a character.
fn sqlstate(packed: i32) -> String {
    (0..5).map(|character| char::from(((packed >> (6 * character)) & 0x3f) as u8 + b'0')).collect()
}

fn packed(sqlstate: &str) -> i32 {
    sqlstate
        .bytes()
        .take(5)
        .zip(0..)
        .map(|(byte, character)| i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * character))
        .sum()
}

/// Runs `work`, and gives what it raised, if it did; the transaction is then to be aborted.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Box<Raised>> {
    let caught = PgTryBuilder::new(AssertUnwindSafe(|| work().map_err(|error| Box::new(Raised::from(&error)))))
        .catch_others(|caught| Err(Box::new(Raised::of(&caught))))
        .execute();
    let limit = limit::take_exceeded();
    caught.map_err(|raised| limit.filter(|_| raised.is_cancel).map_or(raised, |limit| Box::new(Raised::from(&limit))))
}

/// Raises what was raised elsewhere, with its SQLSTATE, whatever that is.
pub fn raise_again(raised: &Raised) -> Result<std::convert::Infallible> {
    raise(raised, None)
}

/// Raises an error that points into `text`, at the character of that index.
pub fn raise_at(error: &Error, text: &str, index: usize) -> Result<std::convert::Infallible> {
    raise(&Raised::from(error), Some((text, index)))
}

fn raise(raised: &Raised, place: Option<(&str, usize)>) -> Result<std::convert::Infallible> {
    let texts = [Some(&raised.message), raised.detail.as_ref(), raised.hint.as_ref(), raised.context.as_ref()];
    let texts = texts.map(|text| text.map(|text| to_server(text)).transpose());
    let [message, detail, hint, context] = texts;
    let (message, detail, hint, context) = (message?, detail?, hint?, context?);
    let query = place.map(|(text, _)| to_server(text)).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null_mut(), |text| text.as_ptr().cast_mut());
    let mut error = pg_sys::ErrorData {
        elevel: pgrx::PgLogLevel::ERROR as i32,
        sqlerrcode: packed(&raised.sqlstate),
        message: pointer(&message),
        detail: pointer(&detail),
        hint: pointer(&hint),
        context: pointer(&context),
        internalquery: pointer(&query),
        internalpos: place.and_then(|(_, index)| i32::try_from(index + 1).ok()).unwrap_or(0),
        ..pg_sys::ErrorData::default()
    };
    // SAFETY: Postgres copies the error, whose texts live until this function is left, before it raises it. So do we, for the
    // whole of it to arrive.
    unsafe {
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        error.assoc_context = pg_sys::TopTransactionContext;
        keep(copy_of(&error));
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::ThrowErrorData(&mut error);
    }
    unreachable!("an ERROR does not return")
}

/// In the current memory context.
///
/// # Safety
/// Texts of `error` are NULL or NUL-terminated.
unsafe fn copy_of(error: &pg_sys::ErrorData) -> *mut pg_sys::ErrorData {
    // SAFETY: by the caller's promise; what is allocated is written whole.
    unsafe {
        let text = |text: *mut c_char| if text.is_null() { text } else { pg_sys::pstrdup(text) };
        let copy = pg_sys::palloc(size_of::<pg_sys::ErrorData>()).cast::<pg_sys::ErrorData>();
        copy.write(pg_sys::ErrorData {
            message: text(error.message),
            detail: text(error.detail),
            hint: text(error.hint),
            context: text(error.context),
            internalquery: text(error.internalquery),
            ..*error
        });
        copy
    }
}

/// Keeps a copy, made in the memory of the transaction, in place of the last.
fn keep(copy: *mut pg_sys::ErrorData) {
    forget_last();
    LAST.set(copy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlstate_is_packed_and_unpacked() {
        assert_eq!(packed("42601"), pgrx::PgSqlErrorCode::ERRCODE_SYNTAX_ERROR as i32);
        for state in ["00000", "P0001", "ZX9AB", "57014"] {
            assert_eq!(sqlstate(packed(state)), state);
        }
    }
}
