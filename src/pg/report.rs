//! The only place that reports to Postgres: errors, warnings, notices, lines of the log.
//!
//! Postgres's `ereport` is more dangerous than it looks. It sends bytes as they are, which must be in the server's encoding. It
//! raises an error where the client's encoding lacks a character. It answers interrupts after each message below ERROR. And it
//! runs callbacks of whoever is being called. So:
//! - texts are in the server's encoding, and hold nothing that their reader cannot be given ([`encoding`]);
//! - each report stands behind pgrx's guard, which makes a Rust panic of what is raised meanwhile, so that drops run;
//! - a callback of the transaction's end reports by [`in_callback`], which cannot raise, after all that must happen.

use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::libc;
use pgrx::pg_sys;
use s3_export_core::error::Error;

use crate::pg::callback::contained;
use crate::pg::encoding::{self, Reader};
use crate::pg::errors::keep;
use crate::pg::raised::{Raised, packed};

/// A message below ERROR.
#[derive(Debug, Clone)]
pub enum Report {
    /// For the client and the log.
    Warning(Error),
    /// For the server's log alone.
    Log(String),
}

/// Says it to the client. Raises what Postgres raises for an interrupt.
pub fn notice(text: impl Into<String>) {
    emit(pg_sys::NOTICE, &said(text.into()), Reader::Client);
}

/// Warns the client, and the server's log. Raises what Postgres raises for an interrupt.
pub fn warn(error: &Error) {
    emit(pg_sys::WARNING, &Raised::from(error), Reader::Client);
}

/// Writes a line to the server's log. Raises what Postgres raises for an interrupt.
pub fn log(text: impl Into<String>) {
    emit(pg_sys::LOG_SERVER_ONLY, &said(text.into()), Reader::Log);
}

/// Writes an error to the server's log, with detail and hint.
pub fn log_error(error: &Error) {
    emit(pg_sys::LOG_SERVER_ONLY, &Raised::from(error), Reader::Log);
}

fn said(message: String) -> Raised {
    Raised { sqlstate: "00000".to_owned(), message, ..Raised::default() }
}

fn emit(level: u32, raised: &Raised, reader: Reader) {
    let texts = Texts::new(raised, None, reader);
    let mut data = texts.as_data(level, raised);
    // What the functions around us would add may hold what the client cannot be sent.
    let _alone = NoCallbacks::begin();
    // SAFETY: Postgres copies the texts, which live until this function is left.
    unsafe { pg_sys::ThrowErrorData(&mut data) }
}

/// Reports from a callback of a transaction's end, where an error would lose the locks of the whole transaction, or the session.
/// Raises nothing: the client is sent nothing but ASCII, and nothing at all while the process ends, when it may not read any
/// more; the log has the full text. Comes last: what must happen has happened.
pub fn in_callback(reports: &[Report]) {
    for report in reports {
        // By construction nothing is raised; what is raised all the same must not leave the callback.
        let _ = contained(|| {
            let _quiet = Quiet::begin();
            match report {
                Report::Warning(error) => warn_in_callback(&Raised::from(error)),
                Report::Log(text) => emit(pg_sys::LOG_SERVER_ONLY, &said(text.clone()), Reader::Log),
            }
        });
    }
}

fn warn_in_callback(raised: &Raised) {
    // SAFETY: reads a flag of the backend's own.
    if unsafe { pg_sys::proc_exit_inprogress } {
        emit(pg_sys::LOG_SERVER_ONLY, raised, Reader::Log);
    } else if [Some(&raised.message), raised.detail.as_ref(), raised.hint.as_ref()]
        .into_iter()
        .flatten()
        .all(|text| text.is_ascii())
    {
        emit(pg_sys::WARNING, raised, Reader::ClientInCallback);
    } else {
        emit(pg_sys::LOG_SERVER_ONLY, raised, Reader::Log);
        emit(pg_sys::WARNING_CLIENT_ONLY, raised, Reader::ClientInCallback);
    }
}

/// Until the drop Postgres calls nobody while it builds a message.
struct NoCallbacks(*mut pg_sys::ErrorContextCallback);

impl NoCallbacks {
    fn begin() -> Self {
        // SAFETY: the top of a stack of the backend's own, which the drop puts back.
        unsafe {
            let before = NoCallbacks(pg_sys::error_context_stack);
            pg_sys::error_context_stack = std::ptr::null_mut();
            before
        }
    }
}

impl Drop for NoCallbacks {
    fn drop(&mut self) {
        // SAFETY: it was there before, and whoever put it there is still running.
        unsafe { pg_sys::error_context_stack = self.0 };
    }
}

/// Until the drop Postgres answers no interrupt at the end of a message, and translates none: the client's encoding may lack a
/// character of the word for WARNING.
struct Quiet {
    english: libc::locale_t,
    locale: libc::locale_t,
}

impl Quiet {
    fn begin() -> Self {
        // SAFETY: a counter of the backend's own, which the drop puts back; a locale of this thread alone.
        unsafe {
            pg_sys::InterruptHoldoffCount += 1;
            let english = libc::newlocale(libc::LC_ALL_MASK, c"C".as_ptr(), std::ptr::null_mut());
            let locale = libc::uselocale(english);
            Quiet { english, locale }
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: what was before is put back; the locale is not in use any more when it is freed.
        unsafe {
            if !self.english.is_null() {
                libc::uselocale(self.locale);
                libc::freelocale(self.english);
            }
            pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1);
        }
    }
}

