//! `max_bytes_per_day` of an integration: all its exports within 24 hours, and parallel ones too, stay below it.

use super::fixture::{Database, Session, refused};

/// A document of twenty bytes, with its line's end.
const QUERY: &str = "SELECT 'aaaaaaaaaaa' AS a";
const BYTES: i64 = 20;

fn limit(db: &Database, bytes: i64) {
    db.client().batch_execute(&format!("UPDATE s3_export.integrations SET max_bytes_per_day = {bytes}")).unwrap();
}

/// Bytes that each export here counts for: those of its file and of its manifest.
fn share(db: &Database) -> i64 {
    let exported = db.export_with(QUERY, "wrap_types => false");
    db.client().batch_execute("DELETE FROM s3_export.history_entries").unwrap();
    BYTES + i64::try_from(db.bucket.get(db.bucket.key(&exported.manifest)).len()).unwrap()
}

fn export(db: &Database, client: &mut Session) -> Result<(), postgres::Error> {
    db.export_in(client, QUERY, "wrap_types => false").map(|exported| assert_eq!(exported.bytes, BYTES))
}

fn passed(result: Result<(), postgres::Error>) {
    refused(result).sqlstate("54000").message("bytes within 24 hours").hint("max_bytes_per_day");
}

#[test]
fn exports_of_a_day_stay_below_the_limit() {
    let db = Database::new("daily");
    limit(&db, 3 * share(&db));
    let mut client = db.client();
    for _ in 0..2 {
        export(&db, &mut client).unwrap();
    }
    // What was rolled back does not count, nor what was written more than a day ago.
    let call = format!("SELECT {}", db.call(&db.prefix(), QUERY, "wrap_types => false"));
    client.batch_execute(&format!("BEGIN; {call}; ROLLBACK; BEGIN; SAVEPOINT s; {call}; ROLLBACK TO s; COMMIT")).unwrap();
    export(&db, &mut client).unwrap();
    passed(export(&db, &mut client));
    // Nobody else's way round: another role, a job, a partitioned export, a feed, a snapshot of before, `prune_history`, `cleanup`.
    let member = db.role("member", &["s3_export_member"]);
    passed(export(&db, &mut db.client_as(&member)));
    let id = super::fixture::enqueued(&db, &mut client, &db.prefix(), QUERY, "");
    passed(super::fixture::ended(&mut client, &id).map(drop));
    passed(db.export_in(&mut client, QUERY, "partition_by => '{a}'").map(drop));
    client.batch_execute("SELECT s3_export.prune_history('1 day')").unwrap();
    client
        .batch_execute(&format!("SELECT FROM s3_export.cleanup('s3://exports/{}', 'local', dry_run => false)", db.name))
        .unwrap();
    passed(export(&db, &mut client));
    client.batch_execute("UPDATE s3_export.history_entries SET finished_at = finished_at - interval '24 hours'").unwrap();
    export(&db, &mut client).unwrap();
    db.client().batch_execute("UPDATE s3_export.integrations SET max_bytes_per_day = NULL").unwrap();
    for _ in 0..4 {
        export(&db, &mut client).unwrap();
    }
}

#[test]
fn a_transaction_counts_its_own_exports_and_sees_others_in_any_isolation() {
    let db = Database::new("daily_own");
    limit(&db, 2 * share(&db));
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let (mut client, mut other) = (db.client(), db.client());
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM s3_export.history")).unwrap();
        // Within a savepoint, and seen from outside of it.
        client.batch_execute("SAVEPOINT s").unwrap();
        export(&db, &mut client).unwrap();
        client.batch_execute("RELEASE s; SAVEPOINT t").unwrap();
        export(&db, &mut client).unwrap();
        passed(export(&db, &mut client));
        client.batch_execute("ROLLBACK").unwrap();
        // The snapshot is older than the other's commit.
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM s3_export.history")).unwrap();
        export(&db, &mut other).unwrap();
        export(&db, &mut client).unwrap();
        passed(export(&db, &mut client));
        client.batch_execute("ROLLBACK").unwrap();
        db.client().batch_execute("DELETE FROM s3_export.history_entries").unwrap();
    }
}

