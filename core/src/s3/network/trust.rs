//! The authorities whose certificates are believed: the system's, or those of the file that `s3_export.ca_file` names, and beside them
//! those of `s3_export.extra_ca_files`.
//!
//! The certificate that `openssl req -x509` makes is at once an authority's certificate and its server's own, and the TLS library believes no
//! authority as a server. A certificate that stands in a file itself is what its administrator trusts: it is believed as its
//! server's too, for its names and within its dates.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier,
};

use crate::error::{Code, Error, Result};

/// Certificate authorities.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The operating system's.
    #[default]
    System,
    /// Those of files, alone or beside the system's.
    Files(Arc<ClientConfig>),
}

/// The system's authorities, read once in a process, as the SDK reads them. What cannot be parsed is passed over.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(authorities)
});

impl Trust {
    /// Loads the authorities of `ca_file`, or else the system's, and those of the `extra` files. Errors: F0000 when a file cannot be read,
    /// or holds something else.
    pub fn load(ca_file: Option<&Path>, extra: &[PathBuf]) -> Result<Self> {
        if ca_file.is_none() && extra.is_empty() {
            return Ok(Trust::System);
        }
        let mut believed = match ca_file {
            Some(path) => {
                let mut believed = Believed::beside(RootCertStore::empty());
                believed.add_file(path, "s3_export.ca_file names a file of certificates in PEM.")?;
                believed
            }
            None => Believed::beside(RootCertStore::clone(&SYSTEM)),
        };
        for path in extra {
            believed.add_file(path, "s3_export.extra_ca_files lists files of certificates in PEM, separated by commas.")?;
        }
        let unusable = |error: String| {
            Error::new(Code::Configuration, "could not use the certificate authorities").detail(format!("{error}."))
        };
        let judge = believed.judge().map_err(unusable)?;
        let config = config().map_err(unusable)?.dangerous().with_custom_certificate_verifier(Arc::new(judge));
        Ok(Trust::Files(Arc::new(config.with_no_client_auth())))
    }
}

/// Returns the system's authorities as the TLS library takes them.
pub fn system_tls() -> Result<Arc<ClientConfig>> {
    let config = config().map_err(|error| Error::new(Code::Internal, error))?;
    Ok(Arc::new(config.with_root_certificates(Arc::clone(&SYSTEM)).with_no_client_auth()))
}

/// Errors: what is wrong, as a sentence without its full stop.
fn config() -> std::result::Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())
}

/// Certificates that are gathered.
struct Believed {
    authorities: RootCertStore,
    /// Those of files, each of which may be its server's own.
    certificates: Vec<CertificateDer<'static>>,
}

impl Believed {
    fn beside(authorities: RootCertStore) -> Self {
        Believed { authorities, certificates: Vec::new() }
    }

    fn add_file(&mut self, path: &Path, hint: &str) -> Result<()> {
        let unusable = |why: String| {
            Error::new(Code::Configuration, format!("could not use the CA file \"{}\"", path.display()))
                .detail(format!("{why}."))
                .hint(hint)
        };
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        self.add(&pem).map_err(unusable)
    }

    /// Errors: what is wrong with the file, as a sentence without its full stop.
    fn add(&mut self, pem: &[u8]) -> std::result::Result<(), String> {
        let before = self.certificates.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("It is no PEM: {error}"))?;
            let added = self.authorities.add(certificate.clone());
            added.map_err(|error| format!("It holds something else than certificates: {error}"))?;
            self.certificates.push(certificate);
        }
        if self.certificates.len() == before { Err("It holds no certificate".to_owned()) } else { Ok(()) }
    }

    fn judge(self) -> std::result::Result<Judge, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let by_authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(self.authorities), provider).build();
        let by_authorities = by_authorities.map_err(|error| error.to_string())?;
        Ok(Judge { by_authorities, certificates: self.certificates })
    }
}

/// Judges a server's certificate by those of files.
#[derive(Debug)]
struct Judge {
    by_authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        match self.by_authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The dates were found good before this, and the name is looked at after it.
            Err(error) if is_authority_as_server(&error) && self.certificates.iter().any(|own| own == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authorities.supported_verify_schemes()
    }
}

/// Whether that an authority's certificate is a server's is all that is wrong so far.
fn is_authority_as_server(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string() == "CaUsedAsEndEntity",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    #[test]
    fn what_holds_no_certificate_is_refused() {
        for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let path = std::env::temp_dir().join(format!("s3_export-ca-{}-{}", std::process::id(), text.len()));
            std::fs::write(&path, text).unwrap();
            let errors = [Trust::load(Some(&path), &[]), Trust::load(None, std::slice::from_ref(&path))];
            std::fs::remove_file(&path).unwrap();
            for error in errors {
                let error = error.unwrap_err();
                assert_eq!(error.code(), Code::Configuration, "{text}");
                assert!(error.message().contains(path.to_str().unwrap()), "{error:?}");
            }
        }
        assert!(Trust::load(Some(Path::new("/nowhere/ca.pem")), &[]).is_err());
        assert!(Trust::load(None, &["/nowhere/ca.pem".into()]).is_err());
        assert!(matches!(Trust::load(None, &[]), Ok(Trust::System)));
    }

    fn judge_of(pem: &str) -> Judge {
        let mut believed = Believed::beside(RootCertStore::empty());
        believed.add(pem.as_bytes()).unwrap();
        believed.judge().unwrap()
    }

    fn params(is_authority: bool) -> CertificateParams {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn judged(judge: &Judge, certificate: &CertificateDer<'_>, name: &str, now: UnixTime) -> std::result::Result<(), String> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        judge.verify_server_cert(certificate, &[], &name, &[], now).map(|_| ()).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn a_certificate_of_the_file_is_believed_as_its_servers_for_its_names_and_within_its_dates() {
        let now = UnixTime::now();
        for is_authority in [true, false] {
            let key = KeyPair::generate().unwrap();
            let own = params(is_authority).self_signed(&key).unwrap();
            let judge = judge_of(&own.pem());
            assert_eq!(judged(&judge, own.der(), "localhost", now), Ok(()), "{is_authority}");
            assert!(judged(&judge, own.der(), "elsewhere", now).unwrap_err().contains("NotValidForName"));
            // Another of the same name is not in the file.
            let mut other = params(is_authority);
            other.serial_number = Some(7_u64.into());
            let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert!(judged(&judge, other.der(), "localhost", now).is_err());
        }
        let mut expired = params(true);
        expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2002, 1, 1);
        let expired = expired.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let judge = judge_of(&expired.pem());
        assert!(judged(&judge, expired.der(), "localhost", now).unwrap_err().contains("Expired"));
        let early = UnixTime::since_unix_epoch(Duration::from_secs(900_000_000));
        assert!(judged(&judge, expired.der(), "localhost", early).unwrap_err().contains("NotValidYet"));
    }

    #[test]
    fn an_authority_of_the_file_is_believed_of_others_and_its_like_is_not() {
        let now = UnixTime::now();
        let issuer = CertifiedIssuer::self_signed(params(true), KeyPair::generate().unwrap()).unwrap();
        let judge = judge_of(&AsRef::<rcgen::Certificate>::as_ref(&issuer).pem());
        let server = params(false).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert_eq!(judged(&judge, server.der(), "localhost", now), Ok(()));
        // An authority below it that is a server: it stands in no file.
        let below = params(true).signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        assert!(judged(&judge, below.der(), "localhost", now).unwrap_err().contains("CaUsedAsEndEntity"));
    }
}
