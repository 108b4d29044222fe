//! One file out of the pieces that the backend hands over: compressed on the way, if that is asked for.
//!
//! Compressed bytes gather until they fill a part; what is left when the file ends goes with its last request. Room that pieces
//! took is given back as they are compressed, and taken for what came of them.
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
    /// Room that it takes.
    held: Option<Lease>,
    /// Handed to the writer or held.
    bytes: u64,
}

impl FileWriter {
    /// Sends nothing yet.
    pub fn new(shared: Arc<Shared>, object: Object) -> Result<Self> {
        let compressor = shared.packing.compression.map(Compressor::new).transpose()?;
        let writer = ObjectWriter::new(Arc::clone(&shared), object);
        Ok(FileWriter { shared, writer, compressor, packed: Vec::new(), held: None, bytes: 0 })
    }

    /// Takes a piece that another will follow.
    pub async fn piece(&mut self, body: Bytes, lease: Lease) -> Result<()> {
        if self.compressor.is_none() {
            self.count(body.len())?;
            return self.writer.piece(body, Some(lease)).await;
        }
        self.pack(body, lease).await?;
        self.send_full_parts().await
    }

    /// Takes the last piece and waits until the whole file, of so many documents, is stored and recorded.
    pub async fn finish(mut self, body: Bytes, documents: u64, lease: Lease) -> Result<()> {
        if self.compressor.is_none() {
            self.count(body.len())?;
            return self.writer.finish(body, documents, Some(lease)).await;
        }
        self.pack(body, lease).await?;
        let before = self.packed.len();
        if let Some(compressor) = self.compressor.take() {
            compressor.finish(&mut self.packed).await?;
        }
        self.hold(before)?;
        self.send_full_parts().await?;
        self.writer.finish(Bytes::from(self.packed), documents, self.held).await
    }

    async fn pack(&mut self, body: Bytes, lease: Lease) -> Result<()> {
        let before = self.packed.len();
        if let Some(compressor) = &mut self.compressor {
            compressor.write(&body, &mut self.packed).await?;
        }
        lease.recycle(body);
        self.hold(before)
    }

    /// Takes room for what was packed beyond so many bytes.
    fn hold(&mut self, before: usize) -> Result<()> {
        let more = self.packed.len() - before;
        self.count(more)?;
        let lease = self.shared.lease(more);
        match &mut self.held {
            Some(held) => held.join(lease),
            None => self.held = Some(lease),
        }
        Ok(())
    }

    /// Keeps at least one byte, for the request that ends the file.
    async fn send_full_parts(&mut self) -> Result<()> {
        let part = self.shared.packing.part;
        while self.packed.len() > part {
            let rest = self.packed.split_off(part);
            let full = std::mem::replace(&mut self.packed, rest);
            let lease = self.held.as_mut().map(|held| held.split(part));
            self.writer.piece(Bytes::from(full), lease).await?;
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
