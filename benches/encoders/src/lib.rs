//! The encoders' pure files, as `src/encode/` has them, without the rest of the extension.
#![allow(missing_docs)]

pub mod encode {
    #[path = "../../../../src/encode/block.rs"]
    pub mod block;
    #[path = "../../../../src/encode/datetime.rs"]
    pub mod datetime;
    #[path = "../../../../src/encode/inet.rs"]
    pub mod inet;
    #[path = "../../../../src/encode/interval.rs"]
    pub mod interval;
    #[path = "../../../../src/encode/json.rs"]
    pub mod json;
    #[path = "../../../../src/encode/jsonb.rs"]
    pub mod jsonb;
    #[path = "../../../../src/encode/number.rs"]
    pub mod number;
}
