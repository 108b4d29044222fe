//! Columns of arrays and of composites, which are made of other columns.

use std::sync::Arc;

use arrow_array::{ArrayRef, ListArray};
use arrow_schema::{DataType, FieldRef, Fields};
use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};

use crate::encode::arrow::array::{Offsets, Rows, impossible};
use crate::encode::arrow::column::{Column, Gather};
use crate::encode::nested::{Layout, OpenArray, OpenRow, RowType};
use crate::encode::{Context, column_name};

/// Arrays of one dimension.
pub struct Lists {
    elements: Column,
    layout: Layout,
    count: usize,
    offsets: Offsets,
    rows: Rows,
}

impl Lists {
    /// Returns a column of arrays of that element type; the modifier is the array's.
    pub fn of_type(element_type: pg_sys::Oid, modifier: i32, context: &Context) -> Result<Self> {
        Ok(Lists {
            elements: Column::of_type(element_type, modifier, context)?,
            layout: Layout::of_type(element_type),
            count: 0,
            offsets: Offsets::default(),
            rows: Rows::default(),
        })
    }

    /// The field of an element, under the name that the format's specification gives it.
    fn element_field(&self) -> Result<FieldRef> {
        Ok(Arc::new(self.elements.field("element", true)?))
    }

    fn end(&mut self, is_there: bool) -> Result<usize> {
        self.offsets.push(self.count)?;
        self.rows.push(is_there);
        Ok(size_of::<i32>())
    }
}

impl Gather for Lists {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::List(self.element_field()?))
    }

    fn can_have_bloom_filter(&self) -> bool {
        false
    }

    unsafe fn push(&mut self, datum: pg_sys::Datum, context: &Context) -> Result<usize> {
        // SAFETY: by the caller's promise; the array is read before the row ends.
        let array = unsafe { OpenArray::of(datum) };
        if array.dimensions.len() > 1 {
            return Err(Error::new(Code::Unsupported, "Parquet has no LIST for an array of several dimensions")
                .hint("Export it as to_jsonb(column)."));
        }
        let mut bytes = 0;
        // SAFETY: layout and column are those of the element type that the array's type names.
        for element in unsafe { array.elements(self.layout) } {
            bytes += match element {
                // SAFETY: likewise.
                Some(element) => unsafe { self.elements.push(element, context)? },
                None => self.elements.push_null()?,
            };
            self.count += 1;
        }
        Ok(bytes + self.end(true)?)
    }

    fn push_null(&mut self) -> Result<usize> {
        self.end(false)
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        self.count = 0;
        let (field, elements) = (self.element_field()?, self.elements.finish()?);
        let list = ListArray::try_new(field, self.offsets.finish(), elements, self.rows.finish_nulls());
        Ok(Arc::new(list.map_err(impossible)?))
    }
}

/// Composites of one type.
pub struct Structs {
    row_type: RowType,
    /// Index among the type's attributes, name, values; without those that were dropped.
    columns: Vec<(usize, String, Column)>,
    rows: Rows,
}

impl Structs {
    /// Returns a column of composites of that row type. Errors: 0A000 for one without columns.
    pub fn of_type(row_type: pg_sys::Oid, context: &Context) -> Result<Self> {
        // A type is made of other types, though never of itself.
        // SAFETY: only raises.
        unsafe { pg_sys::check_stack_depth() };
        let row_type = RowType::of(row_type, -1, &context.memory);
        let mut columns = Vec::new();
        for (index, attribute) in row_type.shape().iter().enumerate().filter(|(_, attribute)| !attribute.attisdropped) {
            columns.push((
                index,
                column_name(attribute, context)?,
                Column::of_type(attribute.atttypid, attribute.atttypmod, context)?,
            ));
        }
        if columns.is_empty() {
            return Err(Error::new(Code::Unsupported, "Parquet has no STRUCT for a composite without columns"));
        }
        Ok(Structs { row_type, columns, rows: Rows::default() })
    }

    /// Fields of the row type.
    fn fields(&self) -> Result<Fields> {
        self.columns.iter().map(|(_, name, column)| column.field(name, true)).collect()
    }
}

impl Gather for Structs {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Struct(self.fields()?))
    }

    fn can_have_bloom_filter(&self) -> bool {
        false
    }

    unsafe fn push(&mut self, datum: pg_sys::Datum, context: &Context) -> Result<usize> {
        // SAFETY: by the caller's promise; the composite is read before the row ends.
        let (values, nulls) = unsafe { self.row_type.values(OpenRow::of(datum)) };
        let mut bytes = 0;
        for (index, _, column) in &mut self.columns {
            bytes += match (values.get(*index), nulls.get(*index)) {
                // SAFETY: the column was chosen by the type of the attribute of that index.
                (Some(value), Some(false)) => unsafe { column.push(*value, context)? },
                _ => column.push_null()?,
            };
        }
        self.rows.push(true);
        Ok(bytes)
    }

    fn push_null(&mut self) -> Result<usize> {
        self.rows.push(false);
        self.columns.iter_mut().map(|(_, _, column)| column.push_null()).sum()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let fields = self.fields()?;
        let arrays = self.columns.iter_mut().map(|(_, _, column)| column.finish()).collect::<Result<_>>()?;
        self.rows.finish(fields, arrays)
    }
}
