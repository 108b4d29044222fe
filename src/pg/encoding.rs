//! Texts between UTF-8 and the server's encoding where nothing may be looked up and nothing may be raised: those of messages.
//!
//! Postgres's converters look a conversion up in the catalog, and raise an error for a character that the other encoding lacks.
//! A failed transaction has no catalog, and a message must not lose its SQLSTATE to one of its characters. So each call of ours
//! looks the conversions up once ([`prepare`]), while its transaction is alive. A character that the server's or the client's
//! encoding lacks is written as an `E''` string has it: `\u65e5`.

use std::cell::RefCell;
use std::ffi::{CString, c_int};

use pgrx::{FromDatum, IntoDatum, pg_sys};

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;
const SQL_ASCII: c_int = pg_sys::pg_enc::PG_SQL_ASCII as c_int;

thread_local! {
    static CONVERSIONS: RefCell<Conversions> = const { RefCell::new(Conversions { to_server: None, from_server: None, to_client: None }) };
}

/// `None`: there is none, or nobody has looked for it yet.
struct Conversions {
    to_server: Option<Conversion>,
    from_server: Option<Conversion>,
    to_client: Option<Conversion>,
}

/// One of Postgres's functions that convert texts, and what it converts.
#[derive(Clone, Copy)]
struct Conversion {
    function: pg_sys::FmgrInfo,
    from: c_int,
    to: c_int,
}

impl Conversion {
    /// Looks it up, unless `known` is it; `None`: Postgres has none.
    fn find(known: Option<Self>, from: c_int, to: c_int) -> Option<Self> {
        if known.is_some_and(|known| (known.from, known.to) == (from, to)) {
            return known;
        }
        let mut function = pg_sys::FmgrInfo::default();
        // SAFETY: inside a transaction that is alive. What the function's entry points to lives as long as the process.
        unsafe {
            let oid = pg_sys::FindDefaultConversionProc(from, to);
            if oid == pg_sys::InvalidOid {
                return None;
            }
            pg_sys::fmgr_info_cxt(oid, &mut function, pg_sys::TopMemoryContext);
        }
        Some(Conversion { function, from, to })
    }

    /// `None`: the text has a character that the other encoding lacks, or is none.
    fn convert(mut self, text: &[u8]) -> Option<Vec<u8>> {
        /// `MAX_CONVERSION_GROWTH`.
        const GROWTH: usize = 4;
        let length = c_int::try_from(text.len()).ok()?;
        let source = CString::new(text).ok()?;
        let mut target = vec![0_u8; text.len().checked_mul(GROWTH)?.checked_add(1)?];
        // SAFETY: the source has that many bytes and a NUL byte, the target has room for whatever they become, and the function
        // is one that Postgres converts between these encodings with. It looks nothing up, and is told to raise nothing.
        let converted = unsafe {
            let converted = pg_sys::FunctionCall6Coll(
                &mut self.function,
                pg_sys::InvalidOid,
                self.from.into_datum()?,
                self.to.into_datum()?,
                pg_sys::Datum::from(source.as_ptr()),
                pg_sys::Datum::from(target.as_mut_ptr()),
                length.into_datum()?,
                true.into_datum()?,
            );
            i32::from_datum(converted, false)
        };
        (converted == Some(length)).then(|| {
            target.truncate(target.iter().position(|byte| *byte == 0).unwrap_or(target.len()));
            target
        })
    }
}

fn server_encoding() -> c_int {
    // SAFETY: reads a global that is set once, when the backend connects.
    unsafe { pg_sys::GetDatabaseEncoding() }
}

fn client_encoding() -> c_int {
    // SAFETY: reads a global of the backend's own.
    unsafe { pg_sys::pg_get_client_encoding() }
}

/// Whether text in the server's encoding is UTF-8, or is taken for it.
fn is_utf8(server: c_int) -> bool {
    server == UTF8 || server == SQL_ASCII
}

/// Looks up what messages will need. Does nothing outside a transaction that is alive. May raise, as any look-up.
pub fn prepare() {
    // SAFETY: reads the state of the backend's own transaction.
    if !unsafe { pg_sys::IsTransactionState() } {
        return;
    }
    let (server, client) = (server_encoding(), client_encoding());
    let known = CONVERSIONS.with_borrow(|known| (known.to_server, known.from_server, known.to_client));
    let find = |known, from, to| Conversion::find(known, from, to);
    let (to_server, from_server) =
        if is_utf8(server) { (None, None) } else { (find(known.0, UTF8, server), find(known.1, server, UTF8)) };
    let needs_none = server == client || server == SQL_ASCII || client == SQL_ASCII;
    let to_client = if needs_none { None } else { find(known.2, server, client) };
    CONVERSIONS.set(Conversions { to_server, from_server, to_client });
}

