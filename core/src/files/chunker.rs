//! Documents → files: when a file ends, and which of its bytes go out already.
//!
//! ```text
//! document → buffer ─┬─ larger than a part: full parts go out, the file stays open
//!                    └─ enough documents, or no room for one more: the rest goes out, the file ends
//! ```
//!
//! Only the bytes of one part and one document are held here, so a thousand documents of 10 MB do not need 10 GB.
#![forbid(unsafe_code)]

use arrow_array::RecordBatch;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::text::buffer::JsonBuffer;
use crate::text::cursor::Append;

/// When a file ends.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Exactly so many documents a file, but for the last one and where `bytes` cuts earlier.
    pub documents: u64,
    /// Most bytes a file of more than one document may have.
    pub bytes: Option<u64>,
    /// Bytes a part: a file that outgrows it leaves in several pieces of just this size, and a last, smaller one.
    pub part: usize,
}

/// Some consecutive documents of a file, or bytes of them.
#[derive(Debug)]
pub struct Piece {
    /// The file's number, from 1.
    pub file: u64,
    /// Content of the piece.
    pub body: Body,
    /// Memory they take, in bytes: the buffer that holds them may be larger.
    pub room: usize,
    /// Number of the file's documents, where the file ends with this piece.
    pub documents: Option<u64>,
}

/// Content of a piece.
#[derive(Debug)]
pub enum Body {
    /// Bytes of a file's documents.
    Bytes(Bytes),
    /// Rows, to be encoded by whoever takes them; their values have about so many bytes.
    Rows(RecordBatch, usize),
}

impl Body {
    /// Bytes, of rows about as many.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Body::Bytes(bytes) => bytes.len(),
            Body::Rows(_, bytes) => *bytes,
        }
    }
}

/// Receiver of pieces, in order.
pub trait PieceSink {
    /// Takes the piece over, waiting until there is room for it.
    fn send(&mut self, piece: Piece) -> Result<()>;
    /// An empty buffer to write about `expected` bytes into; a used one where there is one.
    fn buffer(&mut self, expected: usize) -> Vec<u8>;
}

/// Counts of what has been cut so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Documents written.
    pub documents: u64,
    /// Files begun.
    pub files: u64,
    /// Bytes sent.
    pub bytes: u64,
}

/// Cuts a stream of documents into files.
pub struct Chunker<S> {
    limits: Limits,
    sink: S,
    /// Bytes with which each file begins.
    prologue: Vec<u8>,
    buffer: JsonBuffer,
    totals: Totals,
    documents_in_file: u64,
    /// Bytes of the open file that were sent already.
    sent_of_file: u64,
    /// A longer buffer has a full part, or too much for the file: one question for most documents.
    most_buffered: usize,
}

impl<S: PieceSink> Chunker<S> {
    /// Starts with no file open.
    pub fn new(limits: Limits, mut sink: S) -> Self {
        let mut chunker = Chunker {
            buffer: JsonBuffer::from_vec(sink.buffer(0)),
            limits,
            sink,
            prologue: Vec::new(),
            totals: Totals::default(),
            documents_in_file: 0,
            sent_of_file: 0,
            most_buffered: 0,
        };
        chunker.set_sent(0);
        chunker
    }

    fn set_sent(&mut self, bytes: u64) {
        self.sent_of_file = bytes;
        let left = self.limits.bytes.map_or(u64::MAX, |limit| limit.saturating_sub(bytes));
        self.most_buffered = usize::try_from(left).map_or(self.limits.part, |left| left.min(self.limits.part));
    }

    /// Each file begins with these bytes. To be called before the first document.
    pub fn begin_files_with(&mut self, prologue: Vec<u8>) {
        self.prologue = prologue;
    }

    /// The number of the file that begins after [`Self::cut`].
    pub fn next_file(&self) -> u64 {
        self.totals.files + 1
    }

    /// Ends the open file, if any.
    pub fn cut(&mut self) -> Result<()> {
        if self.documents_in_file > 0 { self.end_file() } else { Ok(()) }
    }

    /// Adds the document that `encode` writes, line break included. Errors: `encode`'s, the sink's, and 53200.
    pub fn document(&mut self, encode: impl FnOnce(&mut JsonBuffer) -> Result<()>) -> Result<()> {
        let start = self.begin_document();
        encode(self.buffer())?;
        self.end_document(start)
    }

    /// Begins a document that the caller writes to the end of the [`buffer`](Self::buffer). Returns where in the buffer it begins, for
    /// [`Self::end_document`].
    #[inline(always)]
    pub fn begin_document(&mut self) -> usize {
        if self.documents_in_file == 0 {
            self.buffer.raw(&self.prologue);
        }
        self.buffer.len()
    }

