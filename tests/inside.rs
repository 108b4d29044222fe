//! Runs the tests inside Postgres, which the extension's library has with the feature `pg_test` (`tests/inside/`): each in a session
//! and a transaction of its own. So a test needs no server of its own, no build of its own and no `cargo-pgrx`.
//!
//! Only the library knows its tests, so no `#[test]` stands for one: a loop takes the place of Rust's harness. Arguments: parts of
//! names. With arguments, the tests run whose names contain one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's panic is its report")]

use std::process::ExitCode;

use postgres::{Client, Config, NoTls};

const DATABASE: &str = "inside_postgres";

const DECLARATIONS: &str = "
    CREATE EXTENSION s3_export;
    CREATE FUNCTION inside_tests() RETURNS TABLE (name text, error text) LANGUAGE c AS 's3_export', 's3_export_inside_tests';
    CREATE FUNCTION inside_test(name text) RETURNS void LANGUAGE c AS 's3_export', 's3_export_inside_test'";

struct Test {
    /// Path of the test's function, by which the library knows the test.
    path: String,
    /// Message of the error that the test must end with; empty: none.
    error: String,
}

impl Test {
    /// The name that is printed: without the crate, and the modules that only hold tests.
    fn name(&self) -> String {
        let in_crate = self.path.trim_start_matches("s3_export::").trim_start_matches("inside::");
        short(in_crate)
    }

    /// Errors: what the test has failed with.
    fn run(&self) -> Result<(), String> {
        // A test may have crashed the server.
        let mut client = connect(DATABASE).map_err(|error| told(&error))?;
        // Rolled back, since nothing commits it.
        let mut transaction = client.transaction().map_err(|error| told(&error))?;
        match transaction.execute("SELECT inside_test($1)", &[&self.path]) {
            Ok(_) if self.error.is_empty() => Ok(()),
            Ok(_) => Err(format!("no error, where one was expected: {}", self.error)),
            Err(error) if error.as_db_error().is_some_and(|error| error.message() == self.error) => Ok(()),
            Err(error) if self.error.is_empty() => Err(told(&error)),
            Err(error) => Err(format!("{}\nexpected: {}", told(&error), self.error)),
        }
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).map(|part| short(&part)).collect();
    let mut maintenance = connect("postgres").unwrap();
    maintenance.batch_execute(&format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).unwrap();
    maintenance.batch_execute(&format!("CREATE DATABASE {DATABASE}")).unwrap();
    let tests = declared();
    let (mut passed, mut failed) = (0, Vec::new());
    for test in &tests {
        let name = test.name();
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part)) {
            continue;
        }
        match test.run() {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(reason) => {
                println!("test {name} ... FAILED: {reason}");
                failed.push(name);
            }
        }
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    let left_out = tests.len() - passed - failed.len();
    println!("\ntest result: {result}. {passed} passed; {} failed; {left_out} filtered out", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Declares the library's functions in the database, and gives its tests by name.
fn declared() -> Vec<Test> {
    let mut client = connect(DATABASE).unwrap();
    client.batch_execute(DECLARATIONS).expect("the library is built with the feature pg_test");
    let rows = client.query("SELECT name, error FROM inside_tests() ORDER BY name", &[]).unwrap();
    assert!(!rows.is_empty(), "the library has no tests");
    rows.iter().map(|row| Test { path: row.get("name"), error: row.get("error") }).collect()
}

fn connect(database: &str) -> Result<Client, postgres::Error> {
    let variable = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run make test"));
    let mut config = Config::new();
    config.host(&variable("S3_EXPORT_PGHOST")).port(variable("S3_EXPORT_PGPORT").parse().unwrap());
    config.user("postgres").dbname(database).connect(NoTls)
}

/// A unit test may be named with or without its module `tests`.
fn short(name: &str) -> String {
    name.replace("tests::", "")
}

/// The message, and where it came from.
fn told(error: &postgres::Error) -> String {
    let Some(error) = error.as_db_error() else { return format!("{error}") };
    let place = error.file().zip(error.line()).map(|(file, line)| format!("\nat {file}:{line}"));
    let more = [("\nDETAIL: ", error.detail()), ("\nHINT: ", error.hint()), ("\nCONTEXT: ", error.where_())];
    let more: String = more.iter().filter_map(|(label, text)| text.map(|text| format!("{label}{text}"))).collect();
    format!("{} {}: {}{more}{}", error.severity(), error.code().code(), error.message(), place.unwrap_or_default())
}
