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

use crate::error::{self, Code, Error};
use crate::manifest::stored::{Summary, files};
use crate::naming::keys::{ObjectName, manifest_of_run};
use crate::s3::bucket::Bucket;
use crate::s3::failure::Failure;
use crate::s3::get::Stored;
use crate::s3::head::Head;
use crate::s3::object::{DELETE_BATCH, Deletion, Object};
use crate::s3::properties::{ExportProperties, Texts, check_metadata};
use crate::s3::throttle::{Pace, Throttle};
use crate::upload::deletion::delete_batch;
use crate::upload::rollback::RollbackReport;
use crate::upload::shared::Shared;

/// Looks at the manifest before it is given up to put it back.
const LOOKS: usize = 3;

/// An export that has committed, and goes when another commits. Its manifest is kept compressed: a list of files shrinks to a tenth.
#[derive(Debug)]
pub struct Replaced {
    url: String,
    export_id: Uuid,
    etag: String,
    packed: Vec<u8>,
    bytes: usize,
    metadata: Texts,
}

impl Replaced {
    /// Keeps the manifest at `url`, which says `summary`. Errors: 0A000 for a store that gives no ETag, 53200, 55000 for an
    /// object that is no manifest.
    pub fn new(url: &str, stored: &Stored, summary: &Summary) -> error::Result<Self> {
        let etag = stored.etag.clone().filter(|etag| !etag.is_empty()).ok_or_else(|| {
            Error::new(Code::Unsupported, "the store does not say which manifest would be replaced")
                .detail(format!("The answer to a look at {url} has no ETag."))
        })?;
        // After the commit it would be too late to learn that the list cannot be read.
        files(url, &stored.body)?;
        let packed = zstd::bulk::compress(&stored.body, 3).map_err(|_| Error::out_of_memory("the manifest to be replaced"))?;
        // Other hands may have given it metadata that no request of ours can carry.
        let metadata = if check_metadata(&stored.metadata).is_ok() { stored.metadata.clone() } else { Texts::new() };
        Ok(Replaced { url: url.to_owned(), export_id: summary.export_id, etag, packed, bytes: stored.body.len(), metadata })
    }

    /// As the store gives it, in quotes.
    pub fn etag(&self) -> &str {
        &self.etag
    }

    /// The export that goes.
    pub fn export_id(&self) -> Uuid {
        self.export_id
    }

    fn body(&self) -> error::Result<Vec<u8>> {
        zstd::bulk::decompress(&self.packed, self.bytes).map_err(|_| Error::out_of_memory("the manifest to be replaced"))
    }

    /// Puts the manifest back where the object under its key is the aborted export's; says whether no object of the aborted export is
    /// there any more. `is_unknown`: a request that makes `ours` may be carried out later. Such a request asks for the ETag of the
    /// manifest, so the manifest gets another one: it ends with one more line break.
    pub async fn put_back(
        &self,
        shared: &Shared,
        ours: &Object,
        is_unknown: bool,
        deadline: Instant,
        report: &mut RollbackReport,
    ) -> bool {
        let put_back = async {
            // With the metadata that it had, and not that of the export which is taken back.
            let properties = ExportProperties { metadata: self.metadata.clone(), ..ExportProperties::default() };
            let bucket = shared.bucket.for_clean_up().with_properties(properties);
            let mut last = None;
            for _ in 0..LOOKS {
                let head = bucket.head(&ours.key).await.map_err(|failure| failure.error)?;
                let is_theirs = |etag: &Option<String>| etag.as_deref() == Some(self.etag());
                let is_awaited = |head: &Head| head.is_of(ours) || (is_unknown && is_theirs(&head.etag));
                let Some(head) = head.filter(is_awaited) else { return Ok(()) };
                match self.write_over(&bucket, ours, head, is_unknown).await {
                    Ok(()) => return Ok(()),
                    // Another object has come meanwhile: a third run's, or that of a request which was late.
                    Err(failure) if failure.error.code() == Code::Duplicate => last = Some(failure.error),
                    Err(failure) => return Err(failure.error),
                }
            }
            last.map_or(Ok(()), Err)
        };
        let cause = match timeout_at(deadline, put_back).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        report.keep([self.url.clone()].into_iter(), cause);
        false
    }

    /// Writes the manifest in the place of the object that `head` shows.
    async fn write_over(&self, bucket: &Bucket, ours: &Object, head: Head, is_unknown: bool) -> Result<(), Failure> {
        if head.etag.is_none() {
            let error = Error::new(Code::Unsupported, "the answer to a look at the manifest has no ETag");
            return Err(Failure::permanent(error));
        }
        let theirs = Object { claim: Some(self.export_id), replaces: head.etag, predecessor: None, ..ours.clone() };
        let mut body = self.body().map_err(Failure::permanent)?;
        if is_unknown {
            body.push(b'\n');
        }
        let checksum = bucket.checksum().of(&body);
        let pace = Pace::new(&Throttle::new(1), None);
        bucket.put_at(pace, &theirs, Bytes::from(body), &checksum).await.map(drop)
    }

    /// Deletes the files that the manifest lists, until `deadline`. A file under a name of the user's making stays.
    pub async fn delete_files(&self, shared: &Shared, deadline: Instant) -> RollbackReport {
        let mut report = RollbackReport::default();
        let urls: Vec<String> = match self.body().and_then(|body| files(&self.url, &body)) {
            Ok(files) => files.into_iter().map(|file| file.url).collect(),
            Err(error) => {
                report.keep([self.url.clone()].into_iter(), Some(error));
                return report;
            }
        };
        let bucket = shared.destination.url("");
        // A manifest that was copied to another folder lists files of the original.
        let manifest_key = shared.destination.location().key(&manifest_of_run(&self.export_id.to_string()));
        let is_of_export = |key: &&str| {
            let name = ObjectName::parse(key);
            name.is_some_and(|name| name.export_id == self.export_id && name.manifest_keys.contains(&manifest_key))
        };
        let key_of = |url: &String| url.strip_prefix(&bucket).filter(is_of_export).map(str::to_owned);
        report.keep(urls.iter().filter(|url| key_of(url).is_none()).cloned(), None);
        let keys: Vec<String> = urls.iter().filter_map(key_of).collect();
        for batch in keys.chunks(DELETE_BATCH) {
            if Instant::now() >= deadline {
                report.keep(batch.iter().map(|key| shared.destination.url(key)), None);
                continue;
            }
            let mut deletions = Vec::with_capacity(batch.len());
            for key in batch {
                deletions.push(Deletion { key: key.clone(), version_id: None });
            }
            delete_batch(shared, &deletions, deadline, &mut report).await;
        }
        report
    }
}
