//! The comparison of an export with its manifest: whatever somebody has done to the bucket is told, and no other object is asked for.

use std::sync::Arc;

use s3_export_core::error::{Code, Error};
use s3_export_core::io::thread::IoThread;
use s3_export_core::maintenance::verify::{Checked, Event, Finding, ManifestPlace, Reporter, Terms, events, verify};
use s3_export_core::s3::Bucket;

use super::export::{Export, POLICY, bucket, connection, destination_of, terms, wait};
use super::store::{Action, Content, MemoryStore, Step};

const SHALLOW: Terms = Terms { deep: false, at_once: 4, most_bytes: 1 << 20 };
const DEEP: Terms = Terms { deep: true, ..SHALLOW };

/// An export of two files that has committed, or of one under that name.
fn exported(store: &MemoryStore, name: Option<&str>) -> Export {
    let destination = destination_of(name);
    let export = Export::begin(connection(store.endpoint()), super::export::Terms { destination, ..terms(4, POLICY) });
    match name {
        Some(_) => export.files(1, &bytes::Bytes::from_static(b"{}\n")),
        None => export.write_files(1),
    }
    .unwrap();
    export.commit().unwrap();
    export
}

fn run(io: &IoThread, bucket: &Arc<Bucket>, url: &str, terms: Terms) -> Result<Vec<Finding>, Error> {
    let (place, bucket, wake) = (ManifestPlace::parse(url).unwrap(), Arc::clone(bucket), Arc::clone(io.wake()));
    let (sender, mut receiver) = events();
    let task = io.spawn(async move {
        let reporter = Reporter { sender, wake };
        verify(&bucket, &place, terms, &reporter).await.map_err(|failure| failure.error)
    });
    wait(io, &task)?;
    let mut findings = Vec::new();
    while let Ok(event) = receiver.try_recv() {
        findings.extend(match event {
            Event::Found(finding) => Some(finding),
            Event::Expects(_) | Event::Read(_) => None,
        });
    }
    assert!(findings[0].url == url, "the manifest comes first: {findings:?}");
    Ok(findings)
}

fn verified(store: &MemoryStore, url: &str, terms: Terms) -> Result<Vec<Finding>, Error> {
    let (io, bucket) = bucket(connection(store.endpoint()), POLICY);
    run(&io, &Arc::new(bucket), url, terms)
}

fn manifest_of(export: &Export) -> String {
    export.destination.url(&export.destination.manifest_key())
}

/// What differs, in order: the end of the URL, the problem, and the extent of the comparison.
fn problems(findings: &[Finding]) -> Vec<String> {
    let mut told: Vec<String> = findings
        .iter()
        .filter_map(|finding| {
            let (problem, sentence) = finding.problem.as_ref()?;
            assert!(sentence.ends_with('.'), "{sentence}");
            let end = finding.url.get(finding.url.len().saturating_sub(11)..).unwrap();
            Some(format!("{end}: {}, {}", problem.name(), finding.checked.name().unwrap_or("nothing")))
        })
        .collect();
    told.sort();
    told
}

/// The outcome after somebody has changed the bucket.
#[track_caller]
fn told_after(change: impl Fn(&mut Content, &Export), terms: Terms, expected: &[&str]) {
    let store = MemoryStore::start(|_| Action::Do);
    let export = exported(&store, None);
    change(&mut store.content(), &export);
    assert_eq!(problems(&verified(&store, &manifest_of(&export), terms).unwrap()), expected);
}

#[test]
fn a_sound_export_has_no_problem() {
    for (terms, checked) in [(SHALLOW, Checked::Checksum), (DEEP, Checked::Content)] {
        let store = MemoryStore::start(|_| Action::Do);
        let export = exported(&store, None);
        let findings = verified(&store, &manifest_of(&export), terms).unwrap();
        assert_eq!((findings.len(), problems(&findings)), (3, Vec::new()));
        assert!(findings[1..].iter().all(|file| file.checked == checked && file.bytes == Some(3)), "{findings:?}");
        assert!(store.content().requests.iter().all(|step| *step != Step::Delete), "nothing is written");
    }
}

