//! Maintenance beside exports: the search for orphans, the trial of a store, and the comparison of an export with its manifest.

pub mod orphans;
pub mod presence;
pub mod probe;
pub mod verify;

use std::ops::ControlFlow;

use tokio::task::JoinSet;

use crate::io::task::lost_task;
use crate::s3::bucket::Bucket;
use crate::s3::failure::Failure;
use crate::s3::listing::{Listed, PAGE};

/// Looks at objects at once, at most, where nobody says how many.
const LOOKS: usize = 16;

/// Runs `look` for each item, at most `at_once` of these at a time, and shows `visit` each outcome as it comes, until `visit` breaks. What
/// runs then is dropped, as it is after the first failure.
async fn look_at_each<I, T, F>(
    items: impl IntoIterator<Item = I>,
    at_once: usize,
    look: impl Fn(I) -> F,
    mut visit: impl FnMut(T) -> ControlFlow<()>,
) -> Result<(), Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let (mut items, mut looks) = (items.into_iter(), JoinSet::new());
    loop {
        while looks.len() < at_once.max(1)
            && let Some(item) = items.next()
        {
            looks.spawn(look(item));
        }
        match looks.join_next().await {
            None => return Ok(()),
            Some(outcome) => {
                if visit(outcome.map_err(|_| Failure::permanent(lost_task()))??).is_break() {
                    return Ok(());
                }
            }
        }
    }
}

impl Bucket {
    /// Returns the size of the object as a listing shows it; `None`: the whole listing does not show the key.
    async fn listed_bytes(&self, key: &str) -> Result<Option<u64>, Failure> {
        let mut bytes = None;
        // Directory buckets list in no order, so the key need not come first of all that begin with it.
        let visit = |object: Listed| {
            bytes = (object.key == key).then_some(object.bytes);
            if bytes.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        self.each_object(key, PAGE, visit).await?;
        Ok(bytes)
    }
}
