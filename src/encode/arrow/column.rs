//! The table of types: which Arrow type a column has, and how its values gather.
//!
//! A type of Postgres's is one row of the table and one implementation of [`Gather`], in the file of its subject: `numbers`, `dates`,
//! `texts`, `nested`, `geo`. The compiler asks for every part of it. The table is an enum, so that a value reaches its implementation by
//! one jump, with no call through a pointer.

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field};
use pgrx::pg_sys;
use s3_export_core::error::Result;

use crate::encode::Context;
use crate::encode::arrow::dates::{Date, Intervals, Time, Timestamp, Timestamptz};
use crate::encode::arrow::geo::Geometries;
use crate::encode::arrow::nested::{Lists, Structs};
use crate::encode::arrow::numbers::{Booleans, ByValue, Decimals, Float4, Float8, Int2, Int4, Int8, Oid, Oid8};
use crate::encode::arrow::texts::{Bytea, Enums, Json, Jsonb, Others, Payloads, Text, UuidValues};
use crate::encode::datum::{OID8, base_type_and_modifier};
use crate::encode::geo::Geo;
use crate::encode::text_value::TextEncoder;

/// The values of a column as they gather for a batch.
pub trait Gather {
    /// The type that the column has for readers.
    fn data_type(&self) -> Result<DataType>;

    /// The column as a field of the schema.
    fn field(&self, name: &str, nullable: bool) -> Result<Field> {
        Ok(Field::new(name, self.data_type()?, nullable))
    }

    /// Whether values can be looked up in a bloom filter.
    fn can_have_bloom_filter(&self) -> bool {
        true
    }

    /// Adds a value; gives the bytes that it takes. Errors: 22003 and 22008 for a value that the type there has not, 0A000, 22021,
    /// 22P05, 53200.
    ///
    /// # Safety
    /// The datum is not NULL and of the column's type.
    unsafe fn push(&mut self, datum: pg_sys::Datum, context: &Context) -> Result<usize>;

    /// Adds a NULL; gives the bytes that it takes. Errors: 53200.
    fn push_null(&mut self) -> Result<usize>;

    /// Returns what has gathered as an array and starts an empty one. Errors: 22021, XX000.
    fn finish(&mut self) -> Result<ArrayRef>;
}

/// Makes the enum and all that asks its types out of one row a type: its values, and the OIDs that tell it, where these do.
macro_rules! columns {
    ($($(#[$doc:meta])* $column:ident($values:ty) $(= $($oid:ident)|+)?,)+) => {
        /// The values of a column that have gathered, by its type.
        pub enum Column {
            $($(#[$doc])* $column($values),)+
        }

        impl Column {
            /// Returns the column of a type that its OID tells. `None`: it takes more to tell.
            fn from_oid(type_id: pg_sys::Oid) -> Option<Self> {
                Some(match type_id {
                    $($($(pg_sys::$oid)|+ => Column::$column(Default::default()),)?)+
                    _ => return None,
                })
            }
        }

        impl Gather for Column {
            fn data_type(&self) -> Result<DataType> {
                match self {
                    $(Column::$column(values) => values.data_type(),)+
                }
            }

            fn field(&self, name: &str, nullable: bool) -> Result<Field> {
                match self {
                    $(Column::$column(values) => values.field(name, nullable),)+
                }
            }

            fn can_have_bloom_filter(&self) -> bool {
                match self {
                    $(Column::$column(values) => values.can_have_bloom_filter(),)+
                }
            }

            unsafe fn push(&mut self, datum: pg_sys::Datum, context: &Context) -> Result<usize> {
                // SAFETY: by the caller's promise, the datum is of the type that the values are of.
                unsafe {
                    match self {
                        $(Column::$column(values) => values.push(datum, context),)+
                    }
                }
            }

            fn push_null(&mut self) -> Result<usize> {
                match self {
                    $(Column::$column(values) => values.push_null(),)+
                }
            }

            fn finish(&mut self) -> Result<ArrayRef> {
                match self {
                    $(Column::$column(values) => values.finish(),)+
                }
            }
        }
    };
}

columns! {
    Bool(Booleans) = BOOLOID,
    Int2(ByValue<Int2>) = INT2OID,
    Int4(ByValue<Int4>) = INT4OID,
    Int8(ByValue<Int8>) = INT8OID,
    Oid(ByValue<Oid>) = OIDOID,
    /// The type that `OID8` tells.
    Oid8(ByValue<Oid8>),
    Float4(ByValue<Float4>) = FLOAT4OID,
    Float8(ByValue<Float8>) = FLOAT8OID,
    /// A numeric whose modifier declares its digits.
    Decimal(Decimals),
    Text(Payloads<Text>) = TEXTOID | VARCHAROID | BPCHAROID,
    Bytea(Payloads<Bytea>) = BYTEAOID,
    Json(Payloads<Json>) = JSONOID,
    Jsonb(Jsonb) = JSONBOID,
    Uuid(UuidValues) = UUIDOID,
    Date(ByValue<Date>) = DATEOID,
    Time(ByValue<Time>) = TIMEOID,
    Timestamp(ByValue<Timestamp>) = TIMESTAMPOID,
    Timestamptz(ByValue<Timestamptz>) = TIMESTAMPTZOID,
    Interval(Box<Intervals>) = INTERVALOID,
    Enum(Box<Enums>),
    Geo(Box<Geometries>),
    List(Box<Lists>),
    Struct(Box<Structs>),
    /// A type that Parquet lacks: Postgres's own text.
    Other(Others),
}

impl Column {
    /// Returns the column for values of a type; a domain's is its base type's.
    pub fn of_type(type_id: pg_sys::Oid, modifier: i32, context: &Context) -> Result<Self> {
        let (type_id, modifier) = base_type_and_modifier(type_id, modifier);
        if let Some(column) = Self::from_oid(type_id) {
            return Ok(column);
        }
        if type_id == OID8 {
            return Ok(Column::Oid8(ByValue::default()));
        }
        if type_id == pg_sys::NUMERICOID
            && let Some(decimals) = Decimals::from_modifier(modifier)
        {
            return Ok(Column::Decimal(decimals));
        }
        // SAFETY: catalog look-ups.
        let (element_type, is_row, is_enum) =
            unsafe { (pg_sys::get_element_type(type_id), pg_sys::type_is_rowtype(type_id), pg_sys::type_is_enum(type_id)) };
        if element_type != pg_sys::InvalidOid {
            return Ok(Column::List(Box::new(Lists::of_type(element_type, modifier, context)?)));
        }
        // What an anonymous record holds is known value by value only.
        if is_row && type_id != pg_sys::RECORDOID {
            return Ok(Column::Struct(Box::new(Structs::of_type(type_id, context)?)));
        }
        if let Some(geo) = Geo::of_type(type_id, &context.memory) {
            return Ok(Column::Geo(Box::new(Geometries::new(geo, modifier))));
        }
        let text = TextEncoder::of_type(type_id, &context.memory);
        Ok(if is_enum { Column::Enum(Box::new(Enums::new(text))) } else { Column::Other(Others::new(text)) })
    }

    /// The column's geometries. `None`: the column holds other values.
    pub fn geometries(&self) -> Option<&Geometries> {
        match self {
            Column::Geo(geometries) => Some(geometries),
            _ => None,
        }
    }
}
