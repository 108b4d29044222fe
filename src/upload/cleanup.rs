//! Taking back what an export has written.
//!
//! The manifest goes first: from then on no reader takes the rest for an export. Every key that may be there is deleted,
//! whether or not its PUT was answered. Multipart uploads are aborted, since their parts cost money and show in no listing.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::leftovers::{LeftoverFile, LeftoverManifest, Leftovers};
use super::object::{DELETE_BATCH, Deletion};
use super::state::Shared;
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
        for url in urls {
            if !self.objects.contains(&url) {
                self.objects.push(url);
            }
        }
        if self.cause.is_none() {
            self.cause = cause;
        }
    }
}

/// How long requests under way have to be answered before they are cut off; and how long one that was cut off has to be done
/// all the same, before its object is deleted again.
const SETTLING_TIME: Duration = Duration::from_millis(150);

/// Deletes everything the export wrote, for at most `limit`.
pub async fn clean_up(shared: Arc<Shared>, limit: Duration) -> Remains {
    let deadline = Instant::now() + limit;
    // The uploads were aborted just now; this lets them go before the requests that they made are waited for.
    tokio::task::yield_now().await;
    shared.settle(limit.min(SETTLING_TIME)).await;
    let leftovers = shared.leftovers();
    let mut remains = Remains::default();
    if let Some(manifest) = &leftovers.manifest {
        delete_manifest(&shared, manifest, deadline, &mut remains).await;
    }
    // Before the files: a completion that is under way would make its file anew.
    abort_multiparts(&shared, &leftovers, deadline, &mut remains).await;
    delete_files(&shared, &leftovers.files, deadline, &mut remains).await;
    if leftovers.has_unknown() || leftovers.has_uploads() {
        tokio::time::sleep_until(deadline.min(Instant::now() + SETTLING_TIME)).await;
        // A part that was under way may have been stored after the first abort, and would cost money for ever.
        abort_multiparts(&shared, &leftovers, deadline, &mut remains).await;
        let unknown = leftovers.unknown();
        if let Some(manifest) = &unknown.manifest {
            delete_manifest(&shared, manifest, deadline, &mut remains).await;
        }
        delete_files(&shared, &unknown.files, deadline, &mut remains).await;
        if leftovers.has_unknown() {
            name_unknown(&shared, &unknown, &mut remains);
        }
    }
    remains
}

/// A store that has a request already may carry it out after the last delete, however late that is.
fn name_unknown(shared: &Shared, unknown: &Leftovers, remains: &mut Remains) {
    let destination = &shared.destination;
    let manifest = unknown.manifest.iter().map(|_| destination.manifest_key());
    let keys = manifest.chain(unknown.files.iter().map(|file| destination.file_key(file.number)));
    let urls = keys.map(|key| destination.url(&key));
    let cut_off = Error::new(Code::Connection, "requests were cut off before S3 had answered them");
    remains.keep(urls, Some(cut_off));
}

async fn abort_multiparts(shared: &Shared, leftovers: &Leftovers, deadline: Instant, remains: &mut Remains) {
    // Asked for, and cut off before there was an answer with an id.
    for key in &leftovers.creating {
        let failed = match timeout_at(deadline, shared.bucket.abort_uploads_of(key, None)).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        remains.keep([format!("{} (multipart upload)", shared.destination.url(key))], failed);
    }
    for upload in &leftovers.multiparts {
        let abort = shared.bucket.abort_multipart(&upload.key, &upload.upload_id);
        let failed = match timeout_at(deadline, abort).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        let url = shared.destination.url(&upload.key);
        remains.keep([format!("{url} (multipart upload {})", upload.upload_id)], failed);
    }
}

async fn delete_manifest(shared: &Shared, manifest: &LeftoverManifest, deadline: Instant, remains: &mut Remains) {
    let key = shared.destination.manifest_key();
    let deletion = Deletion { key, version_id: manifest.version_id.clone() };
    // Alone, since one request for several deletes in no particular order.
    delete_singly(shared, &[&deletion], deadline, remains).await;
}

async fn delete_files(shared: &Shared, files: &[LeftoverFile], deadline: Instant, remains: &mut Remains) {
    for files in files.chunks(DELETE_BATCH) {
        let mut batch = Vec::with_capacity(files.len());
        for file in files {
            let key = shared.destination.file_key(file.number);
            batch.push(Deletion { key, version_id: file.version_id.clone() });
        }
        delete_batch(shared, &batch, deadline, remains).await;
    }
}

async fn delete_batch(shared: &Shared, batch: &[Deletion], deadline: Instant, remains: &mut Remains) {
    let left: Vec<&Deletion> = match timeout_at(deadline, shared.bucket.delete(batch)).await {
        Ok(Ok(failed)) => batch.iter().filter(|deletion| failed.contains(&deletion.key)).collect(),
        // Some stores lack DeleteObjects, or want it with a digest of their own choice.
        Ok(Err(failure)) if !failure.transient => batch.iter().collect(),
        failed => {
            let cause = failed.ok().and_then(Result::err).map(|failure| failure.error);
            return remains.keep(batch.iter().map(|deletion| shared.destination.url(&deletion.key)), cause);
        }
    };
    delete_singly(shared, &left, deadline, remains).await;
}

/// Ends with the first that fails, since the others would as well.
async fn delete_singly(shared: &Shared, deletions: &[&Deletion], deadline: Instant, remains: &mut Remains) {
    for (index, deletion) in deletions.iter().enumerate() {
        let failed = match timeout_at(deadline, shared.bucket.delete_one(deletion)).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        let rest = deletions.get(index..).unwrap_or_default();
        return remains.keep(rest.iter().map(|deletion| shared.destination.url(&deletion.key)), failed);
    }
}
