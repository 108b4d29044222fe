//! The history: a row of each export that commits, in the export's own transaction.

use serde_json::Value;

use super::feeds::{create, table};
use super::fixture::{Database, Session, ended, enqueued, literal, refused};

/// The rows that the session sees, as JSON, the oldest first.
pub fn rows(client: &mut Session) -> Vec<Value> {
    let rows = client.text("SELECT coalesce(jsonb_agg(to_jsonb(h) ORDER BY h.started_at), '[]') FROM s3_export.history AS h");
    serde_json::from_str::<Value>(&rows).unwrap().as_array().unwrap().clone()
}

fn count(client: &mut Session) -> String {
    client.text("SELECT count(*) FROM s3_export.history")
}

/// SHA-256 of the object at that URL.
fn sha256(db: &Database, url: &str) -> String {
    let body = db.bucket.get(db.bucket.key(url));
    db.client().query_one("SELECT encode(sha256($1), 'hex')", &[&&body[..]]).unwrap().get(0)
}

#[test]
fn a_row_says_who_exported_what_and_where_to() {
    let db = Database::new("history");
    let (analyst, service) = (db.role("analyst", &["s3_export_member"]), db.role("service", &[]));
    db.client().batch_execute(&format!("GRANT {analyst} TO {service}")).unwrap();
    let mut client = db.client_as(&service);
    client.batch_execute(&format!("SET ROLE {analyst}; SET application_name = 'nightly'")).unwrap();
    let query = "SELECT i, i % 3 AS part FROM generate_series(1, 2500) i";
    let arguments =
        r#"compression => 'gzip', partition_by => '{part}', options => '{"run_key": "k1", "manifest_name": "all.json"}'"#;
    let exported = db.export_in(&mut client, query, arguments).unwrap();
    let row = rows(&mut client).remove(0);
    for (column, expected) in [
        ("export_id", exported.export_id.to_string()),
        ("session_role", service.clone()),
        ("role", analyst.clone()),
        ("application_name", "nightly".to_owned()),
        ("database", db.name.clone()),
        ("uri", db.bucket.uri(&exported.prefix)),
        ("integration", "local".to_owned()),
        ("format", "json".to_owned()),
        ("compression", "gzip".to_owned()),
        ("manifest", exported.manifest.clone()),
        ("manifest_sha256", sha256(&db, &exported.manifest)),
        ("run_key", "k1".to_owned()),
        ("query_sha256", client.text(&format!("SELECT encode(sha256(convert_to({}, 'UTF8')), 'hex')", literal(query)))),
    ] {
        assert_eq!(row[column], expected, "{column}");
    }
    let counts = (row["documents"].as_i64(), row["files"].as_i64(), row["bytes"].as_i64());
    assert_eq!(counts, (Some(2500), Some(exported.files), Some(exported.bytes)));
    for column in ["query", "aws_role", "feed", "feed_run"] {
        assert_eq!(row[column], Value::Null, "{column}");
    }
    let in_time = "SELECT started_at <= finished_at AND finished_at <= clock_timestamp() FROM s3_export.history";
    assert_eq!(client.text(in_time), "t");

    // A run that exists is returned, which is no export; one that is replaced is one.
    let again = db.export_to(&mut client, &exported.prefix, query, arguments).unwrap();
    assert_eq!((again.export_id, count(&mut client).as_str()), (exported.export_id, "1"));
    let replaced = r#"options => '{"run_key": "k1", "existing_run": "replace"}'"#;
    db.export_to(&mut client, &exported.prefix, query, replaced).unwrap();
    assert_eq!(count(&mut client), "2");
    // The text is a superuser's to store.
    refused(client.batch_execute("SET s3_export.history_query = on")).sqlstate("42501");
    db.client().batch_execute(&format!("ALTER ROLE {analyst} SET s3_export.history_query = on")).unwrap();
    let mut client = db.client_as(&analyst);
    db.export_in(&mut client, "SELECT 7 AS a", "format => 'parquet'").unwrap();
    let row = rows(&mut client).pop().unwrap();
    assert_eq!((row["query"].as_str(), row["format"].as_str()), (Some("SELECT 7 AS a"), Some("parquet")));
    assert_eq!(row["manifest_sha256"], sha256(&db, row["manifest"].as_str().unwrap()));
}

