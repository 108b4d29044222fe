//! The meaning of a request without an answer: no connection came about, TLS could not be agreed on, or the server is not trusted.
#![forbid(unsafe_code)]

use super::sdk::printable;
use super::{Asked, Failure};
use crate::error::{Code, Error};
use crate::s3::network::{Fault, ProxyFailure};

/// Whether no connection came about, so that nothing was sent.
pub(super) fn is_connect_failure(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error).any(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()))
}

/// Whether the server's certificate was refused, so that nothing was sent.
pub(super) fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error).any(|cause| matches!(tls_error(cause), Some(rustls::Error::InvalidCertificate(_))))
}

/// Whether the server speaks no TLS, or none that is spoken here: it will not at the next attempt either.
pub(super) fn speaks_otherwise(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::{AlertDescription as Alert, Error as Tls};
    chain(error).any(|cause| match tls_error(cause) {
        Some(Tls::InvalidMessage(_) | Tls::PeerIncompatible(_) | Tls::NoApplicationProtocol) => true,
        Some(Tls::AlertReceived(alert)) => matches!(
            alert,
            Alert::HandshakeFailure
                | Alert::ProtocolVersion
                | Alert::InsufficientSecurity
                | Alert::UnrecognisedName
                | Alert::NoApplicationProtocol
                | Alert::CertificateRequired
        ),
        _ => false,
    })
}

/// Returns the error of the TLS library. An `io::Error` passes over what it wraps when it is asked for its source, and here one wraps another.
pub(super) fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref().and_then(|wrapped| tls_error(wrapped)),
        None => error.downcast_ref(),
    }
}

/// Returns the messages of an error and its causes, from the outside in.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let texts: Vec<String> = chain(error).map(|cause| printable(&cause.to_string())).collect();
    printable(&texts.join(": "))
}

pub(super) fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

pub(super) fn foreign_endpoint(asked: &Asked<'_>, cause: &str) -> Error {
    Error::new(
        Code::Connection,
        format!("could not {}: no TLS connection to the {} endpoint can be agreed on", asked.step, asked.service),
    )
    .detail(format!("{}{}.", asked.object(), printable(cause)))
    .hint(
        "Check the endpoint's port, which may speak plain http, and its name; TLS 1.2 and 1.3 are spoken here, \
         without certificates of clients.",
    )
}

pub(super) fn unreachable_endpoint(asked: &Asked<'_>, cause: &str) -> Error {
    if cause.contains("tls handshake eof") {
        // A server that restarts does so as well, hence it is tried again.
        return Error::new(
            Code::Connection,
            format!("could not {}: the {} endpoint ends TLS connections before they stand", asked.step, asked.service),
        )
        .detail(format!("{}{}.", asked.object(), printable(cause)))
        .hint("Check the endpoint's port, which may speak plain http.");
    }
    Error::new(Code::Connection, format!("could not {}: the {} endpoint cannot be reached", asked.step, asked.service))
        .detail(format!("{}{}.", asked.object(), printable(cause)))
        .hint("Check endpoint and region of the integration, and the network of the database server.")
}

/// Returns the failure of a request whose tunnel does not stand; `None` for any other.
pub(super) fn proxy_failure(asked: &Asked<'_>, error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let failure = chain(error).find_map(|cause| cause.downcast_ref::<ProxyFailure>())?;
    let ProxyFailure { proxy, fault, .. } = failure;
    let (summary, hint) = match fault {
        Fault::Status(407) => (
            format!("the proxy {proxy} asks for other credentials"),
            "The file that s3_export.proxy_credentials_file names holds user:password for the proxy.",
        ),
        Fault::Status(_) => (
            format!("the proxy {proxy} refuses the {} endpoint", asked.service),
            "Let the proxy allow CONNECT to this host and port, or name the host in s3_export.no_proxy.",
        ),
        Fault::UnknownHere => (
            format!("the {} endpoint has no address that can be checked", asked.service),
            "Only an integration that a superuser owns may name an endpoint that the proxy alone can resolve.",
        ),
        Fault::Unreachable(_) | Fault::Silent(_) | Fault::Broken(_) => (
            format!("the proxy {proxy} gives no connection to the {} endpoint", asked.service),
            "Check s3_export.proxy, the proxy itself, and the network between the database server and the proxy.",
        ),
        Fault::Garbage | Fault::TooLong => {
            (format!("{proxy} is no HTTP proxy"), "Check the address in s3_export.proxy; TLS to a proxy is not spoken here.")
        }
    };
    let error = Error::new(Code::Connection, format!("could not {}: {summary}", asked.step))
        .detail(format!("{}{}.", asked.object(), causes(failure)))
        .hint(hint);
    // Nothing was sent to the endpoint.
    let failure = asked.failure(error, is_passing(fault), false);
    Some(Failure { disconnected: true, ..failure })
}

/// Whether another attempt at a tunnel may succeed.
fn is_passing(fault: &Fault) -> bool {
    match fault {
        Fault::Unreachable(_) | Fault::Silent(_) | Fault::Broken(_) | Fault::UnknownHere => true,
        Fault::Status(status) => matches!(status, 408 | 429 | 500..=599),
        Fault::Garbage | Fault::TooLong => false,
    }
}

pub(super) fn distrusted_endpoint(asked: &Asked<'_>, cause: &str) -> Error {
    Error::new(
        Code::Connection,
        format!("could not {}: the {} endpoint's certificate is not trusted", asked.step, asked.service),
    )
    .detail(format!("{}{}.", asked.object(), printable(cause)))
    .hint(
        "The settings s3_export.ca_file and s3_export.extra_ca_files name the authorities of a store with its own; \
             others are the system's, of its package ca-certificates.",
    )
}
