//! Whether a SERIALIZABLE transaction may commit, asked before anything of it is shown to others.

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// Raises 40001 where Postgres refuses the commit for what other transactions have read and written. From here on Postgres takes
/// the transaction for prepared, as one of two phases: others fail in its place, and the commit, which asks once more, finds
/// nothing new. An abort takes that back (`predicate.c`, `ReleasePredicateLocks`). Does nothing on other levels of isolation.
pub fn refuse_if_doomed() {
    unsafe extern "C-unwind" {
        /// Exported by each version of Postgres, and in none of its headers that pgrx reads.
        fn PreCommit_CheckForSerializationFailure();
    }
    // SAFETY: called where Postgres commits, just before Postgres calls it; the closure holds nothing to drop.
    unsafe { pg_guard_ffi_boundary(|| PreCommit_CheckForSerializationFailure()) }
}
