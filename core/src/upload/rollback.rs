//! Taking back what an export has written.
//!
//! The manifest goes first: from then on no reader takes the rest for an export. Every key that may be there is deleted,
//! whether or not its PUT was answered. Multipart uploads are aborted, since their parts cost money and show in no listing.
//!
//! The manifest of an export that was to replace another is not deleted: the manifest of the other is put back (`replaced`). Where that
//! fails, the files stay. A reader then sees an export that is whole, and not one that lacks its files.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::{Code, Error};
use crate::naming::keys::Destination;
use crate::s3::object::{DELETE_BATCH, Deletion, Object, Role};
use crate::upload::deletion::{delete_batch, delete_singly};
use crate::upload::leftovers::{LeftoverCommitObject, LeftoverFile, RollbackPlan};
use crate::upload::shared::Shared;

/// How many of the objects that remain are named.
const MAX_NAMED: usize = 3;

/// Result of a rollback: the objects that may remain.
#[derive(Debug, Default)]
pub struct RollbackReport {
    /// How many objects may still be there.
    pub count: usize,
    /// URLs of the first of them.
    pub named: Vec<String>,
    /// Why, the first time.
    pub cause: Option<Error>,
    /// Whether the manifest may stand in the place of the one that it was to replace, so that the files were left.
    pub may_stand: bool,
    /// Whether versions of objects may not be deleted, so that delete markers hide them.
    pub(super) versions_stay: bool,
    /// URLs of objects whose deletion is tried once more, and which are counted at the end.
    counted_later: HashSet<String>,
}

impl RollbackReport {
    /// Nobody knows what is deleted.
    pub fn unanswered() -> Self {
        let cause = Error::new(Code::Internal, "the clean-up gave no answer");
        RollbackReport { cause: Some(cause), ..RollbackReport::default() }
    }

    /// Whether all is taken back.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.cause.is_none() && !self.may_stand
    }

    /// A million files may remain: only those that are named are looked at twice.
    pub(super) fn keep(&mut self, urls: impl Iterator<Item = String>, cause: Option<Error>) {
        for url in urls {
            if self.counted_later.contains(&url) || self.named.contains(&url) {
                continue;
            }
            self.count += 1;
            if self.named.len() < MAX_NAMED {
                self.named.push(url);
            }
        }
        if self.cause.is_none() {
            self.cause = cause;
        }
    }

    /// Counts files that remain, a million of them in no time.
    fn keep_files(&mut self, destination: &Destination, files: &[LeftoverFile]) {
        for file in files.iter().filter(|file| !file.is_unknown) {
            self.count += 1;
            if self.named.len() < MAX_NAMED {
                self.named.push(destination.url(&destination.file_key(file.number)));
            }
        }
    }
}

/// How long requests under way have to be answered before they are cut off; and how long one that was cut off has to be done
/// all the same, before its object is deleted again.
const SETTLING_TIME: Duration = Duration::from_millis(150);

