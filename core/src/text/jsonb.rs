//! `jsonb` from its stored form, rather than through `jsonb_out`, which builds an iterator and a string a value.
//!
//! The layout (`src/include/utils/jsonb.h`) is on disk, and so the same since 9.4. A container is a word with its kind and the
//! count of its children, a word for each child with its type and where it ends, and then the children. What is not understood
//! is left to Postgres.
#![forbid(unsafe_code)]

use crate::text::buffer::string_content;
use crate::text::cursor::Append;
use crate::text::numeric::numeric;

/// Containers within each other; those that hold more are left to Postgres, which needs no stack for them.
const MAX_LEVELS: u32 = 64;

const COUNT: u32 = 0x0fff_ffff;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;

/// Content of a child's word.
const IS_OFFSET: u32 = 0x8000_0000;
const TYPE: u32 = 0x7000_0000;
const LENGTH: u32 = 0x0fff_ffff;
const STRING: u32 = 0x0000_0000;
const NUMERIC: u32 = 0x1000_0000;
const FALSE: u32 = 0x2000_0000;
const TRUE: u32 = 0x3000_0000;
const NULL: u32 = 0x4000_0000;
const CONTAINER: u32 = 0x5000_0000;

/// Writes the text that `jsonb_out` gives. `payload` is what follows the varlena header, detoasted, of a database in UTF-8.
/// `None`: it is damaged, too deep, or holds what is not UTF-8; something was written all the same.
pub fn write(out: &mut impl Append, payload: &[u8]) -> Option<()> {
    Container::new(payload)?.write(out, MAX_LEVELS)
}

struct Container<'a> {
    kind: u32,
    /// One word a child.
    words: &'a [[u8; 4]],
    data: &'a [u8],
}

impl<'a> Container<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<4>()?;
        let header = u32::from_ne_bytes(*header);
        let count = usize::try_from(header & COUNT).ok()?;
        let children = if header & OBJECT != 0 { 2 * count } else { count };
        let (words, data) = rest.split_at_checked(4 * children)?;
        Some(Container { kind: header & !COUNT, words: words.as_chunks().0, data })
    }

    fn write(&self, out: &mut impl Append, levels: u32) -> Option<()> {
        match self.kind {
            OBJECT => self.write_object(out, levels),
            ARRAY => {
                out.push(b'[');
                for (child, index) in self.children(0, 0).zip(0..) {
                    separate(out, index);
                    child?.write(out, levels)?;
                }
                out.push(b']');
                Some(())
            }
            // A value that is neither is kept as an array of one.
            kind if kind == ARRAY | SCALAR => self.children(0, 0).next()??.write(out, levels),
            _ => None,
        }
    }

    /// All keys come first, then all values.
    fn write_object(&self, out: &mut impl Append, levels: u32) -> Option<()> {
        let count = self.words.len() / 2;
        let mut values_begin = 0;
        for key in self.children(0, 0).take(count) {
            values_begin = key?.end;
        }
        out.push(b'{');
        let pairs = self.children(0, 0).take(count).zip(self.children(count, values_begin));
        for ((key, value), index) in pairs.zip(0..) {
            separate(out, index);
            key?.write(out, levels)?;
            out.fixed(b": ");
            value?.write(out, levels)?;
        }
        out.push(b'}');
        Some(())
    }

    /// The children from that one on, which begins there.
    fn children(&self, first: usize, begins: usize) -> impl Iterator<Item = Option<Child<'a>>> {
        let data = self.data;
        let mut begins = begins;
        self.words.get(first..).unwrap_or_default().iter().map(move |word| {
            let word = u32::from_ne_bytes(*word);
            let number = usize::try_from(word & LENGTH).ok()?;
            let start = begins;
            let end = if word & IS_OFFSET != 0 { number } else { start.checked_add(number)? };
            begins = end;
            Some(Child { kind: word & TYPE, data, bytes: data.get(start..end)?, end })
        })
    }
}

struct Child<'a> {
    kind: u32,
    /// The container's.
    data: &'a [u8],
    bytes: &'a [u8],
    end: usize,
}

