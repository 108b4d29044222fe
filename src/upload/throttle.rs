//! How many requests with a body are under way at once: fewer when the store says that it has too much to do, more again
//! while it keeps up.
//!
//! Halved on the store's word and raised one by one, as TCP does it. All requests under way hear that word at about the same
//! time, so it counts once in a while only.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::runtime::lock;

/// So long after it was lowered, the limit is not lowered again.
const LULL: Duration = Duration::from_secs(1);

/// Hands out permits.
#[derive(Debug)]
pub struct Throttle {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    limit: usize,
    in_use: usize,
    /// Since the limit was changed.
    successes: usize,
    lowered: Option<Instant>,
}

impl Throttle {
    /// `most`: permits at once, at best; at least 1.
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.max(1);
        let state = State { limit: most, in_use: 0, successes: 0, lowered: None };
        Arc::new(Throttle { most, state: Mutex::new(state), changed: Notify::new() })
    }

    /// Waits for a permit.
    pub async fn permit(self: &Arc<Self>) -> Permit {
        loop {
            let changed = self.changed.notified();
            if self.take() {
                return Permit(Arc::clone(self));
            }
            changed.await;
        }
    }

    fn take(&self) -> bool {
        let mut state = lock(&self.state);
        let free = state.in_use < state.limit;
        state.in_use += usize::from(free);
        free
    }

    /// The store has too much to do.
    pub fn lower(&self) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        if state.lowered.is_none_or(|lowered| now.duration_since(lowered) >= LULL) {
            state.limit = (state.limit / 2).max(1);
            state.lowered = Some(now);
            state.successes = 0;
        }
    }

    /// The store has answered well. As many answers as there are permits raise the limit by one.
    pub fn succeeded(&self) {
        let mut state = lock(&self.state);
        if state.limit == self.most {
            return;
        }
        state.successes += 1;
        if state.successes >= state.limit {
            state.limit += 1;
            state.successes = 0;
            self.changed.notify_one();
        }
    }
}

/// Leave to send one request; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Throttle>);

impl Drop for Permit {
    fn drop(&mut self) {
        let free = {
            let mut state = lock(&self.0.state);
            state.in_use -= 1;
            state.in_use < state.limit
        };
        if free {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test);
    }

    fn limit(throttle: &Throttle) -> usize {
        lock(&throttle.state).limit
    }

    #[test]
    fn permits_are_handed_out_up_to_the_limit_and_again_when_given_back() {
        paused(async {
            let throttle = Throttle::new(2);
            let (first, _second) = (throttle.permit().await, throttle.permit().await);
            assert!(tokio::time::timeout(Duration::from_secs(1), throttle.permit()).await.is_err());
            let waiting = tokio::spawn({
                let throttle = Arc::clone(&throttle);
                async move { throttle.permit().await }
            });
            tokio::task::yield_now().await;
            drop(first);
            waiting.await.unwrap();
        });
    }

    #[test]
    fn the_limit_falls_once_in_a_while_and_never_below_one() {
        paused(async {
            let throttle = Throttle::new(16);
            for _ in 0..10 {
                throttle.lower();
            }
            assert_eq!(limit(&throttle), 8);
            for _ in 0..10 {
                tokio::time::advance(LULL).await;
                throttle.lower();
            }
            assert_eq!(limit(&throttle), 1);
        });
    }

    #[test]
    fn the_limit_rises_with_success_to_where_it_was() {
        paused(async {
            let throttle = Throttle::new(4);
            throttle.lower();
            let held = [throttle.permit().await, throttle.permit().await];
            let waiting = tokio::spawn({
                let throttle = Arc::clone(&throttle);
                async move { throttle.permit().await }
            });
            tokio::task::yield_now().await;
            throttle.succeeded();
            assert_eq!(limit(&throttle), 2);
            throttle.succeeded();
            assert_eq!(limit(&throttle), 3);
            // The one that waits is let in, though none was given back.
            drop(waiting.await.unwrap());
            for _ in 0..100 {
                throttle.succeeded();
            }
            assert_eq!(limit(&throttle), 4);
            drop(held);
        });
    }

    #[test]
    fn what_was_lowered_counts_for_permits_that_come_back() {
        paused(async {
            let throttle = Throttle::new(4);
            let mut held = vec![throttle.permit().await, throttle.permit().await, throttle.permit().await];
            throttle.lower();
            held.pop();
            // Two are out, and two is the limit now.
            assert!(tokio::time::timeout(Duration::from_secs(1), throttle.permit()).await.is_err());
            held.pop();
            assert!(tokio::time::timeout(Duration::from_secs(1), throttle.permit()).await.is_ok());
        });
    }
}
