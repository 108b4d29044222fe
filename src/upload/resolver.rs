//! Host names, resolved asynchronously.
//!
//! The usual `getaddrinfo` blocks a thread that neither a cancel nor the end of the transaction can stop; a query to
//! the system's name servers (`/etc/resolv.conf`, `/etc/hosts`) on the runtime is dropped like any other future.
#![forbid(unsafe_code)]

use std::sync::Arc;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use once_cell::sync::OnceCell;

/// Reads the system's configuration when the first name is asked for: an endpoint given by address needs none.
#[derive(Debug, Clone, Default)]
pub struct SystemResolver {
    resolver: Arc<OnceCell<TokioResolver>>,
}

impl SystemResolver {
    fn resolver(&self) -> Result<&TokioResolver, NetError> {
        self.resolver.get_or_try_init(|| TokioResolver::builder_tokio()?.build())
    }
}

impl ResolveDns for SystemResolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let resolver = self.resolver().map_err(ResolveDnsError::new)?;
            let addresses = resolver.lookup_ip(name).await.map_err(ResolveDnsError::new)?;
            Ok(addresses.iter().collect())
        })
    }
}
