//! `numeric`, from its stored form rather than through `numeric_out`, which allocates a string a value.
//!
//! The layout is private to Postgres (`src/backend/utils/adt/numeric.c`, struct `NumericChoice`) but on disk, and so the same
//! since 9.1.
#![forbid(unsafe_code)]

use crate::text::cursor::Append;
use crate::text::number::{NonFinite, four_digits, unsigned};

/// Writes a `numeric` as `numeric_out` does: all digits of its display scale, never an exponent.
/// `payload` is what follows the varlena header, detoasted. Nothing is written if it is a special
/// value. Words that a damaged payload lacks count as zero.
pub fn numeric(out: &mut impl Append, payload: &[u8]) -> Result<(), NonFinite> {
    if short_numeric(out, payload) { Ok(()) } else { long_numeric(out, payload) }
}

/// Writes a numeric of at most twelve digits before the point and four after it, which most numbers are. `false`: the number is
/// another, and nothing was written.
#[inline(always)]
pub fn short_numeric(out: &mut impl Append, payload: &[u8]) -> bool {
    let (words, _) = payload.as_chunks::<2>();
    let header = words.first().map_or(0, |word| u16::from_ne_bytes(*word));
    let (weight, scale) = (short_weight(header), short_scale(header));
    let is_short = header & FORM == SHORT && (-1..=2).contains(&weight) && scale <= 4;
    if is_short {
        if header & SHORT_NEGATIVE != 0 {
            out.push(b'-');
        }
        short_decimal(out, words.get(1..).unwrap_or_default(), (weight + 1).cast_unsigned().into(), scale.into());
    }
    is_short
}

const FORM: u16 = 0xc000;
const LONG_NEGATIVE: u16 = 0x4000;
const SHORT: u16 = 0x8000;
const SHORT_NEGATIVE: u16 = 0x2000;
const SPECIAL: u16 = 0xc000;

/// Seven bits of two's complement: shifted to the top, then back with the sign.
#[inline(always)]
const fn short_weight(header: u16) -> i16 {
    (header << 9).cast_signed() >> 9
}

#[inline(always)]
const fn short_scale(header: u16) -> u16 {
    (header & 0x1f80) >> 7
}

/// A finite `numeric`, taken apart.
struct Parts<'a> {
    is_negative: bool,
    /// Decimal digits shown after the point.
    scale: u16,
    /// The first digit counts 10000 to the power of this.
    weight: i16,
    /// Base-10000 digits.
    digits: &'a [[u8; 2]],
}

impl<'a> Parts<'a> {
    fn of(payload: &'a [u8]) -> Result<Self, NonFinite> {
        let (words, _) = payload.as_chunks::<2>();
        let word = |index: usize| words.get(index).map_or(0, |word| u16::from_ne_bytes(*word));
        let header = word(0);
        let form = header & FORM;
        let (is_negative, scale, weight, digits) = match form {
            SPECIAL => return Err(special(header)),
            SHORT => (header & SHORT_NEGATIVE != 0, short_scale(header), short_weight(header), words.get(1..)),
            _ => (form == LONG_NEGATIVE, header & !FORM, word(1).cast_signed(), words.get(2..)),
        };
        Ok(Parts { is_negative, scale, weight, digits: digits.unwrap_or_default() })
    }
}

/// Writes any numeric.
fn long_numeric(out: &mut impl Append, payload: &[u8]) -> Result<(), NonFinite> {
    let parts = Parts::of(payload)?;
    if parts.is_negative {
        out.push(b'-');
    }
    decimal(out, parts.digits, parts.weight.into(), parts.scale.into());
    Ok(())
}

/// Why a `numeric` has no scaled form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscaled {
    /// It is no number.
    NonFinite(NonFinite),
    /// It has digits beyond the scale, or more than 38 of them.
    TooLong,
}

