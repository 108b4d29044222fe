//! The table of types: which encoder a type has, and what it writes.
//!
//! Rockset's wrapper says what JSON has no type for; a value that its wrapper cannot express (an infinite date, a year past
//! 9999, an interval of months and days) is a plain string in Postgres's ISO text. In plain JSON every column has one
//! JSON type, and dates and times are the strings that `to_json` gives in time zone UTC.

use std::ffi::CStr;

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::{NonFinite, Wrapping};
use s3_export_core::text::buffer::{JsonBuffer, ascii_content, has_lone_surrogate, is_utf8, utf8_content};
use s3_export_core::text::cursor::{Append, Cursor};
use s3_export_core::text::datetime;
use s3_export_core::text::inet;
use s3_export_core::text::interval::{Interval, Shape, write_iso8601};
use s3_export_core::text::jsonb;
use s3_export_core::text::number;
use s3_export_core::text::numeric;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::encode::Context;
use crate::encode::KeyPrefix;
use crate::encode::datum::{HAS_INFINITE_INTERVALS, OID8};
use crate::encode::datum::{base_type, interval_of, payload};
use crate::encode::geo::Geo;
use crate::encode::in_column;
use crate::encode::nested::{Array, Composite};
use crate::encode::output::{Output, Pins};

/// How values of one type are written.
pub enum Encoder {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Oid8,
    Float4,
    Float8,
    Numeric,
    Text,
    Uuid,
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
    /// With the output function, for IPv6.
    Inet(Output),
    Output(Output),
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
            OID8 => Encoder::Oid8,
            pg_sys::FLOAT4OID => Encoder::Float4,
            pg_sys::FLOAT8OID => Encoder::Float8,
            pg_sys::NUMERICOID => Encoder::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Encoder::Text,
            pg_sys::UUIDOID => Encoder::Uuid,
            pg_sys::BYTEAOID => Encoder::Bytea,
            pg_sys::DATEOID => Encoder::Date,
            pg_sys::TIMEOID => Encoder::Time,
            pg_sys::TIMESTAMPOID => Encoder::Timestamp,
            pg_sys::TIMESTAMPTZOID => Encoder::Timestamptz,
            pg_sys::INTERVALOID => Encoder::Interval,
            pg_sys::JSONOID => Encoder::Json,
            pg_sys::JSONBOID => Encoder::Jsonb,
            pg_sys::INETOID => Encoder::Inet(Output::of_type(pg_sys::INETOID, Pins::Json)),
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

    /// Whether a value may need Postgres's memory to be written, if only to be detoasted.
    pub fn allocates(&self) -> bool {
        !matches!(
            self,
            Encoder::Bool
                | Encoder::Int2
                | Encoder::Int4
                | Encoder::Int8
                | Encoder::Oid
                | Encoder::Oid8
                | Encoder::Float4
                | Encoder::Float8
                | Encoder::Uuid
                | Encoder::Date
                | Encoder::Time
                | Encoder::Timestamp
                | Encoder::Timestamptz
                | Encoder::Interval
        )
    }