    /// Buffer into which a document is written, between its begin and end.
    #[inline(always)]
    pub fn buffer(&mut self) -> &mut JsonBuffer {
        &mut self.buffer
    }

    /// The document that began at `start` is written, line break included. Errors: the sink's, and 53200.
    #[inline(always)]
    pub fn end_document(&mut self, start: usize) -> Result<()> {
        self.check_memory()?;
        let is_long = self.buffer.len() > self.most_buffered;
        if is_long && self.overflows() && self.documents_in_file > 0 {
            self.end_file_before(start)?;
        }
        if self.documents_in_file == 0 {
            self.totals.files += 1;
        }
        self.documents_in_file += 1;
        if self.documents_in_file == self.limits.documents {
            self.end_file()
        } else if is_long {
            self.send_full_parts()
        } else {
            Ok(())
        }
    }

    /// Ends the last file and gives the totals. `at_least_one`: without a document there is a file without one.
    pub fn finish(mut self, at_least_one: bool) -> Result<Totals> {
        self.cut()?;
        if self.totals.files == 0 && at_least_one {
            self.buffer.raw(&self.prologue);
            self.totals.files = 1;
            self.end_file()?;
        }
        Ok(self.totals)
    }

    fn check_memory(&self) -> Result<()> {
        if self.buffer.failed() { Err(Error::out_of_memory("the buffer of a document")) } else { Ok(()) }
    }

    fn overflows(&self) -> bool {
        self.limits.bytes.is_some_and(|limit| self.sent_of_file + self.buffer.len() as u64 > limit)
    }

    /// Ends the file before the document at `start`, which becomes the first of the next.
    fn end_file_before(&mut self, start: usize) -> Result<()> {
        if self.sent_of_file == 0 && start < self.buffer.len() - start {
            // What is copied is the smaller of the two, and what is sent takes no more room than it needs. The new file begins
            // as the old one did.
            let mut ended = JsonBuffer::new();
            ended.raw(self.buffer.as_slice().get(..start).unwrap_or_default());
            let next = std::mem::replace(&mut self.buffer, ended);
            self.check_memory()?;
            self.end_file()?;
            self.buffer = next;
            self.buffer.remove(self.prologue.len()..start);
            return Ok(());
        }
        let mut first = JsonBuffer::new();
        first.raw(self.buffer.as_slice().get(start..).unwrap_or_default());
        self.buffer.truncate(start);
        self.end_file()?;
        self.buffer.raw(&self.prologue);
        self.buffer.raw(first.as_slice());
        if first.failed() { Err(Error::out_of_memory("the buffer of a document")) } else { self.check_memory() }
    }

    fn end_file(&mut self) -> Result<()> {
        let documents = std::mem::take(&mut self.documents_in_file);
        self.totals.documents += documents;
        self.send_full_parts()?;
        let (room, expected) = (self.buffer.capacity(), self.buffer.len());
        let body = self.take_bytes();
        self.send(body, room, Some(documents))?;
        // After the wait for room, which is when a used one may have come back.
        self.buffer = JsonBuffer::from_vec(self.sink.buffer(expected));
        self.set_sent(0);
        Ok(())
    }

