//! Small guards over Postgres's C interface, each undoing on drop what it did.
//!
//! A Postgres ERROR passes through Rust as a panic and so runs these drops; a FATAL does not unwind, and what must
//! happen then hangs on the abort callback (`transaction`) instead.

pub mod background;
pub mod call;
pub mod callback;
pub mod caller;
pub mod deform;
pub mod descriptors;
pub mod encoding;
pub mod errors;
pub mod launcher;
pub mod limit;
pub mod lock;
pub mod raised;
pub mod report;
pub mod serializable;
pub mod sort;
pub mod sql;
pub mod values;
pub mod wait;
pub mod worker_transaction;

use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};

/// Text in the server's encoding as UTF-8. Raises 22021 for bytes that are no text in it.
pub fn to_utf8(server_text: &[u8]) -> String {
    let converted = convert(server_text, |text, length| {
        // SAFETY: `text` points to `length` readable bytes, which the conversion only reads.
        unsafe { pg_sys::pg_server_to_any(text, length, pg_sys::pg_enc::PG_UTF8 as c_int) }
    });
    String::from_utf8_lossy(converted.as_deref().unwrap_or(server_text)).into_owned()
}

/// Whether bytes are text in the server's encoding.
pub fn is_server_text(bytes: &[u8]) -> bool {
    let length = c_int::try_from(bytes.len()).unwrap_or(c_int::MAX);
    // SAFETY: reads the bytes of a live slice, and raises nothing.
    unsafe { pg_sys::pg_verifymbstr(bytes.as_ptr().cast(), length, true) }
}

/// UTF-8 as text in the server's encoding. Raises 22P05 for characters that it lacks. Errors: 22023 for a NUL byte.
pub fn to_server(text: &str) -> Result<CString> {
    let converted = convert(text.as_bytes(), |bytes, length| {
        // SAFETY: `bytes` points to `length` readable bytes, which the conversion only reads.
        unsafe { pg_sys::pg_any_to_server(bytes, length, pg_sys::pg_enc::PG_UTF8 as c_int) }
    });
    CString::new(converted.unwrap_or_else(|| text.as_bytes().to_vec()))
        .map_err(|_| Error::new(Code::InvalidParameter, "text must not hold a NUL byte"))
}

/// Runs one of Postgres's converters, which give their input back where there is nothing to convert.
fn convert(text: &[u8], converter: impl FnOnce(*const c_char, c_int) -> *mut c_char) -> Option<Vec<u8>> {
    let length = c_int::try_from(text.len()).unwrap_or(c_int::MAX);
    let converted = converter(text.as_ptr().cast(), length);
    if converted.is_null() || std::ptr::eq(converted.cast::<u8>(), text.as_ptr()) {
        return None;
    }
    // SAFETY: a converter that did not give its input back gives a palloc'd, NUL-terminated string.
    Some(unsafe { CStr::from_ptr(converted) }.to_bytes().to_vec())
}

/// Whether the server's text either is UTF-8 or cannot become UTF-8: a database of `SQL_ASCII` has no encoding to convert from.
pub fn server_text_is_utf8_or_none() -> bool {
    [pg_sys::pg_enc::PG_UTF8, pg_sys::pg_enc::PG_SQL_ASCII].contains(&server_encoding())
}

fn server_encoding() -> u32 {
    // SAFETY: reads a global that is set once, when the backend connects.
    unsafe { pg_sys::GetDatabaseEncoding() }.cast_unsigned()
}

/// The data directory.
pub fn data_directory() -> std::path::PathBuf {
    // SAFETY: DataDir is set at server start, never changed, and NUL-terminated.
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    std::path::PathBuf::from(path.to_string_lossy().into_owned())
}

/// Refuses settings under our name that nobody defined: a misspelt one would be ignored.
pub fn reserve_setting_prefix() {
    // SAFETY: the name is static; called while the library is loaded, after its settings were defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"s3_export".as_ptr()) }
}

/// Raises 25006 in a READ ONLY transaction and on a standby.
pub fn refuse_if_read_only(function: &'static CStr) {
    // SAFETY: the name is static; it raises or returns.
    unsafe { pg_sys::PreventCommandIfReadOnly(function.as_ptr()) }
}

/// Whether the current user is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::superuser() }
}

/// Whether the current user has the privileges of `pg_read_server_files`.
pub fn may_read_server_files() -> bool {
    let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES);
    // SAFETY: catalog look-ups inside a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// The name of the current user.
