//! From an integration's settings to an S3 client.
//!
//! Nothing but the settings given here takes part: no environment variable, no profile, no proxy, no instance role, unless
//! the integration says so. The SDK's own retries are off, since `retry` decides by operation, and so are its checksums,
//! since `checksum` sets them.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Config, ConfigBag, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_smithy_runtime_api::box_error::BoxError;

use crate::s3::checksum::Algorithm;
use crate::s3::credentials::{Identity, Provider};
use crate::s3::failure::Failure;
use crate::s3::network::{Network, Reach};
use crate::s3::properties::{ExportProperties, ObjectLock, Texts};
use crate::s3::region;
use crate::s3::region::Place;
use crate::s3::requester_pays::RequesterPays;

/// Time for a connection, name and TLS included, to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to speak to, and as whom.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Region of the bucket.
    pub region: BucketRegion,
    /// Another server than Amazon's, as a URL.
    pub endpoint: Option<String>,
    /// Kind of Amazon's endpoints, for a connection without an endpoint of its own.
    pub amazon: AmazonEndpoints,
    /// The bucket in the path instead of the host name.
    pub path_style: bool,
    /// How far requests may go.
    pub reach: Reach,
    /// Who signs.
    pub identity: Arc<Identity>,
    /// Headers of every object written.
    pub object: ObjectSettings,
}

/// Kind of Amazon's endpoints of S3 and STS, for an integration that names no endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AmazonEndpoints {
    /// Those with validated cryptography (FIPS 140).
    pub fips: bool,
    /// Those that have addresses of IPv6 beside those of IPv4.
    pub dual_stack: bool,
}

/// The region requests are signed for.
#[derive(Debug, Clone)]
pub enum BucketRegion {
    /// This one.
    Known(String),
    /// Whichever Amazon says that the bucket is in. It is asked in this one, of the same partition.
    AskedFrom(String),
}

/// Settings with which every object is written; each is sent only when set.
#[derive(Debug, Clone, Default)]
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
    /// Tags that the integration gives.
    pub tags: Texts,
    /// Retention of every object.
    pub lock: Option<ObjectLock>,
    /// Encryption context of KMS, as its header has it.
    pub kms_encryption_context: Option<String>,
    /// Whether S3 keeps a key of the bucket's, where the method of encryption lets it.
    pub bucket_key: Option<bool>,
    /// Whether the requester pays, and every request says so.
    pub requester_pays: bool,
    /// Properties that this export gives.
    pub of_export: ExportProperties,
}

impl ObjectSettings {
    /// Returns the tags of the integration and of the export. No key has two values, as [`united_tags`] has seen to.
    ///
    /// [`united_tags`]: crate::s3::properties::united_tags
    pub fn all_tags(&self) -> Texts {
        self.tags.iter().chain(&self.of_export.tags).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Whether S3 keeps a key of the bucket's, so that it need not ask KMS for each object; it does so for this one method.
    pub fn bucket_key(&self) -> Option<bool> {
        (self.sse.as_deref() == Some("aws:kms")).then_some(self.bucket_key.unwrap_or(true))
    }
}

/// An open connection: region and credentials are there.
#[derive(Debug, Clone)]
pub struct Store {
    /// The SDK's client.
    pub client: Client,
    /// Signs its requests.
    pub provider: Provider,
    /// Settings of every object.
    pub settings: ObjectSettings,
    /// Only over TLS may the signature leave the payload out.
    pub unsigned_payload: bool,
    /// Whether it is Amazon's S3, which needs no endpoint.
    pub is_amazon: bool,
    /// Whether any connection has stood. `None`: nobody knows.
    pub has_connected: Option<Arc<AtomicBool>>,
}

impl Store {
    /// Whether no request can have reached the store, since no connection has stood yet.
    pub fn is_untouched(&self) -> bool {
        self.has_connected.as_ref().is_some_and(|has_connected| !has_connected.load(Ordering::SeqCst))
    }

