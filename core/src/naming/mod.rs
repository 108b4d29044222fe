//! Destination of an export: the URI, the keys of its objects, the folders of its partitions.

pub mod hive;
pub mod keys;
pub mod uri;
