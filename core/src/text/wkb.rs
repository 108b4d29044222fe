//! PostGIS's binary form of a geometry (EWKB) → GeoJSON, or well-known text where GeoJSON has no form for it.
//!
//! PostGIS has functions for both, but they round coordinates to 15 decimals, and its GeoJSON is no JSON with a NaN or with an
//! empty point among others, and an error with a collection in a collection. Here a coordinate is the shortest number that
//! reads back the same. EWKB is what PostGIS sends and dumps (`liblwgeom/lwout_wkb.c`): WKB with flags in the type.
#![forbid(unsafe_code)]

use crate::text::buffer::JsonBuffer;
use crate::text::cursor::Append;
use crate::text::number::{float8, float8_text};

/// How deep collections may lie in each other; PostGIS reads back 200.
const MAX_DEPTH: usize = 500;

const POINT: u32 = 1;
const LINE_STRING: u32 = 2;
const POLYGON: u32 = 3;
const MULTI_POINT: u32 = 4;
const MULTI_POLYGON: u32 = 6;
const COLLECTION: u32 = 7;
const CIRCULAR_STRING: u32 = 8;
const TRIANGLE: u32 = 17;

/// The name of a kind in text, and the kind of part that it need not name.
const KINDS: [(u32, &str, u32); 15] = [
    (POINT, "POINT", 0),
    (LINE_STRING, "LINESTRING", 0),
    (POLYGON, "POLYGON", 0),
    (MULTI_POINT, "MULTIPOINT", POINT),
    (5, "MULTILINESTRING", LINE_STRING),
    (MULTI_POLYGON, "MULTIPOLYGON", POLYGON),
    (COLLECTION, "GEOMETRYCOLLECTION", 0),
    (CIRCULAR_STRING, "CIRCULARSTRING", 0),
    (9, "COMPOUNDCURVE", LINE_STRING),
    (10, "CURVEPOLYGON", LINE_STRING),
    (11, "MULTICURVE", LINE_STRING),
    (12, "MULTISURFACE", POLYGON),
    (15, "POLYHEDRALSURFACE", POLYGON),
    (16, "TIN", TRIANGLE),
    (TRIANGLE, "TRIANGLE", 0),
];

/// The spatial reference system that a geometry names, 0 for none; `None`: not EWKB.
pub fn srid(ewkb: &[u8]) -> Option<u32> {
    Some(Reader::new(ewkb).head()?.srid)
}

/// Writes GeoJSON (RFC 7946). `None`, after some of it may have been written: the geometry has measures, a curve, a surface
/// or a triangle, a coordinate that is no number, an empty point among others, or a Z and not one position that would show it.
pub fn write_geojson(ewkb: &[u8], out: &mut JsonBuffer) -> Option<()> {
    Reader::new(ewkb).geojson(out, MAX_DEPTH)
}

/// Writes well-known text as `ST_AsText` does: `POINT Z (1 2 3)`. `None`, after some of it may have been written: not EWKB.
pub fn write_text(ewkb: &[u8], out: &mut JsonBuffer) -> Option<()> {
    Reader::new(ewkb).text(out, 0, MAX_DEPTH)
}

/// Writes ISO well-known binary, as GeoParquet has it: without a spatial reference system, and with a thousand added to the kind
/// where there is a Z. `None`, after some of it may have been written: the geometry has measures, a curve, a surface or a triangle.
pub fn write_iso(ewkb: &[u8], out: &mut JsonBuffer) -> Option<()> {
    Reader::new(ewkb).iso(out, MAX_DEPTH)
}

/// Header of a geometry, and of each part that is a geometry.
#[derive(Clone, Copy)]
struct Head {
    little_endian: bool,
    kind: u32,
    has_z: bool,
    has_m: bool,
    srid: u32,
}

/// Coordinates; the first `count` of them count.
struct Position {
    coordinates: [f64; 4],
    count: usize,
}

impl Position {
    /// EWKB has no other way to say that there is no point, and so none to say that both coordinates of a point are no numbers.
    fn is_empty(&self) -> bool {
        self.coordinates[..self.count].iter().all(|coordinate| coordinate.is_nan())
    }

    /// `None`: one is no number.
    fn json(&self, out: &mut JsonBuffer) -> Option<()> {
        for (index, &coordinate) in self.coordinates[..self.count].iter().enumerate() {
            out.push(if index == 0 { b'[' } else { b',' });
            float8(out, coordinate).ok()?;
        }
        out.push(b']');
        Some(())
    }

