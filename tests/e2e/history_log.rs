//! Lines of the log about exports: `s3_export.log_exports`.

use serde_json::Value;

use super::fixture::{Action, Database, Gateway, Integration, refused};

/// The lines of the server's log that hold `text`, as far as they are the extension's.
fn lines(db: &Database, text: &str) -> Vec<String> {
    let log = std::fs::read(db.environment().run_dir.join("postgres.log")).unwrap();
    let log = String::from_utf8_lossy(&log).into_owned();
    // What goes on in a further line begins with a tab.
    let ours = |line: &&str| {
        line.starts_with("20")
            && ["LOG:  export ", "LOG:  an export failed"].iter().any(|part| line.contains(part))
            && line.contains(text)
    };
    log.lines().filter(ours).map(str::to_owned).collect()
}

/// The JSON at the end of a line.
fn fields(line: &str) -> Value {
    let (_, json) = line.split_once("; {").unwrap_or_else(|| panic!("{line}"));
    serde_json::from_str(&format!("{{{json}")).unwrap()
}

/// What the log says of an export that is committed, if it has a line of it.
pub fn committed(db: &Database, export_id: &str) -> Option<Value> {
    let mut found = lines(db, &format!("LOG:  export {export_id}: "));
    assert!(found.len() <= 1, "{found:?}");
    found.pop().map(|line| fields(&line))
}

#[test]
fn a_line_of_a_committed_export_has_what_the_row_has() {
    let db = Database::new("log_committed");
    let mut client = db.client();
    client.batch_execute("SET s3_export.log_exports = 'committed'; SET application_name = 'nightly'").unwrap();
    let exported = db.export_in(&mut client, "SELECT 1 AS a", r#"options => '{"run_key": "k"}'"#).unwrap();
    let line = committed(&db, &exported.export_id.to_string()).unwrap();
    let row = super::history::rows(&mut client).remove(0);
    for (column, value) in row.as_object().unwrap() {
        let is_of_line = !matches!(&**column, "started_at" | "finished_at" | "integration_id") && !value.is_null();
        assert!(!is_of_line || line[column] == *value, "{column}: {line}");
    }
    // Values of a boolean mean what they meant.
    for (value, has_line) in [("on", true), ("true", true), ("1", true), ("off", false), ("false", false), ("all", true)] {
        client.batch_execute(&format!("SET s3_export.log_exports = '{value}'")).unwrap();
        let exported = db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
        assert_eq!(committed(&db, &exported.export_id.to_string()).is_some(), has_line, "{value}");
    }
    refused(client.batch_execute("SET s3_export.log_exports = 'some'")).sqlstate("22023");
}

#[test]
fn failures_have_lines_where_all_are_asked_for() {
    let db = Database::new("log_failures");
    let mut client = db.client();
    client.batch_execute("SET s3_export.log_exports = 'committed'").unwrap();
    refused(db.export_in(&mut client, "SELECT 1 / 0 AS a", "")).sqlstate("22012");
    assert!(lines(&db, &db.name).is_empty());
    client.batch_execute("SET s3_export.log_exports = 'all'; SET client_min_messages = 'debug1'").unwrap();
    let failed = |sqlstate: &str| {
        let found = lines(&db, &format!("failed (SQLSTATE {sqlstate}); "));
        let of_db: Vec<Value> = found.iter().map(|line| fields(line)).filter(|line| line["database"] == *db.name).collect();
        assert_eq!(of_db.len(), 1, "{sqlstate}: {found:?}");
        of_db[0].clone()
    };
    // What Postgres raises, what we raise, and what comes before an export is known.
    let prefix = db.prefix();
    refused(db.export_to(&mut client, &prefix, "SELECT 1 / 0 AS a", "")).sqlstate("22012");
    let line = failed("22012");
    assert_eq!((line["uri"].as_str(), line["integration"].as_str()), (Some(&*db.bucket.uri(&prefix)), Some("local")));
    assert_eq!(line["query_sha256"], client.text("SELECT encode(sha256('SELECT 1 / 0 AS a'), 'hex')"));
    refused(db.export_by(&mut client, "absent", "SELECT 1 AS a")).sqlstate("42704");
    assert_eq!(failed("42704")["integration"], "absent");
    refused(client.batch_execute("SELECT s3_export('nowhere', 'local', 'SELECT 1 AS a')")).sqlstate("22023");
    assert_eq!(failed("22023")["role"], "postgres");
    refused(client.batch_execute("SELECT s3_export.run_feed('absent')")).sqlstate("42704");
    // A text of the user's stays in its line.
    let forged = "x\nLOG:  export 1 to s3://forged by nobody";
    refused(client.query("SELECT s3_export($1, $2, 'SELECT 1 AS a')::text", &[&db.bucket.uri(&prefix), &forged]));
    assert!(lines(&db, "s3://forged").iter().all(|line| line.contains("an export failed")), "forged");
    // The session goes on.
    assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
    client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    refused(db.export_in(&mut client, "SELECT 'x'::int AS a", "")).sqlstate("22P02");
    client.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
    failed("22P02");
}

#[test]
fn a_commit_that_fails_is_told_too() {
    let db = Database::new("log_commit");
    let gateway = Gateway::to(&Integration::local().endpoint, |request| {
        let is_manifest =
            request.head.lines().next().is_some_and(|line| line.starts_with("PUT ") && line.contains(".manifest"));
        if is_manifest { Action::Answer("HTTP/1.1 403 Forbidden".to_owned(), String::new()) } else { Action::Forward }
    });
    db.create(&Integration { name: "refusing", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client.batch_execute("SET s3_export.log_exports = 'all'").unwrap();
    refused(db.export_by(&mut client, "refusing", "SELECT 1 AS a")).sqlstate("42501");
    let found: Vec<String> =
        lines(&db, "failed (SQLSTATE 42501); ").into_iter().filter(|line| line.contains(&db.name)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.history"), "0");
}

/// Until the rollback, whoever may read the bucket could read the files.
#[test]
fn a_rollback_has_a_line_where_all_are_asked_for() {
    let db = Database::new("log_rolled_back");
    let mut client = db.client();
    client.batch_execute("SET s3_export.log_exports = 'all'; BEGIN; SAVEPOINT s").unwrap();
    let within = db.export_in(&mut client, "SELECT 1 AS a", "").unwrap();
    client.batch_execute("ROLLBACK TO s").unwrap();
    let whole = db.export_in(&mut client, "SELECT generate_series(1, 3) AS a", "").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    for exported in [within, whole] {
        let told = format!("export {} was rolled back: {} documents, 1 files", exported.export_id, exported.documents);
        let found = lines(&db, &told);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(fields(&found[0])["role"], "postgres");
    }
}
