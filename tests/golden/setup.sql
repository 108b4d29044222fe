-- Types and tables that types.tsv names. Runs in a UTF-8 and in a LATIN1 database.
CREATE TYPE mood AS ENUM ('calm', 'say "no"', 'grün');
CREATE TYPE reading AS (id int, "at" timestamptz, detail jsonb);
CREATE TYPE nested AS (name text, readings reading[], span interval);
CREATE TYPE quoted AS ("a ""b""\c" int, "Straße" date);
CREATE TYPE nothing AS ();
CREATE TYPE float8_range AS RANGE (subtype = float8);

CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN very_positive AS positive CHECK (value > 10);
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN moments AS moment[];
CREATE DOMAIN reading_domain AS reading;
CREATE DOMAIN document AS jsonb;

-- A composite with a dropped column, and one that came later with a default, which stands in no old row.
CREATE TABLE changed (a int, gone text, b date);
INSERT INTO changed VALUES (1, 'x', '2020-01-02');
ALTER TABLE changed DROP COLUMN gone, ADD COLUMN c numeric DEFAULT 7.50;
CREATE VIEW changed_view AS SELECT * FROM changed;

CREATE TABLE sampled AS SELECT 1 AS a, date '2020-01-02' AS b FROM generate_series(1, 5);
ANALYZE sampled;

CREATE FUNCTION expanded_array() RETURNS timestamptz[] LANGUAGE plpgsql AS $$
DECLARE grown timestamptz[];
BEGIN
    FOR i IN 1..3 LOOP grown[i] := to_timestamp(i); END LOOP;
    RETURN grown;
END $$;
CREATE FUNCTION expanded_record() RETURNS reading LANGUAGE plpgsql AS $$
DECLARE made reading;
BEGIN
    made.id := 1;
    made."at" := to_timestamp(0);
    RETURN made;
END $$;
