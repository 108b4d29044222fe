//! The meaning of a failed request: whether to try again, and what to tell the user.
//!
//! `sdk` reads what the SDK gives as an error, `answer` has the meaning of a store's answers, and `connection` that of a missing one.
#![forbid(unsafe_code)]

mod answer;
mod connection;
mod dates;
mod sdk;

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

pub use self::connection::causes;
use self::connection::unreachable_endpoint;
use crate::error::{Code, Error};

/// A request that failed.
#[derive(Debug)]
pub struct Failure {
    /// Error that the user is told when the request is given up.
    pub error: Error,
    /// Whether another attempt may succeed.
    pub transient: bool,
    /// Whether time alone bounds the attempts that follow, and not their number: the store asks for fewer requests.
    pub time_bound: bool,
    /// The pause that the store asks for before the next attempt.
    pub retry_after: Option<Duration>,
    /// Whether the request may have done its work all the same: its answer was lost, or was the server's own failure.
    pub outcome_unknown: bool,
    /// Whether the store has too much to do.
    pub overloaded: bool,
    /// Whether no connection came about, or one broke before the answer was there.
    pub disconnected: bool,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// Whether the credentials have expired: others may succeed.
    pub expired: bool,
}

/// So that the SDK carries a failure to get credentials to the request that needs them.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error.summary())
    }
}

impl std::error::Error for Failure {}

/// Request of a failure, for messages.
struct Asked<'a> {
    /// `S3` or `STS`.
    service: &'static str,
    /// The work that failed, such as "upload a file": a message begins with "could not".
    step: &'a str,
    /// The object's URL.
    url: Option<&'a str>,
}

impl Asked<'_> {
    /// The beginning of a detail, as a sentence or nothing.
    fn object(&self) -> String {
        self.url.map(|url| format!("Object {url}: ")).unwrap_or_default()
    }

    fn failure(&self, error: Error, transient: bool, outcome_unknown: bool) -> Failure {
        Failure { transient, outcome_unknown, ..Failure::permanent(error) }
    }
}

impl Failure {
    /// Another attempt would fail as well.
    pub fn permanent(error: Error) -> Self {
        Failure {
            error,
            transient: false,
            time_bound: false,
            retry_after: None,
            outcome_unknown: false,
            overloaded: false,
            disconnected: false,
            status: None,
            expired: false,
        }
    }

    /// Returns the failure of a request during which the SDK panicked.
    pub fn panicked() -> Self {
        let error = Error::new(Code::Internal, "a request to the store ended in a panic of the AWS SDK")
            .detail("The server's log says where.")
            .hint("Look at what the integration sends: keys, region, endpoint and options.");
        Failure { outcome_unknown: true, ..Self::permanent(error) }
    }

    /// Returns the failure of a request to S3. `step`: the work, such as "upload a file"; `url`: the object's.
    pub fn new<E>(step: &str, url: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        Self::of(&Asked { service: "S3", step, url: Some(url) }, error)
    }

    /// Returns the failure of a request to S3 that got no answer for that time.
    pub fn unanswered(step: &str, url: &str, limit: Duration) -> Self {
        Self::silence(&Asked { service: "S3", step, url: Some(url) }, limit)
    }

    /// Returns the failure of an upload that moved alone for that time and did not end.
    pub fn too_slow(step: &str, url: &str, time: Duration) -> Self {
        let error = Error::new(Code::Connection, format!("could not {step}: the link to the S3 endpoint is too slow"))
            .detail(format!(
                "Object {url}: the upload moved for {:.1} s and did not end, with no other beside it.",
                time.as_secs_f64()
            ))
            .hint("Raise s3_export.request_timeout, or write smaller files.")
            .transient();
        Failure { outcome_unknown: true, ..Self::permanent(error) }
    }

    /// Returns the failure of a request that S3 answered with success, in a form that cannot be read.
    pub fn unreadable(step: &str, url: &str) -> Self {
        Self::answered(&Asked { service: "S3", step, url: Some(url) }, 200, None, None, None)
    }

    /// Whether a gateway gave the answer for want of one of the store's.
    pub fn is_of_gateway(&self) -> bool {
        matches!(self.status, Some(502 | 504))
    }

    /// Whether the answer had the status of a success, and its body tells of none: a failure, or what nobody can read.
    pub fn is_unreadable(&self) -> bool {
        self.transient && self.status.is_some_and(|status| (200..300).contains(&status)) && !self.disconnected
    }

    /// Returns the failure of a request to STS that got no answer for that time.
    pub fn unanswered_by_sts(step: &str, limit: Duration) -> Self {
        Self::silence(&Asked { service: "STS", step, url: None }, limit)
    }

    fn silence(asked: &Asked<'_>, limit: Duration) -> Self {
        let seconds = limit.as_secs_f64();
        asked.failure(unreachable_endpoint(asked, &format!("no answer within {seconds:.1} s")), true, true)
    }

    /// Returns the failure of a request to STS.
    pub fn of_sts<E>(step: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        Self::of(&Asked { service: "STS", step, url: None }, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_is_no_endpoint_that_cannot_be_reached() {
        let failure = Failure::too_slow("upload a file", "s3://b/k", Duration::from_secs(300));
        assert_eq!(failure.error.code(), Code::Connection);
        assert_eq!(
            failure.error.summary(),
            "could not upload a file: the link to the S3 endpoint is too slow: Object s3://b/k: the upload moved for 300.0 s and did \
             not end, with no other beside it."
        );
        assert!(failure.outcome_unknown && !failure.transient);
    }
}
