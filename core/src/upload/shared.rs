//! State that the backend and the tasks of one export share: where objects go, what exists of them, and how much is on its way.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::Result;
use crate::files::plan::FilePlan;
use crate::io::task::lost_task;
use crate::io::wake::Wake;
use crate::naming::keys::Destination;
use crate::s3::bandwidth::Bandwidth;
use crate::s3::bucket::Bucket;
use crate::s3::object::Role;
use crate::s3::throttle::{Pace, Throttle};
use crate::sync::lock;
use crate::upload::budget::Budget;
use crate::upload::ledger::Ledger;
use crate::upload::replaced::Replaced;

/// How fast an export may send.
pub struct Sending {
    /// Most files at once.
    pub concurrency: usize,
    /// Bounds all requests with a body.
    pub throttle: Arc<Throttle>,
    /// Bounds the bytes a second of files. `None`: any rate.
    pub bandwidth: Option<Arc<Bandwidth>>,
}

/// Shared between the backend's handle and the tasks of one export.
pub struct Shared {
    /// Bucket of the objects.
    pub bucket: Bucket,
    /// Their names.
    pub destination: Destination,
    /// How documents become files.
    pub plan: FilePlan,
    /// One permit a request that carries a body.
    pub requests: Arc<Throttle>,
    bandwidth: Option<Arc<Bandwidth>>,
    /// Objects of the export that exist.
    pub ledger: Ledger,
    /// Bytes on their way.
    pub budget: Arc<Budget>,
    /// Bytes of all files that are encoded so far.
    encoded: AtomicU64,
    /// The export in whose place this one comes, if there is one.
    pub replaced: OnceLock<Replaced>,
    requests_to_their_end: Mutex<JoinSet<()>>,
}

impl Shared {
    /// Nothing sent yet.
    pub fn new(
        bucket: Bucket,
        destination: Destination,
        plan: FilePlan,
        Sending { throttle, bandwidth, .. }: Sending,
        wake: Arc<Wake>,
    ) -> Arc<Self> {
        Arc::new(Shared {
            bucket,
            destination,
            plan,
            requests: throttle,
            bandwidth,
            ledger: Ledger::default(),
            budget: Budget::new(wake),
            encoded: AtomicU64::new(0),
            replaced: OnceLock::new(),
            requests_to_their_end: Mutex::default(),
        })
    }

    /// Counts bytes of a file that are about to be sent. Errors: 54000 when the export has more than it may.
    pub fn count(&self, bytes: u64) -> Result<()> {
        let before = self.encoded.fetch_add(bytes, Ordering::Relaxed);
        self.plan.limits.check_bytes(before + bytes)
    }

    /// Waits until a body of so many bytes may be sent. Objects of the commit, which has all of the transaction's locks, wait for no
    /// bandwidth.
    pub async fn admit(&self, role: Role, bytes: usize) -> Pace {
        let bandwidth = self.bandwidth.as_ref().filter(|_| matches!(role, Role::File(_)));
        let mut pace = self.bucket.pace(None).within(bandwidth, bytes);
        pace.begin().await;
        pace
    }

    /// Runs a request on its own, so that its answer is recorded even when the caller is dropped half-way; only
    /// [`Self::settle`] cuts it off.
    pub fn to_its_end<T, R>(&self, request: R) -> impl Future<Output = Result<T>> + use<T, R>
    where
        T: Send + 'static,
        R: Future<Output = T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let mut requests = lock(&self.requests_to_their_end);
        // The set keeps what has ended until it is asked for.
        while requests.try_join_next().is_some() {}
        requests.spawn(async move {
            // Nobody listens any more after an abort.
            let _ = answer.send(request.await);
        });
        async { answered.await.map_err(|_| lost_task()) }
    }

    /// Waits for the answers of requests under way, for at most `limit`, then cuts them off.
    pub async fn settle(&self, limit: Duration) {
        let mut requests = std::mem::take(&mut *lock(&self.requests_to_their_end));
        // What has no answer by then stays unknown.
        let _ = tokio::time::timeout(limit, async { while requests.join_next().await.is_some() {} }).await;
        requests.shutdown().await;
    }
}
