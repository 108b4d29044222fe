//! PUTs of small files, without what the SDK finds out anew for each request.
//!
//! One through the SDK takes 400,000 instructions beside its body; endpoint, headers and who signs, which take most of them, are
//! the same for all files of an export. So the SDK makes one such request, which is not sent but becomes the template of others;
//! they differ in key, length and checksum, and are signed by the SDK's own signer. A template counts only if signing it here
//! gives what the SDK has signed, to the letter: whatever signs differently (directory buckets, access points of many regions)
//! stays with the SDK.
//!
//! A refusal of the store, or a failure on the way, is replayed to the SDK as the answer to a request of its own, so that failures are
//! read in one place.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{Config, ConfigBag, HttpClient, Intercept, RuntimeComponents};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
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

use crate::s3::body::Payload;
use crate::s3::checksum::Algorithm;
use crate::sync::lock;

/// A PUT as the SDK takes it.
pub type SdkPut = CustomizableOperation<PutObjectOutput, PutObjectError, PutObjectFluentBuilder>;

/// Most bytes of a body that is sent from a template. Beyond that the SDK's share is small, and its watch over uploads that stand
/// still is worth it.
pub const MAX_BYTES: usize = 1 << 20;

/// Headers that signing adds, sorted.
const OF_SIGNING: [&str; 4] = ["authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];

/// Headers of one request only, beside its length and its checksum.
const INVOCATION_ID: &str = "amz-sdk-invocation-id";

/// Template of the PUTs of an export's files.
#[derive(Debug)]
pub struct Template {
    /// Path of the URL.
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
        let Captured { url, mut headers, connector } = capture(put).await?;
        let signed: Vec<_> = OF_SIGNING.iter().filter_map(|name| Some((*name, headers.remove(name)?))).collect();
        let find = |name| signed.iter().find(|header| header.0 == name).map(|header| header.1.as_str());
        let (region, service) = scope(find("authorization")?)?;
        let time = time(find("x-amz-date")?)?;
        let (path, after_key) = url.split_at(url.find('?').unwrap_or(url.len()));
        let mut template = Template {
            before_key: path.strip_suffix(&encoded(key))?.to_owned(),
            after_key: after_key.to_owned(),
            headers,
            region: region.to_owned(),
            service: service.to_owned(),
            signs_payload,
            checksum,
            connector,
        };
        if template.sign(&url, &template.headers, body, credentials, time)? != signed {
            return None;
        }
        for name in [INVOCATION_ID, "content-length"].iter().chain(checksum.header().iter()) {
            template.headers.remove(name);
        }
        Some(template)
    }

    /// Sends one PUT.
    pub async fn put(&self, key: &str, payload: Payload<'_>, by: Credentials) -> Result<HttpResponse, ConnectorError> {
        let request = self.request(key, payload, by).map_err(ConnectorError::user)?;
        self.connector.call(request).await
    }

    fn request(&self, key: &str, payload: Payload<'_>, by: Credentials) -> Result<HttpRequest, BoxError> {
        let url = [&self.before_key, encoded(key).as_str(), &self.after_key].concat();
        let mut headers = self.headers.clone();
        headers.try_insert("content-length", payload.bytes.len().to_string())?;
        if let (Some(name), Some(value)) = (self.checksum.header(), payload.checksum.base64()) {
            headers.try_insert(name, value)?;
        }
        let signature =
            self.sign(&url, &headers, payload.bytes, by, SystemTime::now()).ok_or("the request cannot be signed")?;
        for (name, value) in signature {
            headers.try_insert(name, value)?;
        }
        let mut request = HttpRequest::new(payload.in_frames().into_inner());
        request.set_method("PUT")?;
        request.set_uri(url)?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The headers that sign a request, by S3's rules; sorted.
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
        let mut headers: Vec<_> = headers.iter().map(|header| (header.name(), header.value().to_owned())).collect();
        headers.sort_unstable();
        Some(headers)
    }
}

/// Returns the key as a URL has it.
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

/// Formats the time of a signature: `20261129T120000Z`.
fn time(date: &str) -> Option<SystemTime> {
    let part = |range| date.get(range);
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(9..11)?, part(11..13)?, part(13..15)?);
    let date = DateTime::from_str(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"), Format::DateTime).ok()?;
    SystemTime::try_from(date).ok()
}

