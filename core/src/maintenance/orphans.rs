//! Orphans of a crash: files and multipart uploads of exports that have no manifest and will never have one.
//!
//! Nothing here knows which exports still run; who asks to delete has found that out, and asked [`Bucket::has_manifest`]
//! *after* it: an export that no longer runs then cannot write its manifest any more.
//!
//! Deleting a file of an export that has committed would lose data. So two answers of different kinds must say that there is no
//! manifest: a listing that is whole, and a HEAD with 404.
//!
//! The name of a run's manifest (option `run_key`) does not tell of which export it is; the object does. So all of these manifests
//! are looked at, twice: before the orphans are listed, and once more before they are deleted.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::error::{Code, Error};
use crate::maintenance::{LOOKS, look_at_each};
use crate::manifest::stored::Summary;
use crate::naming::keys::{ObjectKind, ObjectName, may_be_manifest_of_run, started};
use crate::naming::uri::Location;
use crate::s3::bucket::Bucket;
use crate::s3::failure::Failure;
use crate::s3::listing::PAGE;
use crate::s3::object::{DELETE_BATCH, Deletion};

/// Something without a manifest.
#[derive(Debug)]
pub struct Orphan {
    /// The export that it belongs to.
    pub export_id: Uuid,
    /// Its key.
    pub key: String,
    /// An object, of so many bytes, or a multipart upload.
    pub what: What,
}

/// Kinds of orphans.
#[derive(Debug)]
pub enum What {
    /// Size in bytes.
    Object(u64),
    /// By its id.
    Upload(String),
}

/// The result of [`find`].
#[derive(Debug)]
pub struct Found {
    /// Objects, then multipart uploads.
    pub orphans: Vec<Orphan>,
    /// The answer of a store that lists no multipart uploads.
    pub unlisted_uploads: Option<Error>,
}

