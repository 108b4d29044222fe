//! The headers of an object do not depend on how it is written.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use s3_export_core::s3::checksum::Algorithm;
use s3_export_core::s3::client::ObjectSettings;
use s3_export_core::s3::object::{Deletion, Object, Role};
use s3_export_core::s3::properties::{ExportProperties, ObjectLock, Texts};
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
    connection.object = all_settings();
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

fn texts(members: &[(&str, &str)]) -> Texts {
    members.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Settings that have everything.
fn all_settings() -> ObjectSettings {
    ObjectSettings {
        expected_bucket_owner: Some("012345678901".to_owned()),
        sse: Some("aws:kms".to_owned()),
        kms_key_id: Some("arn:aws:kms:us-east-1:012345678901:key/k".to_owned()),
        storage_class: Some("GLACIER_IR".to_owned()),
        acl: Some("bucket-owner-full-control".to_owned()),
        checksum: Algorithm::Sha256,
        tags: texts(&[("data class", "secret/1")]),
        lock: Some(ObjectLock { mode: "COMPLIANCE".to_owned(), retain_until: 1_795_953_601 }),
        kms_encryption_context: Some("eyJhcHAiOiJ4In0=".to_owned()),
        bucket_key: Some(false),
        requester_pays: true,
        of_export: ExportProperties {
            tags: texts(&[("run", "ä"), ("a", "")]),
            metadata: texts(&[("owner", "a; b"), ("x-1", "")]),
            content_disposition: Some("attachment; filename=\"all.json\"".to_owned()),
        },
    }
}

#[test]
fn a_put_a_put_from_a_template_and_a_multipart_upload_give_an_object_the_same_headers() {
    let object = |role, claim| Object {
        key: "x/all.json".to_owned(),
        role,
        content_type: "application/x-ndjson",
        claim,
        replaces: None,
        predecessor: None,
    };
    let id = Uuid::now_v7();
    let expected = BTreeMap::from([
        ("content-type", "application/x-ndjson"),
        ("x-amz-meta-owner", "a; b"),
        ("x-amz-meta-x-1", ""),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-object-lock-retain-until-date", "2026-11-29T12:00:01Z"),
        ("x-amz-request-payer", "requester"),
        ("x-amz-server-side-encryption-context", "eyJhcHAiOiJ4In0="),
        ("x-amz-tagging", "a=&data%20class=secret%2F1&run=%C3%A4"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-expected-bucket-owner", "012345678901"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "arn:aws:kms:us-east-1:012345678901:key/k"),
        ("x-amz-server-side-encryption-bucket-key-enabled", "false"),
    ]);
    let of_files =
        [("content-disposition", "attachment; filename=\"all.json\""), ("x-amz-storage-class", "GLACIER_IR")].into_iter();
    // The first file goes by the SDK, a later one from a template, and one of a user's name has a mark.
    for (object, is_from_template) in [
        (object(Role::File(1), None), false),
        (object(Role::File(2), None), true),
        (object(Role::File(1), Some(id)), false),
        (object(Role::Manifest, None), false),
        (object(Role::ManifestCopy, Some(id)), false),
        (object(Role::SuccessMarker, Some(id)), false),
        (object(Role::Probe, None), false),
    ] {
        let (what, mark) = (format!("{object:?}"), object.claim.map(|id| id.to_string()));
        let mut expected = expected.clone();
        expected.extend(of_files.clone().filter(|_| matches!(object.role, Role::File(_))));
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

/// A bucket whose owner lets requesters pay refuses each request without the header.
#[test]
fn every_request_says_that_the_requester_pays_where_the_integration_says_so() {
    for requester_pays in [true, false] {
        let server = Server::start(|request| match () {
            () if request.is("HEAD", "") => Reply::Answer("HTTP/1.1 404 Not Found", ""),
            () if request.is("GET", "list-type=2") => {
                Reply::Answer("HTTP/1.1 200 OK", "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            }
            () => Reply::Usual,
        });
        let mut connection = server.connection();
        connection.object = ObjectSettings { requester_pays, ..ObjectSettings::default() };
        let (io, bucket) = bucket(connection, RetryPolicy { attempts: 1, total: Duration::from_secs(60) });
        let sent = io.spawn(async move {
            let object = |number| Object {
                key: format!("x/{number}.json"),
                role: Role::File(number),
                content_type: "application/x-ndjson",
                claim: None,
                replaces: None,
                predecessor: None,
            };
            let body = Bytes::from_static(b"{}\n");
            let checksum = bucket.checksum().of(&body);
            for number in 1..=2 {
                bucket.put(&object(number), body.clone(), &checksum).await.unwrap();
            }
            let upload_id = bucket.create_multipart(&object(1)).await.unwrap().upload_id;
            let part = bucket.put_part(&object(1), &upload_id, 1, body, &checksum).await.unwrap();
            bucket.complete_multipart(&object(1), &upload_id, vec![part], 3).await.unwrap();
            bucket.abort_multipart("x/1.json", &upload_id).await.unwrap();
            bucket.abort_uploads_of("x/1.json", None).await.unwrap();
            assert!(bucket.head("x/1.json").await.unwrap().is_none());
            bucket.get("x/1.json", 1000).await.unwrap();
            assert_eq!(bucket.first_within("x/").await.unwrap(), None);
            let deletion = Deletion { key: "x/1.json".to_owned(), version_id: None };
            bucket.delete(std::slice::from_ref(&deletion)).await.unwrap();
            bucket.delete_one(&deletion).await.unwrap();
        });
        wait(&io, &sent);
        let requests = server.requests();
        assert!(requests.len() >= 12, "{requests:?}");
        for request in requests {
            let expected = requester_pays.then_some("requester");
            assert_eq!(request.header("x-amz-request-payer"), expected, "{}", request.head);
            // A header that is not signed counts for nothing.
            let signed = request.header("authorization").unwrap().contains("x-amz-request-payer");
            assert_eq!(signed, requester_pays, "{}", request.head);
        }
    }
}
