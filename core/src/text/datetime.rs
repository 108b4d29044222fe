//! Dates and times as text, from Postgres's own numbers.
//!
//! Postgres prints these by DateStyle and TimeZone, settings that belong to the user, and a file
//! must not depend on them. Each writer gives what Postgres prints under `DateStyle = ISO` and
//! `TimeZone = UTC` (`EncodeDateOnly`, `EncodeDateTime` in `src/backend/utils/adt/datetime.c`), or
//! in `to_json`, and needs no output function.
//!
//! Days count from 2000-01-01; microseconds from its midnight, in UTC if there is a zone.
#![forbid(unsafe_code)]

use crate::text::cursor::Append;
use crate::text::number::{eight_digits, four_digits, unsigned};

/// Microseconds of a day without leap seconds, as every day of Postgres is.
pub const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;

/// Days from 1970-01-01 to 2000-01-01.
pub const UNIX_TO_POSTGRES_DAYS: i32 = 10_957;

/// Microseconds from 1970-01-01 to 2000-01-01.
pub const UNIX_TO_POSTGRES: i64 = UNIX_TO_POSTGRES_DAYS as i64 * MICROSECONDS_PER_DAY;

/// A day of the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Astronomical: the year before 1 is 0, which is 1 BC.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

impl Calendar {
    /// The day `days` after 2000-01-01; every `i32` has one. Method: C. Neri, L. Schneider,
    /// "Euclidean affine functions and their application to calendar algorithms" (2022), figure 12.
    #[inline(always)]
    pub const fn from_days(days: i32) -> Self {
        // Years begin on the first of March, so that a leap day ends one, and are counted from so
        // many cycles of 400 years before the year 0 that no `i32` is negative.
        const CYCLES: i64 = 14_700;
        const MARCH_OF_YEAR_0: i64 = 730_425;
        let days = (days as i64 + MARCH_OF_YEAR_0 + CYCLES * 146_097).cast_unsigned();

        let quarters = 4 * days + 3;
        let century = quarters / 146_097;
        let quarters_of_century = (quarters % 146_097) | 3;

        let product = 2_939_745 * quarters_of_century;
        let year_of_century = product >> 32;
        let day_of_year = (product & 0xffff_ffff) / 2_939_745 / 4;

        let affine = 2_141 * day_of_year + 197_913;
        let month = affine >> 16;
        let day = (affine & 0xffff) / 2_141 + 1;

        let after_december = day_of_year >= 306;
        let year = (100 * century + year_of_century + after_december as u64).cast_signed();
        Self {
            year: (year - CYCLES * 400) as i32,
            month: (if after_december { month - 12 } else { month }) as u8,
            day: day as u8,
        }
    }
}

/// Whether a `date` is in 0001-01-01 to 9999-12-31, so that its wrapper can express it.
#[inline(always)]
pub fn date_fits_wrapper(days: i32) -> bool {
    (-730_119..=2_921_939).contains(&days)
}

/// Whether a `timestamp` is in the years 1 to 9999, so that its wrapper can express it.
#[inline(always)]
pub fn timestamp_fits_wrapper(microseconds: i64) -> bool {
    i32::try_from(microseconds.div_euclid(MICROSECONDS_PER_DAY)).is_ok_and(date_fits_wrapper)
}

/// Whether a `time` is before `24:00:00`, so that its wrapper can express it.
#[inline(always)]
pub fn time_fits_wrapper(microseconds: i64) -> bool {
    (0..MICROSECONDS_PER_DAY).contains(&microseconds)
}

/// Microseconds since 1970-01-01 00:00 UTC of a `timestamptz`; `None` if it is infinite. Wider than 64 bits, since
/// Postgres's range ends, counted from 2000, where an `i64` counted from 1970 has overflowed by 29 years.
#[inline]
pub fn unix_microseconds(microseconds: i64) -> Option<i128> {
    match microseconds {
        i64::MIN | i64::MAX => None,
        finite => Some(i128::from(finite) + i128::from(UNIX_TO_POSTGRES)),
    }
}

/// Writes a `date`: `2018-01-01`, `0044-03-15 BC`, `infinity`.
#[inline(always)]
pub fn write_date(out: &mut impl Append, days: i32) {
    match days {
        i32::MAX => out.fixed(b"infinity"),
        i32::MIN => out.fixed(b"-infinity"),
        _ => {
            let day = Calendar::from_days(days);
            write_day(out, day);
            write_era(out, day);
        }
    }
}

