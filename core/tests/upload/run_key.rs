//! A run that replaces another: whatever fails, the manifest of the run lists only files that are there, and no file is deleted that a
//! manifest lists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use s3_export_core::error::{Code, Result};
use s3_export_core::maintenance::orphans;
use s3_export_core::manifest::stored::{Summary, files};
use s3_export_core::naming::keys::{Destination, Naming, started};
use s3_export_core::naming::uri::Location;
use s3_export_core::s3::RetryPolicies;
use s3_export_core::s3::get::Stored;
use s3_export_core::s3::retry::RetryPolicy;
use s3_export_core::upload;
use s3_export_core::upload::replaced::Replaced;
use uuid::Uuid;

use super::export::{Export, POLICY, Terms, bucket, connection, destination_of_run, terms, wait};
use super::faults::{Fault, GENEROUS, TO_MEET_THE_STEP, cross};
use super::scripted::{Reply, Server};
use super::store::{Action, Conditions, Content, MemoryStore, Step};

const MANIFEST: &str = "x/_nightly.manifest";

/// A store where the fault happens to the first `times` requests of the step from the moment on when it is armed.
fn armed(conditions: Conditions, step: Step, fault: Action, times: u32) -> (MemoryStore, Arc<AtomicBool>) {
    let (met, is_armed) = (AtomicU32::new(0), Arc::new(AtomicBool::new(false)));
    let asked_for = Arc::clone(&is_armed);
    let store = MemoryStore::with(conditions, move |asked| {
        let happens = asked == step && asked_for.load(Ordering::SeqCst) && met.fetch_add(1, Ordering::SeqCst) < times;
        if happens { fault } else { Action::Do }
    });
    (store, is_armed)
}

/// An export that has committed under the key; gives the objects.
fn earlier_run(store: &MemoryStore) -> BTreeMap<String, Vec<u8>> {
    let destination = destination_of_run("nightly");
    let export = Export::begin(connection(store.endpoint()), Terms { destination, ..terms(4, POLICY) });
    export.write_files(1).unwrap();
    export.commit().unwrap();
    store.content().objects.clone()
}

/// An export that is to replace what has the key.
fn replacing(store: &MemoryStore, policy: RetryPolicies) -> Export {
    let (io, bucket) = bucket(connection(store.endpoint()), POLICY);
    let stored = wait(&io, &io.spawn(async move { bucket.get(MANIFEST, 1 << 20).await })).unwrap().unwrap();
    replacing_stored(store, policy, &stored)
}

fn replacing_stored(store: &MemoryStore, policy: RetryPolicies, stored: &Stored) -> Export {
    let url = format!("s3://bucket/{MANIFEST}");
    let replaced = Replaced::new(&url, stored, &Summary::parse(&url, &stored.body).unwrap()).unwrap();
    let destination = destination_of_run("nightly").replacing(replaced.etag(), replaced.export_id());
    let export = Export::begin(connection(store.endpoint()), Terms { destination, ..Terms::new(policy) });
    export.upload.replace(replaced);
    export.write_files(1).unwrap();
    export
}

/// Every file that the manifest of the run lists is there; gives the id of its export.
#[track_caller]
fn is_whole(content: &Content, what: &str) -> Uuid {
    let body = content.objects.get(MANIFEST).unwrap_or_else(|| panic!("{what}: the run has no manifest"));
    for url in files(MANIFEST, body).unwrap().into_iter().map(|file| file.url) {
        let key = url.strip_prefix("s3://bucket/").unwrap();
        assert!(content.objects.contains_key(key), "{what}: {key} is listed and gone");
    }
    let id = Summary::parse(MANIFEST, body).unwrap().export_id;
    assert_eq!(content.marks.get(MANIFEST), Some(&id.to_string()), "{what}: the mark");
    id
}

fn keys(export: &Export) -> Vec<String> {
    export.expected(1).into_iter().map(|(key, _)| key).collect()
}

