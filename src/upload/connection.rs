//! From an integration's settings to an S3 client.
//!
//! Nothing but the settings given here takes part: no environment variable, no profile, no proxy, no instance role.
//! The SDK's own retries are off, since `retry` decides by operation, and so are its checksums, since `checksum` sets them.
#![forbid(unsafe_code)]

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_smithy_http_client::{Builder, tls};

use super::checksum::Algorithm;
use super::resolver::SystemResolver;
use crate::secret::Secret;

/// Time for a connection, TLS included, to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one attempt at a request, body included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(300);

/// Whom to speak to, and as whom.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The region requests are signed for.
    pub region: String,
    /// Another server than Amazon's, as a URL.
    pub endpoint: Option<String>,
    /// The bucket in the path instead of the host name.
    pub path_style: bool,
    /// Public half of the credentials.
    pub access_key_id: String,
    /// Secret half.
    pub secret_access_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
    /// Headers of every object written.
    pub object: ObjectSettings,
}

/// What every object is written with; sent only when set.
#[derive(Debug, Clone)]
pub struct ObjectSettings {
    /// The account that must own the bucket.
    pub expected_bucket_owner: Option<String>,
    /// Server-side encryption: `AES256`, `aws:kms`, `aws:kms:dsse`.
    pub sse: Option<String>,
    /// The KMS key's ARN.
    pub kms_key_id: Option<String>,
    /// Storage class of files; the manifest's is always STANDARD.
    pub storage_class: Option<String>,
    /// Canned ACL.
    pub acl: Option<String>,
    /// Checksum that S3 verifies.
    pub checksum: Algorithm,
}

impl Connection {
    /// Whether requests travel over TLS. Only then may the signature leave the payload out.
    pub fn is_encrypted(&self) -> bool {
        self.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"))
    }

    /// A client that shares the connections of `http`.
    pub fn client(&self, http: SharedHttpClient) -> Client {
        let credentials = Credentials::new(
            &self.access_key_id,
            self.secret_access_key.expose(),
            self.session_token.as_ref().map(|token| token.expose().to_owned()),
            None,
            "s3_export",
        );
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
        let mut config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region.clone()))
            .force_path_style(self.path_style)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .http_client(http);
        config.set_endpoint_url(self.endpoint.clone());
        Client::from_conf(config.build())
    }
}

/// HTTP and HTTPS over rustls with the system's certificates, names resolved without blocking. One serves a whole
/// transaction: its exports share connections, and so the number of open sockets does not grow with theirs.
pub fn http_client() -> SharedHttpClient {
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Builder::new().tls_provider(ring).build_with_resolver(SystemResolver::default())
}
