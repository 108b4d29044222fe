//! One object out of pieces that come one after another: a PUT when there is just one, a multipart upload otherwise.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::checksum::{Checksum, Running};
use super::failure::Failure;
use super::object::{Object, Part, Role};
use super::state::{Lease, Shared};
use crate::error::{Code, Error, Result};

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
    next_number: i32,
}

/// What S3 acknowledged.
pub struct Stored {
    /// Size in bytes.
    pub bytes: u64,
    /// Of all its bytes.
    pub checksum: Checksum,
    /// In a versioned bucket.
    pub version_id: Option<String>,
}

impl ObjectWriter {
    /// Sends nothing yet.
    pub fn new(shared: Arc<Shared>, object: Object) -> Self {
        let checksum = Running::new(shared.target.checksum());
        ObjectWriter { shared, object, checksum, bytes: 0, multipart: None }
    }

    /// Sends a piece that another will follow. Returns when it is on its way, not when it has arrived.
    pub async fn piece(&mut self, body: Bytes, lease: Option<Lease>) -> Result<()> {
        self.count(&body);
        self.part(body, lease).await
    }

    /// Sends the last piece and waits until the whole object is stored.
    pub async fn finish(mut self, body: Bytes, lease: Option<Lease>) -> Result<Stored> {
        self.count(&body);
        if self.multipart.is_some() {
            self.part(body, lease).await?;
            let Self { shared, object, checksum, bytes, multipart } = self;
            let multipart = multipart.ok_or_else(lost_task)?;
            let version_id = multipart.complete(&shared, &object).await?;
            return Ok(Stored { bytes, checksum: checksum.finish(), version_id });
        }
        let Self { shared, object, checksum, bytes, .. } = self;
        let checksum = checksum.finish();
        let _permit = permit(&shared).await?;
        let put = shared.target.put(&object, body.clone(), &checksum);
        let version_id = making(&shared, object.role, put).await?;
        if let Some(lease) = lease {
            lease.recycle(body);
        }
        Ok(Stored { bytes, checksum, version_id })
    }

    fn count(&mut self, body: &Bytes) {
        self.checksum.update(body);
        self.bytes += body.len() as u64;
    }

    async fn part(&mut self, body: Bytes, lease: Option<Lease>) -> Result<()> {
        let permit = permit(&self.shared).await?;
        let multipart = match &mut self.multipart {
            Some(multipart) => multipart,
            None => self.multipart.insert(Multipart::create(&self.shared, &self.object).await?),
        };
        multipart.send(&self.shared, &self.object, body, (permit, lease))
    }
}

impl Multipart {
    async fn create(shared: &Shared, object: &Object) -> Result<Self> {
        shared.multipart_asked(&object.key);
        let upload_id = shared.target.create_multipart(object).await.map_err(|failure| {
            if !failure.maybe_done {
                shared.multipart_answered(&object.key, None);
            }
            failure.error
        })?;
        shared.multipart_answered(&object.key, Some(&upload_id));
        Ok(Multipart { upload_id: upload_id.into(), uploading: JoinSet::new(), next_number: 1 })
    }

    /// `held` is let go when the part has arrived.
    fn send(&mut self, shared: &Arc<Shared>, object: &Object, body: Bytes, held: impl Send + 'static) -> Result<()> {
        if self.next_number > MAX_PARTS {
            return Err(Error::new(Code::Limit, "a file has more parts than S3 allows")
                .detail(format!("{} has more than {MAX_PARTS} parts.", shared.target.destination.url(&object.key)))
                .hint("Write smaller files: lower output_chunk_size, or set output_chunk_bytes."));
        }
        let number = self.next_number;
        self.next_number += 1;
        let (shared, object, upload_id) = (Arc::clone(shared), object.clone(), Arc::clone(&self.upload_id));
        self.uploading.spawn(async move {
            let _held = held;
            shared.target.put_part(&object, &upload_id, number, body).await.map_err(|failure| failure.error)
        });
        Ok(())
    }

    async fn complete(mut self, shared: &Shared, object: &Object) -> Result<Option<String>> {
        let mut parts = Vec::new();
        while let Some(part) = self.uploading.join_next().await {
            parts.push(part.map_err(|_| lost_task())??);
        }
        parts.sort_by_key(Part::part_number);
        let complete = shared.target.complete_multipart(object, &self.upload_id, parts);
        let version_id = making(shared, object.role, complete).await?;
        shared.multipart_ended(&self.upload_id);
        Ok(version_id)
    }
}

/// Sends the request that makes an object, so that a clean-up knows whether there is something to delete: also when this
/// is dropped half-way.
async fn making<T>(shared: &Shared, role: Role, request: impl Future<Output = std::result::Result<T, Failure>>) -> Result<T> {
    shared.object_may_exist(role);
    request.await.map_err(|failure| {
        if !failure.maybe_done {
            shared.object_is_absent(role);
        }
        failure.error
    })
}

async fn permit(shared: &Shared) -> Result<OwnedSemaphorePermit> {
    Arc::clone(&shared.requests).acquire_owned().await.map_err(|_| lost_task())
}

/// A task of ours ended without an answer: it panicked.
pub fn lost_task() -> Error {
    Error::new(Code::Internal, "an upload task ended unexpectedly")
}
