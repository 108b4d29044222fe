//! Queries that are refused, and errors while they run: nothing stays in the bucket.

use super::fixture::{Database, refused, threads};

#[test]
fn statements_that_are_no_select() {
    let db = Database::new("no_select");
    db.client().batch_execute("CREATE TABLE t (a int); PREPARE p AS SELECT 1").unwrap();
    for (query, name) in [
        ("INSERT INTO t VALUES (1) RETURNING a", "INSERT"),
        ("UPDATE t SET a = 1", "UPDATE"),
        ("DELETE FROM t", "DELETE"),
        ("CREATE TABLE u (a int)", "CREATE TABLE"),
        ("CREATE TABLE u AS SELECT 1", "CREATE TABLE AS"),
        ("DROP TABLE t", "DROP TABLE"),
        ("TRUNCATE t", "TRUNCATE"),
        ("COPY t TO STDOUT", "COPY"),
        ("EXPLAIN SELECT 1", "EXPLAIN"),
        ("EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN"),
        ("SHOW search_path", "SHOW"),
        ("EXECUTE p", "EXECUTE"),
        ("DECLARE c CURSOR FOR SELECT 1", "DECLARE CURSOR"),
        ("FETCH c", "FETCH"),
        ("CALL p()", "CALL"),
        ("DO 'BEGIN END'", "DO"),
        ("LOCK t", "LOCK"),
        ("BEGIN", "BEGIN"),
        ("COMMIT", "COMMIT"),
        ("SET search_path = x", "SET"),
        ("MERGE INTO t USING t s ON false WHEN MATCHED THEN DELETE", "MERGE"),
    ] {
        db.refuse(query, "").sqlstate("0A000").message(name).hint("SELECT, VALUES, TABLE");
    }
}

#[test]
fn selects_that_write_or_lock_at_any_depth() {
    let db = Database::new("writing_selects");
    db.client().batch_execute("CREATE TABLE t (a int)").unwrap();
    for (query, name) in [
        ("WITH w AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM w", "INSERT"),
        ("WITH w AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM w", "UPDATE"),
        ("WITH a AS (SELECT 1), w AS (DELETE FROM t RETURNING a) SELECT * FROM w", "DELETE"),
        ("SELECT * FROM (WITH w AS (DELETE FROM t RETURNING a) SELECT * FROM w) s", "DELETE"),
        ("SELECT (WITH w AS (DELETE FROM t RETURNING a) SELECT a FROM w) AS x", "DELETE"),
        ("SELECT 1 UNION (WITH w AS (DELETE FROM t RETURNING a) SELECT a FROM w)", "DELETE"),
        ("SELECT 1 WHERE EXISTS (SELECT 1 LIMIT (WITH w AS (DELETE FROM t RETURNING a) SELECT a FROM w))", "DELETE"),
        ("WITH o AS (WITH w AS (DELETE FROM t RETURNING a) SELECT * FROM w) SELECT * FROM o", "DELETE"),
        ("VALUES ((WITH w AS (DELETE FROM t RETURNING a) SELECT a FROM w))", "DELETE"),
        ("SELECT * INTO u FROM t", "SELECT INTO"),
        ("SELECT 1 AS a INTO TEMP u UNION SELECT 2", "SELECT INTO"),
        ("SELECT * FROM t FOR UPDATE", "FOR UPDATE"),
        ("SELECT * FROM t FOR KEY SHARE SKIP LOCKED", "FOR"),
        ("SELECT * FROM (SELECT * FROM t FOR UPDATE) s", "FOR UPDATE"),
        ("WITH w AS (SELECT * FROM t FOR SHARE) SELECT * FROM w", "FOR"),
        ("SELECT * FROM t WHERE a IN (SELECT a FROM t FOR NO KEY UPDATE)", "FOR"),
    ] {
        db.refuse(query, "").sqlstate("0A000").message(name).hint("SELECT, VALUES, TABLE");
    }
    assert_eq!(db.client().text("SELECT count(*) FROM pg_tables WHERE tablename = 'u'"), "0");
}

