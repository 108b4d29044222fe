//! The text of one document, written byte by byte without ever aborting the backend.
//!
//! `Vec` ends the process when memory runs out, and with it every session of the server. Here a
//! reservation that fails sets a flag: writers go on as if nothing had happened, their bytes are
//! dropped, and the owner asks once a document. No writer has an error path to carry.
#![forbid(unsafe_code)]

use crate::text::cursor::{self, Append};

/// JSON text under construction. Growth is fallible: a failed reservation sets a flag that sticks,
/// and what has no room is dropped. The text is then incomplete, so ask [`failed`](Self::failed)
/// after each document and use nothing of it if so.
#[derive(Debug, Default)]
pub struct JsonBuffer {
    bytes: Vec<u8>,
    failed: bool,
}

// Nobody asks whether it is empty.
#[allow(clippy::len_without_is_empty)]
impl JsonBuffer {
    /// An empty buffer that has allocated nothing.
    pub const fn new() -> Self {
        Self::from_vec(Vec::new())
    }

    /// Continues after the bytes of `bytes`, in its allocation.
    pub const fn from_vec(bytes: Vec<u8>) -> Self {
        Self { bytes, failed: false }
    }

    /// The text and its allocation; incomplete if [`failed`](Self::failed).
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// The text so far.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes written so far.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes allocated.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether memory ran out for any write since the buffer was made; nothing resets it.
    #[inline]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Takes out the bytes of that range, which are there.
    pub fn remove(&mut self, range: std::ops::Range<usize>) {
        self.bytes.drain(range);
    }

    /// Makes room for `additional` bytes, at least doubling when it must grow; false, here and
    /// from then on, if memory ran out.
    #[inline]
    pub fn reserve(&mut self, additional: usize) -> bool {
        self.failed = self.failed || self.bytes.try_reserve(additional).is_err();
        !self.failed
    }

    /// The bytes themselves, for a cursor.
    #[inline(always)]
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Seldom, and so kept out of the writers.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, additional: usize) -> bool {
        self.reserve(additional)
    }

    /// Appends a quoted JSON string with what Postgres's `escape_json` escapes (`src/backend/utils/adt/json.c`): `"`, `\` and
    /// what is below 0x20.
    #[inline]
    pub fn string(&mut self, text: &str) {
        self.reserve(text.len().saturating_add(2));
        self.push(b'"');
        utf8_content(self, text.as_bytes());
        self.push(b'"');
    }

    /// Appends what [`Self::string`] does. `false`: `text` is not UTF-8, and some of it may have been written.
    #[must_use]
    #[inline]
    pub fn checked_string(&mut self, text: &[u8]) -> bool {
        self.reserve(text.len().saturating_add(2));
        self.push(b'"');
        let is_text = string_content(self, text);
        self.push(b'"');
        is_text
    }

    /// Appends `bytes` as padded base64 (RFC 4648, section 4), without quotes.
    pub fn base64(&mut self, bytes: &[u8]) {
        let codec = base64_simd::STANDARD;
        // The codec would reserve by itself, and abort; after this it finds the room it needs.
        if self.reserve(codec.encoded_length(bytes.len())) {
            codec.encode_append(bytes, &mut self.bytes);
        }
    }

    /// Appends JSON text without its line breaks, which JSON allows only between tokens, so that
    /// a document stays on its line.
    pub fn without_line_breaks(&mut self, json: &[u8]) {
        self.reserve(json.len());
        let mut start = 0;
        for position in memchr::memchr2_iter(b'\n', b'\r', json) {
            self.raw(&json[start..position]);
            start = position + 1;
        }
        self.raw(&json[start..]);
    }

    /// Appends `{"__rockset_type":"<type_name>","value":<value>}`. `type_name` needs no escaping;
    /// `value` writes the value, and after it any further members the wrapper has.
    pub fn wrapped(&mut self, type_name: &str, value: impl FnOnce(&mut Self)) {
        self.raw(br#"{"__rockset_type":""#);
        self.raw(type_name.as_bytes());
        self.raw(br#"","value":"#);
        value(self);
        self.push(b'}');
    }
}

impl Append for JsonBuffer {
    #[inline(always)]
    fn block<const N: usize>(&mut self, block: [u8; N], used: usize) {
        if !cursor::append(&mut self.bytes, block, used) && self.make_room(N) {
            cursor::append(&mut self.bytes, block, used);
        }
    }

    #[inline]
    fn raw(&mut self, text: &[u8]) {
        if self.reserve(text.len()) {
            self.bytes.extend_from_slice(text);
        }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.bytes.len()
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }
}

/// Whether `text` is UTF-8. A few instructions for each 32 bytes of a long text.
#[inline(never)]
pub fn is_utf8(text: &[u8]) -> bool {
    simdutf8::basic::from_utf8(text).is_ok()
}

/// Whether a text of JSON, which Postgres has parsed, escapes half of a surrogate pair (`"\ud800"`): no character, and so
/// nothing that a reader could give back. Most readers then refuse the whole file.
pub fn has_lone_surrogate(json: &[u8]) -> bool {
    let mut rest = json;
    // A backslash stands in strings alone, with at least one byte after it.
    while let Some(position) = memchr::memchr(b'\\', rest) {
        let unit = utf16_unit(&rest[position..]);
        let length = match unit {
            None => 2,
            Some(0xdc00..=0xdfff) => return true,
            Some(0xd800..=0xdbff) => match rest.get(position + 6..).and_then(utf16_unit) {
                Some(0xdc00..=0xdfff) => 12,
                _ => return true,
            },
            Some(_) => 6,
        };
        rest = rest.get(position + length..).unwrap_or_default();
    }
    false
}

/// The UTF-16 code unit that `text` begins with, escaped as `\u` and four hexadecimal digits.
fn utf16_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends what stands between the quotes of a string, for which see [`JsonBuffer::string`]. `false`: `text` is not UTF-8, and
/// some of it may have been written.
#[inline(always)]
pub fn string_content(out: &mut impl Append, text: &[u8]) -> bool {
    match ascii_content(out, text) {
        None => true,
        Some(rest) => {
            let is_text = is_utf8(rest);
            if is_text {
                utf8_content(out, rest);
            }
            is_text
        }
    }
}

/// Appends what [`string_content`] does, up to the first byte that is not ASCII; returns what begins with that byte.
///
/// The question costs nothing: as signed numbers, bytes that are not ASCII are less than 0x20 as well.
#[inline(always)]
pub fn ascii_content<'a>(out: &mut impl Append, text: &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = text;
    while let Some(position) = until_special::<true>(out, rest) {
        if !rest[position].is_ascii() {
            return Some(&rest[position..]);
        }
        escape(out, rest[position]);
        rest = &rest[position + 1..];
    }
    None
}

