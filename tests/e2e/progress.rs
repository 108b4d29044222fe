//! How far an export is: `pg_stat_progress_copy`, `s3_export.exports`, and notices for its client.

use super::fixture::{Database, wait_for};

const SLOW: &str = "SELECT i, repeat('x', 100) AS t, pg_sleep(0.002)::text AS s FROM generate_series(1, 1000) i";

#[test]
fn an_export_in_a_session_shows_its_counts_while_it_runs() {
    let db = Database::new("progress");
    let (client, mut witness, prefix) = (db.client(), db.client(), db.prefix());
    let running = client.start(&format!("SELECT {}", db.call(&prefix, SLOW, "output_chunk_size => 50")));
    let exports =
        "SELECT status, role::text, documents, files, bytes, started_at <= now(), uri FROM s3_export.exports WHERE pid = $1";
    let row =
        wait_for("some files", || witness.query_opt(exports, &[&running.pid]).unwrap().filter(|row| row.get::<_, i64>(3) >= 2));
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), ("RUNNING".to_owned(), "postgres".to_owned()));
    assert!(row.get::<_, i64>(2) >= 100 && row.get::<_, i64>(4) >= 10_000 && row.get::<_, bool>(5), "{row:?}");
    assert_eq!(row.get::<_, Option<String>>(6), None);
    let copy = "SELECT command || ' ' || type || ' ' || (tuples_processed > 0) || ' ' || (bytes_processed > 0)
                FROM pg_stat_progress_copy WHERE pid = $1";
    let row = witness.query_one(copy, &[&running.pid]).unwrap();
    assert_eq!(row.get::<_, String>(0), "COPY TO CALLBACK true true");
    let pid = running.pid;
    while let Some(row) = witness.query_opt(exports, &[&pid]).unwrap() {
        let (documents, files, bytes) = (row.get::<_, i64>(2), row.get::<_, i64>(3), row.get::<_, i64>(4));
        assert!(documents >= 50 * files && bytes >= 5_000 * files, "of one moment: {documents}, {files}, {bytes}");
    }
    running.join().1.unwrap();
    assert!(witness.query(copy, &[&pid]).unwrap().is_empty());
}

#[test]
fn the_report_survives_a_query_that_reports_progress_itself() {
    let db = Database::new("progress_taken");
    let mut client = db.client();
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT generate_series(1, 10) AS a;
             CREATE FUNCTION busy(i int) RETURNS int LANGUAGE plpgsql AS $$
             BEGIN IF i % 100 = 0 THEN ANALYZE t; END IF; PERFORM pg_sleep(0.002); RETURN i; END $$",
        )
        .unwrap();
    let (mut witness, prefix) = (db.client(), db.prefix());
    let query = "SELECT busy(i) AS i FROM generate_series(1, 1000) i";
    let running = client.start(&format!("SELECT {}", db.call(&prefix, query, "output_chunk_size => 20")));
    let documents = "SELECT documents FROM s3_export.exports WHERE pid = $1 AND documents > 200";
    wait_for("it to show again", || witness.query_opt(documents, &[&running.pid]).unwrap());
    running.join().1.unwrap();
}

#[test]
fn notices_say_how_far_it_is() {
    let db = Database::new("notices");
    let mut client = db.client();
    assert!(db.export_in(&mut client, SLOW, "").is_ok() && client.notices().is_empty(), "off by default");
    client.batch_execute("SET s3_export.progress_interval = '200ms'").unwrap();
    db.export_in(&mut client, SLOW, "output_chunk_size => 50").unwrap();
    let notices: Vec<String> = client.notices().iter().map(|notice| notice.message().to_owned()).collect();
    assert!(notices.len() >= 3, "{notices:?}");
    let last = notices.last().unwrap();
    assert!(last.starts_with("export ") && last.contains(" documents, ") && last.contains(" files, "), "{last}");
    assert!(last.contains("/s, about ") && last.ends_with(" %"), "{last}");
    // The planner expects one row of a function whose rows it cannot count.
    client
        .batch_execute(
            "CREATE FUNCTION many() RETURNS SETOF int LANGUAGE sql ROWS 1 VOLATILE AS 'SELECT generate_series(1, 800)'",
        )
        .unwrap();
    db.export_in(&mut client, "SELECT many() AS i, pg_sleep(0.002)::text AS s", "").unwrap();
    let notices: Vec<String> = client.notices().iter().map(|notice| notice.message().to_owned()).collect();
    // The first document is all that it expects.
    let later: Vec<&String> = notices.iter().filter(|notice| !notice.contains(": 1 documents")).collect();
    assert!(later.len() >= 2 && later.iter().all(|notice| !notice.contains('%')), "{notices:?}");
}