/// Who reads a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The server's log alone, which is in the server's encoding.
    Log,
    /// The client too.
    Client,
    /// The client, at a moment when no error may come of it.
    ClientInCallback,
}

/// `text` in the server's encoding, without the characters that the reader cannot be given.
pub fn message(text: &str, reader: Reader) -> CString {
    // What was escaped has no NUL byte, and fits.
    CString::new(encode(&escaped(text, reader)).unwrap_or_default()).unwrap_or_default()
}

/// `text` as the reader gets it.
pub fn escaped(text: &str, reader: Reader) -> String {
    escape(text, |text| match reader {
        Reader::Log => encode(text).is_some(),
        Reader::Client => encode(text).is_some_and(|text| fits_client(&text)),
        Reader::ClientInCallback => text.is_ascii(),
    })
}

/// `text` as the database can hold it: without the characters that the server's encoding lacks.
pub fn storable(text: &str) -> String {
    escape(text, |text| encode(text).is_some())
}

/// In the server's encoding; `None`: it lacks a character.
fn encode(text: &str) -> Option<Vec<u8>> {
    if text.is_ascii() || is_utf8(server_encoding()) {
        return Some(text.as_bytes().to_vec());
    }
    CONVERSIONS.with_borrow(|known| known.to_server)?.convert(text.as_bytes())
}

/// Whether the client can be sent this text, which is in the server's encoding.
pub fn fits_client(server_text: &[u8]) -> bool {
    let (server, client) = (server_encoding(), client_encoding());
    // SAFETY: reads a global of the backend's own. A worker has no client, though it may have the settings of one.
    let has_client = unsafe { pg_sys::whereToSendOutput } == pg_sys::CommandDest::DestRemote;
    if server_text.is_ascii() || server == client || client == SQL_ASCII || !has_client {
        return true;
    }
    if server == SQL_ASCII {
        // Postgres sends it as it is, if the client can read it.
        let length = c_int::try_from(server_text.len()).unwrap_or(c_int::MAX);
        // SAFETY: the text has that many bytes; nothing is raised.
        return unsafe { pg_sys::pg_verify_mbstr(client, server_text.as_ptr().cast(), length, true) };
    }
    let known = CONVERSIONS.with_borrow(|known| known.to_client);
    known.is_some_and(|known| known.to == client && known.convert(server_text).is_some())
}

/// Text in the server's encoding as UTF-8; what is no text becomes question marks.
pub fn readable(server_text: &[u8]) -> String {
    if server_text.is_ascii() || is_utf8(server_encoding()) {
        return String::from_utf8_lossy(server_text).into_owned();
    }
    let converted = CONVERSIONS.with_borrow(|known| known.from_server).and_then(|known| known.convert(server_text));
    converted
        .and_then(|text| String::from_utf8(text).ok())
        .unwrap_or_else(|| server_text.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect())
}

/// `text` with each character that does not fit, and each NUL, as `\u65e5` or `\U0001f600`, and with dots for an ellipsis.
fn escape(text: &str, fits: impl Fn(&str) -> bool) -> String {
    if !text.contains('\0') && fits(text) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len() * 2);
    for character in text.chars() {
        if character != '\0' && (character.is_ascii() || fits(character.encode_utf8(&mut [0; 4]))) {
            escaped.push(character);
        } else if character == '…' {
            escaped.push_str("...");
        } else if let Ok(short) = u16::try_from(u32::from(character)) {
            escaped.push_str(&format!("\\u{short:04x}"));
        } else {
            escaped.push_str(&format!("\\U{:08x}", u32::from(character)));
        }
    }
    escaped
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        what_does_not_fit_is_escaped_and_all_else_stays,
    }

    fn what_does_not_fit_is_escaped_and_all_else_stays() {
        let latin = |text: &str| text.chars().all(|character| u32::from(character) < 256);
        for (text, escaped) in [
            ("größe", "größe"),
            ("größe 日本 😀", "größe \\u65e5\\u672c \\U0001f600"),
            ("a\0b", "a\\u0000b"),
            ("WITH … SELECT", "WITH ... SELECT"),
            ("\\u65e5", "\\u65e5"),
            ("", ""),
        ] {
            assert_eq!(escape(text, latin), escaped);
            assert!(escape(text, str::is_ascii).is_ascii());
        }
    }
}
