//! Rows → batches: values gather by column until a batch of them, as Arrow arrays, goes to whoever writes Parquet.
//!
//! `column` holds the table of types; `numbers`, `dates`, `texts`, `nested` (arrays and composites) and `geo` hold the types by subject;
//! `array` holds the memory that values gather in. Readers find the types in the batch's schema, and in its metadata a column's comment
//! and the columns that hold geometries.

mod array;
mod column;
mod dates;
mod geo;
mod nested;
mod numbers;
mod texts;

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use pgrx::PgTupleDesc;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::{NonFinite, Wrapping};
use s3_export_core::request::Partitions;
use serde_json::{Map, Value, json};

use self::array::impossible;
use self::column::{Column, Gather};
use crate::encode::Context;
use crate::encode::column_name;
use crate::encode::folder::FolderEncoder;
use crate::encode::in_column;
use crate::pg::Memory;
use crate::pg::values::Row;

/// Facts about a column besides its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Whether the column is a table's column that is never NULL.
    pub not_null: bool,
    /// The table's comment on it, in the server's encoding.
    pub comment: Option<Vec<u8>>,
}

/// Gathers rows of one shape.
pub struct BatchEncoder {
    slots: Vec<Slot>,
    schema: SchemaRef,
    folders: Option<FolderEncoder>,
    context: Context,
    /// Holds what one row allocates.
    row_memory: Memory,
    rows: usize,
}

/// A column of the result that is in the files.
struct Slot {
    index: usize,
    name: String,
    column: Column,
    not_null: bool,
}

impl BatchEncoder {
    /// For rows of this shape. `column_infos`: of its columns, in order. `bloom_filter_columns` must be there. Errors: 42701 for two
    /// columns of one name, 42703 for a column that an option names and the query lacks, 42804 for one whose type does not fit
    /// it, 0A000 where no column is left.
    ///
    /// # Safety
    /// The rows that [`Self::push`] and [`Self::folder`] are given have this shape: how values gather is chosen by a column's type, and
    /// each value is read as one of that type.
    pub unsafe fn new(
        shape: &PgTupleDesc<'_>,
        column_infos: &[ColumnInfo],
        partitions: Option<&Partitions>,
        bloom_filter_columns: &[String],
    ) -> Result<Self> {
        let context = Context::new(Wrapping::Plain(NonFinite::String));
        let folders = partitions.map(|partitions| FolderEncoder::new(shape, &partitions.columns, &context)).transpose()?;
        let (mut slots, mut fields) = (Vec::<Slot>::new(), Vec::<Field>::new());
        let mut geometries = Map::new();
        for (index, attribute) in shape.iter().enumerate() {
            let name = column_name(attribute, &context)?;
            if partitions.is_some_and(|partitions| !partitions.include && partitions.columns.contains(&name)) {
                continue;
            }
            if slots.iter().any(|slot| slot.name == name) {
                return Err(Error::new(Code::DuplicateColumn, format!("column \"{name}\" appears more than once"))
                    .hint("Name the columns apart with AS."));
            }
            let fact = column_infos.get(index).cloned().unwrap_or_default();
            let column =
                Column::of_type(attribute.atttypid, attribute.atttypmod, &context).map_err(|error| in_column(error, &name))?;
            let comment = fact
                .comment
                .map(|comment| Ok(("comment".to_owned(), context.utf8(&comment)?.into_owned())))
                .transpose()
                .map_err(|error: Error| in_column(error, &name).also("It is the comment on the column."))?;
            let field = column.field(&name, !fact.not_null)?;
            let metadata: HashMap<_, _> = field.metadata().clone().into_iter().chain(comment).collect();
            fields.push(field.with_metadata(metadata));
            if let Some(geo) = column.geometries() {
                geometries.insert(name.clone(), geo.entry());
            }
            slots.push(Slot { index, name, column, not_null: fact.not_null });
        }
        if slots.is_empty() {
            return Err(Error::new(Code::Unsupported, "a Parquet file needs at least one column"));
        }
        check_bloom_filters(&slots, bloom_filter_columns)?;
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata(&slots, geometries)));
        Ok(BatchEncoder { slots, schema, folders, context, row_memory: Memory::new(c"s3_export row"), rows: 0 })
    }

    /// The type of Arrow that the column of that index has; `None`: it is not in the files.
    pub fn form(&self, index: usize) -> Option<String> {
        let place = self.slots.iter().position(|slot| slot.index == index)?;
        self.schema.fields().get(place).map(|field| field.data_type().to_string())
    }

    /// Adds a row; gives the bytes that its values take. Errors: for a value that Parquet has no type for, 53200.
    pub fn push(&mut self, row: &impl Row) -> Result<usize> {
        self.row_memory.reset();
        let _row = self.row_memory.enter();
        let mut bytes = 0;
        for slot in &mut self.slots {
            let pushed = match row.value(slot.index) {
                // SAFETY: as `new` was promised, the value is of the type that the column was chosen by.
                Some((value, false)) => unsafe { slot.column.push(value, &self.context) },
                _ if slot.not_null => Err(Error::new(Code::Internal, "a column that is NOT NULL holds a NULL")),
                _ => slot.column.push_null(),
            };
            bytes += pushed.map_err(|error| in_column(error, &slot.name))?;
        }
        self.rows += 1;
        Ok(bytes)
    }

    /// Rows that have gathered.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the gathered rows as one batch and starts an empty one. Errors: 22021, since text is looked at here, a whole batch
    /// at once; XX000.
    pub fn finish_batch(&mut self) -> Result<RecordBatch> {
        let array = |slot: &mut Slot| slot.column.finish().map_err(|error| in_column(error, &slot.name));
        let arrays = self.slots.iter_mut().map(array).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options).map_err(impossible)
    }

    /// The folder of the row's partition; `None`: rows have none.
    pub fn folder(&self, row: &impl Row) -> Result<Option<String>> {
        self.row_memory.reset();
        let _row = self.row_memory.enter();
        // SAFETY: as `new` was promised, the row has the shape that the folders are of.
        self.folders.as_ref().map(|folders| unsafe { folders.folder(row, &self.context) }).transpose()
    }
}

fn check_bloom_filters(slots: &[Slot], names: &[String]) -> Result<()> {
    for name in names {
        let Some(slot) = slots.iter().find(|slot| slot.name == *name) else {
            return Err(Error::new(
                Code::UndefinedColumn,
                format!("column \"{name}\" of bloom_filter_columns is not in the files"),
            ));
        };
        if !slot.column.can_have_bloom_filter() {
            return Err(Error::new(Code::WrongType, format!("column \"{name}\" can have no bloom filter"))
                .detail("Bloom filters hold no booleans, floats (real, double precision), intervals, arrays and composites."));
        }
    }
    Ok(())
}

/// Metadata that readers of geometries look for: GeoParquet 1.1.
fn metadata(slots: &[Slot], geometries: Map<String, Value>) -> HashMap<String, String> {
    let first = slots.iter().find(|slot| slot.column.geometries().is_some()).map(|slot| slot.name.as_str());
    first
        .map(|name| {
            let geo = json!({"version": "1.1.0", "primary_column": name, "columns": geometries});
            ("geo".to_owned(), geo.to_string())
        })
        .into_iter()
        .collect()
}
