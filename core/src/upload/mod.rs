//! From the backend's chunks to objects in S3, on a thread that never calls Postgres.
//!
//! ```text
//! backend: ExportUpload::send ──► supervise ─┬─► one task a file ──► PUT, or the parts of a multipart upload
//!          ▲                                 └─► …                      │
//!          └── Wake (an eventfd): room again, all stored, first error ◄─┘
//! ```
//!
//! The backend never blocks in here: it asks ([`ExportUpload::has_room`], [`Task::take`]) and waits outside, on its latch
//! and the wake's descriptor, so that a cancel reaches it at any time.
#![forbid(unsafe_code)]

mod budget;
mod commit;
mod commit_objects;
mod deletion;
mod file;
mod ledger;
mod leftovers;
mod object_writer;
pub mod replaced;
mod rollback;
mod shared;

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::budget::Lease;
pub use self::commit::{complete, refuse_taken_names};
use self::file::FileWriter;
use self::replaced::Replaced;
pub use self::rollback::RollbackReport;
pub use self::shared::Sending;
use self::shared::Shared;
use crate::error::{Code, Error, Result};
use crate::files::chunker::Piece;
use crate::files::plan::FilePlan;
use crate::io::task::{Task, lost_task};
use crate::io::thread::IoThread;
use crate::io::wake::Wake;
use crate::manifest::{FileRecord, Manifest};
use crate::naming::keys::Destination;
use crate::s3::client::Store;
use crate::s3::object::{Object, Role};
use crate::s3::{Bucket, RetryPolicies};

/// The backend's handle on the uploads of one export.
pub struct ExportUpload {
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    /// Dropped when all pieces were sent.
    pieces: RefCell<Option<UnboundedSender<Sent>>>,
    files: Written,
    manifest: RefCell<Option<Written>>,
}

/// Objects that the I/O thread writes. The outcome stays, however often it is asked for.
struct Written {
    job: Task<Result<()>>,
    outcome: OnceCell<Result<()>>,
}

impl Written {
    fn by(job: Task<Result<()>>) -> Self {
        Written { job, outcome: OnceCell::new() }
    }

    /// Whether all objects are written. Errors: the first one's.
    fn is_done(&self) -> Result<bool> {
        if self.outcome.get().is_none()
            && let Some(outcome) = self.job.take()?
        {
            self.outcome.get_or_init(|| outcome);
        }
        self.outcome.get().map_or(Ok(false), |outcome| outcome.clone().map(|()| true))
    }
}

/// A piece and the room it takes.
struct Sent {
    piece: Piece,
    lease: Lease,
}

impl ExportUpload {
    /// Sends nothing yet.
    pub fn start(
        io: &IoThread,
        store: Store,
        destination: Destination,
        plan: FilePlan,
        sending: Sending,
        policy: RetryPolicies,
    ) -> Self {
        let concurrency = sending.concurrency;
        let bucket = Bucket::new(store, destination.bucket(), policy, Arc::clone(&sending.throttle));
        let shared = Shared::new(bucket, destination, plan, sending, Arc::clone(io.wake()));
        let (pieces, received) = unbounded_channel();
        let files = Written::by(io.spawn_keeping(supervise(Arc::clone(&shared), received, concurrency)));
        ExportUpload {
            shared,
            wake: Arc::clone(io.wake()),
            pieces: RefCell::new(Some(pieces)),
            files,
            manifest: RefCell::new(None),
        }
    }

    /// Says, before anything is sent, in whose place this export comes: its destination has the ETag of that one's manifest.
    pub fn replace(&self, replaced: Replaced) {
        self.shared.replaced.get_or_init(|| replaced);
    }

    /// The export in whose place this one comes, if there is one.
    pub fn replaced(&self) -> Option<Uuid> {
        self.shared.replaced.get().map(Replaced::export_id)
    }

    /// Deletes the files of the export in whose place this one has come, for at most `limit` from now on. After the commit.
    pub fn delete_replaced(&self, io: &IoThread, limit: Duration) -> Task<RollbackReport> {
        let deadline = tokio::time::Instant::now() + limit;
        let shared = Arc::clone(&self.shared);
        io.spawn(async move {
            match shared.replaced.get() {
                Some(replaced) => replaced.delete_files(&shared, deadline).await,
                None => RollbackReport::default(),
            }
        })
    }

    /// The URL of the manifest that the commit writes.
    pub fn manifest_url(&self) -> String {
        self.shared.destination.url(&self.shared.destination.manifest_key())
    }

    /// Raised when [`Self::has_room`] or [`Self::is_stored`] may answer differently.
    pub fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// Whether `bytes` more fit into `budget`; one piece larger than the budget goes alone. Errors: the first upload's.
    pub fn has_room(&self, bytes: usize, budget: usize) -> Result<bool> {
        self.files.is_done()?;
        let outstanding = self.shared.budget.outstanding();
        Ok(outstanding == 0 || outstanding + bytes <= budget)
    }

    /// Hands a piece over. Errors: the first upload's.
    pub fn send(&self, piece: Piece) -> Result<()> {
        let lease = self.shared.budget.lease(piece.room);
        let pieces = self.pieces.borrow();
        let pieces = pieces.as_ref().ok_or_else(lost_task)?;
        // Nobody takes pieces any more once the uploads have ended, and then their outcome is there.
        pieces.send(Sent { piece, lease }).or_else(|_| self.files.is_done().and_then(|_| Err(lost_task())))
    }

