//! The settings of whoever enqueues a job, for the session that runs it: policies and functions of the query may read them.

use std::ffi::{CStr, CString, c_int};

use pgrx::pg_sys;

use super::{is_superuser, to_server, to_utf8};

/// They are the transaction's, or would make the session somebody else.
const NEVER: [&CStr; 6] =
    [c"role", c"session_authorization", c"transaction_isolation", c"transaction_read_only", c"transaction_deferrable", c"seed"];

/// Names and values of the settings that the current user could set himself and that are not the server's: set by the session,
/// the client, or for the role or database; custom ones (`app.tenant`) too.
pub fn settings() -> Vec<(String, String)> {
    variables().into_iter().filter(is_callers).filter_map(shown).collect()
}

/// Sets them for this session, as the current user. What he may not set any more, or what no longer has such a value, is left
/// out with a WARNING, as for a login.
pub fn apply(settings: &[(String, String)]) {
    let level = pgrx::PgLogLevel::WARNING as c_int;
    let context = if is_superuser() { pg_sys::GucContext::PGC_SUSET } else { pg_sys::GucContext::PGC_USERSET };
    let (source, action) = (pg_sys::GucSource::PGC_S_SESSION, pg_sys::GucAction::GUC_ACTION_SET);
    for (name, value) in settings {
        let (Ok(name), Ok(value)) = (to_server(name), to_server(value)) else { continue };
        // SAFETY: name and value are NUL-terminated; at this level it raises nothing.
        unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, level, false) };
    }
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
    set_for_the_session && !NEVER.contains(&name) && may_set(variable, name)
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