/// The request that the SDK would send. `None`: it comes to none.
async fn capture(put: SdkPut) -> Option<Captured> {
    let captured = Capture::default();
    // The error is the capture's own.
    let _ = put.interceptor(captured.clone()).send().await;
    lock(&captured.0).take()
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
pub fn replay(answer: Result<HttpResponse, ConnectorError>) -> aws_sdk_s3::config::Builder {
    Config::builder().http_client(ReplayConnector(Arc::new(Mutex::new(Some(answer)))))
}

#[derive(Debug, Clone)]
struct ReplayConnector(Arc<Mutex<Option<Result<HttpResponse, ConnectorError>>>>);

impl HttpClient for ReplayConnector {
    fn http_connector(&self, _settings: &HttpConnectorSettings, _components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for ReplayConnector {
    fn call(&self, _request: HttpRequest) -> HttpConnectorFuture {
        let answer = lock(&self.0).take();
        HttpConnectorFuture::ready(answer.unwrap_or_else(|| Err(ConnectorError::user("asked twice".into()))))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::Client;
    use aws_sdk_s3::primitives::SdkBody;
    use aws_sdk_s3::types::StorageClass;

    use super::*;
    use crate::s3::body::Meter;
    use crate::s3::client::plain_config;
    use crate::s3::headers::ChecksumHeader;

    const KEYS: [&str; 5] = ["a.json", "a/b c+d=e/ä~*'(!).json", "year=2026/%2F%3D%253D/x.json", "a//b/.json", "?x-id=#&.json"];

    fn credentials(token: Option<&str>) -> Credentials {
        Credentials::new("AKID", "secret", token.map(str::to_owned), None, "test")
    }

    fn client(endpoint: Option<&str>, path_style: bool, token: Option<&str>) -> Client {
        let mut config = plain_config("eu-central-1").force_path_style(path_style).credentials_provider(credentials(token));
        config.set_endpoint_url(endpoint.map(str::to_owned));
        let replay = ReplayConnector(Arc::new(Mutex::new(None)));
        Client::from_conf(config.http_client(replay).build())
    }

    fn put(client: &Client, bucket: &str, key: &str, body: &Bytes, checksum: Algorithm, signs_payload: bool) -> SdkPut {
        let payload = Payload { bytes: body, meter: &Meter::default(), checksum: &checksum.of(body) };
        let put = client
            .put_object()
            .bucket(bucket)
            .key(key)
            .body(payload.in_frames())
            .content_type("application/json")
            .storage_class(StorageClass::GlacierIr)
            .with_checksum(payload.checksum)
            .customize();
        if signs_payload { put } else { put.disable_payload_signing() }
    }

    async fn template(
        client: &Client,
        bucket: &str,
        checksum: Algorithm,
        signs_payload: bool,
        token: Option<&str>,
    ) -> Option<Template> {
        let (key, body) = ("first?.json", Bytes::from_static(b"{}"));
        let put = put(client, bucket, key, &body, checksum, signs_payload);
        Template::of(put, key, &body, checksum, signs_payload, credentials(token)).await
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Without the signature's time, which may be another second, and the id of the SDK's invocation.
    fn comparable(url: &str, headers: &Headers) -> (String, Vec<(String, String)>) {
        let of_now = [INVOCATION_ID, "authorization", "x-amz-date"];
        let mut headers: Vec<_> = headers.iter().filter(|header| !of_now.contains(&header.0)).collect();
        headers.sort_unstable();
        (url.to_owned(), headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn a_request_of_the_template_is_the_sdks_own() {
        let body = Bytes::from(vec![b'x'; 100_000]);
        for (endpoint, path_style, signs_payload, checksum, token) in [
            (None, false, false, Algorithm::Crc32, None),
            (None, true, false, Algorithm::Sha256, Some("a token")),
            (Some("https://s3.example.com:8443"), true, false, Algorithm::None, None),
            (Some("http://127.0.0.1:9000"), true, true, Algorithm::Crc32, Some("a token")),
            (Some("http://s3.example.com/under/a/path"), true, true, Algorithm::Sha256, None),
        ] {
            let client = client(endpoint, path_style, token);
            let template = wait(template(&client, "bucket", checksum, signs_payload, token)).unwrap();
            for key in KEYS {
                let sdks = wait(capture(put(&client, "bucket", key, &body, checksum, signs_payload))).unwrap();
                let payload = Payload { bytes: &body, meter: &Meter::default(), checksum: &checksum.of(&body) };
                let ours = template.request(key, payload, credentials(token)).unwrap();
                assert_eq!(ours.method(), "PUT");
                assert_eq!(comparable(ours.uri(), ours.headers()), comparable(&sdks.url, &sdks.headers), "{endpoint:?} {key}");
                // Its signature is right for its own time.
                let mut unsigned = sdks.headers.clone();
                let signed: Vec<_> = OF_SIGNING.iter().filter_map(|name| Some((*name, unsigned.remove(name)?))).collect();
                let at = time(sdks.headers.get("x-amz-date").unwrap()).unwrap();
                assert_eq!(
                    template.sign(&sdks.url, &unsigned, &body, credentials(token), at).unwrap(),
                    signed,
                    "{endpoint:?} {key}"
                );
            }
        }
    }

    #[test]
    fn what_is_signed_in_another_way_has_no_template() {
        // A directory bucket, whose requests are signed with a session's credentials.
        let client = client(None, false, None);
        let directory = template(&client, "bucket--euc1-az1--x-s3", Algorithm::Crc32, false, None);
        assert!(wait(directory).is_none());
        // Other credentials than the ones that the SDK has signed with.
        let other = template(&client, "bucket", Algorithm::Crc32, false, Some("a token"));
        assert!(wait(other).is_none());
    }

    #[test]
    fn region_service_and_time_of_a_signature() {
        let header = "AWS4-HMAC-SHA256 Credential=AK/ID/20261129/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        assert_eq!(scope(header), Some(("eu-central-1", "s3")));
        assert_eq!(scope("AWS4-ECDSA-P256-SHA256 Credential=AKID/20261129/s3/aws4_request, SignedHeaders=host"), None);
        assert_eq!(time("20261129T120001Z"), Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_795_953_601)));
        assert_eq!(time("2026"), None);
    }

    #[test]
    fn the_sdk_is_told_an_answer_as_its_own() {
        let client = client(None, false, None);
        let put = put(&client, "bucket", "a.json", &Bytes::from_static(b"x"), Algorithm::None, false);
        let body = SdkBody::from("<Error><Code>SlowDown</Code><Message>less</Message></Error>");
        let answer = HttpResponse::new(503.try_into().unwrap(), body);
        let error = wait(put.config_override(replay(Ok(answer))).send()).unwrap_err();
        assert_eq!(aws_sdk_s3::error::ProvideErrorMetadata::code(&error), Some("SlowDown"));
        assert_eq!(error.raw_response().unwrap().status().as_u16(), 503);
    }
}
