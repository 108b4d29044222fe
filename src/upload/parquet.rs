//! One Parquet file out of batches of rows, encoded off both the backend's thread and the I/O thread.
//!
//! Pages are encoded and compressed as batches come; a row group is written when it has enough rows or bytes, and only then its
//! bytes can go. So each file that is being encoded holds, besides a batch, one row group ([`Layout::row_group_bytes`]), what
//! its codec keeps for each column ([`Layout::files_at_once`] bounds both), and its footer so far ([`MOST_CHUNKS`]).
#![forbid(unsafe_code)]

mod dictionary;
mod footer;
mod pages;

use std::io;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::pages::{CancelOnDrop, PagesUntilCancelled};
use super::compressor::{Packed, append, elsewhere, most_encoders, permit};
use super::runtime::lost_task;
use crate::batches::SMALL_BATCH_BYTES;
use crate::error::{Code, Error, Result};
use crate::format::{Algorithm, Compression};

/// Bytes of a column's dictionary in a row group; with more, its values are written as they are.
const DICTIONARY_BYTES: usize = 1 << 20;
/// Bytes of a page before compression, at a level that takes its time: a tenth of a second at the hardest, and six megabytes
/// of memory.
const HARD_PAGE_BYTES: usize = 256 << 10;
/// So many rows tell how often values repeat.
const TELLING_ROWS: usize = 1_000;
/// Most columns of row groups in a file: each has a kilobyte or so in the footer, which is made in memory.
const MOST_CHUNKS: usize = 100_000;
/// So many are begun before they are counted again.
const FEW_ROW_GROUPS: usize = 64;
/// The encoder asks for memory infallibly, and for so many times what a batch holds when values are large.
const COPIES: usize = 3;
/// The key under which a file says which export it is of.
const EXPORT_ID: &str = "s3_export.export_id";

/// How the files of an export are laid out.
#[derive(Debug)]
pub struct Layout {
    /// Of pages.
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
    begun: Option<(ArrowWriter<Packed>, [OwnedSemaphorePermit; 2])>,
    cancel: CancelOnDrop,
}

impl Encoder {
    /// Of a new file; it takes nothing yet.
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
            Vec::<u8>::new().try_reserve_exact(room).map_err(|_| Error::out_of_memory("a Parquet file"))?;
            encode(writer, &layout, pages, waited, batch, is_last)
        };
        let (writer, output) = elsewhere(encoding).await??;
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
    writer: Option<ArrowWriter<Packed>>,
    layout: &Layout,
    pages: PagesUntilCancelled,
    waited: Option<RecordBatch>,
    batch: RecordBatch,
    is_last: bool,
) -> Result<(ArrowWriter<Packed>, Vec<u8>)> {
    let mut writer = match writer {
        Some(writer) => writer,
        None => {
            let sample = waited.as_ref().filter(|waited| waited.num_rows() > batch.num_rows()).unwrap_or(&batch);
            layout.begin(sample, pages).map_err(failed)?
        }
    };
    let step = layout.row_group_rows.saturating_mul(FEW_ROW_GROUPS);
    for batch in waited.into_iter().chain([batch]) {
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

fn refuse_long_footer(writer: &ArrowWriter<Packed>) -> Result<()> {
    let groups = writer.flushed_row_groups();
    let columns = groups.first().map_or(0, |group| group.num_columns());
    if groups.len() * columns <= MOST_CHUNKS {
        return Ok(());
    }
    Err(Error::new(
        Code::Limit,
        format!("a Parquet file of {columns} columns has more than {} row groups", MOST_CHUNKS / columns),
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

    /// Whether a page takes long to compress.
    fn is_hard(&self) -> bool {
        self.compression.is_some_and(|Compression { algorithm, level }| algorithm == Algorithm::Zstd && level > 4)
    }

    /// What a codec keeps for a column, from its first page to the end of its row group.
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
    fn begin(&self, sample: &RecordBatch, pages: PagesUntilCancelled) -> ParquetResult<ArrowWriter<Packed>> {
        // The schema is among the properties' metadata.
        let options = ArrowWriterOptions::new()
            .with_properties(self.properties(sample)?)
            .with_skip_arrow_metadata(true)
            .with_page_store_factory(Arc::new(pages));
        ArrowWriter::try_new_with_options(Packed::default(), sample.schema(), options)
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
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_key_value_metadata(Some(metadata));
        if self.is_hard() {
            properties = properties.set_data_page_size_limit(HARD_PAGE_BYTES);
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

/// A filter's for so many values, at the false positives of one in twenty that the encoder has.
fn bloom_filter_bytes(values: usize) -> usize {
    const MOST: usize = 128 << 20;
    (values.saturating_mul(7) / 8).min(MOST).next_power_of_two()
}
