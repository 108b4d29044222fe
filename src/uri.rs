//! `s3://bucket/prefix`, and the names of the objects an export puts under it.
//!
//! Everything about names is decided here, once: what a location may look like, whether one location lies within
//! another (at a path boundary: `s3://b/team` holds `s3://b/team/x` and not `s3://b/team2`), and the keys of files
//! and manifest, which hold the export's id and so can never name an object that was there before.
#![forbid(unsafe_code)]

use std::fmt;

use uuid::Uuid;

use crate::error::{Code, Error, Result};

/// S3's limit for a key, in bytes of UTF-8.
const MAX_KEY_BYTES: usize = 1024;

/// A bucket and a prefix in it; the prefix has no slash at either end and may be empty (the whole bucket).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    bucket: String,
    prefix: String,
}

impl Location {
    /// Parses `s3://bucket[/prefix][/]`. Errors: 22023, naming the part that is wrong.
    pub fn parse(uri: &str) -> Result<Self> {
        let rest = uri
            .strip_prefix("s3://")
            .ok_or_else(|| invalid(uri, "It does not start with s3://.").hint("Write it as s3://bucket/prefix."))?;
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
    fn key(&self, name: &str) -> String {
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

/// Where an integration may write: one entry of `allowed_locations`.
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

/// What an object of an export is, by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The export that it belongs to.
    pub export_id: Uuid,
    /// Which of its objects.
    pub part: Part,
    /// The key of the export's manifest.
    pub manifest_key: String,
}

/// Objects of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One with documents, or a probe, of which nobody makes a manifest.
    File,
    /// The manifest.
    Manifest,
}

impl ObjectName {
    /// Reads what [`Destination`] writes; `None`: the key is somebody else's.
    pub fn parse(key: &str) -> Option<Self> {
        let (folder, name) = key.rsplit_once('/').map_or(("", key), |(folder, name)| (folder, name));
        let within = |folder: &str, name: String| if folder.is_empty() { name } else { format!("{folder}/{name}") };
        let of = |export_id: Uuid, part, folder: &str| {
            let manifest_key = within(folder, format!("_{export_id}.manifest"));
            (export_id.get_version_num() == 7).then_some(ObjectName { export_id, part, manifest_key })
        };
        if let Some(name) = name.strip_prefix('_') {
            let (id, suffix) = name.split_once('.')?;
            let part = match suffix {
                "manifest" => Part::Manifest,
                "probe" => Part::File,
                _ => return None,
            };
            return of(export_id(id)?, part, folder);
        }
        let (stem, suffix) = name.split_once('.')?;
        if !matches!(suffix, "json" | "json.gz" | "json.zst") {
            return None;
        }
        if let Some((id, number)) = stem.rsplit_once('-').filter(|(id, _)| id.len() == UUID_LENGTH) {
            return is_file_number(number).then(|| of(export_id(id)?, Part::File, folder))?;
        }
        let (outer, id) = folder.rsplit_once('/').map_or(("", folder), |(outer, id)| (outer, id));
        is_file_number(stem).then(|| of(export_id(id)?, Part::File, outer))?
    }

    /// When the export began, in milliseconds since 1970.
    pub fn started(&self) -> Option<u64> {
        let (seconds, nanoseconds) = self.export_id.get_timestamp()?.to_unix();
        Some(seconds * 1000 + u64::from(nanoseconds / 1_000_000))
    }
}

/// With hyphens.
const UUID_LENGTH: usize = 36;

/// In the one form that is written here.
fn export_id(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.to_string() == text).then_some(id)
}

fn is_file_number(text: &str) -> bool {
    text.len() >= 6 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The objects of one export: their keys, and how they are written as URLs.
#[derive(Debug, Clone)]
pub struct Destination {
    location: Location,
    export_id: Uuid,
    in_folder: bool,
}

impl Destination {
    /// `in_folder`: files go to a folder named by the export id. Errors: 22023 when a key would be too long for S3.
    pub fn new(location: Location, export_id: Uuid, in_folder: bool) -> Result<Self> {
        let destination = Destination { location, export_id, in_folder };
        if destination.file_key(u64::MAX).len() > MAX_KEY_BYTES {
            let uri = destination.location.to_string();
            return Err(invalid(&uri, "The keys of its files would be longer than S3's 1,024 bytes."));
        }
        Ok(destination)
    }

    /// The bucket all keys are in.
    pub fn bucket(&self) -> &str {
        self.location.bucket()
    }

    /// The export these objects belong to.
    pub fn export_id(&self) -> Uuid {
        self.export_id
    }

    /// The key of the file with this number; numbers start at 1.
    pub fn file_key(&self, number: u64) -> String {
        let id = self.export_id;
        let separator = if self.in_folder { '/' } else { '-' };
        self.location.key(&format!("{id}{separator}{number:06}.json"))
    }

    /// The manifest's key. Hadoop, Spark, Athena and Trino skip names with a leading underscore.
    pub fn manifest_key(&self) -> String {
        self.location.key(&format!("_{}.manifest", self.export_id))
    }

    /// The key of an object that tries out whether the location can be written to.
    pub fn probe_key(&self) -> String {
        self.location.key(&format!("_{}.probe", self.export_id))
    }

    /// `key` as an `s3://` URL with the raw key, as Redshift's manifests have it.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket())
    }
}