pub fn current_user_name() -> String {
    // SAFETY: a catalog look-up inside a transaction; the result is NULL or NUL-terminated.
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetUserId(), true);
        if name.is_null() { String::new() } else { to_utf8(CStr::from_ptr(name).to_bytes()) }
    }
}

/// The current user.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a global.
    unsafe { pg_sys::GetUserId() }
}

/// The session's user: whom SET ROLE and functions that are SECURITY DEFINER leave as it is.
pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads a global.
    unsafe { pg_sys::GetSessionUserId() }
}

/// The role's name, in the server's encoding; `None`: it is gone.
pub fn role_name(role: pg_sys::Oid) -> Option<CString> {
    // SAFETY: a catalog look-up inside a transaction; the result is NULL or NUL-terminated.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        (!name.is_null()).then(|| CString::from(CStr::from_ptr(name)))
    }
}

/// Whether the current user has the privileges of `role`.
pub fn has_privileges_of(role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// The database that this backend is connected to.
pub fn current_database() -> pg_sys::Oid {
    // SAFETY: set when the backend connects.
    unsafe { pg_sys::MyDatabaseId }
}

/// The current top-level transaction's id; it gets one if it has none.
pub fn current_transaction() -> pg_sys::TransactionId {
    // SAFETY: only called inside a transaction.
    unsafe { pg_sys::GetTopTransactionId() }
}

/// Whether the current transaction has written, or is about to: it has an id.
pub fn transaction_has_id() -> bool {
    // SAFETY: reads the backend's own state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::TransactionId::from(0) }
}

/// Whether all statements of the current transaction see one snapshot: REPEATABLE READ and SERIALIZABLE.
pub fn has_one_snapshot() -> bool {
    // SAFETY: reads a variable of the backend's own.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as std::ffi::c_int }
}

/// The active snapshot, as `pg_current_snapshot()` prints it.
pub fn active_snapshot() -> String {
    // SAFETY: a built-in function without arguments, and the output function of its type; a snapshot is active.
    unsafe {
        let snapshot = pg_sys::OidFunctionCall0Coll(pg_sys::Oid::from(pg_sys::F_PG_CURRENT_SNAPSHOT), pg_sys::InvalidOid);
        let (mut output, mut is_variable) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(pg_sys::PG_SNAPSHOTOID, &mut output, &mut is_variable);
        to_utf8(CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, snapshot)).to_bytes())
    }
}

/// The current top-level transaction's whole id; it gets one if it has none.
pub fn current_full_transaction() -> u64 {
    // SAFETY: only called inside a transaction.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}

/// Makes the write-ahead log durable up to the last record that this transaction has written: after a crash, no id of a transaction that
/// had ended by then is given to another.
pub fn flush_wal() {
    // SAFETY: the end of a record of the backend's own, or zero.
    unsafe { pg_sys::XLogFlush(pg_sys::XactLastRecEnd) };
}

/// The role of this name.
pub fn role_named(name: &'static CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog look-up inside a transaction.
    let role = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (role != pg_sys::InvalidOid).then_some(role)
}

/// Whether the current transaction is READ ONLY.
pub fn is_read_only() -> bool {
    // SAFETY: reads a flag of the backend's own.
    unsafe { pg_sys::XactReadOnly }
}

/// Answers cancel, terminate and timeouts.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Characters of `text`, as the server counts them: bytes, where it knows no encoding.
pub fn characters(text: &str) -> usize {
    // SAFETY: reads a global that is set once, when the backend connects.
    let knows_none = unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_SQL_ASCII as c_int };
    if knows_none { text.len() } else { text.chars().count() }
}

/// Whether backslashes escape in plain strings: `standard_conforming_strings` is off, which there is until Postgres 18.
pub fn backslashes_escape() -> bool {
    #[cfg(not(since_pg19))]
    // SAFETY: reads a setting.
    let is_off = unsafe { !pg_sys::standard_conforming_strings };
    #[cfg(since_pg19)]
    let is_off = false;
    is_off
}

