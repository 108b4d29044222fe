//! Attacks on the history: nobody but an export writes a row, and nobody but a superuser deletes one.

use super::fixture::{Database, ended, enqueued, refused};

const WRITES: [&str; 6] = [
    "INSERT INTO s3_export.history_entries SELECT gen_random_uuid(), session_role, session_role_oid, role, role_oid, application_name,
         client_address, database, uri, integration, integration_id, aws_role, query_sha256, query, format, compression, documents, files,
         bytes, manifest_bytes, started_at, finished_at, manifest, manifest_sha256, feed, feed_run, run_key, cluster FROM s3_export.history_entries",
    "INSERT INTO s3_export.history_entries DEFAULT VALUES",
    "UPDATE s3_export.history_entries SET bytes = 0",
    "DELETE FROM s3_export.history_entries",
    "TRUNCATE s3_export.history_entries",
    "COPY s3_export.history_entries FROM PROGRAM 'true'",
];

#[test]
fn attack_a_history_that_is_forged_or_emptied() {
    let db = Database::new("forged");
    let mut superuser = db.client();
    db.export("SELECT 1 AS a");
    let mut exports = 1;
    for (name, memberships, attributes) in [
        ("member", vec!["s3_export_member"], ""),
        ("admin", vec!["s3_export_admin", "s3_export_member", "s3_export_auditor"], ""),
        ("bypass", vec!["s3_export_admin", "s3_export_member"], "BYPASSRLS"),
        ("creator", vec!["s3_export_admin"], "CREATEROLE CREATEDB"),
        ("writer", vec!["pg_write_all_data", "pg_read_all_data"], ""),
        ("writing_bypass", vec!["pg_write_all_data", "pg_read_all_data"], "BYPASSRLS"),
    ] {
        let role = db.role(name, &memberships);
        superuser.batch_execute(&format!("ALTER ROLE {role} {attributes}")).unwrap();
        let mut client = db.client_as(&role);
        for write in WRITES {
            refused(client.batch_execute(write)).sqlstate("42501");
        }
        refused(client.batch_execute("SELECT s3_export.prune_history('1 day')")).sqlstate("42501");
        if memberships.contains(&"s3_export_member") {
            // What is set before the library is loaded counts as little as afterwards.
            client.batch_execute("SET s3_export.history = off").unwrap();
            exports += 1;
            db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
            refused(client.batch_execute("SET s3_export.history = off")).sqlstate("42501");
            refused(client.batch_execute("SET s3_export.log_exports = off")).sqlstate("42501");
        }
        for view in ["history", "exports", "daily_exports"] {
            for write in ["DELETE FROM", "TRUNCATE"] {
                assert!(client.batch_execute(&format!("{write} s3_export.{view}")).is_err(), "{role} {write} {view}");
            }
        }
        for ddl in [
            "ALTER TABLE s3_export.history_entries DISABLE TRIGGER ALL",
            "ALTER TABLE s3_export.history_entries DISABLE ROW LEVEL SECURITY",
            "DROP TABLE s3_export.history_entries",
            "SET session_replication_role = replica",
            "CREATE OR REPLACE FUNCTION s3_export.keep_history() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        ] {
            refused(client.batch_execute(ddl)).sqlstate("42501");
        }
        // Whoever is another role meanwhile is no superuser either.
        for granted in memberships {
            client.batch_execute(&format!("SET ROLE {granted}")).unwrap();
            refused(client.batch_execute("DELETE FROM s3_export.history_entries")).sqlstate("42501");
            client.batch_execute("RESET ROLE").unwrap();
        }
    }
    // What was granted by mistake lets nobody write either.
    let app = db.role("app", &["s3_export_admin", "s3_export_member"]);
    superuser
        .batch_execute(&format!(
            "ALTER ROLE {app} BYPASSRLS; GRANT ALL ON ALL TABLES IN SCHEMA s3_export TO {app};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA s3_export TO {app}"
        ))
        .unwrap();
    let mut client = db.client_as(&app);
    for write in &WRITES[..5] {
        refused(client.batch_execute(write)).sqlstate("42501").message("only exports write the history");
    }
    refused(client.batch_execute("SELECT s3_export.prune_history('1 day')")).sqlstate("42501").message("superuser");
    superuser.batch_execute(&format!("DROP OWNED BY {app}")).unwrap();
    let kept = "SELECT count(*) || ' ' || sum(bytes) FROM s3_export.history_entries";
    assert_eq!(superuser.text(kept), format!("{exports} {}", 8 * exports));
}

