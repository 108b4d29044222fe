//! Tags, metadata and the like, which objects carry and readers see: their limits, and their forms as headers.
//!
//! A store refuses most of what is out of its limits, but only at the first PUT, in words that name no option. The SDK panics at a
//! value that cannot be a header. So each value is checked before anything runs, wherever it came from.
//!
//! Limits: Amazon S3, "Categorizing your objects using tags", and "Working with object metadata".
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use base64_simd::STANDARD;

use crate::error::{Code, Error, Result};
use crate::s3::object::{EXPORT_ID, PREDECESSOR};

/// Texts by name, in the order of their names.
pub type Texts = BTreeMap<String, String>;

/// Most tags of an object.
const MAX_TAGS: usize = 10;
/// Most characters of a tag's key.
const MAX_TAG_KEY: usize = 128;
/// Most characters of a tag's value.
const MAX_TAG_VALUE: usize = 256;
/// Most bytes of all tags as a header: all headers of a request share 8 kB.
const MAX_TAGGING: usize = 4096;
/// Most bytes of an export's metadata, with its headers' names: S3's 2 kB, less those of [`EXPORT_ID`] and [`PREDECESSOR`].
const MAX_METADATA: usize = 2048 - 124;
/// Begins the name of the header of each member of the metadata.
const METADATA_PREFIX: &str = "x-amz-meta-";
/// Most bytes of a `Content-Disposition`.
const MAX_DISPOSITION: usize = 1024;
/// Most bytes of an encryption context, as JSON.
const MAX_CONTEXT: usize = 2048;
const SECONDS_OF_A_DAY: u64 = 24 * 60 * 60;

/// Properties that one export gives its objects, by its options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportProperties {
    /// Tags, beside those of the integration.
    pub tags: Texts,
    /// Metadata of the user's making.
    pub metadata: Texts,
    /// Name and treatment of the only file in a browser.
    pub content_disposition: Option<String>,
}

/// Retention of each object by S3 Object Lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLock {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub mode: String,
    /// End of the retention, in seconds since 1970.
    pub retain_until: u64,
}

impl ObjectLock {
    /// Returns the retention of that many days from `now` on.
    pub fn from(mode: &str, days: u32, now: SystemTime) -> Self {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        ObjectLock { mode: mode.to_owned(), retain_until: now + u64::from(days) * SECONDS_OF_A_DAY }
    }

    /// Returns the end of the retention as the SDK takes it.
    pub fn retain_until(&self) -> DateTime {
        DateTime::from_secs(i64::try_from(self.retain_until).unwrap_or(i64::MAX))
    }
}

/// Errors: a sentence that says why S3 would not take the tags.
pub fn check_tags(tags: &Texts) -> std::result::Result<(), String> {
    if tags.len() > MAX_TAGS {
        return Err(format!("An object has at most {MAX_TAGS} tags, and these are {}.", tags.len()));
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > MAX_TAG_KEY {
            return Err(format!("The key of a tag has 1 to {MAX_TAG_KEY} characters."));
        }
        if value.chars().count() > MAX_TAG_VALUE {
            return Err(format!("The value of a tag has at most {MAX_TAG_VALUE} characters."));
        }
        if !key.chars().chain(value.chars()).all(is_of_tag) {
            return Err("A tag has letters, digits, spaces and characters of +-=._:/@.".to_owned());
        }
        if is_reserved(key) {
            return Err("Keys of tags that begin with aws: are reserved by AWS.".to_owned());
        }
    }
    if tagging(tags).is_some_and(|header| header.len() > MAX_TAGGING) {
        return Err(format!("All tags together have at most {MAX_TAGGING} bytes, URL-encoded."));
    }
    Ok(())
}

fn is_of_tag(character: char) -> bool {
    character.is_alphanumeric() || " +-=._:/@".contains(character)
}

fn is_reserved(key: &str) -> bool {
    key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"))
}

