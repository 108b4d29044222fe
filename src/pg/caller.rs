//! The settings of the session that enqueued a job, for the session that runs the job: policies and functions of the query may
//! read them, and `search_path` decides which tables are exported.
//!
//! ```text
//! caller: what its session, its client, its role or its database has set ──► the job's row
//! worker: before it connects, the server's own values ──► connected: FIXED ──► what the caller has not, by ALTER ROLE or
//!         ALTER DATABASE … SET, becomes the server's again ──► the caller's
//! ```
//!
//! So a setting that the caller has at its default is at its default in the job, whatever a role or the database has set by then.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};

use pgrx::pg_sys;

use crate::pg::is_superuser;
use crate::pg::to_server;
use crate::pg::to_utf8;

/// Settings of one transaction, or that make the session somebody else's. The worker has its own.
const NEVER: [&CStr; 6] =
    [c"role", c"session_authorization", c"transaction_isolation", c"transaction_read_only", c"transaction_deferrable", c"seed"];

/// Settings that would harm a worker, and the values that it has instead, whatever the caller, a role or a database has set.
const FIXED: [(&CStr, &CStr); 7] = [
    // The first error would end the process before the error is written down.
    (c"exit_on_error", c"off"),
    // Limits of a session that a client has begun. Where they reach a worker, they end the process; the option `timeout` and
    // s3_export.timeout limit a job. lock_timeout is carried: it ends the query with an error, as in the session.
    (c"transaction_timeout", c"0"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    (c"idle_session_timeout", c"0"),
    // A worker has no client that could be gone.
    (c"client_connection_check_interval", c"0"),
    // A job would wait for a safe snapshot, which there is none of while the session that waits for the job has one of its own.
    (c"default_transaction_deferrable", c"off"),
];

/// Names and values of the settings that the current user could set itself and that are not the server's: set by the session,
/// the client, or for the role or database; custom ones (`app.tenant`) too.
pub fn settings() -> Vec<(String, String)> {
    variables().into_iter().filter(is_callers).filter_map(shown).collect()
}

/// Makes the settings of this session those of the caller's, as the current user: what `settings` lacks becomes the server's, and the
/// rest is set. What the current user may not set any more, or what no longer has such a value, is left out with a WARNING, as for
/// a login.
pub fn apply(settings: &[(String, String)], server: &ServerSettings) {
    let pair = |(name, value): &(String, String)| Some((to_server(name).ok()?, to_server(value).ok()?));
    let callers: HashMap<CString, CString> = settings.iter().filter_map(pair).collect();
    server.restore(&brought_along(pg_sys::GucContext::PGC_USERSET, |name| !callers.contains_key(name)), &[]);
    let context = if is_superuser() { pg_sys::GucContext::PGC_SUSET } else { pg_sys::GucContext::PGC_USERSET };
    // Earlier versions stored some that are not carried any more.
    for (name, value) in callers.iter().filter(|(name, _)| !is_workers_own(name)) {
        set(name, value, context, pg_sys::GucSource::PGC_S_SESSION);
    }
}

/// Gives the worker the values of [`FIXED`]. Needs no transaction, and comes before the first, which some of them would reach.
pub fn fix() {
    let known = variables();
    for (name, value) in FIXED {
        if known.iter().any(|variable| self::name(variable) == name) {
            set(name, value, pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_OVERRIDE);
        }
    }
}

/// Values of all settings before those of a role and of a database are put on.
pub struct ServerSettings(HashMap<CString, CString>);

impl ServerSettings {
    /// Those of a worker that has not connected yet.
    pub fn before_connection() -> Self {
        let value = |variable: &pg_sys::config_generic| {
            // SAFETY: the name is NUL-terminated; without a check of privileges it reads no catalog. The result is NULL or
            // NUL-terminated, until the next call.
            unsafe {
                let value = pg_sys::GetConfigOption(variable.name, true, false);
                (!value.is_null()).then(|| CString::from(CStr::from_ptr(value)))
            }
        };
        let named = |variable: &pg_sys::config_generic| Some((name(variable).to_owned(), value(variable)?));
        ServerSettings(variables().iter().filter_map(named).collect())
    }

    /// Gives the settings called `names` the database's value, or else the server's; a custom one that neither has is empty, since
    /// Postgres forgets none. `of_database`: as `ALTER DATABASE … SET` and `ALTER ROLE ALL SET` have them.
    pub fn restore(&self, names: &[CString], of_database: &[(String, String)]) {
        let none = CString::default();
        for name in names {
            let called = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(&name.to_string_lossy());
            // The last is the database's own.
            let of_database = of_database.iter().rfind(called).and_then(|(_, value)| to_server(value).ok());
            let value = of_database.as_ref().or_else(|| self.0.get(name)).unwrap_or(&none);
            // Above what a role has, and below what the caller and the query set: RESET comes back to it.
            set(name, value, pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_CLIENT);
        }
    }
}

/// Names of the settings that only a superuser may set and that the login has brought along. A worker whose login is not the
/// caller's must not have them; where it is, they stay, since a superuser has set them for that very role.
pub fn of_superuser() -> Vec<CString> {
    brought_along(pg_sys::GucContext::PGC_SUSET, |_| true)
}

/// Names of the settings of that context that this session has by its role or its database, and that `are_wanted`.
fn brought_along(context: pg_sys::GucContext::Type, are_wanted: impl Fn(&CStr) -> bool) -> Vec<CString> {
    let by_login = pg_sys::GucSource::PGC_S_GLOBAL..=pg_sys::GucSource::PGC_S_DATABASE_USER;
    let is_one = |variable: &&pg_sys::config_generic| {
        let name = name(variable);
        variable.context == context && by_login.contains(&variable.source) && !is_workers_own(name) && are_wanted(name)
    };
    variables().iter().filter(is_one).map(|variable| name(variable).to_owned()).collect()
}

/// A setting that cannot be set is left as it is, with a WARNING.
fn set(name: &CStr, value: &CStr, context: pg_sys::GucContext::Type, source: pg_sys::GucSource::Type) {
    let (action, level) = (pg_sys::GucAction::GUC_ACTION_SET, pgrx::PgLogLevel::WARNING as c_int);
    // SAFETY: name and value are NUL-terminated; at this level it raises nothing.
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, level, false) };
}