const CONDITIONS: [Conditions; 3] = [Conditions::Obeyed, Conditions::Refused, Conditions::Ignored];

#[test]
fn a_run_that_replaces_another_leaves_exactly_its_own_objects() {
    for conditions in CONDITIONS {
        for in_parts in [false, true] {
            let store = MemoryStore::with(conditions, |_| Action::Do);
            earlier_run(&store);
            let export = replacing(&store, RetryPolicies::all(POLICY));
            // A manifest of several parts.
            export.commit_with(in_parts.then(|| "x".repeat(9 << 20))).unwrap();
            assert_eq!(store.content().objects.len(), 5, "files of both, and one manifest");
            let report = export.delete_replaced(GENEROUS.total);
            assert!(report.is_empty(), "{report:?}");
            let content = store.content();
            assert_eq!(content.objects.keys().cloned().collect::<Vec<_>>(), keys(&export), "{conditions:?}, {in_parts}");
            assert_eq!(is_whole(&content, "replaced"), export.upload.export_id());
            assert!(content.uploads.is_empty());
        }
    }
}

#[test]
fn a_rollback_after_the_manifest_was_replaced_puts_it_back() {
    for conditions in CONDITIONS {
        for in_parts in [false, true] {
            let store = MemoryStore::with(conditions, |_| Action::Do);
            let before = earlier_run(&store);
            let export = replacing(&store, RetryPolicies::all(POLICY));
            export.commit_with(in_parts.then(|| "x".repeat(9 << 20))).unwrap();
            let report = export.roll_back(GENEROUS.total);
            assert!(report.is_empty(), "{conditions:?}: {report:?}");
            assert_eq!(store.content().objects, before, "{conditions:?}, {in_parts}");
            is_whole(&store.content(), "put back");
            // Before its commit, a rollback does not touch the manifest.
            let export = replacing(&store, RetryPolicies::all(POLICY));
            assert!(export.roll_back(GENEROUS.total).is_empty());
            assert_eq!(store.content().objects, before);
        }
    }
}

/// A rollback at a store with a fault: the run is the earlier one again, or all of both exports is there and somebody is told.
fn rolls_back_or_keeps_all(step: Step, fault: Fault, times: u32) {
    let what = format!("{step:?}, {fault:?}, {times} times");
    let (store, is_armed) = armed(Conditions::Obeyed, step, fault.action(), times);
    let before = earlier_run(&store);
    let export = replacing(&store, RetryPolicies { clean_up: fault.policy(times), ..RetryPolicies::all(GENEROUS) });
    export.commit().unwrap();
    is_armed.store(true, Ordering::SeqCst);
    let limit = if fault.is_survived(times) { GENEROUS.total } else { TO_MEET_THE_STEP };
    let report = export.roll_back(limit);
    let content = store.content();
    let id = is_whole(&content, &what);
    assert!(before.keys().all(|key| content.objects.contains_key(key)), "{what}: a file of the earlier run is gone");
    if fault.is_survived(times) {
        assert!(report.is_empty() && content.objects == before, "{what}: {report:?} {:?}", content.objects.keys());
        return;
    }
    assert!(content.objects == before || !report.is_empty(), "{what}: {:?}", content.objects.keys());
    if id == export.upload.export_id() {
        assert!(report.may_stand && report.named.iter().any(|url| url.ends_with(MANIFEST)), "{what}: {report:?}");
    }
}

#[test]
fn faults_of_putting_a_manifest_back() {
    cross(Step::Manifest, rolls_back_or_keeps_all);
}

#[test]
fn faults_of_the_look_before_a_manifest_is_put_back() {
    cross(Step::Head, rolls_back_or_keeps_all);
}

#[test]
fn faults_of_the_deletions_after_a_manifest_was_put_back() {
    cross(Step::Delete, rolls_back_or_keeps_all);
}

