//! Tests that run inside Postgres, by feature: they call the extension's own modules, without S3.
//!
//! The end-to-end tests in `tests/` cover what a user sees; these cover what only the inside can show.
// As in every test, a panic is the report; clippy does not see that these are tests.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod callback;
mod documents;
mod encoding;
mod jobs;
mod query;
mod stored_forms;
