//! Listings of a bucket, read from the first page to the last.
//!
//! `cleanup` deletes files of which no listing shows a manifest, and `existing: "error"` writes where a listing shows nothing. So a
//! listing that is not provably whole is a failure: one that is cut off, that does not say whether more follows, that says so and
//! does not say how to go on, or that begins anew. Such an answer is asked for again before it is reported.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use crate::error::{Code, Error};
use crate::s3::bucket::Bucket;
use crate::s3::call::Call;
use crate::s3::failure::Failure;
use crate::s3::retry::RetryPolicy;
use crate::s3::whole::Ending;

/// For messages: "could not …".
const STEP: &str = "list the bucket";

/// Most objects that one page holds.
pub const PAGE: i32 = 1000;

/// An object in a listing.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
}

/// A multipart upload in a listing, neither completed nor aborted.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ListedUpload {
    /// The key that it would make.
    pub key: String,
    /// S3's id of it.
    pub upload_id: String,
}

/// The beginning of a page of uploads: after this key, and of the same key after this upload, if one is named.
type UploadMarker = (String, Option<String>);

impl Bucket {
    /// Shows `visit` each object whose key begins with `prefix`, until it breaks. `page`: most objects to ask for at once. Errors:
    /// 58030 when the listing is not whole; what `visit` has seen is then only a part of it.
    pub async fn each_object(
        &self,
        prefix: &str,
        page: i32,
        mut visit: impl FnMut(Listed) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let url = self.url(prefix);
        let call = Call::new(self.policy().files, STEP, url.clone());
        let mut place = Place::default();
        loop {
            let (objects, next) = self
                .send(&call, || async {
                    let ending = Ending::default();
                    let request = self.client().list_objects_v2().bucket(self.name()).prefix(prefix).max_keys(page);
                    let request = request.set_continuation_token(place.after.clone());
                    let answer = request.set_expected_bucket_owner(self.owner()).customize().interceptor(ending.clone()).send();
                    let answer = answer.await.map_err(|error| unreadable(call.failure(&error)))?;
                    let read = objects(answer, prefix, ending.was_seen());
                    read.and_then(|(objects, next)| place.check(&next, objects.first()).map(|()| (objects, next)))
                        .map_err(|why| not_whole(&url, why))
                })
                .await?;
            let goes_on = place.turn(next, objects.first());
            if objects.into_iter().any(|object| visit(object).is_break()) || !goes_on {
                return Ok(());
            }
        }
    }

    /// The key of an object that lies within `folder`, if there is one. The folder's own marker is none: an empty object of the
    /// folder's name, which consoles make for an empty folder.
    pub async fn first_within(&self, folder: &str) -> Result<Option<String>, Failure> {
        let mut first = None;
        let visit = |object: Listed| {
            if object.bytes == 0 && object.key == folder {
                return ControlFlow::Continue(());
            }
            first = Some(object.key);
            ControlFlow::Break(())
        };
        self.each_object(folder, 2, visit).await?;
        Ok(first)
    }

    /// Shows `visit` each multipart upload whose key begins with `prefix`. Errors: 58030 when the listing is not whole; what `visit` has
    /// seen is then only a part of it.
    pub async fn each_upload(
        &self,
        policy: RetryPolicy,
        prefix: &str,
        mut visit: impl FnMut(ListedUpload),
    ) -> Result<(), Failure> {
        let url = self.url(prefix);
        let call = Call::new(policy, STEP, url.clone());
        let mut place: Place<UploadMarker> = Place::default();
        loop {
            let (key, upload_id) = place.after.clone().unzip();
            let (uploads, next) = self
                .send(&call, || async {
                    let ending = Ending::default();
                    let request = self.client().list_multipart_uploads().bucket(self.name()).prefix(prefix);
                    let request = request.set_key_marker(key.clone()).set_upload_id_marker(upload_id.clone().flatten());
                    let answer = request.set_expected_bucket_owner(self.owner()).customize().interceptor(ending.clone()).send();
                    let answer = answer.await.map_err(|error| unreadable(call.failure(&error)))?;
                    let read = uploads(answer, prefix, ending.was_seen());
                    read.and_then(|(uploads, next)| place.check(&next, uploads.first()).map(|()| (uploads, next)))
                        .map_err(|why| not_whole(&url, why))
                })
                .await?;
            let goes_on = place.turn(next, uploads.first());
            uploads.into_iter().for_each(&mut visit);
            if !goes_on {
                return Ok(());
            }
        }
    }
}

/// Most pages without an entry in a row. A page may have none, but a store that has only such pages may have them for ever.
const MAX_EMPTY_PAGES: usize = 10_000;

/// How far a listing was read.
struct Place<M> {
    /// The marker of the next page; `None`: the first.
    after: Option<M>,
    /// Hashes of all markers, since a listing may come back to any page.
    seen: HashSet<u64>,
    /// Hashes of each page's first entry, since a store that ignores a marker may have a new one for the same page.
    begun_with: HashSet<u64>,
    /// Pages without an entry since the last one with any.
    empty_pages: usize,
}