#[test]
fn a_rollback_takes_the_row_back() {
    let db = Database::new("history_back");
    let mut client = db.client();
    let call = || format!("SELECT {}", db.call(&db.prefix(), "SELECT 1 AS a", ""));
    client.batch_execute(&format!("BEGIN; {}; ROLLBACK", call())).unwrap();
    assert_eq!(count(&mut client), "0");
    client
        .batch_execute(&format!(
            "BEGIN; {}; SAVEPOINT s; {}; ROLLBACK TO s; {}; RELEASE s; SAVEPOINT t; {}; RELEASE t; COMMIT",
            call(),
            call(),
            call(),
            call()
        ))
        .unwrap();
    assert_eq!(count(&mut client), "3");
    refused(db.export_in(&mut client, "SELECT 1 / 0 AS a", "")).sqlstate("22012");
    assert_eq!(count(&mut client), "3");
    // In whatever isolation.
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1; {}; COMMIT", call())).unwrap();
    }
    assert_eq!(count(&mut client), "5");
}

#[test]
fn runs_of_feeds_and_jobs_leave_rows_too() {
    let db = Database::new("history_kinds");
    let (mut client, prefix) = (db.client(), db.prefix());
    table(&mut client, "orders");
    client.batch_execute("INSERT INTO orders (a) VALUES (1), (2)").unwrap();
    client.batch_execute(&create(&db, &prefix, "sequence", "")).unwrap();
    for _ in 0..2 {
        // The second has nothing new, and exports nothing.
        client.batch_execute("SELECT s3_export.run_feed('sequence')").unwrap();
        let all = rows(&mut client);
        assert_eq!((all.len(), all[0]["feed"].as_str(), all[0]["feed_run"].as_i64()), (1, Some("sequence"), Some(1)));
        assert_eq!(all[0]["manifest_sha256"], sha256(&db, all[0]["manifest"].as_str().unwrap()));
    }
    client.batch_execute("SET default_transaction_read_only = on; BEGIN READ WRITE").unwrap();
    let id = enqueued(&db, &mut client, &db.prefix(), "SELECT generate_series(1, 3) AS a", "");
    client.batch_execute("COMMIT; RESET default_transaction_read_only").unwrap();
    let row = ended(&mut client, &id).unwrap();
    assert_eq!((row.get::<_, &str>("status"), row.get::<_, i64>("documents")), ("COMPLETED", 3));
    let job = rows(&mut client).pop().unwrap();
    assert_eq!((job["export_id"].as_str(), job["client_address"].clone()), (Some(&*id), Value::Null));
    assert_eq!(job["session_role"], "postgres");
    // All of them in one view, each once; and a job that was forgotten has been an export.
    let exports = "SELECT string_agg(status || ' ' || documents || ' ' || (queued_at IS NULL), ',' ORDER BY started_at)
         FROM s3_export.exports";
    assert_eq!(client.text(exports), "COMPLETED 2 true,COMPLETED 3 false");
    client.batch_execute("SELECT s3_export.prune('0')").unwrap();
    assert_eq!(client.text(exports), "COMPLETED 2 true,COMPLETED 3 true");
    let seen = client.text(&format!("SELECT uri FROM s3_export.exports WHERE export_id = '{id}'"));
    assert_eq!(seen, job["uri"].as_str().unwrap());
}

#[test]
fn what_cannot_write_leaves_a_line_instead() {
    let db = Database::new("history_line");
    let mut client = db.client();
    client.batch_execute("SET s3_export.history = off").unwrap();
    let unrecorded = db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("RESET s3_export.history").unwrap();
    let prefix = db.prefix();
    client.batch_execute("BEGIN READ ONLY").unwrap();
    let exported = db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(count(&mut client), "0");
    let fields = super::history_log::committed(&db, &exported.export_id.to_string()).unwrap();
    assert_eq!(fields["manifest_sha256"], sha256(&db, &exported.manifest));
    assert!(super::history_log::committed(&db, &unrecorded.export_id.to_string()).is_none());
}

