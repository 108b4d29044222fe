//! Statements, read and refused.

use super::*;

fn parsed(text: &str) -> Statement {
    parse(text, false).unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// The query of a statement with these words after its integration.
fn query(rest: &str) -> (String, Statement) {
    let text = format!("INSERT INTO 's3://b/x' INTEGRATION = 'i' {rest}");
    let statement = parsed(&text);
    (text[statement.query.clone()].to_owned(), statement)
}

#[test]
fn clauses_are_read_in_any_order_and_case_between_comments() {
    let text = "-- nightly\ninsert /* a */ Into 's3://b/it''s' format=(type='JSON',include_query_id=true)
        Integration\n=\n'i' SELECT 1 ; -- done";
    let statement = parsed(text);
    let arguments = &statement.arguments;
    assert_eq!(arguments.uri.as_deref(), Some("s3://b/it's"));
    assert!(matches!(&arguments.permission, PermissionArguments::Integration(Some(name)) if name == "i"));
    assert_eq!((arguments.format.as_deref(), arguments.include_query_id), (Some("json"), Some(true)));
    assert_eq!(arguments.query.as_deref(), Some("SELECT 1"));
    let role = parsed("INSERT INTO 's3://b' CREDENTIALS = (AWS_EXTERNAL_ID = 'x', AWS_ROLE = 'arn:r') TABLE t");
    assert!(matches!(role.arguments.permission,
        PermissionArguments::Role { aws_role: Some(role), aws_external_id: Some(id) } if role == "arn:r" && id == "x"));
}

#[test]
fn the_query_is_what_is_written_up_to_the_last_clauses() {
    for (rest, expected) in [
        ("SELECT 1", "SELECT 1"),
        ("SELECT 1;", "SELECT 1"),
        ("SELECT 1 -- ;\n;", "SELECT 1 -- ;"),
        ("SELECT ';' ;", "SELECT ';'"),
        ("(SELECT 1) UNION (SELECT 2)", "(SELECT 1) UNION (SELECT 2)"),
        ("SELECT a, 'x PARTITION BY a' FROM t PARTITION BY a", "SELECT a, 'x PARTITION BY a' FROM t"),
        ("SELECT $$ PARTITION BY a $$ AS a", "SELECT $$ PARTITION BY a $$ AS a"),
        (r"SELECT E'\' PARTITION BY a' AS a", r"SELECT E'\' PARTITION BY a' AS a"),
        ("SELECT 1 /* PARTITION BY a */", "SELECT 1 /* PARTITION BY a */"),
        (
            "SELECT rank() OVER (PARTITION BY a) FROM t PARTITION BY a HINT(s3_sync_op_output_chunk_size=7)",
            "SELECT rank() OVER (PARTITION BY a) FROM t",
        ),
        ("SELECT 1 FROM t WINDOW w AS (PARTITION BY a)", "SELECT 1 FROM t WINDOW w AS (PARTITION BY a)"),
        ("SELECT hint FROM t", "SELECT hint FROM t"),
        ("SELECT hint(a = 1)", "SELECT hint(a = 1)"),
        ("SELECT 1 WHERE hint(a = 1)", "SELECT 1 WHERE hint(a = 1)"),
        ("SELECT 1 FROM t hint(a, b)", "SELECT 1 FROM t hint(a, b)"),
        ("SELECT 1 + hint(a = 1)", "SELECT 1 + hint(a = 1)"),
        ("SELECT x, hint(a = 1) FROM t", "SELECT x, hint(a = 1) FROM t"),
        ("SELECT 2 * hint(a = 1)", "SELECT 2 * hint(a = 1)"),
        ("SELECT 1 LIMIT ALL HINT(s3_sync_op_output_chunk_size = 7)", "SELECT 1 LIMIT ALL"),
        ("SELECT 1 FETCH FIRST ROW ONLY HINT(s3_sync_op_output_chunk_size = 7)", "SELECT 1 FETCH FIRST ROW ONLY"),
        ("SELECT 1; SELECT 2", "SELECT 1; SELECT 2"),
        ("SELECT partition by FROM s", "SELECT partition by FROM s"),
        ("SELECT partition by, b FROM s", "SELECT partition by, b FROM s"),
        ("SELECT a, partition by FROM s PARTITION BY by", "SELECT a, partition by FROM s"),
        ("SELECT s.partition by FROM s", "SELECT s.partition by FROM s"),
        ("SELECT DISTINCT partition by FROM s", "SELECT DISTINCT partition by FROM s"),
        ("SELECT DISTINCT ON (a) partition by FROM s", "SELECT DISTINCT ON (a) partition by FROM s"),
        ("SELECT DISTINCT ON (a) partition by, b FROM s", "SELECT DISTINCT ON (a) partition by, b FROM s"),
        ("SELECT 2 * partition by FROM s", "SELECT 2 * partition by FROM s"),
        ("SELECT -partition by FROM s", "SELECT -partition by FROM s"),
        ("SELECT x::partition by FROM s", "SELECT x::partition by FROM s"),
        ("SELECT NOT partition by FROM s", "SELECT NOT partition by FROM s"),
        ("SELECT a FROM partition by", "SELECT a FROM partition by"),
        ("SELECT a FROM partition by WHERE true PARTITION BY a", "SELECT a FROM partition by WHERE true"),
        ("SELECT a FROM t, partition by", "SELECT a FROM t, partition by"),
        ("SELECT a FROM t JOIN partition by ON true", "SELECT a FROM t JOIN partition by ON true"),
        ("TABLE partition PARTITION BY a", "TABLE partition"),
        ("SELECT * PARTITION BY a", "SELECT *"),
        ("SELECT s.* PARTITION BY a", "SELECT s.*"),
        ("SELECT 1 LIMIT ALL PARTITION BY a", "SELECT 1 LIMIT ALL"),
        ("SELECT 1 FETCH FIRST 5 ROWS ONLY PARTITION BY a", "SELECT 1 FETCH FIRST 5 ROWS ONLY"),
        ("SELECT 1 AS filter PARTITION BY filter", "SELECT 1 AS filter"),
        ("SELECT x AS by PARTITION BY by", "SELECT x AS by"),
        ("SELECT s.over PARTITION BY over HINT(s3_sync_op_output_chunk_size = 7)", "SELECT s.over"),
        ("SELECT a FROM t ORDER BY partition PARTITION BY \"order\", a;", "SELECT a FROM t ORDER BY partition"),
        ("SELECT a FROM t PARTITION BY order", "SELECT a FROM t"),
        ("SELECT hint(s3_sync_op_output_chunk_size = 7)", "SELECT hint(s3_sync_op_output_chunk_size = 7)"),
        ("SELECT x AS values HINT(s3_sync_op_output_chunk_size = 7)", "SELECT x AS values"),
    ] {
        assert_eq!(query(rest).0, expected);
    }
}

#[test]
fn the_last_clauses_come_in_either_order() {
    for rest in [
        "SELECT * FROM t PARTITION BY a, \"B\"\"c\", D HINT(s3_sync_op_output_chunk_size = 2000)",
        "SELECT * FROM t HINT(S3_SYNC_OP_OUTPUT_CHUNK_SIZE=2000) PARTITION BY A,\"B\"\"c\",d;",
    ] {
        let (query, statement) = query(rest);
        assert_eq!(query, "SELECT * FROM t");
        assert_eq!(statement.arguments.output_chunk_size, Some(2000));
        assert_eq!(statement.arguments.partition_by, Some(vec!["a".to_owned(), "B\"c".to_owned(), "d".to_owned()]));
    }
}

#[test]
fn format_takes_every_argument_and_option() {
    let (_, statement) = query(
        "FORMAT = (TYPE = 'CSV', COMPRESSION = 'GZIP', WRAP_TYPES = FALSE, OUTPUT_CHUNK_SIZE = 5,
        OUTPUT_CHUNK_BYTES = 6, DELIMITER = ';', HEADER = TRUE, FORCE_QUOTE = ('a', 'b'), COMPRESSION_LEVEL = -1) SELECT 1",
    );
    let arguments = statement.arguments;
    assert_eq!((arguments.format.as_deref(), arguments.compression.as_deref()), (Some("csv"), Some("gzip")));
    assert_eq!(
        (arguments.wrap_types, arguments.output_chunk_size, arguments.output_chunk_bytes),
        (Some(false), Some(5), Some(6))
    );
    let options: Value = serde_json::from_str(&arguments.options.unwrap()).unwrap();
    let expected = serde_json::json!({"delimiter": ";", "header": true, "force_quote": ["a", "b"], "compression_level": -1});
    assert_eq!(options, expected);
}

