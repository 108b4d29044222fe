//! How hard each column of a row group is compressed: as asked, unless one of its rows would keep a cancel waiting.
//!
//! A page holds at least one row, and nothing stops a codec within a page. The end of a transaction waits for every thread, so it
//! waits for that page. A row that takes longer than a tenth of a second at the level that was asked for is therefore compressed at
//! the algorithm's fastest level. A row that takes longer even then is stored as it is. Parquet names the codec of each column of each
//! row group, so readers need not know.
#![forbid(unsafe_code)]

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use crate::format::{Algorithm, Compression};

/// How hard one column of a row group is compressed. A later variant is faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// At the level that was asked for.
    Asked,
    /// At the algorithm's lowest level.
    Fastest,
    /// Not compressed.
    Stored,
}

/// Returns the effort that each column of the batch allows.
pub fn efforts(compression: Option<Compression>, batch: &RecordBatch) -> Vec<Effort> {
    batch.columns().iter().map(|column| effort(compression, column)).collect()
}

fn effort(compression: Option<Compression>, column: &dyn Array) -> Effort {
    let Some(asked) = compression else { return Effort::Asked };
    let is_above = |most| has_row_above(most, column, column.len(), &|row| row);
    if !is_above(bytes_at_once(asked)) {
        return Effort::Asked;
    }
    if is_above(bytes_at_once(fastest(asked))) { Effort::Stored } else { Effort::Fastest }
}

/// Returns the same algorithm at its lowest level.
pub fn fastest(compression: Compression) -> Compression {
    Compression { level: compression.level.min(1), ..compression }
}

/// Returns the bytes that the codec compresses in about a tenth of a second, of texts that suit it badly.
fn bytes_at_once(Compression { algorithm, level }: Compression) -> usize {
    match (algorithm, level) {
        (Algorithm::Zstd, 17..) => 64 << 10,
        (Algorithm::Zstd, 13..) => 128 << 10,
        (Algorithm::Zstd, 9..) => 512 << 10,
        (Algorithm::Zstd, 5..) => 1 << 20,
        (Algorithm::Zstd, 3..) => 4 << 20,
        (Algorithm::Gzip, 7..) => 512 << 10,
        (Algorithm::Gzip, 2..) => 2 << 20,
        (Algorithm::Gzip, _) => 4 << 20,
        (Algorithm::Zstd | Algorithm::Snappy | Algorithm::Lz4, _) => 16 << 20,
    }
}

/// Whether a row has more than `most` bytes in one leaf of the column. Row `n` of the `rows` has the elements of `array` from
/// `begin(n)` to `begin(n + 1)`.
fn has_row_above(most: usize, array: &dyn Array, rows: usize, begin: &dyn Fn(usize) -> usize) -> bool {
    // `at`: where an element of the leaf begins, in bytes.
    let leaf = |at: &dyn Fn(usize) -> usize| {
        let start = |row| at(begin(row));
        start(rows) - start(0) > most && (0..rows).any(|row| start(row + 1) - start(row) > most)
    };
    let offset = |offsets: &[i32], index: usize| offsets[index].unsigned_abs() as usize;
    match array.data_type() {
        DataType::Utf8 => leaf(&|index| offset(array.as_string::<i32>().value_offsets(), index)),
        DataType::Binary => leaf(&|index| offset(array.as_binary::<i32>().value_offsets(), index)),
        DataType::Struct(_) => array.as_struct().columns().iter().any(|field| has_row_above(most, field, rows, begin)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            has_row_above(most, list.values(), rows, &|row| offset(list.value_offsets(), begin(row)))
        }
        DataType::Boolean => leaf(&|index| index / 8),
        DataType::FixedSizeBinary(width) => {
            let width = width.unsigned_abs() as usize;
            leaf(&|index| index * width)
        }
        other => other.primitive_width().is_some_and(|width| leaf(&|index| index * width)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, ListArray, StringArray, StructArray};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::Field;

    use super::*;

    const HARDEST: Compression = Compression { algorithm: Algorithm::Zstd, level: 19 };

    fn list(element: DataType, values: ArrayRef, lengths: [usize; 2]) -> ArrayRef {
        let field = Arc::new(Field::new("element", element, true));
        Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, None))
    }

    fn text(bytes: usize) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(["x".to_owned(), "x".repeat(bytes)]))
    }

    #[test]
    fn a_large_value_lowers_the_effort_wherever_it_is() {
        use Effort::{Asked, Fastest, Stored};
        for (algorithm, level, most, most_at_fastest) in [
            (Algorithm::Zstd, 19, 64 << 10, 16 << 20),
            (Algorithm::Zstd, 9, 512 << 10, 16 << 20),
            (Algorithm::Gzip, 9, 512 << 10, 4 << 20),
            (Algorithm::Gzip, 6, 2 << 20, 4 << 20),
        ] {
            let compression = Some(Compression { algorithm, level });
            for (bytes, expected) in
                [(most, Asked), (most + 1, Fastest), (most_at_fastest, Fastest), (most_at_fastest + 1, Stored)]
            {
                assert_eq!(effort(compression, &text(bytes)), expected, "{algorithm:?} {level}");
                let within = list(DataType::Utf8, text(bytes), [1, 1]);
                assert_eq!(effort(compression, &within), expected, "{algorithm:?} {level} in a list");
            }
        }
        assert_eq!(effort(None, &text(17 << 20)), Asked);
        let snappy = Some(Compression { algorithm: Algorithm::Snappy, level: 0 });
        assert_eq!([16 << 20, (16 << 20) + 1].map(|bytes| effort(snappy, &text(bytes))), [Asked, Stored]);
    }

    #[test]
    fn a_row_of_many_values_in_a_list_counts_as_one_value() {
        let texts = |lengths: [usize; 2]| {
            let texts = std::iter::repeat_n("x".repeat(1 << 10), lengths.iter().sum());
            list(DataType::Utf8, Arc::new(StringArray::from_iter_values(texts)), lengths)
        };
        let numbers = |lengths: [usize; 2]| {
            let numbers = Int64Array::from_iter_values(0..lengths.iter().sum::<usize>() as i64);
            list(DataType::Int64, Arc::new(numbers), lengths)
        };
        let within = |column: ArrayRef| -> ArrayRef {
            let field = Arc::new(Field::new("f", column.data_type().clone(), true));
            Arc::new(StructArray::from(vec![(field, column)]))
        };
        for (column, expected) in [
            (texts([64, 64]), Effort::Asked),
            (texts([1, 65]), Effort::Fastest),
            (within(texts([64, 1])), Effort::Asked),
            (within(texts([65, 1])), Effort::Fastest),
            (numbers([64 * 128, 64 * 128]), Effort::Asked),
            (numbers([0, 64 * 128 + 1]), Effort::Fastest),
        ] {
            assert_eq!(effort(Some(HARDEST), &column), expected, "{:?}", column.data_type());
            // A part of a batch begins in the middle of its columns.
            assert_eq!(effort(Some(HARDEST), &column.slice(2, 0)), Effort::Asked);
        }
    }
}
