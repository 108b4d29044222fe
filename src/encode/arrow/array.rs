//! Values that gather in memory that is asked for fallibly, and become Arrow arrays without a copy.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow_array::types::{ArrowPrimitiveType, Int32Type};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, PrimitiveArray, StringArray, StructArray,
};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{ArrowError, DataType, Fields};
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::no_text;

/// Values expected in a batch; more make it grow.
const EXPECTED: usize = 1024;

/// Bitmap of the values that are not NULL.
pub struct Rows(NullBufferBuilder);

impl Default for Rows {
    fn default() -> Self {
        Rows(NullBufferBuilder::new(EXPECTED))
    }
}

impl Rows {
    /// Adds a row; `false`: it is NULL.
    #[inline]
    pub fn push(&mut self, is_there: bool) {
        if is_there { self.0.append_non_null() } else { self.0.append_null() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the rows as an array of composites with these fields. Errors: XX000.
    pub fn finish(&mut self, fields: Fields, arrays: Vec<ArrayRef>) -> Result<ArrayRef> {
        let (length, nulls) = (self.len(), self.0.finish());
        Ok(Arc::new(StructArray::try_new_with_length(fields, arrays, nulls, length).map_err(impossible)?))
    }

    /// Returns the bitmap of the NULLs and starts an empty one. `None`: no row is NULL.
    pub fn finish_nulls(&mut self) -> Option<arrow_buffer::NullBuffer> {
        self.0.finish()
    }
}

/// An array that Arrow refuses was not made as it must be.
pub fn impossible(error: ArrowError) -> Error {
    Error::new(Code::Internal, "a batch of columns could not be made").detail(format!("{error}."))
}

/// Appends to a list that grows fallibly. Errors: 53200.
#[inline]
pub fn push<T>(values: &mut Vec<T>, value: T) -> Result<()> {
    if values.len() == values.capacity() {
        let more = values.len().max(EXPECTED);
        values.try_reserve(more).map_err(|_| Error::out_of_memory("a column of a batch"))?;
    }
    values.push(value);
    Ok(())
}

/// Values of fixed size; a NULL is a zero that does not count.
pub struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    rows: Rows,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Numbers { values: Vec::new(), rows: Rows::default() }
    }
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    /// Adds a number; gives the bytes that it takes. Errors: 53200.
    #[inline]
    pub fn push(&mut self, value: T::Native) -> Result<usize> {
        push(&mut self.values, value)?;
        self.rows.push(true);
        Ok(size_of::<T::Native>())
    }

    /// Adds a NULL; gives the bytes that it takes. Errors: 53200.
    pub fn push_null(&mut self) -> Result<usize> {
        push(&mut self.values, T::Native::default())?;
        self.rows.push(false);
        Ok(size_of::<T::Native>())
    }

    /// Returns the numbers as an array of that type, whose values are such numbers, and starts an empty one.
    pub fn finish(&mut self, data_type: DataType) -> ArrayRef {
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        Arc::new(PrimitiveArray::<T>::new(values, self.rows.finish_nulls()).with_data_type(data_type))
    }
}

/// Booleans, a bit each.
pub struct Bools {
    values: BooleanBufferBuilder,
    rows: Rows,
}

impl Default for Bools {
    fn default() -> Self {
        Bools { values: BooleanBufferBuilder::new(EXPECTED), rows: Rows::default() }
    }
}

impl Bools {
    /// Adds a boolean; gives the bytes that it takes.
    pub fn push(&mut self, value: bool) -> Result<usize> {
        self.values.append(value);
        self.rows.push(true);
        Ok(1)
    }

    /// Adds a NULL; gives the bytes that it takes. Errors: 53200.
    pub fn push_null(&mut self) -> Result<usize> {
        self.values.append(false);
        self.rows.push(false);
        Ok(1)
    }

    /// Returns the booleans as an array and starts an empty one.
    pub fn finish(&mut self) -> ArrayRef {
        Arc::new(BooleanArray::new(self.values.finish(), self.rows.finish_nulls()))
    }
}

/// UUIDs, sixteen bytes each.
#[derive(Default)]
pub struct Uuids {
    values: Vec<[u8; 16]>,
    rows: Rows,
}

