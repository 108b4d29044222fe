//! Values → files: documents become pieces of a file, rows become batches, and each file is compressed or written as Parquet.

pub mod batcher;
pub mod chunker;
pub mod compress;
pub mod limits;
pub mod parquet;
pub mod plan;
