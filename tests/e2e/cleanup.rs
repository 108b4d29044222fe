//! `s3_export.cleanup`: finds what a crash has left, and nothing else; and the option `existing`.

use uuid::{ContextV7, Timestamp, Uuid};

use super::fixture::{Action, Cluster, Database, Gateway, Integration, Session, StandIn, refused};

/// An export id of so many days ago.
fn id_of(days_ago: u64) -> Uuid {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Uuid::new_v7(Timestamp::from_unix(ContextV7::new(), now.as_secs() - days_ago * 24 * 60 * 60, 0))
}

/// `kind object deleted` of each row, the bucket's name and prefix left out, in order.
fn cleanup(db: &Database, client: &mut Session, prefix: &str, arguments: &str) -> Result<Vec<String>, postgres::Error> {
    let uri = db.bucket.uri(prefix);
    let rows =
        client.query(&format!("SELECT kind, object, deleted FROM s3_export.cleanup('{uri}', 'local'{arguments})"), &[])?;
    let mut found: Vec<String> = rows
        .iter()
        .map(|row| {
            let object = row.get::<_, &str>(1).strip_prefix(&format!("{uri}/")).unwrap();
            format!("{} {object} {}", row.get::<_, &str>(0), row.get::<_, bool>(2))
        })
        .collect();
    found.sort();
    Ok(found)
}

#[test]
fn old_files_without_a_manifest_are_listed_and_deleted_when_told_and_nothing_else_is() {
    let db = Database::new("cleanup");
    let (mut client, prefix) = (db.client(), db.prefix());
    let (dead, nested, in_folder, young, complete) = (id_of(8), id_of(30), id_of(9), id_of(6), id_of(400));
    let orphans = [
        format!("{dead}-000001.json"),
        format!("{dead}-000002.json"),
        format!("_{dead}.probe"),
        format!("a/b/{nested}-1234567.json.gz"),
        format!("{in_folder}/000001.json"),
    ];
    let others = [
        format!("{young}-000001.json"),
        format!("{complete}-000001.json"),
        format!("_{complete}.manifest"),
        format!("{dead}.json"),
        format!("x{dead}-000001.json"),
        "000001.json".to_owned(),
        "readme.txt".to_owned(),
        format!("{}-000001.json", Uuid::new_v4()),
    ];
    for name in orphans.iter().chain(&others) {
        db.bucket.put(&format!("{prefix}/{name}"), b"x");
    }
    for id in [dead, young] {
        db.bucket.begin_multipart(&format!("{prefix}/{id}-000003.json"));
    }
    db.bucket.put(&format!("{prefix}2/{dead}-000001.json"), b"beside");
    let mut expected: Vec<String> = orphans.iter().map(|name| format!("file {name} false")).collect();
    expected.push(format!("multipart upload {dead}-000003.json false"));
    expected.sort();

    assert_eq!(cleanup(&db, &mut client, &prefix, "").unwrap(), expected);
    assert_eq!(cleanup(&db, &mut client, &prefix, ", older_than => '29 days'").unwrap().len(), 1);
    assert!(cleanup(&db, &mut client, &prefix, ", older_than => '1000000 years'").unwrap().is_empty());
    let all = db.bucket.list(&prefix).len();
    assert_eq!(all, orphans.len() + others.len() + 1, "a dry run deletes nothing");

    let deleted: Vec<String> = expected.iter().map(|row| row.replace(" false", " true")).collect();
    assert_eq!(cleanup(&db, &mut client, &prefix, ", dry_run => false").unwrap(), deleted);
    let mut left: Vec<String> = db.bucket.list(&format!("{prefix}/")).into_iter().map(|object| object.key).collect();
    left.sort();
    let mut kept: Vec<String> = others.iter().map(|name| format!("{prefix}/{name}")).collect();
    kept.sort();
    assert_eq!(left, kept);
    assert_eq!(db.bucket.multipart_uploads(&prefix), [format!("{prefix}/{young}-000003.json")]);
    assert_eq!(db.bucket.list(&format!("{prefix}2/")).len(), 1);
    assert!(cleanup(&db, &mut client, &prefix, ", dry_run => false").unwrap().is_empty());
}

#[test]
fn more_orphans_than_a_page_or_a_batch_holds() {
    let db = Database::new("cleanup_many");
    let (mut client, prefix) = (db.client(), db.prefix());
    db.export_to(&mut client, &prefix, "SELECT generate_series(1, 2300) AS a", "output_chunk_size => 1").unwrap();
    let manifest = db.bucket.manifests(&prefix).remove(0);
    assert!(cleanup(&db, &mut client, &prefix, ", older_than => '0', force => true").unwrap().is_empty());
    db.bucket.empty(&manifest);
    let deleted = cleanup(&db, &mut client, &prefix, ", older_than => '0', force => true, dry_run => false").unwrap();
    assert_eq!(deleted.len(), 2300);
    assert!(deleted.iter().all(|row| row.ends_with("true")));
    db.bucket.nothing_left(&prefix);
}

