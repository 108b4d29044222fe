//! Headers of an object, which are the same however it is made: by a PUT, by a PUT from a template, or in parts.
//!
//! A file becomes a multipart upload when it grows, so a header that only one of the requests sent would depend on a file's size:
//! half of an export would lie in another storage class or under another key. Hence the one list here, of which the requests of the
//! SDK are made; a template has its headers from such a request.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::upload_part::builders::UploadPartFluentBuilder;
use aws_sdk_s3::types::builders::CompletedPartBuilder;
use aws_sdk_s3::types::{ChecksumAlgorithm, ObjectCannedAcl, ObjectLockMode, ServerSideEncryption};

use crate::s3::checksum::{Algorithm, Checksum};
use crate::s3::client::ObjectSettings;
use crate::s3::object::{EXPORT_ID, Object, PREDECESSOR};
use crate::s3::properties::{ObjectLock, tagging};

/// A request that makes an object.
pub trait ObjectHeaders: Sized {
    /// Returns the request with all headers of the object.
    fn with_object_headers(self, object: &Object, settings: &ObjectSettings) -> Self;
}

/// The builders of the SDK have the same methods and no trait in common.
macro_rules! object_headers {
    ($($request:ty),*) => {$(
        impl ObjectHeaders for $request {
            fn with_object_headers(self, object: &Object, settings: &ObjectSettings) -> Self {
                self.content_type(object.content_type)
                    .set_content_disposition(object.role.content_disposition(settings))
                    .set_metadata(metadata(object, settings))
                    .set_tagging(tagging(&settings.all_tags()))
                    .set_storage_class(object.role.storage_class(settings))
                    .set_acl(settings.acl.as_deref().map(ObjectCannedAcl::from))
                    .set_server_side_encryption(settings.sse.as_deref().map(ServerSideEncryption::from))
                    .set_ssekms_key_id(settings.kms_key_id.clone())
                    .set_ssekms_encryption_context(settings.kms_encryption_context.clone())
                    .set_bucket_key_enabled(settings.bucket_key())
                    .set_object_lock_mode(settings.lock.as_ref().map(|lock| ObjectLockMode::from(lock.mode.as_str())))
                    .set_object_lock_retain_until_date(settings.lock.as_ref().map(ObjectLock::retain_until))
                    .set_expected_bucket_owner(settings.expected_bucket_owner.clone())
            }
        }
    )*};
}

object_headers!(PutObjectFluentBuilder, CreateMultipartUploadFluentBuilder);

/// A request with a body, or a part as the end of its upload lists it.
pub trait ChecksumHeader: Sized {
    /// Returns the request with the checksum of its body.
    fn with_checksum(self, checksum: &Checksum) -> Self;
}

macro_rules! checksum_header {
    ($($request:ty),*) => {$(
        impl ChecksumHeader for $request {
            fn with_checksum(self, checksum: &Checksum) -> Self {
                match checksum {
                    Checksum::Crc32(_) => self.set_checksum_crc32(checksum.base64()),
                    Checksum::Sha256(_) => self.set_checksum_sha256(checksum.base64()),
                    Checksum::None => self,
                }
            }
        }
    )*};
}

checksum_header!(PutObjectFluentBuilder, UploadPartFluentBuilder, CompletedPartBuilder);

/// Returns the algorithm as the beginning of a multipart upload announces it: the checksums come with the parts.
pub fn announced(algorithm: Algorithm) -> Option<ChecksumAlgorithm> {
    match algorithm {
        Algorithm::Crc32 => Some(ChecksumAlgorithm::Crc32),
        Algorithm::Sha256 => Some(ChecksumAlgorithm::Sha256),
        Algorithm::None => None,
    }
}

/// Returns the metadata of the user's making, and the mark by which an export knows again what it has made under a name of the user's.
fn metadata(object: &Object, settings: &ObjectSettings) -> Option<HashMap<String, String>> {
    let of_user = settings.of_export.metadata.iter().map(|(name, value)| (name.clone(), value.clone()));
    let marks = object.claim.map(|export_id| (EXPORT_ID, export_id)).into_iter();
    let marks = marks.chain(object.claim.and(object.predecessor).map(|predecessor| (PREDECESSOR, predecessor)));
    let all: HashMap<_, _> = of_user.chain(marks.map(|(name, id)| (name.to_owned(), id.to_string()))).collect();
    (!all.is_empty()).then_some(all)
}
