//! Slots: at most `s3_export.max_exports` transactions of the cluster export at once.
//!
//! ```text
//! nobody waits, and a slot is free? ──► hold it to the end of the transaction
//!   └── join the queue ──► first in the queue: look for a free slot, again and again ──► hold it, leave the queue
//!                               └── now and then: do all who have slots wait for us?
//! ```
//!
//! A slot belongs to the top-level transaction, whose thread and connections live as long. So a transaction has one slot at most, and
//! whoever has one never waits for another. Postgres's own search for deadlocks knows locks, and not who looks for a free slot: so the
//! first in the queue searches as well. Those who may have the same number of slots share a queue: a role that may have few does not
//! hold up a role that may have more.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ffi::CString;
use std::time::{Duration, Instant};

use s3_export_core::error::{Code, Error, Result};
use serde_json::{Value, json};

use crate::pg::lock::{Lock, SLOT_KIND, SLOT_QUEUE_KIND, ScopedLock, timeouts};
use crate::pg::sql::read;
use crate::pg::wait::{WaitFor, pause};
use crate::pg::{ActAs, Settings};
use crate::settings;

thread_local! {
    /// The slot of the current top-level transaction.
    static SLOT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// How long to sleep between two looks for a free slot: from here, growing, up to there.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Takes a slot for the transaction, if it needs one and has none. Waits while all are taken. Errors: 40P01 when all who have slots wait
/// for this transaction; 55P03 when none becomes free in time.
pub fn take() -> Result<()> {
    let slots = settings::max_exports();
    if slots == 0 || SLOT.get().is_some() {
        return Ok(());
    }
    let slot = match free_slot_if_nobody_waits(slots) {
        Some(slot) => slot,
        None => Waiting::begin(slots).wait()?,
    };
    SLOT.set(Some(slot));
    Ok(())
}

/// Forgets the slot: the transaction has ended, and its locks with it.
pub fn forget() {
    SLOT.set(None);
}

/// Gives the slot back before the transaction's end.
pub fn let_go() {
    if let Some(slot) = SLOT.take() {
        Lock::Slot(slot).let_go_alone();
    }
}

fn free_slot(slots: u32) -> Option<u32> {
    (0..slots).find(|&slot| Lock::Slot(slot).try_hold_alone())
}

fn free_slot_if_nobody_waits(slots: u32) -> Option<u32> {
    if Lock::SlotQueue(slots).is_held() { None } else { free_slot(slots) }
}

/// A wait for a slot.
struct Waiting {
    slots: u32,
    deadline: Option<Instant>,
    /// How often to search for a deadlock.
    deadlock_timeout: Duration,
}

/// Outcome of a wait at the head of the queue.
enum Ended {
    /// This slot is held.
    Taken(u32),
    /// Somebody further back in the queue holds all up, and is to come to its head.
    BehindOthers,
}

impl Waiting {
    fn begin(slots: u32) -> Self {
        let (lock_timeout, deadlock_timeout) = timeouts();
        let limit = [settings::max_exports_wait(), lock_timeout].into_iter().flatten().min();
        Waiting { slots, deadline: limit.and_then(|limit| Instant::now().checked_add(limit)), deadlock_timeout }
    }

    fn wait(&self) -> Result<u32> {
        loop {
            let _first = self.enter_queue()?;
            if let Ended::Taken(slot) = self.wait_as_first()? {
                return Ok(slot);
            }
        }
    }

    /// Waits until this session is the first in the queue.
    fn enter_queue(&self) -> Result<ScopedLock> {
        // Zero would stand for no limit.
        let limit = self.left()?.map_or(0, |left| left.as_millis().clamp(1, i32::MAX as u128));
        let limit = CString::new(limit.to_string()).unwrap_or_default();
        let _limited = Settings::set(&[(c"lock_timeout", &limit)]);
        ScopedLock::wait_for(Lock::SlotQueue(self.slots)).ok_or_else(|| self.full())
    }

    fn wait_as_first(&self) -> Result<Ended> {
        let (mut sleep, mut search) = (FIRST_PAUSE, Instant::now() + self.deadlock_timeout);
        let mut before = Jam::None;
        loop {
            if let Some(slot) = free_slot(self.slots) {
                return Ok(Ended::Taken(slot));
            }
            if Instant::now() >= search {
                // Twice, since locks come and go while they are read.
                let found = find_jam(self.slots)?;
                match (before, found) {
                    (Jam::ByUs, Jam::ByUs) => return Err(self.deadlock()),
                    (Jam::ByOthers, Jam::ByOthers) => return Ok(Ended::BehindOthers),
                    _ => before = found,
                }
                search = Instant::now() + self.deadlock_timeout;
            }
            let left = self.left()?;
            pause(WaitFor::Slot, left.map_or(sleep, |left| left.min(sleep)));
            sleep = (sleep * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    /// The time that is left. `None`: any. Errors: 55P03 when none is.
    fn left(&self) -> Result<Option<Duration>> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) { Err(self.full()) } else { Ok(left) }
    }

    fn full(&self) -> Error {
        Error::new(Code::LockNotAvailable, "too many exports run at once")
            .detail(format!(
                "s3_export.max_exports allows {} in the cluster, and none of them ended within the time of s3_export.max_exports_wait or lock_timeout.",
                self.slots
            ))
            .hint("Export again later, or raise s3_export.max_exports_wait or lock_timeout, whichever is shorter.")
            .transient()
    }

    fn deadlock(&self) -> Error {
        Error::new(Code::Deadlock, "deadlock detected")
            .detail(format!(
                "This transaction waits for one of the {} exports that run, and each of these waits for this transaction or for another that waits to export.",
                self.slots
            ))
            .hint("Export first in a transaction, before it takes locks.")
            .transient()
    }
}

/// Whether all who have slots wait for somebody who waits for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jam {
    None,
    /// One of them waits for this session.
    ByUs,
    /// They wait for others in the queue.
    ByOthers,
}

/// Follows each holder of a slot to whom it waits for, up to a session that waits for a slot.
fn find_jam(slots: u32) -> Result<Jam> {
    let _superuser = ActAs::superuser();
    let found = read(
        "WITH RECURSIVE held AS MATERIALIZED (
             SELECT l.pid, l.granted, l.classid::bigint AS number, l.objsubid = ($argument ->> 'slot')::int AS is_slot
             FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.database = 0
                 AND l.objsubid IN (($argument ->> 'slot')::int, ($argument ->> 'queue')::int)
         ), chain (number, pid) AS (
             SELECT h.number, h.pid FROM held AS h
             WHERE h.is_slot AND h.granted AND h.number < ($argument ->> 'slots')::bigint
             UNION
             SELECT c.number, b.pid FROM chain AS c, unnest(pg_blocking_pids(c.pid)) AS b (pid)
             WHERE c.pid <> pg_backend_pid() AND c.pid NOT IN (SELECT h.pid FROM held AS h WHERE NOT h.is_slot)
         ), slot AS (
             SELECT bool_or(c.pid = pg_backend_pid()) AS is_ours,
                 bool_or(c.pid = pg_backend_pid() OR c.pid IN (SELECT h.pid FROM held AS h WHERE NOT h.is_slot)) AS is_stuck
             FROM chain AS c GROUP BY c.number
         )
         SELECT convert_to(jsonb_build_object('all', count(*) FILTER (WHERE s.is_stuck) = ($argument ->> 'slots')::bigint,
                                              'ours', coalesce(bool_or(s.is_ours), false))::text, 'UTF8')
         FROM slot AS s",
        &json!({ "slot": SLOT_KIND, "queue": SLOT_QUEUE_KIND, "slots": slots }),
    )?;
    let is = |member: &str| found.as_ref().and_then(|found| found.get(member)).and_then(Value::as_bool).unwrap_or(false);
    Ok(match (is("all"), is("ours")) {
        (false, _) => Jam::None,
        (true, true) => Jam::ByUs,
        (true, false) => Jam::ByOthers,
    })
}
