//! Deletions: by version where one is known, and by a delete marker where a version may not be deleted.
//!
//! A version under Object Lock stays until its retention ends, and so does a version whose deletion the integration's identity lacks the
//! right for. An aborted export must be absent all the same. A DELETE without a version puts a marker over the object, so that no reader
//! sees it.
#![forbid(unsafe_code)]

use tokio::time::{Instant, timeout_at};

use crate::s3::failure::Failure;
use crate::s3::object::Deletion;
use crate::upload::rollback::RollbackReport;
use crate::upload::shared::Shared;

/// Deletes or hides at most [`crate::s3::object::DELETE_BATCH`] objects, until `deadline`. What may remain is in the report.
pub async fn delete_batch(shared: &Shared, batch: &[Deletion], deadline: Instant, report: &mut RollbackReport) {
    let Some(left) = delete_together(shared, batch, deadline, report).await else { return };
    let Some((first, rest)) = left.split_first() else { return };
    if !delete_singly(shared, std::slice::from_ref(first), deadline, report).await {
        return report.keep(rest.iter().map(|deletion| shared.destination.url(&deletion.key)), None);
    }
    if !report.versions_stay {
        delete_singly(shared, rest, deadline, report).await;
    } else if let Some(left) = delete_together(shared, rest, deadline, report).await {
        // The first has shown that versions stay: markers hide the others, in one request.
        delete_singly(shared, &left, deadline, report).await;
    }
}

/// Deletes these objects in one request, and returns those that are to be deleted one by one. `None`: none can be now.
async fn delete_together(
    shared: &Shared,
    batch: &[Deletion],
    deadline: Instant,
    report: &mut RollbackReport,
) -> Option<Vec<Deletion>> {
    // The only file, under a name of the user's, is looked at before it is hidden.
    if report.versions_stay && shared.destination.has_named_file() {
        return Some(batch.to_vec());
    }
    let batch: Vec<Deletion> =
        batch.iter().map(|deletion| if report.versions_stay { deletion.marker() } else { deletion.clone() }).collect();
    match timeout_at(deadline, shared.bucket.delete(&batch)).await {
        Ok(Ok(failed)) => Some(batch.into_iter().filter(|deletion| failed.contains(&deletion.key)).collect()),
        // Some stores lack DeleteObjects, or want it with a digest of their own choice.
        Ok(Err(failure)) if !failure.transient => Some(batch),
        failed => {
            let cause = failed.ok().and_then(Result::err).map(|failure| failure.error);
            report.keep(batch.iter().map(|deletion| shared.destination.url(&deletion.key)), cause);
            None
        }
    }
}

/// Deletes or hides these objects one by one, and says whether all are gone. Ends with the first that fails, since the others would as
/// well.
pub async fn delete_singly(shared: &Shared, deletions: &[Deletion], deadline: Instant, report: &mut RollbackReport) -> bool {
    for (index, deletion) in deletions.iter().enumerate() {
        let failed = match timeout_at(deadline, delete_or_hide(shared, deletion, &mut report.versions_stay)).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        let rest = deletions.get(index..).unwrap_or_default();
        report.keep(rest.iter().map(|deletion| shared.destination.url(&deletion.key)), failed);
        return false;
    }
    true
}

/// Deletes one object, or hides it where its version may not be deleted. `versions_stay`: whether that is known of the bucket.
async fn delete_or_hide(shared: &Shared, deletion: &Deletion, versions_stay: &mut bool) -> Result<(), Failure> {
    let mut refusal = None;
    if deletion.version_id.is_none() || !*versions_stay {
        match shared.bucket.delete_one(deletion).await {
            Err(failure) if deletion.version_id.is_some() && !failure.transient => refusal = Some(failure),
            other => return other,
        }
    }
    hide(shared, deletion).await.map_err(|failure| refusal.unwrap_or(failure))?;
    *versions_stay = true;
    Ok(())
}

/// Puts a delete marker over the object. Under a name of the user's there may be somebody else's object by now, or the manifest that was
/// put back: a version below it is seen by no reader.
async fn hide(shared: &Shared, deletion: &Deletion) -> Result<(), Failure> {
    if shared.destination.is_named(&deletion.key) {
        let head = shared.bucket.head_within(shared.bucket.policy().clean_up, &deletion.key).await?;
        let export_id = shared.destination.export_id().to_string();
        if head.and_then(|head| head.export_id).is_none_or(|of| of != export_id) {
            return Ok(());
        }
    }
    shared.bucket.delete_one(&deletion.marker()).await
}
