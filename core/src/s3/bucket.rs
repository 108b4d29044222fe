//! Requests to one bucket, each through the retry loop. Here PUT, HEAD and deletes; `multipart` and `listing` have the others.
//!
//! A retried PUT is harmless: keys are unique to the export, so it writes the same bytes to the same key.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::error::{Code, Error};
use crate::s3::body::{Meter, Payload};
use crate::s3::call::Call;
use crate::s3::checksum::{Algorithm, Checksum};
use crate::s3::claims::Blind;
use crate::s3::client::{ObjectSettings, Store};
use crate::s3::failure::Failure;
use crate::s3::headers::{ChecksumHeader, ObjectHeaders};
use crate::s3::object::{Deletion, EXPORT_ID, Object, Role};
use crate::s3::put_template::{self, SdkPut, Template, replay};
use crate::s3::retry::{RetryPolicy, Unanswered, renewing, retry_at_pace};
use crate::s3::throttle::{Pace, Permit, Throttle};
use crate::s3::whole::Ending;
use crate::sync::lock;

/// How long to try, by what is tried.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicies {
    /// Files.
    pub files: RetryPolicy,
    /// The manifest: the commit waits for it.
    pub manifest: RetryPolicy,
    /// Taking back.
    pub clean_up: RetryPolicy,
}

impl RetryPolicies {
    /// The same for all.
    pub fn all(policy: RetryPolicy) -> Self {
        RetryPolicies { files: policy, manifest: policy, clean_up: policy }
    }
}

/// A bucket and how to write to it.
pub struct Bucket {
    store: Store,
    name: String,
    policy: RetryPolicies,
    throttle: Arc<Throttle>,
    /// Template of the PUTs of files. The inner `None`: no template can be made for them.
    template: OnceCell<Option<Template>>,
    /// Whether the store has answered anything: it is there, and will be there again after its connections have broken.
    has_answered: AtomicBool,
    /// The error of the latest request that failed, whether or not it was tried again.
    last_failure: Mutex<Option<Error>>,
}

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

/// An object as HEAD shows it.
#[derive(Debug)]
pub struct Head {
    /// Its size.
    pub bytes: u64,
    /// In a versioned bucket.
    pub version_id: Option<String>,
    /// The export that has marked it as its own.
    pub export_id: Option<String>,
}

impl Head {
    /// Whether the export that writes `object` has made it; for a key that is unique to an export, anybody's is.
    pub fn is_of(&self, object: &Object) -> bool {
        object.claim.is_none_or(|claim| self.export_id.as_deref() == Some(claim.to_string().as_str()))
    }
}

impl Bucket {
    /// The bucket of that name. `throttle`: lowered on the store's word, and raised again.
    pub fn new(store: Store, name: &str, policy: RetryPolicies, throttle: Arc<Throttle>) -> Self {
        Bucket {
            store,
            name: name.to_owned(),
            policy,
            throttle,
            template: OnceCell::new(),
            has_answered: AtomicBool::new(false),
            last_failure: Mutex::default(),
        }
    }

    /// The checksum that objects carry.
    pub fn checksum(&self) -> Algorithm {
        self.store.settings.checksum
    }

    /// `s3://bucket/key`
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The SDK's client.
    pub fn client(&self) -> &Client {
        &self.store.client
    }

    /// The account that must own it.
    pub fn owner(&self) -> Option<String> {
        self.store.settings.expected_bucket_owner.clone()
    }

    /// Headers of every object.
    pub fn settings(&self) -> &ObjectSettings {
        &self.store.settings
    }

    /// Whether the store is known to obey `If-None-Match` wherever it is sent.
    pub fn knows_condition(&self) -> bool {
        self.store.is_amazon
    }

    /// Whether signatures leave the payload out.
    pub fn unsigned_payload(&self) -> bool {
        self.store.unsigned_payload
    }

    /// How long to try.
    pub fn policy(&self) -> RetryPolicies {
        self.policy
    }

