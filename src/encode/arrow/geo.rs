//! Geometries as GeoParquet 1.1 has them: well-known binary, and what readers need to know of it.
//!
//! The metadata of a column holds for each of its values. So a value in another reference system than the column's is refused, since
//! the binary form names none. Measures, curves and surfaces are refused too, which readers are told not to expect.

use arrow_array::ArrayRef;
use arrow_schema::DataType;
use pgrx::pg_sys;
use s3_export_core::error::{Code, Error, Result};
use s3_export_core::text::wkb;
use serde_json::{Value, json};

use crate::encode::Context;
use crate::encode::arrow::array::Bytes;
use crate::encode::arrow::column::Gather;
use crate::encode::geo::{Geo, WGS84};

/// A column of geometries or geographies.
pub struct Geometries {
    values: Bytes,
    geo: Geo,
    /// Coordinate reference system of the column; `None`: none is known.
    srid: Option<u32>,
}

impl Geometries {
    /// `modifier`: the type's.
    pub fn new(geo: Geo, modifier: i32) -> Self {
        let srid = if modifier < 0 { 0 } else { srid_of_modifier(modifier) };
        let srid = match u32::try_from(srid) {
            Ok(0) | Err(_) => geo.is_geography.then_some(WGS84),
            Ok(srid) => Some(srid),
        };
        Geometries { values: Bytes::default(), geo, srid }
    }

    /// The column's entry in a file's metadata.
    pub fn entry(&self) -> Value {
        entry(self.geo.is_geography, self.srid)
    }
}

impl Gather for Geometries {
    fn data_type(&self) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    /// Errors: 0A000 for a value that GeoParquet has no form for, 22023 for another reference system.
    unsafe fn push(&mut self, datum: pg_sys::Datum, _context: &Context) -> Result<usize> {
        // SAFETY: by the caller's promise; the bytes are read before the row ends.
        let ewkb = unsafe { self.geo.ewkb(datum) };
        match (wkb::srid(ewkb), self.srid) {
            (Some(found), Some(said)) if found != said && found != 0 => {
                return Err(Error::new(
                    Code::InvalidParameter,
                    format!("a geography of SRID {found} in a column of SRID {said}"),
                )
                .hint("Give the column a type that names the SRID, such as geography(Point,4269)."));
            }
            _ => {}
        }
        self.values.push(|out| wkb::write_iso(ewkb, out).ok_or_else(no_form))
    }

    fn push_null(&mut self) -> Result<usize> {
        self.values.push_null()
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        self.values.finish_binary()
    }
}

fn no_form() -> Error {
    Error::new(Code::Unsupported, "GeoParquet has no form for a geometry with measures, curves or surfaces")
        .hint("Use ST_Force2D, ST_Force3D or ST_CurveToLine, or cast the column to text.")
}

/// Without `crs`, coordinates are longitude and latitude on WGS 84; with null, nobody says what they are.
fn entry(is_geography: bool, srid: Option<u32>) -> Value {
    let mut entry = json!({"encoding": "WKB", "geometry_types": []});
    if is_geography {
        entry["edges"] = json!("spherical");
    }
    if srid != Some(WGS84) {
        entry["crs"] = Value::Null;
    }
    entry
}

/// `TYPMOD_GET_SRID` of PostGIS (`liblwgeom/liblwgeom.h.in`).
const fn srid_of_modifier(modifier: i32) -> i32 {
    ((modifier & 0x0fff_ff00) - (modifier & 0x1000_0000)) >> 8
}

#[cfg(feature = "pg_test")]
mod tests {
    use super::*;
    use crate::inside_tests;

    inside_tests! {
        columns_say_what_their_coordinates_are,
    }

    fn columns_say_what_their_coordinates_are() {
        let plain = json!({"encoding": "WKB", "geometry_types": []});
        assert_eq!(entry(false, Some(4326)), plain);
        let unknown = json!({"encoding": "WKB", "geometry_types": [], "crs": null});
        assert_eq!(entry(false, Some(3857)), unknown);
        assert_eq!(entry(false, None), unknown);
        assert_eq!(entry(true, Some(4326)), json!({"encoding": "WKB", "geometry_types": [], "edges": "spherical"}));
        // geometry(Point,4326) and geometry(Point).
        assert_eq!(srid_of_modifier(4326 << 8 | 1 << 2), 4326);
        assert_eq!(srid_of_modifier(1 << 2), 0);
    }
}
