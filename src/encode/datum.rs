//! Reads of a Datum that more than one table of types needs.

use pgrx::pg_sys;
use s3_export_core::text::interval::Interval;

/// Whether Postgres has infinite intervals: from 17 on.
pub(super) const HAS_INFINITE_INTERVALS: bool = cfg!(since_pg17);

/// The type `oid8`, which there is from 19 on; before that, the type of nothing.
#[cfg(not(since_pg19))]
pub(super) const OID8: pg_sys::Oid = pg_sys::InvalidOid;
/// The type `oid8`, an unsigned integer of 64 bits.
#[cfg(since_pg19)]
pub(super) const OID8: pg_sys::Oid = pg_sys::OID8OID;

/// Returns the base type of a domain, and any other type itself.
pub(super) fn base_type(type_id: pg_sys::Oid) -> pg_sys::Oid {
    base_type_and_modifier(type_id, -1).0
}

/// Returns the base type of a domain with the modifier that the domain gives it; any other type with the modifier given here.
pub(super) fn base_type_and_modifier(type_id: pg_sys::Oid, mut modifier: i32) -> (pg_sys::Oid, i32) {
    // SAFETY: a catalog look-up that writes to a local.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(type_id, &mut modifier) };
    (base, modifier)
}

/// The bytes of a value of variable length, without its header, detoasted into the row's memory.
///
/// # Safety
/// The datum is not NULL and of a type of variable length. The bytes are kept no longer than the row's memory.
#[inline(always)]
pub(super) unsafe fn payload<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: by the caller's promise, the datum points to a varlena; it and its detoasted copy are readable until the row ends.
    unsafe {
        let is_plain = !pgrx::varlena::varatt_is_1b_e(value) && !pgrx::varlena::varatt_is_4b_c(value);
        let plain = if is_plain { value } else { detoast(value) };
        pgrx::varlena::varlena_to_byte_slice(plain)
    }
}

/// Detoasts a value. Seldom needed, and so kept out of the writers.
///
/// # Safety
/// `value` points to a varlena.
#[cold]
#[inline(never)]
unsafe fn detoast(value: *mut pg_sys::varlena) -> *mut pg_sys::varlena {
    // SAFETY: by the caller's promise.
    unsafe { pg_sys::pg_detoast_datum_packed(value) }
}

/// The parts of an interval.
///
/// # Safety
/// The datum is an interval that is not NULL.
pub(super) unsafe fn interval_of(datum: pg_sys::Datum) -> Interval {
    // SAFETY: by the caller's promise; intervals are passed by reference to this struct.
    let value = unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() };
    Interval { months: value.month, days: value.day, microseconds: value.time }
}
