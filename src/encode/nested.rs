//! Arrays and composites: the types that hold values of other types.
//!
//! Each value names its element type or its row shape, so that even `anyarray` and anonymous records are encoded by
//! what they hold; an encoder is made when a type is first met and kept for the export.

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::{PgTupleDesc, pg_sys};
use s3_export_core::error::Result;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::{Append, Cursor};

use crate::encode::Column;
use crate::encode::Context;
use crate::encode::columns;
use crate::encode::memory::EncoderMemory;
use crate::encode::object;
use crate::encode::value::Encoder;
use crate::pg::values::Values;

/// Few types are met in one place, so a list is searched faster than a map.
struct Cache<K, V>(RefCell<Vec<(K, Rc<V>)>>);

impl<K: PartialEq + Copy, V> Cache<K, V> {
    fn new() -> Self {
        Cache(RefCell::new(Vec::new()))
    }

    fn get(&self, key: K, make: impl FnOnce() -> Result<V>) -> Result<Rc<V>> {
        if let Some((_, found)) = self.0.borrow().iter().find(|(known, _)| *known == key) {
            return Ok(Rc::clone(found));
        }
        let made = Rc::new(make()?);
        self.0.borrow_mut().push((key, Rc::clone(&made)));
        Ok(made)
    }
}

/// Writes arrays, of whatever element type.
pub struct Array {
    elements: Cache<pg_sys::Oid, Element>,
}

struct Element {
    /// Columns without a key: `first` for the first element of a dimension, `next` for the others.
    first: Column,
    next: Column,
    layout: Layout,
}

impl Element {
    fn of_type(element_type: pg_sys::Oid, context: &Context) -> Self {
        let element = |before| Column::new("", before, Encoder::of_type(element_type, &context.memory), context.wrapping);
        Element { first: element(b""), next: element(b","), layout: Layout::of_type(element_type) }
    }
}

/// How values of a type stand in an array.
#[derive(Clone, Copy)]
pub struct Layout {
    length: i16,
    by_value: bool,
    /// Bytes, a power of two.
    alignment: usize,
}

impl Layout {
    /// Returns the encoder for elements of that type.
    pub fn of_type(element_type: pg_sys::Oid) -> Self {
        let (mut length, mut by_value, mut alignment) = (0, false, 0);
        // SAFETY: a catalog look-up that writes to three locals.
        unsafe { pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut alignment) };
        let alignment = match alignment as u8 {
            pg_sys::TYPALIGN_CHAR => 1,
            pg_sys::TYPALIGN_SHORT => align_of::<i16>(),
            pg_sys::TYPALIGN_INT => align_of::<i32>(),
            _ => align_of::<f64>(),
        };
        Layout { length, by_value, alignment }
    }
}

/// An array, detoasted; it is readable while the row's memory is.
#[derive(Clone, Copy)]
pub struct OpenArray<'a> {
    array: *const pg_sys::ArrayType,
    /// Lengths of the dimensions; an array without dimensions is empty.
    pub dimensions: &'a [i32],
    /// Type of the elements.
    pub element_type: pg_sys::Oid,
}

impl<'a> OpenArray<'a> {
    /// Reads a datum of an array type.
    ///
    /// # Safety
    /// The datum is an array that is not NULL. What this gives is kept no longer than the row's memory.
    pub unsafe fn of(datum: pg_sys::Datum) -> Self {
        // SAFETY: by the caller's promise; detoasted, an array is an ArrayType whose dimensions follow its header.
        unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let count = usize::try_from((*array).ndim).unwrap_or(0);
            let dimensions = std::slice::from_raw_parts(array.add(1).cast::<i32>(), count);
            OpenArray { array, dimensions, element_type: (*array).elemtype }
        }
    }

    /// The elements, which are values of the array's element type.
    ///
    /// # Safety
    /// `layout` is that of the array's element type. The elements are read while the array is readable.
    pub unsafe fn elements(self, layout: Layout) -> Elements {
        let start = self.array.cast::<u8>();
        // Lengths and lower bounds follow the header.
        let header = size_of::<pg_sys::ArrayType>() + self.dimensions.len() * 2 * size_of::<i32>();
        // SAFETY: the offset, where there is one, is within the array, behind the bits.
        let (not_null, data) = unsafe {
            match usize::try_from((*self.array).dataoffset).unwrap_or(0) {
                0 => (std::ptr::null(), header.next_multiple_of(pg_sys::MAXIMUM_ALIGNOF as usize)),
                offset => (start.add(header), offset),
            }
        };
        let count = self.dimensions.iter().map(|length| usize::try_from(*length).unwrap_or(0)).product::<usize>();
        let count = if self.dimensions.is_empty() { 0 } else { count };
        // SAFETY: the values begin within the array.
        Elements { layout, next: unsafe { start.add(data) }, not_null, index: 0, count }
    }
}

