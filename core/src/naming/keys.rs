//! The keys of an export's objects: how they are made, and how they are read back.
//!
//! A key holds the export's id and so can never name an object that was there before. By the id, an orphan of a crash can be told from
//! an object of somebody else.
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::format::FileType;
use crate::naming::uri::{Location, invalid};

/// S3's limit for a key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// The error for a partition with such a value, or folder.
pub fn too_long(name: &[u8]) -> Error {
    let beginning: String = String::from_utf8_lossy(name.get(..200).unwrap_or(name)).chars().take(100).collect();
    Error::new(Code::InvalidParameter, "a partition's files would have keys longer than S3's 1,024 bytes")
        .detail(format!("The partition is {beginning}…"))
}

/// Identity of an export's object, read from its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The export that it belongs to.
    pub export_id: Uuid,
    /// Kind of the object.
    pub kind: ObjectKind,
    /// Keys that the export's manifest may have: a folder like `day=1` may be a partition of the export, or its location's own.
    pub manifest_keys: Vec<String>,
}

/// Objects of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
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
        let of = |export_id: Uuid, kind, folders: &[&str]| {
            let manifest_keys = folders.iter().map(|folder| within(folder, format!("_{export_id}.manifest"))).collect();
            (export_id.get_version_num() == 7).then_some(ObjectName { export_id, kind, manifest_keys })
        };
        if let Some(name) = name.strip_prefix('_') {
            let (id, suffix) = name.split_once('.')?;
            let kind = match suffix {
                "manifest" => ObjectKind::Manifest,
                "probe" => ObjectKind::File,
                _ => return None,
            };
            return of(export_id(id)?, kind, &[folder]);
        }
        let (stem, suffix) = name.split_once('.')?;
        if !FileType::is_suffix(suffix) {
            return None;
        }
        if let Some((id, number)) = stem.rsplit_once('-').filter(|(id, _)| id.len() == UUID_LENGTH) {
            return is_file_number(number).then(|| of(export_id(id)?, ObjectKind::File, &without_partitions(folder)))?;
        }
        let of_export = *without_partitions(folder).last()?;
        let (outer, id) = of_export.rsplit_once('/').map_or(("", of_export), |(outer, id)| (outer, id));
        is_file_number(stem).then(|| of(export_id(id)?, ObjectKind::File, &[outer]))?
    }

    /// When the export began, in milliseconds since 1970.
    pub fn started(&self) -> Option<u64> {
        started(self.export_id)
    }
}

/// When the export of that id began, in milliseconds since 1970.
pub fn started(export_id: Uuid) -> Option<u64> {
    let (seconds, nanoseconds) = export_id.get_timestamp()?.to_unix();
    Some(seconds * 1000 + u64::from(nanoseconds / 1_000_000))
}

/// The folder, and the folders around it that it may be a partition of.
fn without_partitions(folder: &str) -> Vec<&str> {
    let mut folders = vec![folder];
    let mut inner = folder;
    loop {
        let (outer, last) = inner.rsplit_once('/').unwrap_or(("", inner));
        if !last.contains('=') {
            return folders;
        }
        folders.push(outer);
        inner = outer;
    }
}

/// Returns the name of the manifest of the run with that key.
pub fn manifest_of_run(run_key: &str) -> String {
    format!("_{run_key}.manifest")
}

/// Whether an object of that key may be the manifest of a run: only the object itself tells of which export it is.
pub fn may_be_manifest_of_run(key: &str) -> bool {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    name.starts_with('_') && name.ends_with(".manifest") && ObjectName::parse(key).is_none()
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
    naming: Naming,
    replaced: Option<Arc<Predecessor>>,
    /// Shared by all copies.
    partitions: Arc<RwLock<Vec<Partition>>>,
}

/// The export in whose place another comes.
#[derive(Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// ETag of its manifest.
    pub etag: String,
    /// Its id.
    pub export_id: Uuid,
}

/// Beginning of a partition: the number of its first file, and its folder, with a slash at its end.
type Partition = (u64, Box<str>);

/// How an export's objects are named.
#[derive(Debug, Clone)]
pub struct Naming {
    /// Files go to a folder named by the export id.
    pub in_folder: bool,
    /// Type of all files.
    pub file_type: FileType,
    /// The name of the only file, where the user has given one.
    pub file: Option<String>,
    /// The key of the run, which names the manifest; `None`: the export id does.
    pub run_key: Option<String>,
    /// The name of the manifest's second copy.
    pub manifest_copy: Option<String>,
    /// The name of an empty object that comes after the manifest.
    pub success_marker: Option<String>,
}

