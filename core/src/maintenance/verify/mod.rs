//! Whether the files that a manifest lists are in the bucket as they were written, and no others of the export.
//!
//! ```text
//! manifest ──► its own sums ──► a listing: files of this export that it does not list ──► each listed file: HEAD, and GET if `deep`
//! ```
//!
//! A manifest may be forged by any role that may write to the location. So an object is looked at only if its key is one that this export
//! would have given it below the manifest's folder, or if the object bears the export's mark. Another key is told, and not asked for.
#![forbid(unsafe_code)]

mod file;
mod place;
mod report;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use self::file::look_at;
pub use self::place::ManifestPlace;
pub use self::report::{Checked, Event, Finding, Problem, Reporter, events};
use crate::error::{Code, Error};
use crate::maintenance::look_at_each;
use crate::manifest::contents::{Contents, ContentsFile};
use crate::naming::keys::{ObjectKind, ObjectName};
use crate::s3::bucket::Bucket;
use crate::s3::checksum::Algorithm;
use crate::s3::failure::Failure;
use crate::s3::listing::{Listed, PAGE};

/// Files that no manifest lists, of which a finding each is kept; of more, one finding tells that there are more.
const MAX_UNLISTED: usize = 10_000;

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

#[cfg(test)]
mod tests {
    use super::*;

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
