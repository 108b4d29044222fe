//! Rows → documents: one JSON object a row, one line each.
//!
//! An encoder is chosen once for each column, from its type; the common types are then written straight from the
//! Datum. `value` holds the table of types, `nested` arrays and composites, `output` every type that has only its text,
//! `geo` PostGIS; `json`, `number`, `datetime`, `interval` and `wkb` are pure.

pub mod datetime;
mod geo;
pub mod interval;
pub mod json;
mod nested;
pub mod number;
mod output;
mod value;
mod wkb;

use std::ffi::CStr;

use pgrx::{PgTupleDesc, pg_sys};

use self::json::JsonBuffer;
use self::value::Encoder;
use crate::error::{Code, Error, Result};
use crate::manifest::Column;
use crate::pg::{Memory, server_is_utf8, to_utf8};
use crate::request::Wrapping;

/// What all encoders of an export share.
pub struct Context {
    wrapping: Wrapping,
    /// The server's text is UTF-8 and is written as it is.
    utf8: bool,
    /// Lives as long as the encoders; theirs, when they need more than a row's time.
    memory: Memory,
}

/// Writes rows of one shape.
pub struct RowEncoder {
    columns: Vec<(Key, Encoder)>,
    context: Context,
    /// Holds what encoding one row allocates.
    row_memory: Memory,
}

/// A column's name as it stands in every document: escaped, with quotes, colon, and the comma or brace before it.
struct Key(Vec<u8>);

impl RowEncoder {
    /// For rows of this shape. Errors: 42701 for two columns of one name.
    pub fn new(shape: &PgTupleDesc<'_>, wrapping: Wrapping) -> Result<Self> {
        let context = Context { wrapping, utf8: server_is_utf8(), memory: Memory::new(c"s3_export encoders") };
        let columns = {
            let _long = context.memory.enter();
            encoders(shape)?
        };
        Ok(RowEncoder { columns, context, row_memory: Memory::new(c"s3_export row") })
    }

    /// Writes one row as a line.
    pub fn document(&self, values: &[pg_sys::Datum], nulls: &[bool], out: &mut JsonBuffer) -> Result<()> {
        // Before the row, not after it: what an error in the last row left behind goes as well.
        self.row_memory.reset();
        let _row = self.row_memory.enter();
        object(&self.columns, values, nulls, &self.context, out)?;
        out.push(b'\n');
        Ok(())
    }
}

/// The columns of this shape, for the manifest.
pub fn describe(shape: &PgTupleDesc<'_>) -> Vec<Column> {
    let type_name = |attribute: &pg_sys::FormData_pg_attribute| {
        // SAFETY: a catalog look-up that gives a palloc'd string.
        let name = unsafe { CStr::from_ptr(pg_sys::format_type_with_typemod(attribute.atttypid, attribute.atttypmod)) };
        to_utf8(name.to_bytes())
    };
    shape.iter().map(|attribute| Column { name: column_name(attribute), type_name: type_name(attribute) }).collect()
}

fn column_name(attribute: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a NameData is NUL-terminated.
    to_utf8(unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes())
}

/// The encoders of a row's columns; dropped columns of a composite have none.
fn encoders(shape: &PgTupleDesc<'_>) -> Result<Vec<(Key, Encoder)>> {
    let mut names = Vec::new();
    let mut columns = Vec::new();
    for attribute in shape.iter() {
        if attribute.attisdropped {
            columns.push((Key(Vec::new()), Encoder::Dropped));
            continue;
        }
        let name = column_name(attribute);
        if names.contains(&name) {
            return Err(Error::new(Code::DuplicateColumn, format!("column \"{name}\" appears more than once"))
                .detail("A JSON object would lose one of its values.")
                .hint("Name the columns apart with AS."));
        }
        let mut key = JsonBuffer::new();
        key.push(if names.is_empty() { b'{' } else { b',' });
        key.string(name.as_bytes());
        key.push(b':');
        names.push(name);
        columns.push((Key(key.into_vec()), Encoder::of_type(attribute.atttypid)));
    }
    Ok(columns)
}

/// Writes a row's values as an object.
fn object(
    columns: &[(Key, Encoder)],
    values: &[pg_sys::Datum],
    nulls: &[bool],
    context: &Context,
    out: &mut JsonBuffer,
) -> Result<()> {
    let mut is_empty = true;
    for (((key, encoder), value), null) in columns.iter().zip(values).zip(nulls) {
        if matches!(encoder, Encoder::Dropped) {
            continue;
        }
        is_empty = false;
        out.raw(&key.0);
        if *null {
            out.raw(b"null");
        } else {
            encoder.write(*value, context, out)?;
        }
    }
    out.raw(if is_empty { b"{}" } else { b"}" });
    Ok(())
}
