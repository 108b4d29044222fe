//! Types that have no form of their own here: Postgres's text output, as a string.
//!
//! Some output functions follow the session's settings (a range of timestamps its time zone, money its locale). Those are
//! pinned around the call, and only there: pinned around the executor they would change the query's own casts.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::ffi::CStr;

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::no_text;

use crate::encode::Context;
use crate::encode::memory::EncoderMemory;
use crate::pg::{Settings, is_server_text, to_utf8};

/// Settings that the text of a value may depend on are pinned to these.
#[derive(Clone, Copy)]
pub enum Pins {
    /// For strings of JSON: intervals in ISO 8601.
    Json,
    /// For texts that COPY writes where no setting was changed.
    Copy,
}

impl Pins {
    fn settings(self) -> [(&'static CStr, &'static CStr); 7] {
        let intervals = match self {
            Pins::Json => c"iso_8601",
            Pins::Copy => c"postgres",
        };
        [
            (c"bytea_output", c"hex"),
            (c"datestyle", c"ISO, MDY"),
            (c"extra_float_digits", c"1"),
            (c"intervalstyle", intervals),
            (c"lc_monetary", c"C"),
            (c"quote_all_identifiers", c"off"),
            (c"timezone", c"UTC"),
        ]
    }
}

/// Output functions known to depend on no setting: calling these needs no pinning.
const INDEPENDENT: [u32; 23] = [
    pg_sys::F_BIT_OUT,
    pg_sys::F_BPCHAROUT,
    pg_sys::F_CHAROUT,
    pg_sys::F_CIDOUT,
    pg_sys::F_CIDR_OUT,
    pg_sys::F_ENUM_OUT,
    pg_sys::F_INET_OUT,
    pg_sys::F_JSONB_OUT,
    pg_sys::F_JSON_OUT,
    pg_sys::F_MACADDR8_OUT,
    pg_sys::F_MACADDR_OUT,
    pg_sys::F_NAMEOUT,
    pg_sys::F_OIDOUT,
    pg_sys::F_PG_LSN_OUT,
    pg_sys::F_TEXTOUT,
    pg_sys::F_TIDOUT,
    pg_sys::F_TSQUERYOUT,
    pg_sys::F_TSVECTOROUT,
    pg_sys::F_UUID_OUT,
    pg_sys::F_VARBIT_OUT,
    pg_sys::F_VARCHAROUT,
    pg_sys::F_XIDOUT,
    pg_sys::F_XID8OUT,
];

/// A function of one argument, looked up once.
pub struct Function {
    /// Postgres writes caches of the function's own into it during a call.
    info: Box<UnsafeCell<pg_sys::FmgrInfo>>,
    /// Holds these caches.
    _memory: EncoderMemory,
}

impl Function {
    /// Looks it up. Its caches are in `memory`.
    pub fn new(oid: pg_sys::Oid, memory: &EncoderMemory) -> Self {
        let info = Box::new(UnsafeCell::new(pg_sys::FmgrInfo::default()));
        let _current = memory.enter();
        // SAFETY: the box does not move, and the function keeps the memory that is current here.
        unsafe { pg_sys::fmgr_info(oid, info.get()) };
        Function { info, _memory: memory.clone() }
    }

    /// For a call; not to be kept.
    pub fn info(&self) -> *mut pg_sys::FmgrInfo {
        self.info.get()
    }
}

/// Writes a type's text.
pub struct Output {
    function: Function,
    /// `None`: it depends on no setting.
    pins: Option<Pins>,
    /// Depends on `extra_float_digits` alone.
    is_float: bool,
}

impl Output {
    /// Returns the writer of a type, which calls the type's output function.
    pub fn of_type(type_id: pg_sys::Oid, pins: Pins, memory: &EncoderMemory) -> Self {
        let function = output_function(type_id);
        let number = function.to_u32();
        Output {
            function: Function::new(function, memory),
            pins: (!INDEPENDENT.contains(&number)).then_some(pins),
            is_float: [pg_sys::F_FLOAT4OUT, pg_sys::F_FLOAT8OUT].contains(&number),
        }
    }

    /// Writes the value's text as a string. Errors: 22021, since the output function of an extension's type may give bytes that
    /// are no text. Those of Postgres's own types give text: from 15 on, `"char"` too writes a byte above 127 as `\ooo`.
    ///
    /// # Safety
    /// The datum is not NULL and of the type that this was made for.
    pub unsafe fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // SAFETY: by the caller's promise; the text is written before the row ends.
        context.string(unsafe { self.text(datum) }, out)
    }

    /// The value's text, in the server's encoding, or what the output function gives for text. The bytes are in the row's memory.
    ///
    /// # Safety
    /// The datum is not NULL and of the type that this was made for. The bytes are kept no longer than the row's memory.
    pub unsafe fn text<'a>(&self, datum: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: reads a setting; above 0, floats have their shortest form.
        let has_all_digits = self.is_float && unsafe { pg_sys::extra_float_digits } > 0;
        let _settings = self.pins.filter(|_| !has_all_digits).map(|pins| Settings::set(&pins.settings()));
        // SAFETY: by the caller's promise, the datum is of the type whose output function this is, which gives a palloc'd, NUL-terminated string.
        unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(self.function.info(), datum)) }.to_bytes()
    }
}

/// The OID of the type's output function.
pub fn output_function(type_id: pg_sys::Oid) -> pg_sys::Oid {
    let (mut function, mut is_varlena) = (pg_sys::InvalidOid, false);
    // SAFETY: a catalog look-up that writes to two locals.
    unsafe { pg_sys::getTypeOutputInfo(type_id, &mut function, &mut is_varlena) };
    function
}

impl Context {
    /// Writes text of the server's encoding as a JSON string. Errors: 22021.
    pub fn string(&self, server_text: &[u8], out: &mut JsonBuffer) -> Result<()> {
        if !self.utf8 && !server_text.is_ascii() {
            out.string(&self.converted(server_text)?);
            return Ok(());
        }
        if out.checked_string(server_text) { Ok(()) } else { Err(no_text(server_text)) }
    }

    /// Writes text of the server's encoding as it is, in UTF-8. What needs no conversion is not looked at here: whoever gathers
    /// texts looks at many at once. Errors: 22021.
    #[inline]
    pub fn unchecked_text(&self, server_text: &[u8], out: &mut JsonBuffer) -> Result<()> {
        if self.utf8 {
            out.raw(server_text);
        } else {
            out.raw(self.utf8(server_text)?.as_bytes());
        }
        Ok(())
    }

    /// Text of the server's encoding in UTF-8. Errors: 22021.
    pub fn utf8<'a>(&self, server_text: &'a [u8]) -> Result<Cow<'a, str>> {
        if self.utf8 || server_text.is_ascii() {
            return simdutf8::basic::from_utf8(server_text).map(Cow::Borrowed).map_err(|_| no_text(server_text));
        }
        self.converted(server_text).map(Cow::Owned)
    }

    /// Raises 22P05 for a character that UTF-8 lacks.
    #[cold]
    fn converted(&self, server_text: &[u8]) -> Result<String> {
        if is_server_text(server_text) {
            Ok(to_utf8(server_text))
        } else {
            Err(Error::new(Code::InvalidText, "invalid byte sequence for the database's encoding"))
        }
    }
}
