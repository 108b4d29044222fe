//! What is done beside exports: orphans are looked for, and a store is tried.

pub mod orphans;
pub mod probe;