impl Child<'_> {
    fn write(&self, out: &mut impl Append, levels: u32) -> Option<()> {
        match self.kind {
            STRING => {
                out.push(b'"');
                if !string_content(out, self.bytes) {
                    return None;
                }
                out.push(b'"');
            }
            NUMERIC => {
                let (header, rest) = self.aligned()?.split_first_chunk::<4>()?;
                let header = u32::from_ne_bytes(*header);
                // A varlena's: two bits are flags, at whichever end the machine has its first byte. One that is plain has none.
                let (flags, length) = if cfg!(target_endian = "little") {
                    (header & 3, header >> 2)
                } else {
                    (header >> 30, header & 0x3fff_ffff)
                };
                if flags != 0 {
                    return None;
                }
                let payload = rest.get(..usize::try_from(length).ok()?.checked_sub(4)?)?;
                numeric(out, payload).ok()?;
            }
            FALSE => out.fixed(b"false"),
            TRUE => out.fixed(b"true"),
            NULL => out.fixed(b"null"),
            CONTAINER => Container::new(self.aligned()?)?.write(out, levels.checked_sub(1)?)?,
            _ => return None,
        }
        Some(())
    }

    /// Without the bytes that align it.
    fn aligned(&self) -> Option<&[u8]> {
        let start = self.end - self.bytes.len();
        self.data.get(start.next_multiple_of(4)..self.end)
    }
}

/// Separator of children.
fn separate(out: &mut impl Append, index: usize) {
    if index > 0 {
        out.fixed(b", ");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::buffer::JsonBuffer;

    fn written(payload: &[u8]) -> Option<String> {
        let mut out = JsonBuffer::new();
        write(&mut out, payload)?;
        Some(String::from_utf8(out.into_vec()).unwrap())
    }

    fn payload(words: &[u32], data: &[u8]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).chain(data.iter().copied()).collect()
    }

    /// `{"a": [15.00, false], "b": null}`: two bytes align the array, which holds a varlena of eight bytes.
    fn nested_object() -> Vec<u8> {
        let numeric = if cfg!(target_endian = "little") { [8 << 2, 0x000f_8100] } else { [8, 0x8100_000f] };
        let array = payload(&[ARRAY | 2, IS_OFFSET | NUMERIC | 8, FALSE, numeric[0], numeric[1]], b"");
        let length = u32::try_from(array.len()).unwrap();
        payload(&[OBJECT | 2, IS_OFFSET | 1, 1, CONTAINER | (length + 2), NULL], &[&b"ab\0\0"[..], &array].concat())
    }

    #[test]
    fn what_is_aligned_begins_after_its_padding() {
        assert_eq!(written(&nested_object()).as_deref(), Some(r#"{"a": [15.00, false], "b": null}"#));
    }

    /// `{"a": "x", "bc": null}`, as Postgres 15 stores it.
    #[test]
    fn an_object_has_its_keys_first() {
        let object = payload(&[OBJECT | 2, IS_OFFSET | 1, 2, 1, NULL], b"abcx");
        assert_eq!(written(&object).as_deref(), Some(r#"{"a": "x", "bc": null}"#));
    }

    #[test]
    fn text_that_is_none_is_refused() {
        let object = |text: &[u8]| {
            written(&payload(&[OBJECT | 1, IS_OFFSET | 1, u32::try_from(text.len()).unwrap()], &[b"a", text].concat()))
        };
        assert_eq!(object("größe".as_bytes()).as_deref(), Some(r#"{"a": "größe"}"#));
        assert_eq!(object(b"gr\xf6\xdfe"), None);
    }

    #[test]
    fn a_scalar_stands_for_itself_and_an_array_may_be_empty() {
        assert_eq!(written(&payload(&[ARRAY | SCALAR | 1, IS_OFFSET | TRUE], b"")).as_deref(), Some("true"));
        assert_eq!(written(&payload(&[ARRAY], b"")).as_deref(), Some("[]"));
        assert_eq!(written(&payload(&[OBJECT], b"")).as_deref(), Some("{}"));
    }

    #[test]
    fn containers_deeper_than_the_stack_is_meant_for_are_left_to_postgres() {
        let nested = |levels: u32| {
            let mut bytes = payload(&[ARRAY], b"");
            for _ in 0..levels {
                let length = u32::try_from(bytes.len()).unwrap();
                bytes = payload(&[ARRAY | 1, IS_OFFSET | CONTAINER | length], &bytes);
            }
            written(&bytes)
        };
        assert_eq!(nested(3).as_deref(), Some("[[[[]]]]"));
        assert!(nested(MAX_LEVELS).is_some());
        assert!(nested(MAX_LEVELS + 1).is_none());
    }

    proptest! {
        #[test]
        fn what_is_damaged_is_refused_and_nothing_worse(place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0usize..60) {
            let mut whole = nested_object();
            let place = place.index(whole.len());
            whole[place] = byte;
            whole.truncate(whole.len().saturating_sub(cut));
            let _ = write(&mut JsonBuffer::new(), &whole);
        }
    }
}
