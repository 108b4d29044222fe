//! Columns of numbers: booleans, integers, floats, and numeric with declared digits as DECIMAL.

use arrow_array::ArrayRef;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, UInt32Type, UInt64Type,
};
use arrow_schema::DataType;
use pgrx::pg_sys;
use pgrx::pg_sys::Datum;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::numeric::{Unscaled, scaled};

use crate::encode::Context;
use crate::encode::arrow::array::{Bools, Numbers};
use crate::encode::arrow::column::Gather;
use crate::encode::datum::payload;

/// Digits that a DECIMAL of Parquet's may have, for all readers.
const MAX_DIGITS: i32 = 38;

/// A type whose Datum is the value itself, and whose values are numbers to Arrow.
pub trait Number {
    /// Arrow's type.
    type Arrow: ArrowPrimitiveType;
    /// Whether values can be looked up in a bloom filter.
    const CAN_HAVE_BLOOM_FILTER: bool = true;

    /// The type that the column has for readers.
    fn data_type() -> DataType {
        Self::Arrow::DATA_TYPE
    }

    /// Reads a value. Errors: 22008 for one that Arrow's type lacks.
    fn read(datum: Datum) -> Result<<Self::Arrow as ArrowPrimitiveType>::Native>;
}

/// Values of a [`Number`].
pub struct ByValue<N: Number>(Numbers<N::Arrow>);

impl<N: Number> Default for ByValue<N> {
    fn default() -> Self {
        ByValue(Numbers::default())
    }
}

impl<N: Number> Gather for ByValue<N> {
    fn data_type(&self) -> Result<DataType> {
        Ok(N::data_type())
    }

    fn can_have_bloom_filter(&self) -> bool {
        N::CAN_HAVE_BLOOM_FILTER
    }

    #[inline(always)]
    unsafe fn push(&mut self, datum: Datum, _context: &Context) -> Result<usize> {
        self.0.push(N::read(datum)?)
    }

    #[inline(always)]
    fn push_null(&mut self) -> Result<usize> {
        self.0.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(self.0.finish(N::data_type()))
    }
}

/// `smallint`.
pub struct Int2;

impl Number for Int2 {
    type Arrow = Int16Type;

    #[inline(always)]
    fn read(datum: Datum) -> Result<i16> {
        Ok(datum.value() as i16)
    }
}

/// `integer`.
pub struct Int4;

impl Number for Int4 {
    type Arrow = Int32Type;

    #[inline(always)]
    fn read(datum: Datum) -> Result<i32> {
        Ok(datum.value() as i32)
    }
}

/// `bigint`.
pub struct Int8;

impl Number for Int8 {
    type Arrow = Int64Type;

    #[inline(always)]
    fn read(datum: Datum) -> Result<i64> {
        Ok(datum.value() as i64)
    }
}

/// `oid`.
pub struct Oid;

impl Number for Oid {
    type Arrow = UInt32Type;

    #[inline(always)]
    fn read(datum: Datum) -> Result<u32> {
        Ok(datum.value() as u32)
    }
}

/// `oid8`.
pub struct Oid8;

impl Number for Oid8 {
    type Arrow = UInt64Type;

    #[inline(always)]
    fn read(datum: Datum) -> Result<u64> {
        Ok(datum.value() as u64)
    }
}

/// `real`. A bloom filter hashes the bits of floats, and so says of `-0` and of some NaN that they are not there, though they equal the
/// value that is looked for.
pub struct Float4;

impl Number for Float4 {
    type Arrow = Float32Type;
    const CAN_HAVE_BLOOM_FILTER: bool = false;

    #[inline(always)]
    fn read(datum: Datum) -> Result<f32> {
        Ok(f32::from_bits(datum.value() as u32))
    }
}

/// `double precision`, of which the same holds as of [`Float4`].
pub struct Float8;

impl Number for Float8 {
    type Arrow = Float64Type;
    const CAN_HAVE_BLOOM_FILTER: bool = false;

    #[inline(always)]
    fn read(datum: Datum) -> Result<f64> {
        Ok(f64::from_bits(datum.value() as u64))
    }
}

/// `boolean`.
#[derive(Default)]
pub struct Booleans(Bools);

impl Gather for Booleans {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn can_have_bloom_filter(&self) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn push(&mut self, datum: Datum, _context: &Context) -> Result<usize> {
        self.0.push(datum.value() as u8 != 0)
    }

    fn push_null(&mut self) -> Result<usize> {
        self.0.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(self.0.finish())
    }
}

/// `numeric(p,s)`.
pub struct Decimals {
    values: Numbers<Decimal128Type>,
    digits: Digits,
}

/// How many decimal digits a DECIMAL has, and how many of them after the point.
#[derive(Clone, Copy)]
struct Digits {
    precision: u8,
    scale: u8,
}

impl Decimals {
    /// Returns a column of the digits that a numeric's modifier declares. `None`: it declares none, or more than there may be.
    pub fn from_modifier(modifier: i32) -> Option<Self> {
        Some(Decimals { values: Numbers::default(), digits: Digits::from_modifier(modifier)? })
    }
}

impl Gather for Decimals {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Decimal128(self.digits.precision, self.digits.scale.cast_signed()))
    }

    #[inline]
    unsafe fn push(&mut self, datum: Datum, _context: &Context) -> Result<usize> {
        // SAFETY: a numeric has variable length, and is read at once.
        self.values.push(decimal(unsafe { payload(datum) }, self.digits)?)
    }

    fn push_null(&mut self) -> Result<usize> {
        self.values.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(self.values.finish(self.data_type()?))
    }
}

impl Digits {
    /// Returns the digits that `numeric(p,s)` declares, whose modifier this is. `None`: it declares none, or more than there may be.
    fn from_modifier(modifier: i32) -> Option<Self> {
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

/// The error of a value that Parquet's type lacks.
pub fn unfit(code: Code, what: &str) -> Error {
    Error::new(code, format!("Parquet has no {what}"))
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        digits_are_as_numeric_declares_them,
    }

    fn digits_are_as_numeric_declares_them() {
        let digits = |precision: i32, scale: i32| {
            Digits::from_modifier(((precision << 16) | (scale & 0x7ff)) + 4).map(|digits| (digits.precision, digits.scale))
        };
        assert_eq!(digits(12, 2), Some((12, 2)));
        assert_eq!(digits(38, 38), Some((38, 38)));
        assert_eq!(digits(39, 0), None);
        assert_eq!(digits(3, -2), Some((5, 0)));
        assert_eq!(digits(2, 5), Some((5, 5)));
        assert_eq!(digits(2, 1000), None);
        assert!(Digits::from_modifier(-1).is_none());
    }
}
