//! Credentials that expire, kept by the backend from one export to the next.
//!
//! One fetch at a time for each identity, however many uploads ask; ahead of the expiry, so that no request is signed with
//! keys that die on their way. Where a renewal fails and the old keys still live, they serve on.
//!
//! With a clock that is off, credentials are expired when they come, and every request would fetch others. They are used as they are
//! for a minute, and the store judges them.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;

use crate::s3::failure::Failure;
use crate::sync::lock;

/// So long before they expire, credentials are renewed; half of their life, if that is shorter.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// Credentials that name no expiry are read again after this, since somebody may have changed the files they are in.
const RECHECK_AFTER: Duration = Duration::from_secs(60);
/// From the fetch of credentials that were expired to the next fetch; and from one refusal by a store that has credentials fetched anew
/// to the next.
const COOLDOWN: Duration = Duration::from_secs(60);
/// Least time from one fetch to the next, however short the life of what was fetched.
const LEAST_USE: Duration = Duration::from_secs(1);
/// After a failed renewal, the next attempt.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Identities remembered in a backend; beyond it, the one that was asked for longest ago is forgotten.
const MAX_SLOTS: usize = 64;

/// Most recently asked for last.
static SLOTS: Mutex<Vec<([u8; 32], Arc<Slot>)>> = Mutex::new(Vec::new());

/// The backend's slot for the identity with this fingerprint.
pub fn slot(fingerprint: [u8; 32]) -> Arc<Slot> {
    let mut slots = lock(&SLOTS);
    let found = slots.iter().position(|(known, _)| *known == fingerprint);
    let entry = match found {
        Some(index) => slots.remove(index),
        None => (fingerprint, Arc::default()),
    };
    let slot = Arc::clone(&entry.1);
    slots.push(entry);
    if slots.len() > MAX_SLOTS {
        slots.remove(0);
    }
    slot
}

/// One identity's credentials.
#[derive(Debug, Default)]
pub struct Slot {
    state: Mutex<State>,
    /// Held by who fetches.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    generation: u64,
    /// When credentials were last dropped because a store had called them expired.
    forgotten_at: Option<SystemTime>,
}

#[derive(Debug)]
struct Held {
    credentials: Credentials,
    renew_at: SystemTime,
}

impl Slot {
    /// Credentials that live, fetched if need be. Errors: `fetch`'s, when there are none that still live.
    pub async fn current<F>(&self, fetch: impl Fn() -> F) -> Result<Credentials, Failure>
    where
        F: Future<Output = Result<Credentials, Failure>>,
    {
        self.current_by(SystemTime::now, fetch).await
    }

    async fn current_by<F>(&self, clock: impl Fn() -> SystemTime, fetch: impl Fn() -> F) -> Result<Credentials, Failure>
    where
        F: Future<Output = Result<Credentials, Failure>>,
    {
        if let Some(fresh) = self.fresh(clock()) {
            return Ok(fresh);
        }
        let _turn = self.turn.lock().await;
        if let Some(fresh) = self.fresh(clock()) {
            return Ok(fresh);
        }
        // In a box, since it is large, and most who ask need none.
        let fetched = Box::pin(fetch()).await;
        let now = clock();
        match fetched {
            Ok(credentials) => {
                self.keep(&credentials, now);
                Ok(credentials)
            }
            Err(failure) => self.still_living(now).ok_or(failure),
        }
    }

    /// See [`crate::s3::credentials::Provider::generation`].
    pub fn generation(&self) -> u64 {
        lock(&self.state).generation
    }

    /// Drops the credentials of this generation, unless others have taken their place. Gives whether others can be had: a store
    /// that calls every credentials expired has them fetched anew once in a while only.
    pub fn forget(&self, generation: u64) -> bool {
        self.forget_at(generation, SystemTime::now())
    }

    fn forget_at(&self, generation: u64, now: SystemTime) -> bool {
        let mut state = lock(&self.state);
        if state.generation != generation || state.held.is_none() {
            return true;
        }
        // A clock that was set back is no reason to wait.
        let is_recent = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < COOLDOWN);
        if state.forgotten_at.is_some_and(is_recent) {
            return false;
        }
        state.forgotten_at = Some(now);
        state.held = None;
        true
    }

    fn fresh(&self, now: SystemTime) -> Option<Credentials> {
        let state = lock(&self.state);
        state.held.as_ref().filter(|held| now < held.renew_at).map(|held| held.credentials.clone())
    }

    fn keep(&self, credentials: &Credentials, now: SystemTime) {
        let mut state = lock(&self.state);
        state.generation += 1;
        state.held = Some(Held { credentials: credentials.clone(), renew_at: renew_at(credentials.expiry(), now) });
    }

    fn still_living(&self, now: SystemTime) -> Option<Credentials> {
        let mut state = lock(&self.state);
        let held = state.held.as_mut().filter(|held| held.credentials.expiry().is_some_and(|expiry| now < expiry))?;
        held.renew_at = now + TRY_AGAIN_AFTER;
        Some(held.credentials.clone())
    }
}

