//! Errors that pass through Rust, whole.
//!
//! pgrx turns a Postgres ERROR into a Rust panic and back, and keeps message, detail and hint of it: the position in the
//! query, the CONTEXT of functions that the query calls, the names of tables and constraints, and whatever is not UTF-8 are
//! lost. So a context callback copies each error while it is being raised, and [`guard`], the outermost frame of whatever
//! Postgres calls, raises the copy instead of what pgrx kept. `raised` has errors as values.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::pg_try::PgTryBuilder;
use s3_export_core::error::{Error, Result};

use crate::pg::call::Call;
use crate::pg::encoding;
use crate::pg::limit;
use crate::pg::raised::Raised;
use crate::pg::report;

thread_local! {
    /// The last error raised inside a scope that is still open, or was left by that error.
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

    /// Returns the text to point into, and the position in it, for that position in the query.
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
    _callback: Callback,
    _source: &'a Source,
}

impl<'a> QueryErrors<'a> {
    /// Context of the query of that source.
    pub fn of(source: &'a Source) -> Self {
        forget_last();
        let callback = Callback::push(at_error, std::ptr::from_ref(source).cast_mut().cast());
        QueryErrors { _callback: callback, _source: source }
    }
}

impl Drop for QueryErrors<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What was raised in here was caught in here, by an exception handler of a function.
            forget_last();
        }
    }
}

/// A function that Postgres calls while it builds a message, until the drop.
struct Callback(Box<pg_sys::ErrorContextCallback>);

