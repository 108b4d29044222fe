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
//!
//! A name with a dot may belong to a library that is loaded later: until then Postgres keeps a placeholder, which anybody may set, and
//! remembers who has set it. When the library is loaded, Postgres judges the value by the rights of that role. So a job is given the
//! rights along with the value: with the rights of the job's role, a value that the caller's session refuses would be accepted.

use std::collections::{HashMap, HashSet};
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

/// One of the caller's settings, as far as its job is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// The value of a setting of Postgres's own.
    Value(String),
    /// The value of a setting whose name has a dot, and the rights by which it was set.
    Custom(String, Rights),
    /// A superuser has set it for the role or the database, and the caller may not: the job's login brings it along.
    OfLogin,
}

/// The rights by which a library judges the value of a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Rights of a superuser.
    Superuser,
    /// Rights of the role with this OID.
    Role(u32),
}

impl Rights {
    /// The rights that nobody needs to be given.
    pub const NONE: Rights = Rights::Role(0);
}

/// Names and values of the settings that the current user could set itself and that are not the server's: set by the session,
/// the client, or for the role or database; custom ones (`app.tenant`) too. Beside them the names of those that its login brings along.
pub fn settings() -> Vec<(String, Carried)> {
    variables().into_iter().filter_map(carried).collect()
}

fn carried(variable: pg_sys::config_generic) -> Option<(String, Carried)> {
    let name = name(&variable);
    if !is_callers(&variable) {
        return None;
    }
    let told = to_utf8(name.to_bytes());
    if !may_set(&variable, name) {
        return is_by_login(&variable).then_some((told, Carried::OfLogin));
    }
    let value = shown(name)?;
    let carried = if told.contains('.') { Carried::Custom(value, rights(&variable)) } else { Carried::Value(value) };
    Some((told, carried))
}

/// The rights by which the value was set that the session has: of a placeholder those that Postgres remembers, of any other setting
/// the current user's, who may set it.
fn rights(variable: &pg_sys::config_generic) -> Rights {
    if !is_placeholder(variable) {
        return if is_superuser() { Rights::Superuser } else { Rights::Role(super::current_user().to_u32()) };
    }
    if !matches!(variable.scontext, pg_sys::GucContext::PGC_USERSET | pg_sys::GucContext::PGC_BACKEND) {
        return Rights::Superuser;
    }
    Rights::Role(variable.srole.to_u32())
}

/// Makes the settings of this session those of the caller's, as the current user: what `settings` lacks becomes the server's, and the
/// rest is set. What the current user may not set any more, or what no longer has such a value, is left out with a WARNING, as for
/// a login.
pub fn apply(settings: &[(String, Carried)], server: &ServerSettings) {
    let known: HashSet<String> = settings.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    let is_unknown = |variable: &pg_sys::config_generic| {
        variable.context == pg_sys::GucContext::PGC_USERSET
            && !known.contains(&name(variable).to_string_lossy().to_ascii_lowercase())
    };
    server.restore(&brought_along(is_unknown), &[]);
    for (name, carried) in settings {
        let Ok(name) = to_server(name) else { continue };
        // Earlier versions stored some that are not carried any more.
        if !is_workers_own(&name) {
            apply_one(&name, carried);
        }
    }
}

fn apply_one(name: &CStr, carried: &Carried) {
    let source = pg_sys::GucSource::PGC_S_SESSION;
    match carried {
        Carried::OfLogin => {}
        Carried::Value(value) => {
            let context = if is_superuser() { pg_sys::GucContext::PGC_SUSET } else { pg_sys::GucContext::PGC_USERSET };
            if let Ok(value) = to_server(value) {
                set(name, &value, context, source);
            }
        }
        Carried::Custom(value, rights) => {
            if let Ok(value) = to_server(value) {
                set_by(name, &value, *rights, source);
            }
        }
    }
}

/// Gives the worker the values of [`FIXED`]. Needs no transaction, and comes before the first, which some of them would reach.
pub fn fix() {
    fix_at(pg_sys::GucSource::PGC_S_OVERRIDE);
}

/// Gives the worker the values of [`FIXED`] once more, whatever the code of a job has set. Needs no transaction.
pub fn fix_again() {
    fix_at(pg_sys::GucSource::PGC_S_SESSION);
}

fn fix_at(source: pg_sys::GucSource::Type) {
    let known = variables();
    for (name, value) in FIXED {
        if known.iter().any(|variable| self::name(variable) == name) {
            set(name, value, pg_sys::GucContext::PGC_USERSET, source);
        }
    }
}

/// Values of all settings before those of a role and of a database are put on.
pub struct ServerSettings(HashMap<CString, CString>);