/// Code of somebody else's that hung on the table would run as the superuser, with each export.
#[test]
fn attack_foreign_code_on_the_history() {
    let db = Database::new("history_code");
    let app = db.role("app", &["s3_export_member"]);
    let mut superuser = db.client();
    superuser
        .batch_execute(&format!(
            "GRANT TRIGGER ON s3_export.history_entries TO {app}; CREATE SCHEMA app AUTHORIZATION {app};
             GRANT EXECUTE ON FUNCTION s3_export.keep_history() TO {app}"
        ))
        .unwrap();
    let mut client = db.client_as(&app);
    client
        .batch_execute(&format!(
            "CREATE FUNCTION app.climb() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN EXECUTE 'ALTER ROLE {app} SUPERUSER'; RETURN NULL; END $$;
             CREATE FUNCTION app.never() RETURNS boolean LANGUAGE sql AS 'SELECT false'"
        ))
        .unwrap();
    for (make, undo) in [
        (
            "CREATE TRIGGER climb BEFORE INSERT ON s3_export.history_entries FOR EACH ROW EXECUTE FUNCTION app.climb()",
            "DROP TRIGGER climb ON s3_export.history_entries",
        ),
        (
            "CREATE OR REPLACE TRIGGER keep_history BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON s3_export.history_entries
                 FOR EACH STATEMENT WHEN (app.never()) EXECUTE FUNCTION s3_export.keep_history()",
            "CREATE OR REPLACE TRIGGER keep_history BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON s3_export.history_entries
                 FOR EACH STATEMENT EXECUTE FUNCTION s3_export.keep_history()",
        ),
    ] {
        client.batch_execute(make).unwrap();
        for session in [&mut client, &mut superuser] {
            let prefix = db.prefix();
            refused(db.export_to(session, &prefix, "SELECT 1 AS a", "")).sqlstate("55000").message("history_entries");
            db.bucket.nothing_left(&prefix);
        }
        superuser.batch_execute(undo).unwrap();
    }
    for (make, undo) in [
        (
            "CREATE RULE r AS ON INSERT TO s3_export.history_entries DO INSTEAD NOTHING",
            "DROP RULE r ON s3_export.history_entries",
        ),
        ("CREATE TABLE app.child () INHERITS (s3_export.history_entries)", "DROP TABLE app.child"),
    ] {
        superuser.batch_execute(make).unwrap();
        refused(db.export_in(&mut client, "SELECT 1 AS a", "")).sqlstate("55000").message("history_entries");
        superuser.batch_execute(undo).unwrap();
    }
    assert_eq!(superuser.text(&format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{app}'")), "f");
    // Functions and operators in front of the search path, and settings that the query changes.
    client
        .batch_execute(
            "CREATE FUNCTION app.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT ''epoch''::timestamptz';
             CREATE FUNCTION app.inet_client_addr() RETURNS inet LANGUAGE sql AS 'SELECT ''8.8.8.8''::inet';
             CREATE TEMP TABLE pg_roles AS SELECT 10::oid AS oid, 'nobody'::name AS rolname;
             CREATE TEMP TABLE history_entries (a int); SET search_path = app, pg_temp, pg_catalog",
        )
        .unwrap();
    let query = "SELECT set_config('transaction_read_only', 'on', true) AS a, set_config('TimeZone', 'Asia/Tokyo', true) AS b,
         set_config('DateStyle', 'German', true) AS c";
    db.export_in(&mut client, query, "").unwrap();
    refused(db.export_in(&mut client, "SELECT set_config('s3_export.history', 'off', true) AS a", "")).sqlstate("42501");
    let row = super::history::rows(&mut superuser).pop().unwrap();
    assert_eq!((row["role"].as_str(), row["client_address"].as_str() != Some("8.8.8.8")), (Some(&*app), true));
    assert_eq!(superuser.text("SELECT count(*) FROM s3_export.history WHERE finished_at > now() - interval '1 hour'"), "1");
    superuser.batch_execute(&format!("DROP OWNED BY {app}")).unwrap();
}

/// A trigger that replication switches off would guard nothing.
#[test]
fn attack_the_history_as_a_replica() {
    let db = Database::new("history_replica");
    db.export("SELECT 1 AS a");
    let role = db.role("replica", &["pg_write_all_data", "pg_read_all_data"]);
    let mut superuser = db.client();
    superuser.batch_execute(&format!("ALTER ROLE {role} BYPASSRLS")).unwrap();
    if db.major() >= 15 {
        superuser.batch_execute(&format!("GRANT SET ON PARAMETER session_replication_role TO {role}")).unwrap();
    }
    let mut client = db.client_as(&role);
    client.batch_execute("SET session_replication_role = replica").unwrap();
    refused(client.batch_execute("DELETE FROM s3_export.history_entries")).sqlstate("42501");
    superuser.batch_execute(&format!("REVOKE SET ON PARAMETER session_replication_role FROM {role}")).unwrap();
    assert_eq!(superuser.text("SELECT count(*) FROM s3_export.history"), "1");
}

/// Postgres may run a condition of the caller's before that of a view, unless the view is a barrier.
#[test]
fn attack_a_condition_sees_no_row_of_others() {
    let db = Database::new("exports_leak");
    let (one, other) = (db.role("one", &["s3_export_member"]), db.role("other", &["s3_export_member"]));
    db.client().batch_execute("UPDATE s3_export.integrations SET usage_role = 'public'").unwrap();
    let mut client = db.client_as(&one);
    let id = enqueued(&db, &mut client, &db.prefix(), "SELECT 1 AS a, 'TOP SECRET' AS s", "");
    ended(&mut client, &id).unwrap();
    db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    let mut client = db.client_as(&other);
    for view in ["exports", "history", "feeds"] {
        for column in ["query", "uri"].into_iter().chain((view == "exports").then_some("options")) {
            let leak = format!("SELECT count(*) FROM s3_export.{view} WHERE {column}::text <> '' AND {column}::text::int = 1");
            assert_eq!(client.text(&leak), "0", "{view}.{column}");
        }
    }
}
