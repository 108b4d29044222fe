//! Jobs: what the catalog's SQL says of their states, against the code.

use std::collections::BTreeSet;

use pgrx::prelude::*;

use crate::inside_tests;
use crate::job::status::Status;

inside_tests! {
    the_catalog_has_the_states_that_the_code_has,
}

/// The words in capitals that stand in quotes in the text that a query gives.
fn quoted_capitals(query: &str) -> BTreeSet<String> {
    let text = Spi::get_one::<String>(query).unwrap().unwrap();
    let is_state = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
    text.split('\'').filter(is_state).filter(|word| *word != "USAGE").map(str::to_owned).collect()
}

fn the_catalog_has_the_states_that_the_code_has() {
    let all: BTreeSet<String> = Status::ALL.iter().map(|status| status.name().to_owned()).collect();
    let constraint = "SELECT pg_get_constraintdef(oid) FROM pg_constraint
                      WHERE conname = 'status_is_known' AND conrelid = 's3_export.jobs'::regclass";
    assert_eq!(quoted_capitals(constraint), all);
    let default = "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute
                   ON attrelid = adrelid AND attnum = adnum WHERE adrelid = 's3_export.jobs'::regclass AND attname = 'status'";
    assert_eq!(quoted_capitals(default), BTreeSet::from([Status::Queued.name().to_owned()]));
    for (index, status) in [("jobs_queued", Status::Queued), ("jobs_running", Status::Running)] {
        let predicate = format!("SELECT pg_get_indexdef('s3_export.{index}'::regclass)");
        assert_eq!(quoted_capitals(&predicate), BTreeSet::from([status.name().to_owned()]), "{index}");
    }
    let view = quoted_capitals("SELECT pg_get_viewdef('s3_export.exports'::regclass)");
    assert!(!view.is_empty() && view.is_subset(&all), "{view:?}");
    for status in Status::ALL {
        assert_eq!(Status::parse(status.name()), Some(*status));
    }
}
