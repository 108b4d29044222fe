//! Rows → batches → files: when a batch goes out, and when a file ends. For formats that are encoded by columns, as `chunk` is
//! for those that are encoded by documents.
//!
//! Only the rows of one batch are held here.
#![forbid(unsafe_code)]

use arrow_array::{RecordBatch, UInt64Array};
use arrow_select::take::take_record_batch;

use crate::error::{Code, Error, Result};
use crate::files::chunker::{Body, Limits, Piece, PieceSink, Totals};

/// A batch goes out with so many rows or bytes. Of that many values, encoders make the most; and who encodes them can be
/// stopped between two batches.
const BATCH_ROWS: usize = 16_384;
const BATCH_BYTES: usize = 4 << 20;

/// A batch of no more bytes may be held where it is not counted. A row that begins a file is copied then, so that it does not
/// hold on to those before it.
pub const SMALL_BATCH_BYTES: usize = 64 << 10;

/// Collector of rows.
pub trait Gather {
    /// Rows that have gathered.
    fn rows(&self) -> usize;
    /// Returns the gathered rows as one batch and starts an empty one.
    fn finish_batch(&mut self) -> Result<RecordBatch>;
}

/// Cuts a stream of rows into files. In its limits `bytes` counts those of values, and there is no `part`.
pub struct Batcher<S> {
    limits: Limits,
    sink: S,
    totals: Totals,
    documents_in_file: u64,
    bytes_in_file: u64,
    bytes_in_batch: usize,
}

impl<S: PieceSink> Batcher<S> {
    /// Starts with no file open.
    pub fn new(limits: Limits, sink: S) -> Self {
        Batcher { limits, sink, totals: Totals::default(), documents_in_file: 0, bytes_in_file: 0, bytes_in_batch: 0 }
    }

    /// The number of the file that begins after [`Self::cut`].
    pub fn next_file(&self) -> u64 {
        self.totals.files + 1
    }

    /// A row of so many bytes was gathered last. Errors: the sink's.
    pub fn gathered(&mut self, bytes: usize, rows: &mut impl Gather) -> Result<()> {
        let grown = self.bytes_in_file + bytes as u64;
        if self.documents_in_file > 0 && self.limits.bytes.is_some_and(|limit| grown > limit) {
            self.end_file_before_last(bytes, rows)?;
        } else {
            self.bytes_in_batch += bytes;
        }
        if self.documents_in_file == 0 {
            self.totals.files += 1;
        }
        self.documents_in_file += 1;
        self.totals.documents += 1;
        self.bytes_in_file += bytes as u64;
        if self.documents_in_file == self.limits.documents {
            self.end_file(rows)
        } else if rows.rows() >= BATCH_ROWS || self.bytes_in_batch >= BATCH_BYTES {
            let batch = rows.finish_batch()?;
            self.send(batch, None)
        } else {
            Ok(())
        }
    }

    /// Ends the open file, if any.
    pub fn cut(&mut self, rows: &mut impl Gather) -> Result<()> {
        if self.documents_in_file > 0 { self.end_file(rows) } else { Ok(()) }
    }

    /// Ends the last file and gives the totals. `at_least_one`: without a row there is a file without one.
    pub fn finish(mut self, rows: &mut impl Gather, at_least_one: bool) -> Result<Totals> {
        self.cut(rows)?;
        if self.totals.files == 0 && at_least_one {
            self.totals.files = 1;
            self.end_file(rows)?;
        }
        Ok(self.totals)
    }

    /// Ends the file before the row that was gathered last, which goes out as the first of the next.
    fn end_file_before_last(&mut self, bytes_of_last: usize, rows: &mut impl Gather) -> Result<()> {
        let batch = rows.finish_batch()?;
        let before = batch.num_rows().saturating_sub(1);
        let documents = std::mem::take(&mut self.documents_in_file);
        let mut last = batch.slice(before, batch.num_rows() - before);
        if bytes_of_last <= SMALL_BATCH_BYTES {
            last = take_record_batch(&batch, &UInt64Array::from(vec![before as u64])).map_err(|error| {
                Error::new(Code::Internal, "a row of a batch could not be copied").detail(format!("{error}."))
            })?;
        }
        self.send(batch.slice(0, before), Some(documents))?;
        self.totals.files += 1;
        self.bytes_in_batch = bytes_of_last;
        self.send(last, None)?;
        self.totals.files -= 1;
        self.bytes_in_file = 0;
        Ok(())
    }

