//! The thread that speaks to S3 for the current transaction, and the time that requests have.
//!
//! All exports of a transaction share one thread, one set of connections and one throttle, from the first request to the end of
//! the transaction: a thousand exports open no more connections than one.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use once_cell::unsync::OnceCell;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::plan::FilePlan;
use s3_export_core::io::task::{Task, lost_task};
use s3_export_core::io::thread::IoThread;
use s3_export_core::io::wake::Wake;
use s3_export_core::naming::keys::Destination;
use s3_export_core::s3::bandwidth::Bandwidth;
use s3_export_core::s3::client::Store;
use s3_export_core::s3::network::{Network, Trust};
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::s3::{RetryPolicies, Throttle};
use s3_export_core::upload::{ExportUpload, Sending};

use crate::pg::descriptors::ExternalDescriptors;
use crate::pg::limit::TimeLimit;
use crate::pg::wait::{WaitFor, stop_quietly, wait_until};
use crate::settings;

/// Thread, network and time limits that the requests of a transaction share.
pub struct SessionIo {
    thread: Rc<IoThread>,
    /// The connections of everything that runs on the thread.
    network: Arc<Network>,
    throttle: Arc<Throttle>,
    /// Most connections with bodies at once.
    connections: usize,
    /// Descriptors of all connections.
    _descriptors: ExternalDescriptors,
}

/// Beside the connections that carry bodies: for the eventfd, the runtime, names and small requests.
const OTHER_DESCRIPTORS: usize = 8;

thread_local! {
    static IO: RefCell<OnceCell<SessionIo>> = RefCell::default();
}

impl SessionIo {
    /// Errors: 53200, and F0000 for the files of certificates and the proxy.
    fn start() -> Result<Self> {
        let descriptors = ExternalDescriptors::acquire(settings::upload_concurrency() + OTHER_DESCRIPTORS);
        let connections = descriptors.count().saturating_sub(OTHER_DESCRIPTORS);
        if connections == 0 {
            return Err(Error::new(Code::OutOfMemory, "too many open files")
                .detail("Postgres has no file descriptors to spare for connections to S3.")
                .hint("Raise max_files_per_process."));
        }
        let trust = Trust::load(settings::ca_file().as_deref(), &settings::extra_ca_files())?;
        let network = Arc::new(Network::new(trust).through(settings::proxy()?)?);
        let thread = Rc::new(IoThread::start()?);
        Ok(SessionIo { thread, network, throttle: Throttle::new(connections), connections, _descriptors: descriptors })
    }

    /// The thread that serves the transaction.
    pub fn thread(&self) -> &Rc<IoThread> {
        &self.thread
    }

    /// Ends the thread, and waits for that in a callback.
    pub fn stop(&self) {
        stop_quietly(&self.thread);
    }
}

/// Returns the thread that serves this transaction and its connections, started if need be.
pub fn start() -> Result<(Rc<IoThread>, Arc<Network>)> {
    IO.with_borrow(|io| {
        let io = io.get_or_try_init(SessionIo::start)?;
        Ok((Rc::clone(&io.thread), Arc::clone(&io.network)))
    })
}

/// Returns the thread, if the transaction has one.
pub fn running_thread() -> Option<Rc<IoThread>> {
    IO.with_borrow(|io| io.get().map(|io| Rc::clone(&io.thread)))
}

/// Takes all of it, if there is any: the transaction ends.
pub fn take() -> Option<SessionIo> {
    IO.take().into_inner()
}

/// Starts an export's uploads on the thread, which runs. Raises nothing.
pub fn start_upload(store: Store, destination: Destination, plan: FilePlan) -> Result<ExportUpload> {
    let policies = retry_policies();
    IO.with_borrow(|io| {
        let io = io.get().ok_or_else(lost_task)?;
        let bandwidth = Bandwidth::new(settings::max_bandwidth());
        let sending = Sending { concurrency: io.connections, throttle: Arc::clone(&io.throttle), bandwidth };
        Ok(ExportUpload::start(&io.thread, store, destination, plan, sending, policies))
    })
}

/// Most connections at once.
pub fn connections() -> Result<usize> {
    start()?;
    IO.with_borrow(|io| io.get().map(|io| io.connections).ok_or_else(lost_task))
}

/// Runs requests that make no object of an export, and waits for their end; whatever ends the waiting ends them.
pub fn call_store<T, F>(work: impl FnOnce(Arc<Network>) -> F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let network = start()?.1;
    call_store_and_hear(|_| work(network), || Ok(()))
}

/// Runs requests like [`call_store`], which raise the wake that `work` is given when they have news. `hear` is called after each wake,
/// and after the end of `work`.
pub fn call_store_and_hear<T, F>(work: impl FnOnce(Arc<Wake>) -> F, mut hear: impl FnMut() -> Result<()>) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let (io, _) = start()?;
    let task = AbortOnDrop(io.spawn(work(Arc::clone(io.wake()))));
    let ended = wait_until(WaitFor::Answer, io.wake(), None, || {
        hear()?;
        task.0.take()
    })?;
    let outcome = ended.ok_or_else(lost_task)??;
    // What came between the last look and the end.
    hear()?;
    Ok(outcome)
}

/// A cancel that is caught, or rolled back to a savepoint, leaves the thread running, and this must not run on.
struct AbortOnDrop<T>(Task<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A limit to the time from now on; `None` for zero, which is none.
pub fn time_limit(limit: Duration) -> Result<Option<TimeLimit>> {
    if limit.is_zero() { Ok(None) } else { Ok(Some(TimeLimit::start(&start()?.0, limit))) }
}

/// The policy of a request that is not the transaction's own.
pub fn call_policy() -> RetryPolicy {
    RetryPolicy { attempts: settings::request_attempts(), total: settings::request_timeout() }
}

/// Returns policies by which requests of a transaction have the time that the transaction has.
fn retry_policies() -> RetryPolicies {
    let within = |total| RetryPolicy { attempts: settings::request_attempts(), total };
    RetryPolicies {
        files: call_policy(),
        // So that an attempt has half of the commit's time, and the commit's own deadline comes first and says so.
        manifest: within(settings::commit_timeout() * 8 / 5),
        clean_up: within(settings::cleanup_timeout()),
    }
}
