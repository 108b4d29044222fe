//! One Parquet file out of batches of rows, encoded off both the backend's thread and the I/O thread.
//!
//! Pages are encoded and compressed as batches come; a row group is written when it has enough rows or bytes, and only then its
//! bytes can go. So of each file that is being encoded one row group is held, compressed, which [`Layout::row_group_bytes`]
//! bounds.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, GzipLevel, ZstdLevel};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tokio::sync::OwnedSemaphorePermit;

use super::compressor::{Packed, append, elsewhere, permit};
use crate::error::{Code, Error, Result};
use crate::format::{Algorithm, Compression};

/// Bytes of a column's dictionary in a row group; with more, its values are written as they are.
const DICTIONARY_BYTES: usize = 1 << 20;
/// The key under which a file says which export it is of.
const EXPORT_ID: &str = "s3_export.export_id";

/// How the files of an export are laid out.
#[derive(Debug)]
pub struct Layout {
    /// Of pages.
    pub compression: Option<Compression>,
    /// Most rows of a row group.
    pub row_group_rows: usize,
    /// Most bytes of one, encoded.
    pub row_group_bytes: usize,
    /// Columns that have bloom filters.
    pub bloom_filter_columns: Vec<String>,
    /// For readers, in each file.
    pub export_id: String,
}

/// The state of one file's encoding.
pub struct Encoder {
    layout: Arc<Layout>,
    /// From the first batch to the last.
    begun: Option<(ArrowWriter<Packed>, OwnedSemaphorePermit)>,
}

impl Encoder {
    /// Of a new file; it takes nothing yet.
    pub fn new(layout: Arc<Layout>) -> Self {
        Encoder { layout, begun: None }
    }

    /// Takes in a batch; appends to `packed` what has come out. `is_last`: the file ends with it. Errors: 53200, XX000.
    pub async fn write(&mut self, batch: RecordBatch, is_last: bool, packed: &mut Vec<u8>) -> Result<()> {
        let (mut writer, permit) = match self.begun.take() {
            Some(begun) => begun,
            None => {
                let permit = permit().await?;
                let properties = self.layout.properties(batch.schema_ref()).map_err(failed)?;
                (ArrowWriter::try_new(Packed::default(), batch.schema(), Some(properties)).map_err(failed)?, permit)
            }
        };
        let output;
        (writer, output) = elsewhere(move || {
            let output = encode(&mut writer, &batch, is_last);
            (writer, output)
        })
        .await?;
        append(packed, &output.map_err(failed)?)?;
        if !is_last {
            self.begun = Some((writer, permit));
        }
        Ok(())
    }
}

fn encode(writer: &mut ArrowWriter<Packed>, batch: &RecordBatch, is_last: bool) -> ParquetResult<Vec<u8>> {
    writer.write(batch)?;
    if is_last {
        writer.finish()?;
    }
    writer.sync()?;
    Ok(writer.inner_mut().take())
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
    fn properties(&self, schema: &Schema) -> ParquetResult<WriterProperties> {
        let codec = match self.compression {
            None => Codec::UNCOMPRESSED,
            Some(Compression { algorithm, level }) => match algorithm {
                Algorithm::Zstd => Codec::ZSTD(ZstdLevel::try_new(level)?),
                Algorithm::Gzip => Codec::GZIP(GzipLevel::try_new(level.unsigned_abs())?),
                Algorithm::Snappy => Codec::SNAPPY,
                Algorithm::Lz4 => Codec::LZ4_RAW,
            },
        };
        let mut metadata = vec![KeyValue::new(EXPORT_ID.to_owned(), self.export_id.clone())];
        metadata.extend(schema.metadata().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
        let mut properties = WriterProperties::builder()
            .set_created_by(format!("s3_export version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(codec)
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_max_row_group_bytes(Some(self.row_group_bytes))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_key_value_metadata(Some(metadata));
        for name in &self.bloom_filter_columns {
            let path = ColumnPath::new(vec![name.clone()]);
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_max_ndv(path, self.row_group_rows as u64);
        }
        Ok(properties.build())
    }
}
