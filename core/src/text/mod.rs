//! How a value reads: JSON and CSV text of numbers, dates, geometries and the like, made from their stored forms.
//!
//! All append to a [`buffer::JsonBuffer`], by way of a [`cursor::Cursor`].

pub mod buffer;
pub mod csv;
pub mod cursor;
pub mod datetime;
pub mod inet;
pub mod interval;
pub mod jsonb;
pub mod number;
pub mod numeric;
pub mod wkb;

use crate::error::{Code, Error};

/// The error of bytes that are not UTF-8.
#[cold]
pub fn no_text(bytes: &[u8]) -> Error {
    let bad = str::from_utf8(bytes).map_or_else(
        |error| {
            bytes[error.valid_up_to()..]
                .iter()
                .take(error.error_len().unwrap_or(4))
                .map(|byte| format!(" {byte:#04x}"))
                .collect()
        },
        |_| String::new(),
    );
    Error::new(Code::InvalidText, format!("invalid byte sequence for encoding \"UTF8\":{bad}"))
        .hint("Text from sessions of another database and names of files may be in another encoding. Leave such values out, or export them as bytea.")
}
