//! From an error of the SDK's to the failure that it means: what the store answered, or why it did not.
//!
//! The detail names S3's code, the request id and the object. Of the store's own message at most 200 printable characters pass, and
//! nothing else of a remote body: it may repeat what was signed.
#![forbid(unsafe_code)]

use std::time::SystemTime;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_http::endpoint::error::ResolveEndpointError;

use super::answer::{OVERLOADED, is_transient, may_have_worked, meaning, sts_meaning};
use super::connection::{
    causes, chain, distrusted_endpoint, foreign_endpoint, is_connect_failure, is_distrust, proxy_failure, speaks_otherwise,
    unreachable_endpoint,
};
use super::dates::{pause_until, skew};
use super::{Asked, Failure};
use crate::error::{Code, Error};
use crate::s3::network::{Refused, is_too_long};

/// Most characters of the store's message that a user sees.
const MAX_REMOTE_TEXT: usize = 200;

impl Failure {
    pub(super) fn of<E>(asked: &Asked<'_>, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if let Some(known) = known_cause(error).or_else(|| proxy_failure(asked, error)) {
            return known;
        }
        if chain(error).any(|cause| cause.is::<ResolveEndpointError>()) {
            let error = Error::new(Code::InvalidParameter, format!("could not {}: Amazon has no such endpoint", asked.step))
                .detail(format!("{}{}.", asked.object(), causes(error)))
                .hint("Check region, fips and dual_stack of the integration.");
            return Self::permanent(error);
        }
        match error {
            SdkError::ServiceError(service) => {
                let (status, answer) = (service.raw().status().as_u16(), service.err());
                let region = service.raw().headers().get("x-amz-bucket-region");
                let failure = Self::answered(asked, status, answer.code(), answer.message(), error.request_id());
                let date = service.raw().headers().get("date");
                let asked_pause = service.raw().headers().get("retry-after");
                failure.in_region(region).at_time(answer.code(), date).after(asked_pause, SystemTime::now())
            }
            SdkError::ResponseError(response) => {
                // The server has answered, so it has done the work or failed in it; which, the lost body would have said.
                let status = response.raw().status().as_u16();
                if is_too_long(error) {
                    let answered = Self::answered(asked, status, None, Some("The answer is too long"), error.request_id());
                    return Failure { transient: false, ..answered };
                }
                let answered = Self::answered(asked, status, None, Some("The answer was cut off"), error.request_id());
                Failure { transient: true, outcome_unknown: true, disconnected: true, ..answered }
            }
            SdkError::ConstructionFailure(_) => Self::permanent(
                Error::new(Code::InvalidParameter, format!("could not {}: the request cannot be built", asked.step))
                    .detail(format!("{}{}.", asked.object(), causes(error))),
            ),
            _ if is_distrust(error) => Self::permanent(distrusted_endpoint(asked, &causes(error))),
            _ if is_connect_failure(error) && speaks_otherwise(error) => {
                Self::permanent(foreign_endpoint(asked, &causes(error)))
            }
            _ => {
                let failure = asked.failure(unreachable_endpoint(asked, &causes(error)), true, !is_connect_failure(error));
                Failure { disconnected: true, ..failure }
            }
        }
    }

    pub(super) fn answered(
        asked: &Asked<'_>,
        status: u16,
        code: Option<&str>,
        message: Option<&str>,
        request_id: Option<&str>,
    ) -> Self {
        let code = code.unwrap_or("");
        let (kind, summary, hint) = if asked.service == "STS" { sts_meaning(status, code) } else { meaning(status, code) };
        // STS repeats the value that it does not like, which may be an external id.
        let is_hidden = asked.service == "STS" && code.starts_with("Validation");
        let message = message.filter(|text| !is_hidden && !text.trim().is_empty());
        let name = if code.is_empty() { format!("HTTP status {status}") } else { printable(code) };
        let detail = format!(
            "{} answered {name}{}. {}equest id {}.",
            asked.service,
            message.map(|text| format!(" ({})", printable(text))).unwrap_or_default(),
            asked.url.map_or("R".to_owned(), |url| format!("Object {url}, r")),
            printable(request_id.unwrap_or("unknown")),
        );
        let mut error = Error::new(kind, format!("could not {}: {summary}", asked.step)).detail(detail);
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        let expired = matches!(code, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired");
        let failure = asked.failure(error, is_transient(status, code), may_have_worked(status));
        let overloaded = OVERLOADED.contains(&code) || matches!(status, 429 | 503 | 509);
        Failure { overloaded, time_bound: overloaded, expired, status: Some(status), ..failure }
    }

    /// `pause`: of the header Retry-After, seconds or an HTTP date.
    fn after(self, pause: Option<&str>, now: SystemTime) -> Self {
        match pause.and_then(|pause| pause_until(pause, now)) {
            Some(pause) if self.transient => Failure { time_bound: true, retry_after: Some(pause), ..self },
            _ => self,
        }
    }

    /// A refusal for the time of the request says what time it is.
    fn at_time(self, code: Option<&str>, date: Option<&str>) -> Self {
        if code != Some("RequestTimeTooSkewed") {
            return self;
        }
        match date.and_then(|date| skew(date, SystemTime::now())) {
            Some(words) => Failure { error: self.error.hint(format!("{words} Set the clock of the database server.")), ..self },
            None => self,
        }
    }

    /// S3 says where the bucket is, in an answer that says where it is not.
    fn in_region(self, region: Option<&str>) -> Self {
        match region {
            Some(region) if self.error.code() == Code::InvalidParameter => {
                let hint = format!("Set the region of the integration to {}.", printable(region));
                Failure { error: self.error.hint(hint), ..self }
            }
            _ => self,
        }
    }
}

