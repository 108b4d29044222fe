//! The timer: at most one process a database, which starts jobs when their next attempt is due.
//!
//! A worker that ends becomes the timer, if a job waits and there is none; it has given its number back by then, so that it takes no
//! place of `s3_export.max_workers`. Whoever looks at the queue and finds that a job waits without a timer asks for a process.
//!
//! ```text
//! requeue a job ──► try Timer: held? then its holder looks once more after it has let go
//! timer: nothing waits any more ──► let go of Timer ──► look once more ──► end
//! ```
#![forbid(unsafe_code)]

use std::cell::RefCell;

use s3_export_core::error::Result;
use serde_json::json;

use crate::job::attempts;
use crate::pg::background::Assignment;
use crate::pg::lock::{Lock, SessionLock, TIMER_KIND};
use crate::pg::sql::read_latest;
use crate::pg::{ActAs, current_database, is_standby};

thread_local! {
    /// Held while this process is the timer. It would not see its own lock.
    static TIMER: RefCell<Option<SessionLock>> = const { RefCell::new(None) };
}

/// Makes this process the timer, if a job waits for its next attempt and no other process is it. In a transaction.
pub fn take() -> Result<bool> {
    if is_here() {
        return Ok(true);
    }
    if attempts::next_due()?.is_none() {
        return Ok(false);
    }
    TIMER.set(SessionLock::try_alone(Lock::Timer));
    Ok(is_here())
}

/// Ends what [`take`] has begun.
pub fn let_go() {
    TIMER.take();
}

fn is_here() -> bool {
    TIMER.with_borrow(Option::is_some)
}

/// Asks for a process that becomes the timer, if a job waits and there is none. Without room for it, the next look asks again.
pub fn ensure() -> Result<()> {
    if !is_standby() && !is_here() && attempts::next_due()?.is_some() && !Lock::Timer.is_held() {
        Assignment::look(current_database()).start_worker();
    }
    Ok(())
}

/// Ends the timer of this database, whose process takes up room that a worker needs. A worker that ends becomes the next.
pub fn make_room() -> Result<()> {
    let _superuser = ActAs::superuser();
    read_latest(
        "SELECT convert_to(to_jsonb(count(pg_terminate_backend(l.pid)))::text, 'UTF8') FROM pg_locks AS l
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = ($argument ->> 'kind')::smallint
               AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())",
        &json!({ "kind": TIMER_KIND }),
    )?;
    Ok(())
}
