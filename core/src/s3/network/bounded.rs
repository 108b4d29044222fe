//! Answers of bounded length.
//!
//! The SDK gathers the whole body of an answer in memory before it looks at the answer. A store that answers without end, or
//! whoever has its name, would fill the memory of the server within seconds.
#![forbid(unsafe_code)]

use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::{LengthLimitError, Limited};

/// Most bytes of an answer that has a line for each object: of a listing, or of a request that deletes many objects. A page has
/// 1,000 keys of 1,024 bytes, each of which XML may write as six.
const LISTING: usize = 16 << 20;
/// Most bytes of an object that is read: of a manifest, which whoever reads it bounds himself.
const OBJECT: usize = usize::MAX;
/// Most bytes of any other answer, such as an error. There may be as many of these at once as there are uploads.
const ANSWER: usize = 1 << 20;

/// Reads no more of an answer than a store has to say. Beyond that, the body ends with an error.
#[derive(Debug)]
pub struct BoundedClient(pub SharedHttpClient);

impl HttpClient for BoundedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(BoundedConnector(self.0.http_connector(settings, components)))
    }
}

#[derive(Debug)]
struct BoundedConnector(SharedHttpConnector);

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (limit, reads_object) = (limit(&request), reads_object(&request));
        let answer = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            let limit = if reads_object && answer.status().is_success() { OBJECT } else { limit };
            Ok(answer.map(|body| SdkBody::from_body_1_x(Limited::new(body, limit))))
        })
    }
}

fn limit(request: &HttpRequest) -> usize {
    let deletes_many = request.method() == "POST" && request.uri().ends_with("?delete");
    if request.method() == "GET" || deletes_many { LISTING } else { ANSWER }
}

/// The SDK names the operation in the query.
fn reads_object(request: &HttpRequest) -> bool {
    request.method() == "GET" && request.uri().contains("x-id=GetObject")
}

/// Whether the answer was longer than any that is read here.
pub fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|cause| cause.is::<LengthLimitError>())
}
