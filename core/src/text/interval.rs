//! Intervals: a count where one number says it all, ISO 8601 where none does.
//!
//! A month has no fixed length, so an `interval` that mixes months with days or time cannot become
//! one number without changing the value. The text is what Postgres prints under `IntervalStyle =
//! iso_8601`, whatever the session has set (`EncodeInterval` in
//! `src/backend/utils/adt/datetime.c`).
#![forbid(unsafe_code)]

use crate::text::buffer::JsonBuffer;
use crate::text::cursor::Append;
use crate::text::datetime::{MICROSECONDS_PER_DAY, write_fraction};
use crate::text::number::integer;

/// The three fields of Postgres's `interval`, each with a sign of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Months, years among them.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds, hours and minutes among them; may be more than a day.
    pub microseconds: i64,
}

/// How an interval can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Months alone, and not 0.
    Months(i32),
    /// No months: microseconds, a day counted as 24 hours.
    Microseconds(i64),
    /// Months with days or time, more microseconds than 64 bits hold, or infinite.
    Text,
}

impl Interval {
    /// Postgres 17's `infinity`, every field at its greatest.
    pub const INFINITY: Self = Self { months: i32::MAX, days: i32::MAX, microseconds: i64::MAX };

    /// Postgres 17's `-infinity`, every field at its least.
    pub const NEG_INFINITY: Self = Self { months: i32::MIN, days: i32::MIN, microseconds: i64::MIN };

    /// Whether the interval is longer than any number says. `has_infinity`: whether Postgres has infinite intervals; before 17 these
    /// fields are those of the longest finite ones.
    #[inline]
    pub fn is_infinite(&self, has_infinity: bool) -> bool {
        has_infinity && matches!(*self, Self::INFINITY | Self::NEG_INFINITY)
    }

    /// The form that says this interval without loss.
    pub fn shape(&self) -> Shape {
        match *self {
            Self { months: 0, days, microseconds } => {
                let days = i128::from(days) * i128::from(MICROSECONDS_PER_DAY);
                i64::try_from(days + i128::from(microseconds)).map_or(Shape::Text, Shape::Microseconds)
            }
            Self { months, days: 0, microseconds: 0 } => Shape::Months(months),
            _ => Shape::Text,
        }
    }
}

/// Writes an interval in ISO 8601 as Postgres understands it: `P1Y2M3DT4H5M6.789S`, each field with
/// its own sign, `PT0S` for nothing, and where Postgres `has_infinity` (from 17 on) `infinity` or `-infinity`.
pub fn write_iso8601(out: &mut JsonBuffer, interval: &Interval, has_infinity: bool) {
    match *interval {
        Interval::INFINITY if has_infinity => out.raw(b"infinity"),
        Interval::NEG_INFINITY if has_infinity => out.raw(b"-infinity"),
        Interval { months: 0, days: 0, microseconds: 0 } => out.raw(b"PT0S"),
        Interval { months, days, microseconds } => {
            out.push(b'P');
            write_field(out, (months / 12).into(), b'Y');
            write_field(out, (months % 12).into(), b'M');
            write_field(out, days.into(), b'D');
            if microseconds != 0 {
                out.push(b'T');
                write_time_fields(out, microseconds);
            }
        }
    }
}

fn write_time_fields(out: &mut JsonBuffer, microseconds: i64) {
    const SECOND: i64 = 1_000_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    write_field(out, microseconds / HOUR, b'H');
    write_field(out, microseconds % HOUR / MINUTE, b'M');
    let rest = microseconds % MINUTE;
    if rest != 0 {
        // The sign goes first by itself: -0.5 has whole seconds of 0, which carry none.
        if rest < 0 {
            out.push(b'-');
        }
        let rest = rest.abs();
        integer(out, rest / SECOND);
        write_fraction(out, (rest % SECOND) as u32);
        out.push(b'S');
    }
}