#[test]
fn parallel_sessions_do_not_pass_the_limit_together() {
    let db = Database::new("daily_parallel");
    limit(&db, 5 * share(&db));
    let sessions: Vec<_> = (0..16)
        .map(|_| {
            let call = db.call(&db.prefix(), QUERY, "wrap_types => false");
            // All of them begin before one has committed.
            db.client().start(&format!("BEGIN; SELECT pg_sleep(0.3); SELECT {call}; SELECT pg_sleep(0.05); COMMIT"))
        })
        .collect();
    let outcomes: Vec<_> = sessions.into_iter().map(|session| session.join().1).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5);
    for outcome in outcomes.into_iter().filter(Result::is_err) {
        passed(outcome);
    }
    assert_eq!(db.client().text("SELECT sum(bytes) FROM s3_export.history"), (5 * BYTES).to_string());
}

#[test]
fn an_export_ends_when_it_passes_the_limit() {
    let db = Database::new("daily_running");
    limit(&db, 100_000);
    for arguments in ["", "compression => 'gzip'", "format => 'parquet'"] {
        let prefix = db.prefix();
        // It would run for hours.
        let endless = "SELECT md5(generate_series(1, 1000000000)::text) AS a";
        let refusal = refused(db.export_to(
            &mut db.client(),
            &prefix,
            endless,
            &format!("output_chunk_size => 1000{}{arguments}", if arguments.is_empty() { "" } else { ", " }),
        ));
        refusal.sqlstate("54000").hint("max_bytes_per_day");
        db.bucket.nothing_left(&prefix);
    }
}

#[test]
fn a_wait_for_the_claim_of_another_is_interrupted() {
    let db = Database::new("daily_wait");
    limit(&db, 100_000);
    let (mut holder, mut waiter) = (db.client(), db.client());
    holder.batch_execute("BEGIN").unwrap();
    export(&db, &mut holder).unwrap();
    waiter.batch_execute("SET lock_timeout = '300ms'").unwrap();
    let prefix = db.prefix();
    refused(db.export_to(&mut waiter, &prefix, QUERY, "")).sqlstate("55P03");
    db.bucket.nothing_left(&prefix);
    waiter.batch_execute("SET lock_timeout = 0; SET statement_timeout = '300ms'").unwrap();
    refused(db.export_to(&mut waiter, &prefix, QUERY, "")).sqlstate("57014");
    waiter.batch_execute("SET statement_timeout = 0").unwrap();
    holder.batch_execute("COMMIT").unwrap();
    export(&db, &mut waiter).unwrap();
}

#[test]
fn an_integration_with_a_limit_is_refused_where_nothing_can_be_counted() {
    let db = Database::new("daily_refused");
    limit(&db, 1_000);
    let mut client = db.client();
    for (begin, hint) in [("BEGIN READ ONLY", "READ WRITE"), ("BEGIN; SET LOCAL s3_export.history = off", "s3_export.history")]
    {
        client.batch_execute(begin).unwrap();
        refused(export(&db, &mut client)).sqlstate("55000").message("max_bytes_per_day").hint(hint);
        client.batch_execute("ROLLBACK").unwrap();
    }
    // By an option of create_integration, and by its owner alone.
    let (key, create) =
        ("access_key_id => 'K', secret_access_key => 'S', region => 'eu-1'", "SELECT s3_export.create_integration");
    let admin = db.role("admin", &["s3_export_admin", "s3_export_member"]);
    let mut admin = db.client_as(&admin);
    for bad in ["0", "-1", "1.5", "\"1\"", "1e30"] {
        let statement = format!(
            "{create}('x', {key}, allowed_locations => '{{s3://exports}}', options => '{{\"max_bytes_per_day\": {bad}}}')"
        );
        refused(admin.batch_execute(&statement)).sqlstate("22023").message("max_bytes_per_day");
    }
    let statement =
        format!("{create}('x', {key}, allowed_locations => '{{s3://exports}}', options => '{{\"max_bytes_per_day\": 10}}')");
    admin.batch_execute(&statement).unwrap();
    let shown = "SELECT max_bytes_per_day FROM s3_export.integrations WHERE name = 'x'";
    assert_eq!(admin.text(shown), "10");
    admin.batch_execute("UPDATE s3_export.integrations SET max_bytes_per_day = 20 WHERE name = 'x'").unwrap();
    refused(admin.batch_execute("UPDATE s3_export.integrations SET max_bytes_per_day = 0 WHERE name = 'x'")).sqlstate("23514");
    assert_eq!(
        admin.execute("UPDATE s3_export.integrations SET max_bytes_per_day = NULL WHERE name = 'local'", &[]).unwrap(),
        0
    );
}
