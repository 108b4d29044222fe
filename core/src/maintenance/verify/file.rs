//! One file that a manifest lists: a HEAD, and GETs of its bytes if they are to be compared.
#![forbid(unsafe_code)]

use crate::maintenance::verify::Export;
use crate::maintenance::verify::report::{Checked, Event, Finding, Problem, Reporter};
use crate::manifest::contents::ContentsFile;
use crate::naming::uri::Location;
use crate::s3::bucket::Bucket;
use crate::s3::checksum::{Algorithm, Running};
use crate::s3::digest::RANGE_BYTES;
use crate::s3::failure::Failure;
use crate::s3::head::Head;

impl ContentsFile {
    fn finding(&self, problem: Option<(Problem, String)>, bytes: Option<u64>, checked: Checked) -> Finding {
        Finding { url: self.url.clone(), problem, bytes, documents: self.documents, checked, was_read: false }
    }

    /// The finding of an object that was not looked at, or is not there.
    pub(super) fn differs(&self, problem: Problem, sentence: String) -> Finding {
        self.finding(Some((problem, sentence)), None, Checked::Nothing)
    }
}

/// Compares the object with the manifest.
pub(super) async fn look_at(
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
