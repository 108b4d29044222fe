//! File descriptors that Postgres does not open itself, and counts all the same: it closes files of its own in time, where
//! sockets of ours would otherwise leave it without any.

use pgrx::pg_sys;

/// For Postgres's own waits, and other extensions.
const LEFT_TO_POSTGRES: usize = 8;

/// Number of descriptors, given back on drop.
#[derive(Debug)]
pub struct ExternalDescriptors(usize);

impl ExternalDescriptors {
    /// At most `wanted`; as many as Postgres gives and can still wait for a latch with, which takes one of these itself.
    pub fn acquire(wanted: usize) -> Self {
        let mut given = Self::take(wanted);
        let left = Self::take(LEFT_TO_POSTGRES);
        let missing = LEFT_TO_POSTGRES - left.count();
        given.give_back(missing.min(given.count()));
        given
    }

    fn take(wanted: usize) -> Self {
        // SAFETY: counts, and closes files that Postgres opens again by itself.
        ExternalDescriptors((0..wanted).take_while(|_| unsafe { pg_sys::AcquireExternalFD() }).count())
    }

    fn give_back(&mut self, count: usize) {
        for _ in 0..count {
            // SAFETY: each was acquired in `take`; this only counts.
            unsafe { pg_sys::ReleaseExternalFD() };
        }
        self.0 -= count;
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0
    }
}

impl Drop for ExternalDescriptors {
    fn drop(&mut self) {
        self.give_back(self.0);
    }
}