impl ServerSettings {
    /// Returns the settings of a worker that has not connected yet.
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

/// Names of the settings that only a superuser may set, or may turn out to be such, and that the login has brought along. A worker
/// whose login is not the caller's must not have them; where it is, they stay, since a superuser has set them for that very role.
pub fn of_superuser() -> Vec<CString> {
    brought_along(|variable| variable.context == pg_sys::GucContext::PGC_SUSET || is_placeholder(variable))
}

/// Names of the settings that this worker has by its role or its database, or by [`ServerSettings::restore`], and that `are_wanted`.
fn brought_along(are_wanted: impl Fn(&pg_sys::config_generic) -> bool) -> Vec<CString> {
    // A worker has no client.
    let is_restored = |variable: &pg_sys::config_generic| variable.source == pg_sys::GucSource::PGC_S_CLIENT;
    let is_one = |variable: &&pg_sys::config_generic| {
        (is_by_login(variable) || is_restored(variable)) && !is_workers_own(name(variable)) && are_wanted(variable)
    };
    variables().iter().filter(is_one).map(|variable| name(variable).to_owned()).collect()
}

/// Whether this session has it by its role or its database.
fn is_by_login(variable: &pg_sys::config_generic) -> bool {
    (pg_sys::GucSource::PGC_S_GLOBAL..=pg_sys::GucSource::PGC_S_DATABASE_USER).contains(&variable.source)
}

/// Whether no library that is loaded knows it.
fn is_placeholder(variable: &pg_sys::config_generic) -> bool {
    variable.flags & pg_sys::GUC_CUSTOM_PLACEHOLDER as c_int != 0
}

/// A setting that cannot be set is left as it is, with a WARNING.
fn set(name: &CStr, value: &CStr, context: pg_sys::GucContext::Type, source: pg_sys::GucSource::Type) {
    let (action, level) = (pg_sys::GucAction::GUC_ACTION_SET, pgrx::PgLogLevel::WARNING as c_int);
    // SAFETY: name and value are NUL-terminated; at this level it raises nothing.
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, level, false) };
}

/// Sets it by these rights: while no library knows it, the rights are kept with the value. A setting that cannot be set is left as it
/// is, with a WARNING.
fn set_by(name: &CStr, value: &CStr, rights: Rights, source: pg_sys::GucSource::Type) {
    let (context, role) = match rights {
        Rights::Superuser => (pg_sys::GucContext::PGC_SUSET, pg_sys::BOOTSTRAP_SUPERUSERID),
        Rights::Role(role) => (pg_sys::GucContext::PGC_USERSET, role),
    };
    let (role, action, level) =
        (pg_sys::Oid::from(role), pg_sys::GucAction::GUC_ACTION_SET, pgrx::PgLogLevel::WARNING as c_int);
    // SAFETY: name and value are NUL-terminated; at this level it raises nothing. Inside a transaction, which the look-up of the
    // role's privileges needs.
    unsafe {
        pg_sys::set_config_option_ext(name.as_ptr(), value.as_ptr(), context, source, role, action, true, level, false);
    }
}

fn is_workers_own(name: &CStr) -> bool {
    NEVER.contains(&name) || FIXED.iter().any(|(fixed, _)| *fixed == name)
}

/// All settings that Postgres knows in this session.
fn variables() -> Vec<pg_sys::config_generic> {
    // SAFETY: Postgres's array of pointers to settings, so many as it says, which live as long as the session.
    unsafe {
        #[cfg(not(since_pg16))]
        let (all, count) = (pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions());
        #[cfg(since_pg16)]
        let (all, count) = {
            let mut count = 0;
            (pg_sys::get_guc_variables(&mut count), count)
        };
        (0..usize::try_from(count).unwrap_or(0)).map(|index| **all.add(index)).collect()
    }
}

fn is_callers(variable: &pg_sys::config_generic) -> bool {
    let set_for_the_session =
        variable.source >= pg_sys::GucSource::PGC_S_GLOBAL && variable.source != pg_sys::GucSource::PGC_S_OVERRIDE;
    set_for_the_session && !is_workers_own(name(variable))
}

fn may_set(variable: &pg_sys::config_generic, name: &CStr) -> bool {
    match variable.context {
        pg_sys::GucContext::PGC_USERSET => true,
        pg_sys::GucContext::PGC_SUSET => is_superuser() || may_set_parameter(name),
        _ => false,
    }
}

fn may_set_parameter(name: &CStr) -> bool {
    let mode = pg_sys::AclMode::from(pg_sys::ACL_SET);
    // SAFETY: the name is NUL-terminated; a catalog look-up inside a transaction.
    unsafe { pg_sys::pg_parameter_aclcheck(name.as_ptr(), pg_sys::GetUserId(), mode) == pg_sys::AclResult::ACLCHECK_OK }
}

fn name(variable: &pg_sys::config_generic) -> &'static CStr {
    // SAFETY: a setting's name is NUL-terminated, and settings are never freed.
    unsafe { CStr::from_ptr(variable.name) }
}

/// The value of a setting that the current user may set, hence see.
fn shown(name: &CStr) -> Option<String> {
    // SAFETY: the name is NUL-terminated; the value is palloc'd.
    let value = unsafe { pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), true) };
    // SAFETY: NULL or NUL-terminated.
    let value = (!value.is_null()).then(|| CString::from(unsafe { CStr::from_ptr(value) }))?;
    Some(to_utf8(value.to_bytes()))
}
