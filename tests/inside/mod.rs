//! Tests that run inside Postgres, by feature: they call the extension's own modules, without S3.
//!
//! The end-to-end tests in `tests/e2e` cover what a user sees; these cover what only the inside can show. So do the modules `tests`
//! in the files of `src/`. A test is a function that panics where it fails, and stands in its module's list ([`inside_tests!`]).
//! `tests/inside.rs` declares the two SQL functions below in a database of its own, and calls each test in a transaction.
// As in every test, a panic is the report; clippy does not see that these are tests.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod callback;
mod documents;
mod encoding;
mod jobs;
mod query;
mod stored_forms;

use pgrx::pg_sys;
use s3_export_core::error::Result;
use s3_export_core::request::required;

use crate::pg::call::{Call, text_datum};
use crate::sql_function;

/// One test.
pub struct Test {
    /// Path of its function.
    pub name: &'static str,
    /// The function.
    pub run: fn(),
    /// Message of the error that the test must end with; empty: none.
    pub error: &'static str,
}

inventory::collect!(Test);

/// Lists the tests of a module: `name`, or `name raises "message of the error"`. A test in no list is dead code, which fails the
/// build.
#[macro_export]
macro_rules! inside_tests {
    ($($test:ident $(raises $error:literal)?),+ $(,)?) => {
        $(inventory::submit! {
            $crate::inside::Test {
                name: concat!(module_path!(), "::", stringify!($test)),
                run: $test,
                error: concat!($($error)?),
            }
        })+
    };
}

sql_function!(s3_export_inside_tests, pg_finfo_s3_export_inside_tests, list);
sql_function!(s3_export_inside_test, pg_finfo_s3_export_inside_test, run);

/// `s3_export_inside_tests() RETURNS TABLE (name text, error text)`
fn list(call: &Call) -> Result<pg_sys::Datum> {
    let row = |test: &Test| Ok(vec![Some(text_datum(test.name)?), Some(text_datum(test.error)?)]);
    call.rows(inventory::iter::<Test>().map(row).collect::<Result<_>>()?)
}

/// `s3_export_inside_test(name text) RETURNS void`
fn run(call: &Call) -> Result<pg_sys::Datum> {
    let name = required("name", call.text(0))?;
    let test = inventory::iter::<Test>().find(|test| test.name == name).expect(&name);
    (test.run)();
    Ok(call.null())
}