/// Deletes everything the export wrote, until `deadline`.
pub async fn clean_up(shared: Arc<Shared>, deadline: Instant) -> RollbackReport {
    // The uploads were aborted just now; this lets them go before the requests that they made are waited for.
    tokio::task::yield_now().await;
    shared.settle(deadline.saturating_duration_since(Instant::now()).min(SETTLING_TIME)).await;
    // Behind a proxy that opens no tunnel, deletions would wait in vain for what is not there.
    if shared.bucket.is_untouched() {
        return RollbackReport::default();
    }
    let leftovers = shared.ledger.leftovers();
    let mut report = RollbackReport {
        // Those of Object Lock stay for certain.
        versions_stay: shared.bucket.settings().lock.is_some(),
        counted_later: unknown_urls(&shared, &leftovers.unknown()).collect(),
        ..RollbackReport::default()
    };
    // All exports of a transaction may be taken back at once, and share its connections.
    let Ok(_permit) = timeout_at(deadline, shared.requests.permit()).await else {
        return untouched(&shared, &leftovers);
    };
    delete_commit_objects(&shared, &leftovers.commit_objects, deadline, &mut report).await;
    if report.may_stand {
        abort_multiparts(&shared, &leftovers, deadline, &mut report).await;
        report.counted_later.clear();
        name_unknown(&shared, &leftovers.unknown(), &mut report);
        report.keep_files(&shared.destination, &leftovers.files);
        return report;
    }
    // Before the files: a completion that is under way would make its file anew. With half of the time, so that the files have
    // some whatever becomes of the uploads.
    let half_time = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    abort_multiparts(&shared, &leftovers, half_time, &mut report).await;
    delete_files(&shared, &leftovers.files, deadline, &mut report).await;
    if leftovers.has_unknown() || leftovers.has_uploads() {
        tokio::time::sleep_until(deadline.min(Instant::now() + SETTLING_TIME)).await;
        // A part that was under way may have been stored after the first abort, and would cost money for ever.
        abort_multiparts(&shared, &leftovers, deadline, &mut report).await;
        let unknown = leftovers.unknown();
        delete_commit_objects(&shared, &unknown.commit_objects, deadline, &mut report).await;
        delete_files(&shared, &unknown.files, deadline, &mut report).await;
        report.counted_later.clear();
        name_unknown(&shared, &unknown, &mut report);
    }
    report
}

/// The report where nothing was deleted.
fn untouched(shared: &Shared, leftovers: &RollbackPlan) -> RollbackReport {
    let has_manifest = leftovers.commit_objects.iter().any(|left| left.role == Role::Manifest);
    let may_stand = has_manifest && shared.replaced.get().is_some();
    let mut report = RollbackReport { may_stand, ..RollbackReport::default() };
    let announced = leftovers.commit_objects.iter().filter(|commit_object| !commit_object.is_unknown);
    report.keep(announced.filter_map(|commit_object| url_of(shared, commit_object.role)), None);
    report.keep_files(&shared.destination, &leftovers.files);
    name_unknown(shared, &leftovers.unknown(), &mut report);
    report
}

/// The report where nobody knows what was deleted.
pub fn unanswered(shared: &Shared) -> RollbackReport {
    let report = untouched(shared, &shared.ledger.leftovers());
    RollbackReport { cause: report.cause.or(RollbackReport::unanswered().cause), ..report }
}

/// A store that has a request already may carry it out after the last delete, however late that is.
fn name_unknown(shared: &Shared, unknown: &RollbackPlan, report: &mut RollbackReport) {
    if !unknown.has_unknown() {
        return;
    }
    let cut_off = Error::new(Code::Connection, "requests were cut off before S3 had answered them");
    report.keep(unknown_urls(shared, unknown), Some(cut_off));
}

fn unknown_urls(shared: &Shared, unknown: &RollbackPlan) -> impl Iterator<Item = String> {
    let announced = unknown.commit_objects.iter().map(|commit_object| commit_object.role);
    let objects = announced.chain(unknown.files.iter().map(|file| Role::File(file.number)));
    let uploads: Vec<String> = unknown.creating.iter().map(|key| url_of_upload(shared, key)).collect();
    objects.filter_map(|role| url_of(shared, role)).chain(uploads)
}

/// The name of an upload whose id nobody knows.
fn url_of_upload(shared: &Shared, key: &str) -> String {
    format!("{} (multipart upload)", shared.destination.url(key))
}

fn url_of(shared: &Shared, role: Role) -> Option<String> {
    Object::of(&shared.destination, role).map(|object| shared.destination.url(&object.key))
}