/// The request that replaces the manifest meets a fault; then the commit fails, or has succeeded.
#[test]
fn faults_of_the_request_that_replaces_a_manifest() {
    cross(Step::Manifest, |step, fault, times| {
        let what = format!("{step:?}, {fault:?}, {times} times");
        let (store, is_armed) = armed(Conditions::Obeyed, step, fault.action(), times);
        let before = earlier_run(&store);
        let faulty = fault.policy(times);
        let export = replacing(&store, RetryPolicies { manifest: faulty, ..RetryPolicies::all(GENEROUS) });
        is_armed.store(true, Ordering::SeqCst);
        let outcome = export.commit();
        is_armed.store(false, Ordering::SeqCst);
        if fault.is_survived(times) {
            outcome.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert_eq!(is_whole(&store.content(), &what), export.upload.export_id());
            return;
        }
        outcome.expect_err(&what);
        let report = export.roll_back(GENEROUS.total);
        let content = store.content();
        assert_ne!(is_whole(&content, &what), export.upload.export_id(), "{what}: the earlier manifest is back");
        let (mine, theirs): (Vec<_>, Vec<_>) = content.objects.iter().partition(|(key, _)| !before.contains_key(*key));
        assert!(mine.is_empty(), "{what}: {mine:?} {report:?}");
        for (key, body) in theirs {
            // A request that the store has still cannot replace the manifest any more, since the ETag is another one.
            let expected = &before[key];
            assert!(body == expected || *body == [expected.as_slice(), b"\n"].concat(), "{what}: {key}");
        }
    });
}

/// The store carries the request out when the rollback is over.
#[test]
fn a_request_that_comes_late_does_not_replace_the_manifest_after_the_rollback() {
    let (store, is_armed) = armed(Conditions::Obeyed, Step::Manifest, Action::Hang, 1);
    let before = earlier_run(&store);
    let hasty = RetryPolicy { attempts: 1, total: std::time::Duration::from_millis(600) };
    let export = replacing(&store, RetryPolicies { manifest: hasty, ..RetryPolicies::all(GENEROUS) });
    is_armed.store(true, Ordering::SeqCst);
    export.commit().unwrap_err();
    let report = export.roll_back(GENEROUS.total);
    assert!(report.named.iter().any(|url| url.ends_with(MANIFEST)), "it is told of: {report:?}");
    let content = store.content();
    assert_ne!(content.objects[MANIFEST], before[MANIFEST], "the late request asks for the ETag of what was there");
    is_whole(&content, "late");
}

type Change = fn(&mut Content);

fn another_run(content: &mut Content) {
    let other = "{\"entries\":[],\"s3_export\":{}}".to_owned();
    content.store(MANIFEST, other.into_bytes(), Some(Uuid::now_v7().to_string()));
}

fn nothing(content: &mut Content) {
    content.objects.remove(MANIFEST);
    content.marks.remove(MANIFEST);
}

/// Another cluster's run, or a deletion: seen by the look before the write, or by the write itself.
#[test]
fn a_manifest_that_has_changed_is_not_overwritten() {
    // All cases at the same time, since each waits for most of its own.
    thread::scope(|scope| {
        for change in [another_run as Change, nothing] {
            for conditions in CONDITIONS {
                for in_parts in [false, true] {
                    // Between the last look and the write only a condition that is obeyed helps.
                    for &at_the_write in if conditions == Conditions::Obeyed { &[false, true][..] } else { &[false] } {
                        scope.spawn(move || a_changed_manifest_stays(change, conditions, in_parts, at_the_write));
                    }
                }
            }
        }
    });
}

