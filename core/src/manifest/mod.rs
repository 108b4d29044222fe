//! The manifest: the object written last, listing every file. Where it is, the export is complete.
//!
//! Its shape is that of Redshift's `UNLOAD … MANIFEST VERBOSE`, so that Redshift's `COPY … MANIFEST` reads it; what is
//! ours stands under the one key `s3_export`. It is rendered in blocks from compact records, never as a whole: a
//! million files make 200 MB of it.
#![forbid(unsafe_code)]

pub mod contents;
pub mod notification;
pub mod stored;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::files::chunker::Totals;
use crate::naming::keys::Destination;
use crate::s3::checksum::{Algorithm, Checksum};

/// A finished file, as the manifest lists it.
#[derive(Debug, Clone)]
pub struct FileRecord {
    /// Size in bytes.
    pub bytes: u64,
    /// Documents in it.
    pub documents: u64,
    /// Checksum of all its bytes.
    pub checksum: Checksum,
    /// The version the store gave it, in a versioned bucket.
    pub version_id: Option<Box<str>>,
}

/// A column of the result, for `schema`.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name, the documents' key.
    pub name: String,
    /// Its SQL type, as `format_type` prints it.
    pub type_name: String,
}

/// All a manifest says.
#[derive(Debug)]
pub struct Manifest {
    /// Names of the objects.
    pub destination: Destination,
    /// In file order.
    pub files: Vec<FileRecord>,
    /// Documents, files and bytes of the export.
    pub totals: Totals,
    /// The result's columns.
    pub columns: Vec<Column>,
    /// Algorithm of the files' checksums.
    pub algorithm: Algorithm,
    /// Whether Rockset's type wrappers were written.
    pub wrap_types: bool,
    /// SHA-256 of the query in hexadecimal: its text may hold personal data.
    pub query_sha256: String,
    /// The text, only where the user asked for it.
    pub query: Option<String>,
    /// The run of a feed that the export is, if it is one.
    pub feed: Option<FeedRun>,
}

/// The run of a feed, as its manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedRun {
    /// Id of the feed: a feed that is made anew has another.
    pub id: String,
    /// Name of the feed.
    pub name: String,
    /// Number of the run, from 1.
    pub run: u64,
    /// Kind of the bounds: `xid`, `sequence` or `time`.
    pub mark: String,
    /// The bound up to which the runs before have exported.
    pub from: String,
    /// The bound up to which this run has exported, and from which the next one goes on.
    pub to: String,
    /// Place in the server's history at which the bounds were read.
    pub wal: WalPlace,
}

/// A place in the write-ahead log. A server whose history does not contain the place has lost transactions that the run has exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPlace {
    /// System identifier of the cluster.
    pub cluster: String,
    /// OID of the database: a restored one has another.
    pub database: u32,
    /// Timeline.
    pub timeline: u32,
    /// Position, as Postgres prints a `pg_lsn`.
    pub lsn: String,
    /// Id of the run's own transaction.
    pub transaction: u64,
}

