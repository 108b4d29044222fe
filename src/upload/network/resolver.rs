//! Host names, resolved asynchronously, and the addresses they give checked.
//!
//! The usual `getaddrinfo` blocks a thread that neither a cancel nor the end of the transaction can stop; a query to
//! the system's name servers (`/etc/resolv.conf`, `/etc/hosts`) on the runtime is dropped like any other future. The
//! connector uses the very addresses that were checked, so a name that resolves differently the next time gains nothing.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError, SharedDnsResolver};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use once_cell::sync::OnceCell;

use super::address::Reach;

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
        let resolver = self.resolver().map_err(ResolveDnsError::new)?;
        let addresses = resolver.lookup_ip(name).await.map_err(ResolveDnsError::new)?;
        Ok(addresses.iter().collect())
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
