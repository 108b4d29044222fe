//! PUTs of small files, without what the SDK finds out anew for each request.
//!
//! One through the SDK takes 400,000 instructions beside its body; endpoint, headers and who signs, which take most of them, are
//! the same for all files of an export. So the SDK makes one such request, which is not sent but becomes the template of others;
//! they differ in key, length and checksum, and are signed by the SDK's own signer. A template counts only if signing it here
//! gives what the SDK has signed, to the letter: whatever signs differently (directory buckets, access points of many regions)
//! stays with the SDK.
//!
//! What a store refuses, or what goes wrong on the way, is told to the SDK as the answer to a request of its own, so that failures
//! are read in one place.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{Config, ConfigBag, HttpClient, Intercept, RuntimeComponents};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::SdkBody;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_http::label::{EncodingStrategy, fmt_string};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use aws_smithy_types::timeout::TimeoutConfig;
use bytes::Bytes;

use super::checksum::{Algorithm, Checksum};
use super::runtime::lock;

/// A PUT as the SDK takes it.
pub type SdkPut = CustomizableOperation<PutObjectOutput, PutObjectError, PutObjectFluentBuilder>;

/// Most bytes of a body that is sent from a template. Beyond that the SDK's share is small, and its watch over uploads that stand
/// still is worth it.
pub const MOST_BYTES: usize = 1 << 20;

