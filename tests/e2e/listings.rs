//! Listings that are not whole are believed by nobody: a folder is not taken for empty, and nothing is deleted.

use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::{ContextV7, Timestamp, Uuid};

use super::fixture::{Action, Database, Gateway, Integration, Request, Session, messages, refused};

const EXISTING: &str = r#"options => '{"existing": "error"}'"#;

/// A page of a listing, written by hand.
fn page(keys: &[String], rest: &str) -> Action {
    let contents: String = keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
    let body = format!("<?xml version=\"1.0\"?><ListBucketResult>{contents}{rest}</ListBucketResult>");
    Action::Answer("HTTP/1.1 200 OK\r\ncontent-type: application/xml".into(), body)
}

fn lists(request: &Request) -> bool {
    request.head.starts_with("GET") && request.head.contains("list-type=2")
}

fn continues(request: &Request) -> bool {
    request.head.contains("continuation-token=")
}

/// The server's listing without manifests, and whole all the same.
fn without_manifests(body: String) -> String {
    let mut parts = body.split("<Contents>");
    let mut kept = parts.next().unwrap().to_owned();
    for part in parts {
        let (object, rest) = part.split_once("</Contents>").unwrap();
        if !object.contains(".manifest") {
            kept.push_str(&format!("<Contents>{object}</Contents>"));
        }
        kept.push_str(rest);
    }
    match (kept.find("<KeyCount>"), kept.find("</KeyCount>")) {
        (Some(start), Some(end)) => {
            let count = kept.matches("<Contents>").count();
            kept.replace_range(start + "<KeyCount>".len()..end, &count.to_string());
            kept
        }
        _ => kept,
    }
}

