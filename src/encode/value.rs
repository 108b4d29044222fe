//! The table of types: which encoder a type has, and what it writes.
//!
//! Rockset's wrapper says what JSON has no type for; a value that its wrapper cannot express (an infinite date, a year past
//! 9999, an interval of months and days) is a plain string in Postgres's ISO text. In plain JSON every column has one
//! JSON type, and dates and times are the strings that `to_json` gives in time zone UTC.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::Context;
use super::geo::Geo;
use super::interval::{Interval, Shape, write_iso8601};
use super::json::JsonBuffer;
use super::nested::{Array, Composite};
use super::output::{Output, Pins};
use super::{datetime, number};
use crate::error::Result;
use crate::format::{NonFinite, Wrapping};
use crate::pg::to_utf8;

/// How values of one type are written.
pub enum Encoder {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Json,
    Jsonb,
    Array(Array),
    Composite(Composite),
    Geo(Geo),
    Output(Output),
    /// A dropped column of a composite: not written at all.
    Dropped,
}

impl Encoder {
    /// The encoder of a type; a domain's is its base type's.
    pub fn of_type(type_id: pg_sys::Oid) -> Self {
        match base_type(type_id) {
            pg_sys::BOOLOID => Encoder::Bool,
            pg_sys::INT2OID => Encoder::Int2,
            pg_sys::INT4OID => Encoder::Int4,
            pg_sys::INT8OID => Encoder::Int8,
            pg_sys::OIDOID => Encoder::Oid,
            pg_sys::FLOAT4OID => Encoder::Float4,
            pg_sys::FLOAT8OID => Encoder::Float8,
            pg_sys::NUMERICOID => Encoder::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Encoder::Text,
            pg_sys::BYTEAOID => Encoder::Bytea,
            pg_sys::DATEOID => Encoder::Date,
            pg_sys::TIMEOID => Encoder::Time,
            pg_sys::TIMESTAMPOID => Encoder::Timestamp,
            pg_sys::TIMESTAMPTZOID => Encoder::Timestamptz,
            pg_sys::INTERVALOID => Encoder::Interval,
            pg_sys::JSONOID => Encoder::Json,
            pg_sys::JSONBOID => Encoder::Jsonb,
            pg_sys::ANYARRAYOID => Encoder::Array(Array::new()),
            other => Self::of_other_type(other),
        }
    }

    fn of_other_type(type_id: pg_sys::Oid) -> Self {
        // SAFETY: catalog look-ups.
        let (is_array, is_row) =
            unsafe { (pg_sys::get_element_type(type_id) != pg_sys::InvalidOid, pg_sys::type_is_rowtype(type_id)) };
        if is_array {
            Encoder::Array(Array::new())
        } else if is_row {
            Encoder::Composite(Composite::new())
        } else if let Some(geo) = Geo::of_type(type_id) {
            Encoder::Geo(geo)
        } else {
            Encoder::Output(Output::of_type(type_id, Pins::Json))
        }
    }

    /// Writes a value that is not NULL, of the encoder's type.
    pub fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        let plain = context.wrapping != Wrapping::Rockset;
        match self {
            Encoder::Bool => out.raw(if datum.value() as u8 != 0 { b"true" } else { b"false" }),
            Encoder::Int2 => number::integer(out, datum.value() as i16),
            Encoder::Int4 => number::integer(out, datum.value() as i32),
            Encoder::Int8 => number::integer(out, datum.value() as i64),
            Encoder::Oid => number::integer(out, datum.value() as u32),
            Encoder::Float4 => {
                let written = number::float4(out, f32::from_bits(datum.value() as u32));
                written.unwrap_or_else(|special| non_finite(special, context, out));
            }
            Encoder::Float8 => {
                let written = number::float8(out, f64::from_bits(datum.value() as u64));
                written.unwrap_or_else(|special| non_finite(special, context, out));
            }
            Encoder::Numeric => {
                let written = number::numeric(out, payload(datum));
                written.unwrap_or_else(|special| non_finite(special, context, out));
            }
            Encoder::Text => context.string(payload(datum), out),
            Encoder::Bytea => bytea(payload(datum), plain, out),
            Encoder::Date => date(datum.value() as i32, plain, out),
            Encoder::Time => time(datum.value() as i64, plain, out),
            Encoder::Timestamp => timestamp(datum.value() as i64, plain, out),
            Encoder::Timestamptz => timestamptz(datum.value() as i64, plain, out),
            Encoder::Interval => interval(&interval_of(datum), plain, out),
            Encoder::Json => json(payload(datum), context, out),
            Encoder::Jsonb => jsonb(datum, context, out),
            Encoder::Array(array) => return array.write(datum, context, out),
            Encoder::Composite(composite) => return composite.write(datum, context, out),
            Encoder::Geo(geo) => return geo.write(datum, context, out),
            Encoder::Output(output) => output.write(datum, context, out),
            Encoder::Dropped => {}
        }
        Ok(())
    }
}

