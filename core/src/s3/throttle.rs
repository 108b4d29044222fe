//! How many requests with a body are under way at once: fewer when the store says that it has too much to do, or when a slow
//! link brings none of them to its end; more again while the store keeps up.
//!
//! Halved on the store's word and raised one by one, as TCP does it. All requests under way hear that word at about the same
//! time, so only the answer to a request that was sent after the limit was lowered can lower the limit again.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::s3::bandwidth::Bandwidth;
use crate::s3::body::Meter;
use crate::sync::lock;

/// Least time between two reductions of the limit: a store in the same room answers in less than a millisecond.
const COOLDOWN: Duration = Duration::from_millis(100);

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
    /// Since the beginning.
    all_successes: u64,
    lowered: Option<Instant>,
}

impl State {
    /// `sent`: when the request was sent that gives the reason.
    fn lower(&mut self, limit: usize, sent: Instant) {
        let now = Instant::now();
        if self.lowered.is_none_or(|lowered| sent >= lowered && now.duration_since(lowered) >= COOLDOWN) {
            self.limit = limit.clamp(1, self.limit);
            self.lowered = Some(now);
            self.successes = 0;
        }
    }
}

/// The fate of an upload that has not ended within the time of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overtime {
    /// The upload goes on: it moves, and is one of the few that still share the link.
    GoesOn,
    /// The upload goes on: it moves, and no other shares the link with it, so its time counts.
    GoesOnAlone,
    /// The upload is cut off and begins anew later: it moves, and too many others do.
    MakesRoom,
    /// The upload is given up: nothing of it moves.
    GivenUp,
}

impl Throttle {
    /// `most`: permits at once, at best; at least 1.
    pub fn new(most: usize) -> Arc<Self> {
        let most = most.max(1);
        let state = State { limit: most, in_use: 0, successes: 0, all_successes: 0, lowered: None };
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

    /// The store has too much to do, it says to a request that was sent at that time.
    pub fn lower(&self, sent: Instant) {
        let mut state = lock(&self.state);
        let half = state.limit / 2;
        state.lower(half, sent);
    }

    /// The store has answered well. As many answers as there are permits raise the limit by one.
    pub fn succeeded(&self) {
        let mut state = lock(&self.state);
        state.all_successes += 1;
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

    fn all_successes(&self) -> u64 {
        lock(&self.state).all_successes
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

/// The permits of one upload, attempt by attempt: none is held in the pauses between.
#[derive(Debug)]
pub struct Pace {
    throttle: Arc<Throttle>,
    permit: Option<Permit>,
    /// For each attempt, the bytes of its body.
    bandwidth: Option<(Arc<Bandwidth>, usize)>,
    meter: Meter,
    /// The throttle's count when the current period began.
    successes: u64,
}

impl Pace {
    /// `permit`: for the first attempt, if there is one already.
    pub fn new(throttle: &Arc<Throttle>, permit: Option<Permit>) -> Self {
        Pace { throttle: Arc::clone(throttle), permit, bandwidth: None, meter: Meter::default(), successes: 0 }
    }

    /// Each attempt that has no permit yet waits for the bytes of its body first.
    pub fn within(self, bandwidth: Option<&Arc<Bandwidth>>, bytes: usize) -> Self {
        Pace { bandwidth: bandwidth.map(|bandwidth| (Arc::clone(bandwidth), bytes)), ..self }
    }

    /// Counts what is sent of the body.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Waits for the bytes and the permit of an attempt. Gives the time that the wait for the permit took, unless the store has kept
    /// up meanwhile.
    pub async fn begin(&mut self) -> Duration {
        if let (None, Some((bandwidth, bytes))) = (&self.permit, &self.bandwidth) {
            bandwidth.admit(*bytes).await;
        }
        let (start, before) = (Instant::now(), self.throttle.all_successes());
        if self.permit.is_none() {
            self.permit = Some(self.throttle.permit().await);
        }
        self.successes = self.throttle.all_successes();
        if self.successes == before { start.elapsed() } else { Duration::ZERO }
    }

    /// Gives the attempt's permit back.
    pub fn end(&mut self) {
        self.permit = None;
    }

    /// Whether other uploads are under way.
    pub fn is_shared(&self) -> bool {
        lock(&self.throttle.state).in_use > 1
    }

    /// Returns the fate of an attempt that `began` then and has not ended within the period since `start`. Where uploads end no
    /// more, the limit falls to half of those under way, so that the other half does.
    pub fn overtime(&mut self, began: Instant, start: Instant) -> Overtime {
        // Buffers on the way take the beginning of a body at once, and let its end go on when it is out of sight.
        let moves = self.meter.has_moved_since(began + began.elapsed() / 3);
        let mut state = lock(&self.throttle.state);
        let others_succeed = state.all_successes != std::mem::replace(&mut self.successes, state.all_successes);
        if state.in_use > 1 && (moves || (!others_succeed && self.meter.has_moved_since(start))) {
            let half = state.in_use / 2;
            state.lower(half, start);
        }
        match () {
            () if !moves => Overtime::GivenUp,
            () if state.in_use > state.limit => Overtime::MakesRoom,
            () if state.in_use > 1 => Overtime::GoesOn,
            () => Overtime::GoesOnAlone,
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
                throttle.lower(Instant::now());
            }
            assert_eq!(limit(&throttle), 8);
            for _ in 0..10 {
                tokio::time::advance(COOLDOWN).await;
                throttle.lower(Instant::now());
            }
            assert_eq!(limit(&throttle), 1);
        });
    }

    #[test]
    fn the_limit_rises_with_success_to_where_it_was() {
        paused(async {
            let throttle = Throttle::new(4);
            throttle.lower(Instant::now());
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
            throttle.lower(Instant::now());
            held.pop();
            // Two are out, and two is the limit now.
            assert!(tokio::time::timeout(Duration::from_secs(1), throttle.permit()).await.is_err());
            held.pop();
            assert!(tokio::time::timeout(Duration::from_secs(1), throttle.permit()).await.is_ok());
        });
    }

    #[test]
    fn an_answer_to_what_was_sent_before_the_last_reduction_does_not_count() {
        paused(async {
            let throttle = Throttle::new(160);
            let sent = Instant::now();
            tokio::time::advance(COOLDOWN * 5).await;
            throttle.lower(sent);
            tokio::time::advance(COOLDOWN * 5).await;
            throttle.lower(sent);
            assert_eq!(limit(&throttle), 80);
        });
    }

    #[test]
    fn within_a_second_of_refusals_almost_nothing_is_sent() {
        paused(async {
            let throttle = Throttle::new(160);
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(1) {
                let sent = Instant::now();
                tokio::time::advance(Duration::from_millis(20)).await;
                throttle.lower(sent);
            }
            assert_eq!(limit(&throttle), 1);
        });
    }
}
