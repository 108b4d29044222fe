//! The state machine of uploads against a store in the process: every fault at every step, once and for ever. What holds after each:
//! an export that succeeds has all its objects and no others, and an export that fails leaves nothing, or names what it leaves.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod answers;
mod export;
mod faults;
mod headers;
mod limits;
mod names;
mod outages;
mod run_key;
mod scripted;
mod store;
mod verify;
mod versions;
