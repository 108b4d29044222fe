//! `make soak`: two thousand exports in one backend, with faults; memory, descriptors and threads stay where they were.

use super::fixture::{Action, Database, Gateway, Integration, Session, descriptors, messages, private_memory, threads};

const EXPORTS: u32 = 2000;
/// Exports after which everything that is made once has been made.
const WARM: u32 = 200;

#[derive(Debug)]
struct Figures {
    contexts: i64,
    private_kilobytes: u64,
    descriptors: usize,
    threads: usize,
}

fn figures(client: &mut Session) -> Figures {
    let contexts = client.text("SELECT sum(total_bytes) FROM pg_backend_memory_contexts").parse().unwrap();
    let pid = client.pid;
    Figures { contexts, private_kilobytes: private_memory(pid).unwrap(), descriptors: descriptors(pid), threads: threads(pid) }
}

#[test]
#[ignore = "minutes long: make soak"]
fn two_thousand_exports_with_random_faults_leave_a_backend_as_it_was() {
    let db = Database::new("soak");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| match fastrand::u32(0..200) {
        0 => Action::Drop,
        1 => Action::LoseAnswer,
        2 => Action::Cut(30),
        3 => Action::Answer("HTTP/1.1 503 Slow Down".into(), "<Error><Code>SlowDown</Code></Error>".into()),
        4 => Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into()),
        _ => Action::Forward,
    });
    let mut client = db.client();
    Integration { name: "faulty", endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut client).unwrap();
    let (mut warm, mut complete) = (None, 0);
    for number in 1..=EXPORTS {
        let prefix = db.prefix();
        let call = db
            .call(&prefix, "SELECT i, repeat('x', 100) AS t FROM generate_series(1, 2500) AS i", "")
            .replace("'local'", "'faulty'");
        let outcome = db.exported(&mut client, &call, &prefix);
        let warned = messages(&client.notices()).contains("may remain in S3");
        match outcome {
            Ok(exported) => {
                complete += 1;
                assert_eq!(
                    (exported.documents, db.bucket.files(&prefix).len(), db.bucket.manifests(&prefix).len()),
                    (2500, 3, 1)
                );
            }
            Err(error) => {
                assert!(error.as_db_error().is_some(), "{error:?}");
                assert!(db.bucket.manifests(&prefix).is_empty() || warned);
                assert!(db.bucket.list(&prefix).is_empty() || warned);
            }
        }
        db.bucket.empty(&prefix);
        if number == WARM {
            warm = Some(figures(&mut client));
        }
    }
    let (warm, end) = (warm.unwrap(), figures(&mut client));
    println!("{EXPORTS} exports, {complete} complete\nafter {WARM}: {warm:?}\nat the end: {end:?}");
    assert_eq!((warm.threads, end.threads), (1, 1));
    // Postgres opens and closes files of its own.
    assert!(end.descriptors <= warm.descriptors + 10, "descriptors grow");
    assert!(complete > EXPORTS / 2, "{complete} complete");
    assert!(end.contexts < warm.contexts + 256 * 1024, "memory contexts grow");
    assert!(end.private_kilobytes < warm.private_kilobytes + warm.private_kilobytes / 5 + 4096, "memory grows");
}
