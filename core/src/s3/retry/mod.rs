//! The one retry loop: every request goes through it, and the SDK's own is off.
//!
//! The number of attempts bounds most failures. Time alone bounds those of a store that asks for fewer requests or went away
//! ([`Failure::time_bound`]), and an upload over a slow link goes on while it moves ([`Overtime`]).
#![forbid(unsafe_code)]

mod policy;
#[cfg(test)]
mod slow_link;

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use self::policy::{FIRST_PAUSE, asked_pause, pause};
pub use self::policy::{RetryPolicies, RetryPolicy};
use crate::s3::caught::{Panicked, caught};
use crate::s3::failure::Failure;
use crate::s3::throttle::{Overtime, Pace};

/// How an attempt that gave no answer came to its end.
#[derive(Debug, Clone, Copy)]
pub enum Unanswered {
    /// The attempt was silent for so long.
    Silent(Duration),
    /// The body moved all the time, without another upload beside it, and has not arrived in so long a time.
    TooSlow(Duration),
    /// The attempt was cut off after so long in favour of others, and begins anew.
    MadeRoom(Duration),
}

impl Unanswered {
    /// How long the attempt took.
    pub fn time(self) -> Duration {
        match self {
            Unanswered::Silent(time) | Unanswered::TooSlow(time) | Unanswered::MadeRoom(time) => time,
        }
    }
}

/// Calls `attempt` until it succeeds, fails for good, or the policy allows no more. The failure says of all attempts whether one may have
/// done its work. `unanswered`: the failure of an attempt that took so long.
pub async fn retry<T, F>(
    policy: RetryPolicy,
    unanswered: impl Fn(Duration) -> Failure,
    attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    retry_at_pace(policy, None, |end| unanswered(end.time()), attempt).await
}

/// Calls `attempt` like [`retry`], for an upload where there is a `pace`. Each attempt of an upload has a permit. The time for all
/// attempts does not include waits for permits while other uploads succeed, nor periods in which the upload shared a slow link with
/// others. So an upload beside others may take the time of one attempt longer.
pub async fn retry_at_pace<T, F>(
    policy: RetryPolicy,
    mut pace: Option<&mut Pace>,
    unanswered: impl Fn(Unanswered) -> Failure,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut left = policy.total;
    // All attempts, for the length of pauses, and those that count against `policy.attempts`.
    let (mut attempts, mut counted) = (1, 0);
    let mut outcome_unknown = false;
    if let Some(pace) = &mut pace {
        pace.begin().await;
    }
    loop {
        // In a box, since a request of the SDK is a future of 20 kB, and whatever holds it is moved with it.
        let request = Box::pin(caught(Box::pin(attempt())));
        let outcome = one_attempt(request, policy, &mut pace, &mut left).await;
        if let Some(pace) = &mut pace {
            pace.end();
        }
        let outcome = outcome.map(|answer| answer.unwrap_or_else(|Panicked| Err(Failure::panicked())));
        let failure = match outcome {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(failure)) => failure,
            Err(end) => {
                let failure = unanswered(end);
                if let (Unanswered::MadeRoom(_), Some(pace)) = (end, &mut pace) {
                    outcome_unknown |= failure.outcome_unknown;
                    pace.begin().await;
                    continue;
                }
                failure
            }
        };
        outcome_unknown |= failure.outcome_unknown;
        let failure = Failure { outcome_unknown, ..failure };
        let drawn = pause(attempts, fastrand::f64());
        // Time alone ends the time-bound ones, so a pause that was drawn too long must not.
        let (pause, is_over) = if failure.time_bound {
            (drawn.min(left / 2).max(asked_pause(&failure, left)), left < FIRST_PAUSE)
        } else {
            counted += 1;
            (drawn, counted >= policy.attempts || drawn >= left)
        };
        if !failure.transient || is_over {
            return Err(given_up(failure));
        }
        tokio::time::sleep(pause).await;
        left -= pause;
        if let Some(pace) = &mut pace {
            left = left.saturating_sub(pace.begin().await);
        }
        if left.is_zero() {
            return Err(given_up(failure));
        }
        attempts += 1;
    }
}

