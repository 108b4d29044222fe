//! A manifest that is compared with the bucket: each file with its checksum, and what does not fit together in the manifest itself.
//!
//! A manifest may be forged by any role that may write to the location. So nothing in the manifest is believed: see `maintenance/verify/`.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::error::Result;
use crate::files::chunker::Totals;
use crate::manifest::stored::parse;
use crate::s3::checksum::{Algorithm, Checksum};

/// All that a manifest says of its files.
#[derive(Debug)]
pub struct Contents {
    /// Id of the export.
    pub export_id: Uuid,
    /// Algorithm of the checksums.
    pub algorithm: Algorithm,
    /// Whether the files lie in folders of partitions.
    pub is_partitioned: bool,
    /// In the order of the manifest.
    pub files: Vec<ContentsFile>,
    /// Sums over the files.
    pub totals: Totals,
    /// Sentences about what does not fit together; empty for a manifest as an export writes it.
    pub contradictions: Vec<String>,
}

/// A file that a manifest lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentsFile {
    /// Its URL.
    pub url: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Documents in it.
    pub documents: u64,
    /// Checksum of all its bytes.
    pub checksum: Checksum,
}

#[derive(Deserialize)]
struct Document {
    entries: Vec<Entry>,
    s3_export: Ours,
}

#[derive(Deserialize)]
struct Entry {
    url: String,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    content_length: u64,
    record_count: u64,
}

#[derive(Deserialize)]
struct Ours {
    export_id: Uuid,
    num_docs_inserted: u64,
    num_files_written: u64,
    num_bytes_written: u64,
    checksum_algorithm: Algorithm,
    checksums: Vec<String>,
    partitions: Option<IgnoredAny>,
}

impl Contents {
    /// Reads the manifest at `url`. Errors: 55000 when the object is no manifest of this extension's.
    pub fn parse(url: &str, body: &[u8]) -> Result<Self> {
        let Document { entries, s3_export: ours } = parse(url, body)?;
        let mut contradictions = Vec::new();
        let checksums = read_checksums(&ours, entries.len(), &mut contradictions);
        let file = |(entry, checksum): (Entry, Checksum)| {
            let Meta { content_length: bytes, record_count: documents } = entry.meta;
            ContentsFile { url: entry.url, bytes, documents, checksum }
        };
        let files: Vec<ContentsFile> =
            entries.into_iter().zip(checksums.into_iter().chain(std::iter::repeat(Checksum::None))).map(file).collect();
        let sum = |count: fn(&ContentsFile) -> u64| files.iter().map(count).fold(0, u64::saturating_add);
        let totals = Totals { documents: sum(|file| file.documents), files: files.len() as u64, bytes: sum(|file| file.bytes) };
        for (what, said, found) in [
            ("files", ours.num_files_written, totals.files),
            ("bytes", ours.num_bytes_written, totals.bytes),
            ("documents", ours.num_docs_inserted, totals.documents),
        ] {
            if said != found {
                contradictions.push(format!("The manifest says that it has {said} {what}, and its files have {found}."));
            }
        }
        let (algorithm, is_partitioned) = (ours.checksum_algorithm, ours.partitions.is_some());
        Ok(Contents { export_id: ours.export_id, algorithm, is_partitioned, files, totals, contradictions })
    }
}

/// Returns the checksums in the order of the files; none where they cannot be those of the files.
fn read_checksums(ours: &Ours, files: usize, contradictions: &mut Vec<String>) -> Vec<Checksum> {
    let expected = if ours.checksum_algorithm == Algorithm::None { 0 } else { files };
    if ours.checksums.len() != expected {
        let found = ours.checksums.len();
        contradictions.push(format!("The manifest has {found} checksums, and {expected} would belong to its files."));
        return Vec::new();
    }
    let read = ours.checksums.iter().map(|checksum| ours.checksum_algorithm.read(checksum)).collect::<Option<_>>();
    read.unwrap_or_else(|| {
        contradictions.push(format!("A checksum of the manifest is no {}.", ours.checksum_algorithm.name()));
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::manifest::tests::manifest;

    /// The manifest of three files, with one text in the place of another.
    fn edited(from: &str, to: &str) -> Result<Contents> {
        let mut written = manifest(3, None);
        written.totals.bytes = 3;
        let body = String::from_utf8(written.blocks(1 << 20).collect::<Vec<_>>().concat()).unwrap();
        assert!(body.contains(from), "{body}");
        Contents::parse("s3://b/m", body.replacen(from, to, 1).as_bytes())
    }

    #[test]
    fn a_manifest_reads_back_without_a_contradiction() {
        let contents = edited("", "").unwrap();
        assert_eq!(contents.contradictions, Vec::<String>::new());
        assert_eq!((contents.totals.files, contents.totals.bytes, contents.totals.documents), (3, 3, 3000));
        assert_eq!((contents.algorithm, contents.is_partitioned), (Algorithm::Crc32, false));
        assert_eq!(contents.files[2].checksum, Algorithm::Crc32.of(b"x"));
        assert_eq!((contents.files[2].bytes, contents.files[2].documents), (2, 1000));
    }

    #[test]
    fn what_does_not_fit_together_is_told() {
        for (from, to, told) in [
            ("\"num_files_written\":3", "\"num_files_written\":4", "has 4 files, and its files have 3"),
            ("\"num_bytes_written\":3", "\"num_bytes_written\":9", "has 9 bytes, and its files have 3"),
            ("\"record_count\":1000", "\"record_count\":7", "has 3000 documents, and its files have 2007"),
            ("\"content_length\":1", "\"content_length\":18446744073709551615", "its files have 18446744073709551615"),
            ("\"jNwWgw==\",\n", "", "has 2 checksums, and 3"),
            ("jNwWgw==", "jNwW", "no crc32"),
            ("\"crc32\"", "\"none\"", "has 3 checksums, and 0"),
            ("\"crc32\"", "\"sha256\"", "no sha256"),
        ] {
            let contents = edited(from, to).unwrap_or_else(|error| panic!("{from}: {error:?}"));
            assert!(contents.contradictions.iter().any(|sentence| sentence.contains(told)), "{:?}", contents.contradictions);
            assert_eq!(contents.files.len(), 3);
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for (from, to) in
            [("entries", "files"), ("\"crc32\"", "\"md5\""), ("]}}", "]}"), ("\"content_length\":1", "\"content_length\":-1")]
        {
            assert_eq!(edited(from, to).unwrap_err().code(), Code::NotReady, "{from}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(text: String, cut in 0usize..2000) {
            let _ = Contents::parse("s3://b/m", text.as_bytes());
            let body = manifest(3, None).blocks(1 << 20).collect::<Vec<_>>().concat();
            let _ = Contents::parse("s3://b/m", &body[..cut.min(body.len())]);
        }
    }
}
