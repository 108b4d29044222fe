//! One row as one document, in the format that was asked for, and the folder that it belongs to.

use std::cell::RefCell;

use pgrx::{PgTupleDesc, pg_sys};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::{CsvStyle, Format, NonFinite, Wrapping};
use s3_export_core::request::Partitions;
use s3_export_core::text::buffer::{JsonBuffer, is_utf8};
use s3_export_core::text::csv::write_value;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::no_text;

use crate::encode::Column;
use crate::encode::Context;
use crate::encode::column_names;
use crate::encode::columns;
use crate::encode::folder::FolderEncoder;
use crate::encode::in_column;
use crate::encode::object;
use crate::encode::text_value::TextEncoder;
use crate::pg::Memory;
use crate::pg::values::Row;

/// Writes rows of one shape.
pub struct RowEncoder {
    columns: Columns,
    folders: Option<FolderEncoder>,
    context: Context,
    /// Holds what encoding one row allocates.
    row_memory: Memory,
    /// A document may allocate; entering its memory would be a fiftieth of what two integers cost.
    allocates: bool,
}

enum Columns {
    Json(Vec<(usize, Column)>),
    Csv(CsvColumns),
}

struct CsvColumns {
    style: CsvStyle,
    /// `None`: left out.
    columns: Vec<Option<CsvColumn>>,
    /// A value's text, before quotes.
    text: RefCell<JsonBuffer>,
}

struct CsvColumn {
    name: String,
    encoder: TextEncoder,
    forced: bool,
}

impl RowEncoder {
    /// For rows of this shape. Errors: 42701 for two columns of one name that would be keys, 42703 for a column that an option
    /// names and the query lacks, 42804.
    ///
    /// # Safety
    /// The rows that [`Self::document`] and [`Self::folder`] are given have this shape: an encoder is chosen by a column's type, and
    /// reads each value as one of that type.
    pub unsafe fn new(shape: &PgTupleDesc<'_>, format: &Format, partitions: Option<&Partitions>) -> Result<Self> {
        let wrapping = match format {
            Format::Json(wrapping) => *wrapping,
            Format::Csv(_) | Format::Parquet(_) => Wrapping::Plain(NonFinite::String),
        };
        let context = Context::new(wrapping);
        let folders = partitions.map(|partitions| FolderEncoder::new(shape, &partitions.columns, &context)).transpose()?;
        let left_out = |name: &str| {
            partitions.is_some_and(|partitions| !partitions.include && partitions.columns.iter().any(|column| column == name))
        };
        let columns = match format {
            Format::Json(_) => Columns::Json(columns(shape, &left_out, &context)?),
            Format::Csv(style) => Columns::Csv(CsvColumns::new(shape, style, &left_out, &context)?),
            Format::Parquet(_) => return Err(Error::new(Code::Internal, "Parquet has no documents")),
        };
        let allocates = match &columns {
            Columns::Json(columns) => columns.iter().any(|(_, column)| column.encoder.allocates()),
            Columns::Csv(_) => true,
        };
        Ok(RowEncoder { columns, folders, context, row_memory: Memory::new(c"s3_export row"), allocates })
    }

    /// How the column of that index is written; `None`: it is not in the files.
    pub fn form(&self, index: usize) -> Option<&'static str> {
        match &self.columns {
            Columns::Json(columns) => {
                let (_, column) = columns.iter().find(|(of_row, _)| *of_row == index)?;
                Some(column.encoder.json_form(self.context.wrapping))
            }
            Columns::Csv(columns) => columns.columns.get(index)?.as_ref().map(|_| "text"),
        }
    }

    /// Bytes with which each file begins.
    pub fn prologue(&self) -> Vec<u8> {
        match &self.columns {
            Columns::Csv(columns) if columns.style.header => columns.header(),
            _ => Vec::new(),
        }
    }

    /// Writes one row as a line.
    #[inline(always)]
    pub fn document(&self, row: &impl Row, out: &mut JsonBuffer) -> Result<()> {
        let _row = if self.allocates {
            // Before the row, not after it: what an error in the last row left behind goes as well.
            self.row_memory.reset();
            Some(self.row_memory.enter())
        } else {
            None
        };
        match &self.columns {
            // SAFETY: as `new` was promised, the row has the shape that the columns are of.
            Columns::Json(columns) => unsafe { object(columns, row, &self.context, out, b"}\n") },
            Columns::Csv(columns) => {
                // SAFETY: likewise.
                unsafe { columns.record(row, &self.context, out)? };
                out.push(b'\n');
                Ok(())
            }
        }
    }

    /// The folder of the row's partition. Before [`Self::document`], whose memory it uses.
    pub fn folder(&self, row: &impl Row) -> Result<String> {
        let folders =
            self.folders.as_ref().ok_or_else(|| Error::new(Code::Internal, "a folder where there are no partitions"))?;
        self.row_memory.reset();
        let _row = self.row_memory.enter();
        // SAFETY: as `new` was promised, the row has the shape that the folders are of.
        unsafe { folders.folder(row, &self.context) }
    }
}