async fn abort_multiparts(shared: &Shared, leftovers: &RollbackPlan, deadline: Instant, report: &mut RollbackReport) {
    // Asked for, and cut off before there was an answer with an id.
    for key in &leftovers.creating {
        // Another upload of a key of the user's making may be another export's.
        let abort = async {
            let is_named = shared.destination.is_named(key);
            if is_named { Ok(false) } else { shared.bucket.abort_uploads_of(key, None).await.map(|()| true) }
        };
        let failed = match timeout_at(deadline, abort).await {
            Ok(Ok(true)) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Ok(Ok(false)) | Err(_) => None,
        };
        report.keep([url_of_upload(shared, key)].into_iter(), failed);
    }
    for upload in &leftovers.multiparts {
        let abort = shared.bucket.abort_multipart(&upload.key, &upload.upload_id);
        let failed = match timeout_at(deadline, abort).await {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => Some(failure.error),
            Err(_) => None,
        };
        let url = shared.destination.url(&upload.key);
        report.keep([format!("{url} (multipart upload {})", upload.upload_id)].into_iter(), failed);
    }
}

/// One by one, since one request for several deletes in no particular order.
async fn delete_commit_objects(shared: &Shared, all: &[LeftoverCommitObject], deadline: Instant, report: &mut RollbackReport) {
    for left in all {
        let LeftoverCommitObject { role, version_id, is_unknown } = left;
        let Some(object) = Object::of(&shared.destination, *role) else { continue };
        if let Some(replaced) = shared.replaced.get().filter(|_| *role == Role::Manifest) {
            let is_back = replaced.put_back(shared, &object, *is_unknown, deadline, report).await;
            report.may_stand |= !is_back;
            if let Some(version_id) = version_id.clone().filter(|version_id| is_back && is_unique(version_id)) {
                // It lies below the other by now.
                let deletion = Deletion { key: object.key, version_id: Some(version_id) };
                delete_singly(shared, &[deletion], deadline, report).await;
            }
            continue;
        }
        let is_known = !is_unknown && version_id.as_deref().is_some_and(is_unique);
        if is_known || is_ours(shared, &object, deadline, report).await {
            let deletion = Deletion { key: object.key, version_id: version_id.clone() };
            delete_singly(shared, &[deletion], deadline, report).await;
        }
    }
}

/// Whether no other object has that version id: where versioning is suspended, each object in turn has the version `null`.
fn is_unique(version_id: &str) -> bool {
    version_id != "null"
}

/// Under a name of the user's there may be somebody else's object by now. One that cannot be looked at is left, and named.
async fn is_ours(shared: &Shared, object: &Object, deadline: Instant, report: &mut RollbackReport) -> bool {
    if object.claim.is_none() {
        return true;
    }
    let look = shared.bucket.head_within(shared.bucket.policy().clean_up, &object.key);
    let cause = match timeout_at(deadline, look).await {
        Ok(Ok(head)) => return head.is_some_and(|head| head.is_of(object)),
        Ok(Err(failure)) => Some(failure.error),
        Err(_) => None,
    };
    report.keep([shared.destination.url(&object.key)].into_iter(), cause);
    false
}

async fn delete_files(shared: &Shared, all: &[LeftoverFile], deadline: Instant, report: &mut RollbackReport) {
    // The only file may have a name of the user's.
    let may_be_others = |file: &&LeftoverFile| file.is_unknown || !file.version_id.as_deref().is_some_and(is_unique);
    let named = all.first().filter(may_be_others).filter(|_| shared.destination.has_named_file());
    if let Some(object) = named.and_then(|file| Object::of(&shared.destination, Role::File(file.number)))
        && !is_ours(shared, &object, deadline, report).await
    {
        return;
    }
    for (files, after) in all.chunks(DELETE_BATCH).zip((1..).map(|number| number * DELETE_BATCH)) {
        if Instant::now() >= deadline {
            return report.keep_files(&shared.destination, all.get(after - DELETE_BATCH..).unwrap_or_default());
        }
        let mut batch = Vec::with_capacity(files.len());
        for file in files {
            let key = shared.destination.file_key(file.number);
            batch.push(Deletion { key, version_id: file.version_id.clone() });
        }
        delete_batch(shared, &batch, deadline, report).await;
    }
}
