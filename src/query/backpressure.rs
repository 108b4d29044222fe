//! Pieces of files wait here until the uploads have room for them, on the latch.

use std::rc::Rc;

use s3_export_core::error::Result;
use s3_export_core::files::chunker::{Piece, PieceSink};
use s3_export_core::upload::ExportUpload;

use crate::pg::wait::WaitFor;
use crate::progress::Progress;

/// Buffers grow in steps, so that those of files of about one size can take each other's place.
const BUFFER_STEP: usize = 64 << 10;

/// Hands pieces over when there is room for them, waiting on the latch meanwhile.
pub struct Backpressure<'a> {
    /// Takes the pieces.
    pub upload: &'a Rc<ExportUpload>,
    /// Bytes that may be on their way.
    pub budget: usize,
    /// Counts the pieces.
    pub progress: &'a Progress,
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
