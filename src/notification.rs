//! Notifications of exports (option `notify`): `pg_notify` in the export's own (sub)transaction.
//!
//! Postgres delivers a notification with the commit, and forgets it with a rollback, also one to a savepoint. The call is the
//! caller's, so a role that may not execute `pg_notify` sends nothing.
#![forbid(unsafe_code)]

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::manifest::notification::Notification;
use s3_export_core::request::Request;
use serde_json::{Value, json};

use crate::pg::is_standby;
use crate::pg::sql::read;

/// Checks that the current user may send the notification that the request asks for. Errors: 0A000 on a standby, 42501.
pub fn check(request: &Request) -> Result<()> {
    if request.notify.is_none() {
        return Ok(());
    }
    if is_standby() {
        return Err(Error::new(Code::Unsupported, "cannot notify on a standby")
            .detail("Postgres takes no NOTIFY during recovery.")
            .hint("Leave out the option notify, or export on the primary."));
    }
    let may_notify = read(
        "SELECT convert_to(to_jsonb(has_function_privilege('pg_catalog.pg_notify(text, text)', 'EXECUTE'))::text, 'UTF8')",
        &Value::Null,
    )?;
    if may_notify.as_ref().and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    Err(Error::new(Code::Privilege, "permission denied for function pg_notify")
        .detail("The option notify calls that function as the current role."))
}

/// Tells the channel of the request, with the commit. Raises what Postgres raises.
pub fn send(request: &Request, notification: &Notification<'_>) -> Result<()> {
    let Some(channel) = &request.notify else { return Ok(()) };
    read(
        "SELECT convert_to('null', 'UTF8') FROM pg_notify($argument ->> 'channel', $argument ->> 'payload')",
        &json!({ "channel": channel, "payload": notification.payload() }),
    )?;
    Ok(())
}
