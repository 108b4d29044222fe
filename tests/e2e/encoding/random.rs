//! Random rows of every type, exported, read back from the bucket, and turned into SQL values again by Postgres: each must be
//! the one in the table.

mod shapes;
mod values;

use postgres::Client;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use self::values::{COLUMNS, Column};
use super::{HOSTILE, documents, golden_database, has_postgis};

const CASES: u32 = 40;
const ROWS: std::ops::Range<usize> = 20..50;

#[test]
fn random_rows_read_back_the_same() {
    let database = golden_database("random", "");
    let mut client = database.client();
    client.batch_execute(include_str!("../../golden/decode.sql")).unwrap();
    let mut drawn: Vec<&Column> = COLUMNS.iter().collect();
    if has_postgis(&mut client) {
        client.batch_execute(include_str!("../../golden/decode_postgis.sql")).unwrap();
    } else {
        drawn.retain(|column| !["geometry", "geography"].contains(&column.of_type));
    }
    let columns: Vec<_> = drawn.iter().map(|column| format!("{} {}", column.name, column.of_type)).collect();
    client
        .batch_execute(&format!("CREATE TABLE lines (line json); CREATE TABLE drawn (id int, {})", columns.join(", ")))
        .unwrap();

    let row: Vec<_> = drawn.iter().map(|column| prop_oneof![9 => (column.values)(), 1 => Just("NULL".to_owned())]).collect();
    let config = Config { cases: CASES, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(row, ROWS), |rows| {
        let mut client = database.client();
        client.batch_execute("SET TimeZone = 'UTC'; SET IntervalStyle = 'iso_8601'").unwrap();
        insert(&mut client, &rows)?;
        for (settings, arguments) in [("RESET ALL", ""), (HOSTILE, ""), (HOSTILE, "wrap_types => false")] {
            let mut session = database.client();
            session.batch_execute(settings).unwrap();
            let lines = documents(&database, &mut session, "SELECT * FROM drawn ORDER BY id", arguments);
            prop_assert_eq!(lines.len(), rows.len());
            compare(&mut client, &drawn, &lines, arguments.is_empty())?;
        }
        Ok(())
    });
    // The reason names the values; the rows around them would only hide it.
    match outcome {
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        other => other.unwrap(),
    }
}

fn insert(client: &mut Client, rows: &[Vec<String>]) -> Result<(), TestCaseError> {
    // One INSERT a row: a column of a list of VALUES has a type of its own before it meets the table's.
    let insert = |(id, row): (usize, &Vec<String>)| format!("; INSERT INTO drawn VALUES ({id}, {})", row.join(", "));
    let inserts: String = rows.iter().enumerate().map(insert).collect();
    let inserted = client.batch_execute(&format!("TRUNCATE drawn{inserts}"));
    inserted.map_err(|error| TestCaseError::fail(format!("{error:?}")))
}

/// Whether each line is its row.
fn compare(client: &mut Client, drawn: &[&Column], lines: &[String], is_wrapped: bool) -> Result<(), TestCaseError> {
    for (id, line) in lines.iter().enumerate() {
        prop_assert!(line.starts_with(&format!("{{\"id\":{id},")), "line {id} is {line}");
    }
    client.batch_execute("TRUNCATE lines").unwrap();
    client.execute("INSERT INTO lines SELECT unnest($1::text[])::json", &[&lines]).unwrap();
    let checks: Vec<_> = drawn
        .iter()
        .map(|column| {
            let name = column.name;
            let same = if is_wrapped { column.wrapped } else { column.plain };
            let same = same.replace("$ours", &format!("(line->'{name}')")).replace("$theirs", name);
            // IS NULL would be true of a composite of NULLs.
            format!(
                "CASE WHEN {name} IS DISTINCT FROM NULL THEN coalesce({same}, false)
                      ELSE json_typeof(line->'{name}') = 'null' END AS {name}"
            )
        })
        .collect();
    let query = format!(
        "SELECT key, (line->key)::text, hstore(drawn)->key
         FROM lines JOIN drawn ON id = (line->>'id')::int, LATERAL (SELECT {}) checks,
              LATERAL json_each_text(row_to_json(checks)) AS each (key, is_same)
         WHERE is_same IS DISTINCT FROM 'true'",
        checks.join(", ")
    );
    let wrong = client.query(&query, &[]).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
    let wrong: Vec<_> = wrong.iter().map(|row| [0, 1, 2].map(|column| row.get::<_, Option<String>>(column))).collect();
    prop_assert!(wrong.is_empty(), "column, our JSON, its value: {wrong:#?}");
    Ok(())
}
