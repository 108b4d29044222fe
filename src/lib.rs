//! `s3_export`: a PostgreSQL extension that exports a SELECT to Amazon S3.
//!
//! ```text
//! sql_functions ──► export ──┬─► integration   may this role write there, and with which credentials
//!                            ├─► query ──► receiver ──► encode ──► sink ──► core: files ──► upload
//!                            └─► transaction ──► core: manifest
//! ```
//!
//! The crate `s3_export_core` has all code that needs no Postgres. Each room imports only rooms that stand below it here:
//!
//! ```text
//! sql_functions
//! admin · job · dry_run
//! feed
//! verify
//! export
//! run_key · query · history · notification
//! transaction · integration · progress
//! settings · encode · stored_arguments
//! pg
//! ```
//!
//! ARCHITECTURE.md draws the path of a row, and of a failure.

// The future of an upload nests the SDK's own futures deeper than the compiler follows by default.
#![recursion_limit = "256"]

mod admin;
#[cfg(feature = "bench")]
mod bench;
mod dry_run;
mod encode;
mod export;
mod feed;
mod history;
mod integration;
mod job;
mod notification;
mod pg;
mod progress;
mod query;
mod run_key;
mod settings;
mod sql_functions;
mod stored_arguments;
mod transaction;
mod verify;

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../sql/catalog.sql", name = "catalog", finalize);

#[cfg(feature = "pg_test")]
#[path = "../tests/inside/mod.rs"]
mod inside;

/// Runs once in each backend, when the library is loaded.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    pg::launcher::register();
    transaction::register_callbacks(&job::pending::HOOKS);
}