impl CsvColumns {
    fn new(shape: &PgTupleDesc<'_>, style: &CsvStyle, left_out: &dyn Fn(&str) -> bool, context: &Context) -> Result<Self> {
        let known = column_names(shape, context)?;
        if let s3_export_core::format::ForceQuote::Columns(names) = &style.force_quote {
            for name in names {
                if left_out(name) || !known.contains(name) {
                    return Err(Error::new(
                        Code::UndefinedColumn,
                        format!("column \"{name}\" of force_quote is not in the files"),
                    ));
                }
            }
        }
        let column = |(attribute, name): (&pg_sys::FormData_pg_attribute, String)| {
            (!left_out(&name)).then(|| CsvColumn {
                encoder: TextEncoder::of_type(attribute.atttypid, &context.memory),
                forced: style.force_quote.holds(&name),
                name,
            })
        };
        let columns: Vec<Option<CsvColumn>> = shape.iter().zip(known).map(column).collect();
        if columns.iter().flatten().next().is_none() {
            return Err(Error::new(Code::InvalidParameter, "CSV needs a column")
                .hint("Set the option partition_columns to \"include\", or export more columns."));
        }
        Ok(CsvColumns { style: style.clone(), columns, text: RefCell::default() })
    }

    fn alone(&self) -> bool {
        self.columns.iter().flatten().count() == 1
    }

    fn header(&self) -> Vec<u8> {
        let mut out = JsonBuffer::new();
        for (index, column) in self.columns.iter().flatten().enumerate() {
            if index > 0 {
                out.push(self.style.delimiter);
            }
            write_value(&mut out, column.name.as_bytes(), &self.style, false, self.alone());
        }
        out.push(b'\n');
        out.into_vec()
    }

    /// # Safety
    /// The row has the shape that the columns are of.
    unsafe fn record(&self, row: &impl Row, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        let (alone, start) = (self.alone(), out.len());
        let mut is_first = true;
        for (index, column) in self.columns.iter().enumerate() {
            let (Some(column), Some((value, is_null))) = (column, row.value(index)) else { continue };
            if !std::mem::take(&mut is_first) {
                out.push(self.style.delimiter);
            }
            if is_null {
                out.raw(self.style.null.as_bytes());
                continue;
            }
            let mut text = self.text.borrow_mut();
            text.truncate(0);
            // SAFETY: the encoder was chosen by the type of the row's column of that index.
            let written = unsafe { column.encoder.write(value, context, &mut text) };
            written.map_err(|error| in_column(error, &column.name))?;
            if text.failed() {
                return Err(Error::out_of_memory("the text of a value"));
            }
            write_value(out, text.as_slice(), &self.style, column.forced, alone);
        }
        let line = out.as_slice().get(start..).unwrap_or_default();
        if line.is_ascii() || is_utf8(line) {
            return Ok(());
        }
        // SAFETY: by the caller's promise.
        unsafe { self.find_no_text(row, context) }
    }

    /// The error of the first value that is not UTF-8, in a row that has one.
    ///
    /// # Safety
    /// The same as of [`Self::record`].
    #[cold]
    unsafe fn find_no_text(&self, row: &impl Row, context: &Context) -> Result<()> {
        for (index, column) in self.columns.iter().enumerate() {
            let (Some(column), Some((value, false))) = (column, row.value(index)) else { continue };
            let mut text = JsonBuffer::new();
            // SAFETY: as in `record`.
            unsafe { column.encoder.write(value, context, &mut text)? };
            if !is_utf8(text.as_slice()) {
                return Err(in_column(no_text(text.as_slice()), &column.name));
            }
        }
        Ok(())
    }
}
