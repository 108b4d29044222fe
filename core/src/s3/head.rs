//! HEAD: whether an object is there, and whose it is.
#![forbid(unsafe_code)]

use aws_sdk_s3::types::{ChecksumMode, ChecksumType};

use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::checksum::Algorithm;
use crate::s3::failure::Failure;
use crate::s3::object::{EXPORT_ID, Object, PREDECESSOR};
use crate::s3::retry::RetryPolicy;

/// For messages: "could not …".
const STEP: &str = "look at an object";

/// An object as HEAD shows it.
#[derive(Debug)]
pub struct Head {
    /// Its size.
    pub bytes: u64,
    /// In a versioned bucket.
    pub version_id: Option<String>,
    /// As the store gives it, in quotes.
    pub etag: Option<String>,
    /// The export that has marked it as its own.
    pub export_id: Option<String>,
    /// The export in whose place that one has come.
    pub predecessor: Option<String>,
    /// The checksum of all of its bytes in base64, where it was asked for and the store gives one.
    pub checksum: Option<String>,
}

impl Head {
    /// Whether the export that writes `object` has made it; for a key that is unique to an export, anybody's is.
    pub fn is_of(&self, object: &Object) -> bool {
        object.claim.is_none_or(|claim| self.export_id.as_deref() == Some(claim.to_string().as_str()))
    }
}

impl Bucket {
    /// Looks at an object; `None`: there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Head>, Failure> {
        self.head_within(self.policy().files, key).await
    }

    /// Looks at an object, with that policy; `None`: there is none.
    pub async fn head_within(&self, policy: RetryPolicy, key: &str) -> Result<Option<Head>, Failure> {
        let call = Call::new(policy, STEP, self.url(key));
        self.send(&call, || self.head_once(key)).await
    }

    /// Looks at an object and its checksum of that kind; `None`: there is no object.
    pub async fn head_with_checksum(&self, key: &str, algorithm: Algorithm) -> Result<Option<Head>, Failure> {
        let call = Call::new(self.policy().files, STEP, self.url(key));
        self.send(&call, || self.ask_for_head(key, algorithm)).await
    }

    /// Looks at an object in one attempt; `None`: there is none.
    pub async fn head_once(&self, key: &str) -> Result<Option<Head>, Failure> {
        self.ask_for_head(key, Algorithm::None).await
    }

    async fn ask_for_head(&self, key: &str, algorithm: Algorithm) -> Result<Option<Head>, Failure> {
        // To stores that refuse the headers of checksums, none is sent.
        let mode = algorithm.header().map(|_| ChecksumMode::Enabled);
        let request = self.client().head_object().bucket(self.name()).key(key).set_checksum_mode(mode);
        match request.set_expected_bucket_owner(self.owner()).send().await {
            Ok(output) => {
                let bytes = output.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
                let checksum = match algorithm {
                    Algorithm::Crc32 => output.checksum_crc32,
                    Algorithm::Sha256 => output.checksum_sha256,
                    Algorithm::None => None,
                };
                // Of an object in parts, most stores keep a checksum of the parts' checksums.
                let is_of_parts = output.checksum_type == Some(ChecksumType::Composite);
                let checksum = checksum.filter(|checksum| !is_of_parts && !checksum.contains('-'));
                let mut metadata = output.metadata.unwrap_or_default();
                let (export_id, predecessor) = (metadata.remove(EXPORT_ID), metadata.remove(PREDECESSOR));
                Ok(Some(Head { bytes, version_id: output.version_id, etag: output.e_tag, export_id, predecessor, checksum }))
            }
            Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => Ok(None),
            Err(error) => Err(Failure::new(STEP, &self.url(key), &error)),
        }
    }
}
