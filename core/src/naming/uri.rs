//! `s3://bucket/prefix`, and the names of the objects an export puts under it.
//!
//! Everything about names is decided here, once: what a location may look like, whether one location lies within
//! another (at a path boundary: `s3://b/team` holds `s3://b/team/x` and not `s3://b/team2`), and the keys of files
//! and manifest, which hold the export's id and so can never name an object that was there before.
#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{Code, Error, Result};

/// A bucket and a prefix in it; the prefix has no slash at either end and may be empty (the whole bucket).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    bucket: String,
    prefix: String,
}

impl Location {
    /// Parses `s3://bucket[/prefix][/]`. Errors: 22023, naming the part that is wrong.
    pub fn parse(uri: &str) -> Result<Self> {
        let rest = uri.strip_prefix("s3://").ok_or_else(|| {
            invalid(uri, "The location does not start with s3://.").hint("Write the location as s3://bucket/prefix.")
        })?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        check_bucket(uri, bucket)?;
        check_prefix(uri, prefix)?;
        Ok(Location { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Without a slash at either end; empty for the whole bucket.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The prefix of the keys below it.
    pub fn folder(&self) -> String {
        self.key("")
    }

    /// Whether this location is `outer` or lies below it.
    fn within(&self, outer: &Location) -> bool {
        self.bucket == outer.bucket
            && match self.prefix.strip_prefix(&outer.prefix) {
                Some(rest) => outer.prefix.is_empty() || rest.is_empty() || rest.starts_with('/'),
                None => false,
            }
    }

    /// `name` as a key below this location.
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

/// One entry of `allowed_locations`: a location to which an integration may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// `s3://`, in so many words.
    Anywhere,
    /// This location and what lies below it.
    Within(Location),
}

impl Allowed {
    /// Parses one entry. Errors: 22023.
    pub fn parse(entry: &str) -> Result<Self> {
        if entry == "s3://" { Ok(Allowed::Anywhere) } else { Location::parse(entry).map(Allowed::Within) }
    }

    /// Whether `location` may be written to.
    pub fn allows(&self, location: &Location) -> bool {
        match self {
            Allowed::Anywhere => true,
            Allowed::Within(outer) => location.within(outer),
        }
    }
}

/// The error for a URI that is none, or not one of S3.
pub fn invalid(uri: &str, why: &str) -> Error {
    let shown: String = uri.chars().take(200).collect();
    Error::new(Code::InvalidParameter, format!("invalid S3 location \"{shown}\"")).detail(why)
}

/// S3's rules for general-purpose bucket names; an access point's ARN is not one.
fn check_bucket(uri: &str, bucket: &str) -> Result<()> {
    if bucket.is_empty() {
        return Err(invalid(uri, "The bucket's name is empty.").hint("Write the location as s3://bucket/prefix."));
    }
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let name = bucket.as_bytes();
    let well_formed = (3..=63).contains(&name.len())
        && name.iter().all(|&byte| edge(byte) || byte == b'.' || byte == b'-')
        && name.first().is_some_and(|&byte| edge(byte))
        && name.last().is_some_and(|&byte| edge(byte))
        && !bucket.contains("..");
    if well_formed {
        Ok(())
    } else {
        Err(invalid(
            uri,
            "A bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens, with a letter or digit at each end.",
        ))
    }
}

/// Segments that S3 clients and browsers normalise away would let a key leave its allowed location.
fn check_prefix(uri: &str, prefix: &str) -> Result<()> {
    if prefix.chars().any(char::is_control) {
        return Err(invalid(uri, "It contains a control character."));
    }
    if !prefix.is_empty() && prefix.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(invalid(uri, "It has an empty, \".\" or \"..\" path segment."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn location(uri: &str) -> Location {
        Location::parse(uri).unwrap()
    }

    #[test]
    fn bucket_and_prefix_are_told_apart_and_slashes_at_the_end_dropped() {
        for (uri, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("s3://bucket/größe=1 %/ü", "s3://bucket/größe=1 %/ü"),
        ] {
            assert_eq!(location(uri).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_location_is_refused_with_22023() {
        for uri in [
            "",
            "bucket/x",
            "https://bucket/x",
            "S3://bucket/x",
            "s3:/bucket",
            "s3://",
            "s3:///x",
            "s3://ab",
            "s3://Bucket/x",
            "s3://-bucket/x",
            "s3://bucket-/x",
            "s3://buc..ket/x",
            "s3://buc_ket/x",
            "s3://bucket//x",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://bucket/a/./b",
            "s3://bucket/a/..",
            "s3://bucket/a//",
            "s3://bucket/a\nb",
            "s3://arn:aws:s3:us-east-1:012345678901:accesspoint/x",
        ] {
            let error = Location::parse(uri).expect_err(uri);
            assert_eq!(error.code(), Code::InvalidParameter, "{uri}");
        }
    }

    #[test]
    fn an_allowed_location_stops_at_a_path_boundary() {
        let team = Allowed::parse("s3://bucket/team").unwrap();
        for (uri, allowed) in [
            ("s3://bucket/team", true),
            ("s3://bucket/team/x", true),
            ("s3://bucket/team2", false),
            ("s3://bucket", false),
            ("s3://bucket2/team", false),
            ("s3://bucket/tea", false),
        ] {
            assert_eq!(team.allows(&location(uri)), allowed, "{uri}");
        }
        assert!(Allowed::parse("s3://bucket").unwrap().allows(&location("s3://bucket/any/thing")));
        assert!(Allowed::parse("s3://").unwrap().allows(&location("s3://other")));
        assert!(Allowed::parse("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_errs_and_what_parses_prints_back(text in "(s3://)?[a-z0-9./-]{0,20}(/\\PC{0,20})?") {
            if let Ok(parsed) = Location::parse(&text) {
                prop_assert_eq!(Location::parse(&parsed.to_string()).unwrap(), parsed);
            }
        }
    }
}
