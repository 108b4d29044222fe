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
mod pages;

use std::io;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::groups::GroupWriter;
use self::pages::{CancelOnDrop, PagesUntilCancelled};
use crate::error::{Code, Error, Result};
use crate::files::batcher::SMALL_BATCH_BYTES;
use crate::files::compress::{append, most_encoders, permit, spawn_blocking};
use crate::format::{Algorithm, Compression};
use crate::io::task::lost_task;

/// Bytes of a page before compression, at a level that takes its time: a tenth of a second, and six megabytes of memory at most.
const HARD_PAGE_BYTES: usize = 256 << 10;
/// [`HARD_PAGE_BYTES`] at levels that compress a megabyte a second.
const HARDER_PAGE_BYTES: usize = 96 << 10;
/// [`HARD_PAGE_BYTES`] at levels that compress half a megabyte a second.
const HARDEST_PAGE_BYTES: usize = 64 << 10;
/// Rows that tell how often values repeat.
const TELLING_ROWS: usize = 1_000;
/// Most columns of row groups in a file: each has a kilobyte or so in the footer, which is made in memory.
const MAX_CHUNKS: usize = 100_000;
/// Row groups that are begun before their bytes are counted again.
const FEW_ROW_GROUPS: usize = 64;
/// The encoder asks for memory infallibly, and for so many times what a batch holds when values are large.
const COPIES: usize = 3;
/// The key under which a file says which export it is of.
const EXPORT_ID: &str = "s3_export.export_id";

/// How the files of an export are laid out.
#[derive(Debug)]
pub struct Layout {
    /// Compression of pages.
    pub compression: Option<Compression>,
    /// Most rows of a row group.
    pub row_group_rows: usize,
    /// Bytes, encoded, with which a row group ends.
    pub row_group_bytes: usize,
    /// The Arrow schema names extension types.
    pub arrow_extension_types: bool,
    /// Columns that have bloom filters.
    pub bloom_filter_columns: Vec<String>,
    /// For readers, in each file.
    pub export_id: String,
    /// Bytes for what codecs and bloom filters of all files keep.
    pub memory: usize,
    /// One a file that may be encoded; known when its columns are.
    pub permits: OnceLock<Arc<Semaphore>>,
}

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

impl Layout {
    fn permits(&self, schema: &Schema) -> Result<Arc<Semaphore>> {
        if let Some(permits) = self.permits.get() {
            return Ok(Arc::clone(permits));
        }
        let columns = ArrowSchemaConverter::new().convert(schema).map_err(failed)?.num_columns();
        let files = self.files_at_once(columns)?;
        Ok(Arc::clone(self.permits.get_or_init(|| Arc::new(Semaphore::new(files)))))
    }

    /// How many files of so many columns are encoded at once. Errors: 53400 where not even one can be.
    fn files_at_once(&self, columns: usize) -> Result<usize> {
        let filters = self.bloom_filter_columns.len() * bloom_filter_bytes(self.row_group_rows);
        let codecs = columns * self.codec_bytes();
        let refuse = |what: String, hint: &str| {
            Err(Error::new(Code::Limit, format!("{what} do not fit into s3_export.buffer_memory")).hint(hint))
        };
        if filters > self.memory {
            return refuse(
                format!("bloom filters of {} MB", filters >> 20),
                "Lower the option row_group_rows, which they are made for, or name fewer columns in bloom_filter_columns.",
            );
        }
        if self.is_hard() && codecs + filters > 2 * self.memory {
            return refuse(
                format!("{} MB to compress {columns} columns at that level", codecs >> 20),
                "Lower the option compression_level, or raise s3_export.buffer_memory.",
            );
        }
        Ok((self.memory / (codecs + filters).max(1)).clamp(1, most_encoders()))
    }

    /// Whether a codec keeps much, for pages of that size.
    fn is_hard(&self) -> bool {
        self.compression.is_some_and(|Compression { algorithm, level }| algorithm == Algorithm::Zstd && level > 4)
    }