impl Manifest {
    /// The manifest's bytes in blocks of exactly `block_bytes`, but for the last.
    pub fn blocks(&self, block_bytes: usize) -> impl Iterator<Item = Vec<u8>> + Send + '_ {
        let mut lines = self.lines();
        let mut pending = Vec::new();
        std::iter::from_fn(move || {
            while pending.len() < block_bytes {
                match lines.next() {
                    Some(line) => pending.extend_from_slice(line.as_bytes()),
                    None => return (!pending.is_empty()).then(|| std::mem::take(&mut pending)),
                }
            }
            let rest = pending.split_off(block_bytes);
            Some(std::mem::replace(&mut pending, rest))
        })
    }

    /// One entry or checksum a line, so that people and `grep` can read it too.
    fn lines(&self) -> impl Iterator<Item = String> + Send + '_ {
        let entries = self.files.iter().zip(1..).map(|(file, number)| {
            let entry = json!({
                "url": self.destination.url(&self.destination.file_key(number)),
                "mandatory": true,
                "meta": {"content_length": file.bytes, "record_count": file.documents},
            });
            separated(number, &entry)
        });
        let checksums = self.checksums().zip(1..).map(|(checksum, number)| separated(number, &checksum));
        let of_partitions = self.partitions().zip(1..).map(|(partition, number)| separated(number, &partition));
        let enclose = |text: &str| self.destination.partition(0).map(|_| text.to_owned());
        let partitions = enclose(",\"partitions\":[").into_iter().chain(of_partitions).chain(enclose("\n]"));
        std::iter::once("{\"entries\":[".to_owned())
            .chain(entries)
            .chain(std::iter::once_with(|| self.between_lists()))
            .chain(partitions)
            .chain(std::iter::once(",\"checksums\":[".to_owned()))
            .chain(checksums)
            .chain(std::iter::once("]}}\n".to_owned()))
    }

    fn checksums(&self) -> impl Iterator<Item = Value> + Send + '_ {
        self.files.iter().filter_map(|file| file.checksum.base64()).map(Value::String)
    }

    /// Folders with their counts, in the order of their files.
    fn partitions(&self) -> impl Iterator<Item = Value> + Send + '_ {
        let index_of = |first: u64| usize::try_from(first - 1).unwrap_or(usize::MAX);
        (0..).map_while(move |index| {
            let (first, folder) = self.destination.partition(index)?;
            let end = self.destination.partition(index + 1).map_or(self.files.len(), |(next, _)| index_of(next));
            let files = self.files.get(index_of(first)..end).unwrap_or_default();
            Some(json!({
                "folder": folder,
                "num_docs_inserted": files.iter().map(|file| file.documents).sum::<u64>(),
                "num_files_written": files.len(),
                "num_bytes_written": files.iter().map(|file| file.bytes).sum::<u64>(),
            }))
        })
    }

    fn between_lists(&self) -> String {
        let columns: Vec<Value> =
            self.columns.iter().map(|column| json!({"name": column.name, "type": {"base": column.type_name}})).collect();
        let mut ours = json!({
            "export_id": self.destination.export_id().to_string(),
            "num_docs_inserted": self.totals.documents,
            "num_files_written": self.totals.files,
            "num_bytes_written": self.totals.bytes,
            "format": self.destination.file_type().format(),
            "compression": self.destination.file_type().compression(),
            "wrap_types": self.wrap_types,
            "query_sha256": self.query_sha256,
            "checksum_algorithm": self.algorithm.name(),
        });
        if let Some(members) = ours.as_object_mut() {
            members.extend(self.query.as_ref().map(|query| ("query".to_owned(), json!(query))));
            members.extend(self.destination.run_key().map(|run_key| ("run_key".to_owned(), json!(run_key))));
            members.extend(self.feed.as_ref().map(|run| ("feed".to_owned(), json!(run))));
        }
        let ours = ours.to_string();
        let meta = json!({"content_length": self.totals.bytes, "record_count": self.totals.documents});
        let author = json!({"name": "s3_export", "version": env!("CARGO_PKG_VERSION")});
        format!(
            "\n],\"schema\":{},\n\"meta\":{meta},\n\"author\":{author},\n\"s3_export\":{}",
            json!({ "elements": columns }),
            ours.strip_suffix('}').unwrap_or(&ours),
        )
    }
}

