//! Numbers as JSON has them: every digit the database holds, and none that it does not; `numeric` has a file of its own. JSON has
//! no NaN and no infinities: these come back as [`NonFinite`], for the caller to wrap.
#![forbid(unsafe_code)]

use crate::text::cursor::Append;

/// A value that no JSON number can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// Not a number.
    NaN,
    /// Positive infinity.
    Infinity,
    /// Negative infinity.
    NegInfinity,
}

impl NonFinite {
    /// Returns the kind of `value`, or `None` for a finite one.
    #[inline]
    pub const fn of_f64(value: f64) -> Option<Self> {
        match value {
            f64::INFINITY => Some(Self::Infinity),
            f64::NEG_INFINITY => Some(Self::NegInfinity),
            _ if value.is_nan() => Some(Self::NaN),
            _ => None,
        }
    }

    /// Postgres's text of it (`float8out`, `numeric_out`).
    #[inline]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NaN => "NaN",
            Self::Infinity => "Infinity",
            Self::NegInfinity => "-Infinity",
        }
    }
}

/// Writes an integer.
#[inline(always)]
pub fn integer(out: &mut impl Append, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    unsigned(out, value.unsigned_abs());
}

/// Writes an integer that is not negative.
#[inline(always)]
pub fn unsigned(out: &mut impl Append, value: u64) {
    const EIGHT: u64 = 100_000_000;
    if value < 10_000 {
        let digits = four_digits(value as u32);
        let zeros = ((digits ^ ZEROS as u32) | 1 << 31).trailing_zeros() / 8;
        return out.block((digits >> (zeros * 8)).to_le_bytes(), 4 - zeros as usize);
    }
    if value < EIGHT {
        return leading(out, value as u32);
    }
    let (high, low) = (value / EIGHT, (value % EIGHT) as u32);
    if high < EIGHT {
        leading(out, high as u32);
    } else {
        leading(out, (high / EIGHT) as u32);
        out.fixed(&eight_digits((high % EIGHT) as u32).to_le_bytes());
    }
    out.fixed(&eight_digits(low).to_le_bytes());
}

/// Writes an integer whose magnitude 64 bits hold; of another, the last 64 bits.
#[inline(always)]
pub fn wide_integer(out: &mut impl Append, value: i128) {
    if value < 0 {
        out.push(b'-');
    }
    unsigned(out, value.unsigned_abs() as u64);
}

/// Writes a number below 10 to the eighth, without leading zeros.
#[inline(always)]
fn leading(out: &mut impl Append, value: u32) {
    let digits = eight_digits(value);
    // The last digit is written even if it is a zero.
    let zeros = ((digits ^ ZEROS) | 1 << 63).trailing_zeros() / 8;
    out.block((digits >> (zeros * 8)).to_le_bytes(), 8 - zeros as usize);
}

/// `00000000`
const ZEROS: u64 = u64::from_le_bytes(*b"00000000");

/// The eight digits of a number below 10 to the eighth, the first in the lowest byte. Halves, then quarters, then digits are
/// parted in all lanes at once; the multiplications divide by 100 and by 10.
#[inline(always)]
pub(super) const fn eight_digits(value: u32) -> u64 {
    let fours = (value / 10_000) as u64 | ((value % 10_000) as u64) << 32;
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | (fours - 100 * hundreds) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    ZEROS + (tens | (twos - 10 * tens) << 8)
}

/// The four digits of a number below 10,000, the first in the lowest byte; see [`eight_digits`].
#[inline(always)]
pub(super) const fn four_digits(value: u32) -> u32 {
    debug_assert!(value < 10_000);
    let hundreds = ((value * 10_486) >> 20) & 0x7f;
    let twos = hundreds | (value - 100 * hundreds) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f;
    ZEROS as u32 + (tens | (twos - 10 * tens) << 8)
}

/// Writes the fewest digits that read back as the same double, very large and small ones
/// with an exponent. Negative zero is `-0.0`, since readers take `-0` for the integer, which has no sign. Nothing is written if
/// `value` is not finite.
pub fn float8(out: &mut impl Append, value: f64) -> Result<(), NonFinite> {
    shortest(out, value)
}

/// Writes what [`float8`] does, but for negative zero, which is `-0` in texts of Postgres and PostGIS.
pub fn float8_text(out: &mut impl Append, value: f64) -> Result<(), NonFinite> {
    if value == 0.0 && value.is_sign_negative() {
        out.raw(b"-0");
        return Ok(());
    }
    shortest(out, value)
}

/// Writes a number like [`float8`], with the digits that read back as the same single.
pub fn float4(out: &mut impl Append, value: f32) -> Result<(), NonFinite> {
    shortest(out, value)
}

#[inline(always)]
fn shortest<F: zmij::Float + Copy + Into<f64>>(out: &mut impl Append, value: F) -> Result<(), NonFinite> {
    if let Some(special) = NonFinite::of_f64(value.into()) {
        return Err(special);
    }
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    let text = if text == "-0.0" { text } else { text.strip_suffix(".0").unwrap_or(text) };
    out.raw(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::buffer::JsonBuffer;
    use crate::text::buffer::tests::text;

    fn number(write: impl FnOnce(&mut JsonBuffer) -> Result<(), NonFinite>) -> String {
        text(|out| write(out).unwrap_or_else(|special| out.raw(special.text().as_bytes())))
    }

    #[test]
    fn floats_have_no_needless_point_and_an_exponent_when_shorter() {
        for (value, wanted) in [
            (-0.0, "-0.0"),
            (0.0, "0"),
            (-1.0, "-1"),
            (0.1, "0.1"),
            (-2.5e-7, "-2.5e-7"),
            (1e23, "1e+23"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(number(|out| float8(out, value)), wanted);
        }
        assert_eq!(number(|out| float4(out, 0.1)), "0.1");
        assert_eq!(number(|out| float4(out, -0.0)), "-0.0");
        assert_eq!(number(|out| float8_text(out, -0.0)), "-0");
        assert_eq!(number(|out| float8_text(out, 0.0)), "0");
        assert_eq!(number(|out| float4(out, f32::NEG_INFINITY)), "-Infinity");
    }

    proptest! {
        #[test]
        fn integers_of_every_length_read_back_the_same(bits in any::<u64>(), shift in 0u32..64, near in -2i128..=2) {
            let power = 10_i128.pow(shift % 19) + near;
            for value in [i128::from(bits >> shift), -i128::from(bits >> shift), power, -power] {
                prop_assert_eq!(text(|out| wide_integer(out, value)), value.to_string());
                if let Ok(value) = i64::try_from(value) {
                    prop_assert_eq!(text(|out| integer(out, value)), value.to_string());
                }
            }
        }

        #[test]
        fn numbers_read_back_the_same(
            whole in any::<i64>(), double in any::<f64>(), single in any::<f32>(),
        ) {
            prop_assert_eq!(text(|out| integer(out, whole)), whole.to_string());
            let printed = [number(|out| float8(out, double)), number(|out| float4(out, single))];
            prop_assert_eq!(printed[0].parse::<f64>().unwrap().to_bits(), double.to_bits());
            prop_assert_eq!(printed[1].parse::<f32>().unwrap().to_bits(), single.to_bits());
            for number in printed {
                prop_assert!(serde_json::from_str::<serde_json::Number>(&number).is_ok());
            }
        }
    }
}
