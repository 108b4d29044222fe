//! Bandwidth: at most so many bytes a second of files' bodies are sent, by a token bucket.
//!
//! A body waits for its bytes before its request begins. So neither the time of an attempt nor the pauses between attempts include
//! the wait, and no connection stands idle in the middle of a body. A body that is sent again waits again.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::sync::lock;

/// Bytes that gather while nothing is sent, as the time in which they gather.
const BURST: Duration = Duration::from_secs(1);

/// The bucket of one export. It begins empty, so that many short exports are held to the rate as well as a long one.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_a_second: NonZeroU64,
    /// When all bytes that were asked for so far have gathered.
    gathered: Mutex<Instant>,
}

impl Bandwidth {
    /// A bucket that fills at that rate. `None`: a rate of 0 stands for no limit.
    pub fn new(bytes_a_second: u64) -> Option<Arc<Self>> {
        let bytes_a_second = NonZeroU64::new(bytes_a_second)?;
        Some(Arc::new(Bandwidth { bytes_a_second, gathered: Mutex::new(Instant::now()) }))
    }

    /// Waits until a body of so many bytes may be sent. Bodies are admitted in the order in which they ask. Whoever gives up waiting
    /// leaves its bytes unused.
    pub async fn admit(&self, bytes: usize) {
        let gathered = {
            let mut gathered = lock(&self.gathered);
            let now = Instant::now();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            *gathered = (*gathered).max(earliest) + self.time_of(bytes);
            *gathered
        };
        sleep_until(gathered).await;
    }

    fn time_of(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_a_second.get() as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Code, Error};
    use crate::s3::failure::Failure;
    use crate::s3::retry::{RetryPolicy, retry_at_pace};
    use crate::s3::throttle::{Pace, Throttle};

    fn paused(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test);
    }

    /// A timer may be a millisecond late.
    #[track_caller]
    fn took(start: Instant, seconds: u64) {
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(seconds) && took < Duration::from_millis(seconds * 1000 + 10), "{took:?}");
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        assert!(Bandwidth::new(0).is_none());
    }

    #[test]
    fn bodies_take_their_bytes_at_the_rate_one_after_the_other() {
        paused(async {
            let (bandwidth, start) = (Bandwidth::new(1000).unwrap(), Instant::now());
            bandwidth.admit(8000).await;
            took(start, 8);
            for _ in 0..1000 {
                bandwidth.admit(10).await;
            }
            took(start, 18);
        });
    }

    #[test]
    fn bodies_that_ask_at_once_share_the_rate_in_their_order() {
        paused(async {
            let (bandwidth, start) = (Bandwidth::new(1000).unwrap(), Instant::now());
            let asking: Vec<_> = (1..=5)
                .map(|number| {
                    let bandwidth = Arc::clone(&bandwidth);
                    tokio::spawn(async move {
                        bandwidth.admit(2000).await;
                        took(start, 2 * number);
                    })
                })
                .collect();
            for asked in asking {
                asked.await.unwrap();
            }
            took(start, 10);
        });
    }

    #[test]
    fn a_pause_gathers_the_bytes_of_a_second_and_no_more() {
        paused(async {
            let bandwidth = Bandwidth::new(1000).unwrap();
            tokio::time::advance(Duration::from_secs(3600)).await;
            let start = Instant::now();
            bandwidth.admit(1000).await;
            took(start, 0);
            bandwidth.admit(2000).await;
            took(start, 2);
        });
    }

    /// The wait is far longer than the time of all attempts.
    #[test]
    fn a_wait_for_bytes_takes_nothing_of_the_time_of_attempts_and_each_attempt_waits() {
        const POLICY: RetryPolicy = RetryPolicy { attempts: 3, total: Duration::from_secs(30) };
        paused(async {
            let (bandwidth, throttle) = (Bandwidth::new(1000).unwrap(), Throttle::new(1));
            let mut pace = Pace::new(&throttle, None).within(Some(&bandwidth), 100_000);
            let (calls, start) = (Cell::new(0), Instant::now());
            let silent = |_| unreachable!("each attempt is answered at once");
            let sent = retry_at_pace(POLICY, Some(&mut pace), silent, || async {
                calls.set(calls.get() + 1);
                assert_eq!(start.elapsed().as_secs() / 100, calls.get());
                let failure = Failure::permanent(Error::new(Code::Io, "x"));
                if calls.get() < 3 { Err(Failure { transient: true, ..failure }) } else { Ok(()) }
            });
            assert!(sent.await.is_ok());
            assert_eq!(calls.get(), 3);
        });
    }

    #[test]
    fn what_is_slower_than_the_rate_never_waits() {
        paused(async {
            let bandwidth = Bandwidth::new(1000).unwrap();
            for _ in 0..100 {
                tokio::time::advance(Duration::from_secs(1)).await;
                let start = Instant::now();
                bandwidth.admit(900).await;
                took(start, 0);
            }
        });
    }
}
