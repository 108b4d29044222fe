//! One Parquet file out of batches of rows, encoded off both the backend's thread and the I/O thread.
//!
//! Pages are encoded and compressed as batches come; a row group is written when it has enough rows or bytes, and only then its
//! bytes can go. So each file that is being encoded holds, besides a batch, one row group ([`Layout::row_group_bytes`]), what
//! its codec keeps for each column ([`Layout::files_at_once`] bounds both), and its footer so far ([`MAX_CHUNKS`]).
#![forbid(unsafe_code)]

mod dictionary;
mod footer;
mod pages;

use std::io;
use std::sync::{Arc, OnceLock};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Schema};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::pages::{CancelOnDrop, PagesUntilCancelled};
use crate::error::{Code, Error, Result};
use crate::files::batcher::SMALL_BATCH_BYTES;
use crate::files::compress::{EncodedBytes, append, most_encoders, permit, spawn_blocking};
use crate::format::{Algorithm, Compression};
use crate::io::task::lost_task;

/// Bytes of a page before compression, at a level that takes its time: a tenth of a second, and six megabytes of memory at most.
const HARD_PAGE_BYTES: usize = 256 << 10;
/// As [`HARD_PAGE_BYTES`], at levels that compress a megabyte a second, or less of what suits them badly.
const HARDEST_PAGE_BYTES: usize = 96 << 10;
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
    begun: Option<(ArrowWriter<EncodedBytes>, [OwnedSemaphorePermit; 2])>,
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
    writer: Option<ArrowWriter<EncodedBytes>>,
    layout: &Layout,
    pages: PagesUntilCancelled,
    waited: Option<RecordBatch>,
    batch: RecordBatch,
    is_last: bool,
) -> Result<(ArrowWriter<EncodedBytes>, Vec<u8>)> {
    let mut writer = match writer {
        Some(writer) => writer,
        None => {
            let sample = waited.as_ref().filter(|waited| waited.num_rows() > batch.num_rows()).unwrap_or(&batch);
            layout.begin(sample, pages).map_err(failed)?
        }
    };
    let step = layout.row_group_rows.saturating_mul(FEW_ROW_GROUPS);
    for batch in waited.into_iter().chain([batch]) {
        layout.refuse_large_values(&batch)?;
        let rows = batch.num_rows();
        for start in (0..rows).step_by(step) {
            writer.write(&batch.slice(start, step.min(rows - start))).map_err(failed)?;
            refuse_long_footer(&writer)?;
        }
    }
    if is_last {
        writer.finish().map_err(failed)?;
    }
    writer.sync().map_err(|error| failed(error.into()))?;
    let output = writer.inner_mut().take();
    Ok((writer, output))
}

