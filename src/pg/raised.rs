//! Errors as values: caught, kept in a job's row, and raised again with the SQLSTATE that they had, whatever that is.
//!
//! A worker's errors have nobody to go to, so [`catch`] gives them; [`raise_again`] raises them to whoever waits for the job.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::{CStr, c_char};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use s3_export_core::error::{Error, Result};

use crate::pg::encoding::readable;
use crate::pg::errors::{Failure, attempt, is_cancel, whole_error};
use crate::pg::limit;
use crate::pg::report;

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
    /// Context in which the error was raised, function by function.
    pub context: Option<String>,
    /// Whether Postgres raised it for a cancel.
    pub is_cancel: bool,
    /// Whether the same work may succeed later. Only an error of ours says so: the query may raise the same SQLSTATEs.
    pub transient: bool,
}

thread_local! {
    /// SQLSTATE and message of the last transient error that was handed to Postgres, which has no place for such a mark.
    static TRANSIENT: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

impl Raised {
    /// Returns the error that was caught, as far as it is known.
    pub(super) fn of(caught: &CaughtError) -> Self {
        if let Some(whole) = whole_error(caught) {
            // SAFETY: the copy and its texts live as long as the transaction.
            return Raised { is_cancel: is_cancel(caught), ..unsafe { Self::copy_of(&*whole) } }.with_mark();
        }
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = caught;
        let place = match caught {
            CaughtError::RustPanic { ereport, .. } => {
                Some(format!("It panicked at {}:{}.", ereport.file(), ereport.line_number()))
            }
            _ => None,
        };
        Raised {
            sqlstate: sqlstate(report.sql_error_code() as i32),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned).or(place),
            hint: report.hint().map(str::to_owned),
            context: None,
            is_cancel: is_cancel(caught),
            transient: false,
        }
        .with_mark()
    }

    /// Keeps the mark of a transient error while Postgres has the error.
    pub(super) fn keep_mark(&self) {
        if self.transient {
            TRANSIENT.set(Some((self.sqlstate.clone(), self.message.clone())));
        }
    }

    /// Gives the mark back to the error that it was kept for.
    fn with_mark(self) -> Self {
        let is_marked = |kept: &Option<(String, String)>| {
            kept.as_ref().is_some_and(|(sqlstate, message)| *sqlstate == self.sqlstate && *message == self.message)
        };
        Raised { transient: TRANSIENT.with_borrow(is_marked), ..self }
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
            transient: false,
        }
    }
}

impl From<&Error> for Raised {
    fn from(error: &Error) -> Self {
        Raised {
            sqlstate: error.sqlstate().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail_text().map(str::to_owned),
            hint: error.hint_text().map(str::to_owned),
            context: None,
            is_cancel: false,
            transient: error.is_transient(),
        }
    }
}

/// Unpacks an SQLSTATE from the form of `MAKE_SQLSTATE`: six bits a character.
fn sqlstate(packed: i32) -> String {
    (0..5).map(|character| char::from(((packed >> (6 * character)) & 0x3f) as u8 + b'0')).collect()
}

/// Packs an SQLSTATE as `MAKE_SQLSTATE` does.
pub(super) fn packed(sqlstate: &str) -> i32 {
    sqlstate
        .bytes()
        .take(5)
        .zip(0..)
        .map(|(byte, character)| i32::from(byte.wrapping_sub(b'0') & 0x3f) << (6 * character))
        .sum()
}

/// Runs `work`, and gives what it raised, if it did; the transaction is then to be aborted.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Box<Raised>> {
    TRANSIENT.take();
    let caught = attempt(work).map_err(|failure| {
        Box::new(match failure {
            Failure::Ours(error) => Raised::from(&error),
            Failure::Raised(caught) => Raised::of(&caught),
        })
    });
    let limit = limit::take_exceeded();
    caught.map_err(|raised| limit.filter(|_| raised.is_cancel).map_or(raised, |limit| Box::new(Raised::from(&limit))))
}

/// Raises what was raised elsewhere, with its SQLSTATE, whatever that is.
pub fn raise_again(raised: &Raised) -> Result<Infallible> {
    report::raise(raised, None)
}

/// Raises an error that points into `text`, at the character of that index.
pub fn raise_at(error: &Error, text: &str, index: usize) -> Result<Infallible> {
    report::raise(&Raised::from(error), Some((text, index)))
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        a_sqlstate_is_packed_and_unpacked,
    }

    fn a_sqlstate_is_packed_and_unpacked() {
        assert_eq!(packed("42601"), pgrx::PgSqlErrorCode::ERRCODE_SYNTAX_ERROR as i32);
        for state in ["00000", "P0001", "ZX9AB", "57014"] {
            assert_eq!(sqlstate(packed(state)), state);
        }
    }
}