/// A `numeric` as a whole number of units of the last of `scale` decimal digits: 12.5 at scale 2 is 1250. `payload` as in
/// [`numeric`].
pub fn scaled(payload: &[u8], scale: u32) -> Result<i128, Unscaled> {
    const TENS: [i128; 5] = [1, 10, 100, 1_000, 10_000];
    let parts = Parts::of(payload).map_err(Unscaled::NonFinite)?;
    // The group of four decimal digits that the scale ends in, and how many of them it keeps.
    let last = i32::from(parts.weight) + scale.div_ceil(4).cast_signed();
    let kept_of_last = if scale.is_multiple_of(4) { 4 } else { (scale % 4) as usize };
    let group = |digit: &[u8; 2]| i128::from(u16::from_ne_bytes(*digit).min(9_999));
    let mut value: i128 = 0;
    for index in 0..=last {
        let digit = usize::try_from(index).ok().and_then(|index| parts.digits.get(index)).map_or(0, group);
        let kept = if index == last { kept_of_last } else { 4 };
        let lost = TENS[4 - kept];
        if digit % lost != 0 {
            return Err(Unscaled::TooLong);
        }
        value = value.checked_mul(TENS[kept]).and_then(|value| value.checked_add(digit / lost)).ok_or(Unscaled::TooLong)?;
    }
    let beyond = usize::try_from(last + 1).unwrap_or(0);
    if value >= 10_i128.pow(38) || parts.digits.iter().skip(beyond).any(|digit| group(digit) != 0) {
        return Err(Unscaled::TooLong);
    }
    Ok(if parts.is_negative { -value } else { value })
}

fn special(header: u16) -> NonFinite {
    match header & 0xf000 {
        0xd000 => NonFinite::Infinity,
        0xf000 => NonFinite::NegInfinity,
        _ => NonFinite::NaN,
    }
}

/// Writes a number of at most twelve digits before the point and four after it, which most numbers are. `before`: how many of the
/// base-10000 digits stand before the point.
#[inline(always)]
fn short_decimal(out: &mut impl Append, digits: &[[u8; 2]], before: usize, scale: usize) {
    let group = |index: usize| digits.get(index).map_or(0, |digit| u16::from_ne_bytes(*digit).min(9_999));
    let whole = (0..before).fold(0, |whole, index| whole * 10_000 + u64::from(group(index)));
    unsigned(out, whole);
    if scale > 0 {
        let fraction = u64::from(b'.') | u64::from(four_digits(group(before).into())) << 8;
        out.block(fraction.to_le_bytes(), 1 + scale);
    }
}