    /// What the writer of this type leaves to the key_prefix, where a value fits its wrapper.
    pub fn wrapper_prefix(&self, wrapping: Wrapping) -> &'static [u8] {
        let wrapped: &[u8] = match self {
            Encoder::Bytea => br#"{"__rockset_type":"bytes","value":""#,
            Encoder::Date => br#"{"__rockset_type":"date","value":""#,
            Encoder::Time => br#"{"__rockset_type":"time","value":""#,
            Encoder::Timestamp => br#"{"__rockset_type":"datetime","value":""#,
            Encoder::Timestamptz => br#"{"__rockset_type":"timestamp","value":""#,
            Encoder::Text | Encoder::Uuid => b"\"",
            _ => b"",
        };
        if wrapping == Wrapping::Rockset || wrapped.is_empty() { wrapped } else { b"\"" }
    }

    /// Writes a value that is not NULL, of the encoder's type, after its key_prefix. An error goes into `problem`, unless there is
    /// one.
    ///
    /// # Safety
    /// The datum is not NULL and of the encoder's type.
    #[inline(always)]
    pub unsafe fn write<'a>(
        &self,
        datum: pg_sys::Datum,
        key_prefix: &KeyPrefix,
        context: &Context,
        mut out: Cursor<'a>,
        problem: &mut Option<Error>,
    ) -> Cursor<'a> {
        match self {
            Encoder::Bool => {
                out.blocks(&key_prefix.bare);
                if datum.value() as u8 != 0 { out.fixed(b"true") } else { out.fixed(b"false") }
            }
            Encoder::Int2 => integer(i64::from(datum.value() as i16), key_prefix, &mut out),
            Encoder::Int4 => integer(i64::from(datum.value() as i32), key_prefix, &mut out),
            Encoder::Int8 => integer(datum.value() as i64, key_prefix, &mut out),
            Encoder::Oid => integer(i64::from(datum.value() as u32), key_prefix, &mut out),
            Encoder::Numeric => {
                // SAFETY: a numeric has variable length, and is read at once.
                let payload = unsafe { payload(datum) };
                let before = out.length();
                out.blocks(&key_prefix.bare);
                if !numeric::short_numeric(&mut out, payload) {
                    return Cursor::new(other_numeric(payload, key_prefix, context, out.take_back(before)));
                }
            }
            Encoder::Text => {
                // SAFETY: a text has variable length, and is read at once.
                let text = unsafe { payload(datum) };
                if text.len() > LONG_TEXT {
                    return Cursor::new(other_text(text, key_prefix, context, out.end(), problem));
                }
                let before = out.length();
                out.blocks(&key_prefix.typed);
                if let Some(rest) = ascii_content(&mut out, text) {
                    if !context.utf8 || !is_utf8(rest) {
                        return Cursor::new(other_text(text, key_prefix, context, out.take_back(before), problem));
                    }
                    utf8_content(&mut out, rest);
                }
                out.push(b'"');
            }
            Encoder::Date => date(datum.value() as i32, context.is_plain(), key_prefix, &mut out),
            Encoder::Time => time(datum.value() as i64, context.is_plain(), key_prefix, &mut out),
            Encoder::Timestamp => timestamp(datum.value() as i64, context.is_plain(), key_prefix, &mut out),
            Encoder::Timestamptz => timestamptz(datum.value() as i64, context.is_plain(), key_prefix, &mut out),
            // SAFETY: by the caller's promise.
            other => return Cursor::new(unsafe { other.write_seldom(datum, key_prefix, context, out.end(), problem) }),
        }
        out
    }

    /// Values that take long by themselves: kept out of the loop over a row's columns, whose registers they would need.
    ///
    /// # Safety
    /// As of [`Self::write`].
    #[inline(never)]
    unsafe fn write_seldom<'a>(
        &self,
        datum: pg_sys::Datum,
        key_prefix: &KeyPrefix,
        context: &Context,
        out: &'a mut JsonBuffer,
        problem: &mut Option<Error>,
    ) -> &'a mut JsonBuffer {
        if problem.is_some() {
            // Nothing of this row will be used.
            return out;
        }
        let plain = context.is_plain();
        match self {
            Encoder::Bytea => {
                out.blocks(&key_prefix.typed);
                // SAFETY: a bytea has variable length, and is read at once.
                bytea(unsafe { payload(datum) }, plain, out);
                return out;
            }
            Encoder::Uuid => {
                out.blocks(&key_prefix.typed);
                // SAFETY: a uuid, which is passed by reference.
                uuid(unsafe { *datum.cast_mut_ptr() }, out);
                return out;
            }
            _ => out.blocks(&key_prefix.bare),
        }
        // SAFETY: by the caller's promise.
        if let Err(error) = unsafe { self.write_after_lead(datum, plain, context, out) } {
            *problem = Some(named(error, key_prefix));
        }
        out
    }

    /// # Safety
    /// As of [`Self::write`].
    unsafe fn write_after_lead(
        &self,
        datum: pg_sys::Datum,
        plain: bool,
        context: &Context,
        out: &mut JsonBuffer,
    ) -> Result<()> {
        match self {
            Encoder::Float4 => {
                let written = number::float4(out, f32::from_bits(datum.value() as u32));
                written.unwrap_or_else(|special| non_finite(special, context, out));
            }
            Encoder::Float8 => {
                let written = number::float8(out, f64::from_bits(datum.value() as u64));
                written.unwrap_or_else(|special| non_finite(special, context, out));
            }
            Encoder::Oid8 => number::unsigned(out, datum.value() as u64),
            // SAFETY: an interval.
            Encoder::Interval => interval(&unsafe { interval_of(datum) }, plain, out),
            // SAFETY: json has variable length, and is read at once.
            Encoder::Json => return json_text(unsafe { payload(datum) }, context, out),
            // SAFETY: jsonb.
            Encoder::Jsonb => return unsafe { jsonb_value(datum, context, out) },
            // SAFETY: an array, of whatever type.
            Encoder::Array(array) => return unsafe { array.write(datum, context, out) },
            // SAFETY: a composite, of whatever type.
            Encoder::Composite(composite) => return unsafe { composite.write(datum, context, out) },
            // SAFETY: of the type that this was made for.
            Encoder::Geo(geo) => return unsafe { geo.write(datum, context, out) },
            // SAFETY: inet.
            Encoder::Inet(output) => return unsafe { inet(datum, output, context, out) },
            // SAFETY: of the type that this was made for.
            Encoder::Output(output) => return unsafe { output.write(datum, context, out) },
            // `write` has all others.
            _ => {}
        }
        Ok(())
    }
}

