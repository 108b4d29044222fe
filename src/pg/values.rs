//! A row's values, by the index of their column: found, or read from a stored tuple when they are asked for.

use pgrx::pg_sys;
use pgrx::varlena::varsize_any;

/// A row's values.
///
/// # Safety
/// A value that is not NULL is one of its column's type, and what it refers to is readable as long as the row is borrowed.
pub unsafe trait Row {
    /// The value of the column with that index, and whether it is NULL; `None`: there is no such column.
    fn value(&self, index: usize) -> Option<(pg_sys::Datum, bool)>;
}

/// A row's values, found, and which of them are NULL.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> Values<'a> {
    /// # Safety
    /// Each value that is not NULL is one of its column's type, and what it refers to is readable for `'a`.
    #[inline(always)]
    pub unsafe fn new(values: &'a [pg_sys::Datum], nulls: &'a [bool]) -> Self {
        Values { values, nulls }
    }

    /// The values themselves, for Postgres.
    pub(super) fn parts(&self) -> (&'a [pg_sys::Datum], &'a [bool]) {
        (self.values, self.nulls)
    }
}

// SAFETY: as `new` was promised.
unsafe impl Row for Values<'_> {
    #[inline(always)]
    fn value(&self, index: usize) -> Option<(pg_sys::Datum, bool)> {
        Some((*self.values.get(index)?, *self.nulls.get(index)?))
    }
}

/// A stored row of columns that have each the same place in all such rows, none of them NULL: nothing is to be found, and a value is
/// read when it is asked for. Of two integers that saves an eighth of the instructions between the executor and the document.
pub struct FixedLayoutRow<'a> {
    data: *const u8,
    places: &'a [(usize, Form)],
}

impl<'a> FixedLayoutRow<'a> {
    /// # Safety
    /// From `data` on, for as long as this is used, there are values of these forms at these places.
    #[inline(always)]
    pub(super) unsafe fn new(data: *const u8, places: &'a [(usize, Form)]) -> Self {
        FixedLayoutRow { data, places }
    }
}

// SAFETY: as `new` was promised; a value is read in the form that its column has.
unsafe impl Row for FixedLayoutRow<'_> {
    #[inline(always)]
    fn value(&self, index: usize) -> Option<(pg_sys::Datum, bool)> {
        let (offset, form) = self.places.get(index)?;
        // SAFETY: as `new` was promised.
        Some((unsafe { form.read(self.data.add(*offset)).0 }, false))
    }
}

/// How values of a column are stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Passed by value: signed integers as far as Postgres is concerned.
    One,
    Two,
    Four,
    Eight,
    /// Passed by reference, with this number of bytes.
    Fixed(usize),
    /// Passed by reference, with a header that has the length. A header of a single byte is not aligned.
    Varlena,
}

impl Form {
    /// The value at that place, and its length there.
    ///
    /// # Safety
    /// A value of this form is there.
    #[inline(always)]
    pub(super) unsafe fn read(self, place: *const u8) -> (pg_sys::Datum, usize) {
        // SAFETY: by the caller's promise.
        unsafe {
            match self {
                Form::One => (pg_sys::Datum::from(*place.cast::<i8>()), 1),
                Form::Two => (pg_sys::Datum::from(place.cast::<i16>().read_unaligned()), 2),
                Form::Four => (pg_sys::Datum::from(place.cast::<i32>().read_unaligned()), 4),
                Form::Eight => (pg_sys::Datum::from(place.cast::<i64>().read_unaligned()), 8),
                Form::Fixed(length) => (pg_sys::Datum::from(place), length),
                Form::Varlena => (pg_sys::Datum::from(place), varsize_any(place.cast())),
            }
        }
    }

    /// `None`: each value has its own.
    pub(super) fn length(self) -> Option<usize> {
        match self {
            Form::One => Some(1),
            Form::Two => Some(2),
            Form::Four => Some(4),
            Form::Eight => Some(8),
            Form::Fixed(length) => Some(length),
            Form::Varlena => None,
        }
    }
}