/// In any database of the cluster.
#[test]
fn an_export_that_still_runs_is_left_alone() {
    let db = Database::new("cleanup_running");
    let (mut client, mut exporting, prefix) = (db.client(), db.client(), db.prefix());
    let five = "SELECT generate_series(1, 5) AS a";
    exporting.batch_execute("BEGIN").unwrap();
    db.export_to(&mut exporting, &prefix, five, "output_chunk_size => 1").unwrap();
    assert_eq!((db.bucket.files(&prefix).len(), db.bucket.manifests(&prefix).len()), (5, 0));
    let now = ", older_than => '0', force => true, dry_run => false";
    assert!(cleanup(&db, &mut client, &prefix, now).unwrap().is_empty());
    let elsewhere = Database::new("cleanup_elsewhere");
    assert!(cleanup(&elsewhere, &mut elsewhere.client(), &prefix, now).unwrap().is_empty());
    exporting.batch_execute("COMMIT").unwrap();
    assert!(cleanup(&db, &mut client, &prefix, now).unwrap().is_empty());
    assert_eq!((db.bucket.files(&prefix).len(), db.bucket.manifests(&prefix).len()), (5, 1));
}

/// In the same transaction no lock keeps one from one's own.
#[test]
fn a_transaction_that_has_exported_cannot_clean_up() {
    let db = Database::new("cleanup_own");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("SAVEPOINT s").unwrap();
    let now = ", older_than => '0', force => true, dry_run => false";
    refused(cleanup(&db, &mut client, &prefix, now)).sqlstate("55000").message("has exported");
    client.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
    assert_eq!((db.bucket.files(&prefix).len(), db.bucket.manifests(&prefix).len()), (1, 1));
}

/// A portal that fails inside a savepoint takes its own locks with it, though what it exported before goes on to commit.
#[test]
fn an_export_of_a_cursor_that_fails_later_is_still_left_alone() {
    let db = Database::new("cleanup_portal");
    let (mut client, mut exporting, prefix) = (db.client(), db.client(), db.prefix());
    exporting
        .batch_execute(&format!(
            "BEGIN; DECLARE c CURSOR FOR SELECT num_docs_inserted FROM generate_series(1, 2) AS n,
                 LATERAL s3_export('{}', 'local', format('SELECT 1 / (2 - %s) AS a', n));
             FETCH c; SAVEPOINT s",
            db.bucket.uri(&prefix)
        ))
        .unwrap();
    refused(exporting.batch_execute("FETCH c")).sqlstate("22012");
    exporting.batch_execute("ROLLBACK TO s").unwrap();
    let now = ", older_than => '0', force => true, dry_run => false";
    assert!(cleanup(&db, &mut client, &prefix, now).unwrap().is_empty());
    exporting.batch_execute("COMMIT").unwrap();
    assert_eq!((db.bucket.files(&prefix).len(), db.bucket.manifests(&prefix).len()), (1, 1));
}

/// Locks of all its exports would fill the table that all sessions share.
#[test]
fn a_transaction_of_very_many_exports_keeps_all_from_being_cleaned_up() {
    let db = Database::new("cleanup_locks");
    // In a cluster of its own: the other tests' clean-ups would find nothing either.
    let cluster = Cluster::copy();
    let session = || cluster.session(&db.name, "postgres");
    let (mut client, mut exporting, prefix) = (session(), session(), db.prefix());
    db.bucket.put(&format!("{prefix}/{}-000001.json", id_of(8)), b"x");
    let many = format!(
        "BEGIN; SELECT count(*) FROM generate_series(1, 400) AS n, LATERAL s3_export('{}', 'local', 'SELECT ' || n || ' AS n')",
        db.bucket.uri(&prefix)
    );
    exporting.batch_execute(&many).unwrap();
    let locks = "SELECT count(*) < 300 FROM pg_locks WHERE locktype = 'advisory' AND pid = ";
    assert_eq!(client.text(&format!("{locks}{}", exporting.pid)), "t");
    assert!(cleanup(&db, &mut client, &prefix, "").unwrap().is_empty());
    assert!(super::fixture::messages(&client.notices()).contains("hundreds of exports"));
    exporting.batch_execute("ROLLBACK").unwrap();
    assert_eq!(cleanup(&db, &mut client, &prefix, ", dry_run => false").unwrap().len(), 1);
    db.bucket.nothing_left(&prefix);
}

