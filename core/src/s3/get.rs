//! GET: a small object whole, such as a manifest.
#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::error::{Code, Error};
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::failure::Failure;
use crate::s3::object::EXPORT_ID;

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
}

impl Bucket {
    /// Reads an object; `None`: there is none. Errors: 53400 when it has more than `most_bytes`.
    pub async fn get(&self, key: &str, most_bytes: u64) -> Result<Option<Stored>, Failure> {
        let call = Call::new(self.policy().files, STEP, self.url(key));
        self.send(&call, || async {
            let request = self.client().get_object().bucket(self.name()).key(key).set_expected_bucket_owner(self.owner());
            let output = match request.send().await {
                Ok(output) => output,
                Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => return Ok(None),
                Err(error) => return Err(call.failure(&error)),
            };
            let length = output.content_length.and_then(|length| u64::try_from(length).ok());
            if length.is_none_or(|length| length > most_bytes) {
                return Err(self.too_large(key, length, most_bytes));
            }
            let export_id = output.metadata.and_then(|mut metadata| metadata.remove(EXPORT_ID));
            // The store has announced the length, and a body that ends before it is an error.
            let body = output.body.collect().await.map_err(|_| call.unreadable())?.into_bytes();
            Ok(Some(Stored { body, etag: output.e_tag, export_id }))
        })
        .await
    }

    fn too_large(&self, key: &str, length: Option<u64>, most_bytes: u64) -> Failure {
        let url = self.url(key);
        let size = length.map_or_else(|| "an unknown number of".to_owned(), |length| length.to_string());
        Failure::permanent(
            Error::new(Code::Limit, format!("{url} is too large to be read"))
                .detail(format!("The object has {size} bytes, and at most {most_bytes} are read."))
                .hint("Raise s3_export.buffer_memory."),
        )
    }
}
