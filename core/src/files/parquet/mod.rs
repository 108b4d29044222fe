//! One Parquet file out of batches of rows, encoded off both the backend's thread and the I/O thread.
//!
//! Pages are encoded and compressed as batches come; a row group is written when it has enough rows or bytes, and only then its
//! bytes can go. So each file that is being encoded holds, besides a batch, one row group ([`Layout::row_group_bytes`]), what
//! its codec keeps for each column ([`Layout::files_at_once`] bounds both), and its footer so far ([`MAX_CHUNKS`]).
#![forbid(unsafe_code)]

mod dictionary;
mod effort;
mod footer;
mod groups;
mod layout;
mod pages;

use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use parquet::errors::ParquetError;
use tokio::sync::OwnedSemaphorePermit;

use self::groups::GroupWriter;
pub use self::layout::Layout;
use self::pages::{CancelOnDrop, PagesUntilCancelled};
use crate::error::{Code, Error, Result};
use crate::files::batcher::SMALL_BATCH_BYTES;
use crate::files::compress::{append, permit, spawn_blocking};
use crate::io::task::lost_task;

/// Rows that tell how often values repeat.
const TELLING_ROWS: usize = 1_000;
/// Most columns of row groups in a file: each has a kilobyte or so in the footer, which is made in memory.
const MAX_CHUNKS: usize = 100_000;
/// Row groups that are begun before their bytes are counted again.
const FEW_ROW_GROUPS: usize = 64;
/// The encoder asks for memory infallibly, and for so many times what a batch holds when values are large.
const COPIES: usize = 3;
/// The state of one file's encoding.
pub struct Encoder {
    layout: Arc<Layout>,
    /// A first batch that tells too little of those after it: most often the row that the file before had no room for.
    waiting: Option<RecordBatch>,
    /// From the first batch to the last.
    begun: Option<(GroupWriter, [OwnedSemaphorePermit; 2])>,
    cancel: CancelOnDrop,
}

impl Encoder {
    /// Returns the encoder of a new file, which takes no memory yet.
    pub fn new(layout: Arc<Layout>) -> Self {
        Encoder { layout, waiting: None, begun: None, cancel: CancelOnDrop::default() }
    }

    /// Takes in a batch, whose values take so many bytes; appends to `packed` what has come out. `is_last`: the file ends with
    /// it. Errors: 53200, 53400, XX000.
    pub async fn write(&mut self, batch: RecordBatch, bytes: usize, is_last: bool, packed: &mut Vec<u8>) -> Result<()> {
        let waited = self.waiting.take();
        let tells_little = batch.num_rows() < TELLING_ROWS && bytes <= SMALL_BATCH_BYTES;
        if self.begun.is_none() && waited.is_none() && tells_little && !is_last {
            self.waiting = Some(batch);
            return Ok(());
        }
        let (writer, permits) = match self.begun.take() {
            Some((writer, permits)) => (Some(writer), permits),
            None => {
                let ours = self.layout.permits(batch.schema_ref())?;
                (None, [ours.acquire_owned().await.map_err(|_| lost_task())?, permit().await?])
            }
        };
        let (layout, pages) = (Arc::clone(&self.layout), self.cancel.pages());
        let room = bytes.saturating_mul(COPIES);
        let encoding = move || {
            // Together with the work, which goes on when nobody waits for it any more.
            let permits = permits;
            Vec::<u8>::new().try_reserve_exact(room).map_err(|_| Error::out_of_memory("a Parquet file"))?;
            encode(writer, &layout, pages, waited, batch, is_last).map(|(writer, output)| (writer, permits, output))
        };
        let (writer, permits, output) = spawn_blocking(encoding).await??;
        if packed.is_empty() {
            *packed = output
        } else {
            append(packed, &output)?
        }
        if !is_last {
            self.begun = Some((writer, permits));
        }
        Ok(())
    }
}

/// `writer`: `None` at the beginning of a file, which `waited` may be. Errors: 53200, 53400, XX000.
fn encode(
    writer: Option<GroupWriter>,
    layout: &Layout,
    pages: PagesUntilCancelled,
    waited: Option<RecordBatch>,
    batch: RecordBatch,
    is_last: bool,
) -> Result<(GroupWriter, Vec<u8>)> {
    let mut writer = match writer {
        Some(writer) => writer,
        None => {
            let sample = waited.as_ref().filter(|waited| waited.num_rows() > batch.num_rows()).unwrap_or(&batch);
            layout.begin(sample, pages).map_err(failed)?
        }
    };
    let step = layout.row_group_rows.saturating_mul(FEW_ROW_GROUPS);
    for batch in waited.into_iter().chain([batch]) {
        let efforts = effort::efforts(layout.compression, &batch);
        let rows = batch.num_rows();
        for start in (0..rows).step_by(step) {
            writer.write(&batch.slice(start, step.min(rows - start)), &efforts).map_err(failed)?;
            refuse_long_footer(&writer)?;
        }
    }
    if is_last {
        writer.finish().map_err(failed)?;
    }
    let output = writer.take().map_err(|error| failed(error.into()))?;
    Ok((writer, output))
}

