//! Whether the files that a manifest lists are in the bucket as they were written, and no others of the export.
//!
//! ```text
//! manifest ──► its own sums ──► a listing: files of this export that it does not list ──► each listed file: HEAD, and GET if `deep`
//! ```
//!
//! Whoever may write to the location may have written the manifest too. So an object is looked at only if its key is one that this export
//! would have given it below the manifest's folder, or if the object bears the export's mark. Another key is told, and not asked for.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::error::{Code, Error};
use crate::files::chunker::Totals;
use crate::io::wake::Wake;
use crate::maintenance::look_at_each;
use crate::manifest::contents::{Contents, ContentsFile};
use crate::naming::keys::{ObjectKind, ObjectName};
use crate::naming::uri::{Location, invalid};
use crate::s3::bucket::Bucket;
use crate::s3::checksum::{Algorithm, Running};
use crate::s3::digest::RANGE_BYTES;
use crate::s3::failure::Failure;
use crate::s3::head::Head;
use crate::s3::listing::{Listed, PAGE};

/// Files that no manifest lists, of which a finding each is kept; of more, one finding tells that there are more.
const MAX_UNLISTED: usize = 10_000;

/// Place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPlace {
    /// Where the export's files lie.
    pub location: Location,
    /// Key of the manifest.
    pub key: String,
}

impl ManifestPlace {
    /// Reads the manifest's URL, `s3://bucket/prefix/name`. Errors: 22023.
    pub fn parse(url: &str) -> crate::error::Result<Self> {
        let object = Location::parse(url)?;
        let key = object.prefix().to_owned();
        if key.is_empty() || url.ends_with('/') {
            return Err(invalid(url, "The URL of a manifest ends with the name of an object.")
                .hint("Give the manifest as the export returned it."));
        }
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let location = Location::parse(&format!("s3://{}/{folder}", object.bucket()))?;
        Ok(ManifestPlace { location, key })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("s3://{}/{}", self.location.bucket(), self.key)
    }
}

/// Extent of the comparison of an object with the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// Nothing: there is no object, or it may not be looked at.
    Nothing,
    /// Size alone: manifest or store has no checksum of the whole object.
    Size,
    /// Size, and the checksum that the store keeps.
    Checksum,
    /// Size, and the checksum of the bytes, which were read.
    Content,
}

impl Checked {
    /// Text of the column `checked`.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Checked::Nothing => None,
            Checked::Size => Some("size"),
            Checked::Checksum => Some("checksum"),
            Checked::Content => Some("content"),
        }
    }
}

/// A way in which an object differs from the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no such object.
    Missing,
    /// The object has another size.
    OtherSize,
    /// The object has another checksum.
    OtherChecksum,
    /// Somebody wrote or deleted the object while it was read.
    Changed,
    /// The object bears this export's id, and the manifest does not list it.
    NotListed,
    /// The manifest lists the object twice.
    ListedTwice,
    /// The manifest lists a key that is not this export's; nobody looked at the object.
    NotOfExport,
    /// The manifest contradicts itself.
    Contradiction,
}

impl Problem {
    /// Text of the column `problem`.
    pub fn name(self) -> &'static str {
        match self {
            Problem::Missing => "missing",
            Problem::OtherSize => "other size",
            Problem::OtherChecksum => "other checksum",
            Problem::Changed => "changed while it was read",
            Problem::NotListed => "not listed",
            Problem::ListedTwice => "listed twice",
            Problem::NotOfExport => "not of this export",
            Problem::Contradiction => "contradiction",
        }
    }
}

/// Outcome for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// URL of the object.
    pub url: String,
    /// The problem, and a sentence about it; `None`: the object is as the manifest says.
    pub problem: Option<(Problem, String)>,
    /// Size of the object, where it was looked at.
    pub bytes: Option<u64>,
    /// Documents that the manifest says are in it.
    pub documents: u64,
    /// Extent of the comparison.
    pub checked: Checked,
    /// Whether [`Event::Read`] has told of its bytes.
    pub was_read: bool,
}

/// News of a verification.
#[derive(Debug)]
pub enum Event {
    /// The manifest was read: these files are to be looked at.
    Expects(Totals),
    /// So many bytes of objects were read.
    Read(u64),
    /// Outcome for one object; the manifest comes first.
    Found(Finding),
}

/// Events on their way, at most.
const EVENTS: usize = 256;

