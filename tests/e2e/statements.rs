//! Rockset's statement, pasted whole.

use super::fixture::{Database, Exported, Session, StandIn, ended, literal, refused};

/// A database with Rockset's documented names, and an integration `s3export` that writes to the test's own prefix.
fn rockset(name: &str) -> (Database, Session) {
    let db = Database::new(name);
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE SCHEMA commons;
             CREATE TABLE commons.analytics AS SELECT i AS id, 'event ' || i AS event, now() AS at FROM generate_series(1, 4500) i;
             CREATE TABLE commons.companies (name text, offices jsonb);
             INSERT INTO commons.companies VALUES
                 ('Acme', '[{\"city\": \"Paris\"}, {\"city\": \"Rome\"}]'), ('Globex', '[{\"city\": \"Paris\"}]');
             UPDATE s3_export.integrations SET name = 's3export'",
        )
        .unwrap();
    (db, client)
}

fn run(db: &Database, client: &mut Session, prefix: &str, statement: &str) -> Result<Exported, postgres::Error> {
    let statement = statement.replace("s3://analyticsdata/query1", &db.bucket.uri(prefix));
    db.exported(client, &format!("s3_export({})", literal(&statement)), prefix)
}

#[test]
fn rocksets_first_example_exports_a_whole_table() {
    let (db, mut client) = rockset("example_1");
    let statement = "INSERT INTO 's3://analyticsdata/query1'
  INTEGRATION = 's3export'
SELECT * FROM commons.analytics";
    let prefix = db.prefix();
    let exported = run(&db, &mut client, &prefix, statement).unwrap();
    assert_eq!((exported.documents, exported.files), (4500, 5));
    assert_eq!(db.bucket.documents(&prefix).len(), 4500);
    assert_eq!(db.bucket.values(&prefix)[0]["at"]["__rockset_type"], "timestamp");
}

