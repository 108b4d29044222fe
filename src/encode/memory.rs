//! The memory of an export's encoders, and who may rely on it.
//!
//! Postgres keeps caches of a function's own, and descriptors of rows, in memory that is current when they are made. In a row's memory
//! they would be gone with the row, and read after that. So whatever has such state asks for this memory, and keeps it alive.

use std::rc::Rc;

use crate::pg::{CurrentMemory, Memory};

/// Memory that lives as long as whoever holds a clone of this.
#[derive(Clone)]
pub struct EncoderMemory(Rc<Memory>);

impl EncoderMemory {
    /// Makes new memory, which holds nothing.
    pub fn new() -> Self {
        EncoderMemory(Rc::new(Memory::new(c"s3_export encoders")))
    }

    /// Makes it the current memory until the guard is dropped.
    pub fn enter(&self) -> CurrentMemory {
        self.0.enter()
    }
}