impl Callback {
    fn push(function: unsafe extern "C-unwind" fn(*mut c_void), arg: *mut c_void) -> Self {
        let mut callback = Box::new(pg_sys::ErrorContextCallback {
            // SAFETY: reads the top of the backend's own stack of callbacks.
            previous: unsafe { pg_sys::error_context_stack },
            callback: Some(function),
            arg,
        });
        // SAFETY: the box stays where it is until the drop, which takes it off the stack again.
        unsafe { pg_sys::error_context_stack = &mut *callback };
        Callback(callback)
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        // SAFETY: guards nest, so this is the top of the stack, or Postgres has unwound past it already.
        unsafe { pg_sys::error_context_stack = self.0.previous };
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

/// Copies an error while it is being raised, unless the scope of a query inside has done so. What points into a statement of our
/// own is left out.
///
/// # Safety
/// Only Postgres calls it, while a message of any level is being built.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_error_of_ours(_arg: *mut c_void) {
    // SAFETY: as above. Before a worker's transaction and after it there is no memory of a transaction.
    unsafe {
        if pg_sys::TopTransactionContext.is_null() {
            return;
        }
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let copy = pg_sys::CopyErrorData();
        pg_sys::MemoryContextSwitchTo(previous);
        if (*copy).elevel >= pgrx::PgLogLevel::ERROR as i32 && !is_kept(copy) {
            (*copy).context = std::ptr::null_mut();
            (*copy).internalquery = std::ptr::null_mut();
            (*copy).internalpos = 0;
            (*copy).cursorpos = 0;
            keep(copy);
        } else {
            pg_sys::FreeErrorData(copy);
        }
    }
}

/// Whether the error that is kept is this one.
///
/// # Safety
/// `error` is whole and alive.
unsafe fn is_kept(error: *const pg_sys::ErrorData) -> bool {
    let last = LAST.get();
    // SAFETY: by the caller's promise; what is kept lives as long as the transaction.
    unsafe {
        !last.is_null()
            && (*last).sqlerrcode == (*error).sqlerrcode
            && !(*last).message.is_null()
            && !(*error).message.is_null()
            && CStr::from_ptr((*last).message) == CStr::from_ptr((*error).message)
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

/// Why work of ours ended.
pub enum Failure {
    /// An error of ours, on its way to the user.
    Ours(Error),
    /// Raised by Postgres, or a panic.
    Raised(Box<CaughtError>),
}

/// Runs `work`; gives what it failed with, whatever that is, and sees to it that errors are kept whole.
pub fn attempt<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failure> {
    forget_last();
    let _keeper = Callback::push(at_error_of_ours, std::ptr::null_mut());
    settle(|| {
        encoding::prepare();
        work()
    })
}

fn settle<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failure> {
    PgTryBuilder::new(AssertUnwindSafe(|| work().map_err(Failure::Ours)))
        .catch_others(|caught| Err(Failure::Raised(Box::new(caught))))
        .execute()
}

/// Runs `work`. What it fails with goes on after `failed` was given its SQLSTATE.
pub fn tell_failure<T>(work: impl FnOnce() -> Result<T>, failed: impl FnOnce(&str)) -> Result<T> {
    settle(work).map_err(|failure| match failure {
        Failure::Ours(error) => {
            failed(error.sqlstate());
            error
        }
        Failure::Raised(caught) => {
            failed(&Raised::of(&caught).sqlstate);
            caught.rethrow()
        }
    })
}

/// Runs the body of an SQL function, and raises what it fails with.
///
/// # Safety
/// `fcinfo` is what Postgres passed to the running function, which is declared with the arguments that `body` reads.
pub unsafe fn boundary(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Call) -> Result<pg_sys::Datum>) -> pg_sys::Datum {
    // SAFETY: by the caller's promise; Postgres calls the caller.
    unsafe { guard(|| body(&Call::new(fcinfo))) }
}

/// Runs what Postgres has called, as its outermost frame, and raises what it fails with.
///
/// # Safety
/// Only at the end of a function that Postgres calls, which has nothing to drop.
pub unsafe fn guard<T: Copy>(body: impl FnOnce() -> Result<T>) -> T {
    match run(body) {
        Ok(value) => value,
        // SAFETY: by the caller's promise; this frame holds nothing to drop either.
        Err(data) => unsafe { report::throw(data) },
    }
}

/// Runs `body`; gives the error that it failed with as Postgres raises it.
#[inline(never)]
pub fn run<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, *mut pg_sys::ErrorData> {
    attempt(body).map_err(|failure| {
        // Taken whatever the failure is: it must not be told of what comes after.
        let limit = limit::take_exceeded();
        match failure {
            Failure::Ours(error) => report::error_data(&Raised::from(&error)),
            Failure::Raised(caught) => match limit.filter(|_| is_cancel(&caught)) {
                Some(limit) => report::error_data(&Raised::from(&limit)),
                None => data_of(&caught),
            },
        }
    })
}

/// Raises what a callback of the exported query has failed with: the error of a row, or what it panicked with. Whoever has
/// started the query keeps errors whole.
///
/// # Safety
/// The same as of [`guard`].
#[cold]
pub unsafe fn raise_failed<T>(failed: std::thread::Result<Result<T>>) -> ! {
    let data = failed_data(failed);
    // SAFETY: by the caller's promise; this frame holds nothing to drop any more.
    unsafe { report::throw(data) }
}

#[inline(never)]
fn failed_data<T>(failed: std::thread::Result<Result<T>>) -> *mut pg_sys::ErrorData {
    match settle(|| failed.unwrap_or_else(|payload| resume_unwind(payload))) {
        Ok(_) => report::error_data(&Raised::default()),
        Err(Failure::Ours(error)) => report::error_data(&Raised::from(&error)),
        Err(Failure::Raised(caught)) => {
            let data = data_of(&caught);
            // SAFETY: alive, and thrown next. The functions that run around the callback say once more where they are.
            unsafe { (*data).context = std::ptr::null_mut() };
            data
        }
    }
}

fn data_of(caught: &CaughtError) -> *mut pg_sys::ErrorData {
    let Some(whole) = whole_error(caught) else { return report::error_data(&Raised::of(caught)) };
    // SAFETY: what is kept is alive. Should this fail, it goes out as it is.
    catch_unwind(AssertUnwindSafe(|| unsafe { report::sendable(whole) })).unwrap_or(whole)
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