    /// An empty buffer, a used one if there is one.
    pub fn spare_buffer(&self) -> Vec<u8> {
        self.shared.budget.spare_buffer()
    }

    /// Says that no piece will follow.
    pub fn close(&self) {
        self.pieces.replace(None);
    }

    /// After [`Self::close`]: whether every file is stored. Errors: the first upload's.
    pub fn is_stored(&self) -> Result<bool> {
        self.files.is_done()
    }

    /// The export's id.
    pub fn export_id(&self) -> Uuid {
        self.shared.destination.export_id()
    }

    /// Every file's record, in order, once all are stored.
    pub fn records(&self) -> Result<Vec<FileRecord>> {
        self.shared.ledger.records()
    }

    /// Starts to write the manifest.
    pub fn write_manifest(&self, io: &IoThread, manifest: Arc<Manifest>) {
        self.shared.bucket.forget_failure();
        self.manifest.replace(Some(Written::by(io.spawn(commit::write(Arc::clone(&self.shared), manifest)))));
    }

    /// After [`Self::write_manifest`]: whether it is stored. Errors: the upload's.
    pub fn is_manifest_written(&self) -> Result<bool> {
        self.manifest.borrow().as_ref().ok_or_else(lost_task)?.is_done()
    }

    /// The error of the latest request for the manifest that failed, whether or not it was tried again.
    pub fn last_failure(&self) -> Option<Error> {
        self.shared.bucket.last_failure()
    }

    /// The files whose multipart upload was begun twice, since an answer was lost: the other upload holds storage that is paid for, and
    /// may be another export's, so that it is left.
    pub fn doubled_uploads(&self) -> Vec<String> {
        self.shared.ledger.leftovers().creating.iter().map(|key| self.shared.destination.url(key)).collect()
    }

    /// The report of a rollback that gave no answer: all that was there at its beginning may be there.
    pub fn unanswered_rollback(&self) -> RollbackReport {
        rollback::unanswered(&self.shared)
    }

    /// Stops all uploads, then deletes what they wrote, for at most `limit` from now on.
    pub fn clean_up(&self, io: &IoThread, limit: Duration) -> Task<RollbackReport> {
        self.files.job.abort();
        if let Some(manifest) = self.manifest.borrow().as_ref() {
            manifest.job.abort();
        }
        // The thread may have work to do before it begins.
        let deadline = tokio::time::Instant::now() + limit;
        io.spawn(rollback::clean_up(Arc::clone(&self.shared), deadline))
    }
}

/// Uploads what comes; the first failure ends all. Gives the outcome, and what is to be dropped after somebody can be told
/// of it: until then pieces find a receiver, and keep the room that they take.
async fn supervise(shared: Arc<Shared>, pieces: UnboundedReceiver<Sent>, concurrency: usize) -> (Result<()>, FilesUnderWay) {
    let mut files = FilesUnderWay { pieces, uploads: JoinSet::new(), open_file: None };
    let outcome = files.upload(&shared, concurrency).await;
    (outcome, files)
}

/// The uploads of an export's files.
struct FilesUnderWay {
    pieces: UnboundedReceiver<Sent>,
    /// One task a file.
    uploads: JoinSet<Result<()>>,
    /// Takes the pieces of the file that has not ended.
    open_file: Option<UnboundedSender<Sent>>,
}

impl FilesUnderWay {
    /// Starts a task for each file and hands it the file's pieces. No more files at once than requests: a file that waits
    /// takes only its bytes here, and tens of kilobytes more as a task.
    async fn upload(&mut self, shared: &Arc<Shared>, concurrency: usize) -> Result<()> {
        loop {
            tokio::select! {
                sent = self.pieces.recv(), if self.open_file.is_some() || self.uploads.len() < concurrency => match sent {
                    Some(sent) => self.route(shared, sent)?,
                    None => break,
                },
                Some(ended) = self.uploads.join_next() => ended.map_err(|_| lost_task())??,
            }
        }
        // A file that was left without its end would wait for it.
        self.open_file = None;
        while let Some(ended) = self.uploads.join_next().await {
            ended.map_err(|_| lost_task())??;
        }
        shared.budget.drop_spare_buffers();
        Ok(())
    }

    /// Sends the piece to its file's task, a new one if no file is open.
    fn route(&mut self, shared: &Arc<Shared>, sent: Sent) -> Result<()> {
        let ends_file = sent.piece.documents.is_some();
        let file = match self.open_file.take() {
            Some(file) => file,
            None => {
                let number = sent.piece.file;
                shared.ledger.file_began(number)?;
                let (file, pieces) = unbounded_channel();
                self.uploads.spawn(upload_file(Arc::clone(shared), number, pieces));
                file
            }
        };
        // A task that has failed takes nothing; its failure ends the export when it is joined.
        let _ = file.send(sent);
        self.open_file = (!ends_file).then_some(file);
        Ok(())
    }
}

async fn upload_file(shared: Arc<Shared>, number: u64, mut pieces: UnboundedReceiver<Sent>) -> Result<()> {
    let object = Object::of(&shared.destination, Role::File(number)).ok_or_else(lost_task)?;
    let mut writer = FileWriter::new(shared, object);
    while let Some(Sent { piece, lease }) = pieces.recv().await {
        match piece.documents {
            None => writer.piece(piece.body, lease).await?,
            Some(documents) => return writer.finish(piece.body, documents, lease).await,
        }
    }
    Err(Error::new(Code::Internal, "a file was left without its end"))
}