/// Makes an integration for a gateway in front of the server.
fn gateway(db: &Database, name: &str, decide: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Gateway {
    let gateway = Gateway::to(&Integration::local().endpoint, decide);
    db.create(&Integration { name, endpoint: gateway.endpoint(), ..Integration::local() });
    gateway
}

/// Returns the answer of `cleanup` for all that is below the prefix, by that integration: `object deleted` a row.
fn cleanup(db: &Database, client: &mut Session, name: &str, prefix: &str) -> Result<Vec<String>, postgres::Error> {
    let uri = db.bucket.uri(prefix);
    let call = format!(
        "SELECT object, deleted FROM s3_export.cleanup('{uri}', '{name}', older_than => '0', force => true, dry_run => false)"
    );
    let rows = client.query(&call, &[])?;
    Ok(rows.iter().map(|row| format!("{} {}", row.get::<_, &str>(0), row.get::<_, bool>(1))).collect())
}

fn old_id() -> Uuid {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Uuid::new_v7(Timestamp::from_unix(ContextV7::new(), now.as_secs() - 10 * 24 * 60 * 60, 0))
}

#[test]
fn a_folder_is_taken_for_empty_only_by_a_whole_listing() {
    let db = Database::new("listing_existing");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.request_attempts = 2").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    let key = format!("{prefix}/x");
    let first_is_empty = move |request: &Request| match (lists(request), continues(request)) {
        (false, _) => Action::Forward,
        (true, false) => page(&[], "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
        (true, true) => page(std::slice::from_ref(&key), "<KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>"),
    };
    let _first_is_empty = gateway(&db, "first_is_empty", first_is_empty);
    let listing = |answer: fn() -> Action| move |request: &Request| if lists(request) { answer() } else { Action::Forward };
    let _cut = gateway(&db, "cut", |request: &Request| {
        let cut = |body: String| body[..body.find("<Contents>").unwrap_or(body.len() - 20)].to_owned();
        if lists(request) { Action::Change(Box::new(cut)) } else { Action::Forward }
    });
    let _no_token = gateway(&db, "no_token", listing(|| page(&[], "<KeyCount>0</KeyCount><IsTruncated>true</IsTruncated>")));
    let _silent = gateway(&db, "silent", listing(|| page(&[], "<KeyCount>0</KeyCount>")));
    let _lying = gateway(&db, "lying", listing(|| page(&[], "<KeyCount>7</KeyCount><IsTruncated>false</IsTruncated>")));
    let of_version_1 = || page(&[], "<Marker/><NextMarker>k</NextMarker><IsTruncated>true</IsTruncated>");
    let _old = gateway(&db, "old", listing(of_version_1));

    let mut export = |name: &str, prefix: &str| {
        let call = db.call(prefix, "SELECT 1 AS a", EXISTING).replace("'local'", &format!("'{name}'"));
        db.exported(&mut client, &call, prefix)
    };
    refused(export("first_is_empty", &prefix)).sqlstate("42710").message("already holds objects");
    for (name, why) in [
        ("cut", "is cut off"),
        ("no_token", "NextContinuationToken"),
        ("silent", "IsTruncated"),
        ("lying", "holds 7 objects, and holds 0"),
        ("old", "ListObjectsV2"),
    ] {
        refused(export(name, &prefix)).sqlstate("58030").message("listing is not whole").detail(why);
    }
    // A console's marker of the folder is no object in it; a file of that name would be.
    let marked = db.prefix();
    db.bucket.put(&format!("{marked}/"), b"");
    assert_eq!(export("local", &marked).unwrap().files, 1);
}

#[test]
fn cleanup_deletes_nothing_of_an_export_whose_manifest_a_listing_hides() {
    let db = Database::new("listing_cleanup");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("SET s3_export.request_attempts = 2").unwrap();
    db.export_to(&mut client, &prefix, "SELECT generate_series(1, 3) AS a", "output_chunk_size => 1").unwrap();
    let orphan = format!("{prefix}/{}-000001.json", old_id());
    db.bucket.put(&orphan, b"x");
    let all = db.bucket.list(&prefix).len();
    let _cut = gateway(&db, "cut", |request| {
        let cut = |body: String| match body.find("<Contents>") {
            // The first listing would show no manifest, the second every file.
            Some(start) => {
                let whole = without_manifests(body);
                format!("{}{}", &whole[..start], whole[start..].rsplit_once("</Contents>").map_or("", |(kept, _)| kept))
            }
            None => body,
        };
        if lists(request) { Action::Change(Box::new(cut)) } else { Action::Forward }
    });
    refused(cleanup(&db, &mut client, "cut", &prefix)).sqlstate("58030").message("not whole").detail("cut off");
    assert_eq!(db.bucket.list(&prefix).len(), all);
    // A listing that is whole, and lies: a look at the manifest says so.
    let hiding =
        gateway(
            &db,
            "hiding",
            |request| {
                if lists(request) { Action::Change(Box::new(without_manifests)) } else { Action::Forward }
            },
        );
    let deleted = cleanup(&db, &mut client, "hiding", &prefix).unwrap();
    assert_eq!(deleted, [format!("{} true", db.bucket.uri(&orphan))]);
    assert_eq!(db.bucket.list(&prefix).len(), all - 1);
    let looks = hiding.requests().iter().filter(|request| request.head.starts_with("HEAD")).count();
    assert_eq!(looks, 2, "one look for each export");
    // Who may not look is told what it takes.
    db.bucket.put(&orphan, b"x");
    let _blind = gateway(&db, "blind", |request| match request.head.starts_with("HEAD") {
        true => Action::Answer("HTTP/1.1 403 Forbidden".into(), String::new()),
        false => Action::Forward,
    });
    refused(cleanup(&db, &mut client, "blind", &prefix)).sqlstate("42501").hint("s3:GetObject");
    // A token that comes again would lead round and round.
    let asked = AtomicUsize::new(0);
    let round = gateway(&db, "round", move |request| {
        let token = ["a", "b"][asked.fetch_add(1, Ordering::Relaxed) % 2];
        let rest = format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>");
        if lists(request) { page(&[], &rest) } else { Action::Forward }
    });
    refused(cleanup(&db, &mut client, "round", &prefix)).sqlstate("58030").detail("was read already");
    assert!(round.requests().len() < 10);
    assert_eq!(db.bucket.list(&prefix).len(), all);
}

#[test]
fn cleanup_of_a_store_that_lists_no_uploads_and_cuts_off_what_it_failed_to_delete() {
    let db = Database::new("listing_uploads");
    let (mut client, prefix) = (db.client(), db.prefix());
    let keys: Vec<String> = (1..4).map(|number| format!("{prefix}/{}-{number:06}.json", old_id())).collect();
    for key in &keys {
        db.bucket.put(key, b"x");
    }
    let store = gateway(&db, "limited", |request| match request.step() {
        "other" if request.head.contains("?uploads") => {
            let body = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>";
            Action::Answer("HTTP/1.1 501 Not Implemented".into(), body.into())
        }
        // It has deleted nothing, and the list of what it has not is lost on the way.
        "delete" if request.head.contains("?delete") => {
            Action::Answer("HTTP/1.1 200 OK".into(), "<?xml version=\"1.0\"?><DeleteResult>".into())
        }
        _ => Action::Forward,
    });
    let mut deleted = cleanup(&db, &mut client, "limited", &prefix).unwrap();
    deleted.sort();
    let mut expected: Vec<String> = keys.iter().map(|key| format!("{} true", db.bucket.uri(key))).collect();
    expected.sort();
    assert_eq!(deleted, expected);
    assert!(db.bucket.list(&prefix).is_empty());
    assert!(messages(&client.notices()).contains("does not list multipart uploads"));
    assert!(store.requests().iter().filter(|request| request.head.starts_with("DELETE")).count() == 3);
}
