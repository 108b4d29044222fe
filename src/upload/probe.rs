//! Trying out what an export needs of a store, one step after another.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use super::bucket::{Bucket, Patiences};
use super::connection::{Connection, Store};
use super::failure::Failure;
use super::network::Network;
use super::object::{Deletion, Object, Role};
use super::retry::Patience;
use super::throttle::Throttle;
use crate::error::{Code, Error};
use crate::uri::Destination;

/// What is tried.
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
    /// Beginning a multipart upload, sending a part, giving it up.
    Multipart,
    /// Deleting the object.
    Delete,
}

/// How a step went: a word about it, or why it failed.
#[derive(Debug)]
pub struct Tried {
    /// Which.
    pub step: Step,
    /// Its outcome.
    pub outcome: Result<String, Error>,
}

/// The contents of the probe.
const BODY: &[u8] = b"s3_export.validate_integration wrote this and deletes it again\n";

/// Tries all of them, as far as each makes sense without those before it. What it writes is deleted again; a cancel in the
/// middle leaves one small object.
pub async fn probe(connection: &Connection, destination: Destination, network: &Arc<Network>) -> Vec<Tried> {
    let mut tried = Vec::new();
    let mut record = |step, outcome: Result<String, Failure>| {
        let ok = outcome.is_ok();
        tried.push(Tried { step, outcome: outcome.map_err(|failure| failure.error) });
        ok
    };
    let region = Store::find_region(connection, destination.bucket(), network).await;
    let known = region.as_ref().ok().cloned();
    record(Step::Region, region);
    let Some(region) = known else { return tried };
    let store = match Store::open_in(connection, region, network).await {
        Ok(store) => store,
        Err(failure) => {
            record(Step::Credentials, Err(failure));
            return tried;
        }
    };
    record(Step::Credentials, Ok(credentials(connection)));
    let object = Object { key: destination.probe_key(), role: Role::Probe };
    let url = destination.url(&object.key);
    let bucket = Bucket::new(store, destination.bucket(), Patiences::all(Patience::SHORT), Throttle::new(1));
    let checksum = bucket.checksum().of(BODY);
    let body = Bytes::from_static(BODY);

    let put = bucket.put(&object, body.clone(), &checksum).await;
    let version_id = put.as_ref().ok().cloned().flatten();
    let may_exist = put.as_ref().map_or_else(|failure| failure.maybe_done, |_| true);
    if record(Step::Put, put.map(|_| url.clone())) {
        record(Step::Head, head(&bucket, &object).await);
        record(Step::ConditionalPut, conditional_put(&bucket, &object, body.clone()).await);
    }
    record(Step::Multipart, multipart(&bucket, &object, body).await);
    if may_exist {
        let deletion = Deletion { key: object.key, version_id };
        record(Step::Delete, bucket.delete_one(&deletion).await.map(|()| url));
    }
    tried
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

async fn conditional_put(bucket: &Bucket, object: &Object, body: Bytes) -> Result<String, Failure> {
    if bucket.put_if_absent(object, body).await? {
        return Err(Failure::permanent(Error::new(
            Code::Unsupported,
            "the store ignores If-None-Match: it overwrote the object",
        )));
    }
    Ok("refused with 412, as it should be".to_owned())
}

async fn multipart(bucket: &Bucket, object: &Object, body: Bytes) -> Result<String, Failure> {
    let upload_id = bucket.create_multipart(object).await?;
    let part = bucket.put_part(object, &upload_id, 1, body).await;
    let aborted = bucket.abort_multipart(&object.key, &upload_id).await;
    part?;
    aborted?;
    Ok("begun, one part sent, given up".to_owned())
}
