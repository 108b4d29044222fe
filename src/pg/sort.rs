//! Postgres's own sort, of pairs of a key and bytes: in `work_mem`, then in temporary files that obey `temp_file_limit`.

use pgrx::{PgTupleDesc, pg_sys};
use s3_export_core::error::{Error, Result};

use crate::pg::Memory;
use crate::pg::check_interrupts;
use crate::pg::values::Values;

/// Most bytes of a `bytea`, header included.
const MAX_BYTES: usize = 0x3fff_ffff;

/// Pairs to be sorted by key, byte by byte.
pub struct Sorter {
    state: *mut pg_sys::Tuplesortstate,
    put: *mut pg_sys::TupleTableSlot,
    got: *mut pg_sys::TupleTableSlot,
    /// Holds what one pair allocates.
    pair_memory: Memory,
    /// Holds all fields above. The last field, so that it is dropped last.
    _memory: Memory,
}

impl Sorter {
    /// Empty.
    pub fn new() -> Self {
        let memory = Memory::new(c"s3_export sort");
        let (state, put, got) = {
            let _long = memory.enter();
            // SAFETY: all is allocated in memory that lives as long as the sorter. Byte strings have an order in every cluster.
            unsafe {
                let shape = pg_sys::CreateTemplateTupleDesc(2);
                for (number, name) in [(1, c"key"), (2, c"bytes")] {
                    pg_sys::TupleDescInitEntry(shape, number, name.as_ptr(), pg_sys::BYTEAOID, -1, 0);
                }
                // Works out where columns are, without which no tuple is formed or read.
                #[cfg(since_pg19)]
                pg_sys::TupleDescFinalize(shape);
                let mut less = pg_sys::InvalidOid;
                let (none, no_flag) = (std::ptr::null_mut(), std::ptr::null_mut());
                pg_sys::get_sort_group_operators(pg_sys::BYTEAOID, true, false, false, &mut less, none, none, no_flag);
                let (mut column, mut collation, mut nulls_first) = (1, pg_sys::InvalidOid, false);
                let options = pg_sys::TUPLESORT_NONE as std::ffi::c_int;
                let state = pg_sys::tuplesort_begin_heap(
                    shape,
                    1,
                    &mut column,
                    &mut less,
                    &mut collation,
                    &mut nulls_first,
                    pg_sys::work_mem,
                    std::ptr::null_mut(),
                    options,
                );
                let put = pg_sys::MakeSingleTupleTableSlot(shape, &raw const pg_sys::TTSOpsVirtual);
                let got = pg_sys::MakeSingleTupleTableSlot(shape, &raw const pg_sys::TTSOpsMinimalTuple);
                (state, put, got)
            }
        };
        Sorter { state, put, got, pair_memory: Memory::new(c"s3_export pair"), _memory: memory }
    }

    /// Takes a pair. Errors: 53200 when it is larger than Postgres can sort.
    pub fn put(&mut self, key: &[u8], bytes: &[u8]) -> Result<()> {
        self.pair_memory.reset();
        let _pair = self.pair_memory.enter();
        let (key, bytes) = (bytea(key)?, bytea(bytes)?);
        // SAFETY: the slot has two columns; the sort copies what is stored in it.
        unsafe {
            pg_sys::ExecClearTuple(self.put);
            let values = std::slice::from_raw_parts_mut((*self.put).tts_values, 2);
            values.copy_from_slice(&[key, bytes]);
            std::slice::from_raw_parts_mut((*self.put).tts_isnull, 2).fill(false);
            pg_sys::ExecStoreVirtualTuple(self.put);
            pg_sys::tuplesort_puttupleslot(self.state, self.put);
        }
        Ok(())
    }

    /// Sorts, and gives the pairs to `take`, keys in order.
    pub fn each(self, mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        // SAFETY: what a slot holds is readable until the next pair is fetched, and `take` keeps none of it.
        unsafe {
            pg_sys::tuplesort_performsort(self.state);
            while pg_sys::tuplesort_gettupleslot(self.state, true, false, self.got, std::ptr::null_mut()) {
                check_interrupts();
                pg_sys::slot_getsomeattrs_int(self.got, 2);
                let values = std::slice::from_raw_parts((*self.got).tts_values, 2);
                let bytes = |index: usize| pgrx::varlena::varlena_to_byte_slice(values[index].cast_mut_ptr());
                take(bytes(0), bytes(1))?;
            }
        }
        Ok(())
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        // On an error, the (sub)transaction's abort closes the files and frees the memory, and may have done so already.
        if !std::thread::panicking() {
            // SAFETY: made in `new`, ended nowhere else.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.put);
                pg_sys::ExecDropSingleTupleTableSlot(self.got);
                pg_sys::tuplesort_end(self.state);
            }
        }
    }
}

