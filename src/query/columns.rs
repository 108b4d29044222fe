//! Rows → batches of columns: what Parquet files are encoded from, elsewhere.

use arrow_array::RecordBatch;
use pgrx::PgTupleDesc;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::files::batcher::{Batcher, Gather};
use s3_export_core::files::chunker::{Limits, Totals};
use s3_export_core::format::Format;
use s3_export_core::request::Request;
use serde_json::json;

use crate::encode::{BatchEncoder, ColumnInfo};
use crate::pg::sort::{RowBytes, Sorter};
use crate::pg::sql::read;
use crate::pg::values::Values;
use crate::query::backpressure::Backpressure;
use crate::query::receiver::{Origin, early};

/// Whether columns are never NULL, and the comments on them, for an array of `{"table", "column", "may_be_null"}` of which each
/// member may be null. What a table promises holds for it alone: a child of it may have no such constraint, and a foreign table
/// (a partition too) is taken at its word by nobody. A constraint may be NOT VALID, since Postgres 18. A comment is the hexadecimal
/// digits of its bytes, so that the column of one that is no text can be named.
const COLUMN_INFOS: &str = "SELECT convert_to(coalesce(jsonb_agg(jsonb_build_object(
      'not_null', NOT (o.value->>'may_be_null')::boolean AND a.attnotnull
          AND CASE c.relkind WHEN 'r' THEN NOT c.relhassubclass
                             WHEN 'p' THEN NOT EXISTS (SELECT FROM pg_partition_tree(c.oid) AS p JOIN pg_class AS f ON f.oid = p.relid
                                                        WHERE f.relkind = 'f')
                             ELSE false END
          AND NOT EXISTS (SELECT FROM pg_constraint AS n
                           WHERE n.conrelid = c.oid AND n.contype = 'n' AND n.conkey = ARRAY[a.attnum] AND NOT n.convalidated),
      'comment', encode(replace(col_description(c.oid, a.attnum), chr(92), chr(92) || chr(92))::bytea, 'hex')) ORDER BY o.ordinality), '[]')::text, 'UTF8')
  FROM jsonb_array_elements($argument) WITH ORDINALITY AS o(value, ordinality)
  LEFT JOIN pg_class AS c ON c.oid = (o.value->>'table')::oid
  LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = (o.value->>'column')::smallint AND a.attnum > 0";

fn bytes_of_hex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).filter_map(byte).collect()
}

/// Returns the facts that the tables state of the columns that come from there.
pub fn column_infos(origins: &[Origin]) -> Result<Vec<ColumnInfo>> {
    let argument = origins.iter().map(|origin| {
        let (table, column) = origin.column.unzip();
        json!({"table": table.map(u32::from), "column": column, "may_be_null": origin.may_be_null})
    });
    let column_infos = read(COLUMN_INFOS, &argument.collect())?.unwrap_or_default();
    let fact = |value: &serde_json::Value| ColumnInfo {
        not_null: value["not_null"].as_bool().unwrap_or(false),
        comment: value["comment"].as_str().map(bytes_of_hex),
    };
    Ok(column_infos.as_array().into_iter().flatten().map(fact).collect())
}

/// Gathers rows by column.
pub struct Columns<'a> {
    encoder: Option<BatchEncoder>,
    column_infos: Vec<ColumnInfo>,
    batcher: Batcher<Backpressure<'a>>,
    /// With partitions: how rows pass through the sort.
    row_bytes: Option<RowBytes>,
}

impl Gather for BatchEncoder {
    fn rows(&self) -> usize {
        BatchEncoder::rows(self)
    }

    fn finish_batch(&mut self) -> Result<RecordBatch> {
        BatchEncoder::finish_batch(self)
    }
}

impl<'a> Columns<'a> {
    /// Sends batches to `sink`, in files within `limits`.
    pub fn new(limits: Limits, sink: Backpressure<'a>) -> Self {
        Columns { encoder: None, column_infos: Vec::new(), batcher: Batcher::new(limits, sink), row_bytes: None }
    }

    /// Facts that the tables state of the columns that come from there.
    pub fn look_up(&mut self, origins: &[Origin]) -> Result<()> {
        self.column_infos = column_infos(origins)?;
        Ok(())
    }

    /// Prepares for rows of this shape.
    ///
    /// # Safety
    /// The rows that [`Self::row`] is given have this shape.
    pub unsafe fn start(&mut self, shape: &PgTupleDesc<'_>, request: &Request) -> Result<()> {
        let Format::Parquet(style) = &request.format else {
            return Err(Error::new(Code::Internal, "only Parquet is made of columns"));
        };
        let partitions = request.partitions.as_ref();
        // SAFETY: by the caller's promise; what the encoder is given besides, `row_bytes` gives back as it was.
        self.encoder = Some(unsafe { BatchEncoder::new(shape, &self.column_infos, partitions, &style.bloom_filter_columns)? });
        // SAFETY: likewise.
        self.row_bytes = partitions.map(|_| unsafe { RowBytes::of(shape) });
        Ok(())
    }

    /// Takes a row. Not inlined, or each document's row would save the registers that this one needs.
    #[inline(never)]
    pub fn row(&mut self, row: &Values<'_>, sorter: Option<&mut Sorter>) -> Result<()> {
        let encoder = self.encoder.as_mut().ok_or_else(early)?;
        match (sorter, &self.row_bytes, encoder.folder(row)?) {
            (Some(sorter), Some(row_bytes), Some(folder)) => {
                row_bytes.with_bytes(row, |bytes| sorter.put(folder.as_bytes(), bytes))
            }
            _ => {
                let bytes = encoder.push(row)?;
                self.batcher.gathered(bytes, encoder)
            }
        }
    }

    /// Sends what is left, partition by partition. `begin`: one begins with the file of that number, in that folder.
    pub fn finish(self, sorter: Option<Sorter>, begin: impl Fn(u64, &[u8]) -> Result<()>, empty_file: bool) -> Result<Totals> {
        let Columns { encoder, mut batcher, row_bytes, .. } = self;
        let mut encoder = encoder.ok_or_else(early)?;
        if let (Some(sorter), Some(row_bytes)) = (sorter, row_bytes) {
            let mut open: Option<Vec<u8>> = None;
            sorter.each(|folder, bytes| {
                if open.as_deref() != Some(folder) {
                    batcher.cut(&mut encoder)?;
                    begin(batcher.next_file(), folder)?;
                    open = Some(folder.to_owned());
                }
                // SAFETY: the sorter gives back what `with_bytes` gave it.
                let size = unsafe { row_bytes.with_values(bytes, |row| encoder.push(row)) }?;
                batcher.gathered(size, &mut encoder)
            })?;
        }
        batcher.finish(&mut encoder, empty_file)
    }
}
