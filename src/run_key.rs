//! Runs with a key (option `run_key`): a key has one run at most, however often and by whomever it is asked for.
//!
//! ```text
//! wait for transactions of this cluster that hold the key ──► read the manifest of the key ──► none: export
//!                                                                     └─► there is one: return it, refuse, or replace it
//! ```
//!
//! The write of the manifest has a condition, so that of two clusters one fails.
#![forbid(unsafe_code)]

use std::sync::Arc;

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::maintenance::presence;
use s3_export_core::manifest::stored::{self, Summary};
use s3_export_core::naming::keys::Destination;
use s3_export_core::request::options::ExistingRun;
use s3_export_core::s3::checksum::sha256;
use s3_export_core::s3::client::Store;
use s3_export_core::s3::get::Stored;
use s3_export_core::s3::{Bucket, RetryPolicies, Throttle};
use s3_export_core::upload;
use s3_export_core::upload::replaced::Replaced;

use crate::pg::lock::Lock;
use crate::settings;
use crate::transaction;

/// The run that has a key.
pub enum Run {
    /// None yet.
    Free,
    /// One that is returned in place of an export.
    Returned(Summary),
    /// One that the commit of the export replaces.
    Replaced(Replaced),
}

/// Holds the key of the run until the end of the transaction, and looks which run has it. Errors: 42710 when there is one and
/// `existing` says so, or when this transaction has exported under the key.
pub fn claim(store: &Store, destination: &Destination, existing: ExistingRun) -> Result<Run> {
    hold(destination)?;
    let Some((stored, summary)) = read_manifest(store, destination)? else { return Ok(Run::Free) };
    let url = destination.url(&destination.manifest_key());
    match existing {
        ExistingRun::Return => {
            refuse_without_files(store, destination, &stored, Files::Ends)?;
            complete(store, destination, &stored, &summary)?;
            Ok(Run::Returned(summary))
        }
        ExistingRun::Replace => Replaced::new(&url, &stored, &summary).map(Run::Replaced),
        ExistingRun::Error => Err(is_taken(&url, &summary)),
    }
}

/// Looks which run has the key, without waiting for other transactions, and writes nothing. Errors: as of [`claim`].
pub fn look(store: &Store, destination: &Destination, existing: ExistingRun) -> Result<Option<Summary>> {
    let url = destination.url(&destination.manifest_key());
    refuse_own(&url)?;
    let Some((stored, summary)) = read_manifest(store, destination)? else { return Ok(None) };
    match existing {
        ExistingRun::Return => refuse_without_files(store, destination, &stored, Files::Ends)?,
        ExistingRun::Replace => drop(Replaced::new(&url, &stored, &summary)?),
        ExistingRun::Error => return Err(is_taken(&url, &summary)),
    }
    Ok(Some(summary))
}

fn is_taken(url: &str, summary: &Summary) -> Error {
    Error::new(Code::Duplicate, "a run has the run_key already")
        .detail(format!("{url} is the manifest of export {}.", summary.export_id))
        .hint("Choose another run_key, or another existing_run.")
}

/// Errors: 42710 when this transaction has exported under the key.
fn refuse_own(url: &str) -> Result<()> {
    if !transaction::writes_manifest(url) {
        return Ok(());
    }
    Err(Error::new(Code::Duplicate, "this transaction has exported under the run_key already")
        .detail(format!("Its commit writes {url}."))
        .hint("Commit the transaction first, or choose another run_key."))
}

/// Files that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Each that the manifest lists.
    All,
    /// The first and the last.
    Ends,
}

/// Errors: 55000 when a file is gone that the manifest lists. A request for the manifest may be carried out after its export has been taken
/// back, however late that is; nobody may build on such a manifest.
pub fn refuse_without_files(store: &Store, destination: &Destination, stored: &Stored, which: Files) -> Result<()> {
    let url = destination.url(&destination.manifest_key());
    let mut files = stored::files(&url, &stored.body)?;
    if which == Files::Ends && files.len() > 2 {
        files = files.first().into_iter().chain(files.last()).cloned().collect();
    }
    let policy = RetryPolicies::all(transaction::call_policy());
    let bucket = Arc::new(Bucket::new(store.clone(), destination.bucket(), policy, Throttle::new(1)));
    let missing =
        transaction::call_store(|_| async move { presence::missing(&bucket, files).await.map_err(|failure| failure.error) })?;
    match missing {
        None => Ok(()),
        Some(file) => Err(Error::new(Code::NotReady, format!("{url} lists a file that is missing or has another size"))
            .detail(format!("The file is {file}. An export that was taken back may have left the manifest."))
            .hint("If nobody has deleted or changed the file, delete the manifest, and run the export again.")),
    }
}

/// Writes the copy of the manifest and the marker that the run lacks: the result names the copy, and a reader may wait for either.
fn complete(store: &Store, destination: &Destination, stored: &Stored, summary: &Summary) -> Result<()> {
    if destination.manifest_copy_key().is_none() && destination.success_marker_key().is_none() {
        return Ok(());
    }
    let (destination, manifest) = (destination.of_export(summary.export_id), stored.body.clone());
    let policy = RetryPolicies::all(transaction::call_policy());
    let bucket = Bucket::new(store.clone(), destination.bucket(), policy, Throttle::new(1));
    transaction::call_store(|_| async move { upload::complete(&bucket, &destination, manifest).await })
}

/// Waits until no other transaction of this cluster holds the key of the run, then holds it to the end of this one. Errors: 42710 when
/// this transaction has exported under the key.
pub fn hold(destination: &Destination) -> Result<()> {
    let url = destination.url(&destination.manifest_key());
    refuse_own(&url)?;
    let [a, b, c, d, e, f, g, h, ..] = sha256(url.as_bytes());
    Lock::Run(u64::from_be_bytes([a, b, c, d, e, f, g, h])).hold_alone();
    Ok(())
}

/// Reads the manifest of the run. `None`: there is none. Errors: 42501 when it may not be read, 53400 when it is larger than
/// `s3_export.buffer_memory`, 55000 when the object is no manifest, or another run's.
pub fn read_manifest(store: &Store, destination: &Destination) -> Result<Option<(Stored, Summary)>> {
    let (key, most_bytes) = (destination.manifest_key(), settings::buffer_memory() as u64);
    let url = destination.url(&key);
    let policy = RetryPolicies::all(transaction::call_policy());
    let bucket = Bucket::new(store.clone(), destination.bucket(), policy, Throttle::new(1));
    let stored = transaction::call_store(|_| async move {
        bucket.get(&key, most_bytes).await.map_err(|failure| {
            let hint = "A run_key and a feed need s3:GetObject on manifests, and s3:ListBucket, without which S3 hides that there \
                        is none: s3_export.iam_policy(…, 'run_key') prints both.";
            match failure.status {
                Some(403) => failure.error.hint(hint),
                _ if failure.error.code() == Code::Limit => failure.error.hint("Raise s3_export.buffer_memory."),
                _ => failure.error,
            }
        })
    })?;
    let Some(stored) = stored else { return Ok(None) };
    let summary = Summary::parse(&url, &stored.body)?;
    summary.expect_run(&url, destination.run_key())?;
    Ok(Some((stored, summary)))
}
