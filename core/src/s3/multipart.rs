//! The steps of a multipart upload.
//!
//! An answer that is lost matters here: an upload whose id nobody knows holds storage and shows in no listing of objects, and a
//! completion that nobody was told of has made the object.
#![forbid(unsafe_code)]

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use crate::error::{Code, Error};
use crate::s3::body::Payload;
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::checksum::Checksum;
use crate::s3::claims::Blind;
use crate::s3::failure::Failure;
use crate::s3::headers::{ChecksumHeader, ObjectHeaders, announced};
use crate::s3::object::{Condition, Object, Part};
use crate::s3::throttle::Pace;

/// A multipart upload that has begun.
#[derive(Debug)]
pub struct Created {
    /// S3's id of it.
    pub upload_id: String,
    /// Attempts that were not answered may have begun others of the same key.
    pub others_may_exist: bool,
}

impl Bucket {
    /// Begins a multipart upload. One whose answer was lost is given up, if it can be found.
    pub async fn create_multipart(&self, object: &Object) -> Result<Created, Failure> {
        let call = self.call_for(object);
        let created = self.send(&call, || async {
            let output = self
                .client()
                .create_multipart_upload()
                .bucket(self.name())
                .key(&object.key)
                .set_checksum_algorithm(announced(self.checksum()))
                .with_object_headers(object, self.settings())
                .send()
                .await
                .map_err(|error| call.failure(&error))?;
            output.upload_id.filter(|id| !id.is_empty()).ok_or_else(|| call.unreadable())
        });
        let upload_id = created.await?;
        // Without the right to list uploads, the bucket's lifecycle rule has to end it; and so it has where the key is of the
        // user's making, since another upload of that key may be another export's.
        let others_may_exist = call.answer_lost()
            && (object.claim.is_some() || self.abort_uploads_of(&object.key, Some(&upload_id)).await.is_err());
        Ok(Created { upload_id, others_may_exist })
    }

    /// Gives up all multipart uploads that would make this key, `except` one.
    pub async fn abort_uploads_of(&self, key: &str, except: Option<&str>) -> Result<(), Failure> {
        let mut found = Vec::new();
        self.each_upload(self.policy().clean_up, key, |upload| {
            if upload.key == key && Some(upload.upload_id.as_str()) != except {
                found.push(upload.upload_id);
            }
        })
        .await?;
        for upload_id in found {
            self.abort_multipart(key, &upload_id).await?;
        }
        Ok(())
    }

    /// Uploads one part, with the checksum of its own; `number` counts from 1.
    pub async fn put_part(
        &self,
        object: &Object,
        upload_id: &str,
        number: i32,
        body: Bytes,
        checksum: &Checksum,
    ) -> Result<Part, Failure> {
        self.put_part_at(self.pace(None), object, upload_id, number, (body, checksum)).await
    }

    /// Uploads one part like [`Self::put_part`], at that pace.
    pub async fn put_part_at(
        &self,
        mut pace: Pace,
        object: &Object,
        upload_id: &str,
        number: i32,
        (body, checksum): (Bytes, &Checksum),
    ) -> Result<Part, Failure> {
        let (call, meter) = (self.call_for(object), pace.meter());
        let payload = Payload { bytes: &body, meter: &meter, checksum };
        self.upload(&mut pace, &call, || async {
            let request = self
                .client()
                .upload_part()
                .bucket(self.name())
                .key(&object.key)
                .upload_id(upload_id)
                .part_number(number)
                .body(payload.in_frames())
                .with_checksum(checksum)
                .set_expected_bucket_owner(self.owner());
            let answer = if self.unsigned_payload() {
                request.customize().disable_payload_signing().send().await
            } else {
                request.send().await
            };
            let output = answer.map_err(|error| call.failure(&error))?;
            call.check_tag(output.e_tag())?;
            Ok(CompletedPart::builder().part_number(number).set_e_tag(output.e_tag).with_checksum(checksum).build())
        })
        .await
    }

