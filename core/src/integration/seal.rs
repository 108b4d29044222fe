//! Sealing a secret: AES-256-GCM with a random nonce.
//!
//! The associated data binds the sealed row to its place: format version, key id, integration and endpoints. So a row copied
//! to another integration does not open, and nothing is sent to an endpoint that was changed under it.
#![forbid(unsafe_code)]

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::integration::keyring::{Key, KeyRing};
use crate::secret::Secret;

/// First byte of a sealed blob; what follows is the nonce, then ciphertext and tag.
const FORMAT_VERSION: u8 = 1;

/// The secret half of an integration's credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// AWS's secret access key.
    pub secret_access_key: Secret,
    /// Session token of temporary credentials.
    pub session_token: Option<Secret>,
}

/// Place of a secret: the associated data of its seal.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Never changes.
    pub integration_id: Uuid,
    /// The integration's endpoint at the time of sealing.
    pub endpoint: Option<&'a str>,
    /// That of its STS: a session token travels there too.
    pub sts_endpoint: Option<&'a str>,
}

/// A row of `s3_export.credentials`.
pub struct Sealed {
    /// The key that opens it.
    pub key_id: String,
    /// Version, nonce, ciphertext and tag.
    pub blob: Vec<u8>,
}

/// Seals with the newest key.
pub fn seal(credentials: &Credentials, place: Place<'_>, ring: &KeyRing) -> Result<Sealed> {
    let key = ring.newest()?;
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).map_err(|_| broken("no random numbers can be had"))?;
    let mut sealed = plain_text(credentials)?;
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated_data(key, place), &mut *sealed)
        .map_err(|_| broken("the secret cannot be sealed"))?;
    let blob = [&[FORMAT_VERSION], nonce.as_slice(), sealed.as_slice()].concat();
    Ok(Sealed { key_id: key.id.clone(), blob })
}

/// Opens. Errors: 55000 when the row does not belong to this place any more, F0000 when the ring lacks the key.
pub fn open(sealed: &Sealed, place: Place<'_>, ring: &KeyRing) -> Result<Credentials> {
    let key = ring.key(&sealed.key_id)?;
    let (version, rest) = sealed.blob.split_first().ok_or_else(|| broken("the sealed row is empty"))?;
    if *version != FORMAT_VERSION {
        return Err(broken("the sealed row has an unknown format"));
    }
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| broken("the sealed row is too short"))?;
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    let text = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), associated_data(key, place), &mut buffer)
        .map_err(|_| does_not_open())?;
    let mut value: Value = serde_json::from_slice(text).map_err(|_| broken("the opened row is no credentials"))?;
    // Taken out, not copied, so that every copy is wiped.
    let mut secret = |name: &str| match value.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Some(Secret::new(text)),
        _ => None,
    };
    Ok(Credentials {
        secret_access_key: secret("secret_access_key").ok_or_else(|| broken("the opened row is no credentials"))?,
        session_token: secret("session_token"),
    })
}

/// The credentials as JSON, in memory that is wiped; large enough that no smaller copy is left behind by its growth.
fn plain_text(credentials: &Credentials) -> Result<Zeroizing<Vec<u8>>> {
    let secret = credentials.secret_access_key.expose();
    let token = credentials.session_token.as_ref().map(Secret::expose);
    // An escaped character takes six bytes at most; the rest are the names, the tag and the punctuation.
    let room = 6 * (secret.len() + token.map_or(0, str::len)) + 128;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    let mut write = |bytes: &[u8], value: Option<&str>| {
        text.extend_from_slice(bytes);
        value.map_or(Ok(()), |value| serde_json::to_writer(&mut *text, value))
    };
    write(b"{\"secret_access_key\":", Some(secret))
        .and_then(|()| token.map_or(Ok(()), |token| write(b",\"session_token\":", Some(token))))
        .and_then(|()| write(b"}", None))
        .map_err(|_| broken("the secret cannot be written"))?;
    Ok(text)
}

fn cipher(key: &Key) -> Result<LessSafeKey> {
    let unbound = UnboundKey::new(&AES_256_GCM, key.bytes.as_slice()).map_err(|_| broken("the key has a wrong length"))?;
    Ok(LessSafeKey::new(unbound))
}

/// Every part of no fixed length has its length before it, so that no two places give the same bytes.
fn associated_data(key: &Key, place: Place<'_>) -> Aad<Vec<u8>> {
    let mut data = vec![FORMAT_VERSION];
    data.extend_from_slice(place.integration_id.as_bytes());
    for part in [Some(key.id.as_str()), place.endpoint, place.sts_endpoint] {
        let text = part.unwrap_or_default();
        data.push(u8::from(part.is_some()));
        data.extend_from_slice(&(text.len() as u64).to_be_bytes());
        data.extend_from_slice(text.as_bytes());
    }
    Aad::from(data)
}

fn does_not_open() -> Error {
    Error::new(Code::NotReady, "the integration's credentials cannot be opened")
        .detail("The credentials were sealed for another endpoint or integration, or with another key of the same id.")
        .hint("Store the credentials anew with s3_export.set_credentials.")
}

fn broken(why: &str) -> Error {
    Error::new(Code::Internal, format!("could not use sealed credentials: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integration::keyring::tests_support::ring;

    fn credentials(token: Option<&str>) -> Credentials {
        Credentials { secret_access_key: Secret::new("s3cr3t".into()), session_token: token.map(|t| Secret::new(t.into())) }
    }

    const HERE: Place<'static> = Place { integration_id: Uuid::from_u128(1), endpoint: Some("https://a"), sts_endpoint: None };

    #[test]
    fn what_is_sealed_opens_in_its_place() {
        for token in [None, Some("token")] {
            let sealed = seal(&credentials(token), HERE, &ring(&["k1"])).unwrap();
            assert!(memchr::memmem::find(&sealed.blob, b"s3cr3t").is_none());
            assert_eq!(open(&sealed, HERE, &ring(&["k1", "k2"])).unwrap(), credentials(token));
        }
    }

    #[test]
    fn a_sealed_row_opens_in_no_other_place() {
        let sealed = seal(&credentials(None), HERE, &ring(&["k1"])).unwrap();
        for place in [
            Place { integration_id: Uuid::from_u128(2), ..HERE },
            Place { endpoint: Some("https://b"), ..HERE },
            Place { endpoint: None, ..HERE },
            Place { sts_endpoint: Some("https://a"), ..HERE },
            Place { endpoint: None, sts_endpoint: Some("https://a"), ..HERE },
        ] {
            assert_eq!(open(&sealed, place, &ring(&["k1"])).unwrap_err().code(), Code::NotReady);
        }
    }

    #[test]
    fn a_missing_key_is_named() {
        let sealed = seal(&credentials(None), HERE, &ring(&["k1"])).unwrap();
        assert!(open(&sealed, HERE, &ring(&["k2"])).unwrap_err().summary().contains("k1"));
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let sealed = seal(&credentials(None), HERE, &ring(&["k1"])).unwrap();
        for index in 0..sealed.blob.len() {
            let mut blob = sealed.blob.clone();
            blob[index] ^= 1;
            assert!(open(&Sealed { key_id: "k1".into(), blob }, HERE, &ring(&["k1"])).is_err(), "byte {index}");
        }
    }

    #[test]
    fn two_seals_of_one_secret_differ() {
        let ring = ring(&["k1"]);
        let seal = || seal(&credentials(None), HERE, &ring).unwrap().blob;
        assert_ne!(seal(), seal());
    }
}
