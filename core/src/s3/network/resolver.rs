//! Host names, resolved asynchronously, and the addresses they give checked.
//!
//! The usual `getaddrinfo` blocks a thread that neither a cancel nor the end of the transaction can stop; a query to
//! the system's name servers (`/etc/resolv.conf`, `/etc/hosts`) on the runtime is dropped like any other future. The
//! connector uses the very addresses that were checked, so a name that resolves differently the next time gains nothing.
//!
//! A resolver ends with its transaction, as the runtime does that it is bound to; the addresses that it has found are kept by the
//! process, for as long as their records say and a minute at most, so that a small export does not wait for them.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError, SharedDnsResolver};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hyper_util::client::legacy::connect::dns::Name;
use once_cell::sync::OnceCell;
use tower_service::Service;

use crate::s3::network::address::Reach;
use crate::sync::lock;

/// Lifetime of an entry of `/etc/hosts`, which has no end of its own and may be changed.
const LONGEST: Duration = Duration::from_secs(60);

/// Names known at once.
const MAX_NAMES: usize = 64;

/// Addresses by name, and until when they are believed.
#[derive(Debug, Default)]
struct Known(HashMap<String, (Vec<IpAddr>, Instant)>);

impl Known {
    fn get(&self, name: &str, now: Instant) -> Option<Vec<IpAddr>> {
        self.0.get(name).filter(|(_, until)| now < *until).map(|(addresses, _)| addresses.clone())
    }

    fn keep(&mut self, name: &str, addresses: &[IpAddr], until: Instant, now: Instant) {
        self.0.retain(|_, (_, until)| now < *until);
        if self.0.len() < MAX_NAMES {
            self.0.insert(name.to_owned(), (addresses.to_vec(), until.min(now + LONGEST)));
        }
    }
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

/// Reads the system's configuration when the first name is asked for: an endpoint given by address needs none.
#[derive(Debug, Clone, Default)]
pub struct SystemResolver {
    resolver: Arc<OnceCell<TokioResolver>>,
}

impl SystemResolver {
    fn resolver(&self) -> Result<&TokioResolver, NetError> {
        self.resolver.get_or_try_init(|| TokioResolver::builder_tokio()?.build())
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, ResolveDnsError> {
        if let Some(addresses) = lock(&KNOWN).get(name, Instant::now()) {
            return Ok(addresses);
        }
        let resolver = self.resolver().map_err(ResolveDnsError::new)?;
        let found = resolver.lookup_ip(name).await.map_err(ResolveDnsError::new)?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        lock(&KNOWN).keep(name, &addresses, found.valid_until(), Instant::now());
        Ok(addresses)
    }
}

impl ResolveDns for SystemResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(self.lookup(name))
    }
}

/// One address beyond the reach refuses the whole name.
#[derive(Debug, Clone)]
pub struct CheckedResolver {
    names: SharedDnsResolver,
    reach: Reach,
}

impl CheckedResolver {
    /// Names that resolve to no address beyond `reach`.
    pub fn new(names: SharedDnsResolver, reach: Reach) -> Self {
        CheckedResolver { names, reach }
    }
}

impl ResolveDns for CheckedResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = self.names.resolve_dns(name).await?;
            addresses.iter().try_for_each(|address| self.reach.check(*address)).map_err(ResolveDnsError::new)?;
            Ok(addresses)
        })
    }
}

/// Host names, resolved as the SDK has them resolved.
#[derive(Clone)]
pub struct Names(pub SharedDnsResolver);

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_as_long_as_their_records_say_and_a_minute_at_most() {
        let (mut known, now) = (Known::default(), Instant::now());
        let address = [IpAddr::from([192, 0, 2, 1])];
        known.keep("short", &address, now + Duration::from_secs(5), now);
        known.keep("long", &address, now + Duration::from_secs(86_400), now);
        let after = |seconds: u64| now + Duration::from_secs(seconds);
        assert_eq!(known.get("short", after(4)).as_deref(), Some(&address[..]));
        assert_eq!((known.get("short", after(5)), known.get("never", now)), (None, None));
        assert!(known.get("long", after(59)).is_some() && known.get("long", after(60)).is_none());
    }

    #[test]
    fn so_many_names_are_kept_and_room_is_made_by_those_that_are_old() {
        let (mut known, now) = (Known::default(), Instant::now());
        for number in 0..2 * MAX_NAMES {
            known.keep(&number.to_string(), &[], now + LONGEST, now);
        }
        assert_eq!(known.0.len(), MAX_NAMES);
        known.keep("new", &[], now + 3 * LONGEST, now + LONGEST);
        assert_eq!(known.0.len(), 1);
    }
}