impl Destination {
    /// Errors: 22023 when a key would be too long for S3.
    pub fn new(location: Location, export_id: Uuid, naming: Naming) -> Result<Self> {
        let destination = Destination { location, export_id, naming, replaced: None, partitions: Arc::default() };
        let named = [destination.manifest_copy_key(), destination.success_marker_key()];
        // Longer than the name of a file that the user has named, and known to fail by the commit only.
        let own = [destination.file_key(u64::MAX), destination.manifest_key()];
        let longest = named.iter().flatten().chain(&own).map(String::len).max().unwrap_or(0);
        if longest > MAX_KEY_BYTES {
            let uri = destination.location.to_string();
            return Err(invalid(&uri, "The keys of its files would be longer than S3's 1,024 bytes."));
        }
        Ok(destination)
    }

    /// Files from this number on, until the next call, go to that folder. Errors: 22023 when their keys would be too long for S3,
    /// 53200.
    pub fn begin_partition(&self, number: u64, folder: &str) -> Result<()> {
        let mut partitions = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        partitions.try_reserve(1).map_err(|_| Error::out_of_memory("the list of partitions"))?;
        partitions.push((number, format!("{folder}/").into()));
        drop(partitions);
        // With room for the longest file number.
        if self.file_key(number).len() + 14 > MAX_KEY_BYTES {
            return Err(too_long(folder.as_bytes()));
        }
        Ok(())
    }

    /// The folder of the partition with this index, from 0, and the number of its first file.
    pub fn partition(&self, index: usize) -> Option<(u64, String)> {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        partitions.get(index).map(|(first, folder)| (*first, folder.trim_end_matches('/').to_owned()))
    }

    fn partition_of(&self, number: u64) -> String {
        let partitions = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        let next = partitions.partition_point(|(first, _)| *first <= number);
        next.checked_sub(1).and_then(|index| partitions.get(index)).map(|(_, folder)| folder.to_string()).unwrap_or_default()
    }

    /// The bucket all keys are in.
    pub fn bucket(&self) -> &str {
        self.location.bucket()
    }

    /// Returns the location of the objects.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The export these objects belong to.
    pub fn export_id(&self) -> Uuid {
        self.export_id
    }

    /// The key of the file with this number; numbers start at 1.
    pub fn file_key(&self, number: u64) -> String {
        if let Some(name) = &self.naming.file {
            return self.location.key(name);
        }
        let (id, suffix, partition) = (self.export_id, self.naming.file_type.suffix(), self.partition_of(number));
        self.location.key(&if self.naming.in_folder {
            format!("{id}/{partition}{number:06}.{suffix}")
        } else {
            format!("{partition}{id}-{number:06}.{suffix}")
        })
    }

    /// Type by which files are named and announced.
    pub fn file_type(&self) -> FileType {
        self.naming.file_type
    }

    /// Whether the key of the only file is of the user's making, so that it may be another object's.
    pub fn has_named_file(&self) -> bool {
        self.naming.file.is_some()
    }

    /// Whether the user has named any of the objects.
    pub fn has_names(&self) -> bool {
        self.naming.file.is_some() || self.naming.manifest_copy.is_some() || self.naming.success_marker.is_some()
    }

    /// Whether the key is of the user's making, so that it may be another object's.
    pub fn is_named(&self, key: &str) -> bool {
        let named_file = self.naming.file.as_deref().map(|name| self.location.key(name));
        let manifest = self.naming.run_key.is_some().then(|| self.manifest_key());
        [named_file, manifest, self.manifest_copy_key(), self.success_marker_key()].iter().flatten().any(|named| named == key)
    }

    /// The key of the run that the export is, if it has one.
    pub fn run_key(&self) -> Option<&str> {
        self.naming.run_key.as_deref()
    }

    /// Returns the destination of another export of the same run.
    pub fn of_export(&self, export_id: Uuid) -> Self {
        Destination { export_id, replaced: None, partitions: Arc::default(), ..self.clone() }
    }

    /// Returns the destination whose manifest comes in the place of that export's, which has this ETag.
    pub fn replacing(self, etag: &str, export_id: Uuid) -> Self {
        Destination { replaced: Some(Arc::new(Predecessor { etag: etag.to_owned(), export_id })), ..self }
    }

    /// The export in whose place this one comes.
    pub fn replaced(&self) -> Option<&Predecessor> {
        self.replaced.as_deref()
    }

    /// The key of the manifest's second copy, if there is to be one.
    pub fn manifest_copy_key(&self) -> Option<String> {
        self.naming.manifest_copy.as_deref().map(|name| self.location.key(name))
    }

    /// The key of the empty object that comes last, if there is to be one.
    pub fn success_marker_key(&self) -> Option<String> {
        self.naming.success_marker.as_deref().map(|name| self.location.key(name))
    }