#[test]
fn each_difference_is_told() {
    let second = |export: &Export| export.destination.file_key(2);
    let deleted = |content: &mut Content, export: &Export| drop(content.objects.remove(&second(export)));
    told_after(deleted, SHALLOW, &["000002.json: missing, nothing"]);
    let truncated = |content: &mut Content, export: &Export| content.store(&second(export), b"{}".to_vec(), None);
    told_after(truncated, SHALLOW, &["000002.json: other size, size"]);
    // As S3 keeps the checksum of whatever is written.
    let flipped = |content: &mut Content, export: &Export| {
        content.store(&second(export), b"[]\n".to_vec(), None);
        content.checksums.insert(second(export), "AAAAAA==".to_owned());
    };
    told_after(flipped, SHALLOW, &["000002.json: other checksum, checksum"]);
    let flipped_without = |content: &mut Content, export: &Export| content.store(&second(export), b"[]\n".to_vec(), None);
    told_after(flipped_without, SHALLOW, &[]);
    told_after(flipped_without, DEEP, &["000002.json: other checksum, content"]);
    let rotten = |content: &mut Content, export: &Export| drop(content.objects.insert(second(export), b"[]\n".to_vec()));
    told_after(rotten, SHALLOW, &[]);
    told_after(rotten, DEEP, &["000002.json: other checksum, content"]);
    let third = |content: &mut Content, export: &Export| content.store(&export.destination.file_key(3), Vec::new(), None);
    told_after(third, SHALLOW, &["000003.json: not listed, nothing"]);
}

/// A checksum that the store keeps of the parts' checksums says nothing of the whole.
#[test]
fn a_checksum_of_parts_is_not_compared() {
    for checksum in ["AAAAAA==-2", "AAAAAA==-1"] {
        let store = MemoryStore::start(|_| Action::Do);
        let export = exported(&store, None);
        store.content().checksums.insert(export.destination.file_key(1), checksum.to_owned());
        let findings = verified(&store, &manifest_of(&export), SHALLOW).unwrap();
        assert_eq!(problems(&findings), Vec::<String>::new());
        assert!(findings.iter().any(|file| file.checked == Checked::Size));
    }
}

/// The manifest with one text in the place of another.
fn edit(content: &mut Content, export: &Export, from: &str, to: &str) {
    let key = export.destination.manifest_key();
    let text = String::from_utf8(content.objects[&key].clone()).unwrap();
    assert!(text.contains(from), "{text}");
    content.objects.insert(key, text.replacen(from, to, 1).into_bytes());
}

/// Requests that name a key.
fn asked_for(findings: &[Finding], part: &str) -> Vec<Option<u64>> {
    findings.iter().filter(|finding| finding.url.contains(part)).map(|finding| finding.bytes).collect()
}

#[test]
fn a_key_that_is_not_the_export_s_is_told_and_not_asked_for() {
    for target in ["s3://bucket/x/secret.json", "s3://bucket/secret", "s3://other/x", "s3://bucket/x/../secret", "nonsense", ""]
    {
        let store = MemoryStore::start(|_| Action::Do);
        let export = exported(&store, None);
        let (first, looks) = (export.destination.url(&export.destination.file_key(1)), |content: &Content| {
            content.requests.iter().filter(|step| matches!(step, Step::Head | Step::Get)).count()
        });
        for key in ["x/secret.json", "secret"] {
            store.content().store(key, b"{}\n".to_vec(), None);
        }
        edit(&mut store.content(), &export, &first, target);
        let before = looks(&store.content());
        let findings = verified(&store, &manifest_of(&export), DEEP).unwrap();
        let problem = |name: &str| problems(&findings).iter().filter(|problem| problem.contains(name)).count();
        assert_eq!((problem("not of this export"), problem("not listed")), (1, 1), "{findings:?}");
        assert!(target.is_empty() || asked_for(&findings, target) == [None], "{findings:?}");
        assert_eq!(looks(&store.content()) - before, 3, "the manifest, and the other file twice");
    }
}

#[test]
fn a_file_under_a_user_s_name_counts_by_its_mark() {
    let store = MemoryStore::start(|_| Action::Do);
    let export = exported(&store, Some("orders.json"));
    assert_eq!(problems(&verified(&store, &manifest_of(&export), SHALLOW).unwrap()), Vec::<String>::new());
    store.content().store("x/orders.json", b"secret".to_vec(), Some(uuid::Uuid::now_v7().to_string()));
    let findings = verified(&store, &manifest_of(&export), SHALLOW).unwrap();
    assert_eq!(problems(&findings), ["orders.json: not of this export, nothing"]);
    assert_eq!(asked_for(&findings, "orders.json"), [None], "its size is not told");
}

