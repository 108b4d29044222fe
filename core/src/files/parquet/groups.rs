//! The row groups of one file. Parquet's own `ArrowWriter` compresses all row groups alike; here a row group whose rows would keep a
//! cancel waiting is compressed with less effort (`effort.rs`).
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, PageStoreFactory, compute_leaves};
use parquet::basic::Compression as Codec;
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::effort::Effort;
use crate::files::compress::EncodedBytes;

/// Writes batches of rows into row groups, and row groups into the file's bytes.
pub struct GroupWriter {
    file: SerializedFileWriter<EncodedBytes>,
    schema: SchemaRef,
    pages: Arc<dyn PageStoreFactory>,
    /// The codec of [`Effort::Fastest`].
    fastest: Codec,
    /// The row group that is not full yet.
    group: Option<Group>,
}

/// A row group in the making.
struct Group {
    /// One a leaf, in the schema's order.
    leaves: Vec<ArrowColumnWriter>,
    /// One a column.
    efforts: Vec<Effort>,
    rows: usize,
}

impl GroupWriter {
    /// Begins a file. The properties hold the codec of [`Effort::Asked`] and the limits of a row group.
    pub fn new(
        schema: SchemaRef,
        properties: WriterProperties,
        fastest: Codec,
        pages: Arc<dyn PageStoreFactory>,
    ) -> Result<Self> {
        let root = ArrowSchemaConverter::new().convert(&schema)?.root_schema_ptr();
        let file = SerializedFileWriter::new(EncodedBytes::default(), root, Arc::new(properties))?;
        Ok(GroupWriter { file, schema, pages, fastest, group: None })
    }

    /// Writes the rows of a batch, whose columns allow these efforts, into as many row groups as they need.
    pub fn write(&mut self, batch: &RecordBatch, efforts: &[Effort]) -> Result<()> {
        let mut rest = batch.clone();
        while rest.num_rows() > 0 {
            let mut group = match self.group.take() {
                Some(group) if group.allows(efforts) => group,
                Some(group) => {
                    self.end(group)?;
                    continue;
                }
                None => self.begin(efforts)?,
            };
            let rows = self.room(&group).min(rest.num_rows());
            if rows > 0 {
                group.write(&self.schema, &rest.slice(0, rows))?;
                rest = rest.slice(rows, rest.num_rows() - rows);
            }
            if rows == 0 || self.is_full(&group) {
                self.end(group)?;
            } else {
                self.group = Some(group);
            }
        }
        Ok(())
    }

    /// Returns the number of row groups that are written.
    pub fn row_groups(&self) -> usize {
        self.file.flushed_row_groups().len()
    }

    /// Returns the number of leaves of the schema.
    pub fn leaves(&self) -> usize {
        self.file.schema_descr().num_columns()
    }

    /// Writes the last row group and the footer.
    pub fn finish(&mut self) -> Result<()> {
        if let Some(group) = self.group.take() {
            self.end(group)?;
        }
        self.file.finish().map(drop)
    }

    /// Takes out the bytes that the file has grown by.
    pub fn take(&mut self) -> io::Result<Vec<u8>> {
        self.file.flush()?;
        Ok(self.file.inner_mut().take())
    }

    fn begin(&self, efforts: &[Effort]) -> Result<Group> {
        let factory = if efforts.iter().all(|&effort| effort == Effort::Asked) {
            ArrowRowGroupWriterFactory::new(&self.file, Arc::clone(&self.schema))
        } else {
            // A writer's factory knows no other properties than the writer's.
            let root = self.file.schema_descr().root_schema_ptr();
            let properties = Arc::new(self.properties(efforts));
            let writer = SerializedFileWriter::new(io::sink(), root, properties)?;
            ArrowRowGroupWriterFactory::new(&writer, Arc::clone(&self.schema))
        };
        let leaves = factory.with_page_store_factory(Arc::clone(&self.pages)).create_column_writers(self.row_groups())?;
        Ok(Group { leaves, efforts: efforts.to_vec(), rows: 0 })
    }

    fn properties(&self, efforts: &[Effort]) -> WriterProperties {
        let mut properties = WriterProperties::clone(self.file.properties()).into_builder();
        for leaf in self.file.schema_descr().columns() {
            let column = self.schema.fields().iter().position(|field| Some(field.name()) == leaf.path().parts().first());
            let codec = match column.and_then(|column| efforts.get(column)) {
                Some(Effort::Fastest) => self.fastest,
                Some(Effort::Stored) => Codec::UNCOMPRESSED,
                Some(Effort::Asked) | None => continue,
            };
            properties = properties.set_column_compression(ColumnPath::new(leaf.path().parts().to_vec()), codec);
        }
        properties.build()
    }

    /// Returns how many more rows the row group may have, by its rows and by the bytes of a row so far.
    fn room(&self, group: &Group) -> usize {
        let properties = self.file.properties();
        let by_rows = properties.max_row_group_row_count().map_or(usize::MAX, |most| most.saturating_sub(group.rows));
        let bytes = group.bytes();
        let by_bytes = properties.max_row_group_bytes().and_then(|most| {
            let bytes_of_a_row = bytes.checked_div(group.rows).filter(|&bytes| bytes > 0)?;
            Some(most.saturating_sub(bytes) / bytes_of_a_row)
        });
        by_rows.min(by_bytes.unwrap_or(usize::MAX))
    }

    fn is_full(&self, group: &Group) -> bool {
        let properties = self.file.properties();
        properties.max_row_group_row_count().is_some_and(|most| group.rows >= most)
            || properties.max_row_group_bytes().is_some_and(|most| group.bytes() >= most)
    }

    fn end(&mut self, group: Group) -> Result<()> {
        let mut writer = self.file.next_row_group()?;
        // Every leaf is closed, and so compressed, before the first is written: an error leaves no half of a row group.
        let chunks: Vec<_> = group.leaves.into_iter().map(ArrowColumnWriter::close).collect::<Result<_>>()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut writer)?;
        }
        writer.close().map(drop)
    }
}

impl Group {
    /// Whether rows that allow these efforts may go into the row group.
    fn allows(&self, efforts: &[Effort]) -> bool {
        self.efforts.iter().zip(efforts).all(|(ours, allowed)| ours >= allowed)
    }

    fn write(&mut self, schema: &SchemaRef, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        let mut leaves = self.leaves.iter_mut();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            for (values, leaf) in compute_leaves(field, column)?.iter().zip(&mut leaves) {
                leaf.write(values)?;
            }
        }
        Ok(())
    }

    /// Returns the bytes of the row group so far, encoded and compressed, by the encoder's estimate.
    fn bytes(&self) -> usize {
        self.leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum()
    }
}
