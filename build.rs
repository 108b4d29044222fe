//! Tells the code which majors of Postgres a build is for, as the conditions `since_pg16`, `since_pg17`, …: a condition names the first
//! major that differs, so that the next major needs an edit of this file alone.

use std::ops::RangeInclusive;

/// The majors of which there is a feature `pg15`, `pg16`, … in Cargo.toml.
const MAJORS: RangeInclusive<u32> = 15..=19;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let major = MAJORS.filter(|major| std::env::var_os(format!("CARGO_FEATURE_PG{major}")).is_some()).max();
    for first in MAJORS.skip(1) {
        println!("cargo::rustc-check-cfg=cfg(since_pg{first})");
        if major >= Some(first) {
            println!("cargo::rustc-cfg=since_pg{first}");
        }
    }
}
