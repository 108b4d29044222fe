//! Locks that say what runs: an export, in any database of the cluster, which `s3_export.cleanup` must not take for dead; and,
//! in one database, a job and the workers. A process id says nothing once its process is gone; a lock goes with it, whatever
//! ended it.
//!
//! The locks are advisory locks of kinds that no SQL function takes, so no user can hold one by accident. Standbys have such locks
//! too.

use std::time::Duration;

use pgrx::pg_sys::pg_try::PgTryBuilder;
use pgrx::{PgSqlErrorCode, pg_sys};
use s3_export_core::s3::checksum::sha256_hex;
use uuid::Uuid;

/// Exports of one transaction that have a lock of their own, at most: all sessions share the table of locks.
const MOST: usize = 256;

/// Meaning of a lock.
#[derive(Debug, Clone, Copy)]
pub enum Lock {
    /// A running export; the nil id stands for all of a transaction that has more than [`MOST`].
    Export(Uuid),
    /// A job that a worker runs.
    Job(Uuid),
    /// A worker; at most `s3_export.max_workers` numbers are taken.
    Worker(u32),
    /// The run of an export whose key has this hash; whoever holds it may export under the key.
    Run(u64),
    /// The process that starts jobs whose next attempt is due.
    Timer,
    /// Leave to export, for one transaction at a time; there are `s3_export.max_exports` of these locks.
    Slot(u32),
    /// The first of those who wait for one of so many slots.
    SlotQueue(u32),
    /// The bytes that an integration may still write today; whoever holds it may count and add to them.
    Allowance(Uuid),
    /// Shared by those who commit jobs and rely on a living worker to find them.
    Enqueue,
}

/// In `pg_locks.objsubid`. Kinds 1 and 2 are those of `pg_advisory_lock`.
const EXPORT_KIND: u16 = 0x5333;
const JOB_KIND: u16 = 0x5334;
/// Kind of [`Lock::Worker`].
pub const WORKER_KIND: u16 = 0x5335;
const ENQUEUE_KIND: u16 = 0x5336;
const RUN_KIND: u16 = 0x5337;
const ALLOWANCE_KIND: u16 = 0x5338;
/// Kind of [`Lock::Timer`].
pub const TIMER_KIND: u16 = 0x533b;
/// Kind of [`Lock::Slot`].
pub const SLOT_KIND: u16 = 0x5339;
/// Kind of [`Lock::SlotQueue`].
pub const SLOT_QUEUE_KIND: u16 = 0x533a;

/// For those who hold what others only look at: none conflicts with another of its kind.
const HELD: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
/// In conflict with [`HELD`], and with nobody else who looks.
const LOOK: pg_sys::LOCKMODE = pg_sys::ShareLock as pg_sys::LOCKMODE;
/// In conflict with all.
const ALONE: pg_sys::LOCKMODE = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;

impl Lock {
    fn tag(self) -> pg_sys::LOCKTAG {
        // SAFETY: reads a global that is set when the backend connects.
        let here = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let (database, (field2, field3), kind) = match self {
            // In no database, so that any of the cluster sees it.
            Lock::Export(id) => (0, by_id(id), EXPORT_KIND),
            Lock::Job(id) => (here, by_id(id), JOB_KIND),
            Lock::Worker(number) => (here, (number, 0), WORKER_KIND),
            Lock::Timer => (here, (0, 0), TIMER_KIND),
            Lock::Allowance(integration) => (here, by_hash(integration), ALLOWANCE_KIND),
            Lock::Enqueue => (here, (0, 0), ENQUEUE_KIND),
            // Databases of one cluster may share a bucket.
            Lock::Run(hash) => (0, ((hash >> 32) as u32, hash as u32), RUN_KIND),
            // They share the server's memory and its network.
            Lock::Slot(number) => (0, (number, 0), SLOT_KIND),
            Lock::SlotQueue(slots) => (0, (slots, 0), SLOT_QUEUE_KIND),
        };
        pg_sys::LOCKTAG {
            locktag_field1: database,
            locktag_field2: field2,
            locktag_field3: field3,
            locktag_field4: kind,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }

    /// A job's lock as `pg_locks` shows it: classid, objid and objsubid. The mode is RowExclusiveLock.
    pub fn of_job_as_shown(id: Uuid) -> (u32, u32, u16) {
        let (field2, field3) = by_id(id);
        (field2, field3, JOB_KIND)
    }

    /// Whether anybody of this cluster holds it, as a [`SessionLock`] or by [`Self::hold`].
    pub fn is_held(self) -> bool {
        // What is acquired is released at once: of thousands of ids the table of locks would overflow.
        !take(self, LOOK, Owner::Transaction, Wait::No) || {
            release(self, LOOK, Owner::Transaction);
            false
        }
    }

    /// Waits until those who hold it at this moment have let go of it.
    pub fn pass(self) {
        take(self, LOOK, Owner::Transaction, Wait::Yes);
        release(self, LOOK, Owner::Transaction);
    }

    /// Holds it, with others who do, until the end of the current transaction.
    pub fn hold(self) {
        let _owner = ResourceOwner::transaction();
        take(self, HELD, Owner::Transaction, Wait::Yes);
    }

    /// Holds it against everybody else, until the end of the current transaction. Waits for whoever has it.
    pub fn hold_alone(self) {
        let _owner = ResourceOwner::transaction();
        take(self, ALONE, Owner::Transaction, Wait::Yes);
    }

    /// Holds the lock like [`Self::hold_alone`], unless another transaction has it; `false`: one has.
    pub fn try_hold_alone(self) -> bool {
        let _owner = ResourceOwner::transaction();
        take(self, ALONE, Owner::Transaction, Wait::No)
    }

    /// Ends [`Self::hold_alone`] and [`Self::try_hold_alone`] before their time.
    pub fn let_go_alone(self) {
        let _owner = ResourceOwner::transaction();
        release(self, ALONE, Owner::Transaction);
    }

    /// Ends [`Self::hold`] before its time.
    pub fn let_go(self) {
        let _owner = ResourceOwner::transaction();
        release(self, HELD, Owner::Transaction);
    }
}

/// Holds a table against whatever would take its rows from a snapshot, such as TRUNCATE and an ALTER TABLE that writes it anew, until the
/// end of the transaction.
pub fn hold_table(table: pg_sys::Oid) {
    let _owner = ResourceOwner::transaction();
    // SAFETY: inside a transaction; the lock of a reader, which the query takes anyway.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
}

/// Key of a lock: the random half of the id.
fn by_id(id: Uuid) -> (u32, u32) {
    let [.., a, b, c, d, e, f, g, h] = *id.as_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// By all of the id: whoever makes an integration may choose its id, and no other id has the same hash.
fn by_hash(id: Uuid) -> (u32, u32) {
    let hash = sha256_hex(id.as_bytes());
    let number = |digits: Option<&str>| digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    (number(hash.get(..8)), number(hash.get(8..16)))
}

/// Says that an export of the current transaction runs. `exports`: how many it has already.
pub fn hold_export(export_id: Uuid, exports: usize) {
    Lock::Export(if exports < MOST { export_id } else { Uuid::nil() }).hold();
}

/// Whether a transaction of this cluster runs that export.
pub fn export_runs(export_id: Uuid) -> bool {
    Lock::Export(export_id).is_held()
}

/// Whether a transaction of this cluster has so many exports that any may be its.
pub fn any_export_may_run() -> bool {
    Lock::Export(Uuid::nil()).is_held()
}

/// Held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct SessionLock {
    lock: Lock,
    mode: pg_sys::LOCKMODE,
}

impl SessionLock {
    /// Takes a lock as [`Lock::hold`] does, and keeps it beyond the transaction. Waits only for sessions that look whether it is held.
    pub fn hold(lock: Lock) -> Self {
        take(lock, HELD, Owner::Session, Wait::Yes);
        SessionLock { lock, mode: HELD }
    }