    /// The request that makes the object, or a part of it.
    pub fn call_for(&self, object: &Object) -> Call {
        Call::new(self.patience_for(object.role), object.role.step(), self.url(&object.key))
    }

    /// How long to try, for such an object.
    pub fn patience_for(&self, role: Role) -> RetryPolicy {
        match role {
            Role::Manifest | Role::ManifestCopy | Role::SuccessMarker => self.policy.manifest,
            Role::File(_) | Role::Probe => self.policy.files,
        }
    }

    /// Sends a request until it succeeds, signed with current credentials, and tells the throttle how it went.
    pub async fn send<T, F>(&self, call: &Call, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.send_at(None, call, attempt).await
    }

    /// Sends a request with a body like [`Self::send`], at the `pace` that the throttle allows.
    pub async fn upload<T, F>(&self, pace: &mut Pace, call: &Call, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.send_at(Some(pace), call, attempt).await
    }

    async fn send_at<T, F>(&self, pace: Option<&mut Pace>, call: &Call, attempt: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let meter = pace.as_ref().map(|pace| pace.meter());
        let unanswered = |end| {
            let failure = match end {
                Unanswered::Silent(time) => call.unanswered(time),
                Unanswered::TooSlow(time) => call.too_slow(time),
                // The store makes no object of a part of a body.
                Unanswered::MadeRoom(time) => {
                    Failure { outcome_unknown: meter.as_ref().is_none_or(Meter::has_ended), ..call.unanswered(time) }
                }
            };
            call.note(&failure);
            self.noted(failure)
        };
        retry_at_pace(call.policy, pace, unanswered, || self.noting(call, attempt())).await
    }

    /// One attempt of these.
    async fn noting<T>(&self, call: &Call, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let sent = Instant::now();
        let answer = renewing(&self.store.provider, answer).await;
        if answer.as_ref().map_or_else(|failure| failure.status.is_some() && !failure.is_of_gateway(), |_| true) {
            self.has_answered.store(true, Ordering::Relaxed);
        }
        let failure = match answer {
            Ok(value) => {
                self.throttle.succeeded();
                return Ok(value);
            }
            Err(failure) => failure,
        };
        call.note(&failure);
        if failure.overloaded {
            self.throttle.lower(sent);
        }
        // An endpoint that has never answered may be the wrong one.
        let is_away = failure.disconnected || failure.is_of_gateway();
        let went_away = is_away && failure.transient && self.has_answered.load(Ordering::Relaxed);
        Err(self.noted(Failure { time_bound: failure.time_bound || went_away, ..failure }))
    }

    fn noted(&self, failure: Failure) -> Failure {
        *lock(&self.last_failure) = Some(failure.error.clone());
        failure
    }

    /// The error of the latest request that failed, whether or not it was tried again.
    pub fn last_failure(&self) -> Option<Error> {
        lock(&self.last_failure).clone()
    }

    /// Forgets it: what follows is another matter.
    pub fn forget_failure(&self) {
        *lock(&self.last_failure) = None;
    }

    /// The pace of an upload. `permit`: for its first attempt, if there is one already.
    pub fn pace(&self, permit: Option<Permit>) -> Pace {
        Pace::new(&self.throttle, permit)
    }

    /// Writes the object in one request. Errors: 42710 when its key is of the user's making and another object has it.
    pub async fn put(&self, object: &Object, body: Bytes, checksum: &Checksum) -> Result<Written, Failure> {
        self.put_at(self.pace(None), object, body, checksum).await
    }

