//! Taking back what an export has written.
//!
//! The manifest goes first: from then on no reader takes the rest for an export. Every key that may be there is deleted,
//! whether or not its PUT was answered. Multipart uploads are aborted, since their parts cost money and show in no listing.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::object::{DELETE_BATCH, Deletion};
use super::state::{Leftovers, OpenMultipart, Shared};
use crate::error::{Code, Error};

/// What could not be taken back.
#[derive(Debug, Default)]
pub struct Remains {
    /// URLs of objects that may still be there.
    pub objects: Vec<String>,
    /// Why, the first time.
    pub cause: Option<Error>,
}

impl Remains {
    /// Nobody knows what is left.
    pub fn unknown() -> Self {
        let lost = Error::new(Code::Internal, "the clean-up gave no answer");
        Remains { objects: Vec::new(), cause: Some(lost) }
    }

    /// Whether all is taken back.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.cause.is_none()
    }

    fn keep(&mut self, urls: impl IntoIterator<Item = String>, cause: Option<Error>) {
        self.objects.extend(urls);
        if self.cause.is_none() {
            self.cause = cause;
        }
    }
}

/// How long a request whose connection was cut may take to be done all the same, before its object is deleted again.
const SETTLING_TIME: Duration = Duration::from_millis(200);

/// Deletes everything the export wrote, for at most `limit`.
pub async fn clean_up(shared: Arc<Shared>, limit: Duration) -> Remains {
    let deadline = Instant::now() + limit;
    // The uploads were aborted just now; this lets them go, and their connections, before anything is deleted.
    tokio::task::yield_now().await;
    let leftovers = shared.leftovers();
    let mut remains = Remains::default();
    delete(&shared, &leftovers, deadline, &mut remains).await;
    abort_multiparts(&shared, &leftovers.multiparts, deadline, &mut remains).await;
    if leftovers.has_unknown() && remains.is_empty() {
        tokio::time::sleep_until(deadline.min(Instant::now() + SETTLING_TIME)).await;
        delete(&shared, &leftovers.unknown(), deadline, &mut remains).await;
    }
    remains
}

async fn abort_multiparts(shared: &Shared, uploads: &[OpenMultipart], deadline: Instant, remains: &mut Remains) {
    for upload in uploads {
        let abort = shared.target.abort_multipart(&upload.key, &upload.upload_id);
        let failed = match timeout_at(deadline, abort).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        let url = shared.target.destination.url(&upload.key);
        remains.keep([format!("{url} (multipart upload {})", upload.upload_id)], failed);
    }
}

async fn delete(shared: &Shared, leftovers: &Leftovers, deadline: Instant, remains: &mut Remains) {
    let destination = &shared.target.destination;
    // The manifest alone, since one request deletes in no particular order.
    if leftovers.manifest {
        let manifest = Deletion { key: destination.manifest_key(), version_id: None };
        delete_batch(shared, &[manifest], deadline, remains).await;
    }
    for files in leftovers.files.chunks(DELETE_BATCH) {
        let mut batch = Vec::with_capacity(files.len());
        for file in files {
            batch.push(Deletion { key: destination.file_key(file.number), version_id: file.version_id.clone() });
        }
        delete_batch(shared, &batch, deadline, remains).await;
    }
}

async fn delete_batch(shared: &Shared, batch: &[Deletion], deadline: Instant, remains: &mut Remains) {
    let destination = &shared.target.destination;
    let every_url = || batch.iter().map(|deletion| destination.url(&deletion.key));
    match timeout_at(deadline, shared.target.delete(batch)).await {
        Ok(Ok(failed)) => remains.keep(failed.iter().map(|key| destination.url(key)), None),
        // Some stores lack DeleteObjects, or want it with a digest of their own choice.
        Ok(Err(failure)) if !failure.transient => delete_singly(shared, batch, deadline, remains).await,
        Ok(Err(failure)) => remains.keep(every_url(), Some(failure.error)),
        Err(_) => remains.keep(every_url(), None),
    }
}

/// Ends with the first that fails, since the others would as well.
async fn delete_singly(shared: &Shared, batch: &[Deletion], deadline: Instant, remains: &mut Remains) {
    for (index, deletion) in batch.iter().enumerate() {
        let failed = match timeout_at(deadline, shared.target.delete_one(deletion)).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        let rest = batch.get(index..).unwrap_or_default();
        return remains.keep(rest.iter().map(|deletion| shared.target.destination.url(&deletion.key)), failed);
    }
}
