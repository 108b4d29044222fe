//! Rows → documents → pieces of files, handed to the uploads.
//!
//! ```text
//! row ─┬─► document ──────────────────────────────────► chunker ──► pieces, when there is room for them
//!      └─► folder and document ──► sort ──► by folder ──┘  (partition_by)
//! ```
//!
//! With partitions the documents are sorted by their folders, so that one partition is open at a time, however many there are.
//! Parquet has rows where JSON and CSV have documents, and batches of them for pieces ([`columns`]).

use std::rc::Rc;

use pgrx::PgTupleDesc;
use s3_export_core::error::{Error, Result};
use s3_export_core::files::chunker::{Chunker, Limits, Totals};
use s3_export_core::format::Format;
use s3_export_core::manifest::Column;
use s3_export_core::naming::keys::Destination;
use s3_export_core::request::Request;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::upload::ExportUpload;

use crate::encode::{BatchEncoder, RowEncoder, describe};
use crate::pg::sort::Sorter;
use crate::pg::values::{FixedLayoutRow, Row, Values};
use crate::progress::Progress;
use crate::query::backpressure::Backpressure;
use crate::query::columns::{Columns, column_infos};
use crate::query::receiver::{Origin, RowSink, early};
use crate::settings;

/// Takes the rows of an export's query.
pub struct Documents<'a> {
    request: &'a Request,
    destination: &'a Destination,
    columns: Vec<Column>,
    /// With partitions: folders and documents.
    sorter: Option<Sorter>,
    output: Output<'a>,
    progress: &'a Progress,
}

/// Result of the rows.
enum Output<'a> {
    Lines(Box<Lines<'a>>),
    Columns(Box<Columns<'a>>),
}

/// Rows by themselves, one after another.
struct Lines<'a> {
    encoder: Option<RowEncoder>,
    chunker: Chunker<Backpressure<'a>>,
    /// The document that goes to the sorter.
    document: JsonBuffer,
}

impl<'a> Documents<'a> {
    /// Writes to `upload`, in files within `limits`.
    pub fn new(
        request: &'a Request,
        destination: &'a Destination,
        limits: Limits,
        upload: &'a Rc<ExportUpload>,
        progress: &'a Progress,
    ) -> Self {
        let sink = |budget| Backpressure { upload, budget, progress };
        let output = match &request.format {
            // The other half is what encoders hold.
            Format::Parquet(_) => Output::Columns(Box::new(Columns::new(limits, sink(settings::buffer_memory() / 2)))),
            Format::Json(_) | Format::Csv(_) => {
                let chunker = Chunker::new(limits, sink(settings::buffer_memory()));
                Output::Lines(Box::new(Lines { encoder: None, chunker, document: JsonBuffer::new() }))
            }
        };
        Documents { request, destination, columns: Vec::new(), sorter: None, output, progress }
    }

    /// Writes what is not written yet. Gives the totals, bytes as they were before compression, and the columns.
    pub fn finish(self) -> Result<(Totals, Vec<Column>)> {
        let Documents { request, destination, columns, sorter, output, .. } = self;
        let begin = |next_file, folder: &[u8]| destination.begin_partition(next_file, &String::from_utf8_lossy(folder));
        let totals = match output {
            Output::Columns(columns) => columns.finish(sorter, begin, request.empty_file)?,
            Output::Lines(lines) => lines.finish(sorter, begin, request.empty_file)?,
        };
        Ok((totals, columns))
    }
}

/// Returns the columns of rows of that shape, each with how it would be written; `None`: it would be in the names of folders only.
/// Errors: as when the first row comes.
pub fn forms(request: &Request, shape: &PgTupleDesc<'_>, origins: &[Origin]) -> Result<Vec<(Column, Option<String>)>> {
    let partitions = request.partitions.as_ref();
    // SAFETY: the encoders are given no row.
    let form: Box<dyn Fn(usize) -> Option<String>> = unsafe {
        match &request.format {
            Format::Parquet(style) => {
                let encoder = BatchEncoder::new(shape, &column_infos(origins)?, partitions, &style.bloom_filter_columns)?;
                Box::new(move |index| encoder.form(index))
            }
            Format::Json(_) | Format::Csv(_) => {
                let encoder = RowEncoder::new(shape, &request.format, partitions)?;
                Box::new(move |index| encoder.form(index).map(str::to_owned))
            }
        }
    };
    Ok(describe(shape)?.into_iter().enumerate().map(|(index, column)| (column, form(index))).collect())
}

