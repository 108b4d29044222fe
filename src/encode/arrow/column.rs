//! The table of types: which Arrow type a column has, and how its values gather.

use arrow_array::ArrayRef;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use arrow_schema::extension::{Json, Uuid};
use arrow_schema::{DataType, Field, TimeUnit};
use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::datetime::{MICROSECONDS_PER_DAY, UNIX_TO_POSTGRES, UNIX_TO_POSTGRES_DAYS};
use s3_export_core::text::no_text;
use s3_export_core::text::numeric::{Unscaled, scaled};

use crate::encode::Context;
use crate::encode::arrow::array::{Bools, Bytes, Labels, Numbers, Rows, Uuids, dictionary_type};
use crate::encode::arrow::geo::Geometries;
use crate::encode::arrow::nested::{Lists, Structs};
use crate::encode::datum::{HAS_INFINITE_INTERVALS, OID8};
use crate::encode::datum::{base_type_and_modifier, interval_of, payload};
use crate::encode::geo::Geo;
use crate::encode::text_value::TextEncoder;
use crate::encode::value::{check_surrogates, jsonb_value};

/// Digits that a DECIMAL of Parquet's may have, for all readers.
const MAX_DIGITS: i32 = 38;

/// The values of a column that have gathered.
pub enum Column {
    Bool(Bools),
    Int2(Numbers<Int16Type>),
    Int4(Numbers<Int32Type>),
    Int8(Numbers<Int64Type>),
    Oid(Numbers<UInt32Type>),
    Oid8(Numbers<UInt64Type>),
    Float4(Numbers<Float32Type>),
    Float8(Numbers<Float64Type>),
    Decimal(Numbers<Decimal128Type>, Digits),
    Text(Bytes),
    Bytea(Bytes),
    Json(Bytes),
    Jsonb(Bytes),
    Uuid(Uuids),
    Date(Numbers<Date32Type>),
    Time(Numbers<Time64MicrosecondType>),
    Timestamp(Numbers<TimestampMicrosecondType>),
    Timestamptz(Numbers<TimestampMicrosecondType>),
    Interval(Box<Intervals>),
    Enum(Box<Labels>, TextEncoder),
    Geo(Box<Geometries>),
    List(Box<Lists>),
    Struct(Box<Structs>),
    /// What has no type there: Postgres's own text.
    Other(Bytes, TextEncoder),
}

/// How many decimal digits a DECIMAL has, and how many of them after the point.
#[derive(Clone, Copy)]
pub struct Digits {
    precision: u8,
    scale: u8,
}

impl Digits {
    /// As `numeric(p,s)` declares them, whose modifier this is. `None`: it declares none, or more than there may be.
    fn of_modifier(modifier: i32) -> Option<Self> {
        let declared = modifier - pg_sys::VARHDRSZ as i32;
        if declared < 0 {
            return None;
        }
        // Eleven bits of two's complement.
        let (precision, scale) = ((declared >> 16) & 0xffff, ((declared & 0x7ff) ^ 1024) - 1024);
        // Zeros before the point, and before the first digit, are digits there.
        let precision = if scale < 0 { precision - scale } else { precision.max(scale) };
        if precision > MAX_DIGITS {
            return None;
        }
        Some(Digits { precision: u8::try_from(precision).ok()?, scale: u8::try_from(scale.max(0)).ok()? })
    }
}

/// Months, days and microseconds, as Postgres keeps them apart. INTERVAL of Parquet's has no microseconds and no sign.
#[derive(Default)]
pub struct Intervals {
    months: Numbers<Int32Type>,
    days: Numbers<Int32Type>,
    microseconds: Numbers<Int64Type>,
    rows: Rows,
}

impl Intervals {
    /// Nullable, though they are there where the interval is: Polars 0.20 fails at a NULL whose fields are not.
    fn fields() -> Vec<Field> {
        vec![
            Field::new("months", DataType::Int32, true),
            Field::new("days", DataType::Int32, true),
            Field::new("microseconds", DataType::Int64, true),
        ]
    }
}