impl Array {
    /// Knows no element type yet.
    pub fn new() -> Self {
        Array { elements: Cache::new() }
    }

    /// Writes the array as an array, nested for several dimensions.
    ///
    /// # Safety
    /// The datum is an array that is not NULL.
    pub unsafe fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // SAFETY: by the caller's promise; the array is read before the row ends.
        let array = unsafe { OpenArray::of(datum) };
        let element = self.elements.get(array.element_type, || Ok(Element::of_type(array.element_type, context)))?;
        // SAFETY: the element is that of the type that the array names.
        unsafe { write_dimension(array.dimensions, &element, &mut array.elements(element.layout), context, out) }
    }
}

/// The elements of an array one after another, where they stand (`deconstruct_array` in `src/backend/utils/adt/arrayfuncs.c`,
/// which allocates a list of them).
pub struct Elements {
    layout: Layout,
    /// Begin of the next element that is not NULL, but for padding.
    next: *const u8,
    /// A bit an element, set for those that are not NULL; null: all are.
    not_null: *const u8,
    index: usize,
    count: usize,
}

impl Iterator for Elements {
    /// `None`: NULL.
    type Item = Option<pg_sys::Datum>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            return None;
        }
        let Layout { length, by_value, alignment } = self.layout;
        let index = self.index;
        self.index += 1;
        // SAFETY: there is one more element, so there is a bit and, unless it says NULL, a value at the next aligned byte.
        // Values of variable length are aligned as well: what pads them need not be zero, so it cannot be told from a short
        // header.
        unsafe {
            if !self.not_null.is_null() && *self.not_null.add(index / 8) & 1 << (index % 8) == 0 {
                return Some(None);
            }
            let start = self.next.add(self.next.align_offset(alignment));
            let (datum, size) = match length {
                1 if by_value => (usize::from(*start), 1),
                2 if by_value => (start.cast::<i16>().read() as usize, 2),
                4 if by_value => (start.cast::<i32>().read() as usize, 4),
                8 if by_value => (start.cast::<i64>().read() as usize, 8),
                -1 => (start.expose_provenance(), pgrx::varlena::varsize_any(start.cast())),
                -2 => (start.expose_provenance(), CStr::from_ptr(start.cast()).to_bytes_with_nul().len()),
                fixed => (start.expose_provenance(), usize::try_from(fixed).unwrap_or(0)),
            };
            self.next = start.add(size);
            Some(Some(pg_sys::Datum::from(datum)))
        }
    }
}

/// Writes the elements of the outermost of `dimensions`; an array without dimensions is empty.
///
/// # Safety
/// The elements are of the type that `element` was made for.
unsafe fn write_dimension(
    dimensions: &[i32],
    element: &Element,
    elements: &mut Elements,
    context: &Context,
    out: &mut JsonBuffer,
) -> Result<()> {
    out.push(b'[');
    if let Some((length, inner)) = dimensions.split_first() {
        for index in 0..*length {
            if !inner.is_empty() {
                if index > 0 {
                    out.push(b',');
                }
                // SAFETY: by the caller's promise.
                unsafe { write_dimension(inner, element, elements, context, out)? };
                continue;
            }
            let column = if index == 0 { &element.first } else { &element.next };
            let value = elements.next().flatten();
            let (datum, is_null) = (value.unwrap_or_else(pg_sys::Datum::null), value.is_none());
            let mut problem = None;
            // SAFETY: by the caller's promise, the value is of the type that the column's encoder was chosen by.
            unsafe { column.write(datum, is_null, context, Cursor::new(out), &mut problem) }.end();
            if let Some(error) = problem {
                return Err(error);
            }
        }
    }
    out.push(b']');
    Ok(())
}

