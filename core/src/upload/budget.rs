//! Memory of one export: bytes on their way to S3, and used buffers for the next ones.
//!
//! A piece counts from the moment that the backend hands it over until it is stored, so that a slow store makes the query wait
//! instead of filling the memory.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::files::plan::PART_BYTES;
use crate::io::wake::Wake;
use crate::sync::lock;

/// Used buffers kept for the next files. Together with those under way there are never more of them than were under way at once,
/// and reused they leave no holes in the heap.
const MAX_SPARE_BUFFERS: usize = 1024;
/// Larger buffers are given back to the system.
const MAX_SPARE_BYTES: usize = 2 * PART_BYTES;

/// Outstanding bytes and spare buffers of one export.
pub struct Budget {
    /// Raised when there is room again.
    wake: Arc<Wake>,
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    /// Bytes handed over and not yet stored.
    outstanding: usize,
    spare: Vec<Vec<u8>>,
}

impl Budget {
    /// Nothing outstanding yet.
    pub fn new(wake: Arc<Wake>) -> Arc<Self> {
        Arc::new(Budget { wake, room: Mutex::default() })
    }

    /// Bytes handed over and not yet stored.
    pub fn outstanding(&self) -> usize {
        lock(&self.room).outstanding
    }

    /// Counts `bytes` as outstanding until the lease is dropped.
    pub fn lease(self: &Arc<Self>, bytes: usize) -> Lease {
        lock(&self.room).outstanding += bytes;
        Lease { budget: Arc::clone(self), bytes }
    }

    /// A used buffer, or a new one.
    pub fn spare_buffer(&self) -> Vec<u8> {
        lock(&self.room).spare.pop().unwrap_or_default()
    }

    /// No more files will be written.
    pub fn drop_spare_buffers(&self) {
        lock(&self.room).spare = Vec::new();
    }
}

/// Some outstanding bytes; dropping it makes room for others, however the upload ended.
pub struct Lease {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Lease {
    /// Some of its bytes, as a lease of their own.
    pub fn split(&mut self, bytes: usize) -> Lease {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Lease { budget: Arc::clone(&self.budget), bytes }
    }

    /// Gives the bytes' buffer back for the next file, if nobody else holds it.
    pub fn recycle(self, body: Bytes) {
        let used = body.len();
        let Ok(mut buffer) = body.try_into_mut() else { return };
        // Else what is in it would be copied.
        buffer.clear();
        let buffer = Vec::from(buffer);
        // One that was mostly empty would take room from others for little.
        let is_apt = buffer.capacity() <= MAX_SPARE_BYTES && used >= buffer.capacity() / 2;
        let mut room = lock(&self.budget.room);
        if is_apt && room.spare.len() < MAX_SPARE_BUFFERS {
            room.spare.push(buffer);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.budget.room).outstanding -= self.bytes;
        self.budget.wake.raise();
    }
}
