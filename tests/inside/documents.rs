//! The fixture of these tests: a query's documents, without an upload.

use pgrx::{PgTupleDesc, pg_sys};
use s3_export_core::error::Result;
use s3_export_core::format::{Format, Wrapping};
use s3_export_core::text::buffer::JsonBuffer;

use crate::encode::RowEncoder;
use crate::pg::values::{FixedLayoutRow, Values};
use crate::query::Query;
use crate::query::receiver::RowSink;

struct Lines {
    wrapping: Wrapping,
    encoder: Option<RowEncoder>,
    out: JsonBuffer,
}

impl RowSink for Lines {
    unsafe fn start(&mut self, shape: &PgTupleDesc<'_>) -> Result<()> {
        // SAFETY: by the caller's promise, the rows that come have this shape.
        self.encoder = Some(unsafe { RowEncoder::new(shape, &Format::Json(self.wrapping), None)? });
        Ok(())
    }

    fn fixed_layout_row(&mut self, row: &FixedLayoutRow<'_>) -> Option<Result<()>> {
        Some(self.encoder.as_ref().unwrap().document(row, &mut self.out))
    }

    fn row(&mut self, row: &Values<'_>) -> Result<()> {
        self.encoder.as_ref().unwrap().document(row, &mut self.out)
    }
}

/// The documents of `query`, one line each. An error while it runs is raised; one before that is returned.
pub fn try_documents(query: &str, wrapping: Wrapping) -> Result<Vec<String>> {
    let mut lines = Lines { wrapping, encoder: None, out: JsonBuffer::new() };
    let query = Query::parse(query, None)?;
    // An export runs in the snapshot of its statement; here that is the test's own, which does not see what the test made.
    // SAFETY: inside a transaction; popped below, or by its abort.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let outcome = query.run(&[], &mut lines);
    // SAFETY: the snapshot pushed above is on top again.
    unsafe { pg_sys::PopActiveSnapshot() };
    outcome?;
    let text = String::from_utf8(lines.out.into_vec()).unwrap();
    Ok(text.lines().map(str::to_owned).collect())
}

/// Does the same as [`try_documents`], in Rockset's wrapping, for a query that must succeed.
pub fn documents(query: &str) -> Vec<String> {
    try_documents(query, Wrapping::Rockset).unwrap()
}
