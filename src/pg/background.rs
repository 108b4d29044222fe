//! Background workers of ours: asked for, and, in the worker, connected.
//!
//! A worker is told by what its registration carries, since it can read no table before it is connected as somebody.

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys;
use uuid::Uuid;

/// Assignment of a new worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// The database that it connects to.
    pub database: pg_sys::Oid,
    /// The role whose job it runs.
    pub role: pg_sys::Oid,
    /// The user of the session that enqueued the job, and so of the worker's: another than `role` after SET ROLE and in a function
    /// that is SECURITY DEFINER.
    pub login: pg_sys::Oid,
    /// Whether `login` may log in.
    pub may_log_in: bool,
    /// The job.
    pub export_id: Uuid,
    /// The transaction that enqueues the job and has not ended yet.
    pub enqueued_by: Option<pg_sys::TransactionId>,
}

/// Name of the function that a worker begins with, exported by `worker`.
const ENTRY: &CStr = c"s3_export_worker_main";
const LIBRARY: &CStr = c"s3_export";
/// In `pg_stat_activity.backend_type`, and in the log where a worker is terminated.
const TYPE: &CStr = c"s3_export worker";

// SAFETY: declared as Postgres declares it, of the type that `pqsignal` takes.
unsafe extern "C-unwind" {
    /// Postgres's own handler, undecorated: a signal handler must not set up what catches errors.
    fn die(signal: c_int, #[cfg(since_pg19)] sender: *const pg_sys::pg_signal_info);
}

/// Sets the handler of a signal.
///
/// # Safety
/// `handler` may be called at any time.
pub unsafe fn handle(signal: u32, handler: pg_sys::pqsigfunc) {
    // SAFETY: by the caller's promise.
    unsafe {
        #[cfg(not(since_pg18))]
        pg_sys::pqsignal(signal as c_int, handler);
        #[cfg(since_pg18)]
        pg_sys::pqsignal_be(signal as c_int, handler);
    }
}

/// Lets SIGTERM end the process where it may be interrupted. The default handler would end the process wherever it is.
pub fn end_at_sigterm() {
    // SAFETY: it is made for that.
    unsafe { handle(pg_sys::SIGTERM, Some(die)) }
}

/// Returns the registration of a background worker of ours that begins with that function of the library.
pub fn registration(kind: &CStr, entry: &CStr) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        ..pg_sys::BackgroundWorker::default()
    };
    copy(kind.to_bytes(), &mut worker.bgw_name);
    copy(kind.to_bytes(), &mut worker.bgw_type);
    copy(LIBRARY.to_bytes(), &mut worker.bgw_library_name);
    copy(entry.to_bytes(), &mut worker.bgw_function_name);
    worker
}

impl Assignment {
    /// Returns the assignment of a process that has no job: it looks at the queue of that database, as the superuser.
    pub fn look(database: pg_sys::Oid) -> Self {
        let nobody = pg_sys::InvalidOid;
        Assignment { database, role: nobody, login: nobody, may_log_in: false, export_id: Uuid::nil(), enqueued_by: None }
    }

    /// Whether it is [`Self::look`].
    pub fn is_look(self) -> bool {
        self.export_id.is_nil()
    }

    const BYTES: usize = 4 + 4 + 1 + 4 + 4 + 16;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.database.to_u32().to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.role.to_u32().to_ne_bytes());
        bytes[8] = self.may_log_in.into();
        let transaction = self.enqueued_by.unwrap_or(pg_sys::InvalidTransactionId);
        bytes[9..13].copy_from_slice(&u32::from(transaction).to_ne_bytes());
        bytes[13..17].copy_from_slice(&self.login.to_u32().to_ne_bytes());
        bytes[17..].copy_from_slice(self.export_id.as_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let transaction = pg_sys::TransactionId::from(number(9));
        Assignment {
            database: pg_sys::Oid::from(number(0)),
            role: pg_sys::Oid::from(number(4)),
            login: pg_sys::Oid::from(number(13)),
            may_log_in: bytes[8] != 0,
            enqueued_by: (transaction != pg_sys::InvalidTransactionId).then_some(transaction),
            export_id: Uuid::from_slice(&bytes[17..]).unwrap_or_default(),
        }
    }

    /// Asks the postmaster for a worker; `false`: it has no room for one. The worker starts by itself, and does not wait for
    /// the end of the current transaction.
    pub fn start_worker(self) -> bool {
        let mut worker = registration(TYPE, ENTRY);
        copy(&self.to_bytes(), &mut worker.bgw_extra);
        // SAFETY: the registration is copied; texts end in a zero, since they are shorter than their fields.
        unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) }
    }

    /// Returns the assignment of this worker.
    pub fn of_this_worker() -> Self {
        let mut bytes = [0; Self::BYTES];
        // SAFETY: set before the entry of a background worker is called; `start_worker` filled it.
        let extra = unsafe { &(*pg_sys::MyBgworkerEntry).bgw_extra };
        for (byte, extra) in bytes.iter_mut().zip(extra) {
            *byte = *extra as u8;
        }
        Self::from_bytes(bytes)
    }

    /// Connects this worker as `login`. Where Postgres lets no role in that may not log in, as the superuser, who then has to
    /// become that role: gives whether it has. FATAL: the role or the database is gone.
    pub fn connect(self) -> bool {
        #[cfg(not(since_pg17))]
        let (login, flags) = (if self.may_log_in { self.login } else { pg_sys::InvalidOid }, 0);
        #[cfg(since_pg17)]
        let (login, flags) = (self.login, pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK);
        // SAFETY: called once, by the worker's entry.
        unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(self.database, login, flags) };
        login != self.login
    }
}

fn copy(from: &[u8], to: &mut [c_char]) {
    for (from, to) in from.iter().zip(to) {
        *to = *from as c_char;
    }
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        a_worker_reads_what_it_was_told,
    }

    fn a_worker_reads_what_it_was_told() {
        let told = Assignment {
            database: pg_sys::Oid::from(5),
            role: pg_sys::Oid::from(u32::MAX),
            login: pg_sys::Oid::from(10),
            may_log_in: true,
            export_id: Uuid::now_v7(),
            enqueued_by: Some(pg_sys::TransactionId::from(7)),
        };
        assert_eq!(Assignment::from_bytes(told.to_bytes()), told);
        let later = Assignment { may_log_in: false, enqueued_by: None, ..told };
        assert_eq!(Assignment::from_bytes(later.to_bytes()), later);
        assert!(Assignment::BYTES <= pg_sys::BGW_EXTRALEN as usize);
    }
}