/// Writes a `time`: `12:34:56.5`. `microseconds` is in 0 to [`MICROSECONDS_PER_DAY`], at which it
/// is `24:00:00`; the nearer of these stands for what is outside.
#[inline(always)]
pub fn write_time(out: &mut impl Append, microseconds: i64) {
    let microseconds = microseconds.clamp(0, MICROSECONDS_PER_DAY).cast_unsigned();
    let seconds = (microseconds / 1_000_000) as u32;
    let minutes = u64::from(four_digits(seconds / 3600 * 100 + seconds / 60 % 60));
    let seconds = u64::from(four_digits(seconds % 60) >> 16);
    const COLON: u64 = b':' as u64;
    let text = minutes & 0xffff | COLON << 16 | minutes >> 16 << 24 | COLON << 40 | seconds << 48;
    out.fixed(&text.to_le_bytes());
    write_fraction(out, (microseconds % 1_000_000) as u32);
}

/// Writes a `timestamp` with `separator` between date and time: ` ` as its own text has, `T` as
/// `to_json` has. `2020-03-02 10:49:33.25`, `0044-03-15 00:00:00 BC`, `infinity`.
#[inline(always)]
pub fn write_timestamp(out: &mut impl Append, microseconds: i64, separator: u8) {
    write_moment(out, microseconds, separator, 0);
}

/// Writes a `timestamptz` in UTC with `separator` between date and time: ` ` as its own text has,
/// `2020-01-01 00:00:00+00`, or `T` as `to_json` has, `2020-01-01T00:00:00+00:00`.
#[inline(always)]
pub fn write_timestamptz_utc(out: &mut impl Append, microseconds: i64, separator: u8) {
    write_moment(out, microseconds, separator, if separator == b'T' { ZONE.len() } else { 3 });
}

const ZONE: [u8; 6] = *b"+00:00";

/// `zone`: how much of it is shown.
#[inline(always)]
fn write_moment(out: &mut impl Append, microseconds: i64, separator: u8, zone: usize) {
    match microseconds {
        i64::MAX => out.fixed(b"infinity"),
        i64::MIN => out.fixed(b"-infinity"),
        _ => {
            // Of 64 bits of microseconds there are 27 bits of days.
            let day = Calendar::from_days(microseconds.div_euclid(MICROSECONDS_PER_DAY) as i32);
            write_day(out, day);
            out.push(separator);
            write_time(out, microseconds.rem_euclid(MICROSECONDS_PER_DAY));
            out.block(ZONE, zone);
            write_era(out, day);
        }
    }
}

/// Writes the day, at least four digits of the year first; the era belongs at the end.
#[inline(always)]
fn write_day(out: &mut impl Append, Calendar { year, month, day }: Calendar) {
    let of_era = if year > 0 { year } else { 1 - year }.unsigned_abs();
    const HYPHEN: u64 = b'-' as u64;
    let digits = u64::from(four_digits(u32::from(month) * 100 + u32::from(day)));
    let (month, day) = (digits & 0xffff, digits >> 16);
    if of_era <= 9999 {
        let text = u64::from(four_digits(of_era)) | HYPHEN << 32 | month << 40 | HYPHEN << 56;
        out.block((u128::from(text) | u128::from(day) << 64).to_le_bytes(), 10);
    } else {
        unsigned(out, of_era.into());
        out.block((HYPHEN | month << 8 | HYPHEN << 24 | day << 32).to_le_bytes(), 6);
    }
}

#[inline(always)]
fn write_era(out: &mut impl Append, day: Calendar) {
    if day.year <= 0 {
        out.fixed(b" BC");
    }
}

