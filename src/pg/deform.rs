//! Finds the values of a stored tuple, as the executor's own `slot_deform_heap_tuple` does, in a fraction of its time.
//!
//! Postgres's looks up for each value what this has worked out once for all tuples of a table; of two integers that is a tenth
//! of the time of an export. The layout is the one on disk (`src/include/access/htup_details.h`, `tupmacs.h`), the same in every
//! version since 8.3. Whatever is not a stored tuple with all columns is Postgres's to take apart.
//!
//! A debug build has Postgres take each such tuple apart as well and compares the two, so that every test that exports a table is a
//! test of this file.

use pgrx::{PgTupleDesc, pg_sys};

use crate::pg::values::{FixedLayoutRow, Form, Row, Values};

// SAFETY: declared as Postgres declares it.
unsafe extern "C-unwind" {
    /// Postgres's own, undecorated, since it is called for each row. Should it raise, it jumps to the guard around SPI, over
    /// frames of ours that have nothing to drop.
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: i32);
}

/// Layout of one column.
#[derive(Debug, Clone, Copy)]
struct Field {
    /// Alignment mask: the type's alignment minus one.
    alignment: usize,
    form: Form,
}

/// Partitions whose rows take turns, as in a merge, each have a descriptor: so often one is looked at, and then only tuples of the
/// last are taken apart here.
const MAX_LEARNT: u16 = 1000;

/// Takes tuples of one query apart.
#[derive(Debug)]
pub struct Deformer {
    /// Descriptor of the tuples that `fields` describes. Descriptors of the executor live as long as the executor.
    descriptor: pg_sys::TupleDesc,
    /// Empty: not of any that Postgres need not take apart.
    fields: Vec<Field>,
    /// Place of each field's values in a tuple without NULLs; empty if that depends on the tuple.
    places: Vec<(usize, Form)>,
    /// Descriptors learnt so far.
    learnt: u16,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    none_is_null: Vec<bool>,
}

impl Deformer {
    /// Knows no descriptor yet; `columns`: the number that tuples have.
    pub fn new(columns: usize) -> Self {
        Deformer {
            descriptor: std::ptr::null_mut(),
            fields: Vec::with_capacity(columns),
            places: Vec::new(),
            learnt: 0,
            values: vec![pg_sys::Datum::null(); columns],
            nulls: vec![false; columns],
            none_is_null: vec![false; columns],
        }
    }

    /// The values of the row in the slot.
    ///
    /// # Safety
    /// The slot is the executor's, has so many columns and a row, and keeps it while what this gives is used.
    #[inline(always)]
    pub unsafe fn deform(&mut self, slot: *mut pg_sys::TupleTableSlot) -> Values<'_> {
        let columns = self.values.len();
        // SAFETY: by the caller's promise. Deformed up to `columns`, the slot's arrays hold as many, and the values stay readable
        // as long as the slot keeps its row.
        unsafe {
            // Nobody has looked at this row yet, which saves most rows that are not stored the other questions.
            if (*slot).tts_nvalid == 0
                && let Some(tuple) = self.stored_tuple(slot)
            {
                let row = if tuple.has_nulls {
                    self.find::<true>(&tuple);
                    Values::new(&self.values, &self.nulls)
                } else {
                    self.find::<false>(&tuple);
                    Values::new(&self.values, &self.none_is_null)
                };
                if cfg!(debug_assertions) {
                    compare_with_postgres(slot, &self.fields, &row);
                }
                return row;
            }
            if usize::try_from((*slot).tts_nvalid).unwrap_or(0) < columns {
                slot_getsomeattrs_int(slot, columns as i32);
            }
            Values::new(
                std::slice::from_raw_parts((*slot).tts_values, columns),
                std::slice::from_raw_parts((*slot).tts_isnull, columns),
            )
        }
    }

    /// The row in the slot, if its values need not be found; of the table whose rows [`Self::deform`] learnt last.
    ///
    /// # Safety
    /// The promises of [`Self::deform`].
    #[inline(always)]
    pub unsafe fn placed(&self, slot: *mut pg_sys::TupleTableSlot) -> Option<FixedLayoutRow<'_>> {
        // SAFETY: by the caller's promise.
        unsafe {
            if self.places.is_empty() || (*slot).tts_nvalid != 0 || (*slot).tts_tupleDescriptor != self.descriptor {
                return None;
            }
            let tuple = Stored::of(slot)?;
            let is_whole = tuple.columns >= self.places.len() && !tuple.has_nulls;
            if !is_whole {
                return None;
            }
            let row = FixedLayoutRow::new(tuple.data, &self.places);
            if cfg!(debug_assertions) {
                compare_with_postgres(slot, &self.fields, &row);
            }
            Some(row)
        }
    }

    /// `None`: let Postgres find the values.
    ///
    /// # Safety
    /// The promises of [`Self::deform`].
    #[inline(always)]
    unsafe fn stored_tuple(&mut self, slot: *mut pg_sys::TupleTableSlot) -> Option<Stored> {
        // SAFETY: by the caller's promise.
        unsafe {
            let tuple = Stored::of(slot)?;
            if (*slot).tts_tupleDescriptor != self.descriptor && !self.learn((*slot).tts_tupleDescriptor) {
                return None;
            }
            // Columns that were added later have their values in the catalog.
            let has_all = !self.fields.is_empty() && tuple.columns >= self.fields.len();
            has_all.then_some(tuple)
        }
    }

    /// # Safety
    /// The tuple has the descriptor that was learnt, and all its columns.
    #[inline(always)]
    unsafe fn find<const HAS_NULLS: bool>(&mut self, tuple: &Stored) {
        // SAFETY: by the caller's promise; values are where the layout has them, one after another.
        unsafe {
            let (data, bits) = (tuple.data, tuple.bits);
            let mut offset = 0;
            for (index, field) in self.fields.iter().enumerate() {
                let (value, null) = (self.values.get_unchecked_mut(index), self.nulls.get_unchecked_mut(index));
                if HAS_NULLS {
                    *null = (*bits.add(index / 8) >> (index % 8)) & 1 == 0;
                    if *null {
                        *value = pg_sys::Datum::null();
                        continue;
                    }
                }
                // Padding is zeros, and no header is.
                if !matches!(field.form, Form::Varlena) || *data.add(offset) == 0 {
                    offset = (offset + field.alignment) & !field.alignment;
                }
                let length;
                (*value, length) = field.form.read(data.add(offset));
                offset += length;
            }
        }
    }

    /// Seldom: for the first row, and when rows of another partition come. False: too often.
    ///
    /// # Safety
    /// The descriptor is the executor's.
    #[cold]
    #[inline(never)]
    unsafe fn learn(&mut self, descriptor: pg_sys::TupleDesc) -> bool {
        if self.learnt == MAX_LEARNT {
            return false;
        }
        self.learnt += 1;
        self.descriptor = descriptor;
        self.fields.clear();
        // SAFETY: the copy is freed with its wrapper.
        let shape = unsafe { PgTupleDesc::from_pg_copy(descriptor) };
        let fields: Option<Vec<Field>> = shape.iter().map(field).collect();
        if let Some(fields) = fields.filter(|fields| fields.len() == self.values.len()) {
            self.fields = fields;
        }
        self.place();
        true
    }

    /// Works out where values are.
    fn place(&mut self) {
        self.places.clear();
        let mut end = 0;
        for field in &self.fields {
            let Some(length) = field.form.length() else { return self.places.clear() };
            let offset = (end + field.alignment) & !field.alignment;
            self.places.push((offset, field.form));
            end = offset + length;
        }
    }
}

