//! Arrays and composites: the types that hold values of other types.
//!
//! Their element types and row shapes stand in each value, so that even `anyarray` and anonymous records are encoded by
//! what they hold; an encoder is made when a type is first met and kept for the export.

use std::cell::RefCell;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::{PgTupleDesc, pg_sys};

use super::block::{Append, Cursor};
use super::json::JsonBuffer;
use super::value::Encoder;
use super::{Column, Context, columns, object};
use crate::error::Result;

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
    /// As columns without a key: the first of a dimension, and the others.
    first: Column,
    next: Column,
    length: i16,
    by_value: bool,
    /// Bytes, a power of two.
    alignment: usize,
}

impl Element {
    fn of_type(element_type: pg_sys::Oid, context: &Context) -> Self {
        let (mut length, mut by_value, mut alignment) = (0, false, 0);
        // SAFETY: a catalog look-up that writes to three locals.
        unsafe { pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut alignment) };
        let alignment = match alignment as u8 {
            pg_sys::TYPALIGN_CHAR => 1,
            pg_sys::TYPALIGN_SHORT => align_of::<i16>(),
            pg_sys::TYPALIGN_INT => align_of::<i32>(),
            _ => align_of::<f64>(),
        };
        let _long = context.memory.enter();
        let element = |before| Column::new(before, Encoder::of_type(element_type), context.wrapping);
        Element { first: element(b""), next: element(b","), length, by_value, alignment }
    }
}

impl Array {
    /// Knows no element type yet.
    pub fn new() -> Self {
        Array { elements: Cache::new() }
    }

    /// Writes the array as an array, nested for several dimensions.
    pub fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // SAFETY: the datum is of an array type; detoasted, it is an ArrayType whose dimensions follow its header. It is
        // readable while the row's memory is.
        let (array, dimensions, element_type) = unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let count = usize::try_from((*array).ndim).unwrap_or(0);
            (array, std::slice::from_raw_parts(array.add(1).cast::<i32>(), count), (*array).elemtype)
        };
        let element = self.elements.get(element_type, || Ok(Element::of_type(element_type, context)))?;
        // SAFETY: an ArrayType, as above, of that type of elements.
        let mut elements = unsafe { Elements::of(array, dimensions.len(), &element) };
        write_dimension(dimensions, &mut elements, context, out)
    }
}

/// The elements of an array one after another, where they stand (`deconstruct_array` in `src/backend/utils/adt/arrayfuncs.c`,
/// which allocates a list of them).
struct Elements<'a> {
    element: &'a Element,
    /// Where the next that is not NULL begins, but for padding.
    next: *const u8,
    /// A bit an element, set for those that are not NULL; null: all are.
    not_null: *const u8,
    index: usize,
}

impl<'a> Elements<'a> {
    /// # Safety
    /// `array` is detoasted, of so many dimensions and of elements of that type; it is readable for as long as this is used.
    unsafe fn of(array: *const pg_sys::ArrayType, dimensions: usize, element: &'a Element) -> Self {
        let start = array.cast::<u8>();
        // Lengths and lower bounds follow the header.
        let header = size_of::<pg_sys::ArrayType>() + dimensions * 2 * size_of::<i32>();
        // SAFETY: by the caller's promise; the offset, where there is one, is within the array, behind the bits.
        unsafe {
            let offset = usize::try_from((*array).dataoffset).unwrap_or(0);
            let (not_null, data) = match offset {
                0 => (std::ptr::null(), header.next_multiple_of(pg_sys::MAXIMUM_ALIGNOF as usize)),
                offset => (start.add(header), offset),
            };
            Elements { element, next: start.add(data), not_null, index: 0 }
        }
    }

    /// The next element; `None`: NULL.
    ///
    /// # Safety
    /// Called no more often than the array has elements.
    #[inline]
    unsafe fn next(&mut self) -> Option<pg_sys::Datum> {
        let Element { length, by_value, alignment, .. } = *self.element;
        let index = self.index;
        self.index += 1;
        // SAFETY: by the caller's promise there is a bit and, unless it says NULL, a value at the next aligned byte. Values of
        // variable length are aligned as well: what pads them need not be zero, so it cannot be told from a short header.
        unsafe {
            if !self.not_null.is_null() && *self.not_null.add(index / 8) & 1 << (index % 8) == 0 {
                return None;
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
            Some(pg_sys::Datum::from(datum))
        }
    }
}

/// Writes the elements of the outermost of `dimensions`; an array without dimensions is empty.
fn write_dimension(dimensions: &[i32], elements: &mut Elements<'_>, context: &Context, out: &mut JsonBuffer) -> Result<()> {
    out.push(b'[');
    if let Some((length, inner)) = dimensions.split_first() {
        for index in 0..*length {
            if !inner.is_empty() {
                if index > 0 {
                    out.push(b',');
                }
                write_dimension(inner, elements, context, out)?;
                continue;
            }
            let element = elements.element;
            let column = if index == 0 { &element.first } else { &element.next };
            // SAFETY: an array has as many elements as its dimensions say.
            let value = unsafe { elements.next() };
            let (datum, is_null) = (value.unwrap_or_else(pg_sys::Datum::null), value.is_none());
            let mut problem = None;
            column.write(datum, is_null, context, Cursor::new(out), &mut problem).end();
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
    columns: Vec<Option<Column>>,
    /// Copied into the encoders' memory, which frees it.
    descriptor: pg_sys::TupleDesc,
}

impl Shape {
    fn of_type(row_type: pg_sys::Oid, type_modifier: i32, context: &Context) -> Result<Self> {
        let _long = context.memory.enter();
        // SAFETY: the type stands in a composite value, so it is a row type; the copy is freed with the encoders.
        let descriptor = unsafe { pg_sys::lookup_rowtype_tupdesc_copy(row_type, type_modifier) };
        // SAFETY: the copy outlives the wrapper, which frees nothing.
        let columns = columns(&unsafe { PgTupleDesc::from_pg_unchecked(descriptor) }, &|_| false, context.wrapping)?;
        Ok(Shape { columns, descriptor })
    }
}

impl Composite {
    /// Knows no row type yet.
    pub fn new() -> Self {
        Composite { shapes: Cache::new() }
    }

    /// Writes the composite as an object.
    pub fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // A record may hold a record, and so on for as long as a loop has made them; without this the server would crash.
        // SAFETY: only raises.
        unsafe { pg_sys::check_stack_depth() };
        // SAFETY: the datum is of a row type; detoasted, it is a tuple whose header names that type, and whose values are
        // readable while the row's memory is.
        unsafe {
            let header = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
            let fields = (*header).t_choice.t_datum;
            let row_type = (fields.datum_typeid, fields.datum_typmod);
            let shape = self.shapes.get(row_type, || Shape::of_type(row_type.0, row_type.1, context))?;
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pgrx::varlena::varsize(header.cast()) as u32,
                t_data: header,
                ..pg_sys::HeapTupleData::default()
            };
            let mut values = vec![pg_sys::Datum::null(); shape.columns.len()];
            let mut nulls = vec![true; shape.columns.len()];
            pg_sys::heap_deform_tuple(&mut tuple, shape.descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            object(&shape.columns, &values, &nulls, context, out, b"}")
        }
    }
}
