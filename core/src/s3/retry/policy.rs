//! How long to try, and how long to wait between attempts.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::s3::failure::Failure;

/// Longest pause before the second attempt; it doubles before each further one.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
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

/// How long to try, by what is tried.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicies {
    /// Files.
    pub files: RetryPolicy,
    /// The manifest: the commit waits for it.
    pub manifest: RetryPolicy,
    /// Taking back.
    pub clean_up: RetryPolicy,
}

impl RetryPolicies {
    /// The same for all.
    pub fn all(policy: RetryPolicy) -> Self {
        RetryPolicies { files: policy, manifest: policy, clean_up: policy }
    }
}

/// Full jitter (`share` of the longest pause, 0 to 1), so that many uploads that failed at once do not return at once.
pub(super) fn pause(attempts_made: u32, share: f64) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(attempts_made - 1)).min(LONGEST_PAUSE);
    longest.mul_f64(share)
}

/// The pause that the store asks for (`Retry-After`); half of what is `left`, where the store asks for more than there is.
pub(super) fn asked_pause(failure: &Failure, left: Duration) -> Duration {
    let asked = failure.retry_after.unwrap_or_default();
    if asked < left { asked } else { left / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        assert_eq!(pause(1, 1.0), FIRST_PAUSE);
        assert_eq!(pause(3, 1.0), FIRST_PAUSE * 4);
        assert_eq!(pause(40, 1.0), LONGEST_PAUSE);
        assert_eq!(pause(4, 0.0), Duration::ZERO);
    }
}
