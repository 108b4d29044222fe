//! The meaning of an answer, by its status and the store's code: whether another attempt may change it, and what a user is told.
#![forbid(unsafe_code)]

use crate::error::Code;

/// Codes by which stores ask for fewer requests.
pub(super) const OVERLOADED: [&str; 8] = [
    "BandwidthLimitExceeded",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
];

/// Answers that another attempt may change: S3's documented transient errors, those of gateways in front of stores (nginx's
/// 499, Cloudflare's 520 to 527 and 530), and a success whose body cannot be read.
pub(super) fn is_transient(status: u16, code: &str) -> bool {
    const CODES: [&str; 5] =
        ["IDPCommunicationError", "InternalError", "OperationAborted", "PriorRequestNotComplete", "RequestTimeout"];
    let by_status = matches!(status, 408 | 409 | 429 | 499 | 500 | 502..=504 | 507..=509 | 520..=527 | 530);
    by_status || is_unreadable(status, code) || CODES.contains(&code) || OVERLOADED.contains(&code)
}

/// Whether the answer says that all went well, and has something else in it than such an answer has.
pub(super) fn is_unreadable(status: u16, code: &str) -> bool {
    (200..300).contains(&status) && code.is_empty()
}

/// Whether a request that was answered so may have done its work. A refusal (3xx, 4xx) has not, nor has a server that lacks what
/// was asked for (501, 505); a gateway that saw its client go away (499) cannot tell.
pub(super) fn may_have_worked(status: u16) -> bool {
    status == 499 || !matches!(status, 300..=499 | 501 | 505)
}

/// SQLSTATE, summary and hint for an answer.
pub(super) fn meaning(status: u16, code: &str) -> (Code, &'static str, Option<&'static str>) {
    match code {
        "NoSuchBucket" => (Code::Undefined, "the bucket does not exist", Some("Create the bucket, or correct its name.")),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => (
            Code::Credentials,
            "S3 does not accept the integration's credentials",
            Some("Check access key, secret key and region of the integration; s3_export.set_credentials stores new keys."),
        ),
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => (
            Code::Credentials,
            "the integration's session token is not valid any more",
            Some("Store new temporary credentials with s3_export.set_credentials, or use long-lived keys."),
        ),
        "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" => (
            Code::Limit,
            "the store's quota is used up",
            Some("Raise the quota of the bucket or of its user, or delete what is not needed any more."),
        ),
        "UserSuspended" => (
            Code::Credentials,
            "the store has suspended the integration's user",
            Some("Ask whoever runs the store to enable the user, or store the keys of another user."),
        ),
        "InvalidArgument" | "InvalidRequest" | "InvalidStorageClass" => (
            Code::Io,
            "S3 reported an error",
            Some(
                "The store does not take something that the request asks for: sse, storage_class, object_acl, checksum, and \
                 object_lock_mode in a bucket without Object Lock, are the likely columns of the integration.",
            ),
        ),
        "RequestTimeTooSkewed" => {
            (Code::Io, "the server's clock differs from S3's", Some("Set the clock of the database server."))
        }
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException" => (
            Code::InvalidParameter,
            "the bucket is in another region",
            Some("Set the region of the integration to the bucket's, or to NULL, and it is asked for."),
        ),
        _ => match status {
            401 | 403 => (
                Code::Privilege,
                "S3 denied access",
                Some(
                    "The integration's credentials need s3:PutObject, s3:AbortMultipartUpload and s3:DeleteObject here, \
                     s3:PutObjectTagging for tags, and s3:PutObjectRetention for object_lock_mode.",
                ),
            ),
            404 => (Code::Undefined, "the bucket or endpoint does not exist", None),
            200..=299 if is_unreadable(status, code) => (Code::Io, "S3's answer cannot be read", None),
            301 | 307 => (
                Code::InvalidParameter,
                "the bucket is in another region",
                Some("Set the region of the integration to the bucket's, or to NULL, and it is asked for."),
            ),
            411 => (
                Code::Io,
                "S3 reported an error",
                Some(
                    "Something on the way has taken the length from the request, or the store wants one where there is none: look for a proxy.",
                ),
            ),
            413 => (
                Code::Io,
                "S3 reported an error",
                Some(
                    "A proxy before the store takes no body of that size (nginx: client_max_body_size). Parts have 8 MiB, more where \
                     max_file_bytes asks for it, and files up to that size are sent as one.",
                ),
            ),
            501 => (
                Code::Io,
                "S3 reported an error",
                Some(
                    "The store lacks something that the request asks for: checksum \"none\" leaves checksums out; sse, storage_class, \
                     object_acl, tags and object_lock_mode of the integration are others. s3_export.validate_integration tells \
                     which requests it takes.",
                ),
            ),
            _ => (Code::Io, "S3 reported an error", None),
        },
    }
}

/// Returns SQLSTATE, summary and hint for an answer of STS.
pub(super) fn sts_meaning(status: u16, code: &str) -> (Code, &'static str, Option<&'static str>) {
    match code {
        "InvalidClientTokenId" | "SignatureDoesNotMatch" | "UnrecognizedClientException" | "InvalidAccessKeyId" => (
            Code::Credentials,
            "STS does not accept the integration's credentials",
            Some("Check access key and secret key of the integration; s3_export.set_credentials stores new keys."),
        ),
        "ExpiredToken" | "ExpiredTokenException" => (
            Code::Credentials,
            "the integration's session token is not valid any more",
            Some("Store new temporary credentials with s3_export.set_credentials, or use long-lived keys."),
        ),
        "PackedPolicyTooLarge" | "PackedPolicySizeLimitExceeded" => {
            (Code::Limit, "the session policy is too large for STS", Some("Allow fewer or shorter locations."))
        }
        "RegionDisabledException" | "RegionDisabled" => (
            Code::NotReady,
            "STS is switched off in this region",
            Some("Set the integration's sts_endpoint to another region's."),
        ),
        _ => match status {
            401 | 403 => (
                Code::Privilege,
                "STS denied it",
                Some(
                    "The role's trust policy must name the integration's own identity and external id: \
                     s3_export.trust_policy prints one. That identity needs sts:AssumeRole on the role.",
                ),
            ),
            _ => (Code::Io, "STS reported an error", None),
        },
    }
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
    fn answers_of_proxies_and_of_stores_that_lack_something_say_what_to_look_for() {
        for (status, code, hint) in
            [(411, "MissingContentLength", "proxy"), (413, "", "client_max_body_size"), (501, "NotImplemented", "checksum")]
        {
            assert!(meaning(status, code).2.is_some_and(|text| text.contains(hint)), "{status}");
        }
    }
}
