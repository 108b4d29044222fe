//! The text of one document, written byte by byte without ever aborting the backend.
//!
//! `Vec` ends the process when memory runs out, and with it every session of the server. Here a
//! reservation that fails sets a flag: writers go on as if nothing had happened, their bytes are
//! dropped, and the owner asks once a document. No writer has an error path to carry.
#![forbid(unsafe_code)]

use super::block::{self, Append};

/// JSON text under construction. Growth is fallible: a failed reservation sets a flag that sticks,
/// and what has no room is dropped. The text is then incomplete, so ask [`failed`](Self::failed)
/// after each document and use nothing of it if so.
#[derive(Debug, Default)]
pub struct JsonBuffer {
    bytes: Vec<u8>,
    failed: bool,
}

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
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes allocated.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether memory ran out for any write since the buffer was made; nothing resets it.
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

    /// Appends UTF-8 bytes, unchecked, as a quoted JSON string with what Postgres's `escape_json`
    /// escapes (`src/backend/utils/adt/json.c`): `"`, `\` and what is below 0x20.
    pub fn string(&mut self, text: &[u8]) {
        self.reserve(text.len().saturating_add(2));
        self.push(b'"');
        string_content(self, text);
        self.push(b'"');
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
        if !block::append(&mut self.bytes, block, used) && self.make_room(N) {
            block::append(&mut self.bytes, block, used);
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

/// Appends what stands between the quotes of a string, for which see [`JsonBuffer::string`].
#[inline(always)]
pub fn string_content(out: &mut impl Append, text: &[u8]) {
    let mut rest = text;
    while let Some(position) = until_special(out, rest) {
        escape(out, rest[position]);
        rest = &rest[position + 1..];
    }
}

/// Appends what comes before the first byte to escape, and gives its position; all, if there is none.
#[inline(always)]
fn until_special(out: &mut impl Append, text: &[u8]) -> Option<usize> {
    let mut rest = text;
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        let before = out.length();
        out.fixed(block);
        if has_special(block) {
            let (words, _) = block.as_chunks::<8>();
            let found = words.iter().zip([0, 8]).find_map(|(word, start)| Some(start + position_in_word(*word)?))?;
            out.truncate(before + found);
            return Some(text.len() - rest.len() + found);
        }
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<8>() {
        let before = out.length();
        out.fixed(word);
        if let Some(found) = position_in_word(*word) {
            out.truncate(before + found);
            return Some(text.len() - rest.len() + found);
        }
        rest = after;
    }
    for (index, byte) in rest.iter().enumerate() {
        if is_special(*byte) {
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
fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Without a branch a byte, so that the compiler makes it a few instructions on all 16.
#[inline(always)]
fn has_special(block: &[u8; 16]) -> bool {
    block.iter().fold(false, |found, byte| found | is_special(*byte))
}

/// Where the first byte to escape is.
#[inline(always)]
fn position_in_word(word: [u8; 8]) -> Option<usize> {
    let marks = specials(u64::from_le_bytes(word));
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

/// The top bit of each byte to escape, exact up to the lowest one set: a byte less than `n` leaves
/// its top bit set when `n` is taken from it, and only such a byte borrows from those above.
#[inline]
const fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    const TOPS: u64 = ONES * 0x80;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let equal = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    (below | equal) & TOPS
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a writer writes.
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
        assert_eq!(text(|out| out.string(given.as_bytes())), wanted);
    }

    #[test]
    fn finds_a_special_byte_at_every_offset_and_after_every_neighbour() {
        for special in (0..0x20).chain([b'"', b'\\']) {
            for neighbour in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                for offset in 0..27 {
                    let mut bytes = [neighbour; 27];
                    let found = |bytes: &[u8]| until_special(&mut JsonBuffer::new(), bytes);
                    assert_eq!(found(&bytes), is_special(neighbour).then_some(0));
                    bytes[offset] = special;
                    assert_eq!(found(&bytes), Some(offset));
                }
            }
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
        out.string(b"x");
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
            for value in [unicode, ascii] {
                let printed = text(|out| out.string(value.as_bytes()));
                prop_assert_eq!(serde_json::from_str::<String>(&printed).unwrap(), value);
            }
            let printed = text(|out| out.base64(&bytes));
            prop_assert_eq!(base64_simd::STANDARD.decode_to_vec(printed).unwrap(), bytes);
        }
    }
}