/// What signing adds.
const OF_SIGNING: [&str; 4] = ["authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];

/// What is of one request only, beside its length and its checksum.
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

/// What the PUTs of an export's files have in common.
#[derive(Debug)]
pub struct Template {
    /// Of the URL.
    before_key: String,
    after_key: String,
    headers: Headers,
    region: String,
    service: String,
    signs_payload: bool,
    checksum: Algorithm,
    connector: SharedHttpConnector,
}

impl Template {
    /// The template that `put`, a request that is not sent, gives; `key` and `body` are its. `None`: it is none that could be
    /// signed here.
    pub async fn of(
        put: SdkPut,
        key: &str,
        body: &Bytes,
        checksum: Algorithm,
        signs_payload: bool,
        credentials: Credentials,
    ) -> Option<Self> {
        let captured = Capture::default();
        // The error is the capture's own.
        let _ = put.interceptor(captured.clone()).send().await;
        let Captured { url, mut headers, connector } = lock(&captured.0).take()?;
        let signed: Vec<_> = OF_SIGNING.iter().filter_map(|name| Some((*name, headers.remove(name)?))).collect();
        let find = |name| signed.iter().find(|header| header.0 == name).map(|header| header.1.as_str());
        let (region, service) = scope(find("authorization")?)?;
        let time = time(find("x-amz-date")?)?;
        let (path, query) = url.split_once('?').map_or((url.as_str(), ""), |(path, _)| (path, &url[path.len()..]));
        let before_key = path.strip_suffix(&encoded(key))?.to_owned();
        let (region, service) = (region.to_owned(), service.to_owned());
        let after_key = query.to_owned();
        let mut template = Template { before_key, after_key, headers, region, service, signs_payload, checksum, connector };
        let mut again = template.sign(&url, &template.headers, body, credentials, time)?;
        again.sort();
        if !again.iter().map(|(name, value)| (*name, value)).eq(signed.iter().map(|(name, value)| (*name, value))) {
            return None;
        }
        for name in [INVOCATION_ID, "content-length"].iter().chain(checksum.header().iter()) {
            template.headers.remove(name);
        }
        Some(template)
    }

    /// Sends one PUT, with this checksum of its body.
    pub async fn put(
        &self,
        key: &str,
        body: Bytes,
        checksum: &Checksum,
        credentials: Credentials,
    ) -> Result<HttpResponse, ConnectorError> {
        let request = self.request(key, body, checksum, credentials).map_err(ConnectorError::user)?;
        self.connector.call(request).await
    }

    fn request(&self, key: &str, body: Bytes, checksum: &Checksum, credentials: Credentials) -> Result<HttpRequest, BoxError> {
        let url = [&self.before_key, encoded(key).as_str(), &self.after_key].concat();
        let mut headers = self.headers.clone();
        headers.try_insert("content-length", body.len().to_string())?;
        if let (Some(name), Some(value)) = (self.checksum.header(), checksum.base64()) {
            headers.try_insert(name, value)?;
        }
        let signature =
            self.sign(&url, &headers, &body, credentials, SystemTime::now()).ok_or("the request cannot be signed")?;
        for (name, value) in signature {
            headers.try_insert(name, value)?;
        }
        let mut request = HttpRequest::new(SdkBody::from(body));
        request.set_method("PUT")?;
        request.set_uri(url)?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The headers that sign a request, by S3's rules.
    fn sign(
        &self,
        url: &str,
        headers: &Headers,
        body: &[u8],
        credentials: Credentials,
        time: SystemTime,
    ) -> Option<Vec<(&'static str, String)>> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = Identity::from(credentials);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(time)
            .settings(settings)
            .build()
            .ok()?;
        let body = if self.signs_payload { SignableBody::Bytes(body) } else { SignableBody::UnsignedPayload };
        let request = SignableRequest::new("PUT", url, headers.iter(), body).ok()?;
        let (signature, _) = sign(request, &params.into()).ok()?.into_parts();
        let (headers, _) = signature.into_parts();
        Some(headers.iter().map(|header| (header.name(), header.value().to_owned())).collect())
    }
}

/// As it is in a URL.
fn encoded(key: &str) -> String {
    fmt_string(key, EncodingStrategy::Greedy)
}

/// Region and service of a signature.
fn scope(authorization: &str) -> Option<(&str, &str)> {
    let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split(',').next()?;
    let mut parts = credential.rsplit('/').skip(1);
    let service = parts.next()?;
    Some((parts.next()?, service))
}

/// Of a signature: `20261129T120000Z`.
fn time(date: &str) -> Option<SystemTime> {
    let part = |range| date.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15)?);
    let date = DateTime::from_str(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"), Format::DateTime).ok()?;
    SystemTime::try_from(date).ok()
}

/// Takes a request from the SDK once it is signed, and keeps it from being sent.
#[derive(Debug, Clone, Default)]
struct Capture(Arc<Mutex<Option<Captured>>>);

#[derive(Debug)]
struct Captured {
    url: String,
    headers: Headers,
    /// By which it would have been sent.
    connector: SharedHttpConnector,
}

impl Intercept for Capture {
    fn name(&self) -> &'static str {
        "Capture"
    }

    fn read_after_signing(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let client = components.http_client().ok_or("no HTTP client")?;
        let mut settings = HttpConnectorSettings::builder();
        if let Some(timeouts) = config.load::<TimeoutConfig>() {
            settings.set_connect_timeout(timeouts.connect_timeout()).set_read_timeout(timeouts.read_timeout());
        }
        let connector = client.http_connector(&settings.build(), components);
        let request = context.request();
        *lock(&self.0) = Some(Captured { url: request.uri().to_owned(), headers: request.headers().clone(), connector });
        Err("not to be sent".into())
    }
}

/// The settings of a client that is told this when it asks.
pub fn told(answer: Result<HttpResponse, ConnectorError>) -> aws_sdk_s3::config::Builder {
    Config::builder().http_client(Told(Arc::new(Mutex::new(Some(answer)))))
}

#[derive(Debug, Clone)]
struct Told(Arc<Mutex<Option<Result<HttpResponse, ConnectorError>>>>);

impl HttpClient for Told {
    fn http_connector(&self, _settings: &HttpConnectorSettings, _components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Told {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        let answer = lock(&self.0).take();
        HttpConnectorFuture::ready(answer.unwrap_or_else(|| Err(ConnectorError::user("asked twice".into()))))
    }
}