fn a_changed_manifest_stays(change: Change, conditions: Conditions, in_parts: bool, at_the_write: bool) {
    let step = if in_parts { Step::Complete } else { Step::Manifest };
    let (store, is_armed) = armed(conditions, step, Action::After(change), 1);
    earlier_run(&store);
    let export = replacing(&store, RetryPolicies::all(POLICY));
    is_armed.store(at_the_write, Ordering::SeqCst);
    if !at_the_write {
        change(&mut store.content());
    }
    let expected = {
        let mut content = Content::default();
        change(&mut content);
        content.objects.get(MANIFEST).cloned()
    };
    let what = format!("{conditions:?}, in parts: {in_parts}, at the write: {at_the_write}");
    let error = export.commit_with(in_parts.then(|| "x".repeat(9 << 20))).expect_err(&what);
    assert_eq!(error.code(), Code::Duplicate, "{what}: {error:?}");
    let report = export.roll_back(GENEROUS.total);
    assert!(report.is_empty(), "{what}: {report:?}");
    let content = store.content();
    assert_eq!(content.objects.get(MANIFEST), expected.as_ref(), "{what}");
    assert_eq!(content.objects.len(), 2 + usize::from(expected.is_some()), "{what}: the new files are gone");
    assert!(content.uploads.is_empty(), "{what}");
}

/// Somebody else comes between the look of the rollback and its write.
#[test]
fn a_manifest_that_another_has_replaced_is_not_put_back() {
    for change in [another_run as Change, nothing] {
        let (store, is_armed) = armed(Conditions::Obeyed, Step::Manifest, Action::After(change), 1);
        earlier_run(&store);
        let export = replacing(&store, RetryPolicies::all(POLICY));
        export.commit().unwrap();
        is_armed.store(true, Ordering::SeqCst);
        let report = export.roll_back(GENEROUS.total);
        assert!(report.is_empty(), "{report:?}");
        let mut expected = Content::default();
        change(&mut expected);
        assert_eq!(store.content().objects.get(MANIFEST), expected.objects.get(MANIFEST));
        assert!(keys(&export).iter().all(|key| key == MANIFEST || !store.content().objects.contains_key(key)));
    }
}

#[test]
fn a_first_run_does_not_overwrite_the_manifest_of_another() {
    for conditions in CONDITIONS {
        let store = MemoryStore::with(conditions, |_| Action::Do);
        let destination = destination_of_run("nightly");
        let export = Export::begin(connection(store.endpoint()), Terms { destination, ..terms(4, POLICY) });
        export.write_files(1).unwrap();
        another_run(&mut store.content());
        assert_eq!(export.commit().unwrap_err().code(), Code::Duplicate);
        assert!(export.roll_back(GENEROUS.total).is_empty());
        assert_eq!(store.content().objects.keys().collect::<Vec<_>>(), [MANIFEST]);
    }
}

/// A store says `null` for every version where versioning is suspended: by that version, a rollback deleted the object of another.
#[test]
fn a_version_that_is_null_is_not_taken_for_the_exports_own() {
    const WRITTEN: Reply = Reply::Answer("HTTP/1.1 200 OK\r\netag: \"1\"\r\nx-amz-version-id: null", "");
    let head =
        format!("HTTP/1.1 200 OK\r\netag: \"2\"\r\nx-amz-version-id: null\r\nx-amz-meta-s3-export-id: {}", Uuid::now_v7());
    let (head, written) = (&*Box::leak(head.into_boxed_str()), AtomicBool::new(false));
    let server = Server::start(move |request| match () {
        () if request.is("PUT", ".manifest") => {
            written.store(true, Ordering::SeqCst);
            WRITTEN
        }
        () if request.is("HEAD", "") && !written.load(Ordering::SeqCst) => Reply::Answer("HTTP/1.1 404 Not Found", ""),
        () if request.is("HEAD", "") => Reply::Answer(head, "{}"),
        () => Reply::Usual,
    });
    let destination = destination_of_run("nightly");
    let export = Export::begin(server.connection(), Terms { destination, ..terms(4, POLICY) });
    export.write_files(1).unwrap();
    export.commit().unwrap();
    export.roll_back(GENEROUS.total);
    let touched: Vec<_> = server.requests().into_iter().filter(|request| request.is("DELETE", ".manifest")).collect();
    assert!(touched.is_empty(), "{touched:?}");
}

