//! The HTTP client for the certificates of `s3_export.ca_file`.
//!
//! The SDK's client takes authorities and no judge of certificates of one's own, which a server's self-signed certificate needs (see
//! `trust`). So this is the same client once more, made of the same libraries, with TLS as `trust` sets it up.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::dns::ResolveDns;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::timeout;
use tower_service::Service;

use crate::sync::lock;

/// Makes connectors, one for each pair of time limits, so that requests share connections.
pub struct OwnClient<R> {
    tls: Arc<ClientConfig>,
    names: R,
    made: Mutex<Vec<(Limits, SharedHttpConnector)>>,
}

/// Longest times; `None`: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Until a connection stands, name and TLS included.
    connect: Option<Duration>,
    /// From a request to the head of its answer.
    read: Option<Duration>,
}

impl<R> OwnClient<R> {
    /// `names`: resolves the names of hosts.
    pub fn new(tls: Arc<ClientConfig>, names: R) -> Self {
        OwnClient { tls, names, made: Mutex::default() }
    }
}

impl<R> fmt::Debug for OwnClient<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnClient")
    }
}

impl<R: ResolveDns + Clone + 'static> HttpClient for OwnClient<R> {
    fn http_connector(&self, settings: &HttpConnectorSettings, _components: &RuntimeComponents) -> SharedHttpConnector {
        let limits = Limits { connect: settings.connect_timeout(), read: settings.read_timeout() };
        let mut made = lock(&self.made);
        if let Some((_, connector)) = made.iter().find(|(known, _)| *known == limits) {
            return connector.clone();
        }
        let mut tcp = TcpConnector::new_with_resolver(Names(self.names.clone()));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_tls_config(self.tls.as_ref().clone()).https_or_http();
        let connector = Connecting { connector: tls.enable_all_versions().wrap_connector(tcp), limit: limits.connect };
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let connector = SharedHttpConnector::new(OwnConnector { client, limit: limits.read });
        made.push((limits, connector.clone()));
        connector
    }
}

struct OwnConnector<R> {
    client: Client<Connecting<HttpsConnector<TcpConnector<Names<R>>>>, SdkBody>,
    limit: Option<Duration>,
}

impl<R> fmt::Debug for OwnConnector<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnConnector")
    }
}

impl<R: ResolveDns + Clone + 'static> HttpConnector for OwnConnector<R> {
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
    limit: Option<Duration>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

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
        let (connection, limit) = (self.connector.call(address), self.limit);
        Box::pin(async move { within(limit, connection).await? })
    }
}

/// Host names, resolved as the SDK has them resolved.
#[derive(Clone)]
struct Names<R>(R);

impl<R: ResolveDns + Clone + 'static> Service<Name> for Names<R> {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Boxed<Self::Response>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.0.clone();
        Box::pin(async move {
            let found = names.resolve_dns(name.as_str()).await?;
            // The port is the URL's.
            let found: Vec<SocketAddr> = found.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
            Ok(found.into_iter())
        })
    }
}
