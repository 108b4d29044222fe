//! Arrays and composites: the types that hold values of other types.
//!
//! Their element types and row shapes stand in each value, so that even `anyarray` and anonymous records are encoded by
//! what they hold; an encoder is made when a type is first met and kept for the export.

use std::cell::RefCell;
use std::rc::Rc;

use pgrx::{PgTupleDesc, pg_sys};

use super::json::JsonBuffer;
use super::value::Encoder;
use super::{Context, Key, encoders, object};
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
    encoder: Encoder,
    length: i16,
    by_value: bool,
    alignment: std::ffi::c_char,
}

impl Element {
    fn of_type(element_type: pg_sys::Oid, context: &Context) -> Self {
        let (mut length, mut by_value, mut alignment) = (0, false, 0);
        // SAFETY: a catalog look-up that writes to three locals.
        unsafe { pg_sys::get_typlenbyvalalign(element_type, &mut length, &mut by_value, &mut alignment) };
        let _long = context.memory.enter();
        Element { encoder: Encoder::of_type(element_type), length, by_value, alignment }
    }
}

impl Array {
    /// Knows no element type yet.
    pub fn new() -> Self {
        Array { elements: Cache::new() }
    }

    /// Writes the array as an array, nested for several dimensions.
    pub fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // SAFETY: the datum is of an array type; detoasted, it is an ArrayType whose dimensions follow its header. What is
        // allocated goes with the row's memory.
        let (dimensions, element, values, nulls) = unsafe {
            let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
            let dimensions =
                std::slice::from_raw_parts(array.add(1).cast::<i32>(), usize::try_from((*array).ndim).unwrap_or(0));
            let element_type = (*array).elemtype;
            let element = self.elements.get(element_type, || Ok(Element::of_type(element_type, context)))?;
            let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
            pg_sys::deconstruct_array(
                array,
                element_type,
                element.length.into(),
                element.by_value,
                element.alignment,
                &mut values,
                &mut nulls,
                &mut count,
            );
            let count = usize::try_from(count).unwrap_or(0);
            (dimensions, element, slice(values, count), slice(nulls, count))
        };
        let mut elements = values.iter().copied().zip(nulls.iter().copied());
        write_dimension(dimensions, &mut elements, &element.encoder, context, out)
    }
}

/// # Safety
/// `start` points to `count` values, unless `count` is 0.
unsafe fn slice<'a, T>(start: *const T, count: usize) -> &'a [T] {
    // SAFETY: by the caller's promise.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(start, count) } }
}

/// Writes the elements of the outermost of `dimensions`; an array without dimensions is empty.
fn write_dimension(
    dimensions: &[i32],
    elements: &mut impl Iterator<Item = (pg_sys::Datum, bool)>,
    encoder: &Encoder,
    context: &Context,
    out: &mut JsonBuffer,
) -> Result<()> {
    out.push(b'[');
    if let Some((length, inner)) = dimensions.split_first() {
        for index in 0..*length {
            if index > 0 {
                out.push(b',');
            }
            if !inner.is_empty() {
                write_dimension(inner, elements, encoder, context, out)?;
            } else if let Some((value, false)) = elements.next() {
                encoder.write(value, context, out)?;
            } else {
                out.raw(b"null");
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
    columns: Vec<(Key, Encoder)>,
    /// Copied into the encoders' memory, which frees it.
    descriptor: pg_sys::TupleDesc,
}

impl Shape {
    fn of_type(row_type: pg_sys::Oid, type_modifier: i32, context: &Context) -> Result<Self> {
        let _long = context.memory.enter();
        // SAFETY: the type stands in a composite value, so it is a row type; the copy is freed with the encoders.
        let descriptor = unsafe { pg_sys::lookup_rowtype_tupdesc_copy(row_type, type_modifier) };
        // SAFETY: the copy outlives the wrapper, which frees nothing.
        let columns = encoders(&unsafe { PgTupleDesc::from_pg_unchecked(descriptor) }, &|_| false)?;
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
            object(&shape.columns, &values, &nulls, context, out)
        }
    }
}