#[test]
fn what_is_younger_than_a_day_needs_force_and_what_makes_no_sense_is_refused() {
    let db = Database::new("cleanup_refused");
    let (mut client, prefix) = (db.client(), db.prefix());
    for (arguments, sqlstate) in [
        (", older_than => '23 hours'", "22023"),
        (", older_than => '-1 day', force => true", "22023"),
        (", older_than => NULL", "22004"),
        (", dry_run => NULL", "22004"),
        (", force => NULL", "22004"),
    ] {
        refused(cleanup(&db, &mut client, &prefix, arguments)).sqlstate(sqlstate);
    }
    refused(cleanup(&db, &mut client, &prefix, ", older_than => '1 hour'")).hint("force => true");
    refused(client.query("SELECT * FROM s3_export.cleanup('s3://elsewhere', 'local')", &[])).sqlstate("42501");
    refused(client.query("SELECT * FROM s3_export.cleanup('s3://exports', 'absent')", &[])).sqlstate("42704");
    let mut member = db.client_as(&db.role("member", &["s3_export_member"]));
    refused(cleanup(&db, &mut member, &prefix, "")).sqlstate("42501").message("permission denied for function");
}

#[test]
fn a_store_that_lets_nobody_delete_is_told_of() {
    let db = Database::new("cleanup_denied");
    let (mut client, prefix) = (db.client(), db.prefix());
    db.bucket.put(&format!("{prefix}/{}-000001.json", id_of(8)), b"x");
    let gateway = Gateway::to(&Integration::local().endpoint, |request| match request.step() {
        "delete" => Action::Answer("HTTP/1.1 403 Forbidden".into(), "<Error><Code>AccessDenied</Code></Error>".into()),
        _ => Action::Forward,
    });
    client.batch_execute("DELETE FROM s3_export.integrations").unwrap();
    Integration { endpoint: gateway.endpoint(), ..Integration::local() }.create(&mut client).unwrap();
    let rows = cleanup(&db, &mut client, &prefix, ", dry_run => false").unwrap();
    assert!(rows.len() == 1 && rows[0].ends_with("false"), "{rows:?}");
}

/// The session policy of an assumed role, which ministack enforces, allows what each needs.
#[test]
fn cleanup_and_existing_work_with_an_assumed_role() {
    let db = Database::new("cleanup_role");
    let StandIn { endpoint, access_key_id, secret_access_key, role, external_id } = StandIn::ministack();
    let mut client = db.client();
    client
        .batch_execute(&format!(
            "DELETE FROM s3_export.integrations;
             SELECT s3_export.create_integration('local', access_key_id => '{access_key_id}', secret_access_key => '{secret_access_key}',
                 aws_role => '{role}', aws_external_id => '{external_id}', endpoint => '{endpoint}', path_style => true,
                 allowed_locations => '{{s3://exports}}', options => '{{\"sts_endpoint\": \"{endpoint}\"}}')"
        ))
        .unwrap();
    let bucket = super::fixture::Bucket::of(&StandIn::ministack(), "exports");
    let prefix = db.prefix();
    let orphan = format!("{prefix}/{}-000001.json", id_of(8));
    bucket.put(&orphan, b"x");
    let rows = cleanup(&db, &mut client, &prefix, ", dry_run => false").unwrap();
    assert!(rows.len() == 1 && rows[0].ends_with("true"), "{rows:?}");
    assert!(bucket.list(&prefix).is_empty());
    let empty = r#"options => '{"existing": "error"}'"#;
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", empty).unwrap();
    refused(db.export_to(&mut client, &prefix, "SELECT 1 AS a", empty)).sqlstate("42710");
}

#[test]
fn existing_error_refuses_a_folder_that_holds_objects() {
    let db = Database::new("existing");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("CREATE SEQUENCE ran").unwrap();
    let error = r#"options => '{"existing": "error"}'"#;
    db.bucket.put(&format!("{prefix}2/x"), b"beside it");
    assert_eq!(db.export_to(&mut client, &prefix, "SELECT 1 AS a", error).unwrap().documents, 1);
    refused(db.export_to(&mut client, &prefix, "SELECT nextval('ran')", error))
        .sqlstate("42710")
        .message("already holds objects")
        .detail(&prefix)
        .hint("existing");
    assert_eq!(client.text("SELECT is_called FROM ran"), "f");
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", r#"options => '{"existing": "append"}'"#).unwrap();
    db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap();
    assert_eq!(db.bucket.manifests(&prefix).len(), 3);
    db.refuse("SELECT 1 AS a", r#"options => '{"existing": "overwrite"}'"#).sqlstate("22023").detail("append");
}
