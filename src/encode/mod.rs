//! Rows → documents: one JSON object a row, one line each.
//!
//! An encoder is chosen once for each column, from its type; the common types are then written straight from the Datum. `row` writes a
//! whole row. `value` holds the table of types, and `forms`, `json`, `nested` (arrays and composites) and `geo` (PostGIS) hold the forms
//! of values; `output` has every type that has only its text. `text_value` writes the texts of CSV and of partitions' names, which
//! `folder` puts together. `arrow` has a table of types of its own, for columns of values rather than documents. `datum` reads what any
//! of them needs, `memory` keeps what they keep. How a text reads is the core's (`s3_export_core::text`).

mod arrow;
mod datum;
mod folder;
mod forms;
mod geo;
mod json;
mod memory;
mod nested;
mod output;
mod row;
mod text_value;
mod value;

use std::ffi::CStr;

use pgrx::{PgTupleDesc, pg_sys};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::Wrapping;
use s3_export_core::manifest;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::{Append, Blocks, Cursor};

pub use self::arrow::{BatchEncoder, ColumnInfo};
use self::memory::EncoderMemory;
pub use self::row::RowEncoder;
use self::value::Encoder;
use crate::pg::values::Row;
use crate::pg::{Settings, server_text_is_utf8_or_none};

/// State that all encoders of an export share.
pub struct Context {
    wrapping: Wrapping,
    /// The server's text needs no conversion. Whether it is UTF-8 is asked all the same: Postgres's own views have text of other
    /// databases, and names of files.
    utf8: bool,
    /// Holds what encoders keep beyond a row.
    memory: EncoderMemory,
}

impl Context {
    fn new(wrapping: Wrapping) -> Self {
        Context { wrapping, utf8: server_text_is_utf8_or_none(), memory: EncoderMemory::new() }
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.wrapping != Wrapping::Rockset
    }
}

/// A column of documents.
struct Column {
    key_prefix: KeyPrefix,
    encoder: Encoder,
    /// The key_prefix, and `null`.
    null: Blocks,
}

impl Column {
    /// Returns the key prefix of values of that encoder, after `before`. `name`: empty for elements of an array.
    fn new(name: &str, before: &[u8], encoder: Encoder, wrapping: Wrapping) -> Self {
        let with = |after: &[u8]| Blocks::new(&[before, after].concat());
        let key_prefix = KeyPrefix { bare: with(b""), typed: with(encoder.wrapper_prefix(wrapping)), name: name.into() };
        Column { key_prefix, encoder, null: with(b"null") }
    }

    /// An error goes into `problem`, unless there is one; what follows it is not written.
    ///
    /// # Safety
    /// The value is NULL or of the encoder's type.
    #[inline(always)]
    unsafe fn write<'a>(
        &self,
        value: pg_sys::Datum,
        is_null: bool,
        context: &Context,
        out: Cursor<'a>,
        problem: &mut Option<Error>,
    ) -> Cursor<'a> {
        let start = out.length();
        // SAFETY: by the caller's promise.
        unsafe {
            let out = self.try_write(value, is_null, context, out, problem);
            if out.is_full() { self.write_with_more_room(value, is_null, context, out.take_back(start), problem) } else { out }
        }
    }

    /// # Safety
    /// The same as of [`Self::write`].
    #[inline(always)]
    unsafe fn try_write<'a>(
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
        // SAFETY: by the caller's promise.
        unsafe { self.encoder.write(value, &self.key_prefix, context, out, problem) }
    }

    /// Writes a value that did not fit, until it does. A function by itself: with a loop around the other, the compiler would work out
    /// for each value what any type might need of it.
    ///
    /// # Safety
    /// The same as of [`Self::write`].
    #[cold]
    #[inline(never)]
    unsafe fn write_with_more_room<'a>(
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
            // SAFETY: by the caller's promise.
            out = unsafe { self.try_write(value, is_null, context, out, problem) };
            if !out.is_full() {
                return out;
            }
        }
    }
}

/// Text that stands before a value.
struct KeyPrefix {
    /// A comma or a brace; the column's name, escaped, with quotes and colon.
    bare: Blocks,
    /// The same, and what values of the type begin with.
    typed: Blocks,
    /// The column's name, for an error.
    name: Box<str>,
}

/// Names the column of a value that has an error; nested ones are known by their column of the result.
fn in_column(error: Error, name: &str) -> Error {
    error.detail(format!("It is in column \"{name}\"."))
}

/// The columns of this shape, for the manifest. Errors: 22021.
pub fn describe(shape: &PgTupleDesc<'_>) -> Result<Vec<manifest::Column>> {
    let context = Context::new(Wrapping::Rockset);
    let _settings = Settings::set(&[(c"quote_all_identifiers", c"off")]);
    let column = |attribute: &pg_sys::FormData_pg_attribute| {
        let name = column_name(attribute, &context)?;
        // SAFETY: a catalog look-up that gives a palloc'd string.
        let type_name = unsafe { CStr::from_ptr(pg_sys::format_type_with_typemod(attribute.atttypid, attribute.atttypmod)) };
        let type_name = context.utf8(type_name.to_bytes()).map_err(|error| in_column(error, &name))?.into_owned();
        Ok(manifest::Column { name, type_name })
    };
    shape.iter().map(column).collect()
}

/// Errors: 22021, since names in dynamic SQL are not looked at by Postgres.
fn column_name(attribute: &pg_sys::FormData_pg_attribute, context: &Context) -> Result<String> {
    // SAFETY: a NameData is NUL-terminated.
    let name = unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes();
    let name = context.utf8(name).map_err(|error| error.detail(format!("It is the name of column {}.", attribute.attnum)))?;
    Ok(name.into_owned())
}

/// The names of all columns, in order. Errors: 22021.
fn column_names(shape: &PgTupleDesc<'_>, context: &Context) -> Result<Vec<String>> {
    shape.iter().map(|attribute| column_name(attribute, context)).collect()
}

/// The columns of a row's documents, each with its index in the row; without those dropped from a composite, or `left_out`.
fn columns(shape: &PgTupleDesc<'_>, left_out: &dyn Fn(&str) -> bool, context: &Context) -> Result<Vec<(usize, Column)>> {
    let mut names = Vec::new();
    let mut columns = Vec::new();
    for (index, attribute) in shape.iter().enumerate() {
        let name = column_name(attribute, context)?;
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
        key.string(&name);
        key.push(b':');
        let encoder = Encoder::of_type(attribute.atttypid, &context.memory);
        columns.push((index, Column::new(&name, key.as_slice(), encoder, context.wrapping)));
        names.push(name);
    }
    Ok(columns)
}

/// Writes a row's values as an object; `end` is its brace and what comes after it, in one write.
///
/// # Safety
/// The row has the shape that the columns are of.
#[inline(always)]
unsafe fn object<const N: usize>(
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
        // SAFETY: the column's encoder was chosen by the type of the row's column of that index.
        cursor = unsafe { column.write(value, is_null, context, cursor, &mut problem) };
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