/// Returns both ends of the way by which news leave the I/O thread.
pub fn events() -> (Sender<Event>, Receiver<Event>) {
    mpsc::channel(EVENTS)
}

/// The way by which news leave the I/O thread: bounded, so that a reader who takes his time holds the work up.
#[derive(Clone)]
pub struct Reporter {
    /// Sends the news.
    pub sender: Sender<Event>,
    /// Raised after each.
    pub wake: Arc<Wake>,
}

impl Reporter {
    async fn tell(&self, event: Event) {
        // Whoever does not listen any more has given up, and ends the work.
        let _ = self.sender.send(event).await;
        self.wake.raise();
    }
}

/// Extent of a verification.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Whether the bytes of each file are read.
    pub deep: bool,
    /// Looks at files at once.
    pub at_once: usize,
    /// Most bytes of a manifest.
    pub most_bytes: u64,
}

/// Compares the export of that manifest with the bucket, and reports each object. Errors: 42704 when there is no manifest, 55000 when the
/// object is none, 53400 when it is too large, 42501.
pub async fn verify(bucket: &Arc<Bucket>, place: &ManifestPlace, terms: Terms, reporter: &Reporter) -> Result<(), Failure> {
    let contents = read_manifest(bucket, place, terms.most_bytes).await?;
    reporter.tell(Event::Expects(contents.totals)).await;
    reporter.tell(Event::Found(of_manifest(place, &contents))).await;
    let Contents { export_id, algorithm, is_partitioned, files, .. } = contents;
    let export = Arc::new(Export {
        folder: place.location.folder(),
        own_manifest: place.location.key(&format!("_{export_id}.manifest")),
        mark: export_id.to_string(),
        algorithm,
        has_one_file: files.len() == 1,
    });
    let mut listed = HashSet::with_capacity(files.len());
    let are_new: Vec<bool> = files.iter().map(|file| listed.insert(file.url.as_str())).collect();
    let prefix = export.prefix(is_partitioned, bucket, &files);
    for finding in unlisted(bucket, &export, &prefix, &listed).await.map_err(denied)? {
        reporter.tell(Event::Found(finding)).await;
    }
    drop(listed);
    let look = |(is_new, file): (bool, ContentsFile)| {
        let (bucket, export, reporter) = (Arc::clone(bucket), Arc::clone(&export), reporter.clone());
        async move {
            let finding = if is_new {
                look_at(&bucket, &export, &file, terms.deep, &reporter).await.map_err(denied)?
            } else {
                file.differs(Problem::ListedTwice, "The manifest lists the file more than once.".to_owned())
            };
            reporter.tell(Event::Found(finding)).await;
            Ok(())
        }
    };
    look_at_each(are_new.into_iter().zip(files), terms.at_once, look, |()| ControlFlow::Continue(())).await
}

/// The export that is verified.
struct Export {
    /// Prefix of all its keys.
    folder: String,
    /// Key of its manifest, unless the run has a key.
    own_manifest: String,
    /// Its id, as objects under a user's names bear it.
    mark: String,
    algorithm: Algorithm,
    /// Whether the manifest lists one file, which may have a name of the user's.
    has_one_file: bool,
}

impl Export {
    /// Prefix of all keys that the export may have given its files. Only partitions put folders before the export's id.
    fn prefix(&self, is_partitioned: bool, bucket: &Bucket, files: &[ContentsFile]) -> String {
        let with_id = format!("{}{}", self.folder, self.mark);
        let own_folder = bucket.url(&format!("{with_id}/"));
        let has_own_folder = files.first().is_some_and(|file| file.url.starts_with(&own_folder));
        if is_partitioned && !has_own_folder { self.folder.clone() } else { with_id }
    }

    /// Whether the export may have given a file that key by itself.
    fn names(&self, key: &str) -> bool {
        ObjectName::parse(key)
            .is_some_and(|name| name.kind == ObjectKind::File && name.manifest_keys.contains(&self.own_manifest))
    }

    /// Whether the only file may have that key by the user's wish; the object's mark tells.
    fn may_be_named(&self, key: &str) -> bool {
        self.has_one_file && key.strip_prefix(&self.folder).is_some_and(|name| !name.is_empty() && !name.contains('/'))
    }
}

fn denied(failure: Failure) -> Failure {
    let hint = "verify needs s3:GetObject on manifests and files, s3:ListBucket, and kms:Decrypt where a key encrypts the files: \
                s3_export.iam_policy(…, 'verify') prints them.";
    if failure.status == Some(403) { Failure { error: failure.error.hint(hint), ..failure } } else { failure }
}

