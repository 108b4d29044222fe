//! The launcher, where the library is preloaded: after a start, a crash or a promotion, one look at the queue of each database.
//!
//! Without the launcher queued jobs wait for the next call. The launcher stays, asleep: Postgres starts it again after a crash only if it
//! has not ended. It connects to no database, so that it is in nobody's way, and each look is a worker of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::{pg_guard, pg_sys};

use crate::pg::background::{Assignment, registration};
use crate::pg::report::log;
use crate::pg::wait::{WaitFor, pause};

/// Name of the function that the launcher begins with.
const ENTRY: &std::ffi::CStr = c"s3_export_launcher_main";
/// In `pg_stat_activity.backend_type`.
const TYPE: &std::ffi::CStr = c"s3_export launcher";

/// Whether the postmaster has the launcher; its processes inherit that.
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Between two looks, so that they do not take up all room at once.
const BETWEEN: Duration = Duration::from_millis(50);
/// How often to try where there is no room for another process.
const TRIES: u32 = 200;

/// Whether the library is preloaded, so that queued jobs begin without a call after a start.
pub fn is_registered() -> bool {
    REGISTERED.load(Ordering::Relaxed)
}

/// Registers the launcher, where `shared_preload_libraries` loads the library.
pub fn register() {
    let mut worker = registration(TYPE, ENTRY);
    worker.bgw_restart_time = 5;
    // SAFETY: reads a flag of the postmaster's; the registration is copied.
    unsafe {
        if pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade {
            pg_sys::RegisterBackgroundWorker(&mut worker);
            REGISTERED.store(true, Ordering::Relaxed);
        }
    }
}

/// Entry point of the launcher, which Postgres calls.
///
/// # Safety
/// Only Postgres calls it, once, in a process of its own.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn s3_export_launcher_main(_argument: pg_sys::Datum) {
    // SAFETY: signals are blocked until here; the handler of SIGTERM waits until the process may be interrupted. The launcher connects as
    // the superuser, to no database.
    unsafe {
        super::background::end_at_sigterm();
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
    for database in databases() {
        let look = Assignment::look(database);
        let mut tries = 0;
        while !look.start_worker() {
            tries += 1;
            if tries > TRIES {
                log("no room for a background worker: what is queued in a database waits for the next call of s3_export");
                break;
            }
            pause(WaitFor::Job, BETWEEN);
        }
        pause(WaitFor::Job, BETWEEN);
    }
    loop {
        pause(WaitFor::Job, Duration::from_secs(24 * 60 * 60));
    }
}

/// The databases that take connections, without templates. No SQL runs without a database, so the catalog is read row by row.
fn databases() -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    // SAFETY: in a transaction of its own; a row of the catalog begins with the fields of its struct, and is read before the next.
    unsafe {
        pg_sys::StartTransactionCommand();
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        let (no_snapshot, no_keys) = (std::ptr::null_mut(), std::ptr::null_mut());
        let scan = pg_sys::systable_beginscan(catalog, pg_sys::InvalidOid, false, no_snapshot, 0, no_keys);
        loop {
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break;
            }
            let header = (*row).t_data;
            let database = &*header.cast::<u8>().add(usize::from((*header).t_hoff)).cast::<pg_sys::FormData_pg_database>();
            // A limit below -1 marks a database that a DROP has left half deleted.
            if database.datallowconn && !database.datistemplate && database.datconnlimit >= -1 {
                found.push(database.oid);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
        pg_sys::CommitTransactionCommand();
    }
    found
}
