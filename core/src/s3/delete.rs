//! Deletions, of many objects in one request and of one.
#![forbid(unsafe_code)]

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use crate::error::{Code, Error};
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::failure::Failure;
use crate::s3::object::Deletion;
use crate::s3::whole::Ending;

impl Bucket {
    /// Deletes at most [`crate::s3::object::DELETE_BATCH`] objects; gives the keys that remain. A key that names no object counts as
    /// deleted.
    pub async fn delete(&self, objects: &[Deletion]) -> Result<Vec<String>, Failure> {
        const STEP: &str = "delete files";
        let Some(first) = objects.first() else { return Ok(Vec::new()) };
        let url = self.url(&first.key);
        let call = Call::new(self.policy().clean_up, STEP, url.clone());
        self.send(&call, || async {
            let ending = Ending::default();
            let identifier = |object: &Deletion| {
                ObjectIdentifier::builder().key(&object.key).set_version_id(object.version_id.clone()).build()
            };
            let identifiers = objects
                .iter()
                .map(identifier)
                .collect::<Result<Vec<_>, _>>()
                .and_then(|identifiers| Delete::builder().set_objects(Some(identifiers)).quiet(true).build())
                .map_err(|error| Failure::permanent(Error::new(Code::Internal, format!("could not {STEP}: {error}"))))?;
            let output = self
                .client()
                .delete_objects()
                .bucket(self.name())
                .delete(identifiers)
                .set_expected_bucket_owner(self.owner())
                .customize()
                .interceptor(ending.clone())
                .send()
                .await
                .map_err(|error| call.failure(&error))?;
            // What is not named in the answer counts as deleted.
            let failed: Option<Vec<String>> = output.errors.unwrap_or_default().into_iter().map(|error| error.key).collect();
            failed.filter(|_| ending.was_seen()).ok_or_else(|| {
                let what = format!("could not {STEP}: the store's answer is not whole");
                Failure::permanent(Error::new(Code::Io, what).detail(format!("Object {url} is the first of them.")))
            })
        })
        .await
    }

    /// Deletes one object.
    pub async fn delete_one(&self, object: &Deletion) -> Result<(), Failure> {
        const STEP: &str = "delete a file";
        let call = Call::new(self.policy().clean_up, STEP, self.url(&object.key));
        self.send(&call, || async {
            self.client()
                .delete_object()
                .bucket(self.name())
                .key(&object.key)
                .set_version_id(object.version_id.clone())
                .set_expected_bucket_owner(self.owner())
                .send()
                .await
                .map_err(|error| call.failure(&error))?;
            Ok(())
        })
        .await
    }
}
