//! What a failed request means: whether to try again, and what to tell the user.
//!
//! The detail names S3's code, the request id and the object. Of the store's own message at most 200 printable
//! characters pass, and nothing else of a remote body: it may repeat what was signed.
#![forbid(unsafe_code)]

mod answer;
mod connection;

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use self::answer::{OVERLOADED, is_transient, may_have_worked, meaning, sts_meaning};
pub use self::connection::causes;
use self::connection::{
    chain, distrusted_endpoint, foreign_endpoint, is_connect_failure, is_distrust, speaks_otherwise, unreachable_endpoint,
};
use crate::error::{Code, Error};
use crate::s3::network::{Refused, is_too_long};

/// Most characters of the store's message that a user sees.
const MAX_REMOTE_TEXT: usize = 200;

/// A request that failed.
#[derive(Debug)]
pub struct Failure {
    /// Error that the user is told when the request is given up.
    pub error: Error,
    /// Whether another attempt may succeed.
    pub transient: bool,
    /// Whether time alone bounds the attempts that follow, and not their number: the store asks for policy.
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
    /// As in "could not upload".
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

    /// Of a request to S3. `step`: what was being done, as in "could not upload"; `url`: of the object.
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
            .hint("Raise s3_export.request_timeout, or write smaller files.");
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

    fn of<E>(asked: &Asked<'_>, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if let Some(known) = known_cause(error) {
            return known;
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

    fn answered(asked: &Asked<'_>, status: u16, code: Option<&str>, message: Option<&str>, request_id: Option<&str>) -> Self {
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

/// The pause that a header Retry-After asks for. A date that has passed asks for none.
fn pause_until(header: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = SystemTime::try_from(DateTime::from_str(header.trim(), Format::HttpDate).ok()?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// How far this host's clock is from the one that wrote `date`, an HTTP date, in words.
fn skew(date: &str, now: SystemTime) -> Option<String> {
    let theirs = DateTime::from_str(date, Format::HttpDate).ok()?.secs();
    let ours = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let direction = if ours < theirs { "behind" } else { "ahead of" };
    Some(format!("This server's clock is {} seconds {direction} the store's.", ours.abs_diff(theirs)))
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
fn printable(text: &str) -> String {
    let shown: String = text.chars().filter(|character| !character.is_control()).take(MAX_REMOTE_TEXT).collect();
    shown.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_transient_answers_are_tried_again_and_no_others() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (429, ""),
            (408, ""),
            (409, "OperationAborted"),
            (400, "RequestTimeout"),
            (400, "ThrottlingException"),
            (400, "PriorRequestNotComplete"),
            (400, "IDPCommunicationError"),
            (200, ""),
            (200, "InternalError"),
        ] {
            assert!(is_transient(status, code), "{status} {code}");
        }
        for status in [499, 502, 504, 507, 508, 509, 520, 521, 522, 523, 524, 525, 526, 527, 530] {
            assert!(is_transient(status, ""), "{status}");
        }
        for (status, code) in [
            (403, "AccessDenied"),
            (404, "NoSuchBucket"),
            (400, "InvalidArgument"),
            (412, "PreconditionFailed"),
            (301, ""),
            (501, "NotImplemented"),
            (505, ""),
            (200, "AccessDenied"),
        ] {
            assert!(!is_transient(status, code), "{status} {code}");
        }
    }

    #[test]
    fn a_refusal_has_done_nothing_and_the_servers_own_failure_may_have() {
        assert!([403, 408, 412, 429, 501, 505].into_iter().all(|status| !may_have_worked(status)));
        assert!([200, 499, 500, 502, 503, 507, 520, 530].into_iter().all(may_have_worked));
    }

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
    fn answers_of_proxies_and_of_stores_that_lack_something_say_what_to_look_for() {
        for (status, code, hint) in
            [(411, "MissingContentLength", "proxy"), (413, "", "client_max_body_size"), (501, "NotImplemented", "checksum")]
        {
            assert!(meaning(status, code).2.is_some_and(|text| text.contains(hint)), "{status}");
        }
    }

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

    #[test]
    fn a_skewed_clock_is_measured() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let date = "Thu, 01 Jan 1970 01:00:00 GMT";
        assert!(skew(date, at(0)).unwrap().contains("3600 seconds behind"));
        assert!(skew(date, at(3700)).unwrap().contains("100 seconds ahead"));
        assert_eq!(skew("yesterday", at(0)), None);
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