impl<M> Default for Place<M> {
    fn default() -> Self {
        Place { after: None, seen: HashSet::new(), begun_with: HashSet::new(), empty_pages: 0 }
    }
}

impl<M: Hash> Place<M> {
    /// Errors, as part of a sentence: a page that begins with `first` was read already, `next` leads back to one, or nothing follows
    /// for ever.
    fn check(&self, next: &Option<M>, first: Option<&impl Hash>) -> Result<(), String> {
        if next.as_ref().is_some_and(|marker| self.seen.contains(&hash(marker))) {
            return Err("it names a page that was read already as the next".into());
        }
        match first {
            Some(first) if self.begun_with.contains(&hash(first)) => Err("it is a page that was read already".into()),
            None if next.is_some() && self.empty_pages >= MAX_EMPTY_PAGES => {
                Err(format!("it is empty, as the {MAX_EMPTY_PAGES} before it are, and says that more follows"))
            }
            _ => Ok(()),
        }
    }

    /// Goes on to the next page, if there is one.
    fn turn(&mut self, next: Option<M>, first: Option<&impl Hash>) -> bool {
        self.seen.extend(next.as_ref().map(hash));
        self.begun_with.extend(first.map(hash));
        self.empty_pages = if first.is_some() { 0 } else { self.empty_pages + 1 };
        self.after = next;
        self.after.is_some()
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The objects of a page and the marker of the next. Errors, as part of a sentence: why the page is not provably whole.
fn objects(answer: ListObjectsV2Output, prefix: &str, is_closed: bool) -> Result<(Vec<Listed>, Option<String>), String> {
    let is_last = is_last(is_closed, answer.is_truncated)?;
    let (contents, folders) = (answer.contents.unwrap_or_default(), answer.common_prefixes.unwrap_or_default());
    let held = contents.len() + folders.len();
    if let Some(count) = answer.key_count.filter(|count| usize::try_from(*count).ok() != Some(held)) {
        return Err(format!("it says that it holds {count} objects, and holds {held}"));
    }
    let listed = contents.into_iter().map(|object| {
        let bytes = object.size.and_then(|size| u64::try_from(size).ok());
        let (key, bytes) = object.key.zip(bytes).ok_or("it holds an object without key or size")?;
        within(prefix, &key)?;
        Ok(Listed { key, bytes })
    });
    let listed = listed.collect::<Result<_, String>>()?;
    let next = answer.next_continuation_token.filter(|token| !token.is_empty());
    match (is_last, next, answer.key_count) {
        (true, ..) => Ok((listed, None)),
        (false, Some(next), _) => Ok((listed, Some(next))),
        (false, None, Some(_)) => Err("it says that more follows, and has no NextContinuationToken".into()),
        (false, None, None) => Err("it says that more follows, and is in the form of ListObjects, \
             which cannot be gone on with: the store does not know ListObjectsV2"
            .into()),
    }
}

/// Returns the uploads of a page and the marker of the next one; `None`: this page is the last. Errors: why the page is not whole.
fn uploads(
    answer: ListMultipartUploadsOutput,
    prefix: &str,
    is_closed: bool,
) -> Result<(Vec<ListedUpload>, Option<UploadMarker>), String> {
    let is_last = is_last(is_closed, answer.is_truncated)?;
    let listed = answer.uploads.unwrap_or_default().into_iter().map(|upload| {
        let (key, upload_id) = upload.key.zip(upload.upload_id).ok_or("it holds an upload without key or id")?;
        within(prefix, &key)?;
        Ok(ListedUpload { key, upload_id })
    });
    let listed = listed.collect::<Result<_, String>>()?;
    // Directory buckets have no marker for uploads.
    let upload_id = answer.next_upload_id_marker.filter(|id| !id.is_empty());
    match answer.next_key_marker.filter(|key| !key.is_empty()) {
        _ if is_last => Ok((listed, None)),
        Some(key) => Ok((listed, Some((key, upload_id)))),
        None => Err("it says that more follows, and has no NextKeyMarker".into()),
    }
}

fn is_last(is_closed: bool, is_truncated: Option<bool>) -> Result<bool, String> {
    if !is_closed {
        return Err("it is cut off".into());
    }
    is_truncated.map(|truncated| !truncated).ok_or_else(|| "it does not say whether more follows (IsTruncated)".into())
}

/// A store that ignores the prefix would have objects elsewhere deleted.
fn within(prefix: &str, key: &str) -> Result<(), String> {
    if key.starts_with(prefix) { Ok(()) } else { Err("it holds keys that were not asked for".into()) }
}

fn not_whole(url: &str, why: String) -> Failure {
    let error = Error::new(Code::Io, format!("could not {STEP}: the store's listing is not whole"))
        .detail(format!("Of the answer for {url}: {why}."))
        .hint("Look for a proxy that changes answers. Nothing is deleted, and no folder taken for empty, by such a listing.");
    Failure { transient: true, ..Failure::permanent(error) }
}

/// A listing that cannot be read is asked for again: it changes nothing.
fn unreadable(failure: Failure) -> Failure {
    let is_success = failure.status.is_some_and(|status| (200..300).contains(&status));
    Failure { transient: failure.transient || is_success, ..failure }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{MultipartUpload, Object};

    use super::*;

    fn page(keys: &[&str], truncated: Option<bool>, token: Option<&str>, count: Option<i32>) -> ListObjectsV2Output {
        let contents = keys.iter().map(|key| Object::builder().key(*key).size(1).build()).collect();
        ListObjectsV2Output::builder()
            .set_contents(Some(contents))
            .set_is_truncated(truncated)
            .set_next_continuation_token(token.map(str::to_owned))
            .set_key_count(count)
            .build()
    }

    fn read(page: ListObjectsV2Output) -> Result<(usize, Option<String>), String> {
        objects(page, "a/", true).map(|(objects, next)| (objects.len(), next))
    }

    #[test]
    fn a_page_that_is_whole_is_read_and_says_what_follows() {
        assert_eq!(read(page(&["a/1", "a/2"], Some(false), None, Some(2))), Ok((2, None)));
        assert_eq!(read(page(&["a/1"], Some(true), Some("t"), Some(1))), Ok((1, Some("t".into()))));
        // Legal: "a page may have fewer keys, none too".
        assert_eq!(read(page(&[], Some(true), Some("t"), Some(0))), Ok((0, Some("t".into()))));
        // The token of a page that is the last is none.
        assert_eq!(read(page(&[], Some(false), Some("t"), None)), Ok((0, None)));
    }

    #[test]
    fn a_page_that_may_be_a_part_is_a_failure_that_says_why() {
        for (page, why) in [
            (page(&["a/1"], None, None, Some(1)), "IsTruncated"),
            (page(&["a/1"], Some(true), None, Some(1)), "NextContinuationToken"),
            (page(&["a/1"], Some(true), Some(""), Some(1)), "NextContinuationToken"),
            (page(&["a/1"], Some(true), None, None), "ListObjectsV2"),
            (page(&["a/1"], Some(false), None, Some(2)), "holds 1"),
            (page(&[], Some(false), None, Some(-1)), "holds 0"),
            (page(&["b/1"], Some(false), None, None), "not asked for"),
        ] {
            let said = read(page).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let nameless = ListObjectsV2Output::builder().contents(Object::builder().size(1).build()).is_truncated(false).build();
        assert!(read(nameless).unwrap_err().contains("without key"));
        assert!(objects(page(&[], Some(false), None, Some(0)), "", false).unwrap_err().contains("cut off"));
    }

    #[test]
    fn a_page_of_uploads_is_held_to_the_same() {
        let upload = MultipartUpload::builder().key("a/1").upload_id("1").build();
        let page = || ListMultipartUploadsOutput::builder().uploads(upload.clone());
        let read = |page: ListMultipartUploadsOutput| uploads(page, "a/", true).map(|(uploads, next)| (uploads.len(), next));
        assert_eq!(read(page().is_truncated(false).build()), Ok((1, None)));
        let marker = page().is_truncated(true).next_key_marker("a/1");
        assert_eq!(read(marker.clone().build()), Ok((1, Some(("a/1".into(), None)))));
        assert_eq!(read(marker.next_upload_id_marker("1").build()), Ok((1, Some(("a/1".into(), Some("1".into()))))));
        assert!(read(page().build()).unwrap_err().contains("IsTruncated"));
        assert!(read(page().is_truncated(true).next_upload_id_marker("1").build()).unwrap_err().contains("NextKeyMarker"));
        assert!(uploads(page().is_truncated(false).build(), "a/", false).is_err());
        let nameless = MultipartUpload::builder().key("a/1").build();
        assert!(read(page().uploads(nameless).is_truncated(false).build()).is_err());
    }

    #[test]
    fn a_page_that_comes_again_is_a_failure() {
        let mut place = Place::default();
        for marker in [1, 2] {
            place.check(&Some(marker), Some(&(marker * 10))).unwrap();
            assert!(place.turn(Some(marker), Some(&(marker * 10))));
        }
        for marker in [1, 2] {
            assert!(place.check(&Some(marker), Some(&30)).unwrap_err().contains("as the next"));
            assert!(place.check(&Some(3), Some(&(marker * 10))).unwrap_err().contains("it is a page"));
        }
        place.check(&Some(3), Some(&30)).unwrap();
        assert!(!place.turn(None, None::<&u32>));
    }

    #[test]
    fn a_listing_of_empty_pages_comes_to_an_end() {
        let mut place = Place::default();
        for marker in 0..MAX_EMPTY_PAGES {
            place.check(&Some(marker), None::<&u32>).unwrap();
            assert!(place.turn(Some(marker), None::<&u32>));
        }
        assert!(place.check(&Some(MAX_EMPTY_PAGES), None::<&u32>).unwrap_err().contains("it is empty"));
        place.check(&None, None::<&u32>).unwrap();
        place.check(&Some(MAX_EMPTY_PAGES), Some(&1)).unwrap();
    }
}
