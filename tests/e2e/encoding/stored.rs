//! Tuples as tables have them are taken apart by this extension, and those that a sort gives by Postgres: both become the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Database, documents};
use crate::fixture::Session;

/// Types of every alignment and length, and a value of each for row `g`, some of them long enough to be compressed or stored apart.
const COLUMNS: [(&str, &str); 24] = [
    ("boolean", "g % 3 = 0"),
    ("\"char\"", "chr(65 + g % 26)"),
    ("smallint", "g - 50"),
    ("integer", "g * -7919"),
    ("bigint", "g * 7919777777"),
    ("real", "g / 7.0"),
    ("double precision", "g / -7.0"),
    ("uuid", "md5(g::text)::uuid"),
    ("text", "repeat('x', g % 9)"),
    ("varchar", "repeat('xyz', g * 11)"),
    ("bytea", "(SELECT decode(string_agg(md5((g * i)::text), ''), 'hex') FROM generate_series(1, g * 3) AS i)"),
    ("numeric", "g::numeric / 3"),
    ("name", "'name ' || g"),
    ("date", "date '2000-01-01' + g"),
    ("timetz", "timetz '00:00:01+02' + g * interval '1 minute'"),
    ("timestamptz", "timestamptz '2000-01-01 00:00:00Z' + g * interval '1 hour'"),
    ("interval", "g * interval '1 day 1 second'"),
    ("macaddr", "'08:00:2b:01:02:03'"),
    ("point", "point(g, -g)"),
    ("inet", "inet '10.0.0.0' + g"),
    ("integer[]", "array_fill(g, ARRAY[g % 4])"),
    ("jsonb", "jsonb_build_object('g', g)"),
    ("char(3)", "g::text"),
    ("oid", "g::oid"),
];

/// `query` as it is, and sorted.
fn compare(db: &Database, client: &mut Session, table: &str, rows: usize) {
    let query = format!("SELECT * FROM {table}");
    let mut ours = documents(db, client, &query, "");
    let mut by_postgres = documents(db, client, &format!("{query} ORDER BY id"), "");
    ours.sort();
    by_postgres.sort();
    assert_eq!(ours.len(), rows, "{table}");
    assert_eq!(ours, by_postgres, "{table}");
}

/// Types of variable length.
const VARLENAS: [&str; 8] = ["text", "varchar", "bytea", "numeric", "inet", "integer[]", "jsonb", "char(3)"];

/// A table of some of these columns, in an order of the seed's, with NULLs in half of the rows at most.
fn create(client: &mut Session, seed: usize, columns: &[(&str, &str)]) {
    let mut columns: Vec<(usize, &(&str, &str))> = columns.iter().enumerate().collect();
    columns.sort_by_key(|(number, _)| {
        let mut hasher = DefaultHasher::new();
        (seed, number).hash(&mut hasher);
        hasher.finish()
    });
    // Tables of few columns too, and of a number of them that is a whole number of bytes of bits.
    columns.truncate([24, 15, 7, 2][seed % 4]);
    let types: Vec<String> = columns.iter().map(|(number, (name, _))| format!("c{number} {name}")).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|(number, (name, value))| {
            format!("CASE WHEN g % 2 = 1 AND (g * 31 + {number}) % 5 = 0 THEN NULL ELSE ({value})::{name} END")
        })
        .collect();
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS stored; CREATE TABLE stored ({}, id integer);
             INSERT INTO stored SELECT {}, g FROM generate_series(1, 100) AS g",
            types.join(", "),
            values.join(", ")
        ))
        .unwrap();
}

#[test]
fn columns_of_every_layout_in_any_order() {
    let db = Database::new("stored");
    let mut client = db.client();
    for seed in 0..12 {
        create(&mut client, seed, &COLUMNS);
        compare(&db, &mut client, "stored", 100);
    }
}