fn write_field(out: &mut JsonBuffer, value: i64, unit: u8) {
    if value != 0 {
        integer(out, value);
        out.push(unit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::buffer::tests::text;

    const fn interval(months: i32, days: i32, microseconds: i64) -> Interval {
        Interval { months, days, microseconds }
    }

    fn printed(interval: Interval) -> String {
        text(|out| write_iso8601(out, &interval, true))
    }

    /// Each as Postgres 15 stores (`interval_send`) and prints it.
    #[test]
    fn prints_as_intervalstyle_iso_8601() {
        for (months, days, microseconds, wanted) in [
            (0, 0, 0, "PT0S"),
            (14, 3, 14_706_789_000, "P1Y2M3DT4H5M6.789S"),
            (-14, 3, -14_706_500_000, "P-1Y-2M3DT-4H-5M-6.5S"),
            (11, 0, 0, "P11M"),
            (0, 1, -1, "P1DT-0.000001S"),
            (0, 0, -500_000, "PT-0.5S"),
            (0, 0, -59_999_999, "PT-59.999999S"),
            (0, 0, 60_000_000, "PT1M"),
            (0, 0, -90_000_000_000, "PT-25H"),
            (0, 0, i64::MAX, "PT2562047788H54.775807S"),
            (0, 0, i64::MIN, "PT-2562047788H-54.775808S"),
            (i32::MIN, 0, 0, "P-178956970Y-8M"),
            (0, i32::MIN, 0, "P-2147483648D"),
        ] {
            assert_eq!(printed(interval(months, days, microseconds)), wanted);
        }
    }

    #[test]
    fn infinity_takes_all_three_fields() {
        let longest = ["P178956970Y7M2147483647DT2562047788H54.775807S", "P-178956970Y-8M-2147483648DT-2562047788H-54.775808S"];
        let both = [Interval::INFINITY, Interval::NEG_INFINITY];
        assert_eq!(both.map(printed), ["infinity", "-infinity"]);
        assert_eq!(both.map(|interval| text(|out| write_iso8601(out, &interval, false))), longest, "before Postgres 17");
        assert_eq!(both.map(|interval| [interval.is_infinite(true), interval.is_infinite(false)]), [[true, false]; 2]);
        assert_eq!(Interval::INFINITY.shape(), Shape::Text);
        assert_eq!(Interval::NEG_INFINITY.shape(), Shape::Text);
        assert_eq!(printed(interval(i32::MAX, i32::MAX, i64::MAX - 1)), "P178956970Y7M2147483647DT2562047788H54.775806S");
    }

    #[test]
    fn a_count_only_where_it_says_all() {
        for (months, days, microseconds, wanted) in [
            (0, 0, 0, Shape::Microseconds(0)),
            (40, 0, 0, Shape::Months(40)),
            (i32::MAX, 0, 0, Shape::Months(i32::MAX)),
            (0, 0, 1_500_000, Shape::Microseconds(1_500_000)),
            (0, 2, -1, Shape::Microseconds(172_799_999_999)),
            (0, 106_751_991, 14_454_775_807, Shape::Microseconds(i64::MAX)),
            (0, 106_751_991, 14_454_775_808, Shape::Text),
            (0, 106_751_992, -71_945_224_193, Shape::Microseconds(i64::MAX)),
            (0, i32::MIN, 0, Shape::Text),
            (1, 1, 0, Shape::Text),
            (1, 0, -1, Shape::Text),
        ] {
            assert_eq!(interval(months, days, microseconds).shape(), wanted);
        }
    }

    proptest! {
        #[test]
        fn seconds_and_hours_add_up_to_the_time(microseconds in any::<i64>()) {
            let printed = printed(interval(0, 0, microseconds));
            let mut rest = printed.trim_start_matches("PT");
            let mut total = 0;
            for (unit, size) in [('H', 3_600_000_000), ('M', 60_000_000)] {
                if let Some((number, after)) = rest.split_once(unit) {
                    total += number.parse::<i128>().unwrap() * size;
                    rest = after;
                }
            }
            if let Some(seconds) = rest.strip_suffix('S') {
                total += (seconds.parse::<f64>().unwrap() * 1e6).round() as i128;
            }
            prop_assert_eq!(total, i128::from(microseconds));
        }
    }
}