/// Kept out of that loop, too: a number of many digits, or none.
#[inline(never)]
fn other_numeric<'a>(payload: &[u8], key_prefix: &KeyPrefix, context: &Context, out: &'a mut JsonBuffer) -> &'a mut JsonBuffer {
    out.blocks(&key_prefix.bare);
    let written = numeric::numeric(out, payload);
    written.unwrap_or_else(|special| non_finite(special, context, out));
    out
}

/// And a text that is long, in another encoding, or none.
#[inline(never)]
fn other_text<'a>(
    text: &[u8],
    key_prefix: &KeyPrefix,
    context: &Context,
    out: &'a mut JsonBuffer,
    problem: &mut Option<Error>,
) -> &'a mut JsonBuffer {
    out.blocks(&key_prefix.bare);
    if let Err(error) = context.string(text, out)
        && problem.is_none()
    {
        *problem = Some(named(error, key_prefix));
    }
    out
}

/// An error of a text names the innermost column until the outermost is known.
#[cold]
fn named(error: Error, key_prefix: &KeyPrefix) -> Error {
    let is_of_text = [Code::InvalidText, Code::Untranslatable].contains(&error.code());
    if is_of_text && !key_prefix.name.is_empty() { in_column(error, &key_prefix.name) } else { error }
}

/// Bytes of a text that is worth the call of a function.
const LONG_TEXT: usize = 1024;

fn non_finite(special: number::NonFinite, context: &Context, out: &mut JsonBuffer) {
    let text = |out: &mut JsonBuffer| out.string(special.text());
    match context.wrapping {
        Wrapping::Rockset => out.wrapped("float", text),
        Wrapping::Plain(NonFinite::String) => text(out),
        Wrapping::Plain(NonFinite::Null) => out.raw(b"null"),
    }
}

