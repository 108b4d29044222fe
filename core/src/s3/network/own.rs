//! The HTTP client for certificates of one's own and for a proxy.
//!
//! The SDK's client takes no judge of certificates, which a server's self-signed certificate needs (see `trust`), and its proxy
//! checks no host (see `route`). So this is the same client once more, made of the same libraries.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::timeout;
use tower_service::Service;

use crate::s3::network::route::{Boxed, Guide, Route};
use crate::sync::lock;

/// Makes connectors, one for each pair of time limits, so that requests share connections.
pub struct OwnClient {
    tls: Arc<ClientConfig>,
    guide: Guide,
    made: Mutex<Vec<(Limits, SharedHttpConnector)>>,
}

/// Longest times; `None`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Until a connection stands, name and TLS included; through a proxy, until the tunnel stands, and once more for TLS.
    connect: Option<Duration>,
    /// From a request to the head of its answer.
    read: Option<Duration>,
}

impl OwnClient {
    /// A client whose connections go as `guide` says.
    pub fn new(tls: Arc<ClientConfig>, guide: Guide) -> Self {
        OwnClient { tls, guide, made: Mutex::default() }
    }
}

impl fmt::Debug for OwnClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnClient")
    }
}

impl HttpClient for OwnClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, _components: &RuntimeComponents) -> SharedHttpConnector {
        let limits = Limits { connect: settings.connect_timeout(), read: settings.read_timeout() };
        let mut made = lock(&self.made);
        if let Some((_, connector)) = made.iter().find(|(known, _)| *known == limits) {
            return connector.clone();
        }
        let route = Route::new(&self.guide, limits.connect);
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.tls.as_ref().clone()).https_or_http();
        let connector = tls.enable_all_versions().wrap_connector(route.clone());
        let connector = Connecting { connector, route, limit: limits.connect };
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let connector = SharedHttpConnector::new(OwnConnector { client, limit: limits.read });
        made.push((limits, connector.clone()));
        connector
    }
}

struct OwnConnector {
    client: Client<Connecting<HttpsConnector<Route>>, SdkBody>,
    limit: Option<Duration>,
}

impl fmt::Debug for OwnConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnConnector")
    }
}

impl HttpConnector for OwnConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        let (answer, limit) = (self.client.request(request), self.limit);
        HttpConnectorFuture::new(async move {
            let answer = within(limit, answer).await.map_err(ConnectorError::timeout)?;
            let answer = answer.map_err(|error| ConnectorError::io(error.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from_body_1_x))
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, BoxError> {
    match limit {
        Some(limit) => Ok(timeout(limit, work).await?),
        None => Ok(work.await),
    }
}

/// Connects within a time.
#[derive(Clone)]
struct Connecting<C> {
    connector: C,
    route: Route,
    limit: Option<Duration>,
}

impl<C> Service<Uri> for Connecting<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Boxed<C::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        // The tunnel has a limit of its own, whose end names the proxy.
        let times = if self.route.is_tunnel(&address) { 2 } else { 1 };
        let limit = self.limit.map(|limit| limit * times);
        let connection = self.connector.call(address);
        Box::pin(async move { within(limit, connection).await? })
    }
}
