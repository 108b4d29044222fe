//! Objects under names of the user's making, which may be somebody else's.
//!
//! A write on condition (`If-None-Match`) is what keeps them from being overwritten. Some stores refuse it, some ignore it, and some
//! obey it at a PUT and ignore it at the end of a multipart upload (Ceph; in a bucket with versions at a PUT too). So they are looked at
//! as well: before the query runs, since an export of hours should not end at its last request, and, away from Amazon, before the PUT
//! and before a multipart upload is completed. There, an object that may not be looked at is refused: nobody knows what the store makes
//! of the condition.
#![forbid(unsafe_code)]

use crate::error::{Code, Error};
use crate::s3::bucket::Bucket;
use crate::s3::failure::Failure;
use crate::s3::object::{Object, Role};

/// The reaction where a right is missing to look at an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// Go on: the store obeys the condition of the write.
    Go,
    /// Refuse: nothing else may keep the object from being overwritten.
    Refuse,
}

impl Bucket {
    /// The reaction where an object may not be looked at and its write has a condition.
    pub fn blind(&self) -> Blind {
        if self.knows_condition() { Blind::Go } else { Blind::Refuse }
    }

    /// Errors: 42710 when somebody else's object has the key. `blind`: the reaction where nobody may look.
    pub async fn refuse_taken(&self, object: &Object, blind: Blind) -> Result<(), Failure> {
        match self.head_within(self.policy_for(object.role), &object.key).await {
            Ok(None) if object.replaces.is_none() => Ok(()),
            Ok(Some(head)) if head.is_of(object) => Ok(()),
            Ok(Some(head)) if object.replaces.is_some() && head.etag == object.replaces => Ok(()),
            Ok(_) => Err(self.taken(object)),
            Err(failure) if failure.status == Some(403) && blind == Blind::Go => Ok(()),
            Err(failure) if failure.status == Some(403) => Err(self.unguarded(object)),
            Err(failure) => Err(failure),
        }
    }

    /// Returns the version id of the object for which the store said 412, where the export itself has made it: an answer was lost on the
    /// way, or a proxy sent the request again. `lost`: an answer is known to be. Errors: 42710 when the object is somebody else's, or
    /// may not be looked at and no answer is known to be lost. Where the look fails, the request may have made the object.
    pub async fn resolve_conflict(&self, object: &Object, lost: bool) -> Result<Option<String>, Failure> {
        match self.head_within(self.policy_for(object.role), &object.key).await {
            Ok(Some(head)) if head.is_of(object) => Ok(head.version_id),
            Ok(_) => Err(self.taken(object)),
            Err(failure) if failure.status == Some(403) && !lost => {
                Err(Failure { outcome_unknown: true, ..self.taken(object) })
            }
            Err(failure) => Err(Failure { outcome_unknown: true, ..failure }),
        }
    }

    /// Its key is another object's.
    fn taken(&self, object: &Object) -> Failure {
        if object.replaces.is_some() {
            let message = format!("object {} has changed since the export began", self.url(&object.key));
            return Failure::permanent(
                Error::new(Code::Duplicate, message)
                    .detail("Another run has replaced or deleted the object. Nothing is overwritten.")
                    .hint("Run the export again."),
            );
        }
        let exists = Error::new(Code::Duplicate, format!("object {} exists already", self.url(&object.key)));
        if object.role == Role::Manifest {
            return Failure::permanent(
                exists.detail("Another run has written the manifest. Nothing is overwritten.").hint("Run the export again."),
            );
        }
        Failure::permanent(
            exists.detail("Nothing is overwritten.").hint("Choose another name or location, or delete the object."),
        )
    }

    fn unguarded(&self, object: &Object) -> Failure {
        let what = format!("the store cannot be relied on not to overwrite {}", self.url(&object.key));
        Failure::permanent(
            Error::new(Code::Unsupported, what)
                .detail("The answer to a look at the object is 403, and a store may refuse or ignore If-None-Match.")
                .hint(
                    "Grant s3:GetObject and s3:ListBucket, or leave out single_file's name, manifest_name, success_marker and run_key.",
                ),
        )
    }
}