impl Uuids {
    /// Adds a UUID; gives the bytes that it takes. Errors: 53200.
    pub fn push(&mut self, value: [u8; 16]) -> Result<usize> {
        push(&mut self.values, value)?;
        self.rows.push(true);
        Ok(16)
    }

    /// Adds a NULL; gives the bytes that it takes. Errors: 53200.
    pub fn push_null(&mut self) -> Result<usize> {
        push(&mut self.values, [0; 16])?;
        self.rows.push(false);
        Ok(16)
    }

    /// Returns the UUIDs as an array and starts an empty one.
    pub fn finish(&mut self) -> ArrayRef {
        let values = Buffer::from_vec(std::mem::take(&mut self.values).into_flattened());
        Arc::new(FixedSizeBinaryArray::new(16, values, self.rows.finish_nulls()))
    }
}

/// Offsets at which each value of variable length begins, and the last one ends.
pub struct Offsets(Vec<i32>);

impl Default for Offsets {
    fn default() -> Self {
        Offsets(vec![0])
    }
}

impl Offsets {
    /// Adds the end of a value. Errors: 53400 for more than Arrow counts in one batch, 53200.
    #[inline]
    pub fn push(&mut self, end: usize) -> Result<()> {
        let end = i32::try_from(end).map_err(|_| Error::new(Code::Limit, "values of one batch of rows exceed 2 GB"))?;
        push(&mut self.0, end)
    }

    /// Returns all offsets and starts at zero again.
    pub fn finish(&mut self) -> OffsetBuffer<i32> {
        OffsetBuffer::new(std::mem::replace(&mut self.0, vec![0]).into())
    }
}

/// Texts or bytes one after another.
#[derive(Default)]
pub struct Bytes {
    values: JsonBuffer,
    offsets: Offsets,
    rows: Rows,
}

impl Bytes {
    /// Adds what `write` appends; gives the bytes that it takes. Errors: `write`'s, 53200.
    #[inline]
    pub fn push(&mut self, write: impl FnOnce(&mut JsonBuffer) -> Result<()>) -> Result<usize> {
        let start = self.values.len();
        write(&mut self.values)?;
        if self.values.failed() {
            return Err(Error::out_of_memory("a column of a batch"));
        }
        self.end(start, true)
    }

    /// Adds a NULL; gives the bytes that it takes. Errors: 53200.
    pub fn push_null(&mut self) -> Result<usize> {
        self.end(self.values.len(), false)
    }

    fn end(&mut self, start: usize, is_there: bool) -> Result<usize> {
        let end = self.values.len();
        self.offsets.push(end)?;
        self.rows.push(is_there);
        Ok(end - start + size_of::<i32>())
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer, Option<arrow_buffer::NullBuffer>) {
        let values = Buffer::from_vec(std::mem::take(&mut self.values).into_vec());
        (self.offsets.finish(), values, self.rows.finish_nulls())
    }

    /// Returns an array of texts. Errors: 22021 for values that are not UTF-8 each, XX000.
    pub fn finish_text(&mut self) -> Result<ArrayRef> {
        let (offsets, values, nulls) = self.take();
        let array = StringArray::try_new(offsets.clone(), values.clone(), nulls);
        Ok(Arc::new(array.map_err(|error| find_no_text(&offsets, &values).unwrap_or_else(|| impossible(error)))?))
    }

    /// Returns the values as an array of bytes and starts an empty one. Errors: XX000.
    pub fn finish_binary(&mut self) -> Result<ArrayRef> {
        let (offsets, values, nulls) = self.take();
        Ok(Arc::new(BinaryArray::try_new(offsets, values, nulls).map_err(impossible)?))
    }
}

/// The error of the first value that is not UTF-8. `None`: all are.
#[cold]
fn find_no_text(offsets: &[i32], values: &[u8]) -> Option<Error> {
    let value = |bounds: &[i32]| values.get(usize::try_from(bounds[0]).ok()?..usize::try_from(bounds[1]).ok()?);
    offsets.windows(2).filter_map(value).find(|value| str::from_utf8(value).is_err()).map(no_text)
}

/// Values of an enum: numbers into a list of labels, which is kept from batch to batch.
#[derive(Default)]
pub struct Labels {
    keys: Numbers<Int32Type>,
    key_of: HashMap<u32, i32>,
    labels: Vec<String>,
}