fn invalid(uri: &str, why: &str) -> Error {
    let shown: String = uri.chars().take(200).collect();
    Error::new(Code::InvalidParameter, format!("invalid S3 location \"{shown}\"")).detail(why)
}

/// S3's rules for general-purpose bucket names; an access point's ARN is not one.
fn check_bucket(uri: &str, bucket: &str) -> Result<()> {
    if bucket.is_empty() {
        return Err(invalid(uri, "The bucket's name is empty.").hint("Write it as s3://bucket/prefix."));
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
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn keys_hold_the_export_id_and_at_least_six_digits() {
        let id = Uuid::from_u128(7);
        let flat = Destination::new(location("s3://bucket/q"), id, false).unwrap();
        assert_eq!(flat.file_key(1), format!("q/{id}-000001.json"));
        assert_eq!(flat.file_key(12_345_678), format!("q/{id}-12345678.json"));
        assert_eq!(flat.manifest_key(), format!("q/_{id}.manifest"));
        assert_eq!(flat.url("q/x"), "s3://bucket/q/x");
        let folder = Destination::new(location("s3://bucket"), id, true).unwrap();
        assert_eq!(folder.file_key(2), format!("{id}/000002.json"));
    }

    #[test]
    fn keys_of_somebody_elses_are_not_taken_for_an_exports() {
        let id = Uuid::now_v7();
        for key in [
            "".to_owned(),
            "x.json".to_owned(),
            "data/000001.json".to_owned(),
            format!("{id}.json"),
            format!("{id}-00001.json"),
            format!("{id}-0000x1.json"),
            format!("{id}-000001.csv"),
            format!("x{id}-000001.json"),
            format!("_{id}.txt"),
            format!("{id}.manifest"),
            format!("{}-000001.json", id.simple()),
            format!("{}-000001.json", id.to_string().to_uppercase()),
            format!("{}-000001.json", Uuid::from_u128(7)),
        ] {
            assert_eq!(ObjectName::parse(&key), None, "{key}");
        }
        assert_eq!(ObjectName::parse(&format!("a/_{id}.probe")).unwrap().part, Part::File);
    }

    #[test]
    fn a_key_too_long_for_s3_is_refused() {
        let long = location(&format!("s3://bucket/{}", "é".repeat(500)));
        assert_eq!(Destination::new(long, Uuid::nil(), false).unwrap_err().code(), Code::InvalidParameter);
    }

    proptest! {
        #[test]
        fn what_a_destination_names_is_read_back(prefix in "[a-z0-9=_-]{1,8}(/[a-z0-9=_.-]{1,8}x){0,2}", number in 1u64.., in_folder: bool) {
            for uri in [format!("s3://bucket/{prefix}"), "s3://bucket".to_owned()] {
                let destination = Destination::new(location(&uri), Uuid::now_v7(), in_folder).unwrap();
                let file = ObjectName::parse(&destination.file_key(number)).unwrap();
                prop_assert_eq!((file.export_id, file.part), (destination.export_id(), Part::File));
                prop_assert_eq!(&file.manifest_key, &destination.manifest_key());
                let manifest = ObjectName::parse(&destination.manifest_key()).unwrap();
                prop_assert_eq!((manifest.export_id, manifest.part), (destination.export_id(), Part::Manifest));
                prop_assert!(manifest.started().unwrap() > 1_700_000_000_000);
            }
        }

        #[test]
        fn any_key_is_read_without_a_panic(key in "(\\PC|/|_|-|\\.){0,60}") {
            let _ = ObjectName::parse(&key);
        }

        #[test]
        fn any_text_parses_or_errs_and_what_parses_prints_back(text in "(s3://)?[a-z0-9./-]{0,20}(/\\PC{0,20})?") {
            if let Ok(parsed) = Location::parse(&text) {
                prop_assert_eq!(Location::parse(&parsed.to_string()).unwrap(), parsed);
            }
        }
    }
}
