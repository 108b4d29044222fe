//! One Parquet file out of batches of rows, encoded off both the backend's thread and the I/O thread.
//!
//! Pages are encoded and compressed as batches come; a row group is written when it has enough rows or bytes, and only then its
//! bytes can go. So of each file that is being encoded one row group is held, compressed, which [`Layout::row_group_bytes`]
//! bounds.
//!
//! Which columns have dictionaries is decided by the first batch of each file. An encoder that is left to find out writes a
//! dictionary as long as it is allowed to be and then the values beside it, a quarter more bytes of TPC-H's lineitem than
//! are needed.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
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
/// Values of fixed size have a dictionary when each stands there so often, because a codec packs numbers well without.
const NUMBER_REPEATS: usize = 5;
/// As [`NUMBER_REPEATS`], of text and binary.
const TEXT_REPEATS: usize = 2;
/// So many rows tell how often values repeat.
const TELLING_ROWS: usize = 1_000;
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
    /// A first batch that tells too little of those after it: most often the row that the file before had no room for.
    waiting: Option<RecordBatch>,
    /// From the first batch to the last.
    begun: Option<(ArrowWriter<Packed>, OwnedSemaphorePermit)>,
}

impl Encoder {
    /// Of a new file; it takes nothing yet.
    pub fn new(layout: Arc<Layout>) -> Self {
        Encoder { layout, waiting: None, begun: None }
    }

    /// Takes in a batch; appends to `packed` what has come out. `is_last`: the file ends with it. Errors: 53200, XX000.
    pub async fn write(&mut self, batch: RecordBatch, is_last: bool, packed: &mut Vec<u8>) -> Result<()> {
        let waited = self.waiting.take();
        if self.begun.is_none() && waited.is_none() && batch.num_rows() < TELLING_ROWS && !is_last {
            self.waiting = Some(batch);
            return Ok(());
        }
        let (writer, permit) = match self.begun.take() {
            Some((writer, permit)) => (Some(writer), permit),
            None => (None, permit().await?),
        };
        let layout = Arc::clone(&self.layout);
        let (writer, output) = elsewhere(move || encode(writer, &layout, waited, batch, is_last)).await?.map_err(failed)?;
        append(packed, &output)?;
        if !is_last {
            self.begun = Some((writer, permit));
        }
        Ok(())
    }
}

/// `writer`: `None` at the beginning of a file, which `waited` may be.
fn encode(
    writer: Option<ArrowWriter<Packed>>,
    layout: &Layout,
    waited: Option<RecordBatch>,
    batch: RecordBatch,
    is_last: bool,
) -> ParquetResult<(ArrowWriter<Packed>, Vec<u8>)> {
    let mut writer = match writer {
        Some(writer) => writer,
        None => {
            let sample = waited.as_ref().filter(|waited| waited.num_rows() > batch.num_rows()).unwrap_or(&batch);
            ArrowWriter::try_new(Packed::default(), batch.schema(), Some(layout.properties(sample)?))?
        }
    };
    for batch in waited.into_iter().chain([batch]) {
        writer.write(&batch)?;
    }
    if is_last {
        writer.finish()?;
    }
    writer.sync()?;
    let output = writer.inner_mut().take();
    Ok((writer, output))
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
    /// Of a file that begins with rows such as these.
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
        let mut metadata = vec![KeyValue::new(EXPORT_ID.to_owned(), self.export_id.clone())];
        metadata.extend(sample.schema_ref().metadata().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
        let mut properties = WriterProperties::builder()
            .set_created_by(format!("s3_export version {}", env!("CARGO_PKG_VERSION")))
            .set_compression(codec)
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_max_row_group_bytes(Some(self.row_group_bytes))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_key_value_metadata(Some(metadata));
        for (path, repeats) in leaves(sample) {
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

/// The columns that values are stored in, those of lists and structs among them, and whether values repeat there.
fn leaves(batch: &RecordBatch) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        add_leaves(vec![field.name().clone()], column, &mut found);
    }
    found
}

fn add_leaves(path: Vec<String>, array: &dyn Array, found: &mut Vec<(Vec<String>, bool)>) {
    let below = |names: &[&str]| path.iter().cloned().chain(names.iter().map(|name| (*name).to_owned())).collect();
    match array.data_type() {
        DataType::Struct(fields) => {
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                add_leaves(below(&[field.name()]), column, found);
            }
        }
        DataType::List(field) => add_leaves(below(&["list", field.name()]), array.as_list::<i32>().values(), found),
        // Enums: there are few labels.
        DataType::Dictionary(..) => {}
        _ => found.push((path, repeats(array))),
    }
}

fn repeats(array: &dyn Array) -> bool {
    let (distinct, least) = match array.data_type() {
        DataType::Utf8 => (count_distinct(array.as_string::<i32>().iter()), TEXT_REPEATS),
        DataType::Binary => (count_distinct(array.as_binary::<i32>().iter()), TEXT_REPEATS),
        DataType::FixedSizeBinary(_) => (count_distinct(array.as_fixed_size_binary().iter()), TEXT_REPEATS),
        other => {
            let Some(width) = other.primitive_width() else { return true };
            let data = array.to_data();
            let bytes = data.buffers().first().map_or(&[][..], |buffer| buffer.as_slice());
            (count_distinct(bytes.chunks_exact(width).skip(data.offset()).take(data.len())), NUMBER_REPEATS)
        }
    };
    distinct * least <= array.len()
}

fn count_distinct<T: std::hash::Hash + Eq>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<HashSet<T>>().len()
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, BooleanArray, Decimal128Array, Int64Array, StringArray, StructArray};
    use arrow_schema::Field;

    use super::*;

    const ROWS: i64 = 1_000;

    fn numbers(distinct: i64) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row % distinct)))
    }

    fn texts(distinct: i64) -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..ROWS).map(|row| format!("text {}", row % distinct))))
    }

    #[test]
    fn columns_whose_values_repeat_have_dictionaries() {
        let mut tags = ListBuilder::new(StringBuilder::new());
        for row in 0..ROWS {
            tags.append_value([Some(if row % 2 == 0 { "even" } else { "odd" }), None]);
        }
        let part = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
        let (unique, few) = (numbers(ROWS), texts(3));
        let pair = StructArray::from(vec![(part("unique", &unique), unique), (part("few", &few), few)]);
        let price = Decimal128Array::from_iter_values((0..ROWS).map(i128::from)).slice(7, 100);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("key", numbers(ROWS)),
            ("day", numbers(200)),
            ("often", numbers(201)),
            ("note", texts(ROWS)),
            ("customer", texts(500)),
            ("flag", Arc::new(BooleanArray::from(vec![true; 1_000]))),
            ("tags", Arc::new(tags.finish())),
            ("pair", Arc::new(pair)),
        ];
        let found = leaves(&RecordBatch::try_from_iter(columns).unwrap());
        let found: Vec<(String, bool)> = found.into_iter().map(|(path, repeats)| (path.join("."), repeats)).collect();
        let wanted = [
            ("key", false),
            ("day", true),
            ("often", false),
            ("note", false),
            ("customer", true),
            ("flag", true),
            ("tags.list.item", true),
            ("pair.unique", false),
            ("pair.few", true),
        ];
        assert_eq!(found, wanted.map(|(path, repeats)| (path.to_owned(), repeats)));
        assert!(!repeats(&price));
    }
}
