//! Objects and uploads that a rollback has to take back, as far as they are known.
#![forbid(unsafe_code)]

use crate::s3::object::Role;

/// A multipart upload that holds storage until it is completed or aborted.
#[derive(Debug, Clone)]
pub struct OpenMultipart {
    /// The object's key.
    pub key: String,
    /// S3's id of the upload.
    pub upload_id: String,
}

/// Objects and uploads that a rollback has to take back.
#[derive(Debug, Default)]
pub struct RollbackPlan {
    /// Manifests and the marker that may be there, the last first.
    pub commit_objects: Vec<LeftoverCommitObject>,
    /// The files that may be there.
    pub files: Vec<LeftoverFile>,
    /// Keys that may have uploads whose ids are not known.
    pub creating: Vec<String>,
    /// Uploads to abort.
    pub multiparts: Vec<OpenMultipart>,
}

/// A manifest or marker that may be there.
#[derive(Debug, Clone)]
pub struct LeftoverCommitObject {
    /// Which.
    pub role: Role,
    /// Version id, where it is known.
    pub version_id: Option<String>,
    /// A request for it was cut off, or an answer has not come: it may come to be there still, once more.
    pub is_unknown: bool,
}

/// A file that may be there.
#[derive(Debug, Clone)]
pub struct LeftoverFile {
    /// From 1.
    pub number: u64,
    /// Version id, where it is known.
    pub version_id: Option<String>,
    /// A request for it was cut off, or an answer was lost: it may come to be there still, once more.
    pub is_unknown: bool,
}

impl RollbackPlan {
    /// Whether a request was cut off.
    pub fn has_unknown(&self) -> bool {
        self.commit_objects.iter().any(|commit_object| commit_object.is_unknown)
            || self.files.iter().any(|file| file.is_unknown)
            || !self.creating.is_empty()
    }

    /// Whether a multipart upload may hold storage.
    pub fn has_uploads(&self) -> bool {
        !self.multiparts.is_empty() || !self.creating.is_empty()
    }

    /// Only what was cut off.
    pub fn unknown(&self) -> Self {
        // Without the version that is known: what is there beside it is to be deleted, or hidden.
        let unversioned = |file: &LeftoverFile| LeftoverFile { version_id: None, ..file.clone() };
        let files = self.files.iter().filter(|file| file.is_unknown).map(unversioned).collect();
        let unversioned =
            |commit_object: &LeftoverCommitObject| LeftoverCommitObject { version_id: None, ..commit_object.clone() };
        let commit_objects =
            self.commit_objects.iter().filter(|commit_object| commit_object.is_unknown).map(unversioned).collect();
        RollbackPlan { commit_objects, files, creating: self.creating.clone(), ..RollbackPlan::default() }
    }
}
