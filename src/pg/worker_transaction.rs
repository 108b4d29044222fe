//! Transactions of a background worker, which nobody begins and ends for it.

use std::ffi::CStr;

use pgrx::pg_sys;

use crate::pg::encoding;

/// A transaction of a process that nobody sends statements to, begun with a snapshot.
pub struct Transaction(());

impl Transaction {
    /// Begins it, as the session's defaults say.
    pub fn begin() -> Self {
        Self::begin_with(|| ())
    }

    /// Begins it as READ COMMITTED, whatever the session's default is.
    pub fn begin_read_committed() -> Self {
        // SAFETY: a flag of the transaction that has just begun, which has no snapshot yet.
        Self::begin_with(|| unsafe { pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as std::ffi::c_int })
    }

    /// Begins one for our own tables, whatever the session's defaults are: those of the role or of a job's caller may make every
    /// transaction READ ONLY, or end waits that have to come to their end.
    pub fn begin_own() -> Self {
        Self::begin_with(|| {
            // SAFETY: flags of the transaction that has just begun, which has no snapshot yet.
            unsafe {
                pg_sys::XactReadOnly = false;
                pg_sys::XactDeferrable = false;
                pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as std::ffi::c_int;
            }
            set_local(c"lock_timeout", c"0");
        })
    }

    fn begin_with(before_snapshot: impl FnOnce()) -> Self {
        // SAFETY: only called between transactions.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        before_snapshot();
        // SAFETY: inside the transaction; its end, or its abort, pops the snapshot.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        encoding::prepare();
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

/// Changes a setting until the end of the current transaction.
pub fn set_local(name: &CStr, value: &CStr) {
    let (context, source) = (pg_sys::GucContext::PGC_USERSET, pg_sys::GucSource::PGC_S_SESSION);
    // SAFETY: both are NUL-terminated.
    unsafe {
        let action = pg_sys::GucAction::GUC_ACTION_LOCAL;
        pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, 0, false);
    }
}

/// Makes the current user the session's too, as the superuser that the session was connected as. What runs under
/// [`crate::pg::ActAs::role`] cannot undo it.
pub fn become_session_user(role: &CStr) {
    let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_SESSION);
    let action = pg_sys::GucAction::GUC_ACTION_SET;
    // SAFETY: both are NUL-terminated; inside a transaction, which the look-up of the role needs.
    unsafe {
        pg_sys::set_config_option(c"session_authorization".as_ptr(), role.as_ptr(), context, source, action, true, 0, false);
    }
}

/// Waits until that transaction has ended.
pub fn wait_for_transaction(transaction: pg_sys::TransactionId) {
    // SAFETY: inside a transaction, which holds no lock that the other could wait for.
    unsafe { pg_sys::XactLockTableWait(transaction, std::ptr::null_mut(), std::ptr::null_mut(), pg_sys::XLTW_Oper::XLTW_None) }
}
