//! Requests for single objects: PUT, the steps of a multipart upload, and deletes, each through the retry loop.
//!
//! A retried PUT is harmless: keys are unique to the export, so it writes the same bytes to the same key.
#![forbid(unsafe_code)]

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectCannedAcl, ObjectIdentifier,
    ServerSideEncryption, StorageClass,
};
use bytes::Bytes;

use super::checksum::{Algorithm, Checksum};
use super::connection::{ObjectSettings, Store};
use super::failure::Failure;
use super::retry::retry_as;
use crate::uri::Destination;

/// Most keys that one DeleteObjects request takes.
pub const DELETE_BATCH: usize = 1000;

/// Whether an object holds documents or lists the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One JSON document a line; the file's number.
    File(u64),
    /// Always of storage class STANDARD: it is small and read first.
    Manifest,
    /// Written to see whether it can be, and deleted.
    Probe,
}

impl Role {
    fn content_type(self) -> &'static str {
        match self {
            Role::File(_) => "application/x-ndjson",
            Role::Manifest => "application/json",
            Role::Probe => "text/plain",
        }
    }

    /// For messages: "could not …".
    fn step(self) -> &'static str {
        match self {
            Role::File(_) => "upload a file",
            Role::Manifest => "write the manifest",
            Role::Probe => "write the probe",
        }
    }

    fn storage_class(self, settings: &ObjectSettings) -> Option<StorageClass> {
        match self {
            Role::File(_) => settings.storage_class.as_deref().map(StorageClass::from),
            // A probe does not live long enough for a class that is paid by the month.
            Role::Manifest | Role::Probe => None,
        }
    }
}

/// An object that S3 has not acknowledged yet.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// What it holds.
    pub role: Role,
}

/// An object to delete.
#[derive(Debug)]
pub struct Deletion {
    /// Its key.
    pub key: String,
    /// In a versioned bucket, the version; without it only a marker would be set.
    pub version_id: Option<String>,
}

/// A part that S3 acknowledged.
pub type Part = CompletedPart;

/// Where an export's objects go.
pub struct Target {
    store: Store,
    /// Names of the export's objects.
    pub destination: Destination,
}

impl Target {
    /// Below `destination`.
    pub fn new(store: Store, destination: Destination) -> Self {
        Target { store, destination }
    }

    /// The checksum that objects carry.
    pub fn checksum(&self) -> Algorithm {
        self.store.settings.checksum
    }

    fn url(&self, object: &Object) -> String {
        self.destination.url(&object.key)
    }

    /// Writes the object in one request; gives its version id in a versioned bucket.
    pub async fn put(&self, object: &Object, body: Bytes, checksum: &Checksum) -> Result<Option<String>, Failure> {
        self.send_put(object, body, checksum, None).await
    }

    async fn send_put(
        &self,
        object: &Object,
        body: Bytes,
        checksum: &Checksum,
        if_none_match: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        let settings = &self.store.settings;
        retry_as(&self.store.provider, || async {
            let (crc32, sha256) = headers(checksum);
            let request = self
                .store
                .client
                .put_object()
                .bucket(self.destination.bucket())
                .key(&object.key)
                .body(ByteStream::from(body.clone()))
                .content_type(object.role.content_type())
                .set_if_none_match(if_none_match.map(str::to_owned))
                .set_checksum_crc32(crc32)
                .set_checksum_sha256(sha256)
                .set_storage_class(object.role.storage_class(settings))
                .set_acl(settings.acl.as_deref().map(ObjectCannedAcl::from))
                .set_server_side_encryption(settings.sse.as_deref().map(ServerSideEncryption::from))
                .set_ssekms_key_id(settings.kms_key_id.clone())
                .set_bucket_key_enabled(settings.bucket_key())
                .set_expected_bucket_owner(settings.expected_bucket_owner.clone());
            let answer = if self.store.unsigned_payload {
                request.customize().disable_payload_signing().send().await
            } else {
                request.send().await
            };
            let output = answer.map_err(|error| Failure::new(object.role.step(), &self.url(object), &error))?;
            Ok(output.version_id)
        })
        .await
    }

