//! HTTP clients: TLS over rustls, names resolved without blocking, no address that the integration may not reach, and no answer
//! without end.
//!
//! One [`Network`] serves a whole transaction: its exports share connections, and so the number of open sockets does not
//! grow with theirs. Nothing follows a redirect: no client here does unless it is told to.
#![forbid(unsafe_code)]

mod address;
mod bounded;
mod exceptions;
mod own;
mod proxy;
mod resolver;
mod route;
mod trust;
mod tunnel;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::dns::{ResolveDns, SharedDnsResolver};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use once_cell::sync::OnceCell;
use rustls::ClientConfig;

pub use self::address::{Reach, Refused};
use self::bounded::BoundedClient;
pub use self::bounded::is_too_long;
use self::own::OwnClient;
pub use self::proxy::Proxy;
use self::resolver::{CheckedResolver, SystemResolver};
use self::route::Guide;
pub use self::trust::Trust;
use self::trust::system_tls;
pub use self::tunnel::{Fault, ProxyFailure};
use crate::error::Result;

/// The clients of a transaction, each made when it is first asked for.
#[derive(Debug)]
pub struct Network {
    /// `None`: as the SDK's own client has it.
    tls: Option<Arc<ClientConfig>>,
    names: SharedDnsResolver,
    proxy: Option<Arc<Proxy>>,
    public: OnceCell<SharedHttpClient>,
    private: OnceCell<SharedHttpClient>,
    own: OnceCell<SharedHttpClient>,
}

impl Network {
    /// `trust`: for every client.
    pub fn new(trust: Trust) -> Self {
        Self::with_names(trust, SystemResolver::default())
    }

    /// Resolves names in another way than the system's: for tests.
    pub fn with_names(trust: Trust, names: impl ResolveDns + 'static) -> Self {
        let names = SharedDnsResolver::new(names);
        let tls = match trust {
            Trust::System => None,
            Trust::Files(tls) => Some(tls),
        };
        Network { tls, names, proxy: None, public: OnceCell::new(), private: OnceCell::new(), own: OnceCell::new() }
    }

    /// Sends everything through the proxy, where there is one. Errors: none that is known; TLS could not be set up.
    pub fn through(self, proxy: Option<Proxy>) -> Result<Self> {
        let Some(proxy) = proxy else { return Ok(self) };
        let tls = match self.tls {
            Some(tls) => tls,
            None => system_tls()?,
        };
        Ok(Network { tls: Some(tls), proxy: Some(Arc::new(proxy)), ..self })
    }

    /// Whether any connection has stood in this transaction, where a proxy says so. `None`: nobody knows.
    pub fn has_connected(&self) -> Option<Arc<AtomicBool>> {
        self.proxy.as_ref().map(|proxy| proxy.has_connected())
    }

    /// For S3 and STS.
    pub fn within(&self, reach: Reach) -> SharedHttpClient {
        let client = match reach {
            Reach::Public => &self.public,
            Reach::Private => &self.private,
        };
        let make = || {
            let http = self.client(CheckedResolver::new(self.names.clone(), reach), Some(reach));
            SharedHttpClient::new(CheckedClient { http, reach })
        };
        client.get_or_init(make).clone()
    }

    /// For the server's own credentials: what gives them is a metadata service, at an address that nobody else may name.
    pub fn unchecked(&self) -> SharedHttpClient {
        self.own.get_or_init(|| self.client(self.names.clone(), None)).clone()
    }