/// Whether this server replays another's WAL.
pub fn is_standby() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether maintenance code runs us as somebody else (an index, a materialized view, …).
pub fn in_restricted_operation() -> bool {
    // SAFETY: reads a global.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether a parallel plan is running: in one of its workers no commit and no abort of the transaction is ever seen.
pub fn in_parallel_operation() -> bool {
    // SAFETY: reads the state of the current transaction.
    unsafe { pg_sys::IsInParallelMode() }
}

/// The number of the current subtransaction.
pub fn current_subtransaction() -> pg_sys::SubTransactionId {
    // SAFETY: only called inside a transaction.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// A memory context of one's own, deleted on drop.
pub struct Memory(pg_sys::MemoryContext);

impl Memory {
    /// Below the (sub)transaction's context: that goes when an error keeps the drop from running, and not before, as the
    /// executor's would, which is the current one where encoders are made.
    pub fn new(name: &'static CStr) -> Self {
        // SAFETY: the name is static, as AllocSets require, and the parent lives as long as the (sub)transaction.
        Memory(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurTransactionContext,
                name.as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Frees all that was allocated in it.
    #[inline(always)]
    pub fn reset(&self) {
        // SAFETY: the context lives until the drop, and nothing allocated in it is used across a reset.
        unsafe {
            // Looked at first, as Postgres itself does: for most rows nothing was allocated, and a call takes longer.
            if !(*self.0).isReset || !(*self.0).firstchild.is_null() {
                pg_sys::MemoryContextReset(self.0);
            }
        }
    }

    /// Makes it the current context until the guard is dropped.
    pub fn enter(&self) -> CurrentMemory {
        // SAFETY: the context lives at least as long as the caller's borrow of it.
        CurrentMemory(unsafe { pg_sys::MemoryContextSwitchTo(self.0) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // On an error, Postgres deletes the parent in its own clean-up; a delete here could come after that.
        if !std::thread::panicking() {
            // SAFETY: created in `new`, deleted nowhere else.
            unsafe { pg_sys::MemoryContextDelete(self.0) }
        }
    }
}

/// The context that was current before [`Memory::enter`]; current again after the drop.
pub struct CurrentMemory(pg_sys::MemoryContext);

impl Drop for CurrentMemory {
    fn drop(&mut self) {
        // SAFETY: it was current before, so it outlives this scope.
        unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
    }
}

/// Settings changed for a scope, as a function's `SET` clause does it.
pub struct Settings(c_int);

impl Settings {
    /// Sets each of `settings` until the drop.
    pub fn set(settings: &[(&CStr, &CStr)]) -> Self {
        // SAFETY: opens a nest level, which the drop or the transaction's abort closes.
        let scope = Settings(unsafe { pg_sys::NewGUCNestLevel() });
        for (name, value) in settings {
            // SAFETY: name and value are NUL-terminated; GUC_ACTION_SAVE ties the change to the nest level.
            unsafe {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
        }
        scope
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // On an error, the (sub)transaction's abort closes every nest level, and may have done so already.
        if !std::thread::panicking() {
            // SAFETY: the level was opened in `set` and is the innermost one, since guards nest.
            unsafe { pg_sys::AtEOXact_GUC(true, self.0) }
        }
    }
}

/// Another user id for a scope, with no way to change it back from inside.
pub struct ActAs {
    user: pg_sys::Oid,
    context: c_int,
}

impl ActAs {
    /// The bootstrap superuser, as the owner of the extension's tables.
    pub fn superuser() -> Self {
        let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        Self::change(Some(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID)), restricted)
    }

    /// The current user, as in a function that is SECURITY DEFINER: nothing that runs inside can become somebody else, were it
    /// the session's own user.
    pub fn caller() -> Self {
        Self::change(None, pg_sys::SECURITY_LOCAL_USERID_CHANGE)
    }

    /// `role`, however the session was connected; nothing that runs inside can become somebody else.
    pub fn role(role: pg_sys::Oid) -> Self {
        Self::change(Some(role), pg_sys::SECURITY_LOCAL_USERID_CHANGE)
    }

    /// `None`: who it is already.
    fn change(to: Option<pg_sys::Oid>, more_context: u32) -> Self {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: writes to two locals, then sets what the drop or the transaction's abort restores.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            pg_sys::SetUserIdAndSecContext(to.unwrap_or(user), context | more_context as c_int);
        }
        ActAs { user, context }
    }
}

impl Drop for ActAs {
    fn drop(&mut self) {
        // SAFETY: these are the values that were in force before.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) }
    }
}

/// An open SPI connection.
pub struct Spi(());

impl Spi {
    /// Connects. Errors: XX000.
    pub fn connect() -> Result<Self> {
        // SAFETY: inside a transaction; the drop disconnects.
        match u32::try_from(unsafe { pg_sys::SPI_connect() }) {
            Ok(pg_sys::SPI_OK_CONNECT) => Ok(Spi(())),
            _ => Err(Error::new(Code::Internal, "could not connect to SPI")),
        }
    }
}

impl Drop for Spi {
    fn drop(&mut self) {
        // On an error, the (sub)transaction's abort disconnects.
        if !std::thread::panicking() {
            // SAFETY: connected in `connect`, and later connections are closed, since guards nest.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}
