//! Text that is not UTF-8 in a database of UTF-8. Postgres checks what comes in, and gives some text unchecked all the same: the
//! queries of another database's sessions (`pg_stat_activity`), the names of files (`pg_ls_dir`), names in dynamic SQL.

use super::super::fixture::{Database, refused};

const FORMATS: [&str; 4] = ["", "wrap_types => false", "format => 'csv'", "format => 'parquet'"];

#[test]
fn text_that_is_not_utf8_is_refused_in_every_format_and_its_column_named() {
    let db = Database::new("not_utf8");
    let mut client = db.client();
    client
        .batch_execute(
            r"CREATE EXTENSION citext; CREATE EXTENSION hstore;
              CREATE TYPE text_range AS RANGE (subtype = text);
              CREATE DOMAIN note AS varchar(20);
              CREATE CAST (bytea AS text) WITHOUT FUNCTION; CREATE CAST (bytea AS json) WITHOUT FUNCTION;
              CREATE CAST (bytea AS xml) WITHOUT FUNCTION;
              CREATE TYPE pair AS (id int, t text);
              CREATE TABLE raw AS SELECT '\x4772fcdf65'::bytea::text AS t;
              CREATE TABLE commented (bad int); INSERT INTO commented VALUES (1);
              DO $$ DECLARE t text := (SELECT t FROM raw); BEGIN
                  EXECUTE format('CREATE TYPE label AS ENUM (%L)', t);
                  EXECUTE format('CREATE TABLE labelled AS SELECT %L::label AS bad', t);
                  EXECUTE format('CREATE VIEW named AS SELECT 1 AS %I', t);
                  EXECUTE format('COMMENT ON COLUMN commented.bad IS %L', t);
              END $$",
        )
        .unwrap();
    let refuse = |client: &mut _, query: &str, arguments: &str| {
        let prefix = db.prefix();
        let refusal = refused(db.export_to(client, &prefix, query, arguments));
        db.bucket.nothing_left(&prefix);
        refusal
    };
    for value in [
        "t",
        "t::varchar(9)",
        "t::char(9)",
        "t::note",
        "t::name",
        "t::citext",
        "'ascii before it, more than sixteen bytes of it, ' || t",
        "repeat('x', 3000) || t",
        "repeat('é', 3000) || t",
        "'é' || '\\xc3'::bytea::text",
        "'\\xeda080'::bytea::text",
        "ARRAY['a', t]",
        "ARRAY[ROW(1, t)::pair]",
        "ROW(1, t)::pair",
        "ROW(1, ARRAY[t])",
        "jsonb_build_object('k', t)",
        "jsonb_build_object(t, 1)",
        "'\\x22fc22'::bytea::json",
        "'\\x3c612f3efc'::bytea::xml",
        "hstore('k', t)",
        "text_range(t, NULL)",
    ] {
        for arguments in FORMATS {
            refuse(&mut client, &format!("SELECT 1 AS id, {value} AS bad, t AS worse FROM raw"), arguments)
                .sqlstate("22021")
                .message("invalid byte sequence")
                .detail("column \"bad\"");
        }
    }
    for arguments in FORMATS {
        refuse(&mut client, "SELECT bad FROM labelled", arguments).sqlstate("22021").detail("column \"bad\"");
        refuse(&mut client, "SELECT 1 AS id, n.* FROM named AS n", arguments).sqlstate("22021").detail("name of column 2");
        let partitioned = format!("partition_by => '{{bad}}'{}{arguments}", if arguments.is_empty() { "" } else { ", " });
        for query in ["SELECT 1 AS id, t AS bad FROM raw", "SELECT 1 AS id, bad FROM labelled"] {
            refuse(&mut client, query, &partitioned).sqlstate("22021").detail("column \"bad\"");
        }
    }
    refuse(&mut client, "SELECT bad FROM commented", "format => 'parquet'").sqlstate("22021").detail("column \"bad\"");
    let uri = db.bucket.uri(&db.prefix());
    for arguments in [
        "'URI/' || t, 'local', 'SELECT 1'",
        "'URI', t, 'SELECT 1'",
        "'URI', 'local', 'SELECT 1 AS \"' || t || '\"'",
        "'URI', 'local', 'SELECT 1', partition_by => ARRAY[t]",
    ] {
        let call = format!("SELECT e.* FROM raw, s3_export({}) AS e", arguments.replace("URI", &uri));
        refused(client.query(&call, &[])).sqlstate("22021").message("not text");
    }
    // Bytes are bytes, and what is text passes.
    for arguments in FORMATS {
        db.export_in(&mut client, "SELECT convert_to('Größe', 'LATIN1') AS b, 'Größe' AS t", arguments).unwrap();
    }
}

#[test]
fn a_json_value_with_half_of_a_surrogate_pair_is_refused_where_it_would_be_json() {
    let db = Database::new("surrogates");
    for value in
        [r#"'{"k": "\ud800"}'::json"#, r#"ARRAY['"\udc00\ud800"'::json]"#, r#"(SELECT r FROM (SELECT '"a\uD83D"'::json) r)"#]
    {
        let query = format!("SELECT 1 AS id, {value} AS bad");
        // An anonymous record is text in Parquet.
        let formats: &[&str] =
            if value.contains("SELECT r") { &FORMATS[..2] } else { &["", "wrap_types => false", "format => 'parquet'"] };
        for arguments in formats {
            db.refuse(&query, arguments).sqlstate("22P05").message("surrogate").detail("column \"bad\"").hint("jsonb");
        }
        // There it is text.
        db.export_with(&query, "format => 'csv'");
    }
    let pair = r#"SELECT '{"k": "\ud83d\ude00"}'::json AS j, '{"k": "\\ud800"}'::json AS backslash"#;
    let exported = db.export_with(pair, "");
    assert_eq!(db.bucket.documents(&exported.prefix), [r#"{"j":{"k": "\ud83d\ude00"},"backslash":{"k": "\\ud800"}}"#]);
}
