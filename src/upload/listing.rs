//! What a bucket holds, page by page.
#![forbid(unsafe_code)]

use super::bucket::Bucket;
use super::failure::Failure;
use super::retry::Patience;

/// For messages: "could not …".
const STEP: &str = "list the bucket";

/// An object in a listing.
#[derive(Debug)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
}

/// A multipart upload in a listing, neither completed nor aborted.
#[derive(Debug)]
pub struct ListedUpload {
    /// The key that it would make.
    pub key: String,
    /// S3's id of it.
    pub upload_id: String,
}

impl Bucket {
    /// Up to 1,000 objects whose keys begin with `prefix`, and what to give as `after` for the next page, if there is one.
    pub async fn list(&self, prefix: &str, most: i32, after: Option<&str>) -> Result<(Vec<Listed>, Option<String>), Failure> {
        let url = self.url(prefix);
        self.send(self.patience().files, STEP, &url, || async {
            let answer = self
                .client()
                .list_objects_v2()
                .bucket(self.name())
                .prefix(prefix)
                .max_keys(most)
                .set_continuation_token(after.map(str::to_owned))
                .set_expected_bucket_owner(self.owner())
                .send()
                .await
                .map_err(|error| Failure::new(STEP, &url, &error))?;
            let objects = answer.contents.unwrap_or_default().into_iter().filter_map(|object| {
                Some(Listed { key: object.key?, bytes: object.size.and_then(|size| u64::try_from(size).ok())? })
            });
            Ok((objects.collect(), answer.next_continuation_token.filter(|_| answer.is_truncated == Some(true))))
        })
        .await
    }

    /// As [`Self::list`] for multipart uploads. `after`: key and upload id.
    pub async fn list_uploads(
        &self,
        patience: Patience,
        prefix: &str,
        after: Option<&(String, String)>,
    ) -> Result<(Vec<ListedUpload>, Option<(String, String)>), Failure> {
        let url = self.url(prefix);
        self.send(patience, STEP, &url, || async {
            let answer = self
                .client()
                .list_multipart_uploads()
                .bucket(self.name())
                .prefix(prefix)
                .set_key_marker(after.map(|(key, _)| key.clone()))
                .set_upload_id_marker(after.map(|(_, upload_id)| upload_id.clone()))
                .set_expected_bucket_owner(self.owner())
                .send()
                .await
                .map_err(|error| Failure::new(STEP, &url, &error))?;
            let uploads = answer.uploads.unwrap_or_default().into_iter();
            let uploads = uploads.filter_map(|upload| Some(ListedUpload { key: upload.key?, upload_id: upload.upload_id? }));
            let next = answer.next_key_marker.zip(answer.next_upload_id_marker);
            Ok((uploads.collect(), next.filter(|_| answer.is_truncated == Some(true))))
        })
        .await
    }
}