#[test]
fn a_manifest_that_contradicts_itself_is_told() {
    let listed_twice = |content: &mut Content, export: &Export| edit(content, export, "000002.json", "000001.json");
    told_after(listed_twice, SHALLOW, &["000001.json: listed twice, nothing", "000002.json: not listed, nothing"]);
    let store = MemoryStore::start(|_| Action::Do);
    let export = exported(&store, None);
    edit(&mut store.content(), &export, "num_files_written\":2", "num_files_written\":3");
    let findings = verified(&store, &manifest_of(&export), SHALLOW).unwrap();
    assert!(
        problems(&findings).len() == 1 && problems(&findings)[0].ends_with("manifest: contradiction, nothing"),
        "{findings:?}"
    );
}

#[test]
fn what_is_no_manifest_is_refused() {
    let store = MemoryStore::start(|_| Action::Do);
    let export = exported(&store, None);
    let url = manifest_of(&export);
    let refused = |url: &str, terms| verified(&store, url, terms).unwrap_err();
    assert_eq!(refused(&format!("{url}x"), SHALLOW).code(), Code::Undefined);
    assert_eq!(refused(&url, Terms { most_bytes: 10, ..SHALLOW }).code(), Code::Limit);
    store.content().store("x/other", b"{}\n".to_vec(), None);
    assert_eq!(refused("s3://bucket/x/other", SHALLOW).code(), Code::NotReady);
    // A copy under another export's name, and one that another export's mark is on.
    let manifest = store.content().objects[&export.destination.manifest_key()].clone();
    let other = uuid::Uuid::now_v7();
    store.content().store(&format!("x/_{other}.manifest"), manifest.clone(), None);
    assert!(refused(&format!("s3://bucket/x/_{other}.manifest"), SHALLOW).message().contains("of another export"));
    store.content().store("x/copy", manifest.clone(), Some(other.to_string()));
    assert!(refused("s3://bucket/x/copy", SHALLOW).message().contains("of another export"));
    store.content().store("x/copy", manifest, None);
    assert_eq!(problems(&verified(&store, "s3://bucket/x/copy", SHALLOW).unwrap()), Vec::<String>::new());
}

/// In a range that is not the first, once, and for ever.
#[test]
fn a_large_file_is_read_in_ranges_and_a_broken_answer_is_asked_for_again() {
    for (fails, is_told) in [(0, false), (1, false), (0, true)] {
        let gets = std::sync::atomic::AtomicUsize::new(0);
        let store = MemoryStore::start(move |step| {
            let is_second = step == Step::Get && gets.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2;
            if is_second && fails == 1 { Action::Cut(1000) } else { Action::Do }
        });
        let destination = destination_of(None);
        let export = Export::begin(connection(store.endpoint()), super::export::Terms { destination, ..terms(4, POLICY) });
        let body = bytes::Bytes::from(b"0123456789abcdef".repeat((17 << 20) / 16));
        export.files(1, &body).unwrap();
        export.commit().unwrap();
        if is_told {
            let key = export.destination.file_key(1);
            let mut changed = body.to_vec();
            changed[16 << 20] ^= 1;
            store.content().objects.insert(key, changed);
        }
        let findings = verified(&store, &manifest_of(&export), DEEP).unwrap();
        assert_eq!((findings[1].checked, findings[1].problem.is_some()), (Checked::Content, is_told));
        let reads = store.content().requests.iter().filter(|step| **step == Step::Get).count();
        assert_eq!(reads, 1 + 3 + fails, "the manifest, and three ranges");
    }
}

#[test]
fn an_object_that_changes_while_it_is_read_is_told() {
    let change = |content: &mut Content| {
        let key = content.objects.keys().find(|key| key.ends_with("000001.json")).cloned();
        content.objects.extend(key.map(|key| (key, b"[]\n".to_vec())));
    };
    let gets = std::sync::atomic::AtomicUsize::new(0);
    let store = MemoryStore::start(move |step| {
        let is_first_file = step == Step::Get && gets.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1;
        if is_first_file { Action::After(change) } else { Action::Do }
    });
    let export = exported(&store, None);
    let findings = verified(&store, &manifest_of(&export), Terms { at_once: 1, ..DEEP }).unwrap();
    assert_eq!(problems(&findings), ["000001.json: changed while it was read, size"]);
}

#[test]
fn an_error_of_the_store_ends_it_with_that_error() {
    for step in [Step::List, Step::Head, Step::Get] {
        let store =
            MemoryStore::start(
                move |asked| {
                    if asked == step { Action::Refuse("403 Forbidden", "AccessDenied") } else { Action::Do }
                },
            );
        let export = exported(&store, None);
        let error = verified(&store, &manifest_of(&export), SHALLOW).unwrap_err();
        assert_eq!(error.code(), Code::Privilege, "{step:?}");
        assert!(error.hint_text().unwrap().contains("'verify'"), "{error:?}");
    }
}