    /// The manifest's key. Hadoop, Spark, Athena and Trino skip names with a leading underscore.
    pub fn manifest_key(&self) -> String {
        self.location.key(&match &self.naming.run_key {
            Some(run_key) => manifest_of_run(run_key),
            None => format!("_{}.manifest", self.export_id),
        })
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

    fn naming(in_folder: bool) -> Naming {
        let file_type = FileType::of(&crate::format::Format::Json(crate::format::Wrapping::Rockset), None);
        Naming { in_folder, file_type, file: None, run_key: None, manifest_copy: None, success_marker: None }
    }

    fn location(uri: &str) -> Location {
        Location::parse(uri).unwrap()
    }

    #[test]
    fn keys_hold_the_export_id_and_at_least_six_digits() {
        let id = Uuid::from_u128(7);
        let flat = Destination::new(location("s3://bucket/q"), id, naming(false)).unwrap();
        assert_eq!(flat.file_key(1), format!("q/{id}-000001.json"));
        assert_eq!(flat.file_key(12_345_678), format!("q/{id}-12345678.json"));
        assert_eq!(flat.manifest_key(), format!("q/_{id}.manifest"));
        assert_eq!(flat.url("q/x"), "s3://bucket/q/x");
        let folder = Destination::new(location("s3://bucket"), id, naming(true)).unwrap();
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
            format!("{id}-000001.tsv"),
            format!("x{id}-000001.json"),
            format!("_{id}.txt"),
            format!("{id}.manifest"),
            format!("{}-000001.json", id.simple()),
            format!("{}-000001.json", id.to_string().to_uppercase()),
            format!("{}-000001.json", Uuid::from_u128(7)),
        ] {
            assert_eq!(ObjectName::parse(&key), None, "{key}");
        }
        assert_eq!(ObjectName::parse(&format!("a/_{id}.probe")).unwrap().kind, ObjectKind::File);
    }

    #[test]
    fn files_of_partitions_lie_in_their_folders_and_know_their_manifest() {
        for in_folder in [false, true] {
            for uri in ["s3://bucket", "s3://bucket/day=1", "s3://bucket/q/day=1"] {
                let destination = Destination::new(location(uri), Uuid::now_v7(), naming(in_folder)).unwrap();
                destination.begin_partition(1, "country=FR/a=1").unwrap();
                destination.begin_partition(3, "country=NL/a=2").unwrap();
                for (number, folder) in
                    [(1, "country=FR/a=1/"), (2, "country=FR/a=1/"), (3, "country=NL/a=2/"), (9, "country=NL/a=2/")]
                {
                    let key = destination.file_key(number);
                    assert!(key.contains(folder), "{key}");
                    let name = ObjectName::parse(&key).unwrap();
                    assert_eq!(name.export_id, destination.export_id());
                    assert!(name.manifest_keys.contains(&destination.manifest_key()), "{name:?}");
                }
                assert_eq!(destination.clone().partition(1), Some((3, "country=NL/a=2".to_owned())));
                assert_eq!(destination.partition(2), None);
                let error = destination.begin_partition(10, &format!("a={}", "x".repeat(1000))).unwrap_err();
                assert_eq!(error.code(), Code::InvalidParameter);
            }
        }
    }

    #[test]
    fn a_key_too_long_for_s3_is_refused() {
        let long = location(&format!("s3://bucket/{}", "é".repeat(500)));
        assert_eq!(Destination::new(long, Uuid::nil(), naming(false)).unwrap_err().code(), Code::InvalidParameter);
        // A short name of the only file does not hide that the manifest's is too long.
        let named = Naming { file: Some("x".to_owned()), ..naming(false) };
        for (length, is_good) in [(1024 - 1 - 46, true), (1024 - 46, false), (1000, false), (1022, false)] {
            let long = location(&format!("s3://bucket/{}", "x".repeat(length)));
            assert_eq!(Destination::new(long, Uuid::nil(), named.clone()).is_ok(), is_good, "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_a_destination_names_is_read_back(prefix in "[a-z0-9=_-]{1,8}(/[a-z0-9=_.-]{1,8}x){0,2}", number in 1u64.., in_folder: bool) {
            for uri in [format!("s3://bucket/{prefix}"), "s3://bucket".to_owned()] {
                let destination = Destination::new(location(&uri), Uuid::now_v7(), naming(in_folder)).unwrap();
                let file = ObjectName::parse(&destination.file_key(number)).unwrap();
                prop_assert_eq!((file.export_id, file.kind), (destination.export_id(), ObjectKind::File));
                prop_assert!(file.manifest_keys.contains(&destination.manifest_key()));
                let manifest = ObjectName::parse(&destination.manifest_key()).unwrap();
                prop_assert_eq!((manifest.export_id, manifest.kind), (destination.export_id(), ObjectKind::Manifest));
                prop_assert!(manifest.started().unwrap() > 1_700_000_000_000);
            }
        }

        #[test]
        fn any_key_is_read_without_a_panic(key in "(\\PC|/|_|-|\\.){0,60}") {
            let _ = ObjectName::parse(&key);
        }
    }
}
