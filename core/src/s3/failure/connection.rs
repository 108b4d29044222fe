//! The meaning of a request without an answer: no connection came about, TLS could not be agreed on, or the server is not trusted.
#![forbid(unsafe_code)]

use super::Asked;
use super::sdk::printable;
use crate::error::{Code, Error};

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

pub(super) fn distrusted_endpoint(asked: &Asked<'_>, cause: &str) -> Error {
    Error::new(
        Code::Connection,
        format!("could not {}: the {} endpoint's certificate is not trusted", asked.step, asked.service),
    )
    .detail(format!("{}{}.", asked.object(), printable(cause)))
    .hint(
        "The setting s3_export.ca_file names the authorities of a store with its own; \
             others are the system's, of its package ca-certificates.",
    )
}
