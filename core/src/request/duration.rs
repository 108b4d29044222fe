//! Lengths of time as Postgres's settings write them: `90s`, `30min`, `1.5h`.
#![forbid(unsafe_code)]

use std::time::Duration;

/// Milliseconds of each unit that Postgres knows for settings.
const UNITS: [(&str, f64); 6] =
    [("us", 0.001), ("ms", 1.0), ("s", 1_000.0), ("min", 60_000.0), ("h", 3_600_000.0), ("d", 86_400_000.0)];

/// A number and a unit; without a unit: milliseconds. Rounded to milliseconds; `None`: it is no such text, negative, or over
/// what a setting takes (24 days).
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let factor = if unit.is_empty() { 1.0 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    let milliseconds = number.parse::<f64>().ok()? * factor;
    (milliseconds <= f64::from(i32::MAX)).then(|| Duration::from_millis(milliseconds.round() as u64))
}

/// In the largest unit that leaves no fraction: `90s`.
pub fn show(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let fits = |factor: f64| factor >= 1.0 && milliseconds.is_multiple_of(factor as u128);
    let (unit, factor) = UNITS.iter().rev().find(|(_, factor)| fits(*factor)).unwrap_or(&("ms", 1.0));
    format!("{}{unit}", milliseconds / (*factor as u128))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_settings_take() {
        for (text, milliseconds) in [
            ("250", 250),
            ("250ms", 250),
            ("90s", 90_000),
            ("30 min", 1_800_000),
            ("1.5h", 5_400_000),
            (" 1d ", 86_400_000),
            ("1600us", 2),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1 hour", "1H", "1e3", "1..2", "25d", "1s 2s", "٣s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn shows_the_largest_whole_unit() {
        for (milliseconds, text) in [(90_000, "90s"), (1_800_000, "30min"), (86_400_000, "1d"), (1, "1ms"), (1_500, "1500ms")] {
            assert_eq!(show(Duration::from_millis(milliseconds)), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_back(milliseconds in 1..i32::MAX as u64) {
            let duration = Duration::from_millis(milliseconds);
            proptest::prop_assert_eq!(parse(&show(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,12}") {
            let _ = parse(&text);
        }
    }
}