    /// Takes the lock against all other sessions. `None`: another session has it.
    pub fn try_alone(lock: Lock) -> Option<Self> {
        take(lock, ALONE, Owner::Session, Wait::No).then(|| SessionLock { lock, mode: ALONE })
    }
}

impl SessionLock {
    /// Takes it once more, for the rest of the process.
    pub fn retake(&self) {
        take(self.lock, self.mode, Owner::Session, Wait::Yes);
    }

    /// Holds it until the end of the current transaction as well: `pg_advisory_unlock_all` takes the session's locks away.
    pub fn hold_in_transaction(&self) {
        if self.mode == ALONE { self.lock.hold_alone() } else { self.lock.hold() }
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        release(self.lock, self.mode, Owner::Session);
    }
}

/// Held against everybody else until the drop. An error that leaves the scope ends the lock with the (sub)transaction.
#[derive(Debug)]
pub struct ScopedLock(Lock);

impl ScopedLock {
    /// Waits for whoever has it, in the order of those who wait. `None`: `lock_timeout` has passed.
    pub fn wait_for(lock: Lock) -> Option<Self> {
        PgTryBuilder::new(|| Some(take(lock, ALONE, Owner::Transaction, Wait::Yes)))
            .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| None)
            .execute()
            .map(|_| ScopedLock(lock))
    }
}

impl Drop for ScopedLock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            release(self.0, ALONE, Owner::Transaction);
        }
    }
}

/// The session's `lock_timeout`, if it has one, and `deadlock_timeout`.
pub fn timeouts() -> (Option<Duration>, Duration) {
    // SAFETY: reads the session's settings, which this thread alone changes.
    let milliseconds = unsafe { [pg_sys::LockTimeout, pg_sys::DeadlockTimeout] };
    let [lock, deadlock] = milliseconds.map(|time| Duration::from_millis(u64::from(time.unsigned_abs())));
    (Some(lock).filter(|time| !time.is_zero()), deadlock)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Transaction,
    Session,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}

/// Whether it was acquired, or was the session's already.
fn take(lock: Lock, mode: pg_sys::LOCKMODE, owner: Owner, wait: Wait) -> bool {
    // SAFETY: the tag is copied. A transaction's lock is only taken inside one.
    let result = unsafe { pg_sys::LockAcquire(&lock.tag(), mode, owner == Owner::Session, wait == Wait::No) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

fn release(lock: Lock, mode: pg_sys::LOCKMODE, owner: Owner) {
    // SAFETY: the tag is copied; the lock was taken in this mode by this owner.
    unsafe { pg_sys::LockRelease(&lock.tag(), mode, owner == Owner::Session) };
}

/// Whom locks belong to that are taken meanwhile. A portal's would go with the portal, when it fails inside a subtransaction,
/// though what it exported before goes on to commit.
struct ResourceOwner(pg_sys::ResourceOwner);

impl ResourceOwner {
    fn transaction() -> Self {
        // SAFETY: both are the backend's own, inside a transaction.
        unsafe {
            let before = ResourceOwner(pg_sys::CurrentResourceOwner);
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            before
        }
    }
}

impl Drop for ResourceOwner {
    fn drop(&mut self) {
        // SAFETY: it was the current one before.
        unsafe { pg_sys::CurrentResourceOwner = self.0 };
    }
}