fn refuse_long_footer(writer: &ArrowWriter<EncodedBytes>) -> Result<()> {
    let groups = writer.flushed_row_groups();
    let columns = groups.first().map_or(0, |group| group.num_columns());
    if groups.len() * columns <= MAX_CHUNKS {
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
            Compression { algorithm: Algorithm::Zstd, level: 13.. } => Some(HARDEST_PAGE_BYTES),
            Compression { algorithm: Algorithm::Zstd, level: 5.. } => Some(HARD_PAGE_BYTES),
            Compression { algorithm: Algorithm::Gzip, level: 7.. } => Some(HARDEST_PAGE_BYTES),
            _ => None,
        }
    }

    /// Bytes of a column's dictionary in a row group; with more, its values are written as they are.
    fn dictionary_bytes(&self) -> usize {
        match self.compression {
            // It is a page as well.
            Some(Compression { algorithm: Algorithm::Zstd, level: 13.. }) => HARDEST_PAGE_BYTES,
            _ => 1 << 20,
        }
    }

    /// Most bytes that a row has in one column, or in one field of it. Nothing stops the codec within a page, nor is a row in two
    /// pages, and the end of a transaction waits for the page: a second or so for what is typical, some seconds for what suits the codec worst. `None`: any value of
    /// Postgres's, since the codec compresses hundreds of megabytes a second.
    fn most_row_bytes(&self) -> Option<usize> {
        match self.compression? {
            Compression { algorithm: Algorithm::Zstd, level: 13.. } => Some(1 << 20),
            Compression { algorithm: Algorithm::Zstd, level: 5.. } => Some(16 << 20),
            Compression { algorithm: Algorithm::Zstd, level: 3.. } => Some(64 << 20),
            Compression { algorithm: Algorithm::Gzip, level: 7.. } => Some(1 << 20),
            Compression { algorithm: Algorithm::Gzip, level: 4.. } => Some(16 << 20),
            Compression { algorithm: Algorithm::Gzip, .. } => Some(64 << 20),
            _ => None,
        }
    }

    /// Errors: 53400 for a value that takes too long to compress.
    fn refuse_large_values(&self, batch: &RecordBatch) -> Result<()> {
        let (Some(most), Some(compression)) = (self.most_row_bytes(), self.compression) else { return Ok(()) };
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if let Some(bytes) = row_above(most, column, column.len(), &|row| row) {
                let (name, level) = (compression.algorithm.name(), compression.level);
                return Err(Error::new(
                    Code::Limit,
                    format!("column \"{}\" has a value of {bytes} bytes, too large for {name} of level {level}", field.name()),
                )
                .detail(format!(
                    "A value is compressed in one go, an array with all of its elements. At that level it may have {most} bytes."
                ))
                .hint("Lower the option compression_level, or choose another compression."));
            }
        }
        Ok(())
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
    fn begin(&self, sample: &RecordBatch, pages: PagesUntilCancelled) -> ParquetResult<ArrowWriter<EncodedBytes>> {
        // The schema is among the properties' metadata.
        let options = ArrowWriterOptions::new()
            .with_properties(self.properties(sample)?)
            .with_skip_arrow_metadata(true)
            .with_page_store_factory(Arc::new(pages));
        ArrowWriter::try_new_with_options(EncodedBytes::default(), sample.schema(), options)
    }

    fn properties(&self, sample: &RecordBatch) -> ParquetResult<WriterProperties> {
        let codec = match self.compression {
            None => Codec::UNCOMPRESSED,
            Some(Compression { algorithm, level }) => match algorithm {
                Algorithm::Zstd => Codec::ZSTD(ZstdLevel::try_new(level)?),
                Algorithm::Gzip => Codec::GZIP(GzipLevel::try_new(level.unsigned_abs())?),
                Algorithm::Snappy => Codec::SNAPPY,
                Algorithm::Lz4 => Codec::LZ4_RAW,
            },
        };
        let mut metadata = vec![
            KeyValue::new(EXPORT_ID.to_owned(), self.export_id.clone()),
            footer::arrow_schema(sample.schema_ref(), self.arrow_extension_types),
        ];
        metadata.extend(sample.schema_ref().metadata().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
        let mut properties = WriterProperties::builder()
            .set_created_by(format!("s3_export version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(codec)
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

/// Returns the bytes of a row that has more than `most` of them in one leaf of the column. Row `n` of the `rows` has the elements of
/// `array` from `begin(n)` to `begin(n + 1)`.
fn row_above(most: usize, array: &dyn Array, rows: usize, begin: &dyn Fn(usize) -> usize) -> Option<usize> {
    // `at`: where an element of the leaf begins, in bytes.
    let leaf = |at: &dyn Fn(usize) -> usize| {
        let start = |row| at(begin(row));
        if start(rows) - start(0) <= most {
            return None;
        }
        (0..rows).map(|row| start(row + 1) - start(row)).find(|&bytes| bytes > most)
    };
    let offset = |offsets: &[i32], index: usize| offsets[index].unsigned_abs() as usize;
    match array.data_type() {
        DataType::Utf8 => leaf(&|index| offset(array.as_string::<i32>().value_offsets(), index)),
        DataType::Binary => leaf(&|index| offset(array.as_binary::<i32>().value_offsets(), index)),
        DataType::Struct(_) => array.as_struct().columns().iter().find_map(|field| row_above(most, field, rows, begin)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            row_above(most, list.values(), rows, &|row| offset(list.value_offsets(), begin(row)))
        }
        DataType::Boolean => leaf(&|index| index / 8),
        DataType::FixedSizeBinary(width) => {
            let width = width.unsigned_abs() as usize;
            leaf(&|index| index * width)
        }
        other => {
            let width = other.primitive_width()?;
            leaf(&|index| index * width)
        }
    }
}

/// A filter's for so many values, at the false positives of one in twenty that the encoder has.
fn bloom_filter_bytes(values: usize) -> usize {
    const MOST: usize = 128 << 20;
    (values.saturating_mul(7) / 8).min(MOST).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow_array::{ArrayRef, ListArray, StringArray};

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
        let values: ArrayRef = Arc::new(StringArray::from_iter_values([noise(1 << 20), noise(1 << 20)]));
        let free = runtime.block_on(async {
            let mut encoder = Encoder::new(Arc::clone(&layout));
            let mut packed = Vec::new();
            let writing = encoder.write(batch(values), 2 << 20, true, &mut packed);
            assert!(tokio::time::timeout(Duration::from_millis(10), writing).await.is_err(), "it is no work");
            drop(encoder);
            layout.permits.get().unwrap().available_permits()
        });
        // Waits for the work, which ends with the page that it is at.
        drop(runtime);
        assert_eq!(layout.permits.get().unwrap().available_permits(), free + 1);
    }

    #[test]
    fn a_row_of_many_values_in_a_list_is_refused_as_one_value_is() {
        let layout = layout(Algorithm::Zstd, 19);
        let list = |element, values: ArrayRef, lengths: [usize; 2]| {
            let field = Arc::new(arrow_schema::Field::new("element", element, true));
            Arc::new(ListArray::new(field, arrow_buffer::OffsetBuffer::from_lengths(lengths), values, None)) as ArrayRef
        };
        let texts = |lengths: [usize; 2]| {
            let texts = std::iter::repeat_n("x".repeat(1 << 10), lengths.iter().sum());
            list(DataType::Utf8, Arc::new(StringArray::from_iter_values(texts)), lengths)
        };
        let numbers = |lengths: [usize; 2]| {
            let numbers = arrow_array::Int64Array::from_iter_values(0..lengths.iter().sum::<usize>() as i64);
            list(DataType::Int64, Arc::new(numbers), lengths)
        };
        let within = |column: ArrayRef| {
            let field = Arc::new(arrow_schema::Field::new("f", column.data_type().clone(), true));
            Arc::new(arrow_array::StructArray::from(vec![(field, column)])) as ArrayRef
        };
        let kilobytes = 1 << 10;
        for (column, is_refused) in [
            (texts([kilobytes, kilobytes]), false),
            (texts([1, kilobytes + 1]), true),
            (within(texts([kilobytes, 1])), false),
            (within(texts([kilobytes + 1, 1])), true),
            (numbers([kilobytes * 128, kilobytes * 128]), false),
            (numbers([0, kilobytes * 128 + 1]), true),
        ] {
            // A part of a batch begins in the middle of its columns.
            for (batch, is_refused) in [(batch(Arc::clone(&column)), is_refused), (batch(column.slice(2, 0)), false)] {
                assert_eq!(layout.refuse_large_values(&batch).is_err(), is_refused, "{:?}", column.data_type());
            }
        }
    }

    #[test]
    fn a_value_that_takes_too_long_is_refused_wherever_it_is() {
        let text = |bytes| StringArray::from_iter_values(["x".to_owned(), "x".repeat(bytes)]);
        let list = |bytes| {
            let field = Arc::new(arrow_schema::Field::new("element", DataType::Utf8, true));
            let offsets = arrow_buffer::OffsetBuffer::from_lengths([1, 1]);
            ListArray::new(field, offsets, Arc::new(text(bytes)), None)
        };
        for (algorithm, level, most) in [
            (Algorithm::Zstd, 19, 1 << 20),
            (Algorithm::Zstd, 9, 16 << 20),
            (Algorithm::Gzip, 9, 1 << 20),
            (Algorithm::Gzip, 6, 16 << 20),
        ] {
            let layout = layout(algorithm, level);
            for (column, is_refused) in [
                (Arc::new(text(most)) as ArrayRef, false),
                (Arc::new(text(most + 1)), true),
                (Arc::new(list(most)), false),
                (Arc::new(list(most + 1)), true),
            ] {
                let outcome = layout.refuse_large_values(&batch(column));
                assert_eq!(outcome.is_err(), is_refused, "{algorithm:?} {level}");
                if let Err(error) = outcome {
                    assert_eq!(error.code(), Code::Limit);
                    assert!(error.summary().contains("column \"t\""), "{error:?}");
                }
            }
        }
        assert!(layout(Algorithm::Zstd, 1).refuse_large_values(&batch(Arc::new(text(100 << 20)))).is_ok());
    }
}
