//! The way to a host: straight, or through a tunnel of the proxy (CONNECT).
//!
//! A proxy would reach what an integration may not: it resolves names by itself, and stands in other networks than the server. So a
//! host is checked here before the proxy is asked for it. The proxy is asked by name, since its own rules go by names
//! (docs/decisions/proxy-by-name.md). Plain http has a tunnel too, so that a proxy sees no request.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::dns::{ResolveDns, SharedDnsResolver};
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use crate::s3::network::address::{Reach, Refused, is_number};
use crate::s3::network::exceptions::bare;
use crate::s3::network::proxy::Proxy;
use crate::s3::network::resolver::Names;
use crate::s3::network::tunnel::{Fault, ProxyFailure, connect};
use crate::sync::lock;

/// Time for a name to resolve here, where the proxy alone may know it.
const LOOKUP: Duration = Duration::from_secs(1);
/// Time for a name to resolve here, where nobody is asked who alone knows it. Less than a connection has.
const NEEDED_LOOKUP: Duration = Duration::from_secs(4);
/// Most names that are remembered as unknown here.
const MAX_UNKNOWN: usize = 64;

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Connects to hosts.
#[derive(Clone)]
pub struct Route {
    direct: TcpConnector<Names>,
    tunnels: Option<Tunnels>,
}

/// What the way depends on.
#[derive(Debug, Clone)]
pub struct Guide {
    /// Names of hosts; those beyond the reach are errors.
    pub hosts: SharedDnsResolver,
    /// Names as the system knows them: of the proxy.
    pub system: SharedDnsResolver,
    /// `None`: for the server's own credentials, whose source may be anywhere.
    pub reach: Option<Reach>,
    pub proxy: Option<Arc<Proxy>>,
}

impl Route {
    /// `limit`: for a tunnel to stand.
    pub fn new(guide: &Guide, limit: Option<Duration>) -> Self {
        let tunnels = guide.proxy.as_ref().map(|proxy| Tunnels {
            proxy: Arc::clone(proxy),
            tcp: tcp(&guide.system),
            hosts: guide.hosts.clone(),
            reach: guide.reach,
            unknown: Arc::default(),
            limit,
        });
        Route { direct: tcp(&guide.hosts), tunnels }
    }

    /// Whether a tunnel leads to the host of a URL.
    pub fn is_tunnel(&self, url: &Uri) -> bool {
        self.tunnel(url).is_some()
    }

    fn tunnel(&self, url: &Uri) -> Option<&Tunnels> {
        let host = url.host().unwrap_or_default();
        self.tunnels.as_ref().filter(|tunnels| !tunnels.pass_over(host))
    }
}

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Boxed<Self::Response>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Both connectors always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        match self.tunnel(&url).cloned() {
            Some(tunnels) => Box::pin(async move { tunnels.open(&url).await }),
            None => {
                if let Some(tunnels) = &self.tunnels {
                    tunnels.proxy.note_connection();
                }
                let connecting = self.direct.call(url);
                Box::pin(async move { Ok(connecting.await?) })
            }
        }
    }
}

fn tcp(names: &SharedDnsResolver) -> TcpConnector<Names> {
    let mut tcp = TcpConnector::new_with_resolver(Names(names.clone()));
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    tcp
}

/// Opens tunnels.
#[derive(Clone)]
struct Tunnels {
    proxy: Arc<Proxy>,
    tcp: TcpConnector<Names>,
    hosts: SharedDnsResolver,
    reach: Option<Reach>,
    /// Names that nobody here knows: they are asked for once.
    unknown: Arc<Mutex<HashSet<String>>>,
    limit: Option<Duration>,
}

impl Tunnels {
    /// Whether the host is reached without the proxy: it is an exception, or gives the server its own credentials, which it does
    /// on this machine alone.
    fn pass_over(&self, host: &str) -> bool {
        (self.reach.is_none() && is_beside_the_server(bare(host))) || self.proxy.excepts(host)
    }

    async fn open(self, url: &Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let host = url.host().ok_or("a URL has no host")?;
        let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
        let target = format!("{host}:{port}");
        let failed = |fault| ProxyFailure { proxy: self.proxy.to_string(), target: target.clone(), fault };
        self.check(host).await.map_err(|refusal| match refusal {
            Refusal::Beyond(error) => error,
            Refusal::Unknown => failed(Fault::UnknownHere).into(),
        })?;
        let connected = async {
            let stream = self.tcp.clone().call(self.proxy.uri().clone()).await;
            let stream = stream.map_err(|error| Fault::Unreachable(error.into()))?.into_inner();
            connect(stream, &target, &self.proxy).await
        };
        let connected = match self.limit {
            Some(limit) => timeout(limit, connected).await.unwrap_or(Err(Fault::Silent(limit))),
            None => connected.await,
        };
        let stream = connected.map_err(failed)?;
        self.proxy.note_connection();
        Ok(TokioIo::new(stream))
    }

    /// Errors: the host may not be asked of the proxy.
    async fn check(&self, host: &str) -> Result<(), Refusal> {
        let Some(reach) = self.reach else { return Ok(()) };
        reach.check_host(host).map_err(|refused| Refusal::Beyond(refused.into()))?;
        if bare(host).parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        // Such as 2852039166 and 0xa9fea9fe, which are addresses to some resolvers and names to others.
        if is_number(host) {
            return Err(Refusal::Unknown);
        }
        if reach == Reach::Private && lock(&self.unknown).contains(host) {
            return Ok(());
        }
        let limit = if reach == Reach::Private { LOOKUP } else { NEEDED_LOOKUP };
        match timeout(limit, self.hosts.resolve_dns(host)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if is_refusal(&error) => Err(Refusal::Beyond(error.into())),
            _ if reach == Reach::Public => Err(Refusal::Unknown),
            _ => {
                let mut unknown = lock(&self.unknown);
                if unknown.len() < MAX_UNKNOWN {
                    unknown.insert(host.to_owned());
                }
                Ok(())
            }
        }
    }
}

enum Refusal {
    /// An address lies beyond the reach.
    Beyond(BoxError),
    /// Nobody here knows the host's addresses.
    Unknown,
}

fn is_refusal(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|cause| cause.is::<Refused>())
}

/// Metadata services, the container's agents and this machine.
fn is_beside_the_server(host: &str) -> bool {
    let is_local = |address: IpAddr| address.is_loopback() || Reach::Private.check(address).is_err();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_local)
}
