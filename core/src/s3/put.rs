//! PUT: an object in one request, by the SDK or from a template.
//!
//! A retried PUT is harmless: keys are unique to the export, so it writes the same bytes to the same key. A key of the user's making
//! is written on condition, since the object may be another's.
#![forbid(unsafe_code)]

use bytes::Bytes;

use crate::s3::body::{Meter, Payload};
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::checksum::Checksum;
use crate::s3::claims::Blind;
use crate::s3::failure::Failure;
use crate::s3::headers::{ChecksumHeader, ObjectHeaders};
use crate::s3::object::{Condition, Object, Role};
use crate::s3::put_template::{self, SdkPut, Template, replay};
use crate::s3::throttle::Pace;

/// An object that was written.
#[derive(Debug)]
pub struct Written {
    /// In a versioned bucket.
    pub version_id: Option<String>,
    /// An earlier attempt was not answered: it may have made a version of its own, or do so yet.
    pub answer_lost: bool,
}

/// Outcome of a write on condition.
#[derive(Debug)]
pub enum Conditional {
    /// It was written; its version id in a versioned bucket.
    Written(Option<String>),
    /// There was one.
    Present,
}

impl Bucket {
    /// Writes the object in one request. Errors: 42710 when its key is of the user's making and another object has it.
    pub async fn put(&self, object: &Object, body: Bytes, checksum: &Checksum) -> Result<Written, Failure> {
        self.put_at(self.pace(None), object, body, checksum).await
    }

    /// Writes the object like [`Self::put`], at that pace.
    pub async fn put_at(&self, mut pace: Pace, object: &Object, body: Bytes, checksum: &Checksum) -> Result<Written, Failure> {
        let call = self.call_for(object);
        let condition = object.condition();
        // Ceph ignores the condition in a bucket with versions. The look before the query may be hours old.
        if condition.is_some() && !self.knows_condition() {
            self.refuse_taken(object, self.blind()).await?;
        }
        match self.send_put(&call, &mut pace, object, (&body, checksum), condition).await {
            // The store refuses the condition: a look stands in for it.
            Err(failure) if condition.is_some() && failure.status == Some(501) => {
                self.refuse_taken(object, Blind::Refuse).await?;
                self.send_put(&call, &mut pace, object, (&body, checksum), None).await
            }
            Err(failure) if object.is_refused(&failure) => {
                let version_id = self.resolve_conflict(object, call.answer_lost()).await?;
                Ok(Written { version_id, answer_lost: false })
            }
            other => other,
        }
    }

    /// Writes the object unless there is one of its key. After a lost answer it may have been written by an attempt whose
    /// successor finds it there.
    pub async fn put_if_absent(&self, object: &Object, body: Bytes) -> Result<Conditional, Failure> {
        let checksum = self.checksum().of(&body);
        let call = self.call_for(object);
        match self.send_put(&call, &mut self.pace(None), object, (&body, &checksum), Some(Condition::Absent)).await {
            Ok(written) => Ok(Conditional::Written(written.version_id)),
            Err(failure) if failure.status == Some(412) => Ok(Conditional::Present),
            Err(failure) => Err(failure),
        }
    }

    async fn send_put(
        &self,
        call: &Call,
        pace: &mut Pace,
        object: &Object,
        (bytes, checksum): (&Bytes, &Checksum),
        condition: Option<Condition<'_>>,
    ) -> Result<Written, Failure> {
        let meter = pace.meter();
        let payload = Payload { bytes, meter: &meter, checksum };
        let put = self.upload(pace, call, || async {
            let by_sdk = || self.sdk_put(object, payload, condition);
            let answer = match self.template_for(object, bytes.len()).await {
                None => Box::pin(by_sdk().send()).await,
                Some(template) => {
                    // As of those that the SDK asks for: who fetches them has tried often enough.
                    let credentials = self.credentials().await;
                    let credentials = credentials.map_err(|failure| Failure::permanent(failure.error))?;
                    match template.put(&object.key, payload, credentials).await {
                        Ok(answer) if answer.status().is_success() => {
                            let header = |name| answer.headers().get(name);
                            call.check_tag(header("etag"))?;
                            return Ok(header("x-amz-version-id").map(str::to_owned));
                        }
                        other => Box::pin(by_sdk().config_override(replay(other)).send()).await,
                    }
                }
            };
            let output = answer.map_err(|error| call.failure(&error))?;
            call.check_tag(output.e_tag())?;
            Ok(output.version_id)
        });
        let version_id = put.await?;
        Ok(Written { version_id, answer_lost: call.answer_lost() })
    }

    fn sdk_put(&self, object: &Object, payload: Payload<'_>, condition: Option<Condition<'_>>) -> SdkPut {
        let request = self
            .client()
            .put_object()
            .bucket(self.name())
            .key(&object.key)
            .body(payload.in_frames())
            .set_if_none_match(condition.and_then(Condition::if_none_match))
            .set_if_match(condition.and_then(Condition::if_match))
            .with_checksum(payload.checksum)
            .with_object_headers(object, self.settings())
            .customize();
        if self.unsigned_payload() { request.disable_payload_signing() } else { request }
    }

    /// The template of a file of so many bytes that is not the only one, by its number, and whose key is the export's own.
    async fn template_for(&self, object: &Object, bytes: usize) -> Option<&Template> {
        let is_usual = matches!(object.role, Role::File(number) if number > 1) && object.claim.is_none();
        if !is_usual || bytes > put_template::MAX_BYTES {
            return None;
        }
        let make = || async {
            let body = Bytes::from_static(b"{}");
            let payload = Payload { bytes: &body, meter: &Meter::default(), checksum: &self.checksum().of(&body) };
            let put = self.sdk_put(object, payload, None);
            let credentials = self.credentials().await.ok()?;
            Template::of(put, &object.key, &body, self.checksum(), !self.unsigned_payload(), credentials).await
        };
        self.template.get_or_init(|| Box::pin(make())).await.as_ref()
    }
}