#[test]
fn each_role_sees_what_it_may() {
    let db = Database::new("history_seen");
    let (analyst, other) = (db.role("analyst", &["s3_export_member"]), db.role("other", &["s3_export_member"]));
    let lead = db.role("lead", &[&analyst]);
    let (admin, auditor) = (db.role("admin", &["s3_export_admin"]), db.role("auditor", &["s3_export_auditor"]));
    let (reader, plain) = (db.role("reader", &["pg_read_all_data"]), db.role("plain", &[]));
    db.export_in(&mut db.client_as(&analyst), "SELECT generate_series(1, 2) AS a", "").unwrap();
    db.export_in(&mut db.client_as(&analyst), "SELECT generate_series(1, 3) AS a", "").unwrap();
    db.export_in(&mut db.client_as(&other), "SELECT generate_series(1, 4) AS a", "").unwrap();
    for (who, expected) in [
        (&analyst, "2 5"),
        (&other, "1 4"),
        (&lead, "2 5"),
        (&admin, "3 9"),
        (&auditor, "3 9"),
        (&"postgres".to_owned(), "3 9"),
    ] {
        let mut client = db.client_as(who);
        for statement in [
            "SELECT count(*) || ' ' || sum(documents) FROM s3_export.history",
            "SELECT count(*) || ' ' || sum(documents) FROM s3_export.exports",
            "SELECT sum(exports) || ' ' || sum(documents) FROM s3_export.daily_exports WHERE day >= current_date - 1",
        ] {
            assert_eq!(client.text(statement), expected, "{who}: {statement}");
        }
    }
    // Whoever reads all tables reads the view as what it is: of that role's own.
    assert_eq!(db.client_as(&reader).text("SELECT count(*) FROM s3_export.history_entries"), "0");
    refused(db.client_as(&plain).query("SELECT FROM s3_export.history", &[])).sqlstate("42501");
    let daily =
        "SELECT role || ' ' || integration || ' ' || exports || ' ' || documents || ' ' || files FROM s3_export.daily_exports
         WHERE documents = 5";
    assert_eq!(db.client().text(daily), format!("{analyst} local 2 5 2"));
    // A new role of an old name has exported nothing.
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!("DROP ROLE {other}; CREATE ROLE {other} LOGIN; GRANT s3_export_member TO {other}"))
        .unwrap();
    assert_eq!(count(&mut db.client_as(&other)), "0");
    // A role that was renamed has.
    superuser.batch_execute(&format!("ALTER ROLE {analyst} RENAME TO {analyst}_2")).unwrap();
    assert_eq!(count(&mut db.client_as(&format!("{analyst}_2"))), "2");
    superuser.batch_execute(&format!("ALTER ROLE {analyst}_2 RENAME TO {analyst}")).unwrap();
    // A row of another cluster is a role's only if the name is the role's as well.
    superuser.batch_execute("UPDATE s3_export.history_entries SET cluster = 1").unwrap();
    assert_eq!(count(&mut db.client_as(&analyst)), "2");
    superuser.batch_execute(&format!("UPDATE s3_export.history_entries SET role = '{other}'")).unwrap();
    assert_eq!((count(&mut db.client_as(&analyst)), count(&mut db.client_as(&auditor))), ("0".to_owned(), "3".to_owned()));
}

#[test]
fn a_dump_restores_the_history() {
    let db = Database::new("history_dumped");
    let analyst = db.role("analyst", &["s3_export_member"]);
    db.export_in(&mut db.client_as(&analyst), "SELECT 1 AS a", "").unwrap();
    let restored = Database::empty("history_restored", "TEMPLATE template0");
    restored.restore(&db.dump());
    let all = "SELECT jsonb_agg(h) FROM s3_export.history_entries AS h";
    assert_eq!(restored.client().text(all), db.client().text(all));
    assert_eq!(count(&mut restored.client_as(&analyst)), "1");
}

#[test]
fn a_superuser_prunes_what_is_older_than_a_day() {
    let db = Database::new("history_pruned");
    let mut client = db.client();
    for _ in 0..3 {
        db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    }
    for age in ["0", "23 hours 59 minutes"] {
        refused(client.batch_execute(&format!("SELECT s3_export.prune_history('{age}')"))).sqlstate("22023").message("one day");
    }
    refused(client.batch_execute("SELECT s3_export.prune_history(NULL)")).sqlstate("22004");
    assert_eq!(client.text("SELECT s3_export.prune_history('1 day')"), "0");
    client
        .batch_execute(
            "UPDATE s3_export.history_entries SET finished_at = finished_at - interval '25 hours'
             WHERE export_id = (SELECT min(export_id::text)::uuid FROM s3_export.history_entries)",
        )
        .unwrap();
    assert_eq!(client.text("SELECT s3_export.prune_history('1 day')"), "1");
    assert_eq!(count(&mut client), "2");
}
