//! Maintenance beside exports: the search for orphans, and the trial of a store.

pub mod orphans;
pub mod presence;
pub mod probe;
