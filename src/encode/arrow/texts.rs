//! Columns of texts and bytes: text, bytea, JSON, UUIDs, enums, and Postgres's own text of every type that Parquet lacks.

use std::marker::PhantomData;

use arrow_array::ArrayRef;
use arrow_schema::extension;
use arrow_schema::{DataType, Field};
use pgrx::pg_sys::Datum;
use s3_export_core::error::Result;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::no_text;

use crate::encode::Context;
use crate::encode::arrow::array::{Bytes, Labels, Uuids, dictionary_type};
use crate::encode::arrow::column::Gather;
use crate::encode::datum::payload;
use crate::encode::json::{check_surrogates, jsonb_value};
use crate::encode::text_value::TextEncoder;

/// A type of variable length whose bytes are the value.
pub trait Payload {
    /// The column as a field of the schema.
    fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
        Field::new(name, data_type, nullable)
    }

    /// The type that the column has for readers.
    const DATA_TYPE: DataType = DataType::Utf8;

    /// Appends a value. Errors: 22021, 22P05.
    fn write(payload: &[u8], context: &Context, out: &mut JsonBuffer) -> Result<()>;

    /// Returns what has gathered. Errors: 22021, XX000.
    fn finish(values: &mut Bytes) -> Result<ArrayRef> {
        values.finish_text()
    }
}

/// Values of a [`Payload`].
pub struct Payloads<P>(Bytes, PhantomData<P>);

impl<P> Default for Payloads<P> {
    fn default() -> Self {
        Payloads(Bytes::default(), PhantomData)
    }
}

impl<P: Payload> Gather for Payloads<P> {
    fn data_type(&self) -> Result<DataType> {
        Ok(P::DATA_TYPE)
    }

    fn field(&self, name: &str, nullable: bool) -> Result<Field> {
        Ok(P::field(name, P::DATA_TYPE, nullable))
    }

    #[inline(always)]
    unsafe fn push(&mut self, datum: Datum, context: &Context) -> Result<usize> {
        // SAFETY: by the caller's promise, a value of variable length, which is read at once.
        self.0.push(|out| P::write(unsafe { payload(datum) }, context, out))
    }

    fn push_null(&mut self) -> Result<usize> {
        self.0.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        P::finish(&mut self.0)
    }
}

/// `text`, `varchar` and `char(n)`.
pub struct Text;

impl Payload for Text {
    #[inline(always)]
    fn write(payload: &[u8], context: &Context, out: &mut JsonBuffer) -> Result<()> {
        context.unchecked_text(payload, out)
    }
}

/// `json`.
pub struct Json;

impl Payload for Json {
    fn field(name: &str, data_type: DataType, nullable: bool) -> Field {
        json_field(name, data_type, nullable)
    }

    #[inline(always)]
    fn write(payload: &[u8], context: &Context, out: &mut JsonBuffer) -> Result<()> {
        check_surrogates(payload)?;
        context.unchecked_text(payload, out)
    }
}

/// `bytea`.
pub struct Bytea;

impl Payload for Bytea {
    const DATA_TYPE: DataType = DataType::Binary;

    #[inline(always)]
    fn write(payload: &[u8], _context: &Context, out: &mut JsonBuffer) -> Result<()> {
        out.raw(payload);
        Ok(())
    }

    fn finish(values: &mut Bytes) -> Result<ArrayRef> {
        values.finish_binary()
    }
}

/// A text that readers take for JSON.
fn json_field(name: &str, data_type: DataType, nullable: bool) -> Field {
    Field::new(name, data_type, nullable).with_extension_type(extension::Json::default())
}

/// `jsonb`, as its text.
#[derive(Default)]
pub struct Jsonb(Bytes);

impl Gather for Jsonb {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn field(&self, name: &str, nullable: bool) -> Result<Field> {
        Ok(json_field(name, self.data_type()?, nullable))
    }

    #[inline]
    unsafe fn push(&mut self, datum: Datum, context: &Context) -> Result<usize> {
        // SAFETY: jsonb.
        self.0.push(|out| unsafe { jsonb_value(datum, context, out) })
    }

    fn push_null(&mut self) -> Result<usize> {
        self.0.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        self.0.finish_text()
    }
}

/// `uuid`.
#[derive(Default)]
pub struct UuidValues(Uuids);

impl Gather for UuidValues {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::FixedSizeBinary(16))
    }

    fn field(&self, name: &str, nullable: bool) -> Result<Field> {
        Ok(Field::new(name, self.data_type()?, nullable).with_extension_type(extension::Uuid))
    }

    #[inline]
    unsafe fn push(&mut self, datum: Datum, _context: &Context) -> Result<usize> {
        // SAFETY: a uuid, which is passed by reference.
        self.0.push(unsafe { *datum.cast_mut_ptr() })
    }

    fn push_null(&mut self) -> Result<usize> {
        self.0.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(self.0.finish())
    }
}

/// An enum, as a dictionary of its labels.
pub struct Enums {
    labels: Labels,
    text: TextEncoder,
}

impl Enums {
    /// Returns a column of the enum type that `text` was made for.
    pub fn new(text: TextEncoder) -> Self {
        Enums { labels: Labels::default(), text }
    }
}

impl Gather for Enums {
    fn data_type(&self) -> Result<DataType> {
        Ok(dictionary_type())
    }

    #[inline]
    unsafe fn push(&mut self, datum: Datum, context: &Context) -> Result<usize> {
        self.labels.push(datum.value() as u32, || {
            let mut label = JsonBuffer::new();
            // SAFETY: of the type that `text` was made for.
            unsafe { self.text.write(datum, context, &mut label)? };
            String::from_utf8(label.into_vec()).map_err(|error| no_text(error.as_bytes()))
        })
    }

    fn push_null(&mut self) -> Result<usize> {
        self.labels.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        self.labels.finish()
    }
}

/// Any type that Parquet lacks, as Postgres's own text.
pub struct Others {
    values: Bytes,
    text: TextEncoder,
}

impl Others {
    /// Returns a column of the type that `text` was made for.
    pub fn new(text: TextEncoder) -> Self {
        Others { values: Bytes::default(), text }
    }
}

impl Gather for Others {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    #[inline]
    unsafe fn push(&mut self, datum: Datum, context: &Context) -> Result<usize> {
        // SAFETY: of the type that `text` was made for.
        self.values.push(|out| unsafe { self.text.write(datum, context, out) })
    }

    fn push_null(&mut self) -> Result<usize> {
        self.values.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        self.values.finish_text()
    }
}