#[test]
fn rocksets_second_example_targets_2000_documents_a_file() {
    let (db, mut client) = rockset("example_2");
    let statement = "INSERT INTO 's3://analyticsdata/query1'
  INTEGRATION = 's3export'
SELECT * FROM commons.analytics
HINT(s3_sync_op_output_chunk_size=2000)";
    let prefix = db.prefix();
    let exported = run(&db, &mut client, &prefix, statement).unwrap();
    assert_eq!((exported.documents, exported.files), (4500, 3));
    let counts: Vec<i64> = db.bucket.manifest(&prefix)["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["meta"]["record_count"].as_i64().unwrap())
        .collect();
    assert_eq!(counts, [2000, 2000, 500]);
}

/// A statement of Rockset's documentation, with its UNNEST in Postgres's form.
const THIRD: &str = "INSERT INTO 's3://exports/PREFIX'
  CREDENTIALS = (
    AWS_ROLE = 'ROLE',
    AWS_EXTERNAL_ID = 'EXTERNAL_ID'
  )
SELECT ARRAY_AGG(DISTINCT officestotal.value->>'city' ORDER BY officestotal.value->>'city') AS cities
FROM commons.companies, LATERAL jsonb_array_elements(companies.offices) AS officestotal(value)
LIMIT 12";

#[test]
fn rocksets_third_example_aggregates_with_a_role_named_inline() {
    let (db, mut superuser) = rockset("example_3");
    let StandIn { endpoint, role, external_id, .. } = StandIn::ministack();
    let inline = format!(
        r#"[{{"aws_role": "{role}", "allowed_locations": ["s3://exports"], "endpoint": "{endpoint}", "sts_endpoint": "{endpoint}", "path_style": true}}]"#
    );
    superuser.batch_execute(&format!("ALTER DATABASE {} SET s3_export.inline_roles = {}", db.name, literal(&inline))).unwrap();
    let member = db.role("member", &["s3_export_member"]);
    superuser
        .batch_execute(&format!("GRANT USAGE ON SCHEMA commons TO {member}; GRANT SELECT ON commons.companies TO {member}"))
        .unwrap();
    let prefix = db.prefix();
    let statement = THIRD.replace("PREFIX", &prefix).replacen("= 'ROLE'", &format!("= '{role}'"), 1);
    let statement = statement.replace("'EXTERNAL_ID'", &literal(&external_id));
    let call = format!("SELECT num_docs_inserted FROM s3_export({})", literal(&statement));

    // Naming a role is a privilege of its own, in a statement too, and for a job.
    let mut client = db.client_as(&member);
    refused(client.query(&call, &[])).sqlstate("42501").message("s3_export_with_role");
    let call_async = format!("SELECT s3_export_async({})", literal(&statement));
    refused(client.query(&call_async, &[])).sqlstate("42501").message("s3_export_with_role");
    superuser.batch_execute(&format!("GRANT EXECUTE ON FUNCTION s3_export_with_role TO {member}")).unwrap();
    let row = client.query_one(&call, &[]).unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let there = super::fixture::Bucket::of(&StandIn::ministack(), "exports");
    assert_eq!(there.documents(&prefix), [r#"{"cities":["Paris","Rome"]}"#]);

    let id = client.text(&call_async);
    let row = ended(&mut client, &id).unwrap();
    assert_eq!((row.get::<_, Option<String>>("integration"), row.get::<_, i64>("documents")), (None, 1));
    assert_eq!(superuser.text("SELECT count(*) FROM s3_export.jobs WHERE aws_external_id IS NOT NULL"), "0");
}

#[test]
fn a_statement_can_be_a_job() {
    let (db, mut client) = rockset("statement_job");
    let prefix = db.prefix();
    let statement = format!(
        "INSERT INTO '{}' INTEGRATION = 's3export' FORMAT = (TYPE = 'csv', HEADER = TRUE)
         SELECT id % 3 AS k, id FROM commons.analytics PARTITION BY k HINT(s3_sync_op_output_chunk_size = 1000)",
        db.bucket.uri(&prefix)
    );
    let id = client.text(&format!("SELECT s3_export_async({})", literal(&statement)));
    let row = ended(&mut client, &id).unwrap();
    assert_eq!((row.get::<_, i64>("documents"), row.get::<_, i64>("files")), (4500, 6));
    assert!(row.get::<_, String>("query").starts_with("SELECT id % 3 AS k"));
    assert!(row.get::<_, String>("options").contains(r#""partition_by": ["k"]"#));
}

#[test]
fn what_stands_around_the_query_reaches_the_export_and_the_query_is_left_as_it_is() {
    let (db, mut client) = rockset("statement_clauses");
    let prefix = db.prefix();
    let statement = "insert INTO 's3://analyticsdata/query1' -- with a comment; and a semicolon
        format=(include_query_id=TRUE, type='json', wrap_types=false, compression='GZIP')
        /* INTEGRATION = 'none' */ integration='s3export'
        SELECT id, $$PARTITION BY x$$ AS a, E'it\\'s HINT(b=1)' AS b, rank() OVER (PARTITION BY id % 2 ORDER BY id) AS r
        FROM commons.analytics WHERE id <= 10
        ;  ";
    let exported = run(&db, &mut client, &prefix, statement).unwrap();
    assert_eq!(exported.documents, 10);
    let key = &db.bucket.list(&format!("{prefix}/{}/", exported.export_id))[0].key;
    assert!(key.ends_with("/000001.json.gz"), "{key}");
}

#[test]
fn errors_of_the_query_point_into_the_statement() {
    let (db, mut client) = rockset("statement_errors");
    for (query, sqlstate, token) in [
        ("SELECT é FRM commons.analytics", "42601", "commons.analytics"),
        ("SELECT 'ü', nope FROM commons.analytics", "42703", "nope"),
        ("SELECT * FROM commons.nothing WHERE 'ü' = 'ü'", "42P01", "commons.nothing"),
        ("SELECT id + true FROM commons.analytics", "42883", "+ true"),
    ] {
        let statement = format!("INSERT INTO 's3://analyticsdata/query1' /* ü */ INTEGRATION = 's3export' {query} ;");
        refused(run(&db, &mut client, &db.prefix(), &statement)).sqlstate(sqlstate).points_to(token);
    }
    for query in ["DELETE FROM commons.analytics", "SELECT 1; SELECT 2"] {
        let statement =
            format!("INSERT INTO 's3://analyticsdata/query1' INTEGRATION = 's3export' WITH a AS ({query}) SELECT 1");
        assert!(run(&db, &mut client, &db.prefix(), &statement).is_err());
    }
    let several = "INSERT INTO 's3://analyticsdata/query1' INTEGRATION = 's3export' SELECT 1; SELECT 2";
    refused(run(&db, &mut client, &db.prefix(), several)).sqlstate("42601").message("one statement");
    refused(client.query("SELECT s3_export(NULL::text)", &[])).sqlstate("22004").message("statement must not be null");
}

#[test]
fn malformed_statements_say_what_is_wrong_and_where() {
    let (_db, mut client) = rockset("malformed");
    let good = "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1";
    // What is wrong, the message, and what the error points to; "": the end.
    let cases: [(&str, &str, &str); 44] = [
        ("", "the statement is empty", ""),
        ("-- nothing", "the statement is empty", "-- nothing"),
        ("SELECT 1", "expected INSERT, found \"SELECT\"", "SELECT"),
        ("INSERT 's3://b/x' INTEGRATION = 'i' SELECT 1", "expected INTO, found \"'s3://b/x'\"", "'s3://b/x'"),
        ("INSERT INTO t SELECT 1", "expected the uri, as 's3://bucket/prefix', found \"t\"", "t SELECT"),
        ("INSERT INTO \"s3://b/x\" SELECT 1", "expected the uri, as 's3://bucket/prefix', found \"\"s3://b/x\"\"", "\"s3"),
        ("INSERT INTO $$s3://b/x$$ SELECT 1", "expected the uri, as 's3://bucket/prefix', found \"$$s3://b/x$$\"", "$$s3"),
        ("INSERT INTO", "expected the uri, as 's3://bucket/prefix', found the end of the statement", ""),
        (
            "INSERT INTO 's3://b/x'",
            "expected INTEGRATION, CREDENTIALS, FORMAT or the query, found the end of the statement",
            "",
        ),
        ("INSERT INTO 's3://b/x' SELECT 1", "INTEGRATION or CREDENTIALS is missing", "SELECT"),
        ("INSERT INTO 's3://b/x' INTEGRATION 'i' SELECT 1", "expected \"=\", found \"'i'\"", "'i'"),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = i SELECT 1",
            "expected the name of an integration, in single quotes, found \"i\"",
            "i SELECT",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = \"i\" SELECT 1",
            "expected the name of an integration, in single quotes, found \"\"i\"\"",
            "\"i\"",
        ),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i", "unterminated quoted string", "'i"),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT $$a", "unterminated dollar-quoted string", "$$a"),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT \"a", "unterminated quoted identifier", "\"a"),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' /* SELECT 1", "unterminated /* comment", "/* SELECT"),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' INTEGRATION = 'j' SELECT 1",
            "INTEGRATION appears more than once",
            "INTEGRATION = 'j'",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' CREDENTIALS = (AWS_ROLE = 'r', AWS_EXTERNAL_ID = 'x') SELECT 1",
            "INTEGRATION and CREDENTIALS exclude each other",
            "SELECT",
        ),
        ("INSERT INTO 's3://b/x' CREDENTIALS = 'r' SELECT 1", "expected \"(\", found \"'r'\"", "'r'"),
        ("INSERT INTO 's3://b/x' CREDENTIALS = () SELECT 1", "expected a name, found \")\"", ")"),
        ("INSERT INTO 's3://b/x' CREDENTIALS = (AWS_ROLE = 'r') SELECT 1", "AWS_EXTERNAL_ID is missing", "(AWS_ROLE"),
        ("INSERT INTO 's3://b/x' CREDENTIALS = (AWS_EXTERNAL_ID = 'x') SELECT 1", "AWS_ROLE is missing", "(AWS_EXTERNAL_ID"),
        (
            "INSERT INTO 's3://b/x' CREDENTIALS = (AWS_ROLE = 7, AWS_EXTERNAL_ID = 'x') SELECT 1",
            "AWS_ROLE must be a string",
            "AWS_ROLE",
        ),
        (
            "INSERT INTO 's3://b/x' CREDENTIALS = (AWS_ROLE = 'r' AWS_EXTERNAL_ID = 'x') SELECT 1",
            "expected \")\", found \"AWS_EXTERNAL_ID\"",
            "AWS_EXTERNAL_ID",
        ),
        ("INSERT INTO 's3://b/x' CREDENTIALS = (AWS_KEY = 'k') SELECT 1", "unknown credential \"aws_key\"", "AWS_KEY"),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = 'JSON' SELECT 1", "expected \"(\", found \"'JSON'\"", "'JSON'"),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (TYPE 'JSON') SELECT 1",
            "expected \"=\", found \"'JSON'\"",
            "'JSON'",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (TYPE = JSON) SELECT 1",
            "expected a string, a number, TRUE, FALSE, or a list of strings, found \"JSON\"",
            "JSON)",
        ),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (TYPE = TRUE) SELECT 1", "TYPE must be a string", "TYPE"),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (TYPE = 'JSON', TYPE = 'CSV') SELECT 1",
            "TYPE appears more than once",
            "TYPE = 'CSV'",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (KIND = 'JSON') SELECT 1",
            "unknown format option \"kind\"",
            "KIND",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (INCLUDE_QUERY_ID = 'true') SELECT 1",
            "INCLUDE_QUERY_ID must be TRUE or FALSE",
            "INCLUDE_QUERY_ID",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (OUTPUT_CHUNK_BYTES = '1') SELECT 1",
            "OUTPUT_CHUNK_BYTES must be a whole number",
            "OUTPUT_CHUNK_BYTES",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' FORMAT = (TYPE = 'JSON' SELECT 1",
            "expected \")\", found \"SELECT\"",
            "SELECT",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' UPDATE t SET a = 1",
            "expected INTEGRATION, CREDENTIALS, FORMAT or the query, found \"UPDATE\"",
            "UPDATE",
        ),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 HINT(chunk = 1)", "unknown hint \"chunk\"", "chunk"),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 HINT(s3_sync_op_output_chunk_size = 'x')",
            "the number of documents a file must be a whole number up to 2147483647",
            "s3_sync",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 HINT(s3_sync_op_output_chunk_size = 2147483648)",
            "the number of documents a file must be a whole number up to 2147483647",
            "s3_sync",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 PARTITION BY",
            "expected the name of a column, found the end of the statement",
            "",
        ),
        ("INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 PARTITION BY 1", "expected the name of a column, found \"1\"", "1"),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 PARTITION BY a b",
            "expected PARTITION BY, HINT or the end of the statement, found \"b\"",
            "b",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 PARTITION BY a PARTITION BY b",
            "PARTITION BY appears more than once",
            "PARTITION BY b",
        ),
        (
            "INSERT INTO 's3://b/x' INTEGRATION = 'i' SELECT 1 PARTITION BY a; SELECT 2",
            "expected PARTITION BY, HINT or the end of the statement, found \"SELECT\"",
            "SELECT 2",
        ),
    ];
    assert!(client.query(&format!("SELECT s3_export({})", literal(good)), &[]).is_err(), "there is no integration i");
    for (statement, message, token) in cases {
        let refusal = refused(client.query(&format!("SELECT s3_export({})", literal(statement)), &[]));
        refusal.sqlstate("42601");
        assert_eq!(refusal.0.message(), message, "{statement}");
        match refusal.0.position() {
            Some(postgres::error::ErrorPosition::Internal { position, query }) => {
                assert_eq!(query, statement);
                let rest: String = query.chars().skip(*position as usize - 1).collect();
                assert!(if token.is_empty() { rest.is_empty() } else { rest.starts_with(token) }, "{statement}: {rest:?}");
            }
            other => panic!("{statement} points to {other:?}"),
        }
    }
}