/// The commit stands whatever becomes of the deletion; what is left is told.
#[test]
fn faults_of_the_deletion_of_a_replaced_export() {
    cross(Step::Delete, |step, fault, times| {
        let what = format!("{step:?}, {fault:?}, {times} times");
        let (store, is_armed) = armed(Conditions::Obeyed, step, fault.action(), times);
        let before = earlier_run(&store);
        let export = replacing(&store, RetryPolicies { clean_up: fault.policy(times), ..RetryPolicies::all(GENEROUS) });
        export.commit().unwrap();
        is_armed.store(true, Ordering::SeqCst);
        let report = export.delete_replaced(if fault.is_survived(times) { GENEROUS.total } else { TO_MEET_THE_STEP });
        let content = store.content();
        assert_eq!(is_whole(&content, &what), export.upload.export_id());
        let left = before.keys().filter(|key| *key != MANIFEST && content.objects.contains_key(*key)).count();
        if fault.is_survived(times) {
            assert!(left == 0 && report.is_empty(), "{what}: {left} {report:?}");
        } else {
            assert!(report.count >= left, "{what}: {left} are left and {report:?} told");
        }
    });
}

/// A copied or edited manifest lists files of other exports. A replacement of that manifest deletes none of these files.
#[test]
fn a_replacement_deletes_only_files_of_the_export_that_lie_in_its_folder() {
    let store = MemoryStore::start(|_| Action::Do);
    earlier_run(&store);
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    let own = [format!("x/{id}-000001.json"), format!("x/day=1/{id}-000002.json"), format!("x/{id}/day=1/000003.json")];
    let others = [
        format!("x/{other}-000001.json"),
        format!("x/sub/{id}-000001.json"),
        format!("y/{id}-000001.json"),
        "x/all.json".to_owned(),
        format!("x/_{id}.manifest.json"),
    ];
    for key in own.iter().chain(&others) {
        store.content().store(key, b"{}\n".to_vec(), None);
    }
    let entry = |key| serde_json::json!({"url": format!("s3://bucket/{key}"), "meta": {"content_length": 3}});
    let entries: Vec<_> = own.iter().chain(&others).map(entry).collect();
    let ours = serde_json::json!({"export_id": id, "num_docs_inserted": 1, "num_files_written": 1, "num_bytes_written": 1,
                                  "query_sha256": "", "run_key": "nightly"});
    let body = serde_json::json!({"entries": entries, "s3_export": ours}).to_string();
    store.content().store(MANIFEST, body.into_bytes(), Some(id.to_string()));
    let export = replacing(&store, RetryPolicies::all(POLICY));
    export.commit().unwrap();
    let report = export.delete_replaced(GENEROUS.total);
    assert_eq!(report.count, others.len(), "{report:?}");
    let content = store.content();
    assert!(own.iter().all(|key| !content.objects.contains_key(key)));
    assert!(others.iter().all(|key| content.objects.contains_key(key)));
}

fn of_run_with(manifest_copy: Option<&str>, success_marker: Option<&str>) -> Destination {
    let destination = destination_of_run("nightly");
    let (manifest_copy, success_marker) = (manifest_copy.map(str::to_owned), success_marker.map(str::to_owned));
    let run_key = Some("nightly".to_owned());
    let naming =
        Naming { in_folder: false, file_type: destination.file_type(), file: None, run_key, manifest_copy, success_marker };
    Destination::new(Location::parse("s3://bucket/x").unwrap(), destination.export_id(), naming).unwrap()
}