#[test]
fn errors_say_where_and_what_is_known() {
    let error = |text: &str| parse(text, false).unwrap_err();
    // What is meant as the clause is told as such.
    for (rest, found) in [
        ("PARTITION BY", "the end"),
        ("PARTITION BY 'a'", "'a'"),
        ("PARTITION BY a LIMIT 5", "LIMIT"),
        ("PARTITION BY a b", "\"b\""),
    ] {
        let error = error(&format!("INSERT INTO 's3://b' INTEGRATION = 'i' SELECT a FROM t {rest}"));
        assert!(error.message.starts_with("expected ") && error.message.contains(found), "{rest}: {error:?}");
    }
    let text = "INSERT INTO 's3://b' INTEGRATION = 'i' SELECT 1 HINT(chunk = 1)";
    let hint = error(text);
    assert_eq!((hint.at, hint.message.as_str()), (text.find("chunk").unwrap(), "unknown hint \"chunk\""));
    assert_eq!(hint.hint.as_deref(), Some("Known: s3_sync_op_output_chunk_size."));
    assert!(error("INSERT INTO 's3://b' INTEGRATION='i' FORMAT=(KIND='x') SELECT 1").hint.unwrap().contains("delimiter"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_within_itself(text in "(INSERT INTO 's3://b' )?(INTEGRATION = 'i' )?\\PC{0,40}", backslashes: bool) {
        match parse(&text, backslashes) {
            Ok(statement) => proptest::prop_assert!(text.get(statement.query).is_some()),
            Err(error) => proptest::prop_assert!(text.is_char_boundary(error.at)),
        }
    }

    #[test]
    fn any_query_is_kept_as_it_is(inner in "[a-z '\"();=,$-]{0,30}") {
        let text = format!("INSERT INTO 's3://b' INTEGRATION = 'i' SELECT ({inner})");
        if let Ok(statement) = parse(&text, false) {
            let query = format!("SELECT ({inner})");
            proptest::prop_assert!(query.starts_with(&text[statement.query.clone()]));
            let rest = text[statement.query.end..].trim_start_matches([' ', ')', ';']);
            proptest::prop_assert!(rest.is_empty() || rest.starts_with("--") || rest.starts_with("hint") || rest.starts_with("partition"));
        }
    }
}