fn renew_at(expiry: Option<SystemTime>, now: SystemTime) -> SystemTime {
    let Some(expiry) = expiry else { return now + RECHECK_AFTER };
    let life = expiry.duration_since(now).unwrap_or_default();
    if life.is_zero() { now + COOLDOWN } else { (expiry - RENEW_BEFORE.min(life / 2)).max(now + LEAST_USE) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Code, Error};

    fn credentials(key: u32, life: Option<Duration>) -> Credentials {
        Credentials::new(key.to_string(), "secret", None, life.map(|life| SystemTime::now() + life), "test")
    }

    /// Asks once; gives the key that answered, and counts fetches.
    fn ask(slot: &Slot, fetches: &Cell<u32>, life: Option<Duration>) -> Result<String, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let fetch = || async {
            fetches.set(fetches.get() + 1);
            Ok(credentials(fetches.get(), life))
        };
        runtime.block_on(slot.current(fetch)).map(|credentials| credentials.access_key_id().to_owned())
    }

    fn refuse(slot: &Slot) -> Result<Credentials, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(slot.current(|| async { Err(Failure::permanent(Error::new(Code::Io, "x"))) }))
    }

    #[test]
    fn credentials_are_fetched_once_and_renewed_ahead_of_their_expiry() {
        let (slot, fetches) = (Slot::default(), Cell::new(0));
        assert_eq!(ask(&slot, &fetches, Some(Duration::from_secs(3600))).unwrap(), "1");
        assert_eq!(ask(&slot, &fetches, Some(Duration::from_secs(3600))).unwrap(), "1");
        let now = SystemTime::now();
        assert!(slot.fresh(now + Duration::from_secs(3600 - 310)).is_some());
        assert!(slot.fresh(now + Duration::from_secs(3600 - 290)).is_none());
    }

    #[test]
    fn a_short_life_is_used_by_half_and_one_without_an_end_checked_after_a_minute() {
        let now = SystemTime::now();
        assert_eq!(renew_at(Some(now + Duration::from_secs(100)), now), now + Duration::from_secs(50));
        assert_eq!(renew_at(Some(now + Duration::from_millis(1)), now), now + LEAST_USE);
        assert_eq!(renew_at(None, now), now + RECHECK_AFTER);
        // Expired before it came.
        assert_eq!(renew_at(Some(now), now), now + COOLDOWN);
        assert_eq!(renew_at(Some(now - Duration::from_secs(3600)), now), now + COOLDOWN);
    }

    #[test]
    fn a_failed_renewal_leaves_living_credentials_in_use_and_dead_ones_not() {
        let (slot, fetches) = (Slot::default(), Cell::new(0));
        ask(&slot, &fetches, Some(Duration::from_secs(100))).unwrap();
        lock(&slot.state).held.as_mut().unwrap().renew_at = SystemTime::UNIX_EPOCH;
        assert_eq!(refuse(&slot).unwrap().access_key_id(), "1");
        // It is not asked for again at once.
        assert_eq!(ask(&slot, &fetches, None).unwrap(), "1");
        let expired = Credentials::new("old", "secret", None, Some(SystemTime::UNIX_EPOCH), "test");
        slot.keep(&expired, SystemTime::now());
        lock(&slot.state).held.as_mut().unwrap().renew_at = SystemTime::UNIX_EPOCH;
        assert!(refuse(&slot).is_err());
    }

    #[test]
    fn what_the_store_calls_expired_is_forgotten_once() {
        let (slot, fetches) = (Slot::default(), Cell::new(0));
        let hour = Some(Duration::from_secs(3600));
        ask(&slot, &fetches, hour).unwrap();
        let first = slot.generation();
        assert!(slot.forget(first));
        assert_eq!(ask(&slot, &fetches, hour).unwrap(), "2");
        // Another request signed with the first says so late.
        assert!(slot.forget(first));
        assert_eq!(ask(&slot, &fetches, hour).unwrap(), "2");
        // What has just been fetched is called expired as well: others would be too.
        assert!(!slot.forget(slot.generation()));
        assert_eq!(ask(&slot, &fetches, hour).unwrap(), "2");
        assert!(slot.forget_at(slot.generation(), SystemTime::now() + COOLDOWN));
        assert_eq!(ask(&slot, &fetches, hour).unwrap(), "3");
    }

    /// With a clock that is off by an hour, or a source that names an expiry of the past.
    #[test]
    fn credentials_that_are_expired_when_they_come_are_fetched_once_a_minute() {
        let (slot, fetches) = (Slot::default(), Cell::new(0));
        let now = Cell::new(SystemTime::now());
        let fetch = || async {
            fetches.set(fetches.get() + 1);
            let expiry = Some(now.get() - Duration::from_secs(3600));
            Ok(Credentials::new(fetches.get().to_string(), "secret", None, expiry, "test"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // Four hundred files in three minutes.
        for _ in 0..400 {
            runtime.block_on(slot.current_by(|| now.get(), fetch)).unwrap();
            now.set(now.get() + Duration::from_millis(450));
        }
        assert_eq!(fetches.get(), 3);
    }

    #[test]
    fn uploads_that_ask_at_once_wait_for_one_fetch() {
        let (slot, fetches) = (Slot::default(), Cell::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let fetch = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            fetches.set(fetches.get() + 1);
            Ok(credentials(fetches.get(), Some(Duration::from_secs(3600))))
        };
        runtime.block_on(async {
            let (a, b) = tokio::join!(slot.current(fetch), slot.current(fetch));
            assert_eq!(a.unwrap().access_key_id(), b.unwrap().access_key_id());
        });
        assert_eq!(fetches.get(), 1);
    }

    #[test]
    fn the_backend_forgets_the_identity_asked_for_longest_ago() {
        let first = slot([1; 32]);
        for number in 0..MAX_SLOTS {
            let mut fingerprint = [2; 32];
            fingerprint[0] = u8::try_from(number).unwrap();
            slot(fingerprint);
        }
        assert!(!Arc::ptr_eq(&first, &slot([1; 32])));
        let last = slot([3; 32]);
        assert!(Arc::ptr_eq(&last, &slot([3; 32])));
    }
}
