//! Work where Postgres can take no error: in the callbacks of a transaction's end.
//!
//! While Postgres raises an ERROR, it sets the counters that hold off interrupts to zero, since it is about to jump to where they are
//! zero. A callback that catches the error goes on instead. Postgres then counts down what it had counted up before the callback, from
//! zero to the largest number, and the session answers no interrupt any more.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pgrx::pg_sys;

/// Runs `work`; gives its result, or what it panicked with or raised. Postgres's counters are afterwards as they were before.
pub fn contained<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    let _counters = Counters::now();
    catch_unwind(AssertUnwindSafe(work))
}

/// The counters that an ERROR sets to zero. The drop puts them back.
struct Counters {
    interrupts: u32,
    cancels: u32,
    critical_sections: u32,
}

impl Counters {
    fn now() -> Self {
        // SAFETY: counters of the backend's own, which its own thread alone changes.
        unsafe {
            Counters {
                interrupts: pg_sys::InterruptHoldoffCount,
                cancels: pg_sys::QueryCancelHoldoffCount,
                critical_sections: pg_sys::CritSectionCount,
            }
        }
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: as above; what `work` has counted up it has counted down again, or jumped over.
        unsafe {
            pg_sys::InterruptHoldoffCount = self.interrupts;
            pg_sys::QueryCancelHoldoffCount = self.cancels;
            pg_sys::CritSectionCount = self.critical_sections;
        }
    }
}