    fn client(&self, hosts: impl ResolveDns + Clone + 'static, reach: Option<Reach>) -> SharedHttpClient {
        let http = match &self.tls {
            None => {
                let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
                Builder::new().tls_provider(ring).build_with_resolver(hosts)
            }
            Some(tls) => {
                let (hosts, system) = (SharedDnsResolver::new(hosts), self.names.clone());
                let guide = Guide { hosts, system, reach, proxy: self.proxy.clone() };
                SharedHttpClient::new(OwnClient::new(Arc::clone(tls), guide))
            }
        };
        SharedHttpClient::new(BoundedClient(http))
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
    use std::net::IpAddr;

    use aws_sdk_s3::Client;
    use aws_smithy_runtime_api::client::dns::DnsFuture;

    use super::*;
    use crate::error::{Code, Error};
    use crate::s3::Failure;
    use crate::s3::client::plain_config;

    /// Says that every name means this address.
    #[derive(Debug, Clone)]
    struct Liar(IpAddr);

    impl ResolveDns for Liar {
        fn resolve_dns<'a>(&'a self, _name: &'a str) -> DnsFuture<'a> {
            DnsFuture::ready(Ok(vec![self.0]))
        }
    }

    /// The error of a request to `endpoint`, where every name means `address`.
    fn request(reach: Reach, endpoint: &str, address: &str) -> Error {
        let network = Network::with_names(Trust::System, Liar(address.parse().unwrap()));
        let config = plain_config("us-east-1").allow_no_auth().endpoint_url(endpoint).http_client(network.within(reach));
        // A bucket's name before the host's may make an address of both.
        let client = Client::from_conf(config.force_path_style(endpoint != "http://254").build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(client.head_bucket().bucket("169.254.169").send());
        Failure::new("test", "s3://bucket", &answer.unwrap_err()).error
    }

    #[test]
    fn attack_ssrf_to_the_metadata_service_by_a_name_that_resolves_to_it() {
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200"] {
            for endpoint in ["http://innocent.example", "https://innocent.example"] {
                let error = request(Reach::Private, endpoint, address);
                assert_eq!(error.code(), Code::Privilege, "{endpoint} {address}: {error:?}");
            }
        }
    }

    #[test]
    fn attack_ssrf_to_the_metadata_service_by_its_address() {
        for endpoint in ["http://169.254.169.254", "http://[fd00:ec2::254]", "http://[::ffff:a9fe:a9fe]", "http://254"] {
            let error = request(Reach::Private, endpoint, "127.0.0.1");
            assert_eq!(error.code(), Code::Privilege, "{endpoint}: {error:?}");
        }
    }

    #[test]
    fn attack_ssrf_into_the_servers_network_by_an_administrators_endpoint() {
        for (endpoint, address) in [("https://innocent.example", "10.0.0.1"), ("https://127.0.0.1:1", "52.0.0.1")] {
            assert_eq!(request(Reach::Public, endpoint, address).code(), Code::Privilege);
        }
        // A superuser's may go there, and finds nobody.
        assert_eq!(request(Reach::Private, "https://127.0.0.1:1", "52.0.0.1").code(), Code::Connection);
    }

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

    /// Returns the error of a request to a server that answers the first bytes of a connection so, and closes it.
    fn said_of(answer: &'static [u8]) -> Failure {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            }
        });
        let config = plain_config("us-east-1").allow_no_auth().endpoint_url(&endpoint).force_path_style(true);
        let client = Client::from_conf(config.http_client(Network::new(Trust::System).within(Reach::Private)).build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Failure::new("test", "s3://bucket", &runtime.block_on(client.head_bucket().bucket("bucket").send()).unwrap_err())
    }

    #[test]
    fn a_server_that_speaks_no_tls_of_ours_is_named_and_not_asked_again() {
        for (answer, what) in [
            (&b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..], "InvalidContentType"),
            (&[0x15, 3, 3, 0, 2, 2, 40][..], "HandshakeFailure"),
            (&[0x15, 3, 3, 0, 2, 2, 70][..], "ProtocolVersion"),
        ] {
            let failure = said_of(answer);
            assert!(!failure.transient && !failure.outcome_unknown, "{what}: {:?}", failure.error);
            assert_eq!(failure.error.code(), Code::Connection);
            assert!(failure.error.message().contains("no TLS connection"), "{:?}", failure.error);
            assert!(failure.error.summary().contains(what), "{:?}", failure.error);
            assert!(failure.error.hint_text().unwrap().contains("plain http"));
        }
        // So does one that restarts.
        let ended = said_of(b"");
        assert!(ended.transient && ended.error.hint_text().unwrap().contains("plain http"), "{:?}", ended.error);
        // Any other fault of the moment.
        assert!(said_of(&[0x15, 3, 3, 0, 2, 2, 80]).transient);
    }
}