impl Column {
    /// For values of a type; a domain's is its base type's.
    pub fn of_type(type_id: pg_sys::Oid, modifier: i32, context: &Context) -> Result<Self> {
        let (type_id, modifier) = base_type_and_modifier(type_id, modifier);
        Ok(match type_id {
            pg_sys::BOOLOID => Column::Bool(Bools::default()),
            pg_sys::INT2OID => Column::Int2(Numbers::default()),
            pg_sys::INT4OID => Column::Int4(Numbers::default()),
            pg_sys::INT8OID => Column::Int8(Numbers::default()),
            pg_sys::OIDOID => Column::Oid(Numbers::default()),
            OID8 => Column::Oid8(Numbers::default()),
            pg_sys::FLOAT4OID => Column::Float4(Numbers::default()),
            pg_sys::FLOAT8OID => Column::Float8(Numbers::default()),
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Column::Text(Bytes::default()),
            pg_sys::BYTEAOID => Column::Bytea(Bytes::default()),
            pg_sys::JSONOID => Column::Json(Bytes::default()),
            pg_sys::JSONBOID => Column::Jsonb(Bytes::default()),
            pg_sys::UUIDOID => Column::Uuid(Uuids::default()),
            pg_sys::DATEOID => Column::Date(Numbers::default()),
            pg_sys::TIMEOID => Column::Time(Numbers::default()),
            pg_sys::TIMESTAMPOID => Column::Timestamp(Numbers::default()),
            pg_sys::TIMESTAMPTZOID => Column::Timestamptz(Numbers::default()),
            pg_sys::INTERVALOID => Column::Interval(Box::default()),
            pg_sys::NUMERICOID if let Some(digits) = Digits::of_modifier(modifier) => {
                Column::Decimal(Numbers::default(), digits)
            }
            other => Self::of_other_type(other, modifier, context)?,
        })
    }

    fn of_other_type(type_id: pg_sys::Oid, modifier: i32, context: &Context) -> Result<Self> {
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
        let _long = context.memory.enter();
        if let Some(geo) = Geo::of_type(type_id) {
            return Ok(Column::Geo(Box::new(Geometries::new(geo, modifier))));
        }
        let text = TextEncoder::of_type(type_id);
        Ok(if is_enum { Column::Enum(Box::default(), text) } else { Column::Other(Bytes::default(), text) })
    }

    /// What the column is to readers.
    pub fn field(&self, name: &str, nullable: bool) -> Result<Field> {
        let field = |data_type| Field::new(name, data_type, nullable);
        Ok(match self {
            Column::Uuid(_) => field(DataType::FixedSizeBinary(16)).with_extension_type(Uuid),
            Column::Json(_) | Column::Jsonb(_) => field(DataType::Utf8).with_extension_type(Json::default()),
            other => field(other.data_type()?),
        })
    }

