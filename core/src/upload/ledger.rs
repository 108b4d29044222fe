//! What backend and I/O thread both see of an export: bytes on their way, files finished, things to clean up.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::files::plan::{FilePlan, PART_BYTES};
use crate::io::task::lost_task;
use crate::io::wake::Wake;
use crate::manifest::FileRecord;
use crate::naming::keys::Destination;
use crate::s3::bucket::Bucket;
use crate::s3::object::Role;
use crate::s3::throttle::Throttle;
use crate::sync::lock;
use crate::upload::leftovers::{CommitObject, LeftoverFile, OpenMultipart, RollbackPlan};

/// Used buffers kept for the next files. Together with those under way there are never more of them than were under way at once,
/// and reused they leave no holes in the heap.
const MAX_SPARE_BUFFERS: usize = 1024;
/// Larger buffers are given back to the system.
const MAX_SPARE_BYTES: usize = 2 * PART_BYTES;

/// Shared between the backend's handle and the tasks of one export.
pub struct Shared {
    /// Where objects go.
    pub bucket: Bucket,
    /// Their names.
    pub destination: Destination,
    /// How documents become files.
    pub plan: FilePlan,
    /// One permit a request that carries a body.
    pub requests: Arc<Throttle>,
    wake: Arc<Wake>,
    requests_to_their_end: Mutex<JoinSet<()>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes handed over and not yet stored.
    outstanding: usize,
    /// By file number less one.
    files: Vec<ObjectState>,
    /// Numbers of files that are stored, and of which an attempt was not answered.
    outcome_unknown: HashSet<u64>,
    /// Keys of multipart uploads that were asked for and have no id yet.
    creating: Vec<String>,
    /// Begun and neither completed nor aborted.
    multiparts: Vec<OpenMultipart>,
    /// Manifests and the marker, in the order in which they were written.
    commit_objects: Vec<CommitObject>,
    spare: Vec<Vec<u8>>,
}

/// What is known of a file.
#[derive(Debug, Clone, Default)]
enum ObjectState {
    /// Never sent, or refused.
    #[default]
    Absent,
    /// Sent, with no answer that says what came of it.
    Unknown,
    /// Acknowledged.
    Stored(FileRecord),
}

impl Shared {
    /// Nothing sent yet.
    pub fn new(
        bucket: Bucket,
        destination: Destination,
        plan: FilePlan,
        requests: Arc<Throttle>,
        wake: Arc<Wake>,
    ) -> Arc<Self> {
        Arc::new(Shared {
            bucket,
            destination,
            plan,
            requests,
            wake,
            requests_to_their_end: Mutex::default(),
            state: Mutex::default(),
        })
    }

    /// Bytes handed over and not yet stored.
    pub fn outstanding(&self) -> usize {
        lock(&self.state).outstanding
    }

    /// Counts `bytes` as outstanding until the lease is dropped.
    pub fn lease(self: &Arc<Self>, bytes: usize) -> Lease {
        lock(&self.state).outstanding += bytes;
        Lease { shared: Arc::clone(self), bytes }
    }

    /// A used buffer, or a new one.
    pub fn spare_buffer(&self) -> Vec<u8> {
        lock(&self.state).spare.pop().unwrap_or_default()
    }

    /// Makes room for file `number`. Errors: 53200.
    pub fn file_began(&self, number: u64) -> Result<()> {
        let mut state = lock(&self.state);
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let missing = index.saturating_sub(state.files.len());
        state.files.try_reserve(missing).map_err(|_| Error::out_of_memory("the list of files"))?;
        state.files.resize(index, ObjectState::Absent);
        Ok(())
    }

