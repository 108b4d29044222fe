-- As decode.sql, of PostGIS.

CREATE FUNCTION is_geometry(ours json, theirs geometry) RETURNS boolean LANGUAGE sql AS $$
    SELECT ST_AsEWKB(CASE WHEN wrapped(ours, 'geography') IS NOT NULL
                          THEN ST_SetSRID(ST_GeomFromGeoJSON(wrapped(ours, 'geography')), 4326)
                          ELSE ST_GeomFromEWKT(string(ours)) END) = ST_AsEWKB(theirs) $$;

CREATE FUNCTION is_plain_geometry(ours json, theirs geometry) RETURNS boolean LANGUAGE sql AS $$
    SELECT ST_AsEWKB(ST_GeomFromEWKT(CASE ST_SRID(theirs) WHEN 4326 THEN 'SRID=4326;' ELSE '' END || string(ours)))
           = ST_AsEWKB(theirs) $$;