/// Arrow's type of [`Labels`].
pub fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

impl Labels {
    /// Adds the value of that OID; `label` is asked for its text once. Gives the bytes that it takes. Errors:
    /// `label`'s, 53200.
    pub fn push(&mut self, oid: u32, label: impl FnOnce() -> Result<String>) -> Result<usize> {
        let key = match self.key_of.entry(oid) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.labels.push(label()?);
                *new.insert(i32::try_from(self.labels.len() - 1).unwrap_or(i32::MAX))
            }
        };
        self.keys.push(key)
    }

    /// Adds a NULL; gives the bytes that it takes. Errors: 53200.
    pub fn push_null(&mut self) -> Result<usize> {
        self.keys.push_null()
    }

    /// Returns the values as an array and starts an empty one, which knows the same labels. Errors: XX000.
    pub fn finish(&mut self) -> Result<ArrayRef> {
        let keys = std::mem::take(&mut self.keys);
        let (values, mut rows) = (keys.values, keys.rows);
        let keys_of_rows = PrimitiveArray::<Int32Type>::new(values.into(), rows.finish_nulls());
        let labels: ArrayRef = Arc::new(StringArray::from_iter_values(&self.labels));
        Ok(Arc::new(DictionaryArray::try_new(keys_of_rows, labels).map_err(impossible)?))
    }
}

#[cfg(feature = "pg_test")]
#[allow(clippy::unwrap_used, reason = "a test's panic is its report")]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use proptest::prelude::*;
    use s3_export_core::text::cursor::Append;

    use super::*;
    use crate::inside_tests;

    inside_tests! {
        texts_come_out_as_they_went_in,
        numbers_come_out_as_they_went_in,
        bytes_that_are_no_text_are_an_error,
        labels_are_kept_from_batch_to_batch,
    }

    /// Keeps nothing of a failure, since the server's user cannot write beside the code.
    fn config() -> ProptestConfig {
        ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
    }

    fn texts_come_out_as_they_went_in() {
        proptest!(config(), |(batches in prop::collection::vec(prop::collection::vec(any::<Option<String>>(), 0..50), 1..4))| {
            let mut column = Bytes::default();
            for batch in batches {
                for text in &batch {
                    match text {
                        Some(text) => column.push(|out| { out.raw(text.as_bytes()); Ok(()) }).unwrap(),
                        None => column.push_null().unwrap(),
                    };
                }
                let array = column.finish_text().unwrap();
                let read: Vec<Option<String>> = array.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect();
                prop_assert_eq!(read, batch);
            }
        });
    }

    fn numbers_come_out_as_they_went_in() {
        proptest!(config(), |(batches in prop::collection::vec(prop::collection::vec(any::<Option<i32>>(), 0..50), 1..4))| {
            let mut column = Numbers::<Int32Type>::default();
            for batch in batches {
                for number in &batch {
                    match number {
                        Some(number) => column.push(*number).unwrap(),
                        None => column.push_null().unwrap(),
                    };
                }
                let array = column.finish(DataType::Int32);
                let read: Vec<Option<i32>> = array.as_primitive::<Int32Type>().iter().collect();
                prop_assert_eq!(read, batch);
            }
        });
    }

    fn bytes_that_are_no_text_are_an_error() {
        // The last are text only together.
        for values in [&[&b"\xff"[..]][..], &[b"a", b"b\xc3"], &[b"\xc3", b"\xa9"]] {
            let mut column = Bytes::default();
            for value in values {
                column
                    .push(|out| {
                        out.raw(value);
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(column.finish_text().unwrap_err().code(), Code::InvalidText);
        }
    }

    fn labels_are_kept_from_batch_to_batch() {
        let mut column = Labels::default();
        column.push(7, || Ok("red".into())).unwrap();
        column.finish().unwrap();
        column.push(9, || Ok("blue".into())).unwrap();
        column.push(7, || unreachable!()).unwrap();
        column.push_null().unwrap();
        let array = column.finish().unwrap();
        assert_eq!((array.len(), array.null_count()), (3, 1));
        let texts = array.as_dictionary::<Int32Type>().downcast_dict::<StringArray>().unwrap();
        assert_eq!(texts.into_iter().collect::<Vec<_>>(), [Some("blue"), Some("red"), None]);
    }
}
