//! The one retry loop: every request goes through it, and the SDK's own is off.
//!
//! The number of attempts bounds most failures. Time alone bounds those of a store that asks for policy or went away
//! ([`Failure::time_bound`]), and an upload over a slow link goes on while it moves ([`Overtime`]).
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::s3::caught::{Panicked, caught};
use crate::s3::credentials::Provider;
use crate::s3::failure::Failure;
use crate::s3::throttle::{Overtime, Pace};

/// Longest pause before the second attempt; it doubles before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause of all, but for one that the store asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// One attempt has this part of the whole time, so that one that hangs leaves time for others.
const ATTEMPTS_IN_TOTAL: u32 = 3;

/// How long to try.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts at one request, the first included, where time alone does not bound them.
    pub attempts: u32,
    /// Time for all of them and the pauses between them.
    pub total: Duration,
}

impl RetryPolicy {
    /// For what is asked before an export begins: the region, STS.
    pub const SHORT: RetryPolicy = RetryPolicy { attempts: 5, total: Duration::from_secs(45) };

    /// Time for one attempt, body included.
    pub fn attempt(self) -> Duration {
        self.total / ATTEMPTS_IN_TOTAL
    }
}

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

/// Calls `attempt` until it succeeds, fails for good, or policy ends. The failure says of all attempts whether one may have
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

/// As [`retry`], of an upload. Each attempt has a permit; the time for all does not include waits for permits while other
/// uploads succeed, nor periods in which the upload shared a slow link with others. So an upload beside others may take the time of
/// one attempt longer.
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
            return Err(failure);
        }
        tokio::time::sleep(pause).await;
        left -= pause;
        if let Some(pace) = &mut pace {
            left = left.saturating_sub(pace.begin().await);
        }
        if left.is_zero() {
            return Err(failure);
        }
        attempts += 1;
    }
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

/// The pause that the store asks for (`Retry-After`); half of what is `left`, where the store asks for more than there is.
fn asked_pause(failure: &Failure, left: Duration) -> Duration {
    let asked = failure.retry_after.unwrap_or_default();
    if asked < left { asked } else { left / 2 }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Code, Error};

    const POLICY: RetryPolicy = RetryPolicy { attempts: 5, total: Duration::from_secs(300) };

    fn paused<T>(test: impl Future<Output = T>) -> T {
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
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(3, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(40, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(4, 0.0), Duration::ZERO);
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
            let throttle = super::super::throttle::Throttle::new(4);
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

    /// A link that takes so many frames a second, shared by the uploads under way.
    #[derive(Clone)]
    struct Link {
        frame_time: Duration,
        under_way: std::rc::Rc<Cell<u32>>,
        sent: std::rc::Rc<Cell<u32>>,
    }

    impl Link {
        fn new(frames_per_second: u32) -> Self {
            let frame_time = Duration::from_secs(1) / frames_per_second;
            Link { frame_time, under_way: std::rc::Rc::default(), sent: std::rc::Rc::default() }
        }

        async fn send(self, frames: u32, meter: crate::s3::body::Meter) -> Result<(), Failure> {
            struct UnderWay(Link);
            impl Drop for UnderWay {
                fn drop(&mut self) {
                    self.0.under_way.set(self.0.under_way.get() - 1);
                }
            }
            self.under_way.set(self.under_way.get() + 1);
            let link = UnderWay(self);
            // Buffers on the way take the first frame at once.
            meter.moved();
            for _ in 0..frames {
                tokio::time::sleep(link.0.frame_time * link.0.under_way.get()).await;
                link.0.sent.set(link.0.sent.get() + 1);
                meter.moved();
            }
            Ok(())
        }
    }

    /// Runs that number of uploads with that number of frames each. Returns the outcomes, the time, and the frames that the link has carried.
    fn share(link: &Link, uploads: usize, frames: u32) -> (Vec<Result<(), Failure>>, Duration, u32) {
        let throttle = crate::s3::throttle::Throttle::new(160);
        let outcomes = tokio::task::LocalSet::new();
        let ended = paused(outcomes.run_until(async {
            let start = Instant::now();
            let tasks: Vec<_> = (0..uploads)
                .map(|_| {
                    let (link, mut pace, throttle) = (link.clone(), Pace::new(&throttle, None), throttle.clone());
                    tokio::task::spawn_local(async move {
                        let meter = pace.meter();
                        let slow = |end| Failure {
                            transient: !matches!(end, Unanswered::TooSlow(_)),
                            ..Failure::unanswered("send", "here", Duration::ZERO)
                        };
                        let sent = retry_at_pace(POLICY, Some(&mut pace), slow, || link.clone().send(frames, meter.clone()));
                        sent.await.inspect(|()| throttle.succeeded())
                    })
                })
                .collect();
            let mut ended = Vec::new();
            for task in tasks {
                ended.push(task.await.unwrap());
            }
            (ended, start.elapsed())
        }));
        (ended.0, ended.1, link.sent.get())
    }

    #[test]
    fn uploads_over_a_slow_link_end_without_sending_much_twice() {
        // 128 of 1 MB in frames of 64 kB: at 1 MB/s, and down to 16 kB/s, where an attempt has time for two of them.
        for frames_per_second in [16, 4, 1] {
            let (outcomes, time, sent) = share(&Link::new(frames_per_second), 128, 16);
            assert!(outcomes.iter().all(Result::is_ok), "{frames_per_second}");
            let least = 128 * 16;
            assert!(sent < least * 2, "{frames_per_second}: {sent} of {least} frames");
            assert!(time < Duration::from_secs(u64::from(2 * least / frames_per_second)), "{frames_per_second}: {time:?}");
        }
    }

    #[test]
    fn an_upload_alone_has_its_time_and_no_more_over_a_link_that_is_too_slow() {
        let (outcomes, time, _) = share(&Link::new(1), 1, 200);
        assert!(outcomes[0].is_ok(), "{outcomes:?}");
        assert!(time > POLICY.attempt());
        let (outcomes, time, _) = share(&Link::new(1), 1, 400);
        assert!(outcomes[0].is_err());
        assert!(time >= POLICY.total && time < POLICY.total + Duration::from_secs(1), "{time:?}");
    }
}
