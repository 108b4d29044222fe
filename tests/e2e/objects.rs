//! Tags, metadata, Object Lock and the like: objects of each kind carry them, and an aborted export in a locked bucket is absent all the
//! same.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::fixture::{
    Action, Bucket, Carried, Database, Gateway, Integration, Request, Session, StandIn, literal, messages, refused,
};
use super::roles::{RoleIntegration, export};

const DAY: i64 = 24 * 60 * 60;
const THREE_FILES: &str = "SELECT i FROM generate_series(1, 3) AS i";
/// A file in parts.
const LARGE: &str = "SELECT repeat('x', 1000) AS a FROM generate_series(1, 17000)";

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Sets columns of the integration `local`.
fn set(client: &mut Session, columns: &str) {
    client.batch_execute(&format!("UPDATE s3_export.integrations SET {columns} WHERE name = 'local'")).unwrap();
}

/// Each object below `prefix`, by the rest of its key, without the mark of the export.
fn carried(bucket: &Bucket, prefix: &str) -> BTreeMap<String, Carried> {
    let object = |key: String| {
        let mut carried = bucket.carried(&key);
        carried.metadata.remove("s3-export-id");
        (key[prefix.len() + 1..].to_owned(), carried)
    };
    bucket.list(prefix).into_iter().map(|listed| object(listed.key)).collect()
}