/// Returns a failure that is not tried again here. A job may start again after one that was transient to the end.
fn given_up(failure: Failure) -> Failure {
    if failure.transient { Failure { error: failure.error.transient(), ..failure } } else { failure }
}

/// Waits for the answer of one attempt, and takes the time off what is `left`. Errors: there is none.
async fn one_attempt<T>(
    mut request: Pin<Box<impl Future<Output = T>>>,
    policy: RetryPolicy,
    pace: &mut Option<&mut Pace>,
    left: &mut Duration,
) -> Result<T, Unanswered> {
    let began = Instant::now();
    loop {
        // A period of a few milliseconds would say nothing of the link.
        let is_shared = pace.as_ref().is_some_and(|pace| pace.is_shared());
        let limit = if is_shared { policy.attempt() } else { policy.attempt().min(*left) };
        let start = Instant::now();
        if let Ok(answer) = timeout(limit, &mut request).await {
            *left = left.saturating_sub(start.elapsed());
            return Ok(answer);
        }
        let took = start.elapsed();
        match pace.as_mut().map_or(Overtime::GivenUp, |pace| pace.overtime(began, start)) {
            Overtime::GoesOn => {}
            Overtime::MakesRoom => return Err(Unanswered::MadeRoom(began.elapsed())),
            Overtime::GivenUp => {
                *left = left.saturating_sub(took);
                return Err(Unanswered::Silent(limit));
            }
            Overtime::GoesOnAlone => {
                *left = left.saturating_sub(took);
                if left.is_zero() {
                    return Err(Unanswered::TooSlow(began.elapsed()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Code, Error};
    use crate::s3::throttle::Throttle;

    pub(super) const POLICY: RetryPolicy = RetryPolicy { attempts: 5, total: Duration::from_secs(300) };

    pub(super) fn paused<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    fn failure(transient: bool, outcome_unknown: bool) -> Failure {
        Failure { transient, outcome_unknown, ..Failure::permanent(Error::new(Code::Io, "x")) }
    }

    fn unanswered(_limit: Duration) -> Failure {
        failure(true, true)
    }

    fn run(transient: bool, failures: u32) -> (bool, u32) {
        let calls = Cell::new(0);
        let result = paused(retry(POLICY, unanswered, || async {
            calls.set(calls.get() + 1);
            if calls.get() <= failures { Err(failure(transient, false)) } else { Ok(()) }
        }));
        (result.is_ok(), calls.get())
    }

    #[test]
    fn a_transient_failure_is_tried_again_and_a_permanent_one_is_not() {
        assert_eq!(run(true, 2), (true, 3));
        assert_eq!(run(true, 99), (false, POLICY.attempts));
        assert_eq!(run(false, 99), (false, 1));
    }

    #[test]
    fn the_error_of_a_transient_failure_says_that_the_work_may_succeed_later() {
        for transient in [true, false] {
            let given_up: Result<(), _> = paused(retry(POLICY, unanswered, || async { Err(failure(transient, false)) }));
            assert_eq!(given_up.unwrap_err().error.is_transient(), transient);
        }
    }

    #[test]
    fn one_attempt_of_unknown_outcome_makes_the_whole_of_unknown_outcome() {
        let calls = Cell::new(0);
        let result: Result<(), _> = paused(retry(POLICY, unanswered, || async {
            calls.set(calls.get() + 1);
            let first = calls.get() == 1;
            Err(failure(first, first))
        }));
        assert!(result.unwrap_err().outcome_unknown);
    }

    #[test]
    fn an_attempt_that_hangs_is_tried_again_and_the_whole_ends_in_time() {
        paused(async {
            let calls = Cell::new(0);
            let start = Instant::now();
            let answered = retry(POLICY, unanswered, || async {
                calls.set(calls.get() + 1);
                if calls.get() == 1 { std::future::pending().await } else { Ok(()) }
            });
            answered.await.unwrap();
            assert!(start.elapsed() < POLICY.total / 2);
            let start = Instant::now();
            let hung: Result<(), _> = retry(POLICY, unanswered, std::future::pending).await;
            assert!(hung.unwrap_err().outcome_unknown);
            // A timer may be a millisecond late.
            assert!(start.elapsed() <= POLICY.total + Duration::from_millis(10), "{:?}", start.elapsed());
        });
    }

    #[test]
    fn a_request_that_panics_is_a_failure_that_is_final() {
        let calls = Cell::new(0);
        let result: Result<(), _> = paused(retry(POLICY, unanswered, || async {
            calls.set(calls.get() + 1);
            panic!("on purpose")
        }));
        let failure = result.unwrap_err();
        assert_eq!((failure.error.code(), failure.outcome_unknown, calls.get()), (Code::Internal, true, 1));
    }

    #[test]
    fn time_alone_bounds_what_asks_for_patience() {
        paused(async {
            let (calls, start) = (Cell::new(0), Instant::now());
            let never: Result<(), _> = retry(POLICY, unanswered, || async {
                calls.set(calls.get() + 1);
                Err(Failure { time_bound: true, ..failure(true, false) })
            })
            .await;
            assert!(never.is_err());
            assert!(calls.get() > 50, "{}", calls.get());
            assert!(start.elapsed() < POLICY.total && start.elapsed() > POLICY.total * 9 / 10, "{:?}", start.elapsed());
        });
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_and_does_not_use_up_all_time() {
        for (asked, least, most) in [(20, 20, 26), (3_000, 150, 156)] {
            paused(async {
                let (calls, start) = (Cell::new(0), Instant::now());
                let answered = retry(POLICY, unanswered, || async {
                    calls.set(calls.get() + 1);
                    let retry_after = Some(Duration::from_secs(asked));
                    let asks = Failure { time_bound: true, retry_after, ..failure(true, false) };
                    if calls.get() == 1 { Err(asks) } else { Ok(()) }
                });
                answered.await.unwrap();
                let seconds = start.elapsed().as_secs();
                assert!((least..=most).contains(&seconds), "{seconds}");
            });
        }
    }

    #[test]
    fn attempts_that_time_bounds_do_not_count_among_the_others() {
        let calls = Cell::new(0);
        let result = paused(retry(POLICY, unanswered, || async {
            calls.set(calls.get() + 1);
            match calls.get() {
                1..=8 => Err(Failure { time_bound: true, ..failure(true, false) }),
                9..=12 => Err(failure(true, false)),
                _ => Ok(()),
            }
        }));
        assert!(result.is_ok(), "{} calls", calls.get());
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_in_full_where_it_fits() {
        paused(async {
            let (calls, start) = (Cell::new(0), Instant::now());
            let answered = retry(POLICY, unanswered, || async {
                calls.set(calls.get() + 1);
                let retry_after = Some(POLICY.total - Duration::from_secs(20));
                let asks = Failure { time_bound: true, retry_after, ..failure(true, false) };
                if calls.get() == 1 { Err(asks) } else { Ok(()) }
            });
            answered.await.unwrap();
            assert!(start.elapsed() >= POLICY.total - Duration::from_secs(20), "{:?}", start.elapsed());
        });
    }

    #[test]
    fn an_upload_beside_others_has_the_period_of_an_attempt_however_little_time_is_left() {
        paused(async {
            let throttle = Throttle::new(4);
            let _other = throttle.permit().await;
            let mut pace = Pace::new(&throttle, None);
            let (calls, meter) = (Cell::new(0), pace.meter());
            let sent = retry_at_pace(
                POLICY,
                Some(&mut pace),
                |end| unanswered(end.time()),
                || async {
                    calls.set(calls.get() + 1);
                    // Each asks for more than there is, and has half of the time that is left: 0.3 s of it remain.
                    if calls.get() <= 10 {
                        return Err(Failure { time_bound: true, retry_after: Some(POLICY.total), ..failure(true, false) });
                    }
                    for _ in 0..POLICY.attempt().as_secs() - 10 {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        meter.moved();
                    }
                    Ok(())
                },
            );
            let ended = tokio::time::timeout(POLICY.total * 10, sent).await;
            assert!(ended.is_ok_and(|sent| sent.is_ok()), "{} calls", calls.get());
        });
    }
}
