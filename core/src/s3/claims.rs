//! Objects under names of the user's making, which may be somebody else's.
//!
//! A write on condition (`If-None-Match`) is what keeps them from being overwritten. Some stores refuse it, and some obey it at a PUT
//! and not at the end of a multipart upload. So they are looked at as well: before the query runs, since an export of hours should not
//! end at its last request, and before a multipart upload is completed.
#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::error::{Code, Error};
use crate::naming::keys::Destination;
use crate::s3::bucket::{Bucket, Conditional};
use crate::s3::failure::Failure;
use crate::s3::object::{Deletion, Object, Role};

/// The reaction where a right is missing to look at an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// Go on: the write has a condition.
    Go,
    /// Refuse: nothing else would keep the object from being overwritten.
    Refuse,
}

impl Bucket {
    /// Errors: 42710 when file or manifest would have the name of an object that is there; 0A000 when the store would overwrite one
    /// that may not be looked at. A marker that is there stays, and says what it is to say. `knows_condition`: the store is known
    /// to obey `If-None-Match`.
    pub async fn refuse_taken_names(&self, destination: &Destination, knows_condition: bool) -> Result<(), Failure> {
        let named = |role| Object::of(destination, role).filter(|object| object.claim.is_some());
        let mut unseen = None;
        for role in [Role::File(1), Role::ManifestCopy, Role::SuccessMarker] {
            let Some(object) = named(role) else { continue };
            let seen = match role {
                Role::SuccessMarker if unseen.is_some() => continue,
                Role::SuccessMarker => self.may_look(&object.key).await?,
                _ => self.refuse_taken(&object, Blind::Go).await?,
            };
            if !seen {
                unseen = Some(object);
            }
        }
        match (unseen, Object::of(destination, Role::Probe)) {
            (Some(object), Some(probe)) if !knows_condition => self.refuse_unguarded(&object, &probe).await,
            _ => Ok(()),
        }
    }

    /// Errors: 42710 when somebody else's object has the key. Gives whether it was looked at. `blind`: what becomes of it where
    /// nobody may look.
    pub async fn refuse_taken(&self, object: &Object, blind: Blind) -> Result<bool, Failure> {
        match self.head(&object.key).await {
            Ok(None) => Ok(true),
            Ok(Some(head)) if head.is_of(object) => Ok(true),
            Ok(Some(_)) => Err(self.taken(object)),
            Err(failure) if failure.status == Some(403) && blind == Blind::Go => Ok(false),
            Err(failure) if failure.status == Some(403) => Err(self.unguarded(object)),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the store shows the object of this key, or that there is none.
    async fn may_look(&self, key: &str) -> Result<bool, Failure> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.status == Some(403) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Errors: 0A000 when the store refuses the condition, of `object`, which nobody may look at. `probe`: is written to find out,
    /// and deleted.
    async fn refuse_unguarded(&self, object: &Object, probe: &Object) -> Result<(), Failure> {
        match self.put_if_absent(probe, Bytes::new()).await {
            Err(failure) if failure.status == Some(501) => Err(self.unguarded(object)),
            // Whatever else is wrong, the export will tell.
            Err(_) | Ok(Conditional::Present) => Ok(()),
            Ok(Conditional::Written(version_id)) => {
                // `cleanup` finds one that stays.
                let _ = self.delete_one(&Deletion { key: probe.key.clone(), version_id }).await;
                Ok(())
            }
        }
    }

    fn unguarded(&self, object: &Object) -> Failure {
        let what = format!("the store cannot be asked not to overwrite {}", self.url(&object.key));
        Failure::permanent(
            Error::new(Code::Unsupported, what)
                .detail("It refuses If-None-Match with 501, and its answer to a look at the object is 403.")
                .hint("Grant s3:GetObject, or leave out single_file's name, manifest_name and success_marker."),
        )
    }
}
