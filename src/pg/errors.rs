//! Errors of the exported query, whole.
//!
//! pgrx turns a Postgres ERROR into a Rust panic and back, and keeps message, detail and hint of it: the position in the
//! query, the CONTEXT of functions that the query calls, and the names of tables and constraints are lost. So a context
//! callback copies each error while it is being raised inside the query, and [`boundary`], the outermost frame of our SQL
//! functions, raises the copy instead of what pgrx kept.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, pgrx_extern_c_guard};

use super::call::Call;
use crate::error::Result;

thread_local! {
    /// The last error raised inside a [`QueryErrors`] scope that is still open, or was left by that error.
    static LAST: Cell<*mut pg_sys::ErrorData> = const { Cell::new(std::ptr::null_mut()) };
}

/// Errors raised in its scope point into `query` instead of the statement that called us, as SPI does it, and are kept whole.
pub struct QueryErrors {
    callback: Box<pg_sys::ErrorContextCallback>,
}

impl QueryErrors {
    /// `query` must outlive the guard, in the server's encoding.
    pub fn of(query: &CStr) -> Self {
        forget_last();
        let mut callback = Box::new(pg_sys::ErrorContextCallback {
            // SAFETY: reads the top of the backend's own stack of callbacks.
            previous: unsafe { pg_sys::error_context_stack },
            callback: Some(at_error),
            arg: query.as_ptr().cast_mut().cast(),
        });
        // SAFETY: the box stays where it is until the drop, which takes it off the stack again.
        unsafe { pg_sys::error_context_stack = &mut *callback };
        QueryErrors { callback }
    }
}

impl Drop for QueryErrors {
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
/// Only Postgres calls it, while a message of any level is being built; `arg` is the query of a live [`QueryErrors`].
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_error(arg: *mut c_void) {
    // SAFETY: the functions below are made to be called from here. The copy lives as long as the transaction, since the
    // subtransaction of an exception handler may end before the error reaches us.
    unsafe {
        let position = pg_sys::geterrposition();
        if position > 0 {
            pg_sys::errposition(0);
            pg_sys::internalerrposition(position);
            pg_sys::internalerrquery(arg.cast());
        }
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let copy = pg_sys::CopyErrorData();
        pg_sys::MemoryContextSwitchTo(previous);
        if (*copy).elevel >= pgrx::PgLogLevel::ERROR as i32 {
            forget_last();
            LAST.set(copy);
        } else {
            pg_sys::FreeErrorData(copy);
        }
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
    match whole_error(panic.as_ref()) {
        Some(whole) => Err(whole),
        // SAFETY: the panic goes straight back into pgrx's guard, which raises it when this frame holds nothing more.
        None => unsafe { pgrx_extern_c_guard(move || resume_unwind(panic)) },
    }
}

/// The kept copy, if it is of the error that the panic carries. It stays kept: Postgres copies it once more to raise it, and
/// the next query or the end of the transaction frees it.
fn whole_error(panic: &(dyn Any + Send)) -> Option<*mut pg_sys::ErrorData> {
    let Some(CaughtError::PostgresError(caught)) = panic.downcast_ref::<CaughtError>() else { return None };
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