/// Writes base-10000 `digits`, the first of which counts 10000 to the power of `weight`, with
/// `scale` decimal digits after the point (`get_str_from_var`).
fn decimal(out: &mut impl Append, digits: &[[u8; 2]], weight: i32, scale: usize) {
    let group = |index: i32| {
        let index = usize::try_from(index).ok();
        let digit = index.and_then(|index| digits.get(index));
        four_digits(digit.map_or(0, |&digit| u16::from_ne_bytes(digit).min(9_999)).into()).to_le_bytes()
    };

    // Postgres stores no zeros in front; what is damaged may have some, which JSON does not allow.
    let first = (0..=weight).find(|index| group(*index) != *b"0000");
    match first {
        None => out.push(b'0'),
        Some(first) => {
            let digits = group(first);
            let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
            out.raw(&digits[zeros..]);
            for index in first + 1..=weight {
                out.raw(&group(index));
            }
        }
    }
    if scale > 0 {
        out.push(b'.');
    }
    let (mut index, mut left) = (weight, scale);
    while left > 0 {
        index += 1;
        let shown = left.min(4);
        out.raw(&group(index)[..shown]);
        left -= shown;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::buffer::tests::text;

    fn printed(payload: &[u8]) -> String {
        text(|out| numeric(out, payload).unwrap_or_else(|special| out.raw(special.text().as_bytes())))
    }

    fn stored(words: &[u16]) -> String {
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        printed(&payload)
    }

    /// Each as Postgres 15 stores it (seen by pageinspect) and prints it.
    #[test]
    fn numerics_print_as_numeric_out_does() {
        for (words, wanted) in [
            (&[0x8100][..], "0.00"),
            (&[0xa000, 1], "-1"),
            (&[0xa0ff, 5000], "-0.5"),
            (&[0x827f, 1], "0.0001"),
            (&[0x82fe, 1000], "0.00001"),
            (&[0xa47e, 1000], "-0.00001000"),
            (&[0x8100, 1, 2000], "1.20"),
            (&[0x8201, 1, 0, 1], "10000.0001"),
            (&[0x8401, 1234, 5678, 1234, 5678], "12345678.12345678"),
            (&[0x8503, 1, 0, 0, 0, 0, 0, 100], "1000000000000.0000000001"),
            (&[0xc000], "NaN"),
            (&[0xd000], "Infinity"),
            (&[0xf000], "-Infinity"),
        ] {
            assert_eq!(stored(words), wanted);
        }
    }

    #[test]
    fn long_numerics_reach_to_the_ends_of_their_range() {
        let zeros = "0".repeat(131_071);
        assert_eq!(stored(&[0x4000, 0x7fff, 1000]), format!("-1{zeros}"));
        let zeros = &zeros[..16_382];
        assert_eq!(stored(&[0x3fff, 0xf000, 10]), format!("0.{zeros}1"));
    }

    /// The stored form of `value` units of the last of `scale` decimal digits.
    fn stored_units(value: i128, scale: u16) -> Vec<u8> {
        let mut rest = value.unsigned_abs() * 10_u128.pow(u32::from(scale.next_multiple_of(4) - scale));
        let mut digits = Vec::new();
        while rest > 0 {
            digits.insert(0, (rest % 10_000) as u16);
            rest /= 10_000;
        }
        let weight = (digits.len() as i16 - 1 - (scale.div_ceil(4) as i16)).cast_unsigned();
        let sign = if value < 0 { LONG_NEGATIVE } else { 0 };
        [sign | scale, weight].into_iter().chain(digits).flat_map(u16::to_ne_bytes).collect()
    }

    #[test]
    fn what_has_no_scaled_form_is_refused() {
        let most = 10_i128.pow(38) - 1;
        assert_eq!(scaled(&stored_units(most, 0), 0), Ok(most));
        assert_eq!(scaled(&stored_units(-most, 4), 4), Ok(-most));
        assert_eq!(scaled(&stored_units(most, 0), 1), Err(Unscaled::TooLong));
        assert_eq!(scaled(&stored_units(most + 1, 0), 0), Err(Unscaled::TooLong));
        // Digits below all that the scale keeps, and above all that 38 digits hold.
        assert_eq!(scaled(&stored_units(1, 12), 2), Err(Unscaled::TooLong));
        let highest: Vec<u8> = [0, 0x7fff, 1000].into_iter().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(scaled(&highest, 0), Err(Unscaled::TooLong));
        assert_eq!(scaled(&0xd000_u16.to_ne_bytes(), 0), Err(Unscaled::NonFinite(NonFinite::Infinity)));
        assert_eq!(scaled(&[], 5), Ok(0));
    }

    #[test]
    fn a_damaged_numeric_is_still_a_json_number() {
        for payload in [&[][..], &[1], &[0, 0, 9], &[0, 0x81, 0xff, 0xff], &[0, 0, 2, 0], &[2, 0x81, 0, 0, 0, 0, 7, 0]] {
            assert!(serde_json::from_str::<serde_json::Number>(&printed(payload)).is_ok());
        }
    }

    proptest! {
        #[test]
        fn what_most_numerics_are_prints_as_all_do(
            digits in prop::collection::vec(0u16..10_000, 0..6), weight in -1i16..=2, scale in 0u16..=4, negative in any::<bool>(),
        ) {
            let sign = if negative { SHORT_NEGATIVE } else { 0 };
            let words = [&[SHORT | sign | scale << 7 | weight.cast_unsigned() & 0x7f], &digits[..]].concat();
            let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let short = text(|out| assert!(short_numeric(out, &payload)));
            prop_assert_eq!(short, text(|out| long_numeric(out, &payload).unwrap()));
        }

        #[test]
        fn a_scaled_form_is_exact_or_refused(value in -(10_i128.pow(34))..10_i128.pow(34), scale in 0u16..40, to in 0u32..40) {
            let wanted = match 10_i128.checked_pow(to.abs_diff(scale.into())) {
                Some(power) if to >= scale.into() => value.checked_mul(power).filter(|units| units.abs() < 10_i128.pow(38)),
                Some(power) => (value % power == 0).then(|| value / power),
                None => (value == 0).then_some(0),
            };
            prop_assert_eq!(scaled(&stored_units(value, scale), to).ok(), wanted);
        }

        #[test]
        fn short_and_long_form_print_alike(
            digits in prop::collection::vec(0u16..10_000, 0..12),
            weight in -64i16..64, scale in 0u16..64,
        ) {
            let short_weight = weight.cast_unsigned() & 0x7f;
            let short = [&[0xa000 | scale << 7 | short_weight], &digits[..]].concat();
            let long = [&[0x4000 | scale, weight.cast_unsigned()], &digits[..]].concat();
            prop_assert_eq!(stored(&short), stored(&long));
        }
    }
}
