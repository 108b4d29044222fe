//! Byte for byte what `tests/golden/types.tsv` says.

use super::super::fixture::{Database, Session};
use super::{HOSTILE, INFINITE_INTERVAL, LONGEST_INTERVAL, OF_POSTGIS, OID8, documents, golden_database, has_postgis};

/// A line of the golden file.
#[derive(Clone, Copy)]
pub struct Case {
    pub expression: &'static str,
    pub wrapped: &'static str,
    pub plain: &'static str,
}

impl Case {
    fn is_latin1(&self) -> bool {
        [self.expression, self.wrapped, self.plain].iter().all(|text| text.chars().all(|character| character <= 'ÿ'))
    }
}

/// The golden file, without the sections `without`.
pub fn cases(without: &[&str]) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut section = "";
    for line in include_str!("../../golden/types.tsv").lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        } else if !line.is_empty() && !line.starts_with('#') && !without.contains(&section) {
            let fields: Vec<_> = line.split('\t').collect();
            let (expression, wrapped) = (fields[0], fields[1]);
            cases.push(Case { expression, wrapped, plain: fields.get(2).copied().unwrap_or(wrapped) });
        }
    }
    cases
}

/// The cases that this server can write.
fn all_cases(database: &Database) -> Vec<Case> {
    let mut without = vec![if database.major() < 17 { INFINITE_INTERVAL } else { LONGEST_INTERVAL }];
    if database.major() < 19 {
        without.push(OID8);
    }
    if !has_postgis(&mut database.client()) {
        without.extend(OF_POSTGIS);
    }
    cases(&without)
}

#[test]
fn every_value_at_every_depth_is_as_in_the_golden_file() {
    let database = golden_database("golden", "");
    compare(&database, &all_cases(&database));
}

#[test]
fn every_latin1_value_at_every_depth_is_as_in_the_golden_file() {
    let database = golden_database("golden_latin1", "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let cases: Vec<_> = all_cases(&database).into_iter().filter(Case::is_latin1).collect();
    compare(&database, &cases);
}

fn compare(database: &Database, cases: &[Case]) {
    let mut client = database.client();
    let types = types(&mut client, cases);
    let only = |keep: fn(&Type) -> bool| -> Vec<Case> {
        cases.iter().zip(&types).filter(|(_, of)| keep(of)).map(|(case, _)| *case).collect()
    };
    let (storable, elements) = (only(|of| of.is_storable), only(|of| of.has_array));
    for (number, part) in storable.chunks(100).enumerate() {
        let columns = columns(part, str::to_owned);
        client.batch_execute(&format!("CREATE TABLE stored_{number} AS SELECT {columns}")).unwrap();
    }
    for settings in ["", HOSTILE] {
        client.batch_execute(settings).unwrap();
        for wraps in [true, false] {
            let mut check = |cases: &[Case], query: &str, json: &dyn Fn(&str) -> String| {
                let lines = documents(database, &mut client, query, &format!("wrap_types => {wraps}"));
                assert_eq!(lines.len(), 1);
                compare_line(&lines[0], cases, &|case| json(if wraps { case.wrapped } else { case.plain }));
            };
            let mut check_in = |cases: &[Case], sql: &dyn Fn(&str) -> String, json: &dyn Fn(&str) -> String| {
                check(cases, &format!("SELECT {}", columns(cases, sql)), json);
            };
            check_in(cases, &|value| value.to_owned(), &|json| json.to_owned());
            check_in(cases, &|value| format!("ROW({value}, NULL)"), &|json| format!(r#"{{"f1":{json},"f2":null}}"#));
            check_in(cases, &|value| format!("ARRAY[ROW({value})]"), &|json| format!(r#"[{{"f1":{json}}}]"#));
            check_in(&elements, &|value| format!("ARRAY[{value}, {value}]"), &|json| format!("[{json},{json}]"));
            for (number, part) in storable.chunks(100).enumerate() {
                check(part, &format!("SELECT * FROM stored_{number}"), &|json| json.to_owned());
            }
        }
    }
}

struct Type {
    is_storable: bool,
    has_array: bool,
}

/// Uses that the type of each case's value has.
fn types(client: &mut Session, cases: &[Case]) -> Vec<Type> {
    let values: Vec<_> = cases.iter().enumerate().map(|(n, case)| format!("({n}, pg_typeof({}))", case.expression)).collect();
    let query = format!(
        "SELECT typtype <> 'p', typarray <> 0 AND typsubscript <> 'array_subscript_handler'::regproc
         FROM (VALUES {}) AS v(n, type) JOIN pg_type t ON t.oid = v.type ORDER BY n",
        values.join(", ")
    );
    let rows = client.query(&query, &[]).unwrap();
    rows.iter().map(|row| Type { is_storable: row.get(0), has_array: row.get(1) }).collect()
}

/// A select list: `c0`, `c1`, … with `sql` around each expression.
fn columns(cases: &[Case], sql: impl Fn(&str) -> String) -> String {
    let columns = cases.iter().enumerate().map(|(n, case)| format!("{} AS c{n}", sql(case.expression)));
    columns.collect::<Vec<_>>().join(", ")
}

/// Column by column, so that a failure names its case.
fn compare_line(line: &str, cases: &[Case], wanted: &dyn Fn(&Case) -> String) {
    let mut rest = line;
    for (number, case) in cases.iter().enumerate() {
        let wanted = format!("{}\"c{number}\":{}", if number == 0 { '{' } else { ',' }, wanted(case));
        rest = rest.strip_prefix(&wanted).unwrap_or_else(|| {
            let got: String = rest.chars().take(wanted.chars().count() + 60).collect();
            panic!("{}\nwanted {wanted}\ngot    {got}", case.expression)
        });
    }
    assert_eq!(rest, "}");
}
