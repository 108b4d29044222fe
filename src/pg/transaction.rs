//! Transactions of a background worker, which nobody begins and ends for it.

use pgrx::pg_sys;

/// A transaction of a process that nobody sends statements to, begun with a snapshot.
pub struct Transaction(());

impl Transaction {
    /// Begins it.
    pub fn begin() -> Self {
        // SAFETY: only called between transactions.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        Transaction(())
    }

    /// Raises what keeps it from being committed. Without a commit, [`Self::abort`] is due.
    pub fn commit(self) {
        // SAFETY: the snapshot was pushed in `begin`, and what was pushed since was popped.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
    }

    /// Ends one that has failed.
    pub fn abort() {
        // SAFETY: called when an error was caught, or nothing else runs.
        unsafe { pg_sys::AbortCurrentTransaction() }
    }
}

/// A transaction that is READ ONLY writes to our own tables all the same, until the drop.
pub struct Writable(bool);

impl Writable {
    /// From now on.
    pub fn begin() -> Self {
        // SAFETY: a flag of the current transaction, which its end resets.
        unsafe {
            let before = Writable(pg_sys::XactReadOnly);
            pg_sys::XactReadOnly = false;
            before
        }
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::XactReadOnly = self.0 };
    }
}

/// No cancel is answered until the drop; what came meanwhile is forgotten then.
pub struct CancelsIgnored(());

impl CancelsIgnored {
    /// From now on.
    pub fn begin() -> Self {
        // SAFETY: a counter of the backend's own.
        unsafe { pg_sys::QueryCancelHoldoffCount += 1 };
        CancelsIgnored(())
    }
}

impl Drop for CancelsIgnored {
    fn drop(&mut self) {
        // SAFETY: as above; an error that is raised meanwhile has reset the counter.
        unsafe {
            pg_sys::QueryCancelPending = 0;
            pg_sys::QueryCancelHoldoffCount = pg_sys::QueryCancelHoldoffCount.saturating_sub(1);
        }
    }
}

/// Waits until that transaction has ended.
pub fn wait_for_transaction(transaction: pg_sys::TransactionId) {
    // SAFETY: inside a transaction, which holds no lock that the other could wait for.
    unsafe { pg_sys::XactLockTableWait(transaction, std::ptr::null_mut(), std::ptr::null_mut(), pg_sys::XLTW_Oper::XLTW_None) }
}