fn is_workers_own(name: &CStr) -> bool {
    NEVER.contains(&name) || FIXED.iter().any(|(fixed, _)| *fixed == name)
}

/// All settings that Postgres knows in this session.
fn variables() -> Vec<pg_sys::config_generic> {
    // SAFETY: Postgres's array of pointers to settings, so many as it says, which live as long as the session.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let (all, count) = (pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions());
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let (all, count) = {
            let mut count = 0;
            (pg_sys::get_guc_variables(&mut count), count)
        };
        (0..usize::try_from(count).unwrap_or(0)).map(|index| **all.add(index)).collect()
    }
}

fn is_callers(variable: &pg_sys::config_generic) -> bool {
    let name = name(variable);
    let set_for_the_session =
        variable.source >= pg_sys::GucSource::PGC_S_GLOBAL && variable.source != pg_sys::GucSource::PGC_S_OVERRIDE;
    set_for_the_session && !is_workers_own(name) && may_set(variable, name)
}

fn may_set(variable: &pg_sys::config_generic, name: &CStr) -> bool {
    match variable.context {
        pg_sys::GucContext::PGC_USERSET => true,
        pg_sys::GucContext::PGC_SUSET => is_superuser() || may_set_parameter(name),
        _ => false,
    }
}

#[cfg(feature = "pg14")]
fn may_set_parameter(_name: &CStr) -> bool {
    false
}

#[cfg(not(feature = "pg14"))]
fn may_set_parameter(name: &CStr) -> bool {
    let mode = pg_sys::AclMode::from(pg_sys::ACL_SET);
    // SAFETY: the name is NUL-terminated; a catalog look-up inside a transaction.
    unsafe { pg_sys::pg_parameter_aclcheck(name.as_ptr(), pg_sys::GetUserId(), mode) == pg_sys::AclResult::ACLCHECK_OK }
}

fn name(variable: &pg_sys::config_generic) -> &'static CStr {
    // SAFETY: a setting's name is NUL-terminated, and settings are never freed.
    unsafe { CStr::from_ptr(variable.name) }
}

fn shown(variable: pg_sys::config_generic) -> Option<(String, String)> {
    let name = name(&variable);
    // SAFETY: the name is NUL-terminated, and the current user may set the variable, hence see it; the value is palloc'd.
    let value = unsafe { pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), true) };
    // SAFETY: NULL or NUL-terminated.
    let value = (!value.is_null()).then(|| CString::from(unsafe { CStr::from_ptr(value) }))?;
    Some((to_utf8(name.to_bytes()), to_utf8(value.to_bytes())))
}
