//! Appending blocks of fixed size: a copy of 16 bytes is two instructions, one of so many as there are is a call.
//!
//! A block is written whole, beyond the end of what counts, and then only its first bytes are counted. And a row is written
//! with the length in a register ([`Cursor`]), because each write would else wait for the length that the last one stored. These
//! two things cannot be said without `unsafe`.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use crate::text::buffer::JsonBuffer;

/// Target to which text is appended.
pub trait Append {
    /// Appends the first `used` bytes of `block`, at most all.
    fn block<const N: usize>(&mut self, block: [u8; N], used: usize);

    /// Appends bytes of any number.
    fn raw(&mut self, text: &[u8]);

    /// Bytes so far.
    fn length(&self) -> usize;

    /// Forgets what comes after the first `length` bytes, if there are more.
    fn truncate(&mut self, length: usize);

    /// Appends one byte.
    #[inline(always)]
    fn push(&mut self, byte: u8) {
        self.block([byte], 1);
    }

    /// Appends a text of a known, small size.
    #[inline(always)]
    fn fixed<const N: usize>(&mut self, text: &[u8; N]) {
        self.block(*text, N);
    }

    /// Appends a text that was cut into blocks.
    #[inline(always)]
    fn blocks(&mut self, text: &Blocks) {
        if text.length <= SHORT {
            return self.block(text.short(), text.length);
        }
        for block in &text.whole {
            self.block(*block, SLACK);
        }
        self.block(text.last, text.length % SLACK);
    }
}

/// Appends the first `used` bytes of `block`, at most all; `false`: there is no room for the whole of it, and nothing happened.
#[inline(always)]
pub fn append<const N: usize>(bytes: &mut Vec<u8>, block: [u8; N], used: usize) -> bool {
    let Some(spare) = bytes.spare_capacity_mut().first_chunk_mut::<N>() else { return false };
    for (place, byte) in spare.iter_mut().zip(block) {
        place.write(byte);
    }
    let length = bytes.len() + used.min(N);
    // SAFETY: the `N` bytes after the old length lie within the capacity and were written just now.
    unsafe { bytes.set_len(length) };
    true
}

/// Bytes that a cursor may write beyond its limit, and so the largest block.
pub const SLACK: usize = 64;

thread_local! {
    /// Target of a cursor whose buffer has no memory; nobody reads it.
    static NOWHERE: UnsafeCell<[u8; SLACK]> = const { UnsafeCell::new([0; SLACK]) };
}

/// Appends to a buffer, which learns of it at the [`end`](Self::end).
///
/// A write has no branch: what would come after the limit is written at the limit, where there is room for a block, and only
/// counted. So there is one question for a whole value, [`is_full`](Self::is_full), after which it is taken back and written
/// again. Nothing that is not inlined may take the cursor's address: the length would go back to memory.
#[must_use = "what was appended counts from the end on"]
pub struct Cursor<'a> {
    buffer: &'a mut JsonBuffer,
    /// The buffer's allocation, which goes on for [`SLACK`] bytes after `limit`.
    start: *mut u8,
    limit: usize,
    /// All before it is written, if it is not beyond the limit.
    length: usize,
}

impl<'a> Cursor<'a> {
    /// Begins where the buffer ends.
    #[inline(always)]
    pub fn new(buffer: &'a mut JsonBuffer) -> Self {
        let bytes = buffer.bytes_mut();
        let (start, capacity, length) = (bytes.as_mut_ptr(), bytes.capacity(), bytes.len());
        let mut cursor = Cursor { buffer, start, limit: capacity.wrapping_sub(SLACK), length };
        if capacity - length < SLACK {
            cursor.make_room(length);
        }
        cursor
    }

    /// The buffer, which ends where the cursor does. Of a cursor that is full it has nothing.
    #[inline(always)]
    pub fn end(self) -> &'a mut JsonBuffer {
        if !self.is_full() {
            // SAFETY: the bytes from the buffer's end to this length were written one after another, all within the limit.
            unsafe { self.buffer.bytes_mut().set_len(self.length) };
        }
        self.buffer
    }

    /// The buffer, which ends at that length; there was room for what comes before it.
    #[inline(always)]
    pub fn take_back(mut self, length: usize) -> &'a mut JsonBuffer {
        self.truncate(length);
        self.end()
    }

    /// Whether something had no room.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.length > self.limit
    }

    /// Forgets what comes after the first `length` bytes, which had room, and makes room for more than there was. Where memory
    /// runs out, the buffer says so, and the cursor is full still.
    #[inline(always)]
    pub fn make_room(&mut self, length: usize) {
        (self.start, self.limit, self.length) = grow(self.buffer, length);
    }
}