    /// Makes an object of the parts, which come in the order of their numbers and have so many bytes together; gives its
    /// version id. Where an answer cannot be read, or was lost and the upload is gone at the next attempt, a look at the object
    /// tells.
    pub async fn complete_multipart(
        &self,
        object: &Object,
        upload_id: &str,
        parts: Vec<Part>,
        bytes: u64,
    ) -> Result<Option<String>, Failure> {
        if object.claim.is_none() {
            return self.complete_once(object, upload_id, parts, bytes, None).await;
        }
        // Some stores obey the condition at a PUT and ignore it here.
        self.refuse_taken(object, self.blind()).await?;
        match self.complete_once(object, upload_id, parts.clone(), bytes, object.condition()).await {
            Err(failure) if failure.status == Some(501) => {
                self.refuse_taken(object, Blind::Refuse).await?;
                self.complete_once(object, upload_id, parts, bytes, None).await
            }
            other => other,
        }
    }

    /// Completes the upload like [`Self::complete_multipart`], without a look before. `condition`: what must hold of the key.
    pub async fn complete_once(
        &self,
        object: &Object,
        upload_id: &str,
        parts: Vec<Part>,
        bytes: u64,
        condition: Option<Condition<'_>>,
    ) -> Result<Option<String>, Failure> {
        let completed = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let call = self.call_for(object);
        let attempt = || async {
            let answer = self
                .client()
                .complete_multipart_upload()
                .bucket(self.name())
                .key(&object.key)
                .upload_id(upload_id)
                .multipart_upload(completed.clone())
                .set_if_none_match(condition.and_then(Condition::if_none_match))
                .set_if_match(condition.and_then(Condition::if_match))
                .set_expected_bucket_owner(self.owner())
                .send()
                .await;
            let failure = match answer {
                Ok(output) if output.e_tag.is_some() => return Ok(output.version_id),
                Ok(_) => call.unreadable(),
                Err(error) if error.code() == Some("NoSuchUpload") && call.answer_lost() => {
                    return self.completed_already(object, bytes).await;
                }
                // The object in whose place this one should come is gone.
                Err(error) if error.code() == Some("NoSuchKey") => Failure { status: Some(412), ..call.failure(&error) },
                Err(error) => call.failure(&error),
            };
            if failure.is_unreadable() {
                call.note_loss();
                if let Ok(version_id) = self.completed_already(object, bytes).await {
                    return Ok(version_id);
                }
            }
            Err(failure)
        };
        match self.send(&call, attempt).await {
            Err(failure) if object.is_refused(&failure) && failure.status == Some(412) => {
                self.resolve_conflict(object, call.answer_lost()).await
            }
            other => other,
        }
    }

    /// Errors: 58030 when the object is not there, so that somebody else has ended the upload.
    async fn completed_already(&self, object: &Object, bytes: u64) -> Result<Option<String>, Failure> {
        match self.head_once(&object.key).await {
            Ok(Some(head)) if head.bytes == bytes && head.is_of(object) => Ok(head.version_id),
            Ok(_) => Err(Failure::permanent(
                Error::new(Code::Io, format!("could not {}: the multipart upload is gone", object.role.step()))
                    .detail(format!("Object {} was not made of it.", self.url(&object.key))),
            )),
            // Whether it is there remains unknown.
            Err(failure) => Err(Failure { outcome_unknown: true, ..failure }),
        }
    }

    /// Gives up a multipart upload and what was stored of it. One that is gone already, completed or not, counts as given up.
    pub async fn abort_multipart(&self, key: &str, upload_id: &str) -> Result<(), Failure> {
        const STEP: &str = "abort a multipart upload";
        let call = Call::new(self.policy().clean_up, STEP, self.url(key));
        self.send(&call, || async {
            let answer = self
                .client()
                .abort_multipart_upload()
                .bucket(self.name())
                .key(key)
                .upload_id(upload_id)
                .set_expected_bucket_owner(self.owner())
                .send()
                .await;
            match answer {
                Ok(_) => Ok(()),
                Err(error) if error.code() == Some("NoSuchUpload") => Ok(()),
                Err(error) => Err(call.failure(&error)),
            }
        })
        .await
    }
}