/// Appends what [`string_content`] does, of a text that is UTF-8.
#[inline(always)]
pub fn utf8_content(out: &mut impl Append, text: &[u8]) {
    let mut rest = text;
    while let Some(position) = until_special::<false>(out, rest) {
        escape(out, rest[position]);
        rest = &rest[position + 1..];
    }
}

/// Appends what comes before the first byte to escape, and gives its position; all, if there is none. `ASCII`: also what comes
/// before the first byte that is not ASCII.
#[inline(always)]
fn until_special<const ASCII: bool>(out: &mut impl Append, text: &[u8]) -> Option<usize> {
    let mut rest = text;
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        let before = out.length();
        out.fixed(block);
        if has_special::<ASCII>(block) {
            let (words, _) = block.as_chunks::<8>();
            let found = words.iter().zip([0, 8]).find_map(|(word, start)| Some(start + position_in_word::<ASCII>(*word)?))?;
            out.truncate(before + found);
            return Some(text.len() - rest.len() + found);
        }
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<8>() {
        let before = out.length();
        out.fixed(word);
        if let Some(found) = position_in_word::<ASCII>(*word) {
            out.truncate(before + found);
            return Some(text.len() - rest.len() + found);
        }
        rest = after;
    }
    for (index, byte) in rest.iter().enumerate() {
        if is_special::<ASCII>(*byte) {
            return Some(text.len() - rest.len() + index);
        }
        out.push(*byte);
    }
    None
}

#[inline(always)]
fn escape(out: &mut impl Append, byte: u8) {
    let short = match byte {
        b'\x08' => b'b',
        b'\x0c' => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\\' => byte,
        _ => {
            let low = b"0123456789abcdef"[usize::from(byte & 15)];
            return out.fixed(&[b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), low]);
        }
    };
    out.fixed(&[b'\\', short]);
}

#[inline(always)]
fn is_special<const ASCII: bool>(byte: u8) -> bool {
    let is_below = if ASCII { byte.cast_signed() < 0x20 } else { byte < 0x20 };
    is_below || byte == b'"' || byte == b'\\'
}

/// Without a branch a byte, so that the compiler makes it a few instructions on all 16.
#[inline(always)]
fn has_special<const ASCII: bool>(block: &[u8; 16]) -> bool {
    block.iter().fold(false, |found, byte| found | is_special::<ASCII>(*byte))
}