/// Seldom, and so kept out of the writers. Gives a cursor's start, limit and length.
#[cold]
#[inline(never)]
fn grow(buffer: &mut JsonBuffer, length: usize) -> (*mut u8, usize, usize) {
    let bytes = buffer.bytes_mut();
    // SAFETY: all before that length was written, by the cursor or before it, and lies within the capacity.
    unsafe { bytes.set_len(length) };
    let more = (bytes.capacity() - length + 1).max(2 * SLACK);
    if buffer.reserve(more) {
        let bytes = buffer.bytes_mut();
        (bytes.as_mut_ptr(), bytes.capacity() - SLACK, length)
    } else {
        (NOWHERE.with(UnsafeCell::get).cast(), 0, 1)
    }
}

impl Append for Cursor<'_> {
    #[inline(always)]
    fn block<const N: usize>(&mut self, block: [u8; N], used: usize) {
        const { assert!(N <= SLACK) };
        let place = self.length.min(self.limit);
        // SAFETY: there is room for a block at the limit and before it, in memory that is the buffer's alone or nobody's.
        unsafe { self.start.add(place).cast::<[u8; N]>().write_unaligned(block) };
        self.length += used.min(N);
    }

    #[inline(always)]
    fn raw(&mut self, text: &[u8]) {
        for chunk in text.chunks(16) {
            let mut block = [0; 16];
            block[..chunk.len()].copy_from_slice(chunk);
            self.block(block, chunk.len());
        }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

/// Bytes of a text that is one block of a quarter of the instructions: a column's name, more often than not.
const SHORT: usize = 16;

/// A text that is appended often, cut into blocks beforehand.
#[derive(Debug)]
pub struct Blocks {
    /// Blocks before the last one; few texts have any.
    whole: Vec<[u8; SLACK]>,
    /// Last bytes of the text, filled up with zeros.
    last: [u8; SLACK],
    /// Bytes of the text.
    length: usize,
}

impl Blocks {
    /// Returns the blocks of `text`.
    pub fn new(text: &[u8]) -> Self {
        let (whole, rest) = text.as_chunks();
        let mut last = [0; SLACK];
        last[..rest.len()].copy_from_slice(rest);
        Blocks { whole: whole.to_vec(), last, length: text.len() }
    }

    /// A text of no more, and zeros.
    #[inline(always)]
    fn short(&self) -> [u8; SHORT] {
        let mut block = [0; SHORT];
        block.copy_from_slice(&self.last[..SHORT]);
        block
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_counts_as_far_as_it_is_used_and_not_at_all_without_room() {
        let mut bytes = Vec::with_capacity(16);
        let capacity = bytes.capacity();
        assert!(append(&mut bytes, *b"0123456789abcdef", 3));
        assert_eq!(bytes, b"012");
        assert!(append(&mut bytes, *b"45", 9), "no more than the block has");
        assert_eq!(bytes, b"01245");
        assert!(capacity >= 21 || !append(&mut bytes, [0; 16], 0));
        assert_eq!(bytes, b"01245");
    }

    proptest! {
        #[test]
        fn a_cursor_and_a_buffer_append_alike(texts in prop::collection::vec("[a-z]{0,70}", 0..40), cut in 0usize..100) {
            fn write(out: &mut impl Append, texts: &[String], cut: usize) {
                for text in texts {
                    out.blocks(&Blocks::new(text.as_bytes()));
                    out.push(b' ');
                    out.raw(text.as_bytes());
                    out.block(*b"0123456789", text.len());
                    let length = out.length();
                    out.truncate(length.saturating_sub(cut % 10));
                }
            }
            let (mut one, mut other) = (JsonBuffer::new(), JsonBuffer::new());
            one.raw(b"before");
            other.raw(b"before");
            write(&mut one, &texts, cut);
            let mut cursor = Cursor::new(&mut other);
            write(&mut cursor, &texts, cut);
            while cursor.is_full() {
                cursor.make_room(6);
                write(&mut cursor, &texts, cut);
            }
            let other = cursor.end();
            prop_assert_eq!(one.as_slice(), other.as_slice());
            let wanted = texts.iter().map(|text| 2 * text.len() + 1 + text.len().min(10)).sum::<usize>();
            prop_assert!(cut % 10 > 0 || one.len() == 6 + wanted);
        }
    }
}
