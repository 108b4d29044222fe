//! Rows → documents → pieces of files, handed to the uploads.
//!
//! ```text
//! row ─┬─► document ──────────────────────────────────► chunker ──► pieces, when there is room for them
//!      └─► folder and document ──► sort ──► by folder ──┘  (partition_by)
//! ```
//!
//! With partitions the documents are sorted by their folders, so that one partition is open at a time, however many there are.

use std::rc::Rc;

use pgrx::{PgTupleDesc, pg_sys};

use crate::chunk::{Chunker, Limits, Piece, PieceSink, Totals};
use crate::encode::Append;
use crate::encode::json::JsonBuffer;
use crate::encode::{RowEncoder, describe};
use crate::error::{Code, Error, Result};
use crate::manifest::Column;
use crate::names::Destination;
use crate::pg::sort::Sorter;
use crate::pg::wait::WaitFor;
use crate::progress::Progress;
use crate::receiver::RowSink;
use crate::request::Request;
use crate::settings;
use crate::upload::ExportUpload;

/// Takes the rows of an export's query.
pub struct Documents<'a> {
    request: &'a Request,
    destination: &'a Destination,
    encoder: Option<RowEncoder>,
    columns: Vec<Column>,
    /// With partitions: folders and documents.
    sorter: Option<Sorter>,
    /// The document that goes to the sorter.
    document: JsonBuffer,
    chunker: Chunker<Backpressure<'a>>,
    progress: &'a Progress,
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
        let sink = Backpressure { upload, budget: settings::buffer_memory(), progress };
        Documents {
            request,
            destination,
            encoder: None,
            columns: Vec::new(),
            sorter: None,
            document: JsonBuffer::new(),
            chunker: Chunker::new(limits, sink),
            progress,
        }
    }

    /// Writes what is not written yet. Gives the totals, bytes as they were before compression, and the columns.
    pub fn finish(self) -> Result<(Totals, Vec<Column>)> {
        let Documents { request, destination, columns, sorter, mut chunker, .. } = self;
        if let Some(sorter) = sorter {
            let mut open: Option<Vec<u8>> = None;
            sorter.each(|folder, document| {
                if open.as_deref() != Some(folder) {
                    chunker.cut()?;
                    destination.begin_partition(chunker.next_file(), &String::from_utf8_lossy(folder))?;
                    open = Some(folder.to_owned());
                }
                chunker.document(|out| {
                    out.raw(document);
                    Ok(())
                })
            })?;
        }
        Ok((chunker.finish(request.empty_file)?, columns))
    }
}

impl RowSink for Documents<'_> {
    fn estimate(&mut self, rows: f64) {
        self.progress.estimate(rows);
    }

    fn start(&mut self, shape: &PgTupleDesc<'_>) -> Result<()> {
        let encoder = RowEncoder::new(shape, &self.request.format, self.request.partitions.as_ref())?;
        self.chunker.begin_files_with(encoder.prologue());
        self.sorter = self.request.partitions.as_ref().map(|_| Sorter::new());
        self.columns = describe(shape);
        self.encoder = Some(encoder);
        Ok(())
    }

    fn row(&mut self, values: &[pg_sys::Datum], nulls: &[bool]) -> Result<()> {
        let encoder = self.encoder.as_ref().ok_or_else(|| Error::new(Code::Internal, "a row came before its shape"))?;
        match (&mut self.sorter, encoder.folder(values, nulls)?) {
            (Some(sorter), Some(folder)) => {
                self.document.truncate(0);
                encoder.document(values, nulls, &mut self.document)?;
                if self.document.failed() {
                    return Err(Error::out_of_memory("the buffer of a document"));
                }
                sorter.put(folder.as_bytes(), self.document.as_slice())?;
            }
            _ => self.chunker.document(|out| encoder.document(values, nulls, out))?,
        }
        self.progress.document();
        Ok(())
    }
}

/// Buffers grow in steps, so that those of files of about one size can take each other's place.
const BUFFER_STEP: usize = 64 << 10;

/// Hands pieces over when there is room for them, waiting on the latch meanwhile.
struct Backpressure<'a> {
    upload: &'a Rc<ExportUpload>,
    /// Bytes that may be on their way.
    budget: usize,
    progress: &'a Progress,
}

impl PieceSink for Backpressure<'_> {
    fn send(&mut self, piece: Piece) -> Result<()> {
        let room = piece.room;
        self.progress.piece(&piece);
        let has_room = || Ok(self.upload.has_room(room, self.budget)?.then_some(()));
        self.progress.wait_until(WaitFor::Room, self.upload.wake(), has_room)?;
        self.upload.send(piece)
    }

    fn buffer(&mut self, expected: usize) -> Vec<u8> {
        let mut buffer = self.upload.spare_buffer();
        // Some more, so that a file a little longer than the last does not double its buffer.
        let expected = (expected + expected / 8).next_multiple_of(BUFFER_STEP);
        // What cannot be had now is asked for again, and then an error, when there is something to write.
        let _ = buffer.try_reserve(expected);
        buffer
    }
}
