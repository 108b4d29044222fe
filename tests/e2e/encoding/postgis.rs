//! PostGIS wherever it is installed, and what it reads back of our forms.

use super::super::fixture::Database;
use super::documents;

/// The kinds that GeoJSON has, and geography.
const KINDS: &str = "'ST_Point', 'ST_LineString', 'ST_Polygon', 'ST_MultiPoint', 'ST_MultiLineString', 'ST_MultiPolygon',
    'ST_GeometryCollection'";

/// Text that PostGIS reads, and, but for spaces, writes.
const SHAPES: [&str; 12] = [
    "POINT(-122.325133 37.566564)",
    "LINESTRING(0 0,1 1.5,2 -2)",
    "POLYGON((0 0,4 0,4 4,0 4,0 0),(1 1,2 1,2 2,1 1))",
    "MULTIPOINT((1 1),(2 2))",
    "MULTILINESTRING((0 0,1 1),(2 2,3 3))",
    "MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,6 5,6 6,5 5)))",
    "GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1),POLYGON((0 0,4 0,4 4,0 0)))",
    "CIRCULARSTRING(0 0,1 1,2 0)",
    "COMPOUNDCURVE((0 0,1 1),CIRCULARSTRING(1 1,2 2,3 1))",
    "CURVEPOLYGON(CIRCULARSTRING(0 0,4 0,4 4,0 4,0 0),(1 1,3 3,3 1,1 1))",
    "MULTISURFACE(CURVEPOLYGON(CIRCULARSTRING(0 0,4 0,4 4,0 4,0 0)),((10 10,14 12,11 10,10 10)))",
    "GEOMETRYCOLLECTION EMPTY",
];

/// All shapes, with and without Z and M, in three reference systems.
fn shapes(database: &Database) -> String {
    let mut client = database.client();
    client.batch_execute("CREATE EXTENSION postgis; CREATE TABLE shapes (id serial, g geometry)").unwrap();
    for shape in SHAPES {
        for force in ["ST_Force2D", "ST_Force3DZ", "ST_Force3DM", "ST_Force4D"] {
            for srid in [0, 4326, 3857] {
                let insert = format!("INSERT INTO shapes (g) SELECT ST_SetSRID({force}('{shape}'::geometry), {srid})");
                client.batch_execute(&insert).unwrap();
            }
        }
    }
    format!(
        "SELECT id, g, CASE WHEN ST_SRID(g) = 4326 AND ST_GeometryType(g) IN ({KINDS}) THEN g::geography END AS gg
         FROM shapes ORDER BY id"
    )
}

/// Every pair of ours and PostGIS's must be the same text.
fn same(database: &Database, arguments: &str, theirs: &str) {
    let query = shapes(database);
    let mut client = database.client();
    let lines = documents(database, &mut client, &query, arguments);
    let rows = client.query(&format!("SELECT {theirs} FROM shapes ORDER BY id"), &[]).unwrap();
    assert_eq!(lines.len(), SHAPES.len() * 12);
    for (line, row) in lines.iter().zip(&rows) {
        let document: serde_json::Value = serde_json::from_str(line).unwrap();
        let theirs: String = row.get(0);
        let ours = match &document["g"] {
            serde_json::Value::String(text) => text.clone(),
            wrapped => wrapped["value"].to_string(),
        };
        assert_eq!(ours, theirs);
        assert!(document["gg"].is_null() || document["gg"] == document["g"], "{line}");
    }
}

#[test]
fn geojson_and_text_are_what_postgis_writes() {
    let database = Database::new("postgis_forms");
    let theirs = format!(
        "CASE WHEN ST_SRID(g) = 4326 AND (ST_Zmflag(g) = 0 OR ST_Zmflag(g) = 2 AND NOT ST_IsEmpty(g)) AND ST_GeometryType(g) IN ({KINDS}) THEN ST_AsGeoJSON(g, 15, 0)
         ELSE coalesce('SRID=' || nullif(ST_SRID(g), 0) || ';', '') || ST_AsText(g) END"
    );
    same(&database, "", &theirs);
}

#[test]
fn plain_text_is_what_postgis_writes() {
    let database = Database::new("postgis_plain");
    same(&database, "wrap_types => false", "CASE ST_SRID(g) WHEN 3857 THEN 'SRID=3857;' ELSE '' END || ST_AsText(g)");
}

/// The bug: functions were looked up by name, which the schema's privileges can forbid.
#[test]
fn postgis_in_a_schema_of_its_own_needs_neither_search_path_nor_usage() {
    let database = Database::new("postgis_schema");
    let role = database.role("reader", &["s3_export_member"]);
    let mut client = database.client();
    client
        .batch_execute(&format!(
            "CREATE SCHEMA gis; CREATE EXTENSION postgis SCHEMA gis;
             CREATE TABLE places AS SELECT 'SRID=4326;POINT(1 2)'::gis.geometry AS g, 'SRID=3857;POINT(1 2)'::gis.geometry AS e,
                                           'POINT(3 4)'::gis.geography AS gg;
             REVOKE ALL ON SCHEMA gis FROM PUBLIC; GRANT SELECT ON places TO {role}"
        ))
        .unwrap();
    let mut reader = database.client_as(&role);
    reader.batch_execute("SET search_path = ''").unwrap();
    let line = documents(&database, &mut reader, "SELECT * FROM public.places", "").remove(0);
    let point = |x, y| format!(r#"{{"__rockset_type":"geography","value":{{"type":"Point","coordinates":[{x},{y}]}}}}"#);
    assert_eq!(line, format!(r#"{{"g":{},"e":"SRID=3857;POINT(1 2)","gg":{}}}"#, point(1, 2), point(3, 4)));
}

#[test]
fn a_type_that_is_only_called_geometry_is_its_text() {
    let database = Database::new("not_postgis");
    let mut client = database.client();
    client
        .batch_execute(
            "CREATE TYPE geometry; CREATE FUNCTION geometry_in(cstring) RETURNS geometry LANGUAGE internal STRICT AS 'textin';
             CREATE FUNCTION geometry_out(geometry) RETURNS cstring LANGUAGE internal STRICT AS 'textout';
             CREATE TYPE geometry (INPUT = geometry_in, OUTPUT = geometry_out, LIKE = text)",
        )
        .unwrap();
    let line = documents(&database, &mut client, "SELECT 'x'::geometry AS g, ARRAY['\"']::geometry[] AS a", "").remove(0);
    assert_eq!(line, r#"{"g":"x","a":["\""]}"#);
}
