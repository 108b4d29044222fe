//! The eventfd by which the I/O thread wakes the backend.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Eventfd that makes a waiting backend look again. The I/O thread raises it, and the backend waits for it.
#[derive(Debug)]
pub struct Wake(EventFd);

impl Wake {
    /// Not raised.
    pub(super) fn new() -> nix::Result<Self> {
        EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Wake)
    }

    /// Makes the descriptor readable.
    pub fn raise(&self) {
        // It fails only when the counter is full, and then the descriptor is readable already.
        let _ = self.0.write(1);
    }

    /// Makes the descriptor unreadable again. Look at the state waited for after this, never before.
    pub fn clear(&self) {
        // It fails only when nothing was raised.
        let _ = self.0.read();
    }

    /// Blocks this thread until it is raised, or `timeout` passes.
    pub fn wait(&self, timeout: Duration) {
        let mut descriptors = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        // Interrupted by a signal, it returns early, and the caller looks at its state as after any other return.
        let _ = poll(&mut descriptors, timeout);
    }

    /// The descriptor, for a wait set.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
