//! The one retry loop: every request goes through it, and the SDK's own is off.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::caught::{Panicked, caught};
use super::failure::Failure;
use super::identity::Provider;

/// Longest pause before the second attempt; it doubles before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause of all.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One attempt has this part of the whole time, so that one that hangs leaves time for others.
const ATTEMPTS_IN_TOTAL: u32 = 3;

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts at one request, the first included.
    pub attempts: u32,
    /// Time for all of them and the pauses between them.
    pub total: Duration,
}

impl Patience {
    /// For what is asked before an export begins: the region, STS.
    pub const SHORT: Patience = Patience { attempts: 5, total: Duration::from_secs(45) };

    /// Time for one attempt, body included.
    pub fn attempt(self) -> Duration {
        self.total / ATTEMPTS_IN_TOTAL
    }
}

/// Calls `attempt` until it succeeds, fails for good, or patience ends. The failure says of all attempts whether one may have
/// done its work. `unanswered`: the failure of an attempt that took so long.
pub async fn retry<T, F>(
    patience: Patience,
    unanswered: impl Fn(Duration) -> Failure,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let deadline = Instant::now() + patience.total;
    let mut attempts = 1;
    let mut maybe_done = false;
    loop {
        let limit = patience.attempt().min(deadline.saturating_duration_since(Instant::now()));
        // In a box, since a request of the SDK is a future of 20 kB, and whatever holds it is moved with it.
        let outcome = match timeout(limit, caught(Box::pin(attempt()))).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Panicked)) => Err(Failure::panicked()),
            Err(_) => Err(unanswered(limit)),
        };
        let failure = match outcome {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        maybe_done |= failure.maybe_done;
        let pause = pause(attempts, fastrand::f64());
        if !failure.transient || attempts >= patience.attempts || Instant::now() + pause >= deadline {
            return Err(Failure { maybe_done, ..failure });
        }
        tokio::time::sleep(pause).await;
        attempts += 1;
    }
}

/// As an attempt of [`retry`], signed with credentials that may expire on the way.
pub async fn renewing<T>(provider: &Provider, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let generation = provider.generation();
    answer.await.map_err(|failure| {
        let renewed = failure.expired && provider.expired(generation);
        Failure { transient: failure.transient || renewed, ..failure }
    })
}

/// Full jitter (`share` of the longest pause, 0 to 1), so that many uploads that failed at once do not return at once.
fn pause(attempts_made: u32, share: f64) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(attempts_made - 1)).min(LONGEST_PAUSE);
    longest.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Code, Error};

    const PATIENCE: Patience = Patience { attempts: 5, total: Duration::from_secs(300) };

    fn paused<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    fn failure(transient: bool, maybe_done: bool) -> Failure {
        Failure { transient, maybe_done, ..Failure::permanent(Error::new(Code::Io, "x")) }
    }

    fn unanswered(_limit: Duration) -> Failure {
        failure(true, true)
    }

    fn run(transient: bool, failures: u32) -> (bool, u32) {
        let calls = Cell::new(0);
        let result = paused(retry(PATIENCE, unanswered, || async {
            calls.set(calls.get() + 1);
            if calls.get() <= failures { Err(failure(transient, false)) } else { Ok(()) }
        }));
        (result.is_ok(), calls.get())
    }

    #[test]
    fn a_transient_failure_is_tried_again_and_a_permanent_one_is_not() {
        assert_eq!(run(true, 2), (true, 3));
        assert_eq!(run(true, 99), (false, PATIENCE.attempts));
        assert_eq!(run(false, 99), (false, 1));
    }

    #[test]
    fn one_attempt_of_unknown_outcome_makes_the_whole_of_unknown_outcome() {
        let calls = Cell::new(0);
        let result: Result<(), _> = paused(retry(PATIENCE, unanswered, || async {
            calls.set(calls.get() + 1);
            let first = calls.get() == 1;
            Err(failure(first, first))
        }));
        assert!(result.unwrap_err().maybe_done);
    }

    #[test]
    fn an_attempt_that_hangs_is_tried_again_and_the_whole_ends_in_time() {
        paused(async {
            let calls = Cell::new(0);
            let start = Instant::now();
            let answered = retry(PATIENCE, unanswered, || async {
                calls.set(calls.get() + 1);
                if calls.get() == 1 { std::future::pending().await } else { Ok(()) }
            });
            answered.await.unwrap();
            assert!(start.elapsed() < PATIENCE.total / 2);
            let start = Instant::now();
            let hung: Result<(), _> = retry(PATIENCE, unanswered, std::future::pending).await;
            assert!(hung.unwrap_err().maybe_done);
            assert!(start.elapsed() <= PATIENCE.total, "{:?}", start.elapsed());
        });
    }

    #[test]
    fn a_request_that_panics_is_a_failure_that_is_final() {
        let calls = Cell::new(0);
        let result: Result<(), _> = paused(retry(PATIENCE, unanswered, || async {
            calls.set(calls.get() + 1);
            panic!("on purpose")
        }));
        let failure = result.unwrap_err();
        assert_eq!((failure.error.code(), failure.maybe_done, calls.get()), (Code::Internal, true, 1));
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(3, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(40, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(4, 0.0), Duration::ZERO);
    }
}
