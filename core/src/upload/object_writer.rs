//! One object out of pieces that come one after another: a PUT when there is just one, a multipart upload otherwise.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::error::{Code, Error, Result};
use crate::io::task::lost_task;
use crate::manifest::FileRecord;
use crate::s3::checksum::{Checksum, Running};
use crate::s3::failure::Failure;
use crate::s3::object::{Object, Part, Role};
use crate::s3::put::Written;
use crate::s3::throttle::Pace;
use crate::upload::budget::Lease;
use crate::upload::shared::Shared;

/// S3's limit of parts in an upload.
const MAX_PARTS: i32 = 10_000;

/// An object being written.
pub struct ObjectWriter {
    shared: Arc<Shared>,
    object: Object,
    checksum: Running,
    bytes: u64,
    multipart: Option<Multipart>,
}

struct Multipart {
    upload_id: Arc<str>,
    uploading: JoinSet<Result<Part>>,
    uploaded: Vec<Part>,
    next_number: i32,
}

impl ObjectWriter {
    /// Sends nothing yet.
    pub fn new(shared: Arc<Shared>, object: Object) -> Self {
        let checksum = Running::new(shared.bucket.checksum());
        ObjectWriter { shared, object, checksum, bytes: 0, multipart: None }
    }

    /// Sends a piece that another will follow. Returns when it is on its way, not when it has arrived.
    pub async fn piece(&mut self, body: Bytes, lease: Option<Lease>) -> Result<()> {
        self.part(body, lease).await
    }

    /// Sends the last piece and waits until the whole object, of so many documents, is stored and recorded.
    pub async fn finish(mut self, body: Bytes, documents: u64, lease: Option<Lease>) -> Result<()> {
        if self.multipart.is_some() {
            self.part(body, lease).await?;
            let Self { shared, object, checksum, bytes, multipart } = self;
            let multipart = multipart.ok_or_else(lost_task)?;
            let record = FileRecord { bytes, documents, checksum: checksum.finish(), version_id: None };
            return multipart.complete(&shared, object, record).await;
        }
        let Self { shared, object, .. } = self;
        let checksum = shared.bucket.checksum().of(&body);
        let record = FileRecord { bytes: body.len() as u64, documents, checksum, version_id: None };
        let pace = shared.admit(object.role, body.len()).await;
        let (target, key, sent, checksum) = (Arc::clone(&shared), object.clone(), body.clone(), record.checksum.clone());
        make(&shared, object.role, record, async move { target.bucket.put_at(pace, &key, sent, &checksum).await }).await?;
        if let Some(lease) = lease {
            lease.recycle(body);
        }
        Ok(())
    }

    async fn part(&mut self, body: Bytes, lease: Option<Lease>) -> Result<()> {
        // Before the wait for leave to send, which others can use in the pauses between attempts.
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => self.multipart.insert(Multipart::create(&self.shared, &self.object).await?),
        };
        let pace = tokio::select! {
            pace = self.shared.admit(self.object.role, body.len()) => pace,
            error = multipart.failed() => return Err(error),
        };
        let checksum = self.checksum.add(&body);
        self.bytes += body.len() as u64;
        multipart.send(&self.shared, &self.object, (body, checksum), pace, lease)
    }
}

impl Multipart {
    async fn create(shared: &Arc<Shared>, object: &Object) -> Result<Self> {
        let (asking, asked) = (Arc::clone(shared), object.clone());
        let upload_id = shared
            .to_its_end(async move {
                asking.ledger.multipart_asked(&asked.key);
                let answer = asking.bucket.create_multipart(&asked).await;
                match &answer {
                    Ok(created) => {
                        asking.ledger.multipart_answered(&asked.key, Some(&created.upload_id), created.others_may_exist)
                    }
                    Err(failure) if !failure.outcome_unknown => asking.ledger.multipart_answered(&asked.key, None, false),
                    Err(_) => {}
                }
                answer.map(|created| created.upload_id).map_err(|failure| failure.error)
            })
            .await??;
        Ok(Multipart { upload_id: upload_id.into(), uploading: JoinSet::new(), uploaded: Vec::new(), next_number: 1 })
    }

    /// Waits until a part fails, so that a large file does not wait for leave to send for nothing; gives the error.
    async fn failed(&mut self) -> Error {
        loop {
            match self.uploading.join_next().await {
                Some(Ok(Ok(part))) => self.uploaded.push(part),
                Some(Ok(Err(error))) => return error,
                Some(Err(_)) => return lost_task(),
                None => std::future::pending().await,
            }
        }
    }

    /// `lease` is let go when the part has arrived. Errors: an earlier part's, so that a large file does not go on for nothing.
    fn send(
        &mut self,
        shared: &Arc<Shared>,
        object: &Object,
        (body, checksum): (Bytes, Checksum),
        pace: Pace,
        lease: Option<Lease>,
    ) -> Result<()> {
        while let Some(part) = self.uploading.try_join_next() {
            self.uploaded.push(part.map_err(|_| lost_task())??);
        }
        if self.next_number > MAX_PARTS {
            return Err(Error::new(Code::Limit, "a file has more parts than S3 allows")
                .detail(format!("{} has more than {MAX_PARTS} parts.", shared.destination.url(&object.key)))
                .hint("Write smaller files: lower output_chunk_size, or set output_chunk_bytes. For a single file, raise max_file_bytes, which makes its parts larger."));
        }
        let number = self.next_number;
        self.next_number += 1;
        let (shared, object, upload_id) = (Arc::clone(shared), object.clone(), Arc::clone(&self.upload_id));
        self.uploading.spawn(async move {
            let part = shared.bucket.put_part_at(pace, &object, &upload_id, number, (body.clone(), &checksum)).await;
            if let Some(lease) = lease {
                lease.recycle(body);
            }
            part.map_err(|failure| failure.error)
        });
        Ok(())
    }

    async fn complete(mut self, shared: &Arc<Shared>, object: Object, record: FileRecord) -> Result<()> {
        let mut parts = self.uploaded;
        while let Some(part) = self.uploading.join_next().await {
            parts.push(part.map_err(|_| lost_task())??);
        }
        parts.sort_by_key(Part::part_number);
        let (completing, upload_id) = (Arc::clone(shared), Arc::clone(&self.upload_id));
        let (role, bytes) = (object.role, record.bytes);
        // An upload is completed once, however often that is asked for.
        let complete = async move {
            let completed = completing.bucket.complete_multipart(&object, &upload_id, parts, bytes).await;
            completed.map(|version_id| Written { version_id, answer_lost: false })
        };
        make(shared, role, record, complete).await?;
        shared.ledger.multipart_ended(&self.upload_id);
        Ok(())
    }
}

/// Sends the request that makes an object, and records what came of it: also when nobody waits for it any more, so that a
/// clean-up knows what there is to delete.
fn make<R>(shared: &Arc<Shared>, role: Role, record: FileRecord, request: R) -> impl Future<Output = Result<()>> + use<R>
where
    R: Future<Output = std::result::Result<Written, Failure>> + Send + 'static,
{
    let recording = Arc::clone(shared);
    let recorded = shared.to_its_end(async move {
        recording.ledger.object_may_exist(role);
        match request.await {
            Ok(written) => {
                let version_id = written.version_id.map(String::into_boxed_str);
                recording.ledger.object_stored(role, FileRecord { version_id, ..record }, written.answer_lost);
                Ok(())
            }
            Err(failure) => {
                if !failure.outcome_unknown {
                    recording.ledger.object_is_absent(role);
                }
                Err(failure.error)
            }
        }
    });
    async { recorded.await? }
}
