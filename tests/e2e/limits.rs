//! Limits of one export: `max_documents` and `max_bytes` of its integration, and `s3_export.max_bandwidth`.

use std::time::{Duration, Instant};

use super::fixture::{Action, Database, Gateway, Integration, Session, StandIn, ended, enqueued, literal, refused, wait_for};

/// Arguments of exports that reach the uploads in different ways.
const WAYS: [&str; 9] = [
    "",
    "output_chunk_size => 1",
    "format => 'csv'",
    "compression => 'gzip', output_chunk_size => 5",
    "compression => 'zstd'",
    "format => 'parquet'",
    "format => 'parquet', output_chunk_size => 3",
    "partition_by => '{p}'",
    r#"options => '{"single_file": true}'"#,
];

fn limit(db: &Database, changes: &str) {
    db.client().batch_execute(&format!("UPDATE s3_export.integrations SET {changes} WHERE name = 'local'")).unwrap();
}

fn rows(count: u32) -> String {
    format!("SELECT i, repeat('x', i * 10) AS t, i % 3 AS p FROM generate_series(1, {count}) i")
}

#[test]
fn an_export_has_max_documents_and_none_more() {
    let db = Database::new("max_documents");
    limit(&db, "max_documents = 10");
    for way in WAYS {
        assert_eq!(db.export_with(&rows(10), way).documents, 10, "{way}");
        let refusal = db.refuse(&rows(11), way);
        refusal.sqlstate("54000").message("more than 10 documents, which is max_documents of integration \"local\"");
        refusal.detail("rolled back").hint("max_documents");
    }
    limit(&db, "max_documents = NULL");
    assert_eq!(db.export(&rows(11)).documents, 11);
}

#[test]
fn an_export_has_max_bytes_and_none_more_as_they_are_stored() {
    let db = Database::new("max_bytes");
    for way in WAYS {
        limit(&db, "max_bytes = NULL");
        let exported = db.export_with(&rows(20), way);
        let bytes = exported.bytes + i64::try_from(db.bucket.get(db.bucket.key(&exported.manifest)).len()).unwrap();
        limit(&db, &format!("max_bytes = {bytes}"));
        assert_eq!(db.export_with(&rows(20), way).bytes, exported.bytes, "{way}");
        limit(&db, &format!("max_bytes = {}", bytes - 1));
        let refusal = db.refuse(&rows(20), way);
        refusal.sqlstate("54000").message(&format!("{} bytes, which is max_bytes of integration \"local\"", bytes - 1));
    }
}