#[test]
fn tags_and_metadata_are_on_every_object_and_the_disposition_on_the_file() {
    let db = Database::new("objects_tags");
    let mut client = db.client();
    set(&mut client, r#"tags = '{"data class": "confidential/2", "owner": "bänk"}'"#);
    let options = r#"options => '{"tags": {"run": "2026-11-30", "owner": "bänk"}, "metadata": {"job-id": "17; x=\"y\""},
        "single_file": "all.csv", "manifest_name": "all.manifest", "success_marker": "_SUCCESS",
        "content_disposition": "attachment; filename=\"orders.csv\""}', format => 'csv'"#;
    let exported = db.export_in(&mut client, THREE_FILES, options).unwrap();
    let objects = carried(&db.bucket, &exported.prefix);
    assert_eq!(objects.len(), 4, "{objects:?}");
    for (name, object) in &objects {
        assert_eq!(object.tags, ["data class=confidential/2", "owner=bänk", "run=2026-11-30"], "{name}");
        assert_eq!(object.metadata, BTreeMap::from([("job-id".to_owned(), "17; x=\"y\"".to_owned())]), "{name}");
        let disposition = (name == "all.csv").then(|| "attachment; filename=\"orders.csv\"".to_owned());
        assert_eq!(object.disposition, disposition, "{name}");
    }
    // The first file by the SDK, the second from a template, and one in parts.
    for (query, files, documents) in [(THREE_FILES, 3, 1), (LARGE, 1, 17000)] {
        let arguments = format!(r#"output_chunk_size => {documents}, options => '{{"tags": {{"run": "1"}}}}'"#);
        let exported = db.export_in(&mut client, query, &arguments).unwrap();
        assert_eq!(exported.files, files);
        let objects = carried(&db.bucket, &exported.prefix);
        assert!(objects.values().all(|object| object.tags.len() == 3 && object.tags[2] == "run=1"), "{objects:?}");
    }
    // A job has its options from a row.
    let prefix = db.prefix();
    let job =
        client.text(&format!("SELECT {}", db.call_async(&prefix, THREE_FILES, r#"options => '{"metadata": {"a": "b"}}'"#)));
    client.batch_execute(&format!("SELECT * FROM s3_export.wait({}, '1 min')", literal(&job))).unwrap();
    let objects = carried(&db.bucket, &prefix);
    assert!(objects.len() == 2 && objects.values().all(|object| object.metadata["a"] == "b"), "{objects:?}");
}

#[test]
fn what_s3_would_refuse_is_refused_before_anything_runs() {
    let db = Database::new("objects_refused");
    let mut client = db.client();
    set(&mut client, r#"tags = '{"class": "confidential"}'"#);
    client.batch_execute("CREATE SEQUENCE ran").unwrap();
    for (options, part) in [
        (r#"{"tags": {"class": "public"}}"#, "the integration has another value for tag \"class\""),
        (r#"{"tags": {"1":"","2":"","3":"","4":"","5":"","6":"","7":"","8":"","9":"","10":""}}"#, "do not go together"),
        (r#"{"tags": {"a": "b&c=d"}}"#, "option \"tags\""),
        (r#"{"tags": {"aws:a": ""}}"#, "option \"tags\""),
        (r#"{"tags": [1]}"#, "option \"tags\""),
        (r#"{"metadata": {"s3-export-id": "x"}}"#, "option \"metadata\""),
        (r#"{"metadata": {"a": "x\r\nx-amz-acl: public-read"}}"#, "option \"metadata\""),
        (r#"{"metadata": {"größe": "x"}}"#, "option \"metadata\""),
        (r#"{"content_disposition": "inline"}"#, "single_file"),
        (r#"{"content_disposition": "a\nb", "single_file": true}"#, "option \"content_disposition\""),
    ] {
        db.refuse("SELECT nextval('ran')", &format!("options => '{options}'")).sqlstate("22023").message(part);
    }
    assert_eq!(client.text("SELECT is_called FROM ran"), "f");
    // The tag with the same value is no conflict.
    db.export_in(&mut client, THREE_FILES, r#"options => '{"tags": {"class": "confidential"}}'"#).unwrap();
}

#[test]
fn columns_that_make_no_sense_are_refused_by_the_table_and_by_create_integration() {
    let db = Database::new("objects_columns");
    let mut client = db.client();
    for change in [
        "tags = '[]'",
        "tags = 'null'",
        r#"tags = '{"a": 1}'"#,
        "object_lock_mode = 'governance', object_lock_days = 1",
        "object_lock_mode = 'GOVERNANCE'",
        "object_lock_days = 1",
        "object_lock_mode = 'GOVERNANCE', object_lock_days = 0",
        "object_lock_mode = 'GOVERNANCE', object_lock_days = 36501",
        "object_lock_mode = 'GOVERNANCE', object_lock_days = 1, checksum = 'none'",
        r#"kms_encryption_context = '{"a": "b"}'"#,
        r#"sse = 'AES256', kms_encryption_context = '{"a": "b"}'"#,
        r#"sse = 'aws:kms', kms_encryption_context = '{"a": {}}'"#,
        "bucket_key = true",
        "sse = 'aws:kms:dsse', bucket_key = true",
    ] {
        refused(client.batch_execute(&format!("UPDATE s3_export.integrations SET {change}"))).sqlstate("23514");
    }
    refused(client.batch_execute("UPDATE s3_export.integrations SET requester_pays = NULL")).sqlstate("23502");
    // The table does not know what S3 takes: each use does.
    set(&mut client, r#"tags = '{"a&b": ""}'"#);
    refused(db.export_in(&mut client, THREE_FILES, ""))
        .sqlstate("22023")
        .message("invalid tags")
        .detail("integration \"local\"");
    let create = |options: &str| {
        format!(
            "SELECT s3_export.create_integration('new', access_key_id => 'K', secret_access_key => 'S', allowed_locations => '{{s3://bucket}}',
                 options => {})",
            literal(options)
        )
    };
    for (options, part) in [
        (r#"{"tags": {"a": 1}}"#, "tags"),
        (r#"{"tags": {"a&b": ""}}"#, "tags"),
        (r#"{"object_lock_mode": "GOVERNANCE"}"#, "object_lock_days"),
        (r#"{"object_lock_mode": "GOVERNANCE", "object_lock_days": 1, "checksum": "none"}"#, "checksum"),
        (r#"{"kms_encryption_context": {"a": "b"}}"#, "kms_encryption_context"),
        (r#"{"bucket_key": true}"#, "bucket_key"),
        (r#"{"requester_pays": "yes"}"#, "requester_pays"),
    ] {
        refused(client.batch_execute(&create(options))).sqlstate("22023").message(part);
    }
    client
        .batch_execute(&create(
            r#"{"tags": {"b": "1", "a": "2"}, "object_lock_mode": "COMPLIANCE", "object_lock_days": 2555, "sse": "aws:kms",
                "kms_encryption_context": {"app": "x"}, "bucket_key": false, "requester_pays": true}"#,
        ))
        .unwrap();
    let columns = "SELECT (tags, object_lock_mode, object_lock_days, kms_encryption_context, bucket_key, requester_pays)::text
                   FROM s3_export.integrations WHERE name = 'new'";
    assert_eq!(client.text(columns), r#"("{""a"": ""2"", ""b"": ""1""}",COMPLIANCE,2555,"{""app"": ""x""}",f,t)"#);
}

/// A bucket with Object Lock, and the integration `local` that may write to it.
fn locked(db: &Database, client: &mut Session, name: &str, default_retention: bool, columns: &str) -> Bucket {
    let bucket = Bucket::locked(db.environment(), name, default_retention);
    set(client, &format!("allowed_locations = '{{s3://{name}}}'{columns}"));
    client.batch_execute("SET s3_export.cleanup_timeout = '60s'").unwrap();
    bucket
}

const LOCK: &str = ", object_lock_mode = 'GOVERNANCE', object_lock_days = 2";

#[test]
fn object_lock_keeps_every_object_from_the_beginning_of_the_export() {
    let db = Database::new("objects_lock");
    let mut client = db.client();
    let bucket = locked(&db, &mut client, "locked", false, LOCK);
    for (query, more) in [(THREE_FILES, "output_chunk_size => 1"), (LARGE, "output_chunk_size => 17000")] {
        let (prefix, begun) = (db.prefix(), now());
        let call = db.call(&prefix, query, more).replace("s3://exports/", "s3://locked/");
        db.exported(&mut client, &call, &prefix).unwrap();
        let objects = carried(&bucket, &prefix);
        assert!(objects.len() >= 2, "{objects:?}");
        for (name, object) in objects {
            let (mode, until) = object.lock.unwrap();
            assert_eq!(mode, "GOVERNANCE", "{name}");
            assert!((begun + 2 * DAY..=now() + 2 * DAY).contains(&until), "{name}: {until}, begun at {begun}");
        }
        bucket.empty(&prefix);
    }
}

/// Versions stay, and no reader sees them. The retention is the integration's, or the bucket's own.
#[test]
fn a_rollback_in_a_locked_bucket_leaves_nothing_to_be_seen() {
    for (name, default_retention, columns) in [("locked", false, LOCK), ("retains", true, "")] {
        let db = Database::new("objects_rollback");
        let mut client = db.client();
        let bucket = locked(&db, &mut client, name, default_retention, columns);
        for (query, more) in [(THREE_FILES, "output_chunk_size => 1"), (LARGE, "output_chunk_size => 17000")] {
            let prefix = db.prefix();
            let call = db.call(&prefix, query, more).replace("exports/", &format!("{name}/"));
            client.batch_execute(&format!("BEGIN; SELECT {call}; ROLLBACK")).unwrap();
            assert_eq!(messages(&client.notices()), "");
            bucket.nothing_left(&prefix);
            let versions = bucket.versions(&prefix);
            assert!(versions.iter().any(|version| version.ends_with("(marker)")), "{versions:?}");
            assert!(versions.iter().any(|version| !version.ends_with("(marker)")), "{versions:?}");
        }
        // A commit that fails has written manifests already.
        let (prefix, fails) = (db.prefix(), db.prefix());
        let here = |prefix: &str, more: &str| db.call(prefix, THREE_FILES, more).replace("exports/", &format!("{name}/"));
        let named = r#"options => '{"single_file": "all.json", "run_key": "nightly", "success_marker": "_SUCCESS"}'"#;
        let call = here(&prefix, named);
        let failing = here(&fails, r#"options => '{"manifest_name": "taken.json"}'"#);
        client.batch_execute(&format!("BEGIN; SELECT {call}; SELECT {failing}")).unwrap();
        bucket.put(&format!("{fails}/taken.json"), b"somebody else's");
        refused(client.batch_execute("COMMIT")).sqlstate("42710");
        client.settle();
        assert_eq!(messages(&client.notices()), "");
        bucket.nothing_left(&prefix);
        let left: Vec<String> = bucket.list(&fails).into_iter().map(|object| object.key).collect();
        assert_eq!(left, [format!("{fails}/taken.json")]);
        bucket.empty(&fails);
    }
}

#[test]
fn a_run_is_replaced_in_a_locked_bucket_and_put_back_with_its_metadata() {
    let db = Database::new("objects_replace");
    let mut client = db.client();
    let bucket = locked(&db, &mut client, "locked", false, &format!(r#"{LOCK}, tags = '{{"class": "2"}}'"#));
    let prefix = db.prefix();
    let call = |value: u32| {
        let options = format!(
            r#"output_chunk_size => 1, options => '{{"run_key": "nightly", "existing_run": "replace", "metadata": {{"run": "{value}"}},
               "tags": {{"run": "{value}"}}}}'"#
        );
        db.call(&prefix, &format!("SELECT {value} AS a FROM generate_series(1, 3)"), &options).replace("exports/", "locked/")
    };
    let manifest = format!("{prefix}/_nightly.manifest");
    let is_run = |value: u32, tags: &[&str]| {
        assert_eq!(bucket.list(&prefix).len(), 4);
        assert!(bucket.values(&prefix).iter().all(|document| document["a"] == value), "{:?}", bucket.values(&prefix));
        let carried = bucket.carried(&manifest);
        assert_eq!(
            (carried.metadata["run"].as_str(), carried.tags),
            (value.to_string().as_str(), tags.iter().map(|tag| (*tag).to_owned()).collect())
        );
    };
    client.batch_execute(&format!("SELECT {}", call(1))).unwrap();
    is_run(1, &["class=2", "run=1"]);
    client.batch_execute(&format!("SELECT {}", call(2))).unwrap();
    is_run(2, &["class=2", "run=2"]);
    let fails = db.prefix();
    let failing =
        db.call(&fails, THREE_FILES, r#"options => '{"manifest_name": "taken.json"}'"#).replace("exports/", "locked/");
    client.batch_execute(&format!("BEGIN; SELECT {}; SELECT {failing}", call(3))).unwrap();
    bucket.put(&format!("{fails}/taken.json"), b"somebody else's");
    refused(client.batch_execute("COMMIT")).sqlstate("42710");
    client.settle();
    assert_eq!(messages(&client.notices()), "");
    // Nobody may read the tags of a manifest by the rights of an export: those of the integration are what is known.
    is_run(2, &["class=2"]);
    bucket.empty(&prefix);
    bucket.empty(&fails);
}

#[test]
fn cleanup_hides_orphans_in_a_locked_bucket() {
    let db = Database::new("objects_cleanup");
    let mut client = db.client();
    let bucket = locked(&db, &mut client, "retains", true, "");
    let prefix = db.prefix();
    // Of the year 2023.
    let key = format!("{prefix}/018bcfe5-6800-7000-8000-000000000000-000001.json");
    bucket.put(&key, b"{}\n");
    let cleanup = format!("SELECT deleted::text FROM s3_export.cleanup('s3://retains/{prefix}', 'local', dry_run => false)");
    assert_eq!(client.text(&cleanup), "true");
    assert_eq!(bucket.versions(&prefix), [key.clone(), format!("{key} (marker)")]);
    bucket.nothing_left(&prefix);
}

#[test]
fn validate_integration_says_that_versions_stay() {
    let db = Database::new("objects_validate");
    let mut client = db.client();
    for (name, default_retention, columns) in [("locked", false, LOCK), ("retains", true, "")] {
        let bucket = locked(&db, &mut client, name, default_retention, columns);
        let prefix = db.prefix();
        let steps = format!("s3_export.validate_integration('local', 's3://{name}/{prefix}')");
        assert_eq!(client.text(&format!("SELECT bool_and(ok) FROM {steps}")), "t");
        let detail = client.text(&format!("SELECT detail FROM {steps} WHERE step = 'delete'"));
        assert!(detail.contains("a delete marker hides them"), "{detail}");
        bucket.nothing_left(&prefix);
    }
    // A bucket without Object Lock takes no retention.
    set(&mut client, &format!("allowed_locations = '{{s3://exports}}'{LOCK}"));
    let row = client
        .text("SELECT (ok, detail)::text FROM s3_export.validate_integration('local', 's3://exports') WHERE step = 'put'");
    assert!(row.starts_with("(f,"), "{row}");
    db.refuse(THREE_FILES, "").hint("object_lock_mode in a bucket without Object Lock");
}

#[test]
fn a_requester_pays_for_each_request_of_an_export_and_of_its_rollback() {
    let db = Database::new("objects_pays");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    let mut client = db.client();
    set(&mut client, &format!("endpoint = '{}', requester_pays = true", gateway.endpoint()));
    let Integration { access_key_id, secret_access_key, .. } = Integration::local();
    let keys =
        format!("SELECT s3_export.set_credentials('local', {}, {})", literal(&access_key_id), literal(&secret_access_key));
    client.batch_execute(&keys).unwrap();
    db.export_in(&mut client, THREE_FILES, r#"output_chunk_size => 1, options => '{"run_key": "a", "existing": "error"}'"#)
        .unwrap();
    let (prefix, large) = (db.prefix(), "output_chunk_size => 17000");
    client.batch_execute(&format!("BEGIN; SELECT {}; ROLLBACK", db.call(&prefix, LARGE, large))).unwrap();
    client.batch_execute(&format!("SELECT * FROM s3_export.cleanup('{}', 'local')", db.bucket.uri(&prefix))).unwrap();
    client
        .batch_execute(&format!("SELECT * FROM s3_export.validate_integration('local', '{}')", db.bucket.uri(&prefix)))
        .unwrap();
    let requests = gateway.requests();
    assert!(requests.len() > 20);
    assert!(requests.iter().all(|request| request.header("x-amz-request-payer") == Some("requester")));
}

#[test]
fn a_session_may_tag_only_where_there_are_tags() {
    let db = Database::new("objects_session");
    let stand_in = StandIn::ministack();
    let gateway = Gateway::to(&stand_in.endpoint, |_| Action::Forward);
    RoleIntegration { sts_endpoint: Some(gateway.endpoint()), ..RoleIntegration::of(stand_in) }.create(&db);
    let policies = |requests: &[Request]| -> Vec<Value> {
        requests.iter().filter_map(|request| serde_json::from_str(&request.field("Policy")?).ok()).collect()
    };
    let mut granted = Vec::new();
    let tagged = db.call(&db.prefix(), THREE_FILES, r#"options => '{"tags": {"a": "b"}}'"#).replace("'local'", "'role'");
    let lock = "object_lock_mode = 'GOVERNANCE', object_lock_days = 1";
    for step in ["plain", "option", "tags", "lock"] {
        let before = gateway.requests().len();
        // A session is the backend's.
        let mut client = db.client();
        let columns = match step {
            "tags" => Some(r#"tags = '{"c": "d"}'"#),
            "lock" => Some(lock),
            _ => None,
        };
        if let Some(columns) = columns {
            client.batch_execute(&format!("UPDATE s3_export.integrations SET {columns} WHERE name = 'role'")).unwrap();
        }
        match step {
            "option" => client.batch_execute(&format!("SELECT {tagged}")).unwrap(),
            // The bucket has no Object Lock: the session is what counts here.
            "lock" => drop(export(&db, &mut client, THREE_FILES)),
            _ => drop(export(&db, &mut client, THREE_FILES).unwrap()),
        }
        let policies = policies(&gateway.requests()[before..]);
        assert_eq!(policies.len(), 1, "{step}");
        let may = |action: &str| policies[0].to_string().contains(action);
        granted.push((step, may("s3:PutObjectTagging"), may("s3:PutObjectRetention")));
    }
    assert_eq!(granted, [("plain", false, false), ("option", true, false), ("tags", true, false), ("lock", true, true)]);
    let mut client = db.client();
    let policy = |client: &mut Session| client.text("SELECT s3_export.iam_policy('role')");
    assert!(policy(&mut client).contains("s3:PutObjectTagging") && policy(&mut client).contains("s3:PutObjectRetention"));
    client
        .batch_execute("UPDATE s3_export.integrations SET tags = NULL, object_lock_mode = NULL, object_lock_days = NULL")
        .unwrap();
    assert!(!policy(&mut client).contains("Tagging") && !policy(&mut client).contains("Retention"));
}
