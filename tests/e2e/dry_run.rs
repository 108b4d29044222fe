//! Dry runs: the errors and the names of an export, without the export.

use super::fixture::{Action, Database, Gateway, Integration, Session, literal, refused};

/// `item: value (meaning)`, a line a row.
fn rows(client: &mut Session, call: &str) -> Vec<[String; 3]> {
    let rows = client.query(&format!("SELECT item, value, meaning FROM {call}"), &[]).unwrap();
    rows.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect()
}

fn dry(db: &Database, prefix: &str, query: &str, arguments: &str) -> String {
    db.call(prefix, query, arguments).replacen("s3_export(", "s3_export.dry_run(", 1)
}

fn value<'a>(rows: &'a [[String; 3]], item: &str) -> &'a str {
    let row = rows.iter().find(|row| row[0] == item);
    row.map_or_else(|| panic!("no row {item}: {rows:#?}"), |row| row[1].as_str())
}

#[test]
fn a_dry_run_tells_names_estimates_columns_and_the_policy_and_writes_nothing() {
    let db = Database::new("dry");
    let gateway = Gateway::to(&Integration::local().endpoint, |_| Action::Forward);
    db.create(&Integration { name: "seen", endpoint: gateway.endpoint(), ..Integration::local() });
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT i AS id, current_date AS day, 'x' AS t FROM generate_series(1, 1000) i; ANALYZE t;
             CREATE SEQUENCE ran",
        )
        .unwrap();
    let prefix = db.prefix();
    let call =
        dry(&db, &prefix, "SELECT id, day, t, nextval('ran') AS n FROM t", "partition_by => '{day}', format => 'parquet'");
    let found = rows(&mut client, &call.replace("'local'", "'seen'"));
    assert_eq!(value(&found, "rows"), "1000");
    assert!(value(&found, "row width").parse::<u32>().unwrap() >= 4);
    let uri = db.bucket.uri(&prefix);
    assert_eq!(value(&found, "file"), format!("{uri}/day=<value>/<export_id>-000001.parquet"));
    assert_eq!(value(&found, "manifest"), format!("{uri}/_<export_id>.manifest"));
    let columns: Vec<String> =
        found.iter().filter(|row| row[0] == "column").map(|row| format!("{}: {}", row[1], row[2])).collect();
    assert_eq!(
        columns,
        [
            "id: integer, written as Int32",
            "day: date, in the names of folders only",
            "t: text, written as Utf8",
            "n: bigint, written as Int64"
        ]
    );
    assert_eq!(value(&found, "iam policy"), client.text("SELECT s3_export.iam_policy('seen')"));
    db.bucket.nothing_left(&prefix);
    let written: Vec<_> = gateway.requests().into_iter().filter(|request| !request.head.starts_with("GET")).collect();
    assert!(written.iter().all(|request| request.head.starts_with("HEAD")), "{written:?}");
    assert_eq!(client.text("SELECT is_called FROM ran"), "f", "the query was not run");
    assert_eq!(client.text("SELECT count(*) FROM s3_export.exports"), "0");

    // With the same names, the export does what was said.
    let names = r#"options => '{"single_file": "a.csv", "manifest_name": "m", "success_marker": "_OK", "run_key": "k"}', format => 'csv'"#;
    let found = rows(&mut client, &dry(&db, &prefix, "TABLE t", names));
    for (item, name) in [("file", "a.csv"), ("manifest", "_k.manifest"), ("manifest copy", "m"), ("success marker", "_OK")] {
        assert_eq!(value(&found, item), format!("{uri}/{name}"));
    }
    let policy = value(&found, "iam policy");
    assert!(policy.contains("ReadTheManifestOfAnEarlierRun") && policy.contains("ReadWhoseATakenNameIs"), "{policy}");
    assert!(found.iter().all(|row| row[0] != "existing run"));
    for (option, right) in [(r#""tags": {"a": "b"}"#, "s3:PutObjectTagging"), (r#""existing": "error""#, "s3:ListBucket")] {
        let found = rows(&mut client, &dry(&db, &db.prefix(), "TABLE t", &format!("options => '{{{option}}}'")));
        assert!(value(&found, "iam policy").contains(right), "{option}");
    }
    let exported = db.export_to(&mut client, &prefix, "TABLE t", names).unwrap();
    let found = rows(&mut client, &dry(&db, &prefix, "TABLE t", names));
    assert_eq!(value(&found, "existing run"), exported.export_id.to_string());
    let mut keys: Vec<String> = db.bucket.list(&prefix).into_iter().map(|object| object.key).collect();
    keys.sort();
    assert_eq!(keys, ["_OK", "_k.manifest", "a.csv", "m"].map(|name| format!("{prefix}/{name}")));

    let statement = literal(&format!("INSERT INTO '{uri}' INTEGRATION = 'local' FORMAT = (TYPE = 'JSON') SELECT day FROM t"));
    let found = rows(&mut client, &format!("s3_export.dry_run({statement})"));
    let column = found.iter().find(|row| row[0] == "column").unwrap();
    assert_eq!((&*column[1], &*column[2]), ("day", "date, written as wrapper date"));
}

