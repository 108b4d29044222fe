//! Rollbacks where the versions of objects stay, by Object Lock or for want of a right: delete markers hide the objects.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use s3_export_core::s3::RetryPolicies;
use s3_export_core::s3::properties::ObjectLock;
use uuid::Uuid;

use super::export::{Export, POLICY, Terms, destination_of, terms};
use super::scripted::{Reply, Request, Server};

const LIMIT: Duration = Duration::from_secs(30);

/// Answers of a bucket with versions whose versions may not be deleted. `mark`: the export whose object a look shows.
fn locked(request: &Request, mark: Option<&str>) -> Reply {
    match () {
        () if request.is("PUT", "") => Reply::Answer("HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-amz-version-id: v1", ""),
        () if request.is("DELETE", "versionId=") => Reply::Answer("HTTP/1.1 403 Forbidden", DENIED),
        () if request.is("POST", "?delete") && request.body.contains("VersionId") => Reply::Answer(
            "HTTP/1.1 200 OK",
            Box::leak(format!("<DeleteResult>{}</DeleteResult>", refusals(request)).into_boxed_str()),
        ),
        () if request.is("HEAD", "") => match mark {
            None => Reply::Answer("HTTP/1.1 404 Not Found", ""),
            Some(mark) => {
                let head = format!("HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-amz-version-id: v1\r\nx-amz-meta-s3-export-id: {mark}");
                Reply::Answer(Box::leak(head.into_boxed_str()), "")
            }
        },
        () => Reply::Usual,
    }
}

const DENIED: &str = "<Error><Code>AccessDenied</Code></Error>";

/// An error for each key of a DeleteObjects.
fn refusals(request: &Request) -> String {
    let error = |key: &String| format!("<Error><Key>{key}</Key><Code>AccessDenied</Code></Error>");
    keys(request).iter().map(error).collect()
}

fn keys(request: &Request) -> BTreeSet<String> {
    let keys = request.body.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
    keys.map(|(key, _)| key.to_owned()).collect()
}

/// The keys that markers were put over, and how many requests that took.
fn hidden(server: &Server) -> (BTreeSet<String>, usize) {
    let is_marker = |request: &Request| {
        request.is("POST", "?delete") && !request.body.contains("VersionId")
            || request.is("DELETE", "") && !request.is("DELETE", "versionId=")
    };
    let requests: Vec<Request> = server.requests().into_iter().filter(is_marker).collect();
    let single = |request: &Request| {
        let path = request.head.split([' ', '?']).nth(1)?;
        path.strip_prefix("/bucket/").filter(|key| !key.is_empty()).map(str::to_owned)
    };
    let all = requests.iter().flat_map(|request| keys(request).into_iter().chain(single(request))).collect();
    (all, requests.len())
}

fn by_version(server: &Server) -> usize {
    let names_version = |request: &Request| request.is("DELETE", "versionId=") || request.body.contains("VersionId");
    server.requests().into_iter().filter(names_version).count()
}

#[test]
fn versions_that_may_not_be_deleted_are_hidden_without_a_word() {
    let server = Server::start(|request| locked(request, None));
    let export = Export::begin(server.connection(), terms(4, POLICY));
    export.files(50, &Bytes::from_static(b"{}\n")).unwrap();
    export.commit().unwrap();
    let report = export.roll_back(LIMIT);
    assert!(report.is_empty(), "{report:?}");
    let (keys, requests) = hidden(&server);
    assert_eq!(keys.len(), 51, "{keys:?}");
    // The manifest, then all files together.
    assert_eq!(requests, 2);
    assert_eq!(by_version(&server), 1, "the manifest has shown that versions stay");
}

/// The bucket has a default retention, and the export is taken back before its commit.
#[test]
fn the_first_file_shows_that_versions_stay() {
    let server = Server::start(|request| locked(request, None));
    let export = Export::begin(server.connection(), terms(4, POLICY));
    export.files(50, &Bytes::from_static(b"{}\n")).unwrap();
    let report = export.roll_back(LIMIT);
    assert!(report.is_empty(), "{report:?}");
    let (keys, requests) = hidden(&server);
    assert_eq!((keys.len(), requests, by_version(&server)), (50, 2, 2));
}

#[test]
fn a_locked_version_is_not_even_asked_for() {
    let server = Server::start(|request| locked(request, None));
    let mut connection = server.connection();
    connection.object.lock = Some(ObjectLock { mode: "COMPLIANCE".to_owned(), retain_until: 4_000_000_000 });
    let export = Export::begin(connection, terms(4, POLICY));
    export.files(3, &Bytes::from_static(b"{}\n")).unwrap();
    export.commit().unwrap();
    assert!(export.roll_back(LIMIT).is_empty());
    let (keys, _) = hidden(&server);
    assert_eq!((keys.len(), by_version(&server)), (4, 0));
}

#[test]
fn an_object_that_can_neither_be_deleted_nor_hidden_is_named() {
    let server = Server::start(|request| match () {
        () if request.is("DELETE", "") || request.is("POST", "?delete") => Reply::Answer("HTTP/1.1 403 Forbidden", DENIED),
        () => locked(request, None),
    });
    let export = Export::begin(server.connection(), terms(4, POLICY));
    export.files(5, &Bytes::from_static(b"{}\n")).unwrap();
    let report = export.roll_back(LIMIT);
    assert_eq!((report.count, report.named.len()), (5, 3), "{report:?}");
    assert!(report.cause.is_some_and(|cause| cause.summary().contains("AccessDenied")));
}

/// Under a name of the user's making, another object may have come over the version. A marker would hide that object.
#[test]
fn attack_an_object_of_somebody_else_is_never_hidden() {
    for is_locked in [false, true] {
        for (mark, may_hide) in [("ours", true), ("theirs", false)] {
            let destination = destination_of(Some("all.json"));
            let (ours, theirs) = (destination.export_id().to_string(), Uuid::now_v7().to_string());
            let shown = if mark == "ours" { ours } else { theirs };
            let is_written = std::sync::atomic::AtomicBool::new(false);
            let server = Server::start(move |request| {
                is_written.fetch_or(request.is("PUT", ""), std::sync::atomic::Ordering::Relaxed);
                let is_there = is_written.load(std::sync::atomic::Ordering::Relaxed);
                locked(request, is_there.then_some(shown.as_str()))
            });
            let mut connection = server.connection();
            if is_locked {
                connection.object.lock = Some(ObjectLock { mode: "GOVERNANCE".to_owned(), retain_until: 4_000_000_000 });
            }
            let export = Export::begin(connection, Terms { destination, ..Terms::new(RetryPolicies::all(POLICY)) });
            export.files(1, &Bytes::from_static(b"{}\n")).unwrap();
            let report = export.roll_back(LIMIT);
            assert!(report.is_empty(), "{report:?}");
            let (keys, _) = hidden(&server);
            assert_eq!(keys.len(), usize::from(may_hide), "{mark} {is_locked}: {keys:?}");
        }
    }
}
