//! Text forms follow no setting, and the query's own casts follow theirs.

use super::super::fixture::{Database, literal};
use super::{HOSTILE, documents};

/// Types whose output follows a setting, beside casts of the query's own to text.
const QUERY: &str = "SELECT n, tstzrange(t, t + '1 day') AS pinned, t::text AS a, t::date::text AS b, (n * '1 month 1 day'::interval)::text AS c,
    (n / 3.0::float8)::text AS d, '\\x00ff'::bytea::text AS e, current_setting('DateStyle') AS f, to_char(t, 'TZ') AS g, n::money AS money
    FROM (SELECT n, timestamptz '2020-01-02 03:04:05+00' + n * '1 month'::interval AS t FROM generate_series(1, 50) n) s";

/// Every setting, but for those of the extension, which come with its library.
const SETTINGS: &str = "SELECT string_agg(concat_ws(' ', name, setting, source), ',' ORDER BY name) FROM pg_settings
    WHERE name NOT LIKE 's3_export.%'";

/// The range of a row as its text must be.
const PINNED: &str = "'[\"' || to_char(lower(pinned) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00\",\"'
    || to_char(upper(pinned) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00\")'";

/// Compares the result of the query in the same session with the documents of its export.
fn compare(database: &Database, settings: &str) {
    let mut client = database.client();
    client.batch_execute(settings).unwrap();
    let before = client.text(SETTINGS);
    let lines = documents(database, &mut client, QUERY, "wrap_types => false");
    let rows = client.query(&format!("SELECT a, b, c, d, e, f, g, {PINNED} AS pinned FROM ({QUERY}) q"), &[]).unwrap();
    assert_eq!((lines.len(), rows.len()), (50, 50));
    for (line, row) in lines.iter().zip(&rows) {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        for (column, name) in ["a", "b", "c", "d", "e", "f", "g", "pinned"].iter().enumerate() {
            assert_eq!(document[name], row.get::<_, String>(column), "{name} of {line}");
        }
    }
    assert_eq!(client.text(SETTINGS), before);
}

#[test]
fn casts_in_the_query_follow_the_session_beside_a_column_that_does_not() {
    let database = Database::new("settings");
    compare(&database, "");
    compare(&database, HOSTILE);
    compare(&database, "BEGIN; SET LOCAL DateStyle = 'SQL, DMY'; SET LOCAL TimeZone = 'America/St_Johns'");
}

#[test]
fn a_setting_that_the_query_itself_changes_holds_in_the_query_only() {
    let database = Database::new("query_sets");
    let query = "SELECT set_config('DateStyle', CASE n WHEN 1 THEN 'German' ELSE 'ISO' END, false) AS s,
                 daterange('2020-01-02', '2020-01-03') AS r, ('2020-01-02'::date + 0 * n)::text AS d FROM generate_series(1, 2) n";
    let lines = documents(&database, &mut database.client(), query, "");
    let [german, iso] = [("German", "02.01.2020"), ("ISO", "2020-01-02")]
        .map(|(style, date)| format!(r#"{{"s":"{style}, DMY","r":"[2020-01-02,2020-01-03)","d":"{date}"}}"#));
    assert_eq!(lines, [german, iso]);
}

#[test]
fn names_in_texts_and_in_the_manifest_have_quotes_only_where_they_need_them() {
    let database = Database::new("settings_quotes");
    let mut client = database.client();
    client.batch_execute("CREATE EXTENSION citext; SET quote_all_identifiers = on").unwrap();
    let query =
        "SELECT 'pg_class'::regclass AS c, 'citext'::regtype AS t, 'now'::regproc AS p, 'a'::citext AS x, '{}'::jsonb AS j";
    for arguments in ["", "format => 'csv'"] {
        let exported = database.export_in(&mut client, query, arguments).unwrap();
        let line = database.bucket.documents(&exported.prefix).remove(0);
        let wanted = if arguments.is_empty() { r#""c":"pg_class","t":"citext","p":"now","# } else { "pg_class,citext,now," };
        assert!(line.contains(wanted), "{line}");
        let manifest = database.bucket.manifest(&exported.prefix);
        let type_of = |column: usize| manifest["schema"]["elements"][column]["type"]["base"].as_str().unwrap().to_owned();
        assert_eq!((type_of(3), type_of(4)), ("citext".to_owned(), "jsonb".to_owned()));
    }
}

#[test]
fn pinned_settings_are_undone_when_the_export_fails() {
    let database = Database::new("settings_error");
    let mut client = database.client();
    client.batch_execute(HOSTILE).unwrap();
    let failing = "SELECT tstzrange(now(), NULL) AS r, 1 / (2 - n) AS q FROM generate_series(1, 2) n";
    let call = database.call(&database.prefix(), failing, "");
    let block = format!(
        "DO $$ BEGIN PERFORM * FROM {call}; EXCEPTION WHEN division_by_zero THEN
             PERFORM set_config('test.style', current_setting('DateStyle') || current_setting('TimeZone'), false); END $$"
    );
    client.batch_execute(&block).unwrap();
    assert_eq!(client.text("SHOW test.style"), "German, DMYAsia/Kolkata");
}

#[test]
fn a_parallel_plan_and_pinned_settings_go_together() {
    let database = Database::new("settings_parallel");
    let mut client = database.client();
    client
        .batch_execute(
            "CREATE TABLE wide AS SELECT n, n::money AS m FROM generate_series(1, 20000) n; ANALYZE wide;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET DateStyle = 'German'",
        )
        .unwrap();
    let query = "SELECT m, daterange('2020-01-01', '2020-01-01'::date + n) AS r, ('2020-01-01'::date + 0 * n)::text AS d
                 FROM wide WHERE n % 2 = 0";
    let plan = client.text(&format!("EXPLAIN (FORMAT JSON) {query}"));
    assert!(plan.contains("Gather"), "{plan}");
    let lines = documents(&database, &mut client, query, "output_chunk_size => 20000");
    assert_eq!(lines.len(), 10_000);
    assert!(lines.iter().all(|line| line.contains(r#""r":"[2020-01-01,20"#) && line.ends_with(r#""d":"01.01.2020"}"#)));
}

#[test]
fn numbers_that_are_none_are_strings_or_null_in_plain_json() {
    let database = Database::new("not_a_number");
    let query = "SELECT 'NaN'::float8 AS a, '-Infinity'::float4 AS b, ARRAY['Infinity', 1.50]::numeric[] AS c, ROW('NaN'::numeric) AS d";
    let line = |options: &str| {
        let arguments = format!("wrap_types => false, options => {}", literal(options));
        documents(&database, &mut database.client(), query, &arguments).remove(0)
    };
    let strings = r#"{"a":"NaN","b":"-Infinity","c":["Infinity",1.50],"d":{"f1":"NaN"}}"#;
    assert_eq!(line("{}"), strings);
    assert_eq!(line(r#"{"nan": "string"}"#), strings);
    assert_eq!(line(r#"{"nan": "null"}"#), r#"{"a":null,"b":null,"c":[null,1.50],"d":{"f1":null}}"#);
}