/// Writes the millionths of a second after a second: a point and one to six digits, the last of
/// them not zero, or nothing for 0.
#[inline(always)]
pub(super) fn write_fraction(out: &mut impl Append, millionths: u32) {
    if millionths == 0 {
        return;
    }
    // Two zeros before the six digits make room for the point, and for a zero at the end.
    let digits = eight_digits(millionths) >> 8 & !0xff | u64::from(b'.') | u64::from(b'0') << 56;
    let zeros = (digits ^ u64::from_le_bytes([b'0'; 8])).leading_zeros() as usize / 8;
    out.block(digits.to_le_bytes(), 8 - zeros);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::buffer::tests::text;

    const AD_1: i64 = -730_119 * MICROSECONDS_PER_DAY;
    const AD_10000: i64 = 2_921_940 * MICROSECONDS_PER_DAY;

    /// Each as Postgres 15 stores (`date_send`) and prints it.
    #[test]
    fn dates_print_as_in_postgres() {
        for (days, wanted) in [
            (0, "2000-01-01"),
            (59, "2000-02-29"),
            (-36_466, "1900-02-28"),
            (-730_119, "0001-01-01"),
            (-730_120, "0001-12-31 BC"),
            (-2_451_545, "4714-11-24 BC"),
            (2_921_940, "10000-01-01"),
            (2_145_031_948, "5874897-12-31"),
            (i32::MAX, "infinity"),
            (i32::MIN, "-infinity"),
        ] {
            assert_eq!(text(|out| write_date(out, days)), wanted);
        }
    }

    #[test]
    fn times_have_the_shortest_fraction() {
        for (microseconds, wanted) in [
            (0, "00:00:00"),
            (45_296_500_000, "12:34:56.5"),
            (45_296_000_120, "12:34:56.00012"),
            (MICROSECONDS_PER_DAY - 1, "23:59:59.999999"),
            (MICROSECONDS_PER_DAY, "24:00:00"),
        ] {
            assert_eq!(text(|out| write_time(out, microseconds)), wanted);
        }
    }

    /// Each as Postgres 15 stores (`timestamp_send`) and prints it, as text and by `to_json`.
    #[test]
    fn timestamps_print_as_in_postgres() {
        for (moment, date, time, era) in [
            (-1, "1999-12-31", "23:59:59.999999", ""),
            (636_461_373_250_000, "2020-03-02", "10:49:33.25", ""),
            (AD_1, "0001-01-01", "00:00:00", ""),
            (AD_1 - 500_000, "0001-12-31", "23:59:59.5", " BC"),
            (AD_10000, "10000-01-01", "00:00:00", ""),
        ] {
            for (separator, zone) in [(' ', "+00"), ('T', "+00:00")] {
                let plain = text(|out| write_timestamp(out, moment, separator as u8));
                let zoned = text(|out| write_timestamptz_utc(out, moment, separator as u8));
                assert_eq!(plain, format!("{date}{separator}{time}{era}"));
                assert_eq!(zoned, format!("{date}{separator}{time}{zone}{era}"));
            }
        }
        let [future, past] = [i64::MAX, i64::MIN].map(|moment| text(|out| write_timestamptz_utc(out, moment, b'T')));
        assert_eq!([future, past], ["infinity", "-infinity"]);
    }

    #[test]
    fn a_wrapper_expresses_the_years_1_to_9999_and_times_before_24() {
        let dates = [i32::MIN, -730_120, -730_119, 2_921_939, 2_921_940];
        let moments = [i64::MIN, AD_1 - 1, AD_1, AD_10000 - 1, AD_10000];
        let wanted = [false, false, true, true, false];
        assert_eq!(dates.map(date_fits_wrapper), wanted);
        assert_eq!(moments.map(timestamp_fits_wrapper), wanted);
        assert!(!date_fits_wrapper(i32::MAX) && !timestamp_fits_wrapper(i64::MAX));
        assert!(time_fits_wrapper(MICROSECONDS_PER_DAY - 1));
        assert!(!time_fits_wrapper(MICROSECONDS_PER_DAY));
    }

    #[test]
    fn every_finite_moment_of_postgres_has_its_unix_time() {
        let last_of_294276 = 9_223_371_331_199_999_999;
        let wanted = [0, 946_684_800_000_000, 9_224_318_015_999_999_999].map(Some);
        assert_eq!([-UNIX_TO_POSTGRES, 0, last_of_294276].map(unix_microseconds), wanted);
        assert_eq!([i64::MAX, i64::MIN].map(unix_microseconds), [None; 2]);
    }

    /// The inverse, after H. Hinnant's `days_from_civil`.
    fn days(Calendar { year, month, day }: Calendar) -> i64 {
        let [year, month, day] = [year, month.into(), day.into()].map(i64::from);
        let year = year - i64::from(month <= 2);
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        365 * year + leap_days + day_of_year - 730_425
    }

    proptest! {
        #[test]
        fn every_number_of_days_is_a_date_that_reads_back_the_same(day in any::<i32>()) {
            let date = Calendar::from_days(day);
            prop_assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day));
            prop_assert_eq!(days(date), i64::from(day));
        }
    }
}
