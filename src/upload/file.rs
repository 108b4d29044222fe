//! One file out of the pieces that the backend hands over: compressed on the way, if that is asked for.
//!
//! Compressed bytes gather until they fill a part; what is left when the file ends goes with its last request. Room that pieces
//! took is given back as they are compressed, and taken for what is sent. What gathers counts for nothing meanwhile: it waits for
//! the next piece, and the backend may be waiting for room to send that. It is less than a part, and of one file alone.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;

use super::compressor::Compressor;
use super::object::Object;
use super::state::{Lease, Shared};
use super::writer::ObjectWriter;
use crate::error::{Code, Error, Result};
use crate::format::Compression;

/// How the documents of an export are packed into its files.
#[derive(Debug, Clone, Copy)]
pub struct Packing {
    /// `None`: not compressed.
    pub compression: Option<Compression>,
    /// Bytes a part.
    pub part: usize,
    /// Most bytes that a file may have.
    pub most_bytes: u64,
}

/// A file being written.
pub struct FileWriter {
    shared: Arc<Shared>,
    writer: ObjectWriter,
    compressor: Option<Compressor>,
    /// Compressed and not sent.
    packed: Vec<u8>,
    /// Handed to the writer or gathered.
    bytes: u64,
}

impl FileWriter {
    /// Sends nothing yet.
    pub fn new(shared: Arc<Shared>, object: Object) -> Self {
        let compressor = shared.packing.compression.map(Compressor::new);
        let writer = ObjectWriter::new(Arc::clone(&shared), object);
        FileWriter { shared, writer, compressor, packed: Vec::new(), bytes: 0 }
    }

    /// Takes a piece that another will follow.
    pub async fn piece(&mut self, body: Bytes, lease: Lease) -> Result<()> {
        if self.compressor.is_none() {
            self.count(body.len())?;
            return self.writer.piece(body, Some(lease)).await;
        }
        self.pack(body, lease, false).await?;
        self.send_full_parts().await
    }

    /// Takes the last piece and waits until the whole file, of so many documents, is stored and recorded.
    pub async fn finish(mut self, body: Bytes, documents: u64, lease: Lease) -> Result<()> {
        if self.compressor.is_none() {
            self.count(body.len())?;
            return self.writer.finish(body, documents, Some(lease)).await;
        }
        self.pack(body, lease, true).await?;
        self.send_full_parts().await?;
        let lease = self.shared.lease(self.packed.len());
        self.writer.finish(Bytes::from(self.packed), documents, Some(lease)).await
    }

    async fn pack(&mut self, body: Bytes, lease: Lease, is_last: bool) -> Result<()> {
        let before = self.packed.len();
        if let Some(compressor) = &mut self.compressor {
            compressor.write(&body, is_last, &mut self.packed).await?;
        }
        lease.recycle(body);
        self.count(self.packed.len() - before)
    }

    /// Keeps at least one byte, for the request that ends the file.
    async fn send_full_parts(&mut self) -> Result<()> {
        let part = self.shared.packing.part;
        while self.packed.len() > part {
            let rest = self.packed.split_off(part);
            let full = std::mem::replace(&mut self.packed, rest);
            let lease = self.shared.lease(full.len());
            self.writer.piece(Bytes::from(full), Some(lease)).await?;
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<()> {
        self.bytes += bytes as u64;
        let most = self.shared.packing.most_bytes;
        if self.bytes <= most {
            return Ok(());
        }
        Err(Error::new(Code::Limit, format!("the single file has more than {most} bytes"))
            .hint("Raise the option max_file_bytes, or write several files."))
    }
}