/// Orphans below `location` of exports that began before `before` (milliseconds since 1970, as in their ids). Two listings:
/// first the manifests, of which only the ids are kept, so that memory grows with orphans and exports alone.
pub async fn find(bucket: &Arc<Bucket>, location: &Location, before: u64) -> Result<Found, Failure> {
    let prefix = location.folder();
    let (mut complete, mut of_runs) = (HashSet::new(), Vec::new());
    let visit = |object: crate::s3::listing::Listed| {
        match ObjectName::parse(&object.key) {
            Some(name) if name.kind == ObjectKind::Manifest => drop(complete.insert(name.export_id)),
            None if may_be_manifest_of_run(&object.key) => of_runs.push(object.key),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    bucket.each_object(&prefix, PAGE, visit).await?;
    complete.extend(exports_of(bucket, of_runs, before).await?);
    // A large manifest is uploaded in parts as well, and may be left half-way.
    let is_orphan = |name: &ObjectName| name.started().is_some_and(|at| at < before) && !complete.contains(&name.export_id);
    let mut orphans = Vec::new();
    each_object(bucket, &prefix, |name, key, bytes| {
        if is_orphan(&name) {
            orphans.push(Orphan { export_id: name.export_id, key, what: What::Object(bytes) });
        }
    })
    .await?;
    let visit = |upload: crate::s3::listing::ListedUpload| {
        if let Some(name) = ObjectName::parse(&upload.key).filter(is_orphan) {
            orphans.push(Orphan { export_id: name.export_id, key: upload.key, what: What::Upload(upload.upload_id) });
        }
    };
    let unlisted_uploads = match bucket.each_upload(bucket.policy().files, &prefix, visit).await {
        Ok(()) => None,
        // The store knows no such request. Objects were listed just now, so the bucket is there.
        Err(failure) if matches!(failure.status, Some(404 | 405 | 501)) => Some(failure.error),
        Err(failure) => return Err(failure),
    };
    Ok(Found { orphans, unlisted_uploads })
}

async fn each_object(bucket: &Bucket, prefix: &str, mut visit: impl FnMut(ObjectName, String, u64)) -> Result<(), Failure> {
    let visit = |object: crate::s3::listing::Listed| {
        if let Some(name) = ObjectName::parse(&object.key) {
            visit(name, object.key, object.bytes);
        }
        ControlFlow::Continue(())
    };
    bucket.each_object(prefix, PAGE, visit).await
}

fn denied(failure: Failure) -> Failure {
    let hint = "cleanup needs s3:GetObject on manifests, and s3:ListBucket, without which S3 hides that there is none: \
                s3_export.iam_policy(…, 'cleanup') prints both.";
    if failure.status == Some(403) { Failure { error: failure.error.hint(hint), ..failure } } else { failure }
}

fn unreadable(failure: Failure) -> Failure {
    let hint = "The object has the name of a run's manifest, and cleanup cannot tell which files it lists. Delete or rename the object.";
    if failure.error.code() == Code::Limit { Failure { error: failure.error.hint(hint), ..failure } } else { failure }
}

impl Bucket {
    /// Whether an object has one of these keys, the export's own folder first. `false` only where a whole listing does not show it,
    /// and a HEAD finds none.
    pub async fn has_manifest(&self, keys: &[String]) -> Result<bool, Failure> {
        for (key, is_outside) in keys.iter().zip(std::iter::once(false).chain(std::iter::repeat(true))) {
            match self.is_there(key).await {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                // What may not be looked at may be there.
                Err(failure) if is_outside && failure.status == Some(403) => return Ok(true),
                Err(failure) => return Err(failure),
            }
        }
        Ok(false)
    }

    async fn is_there(&self, key: &str) -> Result<bool, Failure> {
        Ok(self.listed_bytes(key).await?.is_some() || self.head(key).await.map_err(denied)?.is_some())
    }

    /// Returns the export whose manifest has that key; none where there is no such object, or the object is no manifest. Of a manifest
    /// that has replaced another since `before`, both exports: its transaction may fail in another cluster, and put the other back.
    async fn exports_of(&self, key: &str, before: u64, reads: &Mutex<()>) -> Result<Vec<Uuid>, Failure> {
        let Some(head) = self.head(key).await.map_err(denied)? else { return Ok(Vec::new()) };
        let id = |text: Option<String>| text.and_then(|id| Uuid::try_parse(&id).ok());
        if let Some(export_id) = id(head.export_id) {
            let is_young = started(export_id).is_none_or(|at| at >= before);
            return Ok([Some(export_id), id(head.predecessor).filter(|_| is_young)].into_iter().flatten().collect());
        }
        // Whoever has copied the bucket may have lost the mark.
        let _alone = reads.lock().await;
        let stored = self.get(key, MOST_BYTES).await.map_err(denied).map_err(unreadable)?;
        let summary = stored.and_then(|stored| Summary::parse(&self.url(key), &stored.body).ok());
        Ok(summary.map(|summary| summary.export_id).into_iter().collect())
    }
}

/// Most bytes of a manifest that is read where nothing but its text tells of which export it is.
const MOST_BYTES: u64 = 256 << 20;

/// Returns the exports whose manifests have these keys.
async fn exports_of(bucket: &Arc<Bucket>, keys: Vec<String>, before: u64) -> Result<HashSet<Uuid>, Failure> {
    let mut exports = HashSet::new();
    // Whole manifests are in memory one at a time.
    let reads = Arc::new(Mutex::new(()));
    let look = |key: String| {
        let (bucket, reads) = (Arc::clone(bucket), Arc::clone(&reads));
        async move { bucket.exports_of(&key, before, &reads).await }
    };
    let visit = |ids: Vec<Uuid>| {
        exports.extend(ids);
        ControlFlow::Continue(())
    };
    look_at_each(keys, LOOKS, look, visit).await?;
    Ok(exports)
}

/// Returns the exports whose manifests have names of runs and lie in the folder itself. `None`: the folder may not be listed.
async fn runs_within(bucket: &Arc<Bucket>, folder: &str, before: u64) -> Result<Option<HashSet<Uuid>>, Failure> {
    let mut keys = Vec::new();
    let prefix = format!("{folder}_");
    let visit = |object: crate::s3::listing::Listed| {
        if may_be_manifest_of_run(&object.key) && !object.key.get(prefix.len()..).unwrap_or_default().contains('/') {
            keys.push(object.key);
        }
        ControlFlow::Continue(())
    };
    match bucket.each_object(&prefix, PAGE, visit).await {
        Ok(()) => exports_of(bucket, keys, before).await.map(Some),
        Err(failure) if failure.status == Some(403) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Those of `orphans` that are of no run's export now.
async fn of_no_run(bucket: &Arc<Bucket>, orphans: Vec<Orphan>, before: u64) -> Result<Vec<Orphan>, Failure> {
    let mut known: HashMap<String, Option<HashSet<Uuid>>> = HashMap::new();
    let mut still = Vec::new();
    'orphans: for orphan in orphans {
        let manifest_keys = ObjectName::parse(&orphan.key).map(|name| name.manifest_keys).unwrap_or_default();
        for key in &manifest_keys {
            let folder = key.rfind('/').map_or("", |slash| key.get(..=slash).unwrap_or_default());
            if !known.contains_key(folder) {
                known.insert(folder.to_owned(), runs_within(bucket, folder, before).await?);
            }
            // What may not be listed may hold the manifest.
            let of_run = known.get(folder).and_then(Option::as_ref).is_none_or(|runs| runs.contains(&orphan.export_id));
            if of_run {
                continue 'orphans;
            }
        }
        still.push(orphan);
    }
    Ok(still)
}

/// Those of `orphans` whose exports have no manifest now. `before`: as for [`find`].
pub async fn still_orphans(bucket: &Arc<Bucket>, orphans: Vec<Orphan>, before: u64) -> Result<Vec<Orphan>, Failure> {
    let orphans = of_no_run(bucket, orphans, before).await?;
    let mut manifests: HashMap<Uuid, bool> = HashMap::new();
    let mut still = Vec::new();
    for orphan in orphans {
        let complete = match (manifests.get(&orphan.export_id), ObjectName::parse(&orphan.key)) {
            (Some(&known), _) => known,
            (None, Some(name)) => bucket.has_manifest(&name.manifest_keys).await?,
            (None, None) => true,
        };
        manifests.insert(orphan.export_id, complete);
        if !complete {
            still.push(orphan);
        }
    }
    Ok(still)
}

/// Deletes them; says for each whether it is gone.
pub async fn delete(bucket: &Bucket, orphans: &[Orphan]) -> Result<Vec<bool>, Failure> {
    let mut gone = vec![false; orphans.len()];
    // Before the objects: what a completion under way would make is deleted after it.
    for (orphan, gone) in orphans.iter().zip(&mut gone) {
        if let What::Upload(upload_id) = &orphan.what {
            *gone = bucket.abort_multipart(&orphan.key, upload_id).await.is_ok();
        }
    }
    let objects: Vec<usize> = (0..orphans.len()).filter(|&index| matches!(orphans[index].what, What::Object(_))).collect();
    for batch in objects.chunks(DELETE_BATCH) {
        let deletion = |&index: &usize| Deletion { key: orphans[index].key.clone(), version_id: None };
        let deletions: Vec<Deletion> = batch.iter().map(deletion).collect();
        let left = match bucket.delete(&deletions).await {
            Ok(left) => left,
            // Some stores lack DeleteObjects.
            Err(failure) if !failure.transient => deletions.iter().map(|deletion| deletion.key.clone()).collect(),
            Err(failure) => return Err(failure),
        };
        for (&index, deletion) in batch.iter().zip(&deletions) {
            gone[index] = !left.contains(&deletion.key) || bucket.delete_one(deletion).await.is_ok();
        }
    }
    Ok(gone)
}