    /// Finds out where the bucket is, and fetches credentials, so that what fails there fails before a query runs. Errors:
    /// of the network, STS, and the server's own source of credentials.
    pub async fn open(connection: &Connection, bucket: &str, network: &Arc<Network>) -> Result<Self, Failure> {
        let region = Self::find_region(connection, bucket, network).await?;
        Self::open_in(connection, region, network).await
    }

    /// The first half of [`Self::open`].
    pub async fn find_region(connection: &Connection, bucket: &str, network: &Network) -> Result<String, Failure> {
        match &connection.region {
            BucketRegion::Known(region) => Ok(region.clone()),
            BucketRegion::AskedFrom(first) => {
                let place = Place { first, amazon: connection.amazon, endpoint: None };
                region::of_bucket(bucket, place, &network.within(connection.reach)).await
            }
        }
    }

    /// The second half.
    pub async fn open_in(connection: &Connection, region: String, network: &Arc<Network>) -> Result<Self, Failure> {
        let provider = Provider::new(Arc::clone(&connection.identity), Arc::clone(network), &region);
        provider.credentials().await?;
        let mut config = plain_config(&region)
            .force_path_style(connection.path_style)
            .use_fips(connection.amazon.fips)
            .use_dual_stack(connection.amazon.dual_stack)
            .credentials_provider(provider.clone())
            // The provider has a cache, which outlives the export.
            .identity_cache(IdentityCache::no_cache())
            .http_client(network.within(connection.reach));
        config.set_endpoint_url(connection.endpoint.as_deref().map(as_folder));
        if connection.object.requester_pays {
            config = config.interceptor(RequesterPays);
        }
        let unsigned_payload = connection.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://"));
        let (settings, is_amazon) = (connection.object.clone(), connection.endpoint.is_none());
        let client = Client::from_conf(config.build());
        Ok(Store { client, provider, settings, unsigned_payload, is_amazon, has_connected: network.has_connected() })
    }
}

/// An endpoint with a slash after its path: the SDK writes the bucket's name right behind a path without one.
fn as_folder(endpoint: &str) -> String {
    let has_path = endpoint.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if has_path && !endpoint.ends_with('/') { format!("{endpoint}/") } else { endpoint.to_owned() }
}

/// Returns the timeouts of every client. The time for a whole attempt is the retry loop's.
pub fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build()
}

/// Stalled-stream protection of every client: none of uploads. The SDK's gives an upload up that has to wait for a slow link some
/// seconds, and says that the connection broke; the throttle (`overtime`) judges silence instead.
pub fn stalled_streams() -> StalledStreamProtectionConfig {
    StalledStreamProtectionConfig::enabled().upload_enabled(false).build()
}

/// Returns the configuration that all clients of S3 have in common.
pub fn plain_config(region: &str) -> Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts())
        .stalled_stream_protection(stalled_streams())
        .interceptor(LengthOfEmptyBodies)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
}

/// Says `content-length: 0` where a POST or PUT has no body. The SDK says nothing, and over HTTP/1.1 some stores and proxies
/// answer that with 411.
#[derive(Debug)]
struct LengthOfEmptyBodies;

impl Intercept for LengthOfEmptyBodies {
    fn name(&self) -> &'static str {
        "LengthOfEmptyBodies"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let is_empty = request.body().content_length() == Some(0);
        if is_empty && matches!(request.method(), "POST" | "PUT") && !request.headers().contains_key(CONTENT_LENGTH) {
            request.headers_mut().try_insert(CONTENT_LENGTH, "0")?;
        }
        Ok(())
    }
}

const CONTENT_LENGTH: &str = "content-length";

#[cfg(test)]
mod tests {
    use super::*;

    /// The SDK's guard gives up what waits 20 s for a slow link.
    #[test]
    fn no_client_guards_uploads_against_pauses() {
        assert!(!stalled_streams().upload_enabled() && stalled_streams().download_enabled());
        let config = plain_config("eu-central-1").build();
        assert!(config.stalled_stream_protection().is_some_and(|guard| !guard.upload_enabled()));
    }
}