async fn read_manifest(bucket: &Bucket, place: &ManifestPlace, most_bytes: u64) -> Result<Contents, Failure> {
    let url = place.url();
    let stored = bucket.get(&place.key, most_bytes).await.map_err(denied).map_err(|failure| match failure.error.code() {
        Code::Limit => Failure { error: failure.error.hint("Raise s3_export.buffer_memory."), ..failure },
        _ => failure,
    })?;
    let stored = stored.ok_or_else(|| {
        Failure::permanent(
            Error::new(Code::Undefined, format!("there is no manifest {url}"))
                .detail("An export whose manifest is not there has not committed, or somebody has deleted the manifest.")
                .hint("Give the manifest as the export returned it."),
        )
    })?;
    let contents = Contents::parse(&url, &stored.body).map_err(Failure::permanent)?;
    let of_name = ObjectName::parse(&place.key).map(|name| name.export_id.to_string());
    match of_name.or(stored.export_id) {
        Some(export_id) if export_id != contents.export_id.to_string() => Err(of_another(&url, &export_id, &contents)),
        _ => Ok(contents),
    }
}

/// Otherwise an export under a name of the user's could list the files of any other export.
fn of_another(url: &str, export_id: &str, contents: &Contents) -> Failure {
    Failure::permanent(
        Error::new(Code::NotReady, format!("{url} is the manifest of another export"))
            .detail(format!("The object bears the id {export_id}, and its text says {}.", contents.export_id))
            .hint("Somebody may have copied or changed the object."),
    )
}

fn of_manifest(place: &ManifestPlace, contents: &Contents) -> Finding {
    let sentences = contents.contradictions.join(" ");
    let problem = (!sentences.is_empty()).then_some((Problem::Contradiction, sentences));
    Finding { url: place.url(), problem, bytes: None, documents: 0, checked: Checked::Nothing, was_read: false }
}

/// Files that bear the export's id and that the manifest does not list.
async fn unlisted(bucket: &Bucket, export: &Export, prefix: &str, listed: &HashSet<&str>) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let visit = |object: Listed| {
        let url = bucket.url(&object.key);
        if !export.names(&object.key) || listed.contains(url.as_str()) {
            return ControlFlow::Continue(());
        }
        let is_last = findings.len() == MAX_UNLISTED;
        let more = if is_last { " There may be more such objects." } else { "" };
        let sentence = format!("The object bears the id of this export, and the manifest does not list it.{more}");
        let problem = Some((Problem::NotListed, sentence));
        let (bytes, checked) = (Some(object.bytes), Checked::Nothing);
        findings.push(Finding { url, problem, bytes, documents: 0, checked, was_read: false });
        if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    bucket.each_object(prefix, PAGE, visit).await?;
    Ok(findings)
}

impl ContentsFile {
    fn finding(&self, problem: Option<(Problem, String)>, bytes: Option<u64>, checked: Checked) -> Finding {
        Finding { url: self.url.clone(), problem, bytes, documents: self.documents, checked, was_read: false }
    }

    /// The finding of an object that was not looked at, or is not there.
    fn differs(&self, problem: Problem, sentence: String) -> Finding {
        self.finding(Some((problem, sentence)), None, Checked::Nothing)
    }
}

async fn look_at(
    bucket: &Bucket,
    export: &Export,
    file: &ContentsFile,
    deep: bool,
    reporter: &Reporter,
) -> Result<Finding, Failure> {
    // A segment such as ".." may lead out of the folder on the way to the store.
    let is_plain = Location::parse(&file.url).is_ok();
    let key = file.url.strip_prefix(&bucket.url("")).filter(|_| is_plain).unwrap_or_default();
    if !export.names(key) && !export.may_be_named(key) {
        let sentence = "The key is not one that this export has written beside its manifest. Nobody looked at the object.";
        return Ok(file.differs(Problem::NotOfExport, sentence.to_owned()));
    }
    let algorithm = if bucket.checksum() == Algorithm::None { Algorithm::None } else { export.algorithm };
    let Some(head) = bucket.head_with_checksum(key, algorithm).await? else {
        return Ok(file.differs(Problem::Missing, "There is no such object.".to_owned()));
    };
    if !export.names(key) && head.export_id.as_deref() != Some(export.mark.as_str()) {
        let sentence =
            "The object does not bear the id of this export: somebody else wrote it, or copied it without its metadata.";
        return Ok(file.differs(Problem::NotOfExport, sentence.to_owned()));
    }
    let (bytes, size) = (head.bytes, file.bytes);
    if bytes != size {
        let problem = (Problem::OtherSize, format!("The object has {bytes} bytes, and the manifest says {size}."));
        return Ok(file.finding(Some(problem), Some(bytes), Checked::Size));
    }
    let expected = file.checksum.base64();
    if let (Some(kept), Some(expected)) = (&head.checksum, &expected)
        && kept != expected
    {
        return Ok(file.finding(Some(other_checksum(expected, kept)), Some(bytes), Checked::Checksum));
    }
    if deep {
        let finding = read(bucket, export, file, key, &head, reporter).await?;
        return Ok(Finding { was_read: true, ..finding });
    }
    let checked = if head.checksum.is_some() && expected.is_some() { Checked::Checksum } else { Checked::Size };
    Ok(file.finding(None, Some(bytes), checked))
}

