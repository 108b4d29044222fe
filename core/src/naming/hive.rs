//! Names of partitions' folders, in Hive's layout: `country=FR/day=2026-01-01`.
#![forbid(unsafe_code)]

use std::fmt::Write;

/// Folder name of NULL. The same text as a value is escaped, so that the two differ.
pub const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Appends `text` as a value or a column's name. ASCII that a file system, a URL or Hive would take for something else is
/// percent-encoded; what is not ASCII stays, since Hive decodes byte by byte.
pub fn escape(text: &str, out: &mut String) {
    let is_null = text == NULL;
    for (index, character) in text.chars().enumerate() {
        let is_plain = character.is_ascii_alphanumeric() || "-_.~".contains(character) || !character.is_ascii();
        if is_plain && !(is_null && index == 0) && !character.is_control() {
            out.push(character);
        } else {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        escape(text, &mut out);
        out
    }

    fn unescaped(text: &str) -> String {
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] == b'%' {
                out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
                at += 3;
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_are_those_that_readers_know() {
        for (text, expected) in [
            ("FR", "FR"),
            ("2026-01-01 10:00:00", "2026-01-01%2010%3A00%3A00"),
            ("a/b=c%", "a%2Fb%3Dc%25"),
            ("..", ".."),
            ("", ""),
            ("é日", "é日"),
            ("\u{85}\n", "%C2%85%0A"),
            (NULL, "%5F_HIVE_DEFAULT_PARTITION__"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_one_segment_and_is_read_back(text: String) {
            let name = escaped(&text);
            proptest::prop_assert!(!name.contains(['/', '=', '\n', '\0']) && name != NULL);
            proptest::prop_assert_eq!(unescaped(&name), text);
        }
    }
}
