//! Functions that administrators run beside exports.

pub mod cleanup;
pub mod validate;