#[test]
fn several_statements_or_none() {
    let db = Database::new("several_statements");
    db.client().batch_execute("CREATE TABLE t (a int)").unwrap();
    for query in ["SELECT 1; SELECT 2", "SELECT 1; DROP TABLE t", "SELECT 1; DROP TABLE t;"] {
        db.refuse(query, "").sqlstate("42601").message("one statement");
    }
    for query in ["", "  ", ";", ";;", "-- nothing", "/* nothing */"] {
        db.refuse(query, "").sqlstate("42601").message("query is empty");
    }
    assert_eq!(db.client().text("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_syntax_error_points_into_the_query() {
    let db = Database::new("syntax_error");
    db.refuse("SELECT 1 FORM t", "").sqlstate("42601").message("syntax error at or near \"t\"").points_to("t");
    db.refuse("SELECT 'Größe' AS g, (1 + ) AS x", "").sqlstate("42601").points_to(") AS x");
    db.refuse("SELECT 'ü' ü FROM WHERE", "").sqlstate("42601").points_to("WHERE");
}

#[test]
fn an_error_in_names_or_types_points_into_the_query() {
    let db = Database::new("unknown_column");
    let query = "SELECT 'ü' AS u, missing FROM pg_catalog.pg_class";
    db.refuse(query, "").sqlstate("42703").message("column \"missing\" does not exist").points_to("missing FROM");
    db.refuse("TABLE nowhere", "").sqlstate("42P01").points_to("nowhere");
    db.refuse("SELECT $1 AS a", "").sqlstate("42P02").points_to("$1");
    db.refuse("SELECT 'x'::int AS a", "").sqlstate("22P02").points_to("'x'");
}

#[test]
fn two_columns_of_one_name() {
    let db = Database::new("duplicate_columns");
    db.refuse("SELECT 1 AS a, 2 AS b, 3 AS a", "").sqlstate("42701").message("\"a\"");
    db.refuse("SELECT a.*, b.* FROM (SELECT 1 AS i) a, (SELECT 2 AS i) b", "").sqlstate("42701").message("\"i\"");
    db.refuse("SELECT x FROM (SELECT 1 AS i, 2 AS i) x", "").sqlstate("42701").message("\"i\"");
    db.refuse("SELECT ARRAY[x] AS xs FROM (SELECT 1 AS i, 2 AS i) x", "").sqlstate("42701").message("\"i\"");
    db.refuse("SELECT 1, 2", "").sqlstate("42701").message("?column?");
    db.refuse("SELECT 1 AS a, 2 AS a WHERE false", "").sqlstate("42701");
    assert_eq!(db.export("SELECT 1 AS a, 2 AS \"A\"").documents, 1, "names that differ in case are two");
}

#[test]
fn an_error_halfway_deletes_the_files_written_so_far() {
    let db = Database::new("halfway");
    let (mut client, prefix) = (db.client(), db.prefix());
    // A slow query, so that most files are stored before the error.
    let query = "SELECT i, 1 / (300 - i) AS x, pg_sleep(0.001)::text AS s FROM generate_series(1, 400) i";
    refused(db.export_to(&mut client, &prefix, query, "output_chunk_size => 10")).sqlstate("22012").message("division by zero");
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);
    assert_eq!(db.export_to(&mut client, &prefix, "SELECT 1 AS a", "").unwrap().documents, 1);
}

#[test]
fn an_error_within_a_file_of_several_parts_aborts_its_upload() {
    let db = Database::new("halfway_multipart");
    let query = "SELECT 1 / (40 - i) AS x, repeat('x', 1000000) AS t FROM generate_series(1, 100) i";
    db.refuse(query, "").sqlstate("22012");
}

#[test]
fn an_error_in_a_function_keeps_its_context_and_fields() {
    let db = Database::new("error_context");
    db.client()
        .batch_execute(
            "CREATE TABLE t (a int CONSTRAINT positive CHECK (a > 0));
             CREATE FUNCTION writes(i int) RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (i); RETURN i; END'",
        )
        .unwrap();
    let refusal = db.refuse("SELECT writes(1 - i) AS a FROM generate_series(0, 3) i", "");
    refusal.sqlstate("23514").message("positive").detail("Failing row contains (0)");
    assert_eq!(refusal.0.constraint(), Some("positive"));
    assert_eq!(refusal.0.table(), Some("t"));
    let context = refusal.0.where_().unwrap_or_default();
    assert!(context.contains("PL/pgSQL function writes(integer) line 1 at SQL statement"), "context: {context:?}");
    assert_eq!(db.client().text("SELECT count(*) FROM t"), "0");
}

#[test]
fn an_export_within_an_export() {
    let db = Database::new("nested");
    let inner = db.call(&db.prefix(), "SELECT 1 AS a", "");
    db.refuse(&format!("SELECT e.num_docs_inserted FROM {inner} e"), "")
        .sqlstate("0A000")
        .message("being exported")
        .hint("own");
}

/// A worker of a parallel plan sees neither commit nor abort of the transaction, so what it wrote would stay without a
/// manifest. A function that says it is PARALLEL SAFE and is not brings the call there.
#[test]
fn an_export_in_a_parallel_plan_is_refused() {
    let db = Database::new("parallel_call");
    let (mut client, inner) = (db.client(), db.prefix());
    client
        .batch_execute(&format!(
            "CREATE TABLE t AS SELECT generate_series(1, 10000) AS i; ANALYZE t;
             CREATE FUNCTION unsafe_really(i int) RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS $$
             BEGIN RETURN num_docs_inserted FROM {}; END $$;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
            db.call(&inner, "SELECT 1 AS a", "")
        ))
        .unwrap();
    let outcome = client.batch_execute("SELECT max(unsafe_really(i)) FROM t WHERE i % 5000 = 0");
    refused(outcome).sqlstate("0A000").message("during a parallel operation").detail("PARALLEL UNSAFE");
    client.settle();
    db.bucket.nothing_left(&inner);
}

#[test]
fn an_export_within_an_export_is_refused_again_and_again_and_the_outer_one_goes_on() {
    let db = Database::new("nested_caught");
    let inner = db.prefix();
    db.client()
        .batch_execute(&format!(
            "CREATE FUNCTION tries() RETURNS text LANGUAGE plpgsql AS $$
             BEGIN PERFORM {}; RETURN 'exported'; EXCEPTION WHEN feature_not_supported THEN RETURN 'refused'; END $$",
            db.call(&inner, "SELECT 1 AS a", "")
        ))
        .unwrap();
    let outer = db.export("SELECT tries() AS t FROM generate_series(1, 2)");
    assert_eq!(db.bucket.documents(&outer.prefix), [r#"{"t":"refused"}"#; 2]);
    assert_eq!(db.bucket.manifests(&outer.prefix).len(), 1);
    db.bucket.nothing_left(&inner);
}

#[test]
fn maintenance_does_not_export() {
    let db = Database::new("restricted");
    let prefix = db.prefix();
    let call = db.call(&prefix, "SELECT 1 AS a", "");
    let mut client = db.client();
    client.batch_execute(&format!("CREATE MATERIALIZED VIEW m AS SELECT * FROM {call} WITH NO DATA")).unwrap();
    refused(client.batch_execute("REFRESH MATERIALIZED VIEW m")).sqlstate("42501").message("security-restricted operation");
    client
        .batch_execute(&format!(
            "CREATE TABLE t AS SELECT 1 AS a;
             CREATE FUNCTION f(i int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN num_docs_inserted FROM {call}; END $$"
        ))
        .unwrap();
    refused(client.batch_execute("CREATE INDEX ON t (f(a))")).sqlstate("42501").message("security-restricted operation");
    db.bucket.nothing_left(&prefix);
}