/// What a domain is made of; any other type itself.
pub(super) fn base_type(type_id: pg_sys::Oid) -> pg_sys::Oid {
    let mut modifier = -1;
    // SAFETY: a catalog look-up that writes to a local.
    unsafe { pg_sys::getBaseTypeAndTypmod(type_id, &mut modifier) }
}

/// The bytes of a value of variable length, without its header, detoasted into the row's memory.
pub(super) fn payload<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: only called for types of variable length, whose datum points to a varlena; it and its detoasted copy are
    // readable until the row ends, and no caller keeps the bytes longer.
    unsafe {
        let is_plain = !pgrx::varlena::varatt_is_1b_e(value) && !pgrx::varlena::varatt_is_4b_c(value);
        let plain = if is_plain { value } else { pg_sys::pg_detoast_datum_packed(value) };
        pgrx::varlena::varlena_to_byte_slice(plain)
    }
}

fn non_finite(special: number::NonFinite, context: &Context, out: &mut JsonBuffer) {
    let text = |out: &mut JsonBuffer| out.string(special.text().as_bytes());
    match context.wrapping {
        Wrapping::Rockset => out.wrapped("float", text),
        Wrapping::Plain(NonFinite::String) => text(out),
        Wrapping::Plain(NonFinite::Null) => out.raw(b"null"),
    }
}

fn quoted(out: &mut JsonBuffer, text: impl FnOnce(&mut JsonBuffer)) {
    out.push(b'"');
    text(out);
    out.push(b'"');
}

fn bytea(bytes: &[u8], plain: bool, out: &mut JsonBuffer) {
    if plain {
        quoted(out, |out| out.base64(bytes));
    } else {
        out.raw(br#"{"__rockset_type":"bytes","value":""#);
        out.base64(bytes);
        out.raw(br#"","encoding":"base64"}"#);
    }
}

/// A quoted text, in a wrapper unless it is to be plain.
fn maybe_wrapped(type_name: &str, plain: bool, out: &mut JsonBuffer, text: impl FnOnce(&mut JsonBuffer)) {
    if plain {
        quoted(out, text);
    } else {
        out.wrapped(type_name, |out| quoted(out, text));
    }
}

fn date(days: i32, plain: bool, out: &mut JsonBuffer) {
    let plain = plain || !datetime::date_fits_wrapper(days);
    maybe_wrapped("date", plain, out, |out| datetime::write_date(out, days));
}

fn time(microseconds: i64, plain: bool, out: &mut JsonBuffer) {
    let plain = plain || !datetime::time_fits_wrapper(microseconds);
    maybe_wrapped("time", plain, out, |out| datetime::write_time(out, microseconds));
}

fn timestamp(microseconds: i64, plain: bool, out: &mut JsonBuffer) {
    if plain || datetime::timestamp_fits_wrapper(microseconds) {
        maybe_wrapped("datetime", plain, out, |out| datetime::write_timestamp(out, microseconds, b'T'));
    } else {
        quoted(out, |out| datetime::write_timestamp(out, microseconds, b' '));
    }
}

fn timestamptz(microseconds: i64, plain: bool, out: &mut JsonBuffer) {
    match datetime::unix_microseconds(microseconds) {
        Some(unix) if !plain => out.wrapped("timestamp", |out| quoted(out, |out| number::integer(out, unix))),
        _ => quoted(out, |out| datetime::write_timestamptz_utc(out, microseconds, b'T')),
    }
}

fn interval_of(datum: pg_sys::Datum) -> Interval {
    // SAFETY: only called for intervals, which are passed by reference to this struct.
    let value = unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() };
    Interval { months: value.month, days: value.day, microseconds: value.time }
}

fn interval(value: &Interval, plain: bool, out: &mut JsonBuffer) {
    match value.shape() {
        Shape::Months(months) if !plain => out.wrapped("month_interval", |out| number::integer(out, months)),
        Shape::Microseconds(time) if !plain => out.wrapped("microsecond_interval", |out| number::integer(out, time)),
        _ => quoted(out, |out| write_iso8601(out, value)),
    }
}

/// A line break in `json` stands between tokens, never inside a string, so leaving it out changes no value.
fn json(server_text: &[u8], context: &Context, out: &mut JsonBuffer) {
    if context.utf8 || server_text.is_ascii() {
        out.without_line_breaks(server_text);
    } else {
        out.without_line_breaks(to_utf8(server_text).as_bytes());
    }
}

fn jsonb(datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) {
    // SAFETY: only called for jsonb; detoasted with its full header it is a Jsonb, whose text is palloc'd in the row's memory.
    let text = unsafe {
        let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let length = pgrx::varlena::varsize(value.cast()) as i32;
        CStr::from_ptr(pg_sys::JsonbToCString(std::ptr::null_mut(), &mut (*value).root, length))
    };
    json(text.to_bytes(), context, out);
}
