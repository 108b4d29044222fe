//! Tests of each Postgres type's form in JSON: all rows of the tables of docs/formats/json.md.
//!
//! `golden` compares with `tests/golden/types.tsv`, byte for byte; `oracle` with Postgres's own JSON; `random` reads random
//! values back from the bucket. The rest shows what a list of values cannot.

mod databases;
mod golden;
mod large;
mod names;
mod no_text;
mod oracle;
mod postgis;
mod random;
mod settings;
mod stored;

pub use self::golden::cases;
use super::fixture::{Database, Session};

/// Every setting that a text form could follow, set to what it must not follow.
const HOSTILE: &str = "SET DateStyle = 'German'; SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Kolkata';
    SET bytea_output = 'escape'; SET extra_float_digits = -15; SET lc_monetary = 'C.UTF-8'; SET quote_all_identifiers = on";

/// Sections of the golden file that only a server with PostGIS can write.
const OF_POSTGIS: [&str; 2] = ["geography, geometry in SRID 4326", "geometry in another SRID or without a GeoJSON form"];

/// Sections of what not every version can write.
const INFINITE_INTERVAL: &str = "infinite interval, from Postgres 17";
const LONGEST_INTERVAL: &str = "the longest interval, in Postgres 15 and 16";
const OID8: &str = "oid8, from Postgres 19";

/// A database with the types of `tests/golden/setup.sql`; `options`: of CREATE DATABASE.
fn golden_database(name: &str, options: &str) -> Database {
    let database = Database::with_options(name, options);
    let mut client = database.client();
    for extension in ["citext", "hstore", "ltree"] {
        client.batch_execute(&format!("CREATE EXTENSION {extension}")).unwrap();
    }
    if has_postgis(&mut client) {
        client.batch_execute("CREATE EXTENSION postgis").unwrap();
    }
    client.batch_execute(include_str!("../golden/setup.sql")).unwrap();
    database
}

/// Whether its types are among those compared here. `postgis` has tests that fail without it.
fn has_postgis(client: &mut Session) -> bool {
    client.text("SELECT count(*) FROM pg_available_extensions WHERE name = 'postgis'") == "1"
}

/// The lines that `query` becomes.
fn documents(database: &Database, client: &mut Session, query: &str, arguments: &str) -> Vec<String> {
    let exported = database.export_in(client, query, arguments).unwrap_or_else(|error| panic!("{query}: {error:?}"));
    database.bucket.documents(&exported.prefix)
}
