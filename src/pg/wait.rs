//! Waiting for the I/O thread: on the backend's latch and the thread's eventfd at once, never blocking.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use s3_export_core::error::Result;
use s3_export_core::io::thread::{IoThread, SHUTDOWN_TIMEOUT};
use s3_export_core::io::wake::Wake;

use crate::pg::callback::contained;

/// Reason of a wait, which `pg_stat_activity.wait_event` names from Postgres 17 on; before that it says `Extension`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// Room in the buffer of documents on their way.
    Room,
    /// Files to be stored.
    Files,
    /// Manifests to be written.
    Manifests,
    /// Another request to S3 or STS.
    Answer,
    /// A job to end, or a worker to have room.
    Job,
    /// The next attempt of a job to be due.
    Retry,
    /// Transactions that write a table which a feed follows.
    Writers,
    /// The deletion of the objects that an aborted export wrote.
    CleanUp,
}

#[cfg(since_pg17)]
thread_local! {
    static EVENTS: std::cell::RefCell<[Option<u32>; 8]> = const { std::cell::RefCell::new([None; 8]) };
}

impl WaitFor {
    #[cfg(not(since_pg17))]
    fn event(self) -> u32 {
        pg_sys::PG_WAIT_EXTENSION
    }

    /// The event, if it has its number already; a callback of a transaction's end cannot ask for one.
    #[cfg(not(since_pg17))]
    fn known_event(self) -> u32 {
        pg_sys::PG_WAIT_EXTENSION
    }

    /// The event, if it has its number already; a callback of a transaction's end cannot ask for one.
    #[cfg(since_pg17)]
    fn known_event(self) -> u32 {
        EVENTS.with_borrow(|events| events[self.name().0]).unwrap_or(pg_sys::PG_WAIT_EXTENSION)
    }

    /// Asks for its number, for [`wait_until_quietly`] later. May raise.
    pub fn prepare(self) {
        self.event();
    }

    #[cfg(since_pg17)]
    fn name(self) -> (usize, &'static std::ffi::CStr) {
        match self {
            WaitFor::Room => (0, c"S3ExportRoom"),
            WaitFor::Files => (1, c"S3ExportFiles"),
            WaitFor::Manifests => (2, c"S3ExportManifests"),
            WaitFor::Answer => (3, c"S3ExportAnswer"),
            WaitFor::Job => (4, c"S3ExportJob"),
            WaitFor::CleanUp => (5, c"S3ExportCleanUp"),
            WaitFor::Writers => (6, c"S3ExportWriters"),
            WaitFor::Retry => (7, c"S3ExportRetry"),
        }
    }

    #[cfg(since_pg17)]
    fn event(self) -> u32 {
        let (index, name) = self.name();
        let known: Option<u32> = EVENTS.with_borrow(|events| events[index]);
        known.unwrap_or_else(|| {
            // SAFETY: the name is NUL-terminated; the server keeps one number for each name.
            let event = unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) };
            EVENTS.with_borrow_mut(|events| events[index] = Some(event));
            event
        })
    }
}

/// Waits until `ready` gives a value; `None`: `deadline` passed first. Whatever can make `ready` change its answer must
/// raise `wake`. Answers cancel, terminate, timeouts and the postmaster's death at once.
pub fn wait_until<T>(
    what: WaitFor,
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
        wait_for_latch_or(Some(wake), left, what);
        pgrx::check_for_interrupts!();
    }
}

/// Waits for so long, or less where anything wakes the backend. Answers interrupts, as [`wait_until`].
pub fn pause(what: WaitFor, time: Duration) {
    wait_for_latch_or(None, Some(time), what);
    pgrx::check_for_interrupts!();
}

fn wait_for_latch_or(wake: Option<&Wake>, timeout: Option<Duration>, what: WaitFor) {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    if wake.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
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
            wake.map_or(pg_sys::PGINVALID_SOCKET, Wake::descriptor),
            milliseconds as _,
            what.event(),
        );
        if happened as u32 & pg_sys::WL_LATCH_SET != 0 {
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

/// How long a dead postmaster, or a barrier, may go unnoticed.
const LOOK_AROUND: Duration = Duration::from_millis(100);
/// How long the end of the I/O thread may take: what it waits for itself, and a moment.
const LONGEST_END: Duration = SHUTDOWN_TIMEOUT.saturating_add(Duration::from_secs(1));

/// Waits like [`wait_until`], in transaction callbacks: calls nothing of Postgres that can raise, answers no interrupt but barriers,
/// which other backends may be waiting for, and gives up when the postmaster is dead.
pub fn wait_until_quietly<T>(what: WaitFor, wake: &Wake, deadline: Instant, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let _shown = ShownWait::begin(what);
    loop {
        wake.clear();
        if let Some(value) = ready() {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !postmaster_is_alive() {
            return None;
        }
        wake.wait(left.min(LOOK_AROUND));
        pass_barriers();
    }
}

/// Ends the I/O thread, for transaction callbacks. Reads of the operating system's files may hold up the end; other backends need not
/// wait for it. A thread that does not end in time is left behind.
pub fn stop_quietly(io: &IoThread) {
    let deadline = Instant::now() + LONGEST_END;
    let _shown = ShownWait::begin(WaitFor::CleanUp);
    io.begin_stop();
    while !io.is_ending() {
        if Instant::now() > deadline {
            io.abandon();
            return;
        }
        io.wake().wait(LOOK_AROUND);
        pass_barriers();
        io.wake().clear();
    }
    io.stop();
}

/// Does what another backend waits for every backend to do, such as DROP DATABASE, which waits for files to be closed.
fn pass_barriers() {
    // SAFETY: flags of the backend's own, which its signal handler sets. Postgres does the same wherever it answers interrupts.
    // It closes files, and raises nothing; what it raised all the same would not leave this function.
    let _ = contained(|| unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ProcSignalBarrierPending) != 0 {
            pg_sys::ProcessProcSignalBarrier();
        }
    });
}

/// A wait event of this backend in `pg_stat_activity`, until the drop.
struct ShownWait(());

impl ShownWait {
    fn begin(what: WaitFor) -> Self {
        Self::show(what.known_event());
        ShownWait(())
    }

    /// Shows a wait event, or none for 0: Postgres's `pgstat_report_wait_start` and `pgstat_report_wait_end` are inline functions.
    fn show(event: u32) {
        // SAFETY: points to the backend's own entry, or to a variable in its place; one word, which others only read.
        unsafe { std::ptr::write_volatile(pg_sys::my_wait_event_info, event) }
    }
}

impl Drop for ShownWait {
    fn drop(&mut self) {
        Self::show(0);
    }
}

/// Whether the postmaster lives.
pub fn postmaster_is_alive() -> bool {
    // An orphan has another parent. SAFETY: reads a global that was set before the fork.
    u32::try_from(unsafe { pg_sys::PostmasterPid }) == Ok(std::os::unix::process::parent_id())
}