/// Failures of our own that came along inside the SDK's.
fn known_cause(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    chain(error).find_map(|cause| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return Some(Failure::permanent(failure.error.clone()));
        }
        let refused = cause.downcast_ref::<Refused>()?;
        let hint = if refused.for_everyone() {
            "No integration may connect there."
        } else {
            "Only an integration that a superuser owns may connect there."
        };
        let error = Error::new(Code::Privilege, format!("may not connect to the endpoint: {refused}"));
        Some(Failure::permanent(error.hint(hint)))
    })
}

/// At most [`MAX_REMOTE_TEXT`] printable characters of text from outside.
pub(super) fn printable(text: &str) -> String {
    let shown: String = text.chars().filter(|character| !character.is_control()).take(MAX_REMOTE_TEXT).collect();
    shown.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_quota_and_a_suspended_user_are_no_missing_rights_and_an_empty_message_is_not_shown() {
        let ceph = |code| {
            Failure::answered(&Asked { service: "S3", step: "upload", url: None }, 403, Some(code), Some(""), Some("tx1"))
        };
        for (code, kind) in
            [("QuotaExceeded", Code::Limit), ("UserSuspended", Code::Credentials), ("AccessDenied", Code::Privilege)]
        {
            let error = ceph(code).error;
            assert_eq!(
                (error.code(), error.detail_text()),
                (kind, Some(format!("S3 answered {code}. Request id tx1.").as_str()))
            );
        }
    }

    fn answered(status: u16, code: &str) -> Failure {
        Failure::answered(&Asked { service: "S3", step: "upload", url: None }, status, Some(code), None, None)
    }

    #[test]
    fn what_asks_for_patience_is_bounded_by_time_alone() {
        for (status, code) in [(503, "SlowDown"), (503, ""), (429, ""), (200, "SlowDown"), (400, "ThrottlingException")] {
            let failure = answered(status, code);
            assert!(failure.time_bound && failure.overloaded, "{status} {code}");
        }
        for (status, code) in [(500, "InternalError"), (502, ""), (520, ""), (200, ""), (403, "AccessDenied")] {
            assert!(!answered(status, code).time_bound, "{status} {code}");
        }
        // A pause that is asked for makes any transient answer such a one, and no refusal.
        let (now, pause) = (SystemTime::UNIX_EPOCH, Some(Duration::from_secs(7)));
        let asked = answered(500, "").after(Some("7"), now);
        assert!(asked.time_bound && !asked.overloaded && asked.retry_after == pause);
        assert_eq!(answered(503, "").after(Some("Thu, 01 Jan 1970 00:00:07 GMT"), now).retry_after, pause);
        assert_eq!(
            answered(503, "").after(Some("Thu, 01 Jan 1970 00:00:07 GMT"), SystemTime::now()).retry_after,
            Some(Duration::ZERO)
        );
        assert_eq!(answered(503, "").after(Some("soon"), now).retry_after, None);
        assert!(!answered(403, "AccessDenied").after(Some("7"), now).time_bound);
    }

    #[test]
    fn remote_text_is_cut_and_cleaned() {
        assert_eq!(printable("a\r\nb\u{7}c."), "abc");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_REMOTE_TEXT);
    }

    #[test]
    fn a_missing_bucket_names_code_object_and_request_id() {
        let failure = Failure::answered(
            &Asked { service: "S3", step: "upload", url: Some("s3://b/k") },
            404,
            Some("NoSuchBucket"),
            Some("No."),
            Some("R1"),
        );
        assert_eq!(failure.error.code(), Code::Undefined);
        assert_eq!(
            failure.error.summary(),
            "could not upload: the bucket does not exist: S3 answered NoSuchBucket (No). Object s3://b/k, request id R1."
        );
    }
}