fn refuse_long_footer(writer: &GroupWriter) -> Result<()> {
    let columns = writer.leaves();
    if writer.row_groups() * columns <= MAX_CHUNKS {
        return Ok(());
    }
    Err(Error::new(
        Code::Limit,
        format!("a Parquet file of {columns} columns has more than {} row groups", MAX_CHUNKS / columns),
    )
    .hint("Raise the option row_group_rows, or write several files."))
}

/// Batches fit their schema, and what is written to is memory.
fn failed(error: ParquetError) -> Error {
    match &error {
        ParquetError::External(inner)
            if inner.downcast_ref::<io::Error>().is_some_and(|inner| inner.kind() == io::ErrorKind::OutOfMemory) =>
        {
            Error::out_of_memory("a Parquet file")
        }
        _ => Error::new(Code::Internal, "a Parquet file could not be encoded").detail(format!("{error}.")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::Duration;

    use arrow_array::cast::AsArray;
    use arrow_array::{ArrayRef, Int32Array, StringArray};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::{Compression as Codec, ZstdLevel};

    use super::*;
    use crate::format::{Algorithm, Compression};

    fn layout(algorithm: Algorithm, level: i32) -> Arc<Layout> {
        Arc::new(Layout {
            compression: Some(Compression { algorithm, level }),
            row_group_rows: 1 << 20,
            row_group_bytes: 64 << 20,
            bloom_filter_columns: Vec::new(),
            arrow_extension_types: false,
            export_id: String::new(),
            memory: 64 << 20,
            permits: OnceLock::new(),
        })
    }

    /// A value in which a codec finds little, and looks long.
    fn noise(bytes: usize) -> String {
        let mut random = fastrand::Rng::with_seed(1);
        std::iter::repeat_with(|| char::from_digit(random.u32(0..16), 16).unwrap()).take(bytes).collect()
    }

    fn batch(column: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("t", column)]).unwrap()
    }

    #[test]
    fn the_permit_is_held_until_the_work_ends() {
        let layout = layout(Algorithm::Zstd, 19);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let values: ArrayRef = Arc::new(StringArray::from_iter_values(vec![noise(60_000); 20]));
        let free = runtime.block_on(async {
            let mut encoder = Encoder::new(Arc::clone(&layout));
            let mut packed = Vec::new();
            let writing = encoder.write(batch(values), 1_200_000, true, &mut packed);
            assert!(tokio::time::timeout(Duration::from_millis(10), writing).await.is_err(), "it is no work");
            drop(encoder);
            layout.permits.get().unwrap().available_permits()
        });
        // Waits for the work, which ends with the page that it is at.
        drop(runtime);
        assert_eq!(layout.permits.get().unwrap().available_permits(), free + 1);
    }

    /// A value of 3 bytes, of 100,000 and of 17,000,000 in one column, and small numbers in another.
    #[test]
    fn rows_that_take_long_to_compress_have_row_groups_of_their_own() {
        let layout = layout(Algorithm::Zstd, 19);
        let sizes = [3, 3, 100_000, 3, 17_000_000, 100_000, 3];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut file = Vec::new();
        runtime.block_on(async {
            let mut encoder = Encoder::new(Arc::clone(&layout));
            for (n, &size) in sizes.iter().enumerate() {
                let number: ArrayRef = Arc::new(Int32Array::from(vec![n as i32]));
                let value: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(size)]));
                let batch = RecordBatch::try_from_iter([("n", number), ("t", value)]).unwrap();
                encoder.write(batch, size + 4, n + 1 == sizes.len(), &mut file).await.unwrap();
            }
        });
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).unwrap();
        let codecs = |column: usize| -> Vec<(i64, Codec)> {
            let groups = reader.metadata().row_groups().iter();
            groups.map(|group| (group.num_rows(), group.column(column).compression())).collect()
        };
        // Readers are told no level.
        let zstd = Codec::ZSTD(ZstdLevel::default());
        assert_eq!(codecs(1), [(2, zstd), (2, zstd), (3, Codec::UNCOMPRESSED)]);
        assert_eq!(codecs(0), [(2, zstd), (2, zstd), (3, zstd)]);
        let batches = reader.build().unwrap().map(|batch| batch.unwrap());
        let read: Vec<usize> = batches
            .flat_map(|batch| batch.column(1).as_string::<i32>().iter().map(|t| t.unwrap().len()).collect::<Vec<_>>())
            .collect();
        assert_eq!(read, sizes);
    }
}