fn separated(number: u64, value: &Value) -> String {
    format!("{}\n{value}", if number == 1 { "" } else { "," })
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::format::{FileType, Format, Wrapping};
    use crate::naming::keys::Naming;
    use crate::naming::uri::Location;

    fn destination(location: Location, in_folder: bool) -> Destination {
        let file_type = FileType::of(&Format::Json(Wrapping::Rockset), None);
        let naming = Naming { in_folder, file_type, file: None, run_key: None, manifest_copy: None, success_marker: None };
        Destination::new(location, Uuid::nil(), naming).unwrap()
    }

    pub(crate) fn manifest(files: u64, query: Option<&str>) -> Manifest {
        let location = Location::parse("s3://bucket/q \"x\"").unwrap();
        Manifest {
            destination: destination(location, false),
            files: (0..files)
                .map(|n| FileRecord { bytes: n, documents: 1000, checksum: Algorithm::Crc32.of(b"x"), version_id: None })
                .collect(),
            totals: Totals { documents: files * 1000, files, bytes: 77 },
            columns: vec![Column { name: "a\"b".into(), type_name: "integer".into() }],
            algorithm: Algorithm::Crc32,
            wrap_types: true,
            query_sha256: "ab".into(),
            query: query.map(str::to_owned),
            feed: None,
        }
    }

    fn parsed(manifest: &Manifest, block: usize) -> Value {
        let blocks: Vec<_> = manifest.blocks(block).collect();
        assert!(blocks.iter().rev().skip(1).all(|bytes| bytes.len() == block), "every block but the last is full");
        serde_json::from_slice(&blocks.concat()).unwrap()
    }

    #[test]
    fn it_lists_every_file_in_redshifts_shape() {
        let value = parsed(&manifest(3, None), 1 << 20);
        assert_eq!(value["entries"].as_array().unwrap().len(), 3);
        assert_eq!(
            value["entries"][1],
            json!({"url": "s3://bucket/q \"x\"/00000000-0000-0000-0000-000000000000-000002.json", "mandatory": true,
                   "meta": {"content_length": 1, "record_count": 1000}})
        );
        assert_eq!(value["schema"]["elements"], json!([{"name": "a\"b", "type": {"base": "integer"}}]));
        assert_eq!(value["meta"], json!({"content_length": 77, "record_count": 3000}));
        assert_eq!(value["s3_export"]["checksums"].as_array().unwrap().len(), 3);
        assert_eq!(value["s3_export"]["checksum_algorithm"], "crc32");
        assert_eq!(value["s3_export"].get("query"), None);
    }

    #[test]
    fn partitions_have_their_counts() {
        let written = manifest(5, None);
        written.destination.begin_partition(1, "a=1").unwrap();
        written.destination.begin_partition(4, "a=2").unwrap();
        let value = parsed(&written, 1 << 20);
        assert_eq!(
            value["s3_export"]["partitions"],
            json!([{"folder": "a=1", "num_docs_inserted": 3000, "num_files_written": 3, "num_bytes_written": 3},
                   {"folder": "a=2", "num_docs_inserted": 2000, "num_files_written": 2, "num_bytes_written": 7}])
        );
        assert!(value["entries"][3]["url"].as_str().unwrap().contains("/a=2/"));
    }

    #[test]
    fn a_manifest_without_files_is_whole_too() {
        let value = parsed(&manifest(0, Some("SELECT 'é'")), 1 << 20);
        assert_eq!(value["entries"], json!([]));
        assert_eq!(value["s3_export"]["checksums"], json!([]));
        assert_eq!(value["s3_export"]["query"], "SELECT 'é'");
    }

    proptest::proptest! {
        #[test]
        fn names_and_queries_read_back_the_same(name in "\\PC{0,20}", query: String, prefix in "[^\\pC/]{1,10}", files in 0u64..5, block in 1usize..300) {
            let mut written = manifest(files, Some(&query));
            written.columns = vec![Column { name: name.clone(), type_name: "text".into() }];
            if let Ok(location) = Location::parse(&format!("s3://bucket/{prefix}")) {
                written.destination = destination(location, true);
            }
            let value = parsed(&written, block);
            proptest::prop_assert_eq!(&value["schema"]["elements"][0]["name"], &Value::from(name));
            proptest::prop_assert_eq!(&value["s3_export"]["query"], &Value::from(query));
            for (entry, number) in value["entries"].as_array().unwrap().iter().zip(1..) {
                let url = written.destination.url(&written.destination.file_key(number));
                proptest::prop_assert_eq!(&entry["url"], &Value::from(url));
            }
        }
    }

    #[test]
    fn blocks_of_any_size_add_up_to_the_same_manifest() {
        let whole = parsed(&manifest(100, None), 1 << 20);
        for block in [1, 7, 100, 4096] {
            assert_eq!(parsed(&manifest(100, None), block), whole);
        }
    }
}
