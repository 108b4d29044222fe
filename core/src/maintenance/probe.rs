//! Trying out what an export needs of a store, one step after another.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Code, Error};
use crate::naming::keys::Destination;
use crate::s3::bucket::Bucket;
use crate::s3::client::{Connection, Store};
use crate::s3::failure::Failure;
use crate::s3::network::Network;
use crate::s3::object::{Condition, Deletion, Object, Role};
use crate::s3::put::Conditional;
use crate::s3::retry::{RetryPolicies, RetryPolicy};
use crate::s3::throttle::Throttle;

/// Step that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Finding the bucket's region.
    Region,
    /// Getting credentials, a role's too.
    Credentials,
    /// Writing an object.
    Put,
    /// Looking at it.
    Head,
    /// Writing it once more on condition that it is not there.
    ConditionalPut,
    /// A multipart upload that is completed, and one that is given up.
    Multipart,
    /// One more that is completed on condition that the object is not there.
    ConditionalMultipart,
    /// Deleting the object.
    Delete,
}

/// How a step went: a word about it, or why it failed; `None`: not tried, since it needs one before it that failed.
#[derive(Debug)]
pub struct Tried {
    /// Which.
    pub step: Step,
    /// Its outcome.
    pub outcome: Option<Result<String, Error>>,
}

/// In the order in which they are tried.
const STEPS: [Step; 8] = [
    Step::Region,
    Step::Credentials,
    Step::Put,
    Step::Head,
    Step::ConditionalPut,
    Step::Multipart,
    Step::ConditionalMultipart,
    Step::Delete,
];

/// The contents of the probe.
pub const BODY: &str = "s3_export.validate_integration wrote this and deletes it again\n";
/// The contents of an upload that is to be refused: of another length, so that the probe is not taken for what the upload has made.
const OTHER_BODY: &str = "s3_export.validate_integration wrote this\n";

/// Tries all of them, as far as each makes sense without those before it. What it writes is deleted again; a cancel in the
/// middle leaves one small object.
pub async fn probe(connection: &Connection, destination: Destination, network: &Arc<Network>) -> Vec<Tried> {
    let mut outcomes = Outcomes(STEPS.map(|step| Tried { step, outcome: None }).into());
    if let Some(store) = outcomes.connect(connection, &destination, network).await {
        let (key, role) = (destination.probe_key(), Role::Probe);
        let object = Object { key, role, content_type: "text/plain", claim: None, replaces: None, predecessor: None };
        let bucket = Bucket::new(store, destination.bucket(), RetryPolicies::all(RetryPolicy::SHORT), Throttle::new(1));
        outcomes.write(&bucket, &object).await;
    }
    outcomes.0
}

struct Outcomes(Vec<Tried>);

impl Outcomes {
    /// Gives whether it was good.
    fn record(&mut self, step: Step, outcome: Result<String, Failure>) -> bool {
        let good = outcome.is_ok();
        if let Some(tried) = self.0.iter_mut().find(|tried| tried.step == step) {
            tried.outcome = Some(outcome.map_err(|failure| failure.error));
        }
        good
    }

    async fn connect(&mut self, connection: &Connection, destination: &Destination, network: &Arc<Network>) -> Option<Store> {
        let region = Store::find_region(connection, destination.bucket(), network).await;
        let known = region.as_ref().ok().cloned();
        self.record(Step::Region, region);
        match Store::open_in(connection, known?, network).await {
            Ok(store) => {
                self.record(Step::Credentials, Ok(credentials(connection)));
                Some(store)
            }
            Err(failure) => {
                self.record(Step::Credentials, Err(failure));
                None
            }
        }
    }

    async fn write(&mut self, bucket: &Bucket, object: &Object) {
        let body = Bytes::from_static(BODY.as_bytes());
        // In a versioned bucket, each write makes one.
        let mut versions = Vec::new();
        let put = bucket.put(object, body.clone(), &bucket.checksum().of(&body)).await;
        let mut may_exist = put.as_ref().map_or_else(|failure| failure.outcome_unknown, |_| true);
        versions.extend(put.as_ref().ok().map(|written| written.version_id.clone()));
        if self.record(Step::Put, put.map(|_| bucket.url(&object.key))) {
            self.record(Step::Head, head(bucket, object).await);
            let conditional = conditional_put(bucket, object, body.clone(), &mut versions).await;
            self.record(Step::ConditionalPut, conditional);
        }
        let multipart = multipart(bucket, object, body.clone(), &mut versions).await;
        may_exist |= multipart.as_ref().map_or_else(|failure| failure.outcome_unknown, |_| true);
        if self.record(Step::Multipart, multipart) {
            let conditional = conditional_multipart(bucket, object, &mut versions).await;
            self.record(Step::ConditionalMultipart, conditional);
        }
        if may_exist {
            self.record(Step::Delete, delete(bucket, object, versions).await);
        }
    }
}

