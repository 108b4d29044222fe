//! The key ring: the file of keys that seal credentials.
//!
//! It lies outside the data directory, so that neither a base backup nor `COPY FROM` of a data file carries keys and
//! sealed rows together. One line a key, `<id> <base64 of 32 random bytes>`; the last line seals, every line opens. The
//! file is never created or changed by the server.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use base64_simd::STANDARD;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::private_file;

/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;

/// How to make a key file, for hints.
const HOW_TO: &str = "Create one with: echo \"k1 $(openssl rand -base64 32)\" > FILE; chmod 600 FILE; \
                      then set s3_export.key_file to its path in postgresql.conf, or S3_EXPORT_KEY_FILE in the server's environment.";

/// One key.
pub struct Key {
    /// Name by which sealed rows refer to the key.
    pub id: String,
    /// The key itself.
    pub bytes: Zeroizing<[u8; KEY_BYTES]>,
}

/// All keys, oldest first.
pub struct KeyRing(Vec<Key>);

impl KeyRing {
    /// Reads the file that `s3_export.key_file` or the server's environment names. Errors: 55000 when neither does; F0000 when the file cannot
    /// be used.
    pub fn load(path: Option<&Path>, data_directory: &Path) -> Result<Self> {
        let Some(path) = path else {
            return Err(Error::new(Code::NotReady, "no key file is set to seal credentials with").hint(HOW_TO));
        };
        check_place(path, data_directory)?;
        let text = private_file::read(path).map_err(|why| unusable(path, &why))?;
        parse(text.expose()).map_err(|why| unusable(path, &why))
    }

    /// The key that seals.
    pub fn newest(&self) -> Result<&Key> {
        self.0.last().ok_or_else(|| Error::new(Code::Configuration, "the key file holds no key").hint(HOW_TO))
    }

    /// The key of this id. Errors: F0000, naming the id.
    pub fn key(&self, id: &str) -> Result<&Key> {
        self.0.iter().find(|key| key.id == id).ok_or_else(|| {
            Error::new(Code::Configuration, format!("the key file holds no key \"{id}\""))
                .detail("The credentials were sealed with that key.")
                .hint("Restore the line of that key, or store the credentials anew with s3_export.set_credentials.")
        })
    }
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::new(Code::Configuration, format!("could not use the key file \"{}\"", path.display()))
        .detail(format!("{}.", why.trim_end_matches('.')))
        .hint(HOW_TO)
}

fn check_place(path: &Path, data_directory: &Path) -> Result<()> {
    let real = fs::canonicalize(path).map_err(|error| unusable(path, &error.to_string()))?;
    let data_directory = fs::canonicalize(data_directory).unwrap_or_else(|_| data_directory.to_owned());
    if real.starts_with(data_directory) {
        return Err(unusable(
            path,
            "It lies in the data directory, where a base backup would copy it along with what it seals",
        ));
    }
    Ok(())
}

fn parse(text: &str) -> std::result::Result<KeyRing, String> {
    let mut keys: Vec<Key> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_line(line).ok_or_else(|| format!("Line {number} is not an id and {KEY_BYTES} bytes in base64"))?;
        if keys.iter().any(|known| known.id == key.id) {
            return Err(format!("Line {number} repeats the id of an earlier key"));
        }
        keys.push(key);
    }
    if keys.is_empty() { Err("It holds no key".to_owned()) } else { Ok(KeyRing(keys)) }
}

fn parse_line(line: &str) -> Option<Key> {
    let (id, encoded) = line.split_once(char::is_whitespace)?;
    let decoded = Zeroizing::new(STANDARD.decode_to_vec(encoded.trim()).ok()?);
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if decoded.len() != KEY_BYTES {
        return None;
    }
    bytes.copy_from_slice(&decoded);
    Some(Key { id: id.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn file(name: &str, text: &str, mode: u32) -> PathBuf {
        let path = std::env::temp_dir().join(format!("s3_export-keyring-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn load(path: &Path) -> Result<KeyRing> {
        let ring = KeyRing::load(Some(path), Path::new("/nonexistent"));
        fs::remove_file(path).unwrap();
        ring
    }

    #[test]
    fn the_last_line_seals_and_every_line_opens() {
        let ring = load(&file("two", &format!("# keys\nk1 {KEY}\n\nk2 {KEY}\n"), 0o600)).unwrap();
        assert_eq!(ring.newest().unwrap().id, "k2");
        assert_eq!(ring.key("k1").unwrap().bytes[31], 31);
        assert_eq!(ring.key("k3").err().unwrap().code(), Code::Configuration);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        assert_eq!(load(&file("mode", &format!("k1 {KEY}"), 0o644)).err().unwrap().code(), Code::Configuration);
    }

    #[test]
    fn a_file_in_the_data_directory_is_refused() {
        let path = file("data", &format!("k1 {KEY}"), 0o600);
        let refused = KeyRing::load(Some(&path), &std::env::temp_dir()).err().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(refused.summary().contains("data directory"));
    }

    #[test]
    fn a_missing_setting_says_how_to_make_a_key() {
        assert_eq!(KeyRing::load(None, Path::new("/")).err().unwrap().code(), Code::NotReady);
    }

    #[test]
    fn malformed_lines_are_named_by_number_and_never_shown() {
        for text in ["", "k1", "k1 short", &format!("k1 {KEY}\nk1 {KEY}"), &format!("k1 {KEY}\nk2 c2VjcmV0")] {
            let error = load(&file("bad", text, 0o600)).err().unwrap();
            assert!(!error.summary().contains("c2VjcmV0"), "{error:?}");
        }
    }
}

/// Rings for the tests of those who use one.
#[cfg(test)]
pub mod tests_support {
    use super::*;

    /// One key an id, all different.
    pub fn ring(ids: &[&str]) -> KeyRing {
        let key = |id: &&str| {
            let mut bytes = [7; KEY_BYTES];
            bytes[..id.len()].copy_from_slice(id.as_bytes());
            Key { id: (*id).to_owned(), bytes: Zeroizing::new(bytes) }
        };
        KeyRing(ids.iter().map(key).collect())
    }
}
