//! Databases whose encoding is not UTF-8: files are UTF-8 all the same, and bytes that are no text are refused.

use super::super::fixture::{Database, Integration, refused};
use super::documents;

fn database(name: &str, encoding: &str) -> Database {
    Database::with_options(name, &format!("ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"))
}

#[test]
fn umlauts_of_a_latin1_database_are_utf8_wherever_they_stand() {
    let database = database("latin1", "LATIN1");
    let mut client = database.client();
    client
        .batch_execute("CREATE TYPE größe AS (\"Maß\" text, \"Äste\" text[]); CREATE TYPE \"Lage\" AS ENUM ('über')")
        .unwrap();
    let query =
        "SELECT 'ä'::text AS \"Übung\", ROW('ß', '{ö,ÿ}')::größe AS c, 'über'::\"Lage\" AS e, ARRAY['über']::\"Lage\"[] AS a,
                 '{\"ü\":\n\"\\u00fc\"}'::json AS j, '{\"ü\": \"é\"}'::jsonb AS b, '<ü>'::name AS n, '<a>ü</a>'::xml AS x,
                 repeat('ü', 5000) AS long";
    let line = documents(&database, &mut client, query, "").remove(0);
    let long = "ü".repeat(5000);
    assert_eq!(
        line,
        format!(
            "{{\"Übung\":\"ä\",\"c\":{{\"Maß\":\"ß\",\"Äste\":[\"ö\",\"ÿ\"]}},\"e\":\"über\",\"a\":[\"über\"],\
             \"j\":{{\"ü\":\"\\u00fc\"}},\"b\":{{\"ü\": \"é\"}},\"n\":\"<ü>\",\"x\":\"<a>ü</a>\",\"long\":\"{long}\"}}"
        )
    );
}

#[test]
fn umlauts_in_the_uri_and_the_name_of_an_integration_of_a_latin1_database() {
    let database = database("latin1_names", "LATIN1");
    let mut client = database.client();
    Integration { name: "Prüfung", ..Integration::local() }.create(&mut client).unwrap();
    let prefix = format!("{}/Größe", database.prefix());
    let uri = database.bucket.uri(&prefix);
    let statement = format!("SELECT manifest FROM s3_export('{uri}', 'Prüfung', 'SELECT ''ü'' AS \"ä\"')");
    let manifest = client.text(&statement);
    assert!(manifest.starts_with(&uri), "{manifest}");
    assert_eq!(database.bucket.documents(&prefix), ["{\"ä\":\"ü\"}"]);
    assert_eq!(database.bucket.manifest(&prefix)["schema"]["elements"][0]["name"], "ä");
}

#[test]
fn characters_of_several_bytes_of_an_euc_jp_database() {
    let database = database("euc_jp", "EUC_JP");
    let line =
        documents(&database, &mut database.client(), "SELECT '日本語' AS \"名\", ARRAY['かな', 'ｶﾅ'] AS a", "").remove(0);
    assert_eq!(line, r#"{"名":"日本語","a":["かな","ｶﾅ"]}"#);
}

#[test]
fn utf8_passes_through_an_sql_ascii_database() {
    let database = database("sql_ascii", "SQL_ASCII");
    let query = "SELECT 'ü😀'::text AS \"ü\", ARRAY['日'] AS a, '{\"ü\": \"é\"}'::json AS j";
    let line = documents(&database, &mut database.client(), query, "").remove(0);
    assert_eq!(line, r#"{"ü":"ü😀","a":["日"],"j":{"ü": "é"}}"#);
}

#[test]
fn bytes_of_an_sql_ascii_database_that_are_no_utf8_are_refused() {
    let database = database("no_text", "SQL_ASCII");
    let mut client = database.client();
    client
        .batch_execute(
            r"DO $$ BEGIN
                  EXECUTE format('CREATE TABLE named (%I int)', E'a\xe9');
                  EXECUTE format('CREATE TYPE label AS ENUM (%L)', E'\xe9');
                  EXECUTE format('CREATE TABLE labelled AS SELECT %L::label AS e', E'\xe9');
              END $$; INSERT INTO named VALUES (1)",
        )
        .unwrap();
    for query in [
        r"SELECT E'ab\xe9cd' AS t",
        r"SELECT ARRAY['a', E'\xc3'] AS a",
        r"SELECT ROW(1, E'\xff'::varchar) AS r",
        r#"SELECT E'{"a": "\xe9"}'::json AS j"#,
        r#"SELECT E'{"a": "\xe9"}'::jsonb AS j"#,
        r"SELECT E'\xe9'::name AS n",
        r"SELECT E'\xed\xa0\x80' AS surrogate",
        "SELECT * FROM labelled",
        "SELECT * FROM named",
        "SELECT named FROM named",
    ] {
        let prefix = database.prefix();
        refused(database.export_to(&mut client, &prefix, query, "")).sqlstate("22021");
        database.bucket.nothing_left(&prefix);
    }
}