/// Returns the tags of an integration and of an export together. Errors: 22023 for a key with two values, and for too many tags.
pub fn united_tags(of_integration: &Texts, of_export: &Texts) -> Result<Texts> {
    let mut tags = of_integration.clone();
    for (key, value) in of_export {
        if tags.insert(key.clone(), value.clone()).is_some_and(|other| other != *value) {
            let message = format!("the integration has another value for tag \"{key}\"");
            return Err(Error::new(Code::InvalidParameter, message)
                .hint("Leave the tag out of the option tags: the export's objects have the integration's tags."));
        }
    }
    check_tags(&tags).map_err(|why| {
        let what = "the tags of the integration and of the export do not go together";
        Error::new(Code::InvalidParameter, what).detail(why)
    })?;
    Ok(tags)
}

/// Returns the tags as the value of the header `x-amz-tagging`. `None`: there are none.
pub fn tagging(tags: &Texts) -> Option<String> {
    let tag = |(key, value): (&String, &String)| format!("{}={}", url_encoded(key), url_encoded(value));
    (!tags.is_empty()).then(|| tags.iter().map(tag).collect::<Vec<_>>().join("&"))
}

fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// Errors: a sentence that says why the metadata cannot be headers.
pub fn check_metadata(metadata: &Texts) -> std::result::Result<(), String> {
    for (key, value) in metadata {
        let is_of_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if key.is_empty() || !key.bytes().all(is_of_key) {
            return Err("A key of the metadata has lower-case letters, digits and hyphens.".to_owned());
        }
        if [EXPORT_ID, PREDECESSOR].contains(&key.as_str()) {
            return Err(format!("The export itself writes the key {key}."));
        }
        if !is_printable(value) || value.trim() != value {
            return Err("A value of the metadata has printable ASCII characters, and no space at its ends.".to_owned());
        }
    }
    let bytes: usize = metadata.iter().map(|(key, value)| METADATA_PREFIX.len() + key.len() + value.len()).sum();
    if bytes > MAX_METADATA {
        return Err(format!(
            "The metadata has {bytes} bytes, with {METADATA_PREFIX} before each key, and an object at most {MAX_METADATA}."
        ));
    }
    Ok(())
}

/// Whether the text can be the value of the header `Content-Disposition`.
pub fn is_disposition(text: &str) -> bool {
    (1..=MAX_DISPOSITION).contains(&text.len()) && is_printable(text) && text.trim() == text
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..0x7f).contains(&byte))
}

/// Errors: a sentence that says why KMS would not take the encryption context.
pub fn check_encryption_context(context: &Texts) -> std::result::Result<(), String> {
    if context.is_empty() || context.keys().any(String::is_empty) {
        return Err("It has at least one key, and no key is empty.".to_owned());
    }
    if context.keys().any(|key| is_reserved(key)) {
        return Err("Keys that begin with aws: are reserved: S3 adds the ARN of the object or bucket itself.".to_owned());
    }
    if json(context).len() > MAX_CONTEXT {
        return Err(format!("It has at most {MAX_CONTEXT} bytes, as JSON."));
    }
    Ok(())
}

/// Returns the encryption context as the value of the header `x-amz-server-side-encryption-context`.
pub fn encryption_context(context: &Texts) -> String {
    STANDARD.encode_to_string(json(context))
}

