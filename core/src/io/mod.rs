//! The I/O thread: where requests run while the backend waits on its latch.

pub mod task;
pub mod thread;
pub mod wake;
