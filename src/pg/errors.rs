//! Errors of the exported query, whole.
//!
//! pgrx turns a Postgres ERROR into a Rust panic and back, and keeps message, detail and hint of it: the position in the
//! query, the CONTEXT of functions that the query calls, and the names of tables and constraints are lost. So a context
//! callback copies each error while it is being raised inside the query, and [`boundary`], the outermost frame of our SQL
//! functions, raises the copy instead of what pgrx kept. `raised` has errors as values.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, pgrx_extern_c_guard};

use super::call::Call;
use super::limit;
use crate::error::Result;

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
pub(super) fn is_cancel(caught: &CaughtError) -> bool {
    let canceled = pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED;
    matches!(caught, CaughtError::PostgresError(report) if report.sql_error_code() == canceled)
}

/// The kept copy, if it is of the error that was caught. It stays kept: Postgres copies it once more to raise it, and the next
/// query or the end of the transaction frees it.
pub(super) fn whole_error(caught: &CaughtError) -> Option<*mut pg_sys::ErrorData> {
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

/// Keeps a copy, made in the memory of the transaction, in place of the last.
pub(super) fn keep(copy: *mut pg_sys::ErrorData) {
    forget_last();
    LAST.set(copy);
}
