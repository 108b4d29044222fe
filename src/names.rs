//! The keys of an export's objects: how they are made, and how they are read back.
//!
//! They hold the export's id and so can never name an object that was there before; and by the id, what a crash has left can be
//! told from what is somebody else's.
#![forbid(unsafe_code)]

use uuid::Uuid;

use crate::error::Result;
use crate::uri::{Location, invalid};

/// S3's limit for a key, in bytes of UTF-8.
const MAX_KEY_BYTES: usize = 1024;

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

    /// Where they lie.
    pub fn location(&self) -> &Location {
        &self.location
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Code;

    fn location(uri: &str) -> Location {
        Location::parse(uri).unwrap()
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
    }
}