/// # Safety
/// The datum is an inet that is not NULL, and `output` that type's.
unsafe fn inet(datum: pg_sys::Datum, output: &Output, context: &Context, out: &mut JsonBuffer) -> Result<()> {
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

#[inline(always)]
fn integer(value: i64, key_prefix: &KeyPrefix, out: &mut impl Append) {
    out.blocks(&key_prefix.bare);
    number::integer(out, value);
}

fn bytea(bytes: &[u8], plain: bool, out: &mut JsonBuffer) {
    out.base64(bytes);
    if plain { out.push(b'"') } else { out.fixed(br#"","encoding":"base64"}"#) }
}

fn uuid(bytes: [u8; 16], out: &mut JsonBuffer) {
    let mut text = [0; Hyphenated::LENGTH];
    Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text);
    out.fixed(&text);
    out.push(b'"');
}

/// Begins a text in quotes: with the lead's wrapper_prefix or, where its wrapper cannot express the value, as a string.
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

#[inline(always)]
fn date(days: i32, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let fits = datetime::date_fits_wrapper(days);
    open_text(plain || fits, key_prefix, out);
    datetime::write_date(out, days);
    close_text(fits && !plain, out);
}

#[inline(always)]
fn time(microseconds: i64, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let fits = datetime::time_fits_wrapper(microseconds);
    open_text(plain || fits, key_prefix, out);
    datetime::write_time(out, microseconds);
    close_text(fits && !plain, out);
}

#[inline(always)]
fn timestamp(microseconds: i64, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let fits = datetime::timestamp_fits_wrapper(microseconds);
    open_text(plain || fits, key_prefix, out);
    datetime::write_timestamp(out, microseconds, if plain || fits { b'T' } else { b' ' });
    close_text(fits && !plain, out);
}

#[inline(always)]
fn timestamptz(microseconds: i64, plain: bool, key_prefix: &KeyPrefix, out: &mut impl Append) {
    let unix = datetime::unix_microseconds(microseconds);
    open_text(plain || unix.is_some(), key_prefix, out);
    match unix {
        Some(unix) if !plain => number::wide_integer(out, unix),
        _ => datetime::write_timestamptz_utc(out, microseconds, b'T'),
    }
    close_text(unix.is_some() && !plain, out);
}

fn interval(value: &Interval, plain: bool, out: &mut JsonBuffer) {
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

/// A line break in `json` stands between tokens, never inside a string, so leaving it out changes no value. Errors: 22021, 22P05.
fn json_text(server_text: &[u8], context: &Context, out: &mut JsonBuffer) -> Result<()> {
    check_surrogates(server_text)?;
    out.without_line_breaks(context.utf8(server_text)?.as_bytes());
    Ok(())
}

/// Errors: 22P05 for half of a surrogate pair, as for `jsonb`: there are no bytes in UTF-8 for it, and readers find the file
/// unreadable, not the value.
pub(super) fn check_surrogates(json: &[u8]) -> Result<()> {
    if has_lone_surrogate(json) {
        return Err(Error::new(Code::Untranslatable, "a json value escapes half of a surrogate pair")
            .hint("Such a value is no text, and cannot be cast to jsonb; leave it out, or export the column as text."));
    }
    Ok(())
}

/// Writes a jsonb. Errors: 22021.
///
/// # Safety
/// The datum is a jsonb that is not NULL.
pub(super) unsafe fn jsonb_value(datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
    if context.utf8 {
        let start = out.len();
        // SAFETY: a jsonb has variable length, and is read at once.
        if jsonb::write(out, unsafe { payload(datum) }).is_some() {
            return Ok(());
        }
        out.truncate(start);
    }
    // SAFETY: by the caller's promise; detoasted with its full header it is a Jsonb, whose text is palloc'd in the row's memory.
    let text = unsafe {
        let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let length = pgrx::varlena::varsize(value.cast()) as i32;
        CStr::from_ptr(pg_sys::JsonbToCString(std::ptr::null_mut(), &mut (*value).root, length))
    };
    json_text(text.to_bytes(), context, out)
}