fn json(texts: &Texts) -> String {
    let members = texts.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
    serde_json::Value::Object(members.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(members: &[(&str, &str)]) -> Texts {
        members.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tags_become_a_header_in_the_order_of_their_keys() {
        assert_eq!(tagging(&Texts::new()), None);
        let tags = texts(&[("team", "größe & c"), ("cost center", "a=b/c"), ("Z", "")]);
        assert_eq!(tagging(&tags).unwrap(), "Z=&cost%20center=a%3Db%2Fc&team=gr%C3%B6%C3%9Fe%20%26%20c");
    }

    #[test]
    fn tags_keep_to_the_limits_of_s3() {
        let long = |length| "ä".repeat(length);
        for (key, value) in [("a", ""), ("größe 1", "+-=._:/@"), (long(128).as_str(), "x"), ("x", long(256).as_str())] {
            assert_eq!(check_tags(&texts(&[(key, value)])), Ok(()), "{key} {value}");
        }
        for (key, value) in [
            ("", "x"),
            (long(129).as_str(), ""),
            ("x", long(257).as_str()),
            ("a&b", ""),
            ("a", "b\n"),
            ("a", "*"),
            ("aws:x", ""),
        ] {
            assert!(check_tags(&texts(&[(key, value)])).is_err(), "{key:?} {value:?}");
        }
        let many = |count: usize| (0..count).map(|number| (number.to_string(), String::new())).collect::<Texts>();
        assert_eq!(check_tags(&many(10)), Ok(()));
        assert!(check_tags(&many(11)).is_err());
        // Each within its limits, and together more than a request's headers hold.
        let large: Texts = (0..10).map(|number| (number.to_string(), long(256))).collect();
        assert!(check_tags(&large).is_err());
    }

    #[test]
    fn a_tag_of_the_integration_keeps_its_value() {
        let ours = texts(&[("class", "confidential"), ("owner", "bank")]);
        let united = united_tags(&ours, &texts(&[("run", "1"), ("owner", "bank")])).unwrap();
        assert_eq!(united, texts(&[("class", "confidential"), ("owner", "bank"), ("run", "1")]));
        let conflict = united_tags(&ours, &texts(&[("class", "public")])).unwrap_err();
        assert_eq!((conflict.code(), conflict.message().contains("\"class\"")), (Code::InvalidParameter, true));
        let many: Texts = (0..9).map(|number| (number.to_string(), String::new())).collect();
        assert_eq!(united_tags(&ours, &many).unwrap_err().code(), Code::InvalidParameter);
    }

    #[test]
    fn metadata_can_be_headers_and_leaves_room_for_that_of_the_export() {
        assert_eq!(check_metadata(&texts(&[("data-owner", "a; b=\"c\""), ("x1", "")])), Ok(()));
        for (key, value) in
            [("", "x"), ("A", "x"), ("a_b", "x"), ("a b", ""), ("a", "ä"), ("a", "b\r\nx-amz-acl: c"), ("a", " b")]
        {
            assert!(check_metadata(&texts(&[(key, value)])).is_err(), "{key:?} {value:?}");
        }
        for own in [EXPORT_ID, PREDECESSOR] {
            assert!(check_metadata(&texts(&[(own, "x")])).is_err(), "{own}");
        }
        let id = uuid::Uuid::nil().to_string().len();
        let own: usize = [EXPORT_ID, PREDECESSOR].iter().map(|own| METADATA_PREFIX.len() + own.len() + id).sum();
        assert_eq!(MAX_METADATA, 2048 - own);
        let of = |bytes: usize| texts(&[("a", &"x".repeat(bytes - METADATA_PREFIX.len() - 1))]);
        assert_eq!(check_metadata(&of(MAX_METADATA)), Ok(()));
        assert!(check_metadata(&of(MAX_METADATA + 1)).is_err());
    }

    #[test]
    fn a_disposition_is_one_line_of_printable_ascii() {
        assert!(is_disposition("attachment; filename=\"orders.csv\""));
        for bad in ["", "a\nb", "attachment; filename=\"größe\"", "a\t", " a", &"x".repeat(1025)] {
            assert!(!is_disposition(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_encryption_context_is_json_in_the_order_of_its_keys() {
        let context = texts(&[("purpose", "größe"), ("app", "\"x\"")]);
        let header = STANDARD.decode_to_vec(encryption_context(&context)).unwrap();
        assert_eq!(String::from_utf8(header).unwrap(), r#"{"app":"\"x\"","purpose":"größe"}"#);
        assert_eq!(check_encryption_context(&context), Ok(()));
        let long = "x".repeat(2048);
        for bad in [&[][..], &[("", "x")], &[("aws:s3:arn", "x")], &[("AWS:x", "")], &[("a", long.as_str())]] {
            assert!(check_encryption_context(&texts(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_retention_ends_that_many_days_later() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_953_601);
        let lock = ObjectLock::from("COMPLIANCE", 30, now);
        assert_eq!(lock.retain_until().to_string(), "2026-12-29T12:00:01Z");
        assert!(ObjectLock::from("GOVERNANCE", 36_500, now).retain_until().to_string().starts_with("2126-"));
    }
}
