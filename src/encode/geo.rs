//! PostGIS: geography and geometry as GeoJSON.
//!
//! GeoJSON knows longitude and latitude only, no measures and no curves; whatever else a value holds is written as EWKT, which
//! is `SRID=…;` and well-known text. In plain JSON, where a column has one JSON type, every value is text, without `SRID=4326;`
//! so that BigQuery, Athena and Redshift read it.

use std::ffi::CStr;

use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::format::Wrapping;
use s3_export_core::text::buffer::JsonBuffer;
use s3_export_core::text::cursor::Append;
use s3_export_core::text::wkb;

use crate::encode::Context;
use crate::encode::memory::EncoderMemory;
use crate::encode::output::{Function, output_function};

/// Longitude and latitude on WGS 84.
pub const WGS84: u32 = 4326;

/// Writes geometry or geography.
pub struct Geo {
    /// value → EWKB
    send: Function,
    /// On a spheroid, rather than on a plane.
    pub is_geography: bool,
}

impl Geo {
    /// Returns the writer of a type of PostGIS's. `None`: the type is another.
    pub fn of_type(type_id: pg_sys::Oid, memory: &EncoderMemory) -> Option<Self> {
        let output = output_function(type_id);
        let (mut send, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: catalog look-ups; the name is a palloc'd string or null.
        let is_geography = unsafe {
            let name = pg_sys::get_func_name(output);
            if name.is_null() || ![c"geometry_out", c"geography_out"].contains(&CStr::from_ptr(name)) {
                return None;
            }
            let postgis = pg_sys::get_extension_oid(c"postgis".as_ptr(), true);
            if postgis == pg_sys::InvalidOid || pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, output) != postgis {
                return None;
            }
            pg_sys::getTypeBinaryOutputInfo(type_id, &mut send, &mut is_varlena);
            CStr::from_ptr(name) == c"geography_out"
        };
        Some(Geo { send: Function::new(send, memory), is_geography })
    }

    /// Writes the value.
    ///
    /// # Safety
    /// The datum is not NULL and of the type that this was made for.
    pub unsafe fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) -> Result<()> {
        // SAFETY: by the caller's promise; the bytes are read before the row ends.
        write(unsafe { self.ewkb(datum) }, context.wrapping, out).ok_or_else(not_understood)
    }

    /// PostGIS's binary form. The bytes are in the row's memory.
    ///
    /// # Safety
    /// The datum is not NULL and of the type that this was made for. The bytes are kept no longer than the row's memory.
    pub unsafe fn ewkb<'a>(&self, datum: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: by the caller's promise; it is the type's own send function, which gives a bytea that is not toasted.
        unsafe { pgrx::varlena::varlena_to_byte_slice(pg_sys::SendFunctionCall(self.send.info(), datum).cast()) }
    }
}

fn not_understood() -> Error {
    Error::new(Code::Internal, "the binary form of a geometry is not understood")
}

fn write(ewkb: &[u8], wrapping: Wrapping, out: &mut JsonBuffer) -> Option<()> {
    let srid = wkb::srid(ewkb)?;
    let is_wrapped = wrapping == Wrapping::Rockset;
    if is_wrapped && srid == WGS84 {
        let start = out.len();
        let mut geojson = None;
        out.wrapped("geography", |out| geojson = wkb::write_geojson(ewkb, out));
        if geojson.is_some() {
            return geojson;
        }
        out.truncate(start);
    }
    out.push(b'"');
    if srid != 0 && (is_wrapped || srid != WGS84) {
        out.raw(format!("SRID={srid};").as_bytes());
    }
    wkb::write_text(ewkb, out)?;
    out.push(b'"');
    Some(())
}
