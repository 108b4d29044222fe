//! Values that do not lie in their row: compressed, toasted, or nested as deep as a loop can make them.

use super::super::fixture::Database;
use super::documents;

#[test]
fn toasted_and_compressed_values_are_whole() {
    let database = Database::new("toasted");
    let mut client = database.client();
    client
        .batch_execute(
            "CREATE TYPE big AS (t text, n numeric, a int[]);
             CREATE TABLE toasted (n numeric, compressed text, apart text, plain text, words text[], numbers bigint[], j json, b jsonb,
                                   c big, cs big[], vector tsvector);
             ALTER TABLE toasted ALTER apart SET STORAGE EXTERNAL, ALTER plain SET STORAGE MAIN, ALTER words SET STORAGE EXTERNAL,
                                 ALTER compressed SET COMPRESSION pglz;
             CREATE FUNCTION noise(length int) RETURNS text LANGUAGE sql AS
                 $$ SELECT left(string_agg(md5(n::text), ''), length) FROM generate_series(1, length / 32 + 1) n $$;
             INSERT INTO toasted
             SELECT (repeat('1234567890', size) || '.' || repeat('0987654321', size))::numeric, repeat('ab\"ü', size * 100), noise(size * 50),
                    repeat('x', size), ARRAY(SELECT noise(n) FROM generate_series(1, size) n), ARRAY(SELECT generate_series(1, size * 100)),
                    (SELECT json_object_agg(n, noise(n % 100)) FROM generate_series(1, size * 10) n),
                    (SELECT jsonb_object_agg(n, noise(n % 100)) FROM generate_series(1, size * 10) n),
                    ROW(noise(size * 50), repeat('7', size)::numeric, ARRAY(SELECT generate_series(1, size * 10)))::big,
                    array_fill(ROW(noise(size * 20), 1.5, '{1,NULL}')::big, ARRAY[3]), array_to_tsvector(ARRAY(SELECT noise(n) FROM generate_series(1, size) n))
             FROM unnest(ARRAY[1, 10, 100, 1000]) size",
        )
        .unwrap();
    assert!(
        client
            .query_one("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'toasted'", &[])
            .unwrap()
            .get::<_, i64>(0)
            > 100_000
    );
    let rows = client.query("SELECT row_to_json(toasted)::text FROM toasted", &[]).unwrap();
    let wanted: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    for arguments in ["", "wrap_types => false"] {
        let lines = documents(&database, &mut client, "SELECT * FROM toasted", arguments);
        assert!(lines == wanted, "a value of {} to {} bytes differs", wanted[0].len(), wanted[3].len());
    }
    // The same values once more, as the members of a composite.
    let lines = documents(&database, &mut client, "SELECT toasted FROM toasted", "");
    let nested: Vec<_> = wanted.iter().map(|line| format!("{{\"toasted\":{line}}}")).collect();
    assert!(lines == nested);
}

#[test]
fn a_document_of_many_megabytes_is_whole() {
    let database = Database::new("long_lines");
    let mut client = database.client();
    let lines = documents(
        &database,
        &mut client,
        "SELECT repeat(E'\\n', 20000000) AS t, decode(repeat('00', 20000000), 'hex') AS b",
        "",
    );
    let (breaks, zeros) = ("\\n".repeat(20_000_000), "A".repeat(26_666_667));
    let wanted = format!(r#"{{"t":"{breaks}","b":{{"__rockset_type":"bytes","value":"{zeros}=","encoding":"base64"}}}}"#);
    assert!(lines.len() == 1 && lines[0] == wanted);
}

/// A record in a record, as often as a loop made it: without a check of the stack the server crashed, and with it every session.
#[test]
fn records_nested_too_deep_are_an_error_and_no_crash() {
    let database = Database::new("deep");
    let mut client = database.client();
    client
        .batch_execute(
            "CREATE FUNCTION nested(depth int) RETURNS record LANGUAGE plpgsql AS $$
             DECLARE r record := ROW(1); BEGIN FOR i IN 1..depth LOOP r := ROW(r); END LOOP; RETURN r; END $$",
        )
        .unwrap();
    let line = documents(&database, &mut client, "SELECT nested(500) AS r", "").remove(0);
    assert_eq!(line, format!("{}1{}", "{\"r\":".to_owned() + &"{\"f1\":".repeat(501), "}".repeat(502)));
    database.refuse("SELECT nested(20000) AS r", "").sqlstate("54001");
    assert_eq!(client.text("SELECT 1"), "1");
}
