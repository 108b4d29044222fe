//! The encoders' pure files, as `src/encode/` has them, without the rest of the extension.
#![allow(missing_docs)]

#[path = "../../../src/encode"]
pub mod encode {
    pub mod block;
    pub mod datetime;
    pub mod inet;
    pub mod interval;
    pub mod json;
    pub mod jsonb;
    pub mod number;
    pub mod numeric;
}
