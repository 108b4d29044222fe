//! The parts of a file's footer for readers that know Arrow, without those that readers of before 2026 refuse.
#![forbid(unsafe_code)]

use std::sync::Arc;

use arrow_schema::extension::{EXTENSION_TYPE_METADATA_KEY, EXTENSION_TYPE_NAME_KEY};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use parquet::file::metadata::KeyValue;

/// The entry of the footer's metadata with the Arrow schema. Extension types are left out unless `with_extensions`: Polars up to
/// 1.35 fails at a file that names one, whichever columns it reads. Parquet's own types UUID and JSON say the same.
pub fn arrow_schema(schema: &Schema, with_extensions: bool) -> KeyValue {
    let encoded = if with_extensions { encode_arrow_schema(schema) } else { encode_arrow_schema(&without_extensions(schema)) };
    KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encoded)
}

fn without_extensions(schema: &Schema) -> Schema {
    Schema::new_with_metadata(plain_fields(schema.fields()), schema.metadata().clone())
}

fn plain_fields(fields: &Fields) -> Fields {
    fields.iter().map(plain_field).collect()
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::List(element) => DataType::List(plain_field(element)),
        DataType::Struct(fields) => DataType::Struct(plain_fields(fields)),
        other => other.clone(),
    };
    let mut metadata = field.metadata().clone();
    metadata.remove(EXTENSION_TYPE_NAME_KEY);
    metadata.remove(EXTENSION_TYPE_METADATA_KEY);
    Arc::new(Field::clone(field).with_data_type(data_type).with_metadata(metadata))
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use arrow_array::builder::{FixedSizeBinaryBuilder, Float64Builder, ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, Float32Array, Float64Array, RecordBatch, StructArray};
    use arrow_schema::extension::{ExtensionType, Json, Uuid};
    use bytes::Bytes;
    use parquet::arrow::parquet_to_arrow_schema;
    use parquet::basic::{ColumnOrder, LogicalType};
    use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

    use super::*;
    use crate::files::parquet::Layout;
    use crate::files::parquet::effort::Effort;
    use crate::files::parquet::pages::CancelOnDrop;

    fn footer(batch: &RecordBatch, arrow_extension_types: bool) -> ParquetMetaData {
        let layout = Layout {
            compression: None,
            row_group_rows: 10,
            row_group_bytes: 1 << 20,
            arrow_extension_types,
            bloom_filter_columns: Vec::new(),
            export_id: "e".to_owned(),
            memory: 1 << 20,
            permits: OnceLock::new(),
        };
        let cancel = CancelOnDrop::default();
        let mut writer = layout.begin(batch, cancel.pages()).unwrap();
        writer.write(batch, &vec![Effort::Asked; batch.num_columns()]).unwrap();
        writer.finish().unwrap();
        ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(writer.take().unwrap())).unwrap()
    }

    /// Crate parquet 60 and later write an order of floats that readers of before 2026 do not know. Such a reader refuses the whole file.
    #[test]
    fn floats_are_in_an_order_that_old_readers_know_and_have_statistics() {
        let mut list = ListBuilder::new(Float64Builder::new());
        list.append_value([Some(1.5), None]);
        list.append_value([Some(-0.0)]);
        let double: ArrayRef = Arc::new(Float64Array::from(vec![2.5, f64::NAN]));
        let pair = StructArray::from(vec![(Arc::new(Field::new("d", DataType::Float64, true)), Arc::clone(&double))]);
        let single: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 1.0]));
        let columns: [(&str, ArrayRef); 4] =
            [("single", single), ("double", double), ("list", Arc::new(list.finish())), ("pair", Arc::new(pair))];
        let footer = footer(&RecordBatch::try_from_iter(columns).unwrap(), false);
        let orders = footer.file_metadata().column_orders().unwrap();
        assert_eq!(orders.len(), 4);
        assert!(orders.iter().all(|order| matches!(order, ColumnOrder::TYPE_DEFINED_ORDER(_))), "{orders:?}");
        for column in footer.row_group(0).columns() {
            let statistics = column.statistics().unwrap();
            assert!(statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some(), "{statistics:?}");
        }
    }

    #[test]
    fn extension_types_are_named_where_they_are_asked_for_and_parquets_own_always() {
        let mut uuids = FixedSizeBinaryBuilder::new(16);
        uuids.append_value([7; 16]).unwrap();
        let mut list = ListBuilder::new(StringBuilder::new())
            .with_field(Field::new("element", DataType::Utf8, true).with_extension_type(Json::default()));
        list.append_value([Some("{}")]);
        let list: ArrayRef = Arc::new(list.finish());
        let comment = [("comment".to_owned(), "which".to_owned())];
        let uuid = Field::new("u", DataType::FixedSizeBinary(16), true).with_extension_type(Uuid);
        let metadata = uuid.metadata().clone().into_iter().chain(comment).collect();
        let fields = vec![uuid.with_metadata(metadata), Field::new("list", list.data_type().clone(), true)];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(uuids.finish()), list]).unwrap();
        for is_asked_for in [false, true] {
            let footer = footer(&batch, is_asked_for);
            let schema = footer.file_metadata().schema_descr();
            assert_eq!(schema.column(0).logical_type_ref(), Some(&LogicalType::Uuid));
            assert_eq!(schema.column(1).logical_type_ref(), Some(&LogicalType::Json));
            let named = format!("{:?}", footer.file_metadata().key_value_metadata());
            let entry = footer.file_metadata().key_value_metadata().unwrap();
            let encoded = entry.iter().find(|entry| entry.key == ARROW_SCHEMA_META_KEY).unwrap().value.clone().unwrap();
            let bytes = base64_simd::STANDARD.decode_to_vec(encoded).unwrap();
            let names = |name: &str| memchr::memmem::find(&bytes, name.as_bytes()).is_some();
            assert_eq!((names(Uuid::NAME), names(Json::NAME)), (is_asked_for, is_asked_for), "{named}");
            assert!(names("comment") && names("which"));
            assert!(parquet_to_arrow_schema(schema, footer.file_metadata().key_value_metadata()).is_ok());
        }
    }
}