    fn text(&self, out: &mut JsonBuffer) {
        for (index, &coordinate) in self.coordinates[..self.count].iter().enumerate() {
            if index > 0 {
                out.push(b' ');
            }
            float8_text(out, coordinate).unwrap_or_else(|special| out.raw(special.text().as_bytes()));
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Points read so far that are not empty.
    positions: usize,
}

impl<'a> Reader<'a> {
    fn new(ewkb: &'a [u8]) -> Self {
        Reader { rest: ewkb, positions: 0 }
    }

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

    fn iso(&mut self, out: &mut JsonBuffer, depth: usize) -> Option<()> {
        let inner = depth.checked_sub(1)?;
        let head = self.head()?;
        if head.has_m || head.kind > COLLECTION {
            return None;
        }
        out.push(1);
        out.fixed(&(head.kind + if head.has_z { 1_000 } else { 0 }).to_le_bytes());
        match head.kind {
            POINT => self.iso_position(head, out),
            LINE_STRING => self.iso_list(head, out, |reader, out| reader.iso_position(head, out)),
            POLYGON => {
                self.iso_list(head, out, |reader, out| reader.iso_list(head, out, |reader, out| reader.iso_position(head, out)))
            }
            _ => self.iso_list(head, out, |reader, out| reader.iso(out, inner)),
        }
    }

    fn iso_position(&mut self, head: Head, out: &mut JsonBuffer) -> Option<()> {
        let position = self.position(head)?;
        position.coordinates[..position.count].iter().for_each(|coordinate| out.fixed(&coordinate.to_le_bytes()));
        Some(())
    }

    /// Reads the number of items and then each item.
    fn iso_list(
        &mut self,
        head: Head,
        out: &mut JsonBuffer,
        mut item: impl FnMut(&mut Self, &mut JsonBuffer) -> Option<()>,
    ) -> Option<()> {
        let count = self.integer(head.little_endian)?;
        out.fixed(&count.to_le_bytes());
        (0..count).try_for_each(|_| item(self, out))
    }

    fn position(&mut self, head: Head) -> Option<Position> {
        let count = 2 + usize::from(head.has_z) + usize::from(head.has_m);
        let mut coordinates = [0.0; 4];
        for coordinate in &mut coordinates[..count] {
            let bytes = self.take()?;
            *coordinate = if head.little_endian { f64::from_le_bytes(bytes) } else { f64::from_be_bytes(bytes) };
        }
        let position = Position { coordinates, count };
        self.positions += usize::from(!position.is_empty());
        Some(position)
    }

    /// Writes the items that come next in brackets, with commas; returns their number.
    fn list(
        &mut self,
        head: Head,
        out: &mut JsonBuffer,
        [open, close]: &[u8; 2],
        mut item: impl FnMut(&mut Self, &mut JsonBuffer) -> Option<()>,
    ) -> Option<u32> {
        let count = self.integer(head.little_endian)?;
        out.push(*open);
        for index in 0..count {
            if index > 0 {
                out.push(b',');
            }
            item(self, out)?;
        }
        out.push(*close);
        Some(count)
    }

    fn geojson(&mut self, out: &mut JsonBuffer, depth: usize) -> Option<()> {
        let head = self.head()?;
        let name = match head.kind {
            POINT => "Point",
            LINE_STRING => "LineString",
            POLYGON => "Polygon",
            MULTI_POINT => "MultiPoint",
            5 => "MultiLineString",
            MULTI_POLYGON => "MultiPolygon",
            COLLECTION => "GeometryCollection",
            _ => return None,
        };
        if head.has_m {
            return None;
        }
        let before = self.positions;
        out.raw(br#"{"type":""#);
        out.raw(name.as_bytes());
        if head.kind == COLLECTION {
            let depth = depth.checked_sub(1)?;
            out.raw(br#"","geometries":"#);
            self.list(head, out, b"[]", |reader, out| reader.geojson(out, depth))?;
        } else {
            out.raw(br#"","coordinates":"#);
            self.coordinates(head, out)?;
        }
        out.push(b'}');
        // Only a position shows that a geometry has a Z.
        (!head.has_z || self.positions > before).then_some(())
    }

    fn coordinates(&mut self, head: Head, out: &mut JsonBuffer) -> Option<()> {
        match head.kind {
            POINT => {
                let position = self.position(head)?;
                if !position.is_empty() {
                    return position.json(out);
                }
                out.raw(b"[]");
            }
            LINE_STRING => {
                self.list(head, out, b"[]", |reader, out| reader.position(head)?.json(out))?;
            }
            POLYGON => {
                self.list(head, out, b"[]", |reader, out| {
                    reader.list(head, out, b"[]", |reader, out| reader.position(head)?.json(out)).map(drop)
                })?;
            }
            MULTI_POINT => {
                self.list(head, out, b"[]", |reader, out| {
                    let part = reader.head()?;
                    let position = reader.position(part)?;
                    // An empty array would be a point of no dimensions.
                    if position.is_empty() { None } else { position.json(out) }
                })?;
            }
            _ => {
                self.list(head, out, b"[]", |reader, out| {
                    let part = reader.head()?;
                    matches!(part.kind, LINE_STRING | POLYGON).then(|| reader.coordinates(part, out))?
                })?;
            }
        }
        Some(())
    }

    /// `unnamed` is the kind that the geometry around this one makes plain.
    fn text(&mut self, out: &mut JsonBuffer, unnamed: u32, depth: usize) -> Option<()> {
        let head = self.head()?;
        let (kind, name, unnamed_part) = KINDS.into_iter().find(|(kind, ..)| *kind == head.kind)?;
        if kind != unnamed {
            out.raw(name.as_bytes());
            out.raw(match (head.has_z, head.has_m) {
                (false, false) => b"",
                (true, false) => b" Z ",
                (false, true) => b" M ",
                (true, true) => b" ZM ",
            });
        }
        let start = out.len();
        let is_empty = match kind {
            POINT => {
                let position = self.position(head)?;
                out.push(b'(');
                position.text(out);
                out.push(b')');
                position.is_empty()
            }
            LINE_STRING | CIRCULAR_STRING => self.text_positions(head, out)? == 0,
            POLYGON | TRIANGLE => self.list(head, out, b"()", |reader, out| reader.text_positions(head, out).map(drop))? == 0,
            _ => {
                let depth = depth.checked_sub(1)?;
                self.list(head, out, b"()", |reader, out| reader.text(out, unnamed_part, depth))? == 0
            }
        };
        if is_empty {
            out.truncate(start);
            let follows_name = kind != unnamed && !head.has_z && !head.has_m;
            out.raw(if follows_name { b" EMPTY" } else { b"EMPTY" });
        }
        Some(())
    }

    fn text_positions(&mut self, head: Head, out: &mut JsonBuffer) -> Option<u32> {
        self.list(head, out, b"()", |reader, out| {
            reader.position(head)?.text(out);
            Some(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn little_endian(kind: u32, numbers: &[u32], coordinates: &[f64]) -> Vec<u8> {
        let mut bytes = vec![1];
        bytes.extend(kind.to_le_bytes());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes.extend(coordinates.iter().flat_map(|coordinate| coordinate.to_le_bytes()));
        bytes
    }

    /// GeoJSON, if there is a form, and text.
    fn written(ewkb: &[u8]) -> (Option<String>, Option<String>) {
        let run = |write: fn(&[u8], &mut JsonBuffer) -> Option<()>| {
            let mut out = JsonBuffer::new();
            write(ewkb, &mut out).map(|()| String::from_utf8(out.into_vec()).unwrap())
        };
        (run(write_geojson), run(write_text))
    }

    #[test]
    fn iso_binary_has_no_reference_system_and_says_dimensions_by_the_kind() {
        let iso = |ewkb: &[u8]| {
            let mut out = JsonBuffer::new();
            write_iso(ewkb, &mut out).map(|()| out.into_vec())
        };
        let ewkb = little_endian(0xa000_0001, &[4326], &[1.5, -0.0, 1e300]);
        assert_eq!(iso(&ewkb).unwrap(), little_endian(1001, &[], &[1.5, -0.0, 1e300]));
        let line = [little_endian(0x2000_0000 | LINE_STRING, &[4326, 1], &[]), 7f64.to_le_bytes().repeat(2)].concat();
        assert_eq!(iso(&line).unwrap(), little_endian(LINE_STRING, &[1], &[7.0; 2]));
        // Parts have heads of their own.
        let part = |kind| little_endian(kind, &[], &[1.0, 2.0, 3.0]);
        let points = [little_endian(0xa000_0000 | MULTI_POINT, &[4326, 1], &[]), part(0x8000_0001)].concat();
        assert_eq!(iso(&points).unwrap(), [little_endian(1004, &[1], &[]), part(1001)].concat());
        for end in 0..points.len() {
            assert_eq!(iso(&points[..end]), None);
        }
        // GeoParquet has neither measures nor curves, at whatever depth.
        assert_eq!(iso(&part(0x4000_0001)), None);
        let curves = [little_endian(COLLECTION, &[1], &[]), little_endian(CIRCULAR_STRING, &[0], &[])].concat();
        assert_eq!(iso(&curves), None);
    }

    #[test]
    fn coordinates_keep_every_bit_and_their_byte_order_does_not_matter() {
        let ewkb = little_endian(0xa000_0001, &[4326], &[0.1 + 0.2, -0.0, 1e300]);
        assert_eq!(srid(&ewkb), Some(4326));
        let (geojson, text) = written(&ewkb);
        assert_eq!(geojson.unwrap(), r#"{"type":"Point","coordinates":[0.30000000000000004,-0.0,1e+300]}"#);
        assert_eq!(text.unwrap(), "POINT Z (0.30000000000000004 -0 1e+300)");
        let mut swapped = vec![0, 0, 0, 0, 1];
        swapped.extend([1.0f64, 2.0].iter().flat_map(|coordinate| coordinate.to_be_bytes()));
        assert_eq!(written(&swapped).1.unwrap(), "POINT(1 2)");
    }

    #[test]
    fn what_geojson_has_no_form_for_is_text() {
        let measured = little_endian(0x4000_0001, &[], &[1.0, 2.0, 3.0]);
        assert_eq!(written(&measured), (None, Some("POINT M (1 2 3)".to_owned())));
        let no_number = little_endian(POINT, &[], &[f64::NAN, f64::NEG_INFINITY]);
        assert_eq!(written(&no_number), (None, Some("POINT(NaN -Infinity)".to_owned())));
        let height = little_endian(0x8000_0001, &[], &[f64::NAN, f64::NAN, 3.0]);
        assert_eq!(written(&height), (None, Some("POINT Z (NaN NaN 3)".to_owned())));
    }

    #[test]
    fn an_empty_geometry_keeps_its_z() {
        let empty = |kind: u32| match kind & 0xff {
            POINT => little_endian(kind, &[], if kind & 0x8000_0000 == 0 { &[f64::NAN; 2] } else { &[f64::NAN; 3] }),
            _ => little_endian(kind, &[0], &[]),
        };
        for (kind, name, text) in
            [(POINT, "Point", "POINT"), (LINE_STRING, "LineString", "LINESTRING"), (POLYGON, "Polygon", "POLYGON")]
        {
            let geojson = format!("{{\"type\":\"{name}\",\"coordinates\":[]}}");
            assert_eq!(written(&empty(kind)), (Some(geojson), Some(format!("{text} EMPTY"))));
            assert_eq!(written(&empty(kind | 0x8000_0000)), (None, Some(format!("{text} Z EMPTY"))));
        }
        // In a collection, whose other members are no part of it.
        let point = little_endian(0x8000_0001, &[], &[1.0, 2.0, 3.0]);
        let both = [little_endian(0x8000_0000 | COLLECTION, &[2], &[]), point.clone(), empty(0x8000_0001)].concat();
        assert_eq!(written(&both), (None, Some("GEOMETRYCOLLECTION Z (POINT Z (1 2 3),POINT Z EMPTY)".to_owned())));
        let one = [little_endian(0x8000_0000 | COLLECTION, &[1], &[]), point].concat();
        assert!(written(&one).0.is_some());
    }

    #[test]
    fn every_damaged_value_is_refused_in_bounded_time() {
        let polygon = little_endian(POLYGON, &[1, 1], &[1.0, 2.0]);
        for end in 0..polygon.len() {
            assert_eq!(written(&polygon[..end]), (None, None));
        }
        assert_eq!(written(&little_endian(99, &[], &[])), (None, None));
        let nested = little_endian(COLLECTION, &[1], &[]).repeat(MAX_DEPTH + 1);
        assert_eq!(written(&nested), (None, None));
    }
}
