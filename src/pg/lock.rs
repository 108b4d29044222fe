//! A lock that says that an export runs, in any database of the cluster: `s3_export.cleanup` must not take it for dead.
//!
//! An advisory lock of a kind that no SQL function takes, so no user can hold one by accident; it ends with the transaction,
//! and so with the backend, whatever ended that. Standbys have such locks too.

use pgrx::pg_sys;
use uuid::Uuid;

/// Tells these locks from those of `pg_advisory_lock`, which are of kinds 1 and 2.
const KIND: u16 = 0x5333;

/// So many exports of one transaction have a lock of their own; the table of locks is shared by all sessions.
const MOST: usize = 256;

/// Held by the current transaction until it ends. `exports`: how many it has already; past [`MOST`] one lock stands for all.
pub fn hold(export_id: Uuid, exports: usize) {
    let tag = if exports < MOST { tag(export_id) } else { tag(Uuid::nil()) };
    let _owner = Owner::transaction();
    // SAFETY: inside a transaction; the tag is copied. Nobody else takes this lock but for a moment.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE, false, false) };
}

/// Whom locks belong to that are taken meanwhile. A portal's would go with the portal, when it fails inside a subtransaction,
/// though what it exported before goes on to commit.
struct Owner(pg_sys::ResourceOwner);

impl Owner {
    fn transaction() -> Self {
        // SAFETY: both are the backend's own, inside a transaction.
        unsafe {
            let before = Owner(pg_sys::CurrentResourceOwner);
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            before
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: it was the current one before.
        unsafe { pg_sys::CurrentResourceOwner = self.0 };
    }
}

/// Whether a transaction of this cluster has so many exports that any may be its.
pub fn any_may_be_held() -> bool {
    is_held(Uuid::nil())
}

/// Whether a transaction of this cluster holds it.
pub fn is_held(export_id: Uuid) -> bool {
    let tag = tag(export_id);
    // In conflict with those who hold it, and with nobody else who looks.
    let mode = pg_sys::ShareLock as pg_sys::LOCKMODE;
    // SAFETY: inside a transaction; the tag is copied. What is acquired is released at once: of thousands of ids the table of
    // locks would overflow.
    unsafe {
        match pg_sys::LockAcquire(&tag, mode, false, true) {
            pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL => true,
            _ => {
                pg_sys::LockRelease(&tag, mode, false);
                false
            }
        }
    }
}

/// By the random half of the id, in no database.
fn tag(export_id: Uuid) -> pg_sys::LOCKTAG {
    let [.., a, b, c, d, e, f, g, h] = *export_id.as_bytes();
    pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: u32::from_be_bytes([a, b, c, d]),
        locktag_field3: u32::from_be_bytes([e, f, g, h]),
        locktag_field4: KIND,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}
