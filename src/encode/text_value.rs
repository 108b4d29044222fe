//! Values as Postgres's own text, in UTF-8: for CSV, and for names of partitions.
//!
//! Texts never depend on the session: they are those of ISO dates, UTC, `IntervalStyle` `postgres`, shortest floats and bytea in
//! hex, so that COPY reads them back. The common types are written without their output functions.

use pgrx::pg_sys;
use s3_export_core::error::Result;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::datetime;
use s3_export_core::text::number;
use s3_export_core::text::numeric;

use crate::encode::Context;
use crate::encode::datum::{base_type, payload};
use crate::encode::memory::EncoderMemory;
use crate::encode::output::{Output, Pins};

/// How values of one type are written as text.
pub enum TextEncoder {
    Bool,
    Int2,
    Int4,
    Int8,
    Numeric,
    Text,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    /// Text of the type's output function; `true`: values are scalars, not nested.
    Output(Output, bool),
}

impl TextEncoder {
    /// The encoder of a type; a domain's is its base type's.
    pub fn of_type(type_id: pg_sys::Oid, memory: &EncoderMemory) -> Self {
        match base_type(type_id) {
            pg_sys::BOOLOID => TextEncoder::Bool,
            pg_sys::INT2OID => TextEncoder::Int2,
            pg_sys::INT4OID => TextEncoder::Int4,
            pg_sys::INT8OID => TextEncoder::Int8,
            pg_sys::NUMERICOID => TextEncoder::Numeric,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => TextEncoder::Text,
            pg_sys::DATEOID => TextEncoder::Date,
            pg_sys::TIMEOID => TextEncoder::Time,
            pg_sys::TIMESTAMPOID => TextEncoder::Timestamp,
            pg_sys::TIMESTAMPTZOID => TextEncoder::Timestamptz,
            other => TextEncoder::Output(Output::of_type(other, Pins::Copy, memory), is_scalar(other)),
        }
    }

    /// Whether values are names rather than documents.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, TextEncoder::Output(_, false))
    }

    /// Writes a value that is not NULL, of the encoder's type. It is left to the caller whether it is UTF-8, see
    /// [`Context::unchecked_text`]. Errors: 22021.
    ///
    /// # Safety
    /// The datum is not NULL and of the encoder's type.
    pub unsafe fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        match self {
            TextEncoder::Bool => out.push(if datum.value() as u8 != 0 { b't' } else { b'f' }),
            TextEncoder::Int2 => number::integer(out, (datum.value() as i16).into()),
            TextEncoder::Int4 => number::integer(out, (datum.value() as i32).into()),
            TextEncoder::Int8 => number::integer(out, datum.value() as i64),
            TextEncoder::Numeric => {
                // SAFETY: a numeric has variable length, and is read at once.
                numeric::numeric(out, unsafe { payload(datum) }).unwrap_or_else(|special| out.raw(special.text().as_bytes()));
            }
            // SAFETY: a text has variable length, and is read at once.
            TextEncoder::Text => return context.unchecked_text(unsafe { payload(datum) }, out),
            TextEncoder::Date => datetime::write_date(out, datum.value() as i32),
            TextEncoder::Time => datetime::write_time(out, datum.value() as i64),
            TextEncoder::Timestamp => datetime::write_timestamp(out, datum.value() as i64, b' '),
            TextEncoder::Timestamptz => datetime::write_timestamptz_utc(out, datum.value() as i64, b' '),
            // SAFETY: by the caller's promise; the text is read at once.
            TextEncoder::Output(output, _) => return context.unchecked_text(unsafe { output.text(datum) }, out),
        }
        Ok(())
    }
}

fn is_scalar(type_id: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups.
    let is_nested = unsafe { pg_sys::get_element_type(type_id) != pg_sys::InvalidOid || pg_sys::type_is_rowtype(type_id) };
    !is_nested && ![pg_sys::JSONOID, pg_sys::JSONBOID, pg_sys::BYTEAOID, pg_sys::XMLOID].contains(&type_id)
}
