//! GET: a small object whole, such as a manifest.
#![forbid(unsafe_code)]

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use bytes::Bytes;

use crate::error::{Code, Error};
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::failure::Failure;
use crate::s3::object::{EXPORT_ID, PREDECESSOR};
use crate::s3::properties::Texts;

/// For messages: "could not …".
const STEP: &str = "read a manifest";

/// An object that was read.
#[derive(Debug)]
pub struct Stored {
    /// All of its bytes.
    pub body: Bytes,
    /// As the store gives it, in quotes.
    pub etag: Option<String>,
    /// The export that has marked the object as its own.
    pub export_id: Option<String>,
    /// Its other metadata.
    pub metadata: Texts,
}

/// Whether the answer means that there is no such object. Without the bucket, nobody knows of the object.
pub(super) fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) && error.code() != Some("NoSuchBucket")
}

impl Bucket {
    /// Reads an object; `None`: there is none. Errors: 53400 when it has more than `most_bytes`, 53200.
    pub async fn get(&self, key: &str, most_bytes: u64) -> Result<Option<Stored>, Failure> {
        let call = Call::new(self.policy().files, STEP, self.url(key));
        self.send(&call, || async {
            let request = self.client().get_object().bucket(self.name()).key(key).set_expected_bucket_owner(self.owner());
            let mut output = match request.send().await {
                Ok(output) => output,
                Err(error) => {
                    return if is_absent(&error) { Ok(None) } else { Err(call.failure(&error)) };
                }
            };
            let announced = output.content_length.and_then(|length| u64::try_from(length).ok());
            if announced.is_some_and(|length| length > most_bytes) {
                return Err(self.too_large(key, announced, most_bytes));
            }
            // A proxy may have taken the length from the answer.
            let mut body = Vec::new();
            while let Some(block) = output.body.try_next().await.map_err(|_| call.unreadable())? {
                if (body.len() + block.len()) as u64 > most_bytes {
                    return Err(self.too_large(key, None, most_bytes));
                }
                body.try_reserve(block.len()).map_err(|_| Failure::permanent(Error::out_of_memory("a manifest")))?;
                body.extend_from_slice(&block);
            }
            let mut metadata: Texts = output.metadata.unwrap_or_default().into_iter().collect();
            let export_id = metadata.remove(EXPORT_ID);
            metadata.remove(PREDECESSOR);
            Ok(Some(Stored { body: body.into(), etag: output.e_tag, export_id, metadata }))
        })
        .await
    }

    fn too_large(&self, key: &str, length: Option<u64>, most_bytes: u64) -> Failure {
        let size = length.map_or_else(|| format!("more than {most_bytes}"), |length| length.to_string());
        Failure::permanent(
            Error::new(Code::Limit, format!("{} is too large to be read", self.url(key)))
                .detail(format!("The object has {size} bytes, and at most {most_bytes} are read.")),
        )
    }
}