    fn end_file(&mut self, rows: &mut impl Gather) -> Result<()> {
        let batch = rows.finish_batch()?;
        let documents = std::mem::take(&mut self.documents_in_file);
        self.bytes_in_file = 0;
        self.send(batch, Some(documents))
    }

    fn send(&mut self, batch: RecordBatch, documents: Option<u64>) -> Result<()> {
        let bytes = std::mem::take(&mut self.bytes_in_batch);
        self.totals.bytes += bytes as u64;
        self.sink.send(Piece { file: self.totals.files, body: Body::Rows(batch, bytes), room: bytes, documents })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt64Type;
    use arrow_array::{RecordBatch, UInt64Array};
    use arrow_schema::{DataType, Field, Schema};
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Numbers(Vec<u64>);

    impl Gather for Numbers {
        fn rows(&self) -> usize {
            self.0.len()
        }

        fn finish_batch(&mut self) -> Result<RecordBatch> {
            let schema = Schema::new(vec![Field::new("n", DataType::UInt64, false)]);
            Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(UInt64Array::from(std::mem::take(&mut self.0)))]).unwrap())
        }
    }

    /// Numbers by file; and whether it has ended.
    #[derive(Default)]
    struct Files(Vec<(Vec<u64>, bool)>);

    impl PieceSink for &mut Files {
        fn send(&mut self, piece: Piece) -> Result<()> {
            let number = usize::try_from(piece.file).unwrap();
            if self.0.len() < number {
                self.0.push((Vec::new(), false));
            }
            assert_eq!(self.0.len(), number, "pieces come in the order of their files");
            let file = self.0.last_mut().unwrap();
            assert!(!file.1, "nothing comes after the end of a file");
            let Body::Rows(batch, _) = piece.body else { panic!("bytes") };
            file.0.extend(batch.column(0).as_primitive::<UInt64Type>().values());
            if let Some(documents) = piece.documents {
                assert_eq!(documents, file.0.len() as u64);
                file.1 = true;
            }
            Ok(())
        }

        fn buffer(&mut self, _expected: usize) -> Vec<u8> {
            Vec::new()
        }
    }

    fn cut(limits: Limits, sizes: &[usize]) -> (Vec<Vec<u64>>, Totals) {
        let (mut files, mut rows) = (Files::default(), Numbers::default());
        let mut batcher = Batcher::new(limits, &mut files);
        for (number, size) in (0..).zip(sizes) {
            rows.0.push(number);
            batcher.gathered(*size, &mut rows).unwrap();
        }
        let totals = batcher.finish(&mut rows, false).unwrap();
        assert!(files.0.iter().all(|file| file.1));
        (files.0.into_iter().map(|file| file.0).collect(), totals)
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_file_and_in_order(
            sizes in prop::collection::vec(0_usize..3_000_000, 0..60),
            documents in 1_u64..40,
            bytes in prop::option::of(1_u64..20_000_000),
        ) {
            let (files, totals) = cut(Limits { documents, bytes, part: 0 }, &sizes);
            let all: Vec<u64> = files.iter().flatten().copied().collect();
            prop_assert_eq!(all, (0..sizes.len() as u64).collect::<Vec<_>>());
            prop_assert_eq!((totals.documents, totals.files), (sizes.len() as u64, files.len() as u64));
            prop_assert_eq!(totals.bytes, sizes.iter().sum::<usize>() as u64);
            for (index, file) in files.iter().enumerate() {
                let size_of = |number: &u64| sizes[usize::try_from(*number).unwrap()] as u64;
                let size: u64 = file.iter().map(size_of).sum();
                prop_assert!(file.len() as u64 <= documents && (file.len() == 1 || bytes.is_none_or(|bytes| size <= bytes)));
                // And no earlier than it must.
                if let Some(next) = files.get(index + 1).and_then(|next| next.first()) {
                    let is_full = file.len() as u64 == documents || bytes.is_some_and(|bytes| size + size_of(next) > bytes);
                    prop_assert!(is_full);
                }
            }
        }
    }

    #[test]
    fn no_row_makes_a_file_only_where_it_is_asked_for() {
        for at_least_one in [false, true] {
            let (mut files, mut rows) = (Files::default(), Numbers::default());
            let batcher = Batcher::new(Limits { documents: 10, bytes: None, part: 0 }, &mut files);
            let totals = batcher.finish(&mut rows, at_least_one).unwrap();
            assert_eq!((totals.files, files.0.len()), (u64::from(at_least_one), usize::from(at_least_one)));
        }
    }
}
