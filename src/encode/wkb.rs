//! PostGIS's binary form of a geometry (EWKB) → GeoJSON, or well-known text where GeoJSON has no form for it.
//!
//! PostGIS has functions for both, but they round coordinates to 15 decimals, and its GeoJSON is no JSON for a NaN or an empty
//! point among others, is refused for a collection in a collection, and drops measures. Here every coordinate is the shortest
//! number that reads back the same. EWKB is what PostGIS sends and dumps (`lwout_wkb.c`): WKB, with flags in the type.
#![forbid(unsafe_code)]

use super::json::JsonBuffer;
use super::number::float8;

/// How deep collections may lie in each other; PostGIS itself reads back 200.
const MAX_DEPTH: usize = 500;

const POINT: u32 = 1;
const LINE_STRING: u32 = 2;
const POLYGON: u32 = 3;
const MULTI_POINT: u32 = 4;
const COLLECTION: u32 = 7;
const CIRCULAR_STRING: u32 = 8;
const TRIANGLE: u32 = 17;

/// The spatial reference system of a geometry, 0 if it names none; `None`: not EWKB.
pub fn srid(ewkb: &[u8]) -> Option<u32> {
    Some(Reader { rest: ewkb }.head()?.srid)
}

/// Writes GeoJSON (RFC 7946), longitude and latitude as they stand. `None`, after part of it may be written: the geometry
/// has a measure, a curve, a surface, a triangle, a coordinate that is no number, or an empty point among others.
pub fn write_geojson(ewkb: &[u8], out: &mut JsonBuffer) -> Option<()> {
    Reader { rest: ewkb }.geojson(out, MAX_DEPTH)
}

/// Writes well-known text as `ST_AsText` does, `POINT Z (1 2 3)`. `None`, after part of it may be written: not EWKB.
pub fn write_text(ewkb: &[u8], out: &mut JsonBuffer) -> Option<()> {
    Reader { rest: ewkb }.text(out, None, MAX_DEPTH)
}

/// What a geometry, and each one in it, begins with.
#[derive(Clone, Copy)]
struct Head {
    little_endian: bool,
    kind: u32,
    has_z: bool,
    has_m: bool,
    srid: u32,
}

impl Head {
    /// What a position takes.
    fn dimensions(self) -> usize {
        2 + usize::from(self.has_z) + usize::from(self.has_m)
    }

