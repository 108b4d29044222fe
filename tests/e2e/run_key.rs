//! Runs with a key (options `run_key`, `existing_run`): a key has one run, whoever asks for it, and whatever fails.

mod existing;
mod kills;
mod refusals;
mod rollback;
mod waits;

use std::collections::BTreeSet;

use serde_json::Value;

use super::fixture::{Action, Bucket, Database, Exported, Gateway, Integration, Request, Session};

/// Three files of one document each; `value` tells one run from another.
fn three(value: i32) -> String {
    format!("SELECT {value} AS v, i FROM generate_series(1, 3) i")
}

/// Arguments of a run with the key `nightly`; `more`: further members of `options`.
fn nightly(more: &str) -> String {
    format!(r#"output_chunk_size => 1, options => '{{"run_key": "nightly"{more}}}'"#)
}

const REPLACE: &str = r#", "existing_run": "replace""#;
const REFUSE: &str = r#", "existing_run": "error""#;

fn export(db: &Database, client: &mut Session, prefix: &str, value: i32, more: &str) -> Result<Exported, postgres::Error> {
    db.export_to(client, prefix, &three(value), &nightly(more))
}

fn manifest_of(prefix: &str) -> String {
    format!("{prefix}/_nightly.manifest")
}

/// The objects below `prefix` are the manifest of the run and the files that it lists, and no others; gives the manifest.
#[track_caller]
fn is_exactly_one_run(bucket: &Bucket, prefix: &str) -> Value {
    let manifest = is_whole(bucket, prefix);
    let mut expected = listed(bucket, &manifest);
    expected.insert(manifest_of(prefix));
    let there: BTreeSet<String> = bucket.list(&format!("{prefix}/")).into_iter().map(|object| object.key).collect();
    assert_eq!(there, expected);
    assert_eq!(bucket.multipart_uploads(prefix), [""; 0]);
    manifest
}

/// There is one manifest, and all files that it lists; gives it.
#[track_caller]
fn is_whole(bucket: &Bucket, prefix: &str) -> Value {
    assert_eq!(bucket.manifests(prefix), [manifest_of(prefix)]);
    let manifest: Value = serde_json::from_slice(&bucket.get(&manifest_of(prefix))).unwrap();
    let there: BTreeSet<String> = bucket.list(prefix).into_iter().map(|object| object.key).collect();
    let missing: Vec<String> = listed(bucket, &manifest).difference(&there).cloned().collect();
    assert!(missing.is_empty(), "listed and gone: {missing:?}");
    manifest
}

fn listed(bucket: &Bucket, manifest: &Value) -> BTreeSet<String> {
    let entries = manifest["entries"].as_array().unwrap();
    entries.iter().map(|entry| bucket.key(entry["url"].as_str().unwrap()).to_owned()).collect()
}

/// Value of the column `v` in the documents that the manifest lists.
fn value_of(bucket: &Bucket, manifest: &Value) -> i64 {
    let file = listed(bucket, manifest).into_iter().next().unwrap();
    serde_json::from_str::<Value>(&super::fixture::lines(&bucket.get(&file))[0]).unwrap()["v"].as_i64().unwrap()
}

/// An integration of that name, to the store behind a gateway.
fn gateway(db: &Database, name: &str, decide: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Gateway {
    let gateway = Gateway::to(&Integration::local().endpoint, decide);
    db.create(&Integration { name, endpoint: gateway.endpoint(), ..Integration::local() });
    gateway
}

fn by(call: &str, integration: &str) -> String {
    call.replace("'local'", &format!("'{integration}'"))
}

/// Deletes what `cleanup` finds, at once; gives the keys.
fn cleanup(db: &Database, client: &mut Session, prefix: &str) -> BTreeSet<String> {
    let call = format!(
        "SELECT object FROM s3_export.cleanup('{}', 'local', older_than => '0', force => true, dry_run => false)",
        db.bucket.uri(prefix)
    );
    client.query(&call, &[]).unwrap().iter().map(|row| db.bucket.key(row.get(0)).to_owned()).collect()
}
