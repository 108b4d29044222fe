//! The core of `s3_export`: everything between rows that are already text or columns and objects in S3. Postgres has no name here,
//! and the compiler sees to that: a test of this crate needs no server.
//!
//! Each room imports only rooms that stand below it in this list (`make lint` checks that):
//!
//! ```text
//! maintenance             looks for orphans · tries what an integration may do
//! upload                  one export's objects: files, the commit's objects, the rollback
//! marks                   how far a feed has exported
//! manifest                what the commit says
//! files                   values → files: when a file ends, compression, Parquet
//! integration · text      permission to write somewhere · how a value reads
//! request · s3            what is asked · one request to S3
//! naming · io             where objects go · the thread
//! private_file            a file that nobody else may read
//! error · format · secret · sync
//! ```
#![deny(unsafe_code)]
// The future of an upload nests the SDK's own futures deeper than the compiler follows by default.
#![recursion_limit = "256"]

pub mod error;
pub mod files;
pub mod format;
pub mod integration;
pub mod io;
pub mod maintenance;
pub mod manifest;
pub mod marks;
pub mod naming;
pub mod private_file;
pub mod request;
pub mod s3;
pub mod secret;
pub mod sync;
pub mod text;
pub mod upload;
