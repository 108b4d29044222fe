//! The one retry loop: every request to S3 goes through it, and the SDK's own is off.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::failure::Failure;
use super::identity::Provider;

/// Attempts at one request, the first included.
const ATTEMPTS: u32 = 5;
/// Longest pause before the second attempt; it doubles before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause of all.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Calls `attempt` until it succeeds, fails for good, or has failed [`ATTEMPTS`] times. The failure says of all attempts
/// whether one may have done its work.
pub async fn retry<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut attempts = 1;
    let mut maybe_done = false;
    loop {
        let failure = match attempt().await {
            Ok(value) => return Ok(value),
            Err(failure) => failure,
        };
        maybe_done |= failure.maybe_done;
        if !failure.transient || attempts == ATTEMPTS {
            return Err(Failure { maybe_done, ..failure });
        }
        tokio::time::sleep(pause(attempts, fastrand::f64())).await;
        attempts += 1;
    }
}

/// As [`retry`], for requests signed with credentials that may expire on the way.
pub async fn retry_as<T, F>(provider: &Provider, mut attempt: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    retry(|| {
        let generation = provider.generation();
        let answer = attempt();
        async move {
            answer.await.map_err(|failure| {
                let renewed = failure.expired && provider.expired(generation);
                Failure { transient: failure.transient || renewed, ..failure }
            })
        }
    })
    .await
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

    fn run(transient: bool, failures: u32) -> (bool, u32) {
        let calls = Cell::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let result = runtime.block_on(retry(|| async {
            calls.set(calls.get() + 1);
            let failure =
                Failure { error: Error::new(Code::Io, "x"), transient, maybe_done: false, status: None, expired: false };
            if calls.get() <= failures { Err(failure) } else { Ok(()) }
        }));
        (result.is_ok(), calls.get())
    }

    #[test]
    fn a_transient_failure_is_tried_again_and_a_permanent_one_is_not() {
        assert_eq!(run(true, 2), (true, 3));
        assert_eq!(run(true, 99), (false, ATTEMPTS));
        assert_eq!(run(false, 99), (false, 1));
    }

    #[test]
    fn one_attempt_of_unknown_outcome_makes_the_whole_of_unknown_outcome() {
        let calls = Cell::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let result: Result<(), _> = runtime.block_on(retry(|| async {
            calls.set(calls.get() + 1);
            let first = calls.get() == 1;
            Err(Failure { error: Error::new(Code::Io, "x"), transient: first, maybe_done: first, status: None, expired: false })
        }));
        assert!(result.unwrap_err().maybe_done);
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(3, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(40, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(4, 0.0), Duration::ZERO);
    }
}