impl Lines<'_> {
    /// `begin`: a partition begins with the file of that number, in that folder.
    fn finish(self, sorter: Option<Sorter>, begin: impl Fn(u64, &[u8]) -> Result<()>, empty_file: bool) -> Result<Totals> {
        let mut chunker = self.chunker;
        if let Some(sorter) = sorter {
            let mut open: Option<Vec<u8>> = None;
            sorter.each(|folder, document| {
                if open.as_deref() != Some(folder) {
                    chunker.cut()?;
                    begin(chunker.next_file(), folder)?;
                    open = Some(folder.to_owned());
                }
                chunker.document(|out| {
                    out.raw(document);
                    Ok(())
                })
            })?;
        }
        chunker.finish(empty_file)
    }

    #[inline(always)]
    fn row(&mut self, row: &impl Row) -> Result<()> {
        let encoder = self.encoder.as_ref().ok_or_else(early)?;
        // Not `document`, whose closure would be a call, as the compiler sees it.
        let start = self.chunker.begin_document();
        encoder.document(row, self.chunker.buffer())?;
        self.chunker.end_document(start)
    }

    /// A function by itself, so that [`Self::row`] has no more to do than it needs.
    #[inline(never)]
    fn row_of_partition(&mut self, row: &Values<'_>, sorter: &mut Sorter) -> Result<()> {
        let encoder = self.encoder.as_ref().ok_or_else(early)?;
        let folder = encoder.folder(row)?;
        self.document.truncate(0);
        encoder.document(row, &mut self.document)?;
        if self.document.failed() {
            return Err(Error::out_of_memory("the buffer of a document"));
        }
        sorter.put(folder.as_bytes(), self.document.as_slice())
    }
}

impl RowSink for Documents<'_> {
    fn estimate(&mut self, rows: f64) {
        self.progress.estimate(rows);
    }

    fn origins(&mut self, origins: &[Origin]) -> Result<()> {
        match &mut self.output {
            Output::Lines(_) => Ok(()),
            Output::Columns(columns) => columns.look_up(origins),
        }
    }

    unsafe fn start(&mut self, shape: &PgTupleDesc<'_>) -> Result<()> {
        match &mut self.output {
            Output::Lines(lines) => {
                let partitions = self.request.partitions.as_ref();
                // SAFETY: by the caller's promise; the encoder is given rows of this sink alone.
                let encoder = unsafe { RowEncoder::new(shape, &self.request.format, partitions)? };
                lines.chunker.begin_files_with(encoder.prologue());
                lines.encoder = Some(encoder);
            }
            // SAFETY: likewise.
            Output::Columns(columns) => unsafe { columns.start(shape, self.request)? },
        }
        self.sorter = self.request.partitions.as_ref().map(|_| Sorter::new());
        self.columns = describe(shape)?;
        Ok(())
    }

    #[inline(always)]
    fn fixed_layout_row(&mut self, row: &FixedLayoutRow<'_>) -> Option<Result<()>> {
        let (Output::Lines(lines), None) = (&mut self.output, &self.sorter) else { return None };
        self.progress.document();
        Some(lines.row(row))
    }

    #[inline(always)]
    fn row(&mut self, row: &Values<'_>) -> Result<()> {
        // First, so that a file that ends with it does not show before it.
        self.progress.document();
        match (&mut self.output, &mut self.sorter) {
            (Output::Lines(lines), None) => lines.row(row),
            (Output::Lines(lines), Some(sorter)) => lines.row_of_partition(row, sorter),
            (Output::Columns(columns), sorter) => columns.row(row, sorter.as_mut()),
        }
    }
}
