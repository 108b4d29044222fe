//! A manifest that is read back: of a run whose key has been used, or of a feed's run whose commit the server did not survive.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::error::{Code, Error, Result};
use crate::files::chunker::Totals;
use crate::manifest::FeedRun;

/// The export that a manifest describes, without the list of its files.
#[derive(Debug)]
pub struct Summary {
    /// Id of the export.
    pub export_id: Uuid,
    /// Documents, files and bytes of the export.
    pub totals: Totals,
    /// SHA-256 of the query in hexadecimal.
    pub query_sha256: String,
    /// The key of the run that the export is, if it has one.
    pub run_key: Option<String>,
    /// The run of a feed that the export is, if it is one.
    pub feed: Option<FeedRun>,
}

#[derive(Deserialize)]
struct Document<E> {
    entries: E,
    s3_export: Ours,
}

#[derive(Deserialize)]
struct Ours {
    export_id: Uuid,
    num_docs_inserted: u64,
    num_files_written: u64,
    num_bytes_written: u64,
    query_sha256: String,
    run_key: Option<String>,
    feed: Option<FeedRun>,
}

#[derive(Deserialize)]
struct Entry {
    url: String,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    content_length: u64,
}

/// A file as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its URL.
    pub url: String,
    /// Size in bytes.
    pub bytes: u64,
}

impl Summary {
    /// Reads the manifest at `url`. Errors: 55000 when the object is no manifest of this extension's.
    pub fn parse(url: &str, body: &[u8]) -> Result<Self> {
        let Document::<IgnoredAny> { s3_export: ours, .. } = parse(url, body)?;
        let totals = Totals { documents: ours.num_docs_inserted, files: ours.num_files_written, bytes: ours.num_bytes_written };
        let Ours { export_id, query_sha256, run_key, feed, .. } = ours;
        Ok(Summary { export_id, totals, query_sha256, run_key, feed })
    }

    /// Errors: 55000 when the manifest at `url` is that of another run: whoever replaced a copy of it would delete files that the
    /// original lists.
    pub fn expect_run(&self, url: &str, run_key: Option<&str>) -> Result<()> {
        if self.run_key.as_deref() == run_key {
            return Ok(());
        }
        let said = |key: Option<&str>| key.map_or_else(|| "no run_key".to_owned(), |key| format!("run_key \"{key}\""));
        Err(Error::new(Code::NotReady, format!("{url} is the manifest of another run"))
            .detail(format!("The object says {}, and its name {}.", said(self.run_key.as_deref()), said(run_key)))
            .hint("Somebody may have copied the object. Delete the copy, or choose another run_key."))
    }
}

/// Returns the files that the manifest at `url` lists. Errors: 55000 when the object is no manifest of this extension's.
pub fn files(url: &str, body: &[u8]) -> Result<Vec<StoredFile>> {
    let document: Document<Vec<Entry>> = parse(url, body)?;
    let file = |entry: Entry| StoredFile { url: entry.url, bytes: entry.meta.content_length };
    Ok(document.entries.into_iter().map(file).collect())
}

/// Reads what the manifest at `url` says. Errors: 55000 when the object is no manifest of this extension's.
pub(super) fn parse<'a, D: Deserialize<'a>>(url: &str, body: &'a [u8]) -> Result<D> {
    serde_json::from_slice(body).map_err(|error| {
        Error::new(Code::NotReady, format!("{url} is no manifest of s3_export"))
            .detail(format!("The object is not the JSON of a manifest (line {}, column {}).", error.line(), error.column()))
            .hint("Look at the object. For another export, choose another name; to verify an export, give the URL that it returned.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::WalPlace;
    use crate::manifest::tests::manifest;

    #[test]
    fn a_manifest_reads_back() {
        let mut written = manifest(3, None);
        let wal = WalPlace { cluster: "7".into(), database: 5, timeline: 2, lsn: "0/1".into(), transaction: 7 };
        let (from, to) = ("1:1:".to_owned(), "9:9:".to_owned());
        written.feed = Some(FeedRun { id: "i".into(), name: "f".into(), run: 7, mark: "xid".into(), from, to, wal });
        let body = written.blocks(100).collect::<Vec<_>>().concat();
        let summary = Summary::parse("s3://b/m", &body).unwrap();
        assert_eq!(summary.export_id, written.destination.export_id());
        assert_eq!((summary.totals.documents, summary.totals.files, summary.totals.bytes), (3000, 3, 77));
        assert_eq!(summary.expect_run("s3://b/m", None), Ok(()));
        assert_eq!(summary.expect_run("s3://b/m", Some("k")).unwrap_err().code(), Code::NotReady);
        assert_eq!((summary.query_sha256, summary.feed), (written.query_sha256.clone(), written.feed.clone()));
        let urls: Vec<String> = files("s3://b/m", &body).unwrap().into_iter().map(|file| file.url).collect();
        let expected: Vec<String> =
            (1..=3).map(|number| written.destination.url(&written.destination.file_key(number))).collect();
        assert_eq!(urls, expected);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let whole = manifest(2, None).blocks(1 << 20).collect::<Vec<_>>().concat();
        for body in [&b""[..], b"{}", b"<Error/>", b"{\"entries\":[]}", whole.split_at(whole.len() - 3).0] {
            assert_eq!(Summary::parse("s3://b/m", body).unwrap_err().code(), Code::NotReady);
            assert_eq!(files("s3://b/m", body).unwrap_err().code(), Code::NotReady);
        }
    }
}
