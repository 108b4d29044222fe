//! PostGIS: geography and geometry as GeoJSON, by PostGIS's own functions.
//!
//! GeoJSON knows longitude and latitude only, no measures and no curves; whatever else a value holds is written as EWKT.
//! In plain JSON, where a column has one JSON type, every value is WKT, which BigQuery, Athena and Redshift read.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::Context;
use super::json::JsonBuffer;
use super::output::{Function, output_function};
use crate::request::Wrapping;

/// Longitude and latitude on WGS 84.
const WGS84: i32 = 4326;
/// Digits after the point: PostGIS's most, which keep every bit of a coordinate.
const MAX_DIGITS: i32 = 15;
/// GeoJSON without bounding box or coordinate system.
const NO_OPTIONS: i32 = 0;
/// What EWKT says of a value that GeoJSON cannot: curves, surfaces of triangles, and coordinates that are no numbers.
const BEYOND_GEOJSON: [&str; 9] =
    ["CIRCULARSTRING", "COMPOUNDCURVE", "CURVE", "SURFACE", "TRIANGLE", "TIN", "NAN", "INF", "nan"];

/// Writes geometry or geography.
pub struct Geo {
    /// geography → geometry, for geography.
    to_geometry: Option<Function>,
    srid: Function,
    dimensions: Function,
    as_geojson: Function,
    as_ewkt: Function,
    as_text: Function,
}

impl Geo {
    /// `None`: the type is not PostGIS's, or PostGIS lacks a function needed here.
    pub fn of_type(type_id: pg_sys::Oid, _context: &Context) -> Option<Self> {
        let output = output_function(type_id);
        let is_geography = match function_name(output)?.as_c_str().to_bytes() {
            b"geography_out" => true,
            b"geometry_out" => false,
            _ => return None,
        };
        // SAFETY: catalog look-ups.
        let schema = unsafe {
            let postgis = pg_sys::get_extension_oid(c"postgis".as_ptr(), true);
            let owner = pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, output);
            if postgis == pg_sys::InvalidOid || owner != postgis {
                return None;
            }
            pg_sys::get_namespace_name(pg_sys::get_func_namespace(output))
        };
        let find = |name: &CStr, arguments: &[pg_sys::Oid]| find_function(schema, name, arguments);
        let to_geometry = if is_geography { Some(find(c"geometry", &[type_id])?) } else { None };
        let geometry = match &to_geometry {
            // SAFETY: a catalog look-up of a function that was just found.
            Some((oid, _)) => unsafe { pg_sys::get_func_rettype(*oid) },
            None => type_id,
        };
        let of_geometry = |name: &CStr| find(name, &[geometry]).map(|(_, function)| function);
        Some(Geo {
            to_geometry: to_geometry.map(|(_, function)| function),
            srid: of_geometry(c"st_srid")?,
            dimensions: of_geometry(c"st_zmflag")?,
            as_geojson: find(c"st_asgeojson", &[geometry, pg_sys::INT4OID, pg_sys::INT4OID])?.1,
            as_ewkt: of_geometry(c"st_asewkt")?,
            as_text: of_geometry(c"st_astext")?,
        })
    }

    /// Writes the value.
    pub fn write(&self, datum: pg_sys::Datum, context: &Context, out: &mut JsonBuffer) {
        let geometry = self.to_geometry.as_ref().map_or(datum, |function| call(function, datum));
        let is_wgs84 = call(&self.srid, geometry).value() as i32 == WGS84;
        if context.wrapping != Wrapping::Rockset {
            let text = if is_wgs84 { &self.as_text } else { &self.as_ewkt };
            return context.string(call_for_text(text, geometry), out);
        }
        let ewkt = call_for_text(&self.as_ewkt, geometry);
        if is_wgs84 && !self.has_measure(geometry) && !is_beyond_geojson(ewkt) {
            let geojson = self.geojson(geometry);
            out.wrapped("geography", |out| out.raw(geojson));
        } else {
            context.string(ewkt, out);
        }
    }

    /// ST_Zmflag: 1 and 3 have an M.
    fn has_measure(&self, geometry: pg_sys::Datum) -> bool {
        call(&self.dimensions, geometry).value() & 1 == 1
    }

    fn geojson<'a>(&self, geometry: pg_sys::Datum) -> &'a [u8] {
        // SAFETY: ST_AsGeoJSON(geometry, integer, integer) with three values of these types, giving text.
        text_of(unsafe {
            pg_sys::FunctionCall3Coll(
                self.as_geojson.info(),
                pg_sys::InvalidOid,
                geometry,
                pg_sys::Datum::from(MAX_DIGITS),
                pg_sys::Datum::from(NO_OPTIONS),
            )
        })
    }
}

fn is_beyond_geojson(ewkt: &[u8]) -> bool {
    BEYOND_GEOJSON.iter().any(|word| memchr::memmem::find(ewkt, word.as_bytes()).is_some())
}

fn function_name(oid: pg_sys::Oid) -> Option<CString> {
    // SAFETY: a catalog look-up that gives a palloc'd string or null.
    unsafe {
        let name = pg_sys::get_func_name(oid);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
    }
}

fn find_function(schema: *mut std::ffi::c_char, name: &CStr, arguments: &[pg_sys::Oid]) -> Option<(pg_sys::Oid, Function)> {
    // SAFETY: the list holds two String nodes over strings that outlive the look-up.
    let oid = unsafe {
        let names = pg_sys::lappend(std::ptr::null_mut(), pg_sys::makeString(schema).cast());
        let names = pg_sys::lappend(names, pg_sys::makeString(name.as_ptr().cast_mut()).cast());
        pg_sys::LookupFuncName(names, arguments.len() as i32, arguments.as_ptr(), true)
    };
    (oid != pg_sys::InvalidOid).then(|| (oid, Function::new(oid)))
}

fn call(function: &Function, argument: pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: a strict function of one argument of the datum's type; PostGIS gives no NULL for a value.
    unsafe { pg_sys::FunctionCall1Coll(function.info(), pg_sys::InvalidOid, argument) }
}

fn call_for_text<'a>(function: &Function, argument: pg_sys::Datum) -> &'a [u8] {
    text_of(call(function, argument))
}

fn text_of<'a>(text: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: the datum is a text, allocated in the row's memory, and no caller keeps the bytes longer than the row.
    unsafe { pgrx::varlena::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(text.cast_mut_ptr())) }
}
