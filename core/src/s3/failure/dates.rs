//! Times that a store's headers name: a pause, and what its clock says.
#![forbid(unsafe_code)]

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// The pause that a header Retry-After asks for. A date that has passed asks for none.
pub(super) fn pause_until(header: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = SystemTime::try_from(DateTime::from_str(header.trim(), Format::HttpDate).ok()?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// How far this host's clock is from the one that wrote `date`, an HTTP date, in words.
pub(super) fn skew(date: &str, now: SystemTime) -> Option<String> {
    let theirs = DateTime::from_str(date, Format::HttpDate).ok()?.secs();
    let ours = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()?;
    let direction = if ours < theirs { "behind" } else { "ahead of" };
    Some(format!("This server's clock is {} seconds {direction} the store's.", ours.abs_diff(theirs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_measured() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let date = "Thu, 01 Jan 1970 01:00:00 GMT";
        assert!(skew(date, at(0)).unwrap().contains("3600 seconds behind"));
        assert!(skew(date, at(3700)).unwrap().contains("100 seconds ahead"));
        assert_eq!(skew("yesterday", at(0)), None);
    }
}
