//! json and jsonb: JSON already, and still not every value of them may stand in a file.

use std::ffi::CStr;

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::buffer::{JsonBuffer, has_lone_surrogate};
use s3_export_core::text::cursor::Append;
use s3_export_core::text::jsonb;

use crate::encode::Context;
use crate::encode::datum::payload;

/// Writes a json, without its line breaks: they stand between tokens, never inside a string, so that no value changes. Errors: 22021,
/// 22P05.
pub fn json_text(server_text: &[u8], context: &Context, out: &mut JsonBuffer) -> Result<()> {
    check_surrogates(server_text)?;
    out.without_line_breaks(context.utf8(server_text)?.as_bytes());
    Ok(())
}

/// Errors: 22P05 for half of a surrogate pair, as for `jsonb`: UTF-8 has no bytes for it, and readers would find the whole file
/// unreadable, not the value alone.
pub fn check_surrogates(json: &[u8]) -> Result<()> {
    if has_lone_surrogate(json) {
        return Err(Error::new(Code::Untranslatable, "a json value escapes half of a surrogate pair")
            .hint("Such a value cannot be cast to jsonb. Leave the value out, or export the column as text."));
    }
    Ok(())
}

/// Writes a jsonb. Errors: 22021.
///
/// # Safety
/// The datum is a jsonb that is not NULL.
pub unsafe fn jsonb_value(datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
    if context.utf8 {
        let start = out.len();
        // SAFETY: a jsonb has variable length, and is read at once.
        if jsonb::write(out, unsafe { payload(datum) }).is_some() {
            return Ok(());
        }
        out.truncate(start);
    }
    // SAFETY: by the caller's promise; detoasted with its full header it is a Jsonb, whose text is palloc'd in the row's memory.
    let text = unsafe {
        let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
        let length = pgrx::varlena::varsize(value.cast()) as i32;
        CStr::from_ptr(pg_sys::JsonbToCString(std::ptr::null_mut(), &mut (*value).root, length))
    };
    json_text(text.to_bytes(), context, out)
}
