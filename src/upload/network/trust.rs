//! Whose certificates are believed: the system's authorities, or those of the file that `s3_export.ca_file` names.
#![forbid(unsafe_code)]

use std::path::Path;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{Code, Error, Result};

/// Certificate authorities.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The operating system's.
    #[default]
    System,
    /// Those of a file, alone.
    Only(TlsContext),
}

impl Trust {
    /// Those in the file at `path`; `None`: the system's. Errors: F0000 when it cannot be read or holds something else.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Trust::System) };
        let unusable = |why: String| {
            Error::new(Code::Configuration, format!("could not use the CA file \"{}\"", path.display()))
                .detail(format!("{why}."))
                .hint("s3_export.ca_file names a file of certificates in PEM.")
        };
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        // The TLS library panics at what is no certificate.
        check(&pem).map_err(unusable)?;
        let store = TrustStore::empty().with_pem_certificate(pem);
        let context = TlsContext::builder().with_trust_store(store).build();
        context.map(Trust::Only).map_err(|error| unusable(error.to_string()))
    }
}

/// Says what is wrong, as a sentence without its full stop.
fn check(pem: &[u8]) -> std::result::Result<(), String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("It is no PEM: {error}"))?;
        store.add(certificate).map_err(|error| format!("It holds something else than certificates: {error}"))?;
    }
    if store.is_empty() { Err("It holds no certificate".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_is_refused() {
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let path = std::env::temp_dir().join(format!("s3_export-ca-{}-{}", std::process::id(), text.len()));
            std::fs::write(&path, text).unwrap();
            let refused = Trust::load(Some(&path)).err().map(|error| error.code());
            std::fs::remove_file(&path).unwrap();
            assert_eq!(refused, Some(Code::Configuration), "{text}");
        }
        assert!(Trust::load(Some(Path::new("/nowhere/ca.pem"))).is_err());
        assert!(matches!(Trust::load(None), Ok(Trust::System)));
    }
}