/// The server may have died after the PUT of the manifest.
#[test]
fn a_run_that_is_returned_gets_the_copy_and_the_marker_that_it_lacks() {
    let store = MemoryStore::start(|_| Action::Do);
    earlier_run(&store);
    let manifest = store.content().objects[MANIFEST].clone();
    let complete = |copy: &str, marker: &str| -> Result<()> {
        let (io, bucket) = bucket(connection(store.endpoint()), POLICY);
        let id = Summary::parse(MANIFEST, &manifest).unwrap().export_id;
        let destination = of_run_with(Some(copy), Some(marker)).of_export(id);
        let manifest = manifest.clone().into();
        wait(&io, &io.spawn(async move { upload::complete(&bucket, &destination, manifest).await }))
    };
    complete("list.json", "_SUCCESS").unwrap();
    assert_eq!(store.content().objects["x/list.json"], manifest);
    assert_eq!(store.content().objects["x/_SUCCESS"], b"");
    let requests = store.content().requests.len();
    complete("list.json", "_SUCCESS").unwrap();
    assert!(store.content().requests[requests..].iter().all(|step| *step == Step::Head), "nothing is written twice");
    store.content().store("x/taken.json", b"somebody else's".to_vec(), None);
    assert_eq!(complete("taken.json", "taken.json").unwrap_err().code(), Code::Duplicate);
    assert_eq!(store.content().objects["x/taken.json"], b"somebody else's");
}

/// The objects below `location` that count as orphans.
fn orphans_below(store: &MemoryStore, location: &str) -> Vec<String> {
    orphans_before(store, location, u64::MAX)
}

fn orphans_before(store: &MemoryStore, location: &str, before: u64) -> Vec<String> {
    let (io, bucket) = bucket(connection(store.endpoint()), POLICY);
    let (bucket, location) = (Arc::new(bucket), Location::parse(location).unwrap());
    let found = wait(
        &io,
        &io.spawn(async move {
            let found = orphans::find(&bucket, &location, before).await.unwrap();
            orphans::still_orphans(&bucket, found.orphans, before).await.unwrap()
        }),
    );
    let mut keys: Vec<String> = found.into_iter().map(|orphan| orphan.key).collect();
    keys.sort();
    keys
}

/// The name of a run's manifest does not tell of which export it is.
#[test]
fn files_of_a_run_are_no_orphans_and_those_of_a_replaced_one_are() {
    let store = MemoryStore::start(|_| Action::Do);
    let before = earlier_run(&store);
    assert_eq!(orphans_below(&store, "s3://bucket/x"), [""; 0]);
    // A copy of the bucket has lost the mark.
    store.content().marks.clear();
    assert_eq!(orphans_below(&store, "s3://bucket"), [""; 0]);
    // What has such a name and is no manifest says nothing.
    store.content().store("x/_hostile.manifest", b"<html>".to_vec(), None);
    assert_eq!(orphans_below(&store, "s3://bucket"), [""; 0]);
    // So that the earlier run is older by a millisecond at least.
    std::thread::sleep(std::time::Duration::from_millis(2));
    let export = replacing(&store, RetryPolicies::all(POLICY));
    export.commit().unwrap();
    // Another cluster may still put the earlier run back, as long as the replacing one is young.
    let began = started(export.upload.export_id()).unwrap();
    assert_eq!(orphans_before(&store, "s3://bucket/x", began), [""; 0]);
    let expected: Vec<_> = before.keys().filter(|key| *key != MANIFEST).cloned().collect();
    assert_eq!(orphans_below(&store, "s3://bucket/x"), expected);
}

/// The manifest lies outside the folder that is cleaned up.
#[test]
fn a_file_of_a_partition_is_no_orphan_of_its_folder() {
    let store = MemoryStore::start(|_| Action::Do);
    let destination = destination_of_run("nightly");
    destination.begin_partition(1, "day=1").unwrap();
    let export = Export::begin(connection(store.endpoint()), Terms { destination, ..terms(4, POLICY) });
    export.write_files(1).unwrap();
    export.commit().unwrap();
    assert_eq!(orphans_below(&store, "s3://bucket/x/day=1"), [""; 0]);
    store.content().marks.clear();
    assert_eq!(orphans_below(&store, "s3://bucket/x/day=1"), [""; 0]);
    store.content().objects.remove(MANIFEST);
    assert_eq!(orphans_below(&store, "s3://bucket/x/day=1").len(), 2);
}
