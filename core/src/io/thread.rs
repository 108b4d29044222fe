//! The I/O thread: one tokio runtime on a thread of its own, and the eventfd by which it wakes the backend.
//!
//! Postgres's signal handlers may only run on the backend's own thread, so every signal is blocked while the thread is
//! spawned (it inherits the mask). Nothing here calls Postgres. The thread ends when its [`IoThread`] is dropped, at
//! the end of the top-level transaction: one that lived on would keep connections open, and a lock that it held
//! could outlive a fork or an exit.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::task::Task;
use super::wake::Wake;
use crate::error::{Code, Error, Result};

/// Longest wait, at the end, for work on the runtime's blocking threads. It is compression, which looks at the cancel far more
/// often.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// The thread and its runtime.
pub struct IoThread {
    runtime: Handle,
    wake: Arc<Wake>,
    running: RefCell<Option<Running>>,
}

struct Running {
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: thread::JoinHandle<()>,
    /// Whether nothing is left to wait for.
    is_ending: Arc<AtomicBool>,
}

/// Says at its drop, whatever the cause, that the thread ends, and raises the wake.
struct EndSignal {
    is_ending: Arc<AtomicBool>,
    wake: Arc<Wake>,
}

impl Drop for EndSignal {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Release);
        self.wake.raise();
    }
}

impl IoThread {
    /// Starts the thread. Errors: 53200 when the system has no thread or descriptor to give.
    pub fn start() -> Result<Self> {
        let unavailable = |what: &str, error: &dyn std::fmt::Display| {
            Error::new(Code::OutOfMemory, format!("could not create {what} for uploads"))
                .detail(format!("The system says: {error}."))
        };
        let wake = Arc::new(Wake::new().map_err(|error| unavailable("an eventfd", &error))?);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| unavailable("a runtime", &error))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let is_ending = Arc::new(AtomicBool::new(false));
        let signal = EndSignal { is_ending: Arc::clone(&is_ending), wake: Arc::clone(&wake) };
        let _mask = BlockedSignals::all().map_err(|error| unavailable("a signal mask", &error))?;
        let thread = thread::Builder::new()
            .name("s3_export io".to_owned())
            .spawn(move || {
                let _signal = signal;
                // Ends with the sender, whether that was used or dropped.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
            })
            .map_err(|error| unavailable("a thread", &error))?;
        Ok(IoThread { runtime: handle, wake, running: RefCell::new(Some(Running { stop: Some(stop), thread, is_ending })) })
    }

    /// Tells the thread to end, and with it all work and connections. [`Self::is_ending`] says when it does; its wake is raised then.
    pub fn begin_stop(&self) {
        if let Some(running) = self.running.borrow_mut().as_mut() {
            running.stop = None;
        }
    }

    /// Whether [`Self::stop`] has nothing to wait for.
    pub fn is_ending(&self) -> bool {
        self.running.borrow().as_ref().is_none_or(|running| running.is_ending.load(Ordering::Acquire))
    }

    /// Ends the thread, and waits for the end. A FATAL error leaves owners of this behind that are never dropped, so the end of a
    /// transaction says it in so many words.
    pub fn stop(&self) {
        if let Some(Running { stop, thread, .. }) = self.running.take() {
            drop(stop);
            // A panic of the thread was reported through the jobs it ended.
            let _ = thread.join();
        }
    }

    /// Leaves the thread to end by itself, when what keeps it lets go of it. Nothing can end a read that a dead file server keeps.
    pub fn abandon(&self) {
        self.running.take();
    }

    /// Raised whenever something that a backend may wait for has changed.
    pub fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// Starts `work` on the thread; its end raises the wake, whatever the end.
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        self.spawn_keeping(async { (work.await, ()) })
    }

    /// Starts `work` like [`Self::spawn`]. The value that `work` returns beside its result is dropped after the result can be taken, so
    /// that whoever notices the drop finds the result.
    pub fn spawn_keeping<T, K>(&self, work: impl Future<Output = (T, K)> + Send + 'static) -> Task<T>
    where
        T: Send + 'static,
        K: Send + 'static,
    {
        Task::spawn(&self.runtime, Arc::clone(&self.wake), work)
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// All signals blocked in this thread until it is dropped.
struct BlockedSignals(SigSet);

impl BlockedSignals {
    fn all() -> nix::Result<Self> {
        SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map(BlockedSignals)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // Restoring a mask that the kernel handed out cannot fail.
        let _ = self.0.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wait<T>(io: &IoThread, job: &Task<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            io.wake().clear();
            if let Some(value) = job.take()? {
                return Ok(value);
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_job_gives_its_result() {
        let io = IoThread::start().unwrap();
        assert_eq!(wait(&io, &io.spawn(async { 7 })), Ok(7));
    }

    #[test]
    fn a_job_that_is_aborted_or_panics_is_an_error_and_not_the_end_of_the_thread() {
        let io = IoThread::start().unwrap();
        let hung = io.spawn(std::future::pending::<()>());
        hung.abort();
        assert_eq!(wait(&io, &hung).unwrap_err().code(), Code::Internal);
        assert_eq!(wait(&io, &io.spawn(async { panic!("on purpose") })).map(|()| 0).unwrap_err().code(), Code::Internal);
        assert_eq!(wait(&io, &io.spawn(async { 8 })), Ok(8));
    }

    #[test]
    fn what_work_keeps_is_dropped_after_its_result_is_there() {
        struct OnDrop<F: FnMut()>(F);
        impl<F: FnMut()> Drop for OnDrop<F> {
            fn drop(&mut self) {
                (self.0)();
            }
        }
        let io = IoThread::start().unwrap();
        let (job_sender, job) = std::sync::mpsc::channel::<Task<u8>>();
        let (seen_sender, seen) = std::sync::mpsc::channel();
        let look = OnDrop(move || seen_sender.send(job.recv().unwrap().take()).unwrap());
        job_sender.send(io.spawn_keeping(async { (7, look) })).unwrap();
        assert_eq!(seen.recv().unwrap(), Ok(Some(7)));
    }

    #[test]
    fn dropping_it_ends_hung_work() {
        let io = IoThread::start().unwrap();
        let hung = io.spawn(std::future::pending::<()>());
        drop(io);
        assert!(hung.take().is_err());
    }

    #[test]
    fn a_thread_that_does_not_end_can_be_left_behind() {
        let io = IoThread::start().unwrap();
        let (release, released) = std::sync::mpsc::channel::<()>();
        // As the SDK reads files: without letting anything else of the thread run.
        let (started, has_started) = std::sync::mpsc::channel();
        let job = io.spawn(async move {
            started.send(()).unwrap();
            let _ = released.recv();
        });
        has_started.recv().unwrap();
        io.begin_stop();
        thread::sleep(Duration::from_millis(20));
        assert!(!io.is_ending());
        io.abandon();
        assert!(io.is_ending());
        drop(io);
        drop(release);
        drop(job);
    }

    #[test]
    fn its_thread_blocks_every_signal_and_the_callers_mask_is_restored() {
        let before = SigSet::thread_get_mask().unwrap();
        let io = IoThread::start().unwrap();
        let inside = wait(&io, &io.spawn(async { SigSet::thread_get_mask().unwrap() })).unwrap();
        assert!(inside.contains(nix::sys::signal::SIGTERM) && inside.contains(nix::sys::signal::SIGINT));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
