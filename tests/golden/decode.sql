-- Our JSON → SQL values, for the test of random values. Each gives NULL for JSON of another shape.

-- The value in a wrapper of that type.
CREATE FUNCTION wrapped(ours json, type text) RETURNS json LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(ours) = 'object' AND ours->>'__rockset_type' = type THEN ours->'value' END $$;

CREATE FUNCTION string(ours json) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(ours) = 'string' THEN ours #>> '{}' END $$;

CREATE FUNCTION number(ours json) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(ours) = 'number' THEN ours #>> '{}' END $$;

-- A string, in a wrapper of that type if the wrapper can express it, and only then.
CREATE FUNCTION string_of(ours json, type text, can_be_wrapped boolean) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN can_be_wrapped THEN string(wrapped(ours, type)) ELSE string(ours) END $$;

-- A number; or NaN or infinite, in a wrapper.
CREATE FUNCTION number_of(ours json) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(number(ours), string(wrapped(ours, 'float'))) $$;

CREATE FUNCTION bytes_of(ours json) RETURNS bytea LANGUAGE sql AS $$
    SELECT CASE WHEN ours->>'encoding' = 'base64' THEN decode(string(wrapped(ours, 'bytes')), 'base64') END $$;

-- An interval of so many microseconds, exactly.
CREATE FUNCTION span_of(microseconds numeric) RETURNS interval LANGUAGE sql AS $$
    SELECT make_interval(days => div(microseconds, 86400000000)::int, secs => mod(microseconds, 86400000000) / 1e6) $$;

-- Counted from 2000, since microseconds from 1970 to the last year do not fit into 64 bits.
CREATE FUNCTION moment_of(ours json) RETURNS timestamptz LANGUAGE sql AS $$
    SELECT coalesce(
        '2000-01-01 00:00+00'::timestamptz
            + span_of(string(wrapped(ours, 'timestamp'))::numeric - 946684800000000),
        string(ours)::timestamptz) $$;

CREATE FUNCTION moments_of(ours json) RETURNS timestamptz[] LANGUAGE sql AS $$
    SELECT ARRAY(SELECT moment_of(element) FROM json_array_elements(ours) WITH ORDINALITY AS _ (element, n) ORDER BY n) $$;

-- Whether it is this interval, field by field; as microseconds, with a day of 24 hours.
CREATE FUNCTION is_interval(ours json, theirs interval) RETURNS boolean LANGUAGE sql AS $$
    SELECT CASE
        WHEN wrapped(ours, 'month_interval') IS NOT NULL THEN
            interval_send(make_interval(months => number(wrapped(ours, 'month_interval'))::int)) = interval_send(theirs)
        WHEN wrapped(ours, 'microsecond_interval') IS NOT NULL THEN
            substr(interval_send(theirs), 13) = '\x00000000'
            AND span_of(number(wrapped(ours, 'microsecond_interval'))::numeric) = theirs
        ELSE interval_send(string(ours)::interval) = interval_send(theirs)
    END $$;

CREATE FUNCTION reading_of(ours json) RETURNS reading LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(ours) = 'object' THEN
        ROW(number(ours->'id')::int, moment_of(ours->'at'),
            CASE WHEN json_typeof(ours->'detail') <> 'null' THEN (ours->'detail')::jsonb END)::reading END $$;

CREATE FUNCTION readings_of(ours json) RETURNS reading[] LANGUAGE sql AS $$
    SELECT ARRAY(SELECT reading_of(element) FROM json_array_elements(ours) WITH ORDINALITY AS _ (element, n) ORDER BY n) $$;