/// Writes composites, of whatever row type.
pub struct Composite {
    shapes: Cache<(pg_sys::Oid, i32), Shape>,
}

struct Shape {
    columns: Vec<(usize, Column)>,
    row_type: RowType,
}

impl Shape {
    fn of_type(row_type: pg_sys::Oid, type_modifier: i32, context: &Context) -> Result<Self> {
        let row_type = RowType::of(row_type, type_modifier, &context.memory);
        let columns = columns(&row_type.shape(), &|_| false, context)?;
        Ok(Shape { columns, row_type })
    }
}

/// The columns of a row type.
pub struct RowType {
    /// In `_memory`, which frees it.
    descriptor: pg_sys::TupleDesc,
    _memory: EncoderMemory,
}

impl RowType {
    /// Looks up the columns of a row type. Raises for a type that has no rows.
    pub fn of(row_type: pg_sys::Oid, type_modifier: i32, memory: &EncoderMemory) -> Self {
        let _current = memory.enter();
        // SAFETY: a catalog look-up; the copy is in the memory that is current here.
        let descriptor = unsafe { pg_sys::lookup_rowtype_tupdesc_copy(row_type, type_modifier) };
        RowType { descriptor, _memory: memory.clone() }
    }

    /// Columns of the row type.
    pub fn shape(&self) -> PgTupleDesc<'_> {
        // SAFETY: the descriptor lives as long as `self`, which the wrapper borrows; the wrapper frees nothing.
        unsafe { PgTupleDesc::from_pg_unchecked(self.descriptor) }
    }

    /// The values of a row of this type, and which of them are NULL.
    ///
    /// # Safety
    /// The row is of this type.
    pub unsafe fn values(&self, row: OpenRow) -> (Vec<pg_sys::Datum>, Vec<bool>) {
        // SAFETY: the descriptor is alive, and by the caller's promise the row is of its type; the lists have room for all columns.
        unsafe {
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pgrx::varlena::varsize(row.0.cast()) as u32,
                t_data: row.0,
                ..pg_sys::HeapTupleData::default()
            };
            let columns = usize::try_from((*self.descriptor).natts).unwrap_or(0);
            let (mut values, mut nulls) = (vec![pg_sys::Datum::null(); columns], vec![true; columns]);
            pg_sys::heap_deform_tuple(&mut tuple, self.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            (values, nulls)
        }
    }
}

/// A composite, detoasted; it is readable while the row's memory is.
#[derive(Clone, Copy)]
pub struct OpenRow(*mut pg_sys::HeapTupleHeaderData);

impl OpenRow {
    /// Reads a datum of a row type.
    ///
    /// # Safety
    /// The datum is a composite that is not NULL. What this gives is kept no longer than the row's memory.
    pub unsafe fn of(datum: pg_sys::Datum) -> Self {
        // A record may hold a record, and so on for as long as a loop has made them; without this the server would crash.
        // SAFETY: the first only raises. By the caller's promise, the datum is a composite; detoasted, it is a tuple.
        unsafe {
            pg_sys::check_stack_depth();
            OpenRow(pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast())
        }
    }

    /// Type and modifier of the composite, which its header names.
    fn row_type(self) -> (pg_sys::Oid, i32) {
        // SAFETY: a composite's header names its type.
        let fields = unsafe { (*self.0).t_choice.t_datum };
        (fields.datum_typeid, fields.datum_typmod)
    }
}

impl Composite {
    /// Knows no row type yet.
    pub fn new() -> Self {
        Composite { shapes: Cache::new() }
    }

    /// Writes the composite as an object.
    ///
    /// # Safety
    /// The datum is a composite that is not NULL.
    pub unsafe fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // SAFETY: by the caller's promise; the composite is read before the row ends.
        let row = unsafe { OpenRow::of(datum) };
        let row_type = row.row_type();
        let shape = self.shapes.get(row_type, || Shape::of_type(row_type.0, row_type.1, context))?;
        // SAFETY: the shape is that of the type that the row names, and the row stays readable until it is written.
        unsafe {
            let (values, nulls) = shape.row_type.values(row);
            object(&shape.columns, &Values::new(&values, &nulls), context, out, b"}")
        }
    }
}
