//! Nothing: the benchmarks are in `benches/encoders.rs`, and what they measure is in the core.
