//! Column names become keys.

use super::super::fixture::Database;

#[test]
fn any_column_name_is_a_key() {
    let database = Database::new("names");
    let longest = "ü".repeat(31) + "x";
    let names = [
        "a \"quoted\" one",
        r"back\slash",
        "line\nbreak\ttab\u{1}",
        "日本語 😀",
        "Ä",
        "a",
        "A",
        " ",
        "__rockset_type",
        &longest,
    ];
    let columns: Vec<_> = names.iter().map(|name| format!("1 AS \"{}\"", name.replace('"', "\"\""))).collect();
    let exported = database.export(&format!("SELECT {}", columns.join(", ")));
    let document = database.bucket.values(&exported.prefix).remove(0);
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), names);
}

#[test]
fn a_row_without_columns_is_an_empty_object() {
    let database = Database::new("no_columns");
    let exported = database.export("SELECT FROM generate_series(1, 2)");
    assert_eq!(database.bucket.documents(&exported.prefix), ["{}", "{}"]);
}

#[test]
fn two_columns_of_one_name_are_refused_at_any_depth() {
    let database = Database::new("duplicate_names");
    let inner = "SELECT 1 AS a, 2 AS a";
    database.refuse(inner, "").sqlstate("42701").message("column \"a\" appears more than once").hint("AS");
    database.refuse(&format!("SELECT t FROM ({inner}) t"), "").sqlstate("42701");
    database.refuse(&format!("SELECT ARRAY[t] FROM ({inner}) t"), "").sqlstate("42701");
}
