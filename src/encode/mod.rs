//! Rows → documents: one JSON object a row, one line each.
//!
//! An encoder is chosen once for each column, from its type; the common types are then written straight from the
//! Datum. `row` writes a whole row, `value` holds the table of types, `nested` arrays and composites, `output` every type that
//! has only its text, `geo` PostGIS, `text` the texts of CSV and of partitions' names, which `folder` puts together; `csv`,
//! `json`, `number`, `datetime`, `interval` and `wkb` are pure.

mod csv;
pub mod datetime;
mod folder;
mod geo;
pub mod interval;
pub mod json;
mod nested;
pub mod number;
mod output;
mod row;
mod text;
mod value;
mod wkb;

use std::ffi::CStr;

use pgrx::{PgTupleDesc, pg_sys};

use self::json::JsonBuffer;
pub use self::row::RowEncoder;
use self::value::Encoder;
use crate::error::{Code, Error, Result};
use crate::format::Wrapping;
use crate::manifest::Column;
use crate::pg::{Memory, to_utf8};

/// What all encoders of an export share.
pub struct Context {
    wrapping: Wrapping,
    /// The server's text is UTF-8 and is written as it is.
    utf8: bool,
    /// Lives as long as the encoders; theirs, when they need more than a row's time.
    memory: Memory,
}

/// A column's name as it stands in every document: escaped, with quotes, colon, and the comma or brace before it.
struct Key(Vec<u8>);

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

/// The encoders of a row's columns; dropped columns of a composite have none, nor have those `left_out`.
fn encoders(shape: &PgTupleDesc<'_>, left_out: &dyn Fn(&str) -> bool) -> Result<Vec<(Key, Encoder)>> {
    let mut names = Vec::new();
    let mut columns = Vec::new();
    for attribute in shape.iter() {
        if attribute.attisdropped {
            columns.push((Key(Vec::new()), Encoder::Dropped));
            continue;
        }
        let name = column_name(attribute);
        if left_out(&name) {
            columns.push((Key(Vec::new()), Encoder::Dropped));
            continue;
        }
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
