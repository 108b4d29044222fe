//! Stores as they are: one that wants the length of empty bodies, one that is away for a moment.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::fixture::{Action, Database, Exported, Gateway, Integration};

fn export(db: &Database, endpoint: String, settings: &str, query: &str, arguments: &str) -> Result<Exported, postgres::Error> {
    db.create(&Integration { name: "store", endpoint, ..Integration::local() });
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute(settings).unwrap();
    let call = db.call(&prefix, query, arguments).replace("'local'", "'store'");
    let exported = db.exported(&mut client, &call, &prefix)?;
    assert_eq!(db.bucket.documents(&prefix).len() as i64, exported.documents);
    Ok(exported)
}

#[test]
fn a_store_that_wants_the_length_of_empty_bodies() {
    let db = Database::new("stores_411");
    let gateway = Gateway::to(&Integration::local().endpoint, |request| {
        let has_body = ["POST", "PUT"].iter().any(|method| request.head.starts_with(method));
        if has_body && request.header("content-length").is_none() {
            Action::Answer("HTTP/1.1 411 Length Required".into(), String::new())
        } else {
            Action::Forward
        }
    });
    let exported =
        export(&db, gateway.endpoint(), "", "SELECT repeat('x', 1000000) AS t FROM generate_series(1, 12)", "").unwrap();
    assert_eq!(exported.files, 1);
    assert!(gateway.requests().iter().any(|request| request.step() == "create"));
}

fn outage(name: &str, settings: &str, time: Duration, away: impl Fn() -> Action + Send + Sync + 'static) {
    let db = Database::new(name);
    let begun = OnceLock::new();
    let gateway = Gateway::to(&Integration::local().endpoint, move |request| {
        if request.step() != "put" {
            return Action::Forward;
        }
        match begun.get() {
            // The first file is stored.
            None => {
                let _ = begun.set(Instant::now());
                Action::Forward
            }
            Some(begun) if begun.elapsed() < time => away(),
            Some(_) => Action::Forward,
        }
    });
    // One request at a time, so that the store has answered the first before it goes away.
    let settings = format!("SET s3_export.upload_concurrency = 1; {settings}");
    let exported = export(
        &db,
        gateway.endpoint(),
        &settings,
        "SELECT i, pg_sleep(0.1)::text AS s FROM generate_series(1, 8) AS i",
        "output_chunk_size => 1",
    )
    .unwrap();
    assert_eq!(exported.files, 8);
    assert!(gateway.requests().iter().filter(|request| request.step() == "put").count() > 8, "there was no outage");
}

#[test]
fn a_store_that_breaks_connections_for_two_seconds_is_outlived_by_two_attempts() {
    outage("stores_away", "SET s3_export.request_attempts = 2", Duration::from_secs(2), || Action::Drop);
}

#[test]
fn a_column_named_partition_with_the_alias_by_is_no_clause() {
    let db = Database::new("stores_partition_by");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("CREATE TABLE s (partition text); INSERT INTO s VALUES ('eu'), ('us')").unwrap();
    let statement = format!("INSERT INTO '{}' INTEGRATION = 'local' SELECT partition by FROM s", db.bucket.uri(&prefix));
    let exported = db.exported(&mut client, &format!("s3_export({})", super::fixture::literal(&statement)), &prefix).unwrap();
    assert_eq!(exported.documents, 2);
}
