//! One value of CSV, as Postgres's COPY writes it (`CopyAttributeOutCSV` in `src/backend/commands/copyto.c`).
#![forbid(unsafe_code)]

use crate::format::CsvStyle;
use crate::text::buffer::JsonBuffer;
use crate::text::cursor::Append;

/// Writes a text that is not NULL. `forced`: in quotes whatever it is; `alone`: it is all that the line has, where `\.` would
/// end the data.
pub fn write_value(out: &mut JsonBuffer, text: &[u8], style: &CsvStyle, forced: bool, alone: bool) {
    let special = |byte: &u8| [style.delimiter, style.quote, b'\n', b'\r'].contains(byte);
    let is_other = text == style.null.as_bytes() || (alone && text == b"\\.");
    if !(forced || is_other || text.iter().any(special)) {
        return out.raw(text);
    }
    out.push(style.quote);
    let mut rest = text;
    while let Some(position) = memchr::memchr(style.quote, rest) {
        let (before, after) = rest.split_at(position + 1);
        out.raw(before);
        out.push(style.quote);
        rest = after;
    }
    out.raw(rest);
    out.push(style.quote);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::ForceQuote;

    fn style() -> CsvStyle {
        CsvStyle {
            delimiter: b',',
            quote: b'"',
            null: String::new(),
            header: false,
            force_quote: ForceQuote::Columns(Vec::new()),
        }
    }

    fn written(text: &str, style: &CsvStyle, forced: bool, alone: bool) -> String {
        crate::text::buffer::tests::text(|out| write_value(out, text.as_bytes(), style, forced, alone))
    }

    #[test]
    fn only_what_needs_quotes_has_them() {
        let (plain, other) = (style(), CsvStyle { delimiter: b';', quote: b'\'', null: "NULL".into(), ..style() });
        for (text, style, forced, alone, expected) in [
            ("a b", &plain, false, false, "a b"),
            ("", &plain, false, false, "\"\""),
            ("a,b", &plain, false, false, "\"a,b\""),
            ("a\"b\"", &plain, false, false, "\"a\"\"b\"\"\""),
            ("a\nb", &plain, false, false, "\"a\nb\""),
            ("a\r", &plain, false, false, "\"a\r\""),
            ("\\.", &plain, false, true, "\"\\.\""),
            ("\\.", &plain, false, false, "\\."),
            ("a", &plain, true, false, "\"a\""),
            ("", &other, false, false, ""),
            ("NULL", &other, false, false, "'NULL'"),
            ("a,b;c'd", &other, false, false, "'a,b;c''d'"),
        ] {
            assert_eq!(written(text, style, forced, alone), expected);
        }
    }

    proptest! {
        #[test]
        fn a_reader_finds_the_text_again(text in "[a,\"\n\r;]{0,10}") {
            let line = written(&text, &style(), false, false);
            let back = match line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                Some(quoted) => quoted.replace("\"\"", "\""),
                None => line,
            };
            prop_assert_eq!(back, text);
        }
    }
}
