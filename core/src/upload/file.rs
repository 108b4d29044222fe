//! One file out of the pieces that the backend hands over: compressed on the way, if that is asked for, or encoded as Parquet.
//!
//! EncodedBytes bytes gather until they fill a part; what is left when the file ends goes with its last request. Room that pieces
//! took is given back as they are packed, and taken for what is sent and what waits for that. What gathers counts for nothing
//! meanwhile: it waits for the next piece, and the backend may be waiting for room to send that. It is less than a part, and of
//! one file alone.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Code, Error, Result};
use crate::files::chunker::Body;
use crate::files::compress::{Compressor, append};
use crate::files::parquet;
use crate::files::plan::FileEncoding;
use crate::io::task::lost_task;
use crate::s3::object::Object;
use crate::upload::budget::Lease;
use crate::upload::object_writer::ObjectWriter;
use crate::upload::shared::Shared;

enum FileEncoder {
    Not,
    Compressor(Compressor),
    Parquet(parquet::Encoder),
}

/// A file being written.
pub struct FileWriter {
    shared: Arc<Shared>,
    writer: ObjectWriter,
    encoder: FileEncoder,
    /// Compressed and not sent.
    packed: Vec<u8>,
    /// Handed to the writer or gathered.
    bytes: u64,
}

impl FileWriter {
    /// Sends nothing yet.
    pub fn new(shared: Arc<Shared>, object: Object) -> Self {
        let encoder = match &shared.plan.encoding {
            FileEncoding::Not => FileEncoder::Not,
            FileEncoding::Compress(compression) => FileEncoder::Compressor(Compressor::new(*compression)),
            FileEncoding::Parquet(layout) => FileEncoder::Parquet(parquet::Encoder::new(Arc::clone(layout))),
        };
        let writer = ObjectWriter::new(Arc::clone(&shared), object);
        FileWriter { shared, writer, encoder, packed: Vec::new(), bytes: 0 }
    }

    /// Takes a piece that another will follow.
    pub async fn piece(&mut self, body: Body, lease: Lease) -> Result<()> {
        match body {
            Body::Bytes(body) if matches!(self.encoder, FileEncoder::Not) => {
                self.count(body.len())?;
                self.writer.piece(body, Some(lease)).await
            }
            body => {
                self.pack(body, lease, false).await?;
                self.send_full_parts().await.map(drop)
            }
        }
    }

    /// Takes the last piece and waits until the whole file, of so many documents, is stored and recorded.
    pub async fn finish(mut self, body: Body, documents: u64, lease: Lease) -> Result<()> {
        match body {
            Body::Bytes(body) if matches!(self.encoder, FileEncoder::Not) => {
                self.count(body.len())?;
                self.writer.finish(body, documents, Some(lease)).await
            }
            body => {
                self.pack(body, lease, true).await?;
                let lease = self.send_full_parts().await?;
                self.writer.finish(Bytes::from(self.packed), documents, Some(lease)).await
            }
        }
    }

    async fn pack(&mut self, body: Body, lease: Lease, is_last: bool) -> Result<()> {
        if self.packed.capacity() == 0 {
            self.packed = self.shared.budget.spare_buffer();
        }
        let before = self.packed.len();
        match (body, &mut self.encoder) {
            (Body::Bytes(body), FileEncoder::Compressor(compressor)) => {
                compressor.write(&body, is_last, &mut self.packed).await?;
                lease.recycle(body);
            }
            (Body::Rows(batch, bytes), FileEncoder::Parquet(encoder)) => {
                encoder.write(batch, bytes, is_last, &mut self.packed).await?;
            }
            // A format's pieces come with its encoder.
            _ => return Err(lost_task()),
        }
        self.count(self.packed.len() - before)
    }

    /// Keeps at least one byte, for the request that ends the file; gives the lease of what it keeps.
    async fn send_full_parts(&mut self) -> Result<Lease> {
        let part = self.shared.plan.part;
        let mut lease = self.shared.budget.lease(self.packed.len());
        while self.packed.len() > part {
            // A used buffer, since parts give theirs back, and somebody has to take them.
            let mut rest = self.shared.budget.spare_buffer();
            append(&mut rest, self.packed.get(part..).unwrap_or_default())?;
            self.packed.truncate(part);
            let full = std::mem::replace(&mut self.packed, rest);
            let leased = lease.split(full.len());
            self.writer.piece(Bytes::from(full), Some(leased)).await?;
        }
        Ok(lease)
    }

    /// Errors: 53400 and 54000 before anything is sent that is too much.
    fn count(&mut self, bytes: usize) -> Result<()> {
        self.shared.count(bytes as u64)?;
        self.bytes += bytes as u64;
        let most = self.shared.plan.most_bytes;
        if self.bytes <= most {
            return Ok(());
        }
        Err(Error::new(Code::Limit, format!("the single file has more than {most} bytes"))
            .hint("Raise the option max_file_bytes, or write several files."))
    }
}