    /// Bytes of a page; `None`: as many as the encoder likes, since its codec is fast.
    fn page_bytes(&self) -> Option<usize> {
        match self.compression? {
            Compression { algorithm: Algorithm::Zstd, level: 17.. } => Some(HARDEST_PAGE_BYTES),
            Compression { algorithm: Algorithm::Zstd, level: 13.. } => Some(HARDER_PAGE_BYTES),
            Compression { algorithm: Algorithm::Zstd, level: 5.. } => Some(HARD_PAGE_BYTES),
            Compression { algorithm: Algorithm::Gzip, level: 7.. } => Some(HARDER_PAGE_BYTES),
            _ => None,
        }
    }

    /// Bytes of a column's dictionary in a row group; with more, its values are written as they are.
    fn dictionary_bytes(&self) -> usize {
        match self.compression {
            // A dictionary is a page as well.
            Some(Compression { algorithm: Algorithm::Zstd, level: 17.. }) => HARDEST_PAGE_BYTES,
            Some(Compression { algorithm: Algorithm::Zstd, level: 13.. }) => HARDER_PAGE_BYTES,
            Some(Compression { algorithm: Algorithm::Zstd, level: 9.. }) => HARD_PAGE_BYTES,
            _ => 1 << 20,
        }
    }

    /// Bytes that a codec keeps for a column, from its first page to the end of its row group.
    fn codec_bytes(&self) -> usize {
        match self.compression {
            None => 0,
            // As zstd's tables of parameters have it, for pages of their size here.
            Some(Compression { algorithm: Algorithm::Zstd, level: 13.. }) => 6 << 20,
            Some(Compression { algorithm: Algorithm::Zstd, level: 9.. }) => 4 << 20,
            Some(Compression { algorithm: Algorithm::Zstd, level: 3.. }) => 3 << 20,
            Some(_) => 5 << 17,
        }
    }

    /// Begins a file of rows such as these.
    fn begin(&self, sample: &RecordBatch, pages: PagesUntilCancelled) -> ParquetResult<GroupWriter> {
        let fastest = codec(self.compression.map(effort::fastest))?;
        GroupWriter::new(sample.schema(), self.properties(sample)?, fastest, Arc::new(pages))
    }

    fn properties(&self, sample: &RecordBatch) -> ParquetResult<WriterProperties> {
        let mut metadata = vec![
            KeyValue::new(EXPORT_ID.to_owned(), self.export_id.clone()),
            footer::arrow_schema(sample.schema_ref(), self.arrow_extension_types),
        ];
        metadata.extend(sample.schema_ref().metadata().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
        let mut properties = WriterProperties::builder()
            .set_created_by(format!("s3_export version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(codec(self.compression)?)
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_max_row_group_bytes(Some(self.row_group_bytes))
            .set_dictionary_page_size_limit(self.dictionary_bytes())
            .set_key_value_metadata(Some(metadata));
        if let Some(bytes) = self.page_bytes() {
            properties = properties.set_data_page_size_limit(bytes);
        }
        for (path, repeats) in dictionary::leaves(sample) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(path), repeats);
        }
        for name in &self.bloom_filter_columns {
            let path = ColumnPath::new(vec![name.clone()]);
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_max_ndv(path, self.row_group_rows as u64);
        }
        Ok(properties.build())
    }
}

fn codec(compression: Option<Compression>) -> ParquetResult<Codec> {
    let Some(Compression { algorithm, level }) = compression else { return Ok(Codec::UNCOMPRESSED) };
    Ok(match algorithm {
        Algorithm::Zstd => Codec::ZSTD(ZstdLevel::try_new(level)?),
        Algorithm::Gzip => Codec::GZIP(GzipLevel::try_new(level.unsigned_abs())?),
        Algorithm::Snappy => Codec::SNAPPY,
        Algorithm::Lz4 => Codec::LZ4_RAW,
    })
}

/// A filter's for so many values, at the false positives of one in twenty that the encoder has.
fn bloom_filter_bytes(values: usize) -> usize {
    const MOST: usize = 128 << 20;
    (values.saturating_mul(7) / 8).min(MOST).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow_array::cast::AsArray;
    use arrow_array::{ArrayRef, Int32Array, StringArray};
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

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