fn other_checksum(expected: &str, found: &str) -> (Problem, String) {
    (Problem::OtherChecksum, format!("The object has the checksum {found}, and the manifest says {expected}."))
}

/// Reads all bytes, and compares their checksum.
async fn read(
    bucket: &Bucket,
    export: &Export,
    file: &ContentsFile,
    key: &str,
    head: &Head,
    reporter: &Reporter,
) -> Result<Finding, Failure> {
    let (bytes, mut running, mut start) = (Some(head.bytes), Running::new(export.algorithm), 0);
    while start < head.bytes {
        let end = head.bytes.min(start + RANGE_BYTES);
        let Some(longer) = bucket.add_range(key, head, start..end, &running).await? else {
            let sentence = "Somebody wrote or deleted the object while it was read.".to_owned();
            return Ok(file.finding(Some((Problem::Changed, sentence)), bytes, Checked::Size));
        };
        reporter.tell(Event::Read(end - start)).await;
        (running, start) = (longer, end);
    }
    let found = running.finish();
    Ok(match (file.checksum.base64(), found.base64()) {
        (Some(expected), Some(found)) if expected != found => {
            file.finding(Some(other_checksum(&expected, &found)), bytes, Checked::Content)
        }
        (Some(_), _) => file.finding(None, bytes, Checked::Content),
        // There is nothing to compare the bytes with.
        (None, _) => file.finding(None, bytes, Checked::Size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_lies_in_the_folder_of_its_files() {
        for (url, location, key) in [
            ("s3://bucket/a/b/_x.manifest", "s3://bucket/a/b", "a/b/_x.manifest"),
            ("s3://bucket/_x.manifest", "s3://bucket", "_x.manifest"),
        ] {
            let place = ManifestPlace::parse(url).unwrap();
            assert_eq!((place.location.to_string().as_str(), place.key.as_str(), place.url().as_str()), (location, key, url));
        }
        for url in ["", "s3://bucket", "s3://bucket/", "s3://bucket/x/", "s3://bucket/a/../x", "https://bucket/x", "s3://b//x"]
        {
            assert_eq!(ManifestPlace::parse(url).unwrap_err().code(), Code::InvalidParameter, "{url}");
        }
    }

    #[test]
    fn keys_of_other_exports_and_folders_are_not_this_export_s() {
        let (id, other) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
        let export = Export {
            folder: "q/".to_owned(),
            own_manifest: format!("q/_{id}.manifest"),
            mark: id.to_string(),
            algorithm: Algorithm::Crc32,
            has_one_file: true,
        };
        for key in [format!("q/{id}-000001.json"), format!("q/{id}/000001.csv.gz"), format!("q/a=1/{id}-000007.parquet")] {
            assert!(export.names(&key), "{key}");
        }
        for key in [
            String::new(),
            format!("q/{other}-000001.json"),
            format!("{id}-000001.json"),
            format!("q2/{id}-000001.json"),
            format!("q/x/{id}-000001.json"),
            format!("q/_{id}.manifest"),
            "q/secret.json".to_owned(),
        ] {
            assert!(!export.names(&key), "{key}");
        }
        assert!(export.may_be_named("q/orders.json"));
        assert!(!export.may_be_named("q/a/orders.json") && !export.may_be_named("r/orders.json") && !export.may_be_named("q/"));
        assert!(!Export { has_one_file: false, ..export }.may_be_named("q/orders.json"));
    }
}
