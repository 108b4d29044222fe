//! Waiting for the I/O thread: on the backend's latch and the thread's eventfd at once, never blocking.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::error::Result;
use crate::upload::runtime::Wake;

/// Waits until `ready` gives a value; `None`: `deadline` passed first. Whatever can make `ready` change its answer must
/// raise `wake`. Answers cancel, terminate, timeouts and the postmaster's death at once.
pub fn wait_until<T>(
    wake: &Wake,
    deadline: Option<Instant>,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    loop {
        wake.clear();
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        wait_for_latch_or(wake, left);
        pgrx::check_for_interrupts!();
    }
}

fn wait_for_latch_or(wake: &Wake, timeout: Option<Duration>) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE | pg_sys::WL_EXIT_ON_PM_DEATH;
    let mut milliseconds = -1;
    if let Some(timeout) = timeout {
        events |= pg_sys::WL_TIMEOUT;
        // Rounded up: rounded down, the last wait of each deadline would spin.
        milliseconds = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX - 1) + 1;
    }
    // SAFETY: the latch is the backend's own, the descriptor is open as long as `wake` is borrowed.
    unsafe {
        let happened = pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as c_int,
            wake.descriptor(),
            milliseconds as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        if happened as u32 & pg_sys::WL_LATCH_SET != 0 {
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

/// As [`wait_until`], for transaction callbacks: calls nothing of Postgres that can raise, answers no interrupt, and gives
/// up when the postmaster is dead.
pub fn wait_until_quietly<T>(wake: &Wake, deadline: Instant, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    /// How long a dead postmaster may go unnoticed.
    const LOOK_AT_POSTMASTER: Duration = Duration::from_millis(100);
    loop {
        wake.clear();
        if let Some(value) = ready() {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !postmaster_is_alive() {
            return None;
        }
        wake.wait(left.min(LOOK_AT_POSTMASTER));
    }
}

/// Whether the postmaster lives.
pub fn postmaster_is_alive() -> bool {
    // An orphan has another parent. SAFETY: reads a global that was set before the fork.
    u32::try_from(unsafe { pg_sys::PostmasterPid }) == Ok(std::os::unix::process::parent_id())
}