fn credentials(connection: &Connection) -> String {
    match &connection.identity.role {
        Some(role) => format!("session {} of {}", role.session_name, role.arn),
        None => "the integration's own".to_owned(),
    }
}

async fn head(bucket: &Bucket, object: &Object) -> Result<String, Failure> {
    let missing = || Failure::permanent(Error::new(Code::Io, "the object that was just written is not there"));
    bucket.head(&object.key).await?.map(|head| format!("{} bytes", head.bytes)).ok_or_else(missing)
}

async fn conditional_put(
    bucket: &Bucket,
    object: &Object,
    body: Bytes,
    versions: &mut Vec<Option<String>>,
) -> Result<String, Failure> {
    match bucket.put_if_absent(object, body).await? {
        Conditional::Present => Ok("refused with 412, as it should be".to_owned()),
        Conditional::Written(version_id) => {
            versions.push(version_id);
            let why = "the store ignores If-None-Match: it overwrote the object";
            Err(Failure::permanent(Error::new(Code::Unsupported, why)))
        }
    }
}

/// One upload is completed, another given up.
async fn multipart(
    bucket: &Bucket,
    object: &Object,
    body: Bytes,
    versions: &mut Vec<Option<String>>,
) -> Result<String, Failure> {
    for complete in [true, false] {
        let upload_id = bucket.create_multipart(object).await?.upload_id;
        let checksum = bucket.checksum().of(&body);
        let part = bucket.put_part(object, &upload_id, 1, body.clone(), &checksum).await;
        let made = match part {
            Ok(part) if complete => {
                bucket.complete_multipart(object, &upload_id, vec![part], body.len() as u64).await.map(Some)
            }
            Ok(_) => Ok(None),
            Err(failure) => Err(failure),
        };
        match made {
            Ok(Some(version_id)) => versions.push(version_id),
            Ok(None) => bucket.abort_multipart(&object.key, &upload_id).await?,
            Err(failure) => {
                // What failed is told; that this fails too would say no more.
                let _ = bucket.abort_multipart(&object.key, &upload_id).await;
                return Err(failure);
            }
        }
    }
    Ok("one completed, one given up".to_owned())
}

/// An upload of an object that is there, to be completed only if there is none.
async fn conditional_multipart(
    bucket: &Bucket,
    object: &Object,
    versions: &mut Vec<Option<String>>,
) -> Result<String, Failure> {
    let body = Bytes::from_static(OTHER_BODY.as_bytes());
    let upload_id = bucket.create_multipart(object).await?.upload_id;
    let checksum = bucket.checksum().of(&body);
    let completed = match bucket.put_part(object, &upload_id, 1, body.clone(), &checksum).await {
        Ok(part) => bucket.complete_once(object, &upload_id, vec![part], body.len() as u64, Some(Condition::Absent)).await,
        Err(failure) => Err(failure),
    };
    match completed {
        Ok(version_id) => {
            versions.push(version_id);
            let why = "the store ignores If-None-Match at the end of a multipart upload: it overwrote the object";
            Err(Failure::permanent(Error::new(Code::Unsupported, why)))
        }
        Err(failure) => {
            // What was refused is told; that this fails too would say no more.
            let _ = bucket.abort_multipart(&object.key, &upload_id).await;
            if failure.status == Some(412) { Ok("refused with 412, as it should be".to_owned()) } else { Err(failure) }
        }
    }
}

async fn delete(bucket: &Bucket, object: &Object, mut versions: Vec<Option<String>>) -> Result<String, Failure> {
    versions.dedup();
    if versions.is_empty() {
        versions.push(None);
    }
    let marker = Deletion { key: object.key.clone(), version_id: None };
    if bucket.settings().lock.is_some() {
        bucket.delete_one(&marker).await?;
    } else {
        match delete_versions(bucket, object, &versions).await {
            Ok(()) => return Ok(bucket.url(&object.key)),
            Err(failure) if failure.transient || versions.iter().all(Option::is_none) => return Err(failure),
            // A rollback does the same. The first refusal says more than a second one.
            Err(failure) => bucket.delete_one(&marker).await.map_err(|_| failure)?,
        }
    }
    Ok(format!("{}: its versions stay, and a delete marker hides them", bucket.url(&object.key)))
}

async fn delete_versions(bucket: &Bucket, object: &Object, versions: &[Option<String>]) -> Result<(), Failure> {
    for version_id in versions {
        bucket.delete_one(&Deletion { key: object.key.clone(), version_id: version_id.clone() }).await?;
    }
    Ok(())
}
