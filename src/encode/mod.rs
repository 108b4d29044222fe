//! Rows → documents: one JSON object a row, one line each.
//!
//! An encoder is chosen once for each column, from its type; the common types are then written straight from the
//! Datum. `row` writes a whole row, `value` holds the table of types, `datum` reads what any such table needs, `nested` arrays and composites, `output` every type that
//! has only its text, `geo` PostGIS, `text` the texts of CSV and of partitions' names, which `folder` puts together; `arrow`
//! has its own table of types, for columns of values rather than documents; `csv`,
//! `inet`, `json`, `jsonb`, `number`, `numeric`, `datetime`, `interval` and `wkb` are pure. All append to a buffer of `json`, by `block`.

mod arrow;
mod block;
mod csv;
pub mod datetime;
mod datum;
mod folder;
mod geo;
mod inet;
pub mod interval;
pub mod json;
mod jsonb;
mod nested;
pub mod number;
pub mod numeric;
mod output;
mod row;
mod text;
mod value;
mod wkb;

use std::ffi::CStr;

use pgrx::{PgTupleDesc, pg_sys};

pub use self::arrow::{BatchEncoder, Fact};
pub use self::block::Append;
use self::block::{Blocks, Cursor};
use self::json::JsonBuffer;
pub use self::row::RowEncoder;
use self::value::Encoder;
use crate::error::{Code, Error, Result};
use crate::format::Wrapping;
use crate::manifest;
use crate::pg::values::Row;
use crate::pg::{Memory, to_utf8};

/// What all encoders of an export share.
pub struct Context {
    wrapping: Wrapping,
    /// The server's text is UTF-8 and is written as it is.
    utf8: bool,
    /// Lives as long as the encoders; theirs, when they need more than a row's time.
    memory: Memory,
}

impl Context {
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.wrapping != Wrapping::Rockset
    }
}

/// A column of documents.
struct Column {
    lead: Lead,
    encoder: Encoder,
    /// The lead, and `null`.
    null: Blocks,
}

impl Column {
    /// Of values of that encoder, after `before`.
    fn new(before: &[u8], encoder: Encoder, wrapping: Wrapping) -> Self {
        let with = |after: &[u8]| Blocks::new(&[before, after].concat());
        let lead = Lead { bare: with(b""), typed: with(encoder.opener(wrapping)) };
        Column { lead, encoder, null: with(b"null") }
    }

    /// An error goes into `problem`, unless there is one; what follows it is not written.
    #[inline(always)]
    fn write<'a>(
        &self,
        value: pg_sys::Datum,
        is_null: bool,
        context: &Context,
        out: Cursor<'a>,
        problem: &mut Option<Error>,
    ) -> Cursor<'a> {
        let start = out.length();
        let out = self.try_write(value, is_null, context, out, problem);
        if out.is_full() { self.write_with_more_room(value, is_null, context, out.take_back(start), problem) } else { out }
    }

    #[inline(always)]
    fn try_write<'a>(
        &self,
        value: pg_sys::Datum,
        is_null: bool,
        context: &Context,
        mut out: Cursor<'a>,
        problem: &mut Option<Error>,
    ) -> Cursor<'a> {
        if is_null {
            out.blocks(&self.null);
            return out;
        }
        self.encoder.write(value, &self.lead, context, out, problem)
    }

    /// By itself, since a loop around the other would have the compiler work out for each value what any type might need of it.
    #[cold]
    #[inline(never)]
    fn write_with_more_room<'a>(
        &self,
        value: pg_sys::Datum,
        is_null: bool,
        context: &Context,
        out: &'a mut JsonBuffer,
        problem: &mut Option<Error>,
    ) -> Cursor<'a> {
        let start = out.len();
        let mut out = Cursor::new(out);
        loop {
            out.make_room(start);
            if out.is_full() {
                // Memory ran out, as the buffer says.
                return out;
            }
            out = self.try_write(value, is_null, context, out, problem);
            if !out.is_full() {
                return out;
            }
        }
    }
}

/// What stands before a value.
struct Lead {
    /// A comma or a brace; the column's name, escaped, with quotes and colon.
    bare: Blocks,
    /// The same, and what values of the type begin with.
    typed: Blocks,
}

/// The columns of this shape, for the manifest.
pub fn describe(shape: &PgTupleDesc<'_>) -> Vec<manifest::Column> {
    let type_name = |attribute: &pg_sys::FormData_pg_attribute| {
        // SAFETY: a catalog look-up that gives a palloc'd string.
        let name = unsafe { CStr::from_ptr(pg_sys::format_type_with_typemod(attribute.atttypid, attribute.atttypmod)) };
        to_utf8(name.to_bytes())
    };
    let column = |attribute| manifest::Column { name: column_name(attribute), type_name: type_name(attribute) };
    shape.iter().map(column).collect()
}

fn column_name(attribute: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a NameData is NUL-terminated.
    to_utf8(unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes())
}

/// The columns of a row's documents, each with its index in the row; without those dropped from a composite, or `left_out`.
fn columns(shape: &PgTupleDesc<'_>, left_out: &dyn Fn(&str) -> bool, wrapping: Wrapping) -> Result<Vec<(usize, Column)>> {
    let mut names = Vec::new();
    let mut columns = Vec::new();
    for (index, attribute) in shape.iter().enumerate() {
        let name = column_name(attribute);
        if attribute.attisdropped || left_out(&name) {
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
        columns.push((index, Column::new(key.as_slice(), Encoder::of_type(attribute.atttypid), wrapping)));
    }
    Ok(columns)
}

/// Writes a row's values as an object; `end` is its brace and what comes after it, in one write.
#[inline(always)]
fn object<const N: usize>(
    columns: &[(usize, Column)],
    row: &impl Row,
    context: &Context,
    out: &mut JsonBuffer,
    end: &[u8; N],
) -> Result<()> {
    let mut problem = None;
    let mut cursor = Cursor::new(out);
    for (index, column) in columns {
        let Some((value, is_null)) = row.value(*index) else { continue };
        cursor = column.write(value, is_null, context, cursor, &mut problem);
    }
    if columns.is_empty() {
        let out = cursor.end();
        out.push(b'{');
        cursor = Cursor::new(out);
    }
    let length = cursor.length();
    cursor.fixed(end);
    if cursor.is_full() {
        cursor.take_back(length).fixed(end);
    } else {
        cursor.end();
    }
    problem.map_or(Ok(()), Err)
}
