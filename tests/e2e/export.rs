//! An export's files and what it says of them.

use super::fixture::Database;

#[test]
fn trivial() {
    let db = Database::new("trivial");
    let exported = db.export("SELECT 1 AS a");
    assert_eq!(db.bucket.documents(&exported.prefix), ["{\"a\":1}"]);
    println!("{:#}", db.bucket.manifest(&exported.prefix));
    println!("{:?}", db.refuse("SELEC 1", ""));
}
