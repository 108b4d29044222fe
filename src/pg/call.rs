//! A call of one of our SQL functions: its arguments in, its row out.
//!
//! The catalog script declares the functions by hand (OUT parameters, defaults, comments); here their arguments are read
//! by position, texts converted to UTF-8 whatever the database's encoding.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::{IntoDatum, pg_sys};
use s3_export_core::error::{Code, Error, Result};
use uuid::Uuid;

use crate::pg::Memory;
use crate::pg::is_server_text;
use crate::pg::raised::Raised;
use crate::pg::report;
use crate::pg::to_utf8;

/// The arguments and the result of one call.
pub struct Call(pg_sys::FunctionCallInfo);

impl Call {
    /// # Safety
    /// `fcinfo` is what Postgres passed to the running function, whose arguments are declared with the types that the
    /// methods below are asked for.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Self {
        Call(fcinfo)
    }

    fn argument(&self, position: usize) -> Option<pg_sys::Datum> {
        // SAFETY: by the promise of `new`; Postgres passes `nargs` arguments.
        unsafe {
            let count = usize::try_from((*self.0).nargs).unwrap_or(0);
            let argument = (*self.0).args.as_slice(count).get(position)?;
            (!argument.isnull).then_some(argument.value)
        }
    }

    /// A `text`; `None`: NULL.
    pub fn text(&self, position: usize) -> Option<String> {
        // SAFETY: declared text.
        self.argument(position).map(|datum| unsafe { text(datum) })
    }

    /// A `name`; `None`: NULL.
    pub fn name(&self, position: usize) -> Option<String> {
        // SAFETY: declared name, which is passed by reference and NUL-terminated.
        self.argument(position).map(|datum| utf8(unsafe { CStr::from_ptr(datum.cast_mut_ptr()) }.to_bytes()))
    }

    /// A `boolean`; `None`: NULL.
    pub fn boolean(&self, position: usize) -> Option<bool> {
        self.argument(position).map(|datum| datum.value() as u8 != 0)
    }

    /// An `int`; `None`: NULL.
    pub fn int4(&self, position: usize) -> Option<i32> {
        self.argument(position).map(|datum| datum.value() as i32)
    }

    /// A `bigint`; `None`: NULL.
    pub fn int8(&self, position: usize) -> Option<i64> {
        self.argument(position).map(|datum| datum.value() as i64)
    }

    /// A `uuid`; `None`: NULL.
    pub fn uuid(&self, position: usize) -> Option<Uuid> {
        // SAFETY: declared uuid, which is passed by reference.
        self.argument(position).map(|datum| Uuid::from_bytes(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() }))
    }

    /// The result NULL.
    pub fn null(&self) -> pg_sys::Datum {
        // SAFETY: Postgres passes the struct that the result goes into.
        unsafe { (*self.0).isnull = true };
        pg_sys::Datum::null()
    }

    /// An `interval`, a month counted as 30 days; `None`: NULL. Errors: 22023 for a negative one.
    pub fn interval(&self, position: usize) -> Result<Option<Duration>> {
        let Some(datum) = self.argument(position) else { return Ok(None) };
        // SAFETY: declared interval, which is passed by reference.
        let pg_sys::Interval { time, day, month } = unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() };
        let days = i128::from(day) + 30 * i128::from(month);
        let microseconds = i128::from(time) + days * 24 * 60 * 60 * 1_000_000;
        if microseconds < 0 {
            return Err(Error::new(Code::InvalidParameter, "the interval must not be negative"));
        }
        Ok(Some(Duration::from_micros(u64::try_from(microseconds).unwrap_or(u64::MAX))))
    }

    /// A `jsonb`, as JSON text; `None`: NULL.
    pub fn json(&self, position: usize) -> Option<String> {
        let datum = self.argument(position)?;
        // SAFETY: declared jsonb; detoasted with its full header it is a Jsonb, whose text is palloc'd.
        let json = unsafe {
            let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::Jsonb>();
            CStr::from_ptr(pg_sys::JsonbToCString(std::ptr::null_mut(), &mut (*value).root, 0))
        };
        Some(utf8(json.to_bytes()))
    }

    /// A `text[]` without NULLs; `None`: NULL. Errors: 22004 for a NULL in it.
    pub fn texts(&self, position: usize) -> Result<Option<Vec<String>>> {
        let Some(datum) = self.argument(position) else { return Ok(None) };
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        // SAFETY: declared text[], whose elements have variable length and integer alignment; the result is palloc'd.
        let elements: Vec<(pg_sys::Datum, bool)> = unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let alignment = pg_sys::TYPALIGN_INT as std::ffi::c_char;
            pg_sys::deconstruct_array(array, pg_sys::TEXTOID, -1, false, alignment, &mut values, &mut nulls, &mut count);
            (0..usize::try_from(count).unwrap_or(0)).map(|index| (*values.add(index), *nulls.add(index))).collect()
        };
        let mut texts = Vec::new();
        for (value, is_null) in elements {
            if is_null {
                return Err(Error::new(Code::Null, "an element of the array must not be null"));
            }
            // SAFETY: an element of a text[].
            texts.push(unsafe { text(value) });
        }
        Ok(Some(texts))
    }

    /// The result of a function that returns a table: these rows, `None` for NULL. Errors: 0A000 where the caller takes none.
    pub fn rows(&self, rows: Vec<Vec<Option<pg_sys::Datum>>>) -> Result<pg_sys::Datum> {
        let mut store = self.row_store()?;
        for row in rows {
            store.put(|| Ok(row))?;
        }
        Ok(pg_sys::Datum::null())
    }

    /// The result of a function that returns a table, as a store that takes its rows one by one. Errors: 0A000 where the caller takes none.
    pub fn row_store(&self) -> Result<RowStore> {
        // SAFETY: the result info, where Postgres passes one, outlives the call. The store is made in the memory of the query
        // that reads it.
        unsafe {
            let result = (*self.0).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let takes_store = !result.is_null()
                && (*result).type_ == pg_sys::NodeTag::T_ReturnSetInfo
                && (*result).allowedModes as u32 & pg_sys::SetFunctionReturnMode::SFRM_Materialize != 0;
            if !takes_store {
                return Err(Error::new(Code::Unsupported, "set-valued function called in context that cannot accept a set"));
            }
            let before = pg_sys::MemoryContextSwitchTo((*(*result).econtext).ecxt_per_query_memory);
            let mut shape = std::ptr::null_mut();
            pg_sys::get_call_result_type(self.0, std::ptr::null_mut(), &mut shape);
            let shape = pg_sys::CreateTupleDescCopy(shape);
            let store = pg_sys::tuplestore_begin_heap(true, false, pg_sys::work_mem);
            (*result).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*result).setResult = store;
            (*result).setDesc = shape;
            pg_sys::MemoryContextSwitchTo(before);
            Ok(RowStore { store, shape, memory: Memory::new(c"s3_export row") })
        }
    }

    /// The result of a function with OUT parameters: one row.
    pub fn row(&self, values: Vec<pg_sys::Datum>) -> pg_sys::Datum {
        self.row_with_nulls(values.into_iter().map(Some).collect())
    }

    /// The result of a function with OUT parameters: one row, with `None` for NULL.
    pub fn row_with_nulls(&self, row: Vec<Option<pg_sys::Datum>>) -> pg_sys::Datum {
        let mut nulls: Vec<bool> = row.iter().map(Option::is_none).collect();
        let mut values: Vec<pg_sys::Datum> = row.into_iter().map(|value| value.unwrap_or_else(pg_sys::Datum::null)).collect();
        let mut shape = std::ptr::null_mut();
        // SAFETY: the function is declared with as many OUT parameters as there are values, of their types.
        unsafe {
            pg_sys::get_call_result_type(self.0, std::ptr::null_mut(), &mut shape);
            let tuple = pg_sys::heap_form_tuple(pg_sys::BlessTupleDesc(shape), values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)
        }
    }
}

