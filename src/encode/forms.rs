//! The form that each type with one of its own has in a document: numbers, dates, times, intervals, bytes, addresses.
//!
//! A value that its wrapper of Rockset's cannot express (an infinite date, a year past 9999, an interval of months and days) is a plain
//! string in Postgres's ISO text.

use pgrx::pg_sys;
use s3_export_core::error::Result;
use s3_export_core::format::{NonFinite, Wrapping};
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::datetime;
use s3_export_core::text::inet;
use s3_export_core::text::interval::{Interval, Shape, write_iso8601};
use s3_export_core::text::number;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::encode::Context;
use crate::encode::KeyPrefix;
use crate::encode::datum::{HAS_INFINITE_INTERVALS, payload};
use crate::encode::output::Output;

/// Writes NaN or an infinity.
pub fn non_finite(special: number::NonFinite, context: &Context, out: &mut JsonBuffer) {
    let text = |out: &mut JsonBuffer| out.string(special.text());
    match context.wrapping {
        Wrapping::Rockset => out.wrapped("float", text),
        Wrapping::Plain(NonFinite::String) => text(out),
        Wrapping::Plain(NonFinite::Null) => out.raw(b"null"),
    }
}

/// Writes an inet.
///
/// # Safety
/// The datum is an inet that is not NULL, and `output` that type's.
#[inline]
pub unsafe fn inet(datum: pg_sys::Datum, output: &Output, context: &Context, out: &mut JsonBuffer) -> Result<()> {
    let start = out.len();
    out.push(b'"');
    // SAFETY: an inet has variable length, and is read at once.
    if inet::write_ipv4(out, unsafe { payload(datum) }) {
        out.push(b'"');
        return Ok(());
    }
    out.truncate(start);
    // SAFETY: by the caller's promise.
    unsafe { output.write(datum, context, out) }
}

/// Writes an integer.
#[inline(always)]
pub fn integer(value: i64, key_prefix: &KeyPrefix, out: &mut impl Append) {
    out.blocks(&key_prefix.bare);
    number::integer(out, value);
}

/// Writes the rest of a bytea, after its prefix, as base64.
#[inline]
pub fn bytea(bytes: &[u8], plain: bool, out: &mut JsonBuffer) {
    out.base64(bytes);
    if plain { out.push(b'"') } else { out.fixed(br#"","encoding":"base64"}"#) }
}

/// Writes the rest of a uuid, after its prefix.
#[inline]
pub fn uuid(bytes: [u8; 16], out: &mut JsonBuffer) {
    let mut text = [0; Hyphenated::LENGTH];
    Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text);
    out.fixed(&text);
    out.push(b'"');
}

/// Begins a text in quotes: with the prefix of the type's wrapper or, where the wrapper cannot express the value, as a string.
#[inline(always)]
fn open_text(fits: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    if fits {
        out.blocks(&key_prefix.typed);
    } else {
        out.blocks(&key_prefix.bare);
        out.push(b'"');
    }
}

#[inline(always)]
fn close_text(is_wrapped: bool, out: &mut impl Append) {
    out.block(*b"\"}", if is_wrapped { 2 } else { 1 });
}

/// Writes a date, in its wrapper where that can express it.
#[inline(always)]
pub fn date(days: i32, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let fits = datetime::date_fits_wrapper(days);
    open_text(plain || fits, key_prefix, out);
    datetime::write_date(out, days);
    close_text(fits && !plain, out);
}

/// Writes a time, in its wrapper where that can express it.
#[inline(always)]
pub fn time(microseconds: i64, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let fits = datetime::time_fits_wrapper(microseconds);
    open_text(plain || fits, key_prefix, out);
    datetime::write_time(out, microseconds);
    close_text(fits && !plain, out);
}

/// Writes a timestamp, in its wrapper where that can express it.
#[inline(always)]
pub fn timestamp(microseconds: i64, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let fits = datetime::timestamp_fits_wrapper(microseconds);
    open_text(plain || fits, key_prefix, out);
    datetime::write_timestamp(out, microseconds, if plain || fits { b'T' } else { b' ' });
    close_text(fits && !plain, out);
}

/// Writes a timestamptz, in its wrapper where that can express it, and in UTC elsewhere.
#[inline(always)]
pub fn timestamptz(microseconds: i64, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let unix = datetime::unix_microseconds(microseconds);
    open_text(plain || unix.is_some(), key_prefix, out);
    match unix {
        Some(unix) if !plain => number::wide_integer(out, unix),
        _ => datetime::write_timestamptz_utc(out, microseconds, b'T'),
    }
    close_text(unix.is_some() && !plain, out);
}

/// Writes an interval: a wrapper for one of months alone or of microseconds alone, ISO 8601 for all others.
#[inline]
pub fn interval(value: &Interval, plain: bool, out: &mut JsonBuffer) {
    match value.shape() {
        Shape::Months(months) if !plain => out.wrapped("month_interval", |out| number::integer(out, months.into())),
        Shape::Microseconds(time) if !plain => out.wrapped("microsecond_interval", |out| number::integer(out, time)),
        _ => {
            out.push(b'"');
            write_iso8601(out, value, HAS_INFINITE_INTERVALS);
            out.push(b'"');
        }
    }
}