    fn data_type(&self) -> Result<DataType> {
        Ok(match self {
            Column::Bool(_) => DataType::Boolean,
            Column::Int2(_) => DataType::Int16,
            Column::Int4(_) => DataType::Int32,
            Column::Int8(_) => DataType::Int64,
            Column::Oid(_) => DataType::UInt32,
            Column::Oid8(_) => DataType::UInt64,
            Column::Float4(_) => DataType::Float32,
            Column::Float8(_) => DataType::Float64,
            Column::Decimal(_, digits) => DataType::Decimal128(digits.precision, digits.scale.cast_signed()),
            Column::Text(_) | Column::Other(..) | Column::Json(_) | Column::Jsonb(_) => DataType::Utf8,
            Column::Bytea(_) | Column::Geo(_) => DataType::Binary,
            Column::Uuid(_) => DataType::FixedSizeBinary(16),
            Column::Date(_) => DataType::Date32,
            Column::Time(_) => DataType::Time64(TimeUnit::Microsecond),
            Column::Timestamp(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
            Column::Timestamptz(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Column::Interval(_) => DataType::Struct(Intervals::fields().into()),
            Column::Enum(..) => dictionary_type(),
            Column::List(lists) => DataType::List(lists.element_field()?),
            Column::Struct(structs) => DataType::Struct(structs.fields()?),
        })
    }

    /// If they are geometries.
    pub fn geometries(&self) -> Option<&Geometries> {
        match self {
            Column::Geo(geometries) => Some(geometries),
            _ => None,
        }
    }

    /// Whether values can be looked up in a bloom filter. One of floats hashes their bits, and so says of `-0` and of some NaN that
    /// they are not there, though they equal what is looked for.
    pub fn can_have_bloom_filter(&self) -> bool {
        let is_float = matches!(self, Column::Float4(_) | Column::Float8(_));
        !is_float && !matches!(self, Column::Bool(_) | Column::Interval(_) | Column::List(_) | Column::Struct(_))
    }

    /// Adds a value that is not NULL, of the column's type; gives the bytes that it takes. Errors: 22003 and 22008 for a value
    /// that the type there has not, 0A000, 22021, 22P05, 53200.
    ///
    /// # Safety
    /// The datum is not NULL and of the column's type.
    pub unsafe fn push(&mut self, datum: pg_sys::Datum, context: &Context) -> Result<usize> {
        match self {
            Column::Bool(values) => values.push(datum.value() as u8 != 0),
            Column::Int2(values) => values.push(datum.value() as i16),
            Column::Int4(values) => values.push(datum.value() as i32),
            Column::Int8(values) => values.push(datum.value() as i64),
            Column::Oid(values) => values.push(datum.value() as u32),
            Column::Oid8(values) => values.push(datum.value() as u64),
            Column::Float4(values) => values.push(f32::from_bits(datum.value() as u32)),
            Column::Float8(values) => values.push(f64::from_bits(datum.value() as u64)),
            // SAFETY: a numeric has variable length, and is read at once.
            Column::Decimal(values, digits) => values.push(decimal(unsafe { payload(datum) }, *digits)?),
            // SAFETY: a text has variable length, and is read at once.
            Column::Text(values) => values.push(|out| context.unchecked_text(unsafe { payload(datum) }, out)),
            Column::Json(values) => values.push(|out| {
                // SAFETY: json has variable length, and is read at once.
                let text = unsafe { payload(datum) };
                check_surrogates(text)?;
                context.unchecked_text(text, out)
            }),
            Column::Bytea(values) => values.push(|out| {
                // SAFETY: a bytea has variable length, and is read at once.
                out.raw(unsafe { payload(datum) });
                Ok(())
            }),
            // SAFETY: jsonb.
            Column::Jsonb(values) => values.push(|out| unsafe { jsonb_value(datum, context, out) }),
            // SAFETY: a uuid, which is passed by reference.
            Column::Uuid(values) => values.push(unsafe { *datum.cast_mut_ptr() }),
            Column::Date(values) => values.push(date(datum.value() as i32)?),
            Column::Time(values) => values.push(time(datum.value() as i64)?),
            Column::Timestamp(values) | Column::Timestamptz(values) => values.push(timestamp(datum.value() as i64)?),
            Column::Interval(intervals) => {
                // SAFETY: an interval.
                let value = unsafe { interval_of(datum) };
                if value.is_infinite(HAS_INFINITE_INTERVALS) {
                    return Err(infinite("STRUCT of numbers"));
                }
                intervals.rows.push(true);
                Ok(intervals.months.push(value.months)?
                    + intervals.days.push(value.days)?
                    + intervals.microseconds.push(value.microseconds)?)
            }
            Column::Enum(labels, text) => labels.push(datum.value() as u32, || {
                let mut label = JsonBuffer::new();
                // SAFETY: of the type that `text` was made for.
                unsafe { text.write(datum, context, &mut label)? };
                String::from_utf8(label.into_vec()).map_err(|error| no_text(error.as_bytes()))
            }),
            // SAFETY: by the caller's promise, of the type that each was made for.
            Column::Geo(geometries) => unsafe { geometries.push(datum) },
            // SAFETY: as above.
            Column::List(lists) => unsafe { lists.push(datum, context) },
            // SAFETY: as above.
            Column::Struct(structs) => unsafe { structs.push(datum, context) },
            // SAFETY: as above.
            Column::Other(values, text) => values.push(|out| unsafe { text.write(datum, context, out) }),
        }
    }

    /// Adds a NULL; gives the bytes that it takes.
    pub fn push_null(&mut self) -> Result<usize> {
        match self {
            Column::Bool(values) => values.push_null(),
            Column::Int2(values) => values.push_null(),
            Column::Int4(values) => values.push_null(),
            Column::Enum(labels, _) => labels.push_null(),
            Column::Int8(values) => values.push_null(),
            Column::Oid(values) => values.push_null(),
            Column::Oid8(values) => values.push_null(),
            Column::Float4(values) => values.push_null(),
            Column::Float8(values) => values.push_null(),
            Column::Decimal(values, _) => values.push_null(),
            Column::Text(values)
            | Column::Bytea(values)
            | Column::Json(values)
            | Column::Jsonb(values)
            | Column::Other(values, _) => values.push_null(),
            Column::Geo(geometries) => geometries.push_null(),
            Column::Uuid(values) => values.push_null(),
            Column::Date(values) => values.push_null(),
            Column::Time(values) => values.push_null(),
            Column::Timestamp(values) | Column::Timestamptz(values) => values.push_null(),
            Column::Interval(intervals) => {
                intervals.rows.push(false);
                Ok(intervals.months.push(0)? + intervals.days.push(0)? + intervals.microseconds.push(0)?)
            }
            Column::List(lists) => lists.push_null(),
            Column::Struct(structs) => structs.push_null(),
        }
    }

    /// Returns what has gathered as an array and starts an empty one. Errors: 22021, XX000.
    pub fn finish(&mut self) -> Result<ArrayRef> {
        let data_type = self.data_type()?;
        Ok(match self {
            Column::Bool(values) => values.finish(),
            Column::Int2(values) => values.finish(data_type),
            Column::Int4(values) => values.finish(data_type),
            Column::Int8(values) => values.finish(data_type),
            Column::Oid(values) => values.finish(data_type),
            Column::Oid8(values) => values.finish(data_type),
            Column::Float4(values) => values.finish(data_type),
            Column::Float8(values) => values.finish(data_type),
            Column::Decimal(values, _) => values.finish(data_type),
            Column::Text(values) | Column::Json(values) | Column::Jsonb(values) | Column::Other(values, _) => {
                values.finish_text()?
            }
            Column::Bytea(values) => values.finish_binary()?,
            Column::Geo(geometries) => geometries.finish()?,
            Column::Uuid(values) => values.finish(),
            Column::Date(values) => values.finish(data_type),
            Column::Time(values) => values.finish(data_type),
            Column::Timestamp(values) | Column::Timestamptz(values) => values.finish(data_type),
            Column::Interval(intervals) => {
                let arrays = vec![
                    intervals.months.finish(DataType::Int32),
                    intervals.days.finish(DataType::Int32),
                    intervals.microseconds.finish(DataType::Int64),
                ];
                intervals.rows.finish(Intervals::fields().into(), arrays)?
            }
            Column::Enum(labels, _) => labels.finish()?,
            Column::List(lists) => lists.finish()?,
            Column::Struct(structs) => structs.finish()?,
        })
    }
}

fn unfit(code: Code, what: &str) -> Error {
    Error::new(code, format!("Parquet has no {what}"))
}

fn decimal(payload: &[u8], digits: Digits) -> Result<i128> {
    let most = 10_i128.pow(digits.precision.into());
    match scaled(payload, digits.scale.into()) {
        Ok(value) if value.abs() < most => Ok(value),
        Ok(_) | Err(Unscaled::TooLong) => Err(unfit(
            Code::NumberRange,
            &format!("DECIMAL({},{}) for a number of more digits", digits.precision, digits.scale),
        )),
        Err(Unscaled::NonFinite(special)) => Err(unfit(Code::NumberRange, &format!("DECIMAL for {}", special.text()))
            .hint("Cast the column to double precision, numeric or text, or leave such values out with nullif.")),
    }
}

fn date(days: i32) -> Result<i32> {
    // The ends of the range are the infinities.
    if matches!(days, i32::MIN | i32::MAX) {
        return Err(infinite("DATE"));
    }
    days.checked_add(UNIX_TO_POSTGRES_DAYS).ok_or_else(|| unfit(Code::DateRange, "DATE so late"))
}

fn infinite(what: &str) -> Error {
    unfit(Code::DateRange, &format!("{what} for infinity"))
        .hint("Cast the column to text, or leave such values out with nullif.")
}

fn time(microseconds: i64) -> Result<i64> {
    if microseconds >= MICROSECONDS_PER_DAY {
        return Err(unfit(Code::DateRange, "TIME for 24:00:00").hint("Cast the column to text."));
    }
    Ok(microseconds)
}

fn timestamp(microseconds: i64) -> Result<i64> {
    if matches!(microseconds, i64::MIN | i64::MAX) {
        return Err(infinite("TIMESTAMP"));
    }
    microseconds.checked_add(UNIX_TO_POSTGRES).ok_or_else(|| unfit(Code::DateRange, "TIMESTAMP after the year 294246"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_as_numeric_declares_them() {
        let digits = |precision: i32, scale: i32| {
            Digits::of_modifier(((precision << 16) | (scale & 0x7ff)) + 4).map(|digits| (digits.precision, digits.scale))
        };
        assert_eq!(digits(12, 2), Some((12, 2)));
        assert_eq!(digits(38, 38), Some((38, 38)));
        assert_eq!(digits(39, 0), None);
        assert_eq!(digits(3, -2), Some((5, 0)));
        assert_eq!(digits(2, 5), Some((5, 5)));
        assert_eq!(digits(2, 1000), None);
        assert!(Digits::of_modifier(-1).is_none());
    }

    #[test]
    fn what_has_no_place_there_is_an_error() {
        assert_eq!(date(-UNIX_TO_POSTGRES_DAYS).unwrap(), 0);
        assert_eq!(date(i32::MAX).unwrap_err().code(), Code::DateRange);
        assert_eq!(timestamp(i64::MIN).unwrap_err().code(), Code::DateRange);
        assert_eq!(timestamp(9_223_371_331_199_999_999).unwrap_err().code(), Code::DateRange);
        assert_eq!(time(MICROSECONDS_PER_DAY).unwrap_err().code(), Code::DateRange);
        assert_eq!(timestamp(0).unwrap(), 946_684_800_000_000);
    }
}