/// The rows that a function returns, which Postgres moves to disk beyond `work_mem`.
pub struct RowStore {
    store: *mut pg_sys::Tuplestorestate,
    shape: pg_sys::TupleDesc,
    /// Memory of one row's values.
    memory: Memory,
}

impl RowStore {
    /// Adds the row that `make` gives, `None` for NULL; the memory of its values is free afterwards.
    pub fn put(&mut self, make: impl FnOnce() -> Result<Vec<Option<pg_sys::Datum>>>) -> Result<()> {
        let current = self.memory.enter();
        let row = make()?;
        let mut nulls: Vec<bool> = row.iter().map(Option::is_none).collect();
        let mut values: Vec<pg_sys::Datum> = row.into_iter().map(|value| value.unwrap_or_else(pg_sys::Datum::null)).collect();
        // SAFETY: store and shape live until the query that reads the rows has ended, and the store copies the values. The function is
        // declared with as many columns as each row has values, of their types.
        unsafe { pg_sys::tuplestore_putvalues(self.store, self.shape, values.as_mut_ptr(), nulls.as_mut_ptr()) }
        drop(current);
        self.memory.reset();
        Ok(())
    }
}

/// The text in UTF-8. Raises what [`utf8`] does.
///
/// # Safety
/// The datum is a text that is not NULL.
unsafe fn text(datum: pg_sys::Datum) -> String {
    // SAFETY: by the caller's promise; the bytes are copied at once.
    let bytes = unsafe { pgrx::varlena::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) };
    utf8(bytes)
}

/// Raises 22021 for bytes that are no text, as dynamic SQL can make them: a query with other characters in their place is not the
/// caller's.
fn utf8(server_text: &[u8]) -> String {
    if !is_server_text(server_text) {
        let error = Error::new(Code::InvalidText, "an argument is not text in the database's encoding");
        report::raise(&Raised::from(&error), None);
    }
    to_utf8(server_text)
}

/// Returns a `text` in the server's encoding.
pub fn text_datum(text: &str) -> Result<pg_sys::Datum> {
    let server_text = crate::pg::to_server(text)?;
    // SAFETY: the string is NUL-terminated; the copy is palloc'd.
    Ok(pg_sys::Datum::from(unsafe { pg_sys::cstring_to_text(server_text.as_ptr()) }))
}

/// Returns a `bigint`.
pub fn int8_datum(number: u64) -> pg_sys::Datum {
    pg_sys::Datum::from(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Returns a `uuid`.
pub fn uuid_datum(id: Uuid) -> pg_sys::Datum {
    pgrx::Uuid::from_bytes(*id.as_bytes()).into_datum().unwrap_or_else(pg_sys::Datum::null)
}

/// Makes `$body`, a `fn(&Call) -> Result<Datum>`, callable from SQL under the C symbol `$symbol`.
#[macro_export]
macro_rules! sql_function {
    ($symbol:ident, $info:ident, $body:path) => {
        /// Tells Postgres the calling convention.
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const VERSION_1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION_1
        }

        /// Only casts and delegates.
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $symbol(fcinfo: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            // SAFETY: Postgres calls this with the arguments that the catalog script declares.
            unsafe { $crate::pg::errors::boundary(fcinfo, $body) }
        }
    };
}
