//! A limit to the time that a scope takes, whatever it does meanwhile.
//!
//! A task on the I/O thread sleeps, then sends this process the signal of a cancel, which Postgres answers wherever it can be
//! interrupted. The error of that cancel says that a user asked for it, so [`take_exceeded`] says otherwise to whoever catches
//! it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::io::task::Task;
use s3_export_core::io::thread::IoThread;
use s3_export_core::request::duration;
use s3_export_core::sync::lock;

thread_local! {
    /// The limit that was exceeded in a scope that is left, until somebody asks.
    static EXCEEDED: RefCell<Option<Error>> = const { RefCell::new(None) };
    /// The limit that is in force.
    static IN_FORCE: RefCell<Option<Arc<Mutex<State>>>> = const { RefCell::new(None) };
}

/// How long a signal that was sent may take to arrive.
const ARRIVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Armed,
    Disarmed,
    Exceeded,
}

/// The limit, until it is dropped.
pub struct TimeLimit {
    state: Arc<Mutex<State>>,
    sleeper: Task<()>,
    limit: Duration,
}

impl TimeLimit {
    /// From now on. What became of an earlier limit is forgotten.
    pub fn start(io: &IoThread, limit: Duration) -> Self {
        EXCEEDED.take();
        let state = Arc::new(Mutex::new(State::Armed));
        let armed = Arc::clone(&state);
        let sleeper = io.spawn(async move {
            tokio::time::sleep(limit).await;
            // Under the lock, so that no signal is sent after the limit was disarmed.
            let mut state = lock(&armed);
            if *state == State::Armed {
                *state = State::Exceeded;
                // The process is there: it is this one.
                let _ = kill(Pid::this(), Signal::SIGINT);
            }
        });
        IN_FORCE.set(Some(Arc::clone(&state)));
        TimeLimit { state, sleeper, limit }
    }

    /// Ends it. Errors: 57014 when it was exceeded at the last moment.
    pub fn end(self) -> Result<()> {
        drop(self);
        take_exceeded().map_or(Ok(()), Err)
    }
}

impl Drop for TimeLimit {
    fn drop(&mut self) {
        self.sleeper.abort();
        IN_FORCE.take();
        let mut state = lock(&self.state);
        if *state == State::Exceeded {
            EXCEEDED.set(Some(exceeded(self.limit)));
            if !std::thread::panicking() {
                forget_cancel();
            }
        }
        *state = State::Disarmed;
    }
}

/// The signal was sent and nobody was interrupted by it: it must not hit what comes after.
fn forget_cancel() {
    let start = Instant::now();
    // SAFETY: flags of the backend's own, which its signal handler sets; it is this thread that answers them.
    unsafe {
        while std::ptr::read_volatile(&raw const pg_sys::QueryCancelPending) == 0 && start.elapsed() < ARRIVAL {
            std::thread::yield_now();
        }
        pg_sys::QueryCancelPending = 0;
    }
}

fn exceeded(limit: Duration) -> Error {
    Error::new(Code::Timeout, "the export took longer than its time limit")
        .detail(format!("The limit is {}.", duration::show(limit)))
        .hint("The option timeout or the setting s3_export.timeout gives the limit.")
}

/// The error of a limit that was exceeded, once.
pub fn take_exceeded() -> Option<Error> {
    EXCEEDED.take()
}

/// The (sub)transaction that had a limit ends, whatever became of its scope: no signal is sent from here on.
pub fn forget() {
    EXCEEDED.take();
    if let Some(state) = IN_FORCE.take() {
        *lock(&state) = State::Disarmed;
    }
}
