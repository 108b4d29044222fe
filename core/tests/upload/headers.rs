//! The headers of an object do not depend on how it is written.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use s3_export_core::s3::checksum::Algorithm;
use s3_export_core::s3::client::ObjectSettings;
use s3_export_core::s3::object::{Object, Role};
use s3_export_core::s3::retry::RetryPolicy;
use uuid::Uuid;

use super::export::{bucket, wait};
use super::scripted::{Reply, Request, Server};

/// Headers of the request itself: its body, its time, its signature and its sender.
const OF_THE_REQUEST: [&str; 12] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "authorization",
    "content-length",
    "expect",
    "if-none-match",
    "user-agent",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-user-agent",
];

/// The headers that the object has.
fn of_the_object(request: &Request) -> BTreeMap<String, String> {
    let headers = request.head.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    headers.filter(|(name, _)| !OF_THE_REQUEST.contains(&name.as_str())).collect()
}

/// Sends the PUTs and the beginning of a multipart upload of one file: `(PUT, CreateMultipartUpload)`.
fn both(object: Object) -> (Request, Request) {
    let server = Server::start(|request| match () {
        () if request.is("HEAD", "") => Reply::Answer("HTTP/1.1 404 Not Found", ""),
        () => Reply::Usual,
    });
    let mut connection = server.connection();
    connection.object = ObjectSettings {
        expected_bucket_owner: Some("012345678901".to_owned()),
        sse: Some("aws:kms".to_owned()),
        kms_key_id: Some("arn:aws:kms:us-east-1:012345678901:key/k".to_owned()),
        storage_class: Some("GLACIER_IR".to_owned()),
        acl: Some("bucket-owner-full-control".to_owned()),
        checksum: Algorithm::Sha256,
    };
    let (io, bucket) = bucket(connection, RetryPolicy { attempts: 1, total: Duration::from_secs(60) });
    let sent = io.spawn(async move {
        let body = Bytes::from_static(b"{}\n");
        bucket.put(&object, body.clone(), &bucket.checksum().of(&body)).await.unwrap();
        bucket.create_multipart(&object).await.unwrap();
    });
    wait(&io, &sent);
    let sent = |method| server.requests().into_iter().find(|request| request.is(method, "")).unwrap();
    (sent("PUT"), sent("POST"))
}

#[test]
fn a_put_a_put_from_a_template_and_a_multipart_upload_give_an_object_the_same_headers() {
    let object = |number, claim| Object {
        key: "x/all.json".to_owned(),
        role: Role::File(number),
        content_type: "application/x-ndjson",
        claim,
        replaces: None,
        predecessor: None,
    };
    let id = Uuid::now_v7();
    let expected = BTreeMap::from([
        ("content-type", "application/x-ndjson"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-expected-bucket-owner", "012345678901"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:us-east-1:012345678901:key/k"),
        ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
        ("x-amz-storage-class", "GLACIER_IR"),
    ]);
    // The first file goes by the SDK, a later one from a template, and one of a user's name has a mark.
    for (object, is_from_template) in [(object(1, None), false), (object(2, None), true), (object(1, Some(id)), false)] {
        let (what, mark) = (format!("{object:?}"), object.claim.map(|id| id.to_string()));
        let (put, created) = both(object);
        assert_eq!(put.header("amz-sdk-invocation-id").is_none(), is_from_template, "{what}");
        let mut headers = of_the_object(&put);
        assert_eq!(of_the_object(&created), headers, "{what}");
        assert!(headers.remove("host").is_some());
        assert_eq!(headers.remove("x-amz-meta-s3-export-id"), mark);
        assert_eq!(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<BTreeMap<_, _>>(), expected);
        // The beginning announces the checksums that come with the parts.
        assert_eq!(created.header("x-amz-checksum-algorithm"), Some("SHA256"), "{what}");
        assert!(put.header("x-amz-checksum-sha256").is_some(), "{what}");
    }
}