/// Rows as bytes, for the sort, and back.
pub struct RowBytes {
    shape: pg_sys::TupleDesc,
    /// Whether values may be stored apart (toasted), for each column.
    may_be_apart: Vec<bool>,
    /// Holds what one row allocates.
    row_memory: Memory,
    /// Holds the shape. The last field, so that it is dropped last.
    _memory: Memory,
}

impl RowBytes {
    /// Returns a writer and reader of rows of this shape.
    ///
    /// # Safety
    /// The rows that [`Self::with_bytes`] is given have this shape.
    pub unsafe fn of(shape: &PgTupleDesc<'_>) -> Self {
        let memory = Memory::new(c"s3_export row shape");
        let may_be_apart = shape.iter().map(|attribute| attribute.attlen == -1).collect();
        let shape = {
            let _long = memory.enter();
            // SAFETY: the copy is in memory that lives as long as this does.
            unsafe { pg_sys::CreateTupleDescCopy(shape.as_ptr()) }
        };
        RowBytes { shape, may_be_apart, row_memory: Memory::new(c"s3_export row bytes"), _memory: memory }
    }

    /// Calls `take` with the bytes of a row. Values that are stored apart are fetched: they are looked up while the query runs.
    pub fn with_bytes<T>(&self, row: &Values<'_>, take: impl FnOnce(&[u8]) -> T) -> T {
        self.row_memory.reset();
        let _row = self.row_memory.enter();
        let (values, nulls) = row.parts();
        let (mut values, mut nulls) = (values.to_vec(), nulls.to_vec());
        // SAFETY: as `of` was promised, the row has the shape's columns, of their types, and it is readable; its copy is in the row's memory. What a composite or an array
        // holds is never stored apart.
        let bytes = unsafe {
            for ((value, is_null), may_be_apart) in values.iter_mut().zip(&nulls).zip(&self.may_be_apart) {
                if *may_be_apart && !is_null && pgrx::varlena::varatt_is_1b_e(value.cast_mut_ptr()) {
                    *value = pg_sys::Datum::from(pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr()));
                }
            }
            let tuple = pg_sys::heap_form_tuple(self.shape, values.as_mut_ptr(), nulls.as_mut_ptr());
            std::slice::from_raw_parts((*tuple).t_data.cast::<u8>(), (*tuple).t_len as usize)
        };
        take(bytes)
    }

    /// Calls `take` with the row whose bytes these are.
    ///
    /// # Safety
    /// [`Self::with_bytes`] gave these bytes.
    pub unsafe fn with_values<T>(&self, bytes: &[u8], take: impl FnOnce(&Values<'_>) -> T) -> T {
        self.row_memory.reset();
        let _row = self.row_memory.enter();
        let columns = self.may_be_apart.len();
        let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); columns], vec![true; columns]);
        // SAFETY: by the caller's promise, the bytes are those of a tuple of this shape; their copy is aligned as a tuple must be, and lives in the row's
        // memory. The lists have room for all columns.
        unsafe {
            let copy = pg_sys::palloc(bytes.len()).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len());
            let mut tuple =
                pg_sys::HeapTupleData { t_len: bytes.len() as u32, t_data: copy.cast(), ..pg_sys::HeapTupleData::default() };
            pg_sys::heap_deform_tuple(&mut tuple, self.shape, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        // SAFETY: these are the values of that tuple, whose memory nobody resets before `take` returns.
        take(&unsafe { Values::new(&values, &nulls) })
    }
}

/// In the current memory. Errors: 53200.
fn bytea(bytes: &[u8]) -> Result<pg_sys::Datum> {
    let size = bytes.len() + pg_sys::VARHDRSZ;
    if size > MAX_BYTES {
        return Err(Error::out_of_memory("a document to be sorted into its partition"));
    }
    // SAFETY: as many bytes as are allocated are written.
    unsafe {
        let datum = pg_sys::palloc(size).cast::<pg_sys::varlena>();
        pgrx::set_varsize_4b(datum, size as i32);
        let payload = datum.cast::<u8>().add(pg_sys::VARHDRSZ);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), payload, bytes.len());
        Ok(pg_sys::Datum::from(datum))
    }
}
