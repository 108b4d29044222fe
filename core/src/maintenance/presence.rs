//! Whether the files that a manifest lists are there: a manifest whose request was carried out after its export had been taken back lists
//! files that are gone.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::maintenance::{LOOKS, look_at_each};
use crate::manifest::stored::StoredFile;
use crate::s3::bucket::Bucket;
use crate::s3::failure::Failure;

/// Returns the URL of a file that is not there, or has another size than the manifest says; `None`: all are there.
pub async fn missing(bucket: &Arc<Bucket>, files: Vec<StoredFile>) -> Result<Option<String>, Failure> {
    let mut first = None;
    let look = |file: StoredFile| {
        let bucket = Arc::clone(bucket);
        async move { Ok(is_missing(&bucket, &file).await?.then_some(file.url)) }
    };
    let visit = |missing| {
        first = missing;
        if first.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    look_at_each(files, LOOKS, look, visit).await?;
    Ok(first)
}

async fn is_missing(bucket: &Bucket, file: &StoredFile) -> Result<bool, Failure> {
    let Some(key) = file.url.strip_prefix(&bucket.url("")) else { return Ok(true) };
    // By the right to list: whoever exports may have no right to read files.
    Ok(bucket.listed_bytes(key).await? != Some(file.bytes))
}
