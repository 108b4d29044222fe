//! Exports by pg_cron, as people schedule them: each minute, as a member, with a date in the destination.

use super::fixture::{Cluster, Database, Environment, wait_for};

#[test]
fn scheduled_exports_arrive_and_their_run_details_hold_no_secret() {
    let db = Database::new("cron");
    let member = db.role("nightly", &["s3_export_member"]);
    let host = Environment::get().host;
    let options = format!(
        "-c shared_preload_libraries=pg_cron -c cron.database_name={} -c cron.host={host} -c max_worker_processes=20",
        db.name
    );
    let cluster = Cluster::copy_with(&options);
    let mut superuser = cluster.session(&db.name, "postgres");
    superuser
        .batch_execute(&format!(
            "CREATE EXTENSION pg_cron; GRANT USAGE ON SCHEMA cron TO {member};
             CREATE TABLE orders AS SELECT i AS id, current_date - 1 + (i % 2) AS day FROM generate_series(1, 10) i;
             GRANT SELECT ON orders TO {member}"
        ))
        .unwrap();
    let mut client = cluster.session(&db.name, &member);
    let prefix = db.prefix();
    let uri = |kind: &str| {
        format!("{} || '/' || (current_date - 1)", super::fixture::literal(&format!("{}/{kind}", db.bucket.uri(&prefix))))
    };
    let query = "$q$SELECT * FROM orders WHERE day = current_date - 1$q$";
    for (name, call) in [
        ("now", format!("SELECT * FROM s3_export({}, 'local', {query})", uri("now"))),
        ("job", format!("SELECT s3_export_async({}, 'local', {query})", uri("job"))),
        ("bad", format!("SELECT * FROM s3_export({}, 'local', 'SELECT 1/0 AS a')", uri("bad"))),
    ] {
        client.query("SELECT cron.schedule($1, '* * * * *', $2)", &[&name, &call]).unwrap();
    }
    let yesterday = client.text("SELECT current_date - 1");
    wait_for("both exports", || {
        ["now", "job"].iter().all(|kind| !db.bucket.manifests(&format!("{prefix}/{kind}/{yesterday}")).is_empty()).then_some(())
    });
    let failed =
        "SELECT count(*) FROM cron.job_run_details WHERE status = 'failed' AND return_message LIKE '%division by zero%'";
    wait_for("the failure to be written down", || (superuser.text(failed) != "0").then_some(()));
    client.batch_execute("SELECT cron.unschedule(jobid) FROM cron.job").unwrap();
    for kind in ["now", "job"] {
        let documents = db.bucket.values(&format!("{prefix}/{kind}/{yesterday}"));
        assert!(documents.len() >= 5 && documents.iter().all(|row| row["day"]["value"] == *yesterday), "{kind}: {documents:?}");
    }
    assert_eq!(
        client.text("SELECT count(*) FROM s3_export.exports WHERE status NOT IN ('COMPLETED', 'RUNNING', 'QUEUED')"),
        "0"
    );
    assert_eq!(client.text("SELECT DISTINCT role FROM s3_export.exports"), member);
    let details = superuser.text("SELECT string_agg(d::text, ' ') FROM cron.job_run_details d");
    let environment = db.environment();
    assert!(details.contains("s3_export"), "{details}");
    for secret in [&environment.secret_access_key, &environment.access_key_id] {
        assert!(!details.contains(secret.as_str()), "{details}");
    }
}
