//! Columns of dates, times and intervals. Parquet has no infinity, no 24:00:00, and no interval of months and microseconds.

use arrow_array::ArrayRef;
use arrow_array::types::{Date32Type, Int32Type, Int64Type, Time64MicrosecondType, TimestampMicrosecondType};
use arrow_schema::{DataType, Field, TimeUnit};
use pgrx::pg_sys::Datum;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::datetime::{MICROSECONDS_PER_DAY, UNIX_TO_POSTGRES, UNIX_TO_POSTGRES_DAYS};

use crate::encode::Context;
use crate::encode::arrow::array::{Numbers, Rows};
use crate::encode::arrow::column::Gather;
use crate::encode::arrow::numbers::{Number, unfit};
use crate::encode::datum::{HAS_INFINITE_INTERVALS, interval_of};

/// `date`.
pub struct Date;

impl Number for Date {
    type Arrow = Date32Type;

    #[inline(always)]
    fn read(datum: Datum) -> Result<i32> {
        date(datum.value() as i32)
    }
}

/// `time`.
pub struct Time;

impl Number for Time {
    type Arrow = Time64MicrosecondType;

    #[inline(always)]
    fn read(datum: Datum) -> Result<i64> {
        time(datum.value() as i64)
    }
}

/// `timestamp`.
pub struct Timestamp;

impl Number for Timestamp {
    type Arrow = TimestampMicrosecondType;

    #[inline(always)]
    fn read(datum: Datum) -> Result<i64> {
        timestamp(datum.value() as i64)
    }
}

/// `timestamptz`.
pub struct Timestamptz;

impl Number for Timestamptz {
    type Arrow = TimestampMicrosecondType;

    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    #[inline(always)]
    fn read(datum: Datum) -> Result<i64> {
        timestamp(datum.value() as i64)
    }
}

/// `interval`: months, days and microseconds, as Postgres keeps them apart. INTERVAL of Parquet's has no microseconds and no sign.
#[derive(Default)]
pub struct Intervals {
    months: Numbers<Int32Type>,
    days: Numbers<Int32Type>,
    microseconds: Numbers<Int64Type>,
    rows: Rows,
}

impl Intervals {
    /// Nullable fields, though they are there where the interval is: Polars 0.20 fails at a NULL whose fields are not nullable.
    fn fields() -> Vec<Field> {
        vec![
            Field::new("months", DataType::Int32, true),
            Field::new("days", DataType::Int32, true),
            Field::new("microseconds", DataType::Int64, true),
        ]
    }
}

impl Gather for Intervals {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Struct(Intervals::fields().into()))
    }

    fn can_have_bloom_filter(&self) -> bool {
        false
    }

    #[inline]
    unsafe fn push(&mut self, datum: Datum, _context: &Context) -> Result<usize> {
        // SAFETY: an interval.
        let value = unsafe { interval_of(datum) };
        if value.is_infinite(HAS_INFINITE_INTERVALS) {
            return Err(infinite("STRUCT of numbers"));
        }
        self.rows.push(true);
        Ok(self.months.push(value.months)? + self.days.push(value.days)? + self.microseconds.push(value.microseconds)?)
    }

    fn push_null(&mut self) -> Result<usize> {
        self.rows.push(false);
        Ok(self.months.push(0)? + self.days.push(0)? + self.microseconds.push(0)?)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let arrays = vec![
            self.months.finish(DataType::Int32),
            self.days.finish(DataType::Int32),
            self.microseconds.finish(DataType::Int64),
        ];
        self.rows.finish(Intervals::fields().into(), arrays)
    }
}

#[inline]
fn date(days: i32) -> Result<i32> {
    // The ends of the range are the infinities.
    if matches!(days, i32::MIN | i32::MAX) {
        return Err(infinite("DATE"));
    }
    days.checked_add(UNIX_TO_POSTGRES_DAYS).ok_or_else(|| unfit(Code::DateRange, "DATE so late"))
}

fn infinite(what: &str) -> Error {
    unfit(Code::DateRange, &format!("{what} for infinity"))
        .hint("Cast the column to text, or leave such values out with nullif.")
}

#[inline]
fn time(microseconds: i64) -> Result<i64> {
    if microseconds >= MICROSECONDS_PER_DAY {
        return Err(unfit(Code::DateRange, "TIME for 24:00:00").hint("Cast the column to text."));
    }
    Ok(microseconds)
}

#[inline]
fn timestamp(microseconds: i64) -> Result<i64> {
    if matches!(microseconds, i64::MIN | i64::MAX) {
        return Err(infinite("TIMESTAMP"));
    }
    microseconds.checked_add(UNIX_TO_POSTGRES).ok_or_else(|| unfit(Code::DateRange, "TIMESTAMP after the year 294246"))
}

#[cfg(feature = "pg_test")]
#[allow(clippy::unwrap_used, reason = "a test's panic is its report")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        what_has_no_place_there_is_an_error,
    }

    fn what_has_no_place_there_is_an_error() {
        assert_eq!(date(-UNIX_TO_POSTGRES_DAYS).unwrap(), 0);
        assert_eq!(date(i32::MAX).unwrap_err().code(), Code::DateRange);
        assert_eq!(timestamp(i64::MIN).unwrap_err().code(), Code::DateRange);
        assert_eq!(timestamp(9_223_371_331_199_999_999).unwrap_err().code(), Code::DateRange);
        assert_eq!(time(MICROSECONDS_PER_DAY).unwrap_err().code(), Code::DateRange);
        assert_eq!(timestamp(0).unwrap(), 946_684_800_000_000);
    }
}
