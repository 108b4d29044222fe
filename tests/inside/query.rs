//! Queries that run, and how.

use pgrx::prelude::*;
use s3_export_core::error::Code;
use s3_export_core::format::Wrapping;

use crate::inside::documents::{documents, try_documents};
use crate::inside_tests;

inside_tests! {
    everything_that_only_reads_runs,
    what_writes_or_locks_is_refused_at_any_depth,
    only_one_statement_is_taken_and_none_of_several_runs,
    a_syntax_error_is_postgres_s_own raises "syntax error at or near \"SELEC\"",
    a_refused_query_leaves_spi_usable,
    functions_of_the_query_may_write_as_in_any_select,
}

fn refusal(query: &str) -> Code {
    try_documents(query, Wrapping::Rockset).expect_err(query).code()
}

fn everything_that_only_reads_runs() {
    Spi::run("CREATE TABLE t AS SELECT 1 AS a").unwrap();
    for query in [
        "SELECT a FROM t",
        "SELECT a FROM t;",
        "VALUES (1)",
        "TABLE t",
        "WITH x AS (SELECT a FROM t) SELECT a FROM x",
        "WITH RECURSIVE x(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM x WHERE a < 1) SELECT a FROM x",
        "(SELECT 1) UNION ALL (SELECT 2 LIMIT 0)",
        "/* comment */ SELECT $$;$$ -- ;",
    ] {
        assert_eq!(documents(query).len(), 1, "{query}");
    }
}

fn what_writes_or_locks_is_refused_at_any_depth() {
    for query in [
        "INSERT INTO pg_am VALUES (1)",
        "UPDATE pg_am SET oid = 1",
        "DELETE FROM pg_am",
        "CREATE TABLE x ()",
        "DROP TABLE x",
        "EXPLAIN SELECT 1",
        "SHOW work_mem",
        "EXECUTE x",
        "COPY pg_am TO '/tmp/x'",
        "CALL x()",
        "DECLARE x CURSOR FOR SELECT 1",
        "SELECT 1 INTO x",
        "SELECT * FROM pg_am FOR UPDATE",
        "SELECT * FROM (SELECT * FROM pg_am FOR SHARE) AS x",
        "SELECT (SELECT 1 FROM pg_am FOR UPDATE LIMIT 1)",
        "WITH x AS (DELETE FROM pg_am RETURNING 1) SELECT * FROM x",
        "SELECT * FROM (WITH x AS (DELETE FROM pg_am RETURNING 1) SELECT * FROM x) AS y",
        "SELECT 1 UNION (WITH x AS (INSERT INTO pg_am VALUES (1) RETURNING 1) SELECT * FROM x)",
    ] {
        assert_eq!(refusal(query), Code::Unsupported, "{query}");
    }
}

fn only_one_statement_is_taken_and_none_of_several_runs() {
    assert_eq!(refusal("CREATE TABLE x (); SELECT 1"), Code::Syntax);
    assert_eq!(refusal("SELECT 1; SELECT 2"), Code::Syntax);
    assert_eq!(refusal(""), Code::Syntax);
    assert_eq!(refusal("-- nothing"), Code::Syntax);
    assert_eq!(Spi::get_one::<bool>("SELECT to_regclass('x') IS NULL"), Ok(Some(true)));
}

fn a_syntax_error_is_postgres_s_own() {
    documents("SELEC 1");
}

fn a_refused_query_leaves_spi_usable() {
    refusal("DROP TABLE x");
    assert_eq!(documents("SELECT 1 AS a"), [r#"{"a":1}"#]);
}

fn functions_of_the_query_may_write_as_in_any_select() {
    Spi::run(
        "CREATE TABLE log (n int);
         CREATE FUNCTION note(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (n); RETURN n; END'",
    )
    .unwrap();
    assert_eq!(documents("SELECT note(g) FROM generate_series(1, 3) AS g").len(), 3);
    assert_eq!(Spi::get_one::<i64>("SELECT count(*) FROM log"), Ok(Some(3)));
}