    fn holds_geometries(self) -> bool {
        !matches!(self.kind, POINT..=POLYGON | CIRCULAR_STRING | TRIANGLE)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    fn integer(&mut self, little_endian: bool) -> Option<u32> {
        let bytes = self.take()?;
        Some(if little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn head(&mut self) -> Option<Head> {
        const HAS_Z: u32 = 0x8000_0000;
        const HAS_M: u32 = 0x4000_0000;
        const HAS_SRID: u32 = 0x2000_0000;
        let little_endian = self.take()? == [1];
        let kind = self.integer(little_endian)?;
        let srid = if kind & HAS_SRID != 0 { self.integer(little_endian)? } else { 0 };
        let (has_z, has_m) = (kind & HAS_Z != 0, kind & HAS_M != 0);
        Some(Head { little_endian, kind: kind & !(HAS_Z | HAS_M | HAS_SRID), has_z, has_m, srid })
    }

    /// The next position, of [`Head::dimensions`] coordinates, of which the rest of the array is no part.
    fn position(&mut self, head: Head) -> Option<[f64; 4]> {
        let mut position = [0.0; 4];
        for coordinate in position.iter_mut().take(head.dimensions()) {
            let bytes = self.take()?;
            *coordinate = if head.little_endian { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) };
        }
        Some(position)
    }

    fn geojson(&mut self, out: &mut JsonBuffer, depth: usize) -> Option<()> {
        let head = self.head()?;
        let name = match head.kind {
            _ if head.has_m => return None,
            POINT => "Point",
            LINE_STRING => "LineString",
            POLYGON => "Polygon",
            MULTI_POINT => "MultiPoint",
            5 => "MultiLineString",
            6 => "MultiPolygon",
            COLLECTION => "GeometryCollection",
            _ => return None,
        };
        out.raw(br#"{"type":""#);
        out.raw(name.as_bytes());
        if head.kind == COLLECTION {
            let depth = depth.checked_sub(1)?;
            out.raw(br#"","geometries":"#);
            self.array(head, out, |reader, out| reader.geojson(out, depth))?;
        } else {
            out.raw(br#"","coordinates":"#);
            self.coordinates(head, out, false)?;
        }
        out.push(b'}');
        Some(())
    }

    fn coordinates(&mut self, head: Head, out: &mut JsonBuffer, in_multi_point: bool) -> Option<()> {
        match head.kind {
            POINT => {
                let position = self.position(head)?;
                if !is_empty(position) {
                    return json_position(position, head, out);
                }
                out.raw(b"[]");
                (!in_multi_point).then_some(())
            }
            LINE_STRING => self.array(head, out, |reader, out| json_position(reader.position(head)?, head, out)),
            POLYGON => self.array(head, out, |reader, out| {
                reader.array(head, out, |reader, out| json_position(reader.position(head)?, head, out))
            }),
            _ => self.array(head, out, |reader, out| {
                let child = reader.head()?;
                // Of a kind that has positions, or this would go on for as long as the value says.
                if child.holds_geometries() { None } else { reader.coordinates(child, out, head.kind == MULTI_POINT) }
            }),
        }
    }

    /// Writes as many items as come next, as a JSON array.
    fn array(
        &mut self,
        head: Head,
        out: &mut JsonBuffer,
        item: impl Fn(&mut Self, &mut JsonBuffer) -> Option<()>,
    ) -> Option<()> {
        out.push(b'[');
        self.list(head, out, item)?;
        out.push(b']');
        Some(())
    }

    /// Writes as many items as come next, with commas; gives their number.
    fn list(
        &mut self,
        head: Head,
        out: &mut JsonBuffer,
        item: impl Fn(&mut Self, &mut JsonBuffer) -> Option<()>,
    ) -> Option<u32> {
        let count = self.integer(head.little_endian)?;
        for index in 0..count {
            if index > 0 {
                out.push(b',');
            }
            item(self, out)?;
        }
        Some(count)
    }

    /// `parent` is the kind of the geometry that this one is part of.
    fn text(&mut self, out: &mut JsonBuffer, parent: Option<u32>, depth: usize) -> Option<()> {
        let head = self.head()?;
        let (name, unnamed_part) = kind_in_text(head.kind)?;
        let is_named = parent.is_none_or(|parent| kind_in_text(parent).is_none_or(|(_, unnamed)| unnamed != head.kind));
        if is_named {
            out.raw(name.as_bytes());
            out.raw(match (head.has_z, head.has_m) {
                (false, false) => b"",
                (true, false) => b" Z ",
                (false, true) => b" M ",
                (true, true) => b" ZM ",
            });
        }
        let start = out.len();
        let has_parts = match head.kind {
            POINT => {
                let position = self.position(head)?;
                out.push(b'(');
                text_position(position, head, out);
                out.push(b')');
                !is_empty(position)
            }
            LINE_STRING | CIRCULAR_STRING => self.positions(head, out)?,
            POLYGON | TRIANGLE => self.group(head, out, |reader, out| reader.positions(head, out).map(|_| ()))?,
            _ => {
                let depth = depth.checked_sub(1)?;
                self.group(head, out, |reader, out| reader.text(out, Some(head.kind), depth))?
            }
        };
        if !has_parts {
            out.truncate(start);
            out.raw(if is_named && head.dimensions() == 2 { b" EMPTY" } else { b"EMPTY" });
        }
        let _ = unnamed_part;
        Some(())
    }

    fn positions(&mut self, head: Head, out: &mut JsonBuffer) -> Option<bool> {
        self.group(head, out, |reader, out| {
            text_position(reader.position(head)?, head, out);
            Some(())
        })
    }

    /// Writes as many items as come next, in parentheses; gives whether there are any.
    fn group(
        &mut self,
        head: Head,
        out: &mut JsonBuffer,
        item: impl Fn(&mut Self, &mut JsonBuffer) -> Option<()>,
    ) -> Option<bool> {
        out.push(b'(');
        let count = self.list(head, out, item)?;
        out.push(b')');
        Some(count > 0)
    }
}
