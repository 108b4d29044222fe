//! The way of requests to their host, without Postgres and without a store: proxies, Amazon's names, certificates.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod amazon;
mod connect_proxy;
mod proxied;
mod reach;
mod refusals;
mod servers;
