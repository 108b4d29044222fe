//! `s3_export.cleanup`: finds, and deletes when told, what a crash has left.
//!
//! ```text
//! old, and without a manifest ──► no transaction of this cluster holds its lock ──► still without a manifest ──► delete
//! ```
//!
//! The age keeps away from exports of other clusters, whose locks cannot be seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3_export_core::error::{Code, Error, Result};
use s3_export_core::maintenance::orphans::{self, Orphan, What};
use s3_export_core::naming::uri::Location;
use s3_export_core::request::Permission;
use s3_export_core::s3::properties::ExportProperties;
use s3_export_core::s3::{Bucket, RetryPolicies, Throttle};
use uuid::Uuid;

use crate::export::{check_context, open};
use crate::integration::{self, Purpose};
use crate::pg::{lock, report};
use crate::transaction;

/// Less is refused without `force`: an export may well take hours.
const LEAST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Arguments of the clean-up.
#[derive(Debug)]
pub struct CleanUp {
    /// Below which to look.
    pub location: Location,
    /// Name of the integration.
    pub integration: String,
    /// Exports that began less long ago are left alone.
    pub older_than: Duration,
    /// Deletes nothing.
    pub dry_run: bool,
    /// Takes an age of less than a day.
    pub force: bool,
}

/// One row.
#[derive(Debug)]
pub struct Finding {
    /// `file` or `multipart upload`
    pub kind: &'static str,
    /// URL of the object.
    pub object: String,
    /// The export that it belongs to.
    pub export_id: Uuid,
    /// `None`: parts have a size, uploads none.
    pub bytes: Option<u64>,
    /// Whether it is gone.
    pub deleted: bool,
}

/// Finds orphans; deletes them unless it is a dry run. Errors: 22023, and those of an export before its query.
pub fn run(clean_up: &CleanUp) -> Result<Vec<Finding>> {
    check_context()?;
    if transaction::has_exports() {
        return Err(Error::new(Code::NotReady, "cannot clean up in a transaction that has exported")
            .detail("The exports of this transaction have no manifest yet.")
            .hint("Commit the transaction or roll it back first."));
    }
    if clean_up.older_than < LEAST_AGE && !clean_up.force {
        return Err(Error::new(Code::InvalidParameter, "older_than must be at least a day")
            .detail("Another cluster, or a transaction that is still open, may own younger files.")
            .hint("Give force => true if you know that there is none of either."));
    }
    let permission = Permission::Integration(clean_up.integration.clone());
    let connection =
        integration::authorize(&permission, &clean_up.location, Purpose::CleanUp, &ExportProperties::default())?.connection;
    let store = open(connection, clean_up.location.bucket())?;
    let policy = RetryPolicies::all(transaction::call_policy());
    let bucket = || Arc::new(Bucket::new(store.clone(), clean_up.location.bucket(), policy, Throttle::new(1)));

    let (listing, location) = (bucket(), clean_up.location.clone());
    let before = milliseconds(SystemTime::now().checked_sub(clean_up.older_than).unwrap_or(SystemTime::UNIX_EPOCH));
    let found = transaction::call_store(|_| async move {
        orphans::find(&listing, &location, before).await.map_err(|failure| failure.error)
    })?;
    if let Some(cause) = found.unlisted_uploads {
        report::warn(
            &Error::new(Code::Unsupported, "the store does not list multipart uploads: only objects are cleaned up")
                .detail(format!("{}.", cause.summary().trim_end_matches('.')))
                .hint("Let a lifecycle rule of the store end uploads that were never completed."),
        );
    }
    let found = not_running(found.orphans);
    let (looking, deleting, dry_run) = (bucket(), bucket(), clean_up.dry_run);
    let (orphans, gone) = transaction::call_store(|_| async move {
        let work = async {
            let orphans = orphans::still_orphans(&looking, found, before).await?;
            let gone = if dry_run { vec![false; orphans.len()] } else { orphans::delete(&deleting, &orphans).await? };
            Ok((orphans, gone))
        };
        work.await.map_err(|failure: s3_export_core::s3::Failure| failure.error)
    })?;
    Ok(orphans.iter().zip(gone).map(|(orphan, deleted)| finding(orphan, deleted, &clean_up.location)).collect())
}

/// Without those of exports that this cluster still runs.
fn not_running(orphans: Vec<Orphan>) -> Vec<Orphan> {
    if lock::any_export_may_run() {
        report::warn(
            &Error::new(Code::NotReady, "a transaction with hundreds of exports is running")
                .detail("No object counts as left behind while that transaction runs."),
        );
        return Vec::new();
    }
    let mut running = HashMap::new();
    orphans
        .into_iter()
        .filter(|orphan| !*running.entry(orphan.export_id).or_insert_with(|| lock::export_runs(orphan.export_id)))
        .collect()
}

fn finding(orphan: &Orphan, deleted: bool, location: &Location) -> Finding {
    let (kind, bytes) = match orphan.what {
        What::Object(bytes) => ("file", Some(bytes)),
        What::Upload(_) => ("multipart upload", None),
    };
    let object = format!("s3://{}/{}", location.bucket(), orphan.key);
    Finding { kind, object, export_id: orphan.export_id, bytes, deleted }
}

fn milliseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
