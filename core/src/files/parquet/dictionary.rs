//! The choice of a file's columns that have dictionaries: those whose values repeat in its first rows.
//!
//! An encoder that is left to find out writes a dictionary as long as it is allowed to be and then the values beside it, a
//! fifth more bytes of TPC-H's lineitem than are needed.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

/// Values of fixed size have a dictionary when each stands there so often, because a codec packs numbers well without.
const NUMBER_REPEATS: usize = 5;
/// Text and binary have a dictionary when each value stands there so often.
const TEXT_REPEATS: usize = 2;

/// The columns that values are stored in, those of lists and structs among them, and whether values repeat there.
pub fn leaves(batch: &RecordBatch) -> Vec<(Vec<String>, bool)> {
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
        DataType::Dictionary(..) => found.push((path, true)),
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
    use std::sync::Arc;

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
