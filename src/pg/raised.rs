//! Errors as values: caught, kept in a job's row, and raised again with the SQLSTATE that they had, whatever that is.
//!
//! A worker's errors have nobody to go to, so [`catch`] gives them; [`raise_again`] raises them to whoever waits for the job.

use std::ffi::{CStr, CString, c_char};
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::pg_try::PgTryBuilder;

use super::errors::{is_cancel, keep, whole_error};
use super::{limit, server_is_utf8, to_server};
use crate::error::{Error, Result};

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
