//! GETs of an object for its checksum: in ranges, so that an attempt is short and memory is that of one block, whatever the object's size.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::error::{Code, Error};
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::checksum::Running;
use crate::s3::failure::Failure;
use crate::s3::get::is_absent;
use crate::s3::head::Head;

/// For messages: "could not …".
const STEP: &str = "read an object";
/// Bytes of one request, as many as most uploads of a part have.
pub const RANGE_BYTES: u64 = 8 << 20;

impl Bucket {
    /// Adds the bytes of a range of the object to `running`; `None`: the object is another than the one that `head` shows. Errors: 0A000
    /// when the store knows no ranges.
    pub async fn add_range(
        &self,
        key: &str,
        head: &Head,
        range: Range<u64>,
        running: &Running,
    ) -> Result<Option<Running>, Failure> {
        let call = Call::new(self.policy().files, STEP, self.url(key));
        let wanted = range.end - range.start;
        let header = (wanted < head.bytes).then(|| format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        self.send(&call, || async {
            let request = self.client().get_object().bucket(self.name()).key(key).set_range(header.clone());
            let request = request.set_if_match(head.etag.clone()).set_expected_bucket_owner(self.owner());
            let mut output = match request.send().await {
                Ok(output) => output,
                Err(error) => {
                    let failure = call.failure(&error);
                    return if is_absent(&error) || failure.status == Some(412) { Ok(None) } else { Err(failure) };
                }
            };
            if header.is_some() && output.content_range.is_none() {
                return Err(self.no_ranges(key));
            }
            // An attempt that fails half-way must leave no trace.
            let (mut running, mut read) = (running.clone(), 0);
            while let Some(block) = output.body.try_next().await.map_err(|_| call.unreadable())? {
                read += block.len() as u64;
                if read > wanted {
                    return Err(call.unreadable());
                }
                running.update(&block);
            }
            if read == wanted { Ok(Some(running)) } else { Err(call.unreadable()) }
        })
        .await
    }

    fn no_ranges(&self, key: &str) -> Failure {
        let what = "could not read an object: the store gives no ranges of objects";
        Failure::permanent(Error::new(Code::Unsupported, what).detail(format!("Object {}.", self.url(key))))
    }
}