/// The text of the query, and values in names of folders, reach the bucket in the manifest.
#[test]
fn attack_data_in_the_manifest_counts_too() {
    let db = Database::new("in_manifest");
    limit(&db, "max_bytes = 20000");
    let text = format!("SELECT 1 AS a /* {} */", "secret".repeat(10_000));
    db.refuse(&text, r#"options => '{"manifest_query": true}'"#).sqlstate("54000").message("max_bytes");
    let folders = "SELECT repeat(md5(i::text), 6) AS p, NULL::int AS a FROM generate_series(1, 60) i";
    db.refuse(folders, "partition_by => '{p}', format => 'csv'").sqlstate("54000").message("max_bytes");
    limit(&db, "max_bytes = NULL, max_bytes_per_day = 20000");
    db.refuse(&text, r#"options => '{"manifest_query": true}'"#).sqlstate("54000").message("24 hours");
    assert_eq!(db.export("SELECT 1 AS a").documents, 1);
}

/// A snapshot of before must not keep what was taken away since.
#[test]
fn attack_an_old_snapshot_keeps_no_limit_and_no_integration() {
    let db = Database::new("old_snapshot");
    let member = db.role("member", &["s3_export_member"]);
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let mut client = db.client_as(&member);
        let begin = format!("BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM s3_export.integrations; SAVEPOINT s");
        client.batch_execute(&begin).unwrap();
        for (change, sqlstate) in [("max_documents = 1", "54000"), ("max_documents = NULL, enabled = false", "55000")] {
            limit(&db, change);
            refused(db.export_in(&mut client, "SELECT generate_series(1, 2) AS a", "")).sqlstate(sqlstate);
            client.batch_execute("ROLLBACK TO s").unwrap();
        }
        limit(&db, "enabled = true");
    }
}

/// The query would run for years.
#[test]
fn an_export_ends_as_soon_as_it_passes_a_limit() {
    let db = Database::new("at_once");
    // Not in FROM, where the rows would be kept before the first comes out.
    let documents = "SELECT generate_series(1, 1000000000000000) AS i";
    limit(&db, "max_documents = 12345");
    db.refuse(documents, "").sqlstate("54000");
    limit(&db, "max_documents = 100000, max_bytes = 20000000");
    db.refuse("SELECT repeat('x', 100000) AS t, generate_series(1, 1000000000000000) AS i", "").sqlstate("54000");
    limit(&db, "max_documents = NULL, max_bytes = 1000000");
    for way in ["", "compression => 'gzip'", "format => 'csv', output_chunk_size => 1000"] {
        db.refuse(documents, way).sqlstate("54000").message("max_bytes");
    }
    // A sort comes before the first byte, and not before the first document.
    limit(&db, "max_documents = 1000, max_bytes = NULL");
    let endless = "SELECT generate_series(1, 1000000000000000) AS i, 1 AS p";
    db.refuse(endless, "partition_by => '{p}'").sqlstate("54000").message("max_documents");
}

#[test]
fn no_more_than_max_bytes_are_sent() {
    let db = Database::new("sent");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    db.create(&Integration { name: "counted", endpoint: gateway.endpoint(), ..Integration::local() });
    db.client().batch_execute("UPDATE s3_export.integrations SET max_bytes = 300000 WHERE name = 'counted'").unwrap();
    let query = "SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 100000) i";
    refused(db.export_by(&mut db.client(), "counted", query)).sqlstate("54000");
    let sent: usize =
        gateway.requests().iter().filter(|request| request.step() == "put").map(|request| request.body.len()).sum();
    assert!(sent <= 300_000 + 100_000, "{sent} bytes, with the frames of their signatures");
}

#[test]
fn a_limit_holds_for_each_export_of_a_transaction_and_after_a_savepoint() {
    let db = Database::new("each_export");
    limit(&db, "max_documents = 10");
    let (mut client, good, bad) = (db.client(), db.prefix(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &good, &rows(10), "").unwrap();
    client.batch_execute("SAVEPOINT a").unwrap();
    refused(db.export_to(&mut client, &bad, &rows(11), "")).sqlstate("54000");
    client.batch_execute("ROLLBACK TO a").unwrap();
    db.bucket.nothing_left(&bad);
    // An exception handler does not get around the limit either.
    let call = db.call(&bad, &rows(11), "");
    let caught =
        format!("DO $do$ BEGIN PERFORM {call}; EXCEPTION WHEN program_limit_exceeded THEN RAISE NOTICE 'caught'; END $do$");
    client.batch_execute(&caught).unwrap();
    client.batch_execute("COMMIT").unwrap();
    db.bucket.nothing_left(&bad);
    assert_eq!(db.bucket.manifests(&good).len(), 1);
}

#[test]
fn jobs_and_feeds_have_the_limits_of_the_time_when_they_run() {
    let db = Database::new("later");
    let (mut client, prefix) = (db.client(), db.prefix());
    client
        .batch_execute(&format!(
            "CREATE TABLE t (a bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
             SELECT s3_export.create_feed('feed', '{}', 'local', 'SELECT a FROM t WHERE a > $1 AND a <= $2', 'sequence', 't.a')",
            db.bucket.uri(&format!("{prefix}/feed"))
        ))
        .unwrap();
    client.batch_execute("INSERT INTO t SELECT FROM generate_series(1, 11)").unwrap();
    limit(&db, "max_documents = 10");
    let id = enqueued(&db, &mut client, &format!("{prefix}/job"), &rows(11), "");
    refused(ended(&mut client, &id)).sqlstate("54000");
    refused(client.query("SELECT s3_export.run_feed('feed')", &[])).sqlstate("54000");
    client.settle();
    db.bucket.nothing_left(&prefix);
    limit(&db, "max_documents = 11");
    client.query("SELECT s3_export.run_feed('feed')", &[]).unwrap();
    assert_eq!(db.bucket.values(&format!("{prefix}/feed")).len(), 11);
}

#[test]
fn a_role_named_inline_has_the_limits_of_its_entry() {
    let db = Database::new("inline_limits");
    let StandIn { endpoint, role, external_id, .. } = StandIn::ministack();
    let entry = format!(
        r#"[{{"aws_role": "{role}", "allowed_locations": ["s3://exports"], "endpoint": "{endpoint}", "sts_endpoint": "{endpoint}", "path_style": true, "max_documents": 10}}]"#
    );
    let mut client = db.client();
    client.batch_execute(&format!("LOAD 's3_export'; SET s3_export.inline_roles = {}", literal(&entry))).unwrap();
    let mut export = |count| {
        let uri = db.bucket.uri(&db.prefix());
        let call = format!("s3_export_with_role('{uri}', '{role}', '{external_id}', {})", literal(&rows(count)));
        client.query_one(&format!("SELECT num_docs_inserted FROM {call}"), &[]).map(|row| row.get::<_, i64>(0))
    };
    assert_eq!(export(10).unwrap(), 10);
    refused(export(11)).sqlstate("54000").message(&format!("which is max_documents of role {role}"));
}

#[test]
fn a_member_sees_the_limits_and_changes_none() {
    let db = Database::new("who_limits");
    let mut member = db.client_as(&db.role("member", &["s3_export_member"]));
    limit(&db, "max_documents = 10, max_bytes = 1000000");
    assert_eq!(member.text("SELECT (max_documents, max_bytes)::text FROM s3_export.integrations"), "(10,1000000)");
    refused(member.batch_execute("UPDATE s3_export.integrations SET max_documents = NULL")).sqlstate("42501");
    refused(db.export_in(&mut member, &rows(11), "")).sqlstate("54000");
    // An administrator changes its own rows, and no other's.
    let mut admin = db.client_as(&db.role("admin", &["s3_export_admin", "s3_export_member"]));
    assert_eq!(admin.execute("UPDATE s3_export.integrations SET max_documents = NULL", &[]).unwrap(), 0);
}

/// Bytes a second of these tests, as the setting takes them.
fn bandwidth(client: &mut Session, rate: &str) {
    client.batch_execute(&format!("LOAD 's3_export'; SET s3_export.max_bandwidth = '{rate}'")).unwrap();
}

#[test]
fn max_bandwidth_makes_an_export_take_its_time() {
    let db = Database::new("bandwidth");
    let mut client = db.client();
    bandwidth(&mut client, "400kB");
    let query = "SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 1000) i";
    for way in ["output_chunk_size => 100", "", r#"options => '{"single_file": true}'"#] {
        let start = Instant::now();
        let bytes = db.export_in(&mut client, query, way).unwrap().bytes;
        let least = Duration::from_secs_f64(bytes as f64 / f64::from(400 << 10));
        // A timer counts milliseconds.
        assert!(start.elapsed() >= least - Duration::from_millis(5), "{way}: {:?} for {bytes} bytes", start.elapsed());
    }
}

#[test]
fn an_export_that_waits_for_its_bandwidth_is_cancelled_and_timed_out() {
    let db = Database::new("paced_cancel");
    let query = "SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 100000) i";
    let (mut watcher, mut client, prefix) = (db.client(), db.client(), db.prefix());
    // More than a day for all.
    bandwidth(&mut client, "1kB");
    let running = client.start(&format!("SELECT {}", db.call(&prefix, query, "output_chunk_size => 10")));
    wait_for("the wait", || watcher.sees_hanging(running.pid).then_some(()));
    watcher.batch_execute(&format!("SELECT pg_cancel_backend({})", running.pid)).unwrap();
    let (mut client, outcome) = running.join();
    refused(outcome).sqlstate("57014");
    db.bucket.nothing_left(&prefix);
    let limited = r#"output_chunk_size => 10, options => '{"timeout": "1s"}'"#;
    refused(db.export_to(&mut client, &prefix, query, limited)).sqlstate("57014").message("longer than its time limit");
    db.bucket.nothing_left(&prefix);
    // Neither the manifest nor a rollback waits.
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    db.bucket.nothing_left(&prefix);
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
}

#[test]
fn only_a_superuser_sets_the_bandwidth_and_the_exports_at_once() {
    let db = Database::new("who_paces");
    let mut member = db.client_as(&db.role("member", &["s3_export_member"]));
    db.export_in(&mut member, "SELECT 1 AS a", "").unwrap();
    for setting in ["max_bandwidth = 0", "max_exports = 0"] {
        refused(member.batch_execute(&format!("SET s3_export.{setting}"))).sqlstate("42501");
    }
    member.batch_execute("SET s3_export.max_exports_wait = '1s'").unwrap();
}
