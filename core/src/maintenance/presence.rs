//! Whether the files that a manifest lists are there: a manifest whose request was carried out after its export had been taken back lists
//! files that are gone.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::io::task::lost_task;
use crate::manifest::stored::StoredFile;
use crate::s3::bucket::Bucket;
use crate::s3::failure::Failure;
use crate::s3::listing::Listed;

/// Looks at files at once, at most.
const LOOKS: usize = 16;

/// Returns the URL of a file that is not there, or has another size than the manifest says; `None`: all are there.
pub async fn missing(bucket: &Arc<Bucket>, files: Vec<StoredFile>) -> Result<Option<String>, Failure> {
    let (mut files, mut looks) = (files.into_iter(), JoinSet::new());
    loop {
        while looks.len() < LOOKS
            && let Some(file) = files.next()
        {
            let bucket = Arc::clone(bucket);
            looks.spawn(async move { is_missing(&bucket, &file).await.map(|is_missing| is_missing.then_some(file.url)) });
        }
        match looks.join_next().await {
            None => return Ok(None),
            Some(look) => {
                if let Some(url) = look.map_err(|_| Failure::permanent(lost_task()))?? {
                    return Ok(Some(url));
                }
            }
        }
    }
}

async fn is_missing(bucket: &Bucket, file: &StoredFile) -> Result<bool, Failure> {
    let Some(key) = file.url.strip_prefix(&bucket.url("")) else { return Ok(true) };
    let mut is_there = false;
    // By the right to list: whoever exports may have no right to read files. The key comes first of all that begin with it.
    let visit = |object: Listed| {
        is_there = object.key == key && object.bytes == file.bytes;
        ControlFlow::Break(())
    };
    bucket.each_object(key, 1, visit).await?;
    Ok(!is_there)
}