/// Raises an error as a panic, which the outermost frame of ours turns into Postgres's error, whole. `place`: a text, and the
/// index of the character in it that the error points to.
pub fn raise(raised: &Raised, place: Option<(&str, usize)>) -> ! {
    raised.keep_mark();
    let texts = Texts::new(raised, place, Reader::Client);
    let mut data = texts.as_data(pg_sys::PGERROR, raised);
    data.internalpos = place.map_or(0, |(text, index)| c_int::try_from(shown_index(text, index) + 1).unwrap_or(0));
    // SAFETY: Postgres copies the error, whose texts live until this function is left, before it raises it. So do we, for the
    // whole of it to arrive.
    unsafe {
        keep(copy_into(pg_sys::TopTransactionContext, &data));
        pg_sys::ThrowErrorData(&mut data);
    }
    unreachable!("an ERROR does not return")
}

/// Returns the index that a character has in the text for the client, which may have escapes before it.
fn shown_index(text: &str, index: usize) -> usize {
    let before: String = text.chars().take(index).collect();
    let shown = encoding::escaped(&before, Reader::Client);
    if shown == before { index } else { shown.chars().count() }
}

/// The error as Postgres raises it, in memory that Postgres frees when the error is dealt with.
pub fn error_data(raised: &Raised) -> *mut pg_sys::ErrorData {
    raised.keep_mark();
    let build = || {
        let texts = Texts::new(raised, None, Reader::Client);
        let data = texts.as_data(pg_sys::PGERROR, raised);
        // SAFETY: the texts are alive.
        unsafe { copy_into(pg_sys::ErrorContext, &data) }
    };
    catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_| {
        Box::leak(Box::new(pg_sys::ErrorData {
            elevel: pg_sys::PGERROR as c_int,
            sqlerrcode: pgrx::PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int,
            message: c"out of memory".as_ptr().cast_mut(),
            ..pg_sys::ErrorData::default()
        }))
    })
}

/// A copy of the error, in memory that Postgres frees when the error is dealt with, whose texts the client can be sent: of a
/// text with a character that the client lacks Postgres would make a 22P05.
///
/// # Safety
/// `error` and its texts are alive.
pub unsafe fn sendable(error: *const pg_sys::ErrorData) -> *mut pg_sys::ErrorData {
    // SAFETY: by the caller's promise; each text is NULL or NUL-terminated.
    unsafe {
        let error = copy_into(pg_sys::ErrorContext, &*error);
        for text in texts_of(&mut *error) {
            let bytes = CStr::from_ptr(*text).to_bytes();
            if !encoding::fits_client(bytes) {
                let sendable = encoding::message(&encoding::readable(bytes), Reader::Client);
                *text = pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, sendable.as_ptr());
            }
        }
        error
    }
}

/// Raises the error by Postgres's own jump to whoever is outside.
///
/// # Safety
/// `data` and its texts live until the error is dealt with. No frame between here and the C code that called us has anything to drop.
pub unsafe fn throw(data: *mut pg_sys::ErrorData) -> ! {
    unsafe extern "C-unwind" {
        /// Postgres's own, undecorated: its jump must not be caught by the frames it is to leave.
        fn ThrowErrorData(edata: *mut pg_sys::ErrorData);
    }
    // SAFETY: by the caller's promise.
    unsafe { ThrowErrorData(data) };
    unreachable!("an ERROR does not return")
}

/// Texts of a report, in the server's encoding.
struct Texts {
    message: CString,
    detail: Option<CString>,
    hint: Option<CString>,
    context: Option<CString>,
    query: Option<CString>,
}

impl Texts {
    fn new(raised: &Raised, place: Option<(&str, usize)>, reader: Reader) -> Self {
        let text = |text: &str| encoding::message(text, reader);
        Texts {
            message: text(&raised.message),
            detail: raised.detail.as_deref().map(text),
            hint: raised.hint.as_deref().map(text),
            context: raised.context.as_deref().map(text),
            query: place.map(|(query, _)| text(query)),
        }
    }

    /// For as long as `self` lives.
    fn as_data(&self, level: u32, raised: &Raised) -> pg_sys::ErrorData {
        let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null_mut(), |text| text.as_ptr().cast_mut());
        pg_sys::ErrorData {
            elevel: level as c_int,
            sqlerrcode: packed(&raised.sqlstate),
            funcname: SOURCE.as_ptr(),
            message: self.message.as_ptr().cast_mut(),
            detail: pointer(&self.detail),
            hint: pointer(&self.hint),
            context: pointer(&self.context),
            internalquery: pointer(&self.query),
            ..pg_sys::ErrorData::default()
        }
    }
}

/// In the place of the C function that reports.
const SOURCE: &CStr = c"s3_export";

/// A copy in that memory, its texts with it.
///
/// # Safety
/// The memory is alive, and texts of `error` are NULL or NUL-terminated.
unsafe fn copy_into(memory: pg_sys::MemoryContext, error: &pg_sys::ErrorData) -> *mut pg_sys::ErrorData {
    // SAFETY: by the caller's promise; what is allocated is written whole.
    unsafe {
        let copy = pg_sys::MemoryContextAlloc(memory, size_of::<pg_sys::ErrorData>()).cast::<pg_sys::ErrorData>();
        copy.write(pg_sys::ErrorData { assoc_context: memory, ..*error });
        for text in texts_of(&mut *copy) {
            *text = pg_sys::MemoryContextStrdup(memory, *text);
        }
        copy
    }
}

/// Returns all texts of the error that Postgres sends to the client, without those that the error lacks.
fn texts_of(error: &mut pg_sys::ErrorData) -> impl Iterator<Item = &mut *mut c_char> {
    let texts = [
        &mut error.message,
        &mut error.detail,
        &mut error.hint,
        &mut error.context,
        &mut error.internalquery,
        &mut error.schema_name,
        &mut error.table_name,
        &mut error.column_name,
        &mut error.datatype_name,
        &mut error.constraint_name,
    ];
    texts.into_iter().filter(|text| !text.is_null())
}
