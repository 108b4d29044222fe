//! On a hot standby: an export writes no table, so it works there too.

use super::fixture::{Cluster, Database, refused, threads};

#[test]
fn an_export_on_a_hot_standby() {
    let db = Database::new("standby");
    db.client().batch_execute("CREATE TABLE t AS SELECT generate_series(1, 2500) AS i").unwrap();
    let standby = Cluster::standby();
    let mut client = standby.session(&db.name, "postgres");
    assert_eq!(client.text("SELECT pg_is_in_recovery()"), "t");

    let exported = db.export_in(&mut client, "TABLE t", "").unwrap();
    assert_eq!((exported.documents, exported.files), (2500, 3));
    super::manifest::checked(&db, &exported);
    // The log of that server has the only record.
    assert_eq!(client.text("SELECT count(*) FROM s3_export.history"), "0");

    let prefix = db.prefix();
    client.batch_execute("BEGIN").unwrap();
    db.export_to(&mut client, &prefix, "TABLE t", "").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    db.bucket.nothing_left(&prefix);
    refused(db.export_to(&mut client, &prefix, "SELECT 1 / (i - 2000) AS x FROM t", "")).sqlstate("22012");
    db.bucket.nothing_left(&prefix);
    assert_eq!(threads(client.pid), 1);

    let create = "SELECT s3_export.set_credentials('local', 'K', 'S')";
    refused(client.batch_execute(create)).sqlstate("25006");
}
