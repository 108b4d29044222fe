//! Checksums of what is sent: computed before the send and set as a header, never as an aws-chunked trailer, which
//! older stores refuse.
#![forbid(unsafe_code)]

use base64_simd::STANDARD;
use ring::digest;
use serde::Deserialize;

/// Checksum that S3 verifies and the manifest lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// CRC-32 (ISO 3309), the fastest that every S3 knows.
    #[default]
    Crc32,
    /// SHA-256.
    Sha256,
    /// None, for stores that refuse the headers.
    None,
}

impl Algorithm {
    /// Its name in `s3_export.integrations.checksum` and in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "crc32",
            Algorithm::Sha256 => "sha256",
            Algorithm::None => "none",
        }
    }

    /// The algorithm of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Algorithm::Crc32, Algorithm::Sha256, Algorithm::None].into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The header that carries it.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Algorithm::Crc32 => Some("x-amz-checksum-crc32"),
            Algorithm::Sha256 => Some("x-amz-checksum-sha256"),
            Algorithm::None => None,
        }
    }

    /// Reads [`Checksum::base64`]; `None`: the text is no checksum of that kind.
    pub fn read(self, base64: &str) -> Option<Checksum> {
        let bytes = STANDARD.decode_to_vec(base64).ok()?;
        match self {
            Algorithm::Crc32 => Some(Checksum::Crc32(u32::from_be_bytes(bytes.try_into().ok()?))),
            Algorithm::Sha256 => Some(Checksum::Sha256(Box::new(bytes.try_into().ok()?))),
            Algorithm::None => None,
        }
    }

    /// Returns the checksum of `bytes`.
    pub fn of(self, bytes: &[u8]) -> Checksum {
        match self {
            Algorithm::Crc32 => Checksum::Crc32(crc32fast::hash(bytes)),
            Algorithm::Sha256 => Checksum::sha256(digest::digest(&digest::SHA256, bytes)),
            Algorithm::None => Checksum::None,
        }
    }
}

/// A checksum, as small as it can be: a million of them are kept for the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32.
    Crc32(u32),
    /// SHA-256.
    Sha256(Box<[u8; digest::SHA256_OUTPUT_LEN]>),
    /// None was asked for.
    None,
}

impl Checksum {
    fn sha256(digest: digest::Digest) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest.as_ref());
        Checksum::Sha256(Box::new(hash))
    }

    /// Big-endian bytes in base64, as S3's headers have it; `None` when there is none.
    pub fn base64(&self) -> Option<String> {
        match self {
            Checksum::Crc32(crc) => Some(STANDARD.encode_to_string(crc.to_be_bytes())),
            Checksum::Sha256(hash) => Some(STANDARD.encode_to_string(hash.as_slice())),
            Checksum::None => None,
        }
    }
}

/// A checksum of bytes that come in pieces.
#[derive(Clone)]
pub enum Running {
    /// CRC-32.
    Crc32(crc32fast::Hasher),
    /// SHA-256.
    Sha256(Box<digest::Context>),
    /// None was asked for.
    None,
}

impl Running {
    /// Returns the state before the first byte.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc32 => Running::Crc32(crc32fast::Hasher::new()),
            Algorithm::Sha256 => Running::Sha256(Box::new(digest::Context::new(&digest::SHA256))),
            Algorithm::None => Running::None,
        }
    }

    /// Adds `bytes`, and gives the checksum of them alone. A CRC-32 is worked out once for both.
    pub fn add(&mut self, bytes: &[u8]) -> Checksum {
        match self {
            Running::Crc32(hasher) => {
                let mut alone = crc32fast::Hasher::new();
                alone.update(bytes);
                hasher.combine(&alone);
                Checksum::Crc32(alone.finalize())
            }
            Running::Sha256(context) => {
                context.update(bytes);
                Algorithm::Sha256.of(bytes)
            }
            Running::None => Checksum::None,
        }
    }

    /// Adds `bytes`, whose own checksum nobody needs.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Running::Crc32(hasher) => hasher.update(bytes),
            Running::Sha256(context) => context.update(bytes),
            Running::None => {}
        }
    }

    /// Returns the checksum of all bytes that were added.
    pub fn finish(self) -> Checksum {
        match self {
            Running::Crc32(hasher) => Checksum::Crc32(hasher.finalize()),
            Running::Sha256(context) => Checksum::sha256(context.finish()),
            Running::None => Checksum::None,
        }
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    std::array::from_fn(|index| digest.as_ref().get(index).copied().unwrap_or_default())
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    sha256_hex_of([bytes])
}

/// SHA-256 of bytes that come in pieces, in lower-case hexadecimal.
pub fn sha256_hex_of<B: AsRef<[u8]>>(pieces: impl IntoIterator<Item = B>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        context.update(piece.as_ref());
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_that_s3_computes() {
        assert_eq!(Algorithm::Crc32.of(b"123456789").base64().as_deref(), Some("y/Q5Jg=="));
        assert_eq!(Algorithm::Sha256.of(b"").base64().as_deref(), Some("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="));
        assert_eq!(Algorithm::None.of(b"x").base64(), None);
        for algorithm in [Algorithm::Crc32, Algorithm::Sha256] {
            let checksum = algorithm.of(b"x");
            assert_eq!(algorithm.read(&checksum.base64().unwrap()), Some(checksum));
            assert!(["", "x", "y/Q5Jg==-2", "y/Q5"].iter().all(|text| algorithm.read(text).is_none()));
        }
        assert_eq!(Algorithm::None.read(""), None);
        assert_eq!(sha256_hex(b"").get(..8), Some("e3b0c442"));
        assert_eq!(sha256_hex_of(["ab", "c"]), sha256_hex(b"abc"));
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        for algorithm in [Algorithm::Crc32, Algorithm::Sha256, Algorithm::None] {
            let mut running = Running::new(algorithm);
            assert_eq!(running.add(b"1234"), algorithm.of(b"1234"));
            assert_eq!(running.add(b"56789"), algorithm.of(b"56789"));
            let mut updated = running.clone();
            assert_eq!(running.finish(), algorithm.of(b"123456789"));
            updated.update(b"x");
            assert_eq!(updated.finish(), algorithm.of(b"123456789x"));
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
        }
    }
}
