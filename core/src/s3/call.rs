//! One request to the store with all of its attempts: how long to try, by which words messages name it, and whether an answer was
//! lost.
//!
//! A lost answer is remembered over all attempts. Were it forgotten, a rollback would leave an object that the store has made all the
//! same.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::error::{Code, Error};
use crate::s3::failure::Failure;
use crate::s3::retry::RetryPolicy;

/// A request to the store.
pub struct Call {
    /// How long to try.
    pub policy: RetryPolicy,
    step: &'static str,
    url: String,
    answer_lost: AtomicBool,
}

impl Call {
    /// Returns a request that has not been sent. `step`: the work, such as "upload a file"; `url`: the object's.
    pub fn new(policy: RetryPolicy, step: &'static str, url: String) -> Self {
        Call { policy, step, url, answer_lost: AtomicBool::new(false) }
    }

    /// Whether an attempt may have done its work without an answer that tells.
    pub fn answer_lost(&self) -> bool {
        self.answer_lost.load(Ordering::Relaxed)
    }

    /// Remembers the loss of an answer, where the failure of an attempt means one.
    pub fn note(&self, failure: &Failure) {
        self.answer_lost.fetch_or(failure.outcome_unknown, Ordering::Relaxed);
    }

    /// Remembers the loss of an answer.
    pub fn note_loss(&self) {
        self.answer_lost.store(true, Ordering::Relaxed);
    }

    /// Returns the failure that the SDK's error means.
    pub fn failure<E>(&self, error: &SdkError<E, HttpResponse>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        Failure::new(self.step, &self.url, error)
    }

    /// Returns the failure of an attempt that got no answer for that time.
    pub fn unanswered(&self, time: Duration) -> Failure {
        Failure::unanswered(self.step, &self.url, time)
    }

    /// Returns the failure of an upload that moved alone for that time and did not end.
    pub fn too_slow(&self, time: Duration) -> Failure {
        Failure::too_slow(self.step, &self.url, time)
    }

    /// Returns the failure of an attempt that was answered with success, in a form that cannot be read.
    pub fn unreadable(&self) -> Failure {
        Failure::unreadable(self.step, &self.url)
    }

    /// Errors: 58030 where an answer to a PUT has no ETag. Every store gives one; a web server or a portal that answers 200 to
    /// whatever it is sent does not.
    pub fn check_tag(&self, tag: Option<&str>) -> Result<(), Failure> {
        if tag.is_some_and(|tag| !tag.is_empty()) {
            return Ok(());
        }
        let what = format!("could not {}: what answers at the endpoint is no S3 store", self.step);
        let error = Error::new(Code::Io, what)
            .detail(format!("Object {}: the answer to the PUT has no ETag.", self.url))
            .hint("Check the endpoint of the integration, and what lies between it and the database server.");
        Err(Failure { outcome_unknown: true, ..Failure::permanent(error) })
    }
}
