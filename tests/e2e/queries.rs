//! Queries that can be exported, and places that the function can be called from.

use super::fixture::{Database, literal, refused};

#[track_caller]
fn gives(db: &Database, query: &str, expected: &[&str]) {
    assert_eq!(db.bucket.documents(&db.export(query).prefix), expected, "{query}");
}

#[test]
fn select_values_table_and_with() {
    let db = Database::new("kinds");
    db.client().batch_execute("CREATE TABLE t AS SELECT 1 AS a").unwrap();
    gives(&db, "TABLE t", &[r#"{"a":1}"#]);
    gives(&db, "VALUES (1, 'x'), (2, NULL)", &[r#"{"column1":1,"column2":"x"}"#, r#"{"column1":2,"column2":null}"#]);
    gives(&db, "WITH w AS (SELECT 2 AS b) SELECT a + b AS c FROM t, w", &[r#"{"c":3}"#]);
    gives(&db, "(SELECT 1 AS a UNION SELECT 2) ORDER BY 1 DESC LIMIT 1;", &[r#"{"a":2}"#]);
    gives(&db, " -- a comment\n/* and another */ SELECT 1 AS a ; ", &[r#"{"a":1}"#]);
}

#[test]
fn a_query_without_columns_gives_empty_documents() {
    let db = Database::new("no_columns");
    gives(&db, "SELECT FROM generate_series(1, 3)", &["{}", "{}", "{}"]);
}

#[test]
fn every_syntax_that_only_reads_is_let_through() {
    let db = Database::new("syntax");
    for query in [
        "SELECT count(*) FILTER (WHERE i > 1) AS a, percentile_cont(0.5) WITHIN GROUP (ORDER BY i) AS b FROM generate_series(1, 3) i",
        "SELECT i, sum(i) OVER w AS s FROM generate_series(1, 3) i WINDOW w AS (ORDER BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE TIES)",
        "SELECT a, b, grouping(a) AS g, count(*) AS n FROM (VALUES (1, 2)) v(a, b) GROUP BY GROUPING SETS ((a), ROLLUP (b), CUBE (a, b))",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SEARCH DEPTH FIRST BY n SET o CYCLE n SET c USING p SELECT n FROM r",
        "WITH w AS MATERIALIZED (SELECT 1 AS a) SELECT (SELECT a FROM w) AS x, EXISTS (TABLE w) AS y, 1 = ANY (SELECT a FROM w) AS z",
        "SELECT v.a, l.b FROM (VALUES (1)) v(a) LEFT JOIN LATERAL (SELECT v.a + 1 AS b) l ON true",
        "SELECT x.a, x.o FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY[3, 4])) WITH ORDINALITY AS x(a, b, o)",
        "SELECT r.a FROM json_to_recordset('[{\"a\":1}]') AS r(a int)",
        "SELECT t.oid AS o FROM pg_catalog.pg_class t TABLESAMPLE BERNOULLI (100) REPEATABLE (1) LIMIT 1",
        "SELECT x.a FROM XMLTABLE('/r/a' PASSING ('<r><a>1</a></r>'::xml) COLUMNS a int PATH '.' DEFAULT 0) x",
        "SELECT xmlserialize(CONTENT xmlelement(NAME e, xmlattributes(1 AS a), 'x') AS text) AS x, xmlforest(1 AS a) IS DOCUMENT AS y",
        "SELECT ROW(1, 2) < ROW(1, 3) AS a, ARRAY[[1], [2]] AS b, (ARRAY[1, 2, 3])[2:3] AS c, 'a' COLLATE \"C\" < 'b' AS d",
        "SELECT CASE WHEN true THEN 1 ELSE 2 END AS a, coalesce(NULL, 1) AS b, greatest(1, 2) AS c, nullif(1, 1) AS d",
        "SELECT 1 BETWEEN SYMMETRIC 2 AND 0 AS a, 1 IS DISTINCT FROM 2 AS b, 'a' SIMILAR TO 'a' AS c, true IS NOT UNKNOWN AS d",
        "SELECT now() AT TIME ZONE 'UTC' AS a, current_user AS b, current_date AS c, interval '1' day AS d, extract(year FROM now()) AS e",
        "SELECT format('%s', VARIADIC ARRAY['x']) AS a, make_interval(days => 1) AS b",
        "SELECT DISTINCT ON (i) i FROM generate_series(1, 3) i ORDER BY i NULLS FIRST OFFSET 1 FETCH FIRST 1 ROW WITH TIES",
        "SELECT i FROM generate_series(1, 3) i INTERSECT ALL SELECT 2 EXCEPT SELECT 4",
        "SELECT (json_each('{\"a\":1}')).*",
        "SELECT U&'d\\0061t' AS a, $q$it's$q$ AS b, B'101' AS c, X'1F' AS d, E'\\n' AS e",
    ] {
        let exported = db.export(query);
        assert!(exported.documents > 0, "{query}");
        assert_eq!(db.bucket.values(&exported.prefix).len() as i64, exported.documents, "{query}");
    }
}

#[test]
fn the_function_is_found_under_any_search_path_by_position_and_by_name() {
    let db = Database::new("calls");
    let (mut client, uri, prefix) = (db.client(), db.bucket.uri(&db.prefix()), db.prefix());
    client.batch_execute("SET search_path = ''").unwrap();
    assert_eq!(client.text(&format!("SELECT num_docs_inserted FROM s3_export('{uri}', 'local', 'SELECT 1 AS a')")), "1");
    let positions = format!(
        "SELECT num_files_written FROM pg_catalog.s3_export('{uri}', 'local', 'VALUES (1), (2), (3)', 'json', 'none', 1, 100, NULL, true, false, '{{}}')"
    );
    assert_eq!(client.text(&positions), "3");
    let uri = db.bucket.uri(&prefix);
    let names = format!(
        "SELECT num_files_written FROM s3_export(query => 'VALUES (1), (2), (3)', uri => '{uri}', output_chunk_size => 2, integration => 'local')"
    );
    assert_eq!(client.text(&names), "2");
    assert_eq!(db.bucket.documents(&prefix).len(), 3);
}

#[test]
fn the_query_is_resolved_with_the_callers_search_path() {
    let db = Database::new("search_path");
    let mut client = db.client();
    client.batch_execute("CREATE SCHEMA s; CREATE TABLE s.t AS SELECT 1 AS a; SET search_path = s").unwrap();
    let exported = db.export_in(&mut client, "TABLE t", "").unwrap();
    assert_eq!(exported.documents, 1);
}

#[test]
fn from_plpgsql_an_export_sees_what_the_function_has_written() {
    let db = Database::new("plpgsql");
    let mut client = db.client();
    let prefix = db.prefix();
    client
        .batch_execute(&format!(
            "CREATE TABLE t (a int);
             CREATE FUNCTION f() RETURNS bigint LANGUAGE plpgsql AS $$
             DECLARE r record;
             BEGIN
                 INSERT INTO t VALUES (1), (2);
                 SELECT * INTO r FROM {};
                 INSERT INTO t VALUES (3);
                 RETURN r.num_docs_inserted;
             END $$",
            db.call(&prefix, "TABLE t", "")
        ))
        .unwrap();
    assert_eq!(client.text("SELECT f()"), "2");
    assert_eq!(db.bucket.documents(&prefix), [r#"{"a":1}"#, r#"{"a":2}"#]);
    assert_eq!(db.bucket.manifests(&prefix).len(), 1);
}

#[test]
fn functions_in_the_query_behave_as_in_any_select() {
    let db = Database::new("functions");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE log (i int); CREATE SEQUENCE s;
             CREATE FUNCTION logs(i int) RETURNS bigint LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO log VALUES (i);
                 BEGIN PERFORM 1 / (i - 2); EXCEPTION WHEN division_by_zero THEN RETURN -1; END;
                 RETURN (SELECT count(*) FROM log);
             END $$",
        )
        .unwrap();
    let query = "SELECT logs(i) AS n, nextval('s') AS s FROM generate_series(1, 3) i";
    let exported = db.export_in(&mut client, query, "output_chunk_size => 1").unwrap();
    assert_eq!(db.bucket.documents(&exported.prefix), [r#"{"n":1,"s":1}"#, r#"{"n":-1,"s":2}"#, r#"{"n":3,"s":3}"#]);
    assert_eq!(client.text("SELECT count(*) FROM log"), "3");
}

#[test]
fn a_read_only_transaction_and_a_temporary_table() {
    let db = Database::new("read_only");
    let mut client = db.client();
    client.batch_execute("CREATE TEMP TABLE t AS SELECT 1 AS a; BEGIN READ ONLY").unwrap();
    let exported = db.export_in(&mut client, "TABLE t", "").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(db.bucket.documents(&exported.prefix), [r#"{"a":1}"#]);
    assert_eq!(db.bucket.manifests(&exported.prefix).len(), 1);
}

#[test]
fn one_statement_may_export_several_times() {
    let db = Database::new("several");
    let (prefix, mut client) = (db.prefix(), db.client());
    let statement = format!(
        "SELECT string_agg(num_docs_inserted::text, ',' ORDER BY n) FROM generate_series(1, 3) n, LATERAL
         s3_export({} || '/' || n, 'local', format('SELECT generate_series(1, %s) AS i', n)) e",
        literal(&db.bucket.uri(&prefix))
    );
    assert_eq!(client.text(&statement), "1,2,3");
    assert_eq!(db.bucket.manifests(&prefix).len(), 3);
    assert_eq!(db.bucket.documents(&prefix).len(), 6);
}

#[test]
fn the_snapshot_is_that_of_the_calling_statement() {
    let db = Database::new("snapshot");
    let (mut client, mut other, prefix) = (db.client(), db.client(), db.prefix());
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS a").unwrap();
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    other.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(db.export_to(&mut client, &prefix, "TABLE t", "").unwrap().documents, 1);
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(db.export_in(&mut client, "TABLE t", "").unwrap().documents, 2);
}

#[test]
fn plain_types_when_wrap_types_is_off() {
    let db = Database::new("wrap_types");
    let query = r#"SELECT date '2018-01-01' AS d, '\x01'::bytea AS b"#;
    let plain = db.export_with(query, "wrap_types => false");
    assert_eq!(db.bucket.documents(&plain.prefix), [r#"{"d":"2018-01-01","b":"AQ=="}"#]);
    assert_eq!(db.bucket.manifest(&plain.prefix)["s3_export"]["wrap_types"], false);
    let wrapped = db.export(query);
    assert_eq!(db.bucket.values(&wrapped.prefix)[0]["d"]["__rockset_type"], "date");
}

#[test]
fn an_expression_that_postgres_runs_is_exported_however_deep_it_is() {
    let db = Database::new("deep");
    let mut client = db.client();
    let sum = |terms: usize| format!("SELECT 1{} AS a", "+1".repeat(terms - 1));
    for terms in [1_500, 4_000] {
        assert_eq!(client.text(&sum(terms)), terms.to_string());
        let exported = db.export_in(&mut client, &sum(terms), "").unwrap();
        assert_eq!(db.bucket.documents(&exported.prefix), [format!("{{\"a\":{terms}}}")]);
    }
    // One that Postgres does not run.
    refused(client.batch_execute(&sum(200_000))).sqlstate("54001");
    for _ in 0..3 {
        refused(db.export_in(&mut client, &sum(200_000), "")).sqlstate("54001");
        assert_eq!(db.export_in(&mut client, "SELECT 1 AS a", "").unwrap().documents, 1);
    }
}