/// Each is the error of the export, with its SQLSTATE and its place.
#[test]
fn a_dry_run_fails_as_the_export_would() {
    let db = Database::new("dry_errors");
    let (mut client, prefix) = (db.client(), db.prefix());
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE secret AS SELECT 1 AS a").unwrap();
    db.export_to(&mut client, &prefix, "TABLE t", r#"options => '{"manifest_name": "m", "run_key": "k"}'"#).unwrap();
    let before = db.bucket.list(&prefix).len();
    for (query, arguments, sqlstate) in [
        ("SELECT 1 AS a; SELECT 2", "", "42601"),
        ("DELETE FROM t RETURNING a", "", "0A000"),
        ("SELECT b FROM t", "", "42703"),
        ("SELECT 1 AS a, 2 AS a", "", "42701"),
        ("SELECT a FROM t", "partition_by => '{b}'", "42703"),
        ("SELECT ARRAY[a] AS a, 1 AS b FROM t", "partition_by => '{a}'", "42804"),
        ("SELECT a FROM t", "format => 'xml'", "22023"),
        ("SELECT a FROM t", r#"options => '{"header": true}'"#, "22023"),
        ("SELECT a FROM t", r#"options => '{"existing": "error"}'"#, "42710"),
        ("SELECT a FROM t", r#"options => '{"manifest_name": "m"}'"#, "42710"),
        ("SELECT a FROM t", r#"options => '{"run_key": "k", "existing_run": "error"}'"#, "42710"),
        ("SELECT a FROM t", r#"options => '{"max_file_bytes": 5497558138880, "single_file": true}'"#, "53400"),
    ] {
        for call in [db.call(&prefix, query, arguments), dry(&db, &prefix, query, arguments)] {
            refused(client.query(&format!("SELECT * FROM {call}"), &[])).sqlstate(sqlstate);
        }
    }
    let call = dry(&db, &prefix, "SELECT b FROM t", "");
    refused(client.query(&format!("SELECT * FROM {call}"), &[])).points_to("b FROM t");
    let denied = format!("s3_export.dry_run('s3://elsewhere/x', 'local', {})", literal("TABLE t"));
    refused(client.query(&format!("SELECT * FROM {denied}"), &[])).sqlstate("42501");
    assert_eq!(db.bucket.list(&prefix).len(), before);

    // The rights on the tables of the query, which Postgres checks when a query starts.
    let member = db.role("member", &["s3_export_member"]);
    let mut theirs = db.client_as(&member);
    let call = dry(&db, &db.prefix(), "TABLE secret", "");
    refused(theirs.query(&format!("SELECT * FROM {call}"), &[])).sqlstate("42501").message("secret");
    let stranger = db.role("stranger", &[]);
    let mut theirs = db.client_as(&stranger);
    refused(theirs.query(&format!("SELECT * FROM {call}"), &[])).sqlstate("42501");
}

/// A member sees no more by a dry run than in the table of integrations.
#[test]
fn a_member_learns_nothing_of_an_integration_that_it_may_not_use() {
    let db = Database::new("dry_member");
    let (member, team) = (db.role("member", &["s3_export_member"]), db.role("team", &[]));
    db.create(&Integration { name: "theirs", usage_role: &team, ..Integration::local() });
    let mut client = db.client_as(&member);
    client.batch_execute("SET s3_export.output_chunk_size = 10").unwrap();
    let found = rows(&mut client, &dry(&db, &db.prefix(), "SELECT 1 AS a", ""));
    assert!(value(&found, "iam policy").contains("s3:PutObject"));
    let local = Integration::local();
    assert!(
        found.iter().flatten().all(|text| !text.contains(&local.access_key_id) && !text.contains(&local.secret_access_key))
    );
    let call = dry(&db, &db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'theirs'");
    let missing = dry(&db, &db.prefix(), "SELECT 1 AS a", "").replace("'local'", "'theirs2'");
    let told = refused(client.query(&format!("SELECT * FROM {call}"), &[])).0.message().to_owned();
    let other = refused(client.query(&format!("SELECT * FROM {missing}"), &[])).0.message().to_owned();
    assert_eq!(told, other.replace("theirs2", "theirs"));
}
