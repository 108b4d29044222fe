//! Tables of the documentation, compared with what Postgres says of the extension, and with the golden file of types.

use std::collections::{BTreeMap, BTreeSet};

use super::super::encoding::cases;
use super::super::fixture::{Database, Session, literal};
use super::file;

/// The rows of the tables of `page` whose heading begins with these cells.
fn rows(page: &str, heading: &[&str]) -> Vec<Vec<String>> {
    let (mut rows, mut is_table) = (Vec::new(), false);
    for line in file(page).lines() {
        let cells = cells(line);
        if cells.len() >= heading.len() && cells.iter().zip(heading).all(|(cell, name)| cell == name) {
            is_table = true;
        } else if cells.is_empty() {
            is_table = false;
        } else if is_table && !line.starts_with("|--") {
            rows.push(cells);
        }
    }
    assert!(!rows.is_empty(), "{page} has no table of {heading:?}");
    rows
}

/// The cells of a table's line; none of another line.
fn cells(line: &str) -> Vec<String> {
    let Some(line) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else { return Vec::new() };
    // A pipe within a cell is escaped.
    line.replace(r"\|", "\u{0}").split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

/// The pieces of inline code in a cell.
fn codes(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The name, the default, the bounds and the context of each setting.
#[test]
fn the_table_of_settings_is_what_postgres_has() {
    let db = Database::new("docs_settings");
    let mut client = db.client();
    client.batch_execute("LOAD 's3_export'").unwrap();
    let mut names = BTreeSet::new();
    for row in rows("docs/settings.md", &["setting", "default", "range", "who may set it"]) {
        let [name, default, range, who] = &row[..4] else { unreachable!() };
        let name = codes(name)[0];
        let column = |client: &mut Session, column: &str| {
            client.text(&format!("SELECT {column} FROM pg_settings WHERE name = {}", literal(name)))
        };
        // A bound as Postgres reads it: with its unit.
        let mut says = |value: &str, expected: &str| {
            client.batch_execute(&format!("SET {name} = {}", literal(value))).unwrap();
            assert_eq!(column(&mut client, "setting"), column(&mut client, expected), "{name}: {value}");
        };
        // What a text says in place of a value is that there is none.
        if !matches!(default.as_str(), "none" | "the system's") {
            says(default.trim_matches('`'), "boot_val");
        } else {
            says("", "coalesce(boot_val, '')");
        }
        if let Some(low) = range.strip_prefix("from ") {
            says(low, "min_val");
        } else if let Some((low, high)) = range.split_once(" to ") {
            says(low, "min_val");
            says(high, "max_val");
        }
        let context = if who == "anyone" { "user" } else { "superuser" };
        assert_eq!(column(&mut client, "context"), context, "{name}: {who}");
        names.insert(name.to_owned());
    }
    let all = client.query("SELECT name FROM pg_settings WHERE name LIKE 's3\\_export.%'", &[]).unwrap();
    assert_eq!(names, all.iter().map(|row| row.get(0)).collect());
}

/// The roles that have a privilege on each function, table and view of the extension.
#[test]
fn the_table_of_privileges_is_what_postgres_grants() {
    const GRANTED: &str = "WITH objects AS (
            SELECT pronamespace AS namespace, proname AS name, 'pg_proc'::regclass AS catalog, oid FROM pg_proc
            UNION ALL SELECT relnamespace, relname, 'pg_class'::regclass, oid FROM pg_class WHERE relkind IN ('r', 'v'))
        SELECT CASE nspname WHEN 'pg_catalog' THEN name ELSE nspname || '.' || name END AS what,
               coalesce(string_agg(DISTINCT role, ' ') FILTER (WHERE may), '') AS roles,
               count(DISTINCT may) FILTER (WHERE role = 's3_export_member') AS answers
          FROM objects JOIN pg_depend ON classid = catalog AND objid = oid AND deptype = 'e'
          JOIN pg_extension e ON refobjid = e.oid AND extname = 's3_export' JOIN pg_namespace n ON n.oid = namespace
         CROSS JOIN unnest('{public,s3_export_admin,s3_export_auditor,s3_export_member}'::text[]) AS role
         CROSS JOIN LATERAL (SELECT CASE catalog WHEN 'pg_proc'::regclass THEN has_function_privilege(role, objid, 'EXECUTE')
             ELSE has_table_privilege(role, objid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
               OR has_any_column_privilege(role, objid, 'SELECT') END AS may) AS granted
         GROUP BY what ORDER BY what";
    let db = Database::new("docs_privileges");
    let found: BTreeMap<String, String> = db
        .client()
        .query(GRANTED, &[])
        .unwrap()
        .iter()
        .map(|row| {
            let what: String = row.get("what");
            // A function of several forms is granted in all of them, or in none.
            assert_eq!(row.get::<_, i64>("answers"), 1, "{what}");
            (what, row.get("roles"))
        })
        .collect();
    let says = |row: &Vec<String>| {
        let roles: BTreeSet<&str> = codes(&row[1])
            .into_iter()
            .filter(|code| matches!(*code, "s3_export_admin" | "s3_export_auditor" | "s3_export_member"))
            .collect();
        // Such a cell may go on with roles that are needed too.
        let is_nobody = row[1].starts_with("nobody") || row[1].starts_with("superusers only");
        let roles = if is_nobody { String::new() } else { roles.into_iter().collect::<Vec<_>>().join(" ") };
        (codes(&row[0])[0].to_owned(), roles)
    };
    let documented: BTreeMap<_, _> = rows("docs/privileges.md", &["what", "who"]).iter().map(says).collect();
    for (what, roles) in &found {
        assert_eq!(documented.get(what), Some(roles), "{what}");
    }
    assert!(documented.keys().all(|what| found.contains_key(what)));
}

/// Each value that the page shows of a type stands in the golden file, which has a section for each type.
#[test]
fn the_tables_of_types_show_what_the_golden_file_has() {
    let page = "docs/formats/json.md";
    let cases = cases(&[]);
    let types = rows(page, &["Postgres type", "JSON", "plain JSON (`wrap_types => false`)"]);
    let exceptions = rows(page, &["value", "JSON"]);
    let mut count = 0;
    for row in types.iter().chain(&exceptions) {
        for cell in &row[1..] {
            for code in codes(cell).into_iter().filter(|code| serde_json::from_str::<serde_json::Value>(code).is_ok()) {
                let is_there = cases.iter().any(|case| [case.wrapped, case.plain].contains(&code));
                assert!(is_there, "{page}: {}: types.tsv has no {code}", row[0]);
                count += 1;
            }
        }
    }
    assert!(count > 25, "{count} values");
    let words = |text: &str| text.split([' ', ',', ':', '`']).map(str::to_owned).collect::<BTreeSet<String>>();
    let named: BTreeSet<String> = types.iter().flat_map(|row| words(&row[0])).collect();
    for title in include_str!("../../golden/types.tsv").lines().filter_map(|line| line.strip_prefix("## ")) {
        let types = title.split(" in ").next().unwrap();
        // Other titles are about versions of Postgres, or about values.
        let is_list = !title.contains("Postgres") && (types.contains(", ") || !types.contains(' '));
        assert!(!is_list || words(types).is_subset(&named), "{page} does not name all of: {types}");
    }
}