    fn take_bytes(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.buffer).into_vec())
    }

    /// Sends what fills whole parts and keeps at least one byte, so that the piece that ends the file is never empty.
    fn send_full_parts(&mut self) -> Result<()> {
        let part = self.limits.part;
        if self.buffer.len() <= part {
            return Ok(());
        }
        let (mut left, expected) = (self.buffer.capacity(), self.buffer.len());
        let mut full = self.take_bytes();
        while full.len() > part {
            // The whole allocation lives as long as one of its parts does; the last answers for what is more than all parts.
            let room = if full.len() > 2 * part { part } else { left };
            left -= room;
            self.send(full.split_to(part), room, None)?;
        }
        self.buffer = JsonBuffer::from_vec(self.sink.buffer(expected));
        self.buffer.raw(&full);
        self.check_memory()
    }

    fn send(&mut self, body: Bytes, room: usize, documents: Option<u64>) -> Result<()> {
        self.set_sent(self.sent_of_file + body.len() as u64);
        self.totals.bytes += body.len() as u64;
        self.sink.send(Piece { file: self.totals.files, body: Body::Bytes(body), room, documents })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Files(Vec<(Vec<u8>, Option<u64>, usize)>);

    impl PieceSink for &mut Files {
        fn send(&mut self, piece: Piece) -> Result<()> {
            let number = usize::try_from(piece.file).unwrap();
            if self.0.len() < number {
                self.0.push((Vec::new(), None, 0));
            }
            assert_eq!(self.0.len(), number, "pieces come in the order of their files");
            let file = self.0.last_mut().unwrap();
            assert_eq!(file.1, None, "nothing comes after the end of a file");
            let Body::Bytes(body) = piece.body else { panic!("rows") };
            assert!(!body.is_empty());
            file.0.extend_from_slice(&body);
            file.1 = piece.documents;
            file.2 += 1;
            Ok(())
        }

        fn buffer(&mut self, _expected: usize) -> Vec<u8> {
            Vec::new()
        }
    }

    fn cut(limits: Limits, documents: &[Vec<u8>]) -> (Files, Totals) {
        cut_after(b"", limits, documents)
    }

    fn cut_after(prologue: &[u8], limits: Limits, documents: &[Vec<u8>]) -> (Files, Totals) {
        let mut files = Files::default();
        let mut chunker = Chunker::new(limits, &mut files);
        chunker.begin_files_with(prologue.to_vec());
        for document in documents {
            chunker
                .document(|buffer| {
                    buffer.raw(document);
                    Ok(())
                })
                .unwrap();
        }
        let totals = chunker.finish(false).unwrap();
        (files, totals)
    }

    fn documents(count: usize, size: usize) -> Vec<Vec<u8>> {
        vec![vec![b'x'; size]; count]
    }

    const LIMITS: Limits = Limits { documents: 1000, bytes: None, part: 1 << 20 };

    #[test]
    fn every_file_but_the_last_holds_exactly_the_documents_asked_for() {
        let (files, totals) = cut(LIMITS, &documents(2500, 10));
        let counts: Vec<_> = files.0.iter().map(|file| file.1).collect();
        assert_eq!(counts, [Some(1000), Some(1000), Some(500)]);
        assert_eq!(totals, Totals { documents: 2500, files: 3, bytes: 25_000 });
    }

    #[test]
    fn no_document_makes_no_file() {
        let (files, totals) = cut(LIMITS, &[]);
        assert!(files.0.is_empty());
        assert_eq!(totals, Totals::default());
    }

    #[test]
    fn a_full_last_file_is_not_followed_by_an_empty_one() {
        assert_eq!(cut(LIMITS, &documents(2000, 1)).1.files, 2);
    }

    #[test]
    fn bytes_end_a_file_before_the_document_that_would_exceed_them() {
        let (files, _) = cut(Limits { bytes: Some(25), ..LIMITS }, &documents(5, 10));
        let sizes: Vec<_> = files.0.iter().map(|file| file.0.len()).collect();
        assert_eq!(sizes, [20, 20, 10]);
    }

    #[test]
    fn a_document_larger_than_the_byte_limit_has_a_file_of_its_own() {
        let (files, _) = cut(Limits { bytes: Some(5), ..LIMITS }, &documents(2, 10));
        assert_eq!(files.0.len(), 2);
    }

    #[test]
    fn a_file_larger_than_a_part_leaves_in_parts_of_just_that_size() {
        let (files, totals) = cut(Limits { part: 64, ..LIMITS }, &documents(3, 100));
        assert_eq!(files.0.len(), 1);
        assert_eq!(files.0[0].2, 5, "300 bytes in parts of 64");
        assert_eq!(totals.bytes, 300);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_limits_hold(
            sizes in prop::collection::vec(1usize..200, 0..200), count in 1u64..20, bytes in prop::option::of(1u64..500), part in 1usize..300,
            prologue in prop::collection::vec(Just(255), 0..30),
        ) {
            let all: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(i, size)| vec![u8::try_from(i % 251).unwrap(); *size]).collect();
            let (files, totals) = cut_after(&prologue, Limits { documents: count, bytes, part }, &all);
            prop_assert!(files.0.iter().all(|f| f.0.starts_with(&prologue)));
            prop_assert_eq!(files.0.iter().flat_map(|f| f.0[prologue.len()..].to_vec()).collect::<Vec<_>>(), all.concat());
            prop_assert_eq!(files.0.iter().map(|f| f.1.unwrap()).sum::<u64>(), totals.documents);
            prop_assert_eq!(files.0.len() as u64, totals.files);
            for file in &files.0 {
                let documents = file.1.unwrap();
                prop_assert!(documents <= count);
                prop_assert!(documents == 1 || bytes.is_none_or(|limit| file.0.len() as u64 <= limit));
                prop_assert_eq!(file.2, file.0.len().div_ceil(part));
            }
        }
    }
}
