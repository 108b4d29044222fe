//! The export in whose place another comes: its manifest goes with the commit of the other, and its files after that commit.
//!
//! ```text
//! commit: the new manifest is put in the old one's place ──► COMMIT ──► the files that the old manifest lists are deleted
//!    └─ abort: the old manifest is put back
//! ```
#![forbid(unsafe_code)]

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::manifest::stored::{Summary, file_urls};
use crate::naming::keys::ObjectName;
use crate::s3::get::Stored;
use crate::s3::object::{DELETE_BATCH, Deletion, Object};
use crate::s3::throttle::{Pace, Throttle};
use crate::upload::rollback::{RollbackReport, delete_batch};
use crate::upload::shared::Shared;

/// An export that has committed, and goes when another commits. Its manifest is kept compressed: a list of files shrinks to a tenth.
#[derive(Debug)]
pub struct Replaced {
    url: String,
    export_id: Uuid,
    etag: String,
    packed: Vec<u8>,
    bytes: usize,
}

impl Replaced {
    /// Keeps the manifest at `url`, which says `summary`. Errors: 0A000 for a store that gives no ETag, 53200.
    pub fn new(url: &str, stored: &Stored, summary: &Summary) -> Result<Self> {
        let etag = stored.etag.clone().filter(|etag| !etag.is_empty()).ok_or_else(|| {
            Error::new(Code::Unsupported, "the store does not say which manifest would be replaced")
                .detail(format!("The answer to a look at {url} has no ETag."))
        })?;
        let packed = zstd::bulk::compress(&stored.body, 3).map_err(|_| Error::out_of_memory("the manifest to be replaced"))?;
        Ok(Replaced { url: url.to_owned(), export_id: summary.export_id, etag, packed, bytes: stored.body.len() })
    }

    /// As the store gives it, in quotes.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The export that goes.
    pub fn export_id(&self) -> Uuid {
        self.export_id
    }

    fn body(&self) -> Result<Vec<u8>> {
        zstd::bulk::decompress(&self.packed, self.bytes).map_err(|_| Error::out_of_memory("the manifest to be replaced"))
    }

    /// Puts the manifest back, where the object under its key is the aborted export's.
    pub async fn put_back(&self, shared: &Shared, ours: &Object, deadline: Instant, report: &mut RollbackReport) {
        let put_back = async {
            let bucket = &shared.bucket;
            let head = bucket.head_within(bucket.policy().clean_up, &ours.key).await.map_err(|failure| failure.error)?;
            let Some(head) = head.filter(|head| head.is_of(ours)) else { return Ok(()) };
            let theirs = Object { claim: Some(self.export_id), replaces: head.etag, ..ours.clone() };
            let body = Bytes::from(self.body()?);
            let checksum = bucket.checksum().of(&body);
            // The rollback holds the permit of the requests of this export.
            let pace = Pace::new(&Throttle::new(1), None);
            bucket.put_at(pace, &theirs, body, &checksum).await.map(drop).map_err(|failure| failure.error)
        };
        let cause = match timeout_at(deadline, put_back).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        report.keep([self.url.clone()].into_iter(), cause);
    }

    /// Deletes the files that the manifest lists, until `deadline`. A file under a name of the user's making stays.
    pub async fn delete_files(&self, shared: &Shared, deadline: Instant) -> RollbackReport {
        let mut report = RollbackReport::default();
        let urls = match self.body().and_then(|body| file_urls(&self.url, &body)) {
            Ok(urls) => urls,
            Err(error) => {
                report.keep([self.url.clone()].into_iter(), Some(error));
                return report;
            }
        };
        let within = shared.destination.url(&shared.destination.location().folder());
        let bucket = shared.destination.url("");
        let is_of_export = |key: &str| ObjectName::parse(key).is_some_and(|name| name.export_id == self.export_id);
        let key_of = |url: &String| {
            let key = url.strip_prefix(&bucket).filter(|_| url.starts_with(&within))?;
            is_of_export(key).then(|| key.to_owned())
        };
        report.keep(urls.iter().filter(|url| key_of(url).is_none()).cloned(), None);
        let keys: Vec<String> = urls.iter().filter_map(key_of).collect();
        for batch in keys.chunks(DELETE_BATCH) {
            let mut deletions = Vec::with_capacity(batch.len());
            for key in batch {
                deletions.push(Deletion { key: key.clone(), version_id: None });
            }
            delete_batch(shared, &deletions, deadline, &mut report).await;
        }
        report
    }
}