    /// The object is stored.
    /// `answer_lost`: of an earlier attempt, which may have made it too, or do so yet.
    pub fn object_stored(&self, role: Role, record: FileRecord, answer_lost: bool) {
        let mut state = lock(&self.state);
        match role {
            Role::File(number) => {
                state.set_file(number, ObjectState::Stored(record));
                if answer_lost {
                    state.outcome_unknown.insert(number);
                }
            }
            // Whoever tries a store out deletes it himself.
            Role::Probe => {}
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker => {
                let version_id = record.version_id.map(String::from);
                state.set_announcement(role, Some(CommitObject { role, version_id, is_unknown: answer_lost }));
            }
        }
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

    /// No more files will be written.
    pub fn drop_spare_buffers(&self) {
        lock(&self.state).spare = Vec::new();
    }

    /// The request that makes the object is about to be sent.
    pub fn object_may_exist(&self, role: Role) {
        lock(&self.state).set_object(role, true);
    }

    /// The request that makes the object was refused.
    pub fn object_is_absent(&self, role: Role) {
        lock(&self.state).set_object(role, false);
    }

    /// A multipart upload is about to be asked for.
    pub fn multipart_asked(&self, key: &str) {
        lock(&self.state).creating.push(key.to_owned());
    }

    /// A multipart upload has an id; `None`: it was refused. `others_may_exist`: of attempts that were not answered.
    pub fn multipart_answered(&self, key: &str, upload_id: Option<&str>, others_may_exist: bool) {
        let mut state = lock(&self.state);
        if !others_may_exist {
            state.creating.retain(|asked| asked != key);
        }
        if let Some(upload_id) = upload_id {
            state.multiparts.push(OpenMultipart { key: key.to_owned(), upload_id: upload_id.to_owned() });
        }
    }

    /// A multipart upload became an object.
    pub fn multipart_ended(&self, upload_id: &str) {
        lock(&self.state).multiparts.retain(|upload| upload.upload_id != upload_id);
    }

    /// The records of all files, for the manifest. Errors: XX000 when one is not stored.
    pub fn records(&self) -> Result<Vec<FileRecord>> {
        let record = |file: &ObjectState| match file {
            ObjectState::Stored(record) => Some(record.clone()),
            ObjectState::Absent | ObjectState::Unknown => None,
        };
        lock(&self.state).files.iter().map(record).collect::<Option<Vec<_>>>().ok_or_else(lost_task)
    }

    /// What a rollback has to take back.
    pub fn leftovers(&self) -> RollbackPlan {
        let state = lock(&self.state);
        let present = |(file, number): (&ObjectState, u64)| match file {
            ObjectState::Absent => None,
            ObjectState::Unknown => Some(LeftoverFile { number, version_id: None, is_unknown: true }),
            ObjectState::Stored(record) => {
                let version_id = record.version_id.as_deref().map(str::to_owned);
                Some(LeftoverFile { number, version_id, is_unknown: state.outcome_unknown.contains(&number) })
            }
        };
        RollbackPlan {
            commit_objects: state.commit_objects.iter().rev().cloned().collect(),
            files: state.files.iter().zip(1..).filter_map(present).collect(),
            creating: state.creating.clone(),
            multiparts: state.multiparts.clone(),
        }
    }
}

impl State {
    fn set_object(&mut self, role: Role, may_exist: bool) {
        match role {
            Role::File(number) => self.set_file(number, if may_exist { ObjectState::Unknown } else { ObjectState::Absent }),
            // Whoever tries a store out deletes it himself.
            Role::Probe => {}
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker => {
                let unknown = CommitObject { role, version_id: None, is_unknown: true };
                self.set_announcement(role, may_exist.then_some(unknown));
            }
        }
    }

    fn set_announcement(&mut self, role: Role, commit_object: Option<CommitObject>) {
        self.commit_objects.retain(|known| known.role != role);
        self.commit_objects.extend(commit_object);
    }

    fn set_file(&mut self, number: u64, presence: ObjectState) {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        if let Some(file) = self.files.get_mut(index) {
            *file = presence;
        }
    }
}

/// Some outstanding bytes; dropping it makes room for others, however the upload ended.
pub struct Lease {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Lease {
    /// Some of its bytes, as a lease of their own.
    pub fn split(&mut self, bytes: usize) -> Lease {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Lease { shared: Arc::clone(&self.shared), bytes }
    }

    /// Gives the bytes' buffer back for the next file, if nobody else holds it.
    pub fn recycle(self, body: Bytes) {
        let used = body.len();
        let Ok(mut buffer) = body.try_into_mut() else { return };
        // Else what is in it would be copied.
        buffer.clear();
        let buffer = Vec::from(buffer);
        // One that was mostly empty would take room from others for little.
        let is_apt = buffer.capacity() <= MAX_SPARE_BYTES && used >= buffer.capacity() / 2;
        let mut state = lock(&self.shared.state);
        if is_apt && state.spare.len() < MAX_SPARE_BUFFERS {
            state.spare.push(buffer);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.shared.state).outstanding -= self.bytes;
        self.shared.wake.raise();
    }
}
