//! End to end: the installed extension in a real Postgres, against a real S3 server. `make test` starts both.
//!
//! One file a feature; `fixture` gives each test a database, a bucket and the words to say what it expects in a few lines.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's panic is its report")]

mod arguments;
mod attacks;
mod cancel;
mod cancel_hung;
mod catalog;
mod cleanup;
mod commit;
mod crash;
mod credentials;
mod cron;
mod docs;
mod dump;
mod encoding;
mod faults;
mod feed_writers;
mod feeds;
mod files;
mod fixture;
mod formats;
mod help;
mod hostile;
mod job_cancel;
mod job_queue;
mod job_roles;
mod job_settings;
mod jobs;
mod large;
mod listings;
mod manifest;
mod network;
mod own_names;
mod parquet;
mod partitions;
mod privilege_matrix;
mod privileges;
mod progress;
mod queries;
mod query_errors;
mod readers;
mod roles;
mod run_key;
mod s3_errors;
mod scale;
mod secrecy;
mod server_identity;
mod settings;
mod soak;
mod standby;
mod statements;
mod stores;
mod transactions;
mod upgrade;
