//! The folder of a row's partition, from the values of the columns that it is partitioned by.

use pgrx::PgTupleDesc;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::naming::hive::{NULL, escape};
use s3_export_core::naming::keys::{MAX_KEY_BYTES, too_long};
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::no_text;

use crate::encode::Context;
use crate::encode::column_names;
use crate::encode::in_column;
use crate::encode::text_value::TextEncoder;
use crate::pg::values::Row;

/// Writes folders for rows of one shape.
pub struct FolderEncoder {
    columns: Vec<Column>,
}

struct Column {
    index: usize,
    name: String,
    /// The name, escaped, with its equals sign.
    key_prefix: String,
    encoder: TextEncoder,
}

impl FolderEncoder {
    /// Returns the encoder for partitions by the columns of these names, outer folders first. Errors: 42703 for one that is not there, 42804 for one whose values
    /// are no names, 22021.
    pub fn new(shape: &PgTupleDesc<'_>, names: &[String], context: &Context) -> Result<Self> {
        let known = column_names(shape, context)?;
        let mut columns = Vec::new();
        for name in names {
            let mut found = shape.iter().enumerate().zip(&known).filter(|(_, known)| *known == name).map(|(column, _)| column);
            let (first, second) = (found.next(), found.next());
            if second.is_some() {
                return Err(Error::new(
                    Code::DuplicateColumn,
                    format!("column \"{name}\" of partition_by appears more than once"),
                )
                .hint("Name the columns apart with AS."));
            }
            let Some((index, attribute)) = first else {
                return Err(Error::new(
                    Code::UndefinedColumn,
                    format!("column \"{name}\" of partition_by is not in the query"),
                )
                .hint(format!("Known: {}.", known.join(", "))));
            };
            let encoder = TextEncoder::of_type(attribute.atttypid, &context.memory);
            if !encoder.is_scalar() {
                return Err(Error::new(Code::WrongType, format!("cannot partition by column \"{name}\""))
                    .detail("Arrays, composites, JSON and bytea cannot name folders.")
                    .hint("Partition by an expression of the column, as text."));
            }
            let mut escaped = String::new();
            escape(name, &mut escaped);
            escaped.push('=');
            columns.push(Column { index, name: name.clone(), key_prefix: escaped, encoder });
        }
        Ok(FolderEncoder { columns })
    }

    /// The folder of a row, without a slash at either end.
    /// Errors: 22023 when it is longer than any key, 22021, 53200.
    ///
    /// # Safety
    /// The row has the shape that the encoder was made for.
    pub unsafe fn folder(&self, row: &impl Row, context: &Context) -> Result<String> {
        let mut folder = String::new();
        for column in &self.columns {
            if !folder.is_empty() {
                folder.push('/');
            }
            folder.push_str(&column.key_prefix);
            match row.value(column.index) {
                Some((value, false)) => {
                    let named = |error| in_column(error, &column.name);
                    let mut text = JsonBuffer::new();
                    match column.encoder {
                        // As Hive has them.
                        TextEncoder::Bool => text.raw(if value.value() as u8 != 0 { b"true" } else { b"false" }),
                        // SAFETY: the encoder was chosen by the type of the row's column of that index.
                        _ => unsafe { column.encoder.write(value, context, &mut text) }.map_err(named)?,
                    }
                    if text.failed() {
                        return Err(Error::out_of_memory("the name of a partition"));
                    }
                    if text.len() > MAX_KEY_BYTES {
                        return Err(too_long(text.as_slice()));
                    }
                    escape(str::from_utf8(text.as_slice()).map_err(|_| named(no_text(text.as_slice())))?, &mut folder);
                }
                _ => folder.push_str(NULL),
            }
        }
        if folder.len() > MAX_KEY_BYTES {
            return Err(too_long(folder.as_bytes()));
        }
        Ok(folder)
    }
}