#[test]
fn columns_whose_place_is_the_same_in_all_rows() {
    let db = Database::new("stored_places");
    let mut client = db.client();
    let fixed: Vec<(&str, &str)> = COLUMNS.into_iter().filter(|(name, _)| !VARLENAS.contains(name)).collect();
    for seed in 0..12 {
        create(&mut client, seed, &fixed);
        compare(&db, &mut client, "stored", 100);
        client
            .batch_execute(
                "ALTER TABLE stored ADD COLUMN added smallint DEFAULT 5;
                 INSERT INTO stored SELECT * FROM stored WHERE id % 2 = 0",
            )
            .unwrap();
        compare(&db, &mut client, "stored", 150);
    }
    // Of partitions, that table's rows have other places.
    client
        .batch_execute(
            "CREATE TABLE parts (id integer, a smallint, b bigint) PARTITION BY LIST (a);
             CREATE TABLE one (b bigint, id integer, a smallint);
             CREATE TABLE two (a smallint, b bigint, id integer);
             ALTER TABLE parts ATTACH PARTITION one FOR VALUES IN (1);
             ALTER TABLE parts ATTACH PARTITION two FOR VALUES IN (2);
             INSERT INTO parts SELECT g, 1 + g % 2, g * 7919777777 FROM generate_series(1, 1000) AS g;
             CREATE INDEX ON parts (id); ANALYZE parts; SET enable_sort = off",
        )
        .unwrap();
    compare(&db, &mut client, "parts", 1000);
    let first = documents(&db, &mut client, "SELECT * FROM parts ORDER BY id LIMIT 2", "wrap_types => false");
    assert_eq!(first, [r#"{"id":1,"a":2,"b":7919777777}"#, r#"{"id":2,"a":1,"b":15839555554}"#]);
    let csv = documents(&db, &mut client, "SELECT * FROM one LIMIT 2", "format => 'csv'");
    assert_eq!(csv, ["15839555554,2,1", "31679111108,4,1"]);
}

#[test]
fn tuples_that_lack_columns() {
    let db = Database::new("stored_added");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE stored (id integer, gone text, b text);
             INSERT INTO stored SELECT g, 'gone', 'b' || g FROM generate_series(1, 5) AS g;
             ALTER TABLE stored ADD COLUMN fixed bigint DEFAULT 77, ADD COLUMN missing date;
             INSERT INTO stored SELECT g, NULL, 'b' || g, g, '2000-01-01' FROM generate_series(6, 9) AS g;
             UPDATE stored SET b = NULL WHERE id IN (2, 7)",
        )
        .unwrap();
    compare(&db, &mut client, "stored", 9);
    client.batch_execute("ALTER TABLE stored DROP COLUMN gone; INSERT INTO stored VALUES (10, 'b10', 10)").unwrap();
    compare(&db, &mut client, "stored", 10);
    // A condition has found some of a row's values by then.
    let some = documents(&db, &mut client, "SELECT * FROM stored WHERE id > 9 AND b <> ''", "wrap_types => false");
    assert_eq!(some, [r#"{"id":10,"b":"b10","fixed":10,"missing":null}"#]);
}

#[test]
fn partitions_and_children_of_other_layouts() {
    let db = Database::new("stored_parts");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE stored (id integer, a smallint, b text, c bigint) PARTITION BY LIST (a);
             CREATE TABLE one (LIKE stored);
             CREATE TABLE two (c bigint, x text, b text, id integer, a smallint);
             ALTER TABLE two DROP COLUMN x;
             CREATE TABLE three (LIKE stored);
             ALTER TABLE three ALTER COLUMN b SET STORAGE EXTERNAL;
             ALTER TABLE stored ATTACH PARTITION one FOR VALUES IN (1);
             ALTER TABLE stored ATTACH PARTITION two FOR VALUES IN (2);
             ALTER TABLE stored ATTACH PARTITION three FOR VALUES IN (3);
             INSERT INTO stored SELECT g, 1 + g % 3, repeat('b', g % 1000 * 3), g FROM generate_series(1, 3000) AS g;
             CREATE TABLE parent (id integer, a text);
             CREATE TABLE child (more bigint) INHERITS (parent);
             INSERT INTO parent SELECT g, 'parent' FROM generate_series(1, 5) AS g;
             INSERT INTO child SELECT g, 'child', g FROM generate_series(6, 9) AS g",
        )
        .unwrap();
    compare(&db, &mut client, "stored", 3000);
    // Rows of the partitions take turns.
    client.batch_execute("CREATE INDEX ON stored (id); ANALYZE stored; SET enable_sort = off").unwrap();
    assert!(client.text("EXPLAIN SELECT * FROM stored ORDER BY id").starts_with("Merge Append"));
    compare(&db, &mut client, "stored", 3000);
    compare(&db, &mut client, "parent", 9);
    compare(&db, &mut client, "child", 4);
}

#[test]
fn rows_of_a_file() {
    let db = Database::new("stored_file");
    let mut client = db.client();
    client
        .batch_execute(
            r#"CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
               CREATE FOREIGN TABLE file (id integer, a text) SERVER files OPTIONS (program 'printf "1,a\n2,b\n"', format 'csv')"#,
        )
        .unwrap();
    compare(&db, &mut client, "file", 2);
}

/// Rows of postgres_fdw come as tuples that are in no page.
#[test]
fn rows_of_postgres_fdw() {
    let db = Database::new("stored_remote");
    let mut client = db.client();
    let (socket, port) = (client.text("SHOW unix_socket_directories"), client.text("SHOW port"));
    let name = client.text("SELECT current_database()");
    client
        .batch_execute(&format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket}', port '{port}', dbname '{name}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER itself OPTIONS (user 'postgres');
             CREATE TABLE stored AS SELECT g AS id, CASE WHEN g % 3 > 0 THEN 'a' || g END AS a, g::bigint AS b
               FROM generate_series(1, 9) AS g;
             CREATE FOREIGN TABLE remote (id integer, a text, b bigint) SERVER itself OPTIONS (table_name 'stored')"
        ))
        .unwrap();
    compare(&db, &mut client, "remote", 9);
    assert_eq!(
        documents(&db, &mut client, "SELECT * FROM remote", ""),
        documents(&db, &mut client, "SELECT * FROM stored", "")
    );
}
