//! HTTP clients: TLS over rustls, names resolved without blocking, and no address that the integration may not reach.
//!
//! One [`Network`] serves a whole transaction: its exports share connections, and so the number of open sockets does not
//! grow with theirs. Nothing follows a redirect: no client here does unless it is told to.
#![forbid(unsafe_code)]

mod address;
mod resolver;
mod trust;

use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use once_cell::sync::OnceCell;

pub use self::address::{Reach, Refused};
use self::resolver::SystemResolver;
pub use self::trust::Trust;

/// The clients of a transaction, each made when it is first asked for.
#[derive(Debug, Default)]
pub struct Network {
    trust: Trust,
    resolver: SystemResolver,
    public: OnceCell<SharedHttpClient>,
    private: OnceCell<SharedHttpClient>,
    own: OnceCell<SharedHttpClient>,
}

impl Network {
    /// `trust`: for every client.
    pub fn new(trust: Trust) -> Self {
        Network { trust, ..Network::default() }
    }

    /// For S3 and STS.
    pub fn within(&self, reach: Reach) -> SharedHttpClient {
        let client = match reach {
            Reach::Public => &self.public,
            Reach::Private => &self.private,
        };
        let make = || SharedHttpClient::new(CheckedClient { http: self.client(self.resolver.within(reach)), reach });
        client.get_or_init(make).clone()
    }

    /// For the server's own credentials: what gives them is a metadata service, at an address that nobody else may name.
    pub fn unchecked(&self) -> SharedHttpClient {
        self.own.get_or_init(|| self.client(self.resolver.clone())).clone()
    }

    fn client(&self, resolver: impl aws_smithy_runtime_api::client::dns::ResolveDns + Clone + 'static) -> SharedHttpClient {
        let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
        let builder = Builder::new().tls_provider(ring);
        match self.trust.context() {
            Some(context) => builder.tls_context(context),
            None => builder,
        }
        .build_with_resolver(resolver)
    }
}

/// Refuses hosts that are addresses beyond the reach. Names are the resolver's to check.
#[derive(Debug)]
struct CheckedClient {
    http: SharedHttpClient,
    reach: Reach,
}

impl HttpClient for CheckedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.http.http_connector(settings, components);
        SharedHttpConnector::new(CheckedConnector { connector, reach: self.reach })
    }
}

#[derive(Debug)]
struct CheckedConnector {
    connector: SharedHttpConnector,
    reach: Reach,
}

impl HttpConnector for CheckedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        match self.reach.check_host(host(request.uri())) {
            Ok(()) => self.connector.call(request),
            Err(refused) => HttpConnectorFuture::ready(Err(ConnectorError::user(Box::new(refused)))),
        }
    }
}

/// The host in an absolute URL, brackets and all.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host_and_port.rfind(']') {
        Some(end) => host_and_port.get(..=end).unwrap_or(host_and_port),
        None => host_and_port.split(':').next().unwrap_or(host_and_port),
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn the_host_of_a_url() {
        for (url, expected) in [
            ("https://s3.example.com/bucket", "s3.example.com"),
            ("http://127.0.0.1:9000/x?y", "127.0.0.1"),
            ("http://[::1]:9000/x", "[::1]"),
            ("http://user@169.254.169.254", "169.254.169.254"),
            ("https://bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ] {
            assert_eq!(host(url), expected);
        }
    }
}