    /// Writes the object unless there is one of its key; gives whether it was written. Its outcome is unknown after a lost
    /// answer.
    pub async fn put_if_absent(&self, object: &Object, body: Bytes) -> Result<bool, Failure> {
        let checksum = self.checksum().of(&body);
        match self.send_put(object, body, &checksum, Some("*")).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.status == Some(412) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Looks at the object; gives its size in bytes.
    pub async fn head(&self, object: &Object) -> Result<u64, Failure> {
        retry_as(&self.store.provider, || async {
            let answer = self
                .store
                .client
                .head_object()
                .bucket(self.destination.bucket())
                .key(&object.key)
                .set_expected_bucket_owner(self.store.settings.expected_bucket_owner.clone())
                .send()
                .await
                .map_err(|error| Failure::new("look at an object", &self.url(object), &error))?;
            Ok(answer.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default())
        })
        .await
    }

    /// Begins a multipart upload; gives its id.
    pub async fn create_multipart(&self, object: &Object) -> Result<String, Failure> {
        let settings = &self.store.settings;
        retry_as(&self.store.provider, || async {
            let output = self
                .store
                .client
                .create_multipart_upload()
                .bucket(self.destination.bucket())
                .key(&object.key)
                .content_type(object.role.content_type())
                .set_checksum_algorithm(match settings.checksum {
                    Algorithm::Crc32 => Some(ChecksumAlgorithm::Crc32),
                    Algorithm::Sha256 => Some(ChecksumAlgorithm::Sha256),
                    Algorithm::None => None,
                })
                .set_storage_class(object.role.storage_class(settings))
                .set_acl(settings.acl.as_deref().map(ObjectCannedAcl::from))
                .set_server_side_encryption(settings.sse.as_deref().map(ServerSideEncryption::from))
                .set_ssekms_key_id(settings.kms_key_id.clone())
                .set_bucket_key_enabled(settings.bucket_key())
                .set_expected_bucket_owner(settings.expected_bucket_owner.clone())
                .send()
                .await
                .map_err(|error| Failure::new(object.role.step(), &self.url(object), &error))?;
            Ok(output.upload_id.unwrap_or_default())
        })
        .await
    }

    /// Uploads one part; `number` counts from 1.
    pub async fn put_part(&self, object: &Object, upload_id: &str, number: i32, body: Bytes) -> Result<Part, Failure> {
        let checksum = self.store.settings.checksum.of(&body);
        retry_as(&self.store.provider, || async {
            let (crc32, sha256) = headers(&checksum);
            let request = self
                .store
                .client
                .upload_part()
                .bucket(self.destination.bucket())
                .key(&object.key)
                .upload_id(upload_id)
                .part_number(number)
                .body(ByteStream::from(body.clone()))
                .set_checksum_crc32(crc32.clone())
                .set_checksum_sha256(sha256.clone())
                .set_expected_bucket_owner(self.store.settings.expected_bucket_owner.clone());
            let answer = if self.store.unsigned_payload {
                request.customize().disable_payload_signing().send().await
            } else {
                request.send().await
            };
            let output = answer.map_err(|error| Failure::new(object.role.step(), &self.url(object), &error))?;
            Ok(CompletedPart::builder()
                .part_number(number)
                .set_e_tag(output.e_tag)
                .set_checksum_crc32(crc32)
                .set_checksum_sha256(sha256)
                .build())
        })
        .await
    }

    /// Makes an object of the parts, which come in the order of their numbers; gives its version id.
    pub async fn complete_multipart(
        &self,
        object: &Object,
        upload_id: &str,
        parts: Vec<Part>,
    ) -> Result<Option<String>, Failure> {
        let completed = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        retry_as(&self.store.provider, || async {
            let output = self
                .store
                .client
                .complete_multipart_upload()
                .bucket(self.destination.bucket())
                .key(&object.key)
                .upload_id(upload_id)
                .multipart_upload(completed.clone())
                .set_expected_bucket_owner(self.store.settings.expected_bucket_owner.clone())
                .send()
                .await
                .map_err(|error| Failure::new(object.role.step(), &self.url(object), &error))?;
            Ok(output.version_id)
        })
        .await
    }

    /// Gives up a multipart upload and what was stored of it. One that is gone already, completed or not, counts as given up.
    pub async fn abort_multipart(&self, key: &str, upload_id: &str) -> Result<(), Failure> {
        retry_as(&self.store.provider, || async {
            let answer = self
                .store
                .client
                .abort_multipart_upload()
                .bucket(self.destination.bucket())
                .key(key)
                .upload_id(upload_id)
                .set_expected_bucket_owner(self.store.settings.expected_bucket_owner.clone())
                .send()
                .await;
            match answer {
                Ok(_) => Ok(()),
                Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
                Err(error) => Err(Failure::new("abort a multipart upload", &self.destination.url(key), &error)),
            }
        })
        .await
    }

    /// Deletes at most [`DELETE_BATCH`] objects; gives the keys that remain. A key that names no object counts as deleted.
    pub async fn delete(&self, objects: &[Deletion]) -> Result<Vec<String>, Failure> {
        let Some(first) = objects.first() else { return Ok(Vec::new()) };
        retry_as(&self.store.provider, || async {
            let failed = |error: &_| Failure::new("delete files", &self.destination.url(&first.key), error);
            let identifier = |object: &Deletion| {
                ObjectIdentifier::builder().key(&object.key).set_version_id(object.version_id.clone()).build()
            };
            let identifiers = objects
                .iter()
                .map(identifier)
                .collect::<Result<Vec<_>, _>>()
                .and_then(|identifiers| Delete::builder().set_objects(Some(identifiers)).quiet(true).build())
                .map_err(|error| failed(&aws_sdk_s3::error::SdkError::construction_failure(error)))?;
            let output = self
                .store
                .client
                .delete_objects()
                .bucket(self.destination.bucket())
                .delete(identifiers)
                .set_expected_bucket_owner(self.store.settings.expected_bucket_owner.clone())
                .send()
                .await
                .map_err(|error| failed(&error))?;
            Ok(output.errors.unwrap_or_default().into_iter().filter_map(|error| error.key).collect())
        })
        .await
    }

    /// Deletes one object.
    pub async fn delete_one(&self, object: &Deletion) -> Result<(), Failure> {
        retry_as(&self.store.provider, || async {
            self.store
                .client
                .delete_object()
                .bucket(self.destination.bucket())
                .key(&object.key)
                .set_version_id(object.version_id.clone())
                .set_expected_bucket_owner(self.store.settings.expected_bucket_owner.clone())
                .send()
                .await
                .map_err(|error| Failure::new("delete a file", &self.destination.url(&object.key), &error))?;
            Ok(())
        })
        .await
    }
}

/// Values of `x-amz-checksum-crc32` and `x-amz-checksum-sha256`.
fn headers(checksum: &Checksum) -> (Option<String>, Option<String>) {
    match checksum {
        Checksum::Crc32(_) => (checksum.base64(), None),
        Checksum::Sha256(_) => (None, checksum.base64()),
        Checksum::None => (None, None),
    }
}