/// Returns the place of the first byte to escape.
#[inline(always)]
fn position_in_word<const ASCII: bool>(word: [u8; 8]) -> Option<usize> {
    let marks = specials::<ASCII>(u64::from_le_bytes(word));
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

/// The top bit of each byte to escape, exact up to the lowest one set: a byte less than `n` leaves
/// its top bit set when `n` is taken from it, and only such a byte borrows from those above.
#[inline]
const fn specials<const ASCII: bool>(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES * 0x80;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let less = word.wrapping_sub(ONES * 0x20);
    let below = if ASCII { less | word } else { less & !word };
    let equal = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    (below | equal) & TOPS
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the text that a writer writes.
    pub fn text(write: impl FnOnce(&mut JsonBuffer)) -> String {
        let mut out = JsonBuffer::new();
        write(&mut out);
        assert!(!out.failed());
        String::from_utf8(out.into_vec()).unwrap()
    }

    #[test]
    fn escapes_what_postgres_escapes_and_nothing_else() {
        let given = "\u{8}\u{c}\n\r\t\"\\/\u{1}\u{1f}\u{7f}é\u{2028}😀";
        let wanted = "\"\\b\\f\\n\\r\\t\\\"\\\\/\\u0001\\u001f\u{7f}é\u{2028}😀\"";
        assert_eq!(text(|out| out.string(given)), wanted);
        assert_eq!(text(|out| assert!(out.checked_string(given.as_bytes()))), wanted);
    }

    #[test]
    fn finds_a_special_byte_at_every_offset_and_after_every_neighbour() {
        // Miri takes hundreds of times as long.
        for special in (0..0x20).chain([b'"', b'\\']).step_by(if cfg!(miri) { 11 } else { 1 }) {
            for neighbour in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                for offset in 0..27 {
                    let mut bytes = [neighbour; 27];
                    let found = |bytes: &[u8]| until_special::<false>(&mut JsonBuffer::new(), bytes);
                    let found_in_ascii = |bytes: &[u8]| until_special::<true>(&mut JsonBuffer::new(), bytes);
                    assert_eq!((found(&bytes), found_in_ascii(&bytes)), (None, (!neighbour.is_ascii()).then_some(0)));
                    bytes[offset] = special;
                    assert_eq!(found(&bytes), Some(offset));
                    assert_eq!(found_in_ascii(&bytes), Some(if neighbour.is_ascii() { offset } else { 0 }));
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_found_at_every_offset_and_of_every_length() {
        let is_text = |text: &[u8]| JsonBuffer::new().checked_string(text);
        let lengths: &[usize] = if cfg!(miri) { &[1, 16, 27] } else { &[1, 7, 8, 15, 16, 27, 64, 100, 2_000] };
        for &length in lengths {
            for offset in (0..length).rev().take(70) {
                for bad in [&b"\xff"[..], b"\x80", b"\xc3", b"\xc3\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"] {
                    let mut text = vec![b'a'; length];
                    text.splice(offset.., bad.iter().copied());
                    assert!(!is_text(&text), "{bad:x?} at {offset}");
                }
                let text = ["a".repeat(offset).as_bytes(), "\u{e9}\"\u{1f600}".as_bytes()].concat();
                assert!(is_text(&text));
            }
        }
    }

    #[test]
    fn a_lone_surrogate_is_told_from_a_pair() {
        for (json, wanted) in [
            (r#""a\u00e9\n\\ud800""#, false),
            (r#""\ud83d\ude00""#, false),
            (r#"{"\uD83D\uDE00": "\\\ud83d\ude00"}"#, false),
            (r#""\ud800""#, true),
            (r#""\udc00\ud800""#, true),
            (r#""\ud83d\ud83d\ude00""#, true),
            (r#""\ud83dx\ude00""#, true),
            (r#""\ud83d\n""#, true),
            (r#"{"\\\uDFFF": 1}"#, true),
            (r#""\ud83d\u0041""#, true),
        ] {
            assert_eq!(has_lone_surrogate(json.as_bytes()), wanted, "{json}");
            // Rust's own parser refuses just these.
            assert_eq!(serde_json::from_str::<serde_json::Value>(json).is_err(), wanted, "{json}");
        }
    }

    #[test]
    fn wraps_a_value_with_its_type() {
        let printed = text(|out| out.wrapped("bytes", |out| out.base64(b"\x00\xff\x10s3")));
        assert_eq!(printed, r#"{"__rockset_type":"bytes","value":AP8QczM=}"#);
    }

    #[test]
    fn json_loses_its_line_breaks_only() {
        let printed = text(|out| out.without_line_breaks(b"\r\n{\n\t\"a\": \"\\n\"\r\n}\n"));
        assert_eq!(printed, "{\t\"a\": \"\\n\"}");
    }

    #[test]
    fn a_failed_reservation_sticks_and_drops_later_writes() {
        let mut out = JsonBuffer::from_vec(b"[1".to_vec());
        assert!(!out.reserve(usize::MAX));
        out.string("x");
        assert!(out.checked_string(b"x"));
        out.wrapped("bytes", |out| out.base64(b"x"));
        out.without_line_breaks(b"x");
        assert_eq!((out.as_slice(), out.failed()), (&b"[1"[..], true));
        out.truncate(0);
        assert!(out.as_slice().is_empty() && out.failed() && !out.reserve(0));
    }

    proptest! {
        #[test]
        fn strings_and_bytes_read_back_the_same(
            unicode in any::<String>(), ascii in "[\\x00-\\x7f]{0,40}", bytes in any::<Vec<u8>>(),
        ) {
            prop_assert_eq!(JsonBuffer::new().checked_string(&bytes), str::from_utf8(&bytes).is_ok());
            for value in [unicode, ascii] {
                let printed = text(|out| out.string(&value));
                prop_assert_eq!(&printed, &text(|out| assert!(out.checked_string(value.as_bytes()))));
                prop_assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), value);
            }
            let printed = text(|out| out.base64(&bytes));
            prop_assert_eq!(base64_simd::STANDARD.decode_to_vec(printed).unwrap(), bytes);
        }
    }
}
