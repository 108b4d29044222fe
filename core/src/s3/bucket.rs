//! A bucket and how a request to it is sent: signed with current credentials, at the pace of the throttle, again where that may help.
//!
//! The requests themselves stand in files of their own, by what they do: `put`, `multipart`, `head`, `delete`, `listing`.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::error::Error;
use crate::s3::body::Meter;
use crate::s3::call::Call;
use crate::s3::checksum::Algorithm;
use crate::s3::client::{ObjectSettings, Store};
use crate::s3::failure::Failure;
use crate::s3::object::{Object, Role};
use crate::s3::properties::ExportProperties;
use crate::s3::put_template::Template;
use crate::s3::retry::{RetryPolicies, RetryPolicy, Unanswered, retry_at_pace};
use crate::s3::throttle::{Pace, Permit, Throttle};
use crate::sync::lock;

/// A bucket and how to write to it.
pub struct Bucket {
    store: Store,
    name: String,
    policy: RetryPolicies,
    throttle: Arc<Throttle>,
    /// Template of the PUTs of files. The inner `None`: no template can be made for them.
    pub(super) template: OnceCell<Option<Template>>,
    /// Whether the store has answered anything: it is there, and will be there again after its connections have broken.
    has_answered: AtomicBool,
    /// The error of the latest request that failed, whether or not it was tried again.
    last_failure: Mutex<Option<Error>>,
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

    /// Returns the same bucket, where every request has the time of a clean-up, also one that makes an object.
    pub fn for_clean_up(&self) -> Self {
        Bucket::new(self.store.clone(), &self.name, RetryPolicies::all(self.policy.clean_up), Throttle::new(1))
    }

    /// Returns the same bucket, whose objects get these properties instead of the export's.
    pub fn with_properties(mut self, of_export: ExportProperties) -> Self {
        self.store.settings.of_export = of_export;
        self
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

    /// The credentials that sign its requests.
    pub(super) async fn credentials(&self) -> Result<Credentials, Failure> {
        self.store.provider.credentials().await
    }

    /// The account that must own it.
    pub fn owner(&self) -> Option<String> {
        self.store.settings.expected_bucket_owner.clone()
    }

    /// Whether no request can have reached the store.
    pub fn is_untouched(&self) -> bool {
        self.store.is_untouched()
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
        Call::new(self.policy_for(object.role), object.role.step(), self.url(&object.key))
    }

    /// How long to try, for such an object.
    pub fn policy_for(&self, role: Role) -> RetryPolicy {
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
        let answer = self.store.provider.renewing(answer).await;
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
}
