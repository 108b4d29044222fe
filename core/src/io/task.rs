//! Work on the I/O thread, and its outcome, which the backend asks for.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::wake::Wake;
use crate::error::{Code, Error, Result};
use crate::sync::lock;

enum Outcome<T> {
    Running,
    Done(T),
    /// Dropped before its end: aborted, or it panicked.
    Lost,
}

/// Work on the I/O thread, as the backend sees it.
pub struct Task<T> {
    outcome: Arc<Mutex<Outcome<T>>>,
    task: tokio::task::AbortHandle,
}

impl<T: Send + 'static> Task<T> {
    /// Starts `work`, which raises `wake` at its end. What `work` gives beside its result is dropped after the result can be taken.
    pub(super) fn spawn<K: Send + 'static>(
        runtime: &Handle,
        wake: Arc<Wake>,
        work: impl Future<Output = (T, K)> + Send + 'static,
    ) -> Self {
        let outcome = Arc::new(Mutex::new(Outcome::Running));
        let report = Report { outcome: Some(Arc::clone(&outcome)), wake };
        let task = runtime.spawn(async move {
            let (value, kept) = work.await;
            report.set(Outcome::Done(value));
            drop(kept);
        });
        Task { outcome, task: task.abort_handle() }
    }
}

impl<T> Task<T> {
    /// The result, once, when it is there. Errors: XX000 when the work panicked or was aborted.
    pub fn take(&self) -> Result<Option<T>> {
        let mut outcome = lock(&self.outcome);
        match std::mem::replace(&mut *outcome, Outcome::Running) {
            Outcome::Running => Ok(None),
            Outcome::Done(value) => Ok(Some(value)),
            Outcome::Lost => {
                *outcome = Outcome::Lost;
                Err(lost_task())
            }
        }
    }

    /// Ends the work at its next await; the requests it has under way are dropped with their connections.
    pub fn abort(&self) {
        self.task.abort();
    }
}

/// Sets the outcome once; dropped unused, it says that the work was lost.
struct Report<T> {
    /// `None` once it was set.
    outcome: Option<Arc<Mutex<Outcome<T>>>>,
    wake: Arc<Wake>,
}

impl<T> Report<T> {
    fn set(mut self, outcome: Outcome<T>) {
        self.set_once(outcome);
    }

    fn set_once(&mut self, outcome: Outcome<T>) {
        if let Some(slot) = self.outcome.take() {
            *lock(&slot) = outcome;
            self.wake.raise();
        }
    }
}

impl<T> Drop for Report<T> {
    fn drop(&mut self) {
        self.set_once(Outcome::Lost);
    }
}

/// A task of ours ended without an answer: it panicked, or was aborted while somebody waited for it.
pub fn lost_task() -> Error {
    Error::new(Code::Internal, "an upload task ended unexpectedly")
}
