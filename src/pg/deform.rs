//! Finds the values of a stored tuple, as the executor's own `slot_deform_heap_tuple` does, in a fraction of its time.
//!
//! Postgres's looks up for each value what this has worked out once for all tuples of a table; of two integers that is a tenth
//! of the time of an export. The layout is the one on disk (`src/include/access/htup_details.h`, `tupmacs.h`), the same in every
//! version since 8.3. Whatever is not a stored tuple with all columns is Postgres's to take apart.

use pgrx::varlena::varsize_any;
use pgrx::{PgTupleDesc, pg_sys};

// SAFETY: declared as Postgres declares it.
unsafe extern "C-unwind" {
    /// Postgres's own, undecorated, since it is called for each row. Should it raise, it jumps to the guard around SPI, over
    /// frames of ours that have nothing to drop.
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: i32);
}

/// Of a column.
#[derive(Debug, Clone, Copy)]
struct Field {
    /// What its values begin at a multiple of, less one.
    alignment: usize,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// By value: signed integers as far as Postgres is concerned.
    One,
    Two,
    Four,
    Eight,
    /// By reference, and so many bytes.
    Fixed(usize),
    /// By reference, with a header that has the length. One of a single byte is not aligned.
    Varlena,
}

/// Partitions whose rows take turns, as in a merge, each have a descriptor: so often one is looked at, and then only tuples of the
/// last are taken apart here.
const MOST_LEARNT: u16 = 1000;

/// Takes tuples of one query apart.
#[derive(Debug)]
pub struct Deformer {
    /// Whose tuples `fields` are of. Descriptors of the executor live as long as it does.
    descriptor: pg_sys::TupleDesc,
    /// Empty: not of any that Postgres need not take apart.
    fields: Vec<Field>,
    /// Descriptors learnt so far.
    learnt: u16,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    none_is_null: Vec<bool>,
}

impl Deformer {
    /// Of tuples with so many columns.
    pub fn new(columns: usize) -> Self {
        Deformer {
            descriptor: std::ptr::null_mut(),
            fields: Vec::with_capacity(columns),
            learnt: 0,
            values: vec![pg_sys::Datum::null(); columns],
            nulls: vec![false; columns],
            none_is_null: vec![false; columns],
        }
    }

    /// The values of the row in the slot, and which are NULL.
    ///
    /// # Safety
    /// The slot is the executor's, has so many columns and a row, and keeps it while what this gives is used.
    #[inline(always)]
    pub unsafe fn deform(&mut self, slot: *mut pg_sys::TupleTableSlot) -> (&[pg_sys::Datum], &[bool]) {
        let columns = self.values.len();
        // SAFETY: by the caller's promise. Deformed up to `columns`, the slot's arrays hold as many.
        unsafe {
            // Nobody has looked at this row yet, which saves most rows that are not stored the other questions.
            if (*slot).tts_nvalid == 0
                && let Some(header) = self.stored_tuple(slot)
            {
                return if u32::from((*header).t_infomask) & pg_sys::HEAP_HASNULL == 0 {
                    self.find::<false>(header);
                    (&self.values, &self.none_is_null)
                } else {
                    self.find::<true>(header);
                    (&self.values, &self.nulls)
                };
            }
            if usize::try_from((*slot).tts_nvalid).unwrap_or(0) < columns {
                slot_getsomeattrs_int(slot, columns as i32);
            }
            (std::slice::from_raw_parts((*slot).tts_values, columns), std::slice::from_raw_parts((*slot).tts_isnull, columns))
        }
    }

    /// `None`: let Postgres find the values.
    ///
    /// # Safety
    /// As of [`Self::deform`].
    #[inline(always)]
    unsafe fn stored_tuple(&mut self, slot: *mut pg_sys::TupleTableSlot) -> Option<pg_sys::HeapTupleHeader> {
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
            if (*slot).tts_tupleDescriptor != self.descriptor && !self.learn((*slot).tts_tupleDescriptor) {
                return None;
            }
            let header = (*tuple).t_data;
            let stored = u32::from((*header).t_infomask2) & pg_sys::HEAP_NATTS_MASK;
            // Columns that were added later have their values in the catalog.
            let has_all = !self.fields.is_empty() && stored as usize >= self.fields.len();
            has_all.then_some(header)
        }
    }

    /// # Safety
    /// The tuple has the descriptor that was learnt, and all its columns.
    #[inline(always)]
    unsafe fn find<const HAS_NULLS: bool>(&mut self, header: pg_sys::HeapTupleHeader) {
        // SAFETY: by the caller's promise; values are where the layout has them, one after another.
        unsafe {
            let data = header.cast::<u8>().add(usize::from((*header).t_hoff));
            let bits = (*header).t_bits.as_ptr();
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
                let place = data.add(offset);
                let length;
                (*value, length) = match field.form {
                    Form::One => (pg_sys::Datum::from(*place.cast::<i8>()), 1),
                    Form::Two => (pg_sys::Datum::from(place.cast::<i16>().read_unaligned()), 2),
                    Form::Four => (pg_sys::Datum::from(place.cast::<i32>().read_unaligned()), 4),
                    Form::Eight => (pg_sys::Datum::from(place.cast::<i64>().read_unaligned()), 8),
                    Form::Fixed(length) => (pg_sys::Datum::from(place), length),
                    Form::Varlena => (pg_sys::Datum::from(place), varsize_any(place.cast())),
                };
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
        if self.learnt == MOST_LEARNT {
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
        true
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