    /// As [`Self::put`], at that pace.
    pub async fn put_at(&self, mut pace: Pace, object: &Object, body: Bytes, checksum: &Checksum) -> Result<Written, Failure> {
        let call = self.call_for(object);
        let condition = object.claim.map(|_| "*");
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
            Err(failure) if condition.is_some() && failure.status == Some(412) => {
                let version_id = self.resolve_conflict(object, call.answer_lost()).await?;
                Ok(Written { version_id, answer_lost: false })
            }
            other => other,
        }
    }

    /// Its key is another object's.
    pub fn taken(&self, object: &Object) -> Failure {
        Failure::permanent(
            Error::new(Code::Duplicate, format!("object {} exists already", self.url(&object.key)))
                .detail("Nothing is overwritten.")
                .hint("Choose another name or location, or delete the object."),
        )
    }

    /// Writes the object unless there is one of its key. After a lost answer it may have been written by an attempt whose
    /// successor finds it there.
    pub async fn put_if_absent(&self, object: &Object, body: Bytes) -> Result<Conditional, Failure> {
        let checksum = self.checksum().of(&body);
        let call = self.call_for(object);
        match self.send_put(&call, &mut self.pace(None), object, (&body, &checksum), Some("*")).await {
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
        if_none_match: Option<&str>,
    ) -> Result<Written, Failure> {
        let meter = pace.meter();
        let payload = Payload { bytes, meter: &meter, checksum };
        let put = self.upload(pace, call, || async {
            let by_sdk = || self.sdk_put(object, payload, if_none_match);
            let answer = match self.template_for(object, bytes.len()).await {
                None => Box::pin(by_sdk().send()).await,
                Some(template) => {
                    // As of those that the SDK asks for: who fetches them has tried often enough.
                    let credentials = self.store.provider.credentials().await;
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

    fn sdk_put(&self, object: &Object, payload: Payload<'_>, if_none_match: Option<&str>) -> SdkPut {
        let request = self
            .store
            .client
            .put_object()
            .bucket(&self.name)
            .key(&object.key)
            .body(payload.in_frames())
            .set_if_none_match(if_none_match.map(str::to_owned))
            .with_checksum(payload.checksum)
            .with_object_headers(object, &self.store.settings)
            .customize();
        if self.store.unsigned_payload { request.disable_payload_signing() } else { request }
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
            let credentials = self.store.provider.credentials().await.ok()?;
            Template::of(put, &object.key, &body, self.checksum(), !self.store.unsigned_payload, credentials).await
        };
        self.template.get_or_init(|| Box::pin(make())).await.as_ref()
    }

    /// Looks at an object; `None`: there is none.
    pub async fn head(&self, key: &str) -> Result<Option<Head>, Failure> {
        self.head_within(self.policy.files, key).await
    }

    /// As [`Self::head`], with that policy.
    pub async fn head_within(&self, policy: RetryPolicy, key: &str) -> Result<Option<Head>, Failure> {
        let call = Call::new(policy, LOOK, self.url(key));
        self.send(&call, || self.head_once(key)).await
    }

    /// As [`Self::head`], one attempt.
    pub async fn head_once(&self, key: &str) -> Result<Option<Head>, Failure> {
        let answer =
            self.store.client.head_object().bucket(&self.name).key(key).set_expected_bucket_owner(self.owner()).send().await;
        match answer {
            Ok(output) => {
                let bytes = output.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
                let export_id = output.metadata.and_then(|mut metadata| metadata.remove(EXPORT_ID));
                Ok(Some(Head { bytes, version_id: output.version_id, export_id }))
            }
            Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) => Ok(None),
            Err(error) => Err(Failure::new(LOOK, &self.url(key), &error)),
        }
    }

    /// Deletes at most [`crate::s3::object::DELETE_BATCH`] objects; gives the keys that remain. A key that names no object counts as
    /// deleted.
    pub async fn delete(&self, objects: &[Deletion]) -> Result<Vec<String>, Failure> {
        const STEP: &str = "delete files";
        let Some(first) = objects.first() else { return Ok(Vec::new()) };
        let url = self.url(&first.key);
        let call = Call::new(self.policy.clean_up, STEP, url.clone());
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
                .store
                .client
                .delete_objects()
                .bucket(&self.name)
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
        let call = Call::new(self.policy.clean_up, STEP, self.url(&object.key));
        self.send(&call, || async {
            self.store
                .client
                .delete_object()
                .bucket(&self.name)
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

const LOOK: &str = "look at an object";