/// The header of a stored tuple.
struct Stored {
    columns: usize,
    has_nulls: bool,
    /// A bit for each column, 0 where it is NULL, if there are NULLs.
    bits: *const u8,
    /// Values of the tuple.
    data: *const u8,
}

impl Stored {
    /// The tuple in the slot, if it is there as it is stored.
    ///
    /// # Safety
    /// The promises of [`Deformer::deform`].
    #[inline(always)]
    unsafe fn of(slot: *mut pg_sys::TupleTableSlot) -> Option<Self> {
        // SAFETY: of these two kinds, slots begin with a HeapTupleTableSlot, whose tuple is NULL or stays where it is as long as
        // the row is there.
        unsafe {
            let kind = (*slot).tts_ops;
            if !std::ptr::eq(kind, &raw const pg_sys::TTSOpsBufferHeapTuple)
                && !std::ptr::eq(kind, &raw const pg_sys::TTSOpsHeapTuple)
            {
                return None;
            }
            let tuple = (*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple;
            if tuple.is_null() {
                return None;
            }
            let header = (*tuple).t_data;
            Some(Stored {
                columns: (u32::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK) as usize,
                has_nulls: u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL != 0,
                bits: (*header).t_bits.as_ptr(),
                data: header.cast::<u8>().add(usize::from((*header).t_hoff)),
            })
        }
    }
}

/// Panics unless Postgres finds the same values in the slot's tuple. Called in debug builds only. Postgres writes to arrays of this
/// function's own, so that the slot stays one that nobody has looked at.
///
/// # Safety
/// The same as of [`Deformer::deform`]. The slot has a stored tuple with all columns of its descriptor, which are `fields`; the values
/// of `row` are readable.
#[cold]
#[inline(never)]
unsafe fn compare_with_postgres(slot: *mut pg_sys::TupleTableSlot, fields: &[Field], row: &impl Row) {
    let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); fields.len()], vec![true; fields.len()]);
    // SAFETY: by the caller's promise; the arrays have room for all columns.
    unsafe {
        let tuple = (*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple;
        pg_sys::heap_deform_tuple(tuple, (*slot).tts_tupleDescriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
    }
    for (index, ((field, value), is_null)) in fields.iter().zip(values).zip(nulls).enumerate() {
        let Some((own, own_is_null)) = row.value(index) else { unreachable!("column {index} is not in the row") };
        assert_eq!(own_is_null, is_null, "whether column {index} is NULL");
        // Whether a byte has a sign is the platform's choice, and no reader looks above the byte.
        let bits = if matches!(field.form, Form::One) { 0xff } else { usize::MAX };
        assert!(is_null || (own.value() ^ value.value()) & bits == 0, "column {index}: {own:?} where Postgres finds {value:?}");
    }
}

/// `None`: of a kind that is in no table.
fn field(attribute: &pg_sys::FormData_pg_attribute) -> Option<Field> {
    let alignment = match attribute.attalign as u8 {
        pg_sys::TYPALIGN_CHAR => 1,
        pg_sys::TYPALIGN_SHORT => align_of::<i16>(),
        pg_sys::TYPALIGN_INT => align_of::<i32>(),
        pg_sys::TYPALIGN_DOUBLE => align_of::<i64>(),
        _ => return None,
    };
    let form = match (attribute.attbyval, attribute.attlen) {
        (true, 1) => Form::One,
        (true, 2) => Form::Two,
        (true, 4) => Form::Four,
        (true, 8) => Form::Eight,
        (false, -1) => Form::Varlena,
        (false, length) => Form::Fixed(usize::try_from(length).ok()?),
        _ => return None,
    };
    Some(Field { alignment: alignment - 1, form })
}
