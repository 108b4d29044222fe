//! The table of types: the encoder that a type has, and the choice of a form for each value.
//!
//! Rockset's wrapper says what JSON has no type for. In plain JSON every column has one JSON type, and dates and times are the strings
//! that `to_json` gives in time zone UTC. The forms themselves are in `forms`, `json`, `nested` and `geo`.

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::Wrapping;
use s3_export_core::text::buffer::{JsonBuffer, ascii_content, is_utf8, utf8_content};
use s3_export_core::text::cursor::{Append, Cursor, SLACK};
use s3_export_core::text::number;
use s3_export_core::text::numeric;

use crate::encode::Context;
use crate::encode::KeyPrefix;
use crate::encode::datum::{OID8, base_type, interval_of, payload};
use crate::encode::forms::{bytea, date, inet, integer, interval, non_finite, time, timestamp, timestamptz, uuid};
use crate::encode::geo::Geo;
use crate::encode::in_column;
use crate::encode::json::{json_text, jsonb_value};
use crate::encode::memory::EncoderMemory;
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
    pub fn of_type(type_id: pg_sys::Oid, memory: &EncoderMemory) -> Self {
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
            pg_sys::INETOID => Encoder::Inet(Output::of_type(pg_sys::INETOID, Pins::Json, memory)),
            pg_sys::ANYARRAYOID => Encoder::Array(Array::new()),
            other => Self::of_other_type(other, memory),
        }
    }

    fn of_other_type(type_id: pg_sys::Oid, memory: &EncoderMemory) -> Self {
        // SAFETY: catalog look-ups.
        let (is_array, is_row) =
            unsafe { (pg_sys::get_element_type(type_id) != pg_sys::InvalidOid, pg_sys::type_is_rowtype(type_id)) };
        if is_array {
            Encoder::Array(Array::new())
        } else if is_row {
            Encoder::Composite(Composite::new())
        } else if let Some(geo) = Geo::of_type(type_id, memory) {
            Encoder::Geo(geo)
        } else {
            Encoder::Output(Output::of_type(type_id, Pins::Json, memory))
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

    /// The JSON that values of the type are, for people. A value that its wrapper cannot hold is a string.
    pub fn json_form(&self, wrapping: Wrapping) -> &'static str {
        let (wrapped, plain) = match self {
            Encoder::Bool => return "boolean",
            Encoder::Int2 | Encoder::Int4 | Encoder::Int8 | Encoder::Oid | Encoder::Oid8 => return "number",
            Encoder::Float4 | Encoder::Float8 | Encoder::Numeric => return "number",
            Encoder::Text | Encoder::Uuid | Encoder::Inet(_) | Encoder::Output(_) => return "string",
            Encoder::Json | Encoder::Jsonb => return "any JSON",
            Encoder::Array(_) => return "array",
            Encoder::Composite(_) => return "object",
            Encoder::Bytea => ("wrapper bytes", "string (base64)"),
            Encoder::Date => ("wrapper date", "string"),
            Encoder::Time => ("wrapper time", "string"),
            Encoder::Timestamp => ("wrapper datetime", "string"),
            Encoder::Timestamptz => ("wrapper timestamp", "string"),
            Encoder::Interval => ("wrapper month_interval or microsecond_interval", "string"),
            Encoder::Geo(_) => ("wrapper geography", "string (WKT)"),
        };
        if wrapping == Wrapping::Rockset { wrapped } else { plain }
    }

    /// The beginning of a value that the writer of this type leaves to the key prefix, where the value fits its wrapper.
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
                    // The cursor may be full: only what comes before the value is certain to be written.
                    let out = out.take_back(before);
                    return Cursor::new(if context.utf8 && is_utf8(rest) {
                        utf8_text(text, key_prefix, out)
                    } else {
                        other_text(text, key_prefix, context, out, problem)
                    });
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

    /// Writes values that take long by themselves: kept out of the loop over a row's columns, whose registers they would need.
    ///
    /// # Safety
    /// The same as of [`Self::write`].
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
    /// The same as of [`Self::write`].
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

/// Writes a number of many digits, or none. Kept out of that loop, too.
#[inline(never)]
fn other_numeric<'a>(payload: &[u8], key_prefix: &KeyPrefix, context: &Context, out: &'a mut JsonBuffer) -> &'a mut JsonBuffer {
    out.blocks(&key_prefix.bare);
    let written = numeric::numeric(out, payload);
    written.unwrap_or_else(|special| non_finite(special, context, out));
    out
}

/// Writes a UTF-8 text of at most [`LONG_TEXT`] bytes that is not ASCII. Kept out of that loop, where it takes registers from all others.
#[inline(never)]
fn utf8_text<'a>(text: &[u8], key_prefix: &KeyPrefix, out: &'a mut JsonBuffer) -> &'a mut JsonBuffer {
    /// Bytes of the longest escape.
    const ESCAPE: usize = 6;
    out.blocks(&key_prefix.typed);
    if !out.reserve(ESCAPE * text.len() + 4 * SLACK) {
        return out;
    }
    let mut cursor = Cursor::new(out);
    utf8_content(&mut cursor, text);
    cursor.push(b'"');
    cursor.end()
}

/// Writes a text that is long, in another encoding, or no text. Kept out of that loop, too.
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
