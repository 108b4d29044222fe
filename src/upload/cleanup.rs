//! Taking back what an export has written.
//!
//! The manifest goes first: from then on no reader takes the rest for an export. Multipart uploads are aborted, since
//! their parts cost money and show in no listing. Every key that may be there is deleted, whether or not its PUT was
//! answered.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use super::object::DELETE_BATCH;
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
        self.objects.extend(urls);
        if self.cause.is_none() {
            self.cause = cause;
        }
    }
}

/// Deletes everything the export wrote, for at most `limit`.
pub async fn clean_up(shared: Arc<Shared>, limit: Duration) -> Remains {
    let leftovers = shared.leftovers();
    let target = &shared.target;
    let destination = &target.destination;
    let deadline = tokio::time::Instant::now() + limit;
    let mut remains = Remains::default();

    let manifest = leftovers.manifest.then(|| vec![(destination.manifest_key(), None)]);
    let mut files: Vec<(String, Option<String>)> =
        leftovers.files.into_iter().map(|(number, version)| (destination.file_key(number), version)).collect();
    let mut batches: Vec<Vec<_>> = manifest.into_iter().collect();
    while !files.is_empty() {
        let rest = files.split_off(files.len().min(DELETE_BATCH));
        batches.push(std::mem::replace(&mut files, rest));
    }

    for upload in leftovers.multiparts {
        let abort = target.abort_multipart(&upload.key, &upload.upload_id);
        let failed = match tokio::time::timeout_at(deadline, abort).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        remains.keep([format!("{} (multipart upload {})", destination.url(&upload.key), upload.upload_id)], failed);
    }
    for batch in batches {
        let every_url = || batch.iter().map(|(key, _)| destination.url(key));
        match tokio::time::timeout_at(deadline, target.delete(&batch)).await {
            Ok(Ok(failed)) => remains.keep(failed.iter().map(|key| destination.url(key)), None),
            Ok(Err(failure)) => remains.keep(every_url(), Some(failure.error)),
            Err(_) => remains.keep(every_url(), None),
        }
    }
    remains
}
