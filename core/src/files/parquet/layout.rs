//! The layout of an export's Parquet files: their compression, sizes and metadata, and how many of them are encoded at once.
//!
//! An encoder keeps memory for each column of each file. The layout counts that memory ahead, so that an export with too many columns
//! is refused and does not run out of memory.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tokio::sync::Semaphore;

use super::groups::GroupWriter;
use super::pages::PagesUntilCancelled;
use super::{dictionary, effort, failed, footer};
use crate::error::{Code, Error, Result};
use crate::files::compress::most_encoders;
use crate::format::{Algorithm, Compression};

/// Bytes of a page before compression, at a level that takes its time: a tenth of a second, and six megabytes of memory at most.
const HARD_PAGE_BYTES: usize = 256 << 10;
/// [`HARD_PAGE_BYTES`] at levels that compress a megabyte a second.
const HARDER_PAGE_BYTES: usize = 96 << 10;
/// [`HARD_PAGE_BYTES`] at levels that compress half a megabyte a second.
const HARDEST_PAGE_BYTES: usize = 64 << 10;
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

impl Layout {
    pub(super) fn permits(&self, schema: &Schema) -> Result<Arc<Semaphore>> {
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
    pub(super) fn begin(&self, sample: &RecordBatch, pages: PagesUntilCancelled) -> ParquetResult<GroupWriter> {
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
